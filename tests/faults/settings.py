"""Faults of the configuration, and of how the other site is reached."""

from __future__ import annotations

from faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a target has a session 0 before there is one",
        "tests/test_strangers.py::test_before_there_is_a_session_no_intermediate_opens",
        (("mirror_core/exports.py", "    if not opened or session !=", "    if session !="),),
        "session_zero",
    ),
    Fault(
        "extents beyond the bound are not asked for again",
        "tests/test_block_status.py::test_a_client_that_takes_all_extents_is_told_all",
        (("mirror_core/exports.py", "rows.append((offset, step, hole))",
          "rows.append((offset, count, hole))"),),
        "extents_end_at_the_bound",
    ),
    Fault(
        "a site takes any version of TLS",
        "tests/test_network.py::test_an_old_version_of_tls_is_refused",
        (("mirror_core/gnutls.conf", "disabled-version = tls1.1\n", ""),),
        "any_tls",
    ),
    Fault(
        "the port is guarded no more when the log cannot be written",
        "tests/test_log.py::test_a_port_is_guarded_without_the_log",
        (("mirror_core/door.py", "            except Exception as error:  # no memory",
          "            except ValueError as error:  # no memory"),
         ("mirror_core/journal.py", "            except Exception:\n                self.unwritten",
          "            except ValueError:\n                self.unwritten")),
        "unguarded_without_log",
    ),
    Fault(
        "certificates of another authority are taken",
        "tests/test_refused_alike.py::test_what_tls_lacks_is_refused_in_the_same_words",
        (("mirror_core/address.py", "        _refuse_foreign(self.certificates)\n", ""),),
        "foreign_certificates",
    ),
    Fault(
        "who has asked in the session counts when he has gone",
        "tests/test_strangers.py::test_who_has_gone_is_forgotten_though_the_session_goes_on",
        (("mirror_core/door.py", "visitor.guest.session, visitor.guest.since = 0, time.monotonic()",
          "visitor.guest.since = time.monotonic()"),),
        "gone_keeps_its_place",
    ),
    Fault(
        "a certificate does not name its signer's key",
        "tests/test_network.py::test_a_strict_verifier_accepts_both_sites_certificates",
        (("mirror_core/pki.py", "        .add_extension(signers, critical=False)\n", ""),),
        "certificate_without_key_id",
    ),
    Fault(
        "a misspelt key is told as one that is missing",
        "tests/test_config.py::test_a_misspelt_key_is_named_before_what_it_leaves_missing",
        (("mirror_core/config.py", "        self.only(_SETTINGS)\n", ""),),
        "misspelt_is_missing",
    ),
    Fault(
        "an errno of the target's folder means to its source that it is owed everything",
        "tests/test_injected.py::test_a_stale_folder_is_nothing_that_the_target_is_owed",
        (("mirror_core/control.py", "{errno.ESTALE: Owed, ", "{"),),
        "estale_means_owed",
    ),
    Fault(
        "a handshake may name any number of volumes",
        "tests/test_protocol.py::test_a_handshake_that_could_do_harm_is_refused",
        (("mirror_core/protocol.py", "several(_SHAPE.kind(), limits.VOLUMES_MAX)",
          "several(_SHAPE.kind(), 1 << 60)"),),
    ),
    Fault(
        "a peer's errno is not looked at",
        "tests/test_fuzz.py::test_a_peers_answer_is_a_record_or_an_error",
        (("mirror_core/peer.py", "known = type(code) is int and code in errno.errorcode",
          "known = code is not None"),),
        "any_errno_of_a_peer",
    ),
    Fault(
        "a number of thousands of digits is not a refusal of a configuration",
        "tests/test_fuzz.py::test_any_configuration_is_a_site_or_refused",
        (("mirror_core/config.py", "except (ValueError, RecursionError)",
          "except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError)"),),
    ),
    Fault(
        "who comes over TCP needs no TLS",
        "tests/test_strangers.py::test_without_the_mirrors_certificate_nothing_opens",
        (("mirror_core/door.py", "and not self._site.insecure", "and False"),),
        "tcp_without_tls",
    ),
    Fault(
        "who says that it is there has any name, also one that no answer holds",
        "tests/test_promote.py::test_who_says_that_it_is_there_has_a_site_s_name",
        (("mirror_core/protocol.py", 'Field("name", "name", optional(_NAME)),',
          'Field("name", "name", optional(TEXT)),'),),
        "any_name_knocks",
    ),
    Fault(
        "what stands behind the key in its line is taken for nothing",
        "tests/test_accepted.py::test_a_key_file_that_is_taken_is_one_that_the_tls_library_reads",
        (("mirror_core/address.py", "{{16,}}\", line)", "{{16,}}\\s*\", line)"),),
    ),
    Fault(
        "an export name of a session that is over is logged as it came",
        "tests/test_strangers.py::test_an_export_name_may_be_any_bytes",
        (("mirror_core/exports.py", 'f"{short(name)}: not the session',
          'f"{name}: not the session'),),
    ),
    Fault(
        "TLS takes every host",
        "tests/test_config.py::test_a_refusal_is_one_line_with_file_key_and_advice",
        (("mirror_core/address.py", "    if re.fullmatch(_TLS_HOST_PATTERN, host):",
          "    if True:"),),
    ),
    Fault(
        "a zone stands in a URI as it is",
        "tests/test_accepted.py::test_a_peer_over_ipv6_only_is_reached",
        (("mirror_core/address.py", 'str(self.at).replace("%", "%25")', "str(self.at)"),),
    ),
    Fault(
        "the socket of a store is relative to the folder that a command is given in",
        "tests/test_accepted.py::test_a_store_s_socket_may_be_relative_to_the_file",
        (("mirror_core/config.py", "        return _PATHS.sub(absolute, text)",
          "        return text"),),
    ),
    Fault(
        "a session counts that its source has only connected to",
        "tests/test_away.py::"
        "test_nor_does_it_when_the_intermediate_of_a_source_that_runs_has_gone",
        (("mirror_core/exports.py", "    return VolumeExport(site, member, opened, visitor)",
          "    site.control._check_session(opened)\n"
          "    return VolumeExport(site, member, opened, visitor)"),),
        "connected_counts",
    ),
    Fault(
        "what a build before this one does not say is malformed",
        "tests/test_protocol.py::test_what_older_builds_say_is_understood",
        (("mirror_core/protocol.py", 'meaning(False, FLAG)),\n    Field("hardened"',
          'FLAG),\n    Field("hardened"'),),
        "older_build_is_malformed",
    ),
    Fault(
        "who has the peer's certificate keeps a place for as long as it likes",
        "tests/test_strangers.py::test_who_has_the_peers_certificate_keeps_nobody_out",
        (("mirror_core/door.py", "(session and self.session == session))", "self.told)"),),
        "certificate_keeps_a_place",
    ),
    Fault(
        "one address may take all places for clients over TCP",
        "tests/test_strangers.py::test_no_address_takes_all_places",
        (("mirror_core/door.py", "counts[host] >= most - limits.STRANGERS_MAX",
          "counts[host] >= most"),),
        "one_address_takes_all",
    ),
    Fault(
        "the path of a socket stands in a URI as it is",
        "tests/test_accepted.py::test_any_path_may_hold_blanks_and_what_means_something_elsewhere",
        (("mirror_core/config.py", "?socket={quote(str(socket))}", "?socket={socket}"),),
    ),
    Fault(
        "the path of a key stands in a URI as it is",
        "tests/test_accepted.py::test_any_path_may_hold_blanks_and_what_means_something_elsewhere",
        (("mirror_core/address.py", "tls-psk-file={quote(str(self.psk))}",
          "tls-psk-file={self.psk}"),),
    ),
    Fault(
        "volumes in another order are a change of the file",
        "tests/test_accepted.py::test_a_file_that_was_changed_under_a_running_site_is_not_in_force",
        (("mirror_core/config.py", '{**table, "volume": volumes}', "table"),),
    ),
    Fault(
        "a file that begins with a byte-order mark is no TOML",
        "tests/test_accepted.py::test_a_file_may_begin_with_a_byte_order_mark",
        (("mirror_core/config.py", 'text.decode("utf-8-sig")', "text.decode()"),),
    ),
    Fault(
        "a command in a folder that is gone finds no such file",
        "tests/test_accepted.py::test_a_folder_that_is_gone_is_named_as_the_reason",
        (("mirror_core/config.py", "    except FileNotFoundError as error:",
          "    except NotADirectoryError as error:"),),
    ),
    Fault(
        "a key is taken for that of whatever certificate stands beside it",
        "tests/test_accepted.py::test_a_key_of_another_certificate_is_refused",
        (("mirror_core/address.py", '        for name in ("server", "client"):',
          '        for name in ("server",):'),),
    ),
    Fault(
        "a pipe in place of a configuration is waited for",
        "tests/test_config.py::test_a_file_that_cannot_be_read_is_refused",
        (("mirror_core/config.py", "flags | os.O_NONBLOCK)", "flags)"),),
        "waits_for_a_pipe",
    ),
    Fault(
        "a key that comes late is a mistake in the configuration",
        "tests/test_config.py::test_a_key_that_comes_late_is_no_mistake_and_a_wrong_one_is",
        (("mirror_core/address.py", "raise MirrorError(why, error.errno or 0) from error",
          "raise ConfigError(why) from error"),),
        "late_key_is_a_mistake",
    ),
    Fault(
        "a configuration that the machine does not read is a mistake in it",
        "tests/test_config.py::test_what_the_machine_does_not_read_is_no_mistake_in_the_file",
        (("mirror_core/config.py", "if error.errno not in _MISTAKES:", "if False:"),),
        "unread_is_a_mistake",
    ),
    Fault(
        "a path that nbdkit cannot be given is taken",
        "tests/test_accepted.py::test_a_path_that_is_no_utf8_is_refused_before_anything_is_made",
        (("mirror_core/config.py", "        str(path).encode()\n", "        str(path)\n"),),
        "any_path_is_taken",
    ),
    Fault(
        "a command asks whoever listens there",
        "tests/test_commands.py::test_no_command_asks_another_site_that_listens_there",
        (("mirror_core/control.py", "        _refuse_misled(site, record)\n", ""),),
        "asks_whoever_listens",
    ),
)  # fmt: skip
