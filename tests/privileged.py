"""Programs that only root can use: a test that begins one bears the mark `root`, so that who is not
root is told the reason, and sees no failure.  Root, for whom they work, is told of the mark that is
missing: in each session, by an audit hook.

Left out: what a shell or another program of a test's begins, and system calls.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mirror_core

PROGRAMS = frozenset({"mount", "umount", "losetup", "ip", "nft", "dmsetup", "modprobe"})
_PRODUCT = str(Path(mirror_core.__file__).parent)
_seen: list[str] = []
_marked = True  # until the first test: a collection asks what there is


def watch() -> None:
    """From now on, in this process."""
    sys.addaudithook(_look)


def begins(item: pytest.Item) -> None:
    """Of a test, before its fixtures are made."""
    global _marked  # noqa: PLW0603
    _marked = any(item.iter_markers("root"))


def taken() -> list[str]:
    """What a test without the mark has begun, since this was last asked."""
    found = _seen.copy()
    _seen.clear()
    return found


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or _marked:
        return
    if (program := Path(os.fsdecode(arguments[0])).name) in PROGRAMS and not _by_the_product():
        _seen.append(f"begins {program}, which needs root, without the mark that says so")


def _by_the_product() -> bool:
    """It also asks such programs what everybody may know."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename == subprocess.__file__:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(_PRODUCT)
