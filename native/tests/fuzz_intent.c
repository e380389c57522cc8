/* Promises of intent.h, whatever stands in the log and whatever is done: the bits in the log's
 * pages are hot regions of the volume and nothing else; a region is hot only while it is on disk;
 * what is on disk is never less than what is hot. */
#include "fuzz.h"

#include "intent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK_SHIFT 9
#define REGION_SHIFT 11 /* 4 blocks */
#define REGIONS_MAX 32800 /* a page and a little more */
#define LOG_OFFSET 4096
#define OPS_MAX 32

static struct fm_store *logged; /* a file in memory ... */
static uint8_t *bits;           /* ... of which this is the part after LOG_OFFSET */
static int file, full, fd = -1; /* what `fd` of the store is: `file`, or a disk without space */
static bool failing;
static struct fm_intent *intent;
static uint64_t volume_bytes, nregions;
static bool hot[REGIONS_MAX], kept[REGIONS_MAX];

MODEL static bool
on_disk (uint64_t region)
{
  return bits[region / 8] & (1 << (region % 8));
}

MODEL static uint64_t
count_hot (uint64_t first, uint64_t end)
{
  uint64_t count = 0;
  for (uint64_t r = first; r < end; r++)
    count += hot[r] && on_disk (r);
  return count;
}

/* The runs are the regions of `hot`, each on disk, and all within the volume. */
static void
check_hot (void)
{
  uint64_t at = 0, offset, length, first, n, count = 0;
  for (; fm_intent_run (intent, at, &offset, &length); at = offset + length) {
    PROMISE (offset >= at && length && !(offset % (1 << REGION_SHIFT)));
    PROMISE (offset + length <= nregions << REGION_SHIFT && offset < volume_bytes);
    first = offset >> REGION_SHIFT, n = length >> REGION_SHIFT;
    PROMISE (count_hot (first, first + n) == n);
    count += n;
  }
  PROMISE (count == count_hot (0, nregions) && fm_intent_hot (intent) == count);
}

static void
fail (bool yes)
{
  PROMISE (dup2 (yes ? full : file, fd) == fd);
  failing = yes;
}

/* A file of zeroes, so large that no log is larger. */
static void
make_file (void)
{
  uint64_t largest = (uint64_t)REGIONS_MAX << REGION_SHIFT;
  uint64_t most = LOG_OFFSET + fm_intent_log_bytes (largest, REGION_SHIFT);
  if (fd < 0) {
    file = memfd_create ("log", 0);
    full = open ("/dev/full", O_RDWR);
    fd = dup (file);
    PROMISE (file >= 0 && full >= 0 && fd >= 0 && ftruncate (file, (off_t)most) == 0);
    uint8_t *bytes = mmap (NULL, most, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    PROMISE (bytes != MAP_FAILED && fm_store_open_file (fd, most, &logged) == 0);
    bits = bytes + LOG_OFFSET;
  }
  fail (false);
  memset (bits, 0, most - LOG_OFFSET);
}

MODEL static void
open_log (void)
{
  PROMISE (fm_intent_open (logged, LOG_OFFSET, volume_bytes, REGION_SHIFT, &intent) == 0);
  for (uint64_t r = 0; r < nregions; r++)
    hot[r] = on_disk (r);
}

/* These regions are hot, and of those whose write had failed some came with them. */
MODEL static void
heated (uint64_t first, uint64_t last)
{
  memset (hot + first, true, last - first + 1);
  for (uint64_t r = 0; r < nregions; r++)
    hot[r] |= on_disk (r) && (atomic_load (&intent->hot[r / 64]) & (1ULL << (r % 64)));
}

static void
heat (struct input *in)
{
  uint64_t blocks = volume_bytes >> BLOCK_SHIFT;
  uint64_t first = take_place (in, blocks) << BLOCK_SHIFT, end = take_place (in, blocks);
  end = end << BLOCK_SHIFT > first ? end << BLOCK_SHIFT : volume_bytes;
  if (first >= end)
    return;
  int rc = fm_intent_heat_step (intent, first, end - first);
  PROMISE (rc == 1 || (rc == -ENOSPC && failing));
  if (rc == 1)
    heated (first >> REGION_SHIFT, (end - 1) >> REGION_SHIFT);
}

/* Regions that had to be cooled are cold; how many of them are hot on disk. */
MODEL static uint64_t
count_cooled (void)
{
  uint64_t count = 0;
  for (uint64_t r = 0; r < nregions; r++) {
    count += hot[r] && !kept[r] && on_disk (r);
    hot[r] = hot[r] && kept[r];
  }
  return count;
}

/* What was used since stays hot, and so does what is in the map; the rest is cold, here and on
 * disk (but for the disk, if that fails). */
static void
cool (struct input *in, uint32_t *now)
{
  struct fm_bitmap used, next;
  uint64_t blocks = ((volume_bytes - 1) >> BLOCK_SHIFT) + 1;
  PROMISE (fm_bitmap_init (&used, blocks) == 0 && fm_bitmap_init (&next, blocks) == 0);
  memset (kept, false, sizeof kept);
  for (unsigned turns = take (in, 1) % 4; turns; turns--) {
    uint64_t per = REGION_SHIFT - BLOCK_SHIFT, first = take_place (in, blocks - 1);
    uint64_t n = 1 + take (in, 1);
    n = n < blocks - first ? n : blocks - first;
    fm_bitmap_set (take (in, 1) % 2 ? &used : &next, first, n);
    memset (kept + (first >> per), true, ((first + n - 1) >> per) - (first >> per) + 1);
  }
  fm_intent_used (intent, &used, BLOCK_SHIFT, ++*now);
  int rc = fm_intent_cool (intent, &next, BLOCK_SHIFT, *now);
  PROMISE (rc == 0 || (rc == -ENOSPC && failing));
  uint64_t left = count_cooled ();
  PROMISE (rc || left == 0);
  fm_bitmap_free (&used);
  fm_bitmap_free (&next);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct input in = { data, data + size };
  uint32_t now = 1;
  static const uint64_t counts[] = { 1,  2,  7,   20,  63,  64,  65,    100,
                                     128, 129, 190, 300, 511, 700, 32768, REGIONS_MAX };
  nregions = counts[take (&in, 1) % (sizeof counts / sizeof *counts)];
  volume_bytes = (nregions << REGION_SHIFT) - take (&in, 2) % (1 << REGION_SHIFT);
  uint64_t bytes = fm_intent_log_bytes (volume_bytes, REGION_SHIFT);
  make_file ();
  for (unsigned n = take (&in, 1) % 16; n; n--) { /* damage: anywhere in the log's pages */
    uint64_t at = take_place (&in, bytes - 1), length = take (&in, 1);
    memset (bits + at, (int)take (&in, 1),
            length < bytes - at ? length : bytes - at);
  }
  open_log ();
  check_hot ();
  for (unsigned i = 0; i < OPS_MAX && in.at < in.end; i++) {
    switch (take (&in, 1) % 4) {
    case 0: heat (&in); break;
    case 1: cool (&in, &now); break;
    case 2: fail (!failing); break;
    case 3:
      fm_intent_close (intent); /* as a killed process: the disk says it all */
      fail (false);
      open_log ();
      now = 1;
      break;
    }
    check_hot ();
  }
  fm_intent_close (intent);
  return 0;
}
