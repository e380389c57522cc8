"""nbd devices in a made tree like /sys/block, for what is asked and said of them without a kernel
that has any."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from mirror_core import attach, holders, kernel, unmounting
from mirror_core.attached import Attached
from mirror_core.cli import attaching
from mirror_core.errors import MirrorError


class Devices:
    """Who detaches one, or has everything on them unmounted, is taken down."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.tried: list[int] = []  # to detach
        self.unmounted: list[list[str]] = []  # together, by number
        self.patience: list[float] = []  # that there was for each of these
        self.in_use: set[int] = set()
        self.fails: dict[int, OSError] = {}  # what its detach meets
        self.mounted: set[str] = set()  # and stay so
        patch.setattr(kernel, "_BLOCK_DEVICES", folder)
        patch.setattr(holders, "FOLDER", folder.parent / "holders")
        patch.setattr(attach, "detach", self._detach)
        patch.setattr(unmounting, "everything_on", self._everything_on)
        patch.setattr(attaching, "_may_use_kernel", lambda: None)

    def make(self, index: int, backend: str | bytes, number: str = "") -> None:
        """Connected with this; its MAJOR:MINOR, if that matters."""
        node = self.folder / f"nbd{index}"
        node.mkdir(parents=True)
        (node / "pid").touch()
        self.name(index, backend)
        (node / "dev").write_text(f"{number or f'43:{index}'}\n")

    def name(self, index: int, backend: str | bytes) -> None:
        """Connected with this by now."""
        (self.folder / f"nbd{index}/backend").write_bytes(os.fsencode(backend) + b"\n")

    def _detach(self, device: Attached, *, force: bool = False, held_by: str | None = None) -> None:
        assert not force and held_by is None
        index = device.index
        self.tried.append(index)
        if index in self.fails:
            raise self.fails[index]
        if index in self.in_use:
            raise MirrorError(f"/dev/nbd{index}: in use")

    def _everything_on(self, numbers: Iterable[str], timeout_s: float, *, others: bool) -> None:
        assert others
        self.unmounted.append(list(numbers))
        self.patience.append(timeout_s)
        if self.mounted & set(self.unmounted[-1]):
            raise MirrorError("not unmounted: it does not answer")
