/* Promises of pace.h, on a store that is simulated: it serves one after the other at a rate, over a
 * way that takes a time of its own.  How many are under way at once is the flow's to say. */
#include "check.h"
#include "flow.h"
#include "pace.h"

#include <stdbool.h>

#define MS 1000000ULL
#define MB 1000000ULL
#define MANY 4096

struct store {
  uint64_t rate;     /* bytes a second */
  uint64_t way_ns;   /* there and back; any number at once */
  uint64_t fixed_ns; /* of each operation, one after the other */
};

struct seen {
  uint64_t bytes, longest_ns; /* of the second half */
};

/* So much to be done as one likes, for so long. */
static struct seen
run_for (struct fm_pace *p, struct fm_flow *f, struct store s, uint64_t from, uint64_t until)
{
  static struct { uint64_t bytes, weight, begun, ends; } q[MANY];
  struct seen seen = { 0 };
  uint64_t now = from, free_at = now, half = from + (until - from) / 2;
  unsigned head = 0, tail = 0;
  while (now < until || head != tail) {
    unsigned i = tail % MANY;
    if (now < until && tail - head < MANY && fm_flow_wait (f, now) == 0) {
      free_at = free_at > now ? free_at : now;
      q[i].bytes = fm_pace_piece (p);
      q[i].begun = now;
      free_at += s.fixed_ns + (uint64_t)((double)q[i].bytes * 1e9 / (double)s.rate);
      q[i].ends = free_at + s.way_ns;
      fm_flow_begin (f, q[i].weight = fm_flow_weight (q[i].bytes));
      fm_pace_begin (p);
      tail++;
      continue;
    }
    i = head++ % MANY;
    now = q[i].ends;
    uint64_t took = now - q[i].begun;
    if (now > half && now <= until) {
      seen.bytes += q[i].bytes;
      seen.longest_ns = took > seen.longest_ns ? took : seen.longest_ns;
    }
    CHECK (q[i].bytes >= FM_PACE_LEAST && q[i].bytes <= FM_PACE_MOST);
    fm_flow_end (f, q[i].weight, took, now);
    fm_pace_end (p, q[i].bytes, fm_flow_is_measuring (f) ? 0 : q[i].begun, now);
  }
  return seen;
}

/* One alone. */
static void
took (struct fm_pace *p, uint64_t ns)
{
  static uint64_t now = 1ULL << 60;
  now += ns;
  fm_pace_begin (p);
  fm_pace_end (p, fm_pace_piece (p), now - ns, now);
}

static void
judge (struct store s, struct seen seen, uint64_t seconds)
{
  double rate = (double)seen.bytes / ((double)seconds / 2);
  /* Where the least takes longer than an operation should, some of those. */
  uint64_t least = s.fixed_ns + (uint64_t)(FM_PACE_LEAST * 1e9 / (double)s.rate);
  uint64_t most = 4 * s.way_ns + 150 * MS + 16 * least;
  double best = (double)s.rate < 1e9 ? (double)s.rate : 1e9;
  double window = FM_FLOW_FAR * 1e9 / (double)(s.way_ns + 1); /* more is not under way at once */
  best = window < best ? window : best;
  bool good = CHECK (rate >= best * 0.55);
  if (!CHECK (seen.longest_ns <= most) || !good)
    printf ("rate %.1f MB/s, way %.1f ms, each %.1f ms: %.1f MB/s, longest %.1f ms\n",
            (double)s.rate / 1e6, (double)s.way_ns / 1e6, (double)s.fixed_ns / 1e6, rate / 1e6,
            (double)seen.longest_ns / 1e6);
}

/* Whatever a store's rate, and however far it is, it is kept busy, and no operation takes long. */
static void
suits_any_store (void)
{
  const uint64_t rates[] = { MB / 10, MB, 12 * MB, 25 * MB, 300 * MB, 1000 * MB, 1000000 * MB };
  const uint64_t ways[] = { 0, MS, 20 * MS, 100 * MS, 300 * MS };
  for (unsigned r = 0; r < sizeof rates / sizeof *rates; r++)
    for (unsigned w = 0; w < sizeof ways / sizeof *ways; w++) {
      struct fm_pace p;
      struct fm_flow f;
      struct store s = { rates[r], ways[w], 0 };
      fm_pace_init (&p);
      fm_flow_init (&f);
      judge (s, run_for (&p, &f, s, MS, 120000 * MS), 120);
    }
}

