"""What the disk of the state folder says of the stores that stand on it, too.

A disk says once that it has lost something that was written, to whoever flushes next.  A person
puts a copy back, or brings a seed, and that is in the kernel's memory still when a record of ours
is flushed: then the record hears of it, and the store's own flush, which comes later, is told that
all is well.  (While a site runs its core counts that for all: native/below.h.)

    names_near  of the stores that may stand on that disk
    listening   around records that come before the flush of such stores: what they have heard is
                said of these, whose words for that are their own (stores.py, resync.py, site.py)
    believe     a record stands, but its disk has spoken (durable.replace)
    with_names  the names, in a ledger's list of the stores of which something may be lost

Invariants.  In doubt a store stands there: only what has no disk in common with the folder, for
certain (below.apart), is left as it was.  What an error says of room or permission says nothing of
any store.  Of what is near nothing goes on: it is said in the ledger, and what was tried is
refused.  Where nothing is near, a record that stands counts as one.

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
def listening(near: Near, doubt: Callable[[Collection[str], LedgerError], None]) -> Iterator[None]:
    """`doubt`: what is done about the stores of these names.  LedgerError: as it was."""
    try:
        yield
    except LedgerError as error:
        if error.code == errno.EIO and (names := near()):
            doubt(names, error)
        raise


def believe(heard: bool, near: Near, words: str) -> None:
    """LedgerError, with these words: its disk has lost something, which may be of a store."""
    if heard and near():
        raise LedgerError(words)


def with_names(listed: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...]:
    """The newest come last, and the oldest go."""
    return (*listed, *sorted(set(names).difference(listed)))[-limits.UNFLUSHED_MAX :]
