"""What a client of the NBD socket finds: devices, the peer's intermediates, the control.

    VOLUME                       the device: on a source, read and write; on the Unix socket only
    VOLUME/intermediate/SESSION  for the peer, on a target: of that session only (I8)
    /control                     one request, one answer; over TCP, those of a session only

The plugin delegates every callback to one of these; a request is one call into the core.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from typing import Self

from mirror_core import control, limits, native
from mirror_core.door import Visitor
from mirror_core.driver import Driver
from mirror_core.errors import MirrorError, short
from mirror_core.flashcopy import Member
from mirror_core.site import Site
from mirror_core.target import Target


class VolumeExport(native.Client):
    """A volume, entered through its gate with this session."""

    kind = "volume"

    def __new__(cls, _site: Site, member: Member, session: int, _visitor: Visitor) -> Self:
        return super().__new__(cls, member.native, session)

    def __init__(self, site: Site, member: Member, session: int, visitor: Visitor) -> None:
        super().__init__(member.native, session)
        self.visitor = visitor
        self._servers, self._name = site.servers, member.name
        self.size = member.native.size
        sizes = member.native.front.block_sizes
        self.minimum = sizes.minimum
        preferred = min(sizes.preferred, limits.BLOCK_SIZE_MAX)
        self.preferred = max(preferred, member.native.block_size)
        self.extents_known = member.native.front.kind == "file"

    def flush(self) -> None:
        failed = True
        try:
            super().flush()
            failed = False
        finally:
            self._servers.flushed(self._name, failed=failed)

    def extents(self, count: int, offset: int, *, one: bool) -> list[tuple[int, int, bool]]:
        """(offset, bytes, is a hole) from the beginning of the range on; `one`: no more is wanted.
        A client asks for the rest again, so what it does not use would be looked for many times."""
        rows = []
        most = 1 if one else limits.EXTENTS_MAX
        for step, hole in itertools.islice(self.volume.front.extents(offset, count), most):
            rows.append((offset, step, hole))
            offset += step
        return rows


class ControlExport:
    """One request written at 0, its answer read at 0."""

    kind = "control"
    size = limits.CONTROL_BYTES

    def __init__(self, site: Site, visitor: Visitor) -> None:
        self._site, self.visitor = site, visitor
        self._answer = b""

    def pread(self, buffer: memoryview, offset: int, flags: int) -> int:
        part = self._answer[offset : offset + len(buffer)]
        buffer[:] = part + bytes(len(buffer) - len(part))
        return 0

    def pwrite(self, buffer: memoryview, offset: int, flags: int) -> int:
        if offset:
            return -errno.EINVAL
        guest = self.visitor.guest
        with guest.asks() if guest else contextlib.nullcontext():
            self._answer = control.answer(self._site, bytes(buffer), self.visitor)
        return 0

    def flush(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """The same."""

    def zero(self, count: int, offset: int, flags: int) -> None:
        raise MirrorError("the control export takes requests only", errno.EINVAL)


Export = VolumeExport | ControlExport


def default_export(site: Site) -> str:
    """The name that an empty one stands for: the only volume's, if there is one only."""
    return site.members[0].name if len(site.members) == 1 else ""


def names(site: Site, visitor: Visitor) -> list[str]:
    """What a client is told that there is: the volumes; over TCP nothing, the peer knows."""
    return [m.name for m in site.members] if visitor.local else []


def open_export(site: Site, name: str, visitor: Visitor) -> Export:
    """The export of that name.  MirrorError: ENOENT, EPERM (not on this role, or not by this
    socket), ESHUTDOWN."""
    if name == "/control":
        return ControlExport(site, visitor)
    volume, _, rest = (name or default_export(site)).partition("/")
    member = next((m for m in site.members if m.name == volume), None)
    part, _, session = rest.partition("/")
    if not visitor.local and part != "intermediate":
        raise MirrorError(f"{short(name)} is on the Unix socket only", errno.EPERM)
    if member is None or part not in ("", "intermediate"):
        raise MirrorError(f"there is no export {short(name)}", errno.ENOENT)
    if not part:
        if not isinstance(site.control, Driver):
            raise MirrorError(f"{volume}: this site is a target: its device opens at the source "
                              "only", errno.EPERM)  # fmt: skip
        return VolumeExport(site, member, 0, visitor)
    if not isinstance(site.control, Target):
        raise MirrorError(f"{short(name)}: this site is a source", errno.EPERM)
    opened = site.control.session  # looked at once: another may be opened meanwhile (I8)
    if not opened or session != f"{opened:x}":
        raise MirrorError(f"{short(name)}: not the session that was opened last", errno.ESHUTDOWN)
    return VolumeExport(site, member, opened, visitor)
