"""The exec of nbdkit, readiness, stop.

A site is one nbdkit process with our plugin inside.  It gets its sockets as systemd would hand
them over (sockets.py), and so stays in the foreground of whoever started it.  The embedded
interpreter finds this environment through PATH (its `python3` is asked for its prefix); the plugin
checks that.

Before nbdkit 1.33.10 one client that resets its connection with replies pending makes nbdkit
abort for every client, when a connection has more than one thread.  On those versions each
connection gets one thread, which is as fast (docs/benchmarks.md); a request that waits for a
copy then holds up its own connection only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from mirror_core import (
    apart,
    config,
    connections,
    elsewhere,
    identity,
    lastrun,
    launch,
    ledger,
    limits,
    peer,
    protocol,
    sockets,
    stderr,
)
from mirror_core.errors import LedgerError, MirrorError, PeerError, mend
from mirror_core.journal import Journal
from mirror_core.lock import HANDED, check_ledger, lock_state, refuse_unusable

_SAFE_WITH_THREADS = (1, 33, 10)
_PROGRAMS = ("nbdkit", "flashmirror")  # what a site's process is called: proc_pid_comm(5)
_ACCEPTS = b"00010000"  # of /proc/net/unix: __SO_ACCEPTCON
_LOOKS = 25  # half a second: a process that has just begun has the lock before it says so


def plugin_path() -> Path:
    """The plugin's file: installed as share/flashmirror/, or in the checkout.  MirrorError."""
    installed = Path(sys.prefix) / "share" / "flashmirror" / "flashmirror.py"
    checkout = Path(__file__).resolve().parent.parent / "plugin" / "flashmirror.py"
    for path in (checkout, installed):
        if path.exists():
            return path
    raise MirrorError(f"{installed}: the plugin is not installed: install flashmirror again")


def _nbdkit() -> tuple[str, tuple[int, ...]]:
    program = shutil.which("nbdkit", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
    if not program:
        raise MirrorError("nbdkit is not installed: apt-get install nbdkit nbdkit-plugin-python")
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text.stdout)
    return program, tuple(map(int, match.groups())) if match else (0,)


_GNUTLS_POLICY = Path("/etc/gnutls/config")  # the machine's, which Debian has not by itself


def command(site: config.SiteConfig) -> tuple[list[str], dict[str, str]]:
    """The command line of a site and its environment."""
    program, version = _nbdkit()
    threads = [] if version >= _SAFE_WITH_THREADS else ["--threads", "1"]
    own = Path(sys.prefix) / "bin"
    environment = {
        **launch.environment(),
        "PATH": f"{own}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "FLASHMIRROR_PREFIX": sys.prefix,
        # libnbd asks for addresses in its caller's thread, and a name server that is away must not
        # hold up a site for longer than connecting may take (resolv.conf(5)).
        "RES_OPTIONS": os.environ.get("RES_OPTIONS", "timeout:2 attempts:1"),
    }
    if not _GNUTLS_POLICY.exists():
        environment.setdefault(
            "GNUTLS_SYSTEM_PRIORITY_FILE", str(Path(__file__).with_name("gnutls.conf"))
        )
    tls = site.tls.server_words() if site.tls else []
    words = [program, "--log=stderr", *threads, *tls]
    return [*words, "python", str(plugin_path()), f"site={site.path}"], environment


def ask(site: config.SiteConfig, record: protocol.Record, timeout_s: float) -> protocol.Record:
    """Ask the running site, which refuses if it is another one that listens there.  PeerError."""
    return peer.ask(site.control_uri(), {**record, "to": site.name}, timeout_s)


def status(site: config.SiteConfig, timeout_s: float = limits.CONTROL_TIMEOUT_S) -> dict[str, Any]:
    """What the running site says of itself.  PeerError: it does not run, or does not answer."""
    return ask(site, {"op": "status"}, timeout_s)


