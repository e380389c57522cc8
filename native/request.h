/* A write (or zero, or trim) of a client, as begin / step / finish.
 *
 *     begin    enter the gate, check the session
 *     step     have what is pending under it copied first (claim 1, step 4), record it
 *              in `next`, heat its regions in the intent log
 *     finish   issue it to the front, leave the gate; with FUA: flush that
 *
 * The blocking calls at the end run the three with waits in between; they are
 * what the plugin uses.  A step waits for nobody else: not for another's copy or flush of the intent
 * log, a hardening or a freeze.  It does take the time of its own operations: of those on files, of its own
 * flush of the intent log, and of having a connection lent where a store is a server (store.h).  A
 * request that failed in any step has left the gate.
 *
 * Invariants: `next`, and the intent log, hold a block before the front may hold
 * its new bytes (I4); the front gets the new bytes only when none of its blocks is pending (I5), or the
 * cycle is void and nothing under them is being written back to the front (lane.h).  Who is in the gate waits for
 * no flush: that may take longer than a freeze waits (I6), and a request of an older session may do it after a fence,
 * for it changes nothing (I8).  Left out: reads and flushes (news.h) need no gate, they go straight on.
 */
#ifndef FM_REQUEST_H
#define FM_REQUEST_H

#include "volume.h"

struct fm_request {
  struct fm_op op;   /* WRITE or ZERO, in bytes of the volume */
  uint64_t session;  /* must be the volume's */
  struct fm_lane *lane; /* borrowed while it copies for itself */
  bool heating;             /* it waits for another's flush of the intent log */
  bool unhardened;          /* it waits for a hardening (strict volumes) */
  uint64_t waited_since_ns; /* 0: it met nothing pending */
  /* Of that: how long sink 1 alone held it up, as of `looked_ns`, and whether it did then.  Over all links that
   * there are meanwhile: what one write waits for the peer has a bound, and if the first has had it all, the next
   * is lost as soon as it makes him wait. */
  uint64_t second_ns, looked_ns;
  bool at_second;
  bool put_off; /* the last copy that it made was put off by sink 1 */
  uint64_t at; /* the block that it waits for, if not for its own lane */
};

/* 0; -EAGAIN: the gate is closed; -ESHUTDOWN: the session is over. */
int fm_request_begin (struct fm_volume *v, struct fm_request *r);
/* 1: nothing it overwrites is pending (nor, in a strict volume, waits for a hardening),
 * and its regions are hot; 0: step again after a wait; -errno: a strict volume could not
 * copy (-EAGAIN: not yet), or the intent log cannot be written, and the request has left the gate. */
int fm_request_step (struct fm_volume *v, struct fm_request *r);
/* After a step that said 0: for something to have moved, or a while. */
void fm_request_wait (struct fm_volume *v, struct fm_request *r);
/* The client's answer: 0 or -errno. */
int fm_request_finish (struct fm_volume *v, struct fm_request *r);
/* The answer of the front.  A full or broken disk may do others well, and one bad sector fails a long request: so
 * one that failed stands until all of its bytes were done well.  Good ones take from its beginning or its end; what
 * they do in its middle is not remembered.  One that fails and overlaps with it joins it; one elsewhere takes its
 * place: of those only the last is known. */
void fm_request_note (struct fm_failed *f, const struct fm_op *op, int rc);
/* What is written, and has left the gate, is to be durable; for who has heard of *heard.  0 or -errno. */
int fm_request_flush (struct fm_volume *v, _Atomic uint64_t *heard);

/* Blocking, from any thread: access.c.  0 or -errno (EINVAL: outside the volume). */
int fm_volume_read (struct fm_volume *v, void *buf, uint64_t n, uint64_t offset);
int fm_volume_write (struct fm_volume *v, uint64_t session, const void *buf, uint64_t n,
                     uint64_t offset, unsigned flags);
int fm_volume_zero (struct fm_volume *v, uint64_t session, uint64_t n, uint64_t offset,
                    unsigned flags);

#endif
