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
    Fault(
        "a client of the metrics that does not read writes to the log",
        f"{PORT}::test_who_asks_and_does_not_read_writes_nothing_to_the_log",
        (("mirror_core/metrics.py", "def get_stderr(self", "def get_no_stderr(self"),),
    ),
    Fault(
        "a fault of the metrics is told at each scrape",
        f"{PORT}::test_a_fault_of_the_metrics_is_told_in_one_line",
        (("mirror_core/metrics.py", 'journal.refused("a scrape", f"', 'journal.say(f"'),),
    ),
    Fault(
        "a host with one bracket is looked at by urlsplit, which raises",
        f"{PORT}::test_a_host_that_is_none_is_refused_in_silence",
        (("mirror_core/metrics.py", "    if not found:\n        return False\n",
          "    if not found:\n        raise ValueError(asked)\n"),),
    ),
)  # fmt: skip