def running(site: config.SiteConfig) -> bool:
    """Whether a process holds the site's state."""
    try:
        fd = _open_lock(site)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LedgerError(
            f"{site.state}/lock: {error.strerror}: run as the user that the site belongs to, or "
            "mend that",
            error.errno or 0,
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _open_lock(site: config.SiteConfig) -> int:
    """The folder is its owner's, who may be another user than this one, and have put anything
    there.  OSError: it is not there, or no file."""
    fd = os.open(site.state / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no file")
    return fd


def holder(site: config.SiteConfig) -> int | None:
    """The process that has the site's state, or had it last, as that says; None: it does not."""
    try:
        fd = _open_lock(site)
    except OSError:
        return None
    try:
        return int(os.read(fd, 32))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _has_lock(site: config.SiteConfig, pid: int | None) -> bool:
    """Whether this process has the site's state: its lock's file open, as who has it keeps it
    (proc_pid_fd(5)).  What stands in the file is a number of the pid namespace it was written in,
    such as a container's that shares the folder; here it may be somebody else's.  /proc/locks does
    not do: it knows nothing of a file system in user space that keeps its locks itself."""
    if not _may_be_a_site(site, pid):
        return False
    lock = site.state / "lock"
    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since
                # What is called otherwise is not looked at: its server may hang.
                named = os.readlink(fd).removesuffix(" (deleted)").endswith("/lock")
                if named and os.path.samestat(fd.stat(), lock.lstat()):
                    return True
    return False


def found(site: config.SiteConfig) -> int | None:
    """The process that serves this site, or is to serve it in a moment: the one that has its state;
    one that lets go of it to have it again (`begin_anew`), or ends; and one whose lock, whose
    state folder or whose `state` setting was taken away meanwhile.  None: it is not to be seen."""
    pid = holder(site)
    own = os.getpid()
    if pid and pid != own and (_has_lock(site, pid) or _is_begun_with(site, pid, tries=10)):
        return pid
    begun = [pid for pid in _processes() if pid != own and _is_begun_with(site, pid)]
    return next((pid for pid in begun if serves(pid)), begun[0] if begun else None)


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def serves(pid: int) -> bool:
    """Whether it serves, and is not to begin a process that does."""
    return _program_of(pid) == "nbdkit"


def _may_be_a_site(site: config.SiteConfig, pid: int | None) -> bool:
    """By its program and its user.  Nothing here waits for the process, as its command line may:
    that lies in memory which it may be about to fetch from a device of the very site."""
    users = {0, os.geteuid()}
    for path in (site.path, site.state):
        with contextlib.suppress(OSError):  # it was taken away
            users.add(path.stat().st_uid)
    try:
        return _program_of(pid) in _PROGRAMS and os.stat(f"/proc/{pid}").st_uid in users
    except OSError:
        return False


def _program_of(pid: int | None) -> str:
    """Empty: it has ended.  Every process of the machine is asked, and the name of one may be no
    UTF-8: the kernel cuts it after 15 bytes, be it in the middle of a letter."""
    return identity.text(Path(f"/proc/{pid}/comm"))


def _is_begun_with(site: config.SiteConfig, pid: int, tries: int = 1) -> bool:
    """Whether a site's process was begun with this configuration."""
    return _may_be_a_site(site, pid) and _names(pid, site, tries)


def _names(pid: int, site: config.SiteConfig, tries: int = 1) -> bool:
    """Whether the words of a process name the configuration's file there, whatever that is called
    here (proc_pid_root(5))."""
    words = [os.fsdecode(word) for word in _words_of(pid, tries)]
    named = [word.removeprefix("site=") for word in words if word.startswith("site=")]
    if words[2:3] == ["start"] and "--foreground" in words:  # of the interpreter and its script
        named += words[3:]
    with contextlib.suppress(OSError):  # the configuration is gone
        ours = site.path.stat()
        for path in (word for word in named if word.startswith("/")):
            with contextlib.suppress(OSError):  # it has ended, or sees no such file
                if os.path.samestat(os.stat(f"/proc/{pid}/root{path}"), ours):
                    return True
    return False


def _words_of(pid: int, tries: int) -> list[bytes]:
    """What a process was begun with; nothing: it has ended.  In the instant of an exec(2) there is
    nothing either: who is known to be there is looked at again."""
    for _ in range(tries):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        if words:
            return words.split(b"\0")
        if tries > 1:
            time.sleep(0.01)
    return []


def is_there(site: config.SiteConfig) -> bool:
    """Whether a process has the site's state, is to have it again, or serves it without."""
    return running(site) or found(site) is not None or running(site)  # it may have it by now


def refuse_hung(site: config.SiteConfig) -> None:
    """MirrorError: the state folder does not answer, as of a disk that hangs or a server that is
    away, and who looks into it would wait for as long as that is so."""
    try:
        for path in (site.state / "lock", ledger.path_in(site.state)):
            words = (f"if={path}", "of=/dev/null", "iflag=nofollow,nonblock", "bs=1M")
            apart.ask("dd", *words, wait_s=limits.CONTROL_TIMEOUT_S)
    except OSError as error:
        if error.errno == errno.ETIMEDOUT:  # else whoever looks there says what is wrong
            raise _hung(site) from error


def _hung(site: config.SiteConfig) -> MirrorError:
    """With the site's process, which is found without its state."""
    pid = next((pid for pid in _processes() if serves(pid) and _names(pid, site)), None)
    words = f", or end process {pid}, which goes on ('kill -9 {pid}'): the next start recovers it"
    return MirrorError(
        f"{site.name}: {site.state} does not answer (a disk, or a server, that hangs?): mend that"
        f"{words if pid else ''}",
        errno.ETIMEDOUT,
    )


def refuse_running(site: config.SiteConfig, then: str) -> None:
    """MirrorError: what its process does not know of must not change under it."""
    if is_there(site):
        raise MirrorError(
            f"{site.name}: runs: stop it with 'flashmirror stop {site.path}', then {then}"
        )


def hangs(site: config.SiteConfig, what: str) -> MirrorError:
    """The line for a process that lives and does not do its part."""
    pid = found(site)
    end = f"'kill -9 {pid}'" if pid else "kill it"
    return MirrorError(
        f"{site.name}: process {pid or 'of the site'} {what}: see {site.state}/site.log; if it "
        f"stays so, {end}: the next start recovers it",
        errno.ETIMEDOUT,
    )


def _elsewhere(site: config.SiteConfig, then: str) -> MirrorError:
    """Into a process that has capabilities of its own the kernel lets nobody look but root."""
    pid = holder(site)
    ours = (
        "; or, if that nbdkit is yours, and is not to be looked into because it has capabilities "
        f"of its own (setcap): 'kill {pid}' stops it in order"
        if pid and _program_of(pid) in _PROGRAMS
        else ""
    )
    return MirrorError(
        f"{site.name}: runs, but its process is not to be seen from here (is it in a container, "
        f"another user's, or on another machine?): {then} there: it says that it is process "
        f"{pid}{ours}",
        errno.ESRCH,
    )


@contextlib.contextmanager
def _prepared(site: config.SiteConfig) -> Iterator[tuple[list[int], dict[str, str]]]:
    """What can be refused before a process is begun; then the descriptors that it is handed, and
    what tells it of them: its sockets and, taken before anything is done to those of another
    process, its state.  MirrorError."""
    check_ledger(site, ledger.load(site.state))
    refuse_unusable(site)
    connections.refuse_few_descriptors(site)
    if site.tls:
        site.tls.check()
    with contextlib.ExitStack() as undo:
        held = lock_state(site)
        undo.callback(os.close, held)
        listening = sockets.listen(site)
        for one in listening:
            undo.callback(one.close)
        place = launch.FIRST_FD + len(listening)
        told = {"LISTEN_FDS": str(len(listening)), HANDED: str(place)}
        yield [*(one.fileno() for one in listening), held], told


def start_foreground(site: config.SiteConfig) -> None:
    """Become the site's process; returns only by raising MirrorError."""
    launch.settle()
    if site.tls and (lack := site.tls.not_in_force()):
        stderr.never_wait()
        Journal().say(lack)
    pid = found(site)  # before its own sockets are found in the way
    if pid and serves(pid):
        raise LedgerError(
            f"{site.name}: runs already, process {pid}: 'flashmirror stop {site.path}' first",
            errno.EBUSY,
        )
    words, environment = command(site)
    with _prepared(site) as (handed, told):
        launch.become(words, {**environment, **told}, handed)


def refuse_anew(site: config.SiteConfig, book: ledger.Ledger) -> None:
    """What `begin_anew` would meet at the site's file as it stands by now; nothing is changed.
    MirrorError.  What only a start can try (an address, a store) is to be what this process has."""
    try:
        now = config.load(str(site.path))
        check_ledger(now, book)
        for setting, before, after in (
            ("state", site.state, now.state),
            ("listen", (site.socket, set(site.tcp)), (now.socket, set(now.tcp))),
            ("metrics", site.metrics, now.metrics),
            ("volume", set(site.volumes), set(now.volumes)),
        ):
            if before != after:
                raise MirrorError(
                    f"{site.path}: {setting}: was changed since the start: put back what it was, "
                    "or stop the site and start it, then promote it",
                    errno.EINVAL,
                )
        refuse_unusable(now, runs=True)
        connections.refuse_few_descriptors(now)
        if now.tls:
            now.tls.check()
    except MirrorError as error:
        raise MirrorError(
            f"cannot begin anew, and so is not promoted: {error}", error.code
        ) from error


def begin_anew(site: config.SiteConfig) -> NoReturn:
    """The site's own process starts again from the ledger, under the same process number.  The
    signals that end it stay blocked meanwhile, and so are not lost."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)  # the lock and the socket end here
    program = str(Path(sys.prefix) / "bin" / "flashmirror")
    os.execv(program, [program, "start", "--foreground", str(site.path)])


def start(site: config.SiteConfig) -> None:
    """Start the site and return when its device opens.  One that starts is waited for; one that
    ends, too, and then it is started.  MirrorError: it ended, or is not ready in time: then it goes
    on, as what takes long (the flush of a seed) gets on, and would begin anew if it were ended."""
    while True:
        with _one_at_a_time(site):
            if _is_begun(site):
                return
        if _gets_ready(site):
            return


def _is_begun(site: config.SiteConfig) -> bool:
    """By this call, unless somebody has its state, or is to have it again."""
    deadline = time.monotonic() + limits.ANEW_S
    while not running(site):
        if not is_there(site):
            try:
                _launch(site)
                return True
            except LedgerError as error:
                if error.code == errno.EBUSY:  # somebody was quicker
                    return False
                raise
        if _answers(site):  # without its lock
            return False
        if _listens_elsewhere(site):
            raise does_not_listen(site)
        if time.monotonic() >= deadline:  # never a second one beside it
            raise hangs(site, "has let go of its state, and does not answer")
        time.sleep(0.02)  # there is no event to wait on but that it has its state
    return False


@contextlib.contextmanager
def _one_at_a_time(site: config.SiteConfig) -> Iterator[None]:
    """Of two starts the second finds what the first has started.  MirrorError: that one has had its
    time, and goes on."""
    try:
        fd = os.open(site.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # whoever reads the ledger says what is wrong
        return
    try:
        _take_turn(site, fd)
        yield
    finally:
        os.close(fd)


def _take_turn(site: config.SiteConfig, fd: int) -> None:
    deadline = time.monotonic() + limits.START_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise _starts_already(site, fd) from error
        time.sleep(0.02)  # flock(2) has no time-out


def _starts_already(site: config.SiteConfig, fd: int) -> MirrorError:
    """The line for a start that keeps others waiting; `fd`: the state folder.  It may be ended: the
    site's process is no part of it."""
    pid = elsewhere.holder(fd, "FLOCK")
    what, end = (f"process {pid}", f"'kill -9 {pid}'") if pid else ("another process", "end it")
    return MirrorError(
        f"{site.name}: {what} starts it, and has not come to an end in {limits.START_TIMEOUT_S:g} "
        f"s (is it stopped?): if it stays so, {end}, then start the site again",
        errno.EBUSY,
    )


def _append(log: Path) -> IO[bytes]:
    """OSError."""
    return os.fdopen(stderr.open_log(log), "ab", buffering=0)


def log_path(site: config.SiteConfig) -> Path:
    """Of a site that `start` starts in the background."""
    return site.state / "site.log"


def _log_to_write(log: Path) -> IO[bytes]:
    """MirrorError."""
    try:
        return _append(log)
    except OSError as error:
        raise _no_log(log, error) from error


def refuse_log(site: config.SiteConfig) -> None:
    """What a start would meet at the log; nothing is changed.  MirrorError."""
    try:
        os.close(stderr.open_log(log_path(site), make=False))
    except FileNotFoundError:
        pass  # it is made
    except OSError as error:
        raise _no_log(log_path(site), error) from error


def _no_log(log: Path, error: OSError) -> MirrorError:
    return MirrorError(
        f"{log}: {error.strerror}: mend that, or move it away: a new one is made", error.errno or 0
    )


def _launch(site: config.SiteConfig) -> None:
    """A process of its own, in a session of its own, that writes to the site's log.  MirrorError:
    it ended, with its last words."""
    words, environment = command(site)
    log = log_path(site)
    with _prepared(site) as (handed, told), _log_to_write(log) as out:
        begin = out.tell()
        child = launch.spawn(words, {**environment, **told}, handed, out)
    deadline = time.monotonic() + limits.START_TIMEOUT_S
    while True:
        try:
            _ask_once(site, deadline)
            return
        except PeerError as error:
            pid, ended = os.waitpid(child, os.WNOHANG)
            if pid and ended in (0, signal.SIGTERM):
                raise _stopped(site) from error
            if pid:
                raise MirrorError(last_words(log, begin)) from error
            if time.monotonic() >= deadline:
                raise _not_ready(site, f" (process {child})") from error
        time.sleep(0.02)  # a process that starts has no event to wait on but its answer


def _listens(site: config.SiteConfig) -> bool:
    """Whether somebody listens on the site's socket, be it without its name (proc_net_unix(5))."""
    rows = [row.split(maxsplit=7) for row in Path("/proc/net/unix").read_bytes().splitlines()]
    path = os.fsencode(site.socket)
    return any(len(row) == 8 and row[7] == path and row[3] == _ACCEPTS for row in rows)


def does_not_listen(site: config.SiteConfig) -> MirrorError:
    """The line for a process that serves, and not on the site's socket."""
    return MirrorError(
        f"{site.name}: runs, and does not listen on {site.socket} (was 'listen' changed since the "
        "start, or the socket taken away?): stop it and start it",
        errno.ENOENT,
    )


def _listens_elsewhere(site: config.SiteConfig) -> bool:
    """Whether its process serves on another socket than the file says by now.  One that starts was
    handed its own, and one that ends has closed it."""
    if site.socket.exists() or not (pid := found(site)) or not serves(pid):
        return False
    rows = [row.split(maxsplit=7) for row in Path("/proc/net/unix").read_bytes().splitlines()]
    known = {os.fsencode(path) for path in (site.socket, site.metrics) if isinstance(path, Path)}
    others = {
        b"socket:[" + row[6] + b"]"
        for row in rows
        if len(row) == 8 and row[3] == _ACCEPTS and row[7] not in known
    }
    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed since
                if os.readlink(os.fsencode(f"/proc/{pid}/fd/{fd}")) in others:
                    return True
    return False


def _answers(site: config.SiteConfig) -> bool:
    with contextlib.suppress(PeerError):
        return bool(status(site))
    return False


def _ask_once(site: config.SiteConfig, deadline: float) -> None:
    """Whether it answers.  Patiently: who gives up, and asks again, looks like an error in the
    site's log.  PeerError."""
    left = min(deadline - time.monotonic(), limits.CONTROL_TIMEOUT_S)
    status(site, timeout_s=max(left, limits.CONTROL_WAIT_S))


def _gets_ready(site: config.SiteConfig) -> bool:
    """Whether it answers, be it after a while; else it has ended.  MirrorError: neither."""
    deadline = time.monotonic() + limits.START_TIMEOUT_S
    gone_at: float | None = None
    while True:
        try:
            _ask_once(site, deadline)
            return True
        except PeerError as error:
            if _listens_elsewhere(site):
                raise does_not_listen(site) from error
            if not is_there(site):
                return False
            # One that begins anew makes it again within a moment; one that ends listens no more.
            gone = not site.socket.exists() and _listens(site)
            gone_at = (gone_at or time.monotonic()) if gone else None
            if gone_at and time.monotonic() >= gone_at + limits.CONTROL_WAIT_S:
                raise MirrorError(
                    f"{site.name}: runs, and its socket {site.socket} was taken away: stop it and "
                    "start it",
                    errno.ENOENT,
                ) from error
            if time.monotonic() >= deadline:
                raise _not_ready(site, "") from error
        time.sleep(0.02)  # a process that starts has no event to wait on but its answer


def _stopped(site: config.SiteConfig) -> MirrorError:
    return MirrorError(
        f"{site.name}: has ended before it was ready (was it stopped?): see "
        f"{site.state}/site.log, then start it again",
        errno.ECANCELED,
    )


def _not_ready(site: config.SiteConfig, which: str) -> MirrorError:
    return MirrorError(
        f"{site.name}: is not ready after {limits.START_TIMEOUT_S:g} s, and goes on{which}: wait "
        f"with 'flashmirror start {site.path}', and see {site.state}/site.log",
        errno.ETIMEDOUT,
    )


_GIVEN_UP = "the start was given up"


def last_words(log: Path, begin: int) -> str:
    """The last line of ours in a log, from byte `begin` on; why there is none if the log takes no
    more lines, and so may not have taken the last."""
    try:
        with _append(log) as out:
            out.write(f"flashmirror: {_GIVEN_UP}\n".encode())
    except OSError as error:
        return f"{log}: {error.strerror}: {mend(error)}, and start again: it ended without a word"
    lines = _lines(log, begin)
    return _last_of_ours(lines) or f"{log}: nbdkit ended: {lines[-1] if lines else 'no message'}"


@dataclass(frozen=True)
class Log:
    """A site's log, from a moment on."""

    path: Path
    begin: int  # bytes


def log_of(site: config.SiteConfig) -> Log:
    path = log_path(site)
    try:
        return Log(path, path.stat().st_size)
    except OSError:  # a site of systemd's writes to the journal
        return Log(path, 0)


def said_since(log: Log) -> str | None:
    """The last line of ours since then; None: there is none, or it cannot be read."""
    try:
        return _last_of_ours(_lines(log.path, log.begin))
    except OSError:
        return None


def _lines(log: Path, begin: int) -> list[str]:
    with log.open("rb") as file:
        if begin <= os.fstat(file.fileno()).st_size:  # else it was begun anew since (SIGHUP)
            file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if not line.endswith(_GIVEN_UP)]


def _last_of_ours(lines: list[str]) -> str | None:
    ours = [line.split("flashmirror: ", 1)[1] for line in lines if "flashmirror: " in line]
    return ours[-1] if ours else None


def stop(site: config.SiteConfig) -> bool:
    """Stop the site; returns when its process has ended, or had: whether that was in order, as the
    next start finds.  MirrorError: it has not ended; or, as the line says, it has, and nobody
    knows."""
    deadline = time.monotonic() + limits.STOP_TIMEOUT_S
    for _, handle in processes_of(site, "stop it"):
        if time.monotonic() >= deadline:
            raise hangs(site, f"does not end within {limits.STOP_TIMEOUT_S:g} s")
        if handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGTERM)
            select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
    try:
        book = lastrun.load(site.state)
        return ledger.ended_in_order(book)
    except MirrorError as error:
        how = f"{site.name}: is stopped, and whether in order is not known: {error}"
        raise MirrorError(how, error.code) from error


def processes_of(site: config.SiteConfig, then: str) -> Iterator[tuple[int, int | None]]:
    """As long as the site has a process: its number, and a handle for it, which can be no other's
    (pidfd_open(2)); None: it is not to be seen just now.  MirrorError: it is not to be seen from
    here at all; `then` is what a person is to do where it is."""
    looks = 0  # one after the other at a process that has the state and is not to be seen
    while is_there(site):
        pid = found(site)
        handle = _handle_of(pid)
        try:
            if handle is not None and pid and found(site) == pid:  # else it has ended
                looks = 0
                yield pid, handle
                continue
        finally:
            if handle is not None:
                os.close(handle)
        looks = looks + 1 if running(site) and holder(site) else 0
        if looks == _LOOKS:
            raise _elsewhere(site, then)
        yield 0, None
        time.sleep(0.02)  # it is just starting, or just gone: look again


def _handle_of(pid: int | None) -> int | None:
    try:
        return os.pidfd_open(pid or 0)
    except (OSError, ValueError):  # there is none, or it has ended
        return None
