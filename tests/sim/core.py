"""The production core with the simulator's stores and clock, in place of mirror_core._native.

Compiled once for a content of its sources, with faults of faults.py if asked, into build/, and put
into sys.modules under the production name before mirror_core.native is imported, so that the
production Python runs on it without a change.  A process that imported this simulates only.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NATIVE = ROOT / "native"
_REPLACED = ("wait",)
_ADDED = ("simwait", "simsched", "simstore", "simmem")
# On volumes of a few blocks: many copies, few at once, and holes that are worth asking for.
_SMALL = (
    "-DFM_BULK_SLOTS=2",
    "-DRUN_BYTES=1024",
    "-DHOLE_WORTH_ASKING=1024",
    "-DFM_PIECE=512ULL",
    "-DFM_PIECE_BULK=1024ULL",
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


def build(plants: tuple[str, ...]) -> Path:
    """The shared object, compiled unless it stands already."""
    production = _load("native_build", NATIVE / "build.py")
    inputs = sorted([*NATIVE.glob("*.[ch]"), NATIVE / "native.cdef", *(HERE / "native").iterdir()])
    planted = [faults.named(plant) for plant in plants]
    digest = hashlib.sha256(repr((planted, _SMALL)).encode())
    for path in inputs:
        if path.name != "_native.c":
            digest.update(path.read_bytes())
    folder = ROOT / "build" / f"sim-{digest.hexdigest()[:16]}"
    out = folder / ("_native" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    if out.exists():
        return out
    source = folder / f"source-{os.getpid()}" / "native"
    shutil.copytree(NATIVE, source, ignore=shutil.ignore_patterns("build-*"))
    for fault in planted:
        fault.plant(source.parent)
    ffi = cffi.FFI()
    ffi.cdef((NATIVE / "native.cdef").read_text() + (HERE / "native/sim.cdef").read_text())
    ffi.set_source("mirror_core._native", "".join(f'#include "{h}"\n' for h in _HEADERS))
    glue = folder / f"glue-{os.getpid()}.c"
    ffi.emit_c_code(str(glue))
    sources = [str(source / f"{name}.c") for name in production.SOURCES if name not in _REPLACED]
    sources += [str(HERE / "native" / f"{name}.c") for name in _ADDED]
    include = sysconfig.get_paths()["include"]
    fresh = out.with_suffix(f".{os.getpid()}")
    command = ["gcc", "-shared", "-fPIC", *production.FLAGS, *production.WARNINGS, *_SMALL,
               f"-I{source}", f"-I{HERE / 'native'}",
               f"-I{include}", "-include", "simmem.h"]  # fmt: skip
    quiet = ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]  # the glue is generated
    subprocess.run([*command, *quiet, str(glue), *sources, "-lnbd", "-o", str(fresh)], check=True)
    glue.unlink()
    shutil.rmtree(source.parent)
    return fresh.rename(out)  # two who build at once make the same


def _install() -> Any:
    assert "mirror_core.native" not in sys.modules, "production's core is loaded already"
    plants = tuple(filter(None, os.environ.get("SIM_PLANT", "").split(",")))
    native_plants = tuple(p for p in plants if p.isupper())  # the others: plants.py
    # A copy's buffer is 256 KiB: not a mapping of its own each time (M_MMAP_, M_TRIM_THRESHOLD).
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 24)
    libc.mallopt(-1, 1 << 26)
    sys.path.insert(0, str(ROOT))  # the sources, not what is installed
    import mirror_core  # noqa: PLC0415

    module = _load("mirror_core._native", build(native_plants))
    sys.modules["mirror_core._native"] = module
    setattr(mirror_core, "_native", module)  # noqa: B010
    return module


_module = _install()
ffi: Any = _module.ffi
lib: Any = _module.lib
