"""Fixtures: scratch folders on tmpfs, and pairs of sites that are stopped whatever happens; and
what needs root, which is skipped by its name, with the reason, where there is none:

    pytest --needs-root -p no:terminal -o addopts=      says which tests that are, and runs none

A test fails that forks beside threads (forks.py), or needs root without a word (privileged.py).
A long run goes on where it was stopped (resumed.py).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import forks
import privileged
import pytest
import resumed
from handmade import Handmade
from hypothesis import settings
from pair import MakePair, Pair, one_that_runs
from remote import MakeRemote, RemotePair

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("flashmirror", deadline=None)
settings.load_profile("flashmirror")
forks.count()
privileged.watch()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--needs-root", action="store_true", help="say which tests need root, and run none"
    )
    resumed.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    resumed.configure(config)


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--needs-root"):
        return
    reasons = {item.nodeid: mark.args[0] for item in items for mark in item.iter_markers("root")}
    chosen = len(items)
    items.clear()
    for name, why in reasons.items():
        print(f"needs root: {name}: {why}")
    print(f"{len(reasons)} of {chosen} tests need root", flush=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--needs-root") and session.exitstatus == 5:  # nothing was run
        session.exitstatus = 0


@pytest.hookimpl(tryfirst=True)  # before its fixtures are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    privileged.begins(item)
    for mark in item.iter_markers("root"):
        why, *devices = mark.args
        if os.geteuid() != 0:
            pytest.skip(f"needs root: {why}")
        if missing := [device for device in devices if not Path(device).exists()]:
            pytest.skip(f"needs {' and '.join(missing)}: {why}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of each of setup, call and teardown."""
    report = yield
    if found := [*forks.taken(), *privileged.taken()]:
        report.sections.append(("what no test may do", "\n".join(found)))
        if report.passed:
            report.outcome, report.longrepr = "failed", found[0]
    return report


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
    with one_that_runs() as pair:
        yield pair
