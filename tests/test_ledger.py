"""The durable record of a site: whole or refused, never guessed at (I7)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from mirror_core import durable, ledger, limits, native, timeouts
from mirror_core.book import Book
from mirror_core.errors import LedgerError
from mirror_core.journal import Journal
from mirror_core.platform import HERE, Platform


def sample(**changes: object) -> ledger.Ledger:
    store = ledger.StoreRecord(
        "device", "8:1", "f" * 64, ("partuuid:1-2", "wwid:a b#9"), "boot/7#9"
    )
    first = ledger.Ledger(
        site="s" * 32,
        name="east",
        role="source",
        lineage=ledger.Lineage("l" * 32, parent="p" * 32, forked_at=3),
        volumes=(ledger.VolumeRecord("disk", 1 << 46, 4096, store, replace(store, kind="nbd")),),
        begun=9,
        begun_token="b" * 32,
        committed=8,
        committed_token="c" * 32,
        consistency_point=1234.5,
        hardened=7,
        whole=True,
        paused=True,
        clean=False,
        since=1200.5,
        run="r" * 32,
        runs=("q" * 32, "r" * 32),
        source_run="u" * 32,
        source_silence=2.5,
        maps={"disk/next": BitMap64([1, 2, 3, 1 << 33]), "disk/pending": BitMap64(range(5000))},
    )
    return replace(first, **changes)  # type: ignore[arg-type]


GOOD = ledger.encode(sample())


def refused(data: bytes) -> str:
    with pytest.raises(LedgerError) as caught:
        ledger.decode(data, "/state/ledger")
    line = str(caught.value)
    assert line.startswith("/state/ledger: ") and line.isprintable(), line
    return line


def test_what_was_written_is_read() -> None:
    """Every field, and maps with blocks past 2**32, come back as they were."""
    assert ledger.decode(GOOD, "x") == sample()
    young = sample(lineage=None, consistency_point=None, maps={})
    assert ledger.decode(ledger.encode(young), "x") == young


def test_an_empty_map_is_no_map() -> None:
    """A map without blocks takes no place in the record."""
    record = sample(maps={"disk/next": BitMap64()})
    assert ledger.decode(ledger.encode(record), "x").maps == {}


def test_each_byte_of_the_first_line_matters() -> None:
    """The line that names the format, its version and the checksum is itself safe."""
    for at in range(GOOD.index(b"\n") + 1):
        for mask in (1, 0x20, 0x80):
            refused(GOOD[:at] + bytes([GOOD[at] ^ mask]) + GOOD[at + 1 :])


@given(st.binary(max_size=200))
def test_a_foreign_file_is_refused(data: bytes) -> None:
    """What never was a ledger is refused."""
    assert "not a flashmirror ledger" in refused(data)


def sealed(payload: bytes, version: int = ledger.VERSION) -> bytes:
    """A file whose checksum is right, whatever it says."""
    digest = hashlib.sha256(payload).hexdigest()
    return f"flashmirror-ledger {version} {digest} {len(payload)}\n".encode() + payload


def test_another_version_is_refused() -> None:
    """A ledger of a later program is refused by its version."""
    assert "version '10'" in refused(sealed(GOOD.partition(b"\n")[2], version=10))


VERSION_1 = (
    b'{"site": "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", "name": "west", "role": "target", "lineage": '
    b'{"id": "11111111111111111111111111111111", "parent": null, "forked_at": 0}, "volumes": '
    b'[{"name": "disk", "size": 8192, "block_size": 4096, "data": {"kind": "file", "identity": "7",'
    b' "fingerprint": "ff"}, "intermediate": {"kind": "file", "identity": "8", "fingerprint": '
    b'null}}], "begun": 0, "committed": 7, "consistency_point": 1234.5, "hardened": 7, "whole": '
    b'true, "seeded": false, "paused": false, "clean": true, "run": "22", "maps": {}}\n'
)


def test_a_ledger_of_the_first_version_is_read() -> None:
    """What 0.1.0 wrote at an orderly stop opens; what it did not know is not known; and it is
    written as this version."""
    book = ledger.decode(sealed(VERSION_1, version=1), "x")
    assert (book.committed, book.committed_token, book.whole) == (7, "", True)
    assert book.volumes[0].size == 8192 and book.volumes[0].data.fingerprint == "ff"
    assert book.run == "", "its files had no run in their names"
    assert ledger.decode(ledger.encode(book), "x") == book
    killed = VERSION_1.replace(b'"clean": true', b'"clean": false')
    assert "start and stop it once with the program that wrote it" in refused(
        sealed(killed, version=1)
    )


def test_a_ledger_of_the_second_version_does_not_know_whether_reads_are_doubtful() -> None:
    """It has no word of that, so they are."""
    later = ("reads_doubtful", "known_", *SINCE_7)
    head = {key: value for key, value in HEAD.items() if not key.startswith(later)}
    payload = json.dumps(head).encode() + GOOD[-sum(HEAD["maps"].values()) - 1 :]
    book = ledger.decode(sealed(payload, version=2), "x")
    assert book.doubtful_data and not ledger.decode(GOOD, "x").doubtful_data
    assert book.doubtful_sent and not ledger.decode(GOOD, "x").doubtful_sent
    assert book.doubtful_before and not ledger.decode(GOOD, "x").doubtful_before


def test_a_ledger_of_the_sixth_version_says_what_is_safe() -> None:
    """Its source's target may have been refused, and its target's source be as patient as one can
    be; that `next` is coarse costs only the wire."""
    head = {key: value for key, value in HEAD.items() if key not in SINCE_7}
    payload = json.dumps(head).encode() + GOOD[-sum(HEAD["maps"].values()) - 1 :]
    book = ledger.decode(sealed(payload, version=6), "x")
    most = timeouts.silence_s(limits.LINK_TIMEOUT_MAX_S)
    assert (book.unsure, book.coarse, book.source_silence) == (True, False, most)
    assert ledger.decode(ledger.encode(book), "x") == book


def test_the_names_of_attributes_are_not_the_format() -> None:
    """The keys of version 9 are these and none else: a renamed attribute cannot change them."""
    assert set(HEAD) == {
        "site",
        "name",
        "role",
        "lineage",
        "volumes",
        "begun",
        "begun_token",
        "committed",
        "committed_token",
        "consistency_point",
        "hardened",
        "has_image",
        "seeded",
        "paused",
        "clean_shutdown",
        "history_began",
        "run",
        "runs",
        "source_run",
        "reads_doubtful",
        "reads_doubtful_sent",
        "reads_doubtful_before",
        "known_boot",
        "known_uptime",
        "maps",
        *SINCE_7,
    }


SINCE_7 = {
    "source_silence",
    "target_unsure",
    "next_coarse",
    "unflushed",
    "flushing",
    "flushing_boot",
    "logs",
    "logs_copied",
}
HEAD = json.loads(GOOD.split(b"\n")[1])


def test_a_head_of_another_shape_is_refused() -> None:
    """A right checksum over no record at all is refused, however deep it is nested."""
    for head in (
        b"",
        b"[]",
        b"7",
        b'{"maps": {}}',
        b'{"a": ' + b"[" * 100_000,
        b'{"maps": {}, "lineage": {"\\u001f": 1}}',
    ):
        assert "makes no sense" in refused(sealed(head + b"\n"))


def test_maps_that_are_too_short_are_refused() -> None:
    """A head that promises more bytes of maps than there are is refused."""
    head = json.dumps(HEAD).encode()
    assert "makes no sense" in refused(sealed(head + b"\n" + b"\1\2\3"))


def test_no_ledger_names_the_command_to_run(tmp_path: Path) -> None:
    """A site that was never created is refused with what to do."""
    with pytest.raises(LedgerError, match=r"ledger: .*run 'flashmirror create' first") as caught:
        ledger.load(tmp_path)
    assert caught.value.code == errno.ENOENT


def test_a_ledger_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A folder where the ledger should be is refused, with the reason."""
    (tmp_path / "ledger").mkdir()
    with pytest.raises(LedgerError, match="is no file"):
        ledger.load(tmp_path)


