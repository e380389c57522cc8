/* Promises of store.h and request.h about what makes a write durable, where that takes a while: how long writers wait
 * for it, what waits for them, and what counts as written. */
#include "check.h"
#include "fake.h"
#include "lab.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#define TIMEOUT (1000 * FM_MS)
#define FLUSH (600 * FM_MS)
#define WRITERS 8
#define BLOCK 4096
#define SIZE (1 << 20)

static struct lab_server server;
static char arguments[512];
static struct fm_store *s;
static struct fm_volume *v;
static _Atomic bool over;
static _Atomic uint64_t longest_ns;
static pthread_t threads[WRITERS];

static void
serve (const char *flush_seconds)
{
  char why[256] = "";
  server = (struct lab_server){ 0 };
  snprintf (arguments, sizeof arguments,
            "eval,thread_model=echo parallel,get_size=echo 1M,can_write=exit 0,can_flush=exit 0,"
            "can_multi_conn=exit 0,can_fua=echo native,can_zero=exit 0,pread=head -c $3 /dev/zero,"
            "pwrite=cat >/dev/null,zero=exit 0,flush=sleep %s", flush_seconds);
  lab_serve (&server, arguments);
  CHECK_EQ (fm_store_open_nbd (server.uri, TIMEOUT, &s, why, sizeof why), 0);
}

static void
begin_all (void *(*work) (void *))
{
  over = false;
  longest_ns = 0;
  for (uintptr_t i = 0; i < WRITERS; i++)
    pthread_create (&threads[i], NULL, work, (void *)i);
}

static void
end_all (void)
{
  over = true;
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (threads[i], NULL);
}

static void
note (uint64_t start)
{
  uint64_t took = fm_now_ns () - start, most = longest_ns;
  while (took > most && !atomic_compare_exchange_weak (&longest_ns, &most, took))
    ;
}

/* ---- a server whose flushes take a while */

static void *
writes_on (void *arg)
{
  uint64_t at = (uintptr_t)arg * BLOCK;
  char buf[BLOCK] = { 1 };
  while (!over) {
    uint64_t start = fm_now_ns ();
    CHECK_EQ (at ? fm_volume_write (v, 0, buf, BLOCK, at, FM_FUA) : fm_volume_zero (v, 0, BLOCK, 0, FM_FUA), 0);
    note (start);
  }
  return NULL;
}

/* A freeze waits for writes, and not for what makes them durable; and who waits for a flush waits for the one that
 * is under way and for one more, however many others flush all the time. */
static void
a_freeze_beside_durable_writes (void)
{
  struct fake *first = fake_open (SIZE, 0);
  uint64_t held;
  unsigned made = 0;
  serve ("0.6");
  CHECK_EQ (fm_volume_create (s, &first->store, SIZE, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 2), 0);
  begin_all (writes_on);
  for (unsigned i = 0; i < 5; i++) {
    fm_poll_until (NULL, 0, fm_now_ns () + 730 * FM_MS);
    if (fm_group_freeze (&v, 1, FLUSH / 2, &held) < 0)
      continue;
    made++;
    while (fm_volume_copy (v, 1000 * FM_MS) == 0)
      ;
    CHECK_EQ (fm_volume_flush (v, true), 0);
    fm_volume_settle (v);
  }
  end_all ();
  if (getenv ("TIMES"))
    printf ("  %u made; longest write %llu ms\n", made, (unsigned long long)(longest_ns / FM_MS));
  CHECK_EQ (made, 5);
  CHECK (longest_ns < 4 * FLUSH); /* two, and what a busy machine takes */
  fm_volume_free (v);
  fake_close (first);
  fm_store_close (s);
  lab_kill (&server);
}

static void *
writes_once (void *arg)
{
  char buf[BLOCK] = { 1 };
  struct fm_op op = { .kind = FM_WRITE, .flags = FM_FUA, .length = BLOCK, .buf = buf,
                      .offset = (uintptr_t)arg * BLOCK };
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_store_io (s, &op), -ETIMEDOUT);
  note (start);
  return NULL;
}

/* Who waits for the flush of a server that falls silent in it waits until that is found, and then for nothing more. */
static void
a_server_that_falls_silent_in_a_flush (void)
{
  int rc;
  serve ("5");
  CHECK_EQ (fm_store_reserve (s, WRITERS, &rc), WRITERS);
  begin_all (writes_once);
  fm_poll_until (NULL, 0, fm_now_ns () + 400 * FM_MS); /* all are written, and one flushes */
  lab_stop (&server);
  end_all ();
  if (getenv ("TIMES"))
    printf ("  longest write %llu ms\n", (unsigned long long)(longest_ns / FM_MS));
  CHECK (longest_ns < 2 * TIMEOUT);
  kill (server.pid, SIGCONT);
  fm_store_close (s);
  lab_kill (&server);
}

static void *
wants_an_anchor (void *arg)
{
  (void)arg;
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_store_need_anchor (s), -ETIMEDOUT);
  note (start);
  return NULL;
}

/* Of those who wait for a server to be reached one tries for all. */
static void
a_server_that_cannot_be_reached (void)
{
  struct fake *f = fake_open (SIZE, 0);
  s = &f->store;
  s->timeout_ns = TIMEOUT / 2;
  f->unheard = true;
  begin_all (wants_an_anchor);
  end_all ();
  CHECK (f->opens <= 2); /* those who came when one was under way have theirs */
  CHECK (longest_ns < 2 * TIMEOUT);
  f->unheard = false;
  CHECK_EQ (fm_store_need_anchor (s), 0); /* and later is another matter */
  fake_close (f);
}

/* ---- zeroes */

