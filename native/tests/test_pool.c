/* The promises of store.h about servers that take few connections: two are enough, what takes more
 * is used, and nobody waits for one that is refused or hangs. */
#include "check.h"
#include "fake.h"
#include "gather.h"
#include "lab.h"
#include "lane.h"
#include "pool.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>
#include <sched.h>

#define BLOCK 4096
#define SIZE (1ULL << 20)
#define CLIENTS 8
#define ROUNDS 50

static struct fake *f;

static int
io (enum fm_op_kind kind, uint64_t block)
{
  char buf[BLOCK] = "x";
  struct fm_op op = { .kind = kind, .offset = block * BLOCK, .length = BLOCK, .buf = buf };
  return fm_store_io (&f->store, &op);
}

static _Atomic uint64_t longest_ns;

static void *
client (void *arg)
{
  for (unsigned i = 0; i < ROUNDS; i++) {
    uint64_t began = fm_now_ns ();
    CHECK_EQ (io (i % 2 ? FM_READ : FM_WRITE, (uintptr_t)arg), 0);
    uint64_t took = fm_now_ns () - began;
    if (took > longest_ns)
      longest_ns = took;
  }
  return NULL;
}

static void
many_clients (void)
{
  pthread_t t[CLIENTS];
  _Atomic uint64_t heard = 0;
  longest_ns = 0;
  for (uintptr_t i = 0; i < CLIENTS; i++)
    pthread_create (&t[i], NULL, client, (void *)i);
  for (unsigned i = 0; i < CLIENTS; i++)
    pthread_join (t[i], NULL);
  CHECK_EQ (fm_store_flush (&f->store, &heard), 0);
}

/* Many threads on a server that takes two, three or eight: all end well, with as many connections as
 * there are, and none waits for one that cannot be had. */
static void
as_many_as_there_are (void)
{
  static const unsigned most[] = { 2, 3, 8 };
  for (unsigned i = 0; i < 6; i++) {
    int rc;
    f = fake_open (SIZE, 0);
    f->most = most[i / 2];
    f->beyond_hangs = i % 2;
    CHECK_EQ (fm_store_reserve (&f->store, 2, &rc), 2);
    many_clients ();
    CHECK (longest_ns < f->store.timeout_ns / 2);
    CHECK (f->ports >= 2 && f->ports <= f->most);
    fake_close (f);
  }
}

/* Of a server that takes many more are opened as operations wait, and not without bound. */
static void
more_when_they_wait (void)
{
  f = fake_open (SIZE, 20);
  many_clients ();
  CHECK (f->store.npool > 2 && f->store.npool <= FM_POOL_MAX);
  fake_close (f);
}

/* How many can be had is told. */
static void
reserve_tells (void)
{
  int rc;
  f = fake_open (SIZE, 0);
  f->most = 3;
  CHECK_EQ (fm_store_reserve (&f->store, 2, &rc), 2);
  CHECK_EQ (rc, 0);
  CHECK_EQ (fm_store_reserve (&f->store, 8, &rc), 3);
  CHECK_EQ (rc, -ECONNREFUSED);
  fake_close (f);
}

static void *
one_read (void *arg)
{
  (void)arg;
  CHECK_EQ (io (FM_READ, 0), -ETIMEDOUT);
  return NULL;
}

/* A connection that is not given back: who waits for it waits no longer than its time. */
static void
waiting_has_a_bound (void)
{
  int rc;
  f = fake_open (SIZE, 0);
  f->store.timeout_ns = 200 * FM_MS;
  f->most = 1;
  f->beyond_hangs = true;
  struct fm_port *p = fm_port_borrow (&f->store, &rc);
  uint64_t began = fm_now_ns ();
  pthread_t t[4];
  for (unsigned i = 0; i < 4; i++)
    pthread_create (&t[i], NULL, one_read, NULL);
  for (unsigned i = 0; i < 4; i++)
    pthread_join (t[i], NULL);
  CHECK (fm_now_ns () - began < 3 * f->store.timeout_ns);
  CHECK (fm_port_wanted (&f->store) == false);
  fm_port_give (p);
  CHECK_EQ (io (FM_READ, 0), 0);
  fake_close (f);
}

