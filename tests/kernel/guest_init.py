"""PID 1 of a guest that ``uml`` boots: a writable root, the devices, one command, power off.

Run by the kernel as ``/usr/bin/python3 -IS guest_init.py``; the standard library only. System calls
instead of a shell's commands, because a fork and exec costs 30 to 75 ms in user-mode Linux.

Invariants:
* The machine's own tree is only ever the read-only lower layer of the root.
* The last word is one line in the kernel's log, ``guest_init: status N``, after the command's
  output has left the guest. A guest that fails before says why there, and has no such line.
* The command's time limit is kept here, where a hang can still be explained.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import termios
import traceback
from pathlib import Path
from typing import Any

PIVOT_ROOT, FINIT_MODULE = 155, 313  # x86_64 system calls without a wrapper in libc
MNT_DETACH = 2
POWER_OFF = 0x4321FEDC
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
UP_AND_RUNNING = b"\x41\0"
TIMED_OUT = 124

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)


def say(text: str) -> None:
    """Into the kernel's log, which reaches the host without delay."""
    with open("/dev/kmsg", "w", encoding="ascii", errors="replace") as log:
        for line in text.splitlines():
            log.write(f"<4>guest_init: {line}\n")
            log.flush()


def mount(kind: str, at: str, options: str = "") -> None:
    os.makedirs(at, exist_ok=True)
    check(libc.mount(kind.encode(), at.encode(), kind.encode(), 0, options.encode()), f"mount {at}")


def make_root(modules: str) -> None:
    """The machine's tree below, a tmpfs above; then the folders that are the kernel's."""
    overlay = os.open(f"{modules}/kernel/fs/overlayfs/overlay.ko", os.O_RDONLY)
    check(libc.syscall(FINIT_MODULE, overlay, b"", 0), "overlay.ko")
    mount("tmpfs", "/mnt", "mode=755,size=90%")
    for folder in "upper", "work", "root":
        os.mkdir(f"/mnt/{folder}")
    mount("overlay", "/mnt/root", "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work")
    os.chdir("/mnt/root")
    os.mkdir(".below")
    check(libc.syscall(PIVOT_ROOT, b".", b".below"), "pivot_root")
    os.chdir("/")
    check(libc.umount2(b"/.below", MNT_DETACH), "umount /.below")
    os.rmdir("/.below")
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("devtmpfs", "/dev")
    mount("tmpfs", "/dev/shm", "mode=1777,size=90%")
    mount("tmpfs", "/run", "mode=755")
    os.symlink("/proc/self/fd", "/dev/fd")
    os.makedirs("/lib/modules", exist_ok=True)
    if not os.path.exists(f"/lib/modules/{os.uname().release}"):
        os.symlink(modules, f"/lib/modules/{os.uname().release}")  # where modprobe looks


def share(folder: str) -> None:
    """The one folder in which the guest writes to the machine."""
    os.makedirs(folder, exist_ok=True)
    check(libc.mount(b"none", folder.encode(), b"hostfs", 0, folder.encode()), f"share {folder}")


def raise_interface(name: str, address: str = "") -> None:
    """Up, and if an address is given with that one, in a network of 254."""
    udp = libc.socket(2, 2, 0)

    def set_one(request: int, value: bytes) -> None:
        ifreq = name.encode().ljust(16, b"\0") + value.ljust(24, b"\0")
        check(libc.ioctl(udp, request, ifreq), f"{name} {address}")

    if address:
        for request, text in (SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.0"):
            set_one(request, b"\2\0\0\0" + bytes(map(int, text.split("."))))  # sockaddr_in
    set_one(SIOCSIFFLAGS, UP_AND_RUNNING)
    os.close(udp)


def raw(terminal: int) -> None:
    """What the command prints leaves as it is, with no carriage returns added, and alone."""
    mode = termios.tcgetattr(terminal)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


def run(command: list[str], folder: str, timeout: float, console: int) -> int:
    """The command's exit status as a shell would give it, or TIMED_OUT."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdin=console,
        stdout=console,
        stderr=console,
        start_new_session=True,
    )
    signal.signal(signal.SIGALRM, timed_out)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        while True:
            pid, status = os.wait()  # PID 1 also collects the orphans
            if pid == child.pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    except TimeoutError:
        Path("/proc/sysrq-trigger").write_text("w")  # the blocked tasks, into the kernel's log
        os.killpg(child.pid, signal.SIGABRT)  # a Python with faulthandler says where it stands
        select.select([os.pidfd_open(child.pid)], [], [], 2)
        return TIMED_OUT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def timed_out(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    try:
        conf: dict[str, Any] = json.loads(Path(os.environ["GUEST_CONF"]).read_text())
        make_root(f"{conf['modules_folder']}/{os.uname().release}")
        share(conf["share"])
        raise_interface("lo")
        if conf["address"]:
            raise_interface("vec0", conf["address"])
        os.environ.clear()
        os.environ.update(conf["environment"])
        for module in conf["modules"]:
            subprocess.run(["modprobe", *module.split()], check=True)
        console = os.open("/dev/tty1", os.O_RDWR | os.O_NOCTTY)
        raw(console)
        status = run(conf["command"], conf["share"], conf["timeout"], console)
        termios.tcdrain(console)
        say(f"status {status}")
    except BaseException:
        say(traceback.format_exc())
    libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