def test_a_saved_ledger_replaces_the_old_one_whole(tmp_path: Path) -> None:
    """After a save the folder holds the new record and nothing else."""
    ledger.save(tmp_path, sample())
    ledger.save(tmp_path, sample(committed=9))
    assert ledger.load(tmp_path) == sample(committed=9)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o600


def test_a_half_written_new_ledger_is_not_looked_at(tmp_path: Path) -> None:
    """What a crash left beside the ledger changes nothing, and the next save goes over it."""
    ledger.save(tmp_path, sample())
    (tmp_path / "ledger.new").write_bytes(GOOD[:100])
    assert ledger.load(tmp_path) == sample()
    ledger.save(tmp_path, sample(committed=9))
    assert ledger.load(tmp_path).committed == 9


def test_a_save_that_fails_leaves_the_old_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk is full the old record stands, in memory and on disk, and the line says so."""
    ledger.save(tmp_path, sample())
    book = Book(tmp_path, ledger.load(tmp_path), HERE, Journal())

    def full(_fd: int, _since: int, *, data_only: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(native, "sync", full)
    with pytest.raises(LedgerError, match=r"ledger: No space left on device: ") as caught:
        book.update(committed=9)
    assert caught.value.code == errno.ENOSPC
    assert book.current == sample() == ledger.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


class Aborted(Exception):
    """The process would end here."""


class FailingFolder(Platform):
    """A machine that cannot flush the names of a folder, so many times."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.log: list[str] = []

    def fsync(self, fd: int, since: int) -> None:
        if self._failures and stat.S_ISDIR(os.fstat(fd).st_mode):
            self._failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd, since)

    def write_log(self, line: str) -> None:
        self.log.append(line)

    def abort(self) -> NoReturn:
        raise Aborted


