/* More connections to the peer for the background's lane, opened beside it.
 *
 * Idea.  To connect takes several round trips (TCP, TLS, NBD), or link_timeout when nobody answers,
 * and whoever steps the lane carries runs that writers wait for.  So each connection is opened by a
 * thread of its own, and is used from when it is there; until then, and if it cannot be had, the
 * lane's first connection does.
 *
 * Invariant: `port` is set once, by the thread, to a port that nobody else has touched.
 * Left out: a second try; a link that is lost gets another lane.
 */
#ifndef FM_WIDE_H
#define FM_WIDE_H

#include "store.h"

struct fm_wide {
  struct fm_store *store; /* NULL: not asked for yet; of the lane's thread, as the next two */
  bool begun;             /* there is a thread to wait for */
  pthread_t thread;
  _Atomic (struct fm_port *) port;
};

/* The connection, or NULL: there is none yet.  The first call begins to open it. */
struct fm_port *fm_wide_port (struct fm_wide *w, struct fm_store *s);
/* Waits for one that is being opened, at most the store's timeout_ns. */
void fm_wide_close (struct fm_wide *w);

#endif
