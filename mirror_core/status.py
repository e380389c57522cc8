"""How a site is, as the record that `status --json` prints and metrics count (README.md).

Left out: how it is shown to a person (cli/seeing.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mirror_core.driver import Driver
from mirror_core.errors import NOT_YET, describe
from mirror_core.flashcopy import FRONT, CopyError, explain
from mirror_core.session import told
from mirror_core.target import Target

if TYPE_CHECKING:
    from mirror_core.site import Site


def of(site: Site) -> dict[str, Any]:
    """The record of `status --json` (README.md)."""
    book = site.book.current
    common = {
        "site": book.name,
        "role": book.role,
        "lineage": book.lineage.id if book.lineage else None,
        "pid": os.getpid(),
        "configuration": site.config.digest,
        "metrics_address": site.metrics.address if site.metrics else None,
        "data_exposure_seconds": site.control.exposure(),
        "image_age_seconds": site.control.image_age(),
        "volumes": _volumes(site),
    }
    if isinstance(site.control, Driver):
        return {**common, **_of_source(site, site.control)}
    return {**common, **_of_target(site, site.control)}


def _volumes(site: Site) -> list[dict[str, Any]]:
    rows = []
    waiting = site.without_intermediate()
    for name, s in site.statistics().items():
        record = next(v for v in site.book.current.volumes if v.name == name)
        rows.append({
            "name": name,
            "size_bytes": record.size,
            "block_size_bytes": record.block_size,
            "next_bytes": s.next_blocks * record.block_size,
            "pending_bytes": (s.pending_blocks + s.unsent_blocks) * record.block_size,
            "copies_before_write": s.copies_before_write,
            "write_error": describe(s.write_error) if s.write_error else None,
            "read_error": describe(s.read_error) if s.read_error else None,
            "has_intermediate": name not in waiting,
        })  # fmt: skip
    return rows


def _failed_for_clients(site: Site) -> str | None:
    """What a client's write or read met at this source, though mirroring goes on; None: nothing."""
    stats = site.statistics()
    for volume in site.config.volumes:
        found = stats[volume.name]
        for what, code in (("write", found.write_error), ("read", found.read_error)):
            if code:
                error = CopyError(volume.name, FRONT, code)
                where = {FRONT: f"data store {volume.data}"}
                return f"a {what} failed: {explain(error, where)}"
    return None


def _of_source(site: Site, control: Driver) -> dict[str, Any]:
    lost = site.taken_away() or site.file_taken_away()
    with control.changed:
        progress, last, paused = control.progress, control.last_cycle, site.book.current.paused
        promoted, sure = control.awaits_target, not control.unsure
        reason = control.reason and told(control.reason, paused=paused, promoted=promoted)
        state = (
            "refused" if control.refused
            else "degraded" if reason and (control.connected or site.journal.cycles or reason
                                           != NOT_YET)
            else "paused" if paused
            else "initial" if not control.committed
            else "mirroring" if control.connected
            else "degraded"
        )  # fmt: skip
        return {
            "state": state,
            "reason": reason or lost or _failed_for_clients(site),
            "paused": paused,
            "peer": {
                "state": "connected" if control.connected else "disconnected",
                "since": control.connected_since,
                "heard": control.hears(),
                "reason": None if control.connected else reason,
            },
            "cycle": {
                "sequence": progress.sequence,
                "phase": progress.phase,
                "stands_still": control.standing,
                "copied_bytes": progress.copied_bytes,
                "total_bytes": progress.total_bytes,
                "estimated_end": control.estimated_end(),
            },
            "committed": {
                "sequence": control.committed or None if sure else None,
                "consistency_point": control.point if sure else None,
            },
            "hardened_sequence": control.hardened or None if sure else None,
            "last_cycle": vars(last) if last else None,
        }


def _silent(knocker: str) -> str:
    if not knocker:
        return "no word from the source"
    return f"its source {knocker} is there, and has no session: look at its status"


def _of_target(site: Site, control: Target) -> dict[str, Any]:
    book = site.book.current
    control.look_at_writes()
    connected, since = control.connected() and control.parted() is None, control.since()
    taken_away = site.taken_away() or control.taken_away()
    left = site.copier.left_bytes()
    lost = control.image_lost()
    whole = book.whole and not lost
    with control.changed:
        refusal = control.refusal
        promoted = book.role == "source"  # and the machine has refused to begin anew
        silent = (
            "is a source from its next start on: stop it and start it" if promoted
            else "is being promoted" if control.promoting
            else None if connected
            else refusal
            or (control.failure if control.is_there() else None)
            or _silent(control.knocker())
        )  # fmt: skip
        trouble = lost or control.reason or control.trouble or taken_away or control.doubt()
        if control.promoting and trouble:
            trouble = f"is being promoted, and waits: {trouble}"
        reason = silent if promoted else trouble or silent
        paused = connected and control.source_paused
        state = (
            "refused" if refusal and silent == refusal
            else "initial" if not (book.whole or promoted)
            else "degraded" if reason
            else "paused" if paused
            else "mirroring"
        )  # fmt: skip
        if paused and not reason:
            reason = "its source is paused: no new consistency point until it resumes"
        total = max(left, control.total_bytes)
        return {
            "state": state,
            "reason": reason,
            "paused": paused if connected else None,
            "peer": {
                "state": "connected" if connected else "disconnected",
                "since": since,
                "heard": connected or control.is_there() or bool(control.knocker()),
                "reason": silent,
            },
            "cycle": {
                "sequence": book.committed,
                "phase": control.phase,
                "stands_still": False,
                "copied_bytes": total - left,
                "total_bytes": total,
                "estimated_end": None,
            },
            "committed": {
                "sequence": book.committed or None if whole else None,
                "consistency_point": book.consistency_point if whole else None,
            },
            "hardened_sequence": book.hardened or None if whole else None,
            "last_cycle": None,
        }
