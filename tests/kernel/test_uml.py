"""What a test can rely on when it runs in a guest: how that ends, and what comes back."""

from pathlib import Path

import uml

HANG = "import time; print('about to hang', flush=True); time.sleep(1000)"
PANIC = "echo about to panic; echo c > /proc/sysrq-trigger"
REMAINS = "echo kept > kept; echo lost > $1; cat $1; echo on stderr >&2; exit $2"
STATUS = 3


def test_a_command_brings_back_its_status_its_output_and_its_share_alone(tmp_path: Path) -> None:
    """Status, both outputs and the files of the share reach the host; any other file does not."""
    share = tmp_path / "share"
    share.mkdir()
    outside = tmp_path / "outside"
    guest = uml.run_guest(["sh", "-c", REMAINS, "sh", outside, str(STATUS)], share, timeout=30)
    assert guest.status == STATUS, guest.report()
    assert guest.output == "lost\non stderr\n"
    assert (share / "kept").read_text() == "kept\n"
    assert not outside.exists()
    assert guest.complaints == []


def test_a_hang_ends_in_time_and_says_where_it_stood(tmp_path: Path) -> None:
    """A command over its time limit is stopped, and its Python stack and the kernel's are there."""
    command = ["/usr/bin/python3", "-X", "faulthandler", "-c", HANG]
    guest = uml.run_guest(command, tmp_path, timeout=1)
    assert guest.status == uml.TIMED_OUT, guest.report()
    assert guest.output.startswith("about to hang\n")
    assert 'File "<string>", line 1' in guest.output
    assert "Show Blocked State" in guest.kernel_log


def test_a_kernel_that_panics_is_never_a_success(tmp_path: Path) -> None:
    """A guest that ends without its command's status is DIED; the kernel's complaint is kept."""
    guest = uml.run_guest(["sh", "-c", PANIC], tmp_path, timeout=30)
    assert guest.status == uml.DIED, guest.report()
    assert guest.output == "about to panic\n"
    assert any("Kernel panic" in line for line in guest.complaints)


def test_a_missing_program_is_named_with_its_package() -> None:
    """One line says what to install: no skip hides that the kernel was never run."""
    packages = {"no-such": "package", "sh": "dash", "nor-such": "package"}
    assert uml.missing(packages) == "no-such, nor-such missing: apt-get install package"
