"""A mirror's private certificate authority, and what each of its two sites needs.

    DIR/ca/     ca-cert.pem, ca-key.pem: the identity of the mirror; keep the key away from both
    DIR/SITE/   ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem:
                copied to that site, named there by [tls] certificates

Who holds a certificate of this authority is a site of this mirror: it signs for nobody else.  A
server's certificate holds the names by which the other site reaches it, which are checked.  Each
certificate names its own key and its signer's (RFC 5280, 4.2.1.1 and 4.2.1.2), without which a
strict verifier refuses it.

Left out: revoking.  A site whose key was stolen gets a new authority, at both sites.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from mirror_core.address import CERTIFICATES
from mirror_core.errors import MirrorError

_SKEW = datetime.timedelta(hours=1)  # the sites' clocks may differ


@dataclass(frozen=True)
class _Signed:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(folder: Path, sites: dict[str, tuple[str, ...]], days: int) -> None:
    """The whole folder, for these sites and their host names or addresses.  MirrorError: there is
    something already, or it cannot be written; nothing is left behind."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise MirrorError(f"{folder}: exists: name a new folder; nothing is overwritten") from error
    except OSError as error:
        raise MirrorError(f"{folder}: {error.strerror}: name another folder") from error
    try:
        authority = _authority(days)
        _write(folder / "ca", ca=authority)
        for site, hosts in sites.items():
            server = _sign(authority, site, hosts, Usage.SERVER_AUTH, days)
            client = _sign(authority, site, (), Usage.CLIENT_AUTH, days)
            _write(folder / site, server=server, client=client)
            _put(folder / site / "ca-cert.pem", _pem(authority.certificate), 0o644)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise MirrorError(f"{folder}: {error.strerror}: name another folder") from error


def first_to_expire(folder: Path) -> tuple[str, datetime.datetime]:
    """Of a site's certificates: the file's name, and until when it is valid.  MirrorError."""
    ends = {name: _read(folder / name).not_valid_after_utc for name in CERTIFICATES}
    return min(ends.items(), key=lambda item: item[1])


def not_in_force(folder: Path) -> str | None:
    """Why the other site does not accept one of a site's certificates at this moment, as a line for
    a person; None: it may.  MirrorError: one cannot be read."""
    now = datetime.datetime.now(datetime.UTC)
    for name in CERTIFICATES:
        certificate = _read(folder / name)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > end:
            return (
                f"{folder / name}: expired on {end:%Y-%m-%d}, so there is no mirroring: have new "
                "ones made ('flashmirror pki'; docs/network.md)"
            )
        if now < begin:
            return (
                f"{folder / name}: not valid before {begin:%Y-%m-%d %H:%M} UTC, so there is no "
                "mirroring until then: is this machine's clock right?"
            )
    return None


def _read(path: Path) -> x509.Certificate:
    """MirrorError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MirrorError(f"{path}: is no certificate: 'flashmirror pki' makes one") from error


def _authority(days: int) -> _Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("flashmirror private CA")
    usage = x509.KeyUsage(
        key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _begin(name, name, key, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return _Signed(certificate, key)


def _sign(
    authority: _Signed, site: str, hosts: tuple[str, ...], usage: x509.ObjectIdentifier, days: int
) -> _Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    builder = (
        _begin(_name(site), issuer, key, authority.key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return _Signed(builder.sign(authority.key, hashes.SHA256()), key)


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signers = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(own, critical=False)
        .add_extension(signers, critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(folder: Path, **parts: _Signed) -> None:
    folder.mkdir(mode=0o700)
    for part, signed in parts.items():
        _put(folder / f"{part}-cert.pem", _pem(signed.certificate), 0o644)
        key = signed.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _put(folder / f"{part}-key.pem", key, 0o600)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _put(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
