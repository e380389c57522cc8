"""What the disk of the state folder says of the stores that stand on it, too.

A disk says once that it has lost something that was written, to whoever flushes next.  A person
puts a copy back, or brings a seed, and that is in the kernel's memory still when a record of ours
is flushed: then the record hears of it, and the store's own flush, which comes later, is told that
all is well.  (While a site runs its core counts that for all: native/below.h.)

    names_near  of the stores that may stand on that disk
    listening   around records that come before the flush of such stores: what they have heard,
                also if they were put again and stand, is said of these, whose words for that are
                their own (stores.py, resync.py, adoption.py, site.py)
    record      what was heard, where the disk may have more to say
    with_names  the names, in a ledger's list of the stores of which something may be lost

Invariants.  Whatever syncs the state folder counts what it was told (Platform.heard_losses): so
nobody who writes there has to hand that on, or can forget to.  In doubt a store stands there: only
what has no disk in common with the folder, for certain (below.apart), is left as it was.  What an
error says of room or permission says nothing of any store.  Of what is near nothing goes on: it is
said in the ledger, and what was tried is refused.  Where nothing is near, a record that stands
counts as one.

Left out: what the flush of a store says of others; what below.py leaves out, such as a journal on
another device; and in an adoption the other stores, which are not open and so are in doubt.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Iterable, Iterator

from mirror_core import below, identity, limits
from mirror_core.errors import LedgerError
from mirror_core.identity import Identity
from mirror_core.platform import Platform

_PAUSES_S = (0.0, 0.1, 0.3)  # after each try but the last
Near = Callable[[], Collection[str]]  # asked only when the disk has spoken


def names_near(folder: int, ones: Iterable[tuple[Identity, int | None]]) -> set[str]:
    """`folder`: an open file of it.  Each store with its descriptor; None: it is a server's, or not
    open here."""
    return {
        name
        for one, fd in ones
        if fd is None or not below.apart(folder, fd)
        for name in identity.names_of(one)
    }


@contextlib.contextmanager
def listening(
    platform: Platform, near: Near, doubt: Callable[[Collection[str], LedgerError], None]
) -> Iterator[None]:
    """`doubt`: what is done about the stores of these names.  LedgerError: as it was, or all stands
    and the disk has spoken, which may be of a store."""
    before = platform.heard_losses
    try:
        yield
        if platform.heard_losses != before and near():
            raise LedgerError("the disk of the state folder has lost something: try again")
    except LedgerError as error:
        if (error.code == errno.EIO or platform.heard_losses != before) and (names := near()):
            doubt(names, error)
        raise


def record(save: Callable[[], object], platform: Platform) -> None:
    """What was just heard.  A disk that has lost much says so more than once: a few tries.
    LedgerError: it says so still."""
    for pause_s in _PAUSES_S:
        with contextlib.suppress(LedgerError):
            save()
            return
        platform.sleep(pause_s)
    save()


def with_names(listed: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...]:
    """The newest come last, and the oldest go."""
    return (*listed, *sorted(set(names).difference(listed)))[-limits.UNFLUSHED_MAX :]
