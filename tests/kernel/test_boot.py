"""A machine with systemd boots, writes to a mounted volume of ours, and shuts down: a real systemd
in a real kernel, with the units of systemd/.

The scenes (``guest_boot``) are boots of one machine, one after the other, on the same disk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uml
from guest_boot import NAMES
from kernels import Kernel

CHECKOUT = Path(__file__).resolve().parents[2]
GUEST_SCRIPT = Path(__file__).with_name("guest_boot.py")
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")
SCENES = ("hand", "fstab", "late")
WAIT_S = 15.0  # for anything
DISK_BYTES = 256 << 20
MORE_PACKAGES = {"udevadm": "udev", "systemctl": "systemd", "/lib/systemd/systemd": "systemd"}

pytestmark = pytest.mark.timeout(1200)


class Machine:
    """Its scenes are played when they are asked for, in their order."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self._kernel, self._folder = kernel, folder
        self._disk = folder / "disk"
        self._disk.touch()
        self._disk.chmod(0o600)
        with self._disk.open("r+b") as file:
            file.truncate(DISK_BYTES)
        self._facts: dict[str, dict[str, Any]] = {}

    def facts(self, scene: str) -> dict[str, Any]:
        for one in SCENES[: SCENES.index(scene) + 1]:
            if one not in self._facts:
                self._facts[one] = self._play(one)
        return self._facts[scene]

    def _play(self, scene: str) -> dict[str, Any]:
        facts = self._folder / f"{scene}.json"
        words = ["/usr/bin/python3", "-X", "faulthandler", str(GUEST_SCRIPT)]
        guest = uml.run_guest(
            [*words, scene, facts, FLASHMIRROR, CHECKOUT],
            self._folder,
            timeout=400,
            modules=("nbd nbds_max=2", "loop"),
            memory="1024M",
            disks=[self._disk],
            kernel=self._kernel,
        )
        (self._folder / f"{scene}.log").write_text(guest.kernel_log)
        assert guest.status == 0, guest.report()
        found: dict[str, Any] = {
            "log": guest.kernel_log,
            "complaints": guest.beside_dead_connections,
        }
        for line in facts.read_text().splitlines():
            found |= json.loads(line)
        print(scene, {key: value for key, value in found.items() if key != "log"})
        assert found.get("played") == scene, guest.report()
        return found


@pytest.fixture(scope="module")
def machine(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if missing := uml.missing(MORE_PACKAGES):
        pytest.fail(missing, pytrace=False)
    if not FLASHMIRROR.exists():
        pytest.fail(f"{FLASHMIRROR}: run make build", pytrace=False)
    yield Machine(kernel, tmp_path_factory.mktemp("boot"))


def in_order(facts: dict[str, Any]) -> None:
    """The shutdown was quick, has lost nothing and left nothing attached, and the kernel has no
    complaint but of the site that a scene has killed."""
    written = {name: facts[name] for name in NAMES if name in facts}
    assert written and written.items() <= facts["kept"].items()
    assert facts["shutdown_s"] < WAIT_S, facts["log"][-6000:]
    assert not facts["attached"]
    assert facts["complaints"] == []


def test_a_volume_that_was_mounted_by_hand_is_unmounted_before_its_site_stops(
    machine: Machine,
) -> None:
    """An application uses it until the shutdown, and a tmpfs is mounted below it; nobody has
    synced.  The next boot, which mounts it by fstab, finds what was written."""
    first = machine.facts("hand")
    in_order(first)
    assert machine.facts("fstab")["read"] == first["first"]


def test_a_volume_of_fstab_is_mounted_and_outlives_a_killed_site(
    machine: Machine,
) -> None:
    """Its site is killed under it and begun anew by systemd: nothing is lost, not then, and not
    when the machine goes down."""
    facts = machine.facts("fstab")
    in_order(facts)
    assert (facts["restarts"], facts["holder_restarts"]) == (1, 0)
    assert machine.facts("late")["read"] == facts["third"]


def test_a_site_that_comes_late_is_mounted_when_it_comes(machine: Machine) -> None:
    """Until then its application waits, and writes nothing where the volume is not mounted."""
    facts = machine.facts("late")
    assert (facts["mounted_early"], facts["application_early"]) == (False, False)
    assert facts["below"] == []
    assert facts["waited_s"] < WAIT_S
    in_order(facts)
