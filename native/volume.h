/* One volume at one site: the write gate and the flashcopy relation behind it.
 *
 * Idea.  Both sites need the same thing, so it exists once.  A volume has a
 * *front*, the store that is written through the gate, and a flashcopy relation
 * from the front to one or two *sinks*:
 *
 *     source site:  front = data          sinks = first intermediate, peer's intermediate
 *     target site:  front = intermediate  sinks = data
 *
 * `next` collects what is written since the consistency point; a freeze swaps
 * it for the empty `pending`, which the lanes then copy from front to sinks.  A
 * write that meets a pending block has it copied first (claim 1, step 4).
 *
 * Where a block is (the maps are disjoint but for `next`, which is about the
 * future):
 *     pending   to be copied front -> sinks
 *     unsent    in sink 0, to be fed sink 0 -> sink 1 (preserve = "first", comparing, or lost)
 *     sent      in every sink, not yet asserted by a commit or a hardening
 *     hardening sent, now being flushed and recorded where the sinks are
 *     stable    of a source: that was done; not asserted by a commit yet (I9)
 * A block leaves one map only after it stands in the one that follows.
 *
 * A link may be lost in a cycle, which goes on: what sink 1 failed to take is unsent, and so is, once the
 * link is parted, what was sent and is not stable.  Until there is another link sink 0 is enough.
 *
 * Invariants.
 *   I5  While a block is pending its old bytes stand in the front.
 *   I6  Maps are swapped only between group_close and group_open.
 *   I8  A request of an older session never reaches the front after
 *       fm_group_fence returned 0.
 *   A failure to copy, but to sink 1, sets `abandoned`: the cycle is void and can never be
 *   committed, writers wait for nothing more, and fm_volume_abandon puts every
 *   block of it back into `next`.
 *   I2  A strict volume (the target's) has a durable record of what is pending, so
 *   a block is overwritten only when it is in none of pending, sent and hardening:
 *   a writer who meets one has it copied and waits for the next hardening, or gets
 *   the error of a copy that failed.  Nothing of it is ever given up.
 *
 * Left out: when to freeze, what to do after a failure, sequences, roles: the
 * control (mirror_core/) decides; here is only what must be fast or atomic.
 */
#ifndef FM_VOLUME_H
#define FM_VOLUME_H

#include "bitmap.h"
#include "flow.h"
#include "gate.h"
#include "intent.h"
#include "plan.h"
#include "store.h"

#include <pthread.h>

#define FM_SINKS 2
#define FM_MAPS 4         /* that are swapped with each other */
#define FM_CLAIMS 160     /* bulk slots and priority lanes together */
#ifndef FM_BULK_SLOTS /* the simulator has fewer, and shorter runs: small volumes, many steps */
#define FM_BULK_SLOTS 128 /* runs in flight in the background */
#endif
#define FM_PRIO_MAX 16
#define FM_SINCE_UNKNOWN 1 /* a time: older than every other */
#define FM_HISTOGRAM 24   /* bucket i: below 2^i microseconds; the last: the rest */

struct fm_lane;
struct fm_news;

/* What a client was answered last that failed. */
struct fm_failed {
  pthread_mutex_t lock; /* guards all of it; who only asks whether there is one takes none */
  _Atomic int rc;       /* 0, or -errno: and not all of it was done well since */
  uint64_t at, end;     /* what is left of it, in bytes of the volume */
};

struct fm_volume {
  /* Fixed at creation. */
  uint64_t size, nblocks;
  unsigned shift;      /* log2 of the block size */
  uint64_t run_blocks; /* the longest run copied at once */
  struct fm_store *front;
  struct fm_intent *intent; /* or NULL; not owned */
  bool preserve_first; /* a writer waits for sink 0 only */
  bool strict;         /* see fm_volume_set_strict */
  bool hold;           /* see fm_volume_set_hold */
  _Atomic uint64_t patience_ns; /* see fm_volume_set_patience */
  uint64_t returning_ns; /* see fm_volume_set_returning */
  /* Of a strict volume: blocks in pending, sent and hardening together, and whether
   * a writer waits for a hardening. */
  _Atomic uint64_t owed;
  _Atomic bool harden_wanted;
  /* A write was refused because its region could not be heated: `next`, or the cycle that it
   * became (the control's thread), has blocks that nobody wrote, in regions that are cold. */
  _Atomic bool unheated;
  bool cycle_unheated;

  struct fm_store *first;

