"""Runs in the guest: one boot of a machine whose init is systemd, with the units of systemd/.

    guest_boot.py SCENE FACTS PROGRAM CHECKOUT

It makes the machine from the guest, boots systemd in namespaces of its own (to which it is process
1 of a machine), and waits until that has shut down.  The disk of the machine, /dev/ubda, outlives
the guest: the pair is there.  What happens in a boot is a scene, a service of that systemd:

    by hand    a pair is made, its volume attached and mounted by hand; written to; shut down
    by fstab   mounted at boot, read; its site is killed under it; written to; shut down
    late       the site's folder comes only after the boot; then as before

It gathers facts and judges nothing: the promises are in ``test_boot``.

Left out: a boot loader, the network; the root file system is the guest's, and is new each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from guest_sites import command

DISK, PAIR = Path("/disk"), Path("/disk/pair")
AT = Path("/srv/db")
UUID = "6e0f4a1c-3d0c-4a51-9d4f-1d2f0a9b7c3e"
HOLDER = "flashmirror-attach@east:disk.service"
SECONDS = 150.0
BYTES = 512 << 10
NAMES = ("first", "second", "third", "fourth")  # what the scenes write
FACTS = Path("/facts")  # not in /root, which is closed to who runs the guest, if not root
DOWN = Path("/down")  # when the machine began to go down
UNITS = {
    "scene.target": """
[Unit]
Requires=sysinit.target
Wants=flashmirror@east.service flashmirror@west.service flashmirror-attach@east:disk.service
Wants=remote-fs.target scene.service {more}
""",
    "scene.service": """
[Unit]
DefaultDependencies=no
[Service]
Type=exec
ExecStart={python} {script} {scene}
StandardOutput=kmsg
StandardError=kmsg
""",
    # Whose data is on the volume: it is never to write below the folder where that is not mounted.
    "application.service": f"""
