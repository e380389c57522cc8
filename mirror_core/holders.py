"""Which process holds an attached device: a lock for each, and its log, in a folder of root's own.

    RUN/flashmirror-attach/NAME.lock    held by the holder; the number of its process and, in the
                                        next line, the path of the configuration of its site
    RUN/flashmirror-attach/NAME.log     what it says, if nobody else takes that (systemd does)

NAME is the device's backend (attach.py): site, volume and lineage.

Invariants.
* One holder for each backend: it holds the lock until it ends.
* Who attaches is root, and a site's folders are its owner's, who may put a link there: so nothing
  is opened for writing but here, where nobody but root can put anything.
* A process number is believed only while the lock is held: it may be another process's after that.
  And it is one of the pid namespace that the holder is in, a container's perhaps, which shares the
  folder: so only a process that has the lock's file open, and that number there, is signalled.

Both go with a reboot, as the devices do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mirror_core import limits
from mirror_core.errors import MirrorError

FOLDER = Path("/run/flashmirror-attach")  # of this machine, whoever starts the holder


def lock_path(name: str) -> Path:
    return FOLDER / f"{name.replace('/', ':')}.lock"


def log_path(name: str) -> Path:
    return FOLDER / f"{name.replace('/', ':')}.log"


def prepare() -> None:
    """The folder is there, and ours alone.  MirrorError: it is not."""
    try:
        with contextlib.suppress(FileExistsError):
            FOLDER.mkdir(mode=0o700)
        info = FOLDER.lstat()
    except OSError as error:
        raise MirrorError(f"{FOLDER}: {error.strerror}", error.errno or 0) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise MirrorError(
            f"{FOLDER}: not a folder that is root's alone (mode 0700): remove it, then try again",
            errno.EPERM,
        )


def take(name: str, configuration: Path | None = None) -> int:
    """The lock's descriptor, which holds it.  MirrorError: another holder has it."""
    prepare()
    fd = os.open(lock_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + limits.DEVICE_BUSY_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:  # another one, or one whose device has just gone
            if time.monotonic() >= deadline:
                os.close(fd)
                who = process_of(name)
                raise MirrorError(
                    f"{name}: {f'process {who}' if who else 'another process'} holds it, or is "
                    "about to (was it attached by hand?): 'flashmirror detach SITE VOLUME' first, "
                    "or leave it so",
                    errno.EBUSY,
                ) from error
            time.sleep(0.02)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode() + os.fsencode(configuration or ""), 0)
        return fd


def is_held(name: str) -> bool:
    """Whether a process holds the device of this backend."""
    try:
        with lock_path(name).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def process_of(name: str) -> int | None:
    """Its number, in the pid namespace that it is in."""
    if not is_held(name):
        return None
    number = lock_path(name).read_bytes().partition(b"\n")[0]
    return int(number) if number else None  # it is just beginning


def configuration_of(name: str) -> Path | None:
    """Of the site that the device of this backend was attached for, be its holder gone; None: that
    is not known, as of a holder of an older version."""
    try:
        path = lock_path(name).read_bytes().partition(b"\n")[2]
    except OSError:
        return None
    return Path(os.fsdecode(path)) if path else None


def end(name: str) -> None:
    """Returns when it has ended: a holder that goes on would see what is done behind its back, and
    ends by itself then, as one in the kernel does, or one of another container that is not to be
    seen from here."""
    for number in _numbers_here(name):
        try:
            handle = os.pidfd_open(number)
        except OSError:  # it has ended
            continue
        try:
            if _is_holder(number, name):  # so that the handle is of the one that holds it
                with contextlib.suppress(ProcessLookupError):  # it has ended, perhaps by the first
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
                    signal.pidfd_send_signal(handle, signal.SIGCONT)  # it may be stopped
                select.select([handle], [], [], limits.DEVICE_BUSY_S)
                return
        finally:
            os.close(handle)


def _numbers_here(name: str) -> list[int]:
    """Of processes that may be the holder: first the one that has its number here, too."""
    number = process_of(name)
    if number is None:
        return []
    return [number, *processes()]


def processes() -> list[int]:
    """All that are to be seen from here."""
    return [int(name) for name in os.listdir("/proc") if re.fullmatch("[0-9]+", name)]


def _is_holder(number: int, name: str) -> bool:
    """By what /proc says of it: proc_pid_status(5), proc_pid_fd(5)."""
    process, lock = Path(f"/proc/{number}"), lock_path(name)
    with contextlib.suppress(OSError):  # it has ended
        status = process.joinpath("status").read_text(errors="replace")
        own = re.search(r"^NSpid:.*?([0-9]+)$", status, re.MULTILINE)  # of a kernel that has any
        if int(own[1] if own else number) == process_of(name):
            for path in descriptors(number):
                with contextlib.suppress(FileNotFoundError):  # closed since
                    # What is called otherwise is not looked at: its server may hang.
                    if os.readlink(path).endswith(f"/{lock.name}"):
                        return os.path.samestat(os.stat(path), lock.stat())
    return False


def descriptors(number: int) -> list[str]:
    """The links in /proc to what a process has open.  /proc/PID/fd shows what its main thread has,
    and nothing if that has ended before the others: then it is what another one shows.  Left out: a
    thread with descriptors of its own (CLONE_FILES of unshare(2)).  OSError: it has ended."""
    for folder in _folders(number):
        with contextlib.suppress(OSError):  # that thread has ended
            if fds := os.listdir(folder):
                return [f"{folder}/{fd}" for fd in fds]
    return []


def _folders(number: int) -> Iterator[str]:
    """Of descriptors: proc_pid_fd(5), proc_pid_task(5).  OSError."""
    yield f"/proc/{number}/fd"
    for thread in os.listdir(f"/proc/{number}/task"):
        yield f"/proc/{number}/task/{thread}/fd"
