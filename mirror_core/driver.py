"""The source site's control thread: performs the effects of cycle.py, paces, retries, stops.

    for ever:  open a session with the target  ->  cycle after cycle  ->  on a fault, say why,
               close the session, wait a little, and again

A cycle whose link is lost goes on: it copies into the first intermediate, waits for another
session, and has what is not stable at the target sent again.  Any other fault abandons it.
Writes to the volume go on whatever happens here; what they change is in `next`.

Guard: `changed` (a condition) guards every field below its line; commands wait on it.  The
flashcopy belongs to this thread alone, but for its statistics.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from mirror_core import (
    age,
    compare,
    cut,
    cycle,
    flashcopy,
    guard,
    limits,
    protocol,
    pulse,
    recovery,
    session,
    stable,
    timeouts,
)
from mirror_core.book import Book
from mirror_core.config import SiteConfig
from mirror_core.errors import (
    LINK_ERRNOS,
    NOT_YET,
    Answered,
    LedgerError,
    MirrorError,
    PeerError,
    Refused,
    line,
)
from mirror_core.journal import Journal
from mirror_core.platform import Platform, Thread


class Driver:
    def __init__(
        self,
        config: SiteConfig,
        book: Book,
        copier: flashcopy.Flashcopy,
        journal: Journal,
        platform: Platform,
        *,
        clean: bool,
        drop_caches: Callable[[], None],
        take_intermediates: Callable[[], None],
        remember_cut: Callable[[list[tuple[str, cut.Part]]], None],
    ) -> None:
        self._config, self._book, self._copier, self._journal = config, book, copier, journal
        self._platform = platform
        self._thread: Thread | None = None
        self._session = session.Session(
            config, book, copier, platform, ending=lambda: self.stopping
        )
        self._pulse = pulse.Pulse(config, book, journal, platform, self._heard)
        self._point = age.Moment(0.0, 0.0)  # of the running cycle
        self._began = age.of_history(book.current, platform)
        self._held = 0.0  # how long the last freeze held writes, seconds
        self._holds = cycle.Holds(config.freeze_deadline, config.freeze_max)
        self._freeze_at = 0.0  # no sooner: after a missed freeze writes go on for a while
        self._last_begin = float("-inf")
        self._cooled = self._platform.monotonic()  # when the intent was last cooled
        self._backoff = limits.BACKOFF_MIN_S  # anew with a commit, or when a session has lasted
        self._opened = float("inf")  # when the session was
        self._retry_at = 0.0  # when the next is to be tried
        self._stable = stable.Stabilizer(copier, self._session, platform)
        self._commit_asked = 0  # the sequence
        self._cuts: tuple[int, ...] = ()  # of the intermediates, when the cycle began
        self._limited = 0  # the bandwidth that the flashcopy knows
        self._stuck: str | None = None  # a reason that stands until a cycle is committed
        self._clean = clean  # the process before has stopped in order, or what it lost is dropped
        self._take_intermediates = take_intermediates  # those that were not there at the start
        self._remember_cut = remember_cut
        self._drop_caches = drop_caches  # what a failed flush has lost is not read any more
        self._owing = False  # the target holds what this site does not know to have sent
        self._comparable = self._seeded = False  # the target holds an image; a copy to begin with
        self._blank = False  # it holds nothing but holes: those of this site are not sent
        self._comparison: compare.Comparison | None = None  # of the running cycle
        self._reader = compare.Reader()
        self._pausing = platform.lock()  # orders pause and resume: the ledger and `halted` agree
        # -- guarded by `changed`
        self.changed = platform.condition()
        self.stopping = False
        self._ended = True  # the thread
        self.halted = False  # pause --now: the running cycle is to stand still
        self._standing = False  # and it does
        self.bandwidth = config.bandwidth  # bytes a second, until the site stops; 0: no limit
        self.requested = 0  # commands wait for a commit of at least this sequence
        self.progress = cycle.Progress()
        self.last_cycle: cycle.LastCycle | None = None
        self.hardened = book.current.hardened
        self.committed = book.current.committed
        self._committed_at = age.of_point(book.current, platform)
        # Of `hardened`; None: it is not known.
        self._hardened_at = self._committed_at if self.hardened == self.committed else None
        self.connected = False
        self.connected_since = self._platform.time()
        self.reason: str | None = NOT_YET
        self.refused = False
        self.unsure = book.current.unsure  # what the target holds: see `exposure`
        self._met = False  # it had a session

    # ---- what commands ask (any thread)

    def request_point(self) -> int:
        """A sequence whose commit holds every write acknowledged before this call."""
        with self.changed:
            # A cycle whose freeze is still to come would do too; the next one certainly does.
            next_one = self._book.current.begun + 1 + (self.progress.phase == "freeze")
            self.requested = max(self.requested, next_one)
            self.changed.notify_all()
            return self.requested

    def wait_whole(self, sequence: int, timeout_s: float) -> bool:
        """Whether `sequence` is committed and whole in the target's data stores."""
        with self.changed:
            return (
                self.changed.wait_for(lambda: self.stopping or self.hardened >= sequence, timeout_s)
                and self.hardened >= sequence
            )

    def whole(self) -> tuple[int, float | None]:
        """What is whole in the target's data stores: its sequence and its point, Unix seconds.
        Another one may be committed since."""
        with self.changed:
            return self.hardened, self._hardened_at.wall if self._hardened_at else None

    def pause(self, *, now: bool) -> None:
        with self._pausing:
            self._book.update(paused=True)
            with self.changed:
                self.halted, self._standing = now, False
                self.changed.notify_all()

    def resume(self) -> None:
        with self._pausing:
            self._book.update(paused=False)
            with self.changed:
                self.halted = False
                self.changed.notify_all()

    def set_bandwidth(self, rate: int) -> None:
        with self.changed:
            self.bandwidth = rate

    @property
    def point(self) -> float | None:
        """Of `committed`, Unix seconds."""
        moment = self._committed_at
        return moment.wall if moment else None

    def image_age(self) -> float | None:
        """Of the last committed point, in seconds; None: there is none, or who knows."""
        moment = None if self.unsure else self._committed_at
        return moment.age(self._platform) if moment else None

    def exposure(self) -> float:
        """Age of the oldest acknowledged write that no committed point holds, in seconds; 0: there
        is none.  Of writes of an earlier run, whose time is not known, it is at most the age of
        the last point; where there is no point all is exposed, since this history began.  So it is
        where the target was refused, or the ledger was put back: it may hold any point, or be
        another one, until one answers that it is of this history."""
        with self.changed:
            point, since = self._committed_at, self._copier.exposed_since()
            unsure = self.unsure
        if point is None:
            return self._began.age(self._platform)
        if unsure:  # nor is it less if a clock says that the history is younger than its point
            return max(self._began.age(self._platform), point.age(self._platform))
        if since == flashcopy.SINCE_UNKNOWN:
            return point.age(self._platform)
        return max(0.0, self._platform.monotonic() - since) if since is not None else 0.0

    @property
    def standing(self) -> bool:
        """Nothing is copied, until `resume`."""
        return self.halted and self._standing and self.progress.phase == "copy"

    def lost_stores(self) -> list[tuple[str, str]]:
        """It holds no image."""
        return []

    def was_cut(self, volume: str, _part: str) -> bool:
        """The data of that volume, since this process has opened it.  OSError: it is closed."""
        return any(m.native.front.cuts for m in self._copier.members if m.name == volume)

    @property
    def awaits_target(self) -> bool:
        """It was promoted, and no site is known to be its target."""
        return not self._met and session.promoted_only(self._book.current)

    def estimated_end(self) -> float | None:
        """When the running copy will have ended if it goes on as it has since its beginning, Unix
        seconds; None: nothing is copied, or nobody knows."""
        with self.changed:
            now, done = self.progress, self.progress.copied_bytes
            if now.phase != "copy" or self.standing or not self.connected or not done:
                return None
            left = max(0, now.total_bytes - done)
            return self._platform.time() + (self._platform.monotonic() - now.began) * left / done

    def wait_settled(self, timeout_s: float) -> bool:
        """Whether no cycle runs and the last one is whole at the target; or, if the copying is to
        stop where it is, whether it has."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or self._settled(), timeout_s)
            return self._settled()

    def _settled(self) -> bool:
        idle = self.progress.phase == "idle"
        if self.standing or (self.halted and idle):
            return True  # nothing is copied from here; what the target hardens is not waited for
        # What was begun last may be committed, and not yet whole: only the target knows.
        known = self.connected or self._book.current.begun == self._book.current.committed
        return known and idle and self.hardened >= self.committed

    def start(self) -> None:
        self._pulse.start()
        self._ended = False
        try:
            self._thread = self._platform.spawn("control", self._run_to_end)
        except Exception:
            self._ended = True
            self._pulse.stop()
            raise

    def stop(self) -> None:
        """Ask the thread to end; join it afterwards.  What is under way to the target is not waited
        for: its cycle is given up in any case."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self._copier.leave()
        self._pulse.stop()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended."""
        with self.changed:
            if not self.changed.wait_for(lambda: self._ended, timeout_s):
                return False
        if self._thread:
            self._thread.join()
        return self._pulse.join(timeout_s)

    def hears(self) -> bool | None:
        """Whether the target is there, with a session or without; None: it is not known."""
        return self.connected or self._pulse.answers

    def _heard(self) -> tuple[int, float]:
        """The session, 0 while there is none, and when this thread has asked in it last."""
        with self.changed:
            return self._session.number if self.connected else 0, self._session.asked

    # ---- the thread

    def _run_to_end(self) -> None:
        try:
            guard.run(self._run, self._give_up, self._wait_to_try, self._journal, self._platform)
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        """Whatever has happened: writes go on into `next`, and `status` says why nothing else."""
        self._end_session(errno.EIO)
        self._phase("idle")
        self._say(guard.reason_of(error))

    def _wait_to_try(self, seconds: float) -> bool:
        with self.changed:
            return not self.changed.wait_for(lambda: self.stopping, seconds)

    def _run(self) -> None:
        if not self._clean:
            if words := self._copier.flush_past():
                self._journal.say(words)
            self._drop_caches()
            self._clean = True
        while not self.stopping:
            try:
                self._open_session()
                self._mirror()
            except MirrorError as error:
                if isinstance(error, Refused):
                    self._say_refused(error)
                elif isinstance(error, cut.DataCut):  # which a person ends, too
                    self._say(str(error), refused=True)
                elif not self._is_stop(error):
                    self._say(str(error))
            finally:
                self._end_session(errno.ESHUTDOWN)
            with self.changed:
                wait_s = self._retry_at - self._platform.monotonic()
                self.changed.wait_for(lambda: self.stopping, wait_s)

    def _end_session(self, code: int) -> None:
        """The lanes go: a cycle that still runs, as after an error that nobody foresaw, is void
        first, or writers would wait for its copies."""
        self._void_cycle(code)
        self._session.close()
        self._set_disconnected()

    def _void_cycle(self, code: int) -> None:
        if any(s.pending_blocks + s.unsent_blocks + s.sent_blocks
               for s in self._copier.stats().values()):  # fmt: skip
            self._copier.abandon(code)

    def _is_stop(self, error: MirrorError) -> bool:
        """Nothing is wrong, and nothing resumes: the person has stopped the site."""
        return self.stopping and error.code == errno.ESHUTDOWN

    def _say(self, reason: str | None, *, refused: bool = False) -> None:
        with self.changed:
            if reason and reason != self.reason:
                paused, promoted = self._book.current.paused, self.awaits_target
                self._journal.say(session.told(reason, paused=paused, promoted=promoted))
            self.reason, self.refused = reason, refused
            self.changed.notify_all()

    def _say_refused(self, error: Refused) -> None:
        """What the target holds is in doubt first, for the next process too: it may never answer
        again.  If that cannot be recorded, it can when it is refused again."""
        with self.changed:
            self.unsure = True
        if not self._book.current.unsure:
            try:
                self._book.update(unsure=True)
            except LedgerError as failure:
                self._journal.say(str(failure))
        self._say(str(error), refused=True)

    def _say_of_peer(self, trouble: str | None) -> None:
        """Take over what holds the target up; nothing does: our own reason stands, if any."""
        if trouble is not None:
            self._say(f"peer at {self._config.peer}: {line(trouble)}")
        elif self.reason != self._stuck:
            self._say(self._stuck)

    # -- a session with the target

    def _open_session(self) -> None:
        """Handshake, then the lanes to the target's intermediates.  MirrorError."""
        self._retry_later()
        self._refuse_cut()
        welcome = self._greet()
        self._take_intermediates()  # after it: what the target has become is said in any case
        if not welcome.whole:  # what the target was sent may be a hole here
            self._book.update(coarse=True)  # it holds, if the old one comes back: that has it all
            self._mark_everything(data_only=welcome.blank and not self._owing)
        elif self._owing:
            self._book.update(coarse=True)  # so that only what differs is sent
            self._mark_everything(data_only=False)
        self._owing = False
        self._session.connect()
        self._set_connected(welcome)

    def _greet(self, resumes: int = 0, stable: int = 0) -> protocol.Welcome:
        """The handshake.  What the target holds counts from its answer on, for `exposure` and for
        who waits, whatever fails after it.  MirrorError."""
        welcome = self._session.open(resumes, stable)
        with self.changed:
            self._met, self.unsure = True, False
            if self.refused:  # that was another one, or what this one held before
                self.reason, self.refused = self._stuck or NOT_YET, False
            if self.requested <= self.hardened:
                self.requested = 0  # nobody waits for it, or a lost image would ask for it again
            if not welcome.whole:
                self.committed, self._committed_at = 0, None
            elif welcome.committed > self.committed:  # its answer was lost, or our ledger is older
                self.committed = welcome.committed
                self._committed_at = age.told(welcome.point, self._platform)
            self._take_hardened(min(welcome.hardened, self.committed))
            self.changed.notify_all()
        self._session.remember(welcome)
        return welcome

    def _retry_later(self) -> None:
        """Not before a while, which grows as long as sessions do not last."""
        if self._platform.monotonic() >= self._opened + limits.BACKOFF_MAX_S:
            self._backoff = limits.BACKOFF_MIN_S
        self._opened = float("inf")
        self._retry_at = self._platform.monotonic() + self._backoff * self._platform.uniform(
            0.5, 1.0
        )
        self._backoff = min(2 * self._backoff, limits.BACKOFF_MAX_S)

    def _set_connected(self, welcome: protocol.Welcome) -> None:
        self._comparable, self._seeded, self._blank = welcome.whole, welcome.seeded, welcome.blank
        self._opened = self._platform.monotonic()
        self._stable.restart()
        with self.changed:
            self.connected, self.connected_since = True, self._platform.time()
            self.reason, self.refused = self._stuck, False
            self.changed.notify_all()
        if not self._stuck:
            self._journal.say(f"mirroring to {welcome.name}")

    def _set_disconnected(self) -> None:
        with self.changed:
            if self.connected:
                self.connected, self.connected_since = False, self._platform.time()
                self._pulse.answers = None  # it is asked anew
                self.changed.notify_all()

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

    # -- a cycle that has lost its link

    def _lose_session(self, error: PeerError) -> None:
        """MirrorError: our own intermediate fails too."""
        of_link = error.code in LINK_ERRNOS and not isinstance(error, Answered)
        over = error.code == errno.ESHUTDOWN  # also if it says so: errors.SessionOver
        if not (of_link or over):
            self._stuck = str(error)
        self._set_disconnected()
        self._say(str(error))
        self._retry_later()
        self._session.part(error.code or errno.EIO)

    def _resume(self, sequence: int) -> cycle.Result:
        """Copy on into the first intermediate; now and then try to open another session."""
        if self.stopping:
            return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
        done = self._copy_on()
        if (wait_s := self._retry_at - self._platform.monotonic()) > 0:
            with self.changed:
                if done:
                    self.changed.wait_for(lambda: self.stopping, min(wait_s, limits.IDLE_LOOK_S))
            return cycle.Result(done=False)
        self._retry_later()
        try:
            welcome = self._greet(sequence, self._stable.done)
            committed = self._go_on_with(sequence, welcome)
            self._session.connect()
            if committed:
                self._copier.all_sent()
        except PeerError as error:
            if not self._is_stop(error):
                self._say(str(error))
            return cycle.Result(done=False)
        self._set_connected(welcome)
        return cycle.Result(committed=committed)

    def _go_on_with(self, sequence: int, welcome: protocol.Welcome) -> bool:
        """Whether the cycle is committed already.  MirrorError: what the target holds is not
        what the cycle was begun on."""
        if welcome.whole and welcome.committed >= sequence:
            ours = recovery.Point(sequence, self._book.current.begun_token)
            theirs = recovery.Point(welcome.committed, welcome.committed_token)
            if sequence == self._commit_asked and theirs.same(ours):
                return True
            raise MirrorError(f"peer {welcome.name} has a commit that is not ours")
        # Without an image a cycle is of everything, less the holes for a blank target.  What was
        # found equal to a seed, and is not stable, is compared or sent again.
        began = (self._comparable, self._seeded, self._blank)
        if not welcome.whole and began != (False, welcome.seeded, welcome.blank):
            raise MirrorError(f"peer {welcome.name} has no image: everything is sent again")
        if not welcome.resumed:
            self._copier.forget_stable()
        if self._comparison:
            self._comparison = self._comparison.again(self._copier.members)
        return False

    # -- cycles

    def _mirror(self) -> None:
        """Cycle after cycle until asked to stop.  MirrorError: the session is over."""
        while self._wait_for_work():
            self._refuse_cut()
            sequence = self._book.current.begun + 1
            self._last_begin = self._platform.monotonic()
            outcome = self._perform(cycle.cycle(sequence, self._holds.budget_s))
            if outcome.result == "missed":
                self._miss(outcome)
                continue
            self._journal.cycle(outcome.result)
            if outcome.result == "abandoned":
                # Never the link's fault, whatever the errno: a lost link is resumed.  A refusal is
                # over with the next session.
                self._stuck = None if self.refused else outcome.reason
                self._retry_later()
                self._last_begin = float("-inf")
                kind = Refused if self.refused else MirrorError
                raise kind(outcome.reason or "", outcome.code)
            self._stuck = None
            if self.reason:
                self._say(None)

    def _refuse_cut(self) -> None:
        """What is left of a store that somebody has cut is sent over nothing that the target has of
        it, before a person says so.  DataCut."""
        if lost := cut.of_source(self._copier.members):
            self._remember_cut(lost)
            where = self._config.volume(lost[0][0]).data
            raise cut.DataCut(
                f"data store {where}: was made smaller: what is left of it is not sent: stop "
                f"{self._book.current.name} and start it, which says what to do"
            )

    def _cuts_of_intermediates(self) -> tuple[int, ...]:
        """What they had held of the running cycle may have been sent since, or compared."""
        return tuple(m.native.first.cuts for m in self._copier.members)

    def _miss(self, outcome: cycle.Outcome) -> None:
        """No consistency point was made: try again after a pause, whatever `interval` says."""
        if self._holds.missed(self._held):
            self._journal.cycle(outcome.result)
            self._stuck = outcome.reason
            self._say(outcome.reason)
        self._freeze_at = self._platform.monotonic() + self._holds.rest_s
        self._last_begin = float("-inf")

    def _wait_for_work(self) -> bool:
        """Sleep until a cycle is due (True) or the thread is to stop (False)."""
        looked = self._platform.monotonic()
        while True:
            with self.changed:
                if self.stopping:
                    return False
                if self._due(self.committed):
                    # In one hold of the lock, or a pause could slip in between (wait_settled).
                    self.progress = cycle.Progress(self.progress.sequence, "freeze")
                    return True
                behind = self.hardened < self.committed
                if not behind:
                    quiet = self._book.current.paused  # resume, sync and stop wake us
                    self.changed.wait(limits.IDLE_LOOK_S if quiet else limits.IDLE_POLL_S)
            if behind or self._platform.monotonic() >= looked + limits.IDLE_LOOK_S:
                self._look_at_peer(0.05 if behind else 0.0)
                looked = self._platform.monotonic()

    def _due(self, committed: int) -> bool:
        now = self._platform.monotonic()
        if now < self._freeze_at:
            return False
        if self.requested > committed:
            return True
        if self._book.current.paused:
            return False
        rested = now >= self._last_begin + self._config.interval
        return rested and (committed == 0 or self._copier.group.next_blocks() > 0)

    def _look_at_peer(self, wait_s: float) -> None:
        """PeerError: so soon that a lost link is noticed within link_timeout of its loss."""
        look = protocol.Look(self._session.number, wait_s, self._book.current.paused)
        patience_s = wait_s + timeouts.look_s(self._config.link_timeout)
        answer = protocol.read(protocol.Progress, self._session.ask(look, patience_s))
        self._set_hardened(answer.hardened)
        self._say_of_peer(answer.reason)

    def _set_hardened(self, sequence: int) -> None:
        """So the target says; but what is whole there is committed, or a number that is too high
        would answer each `sync` that is still to come."""
        with self.changed:
            self._take_hardened(max(self.hardened, min(sequence, self.committed)))
            self.changed.notify_all()

    def _take_hardened(self, sequence: int) -> None:
        """With `changed`.  The target says so before there is another commit (I3)."""
        if sequence != self.hardened:
            self._hardened_at = self._committed_at if sequence == self.committed else None
        self.hardened = sequence

    def _perform(self, run: Generator[cycle.Effect, cycle.Result, cycle.Outcome]) -> cycle.Outcome:
        effect = next(run)
        while True:
            try:
                result = self._effect(effect)
            except MirrorError as error:
                result = self._result_of(error)
            try:
                effect = run.send(result)
            except StopIteration as end:
                self._phase("idle")
                outcome: cycle.Outcome = end.value
                return outcome

    def _result_of(self, error: MirrorError) -> cycle.Result:
        if self.stopping:
            return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
        if isinstance(error, Refused):  # at once: it may be away before it is asked again
            self._say_refused(error)
        # At once: a server's store that is asked for its size may be large again soon.
        self._remember_cut(cut.of_source(self._copier.members))
        self._cuts_of_intermediates()
        # Owing: it is not enough for a commit; another cycle, of everything in it, may be.
        lost = isinstance(error, PeerError) and not self._owing
        try:
            if isinstance(error, PeerError) and lost:
                self._lose_session(error)
        except MirrorError as worse:
            error, lost = worse, False
        return cycle.Result(error=str(error), code=error.code, lost=lost)

    def _phase(self, phase: str, **more: Any) -> None:
        with self.changed:
            self.progress = replace(self.progress, phase=phase, **more)
            self.changed.notify_all()

    def _effect(self, effect: cycle.Effect) -> cycle.Result:
        match effect:
            case cycle.Freeze(budget):
                return self._freeze(budget)
            case cycle.Begin(sequence):
                self._begin(sequence)
            case cycle.Copy():
                return self._copy()
            case cycle.Flush():
                self._phase("flush")
                with self._session.blaming():
                    self._copier.check()
                    self._copier.flush(front_too=True)
            case cycle.Commit(sequence):
                return self._commit(sequence)
            case cycle.Resume(sequence):
                return self._resume(sequence)
            case cycle.Settle():
                self._settle()
            case cycle.Abandon(_, code):
                self._copier.abandon(code or errno.EIO)
        return cycle.Result()

    def _begin(self, sequence: int) -> None:
        """Durably (I3): only now, or a snapshot of this site from before its freeze, put back after
        its commit, would know of it, and lack what was written in between (I7).  LedgerError."""
        self._refuse_cut()  # of before the freeze
        self._cuts = self._cuts_of_intermediates()
        self._book.update(begun=sequence, begun_token=self._platform.token())
        total = self._copier.left_bytes()
        self._phase("copy", sequence=sequence, copied_bytes=0, total_bytes=total)

    def _freeze(self, budget: float) -> cycle.Result:
        if self.stopping:
            return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
        # Of before the freeze: every write acknowledged by then is in it.
        point = age.Moment(self._platform.time(), self._platform.monotonic(), exact=True)
        try:
            self._held = self._copier.group.freeze(budget)
        except OSError as error:
            self._held = self._copier.group.held_s
            self._journal.held(self._held)
            self._journal.missed_freeze()
            text = (
                f"writes did not drain within {budget:g} s: the source store is slow; a larger "
                "freeze_max would help"
            )
            return cycle.Result(error=text, code=error.errno or 0)
        self._holds.made()
        self._point = point
        self._stable.restart()
        comparing = self._seeded or (self._book.current.coarse and self._comparable)
        self._copier.compare(comparing)
        self._comparison = (
            compare.Comparison(self._copier.members, self._reader) if comparing else None
        )
        self._journal.held(self._held)
        with self.changed:
            self._standing = False  # as one did that was given up, perhaps
            self.progress = replace(self.progress, began=self._platform.monotonic())
        return cycle.Result()

    def _copy(self) -> cycle.Result:
        if self.stopping:
            return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
        done = self._copy_on()
        with self._session.blaming():
            self._copier.check()
        if self._stable.under_way:
            if answer := self._stable.look(limits.IDLE_LOOK_S if done else 0.0):
                self._say_of_peer(answer.reason)
            if self._stable.under_way:
                return cycle.Result(done=False)
        elif self._comparison and self._comparison.asked:
            self._hear_comparison(self._comparison)
            return cycle.Result(done=False)
        elif self._standing:
            self._look_at_peer(0.0)
        if not self._standing and (not done or self._comparison):
            self._stable.begin_if_due(self.progress.sequence, self._book.current.begun_token)
        if done and self._comparison:
            if not self._stable.under_way:
                self._compare(self._comparison)
            return cycle.Result(done=False)
        return cycle.Result(done=done)

    def _copy_on(self) -> bool:
        """Copy for a while, or stand still; whether nothing is left that can be copied now."""
        with self.changed:
            self._standing = self.halted and self.requested <= self.committed
            if self._standing:
                self.progress = replace(self.progress, phase="copy")  # back from a lost commit
                self.changed.notify_all()
                self.changed.wait(limits.IDLE_LOOK_S)
                return False
        if self._limited != self.bandwidth:
            self._limited = self.bandwidth
            self._copier.group.limit(self._limited)
        with self._session.blaming():
            short = self._stable.under_way
            done = self._copier.copy(limits.SLICE_SHORT_S if short else limits.SLICE_S)
        copied = self.progress.total_bytes - self._copier.left_bytes()
        self._phase("copy", copied_bytes=max(0, copied))
        return done

    def _compare(self, comparison: compare.Comparison) -> None:
        """Ask once more; after the last time what is left is to be sent."""
        with self._session.blaming():
            asked = comparison.ask(self._session.number, self.progress.sequence)
        if asked:
            self._session.send(asked)
            self._journal.compared(asked.volume, compare.wire_bytes(asked), 0)
        else:
            self._comparison = None
            self._copier.compare(False)

    def _hear_comparison(self, comparison: compare.Comparison) -> None:
        """Take the answer, if one comes; this site reads on beside the other."""
        with self._session.blaming():
            busy = comparison.read_on()
        answer = self._session.hear(0.0 if busy else limits.IDLE_LOOK_S)
        if answer is not None:
            self._journal.compared(*comparison.take(answer))

    def _commit(self, sequence: int) -> cycle.Result:
        self._phase("commit")
        mine = self._book.current
        assert mine.lineage is not None and mine.begun == sequence
        self._refuse_cut()
        if self._cuts_of_intermediates() != self._cuts:
            raise MirrorError(
                "an intermediate of this site was made smaller: the cycle is copied anew"
            )
        with self._session.blaming():
            self._copier.check()
        self._commit_asked = sequence
        request = protocol.Commit(
            mine.lineage.id, self._session.number, sequence, self._point.wall, mine.begun_token
        )
        try:
            answer = protocol.read(protocol.Progress, self._session.ask(request))
        except Answered as error:
            # Such as blocks of a write that was refused, which an abandoned cycle had sent and a
            # power loss made this site forget: the target waits for them (errors.Owed).
            self._owing = error.code == errno.ESTALE
            raise
        self._set_hardened(answer.hardened)
        if answer.done:
            return cycle.Result()
        if self.stopping:
            return cycle.Result(error="stopping", code=errno.ESHUTDOWN)
        self._say_of_peer(answer.reason)
        return cycle.Result(done=False)

    def _settle(self) -> None:
        """Durable here before the maps forget what the commit holds: so a target that went back
        by one is found out.  LedgerError."""
        mine = self._book.current
        self._book.update(
            committed=mine.begun, committed_token=mine.begun_token,
            consistency_point=self._point.wall, coarse=False,
            known_uptime=self._platform.uptime() - self._point.age(self._platform),
        )  # fmt: skip
        self._copier.settle()
        self._comparable, self._seeded = True, False
        self._backoff = limits.BACKOFF_MIN_S
        duration = self._platform.monotonic() - self.progress.began
        with self.changed:
            self.committed, self._committed_at = self.progress.sequence, self._point
            self.last_cycle = cycle.LastCycle(duration, self.progress.total_bytes, self._held)
            self.changed.notify_all()
        self._journal.duration(duration)
        if self._platform.monotonic() >= self._cooled + limits.INTENT_COOL_S / 3:
            self._cooled = self._platform.monotonic()
            try:
                self._copier.cool(limits.INTENT_COOL_S)
            except OSError as error:  # regions stay hot on disk: safe, and tried again
                self._journal.say(str(error.strerror))

    def end(self) -> bool:
        """After the thread was joined and no client is left: void a cycle that still runs.  False:
        what the process before had lost may still be read, so this is no end in order either."""
        self._void_cycle(errno.ESHUTDOWN)
        if not self._clean:
            self._journal.say("at stop: what the process before had lost may still be read here")
        return self._clean
