"""The kernels that a guest can boot: this machine's own, and the one of the other Debian.

Kernels differ in what their nbd does when a connection dies, in when a queue stands still and in
what a file system does beside its caller: so what a test shows of a kernel it shows on each that a
user of a supported Debian has. That takes time: in CI the other Debian's boots for
`test_dead_holder` and one volume of `test_real_kernel`, in `make soak` for all (``conftest``).

The other one is downloaded with apt from where this machine's apt has its own packages, and checked
by apt as those are; it is unpacked below the checkout, and nothing is installed.

It needs a newer C library than this machine may have, which is unpacked beside it: in a copy of the
program the name of the loader is one without a folder, so that it is found where the program is
started.

On a processor with AMX user-mode Linux starts no program without wide_registers.c, which is
compiled beside them and preloaded.

Left out: the other Debian's programs; the guest has this machine's.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BUILD = Path(__file__).resolve().parents[2] / "build" / "kernels"
_MODULES = "usr/lib/uml/modules"
_NEXT = "trixie"  # Debian 13
_PACKAGES = ("user-mode-linux", "libc6")
_LOADER = b"/lib64/ld-linux-x86-64.so.2\0"
_LIBRARIES = "lib/x86_64-linux-gnu"  # of Debian 13: usr/lib/...


@dataclass(frozen=True)
class Kernel:
    """How one is started."""

    name: str
    program: Path
    modules: Path  # one folder for each release
    folder: Path = Path("/")  # where it is started
    environment: Mapping[str, str] = field(default_factory=dict)


OWN = Kernel("this machine's", Path("/usr/bin/linux.uml"), Path("/") / _MODULES)


@functools.cache
def for_this_processor() -> Mapping[str, str]:
    """What a kernel's environment needs besides."""
    if " amx_tile" not in Path("/proc/cpuinfo").read_text():
        return {}
    source, made = Path(__file__).with_name("wide_registers.c"), _BUILD / "wide_registers.so"
    _BUILD.mkdir(parents=True, exist_ok=True)
    fresh = made.with_suffix(f".{os.getpid()}")  # another test's process may be making it
    words = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*words, str(fresh), str(source)], check=True)
    fresh.rename(made)
    return {"LD_PRELOAD": str(made)}


def all_kernels() -> list[str]:
    """Names for `get`, the newest last, without a download."""
    return ["own"] if _is_next() else ["own", _NEXT]


def get(name: str) -> Kernel:
    """AssertionError: there is none, or apt has not found it, with what it says."""
    assert name in all_kernels(), f"{name}: none of {', '.join(all_kernels())}"
    return OWN if name == "own" else _other(name)


def _is_next() -> bool:
    release = Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_ID="?(\d+)', release, re.MULTILINE)
    return not found or int(found[1]) >= 13


def _other(release: str) -> Kernel:
    folder = _BUILD / release
    _BUILD.mkdir(parents=True, exist_ok=True)
    with (_BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test's process may be fetching it
        if not folder.exists():
            fresh = _BUILD / f"{release}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            _fetch(release, fresh)
            fresh.rename(folder)
    return Kernel(
        f"Debian's {release}",
        folder / "linux.uml",
        folder / _MODULES,
        folder,
        {"LD_LIBRARY_PATH": str(folder)},
    )


def _fetch(release: str, folder: Path) -> None:
    """Into a new folder: the program, its loader and C library, and its modules."""
    for name in ("state/lists/partial", "cache/archives/partial", "parts", "unpacked"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").touch()  # nothing is installed
    signed = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources").write_text(f"deb [signed-by={signed}] {_mirror()} {release} main\n")
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources",
        "Dir::Etc::SourceParts": folder / "parts",
        "APT::Sandbox::User": "",  # root's own folder may be closed to apt's user
        "APT::Get::List-Cleanup": "false",
    }
    apt = ["apt-get", "-q", *(word for k, v in options.items() for word in ("-o", f"{k}={v}"))]
    _run([*apt, "update"], folder)
    _run([*apt, "download", *_PACKAGES], folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), "unpacked"], folder)
        package.unlink()
    unpacked = folder / "unpacked"
    (folder / _MODULES).parent.mkdir(parents=True)
    (unpacked / _MODULES).rename(folder / _MODULES)
    for library in ("libc.so.6", "ld-linux-x86-64.so.2"):
        shutil.copy((unpacked / "usr" / _LIBRARIES / library).resolve(), folder / library)
    program = (unpacked / "usr/bin/linux.uml").read_bytes()
    assert program.count(_LOADER) == 1, "the program names its loader once"
    here = b"ld-linux-x86-64.so.2\0".ljust(len(_LOADER), b"\0")
    (folder / "linux.uml").write_bytes(program.replace(_LOADER, here))
    (folder / "linux.uml").chmod(0o755)
    for rest in ("state", "cache", "parts", "unpacked"):
        shutil.rmtree(folder / rest)


def _mirror() -> str:
    """Of this machine's own packages: the one that has a `main` of Debian, not of its updates."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Origin: Debian"]
    said = _run(words, Path("/"))
    found = re.search(r"^(\S+) [a-z]+$", said, re.MULTILINE)
    assert found, f"apt has no packages of Debian's: {said}"
    return found[1]


def _run(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "LANG": "C.UTF-8"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout
