/* Promises of fm_volume_set_patience: how long a writer waits for what is not his own site's.  Of a
 * source: for sink 1, in all, whoever stands before him; of a strict volume: for a hardening, until he
 * is told to come again. */
#include "lab.h"
#include "lane.h"
#include "stage.h"

#define PATIENCE (1000 * FM_MS)
#define WRITERS 6

static struct lab_server server;

struct writer {
  pthread_t thread;
  unsigned block;
  uint64_t took;
};

static void *
write_block (void *arg)
{
  struct writer *w = arg;
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, w->block * BLOCK, 0), 0);
  w->took = fm_now_ns () - start;
  return NULL;
}

/* Writers of different blocks, all at once: the longest wait. */
static uint64_t
write_all (unsigned n)
{
  struct writer w[WRITERS];
  uint64_t longest = 0;
  for (unsigned i = 0; i < n; i++) {
    w[i].block = i;
    pthread_create (&w[i].thread, NULL, write_block, &w[i]);
  }
  for (unsigned i = 0; i < n; i++) {
    pthread_join (w[i].thread, NULL);
    longest = w[i].took > longest ? w[i].took : longest;
  }
  return longest;
}

/* A store behind nbdkit with these arguments. */
static struct fm_store *
serve (const char *arguments)
{
  server = (struct lab_server){ 0 };
  lab_serve (&server, arguments);
  return lab_nbd_store (&server);
}

/* A volume whose every block is pending, with one lane for all writers. */
static void
link_all (struct fm_store *f, struct fm_store *one, struct fm_store *two, bool hold)
{
  uint64_t held;
  memset (new_bytes, 99, SIZE);
  if (front)
    for (unsigned i = 0; i < SIZE; i++)
      front->bytes[i] = (char)(1 + i / BLOCK);
  CHECK_EQ (fm_volume_create (f, one, SIZE, BLOCK, false, &v), 0);
  fm_volume_set_patience (v, hold ? 0 : PATIENCE);
  if (hold)
    fm_volume_set_hold (v);
  CHECK_EQ (fm_volume_link (v, two, 1), 0);
  fm_volume_mark (v, 0, BLOCKS);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
}

#define COPY (700 * FM_MS) /* what the peer takes for each */

/* The peer answers each copy after 0.7 s, so it is never silent; six writers stand one behind the
 * other, and the last would wait for 4.2 s. */
static void
the_last_of_many_writers (void)
{
  front = fake_open (SIZE, 0), first = fake_open (SIZE, 0);
  struct fm_store *peer = serve ("--filter=delay,memory,1M,wdelay=700ms");
  link_all (&front->store, &first->store, peer, false);
  uint64_t longest = write_all (WRITERS);
  CHECK (longest < (WRITERS - 1) * COPY); /* a busy machine adds to it */
  CHECK_EQ (stats ().second_lost, -ETIMEDOUT);
  CHECK_EQ (stats ().abandoned, 0); /* it goes on into sink 0 */
  for (unsigned b = 0; b < WRITERS; b++)
    CHECK (holds (first, b, (char)(b + 1)) && holds (front, b, 99));
  fm_volume_fail (v, -ESHUTDOWN, -1);
  fm_volume_free (v);
  fm_store_close (peer);
  fake_close (front), fake_close (first);
  lab_kill (&server);
}

/* The same peer, but writers who come one after the other: none waits for long, and nothing is lost. */
static void
a_slow_peer_is_not_lost (void)
{
  front = fake_open (SIZE, 0), first = fake_open (SIZE, 0);
  struct fm_store *peer = serve ("--filter=delay,memory,1M,wdelay=700ms");
  link_all (&front->store, &first->store, peer, false);
  for (unsigned b = 0; b < 3; b++) {
    struct writer w = { .block = b };
    write_block (&w);
    CHECK (w.took < PATIENCE);
  }
  CHECK_EQ (stats ().second_lost, 0);
  fm_volume_fail (v, -ESHUTDOWN, -1);
  fm_volume_free (v);
  fm_store_close (peer);
  fake_close (front), fake_close (first);
  lab_kill (&server);
}

