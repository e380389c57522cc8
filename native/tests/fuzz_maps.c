/* Promises of bitmap.h and plan.h, whatever the calls: the bytes are operations on two maps,
 * and each answer is that of a plain array of flags.
 *
 * Left out: many threads at once (test_bitmap.c, under the thread sanitizer). */
#include "fuzz.h"

#include "plan.h"

#include <string.h>

#define BITS_MAX 262800 /* three levels */
#define OPS_MAX 64
#define CLAIMS 3

static const uint64_t sizes[] = { 1,   2,   63,   64,   65,     127,    511,    512,
                                  513, 700, 4096, 4097, 262143, 262144, 262145, BITS_MAX };

struct map {
  struct fm_bitmap b;
  uint64_t nbits, count;
  bool flags[BITS_MAX];
};
static struct map maps[2];

MODEL static uint64_t
count_flags (const bool *flags, uint64_t n)
{
  uint64_t count = 0;
  for (uint64_t i = 0; i < n; i++)
    count += flags[i];
  return count;
}

static void
change (struct map *m, bool set, uint64_t first, uint64_t n)
{
  uint64_t count = count_flags (m->flags + first, n), changed = set ? n - count : count;
  memset (m->flags + first, set, n);
  PROMISE ((set ? fm_bitmap_set : fm_bitmap_clear) (&m->b, first, n) == changed);
  m->count += set ? changed : -changed;
}

MODEL static bool
claimed (const struct fm_claim *c, uint64_t block)
{
  for (unsigned i = 0; i < CLAIMS; i++)
    if (c[i].n && block >= c[i].first && block - c[i].first < c[i].n)
      return true;
  return false;
}

/* The next run of flags that are set and in no claim; none: false. */
MODEL static bool
plain_run (const struct map *m, uint64_t from, uint64_t max, const struct fm_claim *c,
           uint64_t *first, uint64_t *n)
{
  for (*first = from, *n = 0; *first < m->nbits; ++*first)
    if (m->flags[*first] && !claimed (c, *first))
      break;
  while (*first + *n < m->nbits && *n < max && m->flags[*first + *n] && !claimed (c, *first + *n))
    ++*n;
  return *n > 0;
}

static void
look (struct map *m, uint64_t from, uint64_t max)
{
  static const struct fm_claim none[CLAIMS];
  uint64_t f1, n1, f2, n2;
  bool there = plain_run (m, from, max, none, &f1, &n1);
  PROMISE (fm_bitmap_run (&m->b, from, max, &f2, &n2) == there);
  PROMISE (!there || (f1 == f2 && n1 == n2));
}

static void
plan (struct map *m, struct input *in)
{
  struct fm_claim c[CLAIMS], run;
  uint64_t first, n;
  for (unsigned i = 0; i < CLAIMS; i++) {
    c[i].first = take_place (in, m->nbits);
    c[i].n = take (in, 1);
  }
  uint64_t from = take_place (in, m->nbits), max = 1 + take (in, 1);
  bool there = plain_run (m, from, max, c, &first, &n);
  PROMISE (fm_plan_run (&m->b, from, max, c, CLAIMS, &run) == there);
  PROMISE (!there || (run.first == first && run.n == n));
  if (there)
    PROMISE (!fm_plan_overlap (c, CLAIMS, run.first, run.n));
}

MODEL static void
join_flags (struct map *dst, const struct map *src)
{
  for (uint64_t i = 0; i < dst->nbits; i++)
    dst->flags[i] |= src->flags[i];
}

static void
join (struct map *dst, const struct map *src)
{
  fm_bitmap_or (&dst->b, &src->b);
  join_flags (dst, src);
  dst->count = count_flags (dst->flags, dst->nbits);
}

static void
clean (struct map *m, void (*call) (struct fm_bitmap *b))
{
  call (&m->b);
  memset (m->flags, false, m->nbits);
  m->count = 0;
}

static void
operate (struct map *m, const struct map *other, struct input *in, unsigned op)
{
  uint64_t first = take_place (in, m->nbits), second = take_place (in, m->nbits);
  uint64_t n = second > first ? second - first : 0;
  switch (op) {
  case 0: change (m, true, first, n); break;
  case 1: change (m, false, first, n); break;
  case 2: change (m, true, first, first < m->nbits); break;
  case 3: change (m, false, first, first < m->nbits); break;
  case 4: look (m, first, second); break;
  case 5: plan (m, in); break;
  case 6: join (m, other); break;
  case 7: clean (m, n % 2 ? fm_bitmap_reset : fm_bitmap_empty); break;
  }
  PROMISE (fm_bitmap_count (&m->b) == m->count);
}

/* Whether a summary is missing, or a bit lies past the end. */
MODEL static bool
is_broken (const struct fm_bitmap *b)
{
  for (unsigned l = 0; l + 1 < b->levels; l++)
    for (uint64_t w = 0; w < b->words[l]; w++)
      if (b->level[l][w] && !(b->level[l + 1][w / 8 / 64] & (1ULL << (w / 8 % 64))))
        return true;
  for (uint64_t bit = b->nbits; bit < b->words[0] * 64; bit++)
    if (b->level[0][bit / 64] & (1ULL << (bit % 64)))
      return true;
  return false;
}

/* All bits, each in a run that is found. */
static void
check_whole (const struct map *m)
{
  uint64_t seen = 0, first, n;
  for (uint64_t at = 0; fm_bitmap_run (&m->b, at, m->nbits, &first, &n); at = first + n) {
    PROMISE (count_flags (m->flags + first, n) == n);
    seen += n;
  }
  PROMISE (seen == m->count);
  PROMISE (!is_broken (&m->b));
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct input in = { data, data + size };
  uint64_t nbits = sizes[take (&in, 1) % (sizeof sizes / sizeof *sizes)];
  for (struct map *m = maps; m < maps + 2; m++) {
    PROMISE (fm_bitmap_init (&m->b, nbits) == 0);
    m->nbits = nbits, m->count = 0;
    memset (m->flags, false, nbits);
  }
  for (unsigned i = 0; i < OPS_MAX && in.at < in.end; i++) {
    unsigned what = (unsigned)take (&in, 1), which = what >> 3 & 1;
    operate (&maps[which], &maps[!which], &in, what & 7);
  }
  for (struct map *m = maps; m < maps + 2; m++) {
    check_whole (m);
    fm_bitmap_free (&m->b);
  }
  return 0;
}
