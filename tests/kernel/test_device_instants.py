"""`attach` and `detach` beside any other command, and killed at any instant, with a real kernel.

The same as ``test_any_instant``, which has no devices.  A guest (``guest_instants``) tries all the
instants of one or of two commands; in CI one guest tries a sample.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_any_instant as instants
import uml
from kernels import Kernel
from pair import SOAK

GUEST_SCRIPT = Path(__file__).with_name("guest_instants.py")
PYTHON = Path(sys.executable)
CASE_S = 90  # and more is a hang


def places(count: int, *, alone: bool = False) -> Iterator[str]:
    """`alone`: of the device's own commands only."""
    for place, case in enumerate(instants.all_of(count, instants.DEVICE_COMMANDS)):
        own = all(words.startswith(("attach", "detach")) for words in case.commands)
        if own or (case.has_device and not alone):
            yield f"{count}:{place}"


def groups() -> list[list[str]]:
    """For a guest each."""
    if SOAK == 1:
        chance = random.Random(0)
        return [[chance.choice(list(places(count, alone=True))) for count in (2, 1)]]
    every = [place for count in (2, 1) for place in places(count)]
    return [every[at : at + instants.INSTANTS] for at in range(0, len(every), instants.INSTANTS)]


@pytest.mark.parametrize("group", groups(), ids=lambda group: group[0])
@pytest.mark.timeout(CASE_S * (instants.INSTANTS + 2))
def test_whatever_comes_of_it_the_device_works(
    kernel: Kernel, tmp_path: Path, group: list[str]
) -> None:
    """Each command ends, well or with one line; then the volume is attached, by one holder, reads
    and writes, and is detached with nothing left."""
    facts = tmp_path / "facts.json"
    guest = uml.run_guest(
        [PYTHON, "-X", "faulthandler", GUEST_SCRIPT, facts, *group],
        tmp_path,
        CASE_S * (len(group) + 1),
        kernel=kernel,
        modules=("nbd nbds_max=4",),
        memory="1024M",
    )
    assert guest.status == 0, guest.report()
    print(guest.output)
    found = json.loads(facts.read_text())
    assert len(found) == len(group)
    assert not any(found.values()), "\n".join(f"{case}\n{said}" for case, said in found.items())
