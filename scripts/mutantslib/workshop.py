"""Copies of the checkout in which one mutant is built and its checks run.

Idea.  One copy, the *base*, is built once, each product (programs, extension, simulator) when it
is first wanted.  A bench is another copy with a mutant planted; it takes the products of the base
along, so that only what the mutant touches is built again.

A mutant may hang, fork, fill memory or leave file systems mounted.  So each check runs in
namespaces of its own (processes, mounts, /dev/shm) that end with it, whatever it has begun.

Warnings do not count here: a mutant that leaves something unused is still one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = (
    "native",
    "mirror_core",
    "plugin",
    "scripts",
    "tests",
    "docs",
    "systemd",
    "pyproject.toml",
    "Makefile",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
)
BUILD_S = 600
_STRICT = '"-Wall", "-Wextra", "-Werror"'
_ALONE = 'mount -t tmpfs none /dev/shm && "$@"; exit $?'


class NotBuilt(Exception):
    """What does not compile is no mutant."""


@dataclass(frozen=True)
class Ended:
    status: int | None  # None: it did not end in time
    output: str


def run_alone(words: list[str], cwd: Path, seconds: float, **environment: str) -> Ended:
    """Run it to its end, and with it all that it has begun."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    alone = ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        done = subprocess.run(
            [*alone, "sh", "-c", _ALONE, "sh", *words],
            cwd=cwd,
            timeout=seconds,
            check=False,
            env={**os.environ, "FLASHMIRROR_EVERY_CASE": "1", **environment},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return Ended(None, said.decode(errors="replace") if isinstance(said, bytes) else said)
    return Ended(done.returncode, done.stdout)


class Bench:
    """A copy of the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built: set[str] = set()

    def run(self, words: list[str], seconds: float) -> Ended:
        return run_alone(
            words,
            self.folder,
            seconds,
            PYTHONPATH=str(self.folder),
            PYTHONDONTWRITEBYTECODE="1",
        )

    def build_programs(self, *programs: str) -> None:
        """These of native/tests, or all."""
        plain = [name for name in programs if not name.startswith("order")]
        if plain or not programs:
            tests = [f"TESTS={' '.join(plain)}"] if plain else []
            words = ["make", "-s", "-C", "native", "programs", "B=build-check", "EXTRA=-O2 -w"]
            self._build([*words, *tests])
        if len(plain) < len(programs) or not programs:
            self._build(["make", "-s", "-C", "native", "order", "EXTRA=-O2 -w"])

    def build_extension(self) -> None:
        """mirror_core/_native*.so."""
        self._build([sys.executable, "native/build.py", "--into", "mirror_core"])

    def build_simulator(self) -> None:
        self._build([sys.executable, "scripts/simulate", "--count", "1", "--jobs", "1"])

    def object_code(self, file: str) -> bytes:
        """What the compiler makes of a C file, without its lines."""
        out = self.folder / "native" / "object.o"
        words = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-w", "-pthread", "-I.", "-Itests"]
        self._build([*words, "-c", Path(file).name, "-o", out.name], cwd=out.parent)
        return out.read_bytes()

    def _build(self, words: list[str], cwd: Path | None = None) -> None:
        done = subprocess.run(
            words,
            cwd=cwd or self.folder,
            timeout=BUILD_S,
            check=False,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise NotBuilt(done.stdout[-2000:])

    def programs(self, *names: str) -> list[Path]:
        """The same, as they are built."""
        built = self.folder.glob("native/build-*/test_*.o")
        return [p.with_suffix("") for p in sorted(built) if not names or p.stem[5:] in names]


PRODUCTS = {
    "programs": ("native/build-*", Bench.build_programs),
    "extension": ("mirror_core/_native*.so", Bench.build_extension),
    "simulator": ("build/sim-*", Bench.build_simulator),
}


class Workshop:
    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="mutants-")
        self.base = Bench(Path(self._scratch.name) / "base")
        self._lock = threading.Lock()  # guards what is built in the base
        self._began = time.time()
        self._objects: dict[str, bytes] = {}
        for part in PARTS:
            source, copy = ROOT / part, self.base.folder / part
            if source.is_dir():
                leave = shutil.ignore_patterns("build-*", "*.so", "_native.c", "__pycache__")
                shutil.copytree(source, copy, ignore=leave, symlinks=True)
            else:
                shutil.copy2(source, copy)
        build = self.base.folder / "native/build.py"
        text = build.read_text()
        assert text.count(_STRICT) == 1, "native/build.py names its warnings otherwise"
        build.write_text(text.replace(_STRICT, '"-w"'))

    def close(self) -> None:
        self._scratch.cleanup()

    @contextlib.contextmanager
    def bench(self) -> Generator[Bench, None, None]:
        """Another copy, for one mutant."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self._scratch.name) as name:
            folder = Path(name) / "copy"
            leave = shutil.ignore_patterns("build", "build-*", "*.so", "__pycache__")
            shutil.copytree(self.base.folder, folder, ignore=leave, symlinks=True)
            yield Bench(folder)

    def provide(self, bench: Bench, product: str) -> None:
        """The base's product, in the bench.  NotBuilt, of the base: nothing can be checked."""
        pattern, build = PRODUCTS[product]
        with self._lock:
            if product not in self.base.built:
                build(self.base)
                self.base.built.add(product)
                for path in self.base.folder.glob(f"{pattern}/*"):  # older than any mutant
                    os.utime(path, (self._began, self._began))
        if bench is self.base or product in bench.built:
            return
        for path in self.base.folder.glob(pattern):
            copy = bench.folder / path.relative_to(self.base.folder)
            copy.parent.mkdir(exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copy2(path, copy)
        bench.built.add(product)

    def is_same_object(self, bench: Bench, file: str) -> bool:
        """Whether the compiler makes the same of the mutant as of what it replaces."""
        with self._lock:
            if file not in self._objects:
                self._objects[file] = self.base.object_code(file)
        return bench.object_code(file) == self._objects[file]


def names_of_failed(output: str) -> list[str]:
    """The tests that pytest says failed."""
    return re.findall(r"^(?:FAILED|ERROR) (tests/\S+?\.py\S*)", output, re.MULTILINE)