[Unit]
RequiresMountsFor={AT}
[Service]
Type=exec
ExecStart=/bin/sh -c 'date +%%s > {AT}/application; exec sleep infinity'
WorkingDirectory={AT}
""",
}
# What a guest has no use for, and takes its time.
MASKED = (
    "systemd-hwdb-update",
    "systemd-journal-flush",
    "systemd-sysusers",
    "systemd-random-seed",
    "systemd-update-utmp",
    "systemd-machine-id-commit",
    "ldconfig",
    "apparmor",
    "networking",
    "keyboard-setup",
    "console-setup",
    "lvm2-monitor",
    "multipathd",
    "systemd-binfmt",
)


def note(**facts: object) -> None:
    """A line of FACTS, so that what a scene knows outlives its being killed."""
    with FACTS.open("a") as file:
        file.write(json.dumps(facts) + "\n")


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {SECONDS} s")
        time.sleep(0.05)


def is_active(unit: str) -> bool:
    return command("systemctl", "is-active", unit, ok=tuple(range(8))).stdout.strip() == "active"


def main_process(unit: str) -> int:
    return int(command("systemctl", "show", "-P", "MainPID", unit).stdout)


def restarts(unit: str) -> int:
    return int(command("systemctl", "show", "-P", "NRestarts", unit).stdout)


# ---- scenes: in a service of the systemd


def by_hand() -> None:
    until(lambda: is_active(HOLDER), "the volume is attached")
    command("mkfs.ext4", "-q", "-U", UUID, "/dev/nbd0")
    command("mount", "/dev/nbd0", AT)
    until(lambda: is_active("srv-db.mount"), "systemd has seen the mount")
    (AT / "below").mkdir()
    command("mount", "-t", "tmpfs", "none", AT / "below")
    command("systemctl", "start", "application")
    write("first")


def by_fstab() -> None:
    until(lambda: os.path.ismount(AT), "mounted by fstab")
    note(read=digest("first"), holder_restarts=restarts(HOLDER))
    command("systemctl", "start", "application")
    os.kill(main_process("flashmirror@east"), signal.SIGKILL)
    write("second")
    os.sync()  # comes back when the site has
    note(restarts=restarts("flashmirror@east"))
    write("third")


def late() -> None:
    until(lambda: restarts("flashmirror@east"), "the site is begun anew")
    until(lambda: restarts(HOLDER), "the holder is begun anew")
    note(mounted_early=os.path.ismount(AT), below=sorted(os.listdir(AT)))
    note(application_early=is_active("application"))
    (DISK / "away").rename(PAIR)
    back = time.monotonic()
    until(lambda: is_active("application"), "the application runs")
    note(waited_s=time.monotonic() - back, read=digest("third"))
    write("fourth")


def write(name: str) -> None:
    """Not synced: that is for the unmounting to do."""
    data = os.urandom(BYTES)
    (AT / name).write_bytes(data)
    note(**{name: hashlib.sha256(data).hexdigest()})


def digest(name: str, at: Path = AT) -> str:
    return hashlib.sha256((at / name).read_bytes()).hexdigest()


SCENES = {"hand": by_hand, "fstab": by_fstab, "late": late}


def play(scene: str) -> None:
    try:
        SCENES[scene]()
        note(played=scene)
    finally:
        DOWN.write_text(str(time.monotonic()))
        os.kill(1, signal.SIGRTMIN + 4)  # systemd(1): starts poweroff.target


# ---- the machine


def fstab(docs: str) -> str:
    """The line that docs/attach.md has a person write, for the volume here."""
    (line,) = (one.strip() for one in docs.splitlines() if one.startswith("    UUID=…"))
    return line.replace("UUID=…", f"UUID={UUID}").replace("east:db", "east:disk") + "\n"


def make_machine(scene: str, program: str, checkout: Path) -> None:
    if scene == "hand":
        command("mkfs.ext4", "-q", "/dev/ubda")
    DISK.mkdir()
    command("mount", "/dev/ubda", DISK)
    if scene == "hand":
        command(program, "init", PAIR, "--size", "32M")
    AT.mkdir(parents=True)
    etc = Path("/etc/flashmirror")
    etc.mkdir()
    for site in "east", "west":
        shutil.copy(PAIR / f"{site}.toml", etc)
    if scene == "late":
        PAIR.rename(DISK / "away")
    link = Path("/usr/bin/flashmirror")
    link.unlink(missing_ok=True)
    link.symlink_to(program)
    Path("/etc/fstab").write_text(
        "" if scene == "hand" else fstab((checkout / "docs/attach.md").read_text())
    )
    system = Path("/etc/systemd/system")
    for wants in system.glob("*.wants"):
        shutil.rmtree(wants)
    for unit in (checkout / "systemd").iterdir():
        shutil.copy(unit, system)
    facts = {
        "python": sys.executable,
        "script": f"-X faulthandler {Path(__file__).resolve()} scene",
        "scene": scene,
        "more": "application.service" if scene == "late" else "",
    }
    for name, text in UNITS.items():
        (system / name).write_text(text.format(**facts) if "scene" in name else text)
    # Those of /tmp would empty it, or cover it: the checkout and the share may be there.
    for name in (*(f"{one}.service" for one in (*MASKED, "systemd-tmpfiles-setup")), "tmp.mount"):
        (system / name).unlink(missing_ok=True)
        (system / name).symlink_to("/dev/null")
    default = system / "default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("scene.target")


def boot() -> None:
    """Returns when it has shut down."""
    subprocess.run(["umount", "-R", "/sys/fs/cgroup"], stderr=subprocess.DEVNULL, check=False)
    command("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
    words = ["unshare", "-m", "-p", "-f", "--mount-proc", "env", "-i", "container=none"]
    words += [f"PATH={os.environ['PATH']}", "LANG=C.UTF-8", "/lib/systemd/systemd", "--system"]
    words += ["--log-target=kmsg", "--show-status=no"]
    subprocess.run(words, stdin=subprocess.DEVNULL, timeout=2 * SECONDS, check=False)


def on_the_disk() -> dict[str, str]:
    """What was written, as the source's image has it, with no help of the journal's."""
    at = Path("/image")
    at.mkdir()
    command("mount", "-o", "loop,ro,noload", PAIR / "east" / "disk.img", at)
    digests = {name: digest(name, at) for name in NAMES if (at / name).exists()}
    command("umount", at)
    return digests


def main(scene: str, facts: str, program: str, checkout: str) -> None:
    make_machine(scene, program, Path(checkout))
    boot()
    if DOWN.exists():
        note(shutdown_s=time.monotonic() - float(DOWN.read_text()))
    note(attached=Path("/sys/block/nbd0/pid").exists(), kept=on_the_disk())
    command("umount", DISK)
    shutil.copy(FACTS, facts)


if __name__ == "__main__":
    if sys.argv[1] == "scene":
        play(sys.argv[2])
    else:
        main(*sys.argv[1:])
