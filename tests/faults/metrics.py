"""Faults of the port of the metrics."""

from __future__ import annotations

from faults.fault import Fault

REFUSED = "tests/test_config.py::test_a_refusal_is_one_line_with_file_key_and_advice"
PORT = "tests/test_metrics_port.py"

FAULTS = (
    Fault(
        "a want of memory as a scrape comes ends the metrics",
        f"{PORT}::test_a_connection_that_cannot_be_taken_is_taken_later "
        f"{PORT}::test_a_want_of_memory_where_the_port_is_watched_ends_nothing",
        (("mirror_core/metrics.py", "            except Exception:\n                time.sleep",
          "            except OSError:\n                time.sleep"),),
        "scrape_ends_the_metrics",
    ),
    Fault(
        "a stop leaves the socket of the metrics behind",
        "tests/test_metrics.py::test_metrics_on_a_unix_socket_are_for_its_owner",
        (("mirror_core/metrics.py", "                where.unlink(missing_ok=True)\n",
          "                pass\n"),),
        "stop_leaves_a_socket",
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
        "one_bracket_raises",
    ),
    Fault(
        "who asks for another name has this machine's own looked up, and waits for that",
        f"{PORT}::test_nobody_waits_for_a_name_server",
        (("mirror_core/metrics.py",
          'threading.Thread(target=self._ask, name="own name", daemon=True).start()',
          "self._ask()"),),
    ),
    Fault(
        "each who asks for another name has this machine's own looked up beside",
        f"{PORT}::test_nobody_waits_for_a_name_server",
        (("mirror_core/metrics.py", "and self._lock.acquire(blocking=False):",
          "and (self._lock.acquire(blocking=False) or True):"),),
    ),
    Fault(
        "this machine's whole name is not looked up again",
        f"{PORT}::test_the_whole_name_of_this_machine_is_looked_up_again",
        (("mirror_core/metrics.py", "            return True\n        self._look_up()",
          "            return True\n        self._look_up"),),
    ),
    Fault(
        "a client of the metrics that has to go is no more counted, though it has not gone",
        f"{PORT}::test_who_cannot_be_answered_yet_takes_few_threads",
        (("mirror_core/metrics.py", "< limits.METRICS_THREADS", "< 10**9"),),
        "gone_is_not_counted",
    ),
    Fault(
        "a socket of the metrics may have a path of any length",
        REFUSED,
        (("mirror_core/config.py", '_SOCKETS = ("listen", "peer", "metrics")',
          '_SOCKETS = ("listen", "peer")'),),
    ),
    Fault(
        "the metrics may be on the socket of the other site",
        REFUSED,
        (("mirror_core/config.py", '(config.socket, "listen"), (config.peer, "peer"))',
          '(config.socket, "listen"),)'),),
    ),
    Fault(
        "a socket is another one by another way to its folder",
        REFUSED,
        (("mirror_core/config.py",
          "os.path.realpath(a.parent) == os.path.realpath(b.parent) and a.name == b.name",
          "a == b"),),
    ),
    Fault(
        "a metric is renamed, and the glossary is not told",
        "tests/test_glossary.py"
        "::test_each_name_of_a_word_is_there_and_what_is_there_has_a_word[metric]",
        (("mirror_core/metrics.py", '_P + "equal_bytes"', '_P + "same_bytes"'),),
        "metric_without_a_word",
    ),
)  # fmt: skip