/* Where each operation takes a while whatever its size, a large one does more. */
static void
large_where_each_is_slow (void)
{
  for (uint64_t fixed = 5 * MS; fixed <= 1000 * MS; fixed *= 4) {
    struct fm_pace p;
    struct fm_flow f;
    struct store s = { 100000 * MB, 0, fixed };
    fm_pace_init (&p);
    fm_flow_init (&f);
    struct seen seen = run_for (&p, &f, s, MS, 600000 * MS);
    CHECK (seen.bytes > FM_PACE_MOST * (300000 * MS / (fixed + MS)) / 2);
  }
}

/* The first is small: nobody knows the store.  A store that is much slower, or faster, than it was
 * is known again after a few operations. */
static void
follows_the_store (void)
{
  struct fm_pace p;
  struct fm_flow f;
  fm_pace_init (&p);
  fm_flow_init (&f);
  CHECK_EQ (fm_pace_piece (&p), FM_PACE_LEAST);
  struct store fast = { 1000000 * MB, 0, 0 }, slow = { 12 * MB, 0, 0 };
  for (unsigned i = 0; i < 3; i++) {
    uint64_t from = (1 + 200ULL * i) * 1000 * MS;
    run_for (&p, &f, fast, from, from + 10000 * MS);
    CHECK_EQ (fm_pace_piece (&p), FM_PACE_MOST);
    from += 10000 * MS;
    run_for (&p, &f, slow, from, from + 20000 * MS);
    CHECK (fm_pace_piece (&p) < MB);
    from += 40000 * MS;
    judge (slow, run_for (&p, &f, slow, from, from + 60000 * MS), 60);
  }
}

/* One that is slow by chance does not make small ones of all that follow. */
static void
recovers_from_chance (void)
{
  struct fm_pace p;
  fm_pace_init (&p);
  for (unsigned i = 0; i < 40; i++)
    took (&p, 100 * MS); /* the way */
  CHECK_EQ (fm_pace_piece (&p), FM_PACE_MOST);
  for (unsigned chance = 0; chance < 10; chance++) {
    took (&p, 2000 * MS);
    unsigned n = 0;
    for (; n < 40 && (n < 3 || fm_pace_piece (&p) < FM_PACE_MOST); n++)
      took (&p, 100 * MS);
    CHECK (n <= 20);
  }
}

/* A cache that takes much at once is not taken for the store: what follows was a small part of it. */
static void
is_not_taken_in_by_a_cache (void)
{
  for (uint64_t cache = MB; cache <= 512 * MB; cache *= 2) {
    struct fm_pace p;
    fm_pace_init (&p);
    for (uint64_t done = 0; done < cache; done += fm_pace_piece (&p))
      took (&p, MS / 10);
    CHECK (fm_pace_piece (&p) <= FM_PACE_LEAST || fm_pace_piece (&p) <= cache / 7);
  }
}

/* After one that was not answered in time the next is small. */
static void
begins_again (void)
{
  struct fm_pace p;
  fm_pace_init (&p);
  for (unsigned i = 0; i < 400; i++)
    took (&p, MS);
  CHECK_EQ (fm_pace_piece (&p), FM_PACE_MOST);
  fm_pace_begin (&p);
  fm_pace_forget (&p);
  fm_pace_end (&p, FM_PACE_MOST, 0, 1ULL << 60);
  CHECK_EQ (fm_pace_piece (&p), FM_PACE_LEAST);
  took (&p, 600 * MS);
  took (&p, 1200 * MS);
  CHECK_EQ (fm_pace_piece (&p), FM_PACE_LEAST);
}

int
main (void)
{
  RUN (suits_any_store);
  RUN (large_where_each_is_slow);
  RUN (follows_the_store);
  RUN (recovers_from_chance);
  RUN (is_not_taken_in_by_a_cache);
  RUN (begins_again);
  return finish ("pace");
}
