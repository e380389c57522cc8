/* Promises of bitmap.h. */
#include "check.h"

#include "bitmap.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define THREADS 4

/* Every bit below a set bit's path is found: summaries hold, nothing lies past nbits. */
static void
check_summaries (const struct fm_bitmap *b)
{
  for (unsigned l = 0; l + 1 < b->levels; l++)
    for (uint64_t w = 0; w < b->words[l]; w++)
      if (b->level[l][w]) {
        uint64_t group = w / 8;
        CHECK (b->level[l + 1][group / 64] & (1ULL << (group % 64)));
      }
  for (uint64_t bit = b->nbits; bit < b->words[0] * 64; bit++)
    CHECK (!(b->level[0][bit / 64] & (1ULL << (bit % 64))));
}

/* The first run by looking at each bit. */
static bool
model_run (const bool *m, uint64_t nbits, uint64_t from, uint64_t max, uint64_t *first,
           uint64_t *n)
{
  while (from < nbits && !m[from])
    from++;
  *first = from, *n = 0;
  while (from < nbits && m[from] && *n < max)
    from++, ++*n;
  return *n > 0;
}

/* Another process finds the same bits in the file. */
static void
outlives (const struct fm_bitmap *b, const bool *m, int fd)
{
  struct fm_bitmap other;
  CHECK_EQ (fm_bitmap_init (&other, b->nbits), 0);
  CHECK_EQ (fm_bitmap_load (&other, fd, 4096), 0);
  CHECK_EQ (fm_bitmap_count (&other), fm_bitmap_count (b));
  for (uint64_t first = 0, n; fm_bitmap_run (&other, first, b->nbits, &first, &n); first += n)
    for (uint64_t i = first; i < first + n; i++)
      CHECK (m[i]);
  fm_bitmap_free (&other);
}

static void
against_model (uint64_t nbits, unsigned rounds, uint64_t *seed, int fd)
{
  struct fm_bitmap b;
  _Atomic uint64_t whole = 1;
  bool *m = calloc (nbits, 1);
  uint64_t count = 0;
  CHECK_EQ (fm_bitmap_init (&b, nbits), 0);
  if (fd >= 0)
    CHECK_EQ (fm_bitmap_share (&b, fd, 4096, &whole), 0);
  for (unsigned i = 0; i < rounds; i++) {
    uint64_t first = random_below (seed, nbits);
    uint64_t longest = random_below (seed, 4) ? 70 : nbits;
    uint64_t n = random_below (seed, (nbits - first < longest ? nbits - first : longest) + 1);
    bool set = random_below (seed, 100) < 45, *end = m + first + n;
    uint64_t changed = 0;
    for (bool *p = m + first; p < end; p++)
      changed += *p != set, *p = set;
    CHECK_EQ ((set ? fm_bitmap_set : fm_bitmap_clear) (&b, first, n), changed);
    count += set ? changed : -changed;
    CHECK_EQ (fm_bitmap_count (&b), count);
    uint64_t from = random_below (seed, nbits + 1), max = random_below (seed, 200);
    uint64_t f1 = 0, n1 = 0, f2, n2;
    bool found = fm_bitmap_run (&b, from, max, &f1, &n1);
    CHECK_EQ (found, model_run (m, nbits, from, max, &f2, &n2));
    if (found)
      CHECK (f1 == f2 && n1 == n2);
  }
  check_summaries (&b);
  if (fd >= 0)
    outlives (&b, m, fd);
  fm_bitmap_free (&b);
  free (m);
}

/* set, clear, count and run do what a plain array of flags does, at all sizes
 * around word and level borders, the last bit included. */
static void
random_operations (void)
{
  static const uint64_t sizes[]
      = { 1, 2, 63, 64, 65, 127, 511, 512, 513, 1000, 4096, 4097, 262143, 262144, 262145 };
  uint64_t seed = 1;
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
    against_model (sizes[i], SANITIZED ? 300 : 1500, &seed, -1);
}

static int
memory_file (uint64_t bytes)
{
  int fd = memfd_create ("bitmap", 0);
  CHECK (fd >= 0 && ftruncate (fd, (off_t)bytes) == 0);
  return fd;
}

/* The same of maps in a file, which another process then finds as they were; pages that
 * hold nothing are never there, and an emptied map gives all of them back. */
