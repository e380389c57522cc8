"""docs/reference/ says what is there: each page is compared, both ways, with the code, with what is
read and written, or with a pair that runs."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import math
import os
import re
import select
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from entries import (
    ROOT,
    Entry,
    entries,
    quoted,
    refuse_unknown_files,
    rows,
    section,
    text_of,
)
from handmade import ROLES, flashmirror, scrape, state_of
from pair import Pair, one_not_started, one_that_runs
from referencelib import PAGE, page_with
from shown import SITES, THERE, constants, folders, keys, ledger_keys, ledgers, values

from mirror_core import (
    config,
    connections,
    control,
    holders,
    intent,
    launch,
    ledger,
    limits,
    lock,
    mapfile,
    pki,
    process,
    promotion,
    protocol,
    runlog,
    server_instance,
    stores,
)
from mirror_core.address import CERTIFICATES, PSK_USER, Tls
from mirror_core.address import KEYS as SECRETS
from mirror_core.cli.seeing import get_status
from mirror_core.config import SiteConfig
from mirror_core.errors import ConfigError, LedgerError, MirrorError
from mirror_core.fields import (
    FLAG,
    LIST,
    NUMBER,
    SECONDS,
    TEXT,
    Field,
    Kind,
    Table,
    one_of,
)
from mirror_core.units import parse_rate, parse_size

REFERENCE = ROOT / "docs/reference"
PAGES = sorted(REFERENCE.glob("*.md"))
PLACES = ("source", "target", "stopped source", "stopped target")


@dataclass(frozen=True)
class Life:
    """A pair, and what its sites have said of themselves on the way to where they mirror: of each
    status its place, and of each scrape."""

    pair: Pair
    said: list[tuple[str, dict[str, Any]]]
    scraped: list[tuple[str, str]]

    def look(self) -> None:
        for site in SITES:
            record = get_status(config.load(str(self.pair.toml(site))))
            if record["state"] == "stopped":
                self.said.append((f"stopped {record['role']}", record))
            else:
                self.said.append((record["role"], record))
                self.scraped.append((record["role"], scrape(self.pair, site)))


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    """From its creation on: stopped, alone, mirroring, stopped again, and now it mirrors.  One of
    its own: other tests take away what they find in the folder of maps."""
    with one_not_started() as pair:
        life = Life(pair, [], [])
        life.look()
        for site in SITES:
            pair.start(site)
            life.look()
        pair.sync()
        life.look()
        pair.stop()
        life.look()
        pair.start()
        pair.sync()
        life.look()
        assert keys_of(pair.status()) == keys_of(life.said[-2][1])  # as the command prints it
        yield life


def keys_of(record: dict[str, Any]) -> list[str]:
    return list(keys(record))


@pytest.fixture(scope="module")
def running(life: Life) -> Pair:
    return life.pair


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_file_that_a_page_names_is_one(page: Path) -> None:
    """And each page says on top what checks it.  (Links: test_pages.py.)"""
    refuse_unknown_files(page)
    assert "`tests/test_reference.py`" in page.read_text().split("\n\n")[1]


# ---- commands.md


def test_the_page_of_the_commands_is_what_they_say() -> None:
    """Texts, arguments, options, defaults and ranges."""
    before = PAGE.read_text()
    assert page_with(before) == before, f"{PAGE} differs from the commands: run scripts/reference"


def test_the_exit_statuses_are_those_of_the_commands(running: Pair, tmp_path: Path) -> None:
    """0 and those that the code ends with; and a command shows each."""
    code = (path.read_text() for path in (ROOT / "mirror_core/cli").glob("*.py"))
    ends = {int(number) for text in code for number in re.findall(r"sys\.exit\((.*?)\)", text)}
    page = [int(row[0]) for row in rows(section(PAGE, "Exit statuses"))]
    assert page == sorted({0, *ends})
    east, west = (str(running.toml(site)) for site in SITES)
    bad = tmp_path / "bad.toml"
    bad.write_text("nmae = 'east'\n")
    shown: dict[int, list[tuple[str, ...]]] = {
        0: [("status", east), ("uri", east)],
        1: [("uri", west), ("create", east, "--role", "source")],
        2: [("status",), ("no-such-command",), ("status", str(bad))],
    }
    assert list(shown) == page
    for status, commands in shown.items():
        for words in commands:
            assert flashmirror(*words).returncode == status, words


def environment() -> tuple[set[str], set[str]]:
    """The variables that the code reads, and those that it sets for a process."""
    read, told = set(), set()
    for path in (*(ROOT / "mirror_core").rglob("*.py"), ROOT / "plugin/flashmirror.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                function = ast.unparse(node.func)
                if function in ("os.environ.get", "os.environ.pop"):
                    read.add(_name(node.args[0]))
                if function == "environment.setdefault":
                    told.add(_name(node.args[0]))
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                read.add(_name(node.slice))
            elif isinstance(node, ast.Dict):
                found = {_name(key) for key in node.keys if key}
                told |= {name for name in found if re.fullmatch("[A-Z][A-Z0-9_]{3,}", name)}
    return read, told


def _name(node: ast.expr) -> str:
    """Of a constant, or of one of mirror_core/lock.py: the only other."""
    if isinstance(node, ast.Name) and node.id == "HANDED":
        return lock.HANDED
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_the_environment_variables_are_those_of_the_code(running: Pair) -> None:
    """Those that it reads, and those that it sets; a site that runs has no others but what its
    starter had, and what its shell sets."""
    read, told = environment()
    page = {quoted(row[0])[0]: row for row in rows(section(PAGE, "Environment variables"))}
    assert {name for name, row in page.items() if row[1]} == read
    assert {name for name, row in page.items() if row[2]} == told
    for site in SITES:
        process = Path(f"/proc/{state_of(running, site)['pid']}/environ")
        words = (word.split("=", 1) for word in process.read_text().split("\0") if word)
        new = {name for name, value in words if os.environ.get(name) != value}
        ours = {name for name in new if not name.startswith("PYTEST_")}
        assert ours - {"PWD", "OLDPWD", "SHLVL", "_"} <= told


def test_the_signals_are_those_that_a_site_takes() -> None:
    """And it does with each what the page says."""
    page = {quoted(row[0])[0]: row[1] for row in rows(section(PAGE, "Signals"))}
    ends = {name for name, does in page.items() if does == "ends cleanly"}
    assert ends == {number.name for number in connections._ENDING}
    harmless = {name for name, does in page.items() if does == "nothing"}
    opens = {name for name, does in page.items() if does.startswith("opens its log again")}
    assert opens | harmless == {number.name for number in launch.HARMLESS}
    assert opens | ends == {number.name for number in connections._TAKEN}
    assert page.keys() == ends | opens | harmless
    with one_that_runs() as pair:
        pids = {site: state_of(pair, site)["pid"] for site in SITES}
        for site, pid in pids.items():
            for name in harmless | opens:
                os.kill(pid, signal.Signals[name])
            assert state_of(pair, site)["pid"] == pid
        for site, name in zip(SITES, sorted(ends - {"SIGTERM"}), strict=True):  # as `stop` sends
            ended = os.pidfd_open(pids[site])
            os.kill(pids[site], signal.Signals[name])
            assert select.select([ended], [], [], 20)[0], f"{name} ends it"
            os.close(ended)
            stopped = pair.status(site)
            assert (stopped["state"], stopped["reason"]) == ("stopped", None), name


# ---- configuration.md

CONFIGURATION = REFERENCE / "configuration.md"
KEYS = {entry.word: entry for entry in entries(CONFIGURATION.read_text())}
SITE = {
    "name": '"east"',
    "listen": '["unix:/run/east.sock"]',
    "peer": '"unix:/run/west.sock"',
    "state": '"state"',
    "insecure": "true",
    "tls.psk": '"key"',
    "volume.name": '"disk"',
    "volume.data": '"data"',
    "volume.intermediate": '"intermediate"',
}  # of a file in which all addresses are accepted
BESIDE = {"freeze_deadline": {"freeze_max": '"10s"'}}  # what a range needs
WRONG = {"flag": '"true"', "number": '"3"', "table": "3", "array of tables": "3"}  # others: a text


def written(folder: Path, keys: dict[str, str], volumes: int = 1) -> Path:
    """A file with these keys, of each its text in TOML."""
    tables: dict[str, list[str]] = {"": [], "tls": [], "volume": []}
    for key, text in keys.items():
        table, _, name = key.rpartition(".")
        tables[table].append(f"{name} = {text}")
    lines = tables[""]
    lines += ["[tls]", *tables["tls"]] if tables["tls"] else []
    for number in range(volumes):
        own = [re.sub('"$', f'{number or ""}"', line) for line in tables["volume"]]
        lines += ["[[volume]]", *own] if own else []
    path = folder / "site.toml"
    path.write_text("\n".join(lines))
    return path


def load(folder: Path, keys: dict[str, str], volumes: int = 1) -> SiteConfig:
    """ConfigError.  What the file says, but for its digest."""
    return replace(config.load(str(written(folder, keys, volumes))), digest="")


def refuses(folder: Path, keys: dict[str, str], volumes: int = 1) -> bool:
    try:
        load(folder, keys, volumes)
    except ConfigError:
        return True
    return False


def test_the_keys_of_the_page_are_those_of_the_configuration() -> None:
    """Each with its items."""
    tls = {f"tls.{field.name}" for field in fields(Tls)}
    volume = {f"volume.{key}" for key in config._OF_A_VOLUME}
    assert KEYS.keys() == config._SETTINGS | tls | volume
    for entry in KEYS.values():
        names = [name for name, _ in entry.items()]
        assert names == ["type", "default", "range", "change"], entry.word


@pytest.mark.parametrize("key", KEYS)
def test_each_default_holds_without_its_key(key: str, tmp_path: Path) -> None:
    """Or the key is required, or nothing stands for it."""
    default = KEYS[key].item("default")
    known = {
        one: text for one, text in SITE.items() if one != key and not one.startswith(f"{key}.")
    }
    if default == "required":
        assert refuses(tmp_path, known)
    elif default == "none":
        found = load(tmp_path, {one: text for one, text in known.items() if one != "tls.psk"})
        assert getattr(found, key.partition(".")[0]) is None
    else:
        (text,) = quoted(default)
        assert load(tmp_path, known) == load(tmp_path, {**known, key: text})


def beyond(kind: str, text: str, *, above: bool) -> str:
    """A value that is one too large, or too small."""
    value, sign = text.strip('"'), 1 if above else -1
    if kind == "number":
        return str(int(value) + sign)
    if kind == "rate":
        return f'"{parse_rate(value) + sign}B/s"'
    if kind == "size":
        return f'"{parse_size(value) * 2 if above else parse_size(value) // 2}"'
    assert kind == "duration", kind
    number, unit = re.findall(r"\d+|[a-z]+", value)
    return f'"{number}.001{unit}"' if above else f'"-{number}{unit}"'


@pytest.mark.parametrize("key", KEYS)
def test_each_range_is_what_is_accepted(key: str, tmp_path: Path) -> None:
    """Its ends, and what stands there as an example, are; what is just beyond an end is not, nor
    what is of another type."""
    kind, said = KEYS[key].item("type"), KEYS[key].item("range")
    others = {one: text for one, text in SITE.items() if not one.startswith((f"{key}.", "tls."))}
    others |= {} if key.startswith("tls") else {"tls.psk": SITE["tls.psk"]}
    others |= BESIDE.get(key, {})
    wrong = WRONG.get(kind, "3")
    assert refuses(tmp_path, {**others, key: wrong}), wrong
    for before, text in re.findall(r'(\w+ )?`(".*?"|true|false|\d+)`', said):
        is_in = before != "than "
        assert refuses(tmp_path, {**others, key: text}) != is_in, text
        if before in ("from ", "to "):
            assert refuses(tmp_path, {**others, key: beyond(kind, text, above=before == "to ")})
    if kind == "choice":
        assert tuple(word.strip('"') for word in quoted(said)) == get_args(
            get_type_hints(SiteConfig)[key]
        )
        assert refuses(tmp_path, {**others, key: '"neither"'})
    if "power of two" in said:
        assert refuses(tmp_path, {**others, key: '"3000"'})
    if found := re.search(r"at (most|least) `(\w+)`", said):
        few, many = '"20ms"', '"30ms"'
        values = (many, few) if found[1] == "most" else (few, many)
        assert refuses(tmp_path, {**others, key: values[0], found[2]: values[1]})
        assert not refuses(tmp_path, {**others, key: values[0], found[2]: values[0]})
    if found := re.search(r"of at most (\d+) bytes", said):
        for size in (int(found[1]), int(found[1]) + 1):
            text = f'"unix:{"/".ljust(size, "x")}"'
            fits = size == int(found[1])
            assert refuses(tmp_path, {**others, key: text}) != fits, size
    if found := re.match(r"1 to (\d+) of the characters `(.*?)`", said):
        most, letters = int(found[1]), re.sub("(.)-(.) ", _between, found[2]).replace(" ", "")
        good = [letters[:most], letters[-most:], "x" * most]
        bad = ["", "x" * (most + 1), "..", *{*map(chr, range(32, 127)), "\u00e9"} - {*letters, '"'}]
        for names, is_in in ((good, True), (bad, False)):
            for name in names:
                text = f"'{name}'" if name != "'" else f'"{name}"'
                assert refuses(tmp_path, {**others, key: text}) != is_in, name
    if found := re.match(r"1 to (\d+) tables", said):
        for count in (1, int(found[1]), int(found[1]) + 1, 0):
            assert refuses(tmp_path, SITE, count) != (0 < count <= int(found[1])), count


def _between(ends: re.Match[str]) -> str:
    return "".join(map(chr, range(ord(ends[1]), ord(ends[2]) + 1)))


CHANGED = {
    "name": '"other"',
    "listen": '["unix:{}/other.sock"]',
    "peer": '"unix:{}/other.sock"',
    "state": '"{}"',
    "metrics": '"127.0.0.1:1"',
    "tls": '"{}/key"',
    "tls.psk": '"{}/key"',
    "tls.certificates": '"{}/pki/east"',
    "insecure": "true",
    "volume": "2",
    "volume.name": '"other"',
    "volume.data": '"{}/other"',
    "interval": '"1s"',
    "volume.intermediate": '"{}/other"',
    "preserve": '"first"',
    "link_timeout": '"3s"',
    "freeze_deadline": '"60ms"',
    "freeze_max": '"2s"',
    "block_size": '"8K"',
    "on_link_loss": '"block"',
    "bandwidth": '"1MiB/s"',
    "protocol": "2",
}


def test_each_key_is_changed_as_the_page_says(
    running: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What may never be is refused by the ledger; a promotion takes what it may take in force, and
    refuses the rest."""
    folder = tmp_path_factory.mktemp("changed")
    pki.make(folder / "pki", {"east": ("east",), "west": ("west",)}, 1)
    (folder / "key").write_text(f"{PSK_USER}:{'0' * 32}")
    (folder / "key").chmod(0o600)
    now = config.load(str(running.toml("east")))
    book = ledger.load(now.state)
    volume = now.volumes[0]
    known = {
        "name": f'"{now.name}"',
        "listen": f'["unix:{now.socket}"]',
        "peer": f'"unix:{now.peer}"',
        "state": f'"{now.state}"',
        "metrics": f'"{now.metrics}"',
        "volume.name": f'"{volume.name}"',
        "volume.data": f'"{volume.data}"',
        "volume.intermediate": f'"{volume.intermediate}"',
    }
    assert CHANGED.keys() == KEYS.keys()
    for key, text in CHANGED.items():
        name = {"tls": "tls.psk", "volume": ""}.get(key, key)
        changes = {name: text.format(folder)} if name else {}
        path = written(folder, {**known, **changes}, 1 + (key == "volume"))
        changed = config.load(str(path))
        assert (refused_by_ledger(changed, book) is not None) == says(key, "never"), key
        try:
            process.refuse_anew(replace(now, path=path), book)
            anew = True
        except MirrorError:
            anew = False
        assert anew == says(key, "next start or promote"), key
        assert says(key, "never") or says(key, "next start"), key


