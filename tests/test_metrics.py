"""Every metric of the interface is there, says what to do with it, and moves as it should."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from handmade import (
    Handmade,
    ServedDisk,
    SlowDisk,
    eventually,
    scrape,
    state_of,
    until_state,
    value,
)
from nbd_client import NbdError
from pair import MakePair, Pair

GAUGES = (
    "info", "committed_sequence", "consistency_point_timestamp_seconds", "data_exposure_seconds",
    "image_age_seconds", "pending_bytes", "next_bytes", "peer_connected",
)  # fmt: skip
COUNTERS = (
    "cycles_total", "copied_bytes_total", "wire_bytes_total", "copies_before_write_total",
    "write_errors_total",
)  # fmt: skip
HISTOGRAMS = ("cycle_duration_seconds", "cycle_freeze_seconds", "copy_before_write_wait_seconds")
BLOCK = 4096


def rises(pair: Pair, sample: str, above: float, site: str = "east") -> float:
    """The value once it is above a bound."""
    found: list[float] = []

    def look() -> bool:
        found.append(value(scrape(pair, site), sample))
        return found[-1] > above

    eventually(look, f"{sample} above {above}")
    return found[-1]


def test_every_metric_has_its_name_type_and_help(make_pair: MakePair) -> None:
    """On both roles: each documented name, its type, and a HELP text of a sentence."""
    pair = make_pair("--size", "1M")
    pair.start()
    kinds = [("gauge", GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS)]
    for site in ("east", "west"):
        text = scrape(pair, site)
        for kind, names in kinds:
            for name in names:
                assert f"# TYPE flashmirror_{name} {kind}\n" in text, name
                said = re.search(rf"^# HELP flashmirror_{name} (.*)$", text, re.MULTILINE)
                assert said and len(said[1]) > 40 and said[1].endswith("."), name
        ours = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
        assert {n for n in ours if not n.startswith("flashmirror_")} == set(), "somebody else's"
        role = {"east": "source", "west": "target"}[site]
        assert re.search(
            rf'flashmirror_info{{role="{role}",site="{site}",version="[^"]+"}} 1.0', text
        )


def test_a_cycle_moves_the_figures(make_pair: MakePair) -> None:
    """A write is exposed until its cycle commits; then sequence, moment, bytes, and histograms
    have grown by just that."""
    pair = make_pair("--size", "64M")
    pair.start()
    pair.sync()
    pair.pause()
    before = scrape(pair)
    assert value(before, "data_exposure_seconds") == 0
    with pair.client() as client:
        for block in range(0, 2000, 2):  # 1,000 blocks that do not touch
            client.write(block * BLOCK, b"x" * BLOCK)
    changed = 1000 * BLOCK
    assert value(scrape(pair), 'next_bytes{volume="disk"}') == changed
    exposure = rises(pair, "data_exposure_seconds", 0.2)
    assert exposure < 60
    pair.sync()
    after = scrape(pair)

    def grown(sample: str) -> float:
        return value(after, sample) - value(before, sample)

    assert grown("committed_sequence") == 1
    assert grown('cycles_total{result="committed"}') == 1
    assert grown('cycles_total{result="abandoned"}') == 0
    assert changed <= grown('wire_bytes_total{volume="disk"}') <= 1.1 * changed
    assert grown('copied_bytes_total{copy="first",volume="disk"}') == changed
    assert value(after, 'next_bytes{volume="disk"}') == 0
    assert value(after, 'pending_bytes{volume="disk"}') == 0
    assert value(after, "data_exposure_seconds") == 0
    assert abs(value(after, "consistency_point_timestamp_seconds") - time.time()) < 60
    for histogram in ("cycle_freeze_seconds", "cycle_duration_seconds"):
        assert grown(f"{histogram}_count") == 1
        assert grown(f'{histogram}_bucket{{le="+Inf"}}') == 1
        assert grown(f"{histogram}_sum") > 0
    target = scrape(pair, "west")
    assert value(target, "committed_sequence") == value(after, "committed_sequence")
    assert value(target, 'copied_bytes_total{copy="second",volume="disk"}') >= changed
    assert value(target, 'wire_bytes_total{volume="disk"}') == 0


def test_copies_before_write_are_counted_and_timed(scratch: Path, handmade: Handmade) -> None:
    """Writes that meet blocks of the running cycle are counted, with how long they waited."""
    slow = SlowDisk(scratch / "slow", "150ms")
    handmade.size = 64 << 20  # more than is in flight at once
    handmade.stores["east", "intermediate"] = slow.store(handmade.size)
    try:
        handmade.create()
        handmade.start()
        handmade.pause()
        with handmade.client() as client:
            for at in range(0, handmade.size, 1 << 20):
                client.write(at, b"x" * (1 << 20))
            handmade.resume()
            eventually(lambda: state_of(handmade)["cycle"]["phase"] == "copy", "a cycle copies")
            for block in range(1, 4):  # from the end: the background goes upwards
                client.write(handmade.size - block * BLOCK, b"y" * BLOCK)
            text = scrape(handmade)
        assert value(text, 'pending_bytes{volume="disk"}') > 0
        assert value(text, 'copies_before_write_total{volume="disk"}') == 3
        assert state_of(handmade)["volumes"][0]["copies_before_write"] == 3
        waits = "copy_before_write_wait_seconds"
        assert value(text, f'{waits}_count{{volume="disk"}}') == 3
        assert value(text, f'{waits}_bucket{{le="+Inf",volume="disk"}}') == 3
        assert value(text, f'{waits}_bucket{{le="0.065536",volume="disk"}}') == 0
        assert 0.45 <= value(text, f'{waits}_sum{{volume="disk"}}') < 60
    finally:
        handmade.kill()
        slow.close()


def test_peer_connected_follows_the_peer(make_pair: MakePair) -> None:
    """1 while the other site answers, 0 soon after it is gone; on both sites."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    assert value(scrape(pair), "peer_connected") == 1
    assert value(scrape(pair, "west"), "peer_connected") == 1
    pair.stop("east")
    eventually(lambda: value(scrape(pair, "west"), "peer_connected") == 0, "the source is missed")
    pair.start("east")
    eventually(lambda: value(scrape(pair), "peer_connected") == 1, "the source is back")
    pair.stop("west")
    eventually(lambda: value(scrape(pair), "peer_connected") == 0, "the target is missed")


