"""A copy of the program with a fault compiled in, for tests of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import faults

ROOT = Path(__file__).resolve().parent.parent


def plant(fault: str, folder: Path) -> dict[str, str]:
    """Build the program with that fault of faults.py in `folder`; the environment that runs it."""
    package = folder / "mirror_core"
    shutil.copytree(
        ROOT / "mirror_core", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copytree(ROOT / "plugin", folder / "plugin")
    shutil.copytree(ROOT / "native", folder / "native", ignore=shutil.ignore_patterns("build-*"))
    faults.named(fault).plant(folder)
    subprocess.run(
        [sys.executable, str(folder / "native/build.py"), "--into", str(package)],
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
