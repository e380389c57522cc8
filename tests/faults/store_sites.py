"""Faults of how a site opens its stores, looks at them, and ends with them."""

from __future__ import annotations

from faults.fault import Fault

DELETED = "tests/test_taken_away.py::test_a_store_that_was_deleted"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "an intermediate that could not be taken in at the last stays locked",
        "tests/test_away.py::test_a_want_of_memory_while_it_is_taken_in_is_tried_again",
        (("mirror_core/site.py", "                self._late.callback(one.store.close)\n", ""),
         ("mirror_core/site.py", "            member.native.set_first(one.store)\n",
          "            self._late.callback(one.store.close)\n"
          "            member.native.set_first(one.store)\n")),
        "not_taken_in_stays_locked",
    ),
    Fault(
        "a lane that could not be noted stays connected",
        "tests/test_handles.py::test_a_server_keeps_no_connection_of_what_was_not_opened[unnoted]",
        (("mirror_core/session.py",
          "                except BaseException:  # nobody would close it\n"
          "                    store.close()\n",
          "                except BaseException:\n"),),
        "unnoted_lane_stays",
    ),
    Fault(
        "a source is not served without its intermediate (I9)",
        "tests/test_away.py::"
        "test_clients_are_served_while_it_is_away_and_mirroring_goes_on_with_it",
        (("mirror_core/site.py", '        if part == "data" or current.role == "target":\n'
          "            return self._open_one(record, part)\n",
          '        if part == "data" or current.role == "target" or part:\n'
          "            return self._open_one(record, part)\n"),),
        "not_served_without_intermediate",
    ),
    Fault(
        "a blank file that is taken for a source's intermediate is not marked as that",
        "tests/test_away.py::test_a_blank_file_is_taken_for_it",
        (("mirror_core/site.py", "            self._opened[key].set_mark(mark)\n",
          "            pass\n"),),
        "taken_and_not_marked",
    ),
    Fault(
        "a source's new intermediate is flushed before it is known what stands beside it",
        "tests/test_away.py::test_what_a_new_one_is_told_of_its_disk_counts_for_the_data_there",
        (("mirror_core/site.py", "numbers.opened(key, one.fd)", "0"),),
        "new_one_flushed_apart",
    ),
    Fault(
        "a site does not say which of its stores stand on one disk",
        "tests/test_losing_disk.py::test_what_one_store_hears_of_a_disk_all_hear_that_stand_on_it",
        (("mirror_core/site.py", "            if numbers[part]:\n", "            if False:\n"),),
        "shared_disks_untold",
    ),
    Fault(
        "what a source cannot read at its stop is as it was left",
        "tests/test_unreadable.py::"
        "test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start",
        (("mirror_core/site.py", "if not volumes:  # of what",
          "if not volumes and role == \"target\":  # of what"),),
        "harmed_is_as_left",
    ),
    Fault(
        "a store that was harmed in its end only is as it was left",
        "tests/test_unreadable.py::"
        "test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start[smaller]",
        (("mirror_core/site.py", "        self._look_at_stores()  # last", "        # last"),),
    ),
    Fault(
        "what an orderly stop meets of a cut is not as it was left, and no more than that (I1)",
        "tests/test_cut.py::test_a_cut_that_a_stop_meets_is_asked_about",
        (("mirror_core/site.py", "        role, volumes, unread =",
          "        self._look_at_stores()\n        role, volumes, unread ="),
         ("mirror_core/site.py", "        self._look_at_stores()  # last", "        # last")),
        "no_look_after_the_last_read",
    ),
    Fault(
        "a target's store that was made smaller holds its image when it is large again",
        "tests/test_unreadable.py::"
        "test_a_target_whose_store_was_made_smaller_has_no_image_when_it_is_large_again",
        (("mirror_core/site.py", "volumes=ledger.with_harmed(volumes or self._in_use(), harmed)",
          "volumes=volumes or self._in_use()"),
         ("mirror_core/site.py", "return ledger.with_harmed(volumes, self._words_of_harm())",
          "return volumes")),
        "large_again_is_an_image",
    ),
    Fault(
        "a store that a start found smaller is as it was, once it is large again (I1)",
        "tests/test_unreadable.py::test_a_source_s_store_that_is_large_again_is_not_as_it_was "
        "tests/test_unreadable.py::test_a_target_s_store_that_is_large_again_is_no_image",
        (("mirror_core/site.py", "                self._note_harmed(record, one, part, harmed)\n",
          ""),),
        "small_at_a_start_is_forgotten",
    ),
    Fault(
        "a store that was made smaller, and large again under a running site, is as it was (I1)",
        "tests/test_unreadable.py::test_a_source_s_store_that_is_large_again_is_not_as_it_was "
        "tests/test_unreadable.py::test_a_target_s_store_that_is_large_again_is_no_image",
        (("mirror_core/site.py", "                if self.control.was_cut(*key):",
          "                if False:"),),
        "large_again_while_it_runs",
    ),
    Fault(
        "a promotion needs to read all that a fingerprint looks at",
        "tests/test_bad_sector.py::"
        "test_a_sector_that_cannot_be_read_keeps_no_image_from_its_promotion[running]",
        (("mirror_core/promotion.py", ", stores.Opened.stopped_or_unread)", ")"),),
        "promotion_reads_all",
    ),
    Fault(
        "what the state folder has heard of the disk of a seed is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_state_folder_hears_of_its_disk_is_heard_of_a_seed_on_it",
        (("mirror_core/site.py", "(seeded or not book.whole):\n",
          "(not seeded and not book.whole):\n"),),
        "heard_by_the_folder_only",
    ),
    Fault(
        "what the record of a store that was found smaller has heard is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores",
        (("mirror_core/site.py", "with heard.listening(self.platform, lambda: near, doubt):",
          "with contextlib.nullcontext():"),),
        "heard_by_found_smaller_only",
    ),
    Fault(
        "a store is smaller, and its ledger's trouble is all that is said",
        "tests/test_losing_disk.py::"
        "test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores",
        (("mirror_core/site.py", "f\"{harmed}; nor can that", "f\"nor can that"),),
        "smaller_unsaid",
    ),
    Fault(
        "a blank intermediate is flushed before what was put back (I9)",
        "tests/test_losing_disk.py::"
        "test_what_was_put_back_is_flushed_before_a_blank_intermediate_is_asked_for",
        (("mirror_core/site.py", "        if not source:\n            take_in(\"intermediate\")\n",
          "        take_in(\"intermediate\")\n"),
         ("mirror_core/site.py", "        if source:\n            take_in(\"intermediate\")\n",
          "")),
        "blank_before_what_counts",
    ),
    Fault(
        "an image that is whole in data is not promoted for want of an intermediate",
        "tests/test_taken_away.py::test_an_image_is_promoted_without_a_store_that_holds_none_of_it",
        (("mirror_core/site.py", "lost = self._lost_stores()[1]",
          "lost = self._lost_stores()[0]"),),
        "intermediate_is_needed",
    ),
    Fault(
        "a kill forgets which store was seen smaller (I1)",
        "tests/test_unreadable.py::"
        "test_a_source_s_store_that_is_large_again_is_not_as_it_was[seen] "
        "tests/test_unreadable.py::test_a_target_s_store_that_is_large_again_is_no_image[seen-data]",
        (("mirror_core/site.py", "if not self.harm_is_recorded() and ", "if False and "),),
        "seen_and_killed",
    ),
    Fault(
        "nobody looks at the stores of a site whose status nobody asks for (I1)",
        "tests/test_unreadable.py::"
        "test_a_source_s_store_that_is_large_again_is_not_as_it_was[unasked] "
        "tests/test_unreadable.py::"
        "test_a_target_s_store_that_is_large_again_is_no_image[unasked-data]",
        (("mirror_core/site.py", "            self._looker.start()\n", "            pass\n"),),
        "looks_only_when_asked",
    ),
    Fault(
        "what is pending in an intermediate that was cut is hardened (I1)",
        "tests/test_cut.py::test_nothing_of_the_image_is_hardened_that_was_cut simulate:1000:cut",
        (("mirror_core/second.py", "            self._refuse_lost()  # before", "            #"),
         ("mirror_core/second.py", "        self._refuse_lost()  # all of it is read by now\n", ""),
         ("mirror_core/second.py", "        self._refuse_lost()\n        members =",
          "        members =")),
        "cut_and_hardened",
    ),
    Fault(
        "what is copied from an intermediate that is cut meanwhile is hardened (I1)",
        "tests/test_second.py::test_what_was_cut_while_it_was_copied_is_hardened_nowhere "
        "simulate:1000:cut",
        (("mirror_core/second.py", "        self._refuse_lost()  # all of it is read by now\n", ""),
         ("mirror_core/second.py", "        self._refuse_lost()\n        members =",
          "        members =")),
        "cut_while_it_is_copied",
    ),
    Fault(
        "each start that is refused for a cut flushes first",
        "tests/test_cut.py::test_a_start_that_is_refused_for_a_cut_writes_nothing",
        (("mirror_core/site.py", "if ledger.is_harmed(getattr(records[key[0]], key[1])):",
          "if False:"),),
        "flushed_and_refused",
    ),
    Fault(
        "a target that has lost some of its image commits, which nobody can promote",
        "simulate:1000:cut",
        (("mirror_core/target.py", "            self._refuse_lost()\n            if request.",
          "            if request."),
         ("mirror_core/target.py",
          "                self._refuse_lost()\n            except cut.ImageLost:",
          "                pass\n            except cut.ImageLost:")),
        "commits_without_an_image",
    ),
    Fault(
        "a source does not hear that its target has lost some of the image",
        "tests/test_cut.py::test_a_target_whose_data_was_cut_commits_no_more",
        (("mirror_core/target.py", "        self._refuse_lost()\n        done =",
          "        done ="),),
        "lost_image_is_untold",
    ),
    Fault(
        "an image of which some is gone is a point that somebody may rely on",
        "tests/test_cut.py::test_a_target_whose_data_was_cut_commits_no_more",
        (("mirror_core/status.py", "    whole = book.whole and not lost\n",
          "    whole = book.whole\n"),),
        "relies_on_a_lost_image",
    ),
    Fault(
        "of two stores that were cut the log names one",
        "tests/test_cut.py::test_each_store_that_was_cut_is_told",
        (("mirror_core/site.py", "                    if one not in known:\n",
          "                    if not known:\n"),),
        "one_cut_is_told",
    ),
    Fault(
        "a cut of data that holds nothing yet is asked about",
        "tests/test_cut.py::test_a_cut_of_data_before_its_first_image_costs_nothing[True]",
        (("mirror_core/site.py", 'if holds or key[1] != "data"]', "]"),),
        "cut_of_nothing_is_asked",
    ),
    Fault(
        "a first image is committed on a data store that is too small, and is lost with it",
        "tests/test_cut.py::test_a_first_image_waits_for_a_data_store_that_is_too_small",
        (("mirror_core/target.py", "whole and (short := self._short_data()):",
          "whole and (short := None):"),),
        "first_image_on_a_small_store",
    ),
    Fault(
        "a stop records a cut that is made good",
        "tests/test_cut.py::test_a_stop_makes_good_a_cut_of_nothing",
        (("mirror_core/target.py", "                self._cuts.begin(cuts)\n", ""),),
        "cut_at_a_stop",
    ),
    Fault(
        "what is left of a source's data that was cut while it runs is sent",
        "tests/test_cut.py::test_a_source_whose_data_was_cut_sends_no_more",
        (("mirror_core/driver.py", "if lost := cut.of_source(self._copier.members):",
          "if lost := []:"),),
        "cut_and_sent",
    ),
    Fault(
        "a target refuses because of a cut, and a kill forgets that (I1)",
        "tests/test_cut.py::test_who_refuses_because_of_a_cut_has_recorded_it[west] "
        "tests/test_hung_state.py::test_a_cut_is_remembered_while_a_store_hangs",
        (("mirror_core/target.py", "            self._remember_cut(self.lost_stores())\n", ""),),
        "refused_and_killed",
    ),
    Fault(
        "a source refuses because of a cut, and a kill forgets that",
        "tests/test_cut.py::test_who_refuses_because_of_a_cut_has_recorded_it[east]",
        (("mirror_core/driver.py", "            self._remember_cut(lost)\n", ""),),
        "not_sent_and_killed",
    ),
    Fault(
        "a look that ends late takes back what it has not seen (I1)",
        "tests/test_cut.py::test_who_refuses_because_of_a_cut_has_recorded_it",
        (("mirror_core/site.py", "words if now.volumes == before else {}", "words"),),
        "a_late_look_forgets",
    ),
    Fault(
        "a cut between a look at the source's data and the freeze is sent",
        "tests/test_cut.py::test_a_cut_that_comes_before_the_freeze_is_met_after_it",
        (("mirror_core/driver.py", "        self._refuse_cut()  # of before the freeze\n", ""),),
        "cut_before_the_freeze",
    ),
    Fault(
        "a commit leaves the word of a cut that it has made good (I1)",
        "tests/test_cut.py::test_a_commit_takes_back_the_word_of_a_cut",
        (("mirror_core/target.py",
          '                    "volumes": ledger.with_harmed(now.volumes, over),\n', ""),),
        "word_after_its_commit",
    ),
    Fault(
        "a commit takes back the word of a cut that came while it was under way (I1)",
        "tests/test_cut.py::test_a_commit_takes_back_no_word_that_is_newer",
        (("mirror_core/target.py", "ledger.with_harmed(now.volumes, over)",
          "ledger.with_harmed(mine.volumes, over)"),),
        "newer_word_and_its_commit",
    ),
    Fault(
        "a look that cannot look at a store forgets that it was cut (I1)",
        "tests/test_cut.py::test_a_look_that_fails_forgets_no_cut",
        (("mirror_core/site.py", "                if self.control.was_cut(*key):\n",
          "                self._look_at(one, size, [], [])\n"
          "                if self.control.was_cut(*key):\n"),),
        "failed_look_forgets",
    ),
    Fault(
        "of several stores that are smaller a start remembers the first (I1)",
        "tests/test_cut.py::test_a_start_remembers_each_store_that_is_smaller",
        (("mirror_core/site.py", "                    harmed.append(error)\n",
          "                    raise\n"),),
        "first_smaller_only",
    ),
    Fault(
        "a source whose cycle takes long does not hear that its target's image is lost",
        "tests/test_cut.py::test_a_long_cycle_is_told_of_a_lost_image",
        (("mirror_core/target.py", "            self._refuse_lost()\n            self._check_under",
          "            self._check_under"),),
        "lost_in_a_long_cycle",
    ),
    Fault(
        "who waits for a source whose data was cut waits for ever",
        "tests/test_cut.py::test_a_source_whose_data_was_cut_sends_no_more",
        (("mirror_core/driver.py", "self._say(str(error), refused=True)\n                elif not",
          "self._say(str(error))\n                elif not"),),
        "waits_for_a_cut_source",
    ),
    Fault(
        "a cycle in which the source's data was cut is committed",
        "tests/test_cut.py::test_a_cut_that_comes_before_the_freeze_is_met_after_it",
        (("mirror_core/driver.py", "        self._refuse_cut()\n        if self._cuts_of",
          "        if self._cuts_of"),),
        "cut_in_a_cycle",
    ),
    Fault(
        "a cycle is committed whose first intermediate was cut (I1)",
        "tests/test_cut.py::test_a_cycle_is_not_committed_whose_intermediate_was_cut",
        (("mirror_core/driver.py", "if self._cuts_of_intermediates() != self._cuts:",
          "if False:"),),
        "its_intermediate_was_cut",
    ),
    Fault(
        "a device that is away is promoted",
        "tests/test_unreadable.py::test_a_device_that_is_away_was_not_made_smaller",
        (("mirror_core/site.py", "            image.append(str(error))\n", "            pass\n"),),
        "promoted_without_a_disk",
    ),
    Fault(
        "what was stable in an intermediate that was made smaller is not sent again (I1)",
        "tests/test_unreadable.py::test_a_cycle_is_sent_again_whose_store_was_cut "
        "tests/test_cut.py::test_what_was_stable_in_a_cut_intermediate_is_sent_again",
        (("mirror_core/target.py",
          "anew or self._cuts.in_session(cuts, seeded=seeded) is not None", "anew"),),
        "stable_was_cut",
    ),
    Fault(
        "nor is it if the target is stopped before another session (I1)",
        "tests/test_unreadable.py::test_a_cycle_is_sent_again_whose_store_was_cut[and-stopped]",
        (("mirror_core/target.py", "                self._written.forget()\n"
          "                self._cuts.begin(cuts)\n", "                self._cuts.begin(cuts)\n"),),
        "stable_was_cut_at_a_stop",
    ),
    Fault(
        "of several stores that could not be read at a stop only the first is doubted (I1)",
        "tests/test_unreadable.py::test_each_store_that_could_not_be_read_at_a_stop_is_doubted",
        (("mirror_core/site.py", "                    yield key\n",
          "                    yield key\n                    return\n"),),
        "first_unreadable_only",
    ),
    Fault(
        "a store that could not be flushed at a stop is not looked at (I1)",
        "tests/test_unreadable.py::"
        "test_a_store_that_could_neither_be_flushed_nor_read_is_doubted[at-the-stop-west]",
        (("mirror_core/site.py", "        if not volumes:  # of what", "        if False:  #"),),
        "unflushed_and_unlooked",
    ),
    Fault(
        "a stop waits for a server that hangs once for each store",
        "tests/test_unreadable.py::"
        "test_a_stop_waits_for_a_server_that_hangs_not_once_for_each_store",
        (("mirror_core/site.py", "                    answers = False\n",
          "                    pass\n"),),
        "looks_at_all_that_hangs",
    ),
    Fault(
        "a comparison waits for the data store, of which no commit needs anything",
        "tests/test_compare.py::test_a_comparison_goes_on_without_the_data_store",
        (("mirror_core/target.py", "        except OSError:  # of data no commit",
          "        except ZeroDivisionError:  # of data no commit"),),
        "compares_with_data_only",
    ),
    Fault(
        "a look at a store that hangs holds up whoever asks",
        "tests/test_hung_state.py::test_a_store_that_hangs_holds_up_no_question",
        (("mirror_core/site.py", "            return next(iter(self._lost_stores()[0]), None)\n",
          "            return next(iter(self._look_and_record()[0]), None)\n"),),
        "asked_beside_a_hang",
    ),
    Fault(
        "a promotion does not look whether a store was deleted",
        f"{DELETED}_is_not_lost_by_a_stop_or_a_promotion[west-data]",
        (("mirror_core/site.py", "        if lost:\n            raise StoreError(f\"cannot begin",
          "        if False:\n            raise StoreError(f\"cannot begin"),),
        "promotion_ends_a_deleted_store",
    ),
    Fault(
        "a target does not tell of what its source could not write",
        "tests/test_failed_writes.py::"
        "test_a_target_whose_intermediate_is_full_says_so_until_it_is_written",
        (("mirror_core/target.py", "            if found.write_error and found.write_errors >",
          "            if False and found.write_errors >"),),
        "target_hides_a_full_disk",
    ),
    Fault(
        "a seed is flushed at a start before it is in doubt (I9)",
        "tests/test_losing_disk.py::test_a_seed_that_a_device_has_refused_is_given_up",
        (("mirror_core/site.py",
          '            if current.role == "target" and not current.whole:\n',
          "            if False:\n"),),
        "seed_flushed_too_soon",
    ),
    Fault(
        "a store that fails is tried again and again, without a pause",
        "tests/test_store_faults.py::test_a_fault_of_a_store_passes[east-data]",
        (("mirror_core/driver.py",
          "        self._retry_at = self._platform.monotonic() + self._backoff * "
          "self._platform.uniform(\n            0.5, 1.0\n        )\n",
          "        self._retry_at = self._platform.monotonic()\n"),),
        "tried_without_a_pause",
    ),
)  # fmt: skip
