/* Several reads at once: runs of a store, one after another into one buffer.
 *
 * Idea.  Who looks at much of a store and waits for each read pays its latency each time.  So up to
 * `depth` reads are under way on one port, in the order of the runs; what was read of them from the
 * front, without a gap, is the result.  None is begun after the deadline but the first, so a call
 * ends when what is under way then has been answered, and always gets on.
 *
 * A server that answers nothing for the store's timeout_ns has failed, however many are under way.
 * Left out: how many to have under way (mirror_core/compare.py): that is why the times are told.
 */
#ifndef FM_GATHER_H
#define FM_GATHER_H

#include "store.h"

struct fm_gather_times {
  uint64_t quickest_ns, slowest_ns; /* of the reads that were answered */
};

/* `runs`: n pairs of offset and length.  How many were read, from the front: at least 1; or -errno
 * of the first one. */
int fm_store_gather (struct fm_store *s, const uint64_t *runs, unsigned n, void *buf, unsigned depth,
                     uint64_t deadline_ns, struct fm_gather_times *times);

#endif
