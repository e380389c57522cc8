"""Everything that one seed sets up: two sites, the link, the clients, the judge, the watch.

`source` and `target` say which site has which role now.  A fault is begun by faults.py through
the methods here, which know when a client may wait or fail (an excuse), and `heal` ends all.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaoslib import scratch
from chaoslib.chains import Chain, Region
from chaoslib.judge import Judge
from chaoslib.record import ChaosFailure, Record
from chaoslib.sites import CommandFailed, Site
from chaoslib.watch import Watch
from chaoslib.writers import Clients, Excuses

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"one": 3 * MIB, "two": 5 * MIB + 1536}
SMALL = 128 * KIB  # a chain's region on each volume
LINK_TIMEOUTS_S = (2.0, 3.0)  # a busy machine's own servers answer within it
HELD_S = 90.0  # until all writes that were begun are acknowledged, whatever was healed just before


@dataclass(frozen=True)
class Options:
    program: Path
    folder: Path
    seed: int
    seconds: float
    least: int  # faults, however long they take
    kinds: tuple[str, ...]
    each: bool  # no kind comes again before all have come
    margin_s: float
    heal_s: float
    verbose: bool


def chains_of() -> list[Chain]:
    """Four chains of small writes, the last at the very end of the volumes; one that zeroes."""
    chains = []
    for number in range(4):
        regions = [
            Region(number * SMALL if number < 3 else size - SMALL, SMALL // 512)
            for size in SIZES.values()
        ]
        chains.append(Chain(number, 512, regions, most=32, zeroes=0.08))
    large = [Region(MIB, 256) for _ in SIZES]
    return [*chains, Chain(4, 4096, large, most=64, zeroes=0.5)]


class Stage:
    def __init__(self, options: Options, record: Record) -> None:
        self.options, self.record = options, record
        self.rng = random.Random(options.seed)
        folder, link_timeout = options.folder, self.rng.choice(LINK_TIMEOUTS_S)
        self.settings = (
            f'link_timeout = "{link_timeout:g}s"\n'
            f'block_size = "{self.rng.choice(("1K", "4K", "16K"))}"\n'
            f'preserve = "{self.rng.choice(("both", "both", "first"))}"\n'
            f'interval = "{self.rng.choice(("0s", "0s", "200ms"))}"\n'
        )
        self.link_timeout_s = link_timeout
        self.source, self.target = (
            Site(folder, name, options.program, record, SIZES) for name in ("east", "west")
        )
        self.excuses = Excuses()
        self.chains = chains_of()
        bound_s = link_timeout + options.margin_s
        self.clients = Clients(self.chains, options.seed, record, self.excuses, bound_s)
        self.judge = Judge(self.chains)
        self.promised = 0.0  # every image from now on holds what was acknowledged by then
        self.faults = 0  # begun so far
        self._due: list[str] = []  # kinds, of a turn in which each comes once
        self.has_image = False
        self.paused = False  # and `resume` was not possible yet
        self.link = "up"
        self._uris: dict[str, list[str]] = {}  # of site
        self._relay: subprocess.Popen[str] | None = None
        self.watch = Watch(self.sites(), self.clients, record, 15 + 5 * link_timeout)

    def sites(self) -> list[Site]:
        return [self.source, self.target]

    # ---- set up, and the end

    def set_up(self) -> None:
        self.record.say(
            f"seed {self.options.seed}, faults {','.join(self.options.kinds)}, "
            f"settings {' '.join(self.settings.split())}"
        )
        served = bool({"server", "slow", "hang", "error", "lose"} & set(self.options.kinds))
        for site in self.sites():
            site.make(self.settings, served=served, own_disk=site.disk.possible())
        self._start_relay()
        for site, role in ((self.source, "source"), (self.target, "target")):
            site.serve_as(source=role == "source")
            site.run("create", "--role", role, bound_s=30.0)
        self.target.start()
        self.source.start()
        self.find_devices()
        self.clients.start()
        self.watch.start()
        self.sync(self.options.heal_s)

    def find_devices(self) -> None:
        """Where the clients find the volumes of the source."""
        if self.source.name not in self._uris:  # they stay what they are
            self._uris[self.source.name] = self.source.uris()
        self.clients.uris = self._uris[self.source.name]

    def _start_relay(self) -> None:
        pairs = []
        for name in ("east", "west"):
            pairs += [
                str(self.options.folder / f"to-{name}.sock"),
                str(self.options.folder / f"{name}.sock"),
            ]
        program = Path(__file__).with_name("relay.py")
        self._relay = subprocess.Popen(
            [sys.executable, str(program), *pairs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._relay.stdout and self._relay.stdout.readline() == "ready\n"

    def end(self) -> None:
        """Stop everything, whatever state it is in; the folder stays."""
        with contextlib.suppress(RuntimeError):
            self.watch.end()
        for site in self.sites():
            self.excuses.begin(f"{site.name} is down")
        self.clients.let_go()
        for site in self.sites():
            site.end()
        self.clients.join()
        if self._relay:
            self._relay.kill()
            self._relay.wait(10)
        for site in self.sites():
            if site.disk.mounted:
                site.disk.empty()
                kept = site.folder / "state-at-the-end"
                shutil.copytree(site.disk.folder, kept, dirs_exist_ok=True)
                site.disk.unmount()

    # ---- which fault is next

    def next_kind(self) -> str:
        if not self.options.each:
            return self.rng.choice(self.options.kinds)
        self._due = self._due or self.rng.sample(self.options.kinds, len(self.options.kinds))
        return self._due.pop()

    # ---- what faults do

    def say(self, text: str) -> None:
        self.record.say(text)

    def set_link(self, words: str) -> None:
        assert self._relay and self._relay.stdin and self._relay.stdout
        self._relay.stdin.write(words + "\n")
        self._relay.stdin.flush()
        if self._relay.stdout.readline() != "done\n":
            raise ChaosFailure("the relay has died: a fault of this tool")
        self.link = words
        self.say(f"link {words}")

    def take_down(self, site: Site, *, kill: bool) -> None:
        """Nothing if it is down already."""
        if not site.pid:
            return
        if site is self.source:
            # After a loss the servers of its stores are not known for a while, so that a kill costs
            # each client one more flush.
            lost = kill and self.excuses.losses > 0
            self.excuses.begin(f"{site.name} is down", loss=lost)
        if kill:
            site.kill()
            self.say(f"{site.name} killed")
        else:
            try:
                site.stop()
            except CommandFailed as error:
                raise ChaosFailure(f"{site.name} could not be stopped: {error}") from error

    def bring_up(self, site: Site, *, must: bool) -> None:
        """Nothing if it is up already.  ChaosFailure: it must start, and does not."""
        if site.pid:
            return
        try:
            site.start()
        except CommandFailed as error:
            if must:
                raise ChaosFailure(f"{site.name} does not start: {error}") from error
            return
        if site is self.source:
            self.excuses.end(f"{site.name} is down")

    def freeze(self, site: Site) -> None:
        if site.pid and not site.frozen:
            if site is self.source:
                self.excuses.begin(f"{site.name} is frozen")
            site.freeze()
            self.say(f"{site.name} frozen")

    def thaw(self, site: Site) -> None:
        if site.frozen:
            site.thaw()
            self.say(f"{site.name} goes on")
        self.excuses.end(f"{site.name} is frozen")

    def fill(self, site: Site, leave: int, *, log: bool) -> None:
        if site is self.source:
            self.excuses.begin(f"{site.name}'s state disk is full")
        site.disk.fill(leave, log=log)
        also = " and its log has none" if log else ""
        self.say(f"{site.name}: state disk full but for {leave} bytes{also}")

    def empty(self, site: Site) -> None:
        if site.disk.is_filled():
            site.disk.empty()
            self.say(f"{site.name}: state disk has space")
        self.excuses.end(f"{site.name}'s state disk is full")

    def spoil(self, site: Site, part: str, fault: str) -> None:
        """That server does so until it is mended."""
        if site is self.source:
            self.excuses.begin(f"{site.name}'s servers", loss=True)
        site.servers[part].command(fault)
        self.say(f"{site.name}: the server of two's {part}: {fault}")

    def mend(self, site: Site) -> None:
        site.mend_servers()
        self.excuses.end(f"{site.name}'s servers")

    def heal(self) -> None:
        """No fault is in force, and both sites run."""
        self.say("heal everything")
        if self.link != "up":
            self.set_link("up")
        for site in (self.target, self.source):
            self.empty(site)
            self.mend(site)
            self.thaw(site)
            self.bring_up(site, must=True)
        if self.paused:
            self.source.run("resume", bound_s=10.0)
            self.paused = False

    # ---- what is promised

    def sync(self, timeout_s: float) -> None:
        """CommandFailed: not in this time."""
        began = time.monotonic()
        self.source.run("sync", "--timeout", f"{timeout_s:g}s", bound_s=timeout_s)
        self.promised, self.has_image = began, True
        self.record.count("syncs")

    def must_sync(self) -> None:
        """After `heal`.  ChaosFailure: mirroring does not go on by itself."""
        try:
            self.sync(self.options.heal_s)
        except CommandFailed as error:
            told = [f"{site.name}: {site.status()}" for site in self.sites()]
            raise ChaosFailure(
                f"everything was healed, and then: {error}; {'; '.join(told)}"
            ) from error

    def check(self, images: Sequence[bytes], what: str) -> list[int]:
        """ChaosFailure, unless the image is right; the chains' prefixes."""
        found = self.judge.check(lambda v, at, n: images[v][at : at + n], self.promised)
        self.record.count("judgements")
        self.say(f"judged {what}: right; prefixes {found} since the last image")
        return found

    def forget(self, prefix: Sequence[int]) -> None:
        """Every image to come holds at least this."""
        for chain, writes in zip(self.chains, prefix, strict=True):
            chain.forget(writes)

    def stores(self, site: Site) -> list[bytes]:
        """What is on the disks of its data stores."""
        return [site.image(volume, "data").read_bytes() for volume in SIZES]

    def judge_copy(self, *, kill: bool) -> None:
        """The image of the target, which is taken down for it."""
        self.take_down(self.target, kill=kill)
        try:
            images = scratch.image_of(self.target, self.settings)
        except CommandFailed as error:
            raise ChaosFailure(f"{self.target.name} had an image, and: {error}") from error
        finally:
            self.target.serve_as(source=False)
        self.forget(self.check(images, f"a {'killed' if kill else 'stopped'} target"))

    def judge_paused(self) -> None:
        """The target's data stores once `pause` has returned; everything is healed for it."""
        self.heal()
        if not self.has_image:
            self.must_sync()  # `pause` waits for the last point, and of a new history there is none
        bound_s = self.options.heal_s
        try:
            self.source.run("pause", "--timeout", f"{bound_s:g}s", bound_s=bound_s)
        except CommandFailed as error:
            told = [f"{site.name}: {site.status()}" for site in self.sites()]
            raise ChaosFailure(
                f"everything was healed, and then: {error}; {'; '.join(told)}"
            ) from error
        self.forget(self.check(self.stores(self.target), "a paused target"))
        self.source.run("resume", bound_s=10.0)

    def hold_clients(self) -> None:
        if not self.clients.hold(HELD_S):
            self.record.check()
            raise ChaosFailure(f"writes are not acknowledged within {HELD_S:g} s")
