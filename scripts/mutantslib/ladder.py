"""The checks of a mutant, cheapest first: whoever is caught by one is spared the dearer ones.

    C         its own programs, then all of native/tests; 1,500 simulated schedules; the pytest
              files nearest to it; 20,000 schedules; whole sites under kills; 50,000
    Python    the table tests nearest to it; 1,500 schedules; the rest as above

What is near is a table, by the name of the file; what the table does not know has no own checks.
A check proves something only if it passes without a mutant, so it runs once on the base first.
A test may fail by chance, on a machine that is busy: a mutant is caught if it fails twice.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from mutantslib.workshop import ROOT, Bench, NotBuilt, Workshop, names_of_failed

_BASE_S = 1800.0  # what a check may take on the base
_SLACK, _MORE_S = 4.0, 60.0  # and a mutant: so many times as long, and so much more
_STAND_FOR_ALL = 1500  # schedules, on the base
_FUZZ_S = 30
_NO_TESTS = 5  # an exit status of pytest

PROGRAMS = {
    "bitmap": "bitmap order intent claims",
    "gate": "gate order volume",
    "wait": "gate nbd",
    "watch": "wide nbd",
    "plan": "plan claims",
    "flow": "flow",
    "store": "store lost nbd",
    "flush": "lost order_store store durable",
    "below": "below lost",
    "store_file": "store volume",
    "late": "lost nbd",
    "store_nbd": "nbd lost",
    "line": "nbd",
    "intent": "intent order",
    "wide": "wide",
    "lane": "claims request order failure",
    "link": "failure order claims",
    "request": "request harden claims intent order",
    "access": "durable zero request",
    "volume": "harden failure claims order volume",
    "shared": "shared",
    "callers": "callers",
    "client": "lost claims",
    "gather": "pool room",
    "news": "lost",
    "pace": "pace zero slow",
    "parts": "slow zero pool",
    "pool": "pool lost",
    "room": "room pool",
}
TABLES = {
    "book": "ledger",
    "ledger": "ledger",
    "hardlog": "hardlog",
    "runlog": "hardlog written",
    "written": "written",
    "recovery": "recovery",
    "cycle": "cycle",
    "config": "config",
    "units": "units",
    "protocol": "protocol fuzz",
    "peer": "fuzz protocol",
    "durable": "ledger",
    "fields": "ledger protocol",
    "timeouts": "timeouts",
    "second": "second",
}
SITES = {
    "bitmap": "maps",
    "shared": "maps",
    "mapfile": "maps",
    "intent": "intent maps",
    "gate": "one_moment",
    "store": "lost_store store_faults",
    "flush": "lost_store lost_flush",
    "store_file": "equality block_devices store_faults",
    "store_nbd": "lost_store store_faults",
    "stores": "bad_creation bad_input lost_store",
    "elsewhere": "elsewhere",
    "late": "lost_store",
    "line": "network",
    "watch": "network",
    "callers": "strangers",
    "pin": "pin",
    "client": "device pin",
    "request": "equality overlap",
    "access": "device equality",
    "compare": "compare seed",
    "written": "resume",
    "stable": "resume",
    "promotion": "promote",
    "resync": "promote seed",
    "recovery": "promote network",
    "session": "link resume",
    "hardlog": "kill",
    "ledger": "bad_input",
    "exports": "commands network",
    "control": "commands",
    "peer": "commands network",
    "site": "commands maps intent",
    "driver": "commands resume compare",
    "target": "resume promote seed",
    "second": "store_faults full_disk",
    "flashcopy": "turns store_faults",
    "pool": "limited_server",
    "pace": "slow",
    "parts": "slow",
    "news": "server_instance lost_flush",
    "portable": "many_blocks",
    "server_instance": "loss_record server_instance",
    "identity": "identity adopt store_back",
    "partition": "identity",
    "below": "below losing_disk unmounting",
    "heard": "losing_disk",
    "mounted": "unmounting attach",
    "exclusive": "attach unmounting",
    "opener": "attach unmounting",
    "apart": "attach unmounting elsewhere",
    "attached": "attach unmounting",
    "lastrun": "went_back intent adopt recovery",
    "unmounting": "unmounting",
    "journal": "log",
    "connections": "hangs promote strangers",
    "process": "hangs hung_state taken_away any_instant refused_alike",
    "rotate": "log",
    "status": "status outlook exposure",
    "metrics": "metrics metrics_port status",
    "adoption": "adopt",
    "age": "exposure",
    "guard": "injected log",
    "cut": "cut unreadable",
    "beside": "pulse loss_record",
    "pulse": "pulse",
    "fields": "network",
    "lock": "commands",
    "timeouts": "promote slow_store",
}
WHOLE = "equality full_disk link kill resume store_faults"
NOT_SIMULATED = (
    "store_file store_nbd late line watch callers pin client wide mapfile exports door address "
    "connections config status metrics process stores units pki attach kernel below "
    "mounted exclusive opener apart attached unmounting journal elsewhere rotate"
)
# Where a fault is a nuisance, and no wrong byte, lost image or hang: only if asked for (--file).
OUTSIDE = re.compile(
    r"mirror_core/(cli/\w+|__init__|address|attach|creation|door|errors|handshake|holders|kernel"
    r"|launch|limits|pki|sockets|units|writeback)\.py"
)


@dataclass(frozen=True)
class Check:
    """`kind` says how `what` is run: programs, fuzz, pytest (files, or a node), simulate (first
    and last seed, and acts, if not all)."""

    kind: str
    what: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.what}"


def _pytest(names: str) -> list[Check]:
    return [Check("pytest", " ".join(f"tests/test_{n}.py" for n in names.split()))] if names else []


def _all_programs() -> list[str]:
    return sorted(path.stem[5:] for path in (ROOT / "native/tests").glob("test_*.c"))


def ladder(file: str) -> list[Check]:
    stem = Path(file).stem
    simulated = stem not in NOT_SIMULATED.split()
    seeds = [Check("simulate", s) for s in ("1 1500", "1501 20000", "20001 50000") if simulated]
    if file.endswith(".c"):
        near = PROGRAMS.get(stem, "").split()
        rest = [name for name in _all_programs() if name not in near]
        cheap = [Check("programs", " ".join(names)) for names in (near, rest) if names]
    else:
        cheap = _pytest(TABLES.get(stem, ""))
    return [
        *cheap,
        *seeds[:1],
        *_pytest(SITES.get(stem, "")),
        *seeds[1:2],
        *_pytest(WHOLE),
        *seeds[2:],
    ]


class Runner:
    """Runs checks on benches."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._lock = threading.Lock()  # guards _trials
        self._took: dict[str, float] = {}  # on the base
        self._trials: dict[str, threading.Lock] = {}  # of each check, one trial at a time

    def catches(self, check: Check, bench: Bench, files: tuple[str, ...]) -> str | None:
        """What the check says against a mutant of these files; None: nothing.  NotBuilt."""
        limit = self._trial(check) * _SLACK + _MORE_S
        return self._run(check, bench, files, limit)

    def _trial(self, check: Check) -> float:
        """How long it takes without a mutant.  AssertionError: it fails."""
        if check.kind == "fuzz":  # it proves what it finds by what it prints
            return _BASE_S / _SLACK
        if check.kind == "simulate":
            first, last, *acts = check.what.split()
            if int(last) > _STAND_FOR_ALL:
                few = " ".join(["1", str(_STAND_FOR_ALL), *acts])
                rate = self._trial(Check("simulate", few)) / _STAND_FOR_ALL
                return rate * (int(last) - int(first) + 1)
        with self._lock:
            trial = self._trials.setdefault(check.name, threading.Lock())
        with trial:
            if check.name not in self._took:
                began = time.monotonic()
                words = self._run(check, self.workshop.base, (), _BASE_S)
                assert words is None, f"{check.name} fails without a mutant: {words}"
                self._took[check.name] = time.monotonic() - began
            return self._took[check.name]

    def _run(self, check: Check, bench: Bench, files: tuple[str, ...], limit: float) -> str | None:
        native = any(file.startswith("native/") for file in files)
        match check.kind:
            case "programs":
                return self._programs(bench, check.what, limit)
            case "fuzz":
                return self._fuzz(bench, check.what, limit)
            case "pytest":
                self.workshop.provide(bench, "extension")
                if native:
                    bench.build_extension()
                return pytest_says(bench, check.what, limit)
        self.workshop.provide(bench, "simulator")
        first, last, *acts = check.what.split()
        count = int(last) - int(first) + 1
        return self._simulate(
            bench, limit, "--first", first, "--count", str(count), "--acts", *(acts or [""])
        )

    def _programs(self, bench: Bench, names: str, limit: float) -> str | None:
        self.workshop.provide(bench, "programs")
        bench.build_programs(*names.split())
        for program in bench.programs(*names.split()):
            words = ["native/tests/run.sh", str(program)]
            done = bench.run(words, limit)
            if done.status:  # once more: under load one that measures may fail by chance
                done = bench.run(words, limit)
            if done.status:
                failed = re.search(r"^FAILED [^/].*|^.*Assertion.*", done.output, re.MULTILINE)
                return f"{program.name}: {failed[0] if failed else done.output[-200:]}"
            if done.status is None:
                return f"{program.name} does not end"
        return None

    def _fuzz(self, bench: Bench, name: str, limit: float) -> str | None:
        words = ["make", "-s", "-C", "native", "fuzz", f"FUZZERS={name}"]
        done = bench.run([*words, f"FUZZ_SECONDS={_FUZZ_S}"], limit)
        if "Test unit written to" in done.output:
            return "an input"
        if not re.search(r"^\d+ passed, \d+ failed", done.output, re.MULTILINE):
            raise NotBuilt(done.output[-2000:])  # such as without clang, which says nothing
        return None

    def _simulate(self, bench: Bench, limit: float, *options: str) -> str | None:
        words = [sys.executable, "scripts/simulate", "--jobs", "1", "--stop-at", "1", *options]
        done = bench.run(words, limit)
        if done.status is None:
            return "does not end"
        if done.status == 0:
            return None
        if "error: " in done.output and "gcc" in done.output:
            raise NotBuilt(done.output[-2000:])
        found = re.search(r"^seed .*|^.*--seed .*", done.output, re.MULTILINE)
        return found[0] if found else done.output[-300:]


def pytest_says(bench: Bench, what: str, limit: float) -> str | None:
    """Which of these tests fails, twice.  One that does not fail again is left out of the rest."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    by_chance: list[str] = []
    while True:
        left = [f"--deselect={name}" for name in by_chance]
        done = bench.run([*words, *left, *what.split()], limit)
        if done.status is None:
            return "does not end"
        if done.status == 0 or (by_chance and done.status == _NO_TESTS):
            return None
        failed = names_of_failed(done.output)
        if not failed:
            return done.output[-300:]  # it could not even begin
        if bench.run([*words, failed[0]], limit).status != 0:
            return failed[0]
        by_chance.append(failed[0])
