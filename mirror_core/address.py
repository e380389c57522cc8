"""How the other site is reached over a network, and what proves that it is the other site.

The identity of a mirror is its own: a private certificate authority (`flashmirror pki`), whose
certificates both sites show and check; or a key that only the two sites have (PSK).  nbdkit and
libnbd do the checking; here is what they are told, and what can be refused before they are asked.

Left out: names in a client's certificate.  nbdkit checks that the authority signed it and does
not hand over its name, so the authority must sign for nobody but the two sites.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mirror_core import limits
from mirror_core.errors import ConfigError

PSK_USER = "flashmirror"  # the name before the colon in a file of a shared key
CERTIFICATES = ("ca-cert.pem", "server-cert.pem", "client-cert.pem")
KEYS = ("server-key.pem", "client-key.pem")
HOST_PATTERN = r"[0-9A-Za-z._-]{1,253}|[0-9A-Fa-f:.]{2,45}(%[0-9A-Za-z._-]{1,15})?"


# What a client names in its TLS handshake (SNI): GnuTLS ends the connection for any other host, an
# IPv6 number or a name with an underscore, and says so in the server's log only.
_TLS_HOST_PATTERN = r"[0-9A-Za-z.-]{1,253}"


def no_tls_host(host: str) -> str | None:
    """Why TLS cannot be spoken with a host, and what to do; None: it can."""
    if re.fullmatch(_TLS_HOST_PATTERN, host):
        return None
    return (
        f"{host}: TLS takes no host but an IPv4 number, or a name of A-Z a-z 0-9 . -: give it such "
        "a name in /etc/hosts, and in its certificate"
    )


@dataclass(frozen=True)
class Tcp:
    """A host (a name or a number) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, text: str, lowest: int = 1) -> Tcp | None:
        """HOST:PORT or [HOST]:PORT; None: it is neither.  `lowest`: of the ports that may be."""
        match = re.fullmatch(
            r"(?:\[([^\[\]]*:[^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})", text, re.ASCII
        )
        if not match:
            return None
        host, port = match[1] or match[2], int(match[3])
        good = re.fullmatch(HOST_PATTERN, host) and lowest <= port < 65536
        return cls(host, port) if good else None


@dataclass(frozen=True)
class Tls:
    """A folder of certificates (nbdkit-tls(1)), or a file with a shared key: one of the two."""

    certificates: Path | None = None
    psk: Path | None = None

    def server_words(self) -> list[str]:
        """Options of nbdkit.  `on`, not `require`: the Unix socket is plain, and what comes in
        plain over TCP is refused by the plugin (door.py), which can say who it was."""
        if self.psk:
            return ["--tls=on", f"--tls-psk={self.psk}"]
        return ["--tls=on", f"--tls-certificates={self.certificates}", "--tls-verify-peer"]

    def parameters(self) -> str:
        """Of an NBD URI, as libnbd takes them; the server's name is checked as well."""
        if self.psk:
            return f"tls-psk-file={quote(str(self.psk))}"
        return f"tls-certificates={quote(str(self.certificates))}"

    def check(self) -> None:
        """All that is needed is there, and the keys are a secret.  ConfigError."""
        if self.psk:
            # The first line of that user is the one that both libraries take, as it is.
            lines = _read(self.psk, secret=True).split("\n")
            line = next((line for line in lines if line.startswith(f"{PSK_USER}:")), "")
            if not re.fullmatch(rf"{PSK_USER}:(?:[0-9A-Fa-f]{{2}}){{16,}}", line):
                raise ConfigError(
                    f"{self.psk}: holds no line '{PSK_USER}:KEY' with a key of 32 or more "
                    "hexadecimal digits and nothing else, be it a blank or a carriage return: make "
                    "one (docs/network.md)"
                )
            return
        assert self.certificates
        for name in (*CERTIFICATES, *KEYS):
            text = _read(self.certificates / name, secret=name in KEYS)
            if "-----BEGIN " not in text:
                raise ConfigError(f"{self.certificates / name}: is not PEM: 'flashmirror pki' "
                                  "makes one")  # fmt: skip
        for name in ("server", "client"):
            _refuse_strangers(
                self.certificates / f"{name}-cert.pem", self.certificates / f"{name}-key.pem"
            )


@dataclass(frozen=True)
class Remote:
    """The other site, over TCP; plain if there is no `tls`."""

    at: Tcp
    tls: Tls | None

    def __str__(self) -> str:
        return f"{'nbds' if self.tls else 'nbd'}://{self.at}"

    def uri(self, export: str) -> str:
        """The NBD URI of one of its exports."""
        path = quote(export, safe="")
        if not self.tls:
            at = str(self.at).replace("%", "%25")  # before a zone (RFC 6874)
            return f"nbd://{at}/{path}"
        user = f"{PSK_USER}@" if self.tls.psk else ""
        return f"nbds://{user}{self.at}/{path}?{self.tls.parameters()}"


def _refuse_strangers(certificate: Path, key: Path) -> None:
    """ConfigError: they do not belong together.  nbdkit says so of the server's when it begins, and
    libnbd of the client's only when it connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # which are strong enough is for others to say
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # nobody is asked for one
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}: is not the key of {certificate.name} beside it, or one of them is damaged: "
            "'flashmirror pki' makes both"
        ) from error


def _read(path: Path, *, secret: bool) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(limits.PEM_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: {_way_out(path, error)}") from error
    if secret and mode & 0o007:
        raise ConfigError(f"{path}: everybody may read this key: chmod 600 it, or make a new one")
    return text


def _way_out(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "run as the user that the site belongs to, or give this user the permission to read"
    if not isinstance(error, FileNotFoundError):
        return "mend that"
    sites = sorted(key.parent for key in path.parent.glob(f"*/{KEYS[0]}"))
    if sites:  # of `flashmirror pki DIR`, DIR is named
        return f"name the folder of this site: {' or '.join(map(str, sites))}"
    return "'flashmirror pki' makes what [tls] needs"