def test_a_ledger_whose_name_is_not_flushed_is_written_again(tmp_path: Path) -> None:
    """There is no way back after the rename: the change is made until it is known to be durable,
    also if a client on the same disk meets the same failure again and again meanwhile."""
    ledger.save(tmp_path, sample())
    platform = FailingFolder(4)
    book = Book(tmp_path, sample(), platform, Journal(platform))
    book.update(committed=9)
    assert book.current.committed == ledger.load(tmp_path).committed == 9


def test_a_state_folder_does_not_vanish_with_the_power(tmp_path: Path) -> None:
    """Whatever stands in it: its name is in the folder above, and so on up to what was there."""

    class Folders(Platform):
        def fsync(self, fd: int, since: int) -> None:
            flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
            super().fsync(fd, since)

    flushed: list[Path] = []
    (tmp_path / "there").mkdir()
    flush_names = durable.make_folder(tmp_path / "there/a/b/state", Folders())
    assert not flushed, "what it hears of a disk would be said before the stores are flushed"
    flush_names()
    assert flushed == [tmp_path / one for one in ("there/a/b", "there/a", "there")]
    assert stat.S_IMODE((tmp_path / "there/a/b/state").stat().st_mode) == 0o700
    durable.make_folder(tmp_path / "there/a/b/state", Folders())()  # by whomever it was made
    assert flushed[3:] == [tmp_path / "there/a/b"]


class LostAnswer(Platform):
    """A rename that was done, as a file server may do it, and reports an error."""

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_rename_that_was_done_counts_whatever_it_reports(tmp_path: Path) -> None:
    """The new ledger stands, so it is what the site goes on with."""
    ledger.save(tmp_path, sample())
    book = Book(tmp_path, sample(), LostAnswer(), Journal(LostAnswer()))
    book.update(committed=9)
    assert book.current.committed == ledger.load(tmp_path).committed == 9


def test_a_site_that_does_not_know_its_ledger_ends(tmp_path: Path) -> None:
    """If nobody knows whether the old ledger or the new one outlives a power loss, the process
    ends with the reason, and the next one reads what stands."""
    ledger.save(tmp_path, sample())
    platform = FailingFolder(100)
    book = Book(tmp_path, sample(), platform, Journal(platform))
    with pytest.raises(Aborted):
        book.update(committed=9)
    assert book.current == sample()
    assert len(platform.log) == 1 and "Input/output error: the new ledger" in platform.log[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 2**40), max_size=50), st.integers(0, 2**40))
def test_a_block_of_the_image_is_where_the_map_says(blocks: set[int], block: int) -> None:
    """image(k): the intermediate where a block is pending, else the data store (I1)."""
    record = sample(maps={"disk/pending": BitMap64(blocks)})
    for one in (block, *list(blocks)[:3]):
        expected = "intermediate" if one in blocks else "data"
        assert ledger.image(record, "disk", one) == expected
    assert ledger.image(sample(maps={}), "disk", block) == "data"