static void
maps_in_a_file (void)
{
  static const uint64_t sizes[] = { 1, 64, 513, 32767, 32768, 32769, 1 << 20 };
  uint64_t seed = 2;
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    int fd = memory_file (4096 + 131072);
    against_model (sizes[i], 300, &seed, fd);
    close (fd);
  }
  struct fm_bitmap b;
  struct stat s;
  _Atomic uint64_t whole = 1;
  const uint64_t nbits = 1ULL << 34;
  CHECK_EQ (fm_bitmap_init (&b, nbits), 0);
  int fd = memory_file (4096 + fm_bitmap_shared_bytes (&b));
  CHECK_EQ (fm_bitmap_share (&b, fd, 4096, &whole), 0);
  uint64_t first, n;
  CHECK_EQ (fm_bitmap_set (&b, nbits - 1, 1), 1);
  CHECK_EQ (fm_bitmap_set (&b, 32760, 8), 8); /* the end of a page, whose next is not there */
  CHECK (fm_bitmap_run (&b, 0, nbits, &first, &n) && first == 32760 && n == 8);
  CHECK (fm_bitmap_run (&b, 32768, nbits, &first, &n) && first == nbits - 1 && n == 1);
  CHECK_EQ (fm_bitmap_clear (&b, 0, 1 << 20), 8);
  CHECK (fstat (fd, &s) == 0 && s.st_blocks == 2 * 8);
  fm_bitmap_reset (&b);
  CHECK (fstat (fd, &s) == 0 && s.st_blocks == 0);
  CHECK (!fm_bitmap_run (&b, 0, nbits, &first, &n) && whole == 1);
  CHECK_EQ (fm_bitmap_set (&b, 7, 1), 1);
  fm_bitmap_free (&b);
  close (fd);
}

/* A site that serves its own machine locks its memory, page by page as it is touched; a map is
 * emptied as ever, and gives its memory back. */
static void
locked_memory (void)
{
  const uint64_t nbits = 1ULL << 20;
  for (int shared = 0; shared < 2; shared++) {
    struct fm_bitmap b;
    _Atomic uint64_t whole = 1;
    uint64_t first, n;
    CHECK_EQ (fm_bitmap_init (&b, nbits), 0);
    int fd = memory_file (fm_bitmap_shared_bytes (&b));
    if (shared)
      CHECK_EQ (fm_bitmap_share (&b, fd, 0, &whole), 0);
    for (unsigned l = 0; l < b.levels; l++)
      CHECK_EQ (mlock2 (b.level[l], b.words[l] * 8, MLOCK_ONFAULT), 0);
    CHECK_EQ (fm_bitmap_set (&b, 5, 100000), 100000);
    fm_bitmap_reset (&b);
    CHECK (!fm_bitmap_run (&b, 0, nbits, &first, &n));
    CHECK_EQ (fm_bitmap_set (&b, 7, 100), 100);
    CHECK_EQ (fm_bitmap_count (&b), 100);
    fm_bitmap_free (&b);
    close (fd);
  }
}

/* Where there is no room for a page the map goes on as ever, and its file says that it does
 * not hold everything. */
static void
no_room_for_a_shared_page (void)
{
  struct fm_bitmap b;
  uint64_t first, n;
  _Atomic uint64_t whole = 1;
  CHECK_EQ (fm_bitmap_init (&b, 10 * 32768), 0);
  int fd = memory_file (11 * 4096);
  CHECK_EQ (fm_bitmap_share (&b, fd, 4096, &whole), 0);
  CHECK_EQ (fm_bitmap_set (&b, 2 * 32768 - 1, 1), 1);
  CHECK (whole == 1);
  b.fd = -1; /* stands for a full file system: fallocate fails */
  CHECK_EQ (fm_bitmap_set (&b, 2 * 32768, 5), 5);
  CHECK (whole == 0);
  b.fd = fd;
  CHECK_EQ (fm_bitmap_set (&b, 5 * 32768, 5), 5);
  CHECK (fm_bitmap_run (&b, 0, 1000, &first, &n) && first == 2 * 32768 - 1 && n == 6);
  CHECK_EQ (fm_bitmap_clear (&b, 2 * 32768, 2), 2);
  CHECK_EQ (fm_bitmap_count (&b), 9);
  fm_bitmap_reset (&b);
  CHECK (!fm_bitmap_run (&b, 0, 1000, &first, &n) && fm_bitmap_count (&b) == 0 && whole == 0);
  fm_bitmap_free (&b);
  close (fd);
}

