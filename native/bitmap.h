/* A set of blocks as bits, with summary levels, safe to use from many threads.
 *
 * Idea.  Level 0 has one bit a block; each level above has one bit for every
 * group of 512 bits (a cache line: a walk pays for lines, not for bits) of the
 * level below, set where that group may be non-zero, up to a level of one group.
 * The words are anonymous memory that costs nothing until it is touched: a map
 * of 64 TiB (2^34 blocks of 4 KiB) is 2 GiB of address space and a few pages of
 * memory.  Readers go down from a summary, so asking for a block that was never
 * set touches no page of level 0.
 *
 * Invariants.
 *   - A set bit's summaries are set when the setter returns.
 *   - `count` is the number of set bits whenever no call is under way.
 *   - Bits past `nbits` are never set.
 * A clear that empties a group clears its summary, looks at the group again and
 * puts the summary back if somebody set a bit meanwhile.  Between the two a
 * reader may miss that bit.  So a map that is set and cleared at the same time
 * must be read only by the scanner that clears it, which comes back while
 * `count` is not zero; maps that writers test are never in that position.
 *
 * Shared.  Level 0 may live in a file in memory instead, which outlives the process: then
 * each of its pages is allocated before it is touched, and one that is not there is never
 * touched, or a full file system would end the process (SIGBUS).  Where it cannot be
 * allocated the map goes on in anonymous memory, after the file was marked as not whole.
 *
 * Left out: what the file is called and whom it belongs to (mirror_core/mapfile.py).
 */
#ifndef FM_BITMAP_H
#define FM_BITMAP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FM_BITMAP_LEVELS 7 /* 512^7 bits is more than any volume has */

struct fm_bitmap {
  uint64_t nbits;
  unsigned levels;
  uint64_t words[FM_BITMAP_LEVELS];
  _Atomic uint64_t *level[FM_BITMAP_LEVELS];
  _Atomic uint64_t count;
  uint64_t emptied; /* bits cleared one by one since the last reset: fm_bitmap_empty's own */

  /* Of a shared one, else NULL: a bit for each page of level 0 that may be touched. */
  _Atomic uint64_t *there;
  _Atomic uint64_t *whole; /* 0: the file does not hold all bits */
  int fd;                  /* not owned; level 0 begins in it at `offset` */
  uint64_t offset;
  pthread_mutex_t growing; /* held where `there` grows */
};

/* 0, or -ENOMEM / -EINVAL (no bits). */
int fm_bitmap_init (struct fm_bitmap *b, uint64_t nbits);
void fm_bitmap_free (struct fm_bitmap *b);
/* Level 0 moves into the file, which is empty there.  Before any bit is set; `offset` is a
 * multiple of 4096.  0 or -errno. */
int fm_bitmap_share (struct fm_bitmap *b, int fd, uint64_t offset, _Atomic uint64_t *whole);
uint64_t fm_bitmap_shared_bytes (const struct fm_bitmap *b); /* of level 0, whole pages */
/* b |= the bits of a shared bitmap of as many.  0 or -errno. */
int fm_bitmap_load (struct fm_bitmap *b, int fd, uint64_t offset);

/* Set or clear [first, first + n); the number of bits that changed. */
uint64_t fm_bitmap_set (struct fm_bitmap *b, uint64_t first, uint64_t n);
uint64_t fm_bitmap_clear (struct fm_bitmap *b, uint64_t first, uint64_t n);

/* The first run of set bits at or after `from`, at most `max` long.
 * False: there is none. */
bool fm_bitmap_run (const struct fm_bitmap *b, uint64_t from, uint64_t max,
                    uint64_t *first, uint64_t *n);

/* dst |= src. */
void fm_bitmap_or (struct fm_bitmap *dst, const struct fm_bitmap *src);
/* Clear everything and give the memory back.  No other call may be under way: a page of a shared map that is taken from
 * under a reader ends the process where the file system is full. */
void fm_bitmap_reset (struct fm_bitmap *b);
/* Clear everything, beside readers. */
void fm_bitmap_clear_all (struct fm_bitmap *b);
/* The same, but a map that holds little keeps its pages for a while: a cycle of few
 * blocks would fault them in again one by one. */
void fm_bitmap_empty (struct fm_bitmap *b);

static inline uint64_t
fm_bitmap_count (const struct fm_bitmap *b)
{
  return atomic_load_explicit (&b->count, memory_order_acquire);
}

#endif
