"""What the source site tells Prometheus, read as a scraper reads it. Pure but for `scrape`."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from benchlib.lab import BenchError

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SCRAPE_SECONDS = 10.0


@dataclass(frozen=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Metrics:
    """One scrape. A name that is absent is an error; a label that was never counted is 0."""

    samples: tuple[Sample, ...]

    def total(self, name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(each.value for each in self._named(name) if wanted <= each.labels.items())

    def largest(self, name: str) -> float:
        return max(sample.value for sample in self._named(name))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums of a metric for each value of one of its labels."""
        values = {sample.labels[label] for sample in self._named(name) if label in sample.labels}
        return {value: self.total(name, **{label: value}) for value in sorted(values)}

    def _named(self, name: str) -> Iterator[Sample]:
        found = [sample for sample in self.samples if sample.name == name]
        if not found:
            raise BenchError(f"the source site has no metric {name}")
        return iter(found)


def scrape(address: str) -> Metrics:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_SCRAPE_SECONDS) as page:
            return parse(page.read().decode())
    except OSError as error:
        raise BenchError(f"no metrics at http://{address}/metrics: {error}") from error


def parse(page: str) -> Metrics:
    return Metrics(
        tuple(
            Sample(name, dict(_LABEL.findall(labels)), float(value))
            for name, labels, value in _SAMPLE.findall(page)
        )
    )


def quantile_bound(before: Metrics, after: Metrics, name: str, quantile: float) -> float | None:
    """Upper bound of a quantile of what a histogram saw between two scrapes.

    The bound of the bucket in which the quantile lies; infinite beyond the last one, None if
    nothing was seen.
    """
    bucket = f"{name}_bucket"
    earlier = before.by(bucket, "le")
    seen = {_bound(le): count - earlier.get(le, 0) for le, count in after.by(bucket, "le").items()}
    everything = seen.get(math.inf, 0.0)
    if everything == 0:
        return None
    return min(bound for bound, count in seen.items() if count >= quantile * everything)


def _bound(le: str) -> float:
    return float(le.replace("+Inf", "inf"))
