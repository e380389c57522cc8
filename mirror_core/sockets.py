"""The sockets that a site listens on, made here and handed to nbdkit as systemd would.

nbdkit takes either one Unix or one TCP socket by its options, and both, or several, only when it
is activated: they are its descriptors from 3 on, and LISTEN_FDS says how many.  Made here they also
get what nbdkit does not set: the mode of the Unix socket, and for TCP the question whether a
client that says nothing is still there (its machine may have lost its power), which every
connection inherits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mirror_core import limits
from mirror_core.address import Tcp
from mirror_core.config import SiteConfig
from mirror_core.errors import MirrorError


def listen(site: SiteConfig) -> list[socket.socket]:
    """All that the site is to listen on; a stale Unix socket is replaced.  MirrorError."""
    with contextlib.ExitStack() as undo:
        made = [undo.enter_context(one) for one in tcp(site.tcp, "listen")]
        made.append(_replace(site.socket, "listen"))
        undo.pop_all()
        return made


def for_metrics(site: SiteConfig) -> list[socket.socket]:
    """The same of the metrics.  MirrorError."""
    if isinstance(site.metrics, Path):
        return [_replace(site.metrics, "metrics")]
    return tcp((site.metrics,), "metrics")


def refuse(site: SiteConfig) -> None:
    """What `listen`, and the metrics of the site, would meet; nothing stays.  MirrorError."""
    with contextlib.ExitStack() as undo:
        for one in tcp(site.tcp, "listen"):
            undo.enter_context(one)
        _refuse_taken(site.socket, "listen")
        if isinstance(site.metrics, Path):
            _refuse_taken(site.metrics, "metrics")
        else:
            for one in tcp((site.metrics,), "metrics"):
                undo.enter_context(one)


def tcp(addresses: Iterable[Tcp | None], setting: str) -> list[socket.socket]:
    """Sockets that listen on the numbers of these hosts: once on each, however often and by
    whatever names it comes, and not on those that this machine will never have, where the host has
    others ("localhost" without IPv6).  Port 0: any that is free.  MirrorError: of `setting`."""
    made: dict[object, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for address in filter(None, addresses):
            listens, absent = False, None
            numbers = _numbers(address, setting)
            only = setting == "listen" or len({family for family, _ in numbers}) > 1
            for family, where in numbers:
                try:
                    if where not in made:
                        made[where] = undo.enter_context(_tcp(family, where, only=only))
                    listens = True
                except OSError as error:
                    absent = _refusal(address, setting, error)
                    if not _may_be_absent(where, error):
                        raise absent from error
                if listens and not address.port:
                    break  # another number would get another port
            if absent and not listens:
                raise absent
        undo.pop_all()
    return list(made.values())


def _may_be_absent(where: Any, error: OSError) -> bool:
    """Any other number may come late, at boot: to start without it would be for ever."""
    loopback = str(where[0]) == "::1" or str(where[0]).startswith("127.")
    return error.errno == errno.EAFNOSUPPORT or (error.errno == errno.EADDRNOTAVAIL and loopback)


def _numbers(address: Tcp, setting: str) -> list[tuple[int, Any]]:
    """The family and the address of each.  MirrorError: nobody knows the name."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _refusal(address, setting, error) from error
    return [(family, where) for family, _, _, _, where in found]


def _refusal(address: Tcp, setting: str, error: OSError) -> MirrorError:
    advice = "free it" if error.errno == errno.EADDRINUSE else "mend that"
    return MirrorError(f"{setting}: {address}: {error.strerror}: {advice}, or change '{setting}'")


def _tcp(family: int, where: Any, *, only: bool) -> socket.socket:
    """`only`: IPv6 does not stand for IPv4, too, which may have a socket of its own."""
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, number in (
            (socket.TCP_KEEPIDLE, limits.KEEPALIVE_S),
            (socket.TCP_KEEPINTVL, limits.KEEPALIVE_S),
            (socket.TCP_KEEPCNT, limits.KEEPALIVE_PROBES),
            (socket.TCP_USER_TIMEOUT, 1000 * limits.KEEPALIVE_S * limits.KEEPALIVE_PROBES),
        ):
            one.setsockopt(socket.IPPROTO_TCP, option, number)
        one.bind(where)
        one.listen(limits.BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def _replace(path: Path, setting: str) -> socket.socket:
    """With its folder, if that goes at each boot: for its owner only."""
    _refuse_taken(path, setting)
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _no_socket(path, setting, error) from error
    return _unix(path, setting)


def _unix(path: Path, setting: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # from its first instant: its owner only
    try:
        one.bind(str(path))
        one.listen(limits.BACKLOG)
    except OSError as error:
        one.close()
        raise _no_socket(path, setting, error) from error
    finally:
        os.umask(before)
    return one


def _no_socket(path: Path, setting: str, error: OSError) -> MirrorError:
    return MirrorError(
        f"{path}: {error.strerror}: mend that, or change '{setting}'", error.errno or 0
    )


def _refuse_taken(path: Path, setting: str) -> None:
    """The place of the Unix socket is free, or a stale one's, and this user may make it there.
    MirrorError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise MirrorError(f"{path}: is in the way, and no socket: move it away")
        _refuse_live(path, setting)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _no_socket(path, setting, error) from error
    folder = path.parent.parent if _is_to_be_made(path.parent) else path.parent
    if not folder.is_dir():
        raise MirrorError(
            f"{path.parent}: no such folder for the socket: make it, or change '{setting}'",
            errno.ENOENT,
        )
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise MirrorError(
            f"{path}: this user may not write to {folder}, or that is read-only: mend that, or "
            f"change '{setting}'",
            errno.EACCES,
        )


def _is_to_be_made(folder: Path) -> bool:
    """It is gone since the machine, or a login, began.  Elsewhere nobody has meant a folder that is
    not there: it is mistyped, or what holds it is not mounted."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    runtime = [Path("/run"), *([Path(own)] if own else [])]
    return not folder.exists() and any(folder.resolve().is_relative_to(one) for one in runtime)


def _refuse_live(path: Path, setting: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # somebody listens, who is too busy to accept
        except OSError as error:
            raise MirrorError(f"{path}: {error.strerror}", error.errno or 0) from error
    raise MirrorError(f"{path}: another process listens there: stop it, or change '{setting}'")
