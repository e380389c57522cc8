"""What people read is plain English: whole sentences in the help, and no word that has to be
translated back, in the help, the errors and the pages."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mirror_core.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("systemd/*")]
# What is said instead: fix or repair; again; cleanly; an unclean shutdown; forever; restarts.
BANNED = re.compile(
    r"(?<![\w_])(mend(s|ed|ing)?|anew|in order(?! (to|that|of)\b)|(end|ended|stop) without order|"
    r"for ever|comes and goes|seldomer|cannot be meant)(?![\w_])",
    re.IGNORECASE,
)
# Modules that the record of simulated schedules counts for; their texts follow when it is through.
LATER = {
    "address",
    "book",
    "config",
    "control",
    "driver",
    "errors",
    "intent",
    "lastrun",
    "ledger",
    "lock",
    "metrics",
    "process",
    "promotion",
    "resync",
    "runlog",
    "second",
    "session",
    "site",
    "sockets",
    "stderr",
    "stores",
    "target",
}
SHORT = 68  # characters of a command's first sentence, as `flashmirror --help` shows it whole


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "flashmirror", cli
    yield from sorted((name, one) for name, one in cli.commands.items() if not one.hidden)


def helps() -> Iterator[tuple[str, str]]:
    """Where it stands, and the text: of each command, and of each option."""
    for name, command in commands():
        yield name, command.help or ""
        for option in command.params:
            if isinstance(option, click.Option):
                yield f"{name} {option.opts[-1]}", option.help or ""


def banned(text: str) -> list[str]:
    """The words that stand there, but for what is quoted as it is: code, names, other texts."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [found.group() for found in BANNED.finditer(re.sub(r"`[^`\n]*`|\"[^\"\n]*\"", "", text))]


def said(path: Path) -> Iterator[str]:
    """The texts of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_each_command_and_option_says_what_it_does_in_a_sentence() -> None:
    """It begins with a capital letter and ends with a full stop; the list of commands shows the
    first sentence whole."""
    for where, text in helps():
        paragraphs = inspect.cleandoc(text).split("\n\n")
        for paragraph in paragraphs:
            assert re.match(r"[A-Z`]", paragraph), (where, paragraph)
            assert re.search(r"[.](  \[default: .*\])?$", paragraph.strip()), (where, paragraph)
        if "--" not in where:
            assert len(paragraphs[0].split(".")[0]) <= SHORT, (where, paragraphs[0])


def test_no_help_has_a_word_that_is_to_be_translated_back() -> None:
    """In the help of no command and no option."""
    assert {where: found for where, text in helps() if (found := banned(text))} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_word_that_is_to_be_translated_back(page: Path) -> None:
    """README, what stands in docs/, and the comments of the units."""
    assert banned(page.read_text()) == []


def test_no_message_has_a_word_that_is_to_be_translated_back() -> None:
    """Errors, log lines, and what commands print; a module that is fixed leaves the list."""
    paths = [*ROOT.glob("mirror_core/**/*.py"), *ROOT.glob("plugin/*.py")]
    found = {path.stem for path in paths if any(map(banned, said(path)))}
    assert found == LATER
