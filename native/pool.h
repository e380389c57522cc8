/* The connections of a store that nobody has for good: for the store's own files only. */
#ifndef FM_POOL_H
#define FM_POOL_H

#include "store.h"

/* One more, which is open. */
void fm_pool_add (struct fm_store *s, struct fm_port *p);
/* One of the pool that nobody needs, or NULL: then one more is opened beside, if the server takes it. */
struct fm_port *fm_pool_spare (struct fm_store *s);
/* Begin to open one beside that tells the server's size (store.h). */
void fm_pool_ask_size (struct fm_store *s);
/* Close what nobody uses: the server of these connections has ended. */
void fm_pool_drop (struct fm_store *s);
/* The store ends; nobody has a connection of the pool any more. */
void fm_pool_close (struct fm_store *s);

#endif
