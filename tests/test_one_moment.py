"""Every consistency point is of one moment, for all volumes of the group together."""

from __future__ import annotations

import json
import random
from pathlib import Path

import direct
import pytest
from dependent import REGION, Judge, Load, NotOneMoment, read_images
from pair import SOAK, MakePair, Pair, some
from planted import loaded_core, plant

pytestmark = pytest.mark.timeout(300 * SOAK)

WRITERS = 4
SIZE = f"{WRITERS * REGION}"


def uris(pair: Pair) -> list[str]:
    return [pair.uri("disk"), pair.uri("disk2")]


def pause(pair: Pair) -> float:
    """The command itself; the consistency point that the target holds then."""
    answer = json.loads(pair.run("pause", str(pair.toml("east")), "--json"))
    point: float = answer["committed"]["consistency_point"]
    return point


def check_instants(pair: Pair, load: Load, instants: int) -> None:
    """Pause at random instants of the load; each time the target must hold one moment."""
    judge, chance = Judge(load), random.Random(instants)
    for k in range(instants):
        load.wait_writes(chance.randrange(1, 400))
        least = load.acknowledged() if k % 8 == 7 else []
        if least:  # a sync holds every write that was acknowledged before it
            direct.sync(pair)
        point = pause(pair) if k % 8 == 0 else direct.pause(pair)["committed"]["consistency_point"]
        judge.check(read_images(pair.folder / "west", load), least, point)
        direct.resume(pair)


def check_end(pair: Pair, load: Load) -> None:
    """After a last sync, when nobody writes any more, nothing is missing."""
    pair.sync()
    Judge(load).check(read_images(pair.folder / "west", load), load.acknowledged())
    assert read_images(pair.folder / "west", load) == read_images(pair.folder / "east", load)


def copies_before_write(pair: Pair, site: str) -> int:
    return sum(volume["copies_before_write"] for volume in pair.status(site)["volumes"])


def test_every_pause_leaves_a_prefix_of_each_writer(make_pair: MakePair) -> None:
    """At every random instant under load the target holds, of writers on two volumes whose
    writes depend on each other, exactly a prefix: nothing without what it depends on, nothing
    torn, nothing left out that was acknowledged before the consistency point."""
    pair = make_pair("--size", SIZE, "--volumes", "2")
    pair.start()
    with Load(uris(pair), WRITERS) as load:
        check_instants(pair, load, 40 * SOAK)
        assert copies_before_write(pair, "east") > 0, "no write met a pending block"
    check_end(pair, load)


def test_preserve_first_is_of_one_moment_too(make_pair: MakePair) -> None:
    """When writers wait for the first intermediate only, the target holds a prefix as well."""
    pair = make_pair("--size", SIZE, "--volumes", "2")
    pair.configure("east", 'preserve = "first"')
    pair.start()
    with Load(uris(pair), WRITERS) as load:
        check_instants(pair, load, 10 * SOAK)
        assert copies_before_write(pair, "east") > 0, "no write met a pending block"
    check_end(pair, load)


@pytest.mark.soak
@pytest.mark.parametrize("fault", some(["NO_FREEZE", "NO_COPY_BEFORE_WRITE"]))
def test_the_check_notices_a_planted_fault(make_pair: MakePair, scratch: Path, fault: str) -> None:
    """The same check fails within 60 instants when the freeze, or copy before write, is left
    out of the program: it would notice their loss."""
    environment = plant(fault, scratch / "planted")
    pair = make_pair("--size", SIZE, "--volumes", "2", environment=environment)
    pair.start()
    for site in ("east", "west"):
        (core,) = loaded_core(pair.status(site)["pid"])
        assert core.parent == scratch / "planted" / "mirror_core"
    with Load(uris(pair), WRITERS) as load, pytest.raises(NotOneMoment):
        check_instants(pair, load, 60)