/* However many pieces a zero has, one flush at its end makes it durable, of which the error is the client's. */
static void
a_zero_is_flushed_once (void)
{
  struct fake *front = fake_open (SIZE, 0), *first = fake_open (SIZE, 0);
  _Atomic uint64_t heard = 0;
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_zero (v, 0, SIZE, 0, FM_FUA), 0);
  CHECK (front->writes > 1);
  CHECK_EQ (front->flushes, 1);
  CHECK_EQ (fm_store_flush (&front->store, &heard), 0);
  CHECK_EQ (front->flushes, 1); /* nothing is left */
  front->flush_rc = -EIO;
  CHECK_EQ (fm_volume_zero (v, 0, SIZE, 0, FM_FUA), -EIO);
  CHECK_EQ (fm_volume_write (v, 0, "x", 1, 0, FM_FUA), -EIO);
  CHECK_EQ (v->write_errors, 2);
  front->flush_rc = 0;
  front->fail_rc = -ENOSPC;
  unsigned long flushes = front->flushes;
  CHECK_EQ (fm_volume_zero (v, 0, SIZE, 0, FM_FUA), -ENOSPC);
  CHECK_EQ (front->flushes, flushes);
  CHECK_EQ (v->write_errors, 3);
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
}

/* ---- what is not sent */

/* Which has fast zeroes, or not. */
static void
serve_store (bool fast)
{
  server = (struct lab_server){ 0 };
  snprintf (arguments, sizeof arguments, "%s",
            fast ? "memory,1M" : "--filter=nozero,memory,1M,zeromode=emulate,fastzeromode=none");
  lab_serve (&server, arguments);
  s = lab_nbd_store (&server);
}

/* The server ends and comes back, and somebody finds out: nothing of ours was lost. */
static void
nothing_is_lost_with_it (void)
{
  _Atomic uint64_t heard = 0;
  char byte;
  CHECK_EQ (fm_store_need_anchor (s), 0);
  lab_kill (&server);
  lab_serve (&server, arguments);
  for (unsigned i = 0; i < 2; i++)
    CHECK_EQ (fm_store_read (s, &byte, 1, 0), 0);
  CHECK_EQ (fm_store_losses (s), 0);
  CHECK_EQ (fm_store_flush (s, &heard), 0);
}

static void
write_and_flush (void)
{
  _Atomic uint64_t heard = 0;
  char buf[BLOCK] = { 1 };
  struct fm_op w = { .kind = FM_WRITE, .length = BLOCK, .buf = buf };
  CHECK_EQ (fm_store_io (s, &w), 0);
  CHECK_EQ (fm_store_flush (s, &heard), 0);
}

/* A fast zero that a server does not have is refused here, and changes nothing there; one that it does counts. */
static void
a_fast_zero_that_is_none (void)
{
  for (unsigned fast = 0; fast < 2; fast++) {
    struct fm_op z = { .kind = FM_ZERO, .flags = FM_FAST, .length = BLOCK };
    serve_store (fast);
    write_and_flush ();
    CHECK_EQ (fm_store_io (s, &z), fast ? 0 : -EOPNOTSUPP);
    if (!fast)
      nothing_is_lost_with_it ();
    CHECK_EQ (s->writes - s->covered, fast);
    fm_store_close (s);
    lab_kill (&server);
  }
}

static const struct fm_store_ops *fake_ops;
static unsigned taken;

static void
refuses_after (struct fm_port *p, struct fm_op *op)
{
  op->refused = op->kind == FM_ZERO && taken-- == 0;
  if (op->refused)
    fm_op_finish (p->store, op, -ETIMEDOUT);
  else
    fake_ops->submit (p, op);
}

/* A zero goes in parts, of which the first or the second is refused: what was done of it is to be flushed. */
static void
a_zero_of_which_a_part_is_done (void)
{
  for (unsigned parts = 0; parts < 2; parts++) {
    struct fake *f = fake_open (SIZE, 0);
    struct fm_store_ops ops = *f->store.ops;
    struct fm_op z = { .kind = FM_ZERO, .length = SIZE };
    fake_ops = f->store.ops;
    ops.submit = refuses_after;
    f->store.ops = &ops;
    s = &f->store;
    write_and_flush ();
    taken = parts;
    CHECK_EQ (fm_store_io (s, &z), -ETIMEDOUT);
    CHECK_EQ (f->writes, 1 + parts);
    CHECK_EQ (s->writes - s->covered, parts);
    fake_close (f);
  }
}

/* A copy cannot be written back, for there is no anchor: nothing of it was sent. */
static void
a_write_back_without_an_anchor (void)
{
  struct fake *first = fake_open (SIZE, 0);
  uint64_t held;
  serve_store (false);
  CHECK_EQ (fm_volume_create (s, &first->store, SIZE, BLOCK, false, &v), 0);
  fm_volume_doubt_front (v);
  CHECK_EQ (fm_volume_link (v, NULL, 2), 0);
  write_and_flush ();
  fm_volume_mark (v, 0, 1);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  int anchor = fm_store_server_fd (s);
  CHECK_EQ (shutdown (anchor, SHUT_RDWR), 0);
  close (anchor);
  CHECK_EQ (fm_store_server_fd (s), -ENOTCONN); /* it is found out */
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), -ENOTCONN);
  nothing_is_lost_with_it ();
  fm_volume_abandon (v);
  fm_volume_free (v);
  fake_close (first);
  fm_store_close (s);
  lab_kill (&server);
}

int
main (void)
{
  RUN (a_freeze_beside_durable_writes);
  RUN (a_server_that_falls_silent_in_a_flush);
  RUN (a_server_that_cannot_be_reached);
  RUN (a_zero_is_flushed_once);
  RUN (a_fast_zero_that_is_none);
  RUN (a_zero_of_which_a_part_is_done);
  RUN (a_write_back_without_an_anchor);
  return finish ("durable");
}
