/* Promises of flow.h, on a way that is simulated: a bottleneck with a queue, and a delay. */
#include "check.h"
#include "flow.h"

#define MS 1000000ULL
#define BULK (256 * 1024ULL)
#define MANY 4096

struct way {
  uint64_t rate, delay_ns; /* bytes a second; there and back */
};

struct seen {
  uint64_t bytes, queued_ns; /* delivered, and the longest queue, after the warm-up */
};

/* The bulk alone on the way for so long, in runs of `run` bytes; figures of its second half. */
static struct seen
run_for (struct fm_flow *f, struct way w, uint64_t run, uint64_t until)
{
  static uint64_t begun[MANY], ends[MANY];
  struct seen seen = { 0 };
  uint64_t now = MS, free_at = now;
  unsigned head = 0, tail = 0; /* the way keeps the order */
  while (now < until) {
    uint64_t again = fm_flow_wait (f, now);
    if (again == 0 && tail - head < MANY) {
      uint64_t start = free_at > now ? free_at : now;
      if (now > until / 2 && start - now > seen.queued_ns)
        seen.queued_ns = start - now;
      free_at = start + run * 1000 / w.rate * MS + run * 1000 % w.rate * MS / w.rate;
      begun[tail % MANY] = now;
      ends[tail++ % MANY] = free_at + w.delay_ns;
      fm_flow_begin (f, run);
      continue;
    }
    CHECK (head != tail || again != UINT64_MAX); /* one may always be in flight */
    if (head != tail && ends[head % MANY] <= again) {
      now = ends[head % MANY];
      fm_flow_end (f, run, now - begun[head++ % MANY], now);
      seen.bytes += now > until / 2 ? run : 0;
    } else
      now = again;
  }
  return seen;
}

/* A way is filled, whatever its rate and its length, and its queue stays short: a copy that a
 * writer waits for meets little more than the way itself. */
static void
fills_the_way_with_a_short_queue (void)
{
  const uint64_t mbit = 1000000 / 8, seconds = 400; /* long enough to drift */
  struct way ways[] = { { 100 * mbit, 50 * MS }, { 100 * mbit, 100 * MS }, { 1000 * mbit, 200 * MS },
                        { 1000 * mbit, MS },     { 20 * mbit, 20 * MS },   { 10000 * mbit, MS / 10 } };
  for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
    struct fm_flow f;
    fm_flow_init (&f);
    struct seen seen = run_for (&f, ways[i], BULK, seconds * 1000 * MS);
    CHECK (seen.bytes > ways[i].rate * seconds / 2 * 9 / 10);
    uint64_t one = BULK * 1000 * MS / ways[i].rate; /* it takes to send one run */
    CHECK (seen.queued_ns <= 75 * MS + 2 * one);
    if (seen.bytes <= ways[i].rate * seconds / 2 * 9 / 10 || seen.queued_ns > 75 * MS + 2 * one)
      printf ("way %u: %llu %% filled, %llu ms queued, window %llu KiB\n", i,
              (unsigned long long)(seen.bytes * 200 / seconds / ways[i].rate),
              (unsigned long long)(seen.queued_ns / MS), (unsigned long long)f.window / 1024);
  }
}

/* A limit holds within some per cent, for runs and for small blocks, and can be changed. */
static void
keeps_its_rate (void)
{
  const struct way fast = { 1000000000, MS };
  for (uint64_t run = 4096; run <= BULK; run *= 64) {
    struct fm_flow f;
    struct fm_bucket b = { 0 };
    fm_flow_init (&f);
    f.bucket = &b;
    for (uint64_t rate = 40 << 20; rate >= 1 << 20; rate /= 8) {
      fm_bucket_limit (&b, rate, MS);
      uint64_t sent = run_for (&f, fast, run, 20000 * MS).bytes;
      CHECK (sent > rate * 10 * 95 / 100 && sent < rate * 10 * 105 / 100);
      while (f.in_flight)
        fm_flow_end (&f, run, 0, MS);
    }
    fm_bucket_limit (&b, 0, MS);
    CHECK (run_for (&f, fast, run, 2000 * MS).bytes > fast.rate / 100 * (run == BULK ? 80 : 20));
  }
}

/* Flows of one bucket keep its rate together, also when each has so little to send that the bucket alone
 * would give it at once. */
static void
keep_one_rate_together (void)
{
  const uint64_t rate = 1 << 20, run = 4096;
  struct fm_flow f[8];
  struct fm_bucket b = { 0 };
  fm_bucket_limit (&b, rate, MS);
  for (unsigned i = 0; i < 8; i++) {
    fm_flow_init (&f[i]);
    f[i].bucket = &b;
  }
  uint64_t now = MS, sent = 0;
  for (unsigned i = 0; now < 10000 * MS; i = (i + 1) % 8) {
    uint64_t again = fm_flow_wait (&f[i], now);
    if (again)
      now = again;
    else {
      fm_flow_begin (&f[i], run);
      fm_flow_end (&f[i], run, MS, now);
      sent += run;
    }
  }
  CHECK (sent > rate * 10 * 95 / 100 && sent < rate * 10 * 105 / 100);
}

/* What was not sent after all costs nothing. */
static void
gives_back (void)
{
  struct fm_flow f;
  struct fm_bucket b = { 0 };
  fm_flow_init (&f);
  f.bucket = &b;
  fm_bucket_limit (&b, 1000, MS);
  for (unsigned i = 0; i < 100; i++) {
    CHECK_EQ (fm_flow_wait (&f, MS), 0);
    fm_flow_begin (&f, BULK);
    CHECK (fm_flow_wait (&f, MS) > MS);
    fm_flow_cancel (&f, BULK);
  }
}

int
main (void)
{
  RUN (fills_the_way_with_a_short_queue);
  RUN (keeps_its_rate);
  RUN (keep_one_rate_together);
  RUN (gives_back);
  return finish ("flow");
}
