/* See plan.h. */
#include "plan.h"

const struct fm_claim *
fm_plan_overlap (const struct fm_claim *claims, unsigned nclaims, uint64_t first, uint64_t n)
{
  for (unsigned i = 0; i < nclaims; i++)
    if (claims[i].n && claims[i].first < first + n && first < claims[i].first + claims[i].n)
      return &claims[i];
  return NULL;
}

bool
fm_plan_run (const struct fm_bitmap *map, uint64_t from, uint64_t max,
             const struct fm_claim *claims, unsigned nclaims, struct fm_claim *run)
{
  while (fm_bitmap_run (map, from, max, &run->first, &run->n)) {
    const struct fm_claim *c = fm_plan_overlap (claims, nclaims, run->first, 1);
    if (c) {
      from = c->first + c->n;
      continue;
    }
    while ((c = fm_plan_overlap (claims, nclaims, run->first, run->n)))
      run->n = c->first - run->first;
    return true;
  }
  return false;
}
