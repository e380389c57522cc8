"""`scripts/chaos`: its judge finds what is wrong in an image, the tool as a whole notices a wrong
byte and says how to replay it, and a pair under each kind of fault keeps what is promised.

An hour of it, of all kinds of faults and from a new seed, is in `make soak`.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pair import FLASHMIRROR

CHAOS = Path(__file__).resolve().parent.parent / "scripts" / "chaos"
sys.path.insert(0, str(CHAOS.parent))

from chaoslib.chains import Chain, Region, Write  # noqa: E402 (found by the line above)
from chaoslib.judge import Judge  # noqa: E402
from chaoslib.record import ChaosFailure  # noqa: E402
from chaoslib.show import STEPS  # noqa: E402
from chaoslib.statedisk import StateDisk  # noqa: E402

SEED = 20
UNITS = 8
# What the log says when a fault of this kind is done.
DONE = {
    "kill": r"killed",
    "stop": r"stop -> 0",
    "freeze": r"frozen",
    "cut": r"link cut",
    "stall": r"link stall",
    "delay": r"link delay \d+",
    "full": r"state disk full but for \d+ bytes",
    "server": r"\.img: server killed",
    "slow": r"server of two's \w+: slow \d+",
    "hang": r"server of two's \w+: hang",
    "error": r"server of two's \w+: error",
    "lose": r"server of two's \w+: lose",
    "pause": r"pause .*-> \d",
    "sync": r"sync --timeout 3s -> \d",
    "role": r"change of roles",
    "snapshot": r"went back by \d",
}


def chain(number: int, *writes: tuple[int, int, int, float, float]) -> Chain:
    """One whose history is these (volume, unit, value, issued, acknowledged)."""
    made = Chain(number, 512, [Region(number * UNITS * 512, UNITS)] * 2, most=1, zeroes=0.0)
    made.writes += [Write(v, unit, 1, value, began, end) for v, unit, value, began, end in writes]
    return made


def image(*chains: tuple[Chain, int]) -> list[bytes]:
    """Both volumes after so many writes of each chain."""
    volumes = [bytearray(len(chains) * UNITS * 512) for _ in range(2)]
    for one, count in chains:
        for write in one.writes[:count]:
            at = one.regions[write.volume].offset + write.first * 512
            data = one.content(write.volume, write.first, 1, write.value)
            volumes[write.volume][at : at + 512] = data
    return [bytes(volume) for volume in volumes]


def check(chains: list[Chain], images: list[bytes], promised: float = 0.0) -> list[int]:
    return Judge(chains).check(lambda v, at, length: images[v][at : at + length], promised)


def test_every_prefix_of_a_chain_is_right() -> None:
    one = chain(0, (0, 1, 1, 10, 11), (1, 1, 2, 12, 13), (0, 1, 0, 14, 15), (0, 2, 3, 16, 17))
    for count in range(len(one.writes) + 1):
        assert check([one], image((one, count))) == [count]


def test_newer_without_older_is_wrong() -> None:
    """The second write of a chain is there, on the other volume, and the first is not."""
    one = chain(0, (0, 1, 1, 10, 11), (1, 1, 2, 12, 13))
    volumes = image((one, 2))
    with pytest.raises(ChaosFailure, match="wrong bytes: chain 0"):
        check([one], [bytes(len(volumes[0])), volumes[1]])


@pytest.mark.parametrize("at", [512, 512 + 31, 1023])
def test_one_wrong_byte_is_found(at: int) -> None:
    one = chain(0, (0, 1, 1, 10, 11))
    data, other = image((one, 1))
    wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(ChaosFailure, match="wrong bytes"):
        check([one], [wrong, other])


def test_prefixes_of_different_moments_are_wrong() -> None:
    """A write that was issued after another was acknowledged is there, and the other is not."""
    one, two = chain(0, (0, 1, 1, 10, 11)), chain(1, (0, 1, 1, 12, 13))
    assert check([one, two], image((one, 1), (two, 0))) == [1, 0]
    assert check([one, two], image((one, 1), (two, 1))) == [1, 1]
    with pytest.raises(ChaosFailure, match="not of one moment"):
        check([one, two], image((one, 0), (two, 1)))


def test_writes_in_flight_together_may_be_there_or_not() -> None:
    one, two = chain(0, (0, 1, 1, 10, 13)), chain(1, (0, 1, 1, 11, 12))
    for counts in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert check([one, two], image((one, counts[0]), (two, counts[1]))) == list(counts)


def test_an_old_value_written_again_leaves_more_than_one_prefix() -> None:
    """The later one is meant where another chain, or a promise, shows that."""
    one = chain(0, (0, 1, 1, 10, 11), (0, 1, 2, 12, 13), (0, 1, 1, 14, 15))
    two = chain(1, (1, 1, 1, 16, 17))
    assert check([one, two], image((one, 1), (two, 0))) == [1, 0]
    assert check([one, two], image((one, 1), (two, 1))) == [3, 1]
    assert check([one], image((one, 1)), promised=14.5) == [3]


def test_a_zero_may_be_cut_at_64_kib_and_nowhere_else() -> None:
    """Its first part may stand in an image without the second; nor is the second there alone."""
    one = Chain(0, 4096, [Region(8192, 32)], most=32, zeroes=0.0)
    first = one.issue(Write(0, 0, 32, 1), 10.0)
    zero = one.issue(Write(0, 4, 24, 0), 12.0)
    assert len(first) == 1 and [(part.first, part.count) for part in zero] == [(4, 10), (14, 14)]
    for part in (*first, *zero):
        part.acknowledged = part.issued + 1

    def volume(begin: int, units: int) -> bytes:
        whole = bytearray(8192) + one.content(0, 0, 32, 1)
        whole[8192 + begin * 4096 : 8192 + (begin + units) * 4096] = bytes(units * 4096)
        return bytes(whole)

    assert check([one], [volume(0, 0)]) == [1]
    assert check([one], [volume(4, 10)]) == [2]
    assert check([one], [volume(4, 24)]) == [3]
    for begin, units in ((4, 9), (14, 14), (4, 23)):
        with pytest.raises(ChaosFailure, match="wrong bytes"):
            check([one], [volume(begin, units)])


def test_an_image_that_lacks_what_was_promised_is_wrong() -> None:
    """`sync` has returned; or an earlier image was newer."""
    one = chain(0, (0, 1, 1, 10, 11))
    with pytest.raises(ChaosFailure, match="not of one moment at or after 12"):
        check([one], image((one, 0)), promised=12.0)
    judge, volumes, older = Judge([one]), image((one, 1)), image((one, 0))
    judge.check(lambda v, at, n: volumes[v][at : at + n], 12.0)
    with pytest.raises(ChaosFailure, match="not of one moment"):
        judge.check(lambda v, at, n: older[v][at : at + n])


def chaos(*words: str, folder: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHAOS), "--folder", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def counters(text: str) -> dict[str, int]:
    rows = re.findall(r"^(.+?) +([\d,]+)$", text, re.MULTILINE)
    return {what: int(number.replace(",", "")) for what, number in rows}


def test_chaos_notices_a_wrong_byte_and_keeps_everything(scratch: Path) -> None:
    """After each `sync` somebody changes one byte of the target's data behind the sites' back."""
    folder, program = scratch / "chaos", scratch / "flashmirror"
    program.write_text(
        f'#!/bin/sh\n{FLASHMIRROR} "$@" || exit\n'
        f'[ "$1" = sync ] && printf x | '
        f"dd of={folder}/west/two.data.img bs=1 seek=3000000 conv=notrunc status=none\nexit 0\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    words = ("--seconds", "0", "--seed", "1", "--faults", "pause", "--program", str(program))
    done = chaos(*words, folder=folder, timeout_s=200.0)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "volume two differs" in done.stderr and "byte 3000000" in done.stderr
    assert f"kept: {folder}" in done.stderr
    assert "again: scripts/chaos --seconds 0 --seed 1 --faults pause" in done.stderr
    assert "west: start" in (folder / "chaos.log").read_text()
    for site in ("east", "west"):
        assert (folder / f"{site}.toml").exists()
        assert list((folder / site).glob("state*/site.log"))


def imported(path: Path) -> set[str]:
    """The first word of each module that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found.add(str(node.module).partition(".")[0])
    return found


