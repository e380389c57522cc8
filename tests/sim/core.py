"""The production core with the simulator's stores and clock, in place of mirror_core._native.

Compiled once for a content of its sources, into build/, and put into sys.modules under the
production name before mirror_core.native is imported, so that the production Python runs on it
without a change.  A process that imported this simulates only.

SIM_PLANT names faults of faults/: then what is compiled, and imported, is a copy of production's
sources with them in it, in build/ too.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, cast

import cffi
import faults
import planted

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_REPLACED = ("wait",)
_ADDED = ("simwait", "simsched", "simstore", "simmem")
# On volumes of a few blocks: many copies, few at once, holes that are worth asking for, and maps
# of two levels from 65 blocks on.
_SMALL = (
    "-DFM_BULK_SLOTS=2",
    "-DRUN_BYTES=1024",
    "-DHOLE_WORTH_ASKING=1024",
    "-DFM_PIECE=512ULL",
    "-DFM_PIECE_BULK=1024ULL",
    "-DGROUP_WORDS=1",
    "-DGROUP_SHIFT=6",
)
_HEADERS = (
    "callers.h", "gather.h", "late.h", "line.h", "news.h", "portable.h", "request.h", "room.h",
    "simstore.h", "wait.h",
)  # fmt: skip


def _load(name: str, path: Path) -> Any:
    spec = cast(ModuleSpec, importlib.util.spec_from_file_location(name, path))
    module = importlib.util.module_from_spec(spec)
    cast(Loader, spec.loader).exec_module(module)
    return module


def _digest(start: str, *paths: Path) -> str:
    digest = hashlib.sha256(start.encode())
    for path in paths:
        if path.name != "_native.c":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _planted(names: tuple[str, ...]) -> Path:
    """The root of a copy of production's sources with these faults, made unless it stands."""
    sources = [*sorted(ROOT.glob("mirror_core/**/*.py")), *sorted(ROOT.glob("native/*.*"))]
    chosen = [faults.named(name) for name in names]
    root = ROOT / "build" / f"planted-{_digest(repr(chosen), *sources)}"
    if not root.exists():
        fresh = root.with_suffix(f".{os.getpid()}")
        planted.copy(fresh, names)
        try:
            fresh.rename(root)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return root


def _build(root: Path) -> Path:
    """The shared object of these sources, compiled unless it stands already."""
    native = root / "native"
    production = _load("native_build", native / "build.py")
    inputs = [*sorted(native.glob("*.[ch]")), native / "native.cdef"]
    inputs += sorted((HERE / "native").iterdir())
    folder = ROOT / "build" / f"sim-{_digest(repr(_SMALL), *inputs)}"
    out = folder / ("_native" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    ffi = cffi.FFI()
    ffi.cdef((native / "native.cdef").read_text() + (HERE / "native/sim.cdef").read_text())
    ffi.set_source("mirror_core._native", "".join(f'#include "{h}"\n' for h in _HEADERS))
    glue = folder / f"glue-{os.getpid()}.c"
    ffi.emit_c_code(str(glue))
    sources = [str(native / f"{name}.c") for name in production.SOURCES if name not in _REPLACED]
    sources += [str(HERE / "native" / f"{name}.c") for name in _ADDED]
    include = sysconfig.get_paths()["include"]
    fresh = out.with_suffix(f".{os.getpid()}")
    command = ["gcc", "-shared", "-fPIC", *production.FLAGS, *production.WARNINGS, *_SMALL,
               f"-I{native}", f"-I{HERE / 'native'}",
               f"-I{include}", "-include", "simmem.h"]  # fmt: skip
    quiet = ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]  # the glue is generated
    subprocess.run([*command, *quiet, str(glue), *sources, "-lnbd", "-o", str(fresh)], check=True)
    glue.unlink()
    return fresh.rename(out)  # two who build at once make the same


def _install(root: Path) -> Any:
    assert "mirror_core" not in sys.modules, "production is loaded already"
    # A copy's buffer is 256 KiB: not a mapping of its own each time (M_MMAP_, M_TRIM_THRESHOLD).
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 24)
    libc.mallopt(-1, 1 << 26)
    sys.path.insert(0, str(root))  # the sources, not what is installed
    import mirror_core  # noqa: PLC0415

    module = _load("mirror_core._native", _build(root))
    sys.modules["mirror_core._native"] = module
    setattr(mirror_core, "_native", module)  # noqa: B010
    return module


_plants = tuple(filter(None, os.environ.get("SIM_PLANT", "").split(",")))
PRODUCTION = _planted(_plants) if _plants else ROOT  # the root of the sources that run
_module = _install(PRODUCTION)
ffi: Any = _module.ffi
lib: Any = _module.lib
