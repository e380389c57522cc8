"""The workloads, and fio's nbd engine that puts them on a device.

One connection, one job: the depth is requests in flight on it. Every round has a seed of its own,
the same for all contenders, so that all write the same blocks in the same order. (fio heeds
`randseed` only with `randrepeat=0`.)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from benchlib.lab import BenchError, run

_SLACK_SECONDS = 60.0


@dataclass(frozen=True)
class Workload:
    name: str
    pattern: str
    block: str
    depth: int

    @property
    def writes(self) -> bool:
        return "write" in self.pattern


WORKLOADS = (
    Workload("randwrite-4k-d1", "randwrite", "4k", 1),
    Workload("randwrite-4k-d32", "randwrite", "4k", 32),
    Workload("randwrite-64k-d1", "randwrite", "64k", 1),
    Workload("randwrite-64k-d32", "randwrite", "64k", 32),
    Workload("write-1m-d8", "write", "1m", 8),
    Workload("randread-4k-d32", "randread", "4k", 32),
)


@dataclass(frozen=True)
class Pace:
    """How long one measurement lasts, and the part before it that does not count."""

    seconds: float
    ramp_seconds: float


@dataclass(frozen=True)
class Load:
    """What fio saw of the device."""

    iops: float
    bytes_per_second: float
    mean_seconds: float
    p99_seconds: float
    max_seconds: float


def put_on(uri: str, workload: Workload, pace: Pace, seed: int, area: tuple[str, ...] = ()) -> Load:
    """Load the device for a while; `area` restricts it to a part (fio's offset and size)."""
    job = _fio(
        uri,
        *(f"--rw={workload.pattern}", f"--bs={workload.block}", f"--iodepth={workload.depth}"),
        *(f"--runtime={_ms(pace.seconds)}", f"--ramp_time={_ms(pace.ramp_seconds)}"),
        *("--time_based", "--norandommap", f"--randseed={seed}", *area),
        timeout_seconds=pace.seconds + pace.ramp_seconds,
    )
    side = job["write" if workload.writes else "read"]
    latency = side["clat_ns"]
    return Load(
        iops=side["iops"],
        bytes_per_second=side["bw_bytes"],
        mean_seconds=latency["mean"] / 1e9,
        p99_seconds=latency["percentile"]["99.000000"] / 1e9,
        max_seconds=latency["max"] / 1e9,
    )


def write_blocks(uri: str, count: int, seed: int, *, sparse: bool) -> None:
    """Write `count` distinct 4 KiB blocks at random offsets of the whole device.

    fio's map of blocks already written would take 2 GiB of memory on 64 TiB, where equal offsets
    do not happen anyway: a `sparse` choice does without it, from a 64 bit generator.
    """
    unmapped = ("--norandommap", "--random_generator=tausworthe64") if sparse else ()
    job = _fio(
        uri,
        *("--rw=randwrite", "--bs=4k", "--iodepth=32", f"--number_ios={count}"),
        *(f"--randseed={seed}", *unmapped),
    )
    written = job["write"]["total_ios"]
    if written != count:
        raise BenchError(f"fio wrote {written} blocks of {count}")


def _fio(uri: str, *options: str, timeout_seconds: float = 0.0) -> dict[str, Any]:
    command = ("fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--randrepeat=0")
    output = run((*command, *options, "--output-format=json"), timeout_seconds + _SLACK_SECONDS)
    report = re.search(r"^\{.*^\}", output, re.DOTALL | re.MULTILINE)  # fio notes things around it
    if not report:
        raise BenchError(f"fio printed no JSON for {uri}: {output[:200]!r}")
    job: dict[str, Any] = json.loads(report[0])["jobs"][0]
    if job["error"]:
        raise BenchError(f"fio failed on {uri}: error {job['error']}")
    return job


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
