"""For a long run that is stopped and goes on (`scripts/soak`):

    pytest --record FILE ...    a test that has passed goes to FILE, a line each, and is not run
                                again where FILE has it

What failed, was skipped or was stopped is run again.  Nothing left to run is a success.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record", type=Path, metavar="FILE", help="tests that pass are noted and not run again"
    )


def configure(config: pytest.Config) -> None:
    if path := config.getoption("--record"):
        config.pluginmanager.register(Resumed(path))


class Resumed:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed = set(path.read_text().splitlines()) if path.exists() else set[str]()
        self._nothing_left = False
        self._ended = dict[str, str]()  # the phases of the test that runs

    @pytest.hookimpl(trylast=True)  # after -m and -k
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        known = [item for item in items if item.nodeid in self._passed]
        if known:
            items[:] = [item for item in items if item.nodeid not in self._passed]
            config.hook.pytest_deselected(items=known)
            self._nothing_left = not items

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._ended = dict[str, str]()
        result = yield
        if self._ended == dict.fromkeys(("setup", "call", "teardown"), "passed"):
            with self._path.open("a") as file:
                file.write(f"{item.nodeid}\n")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._ended[report.when or ""] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._nothing_left and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK
