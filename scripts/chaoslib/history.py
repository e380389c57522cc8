"""Changes of history: the target becomes the source; a site goes back in time.

After a promotion each chain goes on from the prefix that the promoted image holds.  A site that
went back must be refused with a reason, or what it is taken with must be right: the image is
judged.  The way out is `resync --full`, as the docs say.
"""

from __future__ import annotations

import time

from chaoslib import scratch
from chaoslib.record import ChaosFailure
from chaoslib.sites import BOUNDS_S, CommandFailed, Site
from chaoslib.stage import Stage

REFUSED_S = 20.0  # a site that went back is refused, or in step again, within this time


def change_roles(stage: Stage) -> None:
    """Promote the target, whatever becomes of the source; then the old source is its target."""
    if not stage.has_image:
        return
    old, new = stage.source, stage.target
    stage.say(f"change of roles: {new.name} is to be the source")
    fate = stage.rng.choice(("lives", "is killed", "is stopped"))
    stage.excuses.begin("change of roles")
    _clients_leave(stage, old, fate)
    stage.empty(new)
    stage.mend(new)
    stage.thaw(new)
    stage.bring_up(new, must=True)
    new.serve_as(source=True)
    _promote(stage, new)
    prefix = stage.check([scratch.read_device(uri) for uri in new.uris()], "a promoted target")
    now = time.monotonic()
    for chain, writes in zip(stage.chains, prefix, strict=True):
        chain.cut_back(writes, now)
    stage.forget(prefix)
    _make_target(stage, old, force=True)
    stage.source, stage.target = new, old
    stage.find_devices()
    stage.clients.disconnect_all()
    stage.clients.go_on()
    stage.excuses.end("change of roles")
    stage.excuses.end(f"{old.name} is down")
    stage.bring_up(old, must=True)
    stage.record.count("changes of role")


def _clients_leave(stage: Stage, old: Site, fate: str) -> None:
    """No write is begun any more; those under way are acknowledged, for which a source that lives
    on needs its own disks, or their client gives up."""
    if fate == "is killed" or not old.pid or old.frozen:
        stage.take_down(old, kill=True)
        stage.clients.hold(0.0)
        stage.clients.abandon()
        return
    stage.empty(old)
    stage.mend(old)
    stage.hold_clients()
    if fate == "is stopped":
        stage.take_down(old, kill=False)


def _promote(stage: Stage, new: Site) -> None:
    """It may be refused while requests of the old source end."""
    deadline = time.monotonic() + BOUNDS_S["promote"]
    while True:
        try:
            new.run("promote", "--force", bound_s=BOUNDS_S["promote"])
            return
        except CommandFailed as error:
            if time.monotonic() >= deadline:
                raise ChaosFailure(f"{new.name} cannot be promoted: {error}") from error
        time.sleep(0.5)  # the command says nothing of when to try again


def _make_target(stage: Stage, site: Site, *, force: bool) -> None:
    """Give up what it holds; it is down afterwards."""
    stage.empty(site)
    stage.mend(site)
    stage.thaw(site)
    stage.take_down(site, kill=stage.rng.random() < 0.5)
    site.serve_as(source=False)
    try:
        site.run("resync", "--full", *(["--force"] if force else []), bound_s=30.0)
    except CommandFailed as error:
        raise ChaosFailure(f"{site.name}: resync --full: {error}") from error
    stage.has_image = False


def go_back(stage: Stage) -> None:
    """A site goes back in time by some commits: its state, alone or with its stores.  Nothing is
    written from before its end until its image is judged, or what it lacks would be sent by chance.
    Left out: stores alone, which are not noticed after a kill (docs/recovery.md)."""
    stage.heal()
    stage.must_sync()
    site = stage.rng.choice(stage.sites())
    with_stores = stage.rng.random() < 0.5
    is_source = site is stage.source
    stage.hold_clients()
    stage.take_down(site, kill=stage.rng.random() < 0.5)
    past = scratch.Snapshot(site, stage.options.folder / "past")
    marks = [len(chain.writes) for chain in stage.chains]
    stage.bring_up(site, must=True)
    stage.clients.go_on()
    commits = stage.rng.randint(1, 3)
    for _ in range(commits):
        time.sleep(0.3)  # the clients write
        stage.must_sync()
    stage.hold_clients()
    stage.must_sync()
    stage.take_down(site, kill=stage.rng.random() < 0.5)
    present = scratch.Snapshot(site, stage.options.folder / "present")
    past.put_back(stores=with_stores)
    for path in site.maps.iterdir():
        path.unlink()  # they are of a machine that is no more
    stage.say(
        f"{site.name}, the {'source' if is_source else 'target'}, went back by {commits} "
        f"syncs{', with its stores' if with_stores else ''}"
    )
    try:
        site.start()
    except CommandFailed as error:
        stage.say(f"does not start: {error}")
        stage.record.count("went back, and not started")
        present.put_back()  # as the line says
        stage.bring_up(site, must=True)
    else:
        _goes_on(stage, site, marks if is_source and with_stores else None)
    if is_source:
        # Its clients' connections ended long ago; and the state of a killed source does not know
        # the servers of its stores, so each client's first flush fails once.
        stage.clients.disconnect_all()
        stage.excuses.begin("went back", loss=True)
        stage.excuses.end("went back")
    stage.clients.go_on()
    past.forget()
    present.forget()
    stage.must_sync()


def _goes_on(stage: Stage, site: Site, marks: list[int] | None) -> None:
    """It runs.  With `marks` its volumes are what they were when the chains were so long."""
    stage.excuses.end(f"{site.name} is down")
    if marks:
        stage.judge.go_back()
        stage.promised, now = 0.0, time.monotonic()
        for chain, mark in zip(stage.chains, marks, strict=True):
            chain.cut_back(mark, now)
    taken = _taken(stage, site)
    stage.record.count("went back, and taken" if taken else "went back, and refused")
    if taken:
        stage.judge_paused()
    else:
        _make_target(stage, stage.target, force=False)
        stage.bring_up(stage.target, must=True)


def _taken(stage: Stage, site: Site) -> bool:
    """Whether it is mirrored.  ChaosFailure: it is not, and nobody says why."""
    try:
        stage.source.run("sync", "--timeout", f"{REFUSED_S:g}s", bound_s=REFUSED_S)
        return True
    except CommandFailed:
        status = stage.source.status()
    if not status["reason"]:
        raise ChaosFailure(
            f"{site.name} went back; nothing is mirrored, without a reason: {status}"
        )
    stage.say(f"refused: {status['reason']}")
    return False


STEPS = {"role": change_roles, "snapshot": go_back}