def says(key: str, how: str) -> bool:
    return bool(re.match(rf"{how}[:.]", KEYS[key].item("change"))) or (
        how == "next start" and says(key, "next start or promote")
    )


def refused_by_ledger(site: SiteConfig, book: ledger.Ledger) -> LedgerError | None:
    try:
        lock.check_ledger(site, book)
    except LedgerError as error:
        return error
    return None


# ---- status.md

STATUS = REFERENCE / "status.md"
FIELDS = {entry.word: entry for entry in entries(section(STATUS, "Fields"))}
STATES = {entry.word: entry for entry in entries(section(STATUS, "Values of `state`"))}
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array of objects": (list,),
}


def places(entry: Entry, item: str) -> dict[str, bool]:
    """Where something holds, by an item such as "source (nothing is copied); stopped": of each
    place whether always."""
    found = {}
    for part in filter(None, re.split(r"; (?=source|target|stopped)", entry.item(item))):
        place, condition = re.findall(r"^([a-z ]+?)( \(.*\))?$", part)[0]
        for one in ("stopped source", "stopped target") if place == "stopped" else (place,):
            assert one in PLACES, (entry.word, part)
            found[one] = not condition
    return found


def test_the_fields_of_the_status_are_those_of_the_page(life: Life) -> None:
    """In the order in which they are printed; of all together, as one object may be null."""
    printed: dict[str, None] = {}
    for _, record in life.said:
        printed |= dict.fromkeys(keys(record))
    assert list(FIELDS) == list(printed)
    for entry in FIELDS.values():
        names = [name for name, _ in entry.items()]
        number = entry.item("type") in ("integer", "number") and entry.word != "pid"
        assert set(names) - {"null"} == {"type", *(["unit"] if number else [])}, entry.word


