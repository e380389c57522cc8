/* How large one operation may be, so that it takes some 5 to 10 ms.  Pure: no I/O, no clock, no lock.
 *
 * Idea.  What a store can do in a while differs by a factor of 100,000 (to punch a hole into a file, to
 * write zeroes to a disk), and nobody says so in advance.  So sizes are classes, each twice the one
 * before; operations begin with the least, and the time that they take decides about the next ones:
 *   - less than FM_PACE_NS: twice as much is tried;
 *   - longer: half as much, unless the half takes nearly as long.  Then the time does not come
 *     from the size but from the way, or from each operation itself, and larger ones are better;
 *   - much longer: what was known is of another time, and is forgotten.
 * What twice as much took is forgotten after a while, and so tried again.  Quick ones must have been
 * some before twice as much is tried: a cache may take a lot at once, and then nothing for long.
 *
 * An operation took the time since the one before it ended (or since its own begin, if that is
 * later), so what it waited for others does not count; the mean over as many as are under way at
 * once, so neither does the way when there are many on it.
 *
 * Invariants: FM_PACE_LEAST <= piece <= FM_PACE_MOST; one step up at a time.
 * The guard is the caller's, but fm_pace_piece may be called at any time.
 * Left out: how many at once (flow.h); other users of the store, who make it slow to us.
 */
#ifndef FM_PACE_H
#define FM_PACE_H

#include <stdint.h>

#define FM_PACE_NS 5000000ULL
#define FM_PACE_LEAST (64 * 1024ULL)
#define FM_PACE_SIZES 11
#define FM_PACE_MOST (FM_PACE_LEAST << (FM_PACE_SIZES - 1)) /* 64 MiB */

struct fm_pace {
  _Atomic uint64_t piece;  /* bytes: the largest operation now */
  unsigned size;           /* its class */
  unsigned under_way;      /* operations */
  unsigned trial, trials;  /* of this class: how many have ended, of at least how many */
  uint64_t trial_ns;       /* what they took together */
  unsigned tries;          /* trials since the next class was forgotten */
  uint64_t ended_ns;       /* the last one */
  uint64_t took_ns[FM_PACE_SIZES]; /* one, lately; 0: nobody knows */
};

void fm_pace_init (struct fm_pace *p);
uint64_t fm_pace_piece (const struct fm_pace *p);
void fm_pace_begin (struct fm_pace *p);
/* Begin with the least again. */
void fm_pace_forget (struct fm_pace *p);
/* `begun_ns` 0: nothing can be learned from it. */
void fm_pace_end (struct fm_pace *p, uint64_t bytes, uint64_t begun_ns, uint64_t now_ns);

#endif
