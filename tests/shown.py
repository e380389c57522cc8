"""The names that a running pair shows, and those that stand in the code, by their kind: keys of the
status, metrics, fields of the ledger, files, and so on.  Pages of docs/ are compared with them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from entries import ROOT, text_of
from handmade import scrape
from pair import Pair

from mirror_core import config, durable, ledger, mapfile, protocol, server_instance
from mirror_core.cli import cli

SITES = ("east", "west")


def keys(record: Any, before: str = "") -> Iterator[str]:
    """Of a record and those in it: `cycle`, `cycle.phase`; of a list those of its members."""
    return (key for key, _ in values(record, before))


def values(record: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """The same, with what stands there."""
    if isinstance(record, list):
        for one in record:
            yield from values(one, before)
    elif isinstance(record, dict):
        for key, value in record.items():
            yield before + key, value
            yield from values(value, f"{before}{key}.")


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
    running = ast.walk(ast.parse(text_of("mirror_core/status.py")))
    found = {
        word
        for node in running
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "state"
        for word in constants(node.value)
    }
    stopped = re.search(r'^        "state": "(\w+)"', text_of("mirror_core/cli/seeing.py"), re.M)
    assert stopped
    return found | {stopped[1]}


def phases(_: Pair) -> set[str]:
    """Of `cycle.phase`, as the control of a source sets them."""
    text = text_of("mirror_core/driver.py")
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


THERE: dict[str, Callable[[Pair], set[str]]] = {
    "status": status_keys,
    "state": states,
    "phase": phases,
    "metric": metrics,
    "ledger": ledger_keys,
    "map": maps,
    "file": files,
    "setting": settings,
    "wire": wire,
    "command": commands,
}
