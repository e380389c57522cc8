/* See bitmap.h. */
#include "bitmap.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef GROUP_WORDS /* the simulator has smaller ones: several levels of a small volume */
#define GROUP_WORDS 8 /* a cache line */
#define GROUP_SHIFT 9
#endif
#define GROUP_BITS (1ULL << GROUP_SHIFT)
#define PAGE 4096
#define PAGE_WORDS (PAGE / 8)

int
fm_bitmap_init (struct fm_bitmap *b, uint64_t nbits)
{
  memset (b, 0, sizeof *b);
  if (nbits == 0)
    return -EINVAL;
  b->nbits = nbits;
  uint64_t groups = nbits;
  do {
    assert (b->levels < FM_BITMAP_LEVELS);
    groups = (groups + GROUP_BITS - 1) / GROUP_BITS;
    uint64_t n = groups * GROUP_WORDS;
    void *p = mmap (NULL, n * 8, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      fm_bitmap_free (b);
      return -ENOMEM;
    }
    madvise (p, n * 8, MADV_NOHUGEPAGE); /* or one bit may cost 2 MiB */
    b->words[b->levels] = n;
    b->level[b->levels++] = p;
  } while (groups > 1);
  return 0;
}

uint64_t
fm_bitmap_shared_bytes (const struct fm_bitmap *b)
{
  return (b->words[0] * 8 + PAGE - 1) / PAGE * PAGE;
}

static uint64_t
there_bytes (const struct fm_bitmap *b)
{
  return (fm_bitmap_shared_bytes (b) / PAGE + 63) / 64 * 8;
}

