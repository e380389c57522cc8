"""Every metric of the interface is there, says what to do with it, and moves as it should."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import stat
import struct
import time
from pathlib import Path

import direct
import pytest
from handmade import (
    Handmade,
    ServedDisk,
    SlowDisk,
    edit,
    eventually,
    flashmirror,
    kill,
    refused,
    scrape,
    state_of,
    until_state,
    value,
)
from nbd_client import NbdError
from pair import MakePair, Pair

from mirror_core import limits

GAUGES = (
    "info",
    "committed_sequence",
    "consistency_point_timestamp_seconds",
    "data_exposure_seconds",
    "image_age_seconds",
    "pending_bytes",
    "next_bytes",
    "peer_connected",
)
COUNTERS = (
    "cycles_total",
    "copied_bytes_total",
    "wire_bytes_total",
    "copies_before_write_total",
    "write_errors_total",
    "read_errors_total",
)
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


def get(port: int, host: str | None) -> int:
    """The status of a scrape with this Host header."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.putrequest("GET", "/metrics", skip_host=True)
        if host is not None:
            client.putheader("Host", host)
        client.endheaders()
        answer = client.getresponse()
        answer.read()
        return answer.status


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_crowd_at_the_port_of_the_metrics_shuts_out_nobody(make_pair: MakePair) -> None:
    """Local users hold a thousand connections, say nothing, and break off: the site has few of
    them at a time, scrapes, mirrors, answers commands, and writes nothing of it to the log."""
    pair = make_pair("--size", "1M")
    pair.start()
    state = state_of(pair)
    port, pid = int(state["metrics_address"].rpartition(":")[2]), state["pid"]
    before, written = descriptors(pid), len(pair.log("east"))
    with contextlib.ExitStack() as crowd:
        for number in range(1000):
            one = crowd.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            if number % 2:
                one.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
            if number % 10 == 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()
        assert get(port, None) == 200  # behind all of them
        assert descriptors(pid) < before + 100
        with pair.client() as client:
            client.write(0, b"x" * 4096)
        direct.sync(pair)
        most = before + limits.METRICS_CLIENTS + 8
        eventually(lambda: descriptors(pid) <= most, "few descriptors")
    assert len(pair.log("east")) <= written + 200, pair.log("east")[written:]


def test_metrics_are_told_to_who_asks_for_this_machine(make_pair: MakePair) -> None:
    """By number, by the name that is configured, or by the machine's own: not by a name that
    somebody else lets mean this port."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    port = int(state_of(pair)["metrics_address"].rpartition(":")[2])
    for host in (None, f"127.0.0.1:{port}", "[::1]:1", "localhost", socket.gethostname()):
        assert get(port, host) == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "a b", "@x"):
        assert get(port, host) == 403, host


def test_metrics_on_a_unix_socket_are_for_its_owner(make_pair: MakePair) -> None:
    """What a killed site has left there is replaced, what another one listens on is not, and a stop
    leaves nothing there."""
    pair = make_pair("--size", "1M")
    path = pair.folder / "metrics.sock"
    edit(pair, '"127.0.0.1:0"', f'"unix:{path}"')
    pair.start("east")
    assert state_of(pair)["metrics_address"] == f"unix:{path}"
    kill(pair, "east")
    pair.start("east")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.0\r\nHost: any.name\r\n\r\n")
        text = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert b" 200 OK" in text and b"flashmirror_committed_sequence" in text
    west = pair.toml("west")
    west.write_text(west.read_text().replace('"127.0.0.1:0"', f'"unix:{path}"'))
    words = f"{path}: another process listens there: stop it, or change 'metrics'"
    assert words in flashmirror("check", str(west)).stdout
    assert words in refused("start", str(west))
    pair.stop("east")
    assert not path.exists()
