"""Runs in the guest: a busy device whose holder and site have died is attached with other settings.

    guest_dead_holder.py FACTS PROGRAM

It gathers facts and judges nothing: the promises are in ``test_dead_holder``.  Another number of
connections means another ``queue/io_timeout``, which a kernel may not take while requests are under
way.  Who waits for it then may be in state D: nothing here waits for that without a bound, but the
end of a command, which the guest's own time bounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from guest_attach import AT, EAST, PAIR, SECONDS, SEVERAL, SIZE, WEST, Guest, step, until
from guest_attach import Facts as Found
from guest_sites import command

TIMEOUT = Path("/sys/block/nbd0/queue/io_timeout")


@dataclass
class Facts:
    """Everything that the promises are judged by."""

    devices: dict[str, str] = field(default_factory=dict)  # what was done: what was said
    seconds: dict[str, float] = field(default_factory=dict)  # what was done: how long it took
    timeouts_ms: dict[str, int] = field(default_factory=dict)  # of requests, with how many links
    fio: list[int] = field(default_factory=list)  # exit statuses
    given_up: int = 0  # exit status of a write that waited for a site that was away

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Facts:
        return cls(**json.loads(path.read_text()))


class DeadHolder(Guest):
    """Its holder dies, and its site."""

    def __init__(self, program: str) -> None:
        self.found, self.of_guest = Facts(), Found()
        super().__init__(self.of_guest, program, 1)

    def timed(self, what: str, *words: str | Path) -> None:
        began = time.monotonic()
        self.found.devices[what] = self.do(*words)
        self.found.seconds[what] = time.monotonic() - began
        step(f"{what}: {self.found.seconds[what]:.1f} s")

    def both_die(self) -> None:
        self.kill(self.holder())
        self.kill(self.site())

    def site_comes_back(self) -> None:
        """Under fio's writes: they wait until the device has connections again."""
        self.timed("several", "attach", EAST, "disk", *SEVERAL)
        self.found.timeouts_ms["several"] = int(TIMEOUT.read_text())
        command("mkfs.ext4", "-q", "/dev/nbd0")
        AT.mkdir()
        command("mount", "/dev/nbd0", AT)
        before = self.writes()
        fio = self.fio("written")
        self.busy(before)
        self.both_die()
        self.do("start", EAST)
        self.timed("one", "attach", EAST, "disk")
        self.end_fio(fio)
        self.found.fio = self.of_guest.fio
        until(lambda: TIMEOUT.read_text() != f"{self.found.timeouts_ms['several']}\n", "one link's")
        self.found.timeouts_ms["one"] = int(TIMEOUT.read_text())
        command("umount", AT)

    def site_stays_away(self) -> None:
        """What waits is given up."""
        self.kill(self.site())
        writer = subprocess.Popen(
            ["dd", "if=/dev/zero", "of=/dev/nbd0", "bs=4k", "count=1", "oflag=direct"],
            stderr=subprocess.DEVNULL,
        )
        stat = Path(f"/proc/{writer.pid}/stat")
        until(lambda: ") D " in stat.read_text(), "dd waits for the device")
        self.kill(self.holder())
        self.timed("away", "attach", EAST, "disk", *SEVERAL)
        self.timed("forced", "detach", "/dev/nbd0", "--force")
        self.found.given_up = writer.wait(SECONDS)

    def run(self) -> None:
        self.do("init", PAIR, "--size", SIZE)
        self.do("start", WEST)
        self.do("start", EAST)
        self.site_comes_back()
        self.site_stays_away()
        self.do("stop", WEST)


def main(facts_path: str, program: str) -> None:
    guest = DeadHolder(program)
    guest.run()
    guest.found.save(Path(facts_path))


if __name__ == "__main__":
    main(*sys.argv[1:])
