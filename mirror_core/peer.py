"""Asks another site, or this one, over its control export.  One call, one connection."""

from __future__ import annotations

import errno

from mirror_core import limits, native, protocol
from mirror_core.errors import PeerError, Refused


def ask(uri: str, record: protocol.Record, timeout_s: float) -> protocol.Record:
    """The answer to one request.

    Refused: the other side refuses for a reason of history or shape, which does not pass by
    itself.  PeerError: it cannot be reached, or it failed; errno says how.
    """
    try:
        data = native.exchange(uri, protocol.encode(record), limits.CONTROL_BYTES, timeout_s)
    except OSError as error:
        raise PeerError(error.strerror or str(error), error.errno or errno.EIO) from error
    answer = protocol.decode(data)
    if "refused" in answer:
        raise Refused(str(answer["refused"]))
    if "error" in answer:
        raise PeerError(str(answer["error"]), int(answer.get("errno", errno.EIO)))
    return answer
