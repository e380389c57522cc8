/* See flow.h. */
#include "flow.h"

#include <assert.h>

#define MS 1000000ULL
#define QUEUE_NS (25 * MS)       /* and an eighth of the way; a longer queue is long */
#define MUCH 3                   /* so many times longer is much too long */
#define WHILE_NS (10000 * MS)    /* then the way is measured again */
#define LONG_WAY_NS (5 * MS)     /* below this FM_FLOW_NEAR fills any link */
#define BURST_NS (50 * MS)       /* of the rate: how far the bucket fills */

void
fm_flow_init (struct fm_flow *f)
{
  *f = (struct fm_flow){ .window = FM_FLOW_FIRST, .doubling = true,
                         .doubling_most = FM_FLOW_FAR, .least_ns = UINT64_MAX };
}

static int64_t
burst (const struct fm_bucket *b)
{
  return (int64_t)(b->rate / (1000 * MS / BURST_NS));
}

static void
refill (struct fm_bucket *b, uint64_t now_ns)
{
  uint64_t passed = now_ns - b->credit_ns;
  if (passed > 1000 * MS)
    passed = 1000 * MS;
  int64_t more = (int64_t)(b->rate / 1000 * (passed / 1000) / 1000);
  if (more == 0)
    return; /* so little time that the sum would lose it */
  b->credit = b->credit + more < burst (b) ? b->credit + more : burst (b);
  b->credit_ns = now_ns;
}

void
fm_bucket_limit (struct fm_bucket *b, uint64_t rate, uint64_t now_ns)
{
  *b = (struct fm_bucket){ .rate = rate, .credit_ns = now_ns };
}

/* Take out so much, or put it back. */
static void
take (struct fm_bucket *b, int64_t bytes)
{
  if (b && b->rate)
    b->credit -= bytes; /* into debt, so that a block may be larger than the bucket */
}

uint64_t
fm_flow_wait (struct fm_flow *f, uint64_t now_ns)
{
  if (f->in_flight && f->in_flight >= f->window)
    return UINT64_MAX;
  struct fm_bucket *b = f->bucket;
  if (!b || !b->rate)
    return 0;
  refill (b, now_ns);
  if (b->credit >= 0)
    return 0;
  return now_ns + (uint64_t)-b->credit * 1000 / b->rate * MS + MS;
}

uint64_t
fm_flow_weight (uint64_t zeroes)
{
  return zeroes > FM_FLOW_RUN ? zeroes : FM_FLOW_RUN;
}

void
fm_flow_begin (struct fm_flow *f, uint64_t bytes)
{
  f->in_flight += bytes;
  take (f->bucket, (int64_t)bytes);
}

void
fm_flow_cancel (struct fm_flow *f, uint64_t bytes)
{
  assert (f->in_flight >= bytes);
  f->in_flight -= bytes;
  fm_flow_refund (f, bytes);
}

void
fm_flow_refund (struct fm_flow *f, uint64_t bytes)
{
  take (f->bucket, -(int64_t)bytes);
}

uint64_t
fm_flow_way_ns (const struct fm_flow *f)
{
  return f->least_ns == UINT64_MAX ? 0 : f->least_ns;
}

/* The window was full: it can be judged. */
static void
adapt (struct fm_flow *f, uint64_t bytes, uint64_t latency_ns, uint64_t now_ns)
{
  uint64_t way = f->least_ns, most = way >= LONG_WAY_NS ? FM_FLOW_FAR : FM_FLOW_NEAR;
  uint64_t queue = latency_ns - way, is_long = QUEUE_NS + way / 8;
  if (queue < is_long)
    f->window += f->doubling ? bytes : bytes / 8;
  else if (now_ns - f->turned_ns > latency_ns) {
    f->window -= f->window / (f->doubling || queue > MUCH * is_long ? 2 : 8);
    f->doubling = false;
    f->turned_ns = now_ns;
  }
  if (f->window >= f->doubling_most)
    f->doubling = false;
  if (f->window > most)
    f->window = most;
  if (f->window < FM_FLOW_LEAST)
    f->window = FM_FLOW_LEAST;
}

/* On a long way half of the window leaves no queue, and is soon whole again. */
static void
measure_begin (struct fm_flow *f)
{
  f->window_before = f->window;
  f->window = f->least_ns >= 2 * QUEUE_NS ? f->window / 2 : FM_FLOW_LEAST;
  if (f->window < FM_FLOW_LEAST)
    f->window = FM_FLOW_LEAST;
  f->drained_ns = 0;
}

/* What began without a queue shows the way. */
static void
measure (struct fm_flow *f, uint64_t latency_ns, uint64_t now_ns)
{
  if (!f->drained_ns && f->in_flight <= f->window)
    f->drained_ns = now_ns + (f->window > FM_FLOW_LEAST ? latency_ns : 0);
  else if (f->drained_ns && now_ns - latency_ns >= f->drained_ns) {
    f->least_ns = latency_ns;
    f->measured_ns = now_ns;
    f->doubling = true;
    f->doubling_most = f->window_before / 4 * 3;
    f->window_before = 0;
    f->turned_ns = now_ns;
  }
}

bool
fm_flow_is_measuring (const struct fm_flow *f)
{
  return f->window_before != 0;
}

void
fm_flow_end (struct fm_flow *f, uint64_t bytes, uint64_t latency_ns, uint64_t now_ns)
{
  assert (f->in_flight >= bytes);
  bool full = f->in_flight >= f->window / 2;
  f->in_flight -= bytes;
  if (!latency_ns)
    return;
  if (latency_ns < f->least_ns)
    f->least_ns = latency_ns;
  if (f->window_before)
    measure (f, latency_ns, now_ns);
  else if (f->measured_ns && now_ns - f->measured_ns > WHILE_NS)
    measure_begin (f);
  else if (full)
    adapt (f, bytes, latency_ns, now_ns);
  if (!f->measured_ns)
    f->measured_ns = now_ns;
}
