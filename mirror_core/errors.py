"""Operating errors: what can go wrong outside of us, as values with an errno.

Every error that a person sees is one line: what, where, what to do.  A broken invariant is
never one of these: it is an `assert`, because no operator can mend it.
"""

from __future__ import annotations

import errno
import os

from mirror_core import limits


class MirrorError(Exception):
    """Something outside is wrong; the text is the one line a person reads."""

    def __init__(self, text: str, code: int = errno.EIO) -> None:
        super().__init__(text)
        self.code = code


class ConfigError(MirrorError):
    """The configuration, or a command's argument, cannot be meant."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EINVAL)


class StoreError(MirrorError):
    """A store cannot be used: missing, busy, of another site, of the wrong size."""


class StillLooking(StoreError):
    """How the stores are is not known yet: whoever asks again may hear of it."""


class LedgerError(MirrorError):
    """The ledger is missing, damaged, or not of this site (I7)."""


class PeerError(MirrorError):
    """The other site cannot be reached or answered with an error."""


class Answered(PeerError):
    """It answered with an error: it is there, and the way to it, whatever the errno."""


class Owed(PeerError):
    """A cycle has left out what an abandoned one had written at the target: its source is to send
    everything.  It is told by its errno, which no answer has for another reason (control.py)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.ESTALE)


class SessionOver(PeerError):
    """Who asks has no session any more, as when a promotion has ended it, and may open another one.
    It is told by its errno as well."""

    def __init__(self, why: str) -> None:
        super().__init__(f"this session is over: {why}", errno.ESHUTDOWN)


class Malformed(PeerError):
    """What came over the control export is not a record, or not one that can be meant."""

    def __init__(self, text: str) -> None:
        super().__init__(f"malformed control record: {text}")


class Refused(MirrorError):
    """Direction or history is in doubt: mirroring stops and waits for a person (I7)."""


class OtherVersion(Refused):
    """The other side speaks another version of the control protocol.  Both say it alike."""

    def __init__(self, asked: int, known: int) -> None:
        self.asked, self.known = asked, known  # known: the newest that is
        low, high = sorted((asked, known))
        super().__init__(
            f"control protocols {low} and {high} do not go together: run the same version of "
            "flashmirror at both sites"
        )


# The other side, or the way to it, is gone, or is another one (EPROTO: native/store.h).  Any other
# errno is an answer of a store.
LINK_ERRNOS = frozenset({
    errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE,
    errno.ESHUTDOWN, errno.ENOENT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN,
    errno.ENETDOWN, errno.ECONNABORTED, errno.EPROTO,
})  # fmt: skip


NOT_YET = "not connected yet"  # the reason of a source that has just begun


def short(value: object) -> str:
    """A value that somebody gave us, in one line that has an end."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of thousands of digits
        text = f"a {type(value).__name__} without end"
    return text if len(text) <= 80 else text[:80] + "..."


def printable(text: str) -> str:
    """A name that the system or another user has given, as a person can be shown it: what is no
    text (os.fsdecode), or would do something to a terminal, is written like \\xfc."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return f"\\x{os.fsencode(c)[0]:02x}" if "\udc80" <= c <= "\udcff" else ascii(c)[1:-1]


def line(value: object) -> str:
    """What somebody else says, as one line that a person can be shown."""
    text = value if isinstance(value, str) else short(value)
    shown = printable(text[: limits.LINE_MAX])
    return shown if len(text) <= limits.LINE_MAX else shown + "..."


def mend(error: OSError) -> str:
    """What to do about a file that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "make room there" if full else "mend that"


def describe(code: int) -> str:
    """The system's words for an errno, positive or negative."""
    return os.strerror(abs(code))
