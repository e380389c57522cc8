/* What of the NBD store others need: connecting with a deadline, and one
 * request of the control export. */
#ifndef FM_STORE_NBD_H
#define FM_STORE_NBD_H

#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>

/* 0, or -errno with one line in `why` (may be NULL). */
int fm_nbd_connect (const char *uri, uint64_t deadline_ns, struct nbd_handle **out, char *why,
                    unsigned whysize);

/* Move the connection as far as it goes without blocking.  False: it has ended. */
bool fm_nbd_turn (struct nbd_handle *h);

/* Write `request` at 0 of the export, read `answer` at 0 up to its first zero byte (the rest
 * becomes zeroes), disconnect. */
int fm_exchange (const char *uri, const void *request, uint64_t request_bytes, void *answer,
                 uint64_t answer_bytes, uint64_t timeout_ns, char *why, unsigned whysize);

#endif
