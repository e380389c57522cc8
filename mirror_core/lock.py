"""Who has a site's state folder: one process at a time, which says so in the file `lock` there.

The lock is flock(2): it ends with the process, whatever ends that.  The process number in the
file is for those who want to stop the site.  Who starts a site takes it and hands it over, with
the sockets: so nobody touches those of a site that has its state.
"""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

from mirror_core import ledger, limits
from mirror_core.config import SiteConfig
from mirror_core.errors import LedgerError, mend
from mirror_core.platform import HERE, Platform

HANDED = "FLASHMIRROR_LOCK"  # in the environment: the number of the descriptor


def handed() -> int | None:
    """The state folder, as the starter of this process has taken it; None: it has not."""
    number = os.environ.pop(HANDED, None)
    if number is None:
        return None
    os.set_inheritable(int(number), False)
    return int(number)


def refuse_other(held: int | None, config: SiteConfig) -> None:
    """LedgerError: what the starter has taken is not the state folder that the configuration names
    by now."""
    try:
        if held is None or os.path.samestat(os.fstat(held), (config.state / "lock").lstat()):
            return
    except OSError:
        pass  # it is not there any more
    raise LedgerError(f"{config.path}: 'state' was changed while the site started: start it again")


def lock_state(config: SiteConfig, platform: Platform = HERE) -> int:
    """Take the state folder for this process; the descriptor holds it.  LedgerError: busy, or
    another user's."""
    _refuse_another_user(config, platform)
    path = config.state / "lock"
    try:
        fd = platform.open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _not_lockable(path, error) from error
    try:
        _take(fd, config, platform)
        platform.ftruncate(fd, 0)  # whose it was is nobody to send a signal to
    except OSError as error:
        platform.close(fd)
        raise no_state(config, error) from error
    except LedgerError:
        platform.close(fd)
        raise
    return fd


def _refuse_another_user(
    config: SiteConfig, platform: Platform = HERE, *, runs: bool = False
) -> None:
    """LedgerError: who has said `sudo` once would lock the site's owner out, who can neither read
    what root writes there nor connect to root's socket.  `runs`: root's process has it, under which
    it was given away."""
    try:
        owner = platform.stat(config.state).st_uid
    except OSError:
        return  # who opens the lock says it
    if os.geteuid() == 0 != owner:
        name = _user(owner)
        what = (
            f"run this as that user ('sudo -u {name} flashmirror ...'), or give the folder to root"
        )
        if runs:
            what = f"give the folder back to root, whose site runs ('chown root {config.state}')"
        raise LedgerError(
            f"{config.state}: belongs to {name}, who could not use what root writes there: {what}",
            errno.EPERM,
        )


def _user(number: int) -> str:
    """As sudo(8) takes it."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def _not_lockable(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"{path}: {error.strerror}: of a new site, run 'flashmirror create' first; or mount what "
        "holds it, or mend the permission",
        error.errno or 0,
    )


def _take(fd: int, config: SiteConfig, platform: Platform) -> None:
    deadline = platform.monotonic() + limits.LOCK_PATIENCE_S
    while True:
        try:
            platform.flock(fd)
            return
        except BlockingIOError as error:  # a site that runs, or a command that looks for one
            if platform.monotonic() >= deadline:
                raise LedgerError(
                    f"{config.state}: the site runs already: stop it with 'flashmirror stop "
                    f"{config.path}' first",
                    errno.EBUSY,
                ) from error
            platform.sleep(0.01)


def refuse_unusable(config: SiteConfig, *, runs: bool = False) -> None:
    """What a start would meet in the state folder before it has read anything there, and what the
    site would meet that goes on writing to it; nothing is changed.  LedgerError.  `runs`: a process
    of this user has it."""
    _refuse_another_user(config, runs=runs)
    path = config.state / "lock"
    try:
        config.state.stat()
    except FileNotFoundError as error:
        raise LedgerError(
            f"{config.state}: is not there: of a new site, run 'flashmirror create' first; of one "
            "that was here, mount or put back what holds it",
            errno.ENOENT,
        ) from error
    except OSError as error:
        raise _not_lockable(path, error) from error
    try:
        os.close(HERE.open(path, os.O_RDWR))
    except FileNotFoundError:
        pass  # it is made
    except OSError as error:
        raise _not_lockable(path, error) from error
    if not os.access(config.state, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise LedgerError(
            f"{config.state}: this user may not write there, or it is read-only: run as the user "
            "that the site belongs to, or mend that",
            errno.EACCES,
        )


def write_pid(fd: int, config: SiteConfig, platform: Platform) -> None:
    """Say in the lock file whose it is.  LedgerError."""
    try:
        platform.ftruncate(fd, 0)
        platform.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise no_state(config, error) from error


def refuse_other_site(config: SiteConfig) -> None:
    """To be asked before anything is done to the site that has this state folder, whether it runs
    or not.  LedgerError: that is another one.  Whether its volumes are others is no matter of this:
    one that runs has those of its start, and is to be stopped.  A ledger that cannot be read is for
    who needs it to refuse: a site is stopped without."""
    try:
        book = ledger.load(config.state)
    except LedgerError:
        return
    _check_name(config, book)


def _check_name(config: SiteConfig, book: ledger.Ledger) -> None:
    if book.name != config.name:
        raise LedgerError(
            f"{ledger.path_in(config.state)}: of the site {book.name}, not {config.name}: mend "
            "'name' or 'state'"
        )


def check_ledger(config: SiteConfig, book: ledger.Ledger) -> None:
    """The ledger is of this configuration.  LedgerError."""
    _check_name(config, book)
    where = ledger.path_in(config.state)
    ours, theirs = ({v.name for v in volumes} for volumes in (config.volumes, book.volumes))
    if ours != theirs:
        raise LedgerError(
            f"{where}: records other volumes than {config.path} "
            f"({', '.join(sorted(ours ^ theirs))}): mend [[volume]]"
        )
    for record in book.volumes:
        if record.block_size != config.block_size:
            raise LedgerError(
                f"{config.path}: block_size: {config.block_size}, but the site was created with "
                f"{record.block_size}: set that again"
            )


def no_state(config: SiteConfig, error: OSError) -> LedgerError:
    return LedgerError(
        f"{config.state}: {error.strerror}: {mend(error)}, or name another 'state'",
        error.errno or 0,
    )
