/* Who hears that what he wrote and did not flush may be gone.
 *
 * Idea.  The front counts its losses (store.h), and each connection of a client remembers of which it has
 * heard: of the others it hears once, by an error of its next flush.  But the writes are the client's,
 * who may have lost his connection, or the whole site under it, and comes back on another one; nobody
 * can tell him from a client who is new, and that somebody else has heard says nothing of him.  So it
 * is time that decides.  A connection hears of a loss
 *   - that was counted while it was open;
 *   - that was counted less than `returning_ns` before it was opened.  A loss between two processes
 *     counts from the start of the second one, before which no client can be back;
 *   - of which a connection that was open when it was counted, or for `returning_ns`, has not heard for
 *     sure, if that one ended less than `returning_ns` before it was opened.
 * It has heard for sure when a later flush of its own was good: the answer of the one that failed may
 * have been lost with the connection.
 *
 * Not told: a client who comes back later than that, or twice without a flush.  Told for nothing, once for
 * each connection: a client who is new, or has nothing to lose, within that time.
 *
 * Invariant: while a client may have to be told, fm_news_is_due says so, and then a process that follows
 * this one must count a loss again (server_instance.py).
 * Guard: `lock` of the volume, for the list.  A node belongs to the volume, so a client whom nobody ended
 * leaves nothing behind but that he counts as open.
 */
#ifndef FM_NEWS_H
#define FM_NEWS_H

#include "volume.h"

/* A connection of a client. */
struct fm_news {
  struct fm_news *next;
  uint64_t since_ns;
  _Atomic uint64_t heard; /* of the front's losses: answered */
  _Atomic uint64_t sure;  /* the same, and the answer has been received */
};

/* NULL: no memory. */
struct fm_news *fm_news_begin (struct fm_volume *v);
void fm_news_end (struct fm_volume *v, struct fm_news *n);
/* A flush of this client: 0 or -errno. */
int fm_news_flush (struct fm_volume *v, struct fm_news *n);
/* Whether somebody who is connected, or may come back, is to be told of a loss. */
bool fm_news_is_due (struct fm_volume *v);
void fm_news_free (struct fm_volume *v); /* of fm_volume_free */

#endif
