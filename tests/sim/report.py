"""What `scripts/simulate` prints: counters, not "passed", and how to replay what failed."""

from __future__ import annotations

import argparse
import functools
import resource

from sim import exhaustive, injections, lines, record, runner, watch
from sim.world import WAITS_S, World

_ORDER = (
    "schedules", "switches", "points", "points under fault",
    "schedules without a point under fault", "hardening records", "writes", "flushes",
    "fast zeroes refused", "clients that came back",
    "power losses", "kills",
    "crashes in recovery",
    "stalls between statements", "cycles gone on with", "stable records", "stable cycles resumed",
    "maps outlived a kill", "pieces compared", "found equal",
    "writes lost", "torn files", "link cuts", "late messages",
    "disk errors", "flushes that lost", "losses that a source's cache hides",
    "losses that a source's cache has hidden", "commits of which the source's disk was judged",
    "servers lost",
    "stores refused that a cache had shown otherwise", "write errors",
    "commands", "orderly stops", "syncs done", "promotions", "old sources refused",
    "probes", "images judged", "exceptions thrown", "sites restarted after an internal error",
    *(f"requests longer than {limit} s" for limit in WAITS_S),
)  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    plants = "".join(f" --plant {name}" for name in arguments.plant)
    make: runner.Make = World
    if arguments.exhaustive:
        make = functools.partial(exhaustive.every, arguments.every)
        plants += f" --exhaustive --crashes {arguments.crashes} --every {arguments.every}"
    if arguments.injections:
        make = functools.partial(injections.every, arguments.every)
        plants += f" --injections --every {arguments.every}"
    if arguments.seed is not None:
        _, violation = runner.one(arguments.seed, print, make)
        print(violation or "no violation")
        return int(violation is not None)
    if arguments.lines:
        some = functools.partial(injections.every, arguments.every)
        random = range(arguments.first, arguments.first + arguments.lines)
        return int(
            lines.trace((random, World), (range(injections.cases() // arguments.every), some)) > 0
        )
    first, count = arguments.first, arguments.count
    if arguments.exhaustive:
        first, count = 0, exhaustive.cases(arguments.crashes) // arguments.every
    if arguments.injections:
        cases = injections.cases() // arguments.every
        print(f"{cases} cases")
        first, count = min(first, cases), min(arguments.count, cases - min(first, cases))
    if arguments.record:
        found = _recorded(arguments, first, count, make)
    else:
        found = runner.many(count, first, arguments.jobs, stop_at=arguments.stop_at,
                            progress=True, make=make)  # fmt: skip
    show(found)
    for seed, what in found.violations[:20]:
        print(f"seed {seed}: {what}\n    scripts/simulate --seed {seed}{plants}")
    return int(bool(found.violations))


def _recorded(
    arguments: argparse.Namespace, first: int, count: int, make: runner.Make
) -> runner.Report:
    """What the record lacks of this range is run; the sum of all that it has."""
    mode = ["injections"] * arguments.injections + ["exhaustive"] * arguments.exhaustive
    mode += [f"every {arguments.every}"] * (arguments.every > 1)
    kept = record.Record(arguments.record, [*arguments.plant, *mode])
    for at, n in list(kept.missing(first, count)):
        found = runner.many(n, at, arguments.jobs, stop_at=arguments.stop_at, progress=True,
                            make=make)  # fmt: skip
        kept.add(at, n, found)
    if kept.others:
        print(f"{arguments.record}: {kept.others} lines of other trees are not counted")
    return kept.total()


def show(found: runner.Report) -> None:
    for name in _ORDER:
        print(f"{name:20} {found.counts[name]:>12,}")
    for name in sorted(name for name in found.counts if " of its limit" in name):
        print(f"{name:20} {found.counts[name]:>12,}")
    print("schedules that came to a state that matters (sim/watch.py):")
    for state in watch.STATES:
        print(f"  {state:42} {found.counts[f'state: {state}']:>10,}")
    print(f"{'distinct states':20} {len(found.states):>12,}")
    print(f"{'violations':20} {len(found.violations):>12,}")
    rate = found.counts["schedules"] / max(found.seconds, 1e-9)
    cpu = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"{found.seconds:.1f} s, {rate:.0f} schedules a second; {cpu:.1f} s of CPU, "
          f"{1000 * cpu / max(found.counts['schedules'], 1):.2f} ms each")  # fmt: skip