def test_each_field_has_the_type_of_the_page_and_is_null_where_that_says_so(life: Life) -> None:
    """At each moment of a pair's life."""
    for place, record in life.said:
        for key, value in values(record):
            null = places(FIELDS[key], "null")
            if value is None:
                assert place in null, (place, key)
            else:
                assert type(value) in TYPES[FIELDS[key].item("type")], (place, key, value)
                assert not null.get(place), (place, key, value)


def test_the_states_are_those_of_the_code_in_its_order(running: Pair) -> None:
    """The order decides where more than one holds."""
    assert {word.removeprefix("State ") for word in STATES} == THERE["state"](running)
    source, target = (
        ordered(node.value)
        for node in ast.walk(ast.parse(text_of("mirror_core/status.py")))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "state"
    )
    order = Entry("", section(STATUS, "Values of `state`").partition("\n###")[0])
    assert quoted(order.item("source")) == source
    assert quoted(order.item("target")) == target
    for entry in STATES.values():
        assert [name for name, _ in entry.items()] == ["source", "target", "reason"], entry.word


def ordered(node: ast.expr) -> list[str]:
    """The words of `a if ... else b if ... else c`."""
    if isinstance(node, ast.IfExp):
        return [*ordered(node.body), *ordered(node.orelse)]
    assert isinstance(node, ast.Constant)
    return [str(node.value)]


