"""A device-mapper device (a logical volume, for one) is known by its UUID, and what it stands on is
found, in a real kernel."""

import json
import sys
from pathlib import Path

import uml
from kernels import Kernel

CHECKOUT = Path(__file__).resolve().parents[2]
GUEST_SCRIPT = Path(__file__).with_name("guest_mapper.py")
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")


def test_a_logical_volume_is_known_by_its_uuid(tmp_path: Path, kernel: Kernel) -> None:
    """Killed, its volumes get each other's minor numbers: the site starts. Then another volume
    lies behind the name and the number of the source's data: it is refused, with the command."""
    facts_path = tmp_path / "facts.json"
    guest = uml.run_guest(
        ["/usr/bin/python3", "-X", "faulthandler", GUEST_SCRIPT, facts_path, str(FLASHMIRROR)],
        tmp_path,
        timeout=120,
        modules=("loop", "dm-mod"),
        kernel=kernel,
    )
    assert guest.status == 0, guest.report()
    facts = json.loads(facts_path.read_text())
    assert "dm:LVM-east-data" in facts["recorded"], facts
    assert facts["first"][0] == 0, facts
    assert facts["after"] == facts["before"][::-1] and facts["renumbered"][0] == 0, facts
    status, line = facts["another"]
    assert facts["other"] == facts["after"][0] and status == 1, facts
    assert "not the store that was recorded" in line and "dm:LVM-other" in line, facts
    assert "flashmirror adopt" in line and line.count("\n") == 0, facts


def test_what_a_logical_volume_stands_on_is_found(tmp_path: Path, kernel: Kernel) -> None:
    """The tests of test_below, of which none is skipped there for want of a device mapper."""
    guest = uml.run_guest(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            CHECKOUT / "tests/test_below.py",
        ],
        tmp_path,
        timeout=240,
        modules=("loop", "dm-mod"),
        kernel=kernel,
    )
    assert guest.status == 0 and " skipped" not in guest.output, guest.report()
