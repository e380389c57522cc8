/* How much the background may have in flight to the peer.  Pure: no I/O, no clock, no lock.
 *
 * Idea.  Bulk and the copies that writers wait for share one bottleneck, so what the bulk has
 * queued there is what a writer waits behind.  The window of the bulk follows the delay, as in
 * LEDBAT (RFC 6817): the least latency seen lately is the way itself, all above it is queue.  As
 * long as the queue is short the window grows (doubling a round trip until it was long once, by an
 * eighth after); when it is long the window shrinks by an eighth, or a half if it is much too long,
 * once a round trip.
 *
 * Who always keeps a short queue never sees the way itself, takes way and queue for the way, and
 * adds a queue to it.  So every ten seconds the window is small for a round trip, until the queue
 * has gone (as in LEDBAT++), and the way is measured anew.
 *
 * A rate limits the bulk besides, as a bucket of bytes that refills: one for all the flows that share a
 * line, which one thread feeds.
 *
 * Invariants: FM_FLOW_LEAST <= window <= most, which is more on a long way; one copy may always be in
 * flight.  Left out: fairness to others on the link; TCP sees to what is lost.
 */
#ifndef FM_FLOW_H
#define FM_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#define FM_FLOW_LEAST (64 * 1024ULL)
#define FM_FLOW_RUN (256 * 1024ULL)        /* that many zeroes count as, at least */
#define FM_FLOW_FIRST (1024 * 1024ULL)     /* to begin with */
#define FM_FLOW_NEAR (8 * 1024 * 1024ULL)  /* at most, ... */
#define FM_FLOW_FAR (32 * 1024 * 1024ULL)  /* ... where the way itself is long (flow.c) */

struct fm_bucket {
  uint64_t rate;      /* bytes a second; 0: any */
  int64_t credit;     /* bytes that may be sent now */
  uint64_t credit_ns; /* as of then */
};

struct fm_flow {
  uint64_t window, in_flight; /* bytes */
  bool doubling;
  uint64_t doubling_most;     /* bytes: until the window is so large */
  uint64_t least_ns;          /* latency, since the way was last measured; UINT64_MAX: none yet */
  uint64_t measured_ns;       /* when that was */
  uint64_t window_before;     /* while it is measured: the window that comes after; else 0 */
  uint64_t drained_ns;        /* and since when the queue has been gone, 0: not yet */
  uint64_t turned_ns;         /* when the window was last made smaller */
  struct fm_bucket *bucket;   /* not owned, and others' too; NULL: nothing limits it */
};

void fm_flow_init (struct fm_flow *f);
/* How long the way itself takes, there and back; 0: nobody knows yet. */
uint64_t fm_flow_way_ns (const struct fm_flow *f);
/* It is being measured: the way is less busy than it could be. */
bool fm_flow_is_measuring (const struct fm_flow *f);
/* Limit all its flows together to `rate` bytes a second from now on; 0: to nothing. */
void fm_bucket_limit (struct fm_bucket *b, uint64_t rate, uint64_t now_ns);
/* 0: a copy may begin; else when to ask again (UINT64_MAX: after one has ended). */
uint64_t fm_flow_wait (struct fm_flow *f, uint64_t now_ns);
/* What so many zeroes count as: they take as long as the longest run, whatever they are (pace.h), and
 * those that are many as long as bytes if the store becomes slow. */
uint64_t fm_flow_weight (uint64_t zeroes);
void fm_flow_begin (struct fm_flow *f, uint64_t bytes);
/* It turned out to need nothing of the way. */
void fm_flow_cancel (struct fm_flow *f, uint64_t bytes);
/* It goes over the way, but its bytes do not: they are zeroes. */
void fm_flow_refund (struct fm_flow *f, uint64_t bytes);
/* It ended, `latency_ns` after it began; 0: nothing can be learned from it. */
void fm_flow_end (struct fm_flow *f, uint64_t bytes, uint64_t latency_ns, uint64_t now_ns);

#endif