/* It is this site's own store that takes 0.5 s for each: the peer is not to blame, however long that is. */
static void
own_stores_are_not_the_peers_fault (void)
{
  for (unsigned reads = 0; reads < 2; reads++) {
    struct fake *own = fake_open (SIZE, 0);
    front = reads ? NULL : own;
    second = fake_open (SIZE, 0);
    struct fm_store *slow = serve (reads ? "--filter=delay,memory,1M,rdelay=500ms"
                                         : "--filter=delay,memory,1M,wdelay=500ms");
    if (reads)
      link_all (slow, &own->store, &second->store, false);
    else
      link_all (&own->store, slow, &second->store, false);
    CHECK (write_all (WRITERS) > 2 * PATIENCE);
    CHECK_EQ (stats ().second_lost, 0);
    fm_volume_fail (v, -ESHUTDOWN, -1);
    fm_volume_free (v);
    fm_store_close (slow);
    fake_close (own), fake_close (second);
    lab_kill (&server);
  }
}

static void
takes_a_while (struct fake *f, const struct fm_op *op)
{
  (void)f, (void)op;
  fm_poll_until (NULL, 0, fm_now_ns () + 300 * FM_MS);
}

/* A write over many runs, whose copies to this site's own store take their time one after the other.
 * The peer's answers come at once, each a little later than that store's. */
static void
own_time_between_two_copies_is_not_the_peers (void)
{
  set_up (false, 2, 1, 0);
  fm_volume_set_patience (v, PATIENCE);
  for (unsigned b = 1; b < BLOCKS; b += 2)
    fm_bitmap_clear (v->pending, b, 1);
  first->on_write = takes_a_while;
  second->lazy = 50;
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 16 * BLOCK, 0, 0), 0);
  CHECK (fm_now_ns () - start > 2 * PATIENCE);
  CHECK_EQ (stats ().second_lost, 0);
  fm_volume_fail (v, -ESHUTDOWN, -1);
  tear_down ();
}

/* Who wants it so waits for the peer, as long as that one is there. */
static void
without_a_bound (void)
{
  front = fake_open (SIZE, 0), first = fake_open (SIZE, 0);
  struct fm_store *peer = serve ("--filter=delay,memory,1M,wdelay=700ms");
  link_all (&front->store, &first->store, peer, true);
  CHECK (write_all (3) > 2 * PATIENCE);
  CHECK_EQ (stats ().second_lost, 0);
  fm_volume_fail (v, -ESHUTDOWN, -1);
  fm_volume_free (v);
  fm_store_close (peer);
  fake_close (front), fake_close (first);
  lab_kill (&server);
}

/* ---- a strict volume ---- */

static int
steps_until_told (struct fm_request *r)
{
  int rc;
  uint64_t end = fm_now_ns () + 10 * PATIENCE;
  while ((rc = fm_request_step (v, r)) == 0 && fm_now_ns () < end)
    fm_poll_until (NULL, 0, fm_now_ns () + FM_MS);
  return rc;
}

/* What is being hardened is not overwritten.  Whoever waits for that hears in time that he is to come
 * again, has changed nothing, and may when it is over. */
static void
a_hardening_that_takes_long (void)
{
  set_up (false, 1, 1, 0);
  fm_volume_set_strict (v);
  fm_volume_set_patience (v, PATIENCE / 4);
  CHECK_EQ (fm_volume_copy (v, PATIENCE), 1);
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_group_fence (&v, 1, 7, 100 * FM_MS), 0);
  struct fm_request r = write_of (5 * BLOCK, BLOCK);
  r.session = 7;
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK_EQ (steps_until_told (&r), -EAGAIN);
  CHECK (fm_now_ns () - start >= PATIENCE / 4 && fm_now_ns () - start < PATIENCE);
  CHECK (holds (front, 5, 6));
  CHECK_EQ (stats ().next_blocks, 0);
  CHECK (stats ().heard_ns >= start); /* but who asked is there */
  uint64_t held; /* it has left the gate */
  CHECK_EQ (fm_volume_flush (v, false), 0);
  fm_volume_harden_end (v);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_write (v, 7, new_bytes, BLOCK, 5 * BLOCK, 0), 0);
  CHECK (holds (front, 5, 99));
  tear_down ();
}

