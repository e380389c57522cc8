"""CONTRIBUTING.md and SECURITY.md name what is there: files, targets, scripts and their options,
tests, planted faults, what a violation says, the fields of the evidence; and the changelog has its
form."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache

import pages
import pytest
from faults import NotPlanted, named
from pages import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BOTH = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "SECURITY.md")}
MADE = re.compile(r"(native/)?build(-\w+)?/|/tmp/|/dev/|\.venv/")  # by a build, or by who types it
PROGRAMS = {"cp", "flashmirror"}  # that need no look here


def section(title: str) -> str:
    found = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, title
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each, in blocks and between backquotes."""
    lines = [line for block in pages.blocks(pages.unfenced(text)) for line in block.splitlines()]
    lines += [one for one in pages.quoted(text) if re.match(r"(make|scripts/\w+|\.venv/\S+) ", one)]
    return [shlex.split(line, comments=True) for line in lines]


@cache
def options(script: str) -> set[str]:
    """Of one of scripts/."""
    words = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return set(re.findall(r"--[a-z-]+", done.stdout))


def targets(makefile: str) -> set[str]:
    text = (ROOT / makefile).read_text()
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE))


def check_make(words: list[str]) -> None:
    """Each target is one, and each variable is of use."""
    file = "native/Makefile" if words[:2] == ["-C", "native"] else "Makefile"
    words = words[2:] if file != "Makefile" else words
    text = (ROOT / file).read_text() + (ROOT / "native/tests/fuzz.sh").read_text()
    for word in words:
        variable, is_set, value = word.partition("=")
        assert re.search(rf"\b{variable}\b", text) if is_set else word in targets(file), word
        for program in value.split() if variable in ("TESTS", "FUZZERS") else ():
            kind = "test" if variable == "TESTS" else "fuzz"
            assert (ROOT / f"native/tests/{kind}_{program}.c").exists(), word


def check_script(script: str, words: list[str]) -> None:
    """It is there and has these options; what is planted or looked for by name is a fault, and
    what it reads or lists is a file."""
    assert (ROOT / script).exists(), script
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option.startswith("--"):
            assert option in options(script), (script, option)
        if option in ("--only", "--plant") and re.fullmatch(r"\w*_\w*", value):
            assert named(value)
        if option == "--file":
            assert (ROOT / value).exists(), value


def check_pytest(words: list[str]) -> None:
    """The files are there, and each has a test whose name holds what `-k` asks for."""
    files = [ROOT / word for word in words if word.startswith("tests/")]
    asked = words[words.index("-k") + 1] if "-k" in words else ""
    assert files and all(re.search(rf"def test_\w*{asked}", file.read_text()) for file in files)


def check(words: list[str]) -> None:
    program, *rest = words
    if program == "FLASHMIRROR_SOAK=10":
        program, *rest = rest
    if program == "make":
        check_make(rest)
    elif program.startswith("scripts/"):
        check_script(program, rest)
    elif program == ".venv/bin/pytest":
        check_pytest(rest)
    elif program == ".venv/bin/ruff":
        assert rest == ["format", "."]
    elif not program.startswith("native/build-fuzz/fuzz_"):
        assert program in PROGRAMS, words


@pytest.mark.parametrize("page", BOTH)
def test_each_command_is_one(page: str) -> None:
    """Target, script, option, file, test and planted fault."""
    found = commands(BOTH[page])
    for words in found:
        check(words)
    assert len(found) > 20 or page != "CONTRIBUTING.md"


def test_a_command_that_is_none_is_noticed() -> None:
    """In each part of it."""
    for line in (
        "make no-such",
        "make -C native no-such",
        "make -C native check TESTS=no_such",
        "make test NO_SUCH=1",
        "scripts/no-such --only I5",
        "scripts/mutants --no-such",
        "scripts/simulate --plant NO_SUCH",
        "scripts/mutants --file native/none.c",
        ".venv/bin/pytest tests/test_none.py",
        ".venv/bin/pytest tests/test_maps.py -k no_such",
        "no-such program",
    ):
        (words,) = commands(f"    {line}\n")
        try:
            check(words)
        except (AssertionError, NotPlanted, FileNotFoundError):
            continue
        pytest.fail(line)


