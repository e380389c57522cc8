"""docs/glossary.md and docs/explanation/architecture.md name what is there: what a running pair
shows has a word, and each name of a word stands in the code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from handmade import scrape
from pair import Pair, one_that_runs

from mirror_core import config, durable, ledger, mapfile, protocol, server_instance
from mirror_core.cli import cli

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs/glossary.md"
PAGES = (GLOSSARY, ROOT / "docs/explanation/architecture.md")
ITEMS = ("field", "shown", "code", "also")  # in this order
SITES = ("east", "west")


@dataclass(frozen=True)
class Entry:
    word: str
    text: str

    def items(self) -> list[tuple[str, str]]:
        """What stands under the word, each in one line."""
        found = re.findall(r"^\* (\w+): (.*(?:\n  .*)*)", self.text, re.MULTILINE)
        return [(name, re.sub(r"\s+", " ", said)) for name, said in found]

    def item(self, name: str) -> str:
        return dict(self.items()).get(name, "")


def entries() -> list[Entry]:
    _, *parts = re.split(r"^### ", GLOSSARY.read_text(), flags=re.MULTILINE)
    return [Entry(*part.split("\n", 1)) for part in parts]


def shown() -> dict[str, set[str]]:
    """The names of all words, by their kind (status, metric, ...); what stands in brackets beside
    one is a remark."""
    found: dict[str, set[str]] = {}
    for entry in entries():
        for part in filter(None, re.sub(r" \([^)]*\)", "", entry.item("shown")).split(";")):
            kind, _, names = part.strip().partition(" ")
            assert re.fullmatch(r"(`[^`]+`,? ?)+\.?", names), (entry.word, part)
            found.setdefault(kind, set()).update(re.findall(r"`([^`]+)`", names))
    return found


def keys(record: Any, before: str = "") -> Iterator[str]:
    """Of a record and those in it: `cycle`, `cycle.phase`; of a list those of its members."""
    if isinstance(record, list):
        for one in record:
            yield from keys(one, before)
    elif isinstance(record, dict):
        for key, value in record.items():
            yield before + key
            yield from keys(value, f"{before}{key}.")


# ---- what there is, by kind


def status_keys(pair: Pair) -> set[str]:
    return {key for site in SITES for key in keys(pair.status(site))}


def metrics(pair: Pair) -> set[str]:
    """Those of Python's own client library for itself are none of ours."""
    texts = (scrape(pair, site) for site in SITES)
    return {
        name for text in texts for name in re.findall(r"^# TYPE (flashmirror_\w+) ", text, re.M)
    }


def folders(pair: Pair) -> list[Path]:
    """The state folders."""
    return [config.load(str(pair.toml(site))).state for site in SITES]


def ledgers(pair: Pair) -> list[dict[str, Any]]:
    """The heads of both."""
    found = [ledger.path_in(state).read_bytes().split(b"\n")[1] for state in folders(pair)]
    return [json.loads(head) for head in found]


def ledger_keys(pair: Pair) -> set[str]:
    return {key for head in ledgers(pair) for key in keys({**head, "maps": None})} - {"maps"}


def maps(_: Pair) -> set[str]:
    """Of the ledger, as the code calls them."""
    texts = (path.read_text() for path in (ROOT / "mirror_core").glob("*.py"))
    return {name for text in texts for name in re.findall(r'f"{\w+(?:\.name)}/(\w+)"', text)}


@pytest.fixture(scope="module")
def running() -> Iterator[Pair]:
    """One of its own: other tests take away what they find in the folder of maps."""
    with one_that_runs() as pair:
        yield pair


