"""A running site opens its log again, after logrotate(8) has renamed it.

It does so at a SIGHUP (stderr.py), which ends a process that is no site; and who sends it is root,
while the number in the lock's file is what the site's owner, or another container, has written
there.  So the process is looked for as `stop` does, and the signal goes to what was found.

Who asks may be about to compress the old log: the command returns when nothing more goes there.
Left out: the holders of devices, whose logs go with a reboot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import time
from pathlib import Path

from mirror_core import limits, process
from mirror_core.config import SiteConfig
from mirror_core.errors import MirrorError


def reopen(site: SiteConfig) -> int | None:
    """Returns when the site has opened its log again: the number of its process; None: it does not
    run.  MirrorError: it has not."""
    deadline = time.monotonic() + limits.CONTROL_TIMEOUT_S
    for pid, handle in process.processes_of(site, "send it a SIGHUP"):
        # One that is only to begin nbdkit has its signals as its starter left them.
        if handle is not None and process.serves(pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                before = _log_there(site, pid)
                signal.pidfd_send_signal(handle, signal.SIGHUP)
                _await_log(site, pid, deadline, before)
                return pid
        if time.monotonic() >= deadline:
            raise process.hangs(site, f"does not serve within {limits.CONTROL_TIMEOUT_S:g} s")
        time.sleep(0.02)  # that a process begins is no event
    return None


def _await_log(site: SiteConfig, pid: int, deadline: float, before: os.stat_result | None) -> None:
    """`before`: its log until now, if that may be the one of the state folder.  MirrorError: it
    does not do it; ProcessLookupError: it has ended."""
    while not (_has_taken(pid, signal.SIGHUP) and (not before or _is_new(site, pid, before))):
        if time.monotonic() >= deadline:
            raise MirrorError(
                f"{site.name}: process {pid} has not opened its log again in "
                f"{limits.CONTROL_TIMEOUT_S:g} s (does it start?): the old one goes on, and may "
                "say why: fix the cause, then try again",
                errno.ETIMEDOUT,
            )
        time.sleep(0.02)  # that a process takes a signal is no event


def _has_taken(pid: int, number: signal.Signals) -> bool:
    """Whether this signal does not pend (proc_pid_status(5)).  ProcessLookupError."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except FileNotFoundError as error:
        raise ProcessLookupError from error
    pending = re.search(r"^ShdPnd:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return not pending or not int(pending[1], 16) >> (number - 1) & 1


def _log_there(site: SiteConfig, pid: int) -> os.stat_result | None:
    """What it writes to, if that is site.log, or was until logrotate has moved it, be it to another
    folder (`olddir`).  What systemd has opened for it, or a person (`2>FILE`), is not, but for a
    file that is called site.log, too."""
    try:
        path = Path(os.readlink(f"/proc/{pid}/fd/2"))
        file = os.stat(f"/proc/{pid}/fd/2")
        there = path.parent.samefile(site.state)
    except OSError:
        return None
    named = there or path.name.startswith(process.log_path(site).name)
    return file if named and stat.S_ISREG(file.st_mode) else None


def _is_new(site: SiteConfig, pid: int, before: os.stat_result) -> bool:
    """Whether its log is what is called site.log now, or another file than before: a person's own,
    whose name here nobody knows."""
    try:
        now = os.stat(f"/proc/{pid}/fd/2")
        return not os.path.samestat(now, before) or os.path.samestat(
            now, process.log_path(site).lstat()
        )
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it is not to be seen from here
