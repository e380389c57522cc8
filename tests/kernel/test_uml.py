"""What a test can rely on when it runs in a guest: how that ends, and what comes back."""

import os
import subprocess
from pathlib import Path

import pytest
import uml
from kernels import Kernel

HANG = "import time; print('about to hang', flush=True); time.sleep(1000)"
PANIC = "echo about to panic; echo c > /proc/sysrq-trigger"
REMAINS = "echo kept > kept; echo lost > $1; cat $1; echo on stderr >&2; exit $2"
STATUS = 3


def test_a_command_brings_back_its_status_its_output_and_its_share_alone(
    tmp_path: Path, kernel: Kernel
) -> None:
    """Status, both outputs and the files of the share reach the host; any other file does not."""
    share = tmp_path / "share"
    share.mkdir()
    outside = tmp_path / "outside"
    guest = uml.run_guest(
        ["sh", "-c", REMAINS, "sh", outside, str(STATUS)], share, timeout=30, kernel=kernel
    )
    assert guest.status == STATUS, guest.report()
    assert guest.output == "lost\non stderr\n"
    assert (share / "kept").read_text() == "kept\n"
    assert not outside.exists()
    assert guest.complaints == []


def test_a_hang_ends_in_time_and_says_where_it_stood(tmp_path: Path, kernel: Kernel) -> None:
    """A command over its time limit is stopped, and its Python stack and the kernel's are there."""
    command = ["/usr/bin/python3", "-X", "faulthandler", "-c", HANG]
    guest = uml.run_guest(command, tmp_path, timeout=1, kernel=kernel)
    assert guest.status == uml.TIMED_OUT, guest.report()
    assert guest.output.startswith("about to hang\n")
    assert 'File "<string>", line 1' in guest.output
    assert "Show Blocked State" in guest.kernel_log


def test_a_kernel_that_panics_is_never_a_success(tmp_path: Path, kernel: Kernel) -> None:
    """A guest that ends without its command's status is DIED; the kernel's complaint is kept."""
    guest = uml.run_guest(["sh", "-c", PANIC], tmp_path, timeout=30, kernel=kernel)
    assert guest.status == uml.DIED, guest.report()
    assert guest.output == "about to panic\n"
    assert any("Kernel panic" in line for line in guest.complaints)


def test_a_missing_program_is_named_with_its_package() -> None:
    """One line says what to install: no skip hides that the kernel was never run."""
    packages = {"no-such": "package", "sh": "dash", "nor-such": "package"}
    assert uml.missing(packages) == "no-such, nor-such missing: apt-get install package"


KEEPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.mkdir("/mnt/disk")
assert not libc.mount(b"/dev/ubda", b"/mnt/disk", b"ext4", 0, None)
os.chdir("/mnt/disk")
if sys.argv[1] == "write":
    for name in "synced", "unsynced":
        with open(name, "w") as file:
            file.write(name)
            file.flush()
            if name == "synced":
                os.fsync(file)
    print("written", flush=True)
    input()
for name in sorted(set(os.listdir()) - {"lost+found"}):
    print(name, repr(open(name).read()), flush=True)
os.chdir("/")
assert not libc.umount(b"/mnt/disk")
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty ext4 of 16 MiB."""
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 16 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True, env={"PATH": uml.PATH})
    return disk


def test_a_power_cut_keeps_what_was_synced_and_loses_what_was_not(
    tmp_path: Path, disk: Path, kernel: Kernel
) -> None:
    """A guest whose power is cut is POWER_CUT; the next one on its disk finds the file that was
    synced, and not the bytes of the one that was only written.  If it ends in order, both."""
    for cut, unsynced in (True, ""), (False, "unsynced 'unsynced'\n"):
        writing = ["/usr/bin/python3", "-c", KEEPER, "write"]
        with uml.Guest(writing, tmp_path, timeout=30, kernel=kernel, disks=[disk]) as guest:
            assert guest.line(60) == "written"
            if cut:
                guest.cut_power()
            else:
                guest.say("go on")
            assert guest.result().status == (uml.POWER_CUT if cut else 0), guest.result().report()
        reading = ["/usr/bin/python3", "-c", KEEPER, "read"]
        found = uml.run_guest(reading, tmp_path, timeout=30, kernel=kernel, disks=[disk])
        assert found.status == 0, found.report()
        assert found.output.replace("unsynced ''\n", "") == f"synced 'synced'\n{unsynced}"


CALLER = """
import socket, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    udp.sendto(bytes(1400), ("10.0.0.255", 9))
print("called", flush=True)
print(input(), flush=True)
while True:
    udp.sendto(b"hello", ("10.0.0.255", 9))
    time.sleep(0.01)
"""
LISTENER = """
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 9))
print(udp.recvfrom(2000), flush=True)
"""


def test_a_guest_goes_on_when_nobody_is_at_the_other_end_of_its_cable(
    tmp_path: Path, kernel: Kernel
) -> None:
    """It sends for longer than its driver would wait, to nobody; a guest that is plugged in later
    hears it, and nothing of what was sent before."""
    cable = uml.Cable("10.0.0.1", "10.0.0.2")
    python = ["/usr/bin/python3", "-c"]
    with uml.Guest([*python, CALLER], tmp_path, 60, kernel=kernel, plug=cable.plugs[0]) as caller:
        assert caller.line(60) == "called"
        caller.say("and again")
        assert caller.line(60) == "and again"
        with uml.Guest(
            [*python, LISTENER], tmp_path, 60, kernel=kernel, plug=cable.plugs[1]
        ) as listener:
            assert listener.line(60).startswith("(b'hello', ('10.0.0.1', ")
            assert listener.result().status == 0
        caller.cut_power()
        assert caller.result().complaints == []
    cable.close()