def test_each_reason_of_the_page_is_said_by_the_code() -> None:
    """What stands between backquotes there, but for the words in capitals."""
    code = (ast.parse(path.read_text()) for path in (ROOT / "mirror_core").rglob("*.py"))
    said = {text for tree in code for text in constants(tree)}
    count = 0
    for entry in STATES.values():
        for reason in (one for name, text in entry.items() for one in quoted(text)):
            for part in re.split(r"\b[A-Z]+\b", reason):
                assert any(part in text for text in said), (entry.word, part)
            count += " " in reason
    assert count > 15


# ---- metrics.md

METRICS = {entry.word: entry for entry in entries((REFERENCE / "metrics.md").read_text())}


@dataclass
class Series:
    """What a scrape has of one metric."""

    kind: str
    values: dict[str, set[str]] = field(default_factory=dict)  # of each label
    count: int = 0


def series(text: str) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            found[name] = Series(kind)
        elif not line.startswith("#"):
            name = re.split(r"[ {]", line, maxsplit=1)[0]
            whole = name if name in found else re.sub("_(bucket|count|sum)$", "", name)
            one = found[whole]
            one.count += 1
            for label, value in re.findall(r'(\w+)="([^"]*)"', line):
                one.values.setdefault(label, set()).add(value)
    return found


