/* A lane: copies of a volume in flight, each a small state machine, all moved on
 * by step().  No thread and no lock of its own: one thread at a time steps it.
 *
 * Idea.  A slot takes one run of blocks through FREE -> READING -> WRITING ->
 * FREE (after a loss RESTORING comes before WRITING, see below), a long one in pieces, one after another.  The background has one lane with many slots and fills free ones from
 * the plan; a writer that meets a pending block borrows a lane of one slot for
 * its own runs.  Each lane has its own ports to the peer, so a writer's copy never queues
 * behind the background's on a connection; and behind it on the way no longer than flow.h says.
 * One connection does not fill a long way, so the background takes more as its window grows.
 * A run is as long as its stores do in some milliseconds (parts.h): zeroes, which cost nothing on one
 * store and a minute on another, begin with 64 KiB and go up to 64 MiB.  One run of zeroes counts
 * in the flow as the longest run of bytes does, since it takes as long.
 *
 * After a loss (store.h) a server, or a device below us, may show for a while, from a cache, what its disk has
 * lost, and a flush of that is good.  (Our own kernel's cache of a file is dropped with the loss: store_file.c.)  So
 * what is copied is first written back to the front (`restores`), under the claim, until a cycle is committed: then
 * the commit's flush covers it.  In a cycle that is void nobody waits for a copy, and what it has read may be older
 * than the front: so nothing is written back any more, and a writer waits for what is under way.
 *
 * A server of this site's own stores may take few connections (store.h).  So a lane has only one of
 * its own there, that of the background to sink 0, for flushes count on it; and where one is to spare sink 0 has an
 * anchor, whose end says that the server has gone (fm_store_watch).  Any other is lent while
 * something is under way on it; and the background reads no more on it when somebody waits for it.
 *
 * Invariants.
 *   - A slot that is not FREE holds a claim on its run; a run has one claim.
 *   - A block leaves `pending` only after every sink of its copy answered 0 and
 *     it stands in `sent` (or `unsent`).
 *   - A failed copy leaves the maps as they were and fails the volume's cycle; one that failed
 *     at sink 1 only stands in sink 0, and the volume has lost its second.
 *   - Sink 1 may put a copy off (-EAGAIN: the block is not to be overwritten there yet).  That leaves
 *     the maps as they were, and is no failure: it is tried again after the others.  Each try costs the
 *     link its bytes, so until another is taken the background has one run in flight.
 */
#ifndef FM_LANE_H
#define FM_LANE_H

#include "parts.h"
#include "store.h"
#include "volume.h"
#include "wide.h"

#define FM_SLOTS_EACH 8 /* share one connection to the peer */
#define FM_WIDE (1 + (FM_BULK_SLOTS - 1) / FM_SLOTS_EACH) /* one to spare: none is no array */

enum fm_copy {
  FM_COPY_ALL,   /* front -> every sink; pending -> sent, or unsent if sink 1 fails */
  FM_COPY_FIRST, /* front -> sink 0;     pending -> unsent */
  FM_COPY_FEED,  /* sink 0 -> sink 1;    unsent  -> sent */
  FM_COPY_LATER, /* not before there is another link (fm_volume_set_hold) */
};

struct fm_slot {
  enum { FM_SLOT_FREE, FM_SLOT_READING, FM_SLOT_RESTORING, FM_SLOT_WRITING,
         FM_SLOT_BETWEEN /* two pieces */ } state;
  enum fm_copy copy;
  struct fm_claim *claim; /* the run; in volume->claims */
  uint64_t at, n;         /* the piece of the run that moves now: bytes before it, and its own */
  void *buf;              /* of the lane's piece, while one is read and written (room.h) */
  struct fm_parts read, write[FM_SINKS];
  struct fm_port *far;    /* that the piece is written to sink 1 on */
  struct fm_flow *in;     /* the flow that it is counted in, or NULL */
  uint64_t anchor;        /* of the front, when it was written back: store.h */
  uint64_t flow, sent_ns; /* bytes counted there; when they were sent, 0: not yet */
};

struct fm_lane {
  struct fm_volume *v;
  struct fm_port *front, *sink[FM_SINKS]; /* NULL: has none now */
  bool own_front, own_first; /* front and sink[0] are the lane's; else lent */
  unsigned nsinks; /* 2: with the peer's */
  struct fm_wide wide[FM_WIDE]; /* more connections to the peer, opened when slots need them */
  /* Of the background's lane, or NULL: of what is sent to sink 1, and of what goes to a sink 0
   * that is a server and no further. */
  struct fm_flow *far, *near;
  unsigned link;   /* the number of the link that it belongs to */
  struct fm_slot *slots;
  uint64_t piece;          /* bytes: the longest piece */
  uint64_t cached;         /* bytes written to sink 0 since they were last written out */
  unsigned nslots, active; /* active: slots that are not FREE */
  _Atomic bool waiting;    /* for its ports, and not for what one of them does at once: a file */
  bool put_off;            /* sink 1 has put off the copy that ended last */
  uint64_t cursor;         /* where the background's walk is */
  struct fm_lane *next;    /* in volume->prio or ->old */
};

/* To sink 0 and, if given, `second`; NULL: *rc, of the volume's `closed_part`.  `kept`: the port of
 * the background to sink 0 that there is, or NULL; it is the lane's if that could be opened. */
struct fm_lane *fm_lane_open (struct fm_volume *v, struct fm_store *second, unsigned nslots,
                              struct fm_port *kept, int *rc);
void fm_lane_close (struct fm_lane *l);

/* Take the run [first, first + n) into a free slot.  The caller holds the
 * volume's lock and knows that no claim overlaps. */
struct fm_slot *fm_lane_claim (struct fm_lane *l, enum fm_copy copy, uint64_t first,
                               uint64_t n);
/* How a pending run is copied by this lane.  With the volume's lock. */
enum fm_copy fm_lane_copy (const struct fm_lane *l, bool comparing);
/* Start what was claimed; without the lock. */
void fm_lane_begin (struct fm_lane *l, struct fm_slot *s);
/* Fill free slots from the plan, as far as the flow lets, and until then.  True: something was
 * begun. */
bool fm_lane_fill (struct fm_lane *l, uint64_t until_ns);
/* When the flow lets go on what it holds up; 0: it holds nothing up. */
uint64_t fm_lane_held_until (struct fm_lane *l);
/* Move every slot as far as it goes without blocking.  True: something moved. */
bool fm_lane_step (struct fm_lane *l);
/* Sleep until a port is ready, or until `deadline_ns`; or until it is to be looked whether one
 * is silent (parts.h), which the next step does: that one fails, and if it leads to sink 1 the volume has
 * lost its second, in all lanes. */
void fm_lane_wait (struct fm_lane *l, uint64_t deadline_ns);

#endif
