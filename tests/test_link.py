"""What comes over the link between the sites: stops, deaths and silence of either site.

Through all of it writes to the source never fail, and when it is over everything arrives.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import direct
import pytest
from dependent import REGION, Judge, Load, read_images
from nbd_client import WRITE, NbdError
from pair import SOAK, MakePair, Pair
from served import SlowPair

pytestmark = pytest.mark.timeout(300 * SOAK)

WRITERS = 4
LINK_TIMEOUT_S = 1.0
SIZE = WRITERS * REGION  # of a volume


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    """Two volumes, synced once, so that the target has an image to lose."""
    pair = make_pair("--size", str(SIZE), "--volumes", "2")
    for site in ("east", "west"):
        pair.configure(site, f'link_timeout = "{LINK_TIMEOUT_S}s"')
    pair.start()
    direct.sync(pair)
    return pair


def loaded(pair: Pair, *, reconnects: bool = False) -> Load:
    return Load([pair.uri("disk"), pair.uri("disk2")], WRITERS, reconnects=reconnects)


def check_end(pair: Pair, load: Load, judge: Judge) -> None:
    """Nobody writes any more: after a sync the target holds every write, as the source does."""
    direct.sync(pair)
    images = read_images(pair.folder / "west", load)
    judge.check(images, load.acknowledged())
    assert images == read_images(pair.folder / "east", load)


def check_no_stall(load: Load) -> None:
    assert load.longest_s() < LINK_TIMEOUT_S + 1, "a write stalled"


def lose_power(pair: Pair, site: str) -> None:
    """What a machine that goes down takes along, beside what was not flushed."""
    kill(pair, site)
    for path in Path(os.environ["RUNTIME_DIRECTORY"]).glob("*.maps"):
        path.unlink()


def kill(pair: Pair, site: str) -> None:
    """End a site's process as a crash would; returns when it is gone."""
    pid = direct.status(pair, site)["pid"]
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    poll_readable(handle)
    os.close(handle)


def poll_readable(handle: int, timeout_s: float = 20.0) -> None:
    assert select.select([handle], [], [], timeout_s)[0], "the process does not end"


@contextmanager
def frozen(pair: Pair, site: str) -> Iterator[None]:
    """The site's process stands still: its sockets take what fits and answer nothing."""
    pid = direct.status(pair, site)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_degraded(pair: Pair) -> dict[str, Any]:
    found = direct.wait_status(pair, state="degraded")
    assert found["reason"] and "west" in found["reason"]
    return found


def test_a_target_may_stop_and_start_under_load(pair: Pair) -> None:
    """While the target is stopped writes go on and the source says that it is degraded, and
    why; when it is back mirroring resumes by itself, and the image is still of one moment."""
    with loaded(pair) as load:
        judge = Judge(load)
        for _ in range(3 * SOAK):
            load.wait_writes(300)
            direct.stop(pair, "west")
            found = wait_degraded(pair)
            assert found["peer"]["state"] == "disconnected" and found["peer"]["reason"]
            load.wait_writes(300)
            pair.start("west")
            direct.wait_status(pair, state="mirroring", reason=None)
            direct.pause(pair)
            judge.check(read_images(pair.folder / "west", load))
            direct.resume(pair)
    check_end(pair, load, judge)
    check_no_stall(load)


def test_a_source_may_stop_and_start_under_load(pair: Pair) -> None:
    """A source that is stopped and started keeps every acknowledged write, and goes on where it
    was: what it had not sent arrives."""
    with loaded(pair, reconnects=True) as load:
        judge = Judge(load)
        for _ in range(3 * SOAK):
            load.wait_writes(300)
            direct.stop(pair, "east")
            pair.start("east")
            load.wait_writes(100)
            direct.wait_status(pair, state="mirroring", reason=None)
            direct.pause(pair)
            judge.check(read_images(pair.folder / "west", load))
            direct.resume(pair)
    check_end(pair, load, judge)


