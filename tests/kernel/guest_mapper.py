"""Runs in the guest: a site on device-mapper devices, which get other minor numbers.

    guest_mapper.py FACTS PROGRAM

It gathers facts and judges nothing: the promises are in ``test_mapper``. The devices lie on loop
devices, which lie on files in memory, and are named as LVM names them (the UUID of a logical volume
is `LVM-` and those of its group and its own).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from guest_sites import command

AT = Path("/dev/shm/mapper")
SECTORS = 16384
STORES = ("east-data", "east-intermediate")
TOML = """\
name = "east"
listen = ["unix:{at}/east.sock"]
peer = "unix:{at}/west.sock"
state = "{at}/state"
[[volume]]
name = "disk"
data = "/dev/mapper/east-data"
intermediate = "/dev/mapper/east-intermediate"
"""


def loop(name: str) -> str:
    file = AT / f"{name}.raw"
    with file.open("wb") as image:
        image.truncate(SECTORS * 512)
    return command("losetup", "--find", "--show", file).stdout.strip()


def mapped(name: str, device: str, uuid: str) -> str:
    """Its major:minor, the lowest that is free."""
    table = f"0 {SECTORS} linear {device} 0"
    command("dmsetup", "--noudevsync", "create", name, "--uuid", uuid, "--table", table)
    command("dmsetup", "mknodes", name)
    return numbers(name)


def numbers(name: str) -> str:
    words = ("dmsetup", "info", "-c", "--noheadings", "-o", "major,minor", name)
    return command(*words).stdout.strip()


def unmapped(*names: str) -> None:
    for name in names:
        command("dmsetup", "--noudevsync", "remove", name)


def start(program: str) -> tuple[int, str]:
    done = subprocess.run(
        [program, "start", str(AT / "east.toml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr.strip()


def main() -> None:
    facts_path, program = Path(sys.argv[1]), sys.argv[2]
    AT.mkdir()
    (AT / "east.toml").write_text(TOML.format(at=AT))
    loops = {name: loop(name) for name in (*STORES, "other")}
    facts: dict[str, object] = {"before": [mapped(n, loops[n], f"LVM-{n}") for n in STORES]}
    command(program, "create", AT / "east.toml", "--role", "source")
    facts["recorded"] = (AT / "state/ledger").read_bytes().split(b"\n")[1].decode()
    facts["first"] = start(program)
    pid = json.loads(command(program, "status", AT / "east.toml", "--json").stdout)["pid"]
    kill(pid)
    unmapped(*STORES)
    facts["after"] = [mapped(n, loops[n], f"LVM-{n}") for n in reversed(STORES)][::-1]
    facts["renumbered"] = start(program)
    pid = json.loads(command(program, "status", AT / "east.toml", "--json").stdout)["pid"]
    kill(pid)
    unmapped("east-data")
    facts["other"] = mapped("east-data", loops["other"], "LVM-other")
    facts["another"] = start(program)
    facts_path.write_text(json.dumps(facts))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    command("tail", f"--pid={pid}", "-f", "/dev/null")


if __name__ == "__main__":
    main()