@pytest.mark.parametrize("page", BOTH)
def test_each_file_and_test_is_there(page: str) -> None:
    """What stands between backquotes with a slash in it, and where a command is given a file."""
    spans = {one.split(" ")[0] for one in pages.quoted(BOTH[page])}
    files = {one for one in spans if re.fullmatch(r"\.?[\w-]+(/[\w.-]*)+", one)}
    files |= {one for one in spans if re.fullmatch(r"[\w.-]+\.(md|py|c|h|toml|jsonl)", one)}
    files -= {"chaos.log"}
    typed = (word for words in commands(BOTH[page]) for word in words[1:] if "/" in word)
    files |= {word for word in typed if re.fullmatch(r"[\w./-]+", word)}
    mine = {one for one in files if not MADE.match(one)}
    assert mine and [one for one in sorted(mine) if not (ROOT / one).exists()] == []


EXAMPLES = re.findall(
    r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", section("Add something"), re.MULTILINE | re.DOTALL
)


def test_there_is_an_example_of_each_thing_that_can_be_added() -> None:
    """A command, a metric, a setting, a field of a file and of the wire, an invariant."""
    kinds = [head.partition(":")[0] for head, _ in EXAMPLES]
    assert kinds == [
        "A command",
        "A metric",
        "A setting",
        "A field of a durable file",
        "A field of the wire",
        "An invariant",
    ]


@pytest.mark.parametrize(("head", "text"), EXAMPLES, ids=[head for head, _ in EXAMPLES])
def test_each_file_of_an_example_has_it(head: str, text: str) -> None:
    """By one of its names; and what else an item names stands in one of its files."""
    names = "(?<![a-z])(" + "|".join(map(re.escape, pages.quoted(head))) + ")(?![a-z])"
    items = re.findall(r"^\* (.*?)(?=^\* |^\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(items) > 4
    for item in items:
        before, _, after = item.partition(":")
        texts = [(ROOT / file).read_text() for file in pages.quoted(before)]
        assert texts and all(re.search(names, one) for one in texts), (head, item)
        for word in pages.quoted(after):
            parts = re.findall(r"\w+", word)
            assert any(all(part in one for part in parts) for one in texts) or word.startswith(
                "status "
            ), (head, word)


def test_the_fault_that_is_shown_is_one() -> None:
    """As it stands in its file, and caught by the checks that are named."""
    (shown,) = re.findall(r"^```\n(    Fault\(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    files = [path.read_text() for path in (ROOT / "tests/faults").glob("*.py")]
    assert any(shown in text for text in files)


def test_what_a_violation_says_is_said_there() -> None:
    """Each phrase of the table stands in the file beside it."""
    rows = re.findall(r"^\| (`.+?) \| `(tests/sim/\w+\.py)` \|", TEXT, re.MULTILINE)
    assert len(rows) > 10
    for phrases, file in rows:
        for phrase in pages.quoted(phrases):
            assert phrase in (ROOT / file).read_text(), (phrase, file)


def test_what_the_programs_print_is_what_the_page_says() -> None:
    """Words of scripts/mutants, of a fuzzer, of hypothesis and of chaos."""
    for phrase, file in (
        ("NOT CAUGHT", "scripts/mutants"),
        ("NOT PLANTED", "scripts/mutants"),
        ("Test unit written to", "scripts/mutantslib/ladder.py"),
        ("FAILURE:", "scripts/chaoslib/record.py"),
        ("no violation", "tests/sim/report.py"),
    ):
        assert phrase in pages.quoted(TEXT) or f"`{phrase}`" in TEXT, phrase
        assert phrase in (ROOT / file).read_text(), (phrase, file)


def test_the_evidence_has_the_fields_that_the_page_names() -> None:
    """In each line, these and no other."""
    items = re.findall(r"^\* `(tests/evidence/\w+\.jsonl)`: (.*?)\.$", TEXT, re.M | re.DOTALL)
    assert {file for file, _ in items} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "tests/evidence").iterdir()
    }
    for file, said in items:
        for line in (ROOT / file).read_text().splitlines():
            assert set(json.loads(line)) == set(pages.quoted(said)), line[:200]


def test_the_changelog_has_its_form() -> None:
    """Of Keep a Changelog: what is not released first, and under it kinds of changes in order."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "[Unreleased]"
    kinds = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    for release in text.split("\n## ")[1:]:
        found = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert found and found == [kind for kind in kinds if kind in found]
    lines = [line for line in text.partition("\n### ")[2].splitlines() if line]
    assert [one for one in lines if not re.match(r"- \S|  \S|#+ |[A-Z][\w ,]+:$|\[", one)] == [
        "Added"
    ]
