/* The promises of wide.h: further connections to the peer are opened beside the copies. */
#include "check.h"
#include "fake.h"
#include "lane.h"
#include "wait.h"

#define BLOCK 4096
#define SIZE (32ULL << 20) /* many more runs than share one connection */
#define PORTS 2            /* of a link with one lane for writers */

static struct fm_volume *v;
static struct fake *front, *first, *second;

static void
set_up (void)
{
  front = fake_open (SIZE, 0);
  first = fake_open (SIZE, 0);
  second = fake_open (SIZE, 3);
  second->store.timeout_ns = 5000 * FM_MS;
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, false, &v), 0);
  memset (front->bytes, 'x', SIZE);
  CHECK_EQ (fm_volume_link (v, &second->store, 1), 0);
  CHECK_EQ (second->opens, PORTS);
  fm_volume_mark (v, 0, SIZE / BLOCK);
  uint64_t held;
  while (fm_group_freeze (&v, 1, 500 * FM_MS, &held) < 0)
    ;
}

static void
copy_all (void)
{
  int rc;
  while ((rc = fm_volume_copy (v, 20 * FM_MS)) == 0)
    ;
  CHECK_EQ (rc, 1);
}

static void
tear_down (void)
{
  CHECK_EQ (fm_volume_flush (v, true), 0);
  fm_volume_settle (v);
  CHECK (memcmp (front->bytes, second->bytes, SIZE) == 0);
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
  fake_close (second);
}

/* Nobody answers those who want more connections: the copying goes on over the first. */
static void
opening_holds_nothing_up (void)
{
  set_up ();
  second->unheard = true;
  uint64_t began = fm_now_ns ();
  copy_all ();
  CHECK (second->opens > PORTS);
  CHECK (fm_now_ns () - began < second->store.timeout_ns);
  second->unheard = false;
  tear_down ();
}

/* They cannot be had: the copying does without them, and does not ask again. */
static void
copying_does_without_them (void)
{
  set_up ();
  second->open_rc = -ECONNREFUSED;
  copy_all ();
  CHECK (second->opens > PORTS && second->opens <= PORTS + FM_WIDE);
  second->open_rc = 0;
  tear_down ();
}

/* They are there: each is opened once. */
static void
each_is_opened_once (void)
{
  set_up ();
  copy_all ();
  CHECK (second->opens > PORTS && second->opens <= PORTS + FM_WIDE);
  tear_down ();
}

int
main (void)
{
  RUN (opening_holds_nothing_up);
  RUN (copying_does_without_them);
  RUN (each_is_opened_once);
  return finish ("wide");
}
