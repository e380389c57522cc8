/* What of the NBD store others need: connecting with a deadline, and its operations. */
#ifndef FM_STORE_NBD_H
#define FM_STORE_NBD_H

#include "store.h"

#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>

#define FM_CONNECT_NS 10000000000ULL /* longer than that connecting never takes */

/* 0, or -errno, but not -EAGAIN (volume.h), with one line in `why` (may be NULL). */
int fm_nbd_connect (const char *uri, uint64_t deadline_ns, struct nbd_handle **out, char *why,
                    unsigned whysize);

/* Move the connection as far as it goes without blocking.  False: it has ended.  *moved (may be
 * NULL) becomes true if it moved at all. */
bool fm_nbd_turn (struct nbd_handle *h, bool *moved);

/* Of a port whose `nbd` is connected (line.h). */
extern const struct fm_store_ops fm_nbd_ops;

#endif