def test_failed_writes_and_abandoned_cycles_are_counted(scratch: Path, handmade: Handmade) -> None:
    """A write that fails at the data store, and a cycle that fails at the intermediate."""
    disks = {part: ServedDisk(scratch / part) for part in ("data", "intermediate")}
    try:
        for part, disk in disks.items():
            handmade.stores["east", part] = disk.store(handmade.size)
        handmade.create()
        handmade.start()
        handmade.sync()
        assert value(scrape(handmade), 'write_errors_total{volume="disk"}') == 0
        with handmade.client() as client:
            disks["data"].fill()
            for _ in range(3):
                with pytest.raises(NbdError):
                    client.write(0, b"x")
            disks["data"].empty()
            disks["intermediate"].fill()
            client.write(0, b"x")
            until_state(handmade, "degraded")
            disks["intermediate"].empty()
        assert value(scrape(handmade), 'write_errors_total{volume="disk"}') == 3
        assert value(scrape(handmade), 'cycles_total{result="abandoned"}') >= 1
        handmade.sync()
    finally:
        handmade.kill()
        for disk in disks.values():
            disk.close()


def names(text: str) -> list[str]:
    return re.findall(r"^([^#\s]\S*) ", text, re.MULTILINE)


def test_scrapes_do_not_disturb_and_do_not_grow(make_pair: MakePair) -> None:
    """A hundred scrapes under load all answer, with the same set of samples."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    first = names(scrape(pair))
    with pair.client() as client:
        for i in range(100):
            client.write(i * BLOCK, b"x" * BLOCK)
            assert names(scrape(pair)) == first
