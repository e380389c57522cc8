/* A map to and from Python, many blocks a call.  Out: in the portable form of roaring bitmaps
 * (RoaringFormatSpec, its 64-bit extension), as the ledger holds it, made in one walk
 * over the map, whatever its shape.  In: as arrays of runs.  Runs as the logs hold them come to that form by
 * way of a map of their own.
 *
 * Idea.  Python would need a second for a million lone blocks, and a handshake must not.  The bits
 * of 65,536 blocks are one container: their runs, a list of the blocks, or a bitset, whichever is the
 * shortest.  Containers are collected first, because the head tells where each of them stands.
 *
 * A map that is written to meanwhile gives each block as it is when the walk comes by.
 * Left out: reading that form, which the library does as fast.
 */
#ifndef FM_PORTABLE_H
#define FM_PORTABLE_H

#include "volume.h"

/* 0, or -ENOMEM.  `*out` is the caller's, for fm_portable_free. */
int fm_volume_portable (struct fm_volume *v, int which, void **out, uint64_t *bytes);
void fm_portable_free (void *out);
/* fm_volume_mark, or fm_volume_mark_pending, of n runs at once: [firsts[i], ends[i]). */
void fm_volume_mark_spans (struct fm_volume *v, const uint64_t *firsts, const uint64_t *ends, uint64_t n,
                           bool pending);
/* The same runs as n pairs of first and blocks. */
void fm_pack_spans (const uint64_t *firsts, const uint64_t *ends, uint64_t n, uint64_t *pairs);
/* A map of so many blocks, of nothing yet; NULL: there is no memory. */
struct fm_bitmap *fm_runs_new (uint64_t blocks);
/* Add n such pairs, which stand anywhere in memory.  0, or -ERANGE: one of them is no run of these blocks. */
int fm_runs_add (struct fm_bitmap *b, const void *pairs, uint64_t n);
/* As fm_volume_portable. */
int fm_runs_portable (const struct fm_bitmap *b, void **out, uint64_t *bytes);
void fm_runs_free (struct fm_bitmap *b);

#endif