def test_chaos_imports_nothing_of_the_project() -> None:
    """Only Python's own, the server's and its own rooms; so it cannot share a mistake of ours."""
    rooms = list((CHAOS.parent / "chaoslib").glob("*.py"))
    assert len(rooms) > 10
    for path in (CHAOS, *rooms):
        others = imported(path) - sys.stdlib_module_names - {"chaoslib", "nbdkit"}
        assert not others, f"{path}: {others}"
        text = path.read_text()
        for word in ("importlib", "__import__", "mirror_core"):
            assert word not in text, f"{path}: {word}"


def faults_done(log: str) -> list[str]:
    """The kinds in their order.  Each fault's own lines say that it was done."""
    parts = re.split(r"^ *[\d.]+ -- (\w+)$", log, flags=re.MULTILINE)[1:]
    kinds, lines = parts[::2], parts[1::2]
    for kind, said in zip(kinds, lines, strict=True):
        assert re.search(DONE[kind], said), f"{kind} was not done: {said}"
    return kinds


@pytest.mark.alone  # a store's server that gets no processor looks like one that hangs
@pytest.mark.timeout(600)
def test_a_pair_keeps_its_promises_under_each_kind_of_fault(scratch: Path) -> None:
    """Exact prefixes, no wait without end, `sync` once all is healed, both sites equal."""
    assert set(DONE) == set(STEPS)
    words = ["--seconds", "30", "--each", "--seed", str(SEED), "--margin", "30", "--verbose"]
    words += ["--program", str(FLASHMIRROR)]
    done = chaos(*words, folder=scratch / "chaos", timeout_s=550.0)
    assert done.returncode == 0, done.stderr + done.stdout
    counted = counters(done.stdout)
    assert counted["judgements"] >= 2 and counted["violations"] == 0
    assert counted["writes"] > 1000 and counted["zeroes and trims"] > 100
    wanted = set(STEPS) if StateDisk.possible() else set(STEPS) - {"full"}
    kinds = faults_done(done.stdout)
    assert set(kinds[: len(wanted)]) == wanted, "no kind comes again before all have come"
    assert {kind: counted[f"fault {kind}"] for kind in wanted} == {
        k: kinds.count(k) for k in wanted
    }
    assert not os.path.exists(scratch / "chaos")  # nothing stays behind