/* A connection that failed is replaced, by those who waited too. */
static void
failed_ones_are_replaced (void)
{
  int rc;
  f = fake_open (SIZE, 0);
  f->most = 2;
  struct fm_port *p = fm_port_borrow (&f->store, &rc);
  p->failed = -ENOTCONN;
  fm_port_give (p);
  CHECK (f->store.npool == 0 && f->ports == 0);
  CHECK_EQ (io (FM_READ, 0), 0);
  CHECK_EQ (f->ports, 1);
  fake_close (f);
}

static const struct fm_store_ops *fake_ops;
static uintptr_t instance; /* of a server that came back; a port's `nbd` is that of its connection */
static struct fm_port *lent;

static int
opens_now (struct fm_port *p, uint64_t deadline_ns)
{
  p->nbd = (void *)instance;
  return fake_ops->port_open (p, deadline_ns);
}

static void
finds_out (struct fm_port *p)
{
  if ((uintptr_t)p->nbd != instance)
    p->failed = -ENOTCONN;
  fake_ops->step (p);
}

static void
gives_another_back (struct fm_port *p)
{
  struct fm_port *other = lent;
  lent = NULL;
  if (other)
    fm_port_give (other);
  fake_ops->port_close (p);
}

/* A server came back, which nobody knows.  Who finds that his connection has ended, and is lent another one that has,
 * too, because it was given back just now, has none of the two. */
static void
none_is_lent_that_has_ended (void)
{
  int rc;
  f = fake_open (SIZE, 0);
  struct fm_store_ops ops = *f->store.ops;
  fake_ops = f->store.ops;
  ops.port_open = opens_now, ops.step = finds_out, ops.port_close = gives_another_back;
  f->store.ops = &ops;
  CHECK_EQ (fm_store_reserve (&f->store, 2, &rc), 2);
  lent = fm_port_borrow (&f->store, &rc);
  instance++;
  CHECK_EQ (io (FM_READ, 0), 0);
  CHECK (!lent && f->opens == 3 && f->store.npool == 1);
  fake_close (f);
}

static void *
reads_one (void *arg)
{
  (void)arg;
  CHECK_EQ (io (FM_READ, 0), 0);
  return NULL;
}

/* The same, who has waited for longer than the server may be silent, because others had the connection and it moved. */
static void
nor_after_a_long_wait (void)
{
  int rc;
  pthread_t t;
  f = fake_open (SIZE, 0);
  struct fm_store_ops ops = *f->store.ops;
  fake_ops = f->store.ops;
  ops.port_open = opens_now, ops.step = finds_out;
  f->store.ops = &ops;
  f->store.timeout_ns = 100 * FM_MS;
  f->store.more_ns = UINT64_MAX; /* it takes one connection */
  struct fm_port *p = fm_port_borrow (&f->store, &rc);
  pthread_create (&t, NULL, reads_one, NULL);
  while (!fm_port_wanted (&f->store))
    sched_yield ();
  for (uint64_t end = fm_now_ns () + 2 * f->store.timeout_ns; fm_now_ns () < end;) {
    fm_poll_until (NULL, 0, fm_now_ns () + FM_MS);
    atomic_store (&f->store.moved_ns, fm_now_ns ());
  }
  instance++;
  fm_port_give (p);
  pthread_join (t, NULL);
  fake_close (f);
}

static void *
gather_one (void *arg)
{
  char byte;
  uint64_t run[2] = { 0, 1 };
  struct fm_gather_times times;
  CHECK_EQ (fm_store_gather (arg, run, 1, &byte, 1, UINT64_MAX, &times), 1);
  return NULL;
}

static void
ends_after_one (struct fm_port *p, struct fm_op *op)
{
  op->rc = 0;
  op->done = true;
  p->failed = -ENOTCONN;
}

static void
leaves_a_number (struct fm_port *p)
{
  fake_ops->port_close (p);
  p->failed = 1; /* in memory that is free from now on */
}

/* A connection that ends between two reads of a run has not read it. */
static void
a_part_is_not_read (void)
{
  char bytes[256];
  uint64_t run[2] = { 0, sizeof bytes };
  struct fm_gather_times times;
  f = fake_open (SIZE, 0);
  struct fm_store_ops ops = *f->store.ops;
  fake_ops = f->store.ops;
  ops.submit = ends_after_one, ops.port_close = leaves_a_number;
  f->store.ops = &ops;
  f->store.sizes.maximum = sizeof bytes / 2;
  CHECK_EQ (fm_store_gather (&f->store, run, 1, bytes, 1, UINT64_MAX, &times), -ENOTCONN);
  fake_close (f);
}