def test_each_metric_is_served_as_the_page_says(life: Life) -> None:
    """Its type and labels, and where there is no sample of it."""
    seen: dict[str, dict[str, set[str]]] = {name: {} for name in METRICS}
    for place, text in life.scraped:
        found = series(text)
        assert found.keys() == METRICS.keys(), place
        for name, one in found.items():
            entry = METRICS[name]
            absent = places(entry, "absent")
            assert entry.item("type") == one.kind, name
            assert one.count or place in absent, (place, name)
            assert not (one.count and absent.get(place)), (place, name)
            for label, known in one.values.items():
                seen[name].setdefault(label, set()).update(known)
    for name, labels in seen.items():
        said = METRICS[name].item("labels")
        bounds = labels.pop("le", set()) - {"+Inf"}
        assert set(re.findall(r"`(\w+)`(?![^(]*\))", said)) == labels.keys(), name
        for label, known in re.findall(r"`(\w+)` \(([^)]*)\)", said):
            assert labels[label] == set(quoted(known)), (name, label)
        assert bounds == buckets(METRICS[name].item("buckets")), name


def buckets(said: str) -> set[str]:
    known = quoted(said)
    if "each twice the one before" not in said:
        return set(known)
    first, last = map(float, known)
    return {str(first * 2**n) for n in range(round(math.log2(last / first)) + 1)}


