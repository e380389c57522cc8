"""`flashmirror attach` of a busy device whose holder and site have died, on the newest kernel.

Since Linux 6.11 a new value in queue/io_timeout waits, in state D, for all requests that are under
way; after a dead holder these wait for the connections that `attach` is to bring.  Kernels before
that wait for nothing there, so `test_attached`, which kills holders on each, is enough for them.

One guest gathers the facts (``guest_dead_holder``); each test here judges one promise by them.
"""

import sys
from pathlib import Path

import pytest
import uml
from guest_dead_holder import Facts
from kernels import Kernel

from mirror_core import limits

GUEST_SCRIPT = Path(__file__).with_name("guest_dead_holder.py")
GUEST_SECONDS = 150
WAIT_S = 15.0  # for a command
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")
MORE_PACKAGES = {"fio": "fio"}


@pytest.fixture(scope="module")
def facts(newest: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    if missing := uml.missing(MORE_PACKAGES):
        pytest.fail(missing, pytrace=False)
    if not FLASHMIRROR.exists():
        pytest.fail(f"{FLASHMIRROR}: run make build", pytrace=False)
    share = tmp_path_factory.mktemp("dead")
    facts = share / "facts.json"
    guest = uml.run_guest(
        ["/usr/bin/python3", "-X", "faulthandler", GUEST_SCRIPT, facts, FLASHMIRROR],
        share,
        GUEST_SECONDS,
        kernel=newest,
        modules=("nbd nbds_max=1",),
        memory="1024M",
    )
    if guest.status != 0:
        pytest.fail(guest.report(), pytrace=False)
    print(guest.output)
    return Facts.load(facts)


def test_a_device_whose_holder_and_site_have_died_is_attached_again(facts: Facts) -> None:
    """`attach` comes back, and what waited goes on: fio reads back all that it wrote."""
    assert facts.devices["several"] == facts.devices["one"] == "/dev/nbd0"
    assert facts.seconds["one"] < WAIT_S
    assert facts.fio == [0]


def test_it_has_the_settings_that_it_was_attached_with_last(facts: Facts) -> None:
    """As soon as the kernel lets them be changed."""
    assert facts.timeouts_ms["one"] == round(limits.REQUEST_TIMEOUT_ALONE_S * 1000)
    assert facts.timeouts_ms["several"] > facts.timeouts_ms["one"]


def test_it_can_be_given_up_while_its_site_is_away(facts: Facts) -> None:
    """`attach` comes back, be it to wait for the site; `detach --force` does, with a thread of the
    holder still in the kernel, and who waited gets an error."""
    assert facts.devices["away"] == "/dev/nbd0"
    assert facts.devices["forced"] == "/dev/nbd0: detached"
    assert facts.seconds["away"] < WAIT_S and facts.seconds["forced"] < WAIT_S
    assert facts.given_up == 1
