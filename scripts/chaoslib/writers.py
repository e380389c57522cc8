"""The clients: a thread a chain, which issues the next write when the last was acknowledged.

A write that fails, or whose connection ends, is issued again until it is acknowledged; what it
leaves is the same.  It may fail, and may wait longer than promised, only while there is an excuse
(the source was killed, stopped or frozen, or its own disk was told to fail), and each error that
comes without one is a failure of the run.

Guard: `_changed` guards the fields below its line.
"""

from __future__ import annotations

import random
import threading
import time

from chaoslib import nbd
from chaoslib.chains import Chain, Write
from chaoslib.nbd import NbdClient, NbdError
from chaoslib.record import Record

LOOK_AGAIN_S = 0.01
REPLY_S = 120.0  # no client waits longer for one reply
AFTER_S = 1.0  # an excuse counts for so long after its end: connections end, are opened again
ERRORS_AFTER_S = 10.0  # and for errors so long: a store is opened again with back-off
NEVER = float("inf")


class Excuses:
    """When a write may wait or fail, and why."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[list[float]] = []  # begin, end
        self._open: dict[str, list[float]] = {}
        self.losses = 0  # how often what the source's disk had answered may have been lost

    def begin(self, why: str, *, loss: bool = False) -> None:
        with self._lock:
            self.losses += loss
            if why not in self._open:
                self._open[why] = span = [time.monotonic(), NEVER]
                self._spans.append(span)

    def end(self, why: str) -> None:
        with self._lock:
            if span := self._open.pop(why, None):
                span[1] = time.monotonic() + AFTER_S

    def any(self, begin: float, end: float) -> bool:
        """Whether there is an excuse for an error that came in this time."""
        with self._lock:
            return any(b <= end and e + ERRORS_AFTER_S >= begin for b, e in self._spans)

    def without(self, begin: float, end: float) -> float:
        """How many seconds of this time no excuse covers."""
        with self._lock:
            spans = sorted((max(b, begin), min(e, end)) for b, e in self._spans)
            self._spans = [s for s in self._spans if s[1] > begin - 600]
        left, at = 0.0, begin
        for b, e in spans:
            if b < e and e > at:
                left, at = left + max(0.0, b - at), e
        return left + max(0.0, end - at)


class Clients:
    """All writers.  `uris` says where the source's volumes are now."""

    def __init__(
        self, chains: list[Chain], seed: int, record: Record, excuses: Excuses, bound_s: float
    ) -> None:
        self.chains, self.record, self.excuses, self.bound_s = chains, record, excuses, bound_s
        self.uris: list[str] = []
        self._changed = threading.Condition()
        # -- guarded by `_changed`
        self._held = 0  # > 0: no write is begun
        self._ending = False
        self._waiting: dict[int, float] = {}  # of chain: since when its write waits
        self._abandoned: set[int] = set()  # chains whose write is not tried again
        self.longest_s = 0.0
        # Of a chain and a volume; each item belongs to the chain's own thread:
        self._connections: dict[tuple[int, int], NbdClient] = {}
        self._told: dict[tuple[int, int], int] = {}  # of which losses a flush has told
        self._threads = [self._thread(chain, seed) for chain in chains]

    def _thread(self, chain: Chain, seed: int) -> threading.Thread:
        rng = random.Random(f"{seed}/{chain.number}")
        name = f"chain {chain.number}"
        return threading.Thread(target=self._run, args=(chain, rng), name=name, daemon=True)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def hold(self, bound_s: float) -> bool:
        """Begin no write any more; whether all that were begun are acknowledged."""
        with self._changed:
            self._held += 1
            return self._changed.wait_for(lambda: not self._waiting, bound_s)

    def abandon(self) -> None:
        """After `hold`: the writes that wait will never be acknowledged."""
        with self._changed:
            self._abandoned = set(self._waiting)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting)

    def go_on(self) -> None:
        with self._changed:
            self._held -= 1
            self._abandoned = set()
            self._changed.notify_all()

    def let_go(self) -> None:
        """No write is begun or tried again any more; the sites may be ended now."""
        with self._changed:
            self._ending, self._abandoned = True, set(self._waiting)
            self._changed.notify_all()

    def join(self) -> None:
        """After `let_go`."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(REPLY_S)

    def look(self) -> None:
        """Fail the run if a write waits longer than promised."""
        now = time.monotonic()
        with self._changed:
            waiting = dict(self._waiting)
        for number, since in waiting.items():
            self._judge_wait(number, since, now)

    def _judge_wait(self, number: int, since: float, now: float) -> None:
        waited = self.excuses.without(since, now)
        self.longest_s = max(self.longest_s, waited)
        if waited > self.bound_s:
            self.record.fail(
                f"a write of chain {number} has waited {waited:.1f} s for no fault of the source's "
                f"own, more than {self.bound_s:g} s"
            )

    # ---- a writer's thread

    def _run(self, chain: Chain, rng: random.Random) -> None:
        try:
            while self._may_begin():
                self._one(chain, rng)
                time.sleep(rng.expovariate(1000))  # the client thinks
        except Exception as error:
            self.record.fail(f"chain {chain.number} ended: {error!r}")
        finally:
            self._disconnect(chain.number)

    def _may_begin(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._ending or not self._held)
            return not self._ending

    def _one(self, chain: Chain, rng: random.Random) -> None:
        with self._changed:
            if self._held or self._ending:
                return
            begun = time.monotonic()
            self._waiting[chain.number] = begun
            with chain.lock:  # before it is sent: an image may hold it from now on
                write = chain.next_write(rng)
                parts = chain.issue(write, begun)
        flags = nbd.FUA if rng.random() < 0.05 else 0
        kind = nbd.WRITE if write.value else rng.choice((nbd.ZEROES, nbd.TRIM))
        done = self._until_acknowledged(chain, write, kind, flags)
        now = time.monotonic()
        if done:
            with chain.lock:
                for part in parts:
                    part.acknowledged = now
            self._judge_wait(chain.number, begun, now)
            self.record.count("writes" if kind == nbd.WRITE else "zeroes and trims")
        with self._changed:
            del self._waiting[chain.number]
            self._changed.notify_all()
        if done and rng.random() < 0.02:
            self._flush(chain)

    def _until_acknowledged(self, chain: Chain, write: Write, kind: int, flags: int) -> bool:
        offset = chain.regions[write.volume].offset + write.first * chain.unit
        length = write.count * chain.unit
        data = chain.content(write.volume, write.first, write.count, write.value)
        while True:
            tried = time.monotonic()
            try:
                client = self._client(chain.number, write.volume)
                client.ask(kind, offset, length, data if kind == nbd.WRITE else b"", flags)
                return True
            except OSError as error:
                self._note(chain.number, write.volume, error, tried, flushes=bool(flags))
            with self._changed:
                if self._changed.wait_for(lambda: chain.number in self._abandoned, LOOK_AGAIN_S):
                    return False

    def _flush(self, chain: Chain) -> None:
        for volume in (0, 1):
            tried = time.monotonic()
            try:
                self._client(chain.number, volume).flush()
                self.record.count("flushes")
            except OSError as error:
                self._note(chain.number, volume, error, tried, flushes=True)

    def _note(
        self, number: int, volume: int, error: OSError, tried: float, *, flushes: bool
    ) -> None:
        """Fail the run if there is no excuse for the error.  After a fault of the source's own
        disk each client is told once, by its next flush, that something may be lost."""
        losses = self.excuses.losses
        told = flushes and self._told.get((number, volume), 0) < losses
        if told:
            self._told[number, volume] = losses
            self.record.count("flushes that told of a loss")
        elif not self.excuses.any(tried, time.monotonic()):
            self.record.fail(
                f"chain {number}, volume {volume}, {'flush' if flushes else 'no flush'}: "
                f"{error!r}, without a fault of the source's own"
            )
        if not isinstance(error, NbdError):
            self._disconnect(number)
        self.record.count("requests tried again")

    def _client(self, number: int, volume: int) -> NbdClient:
        """A connection of its own for each chain and volume."""
        uri = self.uris[volume]
        known = self._connections.get((number, volume))
        if known is None:
            known = self._connections[number, volume] = NbdClient(uri, REPLY_S)
        return known

    def _disconnect(self, number: int) -> None:
        for volume in (0, 1):
            if client := self._connections.pop((number, volume), None):
                client.close()

    def disconnect_all(self) -> None:
        """The source is another site now.  Call while no write is begun."""
        for chain in self.chains:
            self._disconnect(chain.number)
