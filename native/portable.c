/* See portable.h. */
#include "portable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 65536U
#define COOKIE 12347U  /* with run containers: their flags follow */
#define ARRAY_MAX 4096U
#define BITSET_BYTES 8192U

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the form is little-endian");

struct buffer {
  uint8_t *at;
  uint64_t n, room;
  bool failed;
};

/* The blocks of one container: its runs as (first, blocks - 1). */
struct chunk {
  uint16_t runs[CHUNK / 2][2];
  unsigned nruns, card;
};

/* All containers whose blocks have the same upper 32 bits. */
struct bucket {
  struct chunk chunk;
  uint16_t head[CHUNK][2]; /* number, card - 1 */
  uint32_t at[CHUNK];      /* in `body` */
  uint8_t is_run[CHUNK / 8];
  unsigned n;
  struct buffer body;
};

static void
put (struct buffer *b, const void *data, uint64_t n)
{
  if (!b->failed && b->n + n > b->room) {
    uint64_t room = 2 * (b->n + n);
    uint8_t *more = realloc (b->at, room);
    b->failed = !more;
    if (more)
      b->at = more, b->room = room;
  }
  if (b->failed)
    return;
  memcpy (b->at + b->n, data, n);
  b->n += n;
}

static void
put_number (struct buffer *b, uint64_t number, unsigned bytes)
{
  put (b, &number, bytes);
}

static void
put_array (struct buffer *b, const struct chunk *c)
{
  uint16_t list[ARRAY_MAX];
  unsigned n = 0;
  for (unsigned i = 0; i < c->nruns; i++)
    for (unsigned at = c->runs[i][0]; at <= (unsigned)c->runs[i][0] + c->runs[i][1]; at++)
      list[n++] = (uint16_t)at;
  put (b, list, 2 * (uint64_t)n);
}

static void
put_bitset (struct buffer *b, const struct chunk *c)
{
  uint8_t set[BITSET_BYTES] = { 0 };
  for (unsigned i = 0; i < c->nruns; i++)
    for (unsigned at = c->runs[i][0]; at <= (unsigned)c->runs[i][0] + c->runs[i][1]; at++)
      set[at / 8] |= (uint8_t)(1U << at % 8);
  put (b, set, sizeof set);
}

static void
add_container (struct bucket *k, uint16_t number)
{
  const struct chunk *c = &k->chunk;
  unsigned as_runs = 2 + 4 * c->nruns;
  unsigned other = c->card <= ARRAY_MAX ? 2 * c->card : BITSET_BYTES;
  k->head[k->n][0] = number;
  k->head[k->n][1] = (uint16_t)(c->card - 1);
  k->at[k->n] = (uint32_t)k->body.n;
  if (as_runs < other) {
    k->is_run[k->n / 8] |= (uint8_t)(1U << k->n % 8);
    put_number (&k->body, c->nruns, 2);
    put (&k->body, c->runs, 4 * (uint64_t)c->nruns);
  } else if (c->card <= ARRAY_MAX)
    put_array (&k->body, c);
  else
    put_bitset (&k->body, c);
  k->n++;
}

/* Its tables are filled as containers come: zeroing all of it would cost more than they do. */
static struct bucket *
new_bucket (void)
{
  struct bucket *k = malloc (sizeof *k);
  if (k) {
    k->n = 0;
    k->body = (struct buffer){ 0 };
    memset (k->is_run, 0, sizeof k->is_run);
  }
  return k;
}

static void
put_bucket (struct buffer *out, struct bucket *k, uint32_t number)
{
  unsigned flags = (k->n + 7) / 8;
  bool offsets = k->n >= 4; /* as the format has it with run containers */
  uint32_t head = 4 + flags + 4 * k->n + (offsets ? 4 * k->n : 0);
  put_number (out, number, 4);
  put_number (out, COOKIE | (k->n - 1) << 16, 4);
  put (out, k->is_run, flags);
  put (out, k->head, 4 * (uint64_t)k->n);
  for (unsigned i = 0; offsets && i < k->n; i++)
    put_number (out, head + k->at[i], 4);
  put (out, k->body.at, k->body.n);
  out->failed |= k->body.failed;
  k->n = 0;
  k->body.n = 0;
  memset (k->is_run, 0, sizeof k->is_run);
}

