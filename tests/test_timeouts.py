"""What follows from `link_timeout`, in numbers: docs/timeouts.md promises these."""

from __future__ import annotations

from pathlib import Path

import direct
import pytest
from handmade import Handmade
from served import Faulty

from mirror_core import limits, timeouts


@pytest.mark.parametrize("link_timeout", [0.5, 2.0, 60.0, limits.LINK_TIMEOUT_MAX_S])
def test_the_waits_are_those_of_the_page(link_timeout: float) -> None:
    """Each row of it that follows from the setting, as it is written there."""
    assert timeouts.write_s(link_timeout, 1.0) == 1.0 + link_timeout
    assert timeouts.lane_s(link_timeout) == link_timeout
    assert timeouts.request_s(link_timeout) == link_timeout + 1.0
    assert timeouts.compared_s(link_timeout) == 0.25 + link_timeout
    silence = timeouts.silence_s(link_timeout)
    assert silence == link_timeout + 0.5
    assert timeouts.put_off_s(silence) == min(1.0, link_timeout / 4)
    assert timeouts.fence_s(link_timeout) == timeouts.fence_s(60.0, silence) == min(5, link_timeout)
    assert timeouts.asks_again_s(silence) == silence + 5.0
    assert timeouts.knocks_again_s(silence) == silence + 1.0


@pytest.mark.parametrize("link_timeout", [0.5, 2.0, 60.0, limits.LINK_TIMEOUT_MAX_S])
def test_an_idle_loss_is_noticed_within_link_timeout(link_timeout: float) -> None:
    """A look, and the wait for its answer."""
    assert limits.IDLE_LOOK_S + timeouts.look_s(link_timeout) <= link_timeout


def test_a_source_that_does_not_say_how_patient_it_is_is_never_put_off() -> None:
    """One of an older version would take `not yet` for an error."""
    assert timeouts.put_off_s(0.0) == 0.0


def test_a_source_hears_why_it_gets_no_session(handmade: Handmade, scratch: Path) -> None:
    """A write of an older one hangs in its target, which is more patient than it is: it is told so,
    and not that the link is lost."""
    disk = Faulty(scratch / "served.img")
    try:
        handmade.stores["west", "intermediate"] = disk.store(handmade.size)
        handmade.create()
        handmade.configure("east", 'link_timeout = "1s"')
        handmade.configure("west", 'link_timeout = "60s"')
        handmade.start()
        direct.sync(handmade)
        disk.fail("hang", "pwrite")
        with handmade.client() as client:
            client.write(0, b"x" * 4096)
        words = "requests of an older session are still under way"
        direct.wait_for(lambda: words in str(direct.status(handmade)["reason"]), words)
        disk.mend()
        direct.sync(handmade)
    finally:
        handmade.kill()
        disk.stop()


def test_a_stop_has_time_for_a_silent_target_and_a_slow_server() -> None:
    """What is waited for at most is well within what the thread is given to end."""
    assert timeouts.farewell_s() + limits.CONNECT_S < limits.JOIN_S  # and no name server
    assert timeouts.farewell_s() < 25.0 and timeouts.opened_s() == 30.0 < limits.JOIN_S
