"""The faults by kind, each one step of a round.

A step begins a fault and mostly ends it after a while; else it stays in force, beside the steps
that follow, until the round's judgement heals everything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from chaoslib.sites import PARTS, CommandFailed, Site
from chaoslib.stage import Stage

Step = Callable[[Stage], None]


def any_site(stage: Stage) -> Site:
    return stage.rng.choice(stage.sites())


def wait(stage: Stage, most_s: float) -> None:
    time.sleep(stage.rng.uniform(0.0, most_s))  # how long a fault lasts is the seed's choice


def stays(stage: Stage) -> bool:
    return stage.rng.random() < 0.4


def kill(stage: Stage) -> None:
    site = any_site(stage)
    stage.take_down(site, kill=True)
    if stage.rng.random() < 0.3:  # as after a power loss: what is only in memory is gone
        for path in site.maps.iterdir():
            path.unlink()
        stage.say(f"{site.name}: maps in memory are gone")
    if not stays(stage):
        wait(stage, 1.0)
        stage.bring_up(site, must=False)


def stop(stage: Stage) -> None:
    site = any_site(stage)
    stage.take_down(site, kill=False)
    if not stays(stage):
        wait(stage, 1.0)
        stage.bring_up(site, must=False)


def freeze(stage: Stage) -> None:
    site = any_site(stage)
    stage.freeze(site)
    if not stays(stage):
        wait(stage, 4.0)
        stage.thaw(site)


def _link(words: str) -> Step:
    def step(stage: Stage) -> None:
        stage.set_link(words.format(ms=stage.rng.choice((5, 30, 150, 400))))
        if not stays(stage):
            wait(stage, 4.0)
            stage.set_link("up")

    return step


def full(stage: Stage) -> None:
    site = any_site(stage)
    stage.fill(site, stage.rng.choice((0, 0, 4096, 65536)), log=stage.rng.random() < 0.5)
    if not stays(stage):
        wait(stage, 3.0)
        stage.empty(site)


def server(stage: Stage) -> None:
    """Killed, and a while later there is another one."""
    site = any_site(stage)
    one = site.servers[stage.rng.choice(PARTS)]
    if site is stage.source:
        stage.excuses.begin(f"{site.name}'s servers", loss=True)
    one.kill()
    stage.say(f"{site.name}: {one.image.name}: server killed")
    if not stays(stage):
        wait(stage, 2.0)
        stage.mend(site)


def _spoil(fault: str) -> Step:
    def step(stage: Stage) -> None:
        site = any_site(stage)
        stage.spoil(site, stage.rng.choice(PARTS), fault.format(ms=stage.rng.choice((5, 40))))
        if not stays(stage):
            wait(stage, 3.0)
            stage.mend(site)

    return step


def _command(stage: Stage, *words: str, bound_s: float) -> bool:
    """A command at the source, which may fail while there are faults."""
    if not stage.source.pid or stage.source.frozen:
        return False
    with contextlib.suppress(CommandFailed):
        stage.source.run(*words, bound_s=bound_s)
        return True
    return False


def pause(stage: Stage) -> None:
    now = ["--now"] if stage.rng.random() < 0.3 else []
    _command(stage, "pause", *now, "--timeout", "3s", bound_s=13.0)
    wait(stage, 1.0)
    stage.paused = not _command(stage, "resume", bound_s=10.0)


def sync(stage: Stage) -> None:
    if stage.source.pid and not stage.source.frozen:
        with contextlib.suppress(CommandFailed):
            stage.sync(3.0)


STEPS: dict[str, Step] = {
    "kill": kill,
    "stop": stop,
    "freeze": freeze,
    "cut": _link("cut"),
    "stall": _link("stall"),
    "delay": _link("delay {ms}"),
    "full": full,
    "server": server,
    "slow": _spoil("slow {ms}"),
    "hang": _spoil("hang"),
    "error": _spoil("error"),
    "lose": _spoil("lose"),
    "pause": pause,
    "sync": sync,
}
