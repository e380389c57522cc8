"""/dev/nbdN of a volume: attach, hold, detach.

The kernel speaks NBD to the site by itself.  A *holder*, one small process for each device, does
the rest: it hands over connections that are past their handshake, hears from the kernel which of
them died, and replaces them when the site is back; until then the kernel lets requests wait.

    attach   holder: lock, connect (or find the device connected), say that it is ready, hold
    hold     a connection died: N new ones to the kernel, which keeps as many as it lacks
    detach   nobody uses the device: end the holder, disconnect

Invariants.
* A device is only ever reconnected to the history that it was attached to: the same site, volume
  and lineage, which are its `backend` in the kernel, at the same size (I7).  Otherwise the holder
  says why, and requests go on waiting.
* One holder for each backend (holders.py).  The device does not need it while all is well, so it
  may be killed and begun anew (`attach` again).
* A device that is mounted or open is not detached: what is not written yet would be lost.
* A holder begins by itself: an `attach` that has waited long enough leaves it at that, and `detach`
  ends one that has no device yet, so that none comes after it has said that there is none.
* A holder may be older than its site, or newer, and none of the protocols of one be known to the
  other: then the program that is installed by now asks for it, and if that cannot, the holder makes
  way for another.

The kernel tells of a death before it has noted it, and of several connections one by one.  So
after a round of new connections comes another, a little later.

Left out: a site on another machine (the device is on the Unix socket only), the root file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mirror_core import (
    apart,
    attached,
    config,
    exclusive,
    handshake,
    holders,
    identity,
    kernel,
    launch,
    ledger,
    limits,
    mounted,
    opener,
    process,
    stderr,
    writeback,
)
from mirror_core.attached import Attached
from mirror_core.config import SiteConfig
from mirror_core.errors import (
    ConfigError,
    LedgerError,
    MirrorError,
    OtherVersion,
    PeerError,
    printable,
)
from mirror_core.journal import Journal
from mirror_core.lock import check_ledger
from mirror_core.platform import TOKEN

_PROGRAM = Path(sys.prefix) / "bin" / "flashmirror"
_SWAPS = Path("/proc/swaps")
_NODE = re.compile(r"^/dev/|/dev/nbd[0-9]+(p[0-9]+)?$")
_OUTLIVED_S = 30.0  # that a holder waits for a program that knows its site's protocol


class _Outlived(MirrorError):
    """Neither the holder nor the program that is installed knows a protocol of its site."""


class HeldByAnother(MirrorError):
    """A device has another holder than the one that is meant."""


@dataclass(frozen=True)
class Device:
    """What is to be attached where."""

    site: SiteConfig
    volume: str
    backend: str
    index: int | None = None  # None: any that is free
    connections: int = limits.ATTACH_CONNECTIONS


def path_of(index: int) -> str:
    return f"/dev/nbd{index}"


def index_of(path: str) -> int:
    """N of /dev/nbdN.  ConfigError."""
    match = re.fullmatch(r"/dev/nbd(0|[1-9][0-9]{0,5})", path)  # no others' digits, as \d takes
    if not match:
        raise ConfigError(f"{path}: not the name of an nbd device: write it like /dev/nbd0")
    return int(match[1])


def backend(site: SiteConfig, volume: str) -> str:
    """By what the kernel knows a volume of a source.  MirrorError: it has no device; or its ledger,
    which is its owner's and not root's, names it by what is no name."""
    process.refuse_hung(site)
    book = ledger.load(site.state)
    check_ledger(site, book)
    if book.role != "source" or book.lineage is None:
        raise MirrorError(f"{site.name}: is a target, whose device is refused: attach the source's")
    if not TOKEN.fullmatch(book.lineage.id):
        raise LedgerError(f"{ledger.path_in(site.state)}: lineage: not 32 digits")
    return attached.backend_of(book.name, volume, book.lineage.id)


# ---- the holder


class Holder:
    """Holds one device.  `attach`, then `hold`."""

    def __init__(self, device: Device, say: Callable[[str], None]) -> None:
        self._device, self._say = device, say
        self._lock = holders.take(device.backend, device.site.path)
        self._dead = kernel.DeadLinks()
        self._rounds = 0  # of new connections that are due
        self._lost: tuple[float, str] | None = None  # since when, and why last
        self._outlived: float | None = None  # since when
        self.index = -1

    def attach(self) -> None:
        """Connect the device, or find it connected.  MirrorError."""
        found = kernel.find(self._device.backend)
        if found is None:
            found = self._connect()
        else:
            self._rounds = 1  # what died while nobody held it is not known
        self.index = found
        adjusting = threading.Thread(name="adjust", target=self._adjust, daemon=True)
        adjusting.start()
        adjusting.join(limits.DEVICE_LOOK_S)  # done before anybody has the device, if all is well

    def _adjust(self) -> None:
        """In a thread of its own: the kernel keeps it for as long as requests wait for connections,
        and it is the holder who renews them."""
        try:
            kernel.set_request_timeout(self.index, self._request_timeout_s())
        except OSError as error:  # before Linux 5.0 there is no such setting
            self._say(
                f"{path_of(self.index)}: queue/io_timeout: {error.strerror}: what was under way on "
                "a connection that died is sent again only 30 s after it was sent"
            )
        # Who opens it first has its partitions looked for, and waits as long as that does.
        with contextlib.suppress(OSError):
            os.close(os.open(path_of(self.index), os.O_RDONLY | os.O_CLOEXEC))

    def _request_timeout_s(self) -> float:
        if self._device.connections == 1:
            return limits.REQUEST_TIMEOUT_ALONE_S
        patience = limits.REQUEST_TIMEOUT_LINKS * self._device.site.link_timeout
        return max(limits.REQUEST_TIMEOUT_S, patience)

    def _connect(self) -> int:
        wanted = self._device.index
        with self._connections() as opened:
            first = opened[0]
            fds = [one.socket.fileno() for one in opened]
            deadline = time.monotonic() + limits.DEVICE_BUSY_S
            while True:
                try:
                    return kernel.connect(
                        wanted, fds, first.size, flags=first.flags, backend=self._device.backend
                    )
                except OSError as error:
                    where = "no device" if wanted is None else path_of(wanted)
                    if error.errno != errno.EBUSY or wanted is None:
                        raise MirrorError(
                            f"{where}: the kernel refuses to connect it: {error.strerror}: see "
                            "dmesg",
                            error.errno or 0,
                        ) from error
                    if time.monotonic() >= deadline:
                        raise MirrorError(
                            f"{where}: in use{_by(wanted)}: name another, or none for a free one",
                            errno.EBUSY,
                        ) from error
                time.sleep(0.05)  # udev looks at a device that was just disconnected

    @contextlib.contextmanager
    def _connections(self) -> Iterator[list[handshake.Opened]]:
        """Connections past their handshake; closed here, when the kernel has its own.

        MirrorError: the site is gone, or is not what the device was attached to.
        """
        with contextlib.ExitStack() as closing:
            try:
                opened = self._open(self._device.site, closing)
            except MirrorError:
                if not (moved := self._moved()):
                    raise
                closing.close()
                opened = self._open(moved, closing)
                self._device = replace(self._device, site=moved)
            yield opened

    def _moved(self) -> SiteConfig | None:
        """The site, if it listens elsewhere by now: `listen` was changed, and it was stopped and
        started under its device."""
        try:
            now = config.load(str(self._device.site.path))
        except MirrorError:
            return None
        return now if now.socket != self._device.site.socket else None

    def _open(self, site: SiteConfig, closing: contextlib.ExitStack) -> list[handshake.Opened]:
        """MirrorError."""
        opened: list[handshake.Opened] = []
        for _ in range(self._device.connections):
            one = handshake.open_export(site.socket, self._device.volume, limits.CONTROL_TIMEOUT_S)
            closing.callback(one.socket.close)
            opened.append(one)
            if not opened[0].flags & handshake.MULTI_CONN:
                break
        if opened[0].block_size > limits.DEVICE_BLOCK_SIZE:
            raise PeerError(
                f"{site.socket}: takes no request of {limits.DEVICE_BLOCK_SIZE} bytes", errno.EINVAL
            )
        lineage = self._lineage(site)
        if not self._device.backend.endswith(f"/{lineage}"):
            raise MirrorError(
                f"{site.name}: holds another history (lineage {str(lineage)[:8]}) than the device "
                f"was attached to: {self._way_out()}"
            )
        return opened

    def _lineage(self, site: SiteConfig) -> str:
        """Of the site that serves.  MirrorError."""
        try:
            return str(process.status(site)["lineage"])
        except OtherVersion as error:
            spoken = error.asked
        try:
            words = (str(_PROGRAM), "lineage-at", str(site.socket), site.name)
            said = apart.ask(*words, wait_s=limits.CONTROL_TIMEOUT_S).said
            why = "that does not know it either"
        except OSError as error:
            said, why = b"", error.strerror or str(error)
        lineage = said.decode(errors="replace").strip()
        if TOKEN.fullmatch(lineage):
            return lineage
        raise _Outlived(
            f"{site.name}: speaks control protocol {spoken}, which is none of this process's, and "
            f"{_PROGRAM} does not ask for it ({why}): 'flashmirror attach {site.path} "
            f"{self._device.volume}' of the version that the site has",
            errno.EPROTO,
        )

    def _way_out(self) -> str:
        """Of a device whose connections have all ended: what waits in an unmount would wait on."""
        if self.index < 0:  # it is not connected yet
            return "attach it again"
        return (
            f"'flashmirror detach --force {path_of(self.index)}' (what waits gets I/O errors), "
            "then unmount it"
        )

    def hold(self) -> None:
        """Returns when the device was disconnected."""
        pause = limits.BACKOFF_MIN_S
        while kernel.backend_of(self.index) == self._device.backend:
            if self._dead.wait(self.index, pause if self._lost else limits.DEVICE_LOOK_S):
                self._rounds = 2
            if not self._rounds:
                continue
            if self._renew():
                self._rounds -= 1
                pause = limits.BACKOFF_MIN_S
            else:
                pause = min(2 * pause, limits.ATTACH_BACKOFF_MAX_S)
        self._say(f"{path_of(self.index)}: was disconnected")

    def _renew(self) -> bool:
        """One round of new connections.  _Outlived: another holder is to do that."""
        try:
            with self._connections() as opened:
                size = kernel.size_of(self.index)
                if opened[0].size // limits.DEVICE_BLOCK_SIZE * limits.DEVICE_BLOCK_SIZE != size:
                    raise MirrorError(f"the volume has {opened[0].size} bytes, not {size}")
                fds = [one.socket.fileno() for one in opened]
                kernel.reconfigure(self.index, fds, self._device.backend)
        except (MirrorError, OSError) as error:
            self._note(str(error))
            self._make_way(error)
            return False
        self._outlived = None
        if self._lost:
            after = time.monotonic() - self._lost[0]
            self._say(f"{path_of(self.index)}: connected again after {after:.1f} s")
            self._lost = None
        return True

    def _make_way(self, error: Exception) -> None:
        """For `attach`, or systemd, to begin a holder that can ask, when this one has waited for an
        installation to come to its end."""
        if not isinstance(error, _Outlived):
            self._outlived = None
            return
        self._outlived = self._outlived or time.monotonic()
        if time.monotonic() >= self._outlived + _OUTLIVED_S:
            raise _Outlived(
                f"{path_of(self.index)}: requests wait, and its holder ends: {error}", error.code
            ) from error

    def _note(self, why: str) -> None:
        since, before = self._lost or (time.monotonic(), "")
        self._lost = since, why
        if why != before:
            self._say(f"{path_of(self.index)}: requests wait: {why}")


def stay(device: Device) -> None:
    """Be the holder of a device; returns when it was disconnected.  MirrorError."""
    launch.settle()
    stderr.never_wait()
    journal = Journal()
    if lack := writeback.prepare():
        journal.say(lack)
    log = stderr.Log(journal.say)
    signal.signal(signal.SIGHUP, lambda *_: _beside(log.reopen))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    holder = Holder(device, journal.say)
    holder.attach()
    journal.say(f"{device.site.name}: {device.volume} is {path_of(holder.index)}")
    _notify_ready()
    holder.hold()


def _beside(work: Callable[[], None]) -> None:
    """For a signal's handler, which may have come in the middle of a line of the journal, and whose
    errors would be the holder's: it waits for nothing and raises nothing."""
    with contextlib.suppress(RuntimeError, MemoryError):  # there is no thread to be had
        threading.Thread(name="beside", target=work, daemon=True).start()