def test_each_metric_has_the_unit_of_its_name() -> None:
    """As Prometheus wants it; and the items that its type has."""
    for name, entry in METRICS.items():
        named = re.search(r"_(bytes|seconds)(_total)?$", name)
        unit = entry.item("unit").split()[-1]
        assert (named[1] if named else None) == (unit if unit in ("bytes", "seconds") else None)
        assert (entry.item("type") == "counter") == name.endswith("_total"), name
        assert (entry.item("type") == "histogram") == bool(entry.item("buckets")), name


# ---- files.md

FILES = REFERENCE / "files.md"
KEPT = {
    entry.word: entry
    for title in ("In the state folder", "In memory")
    for entry in entries(section(FILES, title))
}
VERSIONS = {
    "ledger": ledger.VERSION,
    "VOLUME.intent.RUN": intent._VERSION,
    "hardened.RUN": runlog._VERSION,
    "written.RUN": runlog._VERSION,
    "servers": server_instance.VERSION,
    "SITE-VOLUME-RUN.maps": mapfile._VERSION,
}
NOT_THERE = {"servers"}  # where no store is behind a server, and nobody is to be told of a loss


def test_the_files_of_the_page_are_those_of_a_pair(running: Pair) -> None:
    """Each at the sites that it names, for its owner only, and of its version."""
    assert KEPT.keys() == THERE["file"](running)
    for site, state in zip(SITES, folders(running), strict=True):
        role = ROLES[site]
        found = {re.sub("[0-9a-f]{32}", "RUN", path.name): path for path in state.iterdir()}
        named = {name.replace("disk", "VOLUME") for name in found if not name.endswith(".new")}
        ours = {one.word for one in KEPT.values() if role in one.item("site").split(", ")}
        assert named == ours - NOT_THERE - {"SITE-VOLUME-RUN.maps"}
        assert not any(path.stat().st_mode & 0o077 for path in [state, *found.values()])
    assert {
        name: entry.item("version") for name, entry in KEPT.items() if entry.item("version")
    } == {name: str(version) for name, version in VERSIONS.items()}


def test_the_fields_of_the_ledger_are_those_of_its_tables(running: Pair) -> None:
    """Since when, of which type, and what holds for an older one; all of them stand in a real
    one."""
    text = section(FILES, "Fields of the ledger")
    page = {name: row[1:] for row in rows(text) for name in quoted(row[0])}
    assert page.keys() == ledger_keys(running) | {"maps"}
    assert f"A later version than {ledger.VERSION} is refused" in text
    for before, now, first in (
        ("", ledger._LEDGER, ledger._LEDGER_1),
        ("lineage.", ledger._LINEAGE, ledger._LINEAGE),
        ("volumes.", ledger._VOLUME, ledger._VOLUME_1),
        ("volumes.data.", ledger._STORE, ledger._STORE_1),
        ("volumes.intermediate.", ledger._STORE, ledger._STORE_1),
    ):
        keys_of_first = {one.attribute: one.key for one in first._fields}
        for one in now._fields:
            since, kind, older, _ = page[before + one.key]
            old = keys_of_first.get(one.attribute) if not one.since else None
            version = one.since or (1 if old else 2)
            renamed = f" (`{old}`)" if old not in (None, one.key) else ""
            assert since == f"{version}{renamed}", one.key
            assert older == ("" if version == 1 else f"`{json.dumps(_older(now, one))}`"), one.key
            assert is_of_type(one.kind, kind), one.key


def _older(table: Table[Any], one: Field) -> Any:
    """What holds for a record without the field."""
    if one.since:
        return one.default
    return inspect.signature(table._make).parameters[one.attribute].default


