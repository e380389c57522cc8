"""What the README tells a newcomer to type, typed as it stands there; and each page names commands
and settings that there are."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path

import pages
import pytest
from handmade import flashmirror
from pages import ROOT, blocks
from pair import FLASHMIRROR

from mirror_core import config
from mirror_core.cli import cli

PAGES = pages.found()
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def play(folder: Path) -> tuple[list[str], list[str]]:
    """Of "A pair to play with": how it begins, and how it is mounted through FUSE; in another
    folder, without the build (this is one), and each look once."""
    begin, _, fuse = blocks(section("A pair to play with"))[:3]
    replaced = [
        block.replace("/tmp/pair", str(folder / "pair"))
        .replace("/tmp/dev", str(folder / "dev"))
        .replace(" /mnt", f" {folder}/mnt")
        .replace(" --watch", "")
        for block in (begin, fuse)
    ]
    lines, more = (block.splitlines() for block in replaced)
    assert lines[0].startswith("make build; ") and lines[1].startswith("flashmirror init ")
    assert more[1].startswith("nbdfuse ") and more[-1].startswith("mkfs.ext4 ")
    return lines[1:], more


def typed(*lines: str) -> str:
    """Into one shell; what it prints."""
    path = f"{FLASHMIRROR.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    with tempfile.TemporaryFile("w+") as said:  # what goes on in the background keeps it open
        done = subprocess.run(
            ["sh", "-e"],
            input="\n".join(lines),
            env={**os.environ, "PATH": path},
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        said.seek(0)
        text = said.read()
    assert done.returncode == 0, text
    return text


def test_the_commands_for_a_pair_to_play_with_do_what_they_say(scratch: Path) -> None:
    """Both sites run after them, and `sync`, `pause` and `resume` work as told below them."""
    begin, _ = play(scratch)
    east = f"{scratch}/pair/east.toml"
    try:
        said = typed(
            *begin,
            f"flashmirror sync {east}",
            f"flashmirror pause {east}",
            f"flashmirror resume {east}",
        )
        assert "is whole at the target" in said and "paused" in said
    finally:
        for site in ("east", "west"):
            flashmirror("stop", f"{scratch}/pair/{site}.toml")


@pytest.mark.root("mounts through FUSE and a loop device", "/dev/fuse", "/dev/loop-control")
def test_the_way_through_fuse_works_as_typed(scratch: Path) -> None:
    """A file system is made and mounted; what README says of its end frees all of it."""
    begin, fuse = play(scratch)
    (scratch / "mnt").mkdir()
    try:
        typed(*begin, *fuse, f"echo here >{scratch}/mnt/file; sync -f {scratch}/mnt")
        assert (scratch / "mnt/file").read_text() == "here\n"
        assert "`umount -l /mnt` and `fusermount3 -u /tmp/dev`" in README
    finally:
        freed = [
            subprocess.run([*words, str(folder)], check=False).returncode
            for words, folder in (
                (("umount", "-l"), scratch / "mnt"),
                (("fusermount3", "-u"), scratch / "dev"),
            )
        ]
        for site in ("east", "west"):
            flashmirror("stop", f"{scratch}/pair/{site}.toml")
    assert freed == [0, 0]


def test_the_configuration_of_the_readme_is_accepted_and_names_the_defaults(
    tmp_path: Path,
) -> None:
    """What stands behind a # is what holds without it; and no page has a setting that there is
    not."""
    text = README.partition("```toml\n")[2].partition("```")[0]
    site = tmp_path / "east.toml"
    site.write_text(text)
    found = config.load(str(site))
    spelt, count = re.subn(r'^# (\w+ = (?:"[^"]*"|\w+))', r"\1 #", text, flags=re.MULTILINE)
    assert count >= 10
    site.write_text(spelt)
    assert replace(config.load(str(site)), digest=found.digest) == found
    for page in PAGES:
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
            table = tomllib.loads(block)
            assert table.keys() <= config._SETTINGS, (page.name, table)


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_each_command_that_a_page_names_is_one(page: Path) -> None:
    """In its blocks and between backquotes; and so is each option that stands behind it."""
    text = page.read_text()
    quoted = [*re.findall(r"`(flashmirror [^`]+)`", text), *"\n".join(blocks(text)).splitlines()]
    seen = 0
    for line in quoted:
        for name, rest in re.findall(r"\bflashmirror ([a-z]+(?:-[a-z]+)*)\b([^#;|&)\"]*)", line):
            if f"flashmirror: {name}" in line or "=" in name:
                continue
            command = cli.commands.get(name)
            assert command, (page.name, line)
            known = {option for one in command.params for option in one.opts}
            for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
                assert option in known, (page.name, line)
            seen += 1
    assert seen or not re.search(r"(^    |`)flashmirror [a-z]", text, re.MULTILINE)
