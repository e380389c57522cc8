"""Fuzzing of what is read from files and from peers: no crash, no hang, and nothing that is
damaged is taken for good.  (The maps and the intent log's bits: native/tests/fuzz_*.c.)

    a ledger            the record that was written, or LedgerError
    a log of hardenings a prefix of its records, or LedgerError; whole records are never skipped
    an intent log       its own head, or LedgerError; its bits mean regions of the volume
    a control record    an answer of a bounded size, whatever bytes arrive and in which order
    a peer's answer     a record, or PeerError or Refused in one line
    a configuration     a frozen SiteConfig, or ConfigError in one line
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import STEPS, Step, damage, fuzz
from handmade import Handmade
from hypothesis import strategies as st
from pair import SOAK
from test_config import GOOD as TOML
from test_config import VOLUME
from test_hardlog import EIGHT, RECORDS, SEVEN, Records, found, path_in, replay, written
from test_ledger import sample, sealed

from mirror_core import config, exports, intent, ledger, limits, peer, protocol, runlog
from mirror_core.cli import checking
from mirror_core.creation import create
from mirror_core.door import Visitor
from mirror_core.errors import ConfigError, LedgerError, MirrorError, PeerError, Refused
from mirror_core.site import Site

pytestmark = pytest.mark.timeout(300 * SOAK)


def check_line(error: MirrorError, where: object = "", most: int = 12_000) -> None:
    """An error as a person can read it: one line that begins with where, and has an end."""
    line = str(error)
    assert line.startswith(str(where)) and line.isprintable() and len(line) <= most, line[:500]


# ---- JSON that is anything

LINEAGES = ["a" * 32, "b" * 32]
SHAPE = {"name": "disk", "size": limits.MIB, "block_size": 4096}
NESTED = "(nested)"  # in a record: stands for lists within lists
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, 2**64, -1, 10**400, 1e308, float("nan"), float("inf")])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["x" * 9_000, "\ud800", "a\nb", LINEAGES[0], "disk", "east", NESTED, SHAPE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def as_bytes(record: dict[str, Any], depth: int) -> bytes:
    """The record as JSON, NaN included; what is nested is nested as deep as that."""
    return json.dumps(record).replace(f'"{NESTED}"', "[" * depth + "]" * depth).encode()


# ---- a ledger

LEDGERS = {
    ledger.encode(record): record
    for record in (
        sample(),
        sample(committed=9, maps={}),
        sample(role="source", lineage=ledger.Lineage("c" * 32), clean=True, whole=False),
        sample(volumes=(), consistency_point=None),
    )
}


def test_a_damaged_ledger_is_never_taken_for_another() -> None:
    """Bits flipped, parts lost or repeated, two ledgers mixed: the bytes that were written give
    the record that was written, and all others are refused in one line."""
    files = list(LEDGERS)

    def body(number: int, steps: list[Step]) -> None:
        data = damage(files[number], steps, files)
        try:
            record = ledger.decode(data, "/state/ledger")
        except LedgerError as error:
            assert data not in LEDGERS
            check_line(error, "/state/ledger: ")
        else:
            assert record == LEDGERS[data]

    fuzz(body, st.integers(0, len(files) - 1), STEPS)


def test_a_sealed_ledger_of_nonsense_is_a_ledger_or_refused() -> None:
    """With a right checksum over damage, which only a program can make: no other exception."""
    payloads = [data.partition(b"\n")[2] for data in LEDGERS]
    head = json.loads(payloads[0].partition(b"\n")[0])
    damaged = st.builds(damage, st.sampled_from(payloads), STEPS, st.just(payloads))
    changes = st.dictionaries(st.sampled_from(sorted(head)), VALUES, max_size=2)
    gone = st.sets(st.sampled_from(sorted(head)), max_size=1)
    changed = st.builds(
        lambda changes, gone, depth: as_bytes(
            {k: v for k, v in {**head, "maps": {}, **changes}.items() if k not in gone}, depth
        ),
        changes,
        gone,
        st.integers(1, 1100),
    )

    def body(payload: bytes) -> None:
        try:
            record = ledger.decode(sealed(payload), "/state/ledger")
        except LedgerError as error:
            check_line(error, "/state/ledger: ")
        else:
            assert record.role in ("source", "target")

    fuzz(body, damaged | changed)


# ---- the log of hardenings


def test_a_damaged_log_of_hardenings_gives_a_prefix_or_is_refused(scratch: Path) -> None:
    """What is read is a prefix of what was written, never more; and if a whole record is left
    behind that prefix, the log is refused."""
    path = path_in(scratch)

    def logged(history: runlog.History, records: Records) -> tuple[bytes, list[bytes]]:
        ends = [0, *written(scratch, records, history)]
        data = path.read_bytes()
        return data, [data[a:b] for a, b in itertools.pairwise(ends)]

    def body(records: Records, others: Records, order: list[int] | None, steps: list[Step]) -> None:
        other, _ = logged(EIGHT, others)
        data, parts = logged(SEVEN, records)
        mixed = data if order is None else b"".join(parts[i % len(parts)] for i in order)
        damaged = damage(mixed, steps, [other, data])
        path.write_bytes(damaged)
        try:
            runs = replay(path)
        except LedgerError as error:
            check_line(error, path)
            assert damaged != data
            return
        prefixes = [n for n in range(len(records) + 1) if found(records[:n]) == runs]
        assert prefixes, "not a prefix of what was written"
        assert not any(part in damaged for part in parts[prefixes[-1] :]), "a whole record is lost"

    orders = st.none() | st.lists(st.integers(0, 4), max_size=6)
    fuzz(body, RECORDS, RECORDS, orders, st.just([]) | STEPS)


# ---- the intent log


def test_a_damaged_intent_log_makes_all_hot_or_its_regions_are_of_the_volume(scratch: Path) -> None:
    """After any change of the first page, or of the length, everything is hot, and the reason is
    said; any bits after it are hot regions within the volume."""
    store = ledger.StoreRecord("file", "1")
    volumes = [
        ledger.VolumeRecord("disk", size, 4096, store, store)
        for size in (700, 5 << 20, (77 << 20) + 1, 1 << 36)
    ]
    books = [
        ledger.Ledger(
            "s" * 32,
            "east",
            "source",
            ledger.Lineage("l" * 32),
            (volume,),
            clean=False,
            run="r" * 32,
        )
        for volume in volumes
    ]
    path = intent.path_in(scratch, "disk", "r" * 32)
    files: list[bytes] = []
    for volume in volumes:
        first = dataclasses.replace(books[len(files)], clean=True)
        intent.open_log(scratch, first, volume, "r" * 32).log.close()
        files.append(path.read_bytes())
    head = 4096

    def body(number: int, steps: list[Step], bits: list[Step]) -> None:
        data, size = files[number], volumes[number].size
        damaged = damage(data[:head], steps, [f[:head] for f in files])
        damaged += damage(data[head:], bits, [b"\xff" * 5000, b"\0" * 5000])
        path.write_bytes(damaged)
        opened = intent.open_log(scratch, books[number], volumes[number], "n" * 32)
        regions = list(opened.log.runs())
        opened.log.close()
        assert (opened.lost is None) == (
            damaged[:head] == data[:head] and len(damaged) == len(data)
        )
        if opened.lost:
            check_line(LedgerError(opened.lost), path)
            assert regions == [(0, size)]
        end = 0
        for offset, length in regions:
            assert end <= offset and length > 0 and offset + length <= size
            end = offset + length

    descriptors = len(os.listdir("/proc/self/fd"))
    fuzz(body, st.integers(0, len(files) - 1), STEPS | st.just([]), STEPS)
    assert len(os.listdir("/proc/self/fd")) == descriptors


# ---- control records

LOCAL, PEER = Visitor(True, "user 0"), Visitor(False, "10.0.0.2")
SMALL = st.integers(0, 4)
DISK = protocol.VolumeShape("disk", limits.MIB, 4096)
VOLUMES = st.just((DISK,)) | st.sampled_from([0, 64, 65, 500]).map(
    lambda n: tuple(dataclasses.replace(DISK, name=f"{i:064}") for i in range(n))
)
LINEAGE = st.sampled_from(LINEAGES)
TOKENS = st.sampled_from(["", "a" * 32, "b" * 32])


def records(kind: type[protocol.Message], **parts: Any) -> st.SearchStrategy[dict[str, Any]]:
    """As a site sends them, with all the fields that there are: one without is never looked at."""
    messages: st.SearchStrategy[protocol.Message] = st.builds(kind, **parts)
    return messages.map(protocol.record_of)


REQUESTS = st.one_of(
    st.sampled_from(["status", "sync", "resume", "settled"]).map(lambda op: {"op": op}),
    st.builds(dict, op=st.just("wait"), sequence=SMALL),
    st.builds(dict, op=st.just("pause"), now=st.booleans()),
    records(
        protocol.Handshake,
        name=st.sampled_from(["east", "west", "n" * 64]),
        lineage=LINEAGE,
        session=SMALL,
        resumes=SMALL,
        stable=SMALL,
        run=TOKENS,
        runs=st.lists(TOKENS, max_size=3).map(tuple),
        begun=st.none() | SMALL,
        begun_token=TOKENS,
        committed=st.none() | SMALL,
        committed_token=TOKENS,
        volumes=VOLUMES,
        site=st.sampled_from(LINEAGES),
        silence=st.sampled_from([0.0, 9.0, 1e9]),
    ),
    records(
        protocol.Commit,
        lineage=LINEAGE,
        session=SMALL,
        sequence=SMALL,
        consistency_point=st.floats(0, 1e10),
        token=TOKENS,
    ),
    records(
        protocol.Compare,
        session=SMALL,
        sequence=SMALL,
        volume=st.just("disk"),
        runs=st.lists(st.tuples(st.integers(0, 300), SMALL), max_size=3).map(tuple),
        sums=st.sampled_from([0, 16, 32, 64]).map(bytes) | st.binary(max_size=48),
    ),
    records(protocol.Stable, session=SMALL, sequence=SMALL, serial=SMALL, token=TOKENS),
    records(
        protocol.Look,
        session=SMALL,
        wait=st.floats(0, 1),
        paused=st.booleans(),
        name=st.none() | st.just("east"),
        lineage=st.none() | LINEAGE,
    ),
    st.builds(dict, op=st.just("promote"), force=st.booleans()),
)
FIELDS = st.sampled_from(
    [
        "op",
        "name",
        "lineage",
        "session",
        "volumes",
        "sequence",
        "consistency_point",
        "wait",
        "now",
        "force",
        "flashmirror",
        "reason",
        "runs",
        "sums",
        "volume",
        "site",
        "resumes",
        "stable",
        "serial",
        "run",
        "begun",
        "committed",
        "token",
        "begun_token",
        "committed_token",
        "silence_seconds",
        "paused",
    ]
)


def request(
    record: dict[str, Any], changes: dict[str, Any], depth: int, steps: list[Step]
) -> bytes:
    data = as_bytes({"flashmirror": protocol.VERSION, **record, **changes}, depth)
    return damage(data, steps, [data])[: limits.CONTROL_BYTES]


RECORD = st.builds(
    request,
    REQUESTS,
    st.just({}) | st.dictionaries(FIELDS, VALUES, max_size=2),
    st.integers(1, 1100),
    st.just([]) | STEPS,
)


def answered(site: Site, request: bytes) -> protocol.Record:
    """What the control export of this site answers."""
    export, buffer = exports.ControlExport(site, LOCAL), memoryview(bytearray(limits.CONTROL_BYTES))
    export.pwrite(memoryview(request), 0, 0)
    assert export.pread(buffer, 0, 0) == 0
    answer, _ = protocol.decode(bytes(buffer))
    for key in ("refused", "error"):
        check_line(MirrorError(answer.get(key, "")))
    return answer


def toml_of(folder: Path, name: str) -> config.SiteConfig:
    for part in ("data", "intermediate"):
        with (folder / f"{name}.{part}").open("wb") as file:
            file.truncate(limits.MIB)
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nlisten = ["unix:{name}.sock"]\npeer = "unix:nobody.sock"\n'
        f'state = "{name}.state"\n[[volume]]\nname = "disk"\n'
        f'data = "{name}.data"\nintermediate = "{name}.intermediate"\n'
    )
    return config.load(str(path))


@contextlib.contextmanager
def running(folder: Path, name: str, role: ledger.Role) -> Iterator[Site]:
    """A real site in this process, all but its socket."""
    settings = toml_of(folder, name)
    create(settings, role)
    site = Site(settings)
    site.start()
    try:
        yield site
    finally:
        site.stop()


# The site's own thread draws random numbers too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_a_source_answers_every_control_record(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any bytes, any JSON in any field: an answer, and the site goes on."""
    monkeypatch.setattr(limits, "CONTROL_WAIT_S", 0.001)
    with running(scratch, "west", "source") as site:

        def body(data: bytes) -> None:
            answered(site, data)

        fuzz(body, st.binary(max_size=300) | RECORD)
        assert answered(site, protocol.encode({"op": "status"}))["role"] == "source"


