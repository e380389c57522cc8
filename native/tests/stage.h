/* One volume of fakes on which a test plays the writers itself, step by step. */
#ifndef FM_STAGE_H
#define FM_STAGE_H

#include "check.h"
#include "fake.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>

#define BLOCK 512
#ifndef BLOCKS
#define BLOCKS 64
#endif
#define SIZE (BLOCKS * BLOCK - 100) /* the last block is short */

static struct fake *front, *first, *second;
static struct fm_volume *v;
static char new_bytes[SIZE];

static inline void
check_front_write (struct fake *f, const struct fm_op *op)
{
  (void)f;
  uint64_t block = op->offset / BLOCK, end = (op->offset + op->length - 1) / BLOCK + 1, at, n;
  for (; block < end; block++)
    CHECK (fm_bitmap_run (v->next, block, 1, &at, &n) && at == block); /* recorded before */
  if (!v->abandoned)
    for (block = op->offset / BLOCK; block < end; block++)
      CHECK (!fm_bitmap_run (v->pending, block, 1, &at, &n) || at != block); /* I5 */
}

/* A volume whose every block is pending; bytes of block b are b + 1. */
static inline void
set_up (bool preserve_first, unsigned sinks, unsigned nprio, unsigned lazy)
{
  uint64_t held;
  front = fake_open (SIZE, lazy);
  first = fake_open (SIZE, lazy);
  second = fake_open (SIZE, lazy);
  for (unsigned i = 0; i < SIZE; i++)
    front->bytes[i] = (char)(1 + i / BLOCK);
  memset (new_bytes, 99, SIZE);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, preserve_first, &v), 0);
  front->on_write = check_front_write;
  CHECK_EQ (fm_volume_link (v, sinks == 2 ? &second->store : NULL, nprio), 0);
  fm_volume_mark (v, 0, BLOCKS);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
}

static inline void
tear_down (void)
{
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
  fake_close (second);
}

static inline struct fm_request
write_of (uint64_t offset, uint64_t n)
{
  return (struct fm_request){
    .op = { .kind = FM_WRITE, .offset = offset, .length = n, .buf = new_bytes }
  };
}

static inline bool
holds (const struct fake *f, unsigned block, char value)
{
  return f->bytes[block * BLOCK] == value;
}

static inline struct fm_volume_stats
stats (void)
{
  struct fm_volume_stats s;
  fm_volume_read_stats (v, &s);
  return s;
}

static inline void
steps (struct fm_request *r, unsigned n)
{
  while (n--)
    CHECK_EQ (fm_request_step (v, r), 0);
}

#endif
