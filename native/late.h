/* Writes to a server that were given up, and that it may do later.
 *
 * Idea.  Nobody can take back what was sent.  Done late, a write undoes what was written after it,
 * or changes what was copied meanwhile.  So its connection lives on until the server has answered
 * all, or is dead; until then the store takes no write and no flush (`fm_late_refusal`).  Its end
 * counts as a loss (store.h): who copied in between does so again.
 *
 * If not the server but something on the way has ended that connection, nobody hears of its writes any more.
 * Unless the end of an anchor (store.h) has told since the connection was made that the server has gone, and nobody
 * has seen the connection to live after that, it has as long for them as it may be silent; longer, if the write was
 * given up before, and an anchor shows that it lives: one that was connected before the connection ended, for after
 * that another server may have come.
 *
 * The bytes of what is under way are libnbd's, not the caller's, who does not wait.  A store that
 * is fenced needs none of this: its server refuses what an older session sent (I8).
 *
 * Left out: a server behind a network that is cut, or behind a proxy that ends all connections at once, which
 * has what we sent and is never heard of again; one that takes longer for a write whose connection has ended;
 * a process of ours that ends meanwhile: the next one does not know.  So a site that stops then has not stopped
 * in order (stores.py), and says which server to restart before the next start.
 */
#ifndef FM_LATE_H
#define FM_LATE_H

#include "store.h"

struct nbd_handle;

/* Made with the connection, so that it cannot be missing when it is needed; free(3) it, or: */
struct fm_late *fm_late_new (void);
/* The port's one, and its connection, are the store's from now on.  NULL: the connection has ended. */
void fm_late_add (struct fm_port *p, struct nbd_handle *connection);
/* A write of it got no answer, and its connection has ended. */
void fm_late_cut (struct fm_late *late);
/* The server has gone, and with it the writes of connections that had ended. */
void fm_late_server_gone (struct fm_store *s);
/* A machine that is gone says nothing: without a question its connection would stay for ever, if nothing in between
 * forgets it.  After so many times without an answer the connection ends. */
void fm_late_keep_asking (int fd, int times);
/* Of a connection with writes, to a store that is not fenced.  If its end is one in order, what was given to it is sent
 * on.  Else the kernel is not to do that: neither what was given up nor what a process that was killed had not sent is
 * done after what the next one writes. */
void fm_late_end_at_once (int fd, bool at_once);
#define FM_ASK_MOST 127 /* ten minutes: an outage that nobody meets is no loss */
/* Whether nothing of the store is late any more. */
bool fm_late_settled (struct fm_store *s);
/* 0: so it is.  Else with what a write or a flush is refused at once: -ETIMEDOUT, a server is silent, and a longer
 * time may be what it needs; -ENOTCONN, the connections have ended, and what has ended them is to be looked at. */
int fm_late_refusal (struct fm_store *s);
void fm_late_forget (struct fm_store *s); /* the store ends */

#endif
