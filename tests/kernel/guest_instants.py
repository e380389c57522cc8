"""Runs in the guest: commands of a device, two at once or killed at any instant and run again.

    guest_instants.py FACTS CASE...

Each CASE is the number of its commands and its place among all of so many (``test_any_instant``,
which tries and judges it).  Commands take longer here, so the instants are further apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import test_any_instant as instants
from handmade import Handmade, flashmirror


def longest_s() -> float:
    """Of most commands: one that does nothing takes a tenth of it."""
    began = time.monotonic()
    flashmirror("--version")
    return 10 * (time.monotonic() - began)


def attempt(count: int, case: instants.Case) -> str:
    """What went wrong."""
    pair = Handmade(Path(tempfile.mkdtemp(dir="/dev/shm")))
    try:
        if count == 2:
            instants.test_two_commands_at_once(pair, case)
        else:
            instants.test_a_command_that_was_killed_is_run_again(pair, case)
    except BaseException:
        return traceback.format_exc()
    finally:
        pair.kill()
    return ""


def main(facts: str, *words: str) -> None:
    began = time.monotonic()
    instants.LONGEST_S = longest_s()
    print(f"{time.monotonic() - began:6.2f} s  begun; a command {instants.LONGEST_S:.2f} s")
    found = {}
    for word in words:
        count, place = map(int, word.split(":"))
        case = instants.all_of(count, instants.DEVICE_COMMANDS)[place]
        found[str(case)] = attempt(count, case)
        outcome = found[str(case)].strip().splitlines()[-1:] or ["well"]
        print(f"{time.monotonic() - began:6.2f} s  {case}: {outcome[0]}", flush=True)
    Path(facts).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