  struct fm_gate gate;
  /* The pointers change only with the gate closed; the bits are atomic. */
  struct fm_bitmap *_Atomic next, *_Atomic pending;
  struct fm_bitmap unsent, stable;
  struct fm_bitmap *sent, *hardening; /* the pointers: guarded by `lock` */
  struct fm_bitmap maps[FM_MAPS];     /* what the four pointers point to */
  void *shared_head;                  /* of the file that the maps are in, or NULL */
  int shared_fd;
  _Atomic uint64_t session; /* whose requests enter; changed with the gate closed */

  /* Losses of the front (store.h) that the control has heard of, or that concern nothing
   * which counts on a flush any more; and those that concern no client. */
  _Atomic uint64_t heard, told;
  uint64_t first_heard; /* losses of `first` at its last flush, or when a cycle or a retry began: the control's thread's */
  /* What a loss has taken may be read from the cache of a server or a device for a while.  `cycle_lost`: as
   * many losses the front had when this cycle began; `sure`: the same, of the last one that was
   * committed; `restores`: they differ, see lane.h.  The first two are the control's thread's;
   * `restores` changes with the gate closed, so no lane of a writer looks meanwhile. */
  uint64_t sure, cycle_lost;
  bool restores;
  _Atomic uint64_t left_ns; /* when a client went last who may not have heard (news.h) */

  _Atomic int abandoned;   /* 0, or the -errno that voided this cycle */
  _Atomic int failed_part; /* of it: -1 front, else the sink's number */
  _Atomic int closed_part; /* the same, of the last lane that could not be opened */
  _Atomic int second_lost; /* 0, or the -errno by which sink 1 went: nobody waits for it */
  _Atomic bool leaves;     /* this site is to stop: there is no sink 1 any more */

  pthread_mutex_t lock;  /* guards all below, to the blank line */
  pthread_cond_t moved;  /* a claim was dropped or a lane given back */
  pthread_cond_t hardened; /* a hardening ended, or a copy failed */
  struct fm_claim claims[FM_CLAIMS];
  unsigned nclaims, claims_high; /* in use; one past the last ever used */
  struct fm_lane *prio; /* idle priority lanes */
  unsigned nprio_out;   /* priority lanes that writers hold */
  unsigned links;       /* the number of the link whose lanes they are */
  struct fm_lane *old;  /* idle ones of older links */
  unsigned old_out;     /* and those that writers hold */
  struct fm_news *news; /* the clients that are connected */
  uint64_t wanted;      /* 1 + a block that a writer has left to the background, or 0 */
  struct fm_store *second; /* sink 1, or NULL: for its figures */

  struct fm_lane *bulk;  /* of the control's thread alone; so are the next lines */
  bool comparing;        /* what is unsent waits: sink 1 may hold it already */
  struct fm_flow flow;   /* of what the background sends to sink 1 */
  struct fm_flow near;   /* and to a sink 0 that is a server, alone */

  /* Time of the oldest write that is in `next` / in the cycle; 0: none; FM_SINCE_UNKNOWN: of before
   * this process.  Never 0 while the map holds a block (a write is acknowledged after it was set). */
  _Atomic uint64_t next_since_ns, cycle_since_ns, heard_ns;
  uint64_t wire_bytes_before; /* by links that ended; guarded by lock */
  _Atomic uint64_t copied_bytes[FM_SINKS], copies_before_write, write_errors, read_errors;
  _Atomic uint64_t wait_us_sum, wait_us[FM_HISTOGRAM];
  struct fm_failed failed_write, failed_read;
};

struct fm_volume_stats {
  uint64_t next_blocks, pending_blocks, unsent_blocks, sent_blocks;
  uint64_t next_since_ns, cycle_since_ns; /* monotonic; 0: nothing; or FM_SINCE_UNKNOWN */
  uint64_t heard_ns; /* monotonic: the last write of a session, done or put off; 0: none yet */
  uint64_t copied_bytes[2];
  uint64_t wire_bytes; /* NBD payload sent to sinks that are servers */
  uint64_t copies_before_write, write_errors, read_errors;
  uint64_t wait_us_sum, wait_us[24];
  int abandoned, failed_part, closed_part, second_lost, write_error, read_error;
};

/* `front` and `first` (sink 0) stay the caller's and must outlive the volume.  `first` may be NULL: then no cycle may
 * begin before fm_volume_set_first.
 * 0, -EINVAL (block size not a power of two from 512 to 32 MiB), or -ENOMEM. */
int fm_volume_create (struct fm_store *front, struct fm_store *first, uint64_t size,
                      uint32_t block_size, bool preserve_first, struct fm_volume **out);
void fm_volume_free (struct fm_volume *v);

/* Of a volume that was made without: from the thread that links, before it does. */
void fm_volume_set_first (struct fm_volume *v, struct fm_store *first);

