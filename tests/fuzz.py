"""What the fuzzers of tests/test_fuzz.py share: how long they run, and how files are damaged.

Examples are hypothesis's, by seeds: CI has the same ones each time, as many as fit into the time;
`make soak` has more time, and begins at a seed that nobody has seen.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pair import SOAK

SECONDS = 6.0 * SOAK  # each; a minute in CI with those of native/tests
EXAMPLES = 100  # of a seed
SEEDS_MIN = 3  # however slow the machine is
HANG_MS = 10_000


def fuzz(body: Callable[..., None], *inputs: st.SearchStrategy[object]) -> None:
    """Call `body` with examples until the time is over; one that takes long is a failure."""
    configured = settings(
        max_examples=EXAMPLES,
        deadline=HANG_MS,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    end = time.monotonic() + SECONDS
    first = 1 if SOAK == 1 else secrets.randbits(32)
    for number in itertools.count(first):
        if number >= first + SEEDS_MIN and time.monotonic() >= end:
            return
        seed(number)(configured(given(*inputs)(body)))()


Step = tuple[str, int, int, bytes]
_PLACE = st.integers(0, 1 << 16) | st.integers(0, 40)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["flip", "write", "cut", "drop", "insert", "repeat", "zero", "mix", "from", "swap"]
        ),
        _PLACE,
        _PLACE,
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def damage(data: bytes, steps: list[Step], others: list[bytes]) -> bytes:
    """The file after bits have flipped, parts were lost, came twice, or came from elsewhere."""
    for kind, place, other_place, filler in steps:
        at = place % (len(data) + 1)
        end = at + other_place % (len(data) - at + 1)
        other = others[filler[0] % len(others)]
        match kind:
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << filler[0] % 8)]) + data[at + 1 :]
            case "write":
                data = data[:at] + filler + data[at + len(filler) :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[end:]
            case "insert":
                data = data[:at] + filler + data[at:]
            case "repeat":
                data = data[:end] + data[at:]
            case "zero":  # a sector or a page that was not written
                unit = 512 if filler[0] % 2 else 4096
                first = at // unit * unit
                data = data[:first] + bytes(len(data[first : first + unit])) + data[first + unit :]
            case "mix":
                data = data[:at] + other[at:]
            case "from":
                data = data[:at] + other[place % (len(other) + 1) :][: end - at] + data[end:]
            case "swap":
                middle = (at + end) // 2
                data = data[:at] + data[middle:end] + data[at:middle] + data[end:]
    return data
