"""Each page of the documentation is found from docs/index.md, and each link leads somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pages
import pytest

PAGES = pages.found()


def test_the_pages_are_found_by_looking() -> None:
    """Those of each folder, and none that a tool has made."""
    names = {pages.name(page) for page in PAGES}
    assert {"README.md", "docs/index.md", "docs/explanation/invariants.md"} <= names
    assert not [name for name in names if name.startswith((".", "build"))]


def test_each_page_below_docs_stands_in_the_index_once() -> None:
    """In an item of one line that begins with it, so that a new page is one line more."""
    below = [page for page in PAGES if pages.DOCS in page.parents and page != pages.INDEX]
    named = Counter((pages.DOCS / file).resolve() for file, _ in pages.links(pages.INDEX))
    assert {pages.name(page): named[page] for page in below} == dict.fromkeys(
        map(pages.name, below), 1
    )
    items = re.findall(r"^\* \[[^\]]+\]\(([^)]+)\): .+[.]$", pages.INDEX.read_text(), re.MULTILINE)
    assert {page.relative_to(pages.DOCS).as_posix() for page in below} <= set(items)


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_each_link_leads_somewhere(page: Path) -> None:
    """To a file or folder of this repository, and to a heading of that page."""
    for file, anchor in pages.links(page):
        where = (page.parent / file).resolve() if file else page
        assert where.exists() and where.is_relative_to(pages.ROOT), file
        assert not anchor or anchor in pages.anchors(where), (file, anchor)


def test_a_link_is_seen_in_each_form(tmp_path: Path) -> None:
    """None of another host, and none that is only shown."""
    page = tmp_path / "a.md"
    page.write_text(
        "# A `b`: c\n\n[x](y.md#z) and [two\nlines](#a-b-c), ![p](p.png), [by name][n]\n\n"
        "[n]: other.md\n\n`[no](no.md)` [out](https://example.com/#top)\n\n"
        "    [no](no.md)\n\n```\n# no\n[no](no.md)\n```\n\n## Again\n## Again\n"
    )
    assert pages.links(page) == [("y.md", "z"), ("", "a-b-c"), ("p.png", ""), ("other.md", "")]
    assert pages.anchors(page) == {"a-b-c", "again", "again-1"}


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_the_lines_of_a_page_are_as_short_as_those_of_the_code(page: Path) -> None:
    """But for the rows of tables, which have no other form, and for what is shown as it is."""
    lines = pages.unfenced(page.read_text()).splitlines()
    assert [one for one in lines if len(one) > 100 and not one.startswith(("|", "    "))] == []