/* Before the volume is in use: the maps move into this file on tmpfs (taken over, also on failure) of
 * fm_volume_shared_bytes, where they outlive the process.  Its first page is the caller's, but
 * for the last 8 bytes: a number that becomes 0 if the file cannot hold them all (no space).
 * 0 or -errno: the file is worth nothing, and the volume goes on without it. */
int fm_volume_share (struct fm_volume *v, int fd);
uint64_t fm_volume_shared_bytes (const struct fm_volume *v);
/* next |= every block in a map of such a file, of a volume of the same shape.  0 or -errno. */
int fm_volume_mark_shared (struct fm_volume *v, int fd);
void fm_volume_unshare (struct fm_volume *v); /* of fm_volume_free */

/* Open the lanes to `first` and, if given, `second`; `nprio` for writers.  There may be lanes only
 * if the volume is parted: these take their place.  0 or -errno, of `closed_part`: as before.
 * -ESHUTDOWN, between two lanes to `second`: the volume leaves it. */
int fm_volume_link (struct fm_volume *v, struct fm_store *second, unsigned nprio);
/* Sink 1 is lost, with this -errno: from now on nobody waits for it, until the next link. */
void fm_volume_lose_second (struct fm_volume *v, int rc);
/* The same with -ESHUTDOWN, for good: no link leads there any more. */
void fm_volume_leave_second (struct fm_volume *v);
/* After that: end what is under way to sink 1.  What was sent and is not stable is unsent; no request
 * of the old link is answered any more.  0 or -errno of sink 0: as before. */
int fm_volume_part (struct fm_volume *v, unsigned nprio);
/* Of a parted volume, whose sink 1 is to be another, or forgot: what was stable is unsent. */
void fm_volume_forget_stable (struct fm_volume *v);
/* With nothing pending: it turns out that sink 1 has taken, and committed, all of the cycle. */
void fm_volume_all_sent (struct fm_volume *v);
/* Wait for the writers' lanes, then close all.  A cycle that is not complete, or of a strict volume
 * not hardened, must have been failed before (fm_volume_fail), or writers would wait for ever. */
void fm_volume_unlink (struct fm_volume *v);

/* Copy in the background for `slice_ns`, longer on a long way.  1: nothing is left that can be copied now;
 * 0: there is; -errno: the cycle is abandoned (-ENOTCONN: or there are no lanes).  No claim of the background is
 * left behind.  One thread a volume. */
int fm_volume_copy (struct fm_volume *v, uint64_t slice_ns);
/* What the background sends to sink 1 is taken out of this bucket, which outlives the volume, and out of which
 * the same thread takes what it copies of others.  Before the volume is in use. */
void fm_volume_set_bucket (struct fm_volume *v, struct fm_bucket *b);
/* While it compares the background copies to sink 0 only; what is then unsent is compared
 * with sink 1 by the caller, who takes out what is equal, and the rest is fed after. */
void fm_volume_compare (struct fm_volume *v, bool comparing);
/* Sink 1 holds these unsent blocks as they are: they count as sent. */
void fm_volume_equal (struct fm_volume *v, uint64_t first, uint64_t n);
/* The other end of it: these blocks of the front count as written by `session`, as they
 * are.  0 or -errno: the session is over (I8). */
int fm_volume_adopt (struct fm_volume *v, uint64_t session, uint64_t first, uint64_t n);
/* Flush sink 0 (and the front too, if asked).  0 or -errno.  Sink 1 is flushed where it is, before
 * what asserts it is recorded there.  A store tells of what a flush has lost only once, so one that
 * failed voids the cycle, and of a void cycle no flush is good: it must be copied again. */
int fm_volume_flush (struct fm_volume *v, bool front_too);
/* Flush the front, of what was written since the last swap or fence.  0 or -errno. */
int fm_volume_flush_front (struct fm_volume *v);
/* `sent` is asserted by a commit: forget it. */
void fm_volume_settle (struct fm_volume *v);
/* From now on a write is issued only into hot regions.  Before the volume is in use. */
void fm_volume_set_intent (struct fm_volume *v, struct fm_intent *i);
/* Everything in `next` becomes hot: what is not committed is in no cold region (I4).  0 or -errno. */
int fm_volume_heat_next (struct fm_volume *v);
/* After a commit, and a flush of the front since its consistency point: cool what no
 * cycle used for `after_s` seconds (I4).  0 or -errno. */
int fm_volume_cool (struct fm_volume *v, uint32_t after_s);
/* What was written is in hot regions on the log's disk, too, whatever that has lost until now (I4); now and then.  0 or
 * -errno. */
