"""Faults of the port of the metrics."""

from __future__ import annotations

from faults.fault import Fault

PORT = "tests/test_metrics_port.py"

FAULTS = (
    Fault(
        "a want of memory as a scrape comes ends the metrics",
        f"{PORT}::test_a_connection_that_cannot_be_taken_is_taken_later "
        f"{PORT}::test_a_want_of_memory_where_the_port_is_watched_ends_nothing",
        (("mirror_core/metrics.py", "            except Exception:\n                time.sleep",
          "            except OSError:\n                time.sleep"),),
    ),
)  # fmt: skip