KINDS = {
    "text": TEXT,
    "flag": FLAG,
    "number": NUMBER,
    "seconds": SECONDS,
    "list": LIST,
    "`source` or `target`": one_of("source", "target"),
    "name": protocol._NAME,
    "token": protocol._TOKEN,
    "lineage": protocol._LINEAGE,
    "bytes": protocol._BYTES,
    "bits": protocol._BITS,
}
SAMPLES: list[Any] = [True, 5, 0.5, [], "source", "any text", "a.b", "0f" * 16, "0f", "01", "AA=="]


def is_of_type(kind: Kind, said: str) -> bool:
    """Whether a field takes what the page's words for its type say."""
    found = re.fullmatch(r"(.*?)( or null)?(?:, or `(.*)` without it)?(?:, at most (\d+))?", said)
    assert found
    name, null, default, most = found.groups()
    if null:
        assert kind.read(None) is None
    elif default:
        assert kind.read(None) == json.loads(default)
    else:
        assert not takes(kind, None), said
    if most:
        assert name == "list"
        assert not too_many(kind, int(most)) and too_many(kind, int(most) + 1), said
    taken = [one for one in SAMPLES if takes(kind, one)]
    if name == "record":
        return not taken
    return taken == [one for one in SAMPLES if takes(KINDS[name], one)]


def takes(kind: Kind, value: Any) -> bool:
    try:
        kind.read(value)
    except ValueError:
        return False
    return True


def too_many(kind: Kind, count: int) -> bool:
    with pytest.raises(ValueError) as caught:  # of what is in the list, or of how many there are
        kind.read([None] * count)
    return str(caught.value) == f"{count} of them"


FORMATS = {
    "Fields of a record": runlog,
    "Fields of an intent log": intent,
    "Fields of a file of maps": mapfile,
}


@pytest.mark.parametrize("title", FORMATS, ids=lambda title: title.split()[-1])
def test_the_fields_of_each_binary_format_are_those_of_the_code(title: str) -> None:
    """Their names, offsets and sizes."""
    module = FORMATS[title]
    text = text_of(f"mirror_core/{module.__name__.rpartition('.')[2]}.py")
    found = re.search(r'^# (.*)\n_HEAD = struct\.Struct\("<(.*)"\)', text, re.MULTILINE)
    assert found
    at, expected = 0, []
    for name, kind in zip(found[1].split(", "), re.findall(r"\d*[a-zA-Z]", found[2]), strict=True):
        size = struct.calcsize(f"<{kind}")
        expected.append([name, str(at), str(size)])
        at += size
    if module is mapfile:
        each = mapfile._POINT.size
        begin = mapfile._POINTS_AT
        sizes = {"stands": each, "coming": each, "whole": mapfile._WHOLE.size}
        for name, size in sizes.items():
            expected.append([name, str(begin), str(size)])
            begin += size
        assert begin == mapfile._PAGE
    page = rows(section(FILES, title))
    assert [row[:3] for row in page] == expected
    said = {row[0]: row[3] for row in page}
    assert said["version"] == str(module._VERSION)
    magic = module._MAGIC.decode().encode("unicode_escape").decode()
    assert magic.replace(r"\x00", "") in said["magic"]


def test_the_maps_are_as_long_as_the_page_says(running: Pair) -> None:
    """A page, and six maps: of a volume of 256 blocks a page each."""
    (site,) = (head["site"] for head in ledgers(running) if head["role"] == "source")
    (path,) = (path for folder in mapfile.folders() for path in folder.glob(f"{site}-*.maps"))
    assert "\nSix maps of one bit for each block" in section(FILES, "Fields of a file of maps")
    assert path.stat().st_size == 4096 * (1 + 6)


def test_the_fields_of_servers_are_those_that_are_written() -> None:
    """In this order."""
    text = text_of("mirror_core/server_instance.py")
    (record,) = re.findall(r"^        record = \{(.*?)\}  #", text, re.MULTILINE | re.DOTALL)
    page = [quoted(row[0])[0] for row in rows(section(FILES, "Fields of servers"))]
    assert page == re.findall(r'"(\w+)":', record)


def test_the_other_files_are_those_of_the_code(tmp_path: Path) -> None:
    """Of holders, certificates and marks."""
    text = FILES.read_text()
    assert f"`{holders.FOLDER}`" in text
    assert holders.lock_path("NAME").name in text and holders.log_path("NAME").name in text
    assert f"`{stores._MARK}`" in text
    pki.make(tmp_path / "DIR", {"SITE": ("east",), "OTHER": ("west",)}, 1)
    for folder, names in rows(section(FILES, "Certificates and keys")):
        made = {path.name for path in (tmp_path / quoted(folder)[0]).iterdir()}
        assert made == set(quoted(names))
    assert set(quoted(names)) == {*CERTIFICATES, *SECRETS}