/* Nothing that only looks, or clears, gives a shared map a page, however few levels it has: on a full file
 * system that would end the process. */
static void
looks_touch_no_page (void)
{
  const uint64_t sizes[] = { 1, 64, 512, 513, 32768, 1 << 20 };
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct fm_bitmap b, other;
    _Atomic uint64_t whole = 1;
    struct stat s;
    uint64_t first, n;
    CHECK_EQ (fm_bitmap_init (&b, sizes[i]), 0);
    CHECK_EQ (fm_bitmap_init (&other, sizes[i]), 0);
    int fd = memory_file (fm_bitmap_shared_bytes (&b));
    CHECK_EQ (fm_bitmap_share (&b, fd, 0, &whole), 0);
    CHECK (!fm_bitmap_run (&b, 0, sizes[i], &first, &n));
    CHECK (!fm_bitmap_run (&b, sizes[i] - 1, 1, &first, &n));
    fm_bitmap_or (&other, &b);
    CHECK_EQ (fm_bitmap_clear (&b, 0, sizes[i]), 0);
    fm_bitmap_clear_all (&b);
    fm_bitmap_empty (&b);
    CHECK (fstat (fd, &s) == 0 && s.st_blocks == 0);
    fm_bitmap_free (&b);
    fm_bitmap_free (&other);
    close (fd);
  }
}

static unsigned
mappings (void)
{
  unsigned n = 0;
  FILE *f = fopen ("/proc/self/maps", "r");
  CHECK (f);
  for (int c; (c = getc (f)) != EOF;)
    n += c == '\n';
  fclose (f);
  return n;
}

/* Where there is no room for the pages of a large map, written here and there, they are not a mapping each: a
 * process may have 65,530. */
static void
no_room_for_many_lone_pages (void)
{
  struct fm_bitmap b;
  _Atomic uint64_t whole = 1;
  const uint64_t pages = 2000;
  CHECK_EQ (fm_bitmap_init (&b, pages * 32768), 0);
  int fd = memory_file (fm_bitmap_shared_bytes (&b));
  CHECK_EQ (fm_bitmap_share (&b, fd, 0, &whole), 0);
  CHECK_EQ (fm_bitmap_set (&b, 1000 * 32768, 1), 1);
  b.fd = -1;
  unsigned before = mappings ();
  for (uint64_t page = 1; page < pages; page += 2)
    CHECK_EQ (fm_bitmap_set (&b, page * 32768, 1), 1);
  CHECK (mappings () < before + 10);
  CHECK_EQ (fm_bitmap_count (&b), pages / 2 + 1);
  CHECK_EQ (fm_bitmap_clear (&b, 1000 * 32768, 1), 1);
  CHECK (whole == 0);
  b.fd = fd;
  fm_bitmap_free (&b);
  close (fd);
}

/* A run is not cut at words; `max` and the end of the map cut it. */
static void
runs (void)
{
  struct fm_bitmap b;
  uint64_t first, n;
  CHECK_EQ (fm_bitmap_init (&b, 0), -EINVAL);
  CHECK_EQ (fm_bitmap_init (&b, 1000), 0);
  CHECK (!fm_bitmap_run (&b, 0, 1000, &first, &n));
  CHECK_EQ (fm_bitmap_set (&b, 60, 200), 200);
  CHECK (fm_bitmap_run (&b, 0, 1000, &first, &n) && first == 60 && n == 200);
  CHECK (fm_bitmap_run (&b, 100, 1000, &first, &n) && first == 100 && n == 160);
  CHECK (fm_bitmap_run (&b, 63, 2, &first, &n) && first == 63 && n == 2);
  CHECK (!fm_bitmap_run (&b, 260, 1000, &first, &n));
  CHECK (!fm_bitmap_run (&b, 0, 0, &first, &n));
  fm_bitmap_set (&b, 999, 1);
  CHECK (fm_bitmap_run (&b, 260, UINT64_MAX, &first, &n) && first == 999 && n == 1);
  CHECK (!fm_bitmap_run (&b, 1000, 1, &first, &n));
  CHECK_EQ (fm_bitmap_set (&b, 0, 0), 0);
  fm_bitmap_free (&b);
}

