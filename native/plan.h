/* Which run of blocks is copied next.  Pure: no I/O, no clock, no lock.
 *
 * Background copying walks a map upwards from a cursor; runs that somebody has
 * claimed (a writer who waits for them, another slot) are stepped around.
 * Writers do not ask here: they know which blocks they need and claim those
 * ahead of the background.
 */
#ifndef FM_PLAN_H
#define FM_PLAN_H

#include "bitmap.h"

struct fm_lane;

struct fm_claim {
  uint64_t first, n;    /* blocks; n == 0: unused */
  struct fm_lane *lane; /* whose it is */
  bool back;            /* it is being written back to the front (lane.h); guarded by the volume's lock */
  _Atomic bool at_second; /* of its copy all is done but at sink 1: set by who steps the lane */
};

/* The first run at or after `from` of at most `max` blocks that is in `map` and
 * in no claim.  False: there is none up to the end of the map. */
bool fm_plan_run (const struct fm_bitmap *map, uint64_t from, uint64_t max,
                  const struct fm_claim *claims, unsigned nclaims, struct fm_claim *run);

/* The claim that overlaps [first, first + n), or NULL. */
const struct fm_claim *fm_plan_overlap (const struct fm_claim *claims, unsigned nclaims,
                                        uint64_t first, uint64_t n);

#endif
