"""The Markdown pages of this repository, found by looking: their text, their links, their headings.

Left out: HTML in a page, and whether a link to another host leads anywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
_NOT_OURS = re.compile(r"\.|build(-|$)|__pycache__$|.*\.egg-info$")  # made by a tool
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
# Behind an empty line, or at the beginning: else it goes on with a paragraph.
_INDENTED = re.compile(r"(?:(?<=\n\n)|(?<=\n)(?<![\s\S]\n)|\A)(?:    .*\S.*\n)+")
_QUOTED = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\1(?!`)", re.DOTALL)


def found() -> list[Path]:
    """All of them."""

    def below() -> Iterator[Path]:
        for folder, folders, files in os.walk(ROOT):
            folders[:] = [name for name in folders if not _NOT_OURS.match(name)]
            yield from (Path(folder) / name for name in files if name.endswith(".md"))

    return sorted(below())


def name(page: Path) -> str:
    """Of a test's case."""
    return str(page.relative_to(ROOT))


def unfenced(text: str) -> str:
    return _FENCED.sub("", text)


def blocks(text: str) -> list[str]:
    """What is indented, as commands are."""
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in _INDENTED.findall(text)]


def quoted(text: str) -> list[str]:
    """What stands between backquotes in the text; a line may end within."""
    spans = (found[0].strip("`") for found in _QUOTED.finditer(unfenced(text)))
    return [re.sub(r"\s+", " ", span) for span in spans]


def links(page: Path) -> list[tuple[str, str]]:
    """Of each link of a page to this repository: the file ("": this page), and the heading."""
    text = _QUOTED.sub("", _INDENTED.sub("", unfenced(page.read_text())))
    inline = re.findall(r"\]\(\s*<?([^)\s>]*)", text)
    named = re.findall(r"^ *\[[^\]]+\]: *<?([^\s>]+)", text, re.MULTILINE)
    ours = (one for one in (*inline, *named) if not re.match(r"[a-z]+:", one))
    return [(file, anchor) for file, _, anchor in (one.partition("#") for one in ours)]


def anchors(page: Path) -> set[str]:
    """As a reader of Markdown makes them of headings; the second of one name has a number."""
    made: list[str] = []
    for head in re.findall(r"^#+ +(.*?) *#*$", unfenced(page.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)
        made.append(re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-"))
    counts = [made[:at].count(one) for at, one in enumerate(made)]
    return {f"{one}-{n}" if n else one for one, n in zip(made, counts, strict=True)}
