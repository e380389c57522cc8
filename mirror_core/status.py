"""How a site is, as the record that `status --json` prints and metrics count (README.md).

Left out: how it is shown to a person (cli/seeing.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mirror_core.driver import Driver
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
    for name, s in site.statistics().items():
        record = next(v for v in site.book.current.volumes if v.name == name)
        rows.append({
            "name": name,
            "size_bytes": record.size,
            "block_size_bytes": record.block_size,
            "next_bytes": s.next_blocks * record.block_size,
            "pending_bytes": (s.pending_blocks + s.unsent_blocks) * record.block_size,
            "copies_before_write": s.copies_before_write,
        })  # fmt: skip
    return rows


def _of_source(site: Site, control: Driver) -> dict[str, Any]:
    with control.changed:
        progress, last, reason = control.progress, control.last_cycle, control.reason
        state = (
            "refused" if control.refused
            else "degraded" if reason and (control.connected or site.journal.cycles or reason
                                           != "not connected yet")
            else "paused" if site.book.current.paused
            else "initial" if not control.committed
            else "mirroring" if control.connected
            else "degraded"
        )  # fmt: skip
        return {
            "state": state,
            "reason": reason,
            "peer": {
                "state": "connected" if control.connected else "disconnected",
                "since": control.connected_since,
                "reason": None if control.connected else reason,
            },
            "cycle": {
                "sequence": progress.sequence,
                "phase": progress.phase,
                "copied_bytes": progress.copied_bytes,
                "total_bytes": progress.total_bytes,
                "estimated_end": control.estimated_end(),
            },
            "committed": {
                "sequence": control.committed or None,
                "consistency_point": control.point,
            },
            "hardened_sequence": control.hardened or None,
            "last_cycle": vars(last) if last else None,
        }


def _of_target(site: Site, control: Target) -> dict[str, Any]:
    book = site.book.current
    connected, since = control.connected(), control.since()
    left = site.copier.left_bytes()
    with control.changed:
        silent = (
            "is being promoted" if control.promoting
            else None if connected
            else control.refusal
            or (control.failure if control.is_there() else None)
            or "no word from the source"
        )  # fmt: skip
        reason = control.reason or control.trouble or silent
        state = (
            "refused" if silent and control.refusal
            else "initial" if not book.whole
            else "degraded" if reason
            else "mirroring"
        )  # fmt: skip
        total = max(left, control.total_bytes)
        return {
            "state": state,
            "reason": reason,
            "peer": {
                "state": "connected" if connected else "disconnected",
                "since": since,
                "reason": silent,
            },
            "cycle": {
                "sequence": book.committed,
                "phase": "copy" if left else "idle",
                "copied_bytes": total - left,
                "total_bytes": total,
                "estimated_end": None,
            },
            "committed": {
                "sequence": book.committed or None if book.whole else None,
                "consistency_point": book.consistency_point if book.whole else None,
            },
            "hardened_sequence": book.hardened or None if book.whole else None,
            "last_cycle": None,
        }
