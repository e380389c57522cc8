"""Unmount what stands on a device of ours, before the machine goes down.

A mount that a person has made is to systemd like one of a local disk: it outlasts every ordinary
service, and so the site whose volume it is on.  What the kernel had not written by then would be
lost, and the unmounting would wait for ever for a site that is gone.  So the units of systemd/ have
this done before a site stops, as rbdmap(8) does for the devices of Ceph.

Invariants.
* Whatever certainly stands on the device counts: its partitions, volumes of LVM and LUKS on it,
  their bind mounts, a loop device over a file there, an overlay of a folder there (mounted.py).
* Nothing is taken from who uses it: it is waited for, with a bound.  (systemd ends every service
  at the same time, by force when its time is over.)
* Without the site an unmount cannot end and cannot be killed: it is left alone then.

Left out: swap; mounts that only another mount namespace has, a container's, which end with it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable

from mirror_core import limits, mounted
from mirror_core.errors import MirrorError


def everything_on(devices: Iterable[str], timeout_s: float = limits.UNMOUNT_S) -> None:
    """`devices`: MAJOR:MINOR of each.  MirrorError: this is still mounted, for this reason; all
    else that could be unmounted is."""
    devices, deadline = tuple(devices), time.monotonic() + timeout_s
    while points := _points(devices):
        reasons = [why for point in points if (why := _unmount(point, deadline))]
        if reasons and time.monotonic() >= deadline:
            raise MirrorError(f"not unmounted: {reasons[0]}")
        if reasons:
            time.sleep(limits.UNMOUNT_AGAIN_S)


def _points(devices: Iterable[str]) -> list[str]:
    stack = mounted.stack(set(devices))
    return [mount.point for mount in stack.order if mount not in stack.strange]


def _unmount(point: str, deadline: float) -> str:
    """Why it is still mounted; empty: it is not.  (That somebody else has unmounted it meanwhile
    shows in the next look.)"""
    child = subprocess.Popen(
        ["umount", "--", point], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    left_s = max(limits.DEVICE_BUSY_S, deadline - time.monotonic())
    try:
        said = child.communicate(timeout=left_s)[1]
    except subprocess.TimeoutExpired:
        return f"{point}: it does not answer (is its site away?)"
    words = said.strip().splitlines() or [f"umount: {point}: status {child.returncode}"]
    return words[-1] if child.returncode else ""
