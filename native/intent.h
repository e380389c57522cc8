/* The intent log: which regions of the source may differ from what the target has.
 *
 * Idea (DRBD's activity log, as a bitmap).  A region is *hot* if its bit stands
 * durably in the log; a write may be issued only into hot regions.  The first
 * write into a cold one heats it: sets the bit, writes the log's page, flushes.
 * Writers that come meanwhile are heated together by the next flush.  Hot regions
 * stay hot until they were not used for a while, so a busy working set costs one
 * atomic load a write.  After a power loss the log tells what to look at.
 *
 *     cold --heat: bit on disk, then hot--> hot --cool: no longer hot, then bit off--> cold
 *
 * Invariants (I4).
 *   - `hot` is set only while the region's bit is durable: written by this process and flushed
 *     since, with no failure in between (what is found at opening is written again).
 *   - A region is cooled only by fm_intent_cool, whose caller has committed a
 *     consistency point and flushed the front since it.  A writer sets its blocks in
 *     `next` before it looks at `hot`; the cooler clears `hot` before it looks at
 *     `next`: one of the two sees the other, and the region stays hot.
 *   - What another's flush on the log's disk has lost (below.h) may be the log's, also of bits that were taken for
 *     durable just before: until all of it has been written anew nothing is taken for hot.  Whoever heats next does
 *     that, a client's flush before it is good, and the site's looking for losses (server_instance.py), so that what
 *     was written just before the loss waits for nobody.  (Who heats is in the gate, and waits for nobody's flush but
 *     his own.)
 *   - One thread writes the log at a time (`busy`).  A bit too many, which a torn
 *     page or an error may leave, is harmless; one too few cannot be.
 * Left out: creation, and whether the file is ours (mirror_core/intent.py).
 */
#ifndef FM_INTENT_H
#define FM_INTENT_H

#include "bitmap.h"
#include "store.h"

#include <pthread.h>

struct fm_intent {
  struct fm_store *log; /* not owned */
  uint64_t log_offset;  /* of the bits in it */
  unsigned shift;       /* log2 of a region's bytes */
  uint64_t nregions, nwords;
  _Atomic uint64_t *hot;
  _Atomic uint64_t flushed; /* the moment (below.h) by which the last good flush had ended; of who is `busy` */
  _Atomic uint64_t heard; /* losses of `log` (store.h) before all of it was written and flushed; of who is `busy` */
  uint32_t *used_s; /* when a cycle had blocks of the region; the control's thread */

  pthread_mutex_t lock; /* guards all below */
  pthread_cond_t idle;  /* busy became false */
  bool busy;
  uint64_t *image;                /* the bits on disk, and those to be written next */
  uint64_t dirty_from, dirty_end; /* words of `image` that differ from the disk */
};

/* The bits stand in `log` from `log_offset` on, in words of 64, whole pages of 4096
 * bytes; regions are 2^shift bytes of a volume of `size`.  Bits behind the last region
 * mean nothing.  0 or -errno. */
int fm_intent_open (struct fm_store *log, uint64_t log_offset, uint64_t size, unsigned shift,
                    struct fm_intent **out);
void fm_intent_close (struct fm_intent *i);
uint64_t fm_intent_log_bytes (uint64_t size, unsigned shift); /* of the bits */

/* 1: every region of [offset, offset + length) is hot; 0: step again after a wait;
 * -errno: the log cannot be written.  Blocks only while it writes and flushes the log. */
int fm_intent_heat_step (struct fm_intent *i, uint64_t offset, uint64_t length);
void fm_intent_wait (struct fm_intent *i, uint64_t deadline_ns); /* for another's flush */
/* The same, with its waits.  0 or -errno. */
int fm_intent_heat (struct fm_intent *i, uint64_t offset, uint64_t length);
/* The whole volume becomes hot.  0 or -errno. */
int fm_intent_heat_all (struct fm_intent *i);

/* Blocks of these were in a cycle (`shift`: log2 of a block's bytes). */
void fm_intent_used (struct fm_intent *i, const struct fm_bitmap *blocks, unsigned shift,
                     uint32_t now_s);
/* Whether every block of these is in a hot region (I4). */
bool fm_intent_covers (const struct fm_intent *i, const struct fm_bitmap *blocks, unsigned shift);
/* Cool what was not used since `before_s` and has no block in `next`.  0 or -errno: some
 * regions are cold here and hot on disk, which is harmless. */
int fm_intent_cool (struct fm_intent *i, const struct fm_bitmap *next, unsigned shift,
                    uint32_t before_s);

/* If it has lost something, all of it is written anew.  0 or -errno: it is to be asked again. */
int fm_intent_renew (struct fm_intent *i);
/* The same when each flush beside it that was under way at its last good one has ended, however long that takes: so
 * nothing that was hot by then is lost.  Not in the gate. */
int fm_intent_seal (struct fm_intent *i);

/* The first run of hot regions at or after `from`, in bytes.  False: none. */
bool fm_intent_run (const struct fm_intent *i, uint64_t from, uint64_t *offset, uint64_t *length);
uint64_t fm_intent_hot (const struct fm_intent *i); /* how many regions are hot */

#endif
