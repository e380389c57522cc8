"""How apt and pip reach their packages on this machine: so they do in a bare Debian here.

A machine may have a mirror, a proxy, a key, certificates or folders of packages of its own.  What
is set by files and by the environment is read as apt and pip themselves read it.

Left out: credentials that stand elsewhere than in apt's and pip's own settings (a .netrc).
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OWN = Path("usr/local/share/machine")  # in the root: where files of the machine go
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_KEYS = ("etc/apt/keyrings", "etc/apt/trusted.gpg.d", "usr/share/keyrings")
_APT = ("etc/apt/auth.conf", "etc/apt/auth.conf.d", "etc/apt/preferences.d")
# Of apt's settings, those that say how packages are reached.
_REACH = re.compile(r'Acquire::(?!IndexTargets|Changelogs|cdrom|Compression|Languages).* ".+";')
_PROXIES = [f"{kind}_proxy" for kind in ("http", "https", "ftp", "all", "no")]
_BUNDLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Unknown(Exception):
    """In one line, what this machine does not say."""


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def codename() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    return found[1] if found else ""


class Sources:
    """apt's, of which Debian's own are of any release, and others of this machine's only."""

    def __init__(self) -> None:
        text = said("apt-get", "indextargets", "Identifier: Packages")
        records = [dict(re.findall(r"^([\w-]+): (.*)$", one, re.M)) for one in text.split("\n\n")]
        debian = [one for one in records if one.get("Origin") == "Debian"]
        self._all = _files(records)
        self._debian = _files(debian)
        # The one with the release itself, and not with its updates.
        whole = [one["Repo-URI"] for one in debian if re.fullmatch(r"[a-z]+", one["Codename"])]
        if not whole:
            raise Unknown("apt has no packages of Debian's: run 'apt-get update' first")
        self.mirror = whole[0]
        self._names = {one["Codename"] for one in debian} | {one["Release"] for one in debian}

    def lay(self, root: Path, suite: str) -> None:
        own = suite == codename()
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        for file in self._all if own else self._debian:
            text = file.read_text()
            if not own:
                text = re.sub(rf"\b({'|'.join(self._bases())})\b(?=[-\s/])", suite, text)
            (root / "etc/apt/sources.list.d" / file.name).write_text(text)

    def _bases(self) -> set[str]:
        return {name.partition("-")[0].partition("/")[0] for name in self._names}


def _files(records: list[dict[str, str]]) -> list[Path]:
    entries = {one.get("Sourcesentry", "").rpartition(":")[0] for one in records}
    return [Path(entry) for entry in sorted(entries - {""})]


def keyring() -> Path:
    return _KEYRING


def lay_apt(root: Path, suite: str, sources: Sources) -> None:
    sources.lay(root, suite)
    for name in _KEYS + _APT:
        there = Path("/") / name
        for file in there.rglob("*") if there.is_dir() else [there]:
            at = root / file.relative_to("/")
            if file.is_file() and not at.exists() and (suite == codename() or name in _KEYS):
                at.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, at)
    lines = filter(_REACH.fullmatch, said("apt-config", "dump", "Acquire").splitlines())
    text = "".join(f"{_laid(root, line)}\n" for line in lines)
    if "CAInfo" not in text and (bundle := _bundle()):
        text += f'Acquire::https::CAInfo "{_copied(root, bundle)}";\n'
    (root / "etc/apt/apt.conf.d/99machine").write_text(text)
    for name in ("hosts", "resolv.conf"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)


def lay_pip(root: Path) -> list[Path]:
    """Its configuration; the folders that it names, which must be seen there at the same path."""
    sections: dict[str, dict[str, str]] = {}
    text = said(sys.executable, "-m", "pip", "config", "list")
    found = re.findall(r"^(:env:|[\w-]+)\.([\w-]+)=(.*)$", text, re.M)
    for section, key, value in sorted(found, key=lambda one: one[0] == ":env:"):  # that wins
        name = "global" if section == ":env:" else section
        sections.setdefault(name, {})[key] = str(ast.literal_eval(value))
    settings = sections.setdefault("global", {})
    if "cert" not in settings and (bundle := _bundle()):
        settings["cert"] = str(bundle)
    folders: set[Path] = set()
    lines = []
    for name, one in sections.items():
        lines.append(f"[{name}]")
        for key, value in one.items():
            paths = [Path(word) for word in re.findall(r"(?:^|\s|file://)(/\S+)", value)]
            folders |= {path for path in paths if path.is_dir()}
            lines.append(f"{key} = {_laid(root, value)}")
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")
    # The folder of an index has links to files beside it.
    return sorted(path.parent if path.name == "simple" else path for path in folders)


def proxies() -> dict[str, str]:
    names = [*_PROXIES, *(name.upper() for name in _PROXIES)]
    return {name: os.environ[name] for name in names if name in os.environ}


def _bundle() -> Path | None:
    named = [Path(os.environ[name]) for name in _BUNDLES if os.environ.get(name)]
    return next((path for path in [*named, _CERTIFICATES] if path.is_file()), None)


def _laid(root: Path, text: str) -> str:
    """With each file that it names copied into the root, and its path there instead."""

    def copied(found: re.Match[str]) -> str:
        path = Path(found[0])
        return _copied(root, path) if path.is_file() else found[0]

    return re.sub(r"(?<![\w/:.])/[^\s\";]+", copied, text)


def _copied(root: Path, file: Path) -> str:
    """Where no package puts one of its own, such as the certificates."""
    at = OWN / "_".join(file.parts[1:])
    (root / OWN).mkdir(parents=True, exist_ok=True)
    shutil.copy(file, root / at)
    return f"/{at}"