class Anew(Exception):
    """The process would begin again here."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """Of a source, and of noise: a session is opened, blocks are written in the last one, noise
    comes, a sequence is committed."""

    opens: bool
    writes: list[int]
    noise: list[bytes]
    commits: int  # 0: nothing


NOISE = REQUESTS.map(lambda record: request(record, {}, 1, [])) | RECORD | st.binary(max_size=99)
TURNS = st.builds(
    Turn,
    st.booleans(),
    st.lists(st.integers(0, 255), max_size=3),
    st.lists(NOISE, max_size=4),
    st.integers(0, 9),
)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_a_target_answers_every_control_record_in_any_order(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions, writes, commits, promotions and noise: each is answered, the second flashcopy
    goes on, and the ledger that is left opens a site.

    It needs records that are looked at, not only refused as malformed: some of them open sessions,
    one after another, are commits, and are commits that leave out what the session before wrote."""

    def begin_anew(_site: config.SiteConfig) -> None:
        raise Anew

    monkeypatch.setattr(limits, "CONTROL_WAIT_S", 0.1)

    seen: set[str] = set()

    def ask(site: Site, data: bytes) -> None:
        answer = answered(site, data)
        seen.update(key for key in ("instance", "done") if answer.get(key))
        seen.update({"left out"} if "left out" in answer.get("error", "") else ())

    def send(site: Site, message: protocol.Message) -> None:
        ask(site, protocol.encode(protocol.record_of(message)))

    def write(site: Site, session: int, block: int) -> None:
        with contextlib.suppress(MirrorError, OSError):
            export = exports.open_export(site, f"disk/intermediate/{session:x}", PEER)
            assert isinstance(export, exports.VolumeExport)
            export.zero(4096, block * 4096, 0)

    def take(site: Site, session: int, turn: Turn) -> None:
        history = LINEAGES[0]
        if turn.opens:
            send(site, protocol.Handshake("east", history, session, (DISK,), history))
        for block in turn.writes:
            write(site, session, block)
        for data in turn.noise:
            ask(site, data)
        if turn.commits:
            send(site, protocol.Commit(history, session, turn.commits, 1.5))

    def body(turns: list[Turn]) -> None:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        role, session = "target", 0
        try:
            with running(folder, "west", "target") as site:
                site._begin_anew = begin_anew
                for turn in turns:
                    session += turn.opens
                    take(site, session, turn)
                status = answered(site, protocol.encode({"op": "status"}))
                assert "internal error" not in str(status["reason"])
        except Anew:
            role = "source"
        again = Site(config.load(str(folder / "west.toml")))
        assert again.book.current.role == role
        again.start()
        again.stop()
        shutil.rmtree(folder)

    fuzz(body, st.lists(TURNS, min_size=1, max_size=8))
    assert seen == {"instance", "done", "left out"}


