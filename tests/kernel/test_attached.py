"""`flashmirror attach` with a real kernel: its site is killed under a mounted, busy file system.

One guest of each kernel gathers the facts (``guest_attach``); each test here judges one promise by
them.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uml
from guest_attach import BY_FORCE, KILLS, Facts
from kernels import Kernel
from pair import SOAK

from mirror_core import limits

GUEST_SCRIPT = Path(__file__).with_name("guest_attach.py")
TIMES = min(SOAK, 3)  # as many kills: what fio writes has to fit in the volume
ROUNDS = TIMES * sum(KILLS.values())
GUEST_SECONDS = 500 * TIMES
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")
MORE_PACKAGES = {"fio": "fio", "nbd-client": "nbd-client", "e2fsck": "e2fsprogs"}

pytestmark = pytest.mark.timeout(600 * TIMES)


@dataclass(frozen=True)
class Run:
    guest: uml.GuestResult
    facts: Facts


@pytest.fixture(scope="module")
def run(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if missing := uml.missing(MORE_PACKAGES):
        pytest.fail(missing, pytrace=False)
    if not FLASHMIRROR.exists():
        pytest.fail(f"{FLASHMIRROR}: run make build", pytrace=False)
    share = tmp_path_factory.mktemp("attach")
    facts = share / "facts.json"
    guest = uml.run_guest(
        ["/usr/bin/python3", "-X", "faulthandler", GUEST_SCRIPT, facts, FLASHMIRROR, str(TIMES)],
        share,
        GUEST_SECONDS,
        modules=("nbd nbds_max=2",),
        memory="1024M",
        kernel=kernel,
    )
    if guest.status != 0:
        pytest.fail(guest.report(), pytrace=False)
    print(guest.output)
    return Run(guest, Facts.load(facts))


def test_no_kill_of_the_site_costs_an_io_error(run: Run) -> None:
    """Each fio wrote on through a SIGKILL and a restart of the site, and read back what it wrote;
    at the end everything is read once more, and fsck has nothing to say."""
    assert run.facts.fio == [0] * ROUNDS, run.guest.output
    assert run.facts.again == 0
    assert run.facts.fsck == ""


def test_the_kernel_has_no_complaint(run: Run) -> None:
    """It tells of dead connections and of new ones, and of nothing else."""
    before, marker, _ = run.guest.kernel_log.partition(BY_FORCE)
    assert marker
    guest = replace(run.guest, kernel_log=before)
    assert guest.beside_dead_connections == []
    assert run.guest.kernel_log.count("reconnected socket") >= ROUNDS


def test_after_a_sync_both_sites_are_equal(run: Run) -> None:
    assert run.facts.equal


def test_the_kills_were_felt(run: Run) -> None:
    """A write did wait for the site each time: otherwise all this would prove nothing."""
    assert len(run.facts.longest_s) == ROUNDS
    assert min(run.facts.longest_s) > 1.0, run.facts.longest_s


def test_a_device_never_meets_another_history(run: Run) -> None:
    """A site of the same name with another lineage gets none of the requests: they wait, until
    `detach --force` gives them up with an error."""
    assert run.facts.devices["before another history"] == "/dev/nbd0"
    assert run.facts.given_up == 1


def test_attaching_again_changes_nothing(run: Run) -> None:
    """The same device is the answer, also when the holder had died; another one is refused."""
    devices = run.facts.devices
    assert devices["first"] == devices["again"] == devices["after the holder died"] == "/dev/nbd0"
    assert "attached already, as /dev/nbd0" in run.facts.refused["attached elsewhere"]


def test_a_device_in_use_is_left_alone(run: Run) -> None:
    """attach on one that somebody else has, detach of one that is mounted, open, or not ours: one
    line that names who, and status 1."""
    refused = run.facts.refused
    assert "1 flashmirror: /dev/nbd1: in use" in refused["in use"]
    assert "nbd-client" not in refused["in use"] or "process" in refused["in use"]
    assert "1 flashmirror: /dev/nbd1: is not attached by" in refused["somebody else's"]
    assert "1 flashmirror: /dev/nbd0: in use (mounted on /dev/shm/mnt)" in refused["mounted"]
    assert "1 flashmirror: /dev/nbd0: in use (by process" in refused["open"]
    assert all("\n" not in line for line in refused.values()), refused


def test_detach_waits_for_who_opens_a_device_for_a_moment(run: Run) -> None:
    """As udev does after a change; detaching again is no error."""
    devices = run.facts.devices
    assert limits.DEVICE_BUSY_S > 2.0, "as long as the opener stays"
    assert devices["detached"] == "/dev/nbd0: detached"
    assert devices["detached again"] == "was not attached"
    assert devices["one connection"] == "/dev/nbd0"
    assert devices["detached last"] == "/dev/nbd0: detached"


def test_a_device_that_nobody_has_opened_is_detached_without_its_site(run: Run) -> None:
    """Nothing waits for the site: `detach` opens it to see who uses it, and comes back."""
    assert run.facts.devices["not opened"] == "/dev/nbd0"
    assert run.facts.devices["detached without its site"] == "/dev/nbd0: detached"


def test_a_device_goes_on_when_its_site_was_updated_to_other_protocols(run: Run) -> None:
    """Its holder is of the version before, and can ask the site nothing."""
    assert run.facts.written == {"before an update": True, "after an update": True}
    assert "connected again after" in run.facts.update_log.splitlines()[-1], run.facts.update_log
    assert run.facts.devices["detached after an update"] == "/dev/nbd0: detached"


def test_what_cannot_be_attached_is_refused(run: Run) -> None:
    """A site that does not run, a target, no such volume, no such device: status 1 or 2."""
    refused = run.facts.refused
    assert "1 flashmirror: east: not running: start it" in refused["not running"]
    assert "1 flashmirror: west: is a target" in refused["target"]
    assert "2 flashmirror: east has no volume nothing" in refused["no such volume"]
    assert "2 flashmirror: /dev/sda: not the name of an nbd device" in refused["no such name"]


def test_the_holder_says_what_it_does_and_may_do_all_of_it(run: Run) -> None:
    """One line when the site is gone, one when it is back; as root nothing is not permitted, to
    the holder or to the site."""
    lines = run.facts.holder_log.splitlines()
    assert sum("connected again after" in line for line in lines) >= ROUNDS - TIMES, (
        run.facts.holder_log
    )
    assert len(lines) < 100
    for log in run.facts.holder_log, run.facts.site_log:
        assert "not permitted" not in log
        assert "Traceback" not in log
