"""A bare Debian in a folder, and commands in it.

It has mounts and process numbers of its own, and cannot see this machine's files, or its /tmp, /run
and /dev/shm: its root is pivoted to, not a chroot, in which no user could make a namespace.  All
that runs there ends, and all its mounts go, with the command, also if that is killed.

Left out: an own kernel, network and /dev: the devices are this machine's.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from releaselib import machine

USER = "somebody"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENTER = r"""
set -e
root=$1 user=$2 at=$3 script=$4; shift 4
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind "$1" "$root$1"
    mount -o remount,bind,ro "$root$1"
    shift
done
shift
cd "$root"
pivot_root . mnt
umount -l /mnt
home=$(getent passwd "$user" | cut -d: -f6)
cd "${at:-/}"
exec env -i PATH="$PATH" HOME="$home" USER="$user" LOGNAME="$user" LANG=C.UTF-8 "$@" \
    setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups sh -c "$script"
"""


class Root:
    def __init__(self, folder: Path, folders: Sequence[Path]) -> None:
        self.folder, self._folders = folder, folders

    def run(self, script: str, out: IO[bytes] | int, *, at: str = "", user: str = "root") -> int:
        """The exit status of what a shell runs."""
        words = [str(self.folder), user, at, script, *map(str, self._folders), "--"]
        words += [f"{name}={value}" for name, value in machine.proxies().items()]
        return subprocess.run(
            [*_alone(), "sh", "-c", _ENTER, "sh", *words],
            env={"PATH": _PATH},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode

    def remove(self) -> None:
        remove(self.folder)


def base(folder: Path, suite: str, sources: machine.Sources) -> Path:
    """Made once; what `git clone` and `make` need of packages is not in it."""
    if folder.exists():
        return folder
    fresh = folder.with_suffix(".new")
    remove(fresh)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    words = ["debootstrap", "--variant=minbase", f"--keyring={machine.keyring()}"]
    with folder.with_suffix(".log").open("wb") as out:
        _do([*_alone(), *words, suite, str(fresh), sources.mirror], out)
    return fresh.rename(folder)


def bare(base: Path, folder: Path, suite: str, sources: machine.Sources, out: IO[bytes]) -> Root:
    """A copy, whose apt and pip reach what this machine's do."""
    remove(folder)
    _do(["cp", "-a", "--reflink=auto", str(base), str(folder)], out)
    machine.lay_apt(folder, suite, sources)
    return Root(folder, machine.lay_pip(folder))


def remove(folder: Path) -> None:
    if folder.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def missing_programs() -> list[str]:
    needed = ("debootstrap", "unshare", "setpriv", "git", "pivot_root")
    return [name for name in needed if not shutil.which(name, path=_PATH)]


def _alone() -> list[str]:
    dies = ["setpriv", "--pdeathsig", "KILL"]
    own = ["--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
    return [*dies, "unshare", *own]


def _do(words: list[str], out: IO[bytes]) -> None:
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