def _notify_ready() -> None:
    """Tell who started this, systemd or `start`, that the device is there: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.sendto(b"READY=1", re.sub("^@", "\0", address))


# ---- from outside


def start(device: Device) -> int:
    """Have a holder for the device; its index when it can be used.  MirrorError."""
    held = kernel.find(device.backend)
    if held is None or not holders.is_held(device.backend):
        _launch(device)
        held = kernel.find(device.backend)
        if held is None:
            raise MirrorError(
                f"{device.site.name}: {device.volume} was detached as soon as it was attached",
                errno.ECANCELED,
            )
    if device.index not in (None, held):
        raise MirrorError(
            f"{device.site.name}: {device.volume} is attached already, as {path_of(held)}: detach "
            "it first",
            errno.EBUSY,
        )
    return held


def _launch(device: Device) -> None:
    site, volume = device.site, device.volume
    words = [str(_PROGRAM), "attach", "--foreground"]
    words += ["--connections", str(device.connections), str(site.path), volume]
    words += [path_of(device.index)] if device.index is not None else []
    holders.prepare()
    log = holders.log_path(device.backend)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("ab") as out:
        begin = out.tell()
        name = f"flashmirror-attach-{os.getpid()}-{os.urandom(8).hex()}"
        ready.bind("\0" + name)
        deadline = time.monotonic() + limits.START_TIMEOUT_S
        child = launch.spawn(words, {**launch.environment(), "NOTIFY_SOCKET": "@" + name}, [], out)
        ended = os.pidfd_open(child)
        try:
            while True:
                left_s = max(0.0, deadline - time.monotonic())
                readable = select.select([ready.fileno(), ended], [], [], left_s)[0]
                if ended in readable or not readable:
                    break
                ready.recv(limits.NETLINK_BYTES)
                if kernel.find(device.backend) is not None:  # else no holder has said it
                    return
        finally:
            os.close(ended)
    if not readable:
        raise MirrorError(
            f"{volume}: not attached in {limits.START_TIMEOUT_S:g} s: process {child} goes on with "
            f"it, and says in {log} what comes of it: 'flashmirror attach {site.path} {volume}' "
            f"later on to be told, or 'kill {child}' to give it up",
            errno.ETIMEDOUT,
        )
    # Another attach may have been quicker: its device is what was asked for, if it is held.
    if kernel.find(device.backend) is None or not holders.is_held(device.backend):
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):  # it has said nothing
            why = signal.strsignal(os.WTERMSIG(status))
            raise MirrorError(
                f"{volume}: not attached: process {child} was ended meanwhile ({why}): try again"
            )
        raise MirrorError(process.last_words(log, begin), errno.EBUSY)


def give_up(backend: str) -> int | None:
    """End the holder of this that has no device, as it is still attaching one; its number, if there
    is one.  MirrorError: it does not end."""
    if kernel.find(backend) is not None:
        return None
    with contextlib.suppress(PermissionError):  # root's, and root's to end
        if number := holders.process_of(backend):
            holders.end(backend)
            if holders.is_held(backend):
                raise MirrorError(
                    f"{backend}: process {number} is attaching it, and does not end: try again, or "
                    "end it by hand",
                    errno.EBUSY,
                )
            return number
    return None


def refuse_another(device: Attached) -> None:
    """MirrorError: it is not ours, or is connected to something else by now."""
    path = path_of(device.index)
    if not device.backend.startswith(attached.PREFIX):
        raise MirrorError(f"{path}: is not attached by flashmirror")
    if kernel.backend_of(device.index) not in (None, device.backend):
        raise MirrorError(f"{path}: was detached meanwhile, and is another volume's by now")


def _refuse_held(device: Attached, by: str | None) -> None:
    """HeldByAnother: than the process `by`; None: by any."""
    if by is None or not holders.is_held(device.backend):
        return
    number = holders.process_of(device.backend)
    if str(number) != by:
        who = f"process {number}" if number else "another process"
        raise HeldByAnother(f"{path_of(device.index)}: {who} holds it by now: left attached")


def detach(device: Attached, *, force: bool = False, held_by: str | None = None) -> None:
    """Disconnect a device that nobody uses; with `force` whoever uses it gets I/O errors; with
    `held_by`, the number of a process or "", only one that it holds, or nobody.

    MirrorError: it is in use, or not of ours, and nothing has changed; or the kernel refuses, and
    it has no holder any more.
    """
    index = device.index
    refuse_another(device)
    _refuse_held(device, held_by)
    with contextlib.nullcontext() if force else _alone(index):
        refuse_another(device)  # who has it open keeps its number for it
        if not force:
            _write_out(index)
        _refuse_held(device, held_by)
        holders.end(device.backend)
        try:
            kernel.disconnect(index)
        except OSError as error:
            raise MirrorError(
                f"{path_of(index)}: the kernel refuses to disconnect it: {error.strerror}: it has "
                "no holder any more: detach it again, or 'flashmirror attach' begins one",
                error.errno or 0,
            ) from error
    deadline = time.monotonic() + limits.DEVICE_BUSY_S
    while kernel.is_connected(index) and time.monotonic() < deadline:
        time.sleep(0.02)  # somebody has it open: it is free once that one closes it


@contextlib.contextmanager
def _alone(index: int) -> Iterator[None]:
    """While nobody else uses the device; nobody can mount it meanwhile.  MirrorError."""
    deadline = time.monotonic() + limits.DEVICE_BUSY_S
    while True:
        try:
            fd = _open_alone(index)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MirrorError(
                    f"{path_of(index)}: {error.strerror}", error.errno or 0
                ) from error
        else:
            if not _by(index):  # open, but not as an exclusive user
                break
            os.close(fd)
        if time.monotonic() >= deadline:
            raise MirrorError(
                f"{path_of(index)}: in use{_by(index)}: unmount it or end that first", errno.EBUSY
            )
        time.sleep(0.05)  # udev looks at a device that was just connected, or written to
    try:
        yield
    finally:
        os.close(fd)


def _open_alone(index: int) -> int:
    """The device, as its exclusive user.  OSError: EBUSY, it has another one.  MirrorError: it does
    not answer."""
    try:
        return exclusive.open_alone(path_of(index))
    except OSError as error:
        if error.errno != errno.ETIMEDOUT:
            raise
        raise MirrorError(
            f"{path_of(index)}: does not answer (is its site away?): start that first, or "
            f"'flashmirror detach --force {path_of(index)}' (what waits gets I/O errors)",
            errno.ETIMEDOUT,
        ) from error


def _write_out(index: int) -> None:
    """The kernel does that for who closes a device last.  A program that closed it since it was
    opened here was not the last, and has left what it wrote in memory.  MirrorError."""
    path = path_of(index)
    words = (sys.executable, "-I", "-S", opener.__file__, path, "write")
    try:
        said = apart.ask(*words, wait_s=limits.UNMOUNT_S).said
        if number := int(said or errno.EIO):
            raise OSError(number, os.strerror(number))
    except OSError as error:
        raise MirrorError(
            f"{path}: what was written to it is not on its volume: {error.strerror}: repair its "
            f"site, and write it again; or 'flashmirror detach --force {path}'",
            error.errno or 0,
        ) from error


def _by(index: int) -> str:
    """Who uses a device or a part of it, as words behind "in use"; empty if nobody is found."""
    devices = kernel.numbers_of(index)
    device = {kernel.number_of(index)}
    if where := mounted.on(device):
        return f" (mounted on {printable(where[0].point)})"
    for one in mounted.elsewhere(device):
        at = f"{one.mount.point}, for process {one.process}, {one.name}"
        return f" (mounted on {printable(at)})"
    if made := kernel.made_of(index):
        return f" (by {printable(', '.join(made))})"
    if re.search(rf"^{path_of(index)}(p[0-9]+)? ", identity.text(_SWAPS), re.MULTILINE):
        return " (as swap)"
    for number in sorted(holders.processes()):
        if number != os.getpid() and not devices.isdisjoint(_opened_by(number)):
            name = printable(identity.text(Path(f"/proc/{number}/comm")))
            return f" (by process {number}, {name})"
    return ""


def _opened_by(number: int) -> Iterator[str]:
    """MAJOR:MINOR of the block devices that a process has open, whatever it calls them: a container
    has nodes of its own.  What is called like none is not looked at: its server may hang.  The
    process may end meanwhile, at each step: then no more."""
    with contextlib.suppress(OSError):
        for fd in holders.descriptors(number):
            with contextlib.suppress(FileNotFoundError):  # closed since
                if _NODE.search(os.readlink(fd)):
                    info = os.stat(fd)
                    if stat.S_ISBLK(info.st_mode):
                        yield f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