def test_a_peers_answer_is_a_record_or_an_error() -> None:
    """Whatever a peer answers: a record, or one line and an errno that the system knows."""
    replies: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.builds(
        dict,
        name=st.just("west"),
        instance=st.just("i" * 32),
        committed=SMALL,
        hardened=SMALL,
        whole=st.booleans(),
        blank=st.booleans(),
    )
    keys = FIELDS | st.sampled_from(["error", "refused", "errno", "hardened", "done"])
    answers = st.builds(
        request,
        replies,
        st.dictionaries(keys, VALUES, max_size=3),
        st.integers(1, 1100),
        st.just([]) | STEPS,
    )

    def body(data: bytes) -> None:
        try:
            answer = peer.answer_of(data)
            name = protocol.read(protocol.Welcome, answer).name
            assert name.isprintable() and len(name) <= 64
        except (PeerError, Refused) as error:
            check_line(error, most=1500)
            assert os.strerror(error.code)

    fuzz(body, st.binary(max_size=300) | answers)


def test_a_peers_answer_to_check_is_understood_or_one_line(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says that it is: one printable row."""
    handmade.create("east")
    settings = config.load(str(handmade.toml("east")))
    book = ledger.load(settings.state)
    right: dict[str, Any] = {
        "site": "west",
        "role": "target",
        "volumes": [{"name": "disk", "size": 1 << 20, "block_size": 4096}],
    }
    keys = st.sampled_from([*right, "flashmirror"])
    changes = st.dictionaries(keys, VALUES, max_size=2)
    answers: st.SearchStrategy[dict[str, Any]] = st.just({}) | changes.map(lambda c: {**right, **c})

    def body(answer: dict[str, Any]) -> None:
        monkeypatch.setattr(peer, "ask", lambda *_: answer)
        name, result, text = checking._check_peer(settings, book)
        assert name == "peer" and result in ("ok", "failed")
        assert text.isprintable() and len(text) < 1500
        fits = all(answer.get(key) == right[key] for key in ("role", "volumes"))
        assert fits or result == "failed"

    fuzz(body, answers)


# ---- a configuration

WORDS = [
    *(f"{f.name} = " for f in dataclasses.fields(config.SiteConfig)),
    "listen = ",
    "tls = ",
    "[[volume]]\n",
    "[volume]\n",
    "[tls]\n",
    "name = ",
    "data = ",
    "\n",
    '"',
    "'''",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "=",
    "#",
    "\\u0000",
    "\\",
    "\x7f",
    "\ufeff",
    "\r",
    '"5s"',
    '"4K"',
    "true",
    "1979-05-27",
    "25:00:00",
    "0x" + "f" * 5000,
    "9" * 5000,
    "1e999",
    "-nan",
    '"unix:/a"',
    '"nbd+unix:///?socket=a"',
    '"nbd://["',
    '"[::1]:1"',
    '"' + "9" * 400 + 's"',
    "[" * 300,
    "a." * 300,
    '"x"',
    '"\\U0010FFFF"',
    "\u202e",
]

SETTINGS = st.sampled_from(
    [
        *("name", "listen", "peer", "state", "metrics", "interval", "preserve", "link_timeout"),
        *("on_link_loss", "freeze_max", "freeze_deadline", "block_size", "bandwidth", "insecure"),
        *("tls", "volume"),
    ]
)
TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    [
        "unix:/a",
        "nbd+unix:///?socket=a",
        "nbd://[",
        "[::1]:1",
        "1s",
        "9" * 400 + "s",
        "4K",
        "both",
        "tcp:[::1]:7",
        "tcp:a:0",
        "nbds://a",
        "nbds://[a]:7",
        "nbd://a:7",
        "nbds://a:b@c/d?e#f",
    ]
)


def toml(text: str) -> str:
    """A basic string of TOML."""
    return '"' + "".join(f"\\U{ord(character):08X}" for character in text) + '"'


SETTING_VALUES = (
    TEXTS.map(toml)
    | st.integers(-(2**63), 2**63 - 1).map(str)
    | st.sampled_from(
        [
            "true",
            "[]",
            "nan",
            "inf",
            "1979-05-27",
            "{}",
            "[[]]",
            "{a = 1}",
            "{certificates = 'a'}",
            "{psk = 1}",
        ]
    )
    | st.sampled_from(["9" * 5000, "0x" + "f" * 5000])
    | st.lists(TEXTS.map(toml), max_size=2).map(lambda parts: f"[{', '.join(parts)}]")
)


def whole(changes: dict[str, str], volume: dict[str, str]) -> bytes:
    """A file that is TOML, whatever its settings are."""
    base = dict(line.split(" = ") for line in TOML.splitlines())
    lines = [f"{key} = {value}" for key, value in {**base, **changes}.items()]
    if "volume" not in changes:
        own = dict(line.split(" = ") for line in VOLUME.splitlines()[1:])
        lines.append("[[volume]]")
        lines += [f"{toml(key)} = {value}" for key, value in {**own, **volume}.items()]
    return "\n".join(lines).encode()


def test_any_configuration_is_a_site_or_refused(scratch: Path) -> None:
    """Whatever a file says: a frozen configuration, or one line that names the file."""
    path = scratch / "east.toml"
    good = (TOML + VOLUME).encode()
    more = good.replace(
        b"state =",
        b'metrics = "[::1]:9809"\ninterval = "5s"\nblock_size = "64K"\n'
        b'freeze_max = "2s"\npreserve = "first"\nstate =',
    )

    def body(data: bytes, steps: list[Step], lines: list[tuple[int, list[str]]]) -> None:
        rows = data.decode().split("\n")
        for at, words in lines:
            rows.insert(at, "".join(words))
        path.write_bytes(damage("\n".join(rows).encode(), steps, [good, more]))
        try:
            site = config.load(str(path))
        except ConfigError as error:
            check_line(error, path)
        else:
            assert site.volumes and site.name.isprintable()
            with pytest.raises(dataclasses.FrozenInstanceError):
                site.name = "other"  # type: ignore[misc]

    lines = st.tuples(st.integers(0, 12), st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
    files = st.sampled_from([good, more]) | st.builds(
        whole,
        st.dictionaries(SETTINGS, SETTING_VALUES),
        st.dictionaries(SETTINGS | TEXTS, SETTING_VALUES),
    )
    fuzz(body, files, st.just([]) | STEPS, st.just([]) | st.lists(lines, max_size=3))
