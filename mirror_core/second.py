"""The second flashcopy: pending blocks from the target's intermediate to its data stores.

    step    copy for a while; harden in batches: copy many, flush once, record once (I2); short,
            whatever a flush takes: between two the thread looks for a stop, and for flushes

Invariants.  image(k) = intermediate where a block is pending on disk (ledger, less hardlog), data
elsewhere: at every instant, whatever ends the process (I1).  Of an intermediate that was cut
nothing is hardened that was copied since (cut.py).  The volumes are strict, so a writer
waits for the hardening of what it overwrites.  A batch is hardened when all is copied, or as soon
as a writer waits, but at most half of the time goes into hardening.

Left out: when (target.py).  Belongs to the target's thread.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from pyroaring import BitMap64

from mirror_core import cut, flashcopy, hardlog, limits, native, runlog
from mirror_core.book import Book
from mirror_core.config import SiteConfig
from mirror_core.errors import LINK_ERRNOS, MirrorError
from mirror_core.platform import Platform


class SecondFlashcopy:
    def __init__(
        self,
        config: SiteConfig,
        book: Book,
        copier: flashcopy.Flashcopy,
        log: runlog.RunLog,
        platform: Platform,
        *,
        refuse_lost: Callable[[], None],
    ) -> None:
        self._config, self._book, self._copier, self.log = config, book, copier, log
        self._refuse_lost = refuse_lost  # ImageLost
        log.tell = self._name_log
        self._platform = platform
        self._log_is_whole = True  # False: a record may be lost: the ledger must be written
        self._batch_s = limits.HARDEN_SLICE_S  # of copying: as long as the last hardening took
        self._copied_s = 0.0  # of that
        self._failure: Exception | None = None  # of the last step
        self._backoff = limits.BACKOFF_MIN_S
        self.wait_s = 0.0  # after a failure, until the next try

    def step(self) -> bool:
        """Whether all is copied and hardened.  MirrorError, with store and advice: `fail` the
        copier, and try again after wait_s."""
        try:
            self._refuse_lost()  # before a retry: no writer is to wait for a copy
            if self._failure:
                self._mend(self._failure)
            began = self._platform.monotonic()
            done = self._copier.copy(min(self._batch_s, limits.SLICE_SHORT_S))
            copied = self._platform.monotonic()
            self._copied_s += copied - began
            many = self._copied_s >= self._batch_s
            if done or (many and self._copier.group.harden_wanted()):
                self._copier.harden(self._record_all if done else self._record_batch)
                took = self._platform.monotonic() - copied
                self._batch_s, self._copied_s = max(limits.HARDEN_SLICE_S, took), 0.0
                self._backoff = limits.BACKOFF_MIN_S  # what was only copied is copied again
        except (MirrorError, OSError, MemoryError) as error:
            self.interrupted(error)
            self.wait_s, self._backoff = self._backoff, min(2 * self._backoff, limits.BACKOFF_MAX_S)
            self._refuse_lost()  # at once: a server's store may be large again before the next try
            raise MirrorError(self._blame(error), _code(error)) from error
        self._failure = None
        return done

    def interrupted(self, error: Exception) -> None:
        """The next step begins with what was not hardened."""
        self._failure = error

    def _mend(self, error: Exception) -> None:
        """Before another try.  Until a lost server is back the volumes stay failed, so that
        writers who meet a pending block get an error and do not wait.  What was copied and not
        hardened is copied again: a failed flush, or a lost server, may have lost it (I9)."""
        if isinstance(error, flashcopy.CopyError) and error.code in LINK_ERRNOS:
            self._copier.unlink()
            try:
                self._copier.link([None] * len(self._copier.members))
            except flashcopy.CopyError as still:
                raise still from error
        self._copier.retry()

    def _blame(self, error: Exception) -> str:
        """One line: which store, and what to do."""
        if isinstance(error, cut.ImageLost):
            return str(error)
        if not isinstance(error, flashcopy.CopyError):
            return f"second flashcopy: {str(error) or type(error).__name__}; it goes on by itself"
        volume = self._config.volume(error.volume)
        where = {
            flashcopy.FRONT: f"intermediate store {volume.intermediate}",
            0: f"data store {volume.data}",
        }
        return f"second flashcopy: {flashcopy.explain(error, where)}; it goes on by itself"

    def _record_all(self) -> None:
        """The durable pending maps are empty.  MirrorError: they may or may not be."""
        self._refuse_lost()  # all of it is read by now
        # `written` of before a clean stop is of no more use: `owed` has it.
        self._book.update(hardened=self._book.current.committed, maps={})
        try:
            self.put_in_place()
        except OSError as error:
            raise self._no_state(error) from error

    def put_in_place(self) -> None:
        """The log, of use after a ledger that says all that it has said.  OSError; LedgerError."""
        self.log.put_in_place()
        self._name_log(self.log.ids)

    def _name_log(self, ids: tuple[str, ...]) -> None:
        """The next start is to know it from a copy.  LedgerError."""
        if ids != self._book.current.logs:
            self._book.update(logs=ids)

    def _record_batch(self) -> None:
        """What is being hardened leaves the durable pending maps.  MirrorError: it may or may
        not have left them."""
        self._refuse_lost()
        members = self._copier.members
        whole, self._log_is_whole = self._log_is_whole, False  # until all of this was right
        try:
            if whole and self.log.is_in_place():  # or what it says is not found
                runs = {i: m.native.packed_runs(native.HARDENING) for i, m in enumerate(members)}
                self.log.append(hardlog.history_of(self._book.current), runs)
            else:
                self._book.update(maps=self._not_hardened())
                self.log.restart(hardlog.history_of(self._book.current))
                self._name_log(self.log.ids)  # which came back, if another one did not come to be
        except OSError as error:
            raise self._no_state(error) from error
        self._log_is_whole = True

    def _no_state(self, error: OSError) -> MirrorError:
        return MirrorError(f"{self._config.state}: {error.strerror}: mend that", error.errno or 0)

    def _not_hardened(self) -> dict[str, BitMap64]:
        return {
            f"{m.name}/pending": flashcopy.bitmap_of(m.native, native.PENDING, native.SENT)
            for m in self._copier.members
        }


def _code(error: Exception) -> int:
    if isinstance(error, MirrorError):
        return error.code
    return (isinstance(error, OSError) and error.errno) or errno.EIO
