"""Runs in the guest: a mounted, busy /dev/nbdN whose site is killed and started again.

    guest_attach.py FACTS PROGRAM TIMES

It gathers facts and judges nothing: the promises are in ``test_attached``. fio writes with direct
I/O, several requests in flight, and reads everything back; each kill comes in the middle of its
writes. What a command is refused is kept with its status.

Left out: udev, which a guest has not; a process that opens the device for a moment stands for it.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guest_sites import command

HOLDERS = Path("/run/flashmirror-attach")
PAIR, OTHER = Path("/dev/shm/pair"), Path("/dev/shm/other")
EAST, WEST = PAIR / "east.toml", PAIR / "west.toml"
AT = Path("/dev/shm/mnt")
SIZE = "192M"
SEVERAL = ("--connections", "4")
KILLS = {"several": 1, "takeover": 1, "one": 2}  # with how many connections; TIMES as many
SECONDS = 120.0
WRITE_SECONDS = 20.0  # with its site there
WRITES_BEFORE_KILL = 300
FIO = (
    *("fio", "--output-format=json", "--rw=randwrite", "--bs=4k", "--size=6M", "--direct=1"),
    *("--ioengine=libaio", "--iodepth=16", "--fsync=64", "--verify=crc32c", "--verify_fatal=1"),
)
BY_FORCE = "guest_attach: by force"  # in the kernel's log
STARTED = time.monotonic()


@dataclass
class Facts:
    """Everything that the promises are judged by."""

    refused: dict[str, str] = field(default_factory=dict)  # what was tried: what was said
    devices: dict[str, str] = field(default_factory=dict)  # what was done: the device of it
    fio: list[int] = field(default_factory=list)  # exit statuses
    longest_s: list[float] = field(default_factory=list)  # of each fio's writes
    again: int = 0  # exit status of reading everything once more
    fsck: str = ""
    equal: bool = False
    written: dict[str, bool] = field(default_factory=dict)  # when: a write came to its end
    update_log: str = ""  # of the holder
    given_up: int = 0  # exit status of a read that waited for a site that is another one now
    holder_log: str = ""
    site_log: str = ""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Facts:
        return cls(**json.loads(path.read_text()))


def step(text: str) -> None:
    """Into the guest's output, with the time: where a failed or a slow run stood."""
    print(f"{time.monotonic() - STARTED:6.2f} s  {text}", flush=True)


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {SECONDS} s")
        time.sleep(0.005)


