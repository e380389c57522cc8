"""Who uses a site: clients that read and write, and a person who gives commands.

Each client owns every n-th sector range of its source's volumes, and begins a request only when
the last one is answered; now and then its connection ends, and it comes back on another one.  Where
no disk fails some writes are of a part of a sector.

Left out: two clients on one sector.  The core knows blocks, and two clients share one here wherever
a block has several sectors; which of two writes at once stands is the store's (two writers on one
block: native/tests/test_claims.c, and in every order test_order.c).

Commands are asked of the control export as `flashmirror` asks them,
again and again until done; what they promise is judged when they say that it is so.
"""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING, Any

from mirror_core import control, native, protocol
from mirror_core.door import Visitor
from sim.content import Content
from sim.core import ffi, lib
from sim.sched import NS, Violation, bytes_at, current
from sim.shape import SECTOR, sectors_in
from sim.sites import Incarnation, Machine

if TYPE_CHECKING:
    from sim.world import World

_IDLE_NS, _IDLE_MAX_NS = 30_000_000, 1_000_000_000  # between two bursts of a client, at most
LOCAL = Visitor(True, "user 0")
# A request waits CONTROL_WAIT_S, or for its own fence and another's, `link_timeout` each, and for
# this site's own stores.
ANSWER_S = 6.0


