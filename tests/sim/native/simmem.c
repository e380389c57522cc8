/* See simmem.h. */
#include "simmem.h"

#include <stdlib.h>
#include <string.h>

void *
sim_map (size_t bytes)
{
  void *p = calloc (1, bytes);
  return p ? p : MAP_FAILED;
}

int
sim_unmap (void *p, size_t bytes)
{
  (void)bytes;
  free (p);
  return 0;
}

int
sim_advise (void *p, size_t bytes, int advice)
{
  if (advice == MADV_DONTNEED)
    memset (p, 0, bytes);
  return 0;
}
