"""One run: rounds of some faults and a judgement, until the time is over; then everything is
healed, `sync` must succeed, and both sites must be equal byte for byte."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from chaoslib import faults, history
from chaoslib.record import ChaosFailure, Record
from chaoslib.sites import CommandFailed
from chaoslib.stage import Options, Stage

STEPS = {**faults.STEPS, **history.STEPS}


def _over(stage: Stage, until: float) -> bool:
    least = len(stage.options.kinds) if stage.options.each else 0
    return time.monotonic() >= until and stage.faults >= max(least, stage.options.least)


def _perform(stage: Stage, kind: str) -> None:
    """The fault; where each kind is wanted also if the site that it meets is down."""
    stage.say(f"-- {kind}")
    said = stage.record.said
    STEPS[kind](stage)
    if stage.options.each and stage.record.said == said:  # it has found nothing to do
        stage.heal()
        stage.must_sync()
        STEPS[kind](stage)


def round_of_faults(stage: Stage, until: float) -> None:
    """Some faults, then a judgement."""
    rng = stage.rng
    for _ in range(rng.randint(2, 6)):
        if _over(stage, until):
            break
        kind = stage.next_kind()
        stage.record.count(f"fault {kind}")
        stage.faults += 1
        _perform(stage, kind)
        for site in stage.sites():
            if rng.random() < 0.7:
                stage.bring_up(site, must=False)
        faults.wait(stage, 1.0)
        stage.record.check()
    how = rng.random()
    if how < 0.35:
        stage.judge_paused()
    elif how < 0.75 and stage.has_image:
        stage.judge_copy(kill=rng.random() < 0.6 or stage.target.frozen)
    elif how < 0.9:
        stage.heal()
        stage.must_sync()


def finish(stage: Stage) -> None:
    """Everything healed, everything equal."""
    stage.heal()
    stage.must_sync()
    stage.hold_clients()
    stage.must_sync()
    _equal(stage, "after the last sync")
    for site in (stage.source, stage.target):
        stage.take_down(site, kill=False)
    _equal(stage, "after an orderly stop of both")
    stage.clients.go_on()


def _equal(stage: Stage, when: str) -> None:
    stage.check(stage.stores(stage.target), f"the target {when}")
    sides = zip(("one", "two"), stage.stores(stage.source), stage.stores(stage.target), strict=True)
    for volume, source, target in sides:
        if source != target:
            at = next(i for i, (a, b) in enumerate(zip(source, target, strict=True)) if a != b)
            raise ChaosFailure(f"volume {volume} differs {when}: first at byte {at}")
    stage.record.count("volumes equal byte for byte", 2)


def _commits(stage: Stage) -> None:
    with contextlib.suppress(CommandFailed, KeyError, TypeError):
        stage.record.count("commits", stage.source.status()["committed"]["sequence"])


def perform(options: Options) -> tuple[Record, bool]:
    """The record of the run, and whether every promise was kept."""
    record = Record(options.folder / "chaos.log", verbose=options.verbose)
    stage = Stage(options, record)
    try:
        stage.set_up()
        until = time.monotonic() + options.seconds
        while not _over(stage, until):
            round_of_faults(stage, until)
            record.check()
        _commits(stage)
        finish(stage)
        record.check()
    except (ChaosFailure, CommandFailed) as error:
        record.fail(str(error))
        _look_into(stage)
    finally:
        stage.end()
    record.count("longest wait of a write, ms", round(1000 * stage.clients.longest_s))
    return record, record.failure is None


def _look_into(stage: Stage) -> None:
    """What the sites say and have logged, and where their threads wait."""
    for site in stage.sites():
        for line in site.last_lines(20):
            stage.say(f"{site.name}'s log: {line}")
        if not site.pid:
            continue
        site.thaw()
        with contextlib.suppress(CommandFailed, ChaosFailure):
            stage.say(f"{site.name}: {site.status()}")
        for task in sorted(Path(f"/proc/{site.pid}/task").glob("*")):
            with contextlib.suppress(OSError):
                name, where = ((task / n).read_text().strip() for n in ("comm", "wchan"))
                stage.say(f"{site.name}: thread {task.name} {name}: {where}")