# ---- protocol.md

PROTOCOL = REFERENCE / "protocol.md"
RECORDS = {one.word: rows(one.text) for one in entries(section(PROTOCOL, "Between sites"))}
SHAPES = {"handshake": protocol._SHAPE, "who": protocol._SHAPE_IN_BYTES}  # of `volumes`


def test_the_records_between_sites_are_those_of_the_tables() -> None:
    """Each field with its version, its type, and what holds for an older record."""
    tables = {
        operation or kind.__name__.lower(): table
        for kind, (operation, table) in protocol._TABLES.items()
    }
    assert RECORDS.keys() == tables.keys()
    assert control._SESSION.keys() <= tables.keys()
    for name, table in tables.items():
        known = {one.key: one for one in table._fields}
        if "volumes" in known:
            known |= {f"volumes.{one.key}": one for one in SHAPES[name]._fields}
        page = {quoted(row[0])[0]: row[1:] for row in RECORDS[name]}
        assert page.keys() == known.keys(), name
        for key, (since, kind, older, _) in page.items():
            one = known[key]
            assert since == str(one.since or protocol.OLDEST), (name, key)
            assert older == (f"`{json.dumps(one.default)}`" if one.since else ""), (name, key)
            assert is_of_type(one.kind, kind), (name, key)


def test_the_form_and_the_versions_are_those_of_the_code() -> None:
    """And the errnos that mean something."""
    form = " ".join(section(PROTOCOL, "Form").split())
    assert f"The export has {limits.CONTROL_BYTES} bytes" in form
    assert f"waits at most {limits.CONTROL_WAIT_S:g} s" in form
    assert f"a handshake at most {limits.FENCE_BUDGET_S:g} s" in form
    for code in (errno.ESTALE, errno.ESHUTDOWN, errno.EIO):
        assert f"{code} ({errno.errorcode[code]})" in form
    versions = [int(row[0]) for row in rows(section(PROTOCOL, "Versions"))]
    assert versions == list(range(protocol.OLDEST, protocol.VERSION + 1))


def test_the_requests_of_commands_are_those_of_the_code(running: Pair) -> None:
    """Their fields, and what a running site answers."""
    page = {
        quoted(row[0])[0]: [re.findall(r"`(\w+)`", cell) for cell in row[2:]]
        for row in rows(section(PROTOCOL, "Of commands"))
    }
    assert page.keys() == control._LOCAL.keys()
    for name, (asked, _) in page.items():
        source = inspect.getsource(control._LOCAL[name])
        read = re.findall(r'protocol\.field\(record, "(\w+)"', source)
        assert sorted(asked) == sorted(read + ["wait"] * ("_wait_s(record)" in source)), name
    east = config.load(str(running.toml("east")))
    sequence = process.ask(east, {"op": "sync"}, 10)["sequence"]
    words = {"sequence": sequence, "wait": 0.5, "now": False, "rate": 0}
    for name, (asked, answered) in page.items():
        if name == "promote":
            answer = re.findall(r'[{ ]"(\w+)": ', inspect.getsource(promotion._turn))
            assert set(answered) == set(answer) - {"reason"}  # which is the status's
            continue
        record = process.ask(east, {"op": name, **{key: words[key] for key in asked}}, 10)
        if name == "status":
            assert record.keys() ^ running.status().keys() == set(answered)
        else:
            assert sorted(record) == sorted(answered), name


def test_the_figures_of_the_limits_are_those_of_the_code() -> None:
    """What a process may need of descriptors, and how many clients a store's server is to take."""
    text = re.sub(r"\s+", " ", (REFERENCE / "limits.md").read_text())
    few = connections._RESERVED + connections._OF_A_SITE
    assert (
        f"A site may need {few} descriptors, {connections._OF_A_VOLUME} more for each volume, and "
        f"{limits.STORE_CONNECTIONS_GOOD} more for each store behind an NBD server."
    ) in text
    assert limits.STORE_CONNECTIONS_MIN == 2 and "must take two clients at a time" in text
    assert limits.STORE_CONNECTIONS_GOOD == 8 and "is faster with eight or more" in text
