/* Promises of fm_volume_set_patience: how long a writer waits for what is not his own site's.  Of a
 * source: for sink 1, in all, whoever stands before him; of a strict volume: for a hardening, until he
 * is told to come again. */
#include "lab.h"
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

/* The peer answers each copy after 0.7 s, so it is never silent; six writers stand one behind the
 * other, and the last would wait for 4 s. */
static void
the_last_of_many_writers (void)
{
  front = fake_open (SIZE, 0), first = fake_open (SIZE, 0);
  struct fm_store *peer = serve ("--filter=delay,memory,1M,wdelay=700ms");
  link_all (&front->store, &first->store, peer, false);
  uint64_t longest = write_all (WRITERS);
  CHECK (longest < PATIENCE + 500 * FM_MS);
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

int
main (void)
{
  RUN (the_last_of_many_writers);
  RUN (a_slow_peer_is_not_lost);
  RUN (own_stores_are_not_the_peers_fault);
  RUN (without_a_bound);
  return finish ("patience");
}