def files(pair: Pair) -> set[str]:
    """Of the state folders, and of the folders of maps; that of a server stands there only where a
    store is behind one.  What is just being written is none yet."""
    names = [path.name for state in folders(pair) for path in state.iterdir()]
    for head in ledgers(pair):
        known = [p.name for folder in mapfile.folders() for p in folder.glob(f"{head['site']}-*")]
        names += [name.replace(head["site"], "SITE") for name in known]
    volume = pair.status()["volumes"][0]["name"]
    general = (re.sub("[0-9a-f]{32}", "RUN", re.sub(rf"\b{volume}\b", "VOLUME", n)) for n in names)
    whole = {name for name in general if not name.endswith(durable.FRESH)}
    return whole | {server_instance.path_in(Path()).name}


def constants(node: ast.AST) -> set[str]:
    return {
        one.value
        for one in ast.walk(node)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }


def states(_: Pair) -> set[str]:
    """Of `state` in the status of a site that runs (status.py), and of one that does not."""
    running = ast.walk(ast.parse((ROOT / "mirror_core/status.py").read_text()))
    found = {
        word
        for node in running
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "state"
        for word in constants(node.value)
    }
    stopped = re.search(r'^        "state": "(\w+)"', _text("mirror_core/cli/seeing.py"), re.M)
    assert stopped
    return found | {stopped[1]}


def phases(_: Pair) -> set[str]:
    """Of `cycle.phase`, as the control of a source sets them."""
    text = _text("mirror_core/driver.py")
    return set(re.findall(r'(?:_phase\(|Progress\(self\.progress\.sequence, )"(\w+)"', text))


def wire(_: Pair) -> set[str]:
    """Each record by its operation, or, of an answer, by its name; and its fields."""
    found = set()
    for kind, (operation, table) in protocol._TABLES.items():
        name = operation or kind.__name__.lower()
        found |= {name, *(f"{name}.{key}" for key in table.keys(protocol.VERSION))}
    return found


def settings(_: Pair) -> set[str]:
    return set(config._SETTINGS | config._OF_A_VOLUME)


def commands(_: Pair) -> set[str]:
    return {name for name, command in cli.commands.items() if not command.hidden}


def _text(file: str) -> str:
    return (ROOT / file).read_text()


THERE: dict[str, Callable[[Pair], set[str]]] = {
    "status": status_keys, "state": states, "phase": phases, "metric": metrics,
    "ledger": ledger_keys, "map": maps, "file": files, "setting": settings, "wire": wire,
    "command": commands,
}  # fmt: skip
PARTLY = {"wire", "command"}  # of which not each needs a word


def test_each_word_stands_once_in_alphabetical_order() -> None:
    """Each says what it is and what the field calls it, or only where to look."""
    words = [entry.word for entry in entries()]
    assert len(words) > 100
    assert words == sorted(set(words), key=str.casefold)
    for entry in entries():
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
    for entry in entries():
        if not (said := entry.item("code")):
            continue
        places = re.findall(r"`([^`]+)`", said)
        assert places, entry.word
        for place in places:
            file, _, names = place.partition(":")
            text = _text(file)
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
    for entry in entries():
        for said in re.findall(r"`([^`]+)`", entry.item("also")):
            names = [] if "/" in said else re.findall(r"[A-Za-z_]\w{2,}", said)
            assert there.issuperset(names), (entry.word, said)
            count += len(names)
    assert count > 50


def test_each_name_in_the_architecture_is_one_of_the_code() -> None:
    """Those in backquotes, of functions, fields and settings of more than one word."""
    text = re.sub(r"^```.*?^```$", "", PAGES[1].read_text(), flags=re.MULTILINE | re.DOTALL)
    said = " ".join(one for one in re.findall(r"`([^`]+)`", text) if "/" not in one)
    names = set(re.findall(r"\w*[a-z]_[a-z]\w*", re.sub(r"\w+\.py", "", said)))
    assert len(names) > 10
    assert names <= words_of_the_code(), names - words_of_the_code()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_file_that_the_pages_name_is_one(page: Path) -> None:
    """Each module or file in backquotes.  (Links: test_pages.py.)"""
    names = re.findall(r"`([\w/]+\.(?:py|[ch]))\b[^`]*`", page.read_text())
    assert len(names) > 5
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "mirror_core" / name).exists(), name
