/* Promises of plan.h. */
#include "check.h"

#include "plan.h"

#define BITS 300
#define CLAIMS 6

static bool
claimed (const struct fm_claim *c, uint64_t block)
{
  for (unsigned i = 0; i < CLAIMS; i++)
    if (c[i].n && block >= c[i].first && block < c[i].first + c[i].n)
      return true;
  return false;
}

/* The run is the first one of blocks that are in the map and in no claim, as
 * long as it can be within `max`: the answer of looking at each block. */
static void
run_is_the_first_free_one (void)
{
  uint64_t seed = 7;
  for (unsigned round = 0; round < 3000; round++) {
    struct fm_bitmap b;
    struct fm_claim c[CLAIMS] = { 0 }, run;
    bool m[BITS] = { 0 };
    fm_bitmap_init (&b, BITS);
    for (unsigned i = 0; i < 5; i++) {
      uint64_t first = random_below (&seed, BITS), n = random_below (&seed, BITS - first + 1);
      fm_bitmap_set (&b, first, n);
      memset (m + first, true, n);
      c[i].first = random_below (&seed, BITS);
      c[i].n = random_below (&seed, 20);
    }
    uint64_t from = random_below (&seed, BITS), max = 1 + random_below (&seed, 50);
    uint64_t first = from, n = 0;
    while (first < BITS && (!m[first] || claimed (c, first)))
      first++;
    while (first + n < BITS && n < max && m[first + n] && !claimed (c, first + n))
      n++;
    bool found = fm_plan_run (&b, from, max, c, CLAIMS, &run);
    CHECK_EQ (found, n > 0);
    if (found)
      CHECK (run.first == first && run.n == n);
    fm_bitmap_free (&b);
  }
}

/* A claim overlaps what shares a block with it; neighbours do not. */
static void
overlap (void)
{
  struct fm_claim c[2] = { { .first = 10, .n = 5 }, { .first = 12, .n = 0 } };
  CHECK (!fm_plan_overlap (c, 2, 5, 5));
  CHECK (fm_plan_overlap (c, 2, 5, 6) == c);
  CHECK (fm_plan_overlap (c, 2, 14, 1) == c);
  CHECK (!fm_plan_overlap (c, 2, 15, 100));
  CHECK (fm_plan_overlap (c, 2, 0, 100) == c);
}

int
main (void)
{
  RUN (run_is_the_first_free_one);
  RUN (overlap);
  return finish ("plan");
}