/* A file has no deadline, whoever has its ports meanwhile. */
static void
a_file_is_waited_for (void)
{
  struct fm_port *p[FM_POOL_MAX];
  int rc, fd;
  struct fm_store *s = lab_file_store (SIZE, &fd);
  for (unsigned i = 0; i < FM_POOL_MAX; i++)
    CHECK (p[i] = fm_port_borrow (s, &rc));
  pthread_t t;
  pthread_create (&t, NULL, gather_one, s);
  for (uint64_t end = fm_now_ns () + 200 * FM_MS; fm_now_ns () < end;)
    fm_poll_until (NULL, 0, end);
  CHECK (fm_port_wanted (s));
  for (unsigned i = 0; i < FM_POOL_MAX; i++)
    fm_port_give (p[i]);
  pthread_join (t, NULL);
  fm_store_close (s);
  close (fd);
}

static void *
borrow_one (void *arg)
{
  (void)arg;
  CHECK_EQ (io (FM_READ, 0), 0);
  return NULL;
}

/* A connection that is only to tell the server's size (flush.c) is one too many where all that there may be are lent,
 * whoever waits for one, each time. */
static void
asked_for_its_size_a_pool_does_not_grow (void)
{
  struct fm_port *p[FM_POOL_MAX];
  pthread_t t[2];
  int rc;
  f = fake_open (SIZE, 0);
  CHECK_EQ (fm_store_reserve (&f->store, FM_POOL_MAX, &rc), FM_POOL_MAX);
  for (unsigned i = 0; i < FM_POOL_MAX; i++)
    CHECK (p[i] = fm_port_borrow (&f->store, &rc));
  for (unsigned i = 0; i < 2; i++)
    pthread_create (&t[i], NULL, borrow_one, NULL);
  while (!fm_port_wanted (&f->store))
    usleep (100);
  for (unsigned asked = 1; asked <= 3; asked++) {
    fm_pool_ask_size (&f->store);
    bool opening = true;
    unsigned n = 0;
    while (opening) {
      pthread_mutex_lock (&f->store.lock);
      opening = f->store.opening, n = f->store.npool;
      pthread_mutex_unlock (&f->store.lock);
      usleep (100);
    }
    CHECK_EQ (f->opens, FM_POOL_MAX + asked);
    CHECK_EQ (n, FM_POOL_MAX);
  }
  for (unsigned i = 0; i < FM_POOL_MAX; i++)
    fm_port_give (p[i]);
  for (unsigned i = 0; i < 2; i++)
    pthread_join (t[i], NULL);
  fake_close (f);
}

static void *
take_own (void *arg)
{
  int rc;
  *(struct fm_port **)arg = fm_port_own (&f->store, &rc);
  CHECK_EQ (rc, 0);
  return NULL;
}

/* Who wants one for good gets the next that is given back, and then no other is opened. */
static void
own_is_in_line (void)
{
  int rc;
  f = fake_open (SIZE, 0);
  CHECK_EQ (fm_store_reserve (&f->store, 2, &rc), 2);
  struct fm_port *a = fm_port_borrow (&f->store, &rc), *b = fm_port_borrow (&f->store, &rc), *own;
  uint64_t began = fm_now_ns ();
  pthread_t t;
  pthread_create (&t, NULL, take_own, &own);
  while (!fm_port_wanted (&f->store))
    usleep (100);
  fm_port_give (a);
  pthread_join (t, NULL);
  CHECK (own == a && f->opens == 2 && f->store.npool == 1);
  CHECK (fm_now_ns () - began < f->store.timeout_ns / 2);
  fm_port_give (b);
  fm_port_close (own);
  fake_close (f);
}

/* ---- a volume whose own stores take two each */

static struct fm_volume *v;
static _Atomic bool stop;

static void *
writer (void *arg)
{
  char buf[BLOCK];
  memset (buf, 'w', BLOCK);
  for (uint64_t block = (uintptr_t)arg; !stop; block = (block + CLIENTS) % (SIZE / BLOCK))
    CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, block * BLOCK, 0), 0);
  return NULL;
}

