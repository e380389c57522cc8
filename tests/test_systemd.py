"""The units in `systemd/`: systemd takes them, and what they run begins and ends in order."""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pair import FLASHMIRROR, MakePair, Pair

from mirror_core import limits

FOLDER = Path(__file__).resolve().parent.parent / "systemd"
UNIT = FOLDER / "flashmirror@.service"
ATTACH = FOLDER / "flashmirror-attach@.service"
INSTALLED = "/usr/bin/flashmirror"
READY_S = 30.0


def service(unit: Path = UNIT) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(unit)
    return parser["Service"]


def verify(folder: Path, old: str = INSTALLED, new: str = "") -> subprocess.CompletedProcess[str]:
    """What systemd says of the units, which need the program that they name to be there.  To who is
    not root as to a user's own systemd: the machine's writes to /run/systemd."""
    copies = []
    for unit in FOLDER.iterdir():
        copies.append(folder / unit.name)
        text = unit.read_text().replace(old, new or str(FLASHMIRROR))
        copies[-1].write_text(text.replace(INSTALLED, str(FLASHMIRROR)))
    mode = "--user" if os.geteuid() else "--system"
    return subprocess.run(
        ["systemd-analyze", mode, "verify", "--man=no", "--recursive-errors=yes", *copies],
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """No error, and not one warning."""
    done = verify(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_verification_can_fail(tmp_path: Path) -> None:
    """A test of the test: a misspelt key is found."""
    done = verify(tmp_path, "TimeoutStopSec", "TimeoutStopsec")
    assert "TimeoutStopsec" in done.stderr


def test_no_limit_of_threads_is_met_before_that_of_volumes() -> None:
    """nbdkit may have 16 threads a connection, and a source makes several for each volume."""
    assert service()["TasksMax"] == "infinity"


# To write out; to be alone with the device, with a last look; for the holder, and for it, to end.
DETACH_S = limits.UNMOUNT_S + 4 * limits.DEVICE_BUSY_S


@pytest.mark.parametrize(("unit", "longest_s"), [(UNIT, limits.STOP_TIMEOUT_S), (ATTACH, DETACH_S)])
def test_systemd_waits_longer_than_a_stop_may_take(unit: Path, longest_s: float) -> None:
    """Else what ends by itself, and says why it could not do all, is ended without a word."""
    said = service(unit).get("TimeoutStopSec", "90s")
    assert said.endswith("s")
    assert float(said[:-1]) > longest_s


@pytest.mark.parametrize(
    ("key", "words", "main"),
    [
        ("ExecStart", "attach,--foreground,", None),
        ("ExecStop", "detach,--held-by,4711,", "4711"),
        ("ExecStop", "detach,--held-by,,", None),
    ],
)
def test_an_attached_volume_is_named_by_its_instance(
    monkeypatch: pytest.MonkeyPatch, key: str, words: str, main: str | None
) -> None:
    """flashmirror-attach@east:db-1.x is the volume db-1.x of the site east; and what the unit stops
    is what its main process holds, which may have ended: then systemd does not name it."""
    monkeypatch.delenv("MAINPID", raising=False)
    if main:
        monkeypatch.setenv("MAINPID", main)
    line = service(ATTACH)[key].replace("%i", "east:db-1.x").replace("%%", "%").replace("$$", "$")
    command = shlex.split(line.replace(INSTALLED, "printf %s,"))
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said == f"{words}east,db-1.x,"


def test_what_it_runs_stops_in_order(make_pair: MakePair) -> None:
    """ExecStart stays as the site's process; KillSignal ends it in order, with status 0."""
    pair = make_pair("--size", "16M")
    words = service()["ExecStart"].replace(INSTALLED, str(FLASHMIRROR)).split()
    command = [word.replace("%i", str(pair.toml("west"))) for word in words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until_it_answers(pair, process)
        assert pair.status("west")["pid"] == process.pid
        process.send_signal(getattr(signal, service()["KillSignal"]))
        assert process.wait(limits.STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
    stopped = pair.status("west")
    assert (stopped["state"], stopped["reason"]) == ("stopped", None)


def wait_until_it_answers(pair: Pair, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while pair.status("west")["pid"] != process.pid:  # its socket is there before it answers
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline, "it does not listen"
        time.sleep(0.02)
