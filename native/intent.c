/* See intent.h. */
#include "intent.h"
#include "below.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_WORDS 512 /* 4096 bytes */

uint64_t
fm_intent_log_bytes (uint64_t size, unsigned shift)
{
  uint64_t regions = (size + (1ULL << shift) - 1) >> shift;
  uint64_t words = (regions + 63) / 64;
  return (words + PAGE_WORDS - 1) / PAGE_WORDS * PAGE_WORDS * 8;
}

int
fm_intent_open (struct fm_store *log, uint64_t log_offset, uint64_t size, unsigned shift,
                struct fm_intent **out)
{
  struct fm_intent *i = calloc (1, sizeof *i);
  if (!i)
    return -ENOMEM;
  uint64_t bytes = fm_intent_log_bytes (size, shift);
  i->log = log;
  atomic_init (&i->heard, fm_store_losses (log));
  i->log_offset = log_offset;
  i->shift = shift;
  i->nregions = (size + (1ULL << shift) - 1) >> shift;
  i->nwords = bytes / 8;
  i->hot = calloc (i->nwords, 8);
  i->image = calloc (i->nwords, 8);
  i->used_s = calloc (i->nregions, 4);
  pthread_mutex_init (&i->lock, NULL);
  fm_cond_init (&i->idle);
  int rc = i->hot && i->image && i->used_s ? fm_store_read (log, i->image, bytes, log_offset)
                                           : -ENOMEM;
  if (rc == 0 && i->nregions % 64)
    i->image[i->nregions / 64] &= (1ULL << (i->nregions % 64)) - 1;
  uint64_t words = (i->nregions + 63) / 64; /* bits behind the last region are damage */
  if (rc == 0)
    memset (i->image + words, 0, (i->nwords - words) * 8);
  /* A process before this one may have left bits unflushed, or have met the failure of their
   * flush, of which the disk tells once: what is read need not stand there. */
  struct fm_op write = { .kind = FM_WRITE, .buf = i->image, .length = bytes, .offset = log_offset };
  if (rc == 0)
    rc = fm_store_io (log, &write);
  if (rc == 0)
    rc = fm_store_flush (log, &i->heard);
  atomic_init (&i->flushed, fm_below_moment ());
  if (rc < 0) {
    fm_intent_close (i);
    return rc;
  }
  for (uint64_t w = 0; w < words; w++)
    atomic_init (&i->hot[w], i->image[w]);
  *out = i;
  return 0;
}

void
fm_intent_close (struct fm_intent *i)
{
  if (!i)
    return;
  pthread_cond_destroy (&i->idle);
  pthread_mutex_destroy (&i->lock);
  free (i->hot);
  free (i->image);
  free (i->used_s);
  free (i);
}

/* ---- writing the log: with `lock`, which it gives up meanwhile, and `busy` ---- */

static void
make_dirty (struct fm_intent *i, uint64_t word)
{
  if (i->dirty_from == i->dirty_end)
    i->dirty_from = word, i->dirty_end = word + 1;
  else if (word < i->dirty_from)
    i->dirty_from = word;
  else if (word >= i->dirty_end)
    i->dirty_end = word + 1;
}

static void
make_all_dirty (struct fm_intent *i)
{
  make_dirty (i, 0);
  make_dirty (i, i->nwords - 1);
}

/* Since all of it was written something else on its disk was lost. */
static bool
has_lost (const struct fm_intent *i)
{
  return fm_store_losses (i->log) != atomic_load (&i->heard);
}

/* The next lines: with `busy`. */

