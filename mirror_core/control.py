"""Answers the requests of the control export, of commands and of the peer.

Authority follows the socket, not the request (door.py): who came by the Unix socket may ask
anything, who came over TCP what a session needs.  A request waits at most CONTROL_WAIT_S inside;
longer operations are asked again by the caller, who names what it waits for by its sequence.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from mirror_core import limits, promotion, protocol, recovery, status
from mirror_core.door import Visitor
from mirror_core.driver import Driver
from mirror_core.errors import (
    Malformed,
    MirrorError,
    OtherVersion,
    Owed,
    PeerError,
    Refused,
    SessionOver,
    short,
)
from mirror_core.protocol import Record
from mirror_core.site import Site
from mirror_core.target import Target


def answer(site: Site, data: bytes, visitor: Visitor) -> bytes:
    """The bytes of the answer to the bytes of a request; never raises for what a peer sends."""
    version = site.config.protocol
    try:
        record, version = protocol.decode(data, version)
        operation = protocol.field(record, "op", str)
        _refuse_misled(site, record)
        message = _handler(site, operation, visitor)(site, record, version)
        if visitor.guest and isinstance(record.get("session"), int):
            visitor.guest.has_asked_in(record["session"])
        return protocol.encode(protocol.record_of(message, version), version)
    except OtherVersion as error:
        if error.asked < error.known:  # or it goes on in the version of this answer
            _refuse(site, visitor, error)
        return protocol.encode({"refused": str(error)}, version)
    except Refused as error:
        site.journal.refused(visitor.origin, str(error))
        return protocol.encode({"refused": str(error)}, version)
    except MirrorError as error:
        if isinstance(error, Malformed):
            site.journal.refused(visitor.origin, str(error))
        # A store or a folder (a server that ends, NFS) has them for reasons of its own.
        means = {errno.ESTALE: Owed, errno.ESHUTDOWN: SessionOver}.get(error.code, MirrorError)
        code = error.code if isinstance(error, means) else errno.EIO
        return protocol.encode({"error": str(error), "errno": code}, version)


def _refuse_misled(site: Site, record: Record) -> None:
    """PeerError: who asks means another site (a command, whose configuration is a copy)."""
    name, meant = site.config.name, record.get("to")
    if meant is not None and meant != name:
        raise PeerError(f"{name} listens there, not {short(meant)}: mend 'name' or 'listen'")


def _refuse(site: Site, visitor: Visitor, error: OtherVersion) -> None:
    if isinstance(site.control, Target):
        site.control.note_refusal(str(error))
    site.journal.refused(visitor.origin, str(error))


Handler = Callable[[Site, Record, int], protocol.Message | Record]  # version of the request


def _handler(site: Site, operation: str, visitor: Visitor) -> Handler:
    """PeerError: there is none, or it is not for this visitor."""
    handler = _SESSION.get(operation) or (_LOCAL.get(operation) if visitor.local else None)
    if handler:
        return handler
    if operation in _LOCAL:
        site.journal.refused(visitor.origin, f"{operation} is asked on the Unix socket only")
        raise PeerError(f"{operation} is asked on the Unix socket only", errno.EPERM)
    raise PeerError(f"no such operation: {short(operation)}", errno.EINVAL)


def _driver(site: Site) -> Driver:
    if not isinstance(site.control, Driver):
        raise PeerError("is a target: ask the source", errno.EINVAL)
    return site.control


def _target(site: Site) -> Target:
    """For what belongs to a session: whether there may be one is for the next handshake to say."""
    if not isinstance(site.control, Target):
        raise SessionOver("the site is a source now")
    return site.control


def _wait_s(record: Record) -> float:
    """How long its asker has time for: a command may have a time-out."""
    wait_s = protocol.field(record, "wait", float) if "wait" in record else limits.CONTROL_WAIT_S
    return min(wait_s, limits.CONTROL_WAIT_S)


def _status(site: Site, _record: Record, _version: int) -> Record:
    return status.of(site)


def _sync(site: Site, _record: Record, _version: int) -> Record:
    return {"sequence": _driver(site).request_point()}


def _wait(site: Site, record: Record, _version: int) -> Record:
    sequence = protocol.field(record, "sequence", int)
    done = _driver(site).wait_whole(sequence, _wait_s(record))
    whole, point = _driver(site).whole()
    return {
        "done": done, "sequence": whole, "consistency_point": point, "status": status.of(site)
    }  # fmt: skip


def _pause(site: Site, record: Record, _version: int) -> Record:
    _driver(site).pause(now=protocol.field(record, "now", bool))
    return {}


def _resume(site: Site, _record: Record, _version: int) -> Record:
    _driver(site).resume()
    return {"status": status.of(site)}


def _bandwidth(site: Site, record: Record, _version: int) -> Record:
    _driver(site).set_bandwidth(protocol.field(record, "rate", int))
    return {}


def _settled(site: Site, record: Record, _version: int) -> Record:
    done = _driver(site).wait_settled(_wait_s(record))
    return {"done": done, "status": status.of(site)}


def _handshake(site: Site, record: Record, version: int) -> protocol.Welcome:
    hello = protocol.read(protocol.Handshake, record, version)
    if not isinstance(site.control, Target):
        raise Refused(recovery.decide(site.book.current, hello).refused or "not a target")
    return site.control.handshake(hello)


def _commit(site: Site, record: Record, version: int) -> protocol.Progress:
    return _target(site).commit(protocol.read(protocol.Commit, record, version))


def _stable(site: Site, record: Record, version: int) -> protocol.Progress:
    return _target(site).stabilize(protocol.read(protocol.Stable, record, version))


def _compare(site: Site, record: Record, version: int) -> protocol.Compared:
    return _target(site).compare(protocol.read(protocol.Compare, record, version))


def _hardened(site: Site, record: Record, version: int) -> protocol.Progress:
    look = protocol.read(protocol.Look, record, version)
    if not look.session and look.name and look.lineage:
        return _target(site).knock(look.name, look.lineage)
    return _target(site).poll(look.session, look.wait, paused=look.paused)


def _promote(site: Site, record: Record, _version: int) -> Record:
    force = protocol.field(record, "force", bool)
    newest = "newest" in record and protocol.field(record, "newest", bool)
    return promotion.promote(site, force=force, newest=newest, wait_s=_wait_s(record))


def _take_back(site: Site, _record: Record, _version: int) -> Record:
    return promotion.take_back(site)


def _who(site: Site, _record: Record, _version: int) -> protocol.Who:
    mine = site.book.current
    shapes = tuple(protocol.VolumeShape(v.name, v.size, v.block_size) for v in mine.volumes)
    return protocol.Who(mine.name, mine.role, shapes)


_SESSION: dict[str, Handler] = {
    "who": _who,
    "handshake": _handshake,
    "compare": _compare,
    "stable": _stable,
    "commit": _commit,
    "hardened": _hardened,
}
_LOCAL: dict[str, Handler] = {
    "status": _status,
    "sync": _sync,
    "wait": _wait,
    "pause": _pause,
    "resume": _resume,
    "bandwidth": _bandwidth,
    "settled": _settled,
    "promote": _promote,
    "take_back": _take_back,
}
