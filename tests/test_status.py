"""The status of a site: its keys, its states, and how it is shown."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import east, kill
from pair import FLASHMIRROR, CommandFailed, MakePair, Pair

from mirror_core import config, status
from mirror_core.site import Site

STATUS = {  # section 6 of the design, and block_size_bytes, by which `check` compares the sites
    "site", "role", "lineage", "pid", "metrics_address", "state", "reason", "peer", "cycle",
    "committed", "hardened_sequence", "data_exposure_seconds", "image_age_seconds",
    "last_cycle", "volumes",
}  # fmt: skip
INSIDE: dict[str, set[str]] = {
    "peer": {"state", "since", "reason"},
    "cycle": {"sequence", "phase", "copied_bytes", "total_bytes", "estimated_end"},
    "committed": {"sequence", "consistency_point"},
    "last_cycle": {"duration_seconds", "bytes", "freeze_seconds"},
    "volumes": {
        "name", "size_bytes", "block_size_bytes", "next_bytes", "pending_bytes",
        "copies_before_write",
    },
}  # fmt: skip
STATES = {"initial", "mirroring", "paused", "degraded", "stopped", "refused"}


def assert_status(status: dict[str, Any]) -> None:
    assert status.keys() == STATUS
    assert status["state"] in STATES
    for key, names in INSIDE.items():
        values = status[key] if isinstance(status[key], list) else [status[key]]
        for value in values:
            assert value is None or value.keys() == names, key
    assert status["cycle"]["phase"] in ("idle", "freeze", "copy", "flush", "commit")


def test_status_has_every_key_of_the_interface(running: Pair) -> None:
    """`status --json` of either role has the documented keys, no more and no fewer."""
    for site, role in (("east", "source"), ("west", "target")):
        status = running.status(site)
        assert_status(status)
        assert (status["site"], status["role"], status["state"]) == (site, role, "mirroring")
        assert status["reason"] is None and status["peer"]["state"] == "connected"
        assert status["committed"]["sequence"] == status["hardened_sequence"] >= 1
        assert abs(status["committed"]["consistency_point"] - time.time()) < 3600
        assert Path(f"/proc/{status['pid']}").exists()
        assert re.fullmatch(r"127\.0\.0\.1:\d+", status["metrics_address"])
    assert running.status()["last_cycle"] is not None
    assert running.status()["lineage"] == running.status("west")["lineage"]


def test_a_stopped_site_is_stopped(make_pair: MakePair) -> None:
    """Before its first start, and after a stop, a site is `stopped`, with exit status 0 and with
    what its ledger knows."""
    pair = make_pair("--size", "1M")
    status = pair.status()
    assert_status(status)
    assert (status["state"], status["pid"], status["reason"]) == ("stopped", None, None)
    assert status["committed"] == {"sequence": None, "consistency_point": None}
    pair.start()
    pair.sync()
    committed = pair.status()["committed"]
    pair.stop()
    for site in ("east", "west"):
        status = pair.status(site)
        assert_status(status)
        assert (status["state"], status["committed"]) == ("stopped", committed)
    assert "stopped" in pair.run("status", east(pair))


def test_status_of_a_site_that_was_killed_says_so(make_pair: MakePair) -> None:
    """A site that did not end in order is `stopped`, with that reason."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    kill(pair, "east")
    status = pair.status()
    assert (status["state"], status["reason"]) == ("stopped", "it was not stopped in order")


def test_status_for_people_names_what_matters(running: Pair) -> None:
    """Without --json the same as a table."""
    text = running.run("status", east(running))
    for part in ("east (source)", "mirroring", "connected", "committed", "data exposure", "disk"):
        assert part in text


def test_watch_goes_on_until_ctrl_c(running: Pair) -> None:
    """`status --watch` shows the status again and again; SIGINT is its regular end."""
    words = [str(FLASHMIRROR), "status", east(running), "--watch", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
        assert watch.stdout is not None and watch.stderr is not None
        seen = b""
        deadline = time.monotonic() + 20
        while seen.count(b'"lineage"') < 2:
            assert select.select([watch.stdout], [], [], deadline - time.monotonic())[0]
            seen += os.read(watch.stdout.fileno(), 65536)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=20) == 0
        assert watch.stderr.read() == b""


def test_a_source_that_has_not_connected_yet_is_not_mirroring(make_pair: MakePair) -> None:
    """It may not find its peer for as long as link_timeout."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    pair.stop()
    site = Site(config.load(str(pair.toml("east"))))
    try:
        assert status.of(site)["state"] == "degraded"
    finally:
        site.stop()


def test_a_target_whose_own_state_disk_fails_says_so(make_pair: MakePair) -> None:
    """Its source asks for a session all the time, which the target cannot record: its status and
    its log name the disk, not the source, which is not taken for gone; and it passes."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    in_the_way = pair.folder / "west" / "state" / "ledger.new"
    in_the_way.mkdir()
    pair.start("east")
    direct.wait_for(
        lambda: "ledger cannot be written" in (direct.status(pair, "west")["reason"] or ""),
        "the reason",
    )
    found = direct.status(pair, "west")
    assert (found["state"], found["peer"]["state"]) == ("degraded", "disconnected")
    assert "ledger cannot be written" in found["peer"]["reason"]
    assert pair.log("west").count("east asks for a session, which fails: ") == 1
    with pytest.raises(CommandFailed, match="its source east is there: stop it, or promote with"):
        pair.run("promote", str(pair.toml("west")))
    in_the_way.rmdir()
    direct.sync(pair)
    direct.wait_status(pair, "west", reason=None)


def test_a_target_says_since_when_it_has_lost_its_source(make_pair: MakePair) -> None:
    """Not since when they were connected."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    connected = direct.status(pair, "west")["peer"]["since"]
    killed = time.time()
    assert connected < killed
    kill(pair, "east")
    direct.wait_status_of_peer(pair, "west", "disconnected")
    since = direct.status(pair, "west")["peer"]["since"]
    assert killed < since < time.time()
    direct.ask(pair, {"op": "promote", "force": False}, "west")
    assert direct.status(pair, "west")["peer"]["since"] == pytest.approx(since, abs=0.1)
