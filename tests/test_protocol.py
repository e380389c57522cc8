"""The records of the control export: what is sent is read, and what is not a record is refused."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from handmade import Handmade

from mirror_core import config, control, limits, peer, protocol, status
from mirror_core.door import Visitor
from mirror_core.errors import (
    MirrorError,
    OtherVersion,
    Owed,
    PeerError,
    Refused,
    SessionOver,
    StoreError,
    short,
)
from mirror_core.protocol import (
    Commit,
    Compare,
    Compared,
    Handshake,
    Look,
    Progress,
    Record,
    Stable,
    VolumeShape,
    Welcome,
    Who,
    read,
    record_of,
)
from mirror_core.site import Site

LINEAGE = "0123456789abcdef" * 2
TOKEN = "a" * 32
HELLO = Handshake(
    "east",
    LINEAGE,
    2**62,
    (VolumeShape("disk", 1 << 46, 4096),),
    "5" * 32,
    run=TOKEN,
    runs=(TOKEN,),
    begun=9,
    begun_token=TOKEN,
    committed=8,
    committed_token=TOKEN,
)
WELCOME = Welcome("west", "i" * 32, 7, 6, True, False, False, 1234.5, False, TOKEN)
COMMIT = Commit(LINEAGE, 2**62, 8, 1234.5, TOKEN)
STABLE = Stable(2**62, 8, 3, TOKEN)
COMPARE = Compare(2**62, 7, "disk", ((0, 2), (2**33, 1)), bytes(range(48)))


def through_the_wire(record: Record, version: int = protocol.VERSION) -> Record:
    data = protocol.encode(record, version)
    found, known = protocol.decode(data + bytes(limits.CONTROL_BYTES - len(data)))
    assert known == version
    return found


def test_each_record_comes_back_as_it_was_sent() -> None:
    """Handshake, welcome, comparison and commit survive the wire, padding included."""
    for message in (HELLO, WELCOME, COMPARE, COMMIT, STABLE):
        again = read(type(message), through_the_wire(record_of(message)))
        assert again == message


def test_each_record_is_read_in_the_older_version() -> None:
    """What version 2 did not have is not sent in it, and is said to be unknown when it is read."""
    for message in (HELLO, WELCOME, COMPARE, COMMIT, STABLE):
        sent = record_of(message, 2)
        assert not {"run", "token", "begun", "begun_token", "committed_token"} & sent.keys()
        again = read(type(message), through_the_wire(sent, 2), 2)
        assert record_of(again, 2) == sent
    hello = read(Handshake, record_of(HELLO, 2), 2)
    assert (hello.run, hello.begun, hello.committed_token) == ("", None, "")


KEYS = {  # of version 2, and what version 3 has beside
    "Handshake": (
        "op name lineage session volumes site resumes stable",
        "run runs begun begun_token committed committed_token silence_seconds",
    ),
    "Welcome": (
        "name instance committed hardened whole blank seeded point resumed",
        "committed_token",
    ),
    "Compare": ("op session sequence volume runs sums", ""),
    "Commit": ("op lineage session sequence consistency_point", "token"),
    "Stable": ("op session sequence serial", "token"),
}


@pytest.mark.parametrize("message", [HELLO, WELCOME, COMPARE, COMMIT, STABLE], ids=KEYS)
def test_the_names_of_attributes_are_not_the_format(message: Any) -> None:
    """The keys of each record are these and none else: a renamed attribute cannot change them."""
    older, newer = (set(words.split()) for words in KEYS[type(message).__name__])
    assert record_of(message, 2).keys() == older
    assert record_of(message).keys() == older | newer


def test_a_moment_may_be_a_whole_number() -> None:
    """JSON does not tell 1234.0 from 1234: both are a moment."""
    commit = read(Commit, {**record_of(COMMIT), "consistency_point": 1234})
    assert commit.consistency_point == 1234.0 and isinstance(commit.consistency_point, float)


@pytest.mark.parametrize("version", [0, 1, 4, 2**62])
def test_another_version_is_refused_by_its_number(version: int) -> None:
    """A site of another protocol is refused in a line that names both versions, which is the
    same on both sides; it is a refusal, not an error of the link."""
    data = json.dumps({"flashmirror": version, "op": "status"}).encode()
    with pytest.raises(Refused) as caught:
        protocol.decode(data)
    low, high = sorted((version, protocol.VERSION))
    assert str(caught.value) == str(OtherVersion(high, low))
    assert f"control protocols {low} and {high} do not go together" in str(caught.value)


@pytest.mark.parametrize("version", [None, "1", True, [1] * 9999, -1, 2**64, 2.0])
def test_a_record_that_names_no_version_is_refused(version: object) -> None:
    """In a line that has an end."""
    data = json.dumps({"flashmirror": version, "op": "status"}).encode()
    with pytest.raises(PeerError, match="malformed control record: no protocol version") as caught:
        protocol.decode(data)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(limits.CONTROL_BYTES),
        b"status",
        b"[]",
        b"7",
        b"\xff\xfe\x00",
        b'{"flashmirror": 2, "x": NaN}',
        b'{"flashmirror": 2, "x": -Infinity}',
        b'{"flashmirror": 2, "x": ' + b"9" * 5000 + b"}",
        b"[" * limits.CONTROL_BYTES,
        b'{"a":' * 13_000,
    ],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    """Noise, nesting without end and numbers that are none are refused as malformed."""
    with pytest.raises(PeerError, match=r"^malformed control record"):
        protocol.decode(data)


def test_a_value_of_a_peer_is_shown_short() -> None:
    """However deep or large a value is, it is shown in a part of a line."""
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    for value in (nested, 16**5000, "x" * 60_000, "\ud800", "a\nb"):
        assert len(short(value)) <= 83 and short(value).isprintable()


SHAPE = {"name": "disk", "size": 1, "block_size": 512}


@pytest.mark.parametrize(
    "changes",
    [
        {"volumes": None},
        {"volumes": ["disk"]},
        {"volumes": [{**SHAPE, "size": True}]},
        {"volumes": [{**SHAPE, "size": -1}]},
        {"volumes": [{**SHAPE, "name": "a/b"}]},
        {"session": 2**63},
        {"session": 1.0},
        {"lineage": "x"},
        {"lineage": "a" * 60_000},
        {"name": ""},
        {"volumes": [{**SHAPE, "name": str(i)} for i in range(limits.VOLUMES_MAX + 1)]},
    ],
)
def test_a_handshake_that_could_do_harm_is_refused(changes: dict[str, Any]) -> None:
    """Sizes, sessions and names outside their bounds never reach the core or the ledger."""
    with pytest.raises(PeerError, match="malformed control record"):
        read(Handshake, {**record_of(HELLO), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": [[0]]},
        {"runs": [[0, -1]]},
        {"runs": [["0", 1]]},
        {"runs": [7]},
        {"sums": "no base64!"},
        {"sums": "\xe9"},
        {"sums": 7},
        {"volume": "a/b"},
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """Runs that are none and sums that are no bytes never reach a store."""
    with pytest.raises(PeerError, match="malformed control record"):
        read(Compare, {**record_of(COMPARE), **changes})


@pytest.mark.parametrize("text", ["0123", "01 1", None, ["0", "1", "1"]])
def test_an_answer_to_a_comparison_has_one_bit_a_piece(text: object) -> None:
    """Anything else than 0 and 1 is refused."""
    assert read(Compared, {"equal": "011"}) == Compared((False, True, True))
    with pytest.raises(PeerError, match="malformed control record: equal"):
        read(Compared, {"equal": text})


ANSWERS = (
    Progress(False, 7, "a reason"),
    Progress(True, 8),
    Look(5, 0.5, True),
    Look(0, 0.0, False, "east", "1" * 32),
    Who("west", "target", (VolumeShape("disk", 1 << 20, 4096),)),
)


@pytest.mark.parametrize("message", ANSWERS)
@pytest.mark.parametrize("version", [protocol.OLDEST, protocol.VERSION])
def test_what_else_sites_say_has_a_table(message: protocol.Message, version: int) -> None:
    """Read as it was written, in each version; and not if a field is of another kind."""
    record = record_of(message, version)
    assert read(type(message), record, version) == message
    for key in record.keys() - {"op"}:
        with pytest.raises(PeerError, match=f"malformed control record: {key}"):
            read(type(message), {**record, key: {"x": 1}}, version)


# Literally as builds before 0.1.0 wrote them, in either version.
OLDER: list[tuple[Record, protocol.Message]] = [
    ({"hardened": 3, "reason": None}, Progress(False, 3)),
    ({"done": True}, Progress(True, 0)),
    ({"done": False, "reason": "west is full"}, Progress(False, 0, "west is full")),
    ({"done": True, "hardened": 3}, Progress(True, 3)),
    ({}, Progress(False, 0)),
    ({"op": "hardened", "session": 5, "wait": 0.05}, Look(5, 0.05)),
    (
        {"op": "hardened", "session": 0, "wait": 0, "name": "east", "lineage": LINEAGE},
        Look(0, 0, False, "east", LINEAGE),
    ),
    ({"equal": "01"}, Compared((False, True))),
    (
        {
            "site": "west",
            "role": "target",
            "volumes": [{"name": "disk", "size_bytes": 1 << 30, "block_size_bytes": 4096}],
        },
        Who("west", "target", (VolumeShape("disk", 1 << 30, 4096),)),
    ),
]


@pytest.mark.parametrize("version", range(protocol.OLDEST, protocol.VERSION + 1))
@pytest.mark.parametrize(("written", "meant"), OLDER)
def test_what_older_builds_say_is_understood(
    written: Record, meant: protocol.Message, version: int
) -> None:
    """And each of their fields is written to them, under its name of then."""
    assert read(type(meant), written, version) == meant
    ours = record_of(meant, version)
    assert written.items() <= ours.items()


def test_the_largest_comparison_fits() -> None:
    """As many runs and sums as a request may have fit into it."""
    runs = tuple((limits.VOLUME_SIZE_MAX // 512, 2**63 - 1) for _ in range(limits.COMPARE_RUNS))
    largest = Compare(2**62, 2**62, "n" * 64, runs, bytes(16 * limits.COMPARE_SUMS))
    assert read(Compare, through_the_wire(record_of(largest))) == largest


def test_the_largest_handshake_fits() -> None:
    """A group of as many volumes as there may be fits into one request."""
    shapes = tuple(
        VolumeShape(f"{i:064d}", limits.VOLUME_SIZE_MAX, limits.BLOCK_SIZE_MAX)
        for i in range(limits.VOLUMES_MAX)
    )
    runs = ("5" * 32,) * limits.RUNS_KNOWN
    largest = Handshake("n" * 64, LINEAGE, 2**62, shapes, "5" * 32, runs=runs)
    assert read(Handshake, through_the_wire(record_of(largest))) == largest


@pytest.mark.parametrize(
    ("answer", "line", "code"),
    [
        ({"error": "a\nb", "errno": "x"}, "a\\nb", errno.EIO),
        ({"error": ["a"], "errno": 10**300}, "['a']", errno.EIO),
        ({"error": "full", "errno": errno.ENOSPC}, "full", errno.ENOSPC),
        ({"refused": "x" * 60_000}, "x" * limits.LINE_MAX + "...", errno.EIO),
    ],
    ids=["lines", "types", "right", "long"],
)
def test_what_a_peer_says_is_one_line(answer: Record, line: str, code: int) -> None:
    """An error or a refusal of a peer is shown as one line with an end, and with an errno."""
    with pytest.raises((PeerError, Refused)) as caught:
        peer.answer_of(protocol.encode(answer))
    assert (str(caught.value), caught.value.code) == (line, code)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SessionOver("another one"), errno.ESHUTDOWN),
        (StoreError("a server ends", errno.ESHUTDOWN), errno.EIO),
        (Owed("a block"), errno.ESTALE),
        (StoreError("a folder on NFS", errno.ESTALE), errno.EIO),
        (StoreError("a full disk", errno.ENOSPC), errno.ENOSPC),
    ],
)
def test_an_errno_that_means_something_to_a_source_is_told_for_nothing_else(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch, error: MirrorError, told: int
) -> None:
    """The stores and folders of a target have the whole of the system's errnos."""

    def fails(_site: Site) -> Record:
        raise error

    handmade.create("west")
    site = Site(config.load(str(handmade.toml("west"))))
    monkeypatch.setattr(status, "of", fails)
    try:
        data = control.answer(site, protocol.encode({"op": "status"}), Visitor(True, "user 0"))
    finally:
        site.stop()
    assert protocol.decode(data)[0]["errno"] == told