def test_a_killed_target_keeps_its_image(pair: Pair) -> None:
    """A target that was killed claims the image that it had, stopped and started again, also to
    a source that is paused and so sends nothing; writes never fail; when mirroring is resumed
    it goes on from there."""
    with loaded(pair) as load:
        load.wait_writes(300)
        direct.pause(pair)
        before = direct.status(pair, "west")["committed"]
        kill(pair, "west")
        dead = pair.status("west")
        assert (dead["state"], dead["committed"]) == ("stopped", before)
        assert "not shut down cleanly" in dead["reason"]
        wait_degraded(pair)
        pair.start("west")
        direct.wait_status(pair, state="paused", reason=None)
        direct.pause(pair)  # settled: nothing runs, and nothing was begun
        for site in ("west", "east"):
            assert direct.status(pair, site)["committed"] == before
        Judge(load).check(read_images(pair.folder / "west", load))
        direct.resume(pair)
        load.wait_writes(300)
    check_end(pair, load, Judge(load))
    assert direct.status(pair, "west")["state"] == "mirroring"


def test_a_target_killed_at_any_instant_ends_equal(pair: Pair) -> None:
    """Killed in the middle of cycles, the target comes back and gets everything again."""
    with loaded(pair) as load:
        judge = Judge(load)
        for _ in range(3 * SOAK):
            load.wait_writes(300)
            kill(pair, "west")
            pair.start("west")
            direct.sync(pair)
            direct.pause(pair)
            judge.check(read_images(pair.folder / "west", load))
            direct.resume(pair)
    check_end(pair, load, judge)
    check_no_stall(load)


def test_a_killed_source_sends_everything_again(pair: Pair) -> None:
    """A source that was killed keeps every acknowledged write; the target keeps its image of
    one moment and, after a sync, both are equal."""
    with loaded(pair, reconnects=True) as load:
        judge = Judge(load)
        for _ in range(3 * SOAK):
            load.wait_writes(300)
            kill(pair, "east")
            found = direct.status(pair, "west")
            assert found["committed"]["sequence"] is not None
            dead = pair.status("east")
            assert dead["state"] == "stopped" and "not shut down cleanly" in dead["reason"]
            pair.start("east")
            direct.wait_status(pair, state="mirroring", reason=None)
            direct.pause(pair)
            judge.check(read_images(pair.folder / "west", load))
            direct.resume(pair)
    check_end(pair, load, judge)


def test_a_silent_target_stalls_no_write_for_longer_than_the_link_timeout(pair: Pair) -> None:
    """A target that answers nothing any more is a lost one: writes that wait for a copy to it
    go on within link_timeout and a second, the source is degraded with its reason, and it
    recovers by itself when the target answers again."""
    with loaded(pair) as load:
        judge = Judge(load)
        direct.pause(pair)
        load.wait_writes(500)
        with frozen(pair, "west"):
            direct.resume(pair)  # a cycle that waits for the target, and so the writes for it
            wait_degraded(pair)
            load.wait_writes(1000)
        direct.wait_status(pair, state="mirroring", reason=None)
        for _ in range(2 * SOAK):
            load.wait_writes(300)
            with frozen(pair, "west"):
                wait_degraded(pair)
                load.wait_writes(1000)
            direct.wait_status(pair, state="mirroring", reason=None)
            direct.pause(pair)
            judge.check(read_images(pair.folder / "west", load))
            direct.resume(pair)
    assert load.longest_s() > LINK_TIMEOUT_S / 2, "no write waited: the test proved nothing"
    check_end(pair, load, judge)
    check_no_stall(load)


def test_a_site_stops_with_idle_clients_connected(pair: Pair) -> None:
    """A client that is connected and asks for nothing does not hold up the stop of a site; its
    connection ends.  Neither do a source's idle connections hold up the target."""
    client = pair.client()
    for site in ("west", "east"):
        begun = time.monotonic()
        direct.stop(pair, site)
        assert time.monotonic() - begun < 10
    with pytest.raises((ConnectionError, NbdError)):
        client.write(0, b"\1" * 512)
    client.socket.close()


def test_a_write_under_way_is_answered_when_its_site_stops(pair: Pair) -> None:
    """A write that waits for a copy while its site is stopped gets its answer, and is kept.  (The
    copy is slow, and under way before the target freezes: a link that is lost sooner has none.)"""
    direct.pause(pair)
    with pair.client() as filler:
        filler.write(0, b"\1" * SIZE)
    client, last = pair.client(), SIZE - 4096
    direct.ask(pair, {"op": "bandwidth", "rate": 4096})
    direct.resume(pair)
    direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "copy", "a copy")
    with ThreadPoolExecutor(1) as pool, frozen(pair, "west"):
        client.send(WRITE, last, 4096, b"\2" * 4096)
        direct.wait_for(client.taken, "the write")  # else it is refused, as one after the stop is
        stopped = pool.submit(direct.stop, pair, "east")
        client.receive()
        stopped.result(20)
    client.socket.close()
    assert pair.image("east").read_bytes()[last:] == b"\2" * 4096


