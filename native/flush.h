/* What is written and not flushed, and the anchor of a server that is flushed on: for store.c and flush.c only.
 *
 * Idea.  What is to be kept of it, and told, says store.h.  Who flushes, or opens the anchor, holds what belongs
 * to that, one at a time, and each has a bound (store.h).  The others wait for him, and not for one after another:
 *   - who waits for a flush is done once a good one has covered what he counts on, and who wants an anchor once
 *     there is one, whoever holds it by then;
 *   - who came before a try to connect began that failed, or before a flush failed, ends with the error of that.
 *     (A flush that fails is a loss.  Another one after it could be good, and would say nothing of what was
 *     written before, so nobody has to wait for it.)
 * So nobody waits longer than for what is under way when he comes, and for one more.
 * Left out: an order among those who wait. */
#ifndef FM_FLUSH_H
#define FM_FLUSH_H

#include "store.h"

/* The number of the anchor that a write to this server counts on which is submitted now; or -errno. */
int fm_flush_anchor (struct fm_store *s, uint64_t *number);
/* It ends without a port: rc. */
int fm_op_unsent (struct fm_store *s, struct fm_op *op, int rc);
/* A connection has ended: with it the server?  If that is so, its anchor is gone after it. */
void fm_flush_look (struct fm_store *s);
/* The server is known to have gone, by the end of an anchor, with a connection that was opened before, and that nobody
 * has seen to live after it.  One that is silent only has not gone. */
bool fm_flush_gone_with (struct fm_store *s, uint64_t opened_ns, uint64_t seen_ns);
/* One flush to its end: its rc. */
int fm_flush_run (struct fm_store *s, struct fm_op *op);

#endif