class Clients:
    """Those of one life of a source."""

    def __init__(self, world: World, machine: Machine, life: Incarnation) -> None:
        assert life.site and machine.content
        self.world, self.machine, self.life, self.site = world, machine, life, life.site
        self.content: Content = machine.content
        self._sizes = list(machine.sizes.values())
        self._asked = world.asking.setdefault(life, {})  # of clients who wait: since when
        for number in range(world.nclients):
            work = functools.partial(self._run, number)
            world.scheduler.spawn(life, f"client {number}", work, client=True)

    def _run(self, number: int) -> None:
        world = self.world
        scheduler, rng = world.scheduler, world.scheduler.random
        news, known = self._come(), list(self.content.owed_errors)
        came_ns = lib.sim_clock_ns
        for volume in range(len(known)):
            known[volume] = self.content.unheard.get((number, volume), known[volume])
        shares, idle_ns, busy = self._shares(number), _IDLE_NS, 0
        while shares and not (world.clients_stop or self.life.stopping):
            volume, first, last = shares[int(rng.random() * len(shares))]
            at = first + int(rng.random() * (last - first))
            count = min(1 if rng.random() < 0.6 else rng.choice((2, 3)), last - at)
            length = min(count * SECTOR, self._sizes[volume] - at * SECTOR)
            began, switches = lib.sim_clock_ns, lib.sim_switches
            self._asked[number] = began
            self._request(volume, at * SECTOR, length, news[volume], known, number=number)
            del self._asked[number]
            world.waited(self.machine, self.life, lib.sim_clock_ns - began)
            if lib.sim_switches == switches:
                scheduler.pause()
            if rng.random() < 0.2:
                idle_ns = _IDLE_NS if lib.sim_busy - busy > 20 else min(2 * idle_ns, _IDLE_MAX_NS)
                busy = lib.sim_busy
                think_ns = max(idle_ns, world.shape.think_ns)
                leaves = rng.random() < 0.1
                if leaves:
                    self._leave(news)
                scheduler.wait(lib.sim_clock_ns + int(rng.random() * think_ns))
                if leaves:
                    world.counts["clients that came back"] += 1
                    news = self._come()
                    late = lib.sim_clock_ns - came_ns > world.shape.returning_s * NS / 2
                    for key in [key for key in self.content.unheard if key[0] == number and late]:
                        known[key[1]] = self.content.owed_errors[key[1]]
                        del self.content.unheard[key]
                    if not world.shape.returning_s:  # too late: nobody tells them
                        known = list(self.content.owed_errors)
        self._leave(news)

    def _come(self) -> list[Any]:
        """A connection to each volume."""
        return [lib.fm_news_begin(member.native._handle) for member in self.site.members]

    def _leave(self, news: list[Any]) -> None:
        for member, one in zip(self.site.members, news, strict=True):
            lib.fm_news_end(member.native._handle, one)

    def _shares(self, number: int) -> list[tuple[int, int, int]]:
        """What this client writes to: a volume, and a range of its sectors.  Volumes too small to
        be shared are the first client's."""
        clients, shares = self.world.nclients, []
        for volume, sectors in enumerate(map(sectors_in, self._sizes)):
            share = sectors // clients
            if share:
                end = sectors if number + 1 == clients else (number + 1) * share
                shares.append((volume, number * share, end))
            elif number == 0:
                shares.append((volume, 0, sectors))
        return shares

    def _request(
        self, volume: int, offset: int, length: int, news: Any, known: list[int], *, number: int
    ) -> None:
        world, content, life = self.world, self.content, self.life
        handle = self.site.members[volume].native._handle
        kind = world.scheduler.random.random()
        if kind < 0.1:
            flushed, owed = content.flushing(volume), content.owed_errors[volume]
            rc = self._tell(volume, lib.fm_news_flush(handle, news))
            if life.dead:
                return
            world.counts["flushes"] += rc == 0
            if rc == 0 and owed != known[volume]:
                raise Violation(f"a flush of volume {volume} succeeds, but acknowledged writes are "
                                "lost of which this client did not hear")  # fmt: skip
            if rc == 0:
                flushed()
                return
            known[volume] = content.owed_errors[volume]
            if content.unheard.pop((number, volume), None) is not None:
                world.reach("told of what went while the site was down")
            if not world.disk_errors and not self.machine.is_doubted(volume):
                raise Violation(f"a flush of volume {volume} fails for nothing")
        elif kind < 0.12:
            try:
                self._ask_for_holes(volume, offset, length)
            except Exception as error:  # of a call that fails the client is told by an error
                if isinstance(error, Violation) or not world.was_thrown(life):
                    raise
        elif kind < 0.2:
            out, changes = ffi.new("char[]", length), content.changes[volume]
            rc = lib.fm_volume_read(handle, out, length, offset)
            is_known = rc == 0 and not life.dead and changes == content.changes[volume]
            if is_known and not content.may_read(volume, offset, bytes_at(out, length)):
                raise Violation(f"a read of volume {volume} at {offset} is wrong")
        else:
            self._write(volume, offset, length, zero=kind < 0.3)

    def _tell(self, volume: int, rc: int) -> int:
        """As exports.py does with the result of a flush."""
        if self.life.dead:
            return rc
        try:
            self.site.servers.flushed(self.site.members[volume].name, failed=rc != 0)
        except Exception:
            if not self.world.was_thrown(self.life):
                raise
            return rc or -errno.EIO
        return rc

    def _ask_for_holes(self, volume: int, offset: int, length: int) -> None:
        """As exports.py does.  What is told to be a hole reads as zeroes."""
        if self.life.dead:
            return
        at = offset
        for step, hole in self.site.members[volume].native.front.extents(offset, length):
            if hole and not self.content.may_read(volume, at, bytes(step)):
                raise Violation(f"volume {volume} at {at} is told to be a hole, and holds data")
            at += step
        if at != offset + length:
            raise Violation(f"of volume {volume} the extents end at {at}")

    def _write(self, volume: int, offset: int, length: int, *, zero: bool) -> None:
        world, content = self.world, self.content
        handle, losses = self.site.members[volume].native._handle, content.losses[volume]
        rng, changes = world.scheduler.random, content.changes[volume]
        flags = native.FUA if rng.random() < 0.1 else 0
        durable = flags != 0
        first, end = offset, offset + length  # of what is written of these sectors
        if not world.disk_errors and length <= SECTOR and rng.random() < 0.15:
            first += rng.randrange(length)
            end -= rng.randrange(end - first)
        before = content.model[volume][offset:first], content.model[volume][end : offset + length]
        world.serial += 1
        if zero:
            data = bytes(end - first)
            content.issue(volume, offset, data.join(before), durable=durable)
            flags |= native.PUNCH if rng.random() < 0.7 else 0  # a trim, or to be kept allocated
            flags |= native.FAST if rng.random() < 0.1 else 0
            rc = lib.fm_volume_zero(handle, 0, end - first, first, flags)
        else:
            again = world.shape.again and rng.random() < world.shape.again
            serial = rng.randrange(1, 3) if again else world.serial
            data = b"".join([
                (serial * 256 + i).to_bytes(8, "big") * (SECTOR // 8)
                for i in range(sectors_in(end - first))
            ])[: end - first]  # fmt: skip
            content.issue(volume, offset, data.join(before), durable=durable)
            rc = lib.fm_volume_write(handle, 0, data, end - first, first, flags)
        data = data.join(before)
        if world.scheduler.tracer:
            world.scheduler.trace(
                f"write {world.serial} volume {volume} at {offset}+{length}: {rc}"
            )
        if self.life.dead:
            return
        world.counts["writes"] += 1
        if rc == 0 and losses == content.losses[volume]:
            content.done(volume, offset, data)
            return
        if rc == 0:  # and lost again since
            disk = self.machine.images("data")[volume]
            content.failed(volume, offset, disk[offset : offset + length])
            return
        if rc == -errno.EOPNOTSUPP and flags & native.FAST:
            world.counts["fast zeroes refused"] += 1
            found = self.machine.images("data")[volume][offset : offset + length]
            if changes == content.changes[volume] and not content.may_read(volume, offset, found):
                raise Violation(f"a fast zero of volume {volume} at {offset} is refused and done")
            content.failed(volume, offset, found)
            return
        world.counts["write errors"] += 1
        if not world.disk_errors:
            raise Violation(f"a client got an error {rc} that no disk made")
        disk = self.machine.images("data")[volume]
        content.failed(volume, offset, disk[offset : offset + length])


# ---- a person


class _Failed(Exception):
    """The command says that it cannot be done."""


def _ask(life: Incarnation, **record: Any) -> dict[str, Any]:
    assert life.site
    began = lib.sim_clock_ns
    request = protocol.encode(record, life.site.config.protocol)
    said = control.answer(life.site, request, LOCAL)
    if life.promoters < 2:  # one of two may wait for all turns of the other: no lock is fair
        life.machine.world.took(life, f"answer to {record['op']}", began, ANSWER_S)
    answer = protocol.decode(said)[0]
    if "refused" in answer or "error" in answer:
        current().trace(f"{record['op']}: {answer}")
        raise _Failed
    return answer


def _ask_until_done(life: Incarnation, **record: Any) -> bool:
    """False: the site is about to end."""
    while not life.stopping:
        if _ask(life, **record)["done"]:
            return True
        current().pause()
    return False


def _command(world: World, life: Incarnation, name: str, work: Any) -> None:
    def run() -> None:
        try:
            work(world, life)
        except _Failed:
            return
        except Exception:
            if not world.was_thrown(life):
                raise

    world.counts["commands"] += 1
    world.scheduler.trace(f"*** {life.name}: {name}")
    world.scheduler.spawn(life, f"{life.name}: {name}", run)


def pause(world: World, life: Incarnation) -> None:
    """No new consistency point; the last one becomes whole at the target."""
    now = world.scheduler.random.random() < 0.4

    def work(world: World, life: Incarnation) -> None:
        _ask(life, op="pause", now=now)
        _ask_until_done(life, op="settled")

    _command(world, life, "pause", work)


def resume(world: World, life: Incarnation) -> None:
    def work(_world: World, life: Incarnation) -> None:
        try:
            _ask(life, op="resume")
        finally:
            life.is_resuming = False

    life.is_resuming = True
    _command(world, life, "resume", work)


def limit(world: World, life: Incarnation) -> None:
    """The bandwidth."""
    rate = world.scheduler.random.choice((0, 4096, 20_000, 1_000_000))

    def work(_world: World, life: Incarnation) -> None:
        _ask(life, op="bandwidth", rate=rate)

    _command(world, life, "bandwidth", work)


def sync(world: World, life: Incarnation) -> None:
    """Every write acknowledged before it is whole at the target."""

    def work(world: World, life: Incarnation) -> None:
        assert life.site and life.site.book.current.lineage
        history = world.histories[life.site.book.current.lineage.id]
        asked_at = world.scheduler.switches
        sequence = _ask(life, op="sync")["sequence"]
        if _ask_until_done(life, op="wait", sequence=sequence):
            if history.made_at.get(sequence, asked_at) < asked_at and not history.forked:
                raise Violation(f"sync waits for point {sequence}, which was made before it")
            world.counts["syncs done"] += 1
            world.synced(history, sequence)

    _command(world, life, "sync", work)


def promote(world: World, life: Incarnation, *, force: bool) -> None:
    """Asked again until the site begins anew; but not when it is refused, nor of a mixture, which
    is nothing to go on with."""
    if life.machine.holds_mixture():
        return
    life.promoters += 1

    def work(world: World, life: Incarnation) -> None:
        while not life.stopping:
            try:
                if _ask(life, op="promote", force=force)["done"]:
                    return
            except _Failed:
                if life.target is None or not life.target.promoting:
                    raise
                current().wait(lib.sim_clock_ns + NS // 100)
            except Exception:
                if not world.was_thrown(life) or not (life.target and life.target.promoting):
                    raise  # else it has begun, and whoever asked for it asks again
            current().pause()

    _command(world, life, "promote", work)


def rewrite(world: World, machine: Machine, life: Incarnation) -> None:
    """Every block of every volume, while it is paused: nobody waits for a copy."""

    def work(world: World, life: Incarnation) -> None:
        _ask(life, op="pause", now=False)
        assert world.nclients == 0, "others would wait"
        writer = Clients(world, machine, life)
        for volume, size in enumerate(machine.sizes.values()):
            for offset in range(0, size, world.block):
                writer._write(volume, offset, world.block, zero=False)
        _ask(life, op="resume")

    _command(world, life, "rewrite", work)
