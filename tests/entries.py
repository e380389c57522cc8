"""Pages of docs/ that are lists: what stands under a heading of theirs.

An entry is a heading of the third level; under its text stand items, `* NAME: ...`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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


def entries(text: str) -> list[Entry]:
    """Each up to the next heading."""
    found = re.split(r"^(#+) (.*)\n", text, flags=re.MULTILINE)[1:]
    heads = zip(found[::3], found[1::3], found[2::3], strict=True)
    return [Entry(word, below) for level, word, below in heads if level == "###"]


def section(page: Path, title: str) -> str:
    """What stands below a heading of the second level, up to the next."""
    found = re.split(r"^## (.*)\n", page.read_text(), flags=re.MULTILINE)[1:]
    sections = dict(zip(found[::2], found[1::2], strict=True))
    return sections[title]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables there, without the heads."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        found += [re.split(r" *(?<!\\)\| *", row)[1:-1] for row in table.splitlines()[2:]]
    return found


def quoted(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", text)


def text_of(file: str) -> str:
    """Of a file of the checkout."""
    return (ROOT / file).read_text()


def refuse_unknown_files(page: Path) -> int:
    """Each module or file of the code in backquotes is one; how many there are."""
    names = re.findall(r"`([\w/]+\.(?:py|[ch]))\b[^`]*`", page.read_text())
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "mirror_core" / name).exists(), name
    return len(names)
