"""The requests behind the commands, without starting a process for each: for tests of many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pair import Pair

from mirror_core import config, ledger, limits, peer, process, protocol


def ask(pair: Pair, record: dict[str, Any], site: str = "east") -> dict[str, Any]:
    settings = config.load(str(pair.toml(site)))
    return peer.ask(settings.control_uri(), record, limits.CONTROL_TIMEOUT_S)


def hello(pair: Pair, session: int) -> dict[str, Any]:
    """The handshake that the source would make now, which does not run."""
    mine = ledger.load(pair.folder / "east" / "state")
    assert mine.lineage
    shapes = tuple(protocol.VolumeShape(v.name, v.size, v.block_size) for v in mine.volumes)
    return protocol.record_of(
        protocol.Handshake(
            mine.name,
            mine.lineage.id,
            session,
            shapes,
            mine.site,
            run=mine.run,
            runs=mine.runs,
            begun=mine.begun,
            begun_token=mine.begun_token,
            committed=mine.committed,
            committed_token=mine.committed_token,
        )
    )


def status(pair: Pair, site: str = "east") -> dict[str, Any]:
    return ask(pair, {"op": "status"}, site)


def _until_done(pair: Pair, record: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask(pair, record)
        if answer["done"]:
            found: dict[str, Any] = answer["status"]
            return found
        assert time.monotonic() < deadline, f"{record} took {timeout_s} s: {answer['status']}"


def sync(pair: Pair, timeout_s: float = 60.0) -> dict[str, Any]:
    """`flashmirror sync`; the status when it was done."""
    sequence = ask(pair, {"op": "sync"})["sequence"]
    return _until_done(pair, {"op": "wait", "sequence": sequence}, timeout_s)


def pause(pair: Pair, timeout_s: float = 60.0, *, now: bool = False) -> dict[str, Any]:
    """`flashmirror pause`; the status when it was done."""
    ask(pair, {"op": "pause", "now": now})
    return _until_done(pair, {"op": "settled"}, timeout_s)


def resume(pair: Pair) -> None:
    """`flashmirror resume`."""
    ask(pair, {"op": "resume"})


def stop(pair: Pair, site: str) -> None:
    """`flashmirror stop`."""
    process.stop(config.load(str(pair.toml(site))))


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Ask until it is so; what a status tells has no event to wait on."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def wait_status(pair: Pair, site: str = "east", **wanted: Any) -> dict[str, Any]:
    """The site's status once it holds these fields."""
    found: dict[str, Any] = {}

    def holds() -> bool:
        found.update(status(pair, site))
        return all(found[key] == value for key, value in wanted.items())

    wait_for(holds, f"{site} {wanted}")
    return found


def wait_commit(pair: Pair, after: int) -> None:
    """Until the target has committed a sequence beyond this one."""
    wait_for(
        lambda: (status(pair, "west")["committed"]["sequence"] or 0) > after,
        f"a commit after {after}",
        timeout_s=60.0,
    )


def wait_status_of_peer(pair: Pair, site: str, state: str) -> None:
    """Until the site says so of the other one."""
    wait_for(lambda: bool(status(pair, site)["peer"]["state"] == state), f"{site}: peer {state}")
