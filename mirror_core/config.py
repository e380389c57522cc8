"""TOML -> frozen dataclasses.  Every refusal of a configuration is here, before anything is
opened, as one line that says what, where and what to do.

Left out: whether the stores exist, fit and are free (site.py finds that when it opens them).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

from mirror_core import limits, protocol
from mirror_core.address import Remote, Tcp, Tls, no_tls_host
from mirror_core.errors import ConfigError, MirrorError, printable, short
from mirror_core.units import parse_duration, parse_rate, parse_size

ETC = Path("/etc/flashmirror")
T = TypeVar("T", int, float)
_MISTAKES = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL,
}  # fmt: skip
_NBD_URI = re.compile(r"nbds?(\+unix|\+vsock)?://", re.IGNORECASE)
_PATHS = re.compile(r"(?<=[?&;])(socket|tls-certificates|tls-psk-file)=([^&;#]+)")  # of an NBD URI


def is_uri(store: str) -> bool:
    """Whether a store is an NBD server rather than a path."""
    return bool(_NBD_URI.match(store))


def unix_uri(socket: Path, export: str = "") -> str:
    """The NBD URI of an export on a Unix socket."""
    return f"nbd+unix:///{quote(export, safe='')}?socket={quote(str(socket))}"


@dataclass(frozen=True)
class VolumeConfig:
    name: str
    data: str  # a path or an NBD URI
    intermediate: str


@dataclass(frozen=True)
class SiteConfig:
    """One site; sizes in bytes, durations in seconds."""

    path: Path
    name: str
    socket: Path  # where the device and the local control listen
    peer: Path | Remote  # the peer's socket, or where it is on the network
    state: Path
    metrics: Tcp | Path | None  # port 0: any that is free; a path: a Unix socket
    volumes: tuple[VolumeConfig, ...]
    interval: float = 0.0
    preserve: Literal["both", "first"] = "both"
    link_timeout: float = limits.LINK_TIMEOUT_S
    freeze_deadline: float = limits.FREEZE_DEADLINE_S
    freeze_max: float = limits.FREEZE_MAX_S
    block_size: int = limits.BLOCK_SIZE_DEFAULT
    on_link_loss: Literal["degrade", "block"] = "degrade"
    bandwidth: int = 0  # of the background to the peer, bytes a second; 0: no limit
    tcp: tuple[Tcp, ...] = ()  # where the peer alone is served
    tls: Tls | None = None
    insecure: bool = False  # the peer may come, and be reached, over TCP without TLS
    protocol: int = protocol.VERSION  # the newest that is spoken with the other site
    digest: str = ""  # of what the file says
    # Not a setting of a person's: small worlds (the simulator's) have small regions.
    intent_region: int = limits.INTENT_REGION_MIN  # of the intent log: bytes, at least

    def volume(self, name: str) -> VolumeConfig:
        """The ledger, and what is built from it, has the volumes in the order in which they were
        created; the file may have another one."""
        return next(volume for volume in self.volumes if volume.name == name)

    def control_uri(self) -> str:
        return unix_uri(self.socket, "/control")

    def device_uri(self, volume: str) -> str:
        return unix_uri(self.socket, volume)

    def peer_uri(self, export: str) -> str:
        if isinstance(self.peer, Remote):
            return self.peer.uri(export)
        return unix_uri(self.peer, export)


def whole(path: Path) -> Path:
    """As it is to be taken from the folder that a command is given in.  ConfigError."""
    try:
        return _in_utf8(path.absolute())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: the folder that this command is given in is gone: change to another one"
        ) from error


def find(site: str) -> Path:
    """The TOML file that SITE means: a path, or a name in /etc/flashmirror/.  ConfigError."""
    path = Path(site)
    if path.suffix == ".toml" or "/" in site:
        return whole(path)
    return _in_utf8(ETC / f"{site}.toml")


def _in_utf8(path: Path) -> Path:
    """ConfigError: neither nbdkit, nor a TOML file, takes any other name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{printable(str(path))}: is no UTF-8: rename it, or name another"
        ) from error
    return path