def test_the_loss_of_an_idle_link_is_noticed(pair: Pair) -> None:
    """Nothing is written: a target that falls silent is noticed within link_timeout all the same
    (and the time to ask for that), with the reason and since when."""
    direct.wait_status(pair, state="mirroring", reason=None)
    for _ in range(3):
        with frozen(pair, "west"):
            began = time.time()
            wait_degraded(pair)
            peer = direct.status(pair)["peer"]
            assert began < peer["since"] < began + LINK_TIMEOUT_S + 1
            assert peer["reason"]
        direct.wait_status(pair, state="mirroring", reason=None)


def test_the_loss_of_the_link_is_noticed_while_a_cycle_stands_still(pair: Pair) -> None:
    """After pause --now nothing is sent, and yet a target that goes is missed, and taken up again
    when it is back; the cycle goes on after resume."""
    direct.stop(pair, "east")
    pair.configure("east", 'bandwidth = "256KiB/s"')
    pair.start("east")
    direct.pause(pair)
    with pair.client() as client:
        client.write(0, b"\1" * (512 << 10))
    direct.resume(pair)
    direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "copy", "it copies")
    pair.pause("--now")
    sequence = direct.status(pair)["cycle"]["sequence"]
    assert direct.status(pair, "west")["peer"]["state"] == "connected"
    kill(pair, "west")
    wait_degraded(pair)
    pair.start("west")
    direct.wait_status(pair, state="paused", reason=None)
    direct.wait_for(
        lambda: direct.status(pair, "west")["peer"]["state"] == "connected", "they are connected"
    )
    direct.resume(pair)
    assert direct.status(pair)["cycle"]["sequence"] == sequence
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


def test_a_write_that_is_to_wait_for_the_link_waits(pair: Pair) -> None:
    """With on_link_loss = "block" a write that meets a block which is still to be copied is held as
    long as there is no link, and done when there is one again; others are not held; and a stop
    of the site does not wait for the link."""
    direct.stop(pair, "east")
    pair.configure("east", 'on_link_loss = "block"\nbandwidth = "256KiB/s"')
    pair.start("east")
    size = 512 << 10
    for stops in (False, True):
        direct.pause(pair)
        with pair.client() as filler:
            filler.write(0, b"\1" * size)
        held = pair.client()
        direct.resume(pair)
        direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "copy", "it copies")
        with ThreadPoolExecutor(1) as pool:
            with frozen(pair, "west"):
                wait_degraded(pair)
                assert direct.status(pair)["volumes"][0]["pending_bytes"] > 4096
                held.send(WRITE, size - 4096, 4096, b"\2" * 4096)
                with pair.client() as other:
                    other.write(size, b"\3" * 4096)
                assert not select.select([held.socket], [], [], 2 * LINK_TIMEOUT_S)[0]
                if stops:
                    pool.submit(direct.stop, pair, "east").result(20)
            held.receive()
        held.socket.close()
        assert pair.image("east").read_bytes()[size - 4096 : size] == b"\2" * 4096
        if stops:
            pair.start("east")
        direct.sync(pair)
        assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


def test_a_sync_is_not_done_by_a_target_that_lost_its_image(make_pair: MakePair) -> None:
    """A sync returns when its consistency point is whole in the target's data store, not when a
    target that was killed in the middle of the second flashcopy comes back without an image."""
    slow = SlowPair(make_pair("--size", "32M", "--volumes", "2"))
    pair = slow.pair
    try:
        slow.begin()
        with pair.client() as client, ThreadPoolExecutor(1) as pool:
            direct.pause(pair)
            client.write(0, b"\xa5" * (32 << 20))
            before = direct.status(pair, "west")["committed"]["sequence"] or 0
            done = pool.submit(direct.sync, pair)
            direct.wait_commit(pair, before)
            assert not done.done()
            kill(pair, "west")
            slow.servers[0].stop()
            slow.servers[0].start()
            pair.start("west")
            done.result(60)
            assert pair.image("west").read_bytes() == pair.image("east").read_bytes()
    finally:
        slow.end()