/* or adds what src has and keeps what dst had; reset and empty leave nothing behind. */
static void
or_and_reset (void)
{
  struct fm_bitmap a, b;
  uint64_t first, n;
  fm_bitmap_init (&a, 100000);
  fm_bitmap_init (&b, 100000);
  fm_bitmap_set (&a, 10, 10);
  fm_bitmap_set (&b, 15, 100);
  fm_bitmap_set (&b, 99999, 1);
  fm_bitmap_or (&a, &b);
  CHECK_EQ (fm_bitmap_count (&a), 106);
  CHECK (fm_bitmap_run (&a, 0, 1000, &first, &n) && first == 10 && n == 105);
  CHECK (fm_bitmap_run (&a, 115, 1000, &first, &n) && first == 99999);
  check_summaries (&a);
  fm_bitmap_reset (&a);
  CHECK_EQ (fm_bitmap_count (&a), 0);
  CHECK (!fm_bitmap_run (&a, 0, 1000, &first, &n));
  fm_bitmap_set (&a, 0, 100000); /* many, then few: empty has a way for each */
  fm_bitmap_empty (&a);
  fm_bitmap_set (&a, 63, 2);
  fm_bitmap_set (&a, 99999, 1);
  fm_bitmap_empty (&a);
  CHECK_EQ (fm_bitmap_count (&a), 0);
  CHECK (!fm_bitmap_run (&a, 0, 1000, &first, &n));
  CHECK_EQ (fm_bitmap_set (&a, 99999, 1), 1);
  CHECK (fm_bitmap_run (&a, 0, 1000, &first, &n) && first == 99999);
  fm_bitmap_free (&a);
  fm_bitmap_free (&b);
}

static uint64_t
resident_bytes (void)
{
  uint64_t all = 0, resident = 0;
  FILE *f = fopen ("/proc/self/statm", "r");
  if (f && fscanf (f, "%lu %lu", &all, &resident) != 2)
    resident = 0;
  if (f)
    fclose (f);
  return resident * (uint64_t)sysconf (_SC_PAGESIZE);
}

/* Do the kernel's flags of the mapping that holds `p` have `flag`? */
static bool
mapping_has (const void *p, const char *flag)
{
  FILE *f = fopen ("/proc/self/smaps", "r");
  char line[512];
  bool here = false, has = false;
  while (f && fgets (line, sizeof line, f)) {
    unsigned long from, to;
    if (sscanf (line, "%lx-%lx ", &from, &to) == 2)
      here = (unsigned long)p >= from && (unsigned long)p < to;
    else if (here && strncmp (line, "VmFlags:", 8) == 0)
      has = strstr (line, flag) != NULL;
  }
  if (f)
    fclose (f);
  return has;
}

/* 64 TiB of 4 KiB blocks: what is never set costs no memory, also where it is
 * asked for, and also where the machine gives huge pages to whom does not refuse. */
static void
sparse (void)
{
  const uint64_t nbits = 1ULL << 34, touched = 1000;
  struct fm_bitmap b;
  uint64_t before = resident_bytes (), at = 0, first, n, found = 0;
  CHECK_EQ (fm_bitmap_init (&b, nbits), 0);
  CHECK (mapping_has ((const void *)b.level[0], " nh"));
  CHECK (!fm_bitmap_run (&b, nbits / 3, nbits, &first, &n));
  for (uint64_t i = 0; i < touched; i++)
    fm_bitmap_set (&b, i * (nbits / touched), 1);
  fm_bitmap_set (&b, nbits - 1, 1);
  for (; fm_bitmap_run (&b, at, nbits, &first, &n); at = first + n)
    found += n;
  CHECK_EQ (found, touched + 1);
  CHECK_EQ (first, nbits - 1);
  for (uint64_t i = 0; i < 100000; i++) /* questions touch nothing */
    fm_bitmap_run (&b, i * (nbits / 100000), 1, &first, &n);
  uint64_t grown = resident_bytes () - before;
  if (!SANITIZED)
    CHECK (grown < 12 << 20);
  fm_bitmap_reset (&b);
  if (!SANITIZED)
    CHECK (resident_bytes () < before + (1 << 20));
  fm_bitmap_free (&b);
}