/* Of a server that takes no more than two, new lanes take over the one that the old ones have, on
 * which flushes count, and open none. */
static void
new_lanes_take_a_connection_over (void)
{
  struct fake *front = fake_open (SIZE, 0), *first = fake_open (SIZE, 0),
              *second = fake_open (SIZE, 0);
  int rc;
  CHECK_EQ (fm_store_reserve (&first->store, 2, &rc), 2);
  first->most = 2;
  first->store.more_ns = UINT64_MAX; /* it is known to take no more */
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, &second->store, 4), 0);
  struct fm_port *own = v->bulk->sink[0];
  for (unsigned i = 0; i < 2; i++) {
    fm_volume_lose_second (v, -ETIMEDOUT);
    CHECK_EQ (fm_volume_part (v, 4), 0);
    CHECK (v->bulk->sink[0] == own);
    CHECK_EQ (fm_volume_link (v, &second->store, 4), 0);
    CHECK (v->bulk->sink[0] == own);
  }
  CHECK (first->opens == 2 && first->ports == 2);
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
  fake_close (second);
}

/* It mirrors, with writers beside it, and goes over to other lanes. */
static void
volume_needs_two_of_each (void)
{
  struct fake *front = fake_open (SIZE, 2), *first = fake_open (SIZE, 2),
              *second = fake_open (SIZE, 2);
  int rc;
  pthread_t t[CLIENTS];
  front->most = first->most = 2;
  front->beyond_hangs = first->beyond_hangs = true;
  CHECK_EQ (fm_store_reserve (&front->store, 2, &rc), 2);
  CHECK_EQ (fm_store_reserve (&first->store, 2, &rc), 2);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, &second->store, 4), 0);
  stop = false;
  for (uintptr_t i = 0; i < CLIENTS; i++)
    pthread_create (&t[i], NULL, writer, (void *)i);
  uint64_t held, began = fm_now_ns ();
  for (unsigned cycle = 0; /* the writers may begin late */
       cycle < 20 || (!v->copies_before_write && fm_now_ns () - began < 20000 * FM_MS); cycle++) {
    while (fm_group_freeze (&v, 1, 500 * FM_MS, &held) < 0)
      ;
    usleep (1000); /* writers meet what is pending */
    if (cycle == 5) {
      fm_volume_lose_second (v, -ETIMEDOUT);
      CHECK_EQ (fm_volume_part (v, 4), 0);
      CHECK_EQ (fm_volume_link (v, &second->store, 4), 0);
    }
    while ((rc = fm_volume_copy (v, 20 * FM_MS)) == 0)
      ;
    CHECK_EQ (rc, 1);
    CHECK_EQ (fm_volume_flush (v, true), 0);
    fm_volume_settle (v);
  }
  CHECK (fm_now_ns () - began < 20000 * FM_MS);
  stop = true;
  for (unsigned i = 0; i < CLIENTS; i++)
    pthread_join (t[i], NULL);
  CHECK (v->copies_before_write > 0);
  CHECK (front->ports == 2 && first->ports == 2);
  fm_volume_unlink (v);
  CHECK_EQ (fm_volume_link (v, &second->store, 4), 0); /* anew, as after a fault */
  while (fm_group_freeze (&v, 1, 500 * FM_MS, &held) < 0)
    ;
  while ((rc = fm_volume_copy (v, 20 * FM_MS)) == 0)
    ;
  CHECK_EQ (rc, 1);
  CHECK (memcmp (front->bytes, second->bytes, SIZE) == 0);
  CHECK (memcmp (front->bytes, first->bytes, SIZE) == 0);
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
  fake_close (second);
}

int
main (void)
{
  RUN (as_many_as_there_are);
  RUN (more_when_they_wait);
  RUN (reserve_tells);
  RUN (waiting_has_a_bound);
  RUN (a_file_is_waited_for);
  RUN (failed_ones_are_replaced);
  RUN (a_part_is_not_read);
  RUN (none_is_lent_that_has_ended);
  RUN (nor_after_a_long_wait);
  RUN (asked_for_its_size_a_pool_does_not_grow);
  RUN (own_is_in_line);
  RUN (new_lanes_take_a_connection_over);
  RUN (volume_needs_two_of_each);
  return finish ("pool");
}