class Guest:
    def __init__(self, facts: Facts, program: str, times: int) -> None:
        self.facts, self.program = facts, program
        self.kills = {kind: times * count for kind, count in KILLS.items()}

    def do(self, *words: str | Path) -> str:
        return command(self.program, *words).stdout.strip()

    def refuse(self, what: str, *words: str | Path) -> None:
        done = command(self.program, *words, ok=(1, 2))
        self.facts.refused[what] = f"{done.returncode} {done.stdout.strip()}"

    def attach(self, what: str, *words: str) -> None:
        self.facts.devices[what] = self.do("attach", EAST, "disk", *words)

    def holder_log(self) -> Path:
        (log,) = HOLDERS.glob("*.log")
        return log

    def holder(self) -> int:
        """Its process."""
        (lock,) = HOLDERS.glob("*disk*.lock")
        return int(lock.read_text().split("\n")[0])

    def site(self) -> int:
        """The source's process."""
        return int((PAIR / "east" / "state" / "lock").read_text())

    # ---- load and kills

    def writes(self) -> int:
        return int(Path("/sys/block/nbd0/stat").read_text().split()[4])

    def fio(self, name: str) -> subprocess.Popen[str]:
        words = [*FIO, f"--directory={AT}", f"--name={name}"]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def busy(self, before: int) -> None:
        until(lambda: self.writes() >= before + WRITES_BEFORE_KILL, "fio writes")

    def end_fio(self, fio: subprocess.Popen[str]) -> None:
        said = fio.communicate(timeout=SECONDS)[0]
        self.facts.fio.append(fio.returncode)
        if fio.returncode:
            step(said)
        else:
            job = json.loads(said[said.index("{") :])["jobs"][0]
            self.facts.longest_s.append(job["write"]["clat_ns"]["max"] / 1e9)

    def kill(self, number: int) -> None:
        """SIGKILL; it has ended when this returns."""
        handle = os.pidfd_open(number)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not select.select([handle], [], [], SECONDS)[0]:
            raise TimeoutError("it does not die")
        os.close(handle)

    def round(self, name: str, *, holder: bool = False) -> None:
        """The site is killed in the middle of fio's writes, and started again; with `holder` that
        one dies first, and attaching again sets right what nobody has noticed."""
        before = self.writes()
        fio = self.fio(name)
        self.busy(before)
        if holder:
            self.kill(self.holder())
        self.kill(self.site())
        self.do("start", EAST)
        if holder:
            self.attach("after the holder died", *SEVERAL)
        self.end_fio(fio)
        longest = self.facts.longest_s[-1:] or [0.0]
        step(f"{name}: fio {self.facts.fio[-1]}, longest write {longest[0]:.1f} s")

    # ---- the whole

    def refusals(self) -> None:
        self.refuse("not running", "attach", EAST, "disk")
        self.do("start", WEST)
        self.do("start", EAST)
        self.refuse("target", "attach", WEST, "disk")
        self.refuse("no such volume", "attach", EAST, "nothing")
        self.refuse("no such name", "attach", EAST, "disk", "/dev/sda")
        command("nbdkit", "-U", "/run/other.sock", "memory", "4M")
        command("nbd-client", "-unix", "/run/other.sock", "/dev/nbd1")
        self.refuse("in use", "attach", EAST, "disk", "/dev/nbd1")
        self.refuse("somebody else's", "detach", "/dev/nbd1")
        command("nbd-client", "-d", "/dev/nbd1")

    def attached(self) -> None:
        self.attach("first", *SEVERAL)
        self.attach("again", *SEVERAL)
        self.refuse("attached elsewhere", "attach", EAST, "disk", "/dev/nbd1")
        command("mkfs.ext4", "-q", "/dev/nbd0")
        AT.mkdir()
        command("mount", "/dev/nbd0", AT)
        self.refuse("mounted", "detach", EAST, "disk")
        step("mounted")
        for number in range(self.kills["several"]):
            self.round(f"several{number}")
        for number in range(self.kills["takeover"]):
            self.round(f"takeover{number}", holder=True)
        command("umount", AT)
        with open("/dev/nbd0", "rb"):
            self.refuse("open", "detach", "/dev/nbd0")
        with open("/dev/nbd0", "rb") as device:
            opener = subprocess.Popen(["sleep", "2"], stdin=device)
        self.facts.devices["detached"] = self.do("detach", EAST, "disk")
        opener.wait()
        self.facts.devices["detached again"] = self.do("detach", EAST, "disk")

    def alone(self) -> None:
        """Over one connection, and on the other device."""
        self.attach("one connection", "/dev/nbd0")
        command("mount", "/dev/nbd0", AT)
        for number in range(self.kills["one"]):
            self.round(f"one{number}")
        names = [f"--name={kind}{n}" for kind, count in self.kills.items() for n in range(count)]
        again = command(*FIO, f"--directory={AT}", "--verify_only", *names, ok=tuple(range(256)))
        self.facts.again = again.returncode
        command("umount", AT)
        fsck = command("e2fsck", "-f", "-n", "/dev/nbd0", ok=tuple(range(256)))
        self.facts.fsck = fsck.stdout if fsck.returncode else ""
        self.do("sync", EAST, "--timeout", "60s")
        self.facts.devices["detached last"] = self.do("detach", "/dev/nbd0")
        step("detached")

    def unopened(self) -> None:
        """Its site ends before anybody has opened it.  (There is no udev here.)"""
        self.attach("not opened")
        self.do("stop", EAST)
        self.facts.devices["detached without its site"] = self.do("detach", "/dev/nbd0")
        self.do("start", EAST)
        step("detached without its site")

    def updated(self) -> None:
        """Its site begins anew as a version that speaks none of its holder's protocols."""
        self.attach("before an update")
        self.write("before an update")
        python = str(Path(self.program).with_name("python"))
        where = "from mirror_core import protocol; print(protocol.__file__)"
        source = Path(command(python, "-c", where).stdout.strip())
        self.do("stop", EAST)
        text, count = re.subn(
            r"^OLDEST, VERSION = .*$", "OLDEST, VERSION = 7, 7", source.read_text(), flags=re.M
        )
        assert count == 1, source
        source.write_text(text)  # here in the guest alone
        self.do("start", EAST)
        self.write("after an update")
        # The kernel goes on as soon as it has a connection; the holder says so a moment later.
        log = self.holder_log()
        until(lambda: "connected again" in log.read_text().splitlines()[-1], "the holder says so")
        self.facts.update_log = self.holder_log().read_text()
        self.facts.devices["detached after an update"] = self.do("detach", EAST, "disk")
        step("updated")

    def write(self, what: str) -> None:
        """Past every cache, with a bound."""
        words = ["dd", "if=/dev/urandom", "of=/dev/nbd0", "bs=4k", "count=1", "oflag=direct,sync"]
        with subprocess.Popen([*words, "status=none"]) as writer:
            end = select.select([os.pidfd_open(writer.pid)], [], [], WRITE_SECONDS)[0]
            self.facts.written[what] = bool(end) and writer.wait() == 0
            if not end:  # it waits for the device, and cannot be killed
                self.do("detach", "/dev/nbd0", "--force")

    def by_force(self) -> None:
        """Another history comes back under the site's name; what waits for the old one is given
        up.  From here on the kernel has reason to complain."""
        self.attach("before another history")
        self.do("stop", EAST)
        self.do("init", OTHER, "--size", SIZE)
        (PAIR / "east").rename(PAIR / "before")
        (OTHER / "east").rename(PAIR / "east")
        self.do("start", EAST)
        log = self.holder_log()
        until(lambda: "holds another history" in log.read_text(), "the holder notices")
        Path("/dev/kmsg").write_text(BY_FORCE)
        reader = subprocess.Popen(
            ["dd", "if=/dev/nbd0", "of=/dev/null", "count=1", "iflag=direct"],
            stderr=subprocess.DEVNULL,
        )
        stat = Path(f"/proc/{reader.pid}/stat")
        until(lambda: ") D " in stat.read_text(), "dd waits for the device")
        self.do("detach", "/dev/nbd0", "--force")
        self.facts.given_up = reader.wait(SECONDS)
        step("given up")

    def run(self) -> None:
        self.do("init", PAIR, "--size", SIZE)
        self.refusals()
        self.attached()
        self.alone()
        images = [PAIR / site / "disk.img" for site in ("east", "west")]
        self.facts.equal = not command("cmp", *images, ok=(0, 1)).returncode
        self.facts.holder_log = self.holder_log().read_text()
        self.facts.site_log = (PAIR / "east" / "state" / "site.log").read_text()
        self.unopened()
        self.updated()
        self.by_force()
        self.do("stop", EAST)
        self.do("stop", WEST)


def main(facts_path: str, program: str, times: str) -> None:
    facts = Facts()
    Guest(facts, program, int(times)).run()
    facts.save(Path(facts_path))


if __name__ == "__main__":
    main(*sys.argv[1:])