int fm_volume_renew_intent (struct fm_volume *v);
/* The same after a flush that is to be good for a client, whatever flushes that are under way have met. */
int fm_volume_seal_intent (struct fm_volume *v);
/* Without a link a writer who meets a pending block waits for the next one, instead of having it
 * copied to sink 0 alone (I5 without "and the link up").  Before the volume is in use. */
void fm_volume_set_hold (struct fm_volume *v);
/* The front may have lost something before the volume was in use, of which nobody knows:
 * the first cycle is copied as after a loss.  Before the volume is in use. */
void fm_volume_doubt_front (struct fm_volume *v);
/* Whether a cycle that began now would be copied so. */
bool fm_volume_doubts_front (const struct fm_volume *v);
/* How long a writer waits, in all, for what is not this site's own: 0, as at first: for ever.  A source:
 * for sink 1 alone, while every other part of the copies that he waits for is done; then sink 1 is
 * lost, with -ETIMEDOUT (see fm_volume_lose_second).  A strict volume: for a hardening, or a copy
 * that others make; then his write ends with -EAGAIN and nothing of it was done. */
void fm_volume_set_patience (struct fm_volume *v, uint64_t ns);
/* How long it may take a client whose connection has ended to be back (news.h).  Before the volume is
 * in use. */
void fm_volume_set_returning (struct fm_volume *v, uint64_t ns);
/* For a front whose pending blocks are the only copy of a committed image (I1, I2).
 * Before the volume is in use. */
void fm_volume_set_strict (struct fm_volume *v);
/* A hardening, by the thread that copies: what was sent by `begin` is to be flushed and recorded,
 * durably, before `end`: as no longer pending (strict), or as written by this cycle (source). */
void fm_volume_harden_begin (struct fm_volume *v);
void fm_volume_harden_end (struct fm_volume *v);
/* After a failure of a strict volume (fm_volume_fail) that has been mended, or is to be
 * tried again: what was not hardened is pending again. */
void fm_volume_retry (struct fm_volume *v);
/* next := nothing.  With the gate closed. */
void fm_volume_forget_next (struct fm_volume *v);

/* Void the cycle with this -errno (part: -1 front, else the sink). */
void fm_volume_fail (struct fm_volume *v, int rc, int part);
/* next |= every block of the failed cycle; its maps are empty after. */
void fm_volume_abandon (struct fm_volume *v);
/* What was written to the front before the volume was in use, and not flushed, may be gone: the
 * clients hear of it (news.h); the control knows. */
void fm_volume_lose_front (struct fm_volume *v);
/* next |= [first, first + n) blocks, as if they had been written, nobody knows when. */
void fm_volume_mark (struct fm_volume *v, uint64_t first, uint64_t n);
/* pending |= ..., before the volume is in use (recovery). */
void fm_volume_mark_pending (struct fm_volume *v, uint64_t first, uint64_t n);
/* which: 0 next, 1 pending, 2 unsent, 3 sent, 4 hardening, 5 stable. */
const struct fm_bitmap *fm_volume_map (struct fm_volume *v, int which);
/* Up to `max` runs (first, n pairs in `out`) of a map from block `from` on; the
 * number of runs. */
unsigned fm_volume_runs (struct fm_volume *v, int which, uint64_t from, uint64_t *out,
                         unsigned max);
/* Mark in `next` what the front holds as data (not holes). */
void fm_volume_mark_data (struct fm_volume *v);

/* From any thread, at any time between create and free. */
void fm_volume_read_stats (struct fm_volume *v, struct fm_volume_stats *s);

/* Blocks in `next` of all: cheap, for a control that asks often. */
uint64_t fm_group_next_blocks (struct fm_volume **v, unsigned n);
/* Whether a writer of any waits for a hardening. */
bool fm_group_harden_wanted (struct fm_volume **v, unsigned n);

/* The group's freeze (I6), in one call or in its steps.  The first one waits for a server at most as long as
 * connecting may take; a strict volume needs it not. */
void fm_group_anchor (struct fm_volume **v, unsigned n);
int fm_group_close (struct fm_volume **v, unsigned n, uint64_t deadline_ns);
void fm_group_swap (struct fm_volume **v, unsigned n);
void fm_group_open (struct fm_volume **v, unsigned n);
/* All of them; *held_ns is how long writes were held.  0 or -ETIMEDOUT: nothing
 * was swapped, writes go on.  A cycle whose front is a server that cannot be reached is void from its
 * beginning: what it copied could be gone unnoticed (store.h). */
int fm_group_freeze (struct fm_volume **v, unsigned n, uint64_t budget_ns, uint64_t *held_ns);
/* From now on only requests of `session` enter (I8).  0 or -ETIMEDOUT: as before. */
int fm_group_fence (struct fm_volume **v, unsigned n, uint64_t session, uint64_t budget_ns);

#endif
