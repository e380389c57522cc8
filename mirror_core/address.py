"""How the other site is reached over a network, and what proves that it is the other site.

The identity of a mirror is its own: a private certificate authority (`flashmirror pki`), whose
certificates both sites show and check; or a key that only the two sites have (PSK).  nbdkit and
libnbd do the checking; here is what they are told, and what can be refused before they are asked.

Left out: names in a client's certificate.  nbdkit checks that the authority signed it and does
not hand over its name, so the authority must sign for nobody but the two sites.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mirror_core import limits
from mirror_core.errors import ConfigError, MirrorError

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
        """All that is needed is there, and the keys are a secret.  ConfigError; MirrorError: it
        cannot be read."""
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
        _refuse_foreign(self.certificates)

    def not_in_force(self) -> str | None:
        """As pki.not_in_force.  One that has expired is no reason to keep a source from its
        clients: so it is said, and not refused."""
        from mirror_core import pki  # noqa: PLC0415 (it takes long, and is seldom needed)

        with contextlib.suppress(MirrorError):  # `check` says what is wrong
            return pki.not_in_force(self.certificates) if self.certificates else None
        return None


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
    try:
        _shows(ssl.PROTOCOL_TLS_SERVER, certificate, key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}: is not the key of {certificate.name} beside it, or one of them is damaged: "
            "'flashmirror pki' makes both"
        ) from error


def _shows(kind: int, certificate: Path, key: Path) -> ssl.SSLContext:
    """OSError, ValueError."""
    context = ssl.SSLContext(kind)
    context.set_ciphers("ALL:@SECLEVEL=0")  # which are strong enough is for others to say
    context.load_cert_chain(certificate, key, password=lambda: b"")  # nobody is asked for one
    return context


# Of X509_V_ERR_*: what is wrong with a signature, or with who made it.  All else, such as what a
# certificate may be used for, is for the libraries that use it: they may take it.
_FOREIGN = {7, 19, 20, 21}  # not 18: one that signs itself may be an authority of the other site's
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: that is told apart (pki.py)
_TURNS = 10  # of a handshake, which has 4


def _refuse_foreign(folder: Path) -> None:
    """ConfigError: a certificate is not of the authority beside it, which is the other site's, too:
    so the two ends of a connection would not find that they belong together.  Each judges the
    other's, in a handshake in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = {}
    try:
        for name, kind in (
            ("client", ssl.PROTOCOL_TLS_CLIENT), ("server", ssl.PROTOCOL_TLS_SERVER),
        ):  # fmt: skip
            context = _shows(kind, folder / f"{name}-cert.pem", folder / f"{name}-key.pem")
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
            context.load_verify_locations(folder / "ca-cert.pem")
            ways = (there, back) if name == "server" else (back, there)
            ends[name] = context.wrap_bio(*ways, server_side=name == "server")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / 'ca-cert.pem'}: is no certificate: 'flashmirror pki' makes one"
        ) from error
    for name in ("client", "server") * _TURNS:
        try:
            ends[name].do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            if error.verify_code not in _FOREIGN:
                return
            other = "server" if name == "client" else "client"
            raise ConfigError(
                f"{folder / other}-cert.pem: is not of the authority of ca-cert.pem beside it "
                f"({error.verify_message}): 'flashmirror pki' makes both"
            ) from error
        except OSError:
            return


def _read(path: Path, *, secret: bool) -> str:
    """MirrorError: it cannot be read.  ConfigError: it must not be as it is."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(limits.PEM_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        # No ConfigError: what holds it may be mounted late (systemd tries again).
        why = f"{path}: {error.strerror}: {_way_out(path, error)}"
        raise MirrorError(why, error.errno or 0) from error
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
    if path.name not in (*CERTIFICATES, *KEYS):
        return "make the key (docs/network.md), or mount what holds it"
    return "'flashmirror pki' makes what [tls] needs"
