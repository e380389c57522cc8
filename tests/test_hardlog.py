"""The log of hardenings: what was made durable is found again, what is damaged is refused."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_core.errors import LedgerError
from mirror_core.hardlog import HardLog, path_in, replay

RUNS = st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**20)), min_size=1, max_size=4)
RECORDS = st.lists(st.dictionaries(st.integers(0, 3), RUNS, min_size=1), min_size=1, max_size=5)
Records = list[dict[int, list[tuple[int, int]]]]


def written(state: Path, sequence: int, records: Records) -> list[int]:
    """Append them; where each record ends."""
    log, ends = HardLog(state), []
    for record in records:
        packed = {v: b"".join(struct.pack("<QQ", *run) for run in runs)
                  for v, runs in record.items()}  # fmt: skip
        log.append(sequence, packed)
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
        ends = written(state, 7, records)
        cut = data.draw(st.integers(0, ends[-1]))
        torn = data.draw(st.binary(max_size=40))
        path_in(state).write_bytes(path_in(state).read_bytes()[:cut] + torn[: ends[-1] - cut])
        whole = sum(end <= cut for end in ends)
        assert replay(state, 7)[: len(found(records[:whole]))] == found(records[:whole])
        assert len(replay(state, 7)) <= len(found(records))


@given(RECORDS.filter(lambda records: len(records) > 1), st.data())
def test_a_damaged_record_before_a_good_one_is_refused(
    records: Records, data: st.DataObject
) -> None:
    """Any byte changed in a record that a good one follows: refused, never read around."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        ends = written(state, 7, records)
        at = data.draw(st.integers(0, ends[-2] - 1))
        image = bytearray(path_in(state).read_bytes())
        image[at] ^= data.draw(st.integers(1, 255))
        path_in(state).write_bytes(image)
        with pytest.raises(LedgerError, match="is damaged at byte"):
            replay(state, 7)


@given(st.binary(max_size=300))
def test_garbage_is_never_taken_for_hardenings(garbage: bytes) -> None:
    """Bytes that nobody wrote as a log mean nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path_in(Path(folder)).write_bytes(garbage)
        assert replay(Path(folder), 7) == []


def test_a_commit_voids_the_log(tmp_path: Path) -> None:
    """Records of another sequence mean nothing; the first of a new one begins the log anew."""
    written(tmp_path, 7, [{0: [(1, 1)]}, {0: [(2, 1)]}])
    assert replay(tmp_path, 8) == []
    written(tmp_path, 8, [{1: [(5, 2)]}])
    assert replay(tmp_path, 8) == [(1, 5, 2)]
    assert replay(tmp_path, 7) == []
