"""A second source: a third machine that is set up for the target of another one.

    north    production's own source, of a history of its own or of the target's, but with another
             id: as long as it runs it asks for a session and says that it is there
    asks     beside it whatever a peer may ask and may not ask, in sessions that nobody has opened,
             and for a session with the words of the real source but for its id

Whatever it asks for it is refused, it never has a session while the real source has one, and what
it asks changes nothing: the rest of the oracle goes on beside it, and at the end, where it runs on
in half of the schedules, both sites must be equal.

Left out: a target without an image takes the first source of its history that comes, and one
without a history any (recovery.py), so that nothing of this one arrives there: a person has ended
it, as the refusal said; the same of words of the real source where that has no session, or has been
silent; a site of protocol 2, which does not tell its runs; a copy of the source (copies.py).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mirror_core import control, exports, ledger, native, protocol
from mirror_core.door import Visitor
from mirror_core.errors import MirrorError
from mirror_core.target import Target
from sim.core import lib
from sim.sched import NS, Task, Violation, current
from sim.sites import Incarnation, Machine
from sim.stalls import stalls

if TYPE_CHECKING:
    from sim.world import World

STATES = (
    "a second source was refused", "a second source was refused beside the first",
    "a second source knocked",
)  # fmt: skip
NORTH = "north"
_PEER = Visitor(False, "10.0.0.3")
_RECENT_S = 1.0  # of the real source: heard of so lately it is there
_MINE = "5" * 32  # a history
_COMMANDS: tuple[dict[str, Any], ...] = (
    {"op": "status"}, {"op": "sync"}, {"op": "pause", "now": True}, {"op": "resume"},
    {"op": "bandwidth", "rate": 1}, {"op": "promote", "force": True}, {"op": "take_back"},
    {"op": "nothing"},
)  # fmt: skip
_MAY_ASK = {"who"}  # and who is answered


class Stranger:
    def __init__(self, world: World, target: Machine) -> None:
        self.world, self.random = world, world.random
        self.machine = Machine(world, NORTH, target.site, target.sizes)
        self.sessions: set[int] = set()  # that it has asked for, and that nobody has opened
        self._asked: dict[Task, int] = {}  # what is asked of the target: since when
        for one in world.machines:
            if one.life and one.life.site and isinstance(one.life.site.control, Target):
                self.watch(one.life, one.life.site.control)
        book = target.book_on_disk(target.fs)
        ours = self.random.random() < 0.5 and book.lineage is not None
        self.lineage = book.lineage.id if ours and book.lineage else _MINE
        self.machine.create("source", lineage=self.lineage)
        for part in ("data", "intermediate"):
            images = tuple((b"north" * size)[:size] for size in target.sizes.values())
            self.machine.fill(part, images)

    def boot(self) -> None:
        self.machine.boot()
        life = self.machine.life
        assert life
        if self.random.random() < 0.8:
            current().spawn(life, f"{NORTH}: control asks", lambda: self._ask(life))

    def end(self) -> None:
        if self.machine.life:
            self.machine.crash()

    # ---- what it asks beside its own control

    def _ask(self, life: Incarnation) -> None:
        scheduler, rng = current(), current().random
        pause_ns = rng.choice((NS // 1000, NS // 20, NS // 2))
        while True:
            calm_ns = NS if self.world.is_calm else 0  # what has to come is counted in switches
            scheduler.wait(lib.sim_clock_ns + max(int(rng.random() * pause_ns), calm_ns))
            if rng.random() < 0.1:
                self._open_export()
                continue
            with contextlib.suppress(native.NativeError, OSError):
                line = self.world.network.line(f"{self.machine.peer}/", 1.0)
                line.ask(self._request())
                while line.hear(0.5) is None:
                    pass
                line.close()

    def _request(self) -> bytes:
        rng = current().random
        session = rng.choice((0, 1, rng.getrandbits(62) | 1, *self.sessions))
        self.sessions.add(session)
        target = self.world.reached_as(self.machine.peer)
        book = target.book_on_disk(target.fs)
        lineage = book.lineage.id if book.lineage and rng.random() < 0.5 else self.lineage
        sequence = max(0, book.committed + rng.choice((-1, 0, 1, 1, 1, 7)))
        name = rng.choice([*self.machine.sizes])
        asked: protocol.Request = rng.choice((
            self._hello(book, lineage), self._words_of_the_first(book, lineage),
            protocol.Commit(lineage, session, sequence, 1e9, "5" * 32),
            protocol.Stable(session, sequence, 1, book.begun_token),
            protocol.Compare(session, sequence, name, ((0, 1),), bytes(16)),
            {"op": "hardened", "session": session, "wait": 0.0, "paused": False},
            {"op": "hardened", "session": 0, "wait": 0.0, "paused": False,
             "name": NORTH, "lineage": lineage},
            {"op": "who"}, rng.choice(_COMMANDS),
        ))  # fmt: skip
        return protocol.encode(protocol.record_of(asked))

    def _number(self) -> int:
        number = current().random.getrandbits(62) | 1
        self.sessions.add(number)
        return number

    def _shapes(self, book: ledger.Ledger) -> tuple[protocol.VolumeShape, ...]:
        return tuple(protocol.VolumeShape(v.name, v.size, v.block_size) for v in book.volumes)

    def _hello(self, book: ledger.Ledger, lineage: str) -> protocol.Handshake:
        """Of its own history, or of a run that the target has never met."""
        run = "6" * 32
        return protocol.Handshake(
            NORTH, lineage, self._number(), self._shapes(book), NORTH, 0, 0, run, (run,),
            book.committed, book.committed_token, book.committed, book.committed_token, 2.0,
        )  # fmt: skip

    def _words_of_the_first(self, book: ledger.Ledger, lineage: str) -> protocol.Handshake:
        """All that the target knows of its source, but for the id, and perhaps the history."""
        return protocol.Handshake(
            NORTH, lineage, self._number(), self._shapes(book), NORTH, 0, 0,
            book.source_run or "6" * 32, (book.source_run or "6" * 32,),
            book.committed, book.committed_token, book.committed, book.committed_token, 2.0,
        )  # fmt: skip

    def _open_export(self) -> None:
        """Of a volume of the target: it has no session."""
        try:
            _, target = self.world.network.reach(self.machine.peer)
        except native.NativeError:
            return
        site, rng = self.world.site_of(target), current().random
        volume = rng.choice([*self.machine.sizes])
        session = rng.choice([1, *self.sessions])
        name = rng.choice((volume, f"{volume}/intermediate", f"{volume}/intermediate/{session:x}"))
        with stalls.none(), contextlib.suppress(MirrorError):
            exports.open_export(site, name, _PEER)
            raise Violation(f"a second source has {name} of {target.name}")

    # ---- what it is answered

    def answered(self, target: Incarnation, request: bytes) -> bytes | None:
        """None: it does not arrive (see above)."""
        site = self.world.site_of(target)
        asked, _ = protocol.decode(request)
        operation = str(asked["op"])
        if isinstance(site.control, Target) and not self._arrives(site.control, asked):
            return None
        if operation == "handshake":
            self.sessions.add(asked["session"])
        task = current().current
        assert task
        self._asked[task] = lib.sim_clock_ns
        try:
            answer = control.answer(site, request, _PEER)
        finally:
            del self._asked[task]
        said, _ = protocol.decode(answer)
        is_sign = operation == "hardened" and not asked["session"] and "lineage" in asked
        is_no = "refused" in said or "error" in said
        if operation == "handshake" and not is_no:
            if not self._is_as_the_first(site.book.current, asked):
                raise Violation(f"{target.name} has opened a session with a second source")
            self.world.counts["second sources in place of a silent one"] += 1
        elif not is_no and not is_sign and operation not in _MAY_ASK:
            raise Violation(f"{target.name} does for a second source: {operation}")
        if operation == "handshake" and "refused" in said:
            self.world.reach(STATES["is connected: stop it first" in said["refused"]])
        if is_sign and not is_no:
            self.world.reach(STATES[2])
        return answer

    def _arrives(self, target: Target, asked: protocol.Record) -> bool:
        book = target._book.current
        if not (book.lineage and book.whole):
            return False
        return not self._is_as_the_first(book, asked) or (
            target.session not in (0, *self.sessions)
            and target.connected()
            and self._is_heard(target)
        )

    @staticmethod
    def _is_as_the_first(book: ledger.Ledger, asked: protocol.Record) -> bool:
        """It asks with the words of the real source, which is let in if the other one is away."""
        ours = book.lineage is not None and asked.get("lineage") == book.lineage.id
        # Who speaks the older protocol tells no run, and who has met nobody else knows none.
        runs = asked.get("runs", (book.source_run,))
        return ours and (not book.source_run or book.source_run in runs)

    @staticmethod
    def _is_heard(target: Target) -> bool:
        return target._platform.monotonic() - target.heard < _RECENT_S

    # ---- the session of the real source

    def watch(self, life: Incarnation, control: Target) -> None:
        """Of a target that has not begun, or runs."""
        end = control._end_session

        def ended() -> None:
            before, task = control.session, current().current
            end()
            since = self._asked.get(task) if task else None
            if since is not None and lib.sim_clock_ns - since < _RECENT_S * NS:
                self._judge_end(life, control, before)

        setattr(control, "_end_session", ended)  # noqa: B010

    def _judge_end(self, life: Incarnation, control: Target, session: int) -> None:
        """It is ended for what a second source asks: only one of a source that is there no more, or
        that has given it up itself, may be.  (Where this takes long the source may be silent.)"""
        other = self.world.other(life.machine).life
        driver = other.source if other else None
        is_there = driver is not None and driver.connected and driver._session.number == session
        if is_there and self._is_heard(control) and not life.dead:
            violation = Violation(f"a second source has ended the session of {life.name}")
            current().fail(violation)
            raise violation
