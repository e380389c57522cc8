"""A copy of the program with faults of faults/ in it, for tests of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import faults

ROOT = Path(__file__).resolve().parent.parent
_PARTS = ("mirror_core", "native", "plugin")
_BUILT = ("*.so", "__pycache__", "build-*", "_native.c")


def copy(folder: Path, names: tuple[str, ...]) -> None:
    """The sources of the program, with these faults in them."""
    for part in _PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(*_BUILT))
    for name in names:
        faults.named(name).plant(folder)


def plant(fault: str, folder: Path) -> dict[str, str]:
    """Build the program with that fault in `folder`; the environment that runs it."""
    copy(folder, (fault,))
    subprocess.run(
        [sys.executable, str(folder / "native/build.py"), "--into", str(folder / "mirror_core")],
        check=True,
        capture_output=True,
        text=True,
    )
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def loaded_core(pid: int) -> set[Path]:
    """The native cores that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if "/_native." in line}
    return {Path(os.path.normpath(path)) for path in paths}
