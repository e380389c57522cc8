"""Fixtures: scratch folders on tmpfs, and pairs of sites that are stopped whatever happens."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import Handmade
from hypothesis import settings
from pair import MakePair, Pair
from remote import MakeRemote, RemotePair

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("flashmirror", deadline=None)
settings.load_profile("flashmirror")


@pytest.fixture(scope="session", autouse=True)
def _runtime_directory() -> Iterator[None]:
    """Maps that outlive a killed site are kept here, not in the machine's /run."""
    folder = tempfile.mkdtemp(prefix="flashmirror-run-", dir="/dev/shm")
    os.environ["RUNTIME_DIRECTORY"] = folder
    yield
    shutil.rmtree(folder)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory: quick, sparse files of any size, no flush to a disk."""
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_pair(scratch: Path) -> Iterator[MakePair]:
    """make_pair(*init_options, environment=None) -> Pair, not started."""
    pairs: list[Pair] = []

    def make(*options: str, environment: dict[str, str] | None = None) -> Pair:
        pairs.append(Pair(scratch / f"p{len(pairs)}", *options, environment=environment))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.kill()


@pytest.fixture
def make_remote(scratch: Path) -> Iterator[MakeRemote]:
    """make_remote(*init_options, kind="certificates") -> RemotePair, not started."""
    pairs: list[RemotePair] = []

    def make(*options: str, kind: str = "certificates") -> RemotePair:
        pairs.append(RemotePair(scratch / f"r{len(pairs)}", *options, kind=kind))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.kill()


@pytest.fixture
def handmade(scratch: Path) -> Iterator[Handmade]:
    """A pair that the test writes and creates itself."""
    pair = Handmade(scratch / "h")
    yield pair
    pair.kill()


@pytest.fixture(scope="session")
def running() -> Iterator[Pair]:
    """A pair that runs and has committed; tests leave it as they found it."""
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm"))
    pair = Pair(folder / "p", "--size", "1M")
    try:
        pair.start()
        with pair.client() as client:
            client.write(0, b"x" * 4096)
        pair.sync()
        yield pair
    finally:
        pair.kill()
        shutil.rmtree(folder)