def load(site: str) -> SiteConfig:
    """Read and check one site's configuration.  ConfigError: the one line to show.  MirrorError:
    so it is, and nothing is wrong with what is asked: the machine does not read the file."""
    path = find(site)
    try:
        text = _read(path)
    except OSError as error:
        if error.errno not in _MISTAKES:  # it may pass
            raise MirrorError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error
        refused = isinstance(error, PermissionError)
        advice = (
            "run as the user that the site belongs to" if refused else "name a site's TOML file"
        )
        raise ConfigError(f"{path}: {error.strerror}: {advice}") from error
    try:
        table = tomllib.loads(text.decode("utf-8-sig"))  # some editors begin with a mark
    except (ValueError, RecursionError) as error:  # tomllib lets through what int() says
        raise ConfigError(f"{path}: not valid TOML: {error}: mend it there") from error
    return replace(_Reader(path, table).site(), digest=_digest(table))


def _read(path: Path) -> bytes:
    """OSError.  A pipe, which somebody may have put there, is not waited for."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a file")
        return file.read()


def _digest(table: dict[str, Any]) -> str:
    """Of a good file: remarks, blanks and the order in which it says something do not count."""
    volumes = sorted(table["volume"], key=lambda volume: str(volume["name"]))
    said = json.dumps({**table, "volume": volumes}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


_SETTINGS = frozenset({
    "name", "listen", "peer", "state", "metrics", "interval", "preserve", "link_timeout",
    "freeze_deadline", "freeze_max", "block_size", "on_link_loss", "bandwidth", "protocol",
    "insecure", "tls", "volume",
})  # fmt: skip
_SOCKETS = ("listen", "peer", "metrics")  # those of them that may be a socket's path
_OF_A_VOLUME = frozenset({"name", "data", "intermediate"})


def _is_one(a: object, b: object) -> bool:
    """Whether both are paths of one socket, be it by links to its folder."""
    if not isinstance(a, Path) or not isinstance(b, Path):
        return False
    return os.path.realpath(a.parent) == os.path.realpath(b.parent) and a.name == b.name


class _Reader:
    """Takes the keys of one table one by one, when it is sure that all of them are known: of a
    misspelt one a person is told that, not that another is missing."""

    def __init__(self, path: Path, table: dict[str, Any]) -> None:
        self.path, self.table = path, dict(table)

    def only(self, known: frozenset[str], where: str = "") -> None:
        """ConfigError: there is another key."""
        if unknown := self.table.keys() - known:
            raise self.refuse(
                where + min(unknown), "no such setting: remove it or mend its spelling"
            )

    def refuse(self, key: str, text: str) -> ConfigError:
        shown = key if key.isprintable() else repr(key)
        return ConfigError(f"{self.path}: {shown}: {text}")

    def take(self, key: str, default: str | None = None, where: str = "") -> str:
        value = self.table.pop(key, default)
        if value is None:
            raise self.refuse(where + key, "is missing: add it (README.md shows a whole file)")
        if not isinstance(value, str) or not value:
            raise self.refuse(where + key, f"must be a text in quotes, not {short(value)}")
        if not value.isprintable():
            raise self.refuse(where + key, f"{value!r} holds control characters: remove them")
        return value

    def parsed(self, key: str, default: str, parse: Callable[[str], T]) -> T:
        value = self.take(key, default)
        try:
            return parse(value)
        except ConfigError as error:
            raise self.refuse(key, str(error)) from error

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        value = self.take(key, options[0])
        if value not in options:
            raise self.refuse(key, f"{value!r} is not one of {', '.join(options)}")
        return value

    def file(self, key: str, text: str) -> Path:
        path = (self.path.parent / text).absolute()
        if len(str(path).encode()) > limits.SOCKET_PATH_MAX and key in _SOCKETS:
            raise self.refuse(
                key, f"{path}: longer than a socket's path may be (107 bytes): name a shorter one"
            )
        return path

    def site(self) -> SiteConfig:
        self.only(_SETTINGS)
        insecure, tls = self._flag("insecure"), self._tls()
        socket, tcp = self._listen()
        if tcp and not tls and not insecure:
            raise self.refuse("listen", f"tcp:{tcp[0]} needs a [tls] table, or 'insecure = true'")
        config = SiteConfig(
            path=self.path,
            name=self._name(self.take("name"), "name"),
            socket=socket,
            tcp=tcp,
            tls=tls,
            insecure=insecure,
            peer=self._peer(self.take("peer"), tls, insecure=insecure),
            state=self.file("state", self.take("state")),
            metrics=self._metrics(),
            interval=self.parsed("interval", "0s", parse_duration),
            preserve=cast(Literal["both", "first"], self.choice("preserve", ("both", "first"))),
            link_timeout=self._positive(
                "link_timeout", limits.LINK_TIMEOUT_S, limits.LINK_TIMEOUT_MAX_S
            ),
            freeze_deadline=self._positive(
                "freeze_deadline", limits.FREEZE_DEADLINE_S, limits.FREEZE_MOST_S
            ),
            freeze_max=self._positive("freeze_max", limits.FREEZE_MAX_S, limits.FREEZE_MOST_S),
            block_size=self._block_size(),
            on_link_loss=cast(
                Literal["degrade", "block"], self.choice("on_link_loss", ("degrade", "block"))
            ),
            bandwidth=self.parsed("bandwidth", "0", parse_rate),
            protocol=self._protocol(),
            volumes=self._volumes(),
        )
        assert not self.table, "a known setting is taken"
        if config.freeze_max < config.freeze_deadline:
            raise self.refuse("freeze_max", "must not be below freeze_deadline")
        if _is_one(config.peer, config.socket):
            raise self.refuse("peer", "is this site's own socket: name the other site's")
        for other, whose in ((config.socket, "listen"), (config.peer, "peer")):
            if _is_one(config.metrics, other):
                raise self.refuse("metrics", f"is the socket of '{whose}': name one of its own")
        return config

    def _name(self, name: str, key: str) -> str:
        if not re.fullmatch(limits.NAME_PATTERN, name) or set(name) == {"."}:
            raise self.refuse(key, f"{name!r} is not a name: use 1 to 64 of A-Z a-z 0-9 _ . -")
        return name

    def _positive(self, key: str, default: float, most: float) -> float:
        value = self.parsed(key, f"{default}s", parse_duration)
        if not 0 < value <= most:
            raise self.refuse(key, f"must be more than zero, and at most {most:g}s")
        return value

    def _block_size(self) -> int:
        size = self.parsed("block_size", str(limits.BLOCK_SIZE_DEFAULT), parse_size)
        if size & (size - 1) or not limits.BLOCK_SIZE_MIN <= size <= limits.BLOCK_SIZE_MAX:
            raise self.refuse("block_size", f"{size} is not a power of two from 512 to 32M")
        return size

    def _protocol(self) -> int:
        value = self.table.pop("protocol", protocol.VERSION)
        if type(value) is not int or not protocol.OLDEST <= value <= protocol.VERSION:
            raise self.refuse(
                "protocol",
                f"{short(value)} is not a number from {protocol.OLDEST} to {protocol.VERSION}",
            )
        return value

    def _flag(self, key: str) -> bool:
        value = self.table.pop(key, False)
        if not isinstance(value, bool):
            raise self.refuse(key, f"must be true or false, not {short(value)}")
        return value

    def _tls(self) -> Tls | None:
        table = self.table.pop("tls", None)
        if table is None:
            return None
        if not isinstance(table, dict) or len(table) != 1:
            raise self.refuse("tls", "must be a table [tls] with 'certificates' or with 'psk'")
        key = min(table)
        if key not in ("certificates", "psk"):
            raise self.refuse(f"tls.{key}", "no such setting: write 'certificates' or 'psk'")
        path = self.file(key, _Reader(self.path, table).take(key, where="tls."))
        return Tls(certificates=path) if key == "certificates" else Tls(psk=path)

    def _listen(self) -> tuple[Path, tuple[Tcp, ...]]:
        value = self.table.pop("listen", None)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.refuse("listen", 'must be a list of addresses: ["unix:/path/of/the.sock"]')
        sockets, tcp = [], []
        for text in texts:
            kind, _, rest = text.partition(":")
            address = Tcp.of(rest) if kind == "tcp" else None
            if kind == "unix" and rest and rest.isprintable():
                sockets.append(self.file("listen", rest))
            elif address:
                tcp.append(address)
            else:
                raise self.refuse(
                    "listen", f"{short(text)} is no address: write unix:/path, or tcp:HOST:PORT"
                )
        if len(sockets) != 1:
            raise self.refuse("listen", "must hold one unix:/path, for the device and commands")
        if len(set(tcp)) != len(tcp):
            raise self.refuse("listen", "names an address twice: remove one")
        return sockets[0], tuple(tcp)

    def _peer(self, text: str, tls: Tls | None, *, insecure: bool) -> Path | Remote:
        if text.startswith("unix:") and text != "unix:":
            return self.file("peer", text.removeprefix("unix:"))
        try:
            parts = urlsplit(text)
            scheme, socket = parts.scheme, unquote(dict(_PATHS.findall(text)).get("socket", ""))
            # Nothing but a host and a port: the rest of the URI is ours to write.
            bare = parts.netloc if parts.path in ("", "/") else ""
            bare = "" if parts.query or parts.fragment else bare
        except ValueError:  # brackets that do not match
            scheme = socket = bare = ""
        if scheme == "nbd+unix" and socket and socket.isprintable():
            return self.file("peer", socket)
        bare = bare.replace("%25", "%")  # before a zone (RFC 6874)
        address = Tcp.of(bare) or Tcp.of(f"{bare}:{limits.PORT}")
        if scheme not in ("nbd", "nbds") or not address:
            raise self.refuse(
                "peer", f"{short(text)}: write nbds://HOST, or unix:/path if it is on this machine"
            )
        if scheme == "nbds" and not tls:
            raise self.refuse(
                "peer", f"{text} needs a [tls] table (for its certificates: 'flashmirror pki')"
            )
        if scheme == "nbd" and not insecure:
            raise self.refuse("peer", f"{text} is not encrypted: write nbds://, or 'insecure = "
                              "true' if nobody else is on that network")  # fmt: skip
        if scheme == "nbds" and (why := no_tls_host(address.host)):
            raise self.refuse("peer", why)
        return Remote(address, tls if scheme == "nbds" else None)

    def _store(self, key: str, text: str, where: str) -> str:
        """A path, or an NBD URI; the paths in it are the file's, too."""
        if not is_uri(text):
            return str(self.file(key, text))
        try:
            parts = urlsplit(text)
            why = no_tls_host(parts.hostname) if parts.scheme == "nbds" and parts.hostname else None
        except ValueError:  # brackets that do not match
            why = f"{short(text)}: no NBD URI: mend it"
        if why:
            raise self.refuse(where + key, why)

        def absolute(found: re.Match[str]) -> str:
            path = unquote(found[2])
            if path.startswith("/"):
                return found[0]
            return f"{found[1]}={quote(str(self.file(key, path)))}"

        return _PATHS.sub(absolute, text)

    def _metrics(self) -> Tcp | Path | None:
        text = self.table.pop("metrics", None)
        if text is None:
            return None
        if isinstance(text, str) and text.startswith("unix:") and text != "unix:":
            return self.file("metrics", text.removeprefix("unix:"))
        address = Tcp.of(text, lowest=0) if isinstance(text, str) else None
        if not address:
            raise self.refuse(
                "metrics",
                f"{short(text)} is not an address: write 127.0.0.1:9809, [::1]:9809 or unix:/path",
            )
        return address

    def _volumes(self) -> tuple[VolumeConfig, ...]:
        tables = self.table.pop("volume", None)
        if (
            not isinstance(tables, list)
            or not tables
            or not all(isinstance(table, dict) for table in tables)
        ):
            raise self.refuse(
                "volume", "is missing: add a [[volume]] with name, data, intermediate"
            )
        if len(tables) > limits.VOLUMES_MAX:
            raise self.refuse("volume", f"more than {limits.VOLUMES_MAX} volumes in one group")
        volumes = []
        for table in tables:
            reader = _Reader(self.path, table)
            named = str(table.get("name", ""))
            good = re.fullmatch(limits.NAME_PATTERN, named)
            reader.only(_OF_A_VOLUME, f"volume {named}: " if good else "volume: ")
            name = reader._name(reader.take("name", where="volume."), "volume.name")
            where = f"volume {name}: "
            stores = [
                self._store(key, reader.take(key, where=where), where)
                for key in ("data", "intermediate")
            ]
            volumes.append(VolumeConfig(name, *stores))
        self._distinct([v.name for v in volumes], "is the name of two volumes")
        self._distinct([s for v in volumes for s in (v.data, v.intermediate)], "is used twice")
        return tuple(volumes)

    def _distinct(self, values: list[str], text: str) -> None:
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise self.refuse("volume", f"{twice[0]} {text}: each must be its own")
