"""How a process of ours begins that outlives its starter: a site, or the holder of a device.

    spawn    a new process, in a session of its own, that writes to a log
    settle   this process itself, which systemd or a person has started in the foreground
    become   the same, as another program

Whoever started it, it begins the same:

    descriptors   what it is handed, from 3 on, and 0 to 2; of its starter's nothing else, which
                  might hold a lock, a pipe or a device of somebody's for as long as a site runs
    signals       none is blocked or ignored, so that each does what signal(7) says.  But HARMLESS
                  are blocked, for good or until somebody takes them, and what Python ignores stays
                  so: that is an error of a call then
    locale        C.UTF-8: the Python inside nbdkit takes its file names by it.  They are UTF-8, as
                  the configuration is; PYTHONUTF8 means nothing to an embedded Python
    folder        /, which nobody wants to unmount; umask 077

`command_begins` is for all commands, those that end as well.  Left out: what the machine's
administrator sets on purpose, and a site is to have: limits, priorities, cgroup, capabilities.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NoReturn

from mirror_core.errors import MirrorError

# Each would end a process that does not take it: who sends it to one means something else.
HARMLESS = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
FIRST_FD = 3  # of what is handed over
LOCALE = "C.UTF-8"
_STANDARD = range(FIRST_FD)
_AS_PYTHON_HAS_THEM = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}
# Between a fork and the exec no Python may run: another thread of ours may have held a lock at the
# fork.  So a shell does what posix_spawn(3) cannot; $$ stays the process's number.
_BEGIN = 'cd / && umask 077 && LISTEN_PID=$$ exec "$@"'


def command_begins() -> None:
    """Before a command does anything: 0 to 2 are open, else the next file would be one of them;
    it can wait for its children; and file names are UTF-8, as those in a configuration are."""
    while (fd := os.open(os.devnull, os.O_RDWR)) in _STANDARD:
        os.set_inheritable(fd, True)
    os.close(fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.argv[0], sys.argv, {**os.environ, "PYTHONUTF8": "1"})


def environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": LOCALE}


def spawn(
    words: list[str], environment: Mapping[str, str], handed: Sequence[int], log: IO[bytes]
) -> int:
    """Begin a process with these descriptors from 3 on: its number.  MirrorError."""
    with contextlib.ExitStack() as undo:
        try:
            out, *others = [_aside(fd, len(handed), undo) for fd in (log.fileno(), *handed)]
            strays = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _strays()]
            opened = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
            moved = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
            for place, fd in enumerate(others, FIRST_FD):
                moved.append((os.POSIX_SPAWN_DUP2, fd, place))
            return os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _BEGIN, "sh", *words],
                environment,
                file_actions=[opened, *strays, *moved],
                setsid=True,
                setsigmask=HARMLESS,
                setsigdef=_to_default(),
            )
        except OSError as error:
            raise MirrorError(
                f"no process can be begun: {error.strerror}: try again", error.errno or 0
            ) from error


def become(words: list[str], environment: Mapping[str, str], handed: Sequence[int]) -> NoReturn:
    """Exec these words with these descriptors from 3 on, after `settle`."""
    with contextlib.ExitStack() as undo:
        aside = [_aside(fd, len(handed), undo) for fd in handed]
        for place, fd in enumerate(aside, FIRST_FD):
            os.dup2(fd, place)
        os.execve(words[0], words, {**environment, "LISTEN_PID": str(os.getpid())})


def settle() -> None:
    """Be free of the starter from now on; in the main thread, before there are others.  A signal
    that was blocked, and is to end it, does so here."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HARMLESS)
    for fd in _strays():
        os.close(fd)
    for number in _to_default():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, HARMLESS)
    os.chdir("/")
    os.umask(0o077)


def _to_default() -> set[int]:
    return {int(number) for number in signal.valid_signals()} - _AS_PYTHON_HAS_THEM


def _strays() -> list[int]:
    """What this process was left by its starter: its own are closed in an exec."""
    return [fd for fd in _open_fds() if fd not in _STANDARD and _is_inheritable(fd)]


def _open_fds() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc/self/fd"))


def _is_inheritable(fd: int) -> bool:
    with contextlib.suppress(OSError):  # of the listing itself: it is closed
        return os.get_inheritable(fd)
    return False


def _aside(fd: int, count: int, undo: contextlib.ExitStack) -> int:
    """A copy above the places of so many: so none is in another's place."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD + count)
    undo.callback(os.close, copy)
    return copy
