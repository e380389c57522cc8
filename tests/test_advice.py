"""What a line tells a person to do is what helps: the cause is the right one, and nothing is asked
for that is done already."""

from __future__ import annotations

import re

import pytest
from handmade import Handmade, edit, flashmirror, record, refused, state_of
from nbd_client import NbdError
from pair import MakePair, Pair
from served import Server

PAGE = "see docs/network.md, 'What each failure looks like'"


def peer_row(pair: Pair, site: str = "east") -> str:
    """What `check --json` says of the peer."""
    done = flashmirror("check", str(pair.toml(site)))
    return next(line for line in done.stdout.splitlines() if re.match(r"\w+ +peer ", line))


def test_a_peer_is_to_be_started_only_if_it_does_not_run(handmade: Handmade) -> None:
    """Nobody listens there: of any other failure the page that explains it is named."""
    handmade.more = 'insecure = true\nlink_timeout = "500ms"\nfreeze_max = "100ms"'
    handmade.write("east")
    assert peer_row(handmade).endswith(": start it")
    west = f'peer = "unix:{handmade.folder}/west.sock"'
    edit(handmade, west, 'peer = "nbd://127.0.0.1:1"')
    assert peer_row(handmade).endswith("Connection refused: start it")
    edit(handmade, "nbd://127.0.0.1:1", "nbd://no-such-host.invalid")
    assert peer_row(handmade).endswith(PAGE), peer_row(handmade)
    edit(handmade, 'peer = "nbd://no-such-host.invalid"', west)
    script = handmade.folder / "plugin.sh"  # somebody else there, who has no export of ours
    script.write_text('[ "$1" = open ] && { echo ENOENT none >&2; exit 1; }; exit 2\n')
    script.chmod(0o700)
    other = Server(handmade.folder / "west.img", "sh", str(script))
    try:
        with pytest.raises(NbdError):
            other.start()  # it answers, and opens nothing
        assert peer_row(handmade).endswith(PAGE), peer_row(handmade)
    finally:
        other.stop()


def test_what_runs_already_is_not_in_the_way_of_itself(make_pair: MakePair) -> None:
    """`start --foreground` of a site that runs names its process, not its address or socket."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    said = refused("start", str(pair.toml("east")), "--foreground")
    stop = f"'flashmirror stop {pair.toml('east')}' first"
    assert said == f"east: runs already, process {state_of(pair)['pid']}: {stop}"


def test_a_ledger_of_another_name_may_have_the_right_one(handmade: Handmade) -> None:
    """Either of the two settings may be the wrong one."""
    handmade.create("east")
    edit(handmade, 'name = "east"', 'name = "west"')
    said = refused("start", str(handmade.toml("east")))
    assert said.endswith("of the site east, not west: mend 'name' or 'state'"), said


def test_the_recorded_store_need_not_be_adopted(handmade: Handmade) -> None:
    """Unless somebody has changed its bytes, which only a person knows."""
    handmade.create("east")
    words = ("adopt", str(handmade.toml("east")), "disk", "data")
    said = refused(*words)
    assert "is the recorded store: nothing to adopt, unless its bytes were changed" in said, said
    assert record(*words, "--yes")["effect"] == "compare"


def test_what_fails_at_a_stop_is_named(handmade: Handmade) -> None:
    """Which store, and in words: the log is all that is left to read."""
    server = Server(handmade.folder / "served.img")
    server.image.write_bytes(bytes(handmade.size))
    server.start()
    handmade.stores["east", "data"] = server.uri
    handmade.create("east")
    handmade.start("east")
    with handmade.client() as client:
        client.write(0, b"x")
        server.stop()
    handmade.stop("east")
    log = handmade.log("east")
    assert f"at stop: data store {server.uri}: flush: " in log, log
    assert "[Errno" not in log, log
