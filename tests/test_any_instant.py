"""Any two commands at once, and any command that is killed at any instant and run again.

Every pair, and every command, that a state of the sites takes, each at 20 instants, in `make soak`;
in CI a sample of them, always the same.  Whatever comes of it, no command says more than one line,
and the sites begin, mirror and end in order after it.

Those of a device are tried where the kernel has nbd: kernel/test_device_instants.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import direct
import pytest
from handmade import Handmade, flashmirror
from nbd_client import NbdClient
from pair import FLASHMIRROR, SOAK

from mirror_core import config, ledger
from mirror_core.address import Tls
from mirror_core.cli import cli

INSTANTS = 20  # of each, in `make soak`
SAMPLE = 4  # of all, in CI
LONGEST_S = 0.9  # of most commands
WRITTEN = b"before"
HAS_NBD = Path("/sys/module/nbd").exists()
DONE = "holds a site already"  # what a `create` says that was done before


def fresh(pair: Handmade) -> None:
    """The source is not created yet."""
    pair.write("east")
    pair.create("west")


def mirrored(pair: Handmade) -> None:
    """Both run, and the target has an image."""
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, WRITTEN)
    direct.sync(pair)


def blank(pair: Handmade) -> None:
    """Neither has run."""
    pair.create()


def stopped(pair: Handmade) -> None:
    """Both have an image, and neither runs."""
    mirrored(pair)
    pair.stop()


def attached(pair: Handmade) -> None:
    """As `mirrored`, and the source's volume is a device."""
    mirrored(pair)
    pair.run("attach", str(pair.toml("east")), "disk")


def untouched(_: Handmade) -> None:
    """Nothing is there."""


# For each state the commands that mean something in it; of a site, or of both.
COMMANDS: dict[Callable[[Handmade], None], list[str]] = {
    untouched: ["init new --size 1M", "pki keys"],
    fresh: ["create east --role source", "start east", "stop east", "status east"],
    blank: ["start west", "stop west", "seed west --force", "resync west --full"],
    stopped: [
        "start east",
        "start west",
        "stop west",
        "resync west --full",
        "adopt west disk data --yes",
        "check west",
    ],
    mirrored: [
        "start west",
        "stop east",
        "stop west",
        "sync east --timeout 5s",
        "pause east --timeout 5s",
        "pause east --now --timeout 5s",
        "resume east",
        "promote west --force --timeout 20s",
        "check east",
        "status west",
        "reopen east",
        "bandwidth east 100MiB/s",
        "uri east disk",
        "attach east disk",
        "detach east disk",
    ],
}
# The same where the kernel has nbd; those of `mirrored` that are of a device are so only there.
DEVICE_COMMANDS: dict[Callable[[Handmade], None], list[str]] = {
    mirrored: COMMANDS[mirrored],
    attached: [
        "attach east disk",
        "attach east disk --connections 4",
        "detach east disk",
        "start east",
        "stop east",
    ],
}


NEEDS_MORE = ["start east", "stop east", "status east"]  # in `fresh`: the site is not created
NEEDS_MORE += ["check west"]  # in `stopped`: its peer does not run
NEEDS_MORE += [] if HAS_NBD else ["attach east disk", "detach east disk"]
WANTS_NEW = ("name another folder", "name a new folder")  # of `init` and `pki`


class Case(NamedTuple):
    state: Callable[[Handmade], None]
    commands: tuple[str, ...]
    seed: int  # of its instants

    @property
    def has_written(self) -> bool:
        return self.state in (mirrored, attached, stopped)

    @property
    def has_device(self) -> bool:
        of_device = any(words.startswith(("attach", "detach")) for words in self.commands)
        return self.state is attached or of_device

    def __str__(self) -> str:
        words = f"{self.state.__name__}-{'-and-'.join(self.commands)}-{self.seed}"
        return words.replace(" ", "_")


def all_of(count: int, of: dict[Callable[[Handmade], None], list[str]]) -> list[Case]:
    """Of so many commands."""
    return [
        Case(state, words, seed)
        for state, commands in of.items()
        for words in itertools.combinations_with_replacement(commands, count)
        for seed in range(INSTANTS)
    ]


def some_of(count: int) -> list[Case]:
    cases = all_of(count, COMMANDS)
    return cases if SOAK > 1 else random.Random(count).sample(cases, SAMPLE)


def words_of(pair: Handmade, command: str) -> list[str]:
    name, where, *rest = command.split()
    path = pair.folder / where if name in ("init", "pki") else pair.toml(where)
    return [name, str(path), *rest]