/* However short that time is: a source with a link_timeout of 50 ms takes who answers later for silent. */
static void
a_short_time_to_be_told (void)
{
  uint64_t shortest = UINT64_MAX;
  set_up (false, 1, 1, 0);
  fm_volume_set_strict (v);
  fm_volume_set_patience (v, 12 * FM_MS);
  CHECK_EQ (fm_volume_copy (v, PATIENCE), 1);
  fm_volume_harden_begin (v);
  for (unsigned i = 0; i < 8; i++) { /* the machine may be busy */
    uint64_t start = fm_now_ns ();
    CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 5 * BLOCK, 0), -EAGAIN);
    uint64_t took = fm_now_ns () - start;
    shortest = took < shortest ? took : shortest;
  }
  CHECK (shortest >= 12 * FM_MS && shortest < 40 * FM_MS);
  fm_volume_fail (v, -ESHUTDOWN, -1);
  tear_down ();
}

/* A block larger than what the store does in a while: a writer could not leave its copy half done, so
 * the background makes it, the one that is waited for first. */
static void
a_large_block_is_left_to_the_background (void)
{
  enum { LARGE = 1 << 20, N = 4 };
  uint64_t held;
  char *bytes = calloc (1, LARGE);
  front = fake_open (N * LARGE, 0), first = fake_open (N * LARGE, 0);
  memset (front->bytes, 7, N * LARGE);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, N * LARGE, LARGE, false, &v), 0);
  fm_volume_set_patience (v, PATIENCE / 10);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  fm_volume_mark (v, 0, N);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  fm_volume_set_strict (v);
  first->stuck = true;
  CHECK_EQ (fm_volume_write (v, 0, bytes, 512, 2 * LARGE, 0), -EAGAIN);
  first->stuck = false;
  CHECK_EQ (first->writes, 0);
  CHECK_EQ (fm_volume_copy (v, 0), 0);
  while (first->writes == 0)
    CHECK_EQ (fm_volume_copy (v, FM_MS / 100), 0);
  CHECK_EQ (first->bytes[2 * LARGE], 7);
  CHECK_EQ (first->bytes[0], 0);
  while (fm_volume_copy (v, PATIENCE) == 0)
    ;
  fm_volume_harden_begin (v);
  fm_volume_harden_end (v);
  CHECK_EQ (fm_volume_write (v, 0, bytes, 512, 2 * LARGE, 0), 0);
  fm_volume_fail (v, -ESHUTDOWN, -1);
  fm_volume_free (v);
  fake_close (front), fake_close (first);
  free (bytes);
}

/* ---- and its source ---- */

/* A peer that says so has lost nothing: what it was sent is pending as before, the background goes on
 * with the rest, and comes again.  A writer who waits for it has his patience. */
static void
a_peer_that_says_come_again (void)
{
  set_up (false, 2, 1, 3);
  fm_volume_set_patience (v, PATIENCE);
  for (unsigned b = 0; b < BLOCKS; b += 2) /* no two of them are one run */
    fm_bitmap_clear (v->pending, b, 1);
  second->fail_after = BLOCKS / 4;
  second->fail_rc = -EAGAIN;
  CHECK_EQ (fm_volume_copy (v, PATIENCE / 10), 0);
  CHECK_EQ (stats ().second_lost, 0);
  CHECK_EQ (stats ().abandoned, 0);
  CHECK_EQ (stats ().pending_blocks, BLOCKS / 4);
  CHECK_EQ (stats ().sent_blocks, BLOCKS / 4);
  uint64_t at, n;
  CHECK (fm_bitmap_run (v->pending, 0, 1, &at, &n));
  struct writer w = { .block = (unsigned)at };
  pthread_create (&w.thread, NULL, write_block, &w);
  fm_poll_until (NULL, 0, fm_now_ns () + PATIENCE / 10);
  CHECK (holds (front, w.block, (char)(w.block + 1))); /* it waits */
  second->fail_rc = 0;
  pthread_join (w.thread, NULL);
  CHECK (w.took < PATIENCE / 2);
  CHECK_EQ (fm_volume_copy (v, PATIENCE), 1);
  CHECK_EQ (stats ().second_lost, 0);
  for (unsigned b = 1; b < BLOCKS; b += 2)
    CHECK (holds (second, b, (char)(b + 1)));
  tear_down ();
}

