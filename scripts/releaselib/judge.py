"""What a log says of a run: how many tests, and whether it is what README promises."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

_PYTEST = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s(?: \([\d:]+\))?(?: =+)?$", re.M)
_NATIVE = re.compile(r"^(\d+) passed, (\d+) failed$", re.M)
_DEMO = re.compile(r"^All (\d+) checks hold\.$", re.M)
_SKIPPED = re.compile(r"^SKIPPED (?:\[\d+\] )?(\S+)(?: - Skipped)?: (.*)$", re.M)
_NOT_BY_ROOT = ("needs /dev/", "this kernel has no device mapper")
_WHOLE = re.compile(r"^make test: all parts passed: (.*)$", re.M)
REFUSES_DEMO = "make demo: mounts a file system, which needs root: run 'sudo make demo'"
_PACKAGES = re.compile(r"^missing packages: run 'sudo (apt-get install [\w .+-]+)', then", re.M)


def counts(text: str) -> dict[str, int]:
    found: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    for summary in _PYTEST.findall(text):
        for number, word in re.findall(r"(\d+) ([a-z]+)", summary):
            if word in ("passed", "failed", "skipped", "error", "errors"):
                found["failed" if word.startswith("error") else word] += int(number)
    for passed, failed in _NATIVE.findall(text):
        found["passed"] += int(passed)
        found["failed"] += int(failed)
    found["passed"] += sum(map(int, _DEMO.findall(text)))
    return dict(found)


def demo(status: int, text: str) -> tuple[int, dict[str, Any]]:
    return _judged(status, text, "" if _DEMO.search(text) else "its proof does not hold")


def demo_refused(status: int, text: str) -> tuple[int, dict[str, Any]]:
    """To who is not root it says so, in its first line."""
    wrong = "" if status and text.startswith(REFUSES_DEMO) else "does not say that it needs root"
    return _judged(0, text, wrong)


def as_root(status: int, text: str) -> tuple[int, dict[str, Any]]:
    return _judged(status, text, _wrong(text, _NOT_BY_ROOT))


def as_user(status: int, text: str) -> tuple[int, dict[str, Any]]:
    """Nine tenths are run, the C core, the units and the simulator among them."""
    wrong = _wrong(text, ("needs root: ", *_NOT_BY_ROOT))
    found = counts(text)
    if not wrong and found["skipped"] * 10 > sum(found.values()):
        wrong = f"{found['skipped']} of {sum(found.values())} are skipped"
    if not wrong and "\nmake test: not root" not in f"\n{text}":
        wrong = "does not say first what needs root"
    if not wrong and re.search(r"^SKIPPED .*tests/test_sim", text, re.M):
        wrong = "skips the simulator"
    return _judged(status, text, wrong)


def packages(text: str) -> str:
    """The command that installs what is missing, as who is not root is told; "": he is not."""
    found = _PACKAGES.search(text)
    return found[1] if found else ""


def _wrong(text: str, reasons: tuple[str, ...]) -> str:
    parts = _WHOLE.search(text)
    if not parts or not {"test-native", "test-python", "test-alone"} <= set(parts[1].split()):
        return "not all parts passed"
    skipped = _SKIPPED.findall(text)
    if len(skipped) != (said := counts(text)["skipped"]):
        return f"{said} are skipped, and {len(skipped)} named"
    odd = [name for name, why in skipped if not why.startswith(reasons)]
    return f"skipped for no known reason: {', '.join(odd)}" if odd else ""


def _judged(status: int, text: str, wrong: str) -> tuple[int, dict[str, Any]]:
    found = counts(text)
    if found["failed"] and not wrong:
        wrong = "some failed"
    verdict = wrong or ("passed" if status == 0 else f"exit status {status}")
    numbers = ", ".join(f"{number} {word}" for word, number in found.items())
    return status or (1 if wrong else 0), {"counts": found, "verdict": f"{verdict} ({numbers})"}