def begin(pair: Handmade, command: str) -> subprocess.Popen[str]:
    words = [str(FLASHMIRROR), *words_of(pair, command)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def until(instant: float, one: subprocess.Popen[str]) -> None:
    """So many seconds from its beginning, or when it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        one.wait(instant)


def judge(command: subprocess.Popen[str]) -> str:
    """What it said that is wrong, when it has ended by itself."""
    said, status = command.communicate(timeout=90)[1], command.returncode
    assert (status, len(said.splitlines())) in ((0, 0), (1, 1)), (status, said)
    assert not status or re.match(r"flashmirror: \S.*", said), said
    return said


def processes_of(toml: Path) -> list[int]:
    """That are a site's, by their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"site={toml}" in path.read_bytes().decode(errors="replace").split("\0"):
                found.append(int(path.parent.name))
    return found


def check_what_is_made(pair: Handmade, command: str) -> None:
    """By an `init` or a `pki` that went well: two sites that mirror; what TLS takes."""
    folder = Path(words_of(pair, command)[1])
    if command.startswith("pki"):
        for site in ("east", "west"):
            Tls(certificates=folder / site).check()
        return
    made = Handmade(folder)
    try:
        made.start()
        with made.client() as client:
            client.write(0, WRITTEN)
        direct.sync(made)
        assert made.image("west").read_bytes() == made.image("east").read_bytes()
        made.stop()
    finally:
        made.kill()


def check_the_end(pair: Handmade, case: Case) -> None:
    """Both begin, by one process each; all that was written stands, and is mirrored; they end in
    order, when what was attached is detached."""
    if case.state is fresh:
        done = flashmirror(*words_of(pair, "create east --role source"))
        there = DONE in done.stderr or "east: runs" in done.stderr
        assert done.returncode == 0 or there, done.stderr
    pair.start()
    for site in ("east", "west"):
        toml = pair.toml(site)
        assert [direct.status(pair, site)["pid"]] == processes_of(toml)
    west = ledger.load(pair.folder / "west" / "state")
    source = "west" if west.role == "source" else "east"
    device = config.load(str(pair.toml(source))).device_uri("disk")
    with NbdClient(device) as client:
        if case.has_written:
            assert client.read(0, len(WRITTEN)) == WRITTEN
        client.write(4096, b"after")
    if source == "east":
        direct.resume(pair)
        direct.sync(pair)
        assert pair.image("west").read_bytes() == pair.image("east").read_bytes()
    if HAS_NBD and case.has_device:
        check_devices(pair, case, source)
    for site in ("east", "west"):
        said = flashmirror("stop", str(pair.toml(site)), "--json")
        assert json.loads(said.stdout)["in_order"], said


def holders_of(toml: Path) -> list[int]:
    """Their processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "attach" in words and "--foreground" in words and str(toml) in words:
                found.append(int(path.parent.name))
    return found


def check_devices(pair: Handmade, case: Case, source: str) -> None:
    """The source's volume is a device, by one holder, that reads and writes; then no more, and
    neither is what an earlier source has left."""
    toml = pair.toml(source)
    done = flashmirror("attach", str(toml), "disk")
    assert not done.returncode, done.stderr
    assert len(holders_of(toml)) == 1
    with open(done.stdout.strip(), "r+b", buffering=0) as device:
        if case.has_written:
            assert device.read(len(WRITTEN)) == WRITTEN
        device.seek(8192)
        device.write(b"by the device".ljust(4096, b"\0"))
        os.fsync(device)
    with NbdClient(config.load(str(toml)).device_uri("disk")) as client:
        assert client.read(8192, 13) == b"by the device"
    for site in {"east", source}:
        done = flashmirror("detach", str(pair.toml(site)))
        assert not done.returncode, done.stderr
        assert holders_of(pair.toml(site)) == []
    assert list(Path("/sys/block").glob("nbd*/pid")) == []


def test_every_command_is_among_them() -> None:
    tried = {words.split()[0] for commands in COMMANDS.values() for words in commands}
    assert {name for name, command in cli.commands.items() if not command.hidden} == tried


@pytest.mark.parametrize("case", some_of(2), ids=str)
def test_two_commands_at_once(handmade: Handmade, case: Case) -> None:
    """Each ends, well or with one line that says why not; and both leave a pair that works."""
    case.state(handmade)
    chance = random.Random(case.seed)
    first, second = chance.sample(case.commands, 2)
    one = begin(handmade, first)
    until(chance.choice([0.0, chance.uniform(0, LONGEST_S)]), one)
    other = begin(handmade, second)
    said = [judge(command) for command in (one, other)]
    if case.state is not untouched:
        check_the_end(handmade, case)
        return
    well = {words for words, line in zip((first, second), said, strict=True) if not line}
    assert well == set(case.commands), f"none of two alike went well: {said}"
    assert all(not line or any(words in line for words in WANTS_NEW) for line in said), said
    for words in well:
        check_what_is_made(handmade, words)


@pytest.mark.parametrize("case", some_of(1), ids=str)
def test_a_command_that_was_killed_is_run_again(handmade: Handmade, case: Case) -> None:
    """At whatever instant: what is run again comes to its end, or was done; and all works."""
    case.state(handmade)
    (command,) = case.commands
    killed = begin(handmade, command)
    until(random.Random(case.seed).uniform(0, LONGEST_S), killed)
    killed.kill()
    killed.communicate(timeout=20)
    again = begin(handmade, command)
    said = judge(again)
    if case.state is untouched:
        if again.returncode:
            assert any(words in said for words in WANTS_NEW), said
            name, where, *rest = command.split()
            command = " ".join([name, f"{where}-2", *rest])
            assert not judge(begin(handmade, command))
        check_what_is_made(handmade, command)
        return
    assert again.returncode == 0 or DONE in said or command in NEEDS_MORE, said
    check_the_end(handmade, case)