/* The blocks of the chunk that has the first block from `from` on; false: there is none. */
static bool
fill (struct chunk *c, const struct fm_bitmap *b, uint64_t from, uint64_t *number)
{
  uint64_t first, n, end = UINT64_MAX;
  c->nruns = c->card = 0;
  while (from < end && fm_bitmap_run (b, from, CHUNK, &first, &n) && first < end) {
    if (end == UINT64_MAX) {
      *number = first / CHUNK;
      end = (*number + 1) * CHUNK;
    }
    if (first + n > end)
      n = end - first;
    if (c->nruns && first == from) /* set since the run before it was found to end here */
      c->runs[c->nruns - 1][1] += (uint16_t)n;
    else {
      c->runs[c->nruns][0] = (uint16_t)(first % CHUNK);
      c->runs[c->nruns++][1] = (uint16_t)(n - 1);
    }
    c->card += (unsigned)n;
    from = first + n;
  }
  return c->nruns > 0;
}

int
fm_runs_portable (const struct fm_bitmap *b, void **out, uint64_t *bytes)
{
  struct bucket *k = new_bucket ();
  struct buffer all = { .failed = !k };
  uint64_t buckets = 0, number = 0, last = 0;
  put_number (&all, 0, 8);
  for (uint64_t from = 0; k && fill (&k->chunk, b, from, &number); from = (number + 1) * CHUNK) {
    if (k->n && number / CHUNK != last)
      put_bucket (&all, k, (uint32_t)last);
    buckets += !k->n;
    last = number / CHUNK;
    add_container (k, (uint16_t)(number % CHUNK));
  }
  if (k && k->n)
    put_bucket (&all, k, (uint32_t)last);
  if (k)
    free (k->body.at);
  free (k);
  if (all.failed) {
    free (all.at);
    return -ENOMEM;
  }
  memcpy (all.at, &buckets, sizeof buckets);
  *out = all.at;
  *bytes = all.n;
  return 0;
}

int
fm_volume_portable (struct fm_volume *v, int which, void **out, uint64_t *bytes)
{
  return fm_runs_portable (fm_volume_map (v, which), out, bytes);
}

void
fm_portable_free (void *out)
{
  free (out);
}

void
fm_volume_mark_spans (struct fm_volume *v, const uint64_t *firsts, const uint64_t *ends, uint64_t n,
                      bool pending)
{
  for (uint64_t i = 0; i < n; i++)
    (pending ? fm_volume_mark_pending : fm_volume_mark) (v, firsts[i], ends[i] - firsts[i]);
}

void
fm_pack_spans (const uint64_t *firsts, const uint64_t *ends, uint64_t n, uint64_t *pairs)
{
  for (uint64_t i = 0; i < n; i++) {
    pairs[2 * i] = firsts[i];
    pairs[2 * i + 1] = ends[i] - firsts[i];
  }
}

struct fm_bitmap *
fm_runs_new (uint64_t blocks)
{
  struct fm_bitmap *b = malloc (sizeof *b);
  if (b && fm_bitmap_init (b, blocks) == 0)
    return b;
  free (b);
  return NULL;
}

int
fm_runs_add (struct fm_bitmap *b, const void *pairs, uint64_t n)
{
  const char *at = pairs;
  for (uint64_t i = 0, run[2]; i < n; i++, at += sizeof run) {
    memcpy (run, at, sizeof run);
    if (run[0] >= b->nbits || run[1] == 0 || run[1] > b->nbits - run[0])
      return -ERANGE;
    fm_bitmap_set (b, run[0], run[1]);
  }
  return 0;
}

void
fm_runs_free (struct fm_bitmap *b)
{
  fm_bitmap_free (b);
  free (b);
}
