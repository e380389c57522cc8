"""Faults of a line or two, each with the test that must catch it: tests of the tests.

A fault is edits of the source; it is built into a copy, never switched at run time.
`scripts/mutants` plants them one at a time, and tests plant those that have a name (`plant`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """`caught_by`: a program of native/tests (`native:NAME`, `fuzz:NAME`) or a pytest node."""

    what: str
    caught_by: str
    edits: tuple[tuple[str, str, str], ...]  # (file, what stands there once, instead)
    name: str = ""

    def plant(self, root: Path) -> None:
        """Into a copy of the checkout.  NotPlanted: it no longer fits the source."""
        for file, old, new in self.edits:
            text = (root / file).read_text()
            if text.count(old) != 1:
                raise NotPlanted(f"{file} has {text.count(old)} times what the fault replaces")
            (root / file).write_text(text.replace(old, new))


class NotPlanted(Exception):
    """The fault could not be built in."""


def named(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


FAULTS = (
    Fault(
        "no freeze (I6)",
        "native:volume",
        (("native/gate.c", "  uint32_t old = atomic_fetch_or (&g->state, FM_GATE_CLOSED);\n"
          "  assert (!(old & FM_GATE_CLOSED));\n", "  (void)g;\n"),
         ("native/gate.c", "while (r == 0 && (atomic_load (&g->state)",
          "while (0 && (atomic_load (&g->state)"),
         # The volumes' moments differ, as without a common freeze they may.
         ("native/volume.c", "    atomic_store (&v[i]->abandoned, 0);\n",
          "    atomic_store (&v[i]->abandoned, 0);\n"
          "    fm_poll_until (NULL, 0, fm_now_ns () + 2 * FM_MS);\n")),
        "NO_FREEZE",
    ),
    Fault(
        "a map in locked memory keeps the bits that it was emptied of",
        "native:bitmap",
        (("native/bitmap.c", "  void *fresh = mmap (p, bytes, PROT_READ | PROT_WRITE,\n"
          "                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);\n"
          "  assert (fresh == p);\n", "  madvise (p, bytes, MADV_DONTNEED);\n"),),
    ),
    Fault(
        "a writer waits for the peer as long as those before it and its own copy take together",
        "native:patience",
        (("native/request.c", "if (r->at_second && patience &&", "if (0 && patience &&"),),
        "NO_PATIENCE",
    ),
    Fault(
        "a source takes a target that says `not yet` for a lost one",
        "native:patience",
        (("native/lane.c", "l->put_off = rc == -EAGAIN && part == 1;", "l->put_off = false;"),),
    ),
    Fault(
        "a target says nothing while it hardens what its source wants to overwrite",
        "native:patience",
        (("native/request.c", "return patience && !r->lane", "return 0 && !r->lane"),),
        "NO_PUTTING_OFF",
    ),
    Fault(
        "a flush of much has no more time than one of little",
        "native:slow",
        (("native/store.c", "fm_now_ns () + left * FM_FLUSH_BYTE_NS", "fm_now_ns () + 0 * left"),),
    ),
    Fault(
        "zeroes in a server's cache are not counted as bytes to be flushed",
        "native:slow",
        (("native/store.c", "(op->kind == FM_WRITE || op->kind == FM_ZERO) && rc",
          "op->kind == FM_WRITE && rc"),),
    ),
    Fault(
        "what the process before wrote is not counted as bytes to be flushed",
        "tests/test_slow_flush.py::test_what_the_process_before_wrote",
        (("mirror_core/site.py", "                    one.store.unflushed()\n",
          "                    pass\n"),),
    ),
    Fault(
        "the room for requests is shared by all stores, and none has its own",
        "native:room",
        (("native/room.c", "if (!own || *own)", "if (own || !own)"),),
    ),
    Fault(
        "what this site's own stores take counts as the peer's",
        "native:patience",
        (("native/lane.c", "near_done && !done, memory", "!done, memory"),),
    ),
    Fault(
        "no copy before write",
        "native:volume",
        (("native/request.c", "  int rc = copied_before (v, r);\n",
          "  int rc = 1;\n  (void)copied_before;\n"),),
        "NO_COPY_BEFORE_WRITE",
    ),
    Fault(
        "a thread of nbdkit makes a Python thread state for each request",
        "tests/test_pin.py::test_a_request_does_not_make_a_thread_state",
        (("native/pin.c", "if (pinned || !PIN)", "if (pinned || PIN)"),),
        "NO_PIN",
    ),
    Fault(
        "the background has as many buffers as ever, however long its pieces are",
        "native:room",
        (("native/room.h", "#define FM_PIECE_BULK (2 * FM_MIB)",
          "#define FM_PIECE_BULK (32 * FM_MIB)"),
         ("native/lane.c", "l->nslots = nslots > FM_ROOM_BULK / l->piece ?",
          "l->nslots = 0 ?")),
    ),
    Fault(
        "a block of which a piece stands in the sinks counts as copied",
        "native:room",
        (("native/lane.c", "if (rc == 0 && s->at + s->n < bytes_of (l->v, s->claim)) {",
          "if (0) {"),),
    ),
    Fault(
        "after a kill nobody is told that a restarted server has lost writes",
        "tests/test_server_instance.py::test_a_kill_while_the_server_is_restarted_is_told",
        (("mirror_core/server_instance.py", "                volume.lose_front()\n", ""),),
    ),
    Fault(
        "a server that lost writes is recorded as known before anybody was told",
        "tests/test_server_instance.py::test_what_nobody_has_heard_of_survives_another_kill",
        (("mirror_core/server_instance.py",
          "                if name in self._known:\n"
          "                    self._known[name] = None\n", ""),),
    ),
    Fault(
        "who comes back is not told of a loss of which somebody else has heard",
        "native:lost",
        (("native/news.c", "return fm_now_ns () < since", "return 0 && fm_now_ns () < since"),),
    ),
    Fault(
        "a server is recorded as known while somebody may come back who was not told",
        "tests/test_server_instance.py::test_a_stranger_hears_for_nobody_else",
        (("mirror_core/server_instance.py", "if failed or volume.news_is_due():", "if failed:"),
         ("mirror_core/server_instance.py", "if not volume.news_is_due():", "if True:")),
    ),
    Fault(
        "a file whose ports are in use is taken for a silent server",
        "native:pool",
        (("native/pool.c", "if (!fm_store_is_server (s))", "if (0)"),),
    ),
    Fault(
        "a cycle copies from the cache of a server whose end nobody would notice (I9)",
        "native:lost",
        (("native/volume.c", "if (fm_store_need_anchor (v[i]->front) < 0)", "if (0)"),
         ("native/volume.c", "if (!v[i]->strict && !fm_store_has_anchor",
          "if (0 && !fm_store_has_anchor")),
    ),
    Fault(
        "a cycle that is void writes back what a client has overwritten since it was read",
        "native:claims",
        (("native/lane.c", "c->back = !atomic_load (&v->abandoned);", "c->back = true;"),),
    ),
    Fault(
        "a client of a void cycle overtakes what is being written back under him",
        "native:claims",
        (("native/request.c", "if (failed && !v->strict && !is_written_back (v, first, end))",
          "if (failed && !v->strict)"),),
    ),
    Fault(
        "after an orderly stop what a source's server shows is taken for what its disk has",
        "tests/test_lost_flush.py::test_a_source_copies_no_cache_that_its_disk_has_not",
        (("mirror_core/site.py", "unsure = current.doubtful or not current.clean",
          "unsure = not current.clean"),),
    ),
    Fault(
        "an orderly stop forgets the loss that a client has not heard of",
        "tests/test_lost_flush.py::test_a_stop_in_order_hides_no_loss_from_a_client",
        (("mirror_core/server_instance.py", 'lost = name in before.get("untold", ())',
          "lost = False"),),
    ),
    Fault(
        "who came shortly before a loss and leaves is forgotten",
        "native:lost",
        (("native/news.c", "(was_there || now >=", "((was_there && 0) || now >="),),
    ),
    Fault(
        "a kill forgets what the process before was to tell of a file",
        "tests/test_server_instance.py::test_a_loss_of_a_file_survives_a_kill",
        (("mirror_core/server_instance.py", "if self._volumes or self._untold:",
          "if self._volumes:"),),
    ),
    Fault(
        "a file has no fingerprint after a run that only tells of an older loss",
        "tests/test_server_instance.py::test_a_loss_of_a_file_survives_a_kill",
        (("mirror_core/native.py", "self.front._before += 1", "pass"),),
    ),
    Fault(
        "zeroes that are written back fill a store that is sparse",
        "native:lost",
        (("native/lane.c", "{ .kind = zero ? FM_ZERO : FM_WRITE, .flags = zero ? FM_PUNCH : 0,\n"
          "                      .offset = (s->claim->first << v->shift) + s->at,\n"
          "                      .length = s->n, .buf = s->buf };\n  s->anchor",
          "{ .kind = FM_WRITE,\n"
          "                      .offset = (s->claim->first << v->shift) + s->at,\n"
          "                      .length = s->n, .buf = s->buf };\n  (void)zero;\n  s->anchor"),),
    ),
    Fault(
        "a stop is in order while a server may still do a write that was given up",
        "tests/test_lost_store.py::test_a_stop_with_a_late_write_is_none_in_order",
        (("mirror_core/stores.py", "if not self.store.is_settled():", "if False:"),),
    ),
    Fault(
        "who cannot look for the connections takes them all for ended",
        "native:callers",
        (("native/callers.c", "    return -errno;\n", "    return 0;\n"),),
    ),
    Fault(
        "a write does not wait for a late one of an older connection",
        "native:lost",
        (("native/store_nbd.c", "op->kind == FM_ZERO) && !fm_late_settled (p->store)",
          "op->kind == FM_ZERO) && 0"),),
    ),
    Fault(
        "a zero with FUA is not flushed to a file's disk",
        "native:store",
        (("native/store_file.c", "return rc == 0 && (flags & FM_FUA) ? file_flush (fd) : rc;",
          "return rc;"),),
    ),
    Fault(
        "who finds no free connection to a server opens another, however long that hangs",
        "native:pool",
        (("native/pool.c", "else if (s->npool == 0) {", "else if (!s->idle) {"),),
    ),
    Fault(
        "new lanes want a connection to sink 0 beside that of the old ones",
        "native:pool",
        (("native/link.c", "*kept = v->bulk &&", "*kept = 0 && v->bulk &&"),),
    ),
    Fault(
        "a hardening is recorded while its sink is not flushed (I2)",
        "tests/test_sim.py::test_every_crash_point_of_the_small_scope",
        (("native/volume.c", "if ((rc = flush_on (v->bulk->sink[0])) < 0)",
          "if ((void)flush_on, (rc = 0) < 0)"),),
        "NO_SINK_FLUSH",
    ),
    Fault(
        "the freeze leaves out one volume of the group (I6)",
        "native:volume",
        (("native/volume.c", "  for (unsigned i = 0; i < n; i++)\n    fm_gate_close",
          "  for (unsigned i = n > 1; i < n; i++)\n    fm_gate_close"),),
    ),
    Fault(
        "a block leaves pending before its copy stands in the sinks (I5)",
        "native:request",
        (("native/lane.c", "  s->state = FM_SLOT_WRITING;\n  if (s->flow) {\n",
          "  s->state = FM_SLOT_WRITING;\n"
          "  fm_bitmap_clear (l->v->pending, s->claim->first, s->claim->n);\n"
          "  if (s->flow) {\n"),),
    ),
    Fault(
        "the mark in next comes after the write",
        "native:request",
        (("native/request.c", "  record (v, r);\n", ""),
         ("native/request.c", "  int rc = fm_store_io (v->front, &r->op);\n",
          "  int rc = fm_store_io (v->front, &r->op);\n  record (v, r);\n")),
    ),
    Fault(
        "the short last block is cut to whole sectors",
        "native:request",
        (("native/lane.c", "return (end < v->size ? end : v->size) - start;",
          "return ((end < v->size ? end : v->size) - start) & ~511ULL;"),),
    ),
    Fault(
        "a run that both sinks failed to take counts as a lost peer",
        "native:failure",
        (("native/lane.c", "s->write[i].op.rc < 0 && rc == 0) /*", "s->write[i].op.rc < 0) /*"),),
    ),
    Fault(
        "a long zero zeroes its first piece again and again",
        "native:zero",
        (("native/request.c", "    offset += piece, n -= piece;\n", "    n -= piece;\n"),),
    ),
    Fault(
        "a store is asked for 64 MiB at once, whatever it has shown",
        "native:zero",
        (("native/parts.c", "? fm_pace_piece (&s->pace[kind])", "? FM_PACE_MOST"),),
    ),
    Fault(
        "what moves on one connection counts for all of a lane",
        "native:slow",
        (("native/lane.c", "    if (fm_parts_silent (ports[i], now) && i < far)",
          "    for (unsigned k = 0; k < far; k++)\n"
          "      ports[i]->stirred |= i < far && ports[k]->stirred;\n"
          "    if (fm_parts_silent (ports[i], now) && i < far)"),),
    ),
    Fault(
        "bytes that the other side takes are no movement",
        "native:slow",
        (("native/store_nbd.c", "  .drains = nbd_drains,\n", ""),
         ("native/store_nbd.c", "static bool\nnbd_drains",
          "bool nbd_drains (struct fm_port *);\nbool\nnbd_drains")),
    ),
    Fault(
        "the way is taken for as long as its queue, ever longer",
        "native:flow",
        (("native/flow.c", "    measure_begin (f);\n",
          "    f->least_ns = latency_ns, f->measured_ns = now_ns, (void)measure_begin;\n"),),
    ),
    Fault(
        "an abandoned cycle forgets what was sent (I9)",
        "native:failure",
        (("native/volume.c", "  fm_bitmap_or (v->next, v->sent);\n", ""),),
        "SENT_IS_COMMITTED",
    ),
    Fault(
        "what was sent over a lost link and is not stable counts as sent (I9)",
        "native:failure",
        (("native/link.c", "  fm_bitmap_or (&v->unsent, v->sent);", "  "),
         ("native/link.c", "  fm_bitmap_empty (v->sent);\n", "")),
        "UNSTABLE_KEPT",
    ),
    Fault(
        "the first intermediate's connection ends in mid-cycle without a flush (I9)",
        "native:failure",
        (("native/link.c", "    flush_first (v, gone[2]);\n", "    (void)flush_first;\n"),),
        "NO_FLUSH_FIRST",
    ),
    Fault(
        "a request of an older session enters (I8)",
        "native:request",
        (("native/request.c", "if (atomic_load (&v->session) == r->session)",
          "if (atomic_load (&v->session) >= r->session || 1)"),),
        "NO_FENCE",
    ),
    Fault(
        "two copies of one block run at once",
        "native:claims",
        (("native/plan.c", "if (claims[i].n && claims[i].first < first + n",
          "if (n > 1 << 30 && claims[i].n"),),
    ),
    Fault(
        "a writer does not wait for the hardening (I2)",
        "native:harden",
        (("native/request.c", "if (v->strict && atomic_load (&v->owed))", "if (0)"),),
        "NO_HARDENING",
    ),
    Fault(
        "a hardening covers what was copied after its flush began (I2)",
        "native:harden",
        (("native/volume.c", "  fm_bitmap_empty (v->hardening);\n  pthread_cond",
          "  fm_bitmap_empty (v->hardening);\n  fm_bitmap_empty (v->sent);\n  pthread_cond"),),
    ),
    Fault(
        "a failed flush of the target's data is just tried again (I9)",
        "native:harden",
        (("native/volume.c", "    fm_bitmap_or (v->pending, v->hardening);\n", ""),),
    ),
    Fault(
        "a server that went with unflushed writes is just connected to again (I9)",
        "native:lost",
        (("native/store.c", "  if (atomic_load (&s->writes) > s->covered)\n"
          "    fm_store_lose (s);\n", ""),),
    ),
    Fault(
        "only who asks first hears of a failed flush (I9)",
        "native:lost",
        (("native/store.c", "return rc == 0 && lost != known ? -EIO : rc;",
          "return rc + 0 * (int)(lost - known);"),),
    ),
    Fault(
        "what was given up may come later",
        "native:lost",
        (("native/late.c", "  if (atomic_load (&s->nlate) == 0)\n    return true;\n",
          "  return true;\n"),),
        "LATE_WRITES",
    ),
    Fault(
        "a write does not wait for the intent log (I4)",
        "native:intent",
        (("native/request.c", "  if (v->intent)\n", "  if (v->intent && 0)\n"),),
        "NO_INTENT",
    ),
    Fault(
        "a region is hot before its bit is written (I4)",
        "native:intent",
        (("native/intent.c", "    i->busy = true;\n    rc = write_dirty",
          "    i->busy = true;\n    set_hot (i, i->image, 0, i->nwords);\n    rc = write_dirty"),),
    ),
    Fault(
        "the intent log is not flushed (I4)",
        "native:intent",
        (("native/intent.c", "    rc = fm_store_io (i->log, &flush);", "    (void)flush;"),),
    ),
    Fault(
        "bits that a killed process left unflushed count as durable (I4)",
        "native:intent",
        (("native/intent.c", "    rc = fm_store_io (log, &flush);", "    (void)flush;"),),
    ),
    Fault(
        "a region is cooled although it was written since (I4)",
        "native:intent",
        (("native/intent.c",
          "return fm_bitmap_run (map, first, 1, &at, &n) && at >> per == region;",
          "return fm_bitmap_run (map, first, 1, &at, &n) && !per;"),),
    ),
    Fault(
        "a group of which only the last word is set counts as empty",
        "fuzz:maps",
        (("native/bitmap.c", "  for (unsigned w = 0; w < GROUP_WORDS; w++)\n",
          "  for (unsigned w = 0; w < GROUP_WORDS - 1; w++)\n"),),
    ),
    Fault(
        "the block behind a claim is not copied",
        "fuzz:maps",
        (("native/plan.c", "from = c->first + c->n;", "from = c->first + c->n + 1;"),),
    ),
    Fault(
        "bits behind the last region of an intent log count as regions (I7)",
        "fuzz:intent",
        (("native/intent.c", "memset (i->image + words, 0,",
          "words = i->nwords;\n  memset (i->image + words, 0,"),),
    ),
    Fault(
        "hardenings are not logged: a stale bit in pending2 (I2)",
        "tests/test_kill.py::test_a_target_killed_while_both_copies_run_keeps_its_image",
        (("mirror_core/runlog.py", "        if history != self._history:\n",
          "        return\n        if history != self._history:\n"),),
    ),
    Fault(
        "a commit forgets which blocks are in the intermediate (I3)",
        "tests/test_kill.py::test_a_target_killed_while_both_copies_run_keeps_its_image",
        (("mirror_core/target.py",
          'maps={f"{name}/pending": bitmap for name, bitmap in written.items()},', "maps={},"),),
    ),
    Fault(
        "a shared map touches a page that its file does not have",
        "native:bitmap",
        (("native/bitmap.c", "      make_there (b, word);\n",
          "      if (n > 1)\n        make_there (b, word);\n"),),
    ),
    Fault(
        "a map that found no room in its file still counts as whole",
        "native:bitmap",
        (("native/bitmap.c", "      atomic_store (b->whole, 0);\n", ""),),
    ),
    Fault(
        "the gate opens before the maps are swapped (I6)",
        "native:order",
        (("native/volume.c", "    fm_group_swap (v, n);\n    fm_group_open (v, n);\n",
          "    fm_group_open (v, n);\n    fm_group_swap (v, n);\n"),),
    ),
    Fault(
        "a block leaves its map before it stands in the one that follows (I9)",
        "native:order",
        (("native/lane.c",
          "  fm_bitmap_set (s->copy == FM_COPY_FIRST ? &v->unsent : v->sent, first, n);\n"
          "  fm_bitmap_clear (s->copy == FM_COPY_FEED ? &v->unsent : v->pending, first, n);\n",
          "  fm_bitmap_clear (s->copy == FM_COPY_FEED ? &v->unsent : v->pending, first, n);\n"
          "  fm_bitmap_set (s->copy == FM_COPY_FIRST ? &v->unsent : v->sent, first, n);\n"),),
    ),
    Fault(
        "who lowers a summary does not look at the group again",
        "native:order",
        (("native/bitmap.c", "    if (!is_empty (b, l - 1, group)) {\n", "    if (0) {\n"),),
    ),
    Fault(
        "who looks for a bit believes a group that was emptied under its eyes (I5)",
        "native:order",
        (("native/bitmap.c", "  } while (k == i);\n", "  } while (0);\n"),),
    ),
    Fault(
        "a region is cooled after the last look at what is written (I4)",
        "native:order",
        (("native/intent.c", "  atomic_fetch_and (&i->hot[region / 64], ~bit);\n"
          "  if (!has_blocks (next, region, per))", "  if (!has_blocks (next, region, per)"
          " && atomic_fetch_and (&i->hot[region / 64], ~bit))"),),
    ),
    Fault(
        "a writer looks whether its region is hot before its blocks are in next (I4)",
        "native:order",
        (("native/request.c", "  record (v, r);\n  if (v->intent)\n", "  if (v->intent)\n"),
         ("native/request.c", "  r->heating = rc == 0;\n",
          "  record (v, r);\n  r->heating = rc == 0;\n")),
    ),
    Fault(
        "a retry does not wait for writers' copies (I9)",
        "native:order",
        (("native/volume.c", "    drain_claims (v);\n    fm_bitmap_or (v->pending, v->sent);",
          "    fm_bitmap_or (v->pending, v->sent);"),),
    ),
    Fault(
        "a killed source forgets what is stable at the target",
        "native:shared",
        (("native/shared.c", "rc == 0 && i < MAPS; i++)\n    rc = fm_bitmap_load",
          "rc == 0 && i < MAPS - 1; i++)\n    rc = fm_bitmap_load"),),
    ),
    Fault(
        "a killed source forgets what the peer lacks",
        "native:shared",
        (("native/shared.c", "    rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i",
          "    if (map_of (v, i) != &v->unsent)\n"
          "      rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i"),),
    ),
    Fault(
        "after a failed append what was copied beside the hardening counts as hardened (I2)",
        "tests/test_second.py",
        (("mirror_core/second.py", "(m.native, native.PENDING, native.SENT)",
          "(m.native, native.PENDING)"),),
    ),
    Fault(
        "after a long flush the second flashcopy looks at nothing for as long",
        "tests/test_second.py::test_a_long_flush_makes_no_long_step",
        (("mirror_core/second.py", "min(self._batch_s, limits.SLICE_SHORT_S)", "self._batch_s"),),
    ),
    Fault(
        "all of the time goes into hardening if steps are short",
        "tests/test_second.py::test_a_writer_who_waits_has_a_hardening_after_as_much_copying",
        (("mirror_core/second.py", "many = self._copied_s >= self._batch_s", "many = True"),),
    ),
    Fault(
        "a target that gives up its image keeps what was pending in it (I1)",
        "tests/test_promote.py::test_a_target_that_owes_blocks_takes_another_source",
        (("mirror_core/resync.py", "        maps={},\n    )\n", "    )\n"),),
    ),
    Fault(
        "a seed is not flushed before it counts (I1)",
        "tests/test_seed.py::test_a_seed_is_flushed_before_it_counts",
        (("mirror_core/site.py", "            self.copier.flush(front_too=False)\n",
          "            pass\n"),),
    ),
    Fault(
        "a seed that could not be flushed once counts at the next start (I1)",
        "tests/test_seed.py::test_a_seed_that_cannot_be_flushed_is_given_up",
        (("mirror_core/site.py", "        self.book.update(seeded=False)\n        try:\n",
          "        try:\n"),),
    ),
    Fault(
        "a killed source forgets what the peer lacks: whole sites",
        "tests/test_maps.py::test_a_killed_source_forgets_neither_unsent_nor_stable_blocks",
        (("native/shared.c", "    rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i",
          "    if (map_of (v, i) != &v->unsent)\n"
          "      rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i"),),
    ),
    Fault(
        "a killed source forgets what is stable at the target: whole sites",
        "tests/test_maps.py::test_a_killed_source_forgets_neither_unsent_nor_stable_blocks",
        (("native/shared.c", "rc == 0 && i < MAPS; i++)\n    rc = fm_bitmap_load",
          "rc == 0 && i < MAPS - 1; i++)\n    rc = fm_bitmap_load"),),
    ),
    Fault(
        "what an older session compared counts as written (I8)",
        "native:claims",
        (("native/request.c", "  if (rc < 0)\n    return rc;\n  record (v, &r);",
          "  record (v, &r);\n  if (rc < 0)\n    return rc;"),),
    ),
    Fault(
        "what a comparison of an older cycle finds counts for the next",
        "tests/test_compare.py",
        (("mirror_core/target.py", "if sequence <= self._book.current.committed:",
          "if False:"),),
    ),
    Fault(
        "maps of an older run, another boot, or not whole count",
        "tests/test_maps.py",
        (("mirror_core/mapfile.py", "if len(page) < _PAGE or page[:_COMMIT_AT] != head:",
          "if not page:"),),
    ),
    Fault(
        "maps that have forgotten a commit count with a ledger of before it (I7)",
        "tests/test_went_back.py::test_maps_in_memory_do_not_count_for_an_older_state",
        (("mirror_core/mapfile.py", "_COMMIT.pack(book.committed, book.committed_token.encode())",
          "_COMMIT.pack(0, b\"\")"),),
    ),
    Fault(
        "a killed source forgets the cycle that ran",
        "tests/test_maps.py::test_a_cycle_cut_short_by_a_kill_is_begun_again",
        (("native/shared.c", "rc == 0 && i < MAPS; i++)\n    rc = fm_bitmap_load",
          "rc == 0 && i < 1; i++)\n    rc = fm_bitmap_load"),),
    ),
    Fault(
        "blocks that were not compared count as equal",
        "tests/test_compare.py::test_only_what_differs_travels",
        (("mirror_core/compare.py", "        if not same:\n            continue\n", ""),),
    ),
    Fault(
        "nothing is exposed of what was written before a restart",
        "native:request",
        (("native/volume.c", "  atomic_store (&v->next_since_ns, FM_SINCE_UNKNOWN);\n", ""),),
    ),
    Fault(
        "after a clock was set back an age is negative",
        "tests/test_exposure.py::test_no_clock_that_is_set_makes_an_age_negative_or_nothing",
        (("mirror_core/age.py", "max(counted, platform.time() - self.wall)",
          "platform.time() - self.wall"),),
    ),
    Fault(
        "a target answers a comparison when all of it was read, however long that takes",
        "tests/test_slow_store.py::test_comparing_gets_on_however_long_a_read_takes",
        (("mirror_core/compare.py", "own = reader.sums(store, volume, pieces, limits.COMPARE_S)",
          "own = reader.sums(store, volume, pieces, 100)"),
         ("mirror_core/compare.py", "min(limits.COMPARE_DEPTH, 2 * self._depth)", "1")),
    ),
    Fault(
        "what was found equal is not made stable while blocks are compared",
        "tests/test_slow_store.py::"
        "test_a_comparison_that_loses_its_link_goes_on_where_it_was",
        (("mirror_core/driver.py", "(not done or self._comparison)", "not done"),),
    ),
    Fault(
        "a target does not ask how patient its source is",
        "tests/test_promote.py::"
        "test_a_slow_source_is_connected_for_as_long_as_the_sites_are_patient",
        (("mirror_core/target.py", "self._config.link_timeout), self._silence)",
          "self._config.link_timeout), 0.0)"),),
    ),
    Fault(
        "after a power loss a source forgets what was hot (I4)",
        "tests/test_intent.py::test_only_what_was_hot_is_looked_at",
        (("mirror_core/site.py", "for offset, length in log.runs():",
          "for offset, length in ():"),),
    ),
    Fault(
        "the checksum of a ledger is not looked at (I7)",
        "tests/test_fuzz.py::test_a_damaged_ledger_is_never_taken_for_another",
        (("mirror_core/ledger.py", "hashlib.sha256(payload).hexdigest() != words[2] or ", ""),),
    ),
    Fault(
        "the checksum of a record of hardenings is not looked at (I7)",
        "tests/test_fuzz.py::test_a_damaged_log_of_hardenings_gives_a_prefix_or_is_refused",
        (("mirror_core/runlog.py", "return body if zlib.crc32(head + body) == crc else None",
          "return body if crc or zlib.crc32(head + body) == crc else None"),),
    ),
    Fault(
        "a record of hardenings that is gone is not missed (I7)",
        "tests/test_fuzz.py::test_a_damaged_log_of_hardenings_gives_a_prefix_or_is_refused",
        (("mirror_core/runlog.py", "later = data.find(_MAGIC, at)\n",
          "later = data.find(_MAGIC, at + 1)\n"),),
    ),
    Fault(
        "the size in the head of an intent log is not looked at (I7)",
        "tests/test_fuzz.py::"
        "test_a_damaged_intent_log_makes_all_hot_or_its_regions_are_of_the_volume",
        (("mirror_core/intent.py", "data[:_PAGE] != head", "data[:16] != head[:16]"),),
    ),
    Fault(
        "a handshake may name any number of volumes",
        "tests/test_protocol.py::test_a_handshake_that_could_do_harm_is_refused",
        (("mirror_core/protocol.py", "several(_SHAPE.kind(), limits.VOLUMES_MAX)",
          "several(_SHAPE.kind(), 1 << 60)"),),
    ),
    Fault(
        "a target believes that a cycle holds all that an abandoned one had written",
        "tests/test_fuzz.py::test_a_target_answers_every_control_record_in_any_order",
        (("mirror_core/target.py", "            if not owed <= written[name]:\n",
          "            assert owed <= written[name]\n            if False:\n"),),
    ),
    Fault(
        "a peer's errno is not looked at",
        "tests/test_fuzz.py::test_a_peers_answer_is_a_record_or_an_error",
        (("mirror_core/peer.py", "known = type(code) is int and code in errno.errorcode",
          "known = code is not None"),),
    ),
    Fault(
        "a number of thousands of digits is not a refusal of a configuration",
        "tests/test_fuzz.py::test_any_configuration_is_a_site_or_refused",
        (("mirror_core/config.py", "except (ValueError, RecursionError)",
          "except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError)"),),
    ),
    Fault(
        "another history is admitted (I7)",
        "tests/test_recovery.py",
        (("mirror_core/recovery.py", "if mine.lineage is None or mine.lineage.id == hello.lineage:",
          "if True:"),),
    ),
    Fault(
        "a promoted site keeps the lineage of the old source (I7)",
        "tests/test_promote.py::test_the_old_source_is_refused",
        (("mirror_core/promotion.py", "lineage=Lineage(site.platform.token(), "
          "parent=book.lineage.id, forked_at=book.committed),", "lineage=book.lineage,"),),
    ),
    Fault(
        "a flush after one that failed is good (I9)",
        "native:harden",
        (("native/volume.c", "  int rc = atomic_load (&v->abandoned);\n  if (rc < 0)\n",
          "  int rc = 0;\n  if (rc < 0)\n"),),
    ),
    Fault(
        "what is found in an intent log counts as durable (I4)",
        "native:intent",
        (("native/intent.c", "    rc = fm_store_io (log, &write);\n", "    (void)write;\n"),),
    ),
    Fault(
        "lanes end under a cycle that writers count on",
        "native:failure",
        (("native/link.c", "  assert (!counted_on (v));\n", "  (void)counted_on;\n"),),
    ),
    Fault(
        "a log line that cannot be written raises",
        "tests/test_log.py::test_what_cannot_be_said_is_counted_and_said_later",
        (("mirror_core/journal.py", "                self.unwritten += 1\n",
          "                raise\n"),),
    ),
    Fault(
        "a log pipe that is full holds up who logs",
        "tests/test_log.py",
        (("plugin/flashmirror.py", "        stderr.never_wait()\n", ""),),
    ),
    Fault(
        "an error that nobody foresaw leaves its cycle under way",
        "tests/test_injected.py::test_errors_of_the_machine_pass",
        (("mirror_core/driver.py", "        self._void_cycle(code)\n", ""),),
    ),
    Fault(
        "the machine's errors end a control thread",
        "tests/test_injected.py::test_errors_of_the_machine_pass",
        (("mirror_core/guard.py", "if not passes(error) or not wait(pause):", "if True:"),),
    ),
    Fault(
        "a stop ends at its first error",
        "tests/test_injected.py::test_a_stop_ends_whatever_it_meets",
        (("mirror_core/site.py", "            return False\n\n    def _end_thread",
          "            raise\n\n    def _end_thread"),),
    ),
    Fault(
        "a device is taken for its number alone (I7)",
        "tests/test_identity.py::test_a_killed_site_on_numbers_alone_is_refused_after_a_reboot",
        (("mirror_core/identity.py", "(known.instance and known.instance == found.instance)",
          "True"),),
    ),
    Fault(
        "what a failed flush has lost is found equal while a cache holds it (I9)",
        "tests/test_lost_flush.py::test_a_comparison_takes_no_cache_for_a_disk",
        (("mirror_core/target.py", "if not seeded and self._may_read_a_cache():", "if False:"),),
    ),
    Fault(
        "a source copies what a cache shows and its disk has lost (I9)",
        "tests/test_lost_flush.py::test_a_source_copies_no_cache_that_its_disk_has_not",
        (("native/lane.c", "return l->v->restores && s->copy != FM_COPY_FEED;", "return false;"),),
    ),
    Fault(
        "a first cycle goes on though the target's data is another",
        "tests/test_seed.py::test_what_a_cycle_relies_on_is_what_the_target_holds_then",
        (("mirror_core/driver.py", "(welcome.resumed and stands)", "welcome.resumed"),),
    ),
    Fault(
        "a second seed counts for what the first one was compared with",
        "tests/test_seed.py::test_what_a_cycle_relies_on_is_what_the_target_holds_then",
        (("mirror_core/resync.py", "replace(give_up(book), seeded=True)",
          "replace(book, seeded=True)"),),
    ),
    Fault(
        "a target that cannot flush says that all is well",
        "tests/test_lost_flush.py::test_a_target_says_that_it_cannot_flush",
        (("mirror_core/status.py", "control.reason or control.trouble or silent",
          "control.reason or silent"),),
    ),
    Fault(
        "a source that was killed copies what a failed flush has lost, from the kernel's cache",
        "tests/test_lost_flush.py::test_a_source_that_was_killed_copies_what_its_disk_holds",
        (("mirror_core/driver.py", "            self._drop_caches()\n", ""),),
    ),
    Fault(
        "nothing is exposed at a source whose target is refused",
        "tests/test_went_back.py::test_a_target_that_went_back_is_refused",
        (("mirror_core/driver.py", "since == flashcopy.SINCE_UNKNOWN or unsure:",
          "since == flashcopy.SINCE_UNKNOWN:"),),
    ),
    Fault(
        "a refused target that goes away has again what it had lost",
        "tests/test_went_back.py::test_a_refused_target_that_is_away_holds_no_more_than_before",
        (("mirror_core/driver.py", "unsure = self._unsure", "unsure = self.refused"),),
    ),
    Fault(
        "of a group that lacks a server the volume whose turn it is is blamed",
        "tests/test_lost_store.py::test_of_a_group_without_a_server_its_own_volume_is_named",
        (("mirror_core/flashcopy.py", "next(void, member)", "member"),),
    ),
    Fault(
        "what follows the first commit of a seeded target is compared for nothing",
        "tests/test_seed.py::test_only_what_differs_from_a_seed_is_sent",
        (("mirror_core/driver.py", "self._coarse = self._seeded = False",
          "self._coarse = False"),),
    ),
    Fault(
        "a rename that reports an error was not done",
        "tests/test_ledger.py::test_a_rename_that_was_done_counts_whatever_it_reports",
        (("mirror_core/durable.py", "undone = platform.exists(fresh)", "undone = True"),),
    ),
    Fault(
        "a commit may have any sequence",
        "tests/test_went_back.py::test_a_number_of_the_peer_ends_no_target",
        (("mirror_core/target.py",
          "if request.sequence - mine.committed > limits.SEQUENCE_STEP_MAX:", "if False:"),),
    ),
    Fault(
        "one of a device's lasting identities is enough (I7)",
        "tests/test_identity.py::test_judge",
        (("mirror_core/identity.py", "if all(before[k] == now[k] for k in shared)",
          "if any(before[k] == now[k] for k in shared)"),),
    ),
    Fault(
        "of an adopted source only what was hot is compared (I4)",
        "tests/test_adopt.py::test_everything_in_an_adopted_source_reaches_the_target",
        (("mirror_core/adoption.py", "opened.log.heat_all()\n", "pass\n"),),
    ),
    Fault(
        "of an adopted source the maps in memory count (I4)",
        "tests/test_adopt.py::test_everything_in_an_adopted_source_reaches_the_target",
        (("mirror_core/adoption.py", 'replace(book, clean=False, run=run, maps={})', "book"),),
    ),
    Fault(
        "an adopted target keeps an image that is not known to be whole (I7)",
        "tests/test_adopt.py::test_a_target_with_another_store_gives_its_image_up",
        (("mirror_core/adoption.py", "book = resync.give_up(book)", "pass"),),
    ),
    Fault(
        "a cycle is begun before its freeze (I7)",
        "tests/test_cycle.py::"
        "test_a_cycle_is_frozen_begun_copied_flushed_committed_and_settled",
        (("mirror_core/cycle.py", "    result = yield Freeze(freeze_budget_s)\n",
          "    yield Begin(sequence)\n    result = yield Freeze(freeze_budget_s)\n"),
         ("mirror_core/cycle.py", "    result = yield Begin(sequence)\n    if result.error:\n"
          "        return (yield from _abandoned(result))\n", "")),
    ),
    Fault(
        "writes are held again right after a freeze that was missed",
        "tests/test_holds.py::test_a_slow_write_holds_up_others_for_one_freeze_at_a_time",
        (("mirror_core/driver.py", "if now < self._freeze_at:", "if False:"),),
    ),
    Fault(
        "how long writes were held for a freeze that was missed is not counted",
        "tests/test_holds.py::test_a_slow_write_holds_up_others_for_one_freeze_at_a_time",
        (("mirror_core/driver.py", "            self._journal.held(self._held)\n"
          "            self._journal.missed_freeze()\n",
          "            self._journal.missed_freeze()\n"),),
    ),
    Fault(
        "the reason of a missed consistency point goes with the next look at the peer",
        "tests/test_holds.py::test_a_missed_point_is_said_until_one_is_made",
        (("mirror_core/driver.py", "            self._stuck = outcome.reason\n"
          "            self._say(outcome.reason)\n", "            self._say(outcome.reason)\n"),),
    ),
    Fault(
        "a missed consistency point is tried again when the interval is over",
        "tests/test_holds.py::test_a_missed_point_is_said_until_one_is_made",
        (("mirror_core/driver.py", "self._holds.rest_s\n"
          '        self._last_begin = float("-inf")\n', "self._holds.rest_s\n"),),
    ),
    Fault(
        "an own store that is silent is taken for the link",
        "tests/test_holds.py::test_an_own_store_that_is_silent_is_not_taken_for_the_link",
        (("mirror_core/driver.py", "                self._stuck = outcome.reason\n",
          "                lost = outcome.code in LINK_ERRNOS\n"
          "                self._stuck = None if lost else outcome.reason\n"),),
    ),
    Fault(
        "the volumes of a group are copied one after the other",
        "tests/test_turns.py::test_each_volume_has_its_turn",
        (("mirror_core/flashcopy.py", "(self._turn + 1) % len(self.members)", "0"),),
    ),
    Fault(
        "each volume of a group has the time of a whole slice, in each call",
        "tests/test_turns.py::test_a_call_takes_its_time_once",
        (("mirror_core/flashcopy.py", "left_s = until - native.now_s()", "left_s = slice_s"),),
    ),
    Fault(
        "a resume comes in between the ledger and the halt of a pause",
        "tests/test_stalled_thread.py::test_what_a_pause_holds_a_resume_lets_go",
        (("mirror_core/driver.py", "        with self._pausing:\n"
          "            self._book.update(paused=True)\n",
          "        if True:\n            self._book.update(paused=True)\n"),),
    ),
    Fault(
        "a source keeps the maps of its last stop in the ledger, and writes them in each cycle",
        "tests/test_maps.py::test_the_ledger_of_a_source_that_runs_has_no_maps",
        (("mirror_core/site.py", "maps = {} if source else self", "maps = self"),),
    ),
    Fault(
        "a source that waits for its own store is silent",
        "tests/test_pulse.py::test_a_source_is_heard_while_its_own_store_flushes",
        (("mirror_core/driver.py", "        self._pulse.start()\n", ""),),
    ),
    Fault(
        "an error that the target answers with is taken for the link's by its errno",
        "tests/test_holds.py::test_a_target_that_answers_with_an_error_is_not_taken_for_a_lost_link",
        (("mirror_core/driver.py", " and not isinstance(error, Answered)\n", "\n"),),
    ),
    Fault(
        "a start that is refused leaves the files that it has made",
        "tests/test_ends.py::test_refused_starts_leave_no_file",
        (("mirror_core/site.py", "undo.callback(self._remove_files_that_mean_nothing)", "pass"),),
    ),
    Fault(
        "a source that ends waits for its target as long as ever",
        "tests/test_ends.py::test_a_stop_does_not_wait_for_a_silent_target",
        (("mirror_core/driver.py", "            self.changed.notify_all()\n"
          "        self._copier.hang_up(errno.ESHUTDOWN)\n",
          "            self.changed.notify_all()\n"),),
    ),
    Fault(
        "a target that is told to stop becomes a source all the same",
        "tests/test_promotion_fails.py::test_a_stop_while_a_promotion_finishes_is_not_lost",
        (("mirror_core/site.py", "            self.is_ending = True\n", "            pass\n"),),
    ),
    Fault(
        "no session is opened any more after a promotion that failed",
        "tests/test_promotion_fails.py::test_a_promotion_that_fails_gives_the_site_back",
        (("mirror_core/promotion.py", "        patience_s = 0.0\n",
          '        patience_s = float("inf")\n'),),
    ),
    Fault(
        "a target takes its own failure for a source that is silent",
        "tests/test_status.py::test_a_target_whose_own_state_disk_fails_says_so",
        (("mirror_core/status.py", "(control.failure if control.is_there() else None)", "None"),),
    ),
    Fault(
        "a stop that was not in order is said to be one",
        "tests/test_commands.py::test_a_stop_says_whether_the_site_ended_in_order",
        (("mirror_core/process.py", "return ledger.load(site.state).clean", "return True"),),
    ),
    Fault(
        "a start that takes long is said to have ended",
        "tests/test_commands.py::test_a_start_that_takes_long_is_not_one_that_has_ended",
        (("mirror_core/process.py", "            if os.waitpid(child, os.WNOHANG)[0]:\n",
          "            if os.waitpid(child, os.WNOHANG)[0] or time.monotonic() >= deadline:\n"),),
    ),
    Fault(
        "a start removes what is named like a file of its own",
        "tests/test_ends.py::test_a_start_removes_files_of_its_own_runs_only",
        (("mirror_core/site.py", "kind in kinds and TOKEN.fullmatch(run)", "kind in kinds"),),
    ),
    Fault(
        "a creation that fails half-way leaves its ledger",
        "tests/test_bad_creation.py::test_a_creation_that_fails_half_way_leaves_nothing",
        (("mirror_core/creation.py", "        durable.remove(ledger.path_in(config.state), HERE)\n",
          ""),),
    ),
    Fault(
        "a signal is taken before the site knows of it",
        "tests/test_promotion_fails.py::test_a_signal_is_not_taken_before_the_site_knows_of_it",
        (("mirror_core/connections.py", "            poll.poll()\n",
          "            signal.sigwait(_ENDING)\n"),),
    ),
    Fault(
        "a scrape goes on when the volumes are gone",
        "tests/test_ends.py::test_a_scrape_at_the_end_touches_nothing_that_is_gone",
        (("mirror_core/metrics.py", "            if self._ended:\n", "            if False:\n"),),
    ),
    Fault(
        "chaos takes prefixes of different moments for one image",
        "tests/test_chaos.py::test_prefixes_of_different_moments_are_wrong",
        (("scripts/chaoslib/judge.py", "if p.end >= moment", "if p.end >= 0.0"),),
    ),
    Fault(
        "chaos looks at the head of a unit, not at all of it",
        "tests/test_chaos.py::test_one_wrong_byte_is_found",
        (("scripts/chaoslib/chains.py",
          "if value and unit == self._unit(volume, n, value)", "if value"),),
    ),
)  # fmt: skip