/* *copy is to be freed, whatever comes.  -EAGAIN: another has lost something there meanwhile. */
static int
write_once (struct fm_intent *i, uint64_t **copy, uint64_t *from, uint64_t *end)
{
  uint64_t before = fm_store_losses (i->log);
  if (before != atomic_load (&i->heard))
    make_all_dirty (i);
  *from = i->dirty_from / PAGE_WORDS * PAGE_WORDS;
  *end = (i->dirty_end + PAGE_WORDS - 1) / PAGE_WORDS * PAGE_WORDS;
  uint64_t bytes = (*end - *from) * 8;
  *copy = malloc (bytes ? bytes : 1);
  if (!*copy)
    return -ENOMEM;
  memcpy (*copy, i->image + *from, bytes);
  i->dirty_from = i->dirty_end = 0;
  pthread_mutex_unlock (&i->lock);
  struct fm_op write = { .kind = FM_WRITE, .buf = *copy, .length = bytes,
                         .offset = i->log_offset + *from * 8 };
  struct fm_op flush = { .kind = FM_FLUSH };
  int rc = fm_store_io (i->log, &write);
  if (rc == 0)
    rc = fm_store_io (i->log, &flush);
  if (rc == 0 && fm_store_losses (i->log) != before)
    rc = -EAGAIN;
  uint64_t flushed = fm_below_moment ();
  pthread_mutex_lock (&i->lock);
  if (rc == 0) { /* not sooner: who is not `busy` counts on it */
    atomic_store (&i->flushed, flushed);
    atomic_store (&i->heard, before);
  } else
    make_all_dirty (i); /* what was lost may be older than this */
  return rc;
}

/* Write the pages that changed and flush.  On success *copy (to be freed) holds the words
 * [*from, *end) that are on disk now; on failure all are dirty.  After another's loss it is tried once more, but not
 * after its own, which is one for all on its disk. */
static int
write_dirty (struct fm_intent *i, uint64_t **copy, uint64_t *from, uint64_t *end)
{
  int rc = write_once (i, copy, from, end);
  if (rc == -EAGAIN) {
    free (*copy);
    rc = write_once (i, copy, from, end);
  }
  return rc == -EAGAIN ? -EIO : rc;
}

/* The same, of bits that are hot already, or are not to be. */
static int
write_alone (struct fm_intent *i)
{
  uint64_t *words, from, end;
  int rc = write_dirty (i, &words, &from, &end);
  free (words);
  return rc;
}

static void
enter (struct fm_intent *i)
{
  while (i->busy)
    fm_cond_wait_until (&i->idle, &i->lock, fm_now_ns () + 50 * FM_MS);
  i->busy = true;
}

static void
leave (struct fm_intent *i)
{
  i->busy = false;
  pthread_cond_broadcast (&i->idle);
}

/* ---- heating ---- */

static bool
is_hot (const struct fm_intent *i, uint64_t first, uint64_t last)
{
  for (uint64_t r = first; r <= last; r++)
    if (!(atomic_load (&i->hot[r / 64]) & (1ULL << (r % 64))))
      return false;
  return true;
}

/* What stands in these words of the log is hot from now on. */
static void
set_hot (struct fm_intent *i, const uint64_t *words, uint64_t from, uint64_t end)
{
  for (uint64_t w = from; w < end; w++)
    if (words[w - from])
      atomic_fetch_or (&i->hot[w], words[w - from]);
}

int
fm_intent_heat_step (struct fm_intent *i, uint64_t offset, uint64_t length)
{
  uint64_t first = offset >> i->shift, last = (offset + length - 1) >> i->shift;
  if (is_hot (i, first, last) && !has_lost (i))
    return 1;
  int rc = 0;
  pthread_mutex_lock (&i->lock);
  for (uint64_t r = first; r <= last; r++) { /* whoever writes next, writes this too */
    i->image[r / 64] |= 1ULL << (r % 64);
    make_dirty (i, r / 64);
  }
  if (!i->busy) {
    uint64_t *words, from, end;
    i->busy = true;
    rc = write_dirty (i, &words, &from, &end);
    if (rc == 0) {
      set_hot (i, words, from, end);
      rc = 1;
    }
    free (words);
    leave (i);
  }
  pthread_mutex_unlock (&i->lock);
  return rc;
}

void
fm_intent_wait (struct fm_intent *i, uint64_t deadline_ns)
{
  pthread_mutex_lock (&i->lock);
  if (i->busy)
    fm_cond_wait_until (&i->idle, &i->lock, deadline_ns);
  pthread_mutex_unlock (&i->lock);
}

int
fm_intent_heat (struct fm_intent *i, uint64_t offset, uint64_t length)
{
  int rc;
  while ((rc = fm_intent_heat_step (i, offset, length)) == 0)
    fm_intent_wait (i, fm_now_ns () + 50 * FM_MS);
  return rc < 0 ? rc : 0;
}

int
fm_intent_heat_all (struct fm_intent *i)
{
  return fm_intent_heat (i, 0, i->nregions << i->shift);
}

