"""The kernel's nbd: generic netlink (include/uapi/linux/nbd-netlink.h), and what /sys says.

The only file that touches pyroute2.  A device is known by its index, N of /dev/nbdN, and by the
*backend*: a text that it was connected with, which the kernel keeps for as long as it is
connected, and without which it takes no new sockets.

Sockets given to the kernel are its own from then on; the caller closes its descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import re
import select
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyroute2.netlink import NETLINK_GENERIC, NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket, GenericNetlinkSocket

from mirror_core import identity, limits
from mirror_core.errors import MirrorError

_CONNECT, _DISCONNECT, _RECONFIGURE, _LINK_DEAD = 1, 2, 3, 4
_GROUP = "nbd_mc_group"
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_BLOCK_DEVICES = Path("/sys/block")


class _Message(genlmsg):  # type: ignore[misc]
    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "hex"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )

    class sockets(nla):  # type: ignore[misc]
        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc]
            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


class _AsyncSocket(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    module_err_level = "debug"  # what is wrong is said here, in one line


class _Socket(GenericNetlinkSocket):  # type: ignore[misc]
    async_class = _AsyncSocket


@contextlib.contextmanager
def _nbd() -> Iterator[Any]:
    """A netlink socket bound to the family "nbd".  MirrorError: the module is not loaded."""
    with _Socket() as netlink:
        try:
            netlink.bind("nbd", _Message)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise MirrorError(f"netlink: {error}", error.code) from error
            raise MirrorError(
                "the kernel has no nbd devices: load the module with 'modprobe nbd'", errno.ENOTSUP
            ) from error
        yield netlink


def _request(command: int, attributes: list[tuple[str, Any]]) -> Any:
    """The kernel's first answer.  OSError: its errno."""
    message = _Message()
    message["cmd"], message["version"] = command, 1
    message["attrs"] = [list(one) for one in attributes]
    with _nbd() as netlink:
        try:
            flags = NLM_F_REQUEST | NLM_F_ACK
            answers = netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=flags)
        except NetlinkError as error:
            raise OSError(error.code, error.args[-1]) from error
        return answers[0] if answers else None


def _sockets(fds: Sequence[int]) -> tuple[str, Any]:
    items = [["NBD_SOCK_ITEM", {"attrs": [["NBD_SOCK_FD", fd]]}] for fd in fds]
    return "NBD_ATTR_SOCKETS", {"attrs": items}


def check_module() -> None:
    """MirrorError: the kernel has no nbd."""
    with _nbd():
        pass


def connect(index: int | None, fds: Sequence[int], size: int, *, flags: int, backend: str) -> int:
    """Make a device of these sockets; its index, which the kernel chooses if it is None.
    Size in bytes; flags: the export's.

    Without an answer for DEAD_CONNECTION_S seconds since its last connection died, requests fail.
    OSError: EBUSY, the device is in use.
    """
    attributes: list[tuple[str, Any]] = [("NBD_ATTR_INDEX", index)] if index is not None else []
    attributes += [
        ("NBD_ATTR_SIZE_BYTES", size),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", limits.DEVICE_BLOCK_SIZE),
        ("NBD_ATTR_TIMEOUT", 0),
        ("NBD_ATTR_SERVER_FLAGS", flags),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", limits.DEAD_CONNECTION_S),
        ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
        _sockets(fds),
    ]
    found: int = _request(_CONNECT, attributes).get_attr("NBD_ATTR_INDEX")
    return found


def reconfigure(index: int, fds: Sequence[int], backend: str) -> None:
    """Put these sockets in the place of dead ones; what is too many the kernel lets go.

    OSError: EINVAL, the device is not connected, or is another backend's.
    """
    _request(
        _RECONFIGURE,
        [
            ("NBD_ATTR_INDEX", index),
            ("NBD_ATTR_BACKEND_IDENTIFIER", backend),
            _sockets(fds),
        ],
    )


def disconnect(index: int) -> None:
    """End the device; requests that wait fail.  OSError."""
    _request(_DISCONNECT, [("NBD_ATTR_INDEX", index)])


def backend_of(index: int) -> str | None:
    """What a device was connected with; None: it is not connected, or says nothing."""
    return identity.text(_BLOCK_DEVICES / f"nbd{index}" / "backend") or None


def is_connected(index: int) -> bool:
    """Whether a device is somebody's, be it only for as long as it is still held open."""
    return (_BLOCK_DEVICES / f"nbd{index}" / "pid").exists()


def size_of(index: int) -> int:
    """Bytes.  OSError."""
    return int((_BLOCK_DEVICES / f"nbd{index}" / "size").read_text()) * 512


def number_of(index: int) -> str:
    """MAJOR:MINOR.  OSError."""
    return (_BLOCK_DEVICES / f"nbd{index}" / "dev").read_text().strip()


def numbers_of(index: int) -> set[str]:
    """The same of it and its partitions."""
    parts = (_BLOCK_DEVICES / f"nbd{index}").glob("*/partition")
    return {number_of(index), *(identity.text(part.with_name("dev")) for part in parts)}


def made_of(index: int) -> list[str]:
    """What others have made of it and its partitions, LVM, LUKS, md: by its name, if it has one."""
    node = _BLOCK_DEVICES / f"nbd{index}"
    made = [*node.glob("holders/*"), *node.glob("*/holders/*")]
    return sorted(identity.text(one / "dm/name") or one.name for one in made)


def find(backend: str) -> int | None:
    """The device that was connected with this."""
    return next((index for index, name in backends().items() if name == backend), None)


def backends() -> dict[int, str]:
    """Of each device that was connected with one."""
    named = [re.fullmatch("nbd([0-9]+)", path.name) for path in _BLOCK_DEVICES.glob("nbd*")]
    indices = sorted(int(one[1]) for one in named if one)
    return {index: name for index in indices if (name := backend_of(index)) is not None}


def set_request_timeout(index: int, seconds: float) -> None:
    """How long the kernel waits for one answer before it looks whether its connection is still
    the same.  OSError.  Since Linux 6.11 it lets no request begin meanwhile and waits for those
    that are under way, whose connections may be dead: nobody can kill who waits there."""
    path = _BLOCK_DEVICES / f"nbd{index}" / "queue" / "io_timeout"
    wanted = str(round(seconds * 1000))
    if path.read_text().strip() != wanted:
        path.write_text(wanted)


class DeadLinks:
    """Hears of connections that the kernel has found dead, from its making on."""

    def __init__(self) -> None:
        with _nbd() as netlink:
            group = netlink.mcast_groups[_GROUP]
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def wait(self, index: int, timeout_s: float) -> bool:
        """Whether this device had a connection die since the last call, or may have."""
        heard = False
        while select.select([self._socket], [], [], 0 if heard else timeout_s)[0]:
            try:
                message = _Message(self._socket.recv(limits.NETLINK_BYTES))
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # there were more than could be kept
                    raise
                return True
            message.decode()
            if message["cmd"] == _LINK_DEAD and message.get_attr("NBD_ATTR_INDEX") == index:
                heard = True
            elif not heard:
                return False
        return heard

    def close(self) -> None:
        self._socket.close()
