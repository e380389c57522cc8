"""Faults of flushes in the core, and of what tells of a loss."""

from __future__ import annotations

from faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a large block is sent at once, however slow its store is",
        "native:slow",
        (("native/parts.c",
          "is_paced (s, kind) ? fm_pace_piece",
          "kind == FM_ZERO ? fm_pace_piece"),),
        "LARGE_AT_ONCE",
    ),
    Fault(
        "more is written at once than a store's server takes",
        "tests/test_block_sizes.py::"
        "test_it_mirrors_between_servers_that_take_whole_blocks_only",
        (("native/parts.c", "  return piece < most ? piece : most;",
          "  return most ? piece : most;"),),
        "WRITES_TOO_MUCH_AT_ONCE",
    ),
    Fault(
        "more is read at once, to be compared, than a store's server takes",
        "tests/test_block_sizes.py::"
        "test_it_mirrors_between_servers_that_take_whole_blocks_only",
        (("native/gather.c", "n, buf, s->sizes.maximum);", "n, buf, UINT32_MAX);"),),
    ),
    Fault(
        "connections on which a flush has failed stay in use",
        "native:lost",
        (("native/flush.c", "(s->anchor->failed || op->rc < 0)", "s->anchor->failed"),),
        "ERRORS_STAY",
    ),
    Fault(
        "a server of which nobody has an anchor is taken for gone",
        "native:lost",
        (("native/flush.c", "  uint64_t gone = atomic_load (&s->gone_ns);\n",
          "  uint64_t gone = atomic_load (&s->gone_ns);\n"
          "  if (!fm_store_has_anchor (s))\n    return true;\n"),),
        "NO_ANCHOR_IS_GONE",
    ),
    Fault(
        "a server that was restarted once has gone for connections made since, too",
        "native:lost",
        (("native/flush.c", "return gone > opened_ns && ", "return (void)opened_ns, gone && "),),
        "GONE_ONCE_IS_GONE",
    ),
    Fault(
        "a server that does not answer its flush in time has gone",
        "native:lost",
        (("native/flush.c", "bool gone = s->anchor->failed == -ENOTCONN;", "bool gone = true;"),),
        "SILENT_IS_GONE",
    ),
    Fault(
        "nobody hears that a server has gone which only lanes write to",
        "native:lost",
        (("native/volume.c", "  fm_store_watch (v->first);\n", ""),),
        "LANES_HAVE_NO_ANCHOR",
    ),
    Fault(
        "the end of an anchor on which nobody counts is a loss",
        "native:lost",
        (("native/flush.c", " && writes > s->before)", ")"),),
        "WATCHED_IS_LOST",
    ),
    Fault(
        "what has outlived an anchor has ended with it",
        "native:lost",
        (("native/flush.c", "return gone > opened_ns && gone + TOGETHER_NS > seen_ns;",
          "return gone > opened_ns && (gone + TOGETHER_NS > seen_ns || gone);"),),
        "OUTLIVES_ITS_SERVER",
    ),
    Fault(
        "a server that has gone is waited for",
        "native:lost",
        (("native/flush.c", "  fm_late_server_gone (s);\n", ""),),
        "GONE_IS_LATE",
    ),
    Fault(
        "a source shares extents, and a client's write finds no space",
        "tests/test_shared_extents.py",
        (("native/lane.c", "if (!v->strict || s->copy", "if (s->copy"),),
        "SOURCE_SHARES",
    ),
    Fault(
        "a connection that ended is asked for its error after it was freed",
        "native:pool",
        (("native/gather.c", "op.rc : failed;", "op.rc : g.port->failed;"),),
        "FREED_PORT_IS_ASKED",
    ),
    Fault(
        "what a disk says to one store's flush is not told to the others on it (I9)",
        "native:below simulate:20000",
        (("native/below.c", "  if (is_the_disks (rc))\n    count_loss",
          "  if (0 && is_the_disks (rc))\n    count_loss"),),
        "LOSS_IS_ONES_OWN",
    ),
    Fault(
        "a flush is good before another's on its disk has told what it heard (I9)",
        "native:below",
        (("native/below.c", "while (rc == 0 && !(own && own->hurries)", "while (0"),),
        "GOOD_BEFORE_IT_IS_TOLD",
    ),
    Fault(
        "a flush waits for one on what is only perhaps its disk, which may hang for ever",
        "native:below",
        (("native/below.c", "if (f->below == below && f->number < number)",
          "if ((f->below == below || (f->below < 0 && below < 0)) && f->number < number)"),),
        "DOUBT_IS_A_WAIT",
    ),
    Fault(
        "what a disk says to one store's flush is not told to those of which it is a doubt (I9)",
        "native:below",
        (("native/below.c", "(s->below == below || (s->below < 0 && below < 0))",
          "s->below == below"),),
        "DOUBT_IS_NO_LOSS",
    ),
    Fault(
        "a full disk is a loss for all that stand on it",
        "native:below",
        (("native/below.c", "rc < 0 && rc != -ENOSPC", "rc < 0"),),
        "FULL_IS_LOST",
    ),
    Fault(
        "what another's flush has lost of sink 0 counts as whole (I1)",
        "native:below",
        (("native/volume.c", "rc == 0 && lost != known ?", "0 ?"),),
    ),
    Fault(
        "a log of hot regions that another's flush may have lost is not written anew (I4)",
        "native:below",
        (("native/intent.c", "if (is_hot (i, first, last) && !has_lost (i))",
          "if (is_hot (i, first, last))"),),
    ),
    Fault(
        "a log of hot regions counts as whole before all of it is written anew (I4)",
        "native:below",
        (("native/intent.c", "    make_all_dirty (i);\n  *from",
          "    make_all_dirty (i), atomic_store (&i->heard, before);\n  *from"),),
        "LOG_WHOLE_TOO_SOON",
    ),
    Fault(
        "what is durable by a client's flush is in regions whose log may be lost (I4)",
        "native:below",
        (("native/news.c", "return fm_volume_seal_intent (v);", "return 0;"),),
        "DURABLE_IN_A_LOST_LOG",
    ),
    Fault(
        "a client's flush is good before the log has heard of a flush beside it (I4)",
        "native:below",
        (("native/intent.c",
          "    fm_below_wait (i->log->below, atomic_load (&i->flushed));\n", ""),),
        "LOG_HAS_NOT_HEARD",
    ),
    Fault(
        "a sync of the state folder is good though another's has lost what it covers (I9)",
        "native:below",
        (("native/below.c", "return rc == 0 && fm_below_losses () != since ? -EIO : rc;",
          "return rc;"),),
        "SYNC_BESIDE_A_LOSS",
    ),
    Fault(
        "a disk that drops its cache slowly keeps the flushes of all disks waiting",
        "native:below",
        (("native/below.c", "  pthread_mutex_unlock (&lock);\n  if (is_the_disks (rc))\n"
          "    forget (f->below, own);\n",
          "  if (is_the_disks (rc))\n    forget (f->below, own);\n"
          "  pthread_mutex_unlock (&lock);\n"),),
    ),
    Fault(
        "a log of hot regions that may be lost waits for the next one that is heated (I4)",
        "native:below",
        (("native/intent.c", "if (cooled || has_lost (i))\n", "if (cooled)\n"),),
    ),
    Fault(
        "who heats a region, in the gate, waits for another's flush (I6)",
        "native:below",
        (("native/below.c", " && !(own && own->hurries)", ""),),
    ),
    Fault(
        "a good write elsewhere hides one that failed",
        "tests/test_failed_writes.py::test_a_source_whose_data_store_is_full_says_that_writes_fail "
        "native:request",
        (("native/request.c", "  if (f->at >= f->end)\n    f->rc = 0;\n", "  f->rc = 0;\n"),),
        "GOOD_WRITE_HIDES_A_BAD_ONE",
    ),
    Fault(
        "a good read of the first bytes of one that failed hides it",
        "native:request",
        (("native/request.c", "    f->at = end;\n  else if (at < f->end",
          "    f->at = f->end;\n  else if (at < f->end"),),
        "GOOD_BEGINNING_HIDES_A_BAD_END",
    ),
    Fault(
        "a server that takes no connection just now is not asked for its size any more (I1)",
        "native:nbd",
        (("native/flush.c", "      fm_pool_ask_size (s);", "      ;"),),
        "ASKED_ONCE",
    ),
    Fault(
        "who counts on a server's bytes does not wait for its size (I1)",
        "native:nbd",
        (("native/flush.c", "      ask_size (s);", "      (void)ask_size;"),),
        "SIZE_IS_NOT_WAITED_FOR",
    ),
    Fault(
        "a server that does not tell its size is waited for by each who counts on it",
        "native:nbd",
        (("native/flush.c", "s->in_vain != 1 + settled", "true"),),
        "WAITED_FOR_ITS_SIZE_EACH_TIME",
    ),
    Fault(
        "a server that has told its size once is not asked at the next doubt (I1)",
        "native:nbd",
        (("native/flush.c", "      s->in_vain = 1 + settled;",
          "      s->in_vain = 1 + atomic_load (&s->settled);"),),
        "TOLD_ITS_SIZE_ONCE",
    ),
    Fault(
        "to ask a server for its size takes a connection from who has one",
        "native:nbd",
        (("native/flush.c", "      ask_size (s);", "      fm_pool_drop (s), ask_size (s);"),),
        "ASKED_IN_PLACE_OF_OTHERS",
    ),
    Fault(
        "a flush of such a store to which nothing was written is good",
        "native:store",
        (("native/flush.c", " && !(held && is_short (s))", ""),),
        "SHORT_SINCE_A_FLUSH",
    ),
    Fault(
        "all that a cycle copies into a file is left to its flush, for which clients' flushes wait",
        "native:store",
        (("native/lane.c", "|| l->cached < WRITE_OUT ||", "|| 1 ||"),),
        "ALL_IS_LEFT_TO_THE_FLUSH",
    ),
    Fault(
        "lone blocks are written out one by one where a flush of all is quick",
        "native:store",
        (("native/lane.c", "  if (!atomic_load (&first->flushes_slowly) && ", "  if (0 && "),),
        "QUICK_IS_SLOW",
    ),
    Fault(
        "a writer whose block is copied first waits for a place in the disk's queue",
        "native:store",
        (("native/lane.c", "  if (l->nslots == 1 || l->cached", "  if (l->cached"),),
        "WRITER_WAITS_FOR_THE_QUEUE",
    ),
    Fault(
        "what was sent to a sink 0 that had been made smaller counts as whole (I1)",
        "native:store",
        (("native/volume.c", "return rc == 0 && lost != known ?",
          "return rc == 0 && lost != known && v->first->below ?"),),
        "SINK_WAS_CUT",
    ),
    Fault(
        "what a sink 0 that is a server has lost beside its own flush counts as hardened (I2)",
        "native:failure",
        (("native/volume.c", "return rc == 0 && lost != known ?",
          "return rc == 0 && lost != known && !fm_store_is_server (v->first) ?"),),
        "SERVER_LOST_BESIDE_A_FLUSH",
    ),
    Fault(
        "what is written back to a file gives its space back",
        "native:lost",
        (("native/lane.c", "? FM_PUNCH | FM_KEEP :", "? FM_PUNCH :"),),
        "SPACE_GIVEN_BACK",
    ),
    Fault(
        "data that is written back to a file fills the holes beside it",
        "native:lost",
        (("native/lane.c", "FM_PUNCH | FM_KEEP : FM_KEEP,", "FM_PUNCH | FM_KEEP : 0,"),),
        "HOLES_BESIDE_DATA_FILLED",
    ),
    Fault(
        "a write that was given up voids the cycle that is copied after it has settled",
        "native:failure",
        (("native/volume.c", "= fm_late_refusal (v->first);", "= 0;"),),
        "LATE_WRITE_VOIDS_A_COPY",
    ),
    Fault(
        "what was lost before a retry makes that fail, too",
        "native:failure",
        (("native/volume.c", "int rc = begin_first (v);", "int rc = 0;"),),
        "RETRY_COUNTS_OLD_LOSSES",
    ),
    Fault(
        "a retry has counted what is late before a writer's copy has come to its end",
        "native:failure",
        (("native/volume.c",
          "  drain_claims (v); /* first: one of them may be given up; and nobody begins another "
          "until it is abandoned no more */\n  pthread_mutex_unlock (&v->lock);\n"
          "  int rc = begin_first (v);\n",
          "  pthread_mutex_unlock (&v->lock);\n  int rc = begin_first (v);\n"
          "  pthread_mutex_lock (&v->lock);\n  drain_claims (v);\n"
          "  pthread_mutex_unlock (&v->lock);\n"),),
        "LATE_COPY_VOIDS_A_RETRY",
    ),
    Fault(
        "an anchor that has ended is given up after the look at what is not flushed",
        "native:order_store",
        (("native/flush.c",
          "  atomic_store (&s->anchored, 0); /* before `writes` is read: fm_store_written */\n",
          ""),
         ("native/flush.c", "  fm_pool_drop (s);\n}\n",
          "  atomic_store (&s->anchored, 0);\n  fm_pool_drop (s);\n}\n")),
    ),
    Fault(
        "a write is counted after the look at its anchor",
        "native:order_store",
        (("native/flush.c", "  atomic_fetch_add (&s->writes, 1);\n  if (rc == 0 && fm_store_is",
          "  if (rc == 0 && fm_store_is"),
         ("native/flush.c", "    fm_store_lose (s);\n}\n\nint\nfm_store_flush",
          "    fm_store_lose (s);\n  atomic_fetch_add (&s->writes, 1);\n}\n\n"
          "int\nfm_store_flush")),
    ),
    Fault(
        "who looks at a server waits until its flush has ended",
        "native:lost",
        (("native/flush.c", "  if (!try_hold_flush (s, &came))\n    return -EBUSY;\n",
          "  hold_flush (s, UINT64_MAX, &came);\n"),),
        "LOOK_WAITS_FOR_A_FLUSH",
    ),
    Fault(
        "who comes back is not told of a loss of which somebody else has heard",
        "native:lost simulate:10000",
        (("native/news.c", "return fm_now_ns () < since", "return 0 && fm_now_ns () < since"),),
        "NOT_TOLD_AGAIN",
    ),
    Fault(
        "who came shortly before a loss and leaves is forgotten",
        "native:lost",
        (("native/news.c", "(was_there || now >=", "((was_there && 0) || now >="),),
        "LEAVER_IS_FORGOTTEN",
    ),
    Fault(
        "who cannot look for the connections takes them all for ended",
        "native:callers",
        (("native/callers.c", "    return -errno;\n", "    return 0;\n"),),
        "CALLERS_ALL_ENDED",
    ),
    Fault(
        "who waits for a flush waits for his own, though another's has covered him",
        "native:durable",
        (("native/flush.c", "while (s->flush_held && !is_done (s, wanted))",
          "while (s->flush_held)"),),
        "EACH_WAITS_FOR_HIS_OWN",
    ),
    Fault(
        "each who waits for a silent server tries it himself",
        "native:durable",
        (("native/flush.c", "came <= s->failed_for ? s->failed_rc : open_anchor (s)",
          "open_anchor (s)"),
         ("native/flush.c", "else if (came <= s->failed_for)", "else if (0)")),
        "EACH_TRIES_HIMSELF",
    ),
    Fault(
        "what was written while a flush was under way counts as covered by it",
        "native:order_store",
        (("native/flush.c", "  uint64_t covers = atomic_load (&s->writes);\n", ""),
         ("native/flush.c", "atomic_store (&s->covered, covers);",
          "atomic_store (&s->covered, atomic_load (&s->writes));")),
    ),
    Fault(
        "a zero of which a part was done counts as one that was not sent",
        "native:durable",
        (("native/parts.c", "    t->op.refused = false; /* the part before it was done */\n", ""),),
        "PART_IS_REFUSED",
    ),
    Fault(
        "what a device shows and has lost is copied, and not written back (I9)",
        "tests/test_losing_disk.py::test_what_a_device_has_lost_is_not_copied_from_its_cache",
        (("native/volume.c", "v[i]->restores = !v[i]->strict && lost",
          "v[i]->restores = !v[i]->strict && fm_store_is_server (v[i]->front) && lost"),),
        "DEVICE_IS_BELIEVED",
    ),
    Fault(
        "a store is asked for 64 MiB at once, whatever it has shown",
        "native:zero "
        "tests/test_slow.py::test_a_trim_on_a_slow_store_holds_up_nobody",
        (("native/parts.c", "? fm_pace_piece (&s->pace[kind])", "? FM_PACE_MOST"),),
        "AS_MUCH_AS_EVER_AT_ONCE",
    ),
    Fault(
        "a server that went with unflushed writes is just connected to again (I9)",
        "native:lost",
        (("native/flush.c", "  if (writes > atomic_load (&s->covered) && writes > s->before)\n"
          "    fm_store_lose (s);\n", ""),),
        "SERVER_JUST_CONNECTED",
    ),
    Fault(
        "only who asks first hears of a failed flush (I9)",
        "native:lost",
        (("native/flush.c", "return rc == 0 && lost != known ? -EIO : rc;",
          "return rc + 0 * (int)(lost - known);"),),
        "FIRST_HEARS_ALONE",
    ),
)  # fmt: skip
