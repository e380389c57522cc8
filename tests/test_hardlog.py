"""The log of hardenings: what was made durable is found again, what is damaged is refused."""

from __future__ import annotations

import itertools
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64
from test_ledger import sample

from mirror_core import runlog
from mirror_core.errors import LedgerError
from mirror_core.hardlog import KIND, recover
from mirror_core.ledger import Lineage
from mirror_core.runlog import History, RunLog

RUNS = st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**20)), min_size=1, max_size=4)
RECORDS = st.lists(st.dictionaries(st.integers(0, 3), RUNS, min_size=1), min_size=1, max_size=5)
Records = list[dict[int, list[tuple[int, int]]]]
RUN = "r" * 32
LINEAGE = "l" * 32
SEVEN = History(KIND, "s" * 32, LINEAGE, 7, "t" * 32)
EIGHT = replace(SEVEN, sequence=8)
BOOK = sample(
    role="target", lineage=Lineage(LINEAGE), committed=7, committed_token="t" * 32, run=RUN
)


def path_in(state: Path) -> Path:
    return runlog.path_in(state, KIND, RUN)


def replay(path: Path, history: History = SEVEN) -> list[tuple[int, int, int]]:
    data = runlog.read(path)
    assert data is not None
    return [
        (number, first, n)
        for _, parts in runlog.records(path, data, history)
        for number, packed in parts
        for first, n in struct.iter_unpack("<QQ", packed)
    ]


def written(state: Path, records: Records, *histories: History) -> list[int]:
    """Append them, one after another to each history; where each record ends."""
    log, ends = RunLog(state, KIND, RUN), []
    for history, record in itertools.product(histories or [SEVEN], records):
        packed = {
            v: b"".join(struct.pack("<QQ", *run) for run in runs) for v, runs in record.items()
        }
        log.append(history, packed)
        ends.append(path_in(state).stat().st_size)
    log.close()
    return ends


def found(records: Records) -> list[tuple[int, int, int]]:
    return [(v, *run) for record in records for v, runs in record.items() for run in runs]


@given(RECORDS, st.data())
def test_a_torn_log_gives_every_record_that_was_whole(
    records: Records, data: st.DataObject
) -> None:
    """Cut at any byte, as by a crash: all records before the cut, and nothing of the torn one."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        ends = written(state, records)
        cut = data.draw(st.integers(0, ends[-1]))
        torn = data.draw(st.binary(max_size=40))
        path_in(state).write_bytes(path_in(state).read_bytes()[:cut] + torn[: ends[-1] - cut])
        whole = sum(end <= cut for end in ends)
        assert replay(path_in(state))[: len(found(records[:whole]))] == found(records[:whole])
        assert len(replay(path_in(state))) <= len(found(records))


def test_a_commit_voids_the_log(tmp_path: Path) -> None:
    """Records of another sequence mean nothing; the first of a new one begins the log anew."""
    written(tmp_path, [{0: [(1, 1)]}, {0: [(2, 1)]}])
    assert replay(path_in(tmp_path), EIGHT) == []
    written(tmp_path, [{1: [(5, 2)]}], SEVEN, EIGHT)
    assert replay(path_in(tmp_path), EIGHT) == [(1, 5, 2)]
    assert replay(path_in(tmp_path)) == []


LOST: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "in the middle": lambda parts: [parts[0], parts[2]],
    "of the beginning": lambda parts: parts[1:],
    "but for its head": lambda parts: [parts[0], parts[1][:150], parts[2]],
    "behind bytes of nobody": lambda parts: [parts[0], b"nobody's", *parts[1:]],
}


@pytest.mark.parametrize("lose", LOST.values(), ids=[key.replace(" ", "-") for key in LOST])
def test_a_lost_record_is_noticed(
    tmp_path: Path, lose: Callable[[list[bytes]], list[bytes]]
) -> None:
    """A whole record behind one that is damaged or gone: refused, never left out."""
    ends = [0, *written(tmp_path, [{0: [(i, 1)]} for i in range(3)])]
    data = path_in(tmp_path).read_bytes()
    parts = [data[begin:end] for begin, end in itertools.pairwise(ends)]
    path_in(tmp_path).write_bytes(b"".join(lose(parts)))
    with pytest.raises(LedgerError, match="is damaged at byte"):
        replay(path_in(tmp_path))
    assert replay(path_in(tmp_path), EIGHT) == []  # void, so it does not matter


def test_a_log_of_another_site_is_refused(tmp_path: Path) -> None:
    """Blocks that no volume of the ledger has are refused."""
    for runs in ({1: [(0, 1)]}, {0: [((1 << 34) - 1, 2)]}, {0: [(2**63, 2**63)]}):
        path_in(tmp_path).unlink(missing_ok=True)
        written(tmp_path, [runs])
        with pytest.raises(LedgerError, match="the log of another site"):
            recover(tmp_path, BOOK)
    path_in(tmp_path).unlink()
    written(tmp_path, [{0: [(0, 1)]}])
    gone = recover(tmp_path, BOOK).maps["disk/pending"]
    assert gone == BOOK.maps["disk/pending"] - BitMap64([0])


OTHER = {
    "site": replace(SEVEN, site="o" * 32),
    "lineage": replace(SEVEN, lineage="o" * 32),
    "sequence": EIGHT,
    "token": replace(SEVEN, token="o" * 32),
    "kind": replace(SEVEN, kind="written"),
}


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER.keys())
def test_a_record_of_another_history_counts_for_nothing(tmp_path: Path, other: History) -> None:
    """The log of an older history that had the same sequence is not taken for this one's, whatever
    it is that differs: a target that took everything anew would lose what it says (I1)."""
    written(tmp_path, [{0: [(0, 100)]}], other)
    assert recover(tmp_path, BOOK).maps == BOOK.maps


def test_a_log_of_another_run_is_none(tmp_path: Path) -> None:
    """The ledger names the run whose log counts; that of another one is not even looked at."""
    written(tmp_path, [{0: [(0, 100)]}])
    with pytest.raises(LedgerError, match=r"hardened\.o+: the log of hardenings is missing"):
        recover(tmp_path, replace(BOOK, run="o" * 32))


def test_a_log_that_is_missing_is_refused(tmp_path: Path) -> None:
    """Without it nobody knows which blocks the next cycle has overwritten, even if this ledger has
    nothing pending: an older one, put back alone, knows nothing of later cycles.  A target that has
    no image, or has never run, has none to lose."""
    for book in (BOOK, replace(BOOK, maps={})):
        with pytest.raises(LedgerError, match=r"the log of hardenings is missing.*resync --full"):
            recover(tmp_path, book)
    for other in (replace(BOOK, whole=False), replace(BOOK, run="")):
        assert recover(tmp_path, other) == other


def test_a_log_begins_anew_in_a_file_that_is_found(tmp_path: Path) -> None:
    """If a copy was put in its place, which holds records of the same history, none of them counts
    any more, and what is appended from then on is found."""
    written(tmp_path, [{0: [(1, 1)]}])
    old = path_in(tmp_path).read_bytes()
    log = RunLog(tmp_path, KIND, RUN)
    log.append(SEVEN, {0: struct.pack("<QQ", 1, 1)})
    (tmp_path / "copy").write_bytes(old)
    (tmp_path / "copy").rename(path_in(tmp_path))
    assert not log.is_in_place()
    log.restart(SEVEN)
    assert log.is_in_place() and replay(path_in(tmp_path)) == []
    log.append(SEVEN, {0: struct.pack("<QQ", 5, 1)})
    assert replay(path_in(tmp_path)) == [(0, 5, 1)]
    log.close()
