"""docs/glossary.md and docs/explanation/architecture.md name what is there: what a running pair
shows has a word, and each name of a word stands in the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from entries import ROOT, Entry, entries, quoted, refuse_unknown_files, text_of
from pair import Pair, one_that_runs
from shown import THERE

GLOSSARY = ROOT / "docs/glossary.md"
PAGES = (GLOSSARY, ROOT / "docs/explanation/architecture.md")
ITEMS = ("field", "shown", "code", "also")  # in this order
PARTLY = {"wire", "command"}  # of which not each needs a word


def words() -> list[Entry]:
    return entries(GLOSSARY.read_text())


def shown() -> dict[str, set[str]]:
    """The names of all words, by their kind (status, metric, ...); what stands in brackets beside
    one is a remark."""
    found: dict[str, set[str]] = {}
    for entry in words():
        for part in filter(None, re.sub(r" \([^)]*\)", "", entry.item("shown")).split(";")):
            kind, _, names = part.strip().partition(" ")
            assert re.fullmatch(r"(`[^`]+`,? ?)+\.?", names), (entry.word, part)
            found.setdefault(kind, set()).update(quoted(names))
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[Pair]:
    """One of its own: other tests take away what they find in the folder of maps."""
    with one_that_runs() as pair:
        yield pair


def test_each_word_stands_once_in_alphabetical_order() -> None:
    """Each says what it is and what the field calls it, or only where to look."""
    heads = [entry.word for entry in words()]
    assert len(heads) > 100
    assert heads == sorted(set(heads), key=str.casefold)
    for entry in words():
        said, names = entry.text.strip(), [name for name, _ in entry.items()]
        if re.fullmatch(r"See \[[\w ]+\]\(#[\w-]+\)\..*", said, re.DOTALL):
            assert not names, entry.word
            continue
        assert names == [name for name in ITEMS if name in names], (entry.word, names)
        assert names[0] == "field" and not said.startswith("*"), entry.word


def test_each_kind_of_name_is_one_that_is_looked_for() -> None:
    """None escapes the next test."""
    assert shown().keys() == THERE.keys()


@pytest.mark.parametrize("kind", THERE)
def test_each_name_of_a_word_is_there_and_what_is_there_has_a_word(
    running: Pair, kind: str
) -> None:
    """The keys of `status`, the metrics, the fields of the ledger, the files of the state folders
    and so on of a pair that runs are those that the glossary names."""
    there, named = THERE[kind](running), shown()[kind]
    assert there and named <= there, named - there
    assert kind in PARTLY or there <= named, there - named


def test_each_word_is_where_the_glossary_says_that_it_is_in_the_code() -> None:
    """`FILE: NAME, NAME`: the file is there, and each name stands in it."""
    count = 0
    for entry in words():
        if not (said := entry.item("code")):
            continue
        places = quoted(said)
        assert places, entry.word
        for place in places:
            file, _, names = place.partition(":")
            text = text_of(file)
            for name in filter(None, map(str.strip, names.split(","))):
                assert re.search(rf"\b{re.escape(name)}\b", text), (entry.word, file, name)
                count += 1
    assert count > 100


def words_of_the_code() -> set[str]:
    sources = {*(ROOT / "mirror_core").rglob("*.py"), *(ROOT / "native").glob("*.[ch]")}
    sources -= {ROOT / "native/_native.c"}  # which the build makes
    return {word for path in sources for word in re.findall(r"\w+", path.read_text())}


def test_each_other_meaning_of_a_word_is_one_of_the_code() -> None:
    """Each name in backquotes that is no file stands somewhere in the code."""
    there, count = words_of_the_code(), 0
    for entry in words():
        for said in quoted(entry.item("also")):
            names = [] if "/" in said else re.findall(r"[A-Za-z_]\w{2,}", said)
            assert there.issuperset(names), (entry.word, said)
            count += len(names)
    assert count > 50


def test_each_name_in_the_architecture_is_one_of_the_code() -> None:
    """Those in backquotes, of functions, fields and settings of more than one word."""
    text = re.sub(r"^```.*?^```$", "", PAGES[1].read_text(), flags=re.MULTILINE | re.DOTALL)
    said = " ".join(one for one in quoted(text) if "/" not in one)
    names = set(re.findall(r"\w*[a-z]_[a-z]\w*", re.sub(r"\w+\.py", "", said)))
    assert len(names) > 10
    assert names <= words_of_the_code(), names - words_of_the_code()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_file_that_the_pages_name_is_one(page: Path) -> None:
    """Each module or file in backquotes.  (Links: test_pages.py.)"""
    assert refuse_unknown_files(page) > 5