/* ---- cooling ---- */

void
fm_intent_used (struct fm_intent *i, const struct fm_bitmap *blocks, unsigned shift,
                uint32_t now_s)
{
  uint64_t at = 0, n, per = i->shift - shift;
  for (uint64_t from = 0; fm_bitmap_run (blocks, from, 1, &at, &n);) {
    uint64_t region = at >> per;
    i->used_s[region] = now_s;
    from = (region + 1) << per;
  }
}

bool
fm_intent_covers (const struct fm_intent *i, const struct fm_bitmap *blocks, unsigned shift)
{
  uint64_t at = 0, n, per = i->shift - shift;
  for (uint64_t from = 0; fm_bitmap_run (blocks, from, 1, &at, &n);) {
    uint64_t region = at >> per;
    if (!is_hot (i, region, region))
      return false;
    from = (region + 1) << per;
  }
  return true;
}

static bool
has_blocks (const struct fm_bitmap *map, uint64_t region, unsigned per)
{
  uint64_t first = region << per, at, n;
  return fm_bitmap_run (map, first, 1, &at, &n) && at >> per == region;
}

/* Whether this hot region may go cold; then it is not hot any more. */
static bool
may_cool (struct fm_intent *i, uint64_t region, const struct fm_bitmap *next, unsigned per)
{
  uint64_t bit = 1ULL << (region % 64);
  if (has_blocks (next, region, per))
    return false;
  atomic_fetch_and (&i->hot[region / 64], ~bit);
  if (!has_blocks (next, region, per)) /* looked at in the order of seq_cst: see intent.h */
    return true;
  atomic_fetch_or (&i->hot[region / 64], bit);
  return false;
}

int
fm_intent_cool (struct fm_intent *i, const struct fm_bitmap *next, unsigned shift,
                uint32_t before_s)
{
  int rc = 0;
  bool cooled = false;
  pthread_mutex_lock (&i->lock);
  enter (i); /* nobody heats from here on: what is cooled stays so until `leave` */
  for (uint64_t w = 0; w < i->nwords; w++)
    for (uint64_t left = atomic_load (&i->hot[w]); left; left &= left - 1) {
      uint64_t region = w * 64 + (unsigned)__builtin_ctzll (left);
      if (i->used_s[region] >= before_s || !may_cool (i, region, next, i->shift - shift))
        continue;
      i->image[w] &= ~(1ULL << (region % 64));
      make_dirty (i, w);
      cooled = true;
    }
  if (cooled || has_lost (i))
    rc = write_alone (i);
  leave (i);
  pthread_mutex_unlock (&i->lock);
  return rc;
}

/* ---- what may be lost ---- */

int
fm_intent_renew (struct fm_intent *i)
{
  int rc = 0;
  if (!has_lost (i))
    return 0;
  pthread_mutex_lock (&i->lock);
  enter (i);
  if (has_lost (i))
    rc = write_alone (i);
  leave (i);
  pthread_mutex_unlock (&i->lock);
  return rc;
}

int
fm_intent_seal (struct fm_intent *i)
{
  int rc;
  do { /* whatever was lost until its last flush ended is known then */
    fm_below_wait (i->log->below, atomic_load (&i->flushed));
    if (!has_lost (i))
      return 0;
  } while ((rc = fm_intent_renew (i)) == 0);
  return rc;
}

/* ---- what a person, or a recovery, asks ---- */

bool
fm_intent_run (const struct fm_intent *i, uint64_t from, uint64_t *offset, uint64_t *length)
{
  uint64_t r = from >> i->shift, end;
  while (r < i->nregions && !is_hot (i, r, r))
    r += atomic_load (&i->hot[r / 64]) ? 1 : 64 - r % 64;
  if (r >= i->nregions)
    return false;
  for (end = r; end < i->nregions && is_hot (i, end, end);)
    end++;
  *offset = r << i->shift;
  *length = (end - r) << i->shift;
  return true;
}

uint64_t
fm_intent_hot (const struct fm_intent *i)
{
  uint64_t n = 0;
  for (uint64_t w = 0; w < i->nwords; w++)
    n += (unsigned)__builtin_popcountll (atomic_load (&i->hot[w]));
  return n;
}
