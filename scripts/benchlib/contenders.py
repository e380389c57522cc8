"""What is compared: a device at a URI, and what goes on behind it while it is under load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from benchlib.lab import Lab, fill, serve

Facts = dict[str, float | None]
"""What a contender says of itself after a load; `cycles`: consistency points or backups done."""


class Contender:
    """Started by `with`; under load inside `working()`; `prove()` when all loads have ended."""

    name: str
    loads: tuple[str, ...] | None = None  # the workloads that it takes part in; None: all

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.uri = ""
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.start(stack)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.close()

    def start(self, stack: ExitStack) -> None:
        """Serve the device and set `uri`; `stack` stops what was started."""
        raise NotImplementedError

    @contextmanager
    def working(self) -> Iterator[Facts]:
        """Do what this contender is compared for while the block runs; then tell the facts."""
        yield {}

    def prove(self) -> None:
        """Raise unless the work was really done."""


class NbdkitFile(Contender):
    """The limit: nbdkit's own C plugin as `nbdkit file` runs it, no mirroring at all."""

    name = "nbdkit-file"
    options: tuple[str, ...] = ()

    def start(self, stack: ExitStack) -> None:
        self.lab.require_images(1)
        image = self.lab.folder / f"{self.name}.img"
        fill(image, self.lab.size_bytes)
        self.uri = stack.enter_context(nbdkit_file(image, *self.options))


class NbdkitFileOneThread(NbdkitFile):
    """The same with one thread a connection, as a site runs where nbdkit is old."""

    name = "nbdkit-file-1"
    options = ("--threads", "1")
    loads = ("randwrite-4k-d32",)


@contextmanager
def nbdkit_file(image: Path, *options: str) -> Iterator[str]:
    listening = image.with_suffix(".sock")
    listening.unlink(missing_ok=True)
    command = ("nbdkit", "-f", "-U", str(listening), *options, "file", str(image))
    with serve(command, listening):
        yield f"nbd+unix:///?socket={listening}"
