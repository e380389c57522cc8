"""How many clients there may be, and how their connections end when nbdkit was told to end.

At its limit of descriptors nbdkit spins on accept(2) and fills the log, for as long as the
clients stay; so a connection is refused when few descriptors are left (`room`).

nbdkit waits for its clients before it calls `cleanup`, without a bound, and a client that is
idle (a mounted file system at night, the lanes of a source) never goes by itself.  So a thread
takes the signals that end nbdkit, in its place: it tells the site, then nbdkit, and from then on
shuts the receiving side of every connection of our sockets: a request under way still gets its
answer, then its connection ends.  It looks again until `cleanup`, which may miss nobody.

A signal stays pending until the site knows of it: one that comes while a promoted site begins anew
(promotion.py) is then its new program's, and ends that.

SIGHUP ends nothing here, as it would in nbdkit: the same thread opens the log again (stderr.py).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import threading
from collections.abc import Callable

from mirror_core import launch, limits, native
from mirror_core.config import SiteConfig, is_uri
from mirror_core.errors import MirrorError

_LOOK_AGAIN_S = 0.05
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_TAKEN = (*_ENDING, signal.SIGHUP)
_RESERVED = 64  # descriptors
_LOCAL = 16  # of the rest: for clients by the Unix socket
# What a site has open with the peer connected: seen 20, and 13 for each volume, of which 8 are the
# peer's connections; a newer nbdkit takes three descriptors for each client.  And some clients.
_OF_A_SITE, _OF_A_VOLUME = 48, 32
_PR_SET_PDEATHSIG = 1
_SFD_CLOEXEC = os.O_CLOEXEC
_SIGSET_WORDS = 16  # of sigset_t: 1024 bits (glibc)


def refuse_few_descriptors(site: SiteConfig) -> None:
    """MirrorError: a process begun here may not open as many files as the site needs."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    served = sum(is_uri(w) for v in site.volumes for w in (v.data, v.intermediate))
    need = _RESERVED + _OF_A_SITE + _OF_A_VOLUME * len(site.volumes)
    need += served * limits.STORE_CONNECTIONS_GOOD
    if most != resource.RLIM_INFINITY and most < need:
        raise MirrorError(
            f"{site.name}: a process may have {most} files open here, and the site needs {need}: "
            "raise that ('ulimit -Hn' of a shell, LimitNOFILE= of a systemd unit)",
            errno.EMFILE,
        )


def take_all_descriptors() -> None:
    """Raise this process's limit as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def outlive_the_starter() -> None:
    """In the foreground, as with sockets that it was handed, nbdkit asks the kernel to be ended
    together with its parent (seen in 1.32.5), which for a command that returns is at once."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def hold_signals() -> None:
    """In the main thread, before others begin: they are for the Ender alone, or for nobody."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_TAKEN, *launch.HARMLESS})


def _pending_file() -> int:
    """A descriptor that is readable while one of the signals is pending (signalfd(2)); nothing is
    read from it, so the signal stays."""
    libc, signals = ctypes.CDLL(None, use_errno=True), (ctypes.c_ulong * _SIGSET_WORDS)()
    for number in _TAKEN:
        libc.sigaddset(signals, number)
    fd: int = libc.signalfd(-1, signals, _SFD_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def room(*, local: bool) -> bool:
    """Whether one more client leaves enough descriptors for the stores, the peer and the log;
    and one from elsewhere some for the clients of this machine."""
    fd = os.dup(2)  # the lowest that is free
    os.close(fd)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED
    return fd < (most if local else most - _LOCAL)


def callers(site: SiteConfig) -> native.Callers:
    """Whoever is connected to this site."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    ports = [tcp.port for tcp in site.tcp]
    return native.Callers(str(site.socket), ports, min(most, limits.CALLERS_MAX))


class Ender(threading.Thread):
    """Started after nbdkit's fork; `end` from cleanup, when no client is left.  `ending` tells the
    site, `shutdown` nbdkit; `reopen` is for the log."""

    def __init__(
        self,
        site: SiteConfig,
        ending: Callable[[], None],
        shutdown: Callable[[], None],
        reopen: Callable[[], None],
    ) -> None:
        super().__init__(name="ender")
        self._callers = callers(site)
        self._steps = (ending, shutdown)
        self._reopen = reopen
        self._left = threading.Event()

    def run(self) -> None:
        try:
            fd = _pending_file()
            poll = select.poll()  # select(2) knows no descriptor above 1023
            poll.register(fd, select.POLLIN)
            poll.poll()
            while not signal.sigpending() & {*_ENDING}:
                signal.sigtimedwait([signal.SIGHUP], 0)
                self._done(self._reopen)
                poll.poll()
            os.close(fd)
        except OSError:  # no descriptor for it: the signal is taken before the site knows
            while signal.sigwait(_TAKEN) == signal.SIGHUP:
                self._done(self._reopen)
        due = [step for step in self._steps if not self._done(step)]
        signal.sigtimedwait(_ENDING, 0)  # it is taken now, if it was not before
        while not self._left.wait(_LOOK_AGAIN_S):
            due = [step for step in due if not self._done(step)]
            self._done(self._callers.end_all)

    @staticmethod
    def _done(step: Callable[[], None]) -> bool:
        """Whether it went well; else, without memory for one, it is tried again."""
        try:
            step()
        except Exception:
            return False
        return True

    def end(self) -> None:
        self._left.set()
        assert self.ident
        signal.pthread_kill(self.ident, signal.SIGTERM)  # nbdkit has ended without one
        self.join()
