"""The source site's control thread: performs the effects of cycle.py, paces, retries, stops.

    for ever:  open a session with the target  ->  cycle after cycle  ->  on a fault, abandon
               the cycle, say why, close the session, wait a little, and again

Writes to the volume go on whatever happens here; what they change is in `next`.

Guard: `changed` (a condition) guards every field below its line; commands wait on it.  The
flashcopy belongs to this thread alone, but for its statistics.
"""

from __future__ import annotations

import contextlib
import errno
import random
import secrets
import threading
import time
import traceback
from collections.abc import Generator
from dataclasses import replace

from mirror_core import compare, cycle, flashcopy, limits, native, peer, protocol
from mirror_core.book import Book
from mirror_core.config import SiteConfig
from mirror_core.errors import LINK_ERRNOS, MirrorError, PeerError, Refused, line
from mirror_core.journal import Journal


class Driver(threading.Thread):
    def __init__(
        self,
        config: SiteConfig,
        book: Book,
        copier: flashcopy.Flashcopy,
        journal: Journal,
        link: peer.Link,
        *,
        coarse: bool,
    ) -> None:
        super().__init__(name="control")
        self._config, self._book, self._copier, self._journal = config, book, copier, journal
        self._link = link
        self._peer_stores: list[native.Store] = []
        self._session = 0
        self._point = 0.0  # of the running cycle, Unix seconds
        self._began = self._held = 0.0  # of the running cycle
        self._last_begin = float("-inf")
        self._cooled = time.monotonic()  # when the intent was last cooled
        self._backoff = limits.BACKOFF_MIN_S  # anew with a commit, or when a session has lasted
        self._stuck = False  # a store failed: its reason stands until a cycle is committed
        self._coarse = coarse  # until a commit: `next` may hold much that does not differ
        self._comparable = False  # the target's intermediates hold an image
        self._comparison: compare.Comparison | None = None  # of the running cycle
        # -- guarded by `changed`
        self.changed = threading.Condition()
        self.stopping = False
        self.halted = False  # pause --now: the running cycle is to stand still
        self._standing = False  # and it does
        self.requested = 0  # commands wait for a commit of at least this sequence
        self.progress = cycle.Progress()
        self.last_cycle: cycle.LastCycle | None = None
        self.hardened = book.current.hardened
        self.committed = book.current.committed
        self.point = book.current.consistency_point
        self.connected = False
        self.connected_since = time.time()
        self.reason: str | None = "not connected yet"
        self.refused = False

    # ---- what commands ask (any thread)

    def request_point(self) -> int:
        """A sequence whose commit holds every write acknowledged before this call."""
        with self.changed:
            # A cycle that is between its begin and its freeze would do too; the next one
            # certainly does.
            self.requested = max(self.requested, self._book.current.begun + 1)
            self.changed.notify_all()
            return self.requested

    def wait_whole(self, sequence: int, timeout_s: float) -> bool:
        """Whether `sequence` is committed and whole in the target's data stores."""
        with self.changed:
            return (
                self.changed.wait_for(lambda: self.stopping or self.hardened >= sequence, timeout_s)
                and self.hardened >= sequence
            )

    def pause(self, *, now: bool) -> None:
        self._book.update(paused=True)
        with self.changed:
            self.halted, self._standing = now, False
            self.changed.notify_all()

    def resume(self) -> None:
        self._book.update(paused=False)
        with self.changed:
            self.halted = False
            self.changed.notify_all()

    def wait_settled(self, timeout_s: float) -> bool:
        """Whether no cycle runs and the last one is whole at the target, or nothing is copied."""
        with self.changed:
            return self.changed.wait_for(self._settled, timeout_s)

    def _settled(self) -> bool:
        if self.halted:
            return self._standing or self.progress.phase not in ("freeze", "copy")
        return self.progress.phase == "idle" and self.hardened >= self.committed

    def stop(self) -> None:
        """Ask the thread to end; join it afterwards."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    # ---- the thread

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # a broken invariant: mirroring stops, writes go on
            traceback.print_exc()
            self._say(f"internal error ({error!r}): report it, restart the site", refused=True)

    def _run(self) -> None:
        while not self.stopping:
            opened = float("inf")
            try:
                self._open_session()
                opened = time.monotonic()
                self._mirror()
            except MirrorError as error:
                self._say(str(error), refused=isinstance(error, Refused))
            finally:
                self._close_session()
            if time.monotonic() >= opened + limits.BACKOFF_MAX_S:
                self._backoff = limits.BACKOFF_MIN_S
            with self.changed:
                wait = self._backoff * random.uniform(0.5, 1.0)
                self.changed.wait_for(lambda: self.stopping, wait)
            self._backoff = min(2 * self._backoff, limits.BACKOFF_MAX_S)

    def _say(self, reason: str | None, *, refused: bool = False) -> None:
        with self.changed:
            if reason and reason != self.reason:
                self._journal.say(reason)
            self.reason, self.refused = reason, refused
            self.changed.notify_all()

    def _say_of_peer(self, trouble: object) -> None:
        """Take over what holds the target up; nothing does: our own reason stands or goes."""
        if isinstance(trouble, str):
            self._say(f"peer at {self._config.peer}: {line(trouble)}")
        elif self.reason and not self._stuck:
            self._say(None)

    # -- a session with the target

    def _ask(self, record: protocol.Record) -> protocol.Record:
        try:
            return self._link.ask(record)
        except PeerError as error:
            away = error.code in (errno.ENOENT, errno.ECONNREFUSED)
            advice = "start it, or mend the link" if away else "look at it and at the link"
            raise PeerError(
                f"peer at {self._config.peer}: {error}: {advice}; writes go on and mirroring "
                "resumes by itself",
                error.code,
            ) from error

    def _open_session(self) -> None:
        """Handshake, then the lanes to the target's intermediates.  MirrorError."""
        self._session = secrets.randbits(62) | 1
        mine = self._book.current
        assert mine.lineage is not None, "a source has a lineage from its creation"
        shapes = tuple(protocol.VolumeShape(v.name, v.size, v.block_size) for v in mine.volumes)
        hello = protocol.Handshake(mine.name, mine.lineage.id, self._session, shapes, mine.site)
        welcome = protocol.Welcome.of(self._ask(hello.record()))
        if welcome.whole and welcome.committed < mine.committed:  # not whole: all is sent
            raise Refused(
                f"peer {welcome.name} went back from sequence {mine.committed} to "
                f"{welcome.committed} (an older copy of it?): 'flashmirror resync --full' there"
            )
        self._book.update(begun=max(mine.begun, welcome.committed))
        self._comparable = welcome.whole
        if not welcome.whole:
            self._mark_everything(data_only=welcome.blank)
        self._connect()
        with self.changed:
            self.connected, self.connected_since = True, time.time()
            if self.requested <= self.hardened:
                self.requested = 0  # nobody waits for it, or a lost image would ask for it again
            self.hardened = welcome.hardened
            self.reason, self.refused = self.reason if self._stuck else None, False
            if not welcome.whole:
                self.committed, self.point = 0, None
            elif welcome.committed > self.committed:  # its answer was lost, or our ledger is older
                self.committed, self.point = welcome.committed, welcome.point
            self.changed.notify_all()
        if not self._stuck:
            self._journal.say(f"mirroring to {welcome.name}")

    def _mark_everything(self, *, data_only: bool) -> None:
        """What is sent is hot first (I4): if the answer to its commit is lost, and then this
        site's power, the target waits for all that a cycle after that one had sent."""
        for member in self._copier.members:
            try:
                member.native.heat_all()
            except OSError as error:
                raise MirrorError(str(error.strerror), error.errno or errno.EIO) from error
            if data_only:
                member.native.mark_data()
            else:
                member.native.mark(0, member.native.blocks)

    def _connect(self) -> None:
        try:
            for member in self._copier.members:
                self._peer_stores.append(self._link.intermediate(member.name, self._session))
            with self._blaming():
                self._copier.link(self._peer_stores)
        except OSError as error:
            self._drop_stores()
            raise PeerError(f"peer at {self._config.peer}: {error.strerror}") from error
        except MirrorError:
            self._drop_stores()
            raise

    def _close_session(self) -> None:
        if not self.connected:
            return
        self._copier.unlink()
        self._drop_stores()
        with self.changed:
            self.connected, self.connected_since = False, time.time()
            self.changed.notify_all()

    def _drop_stores(self) -> None:
        while self._peer_stores:
            self._peer_stores.pop().close()

    # -- cycles

    def _mirror(self) -> None:
        """Cycle after cycle until asked to stop.  MirrorError: the session is over."""
        while self._wait_for_work():
            sequence = max(self._book.current.begun, self.committed) + 1
            run = cycle.cycle(sequence, self._config.freeze_deadline, self._config.freeze_max)
            outcome = self._perform(run)
            self._journal.cycle(outcome.result)
            if outcome.result == "abandoned":
                self._stuck = outcome.code not in LINK_ERRNOS
                self._last_begin = float("-inf")
                raise MirrorError(outcome.reason or "", outcome.code)
            self._stuck = self._stuck and outcome.result != "committed"
            if outcome.result == "missed":
                self._say(outcome.reason)
                with self.changed:
                    self.changed.wait_for(lambda: self.stopping, limits.BACKOFF_MIN_S)
            elif self.reason:
                self._say(None)

    def _wait_for_work(self) -> bool:
        """Sleep until a cycle is due (True) or the thread is to stop (False)."""
        looked = time.monotonic()
        while True:
            with self.changed:
                if self.stopping:
                    return False
                if self._due():
                    # In one hold of the lock, or a pause could slip in between (wait_settled).
                    self.progress = cycle.Progress(self.committed, "freeze")
                    return True
                behind = self.hardened < self.committed
                if not behind:
                    quiet = self._book.current.paused  # resume, sync and stop wake us
                    self.changed.wait(limits.IDLE_LOOK_S if quiet else limits.IDLE_POLL_S)
            if behind or time.monotonic() >= looked + limits.IDLE_LOOK_S:
                self._look_at_peer(0.05 if behind else 0.0)
                looked = time.monotonic()

    def _due(self) -> bool:
        if self.requested > self.committed:
            return True
        if self._book.current.paused:
            return False
        rested = time.monotonic() >= self._last_begin + self._config.interval
        return rested and (self.committed == 0 or self._copier.group.next_blocks() > 0)

    def _look_at_peer(self, wait_s: float) -> None:
        answer = self._ask({"op": "hardened", "session": self._session, "wait": wait_s})
        self._set_hardened(protocol.field(answer, "hardened", int))
        self._say_of_peer(answer.get("reason"))

    def _set_hardened(self, sequence: int) -> None:
        with self.changed:
            self.hardened = max(self.hardened, sequence)
            self.changed.notify_all()

    def _perform(self, run: Generator[cycle.Effect, cycle.Result, cycle.Outcome]) -> cycle.Outcome:
        effect = next(run)
        while True:
            try:
                result = self._effect(effect)
            except MirrorError as error:
                result = cycle.Result(error=str(error), code=error.code)
            try:
                effect = run.send(result)
            except StopIteration as end:
                self._phase("idle")
                outcome: cycle.Outcome = end.value
                return outcome

    def _phase(self, phase: str, **more: int) -> None:
        with self.changed:
            self.progress = replace(self.progress, phase=phase, **more)
            self.changed.notify_all()

    def _effect(self, effect: cycle.Effect) -> cycle.Result:
        match effect:
            case cycle.Begin(sequence):
                self._last_begin = time.monotonic()
                self._phase("freeze", sequence=sequence, copied_bytes=0, total_bytes=0)
                self._book.update(
                    begun=sequence, committed=self.committed, consistency_point=self.point
                )
            case cycle.Freeze(budget):
                return self._freeze(budget)
            case cycle.Copy():
                return self._copy()
            case cycle.Flush():
                self._phase("flush")
                with self._blaming():
                    self._copier.check()
                    self._copier.flush(front_too=True)
            case cycle.Commit(sequence):
                return self._commit(sequence)
            case cycle.Settle():
                self._settle()
            case cycle.Abandon(_, code):
                self._copier.abandon(code or errno.EIO)
        return cycle.Result()

    def _freeze(self, budget: float) -> cycle.Result:
        point = time.time()  # of before the freeze: every write acknowledged by then is in it
        try:
            self._held = self._copier.group.freeze(budget)
        except OSError as error:
            self._journal.missed_freeze()
            text = (
                f"writes did not drain within {budget:g} s: the source store is slow; a larger "
                "freeze_max would help"
            )
            return cycle.Result(error=text, code=error.errno or 0)
        self._point, self._began = point, time.monotonic()
        comparing = self._coarse and self._comparable
        self._copier.compare(comparing)
        self._comparison = compare.Comparison(self._copier.members) if comparing else None
        self._journal.held(self._held)
        self._phase("copy", total_bytes=self._copier.left_bytes())
        return cycle.Result()

    def _copy(self) -> cycle.Result:
        with self.changed:
            if self.stopping:
                return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
            self._standing = self.halted and self.requested <= self.committed
            if self._standing:
                self.changed.notify_all()
                self.changed.wait(limits.IDLE_LOOK_S)
                return cycle.Result(done=False)
        with self._blaming():
            done = self._copier.copy(limits.SLICE_S)
            if done and self._comparison:
                self._compare(self._comparison)
                done = False
        copied = self.progress.total_bytes - self._copier.left_bytes()
        self._phase("copy", copied_bytes=max(0, copied))
        return cycle.Result(done=done)

    def _compare(self, comparison: compare.Comparison) -> None:
        """One request; after the last what is left is to be sent."""
        if asked := comparison.ask(self._session, self.progress.sequence):
            equal = comparison.take(self._ask(asked.record()))
            self._journal.compared(asked.volume, asked.wire_bytes(), equal)
        else:
            self._comparison = None
            self._copier.compare(False)

    def _commit(self, sequence: int) -> cycle.Result:
        self._phase("commit")
        assert self._book.current.lineage is not None
        with self._blaming():
            self._copier.check()
        record = protocol.Commit(
            self._book.current.lineage.id, self._session, sequence, self._point
        ).record()
        answer = self._ask(record)
        self._set_hardened(protocol.field(answer, "hardened", int))
        if answer.get("done") is True:
            return cycle.Result()
        if self.stopping:
            return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
        self._say_of_peer(answer.get("reason"))
        return cycle.Result(done=False)

    def _settle(self) -> None:
        self._copier.settle()
        self._coarse = False
        self._backoff = limits.BACKOFF_MIN_S
        duration = time.monotonic() - self._began
        with self.changed:
            self.committed, self.point = self.progress.sequence, self._point
            self.last_cycle = cycle.LastCycle(duration, self.progress.total_bytes, self._held)
            self.changed.notify_all()
        self._journal.duration(duration)
        if time.monotonic() >= self._cooled + limits.INTENT_COOL_S / 3:
            self._cooled = time.monotonic()
            try:
                self._copier.cool(limits.INTENT_COOL_S)
            except OSError as error:  # regions stay hot on disk: safe, and tried again
                self._journal.say(str(error.strerror))

    @contextlib.contextmanager
    def _blaming(self) -> Generator[None, None, None]:
        """Turns a failed copy into a line that says which store, and what to do."""
        try:
            yield
        except flashcopy.CopyError as error:
            volume = next(v for v in self._config.volumes if v.name == error.volume)
            where = {
                flashcopy.FRONT: f"data store {volume.data}",
                0: f"intermediate store {volume.intermediate}",
                flashcopy.PEER: f"intermediate store of the peer at {self._config.peer}",
            }
            text = self._trouble_of_peer(error) or flashcopy.explain(error, where)
            raise MirrorError(
                f"{text}; writes go on and mirroring resumes by itself", error.code
            ) from error

    def _trouble_of_peer(self, error: flashcopy.CopyError) -> str | None:
        """The peer's own words for why it refused a write, if it has any."""
        if error.part != flashcopy.PEER or error.code in LINK_ERRNOS:
            return None
        with contextlib.suppress(MirrorError):
            answer = self._ask({"op": "hardened", "session": self._session, "wait": 0.0})
            if isinstance(answer.get("reason"), str):
                return f"peer at {self._config.peer}: {line(answer['reason'])}"
        return None

    def end(self) -> None:
        """After the thread was joined and no client is left: void a cycle that still runs."""
        if any(s.pending_blocks + s.unsent_blocks + s.sent_blocks
               for s in self._copier.stats().values()):  # fmt: skip
            self._copier.abandon(errno.ESHUTDOWN)
