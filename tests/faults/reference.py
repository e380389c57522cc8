"""The pages of docs/reference/, and what they say of the code."""

from __future__ import annotations

from faults.fault import Fault

TESTS = "tests/test_reference.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a page of the reference leads to a word that is none",
        "tests/test_pages.py::test_each_link_leads_somewhere[docs/reference/status.md]",
        (("docs/reference/status.md", "../glossary.md#data-exposure", "../glossary.md#risk"),),
        "link_to_no_word",
    ),
    Fault(
        "the range of an option is changed, and the page of the commands is not written anew",
        f"{TESTS}::test_the_page_of_the_commands_is_what_they_say",
        (("mirror_core/limits.py", "ATTACH_CONNECTIONS_MAX = 16", "ATTACH_CONNECTIONS_MAX = 8"),),
        "page_of_old_commands",
    ),
    Fault(
        "a command that fails ends with a status that no page has",
        f"{TESTS}::test_the_exit_statuses_are_those_of_the_commands",
        (("mirror_core/cli/__init__.py",
          "    except MirrorError as error:\n        say(str(error))\n        sys.exit(1)",
          "    except MirrorError as error:\n        say(str(error))\n        sys.exit(3)"),),
        "another_exit_status",
    ),
    Fault(
        "a site is told something by a variable that no page has",
        f"{TESTS}::test_the_environment_variables_are_those_of_the_code",
        (("mirror_core/lock.py", 'HANDED = "FLASHMIRROR_LOCK"', 'HANDED = "FLASHMIRROR_FD"'),),
        "variable_of_no_page",
    ),
    Fault(
        "the reference says that a site takes no notice of a signal that ends it",
        f"{TESTS}::test_the_signals_are_those_that_a_site_takes",
        (("docs/reference/commands.md",
          "| `SIGQUIT` | ends cleanly |", "| `SIGQUIT` | nothing |"),),
        "signal_misjudged",
    ),
    Fault(
        "the reference names a key of the configuration that is not there",
        f"{TESTS}::test_the_keys_of_the_page_are_those_of_the_configuration",
        (("docs/reference/configuration.md", "### on_link_loss", "### on_lost_link"),),
        "key_of_no_configuration",
    ),
    Fault(
        "a default is changed, and the reference is not",
        f"{TESTS}::test_each_default_holds_without_its_key[freeze_deadline]",
        (("mirror_core/limits.py", "FREEZE_DEADLINE_S = 0.05", "FREEZE_DEADLINE_S = 0.06"),),
        "another_default",
    ),
    Fault(
        "a range is changed, and the reference is not",
        f"{TESTS}::test_each_range_is_what_is_accepted[link_timeout]",
        (("mirror_core/limits.py", "LINK_TIMEOUT_MAX_S = 600.0", "LINK_TIMEOUT_MAX_S = 900.0"),),
        "another_range",
    ),
    Fault(
        "a promotion takes in force what the reference says that it refuses",
        f"{TESTS}::test_each_key_is_changed_as_the_page_says",
        (("mirror_core/process.py", '            ("metrics", site.metrics, now.metrics),\n', ""),),
        "another_change_in_force",
    ),
    Fault(
        "the reference names a field of the status that is not there",
        f"{TESTS}::test_the_fields_of_the_status_are_those_of_the_page",
        (("docs/reference/status.md", "### cycle.stands_still", "### cycle.halted"),),
        "field_of_no_status",
    ),
    Fault(
        "a field of the status is null where the reference says that it never is",
        f"{TESTS}"
        "::test_each_field_has_the_type_of_the_page_and_is_null_where_that_says_so",
        (("mirror_core/cli/seeing.py", '            "stands_still": False,',
          '            "stands_still": None,'),),
        "null_of_no_page",
    ),
    Fault(
        "of two states that hold the other one is told than the reference says",
        f"{TESTS}::test_the_states_are_those_of_the_code_in_its_order",
        (("mirror_core/status.py",
          '            else "initial" if not (book.whole or promoted)\n'
          '            else "degraded" if reason\n',
          '            else "degraded" if reason\n'
          '            else "initial" if not (book.whole or promoted)\n'),),
        "states_in_another_order",
    ),
    Fault(
        "a reason is reworded, and the reference is not",
        f"{TESTS}::test_each_reason_of_the_page_is_said_by_the_code",
        (("mirror_core/status.py", '"no word from the source"', '"nothing from the source"'),),
        "reason_of_no_page",
    ),
    Fault(
        "a label is renamed, and the reference is not told",
        f"{TESTS}::test_each_metric_is_served_as_the_page_says",
        (("mirror_core/metrics.py", 'labels=["volume", "copy"]', 'labels=["volume", "which"]'),),
        "label_of_no_page",
    ),
    Fault(
        "a metric has a sample where the reference says that there is none",
        f"{TESTS}::test_each_metric_is_served_as_the_page_says",
        (("mirror_core/metrics.py", '            status["data_exposure_seconds"],',
          '            status["data_exposure_seconds"] or 0,'),),
        "sample_of_no_page",
    ),
    Fault(
        "the reference has another unit for a metric than its name",
        f"{TESTS}::test_each_metric_has_the_unit_of_its_name",
        (("docs/reference/metrics.md",
          "* type: histogram\n* unit: seconds\n* labels: `volume`",
          "* type: histogram\n* unit: bytes\n* labels: `volume`"),),
        "unit_of_no_name",
    ),
    Fault(
        "the reference says that a file is at the site that has none",
        f"{TESTS}::test_the_files_of_the_page_are_those_of_a_pair",
        (("docs/reference/files.md",
          "* site: source, target\n* written: line by line",
          "* site: source\n* written: line by line"),),
        "file_of_one_site",
    ),
    Fault(
        "the reference says that a field of the ledger came with another version",
        f"{TESTS}::test_the_fields_of_the_ledger_are_those_of_its_tables",
        (("docs/reference/files.md", "| `logs_copied` | 9 |", "| `logs_copied` | 8 |"),),
        "field_of_another_version",
    ),
    Fault(
        "a field of a file is moved, and the reference is not told",
        f"{TESTS}::test_the_fields_of_each_binary_format_are_those_of_the_code"
        "[log]",
        (("mirror_core/intent.py", '"<8sIIQ32s32s32s"', '"<8sIQI32s32s32s"'),),
        "field_elsewhere",
    ),
    Fault(
        "a field of `servers` is renamed, and the reference is not told",
        f"{TESTS}::test_the_fields_of_servers_are_those_that_are_written",
        (("mirror_core/server_instance.py", '"follows": self._follows, "data"',
          '"after": self._follows, "data"'),),
        "server_of_no_page",
    ),
    Fault(
        "a store is marked by another attribute, and the reference is not told",
        f"{TESTS}::test_the_other_files_are_those_of_the_code",
        (("mirror_core/stores.py", '_MARK = "user.flashmirror"', '_MARK = "user.mirror"'),),
        "mark_of_no_page",
    ),
    Fault(
        "a field of a record between sites is of another type than the reference says",
        f"{TESTS}::test_the_records_between_sites_are_those_of_the_tables",
        (("mirror_core/protocol.py",
          'Field("silence_seconds", "silence", SECONDS, TOKENS, 0.0)',
          'Field("silence_seconds", "silence", NUMBER, TOKENS, 0.0)'),),
        "record_of_another_type",
    ),
    Fault(
        "the control export is larger than the reference says",
        f"{TESTS}::test_the_form_and_the_versions_are_those_of_the_code",
        (("mirror_core/limits.py", "CONTROL_BYTES = 64 * KIB", "CONTROL_BYTES = 128 * KIB"),),
        "larger_than_the_page",
    ),
    Fault(
        "an answer to a command has lost a field that the reference names",
        f"{TESTS}::test_the_requests_of_commands_are_those_of_the_code",
        (("mirror_core/control.py",
          '    return {"done": done, "status": status.of(site)}', '    return {"done": done}'),),
        "answer_of_no_page",
    ),
)  # fmt: skip