/* ---- threads ---- */

static struct fm_bitmap shared;
static _Atomic uint64_t total_set;
static _Atomic bool stop;

static void *
setter (void *arg)
{
  uint64_t seed = 100 + (uintptr_t)arg;
  for (unsigned i = 0; i < (SANITIZED ? 4000 : 20000); i++) {
    uint64_t first = random_below (&seed, shared.nbits - 200);
    total_set += fm_bitmap_set (&shared, first, 1 + random_below (&seed, 200));
  }
  return NULL;
}

/* After concurrent setters: the count is the number of bits, each reachable. */
static void
setters_then_scan (void)
{
  pthread_t t[THREADS];
  uint64_t at = 0, first, n, seen = 0;
  total_set = 0;
  fm_bitmap_init (&shared, 1 << 20);
  for (uintptr_t i = 0; i < THREADS; i++)
    pthread_create (&t[i], NULL, setter, (void *)i);
  for (unsigned i = 0; i < THREADS; i++)
    pthread_join (t[i], NULL);
  for (; fm_bitmap_run (&shared, at, shared.nbits, &first, &n); at = first + n)
    seen += n;
  CHECK_EQ (seen, fm_bitmap_count (&shared));
  CHECK_EQ (seen, total_set);
  check_summaries (&shared);
  fm_bitmap_free (&shared);
}

/* Each bit once, in order, every THREADS-th for one setter: they share the words. */
static void *
striding_setter (void *arg)
{
  for (uint64_t i = (uintptr_t)arg; i < shared.nbits; i += THREADS)
    fm_bitmap_set (&shared, i, 1);
  return NULL;
}

/* One scanner clears, close behind those who set in the same words: no bit is
 * lost to it, each is cleared once. */
static void
setters_and_the_clearing_scanner (void)
{
  pthread_t t[THREADS];
  uint64_t first, n, cleared = 0;
  unsigned joined = 0;
  fm_bitmap_init (&shared, SANITIZED ? 1 << 16 : 1 << 20);
  for (uintptr_t i = 0; i < THREADS; i++)
    pthread_create (&t[i], NULL, striding_setter, (void *)i);
  for (;;) {
    bool found = fm_bitmap_run (&shared, 0, 64, &first, &n);
    if (found)
      cleared += fm_bitmap_clear (&shared, first, n);
    else if (joined == THREADS)
      break;
    else if (pthread_tryjoin_np (t[joined], NULL) == 0)
      joined++;
  }
  CHECK_EQ (cleared, shared.nbits);
  CHECK_EQ (fm_bitmap_count (&shared), 0);
  fm_bitmap_free (&shared);
}

static void *
clearer (void *arg)
{
  (void)arg;
  while (!stop) { /* all but the last, one after the other, as lanes do */
    for (uint64_t i = 0; i + 1 < shared.nbits && !stop; i++)
      fm_bitmap_clear (&shared, i, 1);
    stop = true;
  }
  return NULL;
}

/* A bit that stays set is found, whatever others clear before it meanwhile: else
 * a writer would take a pending block for a copied one (I5). */
static void
run_misses_nothing_that_stays (void)
{
  uint64_t first, n, missed = 0;
  for (unsigned i = 0; i < 200; i++) {
    pthread_t t;
    fm_bitmap_init (&shared, 1000);
    fm_bitmap_set (&shared, 0, 1000);
    stop = false;
    pthread_create (&t, NULL, clearer, NULL);
    while (!stop)
      missed += !fm_bitmap_run (&shared, 0, 1000, &first, &n) || n == 0;
    pthread_join (t, NULL);
    fm_bitmap_free (&shared);
  }
  CHECK_EQ (missed, 0);
}

int
main (void)
{
  RUN (random_operations);
  RUN (maps_in_a_file);
  RUN (locked_memory);
  RUN (no_room_for_a_shared_page);
  RUN (looks_touch_no_page);
  RUN (no_room_for_many_lone_pages);
  RUN (runs);
  RUN (or_and_reset);
  RUN (sparse);
  RUN (setters_then_scan);
  RUN (setters_and_the_clearing_scanner);
  RUN (run_misses_nothing_that_stays);
  return finish ("bitmap");
}
