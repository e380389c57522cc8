/* The connections of a store that nobody has for good: for store.c, flush.c and pool.c only. */
#ifndef FM_POOL_H
#define FM_POOL_H

#include "store.h"

/* Close what nobody uses: the server of these connections has ended. */
void fm_pool_drop (struct fm_store *s);
/* The store ends; nobody has a connection of the pool any more. */
void fm_pool_close (struct fm_store *s);

#endif