/* Blocks 0 and 2 are put off for ever, each time after so long. */
static _Atomic unsigned put_offs;
static uint64_t put_off_ns;

static void
puts_off_two (struct fake *f, const struct fm_op *op)
{
  bool owed = op->offset == 0 || op->offset == 2 * BLOCK;
  put_offs += owed;
  if (owed && put_off_ns)
    fm_poll_until (NULL, 0, fm_now_ns () + put_off_ns);
  f->fail_rc = owed ? -EAGAIN : 0;
}

/* Two writers whose copies are put off have both lanes, again and again.  Another's goes on meanwhile, and
 * a peer that says so at once is not asked without a pause. */
static void
who_is_put_off_lets_others_go_first (void)
{
  for (put_off_ns = 0; put_off_ns <= PATIENCE / 5; put_off_ns += PATIENCE / 5) {
    struct writer w[3] = { { .block = 0 }, { .block = 2 }, { .block = 4 } };
    set_up (false, 2, 2, 0);
    fm_volume_set_patience (v, 3 * PATIENCE);
    for (unsigned b = 1; b < BLOCKS; b += 2)
      fm_bitmap_clear (v->pending, b, 1);
    put_offs = 0;
    second->on_write = puts_off_two;
    for (unsigned i = 0; i < 3; i++) {
      pthread_create (&w[i].thread, NULL, write_block, &w[i]);
      fm_poll_until (NULL, 0, fm_now_ns () + PATIENCE / 10);
    }
    pthread_join (w[2].thread, NULL);
    CHECK (w[2].took < PATIENCE / 2);
    CHECK_EQ (stats ().second_lost, 0);
    fm_poll_until (NULL, 0, fm_now_ns () + PATIENCE / 2);
    CHECK (put_offs < 100);
    fm_volume_fail (v, -ESHUTDOWN, -1);
    for (unsigned i = 0; i < 2; i++)
      pthread_join (w[i].thread, NULL);
    tear_down ();
  }
}

/* As long as all that it sends is put off the background asks with one run at a time, not with all that
 * the way holds, again and again; with the first that is taken it goes on as before. */
static void
the_background_asks_with_one (void)
{
  set_up (false, 2, 1, 0);
  for (unsigned b = 1; b < BLOCKS; b += 2)
    fm_bitmap_clear (v->pending, b, 1);
  second->fail_rc = -EAGAIN;
  CHECK_EQ (fm_volume_copy (v, 10 * FM_MS), 0);
  CHECK_EQ (stats ().pending_blocks, BLOCKS / 2);
  second->stuck = true;
  while (fm_lane_fill (v->bulk, UINT64_MAX))
    ;
  CHECK_EQ (v->bulk->active, 1);
  second->stuck = false;
  second->fail_rc = 0;
  while (v->bulk->active)
    fm_lane_step (v->bulk);
  CHECK_EQ (stats ().sent_blocks, 1);
  fm_lane_fill (v->bulk, UINT64_MAX);
  CHECK_EQ (v->bulk->active, BLOCKS / 2 - 1);
  CHECK_EQ (fm_volume_copy (v, PATIENCE), 1);
  CHECK_EQ (stats ().sent_blocks, BLOCKS / 2);
  tear_down ();
}

static void
a_peer_that_says_it_for_ever (void)
{
  set_up (false, 2, 1, 3);
  fm_volume_set_patience (v, PATIENCE / 2);
  second->fail_rc = -EAGAIN;
  CHECK (write_all (WRITERS) < PATIENCE);
  CHECK_EQ (stats ().second_lost, -ETIMEDOUT);
  CHECK_EQ (stats ().abandoned, 0);
  tear_down ();
}

int
main (void)
{
  RUN (the_last_of_many_writers);
  RUN (a_slow_peer_is_not_lost);
  RUN (own_stores_are_not_the_peers_fault);
  RUN (own_time_between_two_copies_is_not_the_peers);
  RUN (without_a_bound);
  RUN (a_hardening_that_takes_long);
  RUN (a_short_time_to_be_told);
  RUN (a_large_block_is_left_to_the_background);
  RUN (a_peer_that_says_come_again);
  RUN (who_is_put_off_lets_others_go_first);
  RUN (the_background_asks_with_one);
  RUN (a_peer_that_says_it_for_ever);
  return finish ("patience");
}
