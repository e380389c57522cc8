"""Figures with their goals, tables for a person, JSON for a program.

A ratio is taken within each round, where its two measurements lie seconds apart, and the median
taken of these: whatever else the machine does then hits both sides of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchlib.contenders import Facts
from benchlib.first_copy import FirstCopy
from benchlib.lab import MIB
from benchlib.load import WORKLOADS, Load
from benchlib.scale import LARGE, SMALL, Scale

Json = dict[str, "Json"] | list["Json"] | str | float | None

_MILLI = 1000.0
_WHOLE_FROM = 100  # larger figures are told without fractions


@dataclass(frozen=True)
class Measurement:
    """One contender under one workload in one round."""

    round: int
    contender: str
    workload: str
    load: Load
    facts: Facts


@dataclass
class Results:
    measurements: list[Measurement] = field(default_factory=list)
    first_copies: list[FirstCopy] = field(default_factory=list)
    scale: Scale | None = None
    intent: list[float] = field(default_factory=list)
    durable: dict[str, list[float]] = field(default_factory=dict)  # by case

    def of(self, contender: str, workload: str) -> list[Measurement]:
        return [m for m in self.measurements if (m.contender, m.workload) == (contender, workload)]


@dataclass(frozen=True)
class Goal:
    """A bound from below (`>=`) or from above."""

    sign: str
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """A figure by rounds; `must` is to be met, `wish` is what good looks like."""

    title: str
    values: list[float]
    must: Goal | None = None
    wish: Goal | None = None

    @property
    def value(self) -> float:
        return median(self.values)


def figures(results: Results) -> list[Figure]:
    """Every figure that was measured, in the order of the goals."""
    found = [*_load_figures(results), *_copy_figures(results.first_copies)]
    if results.scale:
        found += _scale_figures(results.scale)
    found.append(
        Figure("with / without intent log, IOPS, 4k-d32 on a disk", results.intent, _at_least(0.95))
    )
    found += [
        Figure(f"idle / nbdkit-file, 4k writes with FUA on a disk, {case}", values)
        for case, values in results.durable.items()
    ]
    return [figure for figure in found if figure.values]


def _load_figures(results: Results) -> Iterable[Figure]:
    idle, cycling, backup = "flashmirror-idle", "flashmirror-cycling", "qemu-backup"
    small, large = "randwrite-4k-d32", "randwrite-64k-d32"
    hold = [_milli(value) for value in _told(results, cycling, small, "hold_seconds_p99")]
    yield Figure(
        f"idle / nbdkit-file, IOPS, {small}",
        _ratios(results, idle, "nbdkit-file", small, _iops),
        _at_least(0.9),
        _at_least(0.95),
    )
    yield Figure(
        f"idle / nbdkit-file-1, IOPS, {small}",
        _ratios(results, idle, "nbdkit-file-1", small, _iops),
    )
    yield Figure(
        f"cycling / qemu-backup, IOPS, {small}",
        _ratios(results, cycling, backup, small, _iops),
        _at_least(2),
        _at_least(3),
    )
    yield Figure(
        f"cycling / qemu-backup, p99, {small}",
        _ratios(results, cycling, backup, small, _p99),
        _at_most(1),
        _at_most(0.5),
    )
    yield Figure(
        f"cycling / qemu-backup, IOPS, {large}",
        _ratios(results, cycling, backup, large, _iops),
        wish=_at_least(1.5),
    )
    yield Figure(f"hold p99 is at most, ms, {small}", hold, _at_most(5), _at_most(1))
    yield Figure(
        f"wire / changed bytes, {small}",
        _told(results, cycling, small, "wire_over_changed"),
        _at_most(1.1),
        _at_most(1.05),
    )
    for contender in (cycling, backup):
        exposures = _told(results, contender, small, "exposure_seconds_max")
        yield Figure(f"data exposure max, ms, {contender}", [_milli(value) for value in exposures])


def _copy_figures(copies: Sequence[FirstCopy]) -> Iterable[Figure]:
    yield Figure(
        "first full copy / nbdcopy, throughput, both with starts",
        [copy.nbdcopy_seconds / copy.flashmirror_seconds for copy in copies],
        wish=_at_least(0.5),
    )
    yield Figure(
        "the same, without the starts of flashmirror's sites",
        [
            copy.nbdcopy_seconds / (copy.flashmirror_seconds - copy.of_it_starts_seconds)
            for copy in copies
        ],
    )


def _scale_figures(scale: Scale) -> Iterable[Figure]:
    resident = max(scale.resident_bytes_source, scale.resident_bytes_target) / MIB
    hold = scale.hold_seconds_p99
    for touch, cycles, goal in (
        ("first touch", scale.first_touch, None),  # of the stores' file system, too
        ("again", scale.again, _at_most(1.5)),
    ):
        pairs = zip(cycles[SMALL], cycles[LARGE], strict=True)
        yield Figure(
            f"cycle of 1,000 blocks, {touch}, {LARGE} / {SMALL}",
            [large.cycle_seconds / small.cycle_seconds for small, large in pairs],
            goal,
            _at_most(1.2),
        )
        for size in (SMALL, LARGE):
            times = [_milli(cycle.cycle_seconds) for cycle in cycles[size]]
            yield Figure(f"the cycle, {touch}, ms, {size}", times)
    yield Figure(
        "wire / changed bytes, 1,000 known blocks",
        [cycle.wire_over_changed for cycle in scale.all_cycles()],
        _at_most(1.1),
        _at_most(1.05),
    )
    yield Figure(f"start, s, {LARGE}", [scale.start_seconds], _at_most(2))
    yield Figure(
        f"restart to serving, s, {LARGE}", [scale.restart_seconds], _at_most(2), _at_most(1)
    )
    yield Figure(f"first sync of the empty volume, s, {LARGE}", [scale.first_sync_seconds])
    yield Figure(f"resident memory of a site, MiB, {LARGE}", [resident], _at_most(200))
    yield Figure(
        f"hold p99 is at most, ms, {LARGE}",
        [] if hold is None else [_milli(hold)],
        _at_most(5),
        _at_most(1),
    )


def _at_least(bound: float) -> Goal:
    return Goal(">=", bound)


def _at_most(bound: float) -> Goal:
    return Goal("<=", bound)


def _milli(seconds: float) -> float:
    return seconds * _MILLI


def _iops(load: Load) -> float:
    return load.iops


def _p99(load: Load) -> float:
    return load.p99_seconds


def _ratios(
    results: Results, above: str, below: str, workload: str, measure: Callable[[Load], float]
) -> list[float]:
    pairs = zip(results.of(above, workload), results.of(below, workload), strict=False)
    return [measure(a.load) / measure(b.load) for a, b in pairs]


def _told(results: Results, contender: str, workload: str, fact: str) -> list[float]:
    values = (measurement.facts.get(fact) for measurement in results.of(contender, workload))
    return [value for value in values if value is not None]


def tables(results: Results) -> str:
    """Markdown that can be read as it stands."""
    parts = []
    if results.measurements:
        parts += ["Median of the rounds: IOPS, and p99 of the completion latency", _loads(results)]
    if found := figures(results):
        parts += [
            "Figures: median of the rounds, lowest to highest, and the goals",
            _figures(found),
        ]
    return "\n\n".join(parts)


def _loads(results: Results) -> str:
    contenders = list(dict.fromkeys(measurement.contender for measurement in results.measurements))
    rows = [["workload", *contenders]]
    for workload in WORKLOADS:
        cells = [_cell(results.of(contender, workload.name)) for contender in contenders]
        if any(cells):
            rows.append([workload.name, *cells])
    return _table(rows)


def _cell(measurements: list[Measurement]) -> str:
    if not measurements:
        return ""
    iops = median(measurement.load.iops for measurement in measurements)
    p99 = median(measurement.load.p99_seconds for measurement in measurements)
    return f"{iops:,.0f}  {_milli(p99):.2f} ms"


def _figures(found: list[Figure]) -> str:
    rows = [["figure", "measured", "range", "must", "wish"]]
    for figure in found:
        spread = f"{_number(min(figure.values))} .. {_number(max(figure.values))}"
        goals = [_verdict(figure, figure.must), _verdict(figure, figure.wish)]
        rows.append([figure.title, _number(figure.value), spread, *goals])
    return _table(rows)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < _WHOLE_FROM else f"{value:,.0f}"


def _verdict(figure: Figure, goal: Goal | None) -> str:
    return "" if goal is None else f"{goal} {'met' if goal.met(figure.value) else 'MISSED'}"


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def as_json(results: Results) -> dict[str, Json]:
    """All raw rounds, the medians, the figures; infinities as null."""
    raw: dict[str, Any] = {
        "rounds": [dataclasses.asdict(measurement) for measurement in results.measurements],
        "medians": _medians(results),
        "first_copies": [dataclasses.asdict(copy) for copy in results.first_copies],
        "scale": dataclasses.asdict(results.scale) if results.scale else None,
        "figures": [_figure_record(figure) for figure in figures(results)],
    }
    return {key: _finite(value) for key, value in raw.items()}


def _medians(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    medians: dict[str, dict[str, dict[str, float]]] = {}
    for measurement in results.measurements:
        contender, workload = measurement.contender, measurement.workload
        loads = [dataclasses.asdict(same.load) for same in results.of(contender, workload)]
        medians.setdefault(workload, {})[contender] = {
            key: median(load[key] for load in loads) for key in loads[0]
        }
    return medians


def _figure_record(figure: Figure) -> dict[str, Any]:
    goals = {"must": figure.must, "wish": figure.wish}
    return {
        "title": figure.title,
        "median": figure.value,
        "rounds": figure.values,
        "goals": {
            name: {"goal": str(goal), "met": goal.met(figure.value)}
            for name, goal in goals.items()
            if goal
        },
    }


def _finite(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
