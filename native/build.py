"""Builds mirror_core._native: setuptools' own backend, with the cffi source made first.

pyproject.toml names this file as its build backend (PEP 517, in-tree), so that
`pip install .` needs no setup.py: every hook generates `native/_native.c` from
`native.cdef` and then hands over to setuptools, which compiles it together with the
core (`[[tool.setuptools.ext-modules]]`).

Run as a program it compiles one extension into a folder: `build.py --into DIR`.
"""

from __future__ import annotations

import argparse
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import cffi
from setuptools import build_meta

HERE = Path(__file__).resolve().parent
MODULE = "mirror_core._native"
SOURCES = [
    "bitmap",
    "gate",
    "wait",
    "watch",
    "plan",
    "flow",
    "pace",
    "parts",
    "room",
    "pool",
    "store",
    "flush",
    "below",
    "store_file",
    "late",
    "store_nbd",
    "line",
    "intent",
    "wide",
    "gather",
    "portable",
    "lane",
    "link",
    "request",
    "access",
    "news",
    "volume",
    "shared",
    "pin",
    "client",
    "callers",
]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def generate() -> Path:
    """Write `_native.c`, the cffi glue (API mode), and return its path."""
    ffi = cffi.FFI()
    ffi.cdef((HERE / "native.cdef").read_text())
    ffi.set_source(
        MODULE,
        '#include "below.h"\n#include "callers.h"\n#include "gather.h"\n#include "late.h"\n'
        '#include "line.h"\n#include "news.h"\n#include "portable.h"\n#include "request.h"\n'
        '#include "room.h"\n#include "wait.h"\n',
        py_limited_api=False,
    )
    target = HERE / "_native.c"
    ffi.emit_c_code(str(target))
    return target


def compile_into(folder: Path) -> Path:
    """Compile the extension; the path of the shared object."""
    glue = generate()
    include = sysconfig.get_paths()["include"]
    out = folder / ("_native" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    sources = [str(HERE / f"{name}.c") for name in SOURCES]
    command = ["gcc", "-shared", "-fPIC", *FLAGS, f"-I{HERE}", f"-I{include}"]
    fresh = out.with_suffix(".new")
    subprocess.run([*command, str(glue), *sources, "-lnbd", "-o", str(fresh)], check=True)
    return fresh.rename(out)  # whoever has the old one loaded keeps it


def build_wheel(directory: str, settings: Any = None, metadata: str | None = None) -> str:
    generate()
    return build_meta.build_wheel(directory, settings, metadata)


def build_editable(directory: str, settings: Any = None, metadata: str | None = None) -> str:
    generate()
    return build_meta.build_editable(directory, settings, metadata)


def build_sdist(directory: str, settings: Any = None) -> str:
    generate()
    return build_meta.build_sdist(directory, settings)


get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="compile the native core into a folder")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    print(compile_into(arguments.into))