int
fm_bitmap_share (struct fm_bitmap *b, int fd, uint64_t offset, _Atomic uint64_t *whole)
{
  assert (!b->there && fm_bitmap_count (b) == 0 && offset % PAGE == 0);
  void *there = mmap (NULL, there_bytes (b), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (there == MAP_FAILED)
    return -errno;
  if (mmap (b->level[0], b->words[0] * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
            (off_t)offset) == MAP_FAILED) {
    int rc = -errno;
    munmap (there, there_bytes (b));
    return rc;
  }
  b->there = there;
  b->whole = whole;
  b->fd = fd;
  b->offset = offset;
  pthread_mutex_init (&b->growing, NULL);
  return 0;
}

static bool
is_there (const struct fm_bitmap *b, uint64_t word)
{
  uint64_t page = word / PAGE_WORDS;
  return !b->there || (atomic_load (&b->there[page / 64]) & (1ULL << (page % 64)));
}

/* The file system is full: anonymous memory stands in for this page, and for those around it that are not there
 * either, or each would be a mapping of its own, of which a process has 65,530 (vm.max_map_count). */
static void
stand_in (struct fm_bitmap *b, uint64_t page)
{
  uint64_t pages = fm_bitmap_shared_bytes (b) / PAGE, first = page, end = page + 1;
  while (first > 0 && !is_there (b, (first - 1) * PAGE_WORDS))
    first--;
  while (end < pages && !is_there (b, end * PAGE_WORDS))
    end++;
  atomic_store (b->whole, 0);
  void *p = mmap (&b->level[0][first * PAGE_WORDS], (end - first) * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  assert (p != MAP_FAILED);
  madvise (p, (end - first) * PAGE, MADV_NOHUGEPAGE);
  for (; first < end; first++)
    atomic_fetch_or (&b->there[first / 64], 1ULL << (first % 64));
}

/* Before a word is written. */
static void
make_there (struct fm_bitmap *b, uint64_t word)
{
  if (is_there (b, word))
    return;
  uint64_t page = word / PAGE_WORDS;
  pthread_mutex_lock (&b->growing);
  if (!is_there (b, word)) {
    if (fallocate (b->fd, 0, (off_t)(b->offset + page * PAGE), PAGE) < 0)
      stand_in (b, page);
    else
      atomic_fetch_or (&b->there[page / 64], 1ULL << (page % 64));
  }
  pthread_mutex_unlock (&b->growing);
}

int
fm_bitmap_load (struct fm_bitmap *b, int fd, uint64_t offset)
{
  uint64_t words[PAGE_WORDS];
  off_t end = (off_t)(offset + fm_bitmap_shared_bytes (b)), at = (off_t)offset;
  while (at < end && (at = lseek (fd, at, SEEK_DATA)) >= 0 && at < end) {
    at -= at % PAGE;
    ssize_t n = pread (fd, words, PAGE, at);
    if (n != PAGE)
      return n < 0 ? -errno : -EIO;
    uint64_t first = (uint64_t)(at - (off_t)offset) * 8;
    for (unsigned w = 0; w < PAGE_WORDS; w++, first += 64)
      for (uint64_t left = words[w]; left; left &= left - 1) {
        uint64_t bit = first + (unsigned)__builtin_ctzll (left);
        if (bit >= b->nbits)
          return -EINVAL;
        fm_bitmap_set (b, bit, 1);
      }
    at += PAGE;
  }
  return at < 0 && errno != ENXIO ? -errno : 0; /* ENXIO: no data any more */
}

void
fm_bitmap_free (struct fm_bitmap *b)
{
  if (b->there) {
    munmap (b->there, there_bytes (b));
    pthread_mutex_destroy (&b->growing);
  }
  for (unsigned l = 0; l < b->levels; l++)
    munmap (b->level[l], b->words[l] * 8);
  memset (b, 0, sizeof *b);
}

/* In the single order of seq_cst operations, which two pairs rely on, each of which looks
 * after its own change and at least one of which must see what the other did: a setter
 * (at the summary) and a clearer (at the group below it); a writer (at the intent log) and
 * the cooler (at `next`: intent.h).  What is not there is not touched, but all zeroes. */
static inline uint64_t
load (const struct fm_bitmap *b, unsigned l, uint64_t w)
{
  if (l == 0 && !is_there (b, w))
    return 0;
  return atomic_load_explicit (&b->level[l][w], memory_order_seq_cst);
}

/* The bits [lo, hi) of one word. */
static inline uint64_t
mask (unsigned lo, unsigned hi)
{
  uint64_t m = hi == 64 ? ~0ULL : (1ULL << hi) - 1;
  return m & ~((1ULL << lo) - 1);
}

static bool
is_empty (const struct fm_bitmap *b, unsigned l, uint64_t group)
{
  for (unsigned w = 0; w < GROUP_WORDS; w++)
    if (load (b, l, group * GROUP_WORDS + w))
      return false;
  return true;
}

/* The lowest level from which on upwards all summaries of this group of level 0 are set.
 * Below it nothing was ever written, or was emptied: to be written without being read,
 * or the kernel maps its page of zeroes first and has to take it away again, on every
 * core: two faults for one, a fifth of the time of a cycle of lone blocks. */
static unsigned
known_from (const struct fm_bitmap *b, uint64_t group)
{
  unsigned l = b->levels;
  while (l > 1) {
    uint64_t up = group >> (GROUP_SHIFT * (l - 2));
    if (!(load (b, l - 1, up / 64) & (1ULL << (up % 64))))
      break;
    l--;
  }
  return l;
}

/* Group `group` of level `l - 1` may be non-empty: say so in the levels above. */
static void
raise_summaries (struct fm_bitmap *b, unsigned l, uint64_t group, unsigned known)
{
  for (; l < b->levels; l++) {
    uint64_t bit = 1ULL << (group % 64), word = group / 64;
    if (l < known || !(load (b, l, word) & bit))
      atomic_fetch_or (&b->level[l][word], bit);
    group = word / GROUP_WORDS;
  }
}

static void
lower_summaries (struct fm_bitmap *b, uint64_t group)
{
  for (unsigned l = 1; l < b->levels && is_empty (b, l - 1, group); l++) {
    atomic_fetch_and (&b->level[l][group / 64], ~(1ULL << (group % 64)));
    if (!is_empty (b, l - 1, group)) {
      raise_summaries (b, l, group, 0); /* somebody set a bit below after we had looked */
      return;
    }
    group = group / 64 / GROUP_WORDS;
  }
}

uint64_t
fm_bitmap_set (struct fm_bitmap *b, uint64_t first, uint64_t n)
{
  assert (first <= b->nbits && n <= b->nbits - first);
  uint64_t changed = 0, start = first, end = first + n;
  unsigned known = 0;
  while (first < end) {
    uint64_t word = first / 64, stop = (word + 1) * 64 < end ? (word + 1) * 64 : end;
    uint64_t m = mask (first % 64, (unsigned)(stop - word * 64));
    if (first == start || first % GROUP_BITS == 0) {
      known = known_from (b, word / GROUP_WORDS);
      make_there (b, word);
    }
    if (known > 1 || (load (b, 0, word) & m) != m) {
      uint64_t old = 0; /* fetch_or begins with a read, this with a write */
      if (known == 1 || !atomic_compare_exchange_strong (&b->level[0][word], &old, m))
        old = atomic_fetch_or (&b->level[0][word], m);
      changed += (unsigned)__builtin_popcountll (m & ~old);
    }
    if (stop == end || stop % GROUP_BITS == 0)
      raise_summaries (b, 1, word / GROUP_WORDS, known);
    first = stop;
  }
  if (changed)
    atomic_fetch_add (&b->count, changed);
  return changed;
}

uint64_t
fm_bitmap_clear (struct fm_bitmap *b, uint64_t first, uint64_t n)
{
  assert (first <= b->nbits && n <= b->nbits - first);
  uint64_t changed = 0, end = first + n;
  bool emptied = false; /* some word of this group */
  while (first < end) {
    uint64_t word = first / 64, stop = (word + 1) * 64 < end ? (word + 1) * 64 : end;
    if (!is_there (b, word)) {
      first = stop;
      continue;
    }
    uint64_t m = mask (first % 64, (unsigned)(stop - word * 64));
    uint64_t old = atomic_fetch_and (&b->level[0][word], ~m);
    changed += (unsigned)__builtin_popcountll (m & old);
    emptied |= (old & m) && !(old & ~m);
    if (emptied && (stop == end || stop % GROUP_BITS == 0)) {
      lower_summaries (b, word / GROUP_WORDS);
      emptied = false;
    }
    first = stop;
  }
  if (changed)
    atomic_fetch_sub (&b->count, changed);
  return changed;
}

/* The first set bit at or after `from` of level 0; false: none.
 * Goes up where a group is empty and comes down where a summary is set, so the
 * cost depends on what is set, not on the size of the map. */
static bool
find (const struct fm_bitmap *b, uint64_t from, uint64_t *at)
{
  unsigned l = 0;
  uint64_t i = from;
  /* Start at the top when the group's summary says that it is empty: this keeps
   * the pages of level 0 that were never written untouched. */
  for (unsigned k = b->levels; k-- > 1;) {
    uint64_t bit = from >> (GROUP_SHIFT * k);
    if (!(load (b, k, bit / 64) & (1ULL << (bit % 64)))) {
      l = k;
      i = bit + 1;
      break;
    }
  }
  for (;;) {
    uint64_t word = i / 64;
    if (word >= b->words[l])
      return false;
    uint64_t v = load (b, l, word) & mask (i % 64, 64);
    while (v == 0 && ++word % GROUP_WORDS)
      v = load (b, l, word);
    if (v == 0) {
      if (l + 1 == b->levels)
        return false; /* the top is one group */
      l++;
      i = word / GROUP_WORDS; /* the group after the one that was empty */
      continue;
    }
    i = word * 64 + (unsigned)__builtin_ctzll (v);
    if (l == 0) {
      *at = i;
      return true;
    }
    l--; /* go down to the group that this summary bit stands for */
    i *= GROUP_BITS;
  }
}

bool
fm_bitmap_run (const struct fm_bitmap *b, uint64_t from, uint64_t max, uint64_t *first,
               uint64_t *n)
{
  uint64_t i, k, end;
  do {
    if (max == 0 || from >= b->nbits || !find (b, from, &i))
      return false;
    end = b->nbits - i < max ? b->nbits : i + max;
    for (k = i; k < end; k = (k / 64 + 1) * 64) {
      uint64_t v = ~load (b, 0, k / 64) & mask (k % 64, 64);
      if (v) {
        k = k / 64 * 64 + (unsigned)__builtin_ctzll (v);
        break;
      }
    }
    from = i + 1; /* if bit i was cleared under our eyes: others may still be set */
  } while (k == i);
  *first = i;
  *n = (k < end ? k : end) - i;
  return true;
}

void
fm_bitmap_or (struct fm_bitmap *dst, const struct fm_bitmap *src)
{
  uint64_t first, n;
  for (uint64_t at = 0; fm_bitmap_run (src, at, src->nbits, &first, &n); at = first + n)
    fm_bitmap_set (dst, first, n);
}

/* All zeroes again, and no memory.  Locked memory (mlockall) refuses MADV_DONTNEED: then a new
 * mapping takes the place of the old one. */
static void
drop (void *p, uint64_t bytes)
{
  if (madvise (p, bytes, MADV_DONTNEED) == 0)
    return;
  void *fresh = mmap (p, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  assert (fresh == p);
  madvise (p, bytes, MADV_NOHUGEPAGE);
}

void
fm_bitmap_reset (struct fm_bitmap *b)
{
  for (unsigned l = b->there ? 1 : 0; l < b->levels; l++)
    drop (b->level[l], b->words[l] * 8);
  if (b->there) { /* the file gives its pages back, and what stands in for some is dropped */
    int rc = fallocate (b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)b->offset,
                        (off_t)fm_bitmap_shared_bytes (b));
    void *p = mmap (b->level[0], b->words[0] * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                    b->fd, (off_t)b->offset);
    assert (rc == 0 && p != MAP_FAILED);
    drop (b->there, there_bytes (b));
  }
  atomic_store (&b->count, 0);
}

void
fm_bitmap_clear_all (struct fm_bitmap *b)
{
  uint64_t first, n;
  for (uint64_t at = 0; fm_bitmap_run (b, at, b->nbits, &first, &n); at = first + n)
    fm_bitmap_clear (b, first, n);
}

void
fm_bitmap_empty (struct fm_bitmap *b)
{
  const uint64_t few = 8 * 1024; /* at most so many pages are kept: 32 MiB */
  b->emptied += fm_bitmap_count (b);
  if (b->emptied > few) {
    fm_bitmap_reset (b);
    b->emptied = 0;
  } else
    fm_bitmap_clear_all (b);
}
