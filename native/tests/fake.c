/* See fake.h. */
#include "fake.h"
#include "check.h"
#include "wait.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>

static int ready_fd = -1, silent_fd = -1; /* always readable, never readable */

static struct fake *
fake_of (struct fm_port *p)
{
  return (struct fake *)p->store;
}

static int
fake_run (struct fake *f, struct fm_op *op)
{
  char *at = f->bytes + op->offset;
  bool changes = op->kind == FM_WRITE || op->kind == FM_ZERO;
  if (op->kind == FM_FLUSH) {
    f->flushes++;
    return f->flush_rc;
  }
  if (op->offset > f->store.size || op->length > f->store.size - op->offset)
    return -EINVAL;
  if (changes && f->fail_rc && (f->fail_after == 0 || f->fail_after-- == 0))
    return f->fail_rc;
  if (op->kind == FM_READ && f->read_rc)
    return f->read_rc;
  pthread_mutex_lock (&f->lock);
  if (op->kind == FM_READ)
    memcpy (op->buf, at, op->length);
  else if (op->kind == FM_WRITE)
    memcpy (at, op->buf, op->length);
  else
    memset (at, 0, op->length);
  pthread_mutex_unlock (&f->lock);
  f->writes += changes;
  return 0;
}

static bool
takes_one_more (struct fake *f)
{
  unsigned n = f->ports;
  while (f->most == 0 || n < f->most)
    if (atomic_compare_exchange_weak (&f->ports, &n, n + 1))
      return true;
  return false;
}

static int
fake_port_open (struct fm_port *p, uint64_t deadline_ns)
{
  struct fake *f = fake_of (p);
  f->opens++;
  while (f->unheard && fm_now_ns () < deadline_ns)
    sched_yield ();
  if (f->unheard || f->open_rc)
    return f->unheard ? -ETIMEDOUT : f->open_rc;
  while (!takes_one_more (f)) {
    if (!f->beyond_hangs)
      return -ECONNREFUSED;
    if (fm_now_ns () >= deadline_ns)
      return -ETIMEDOUT;
    sched_yield ();
  }
  return 0;
}

static void
fake_port_close (struct fm_port *p)
{
  fake_of (p)->ports--;
}

static void
fake_submit (struct fm_port *p, struct fm_op *op)
{
  struct fake *f = fake_of (p);
  if (p->failed) {
    fm_op_finish (p->store, op, p->failed);
    return;
  }
  if (f->on_write && (op->kind == FM_WRITE || op->kind == FM_ZERO))
    f->on_write (f, op);
  op->link = p->under_way;
  p->under_way = op;
}

static void
fake_step (struct fm_port *p)
{
  static _Thread_local uint64_t seed = 88172645463325252ULL;
  struct fake *f = fake_of (p);
  for (struct fm_op **at = &p->under_way; *at;) {
    struct fm_op *op = *at;
    if (!p->failed && (f->stuck || (f->lazy && random_below (&seed, 1 + f->lazy)))) {
      at = &op->link;
      continue;
    }
    *at = op->link;
    fm_op_finish (p->store, op, p->failed ? p->failed : fake_run (f, op));
  }
  sched_yield ();
}

static bool
fake_pollfd (struct fm_port *p, struct pollfd *fd)
{
  *fd = (struct pollfd){ .fd = fake_of (p)->stuck ? silent_fd : ready_fd, .events = POLLIN };
  return !p->failed;
}

static uint64_t
fake_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  (void)s, (void)offset;
  if (data)
    *data = length;
  return 0;
}

static void
fake_close_store (struct fm_store *s)
{
  struct fake *f = (struct fake *)s;
  free (f->bytes);
  pthread_mutex_destroy (&f->lock);
}

static const struct fm_store_ops fake_ops = {
  .port_open = fake_port_open,
  .port_close = fake_port_close,
  .submit = fake_submit,
  .step = fake_step,
  .pollfd = fake_pollfd,
  .hole = fake_hole,
  .close = fake_close_store,
};

struct fake *
fake_open (uint64_t size, unsigned lazy)
{
  if (ready_fd < 0) {
    ready_fd = eventfd (1, EFD_CLOEXEC);
    silent_fd = eventfd (0, EFD_CLOEXEC);
  }
  struct fake *f = calloc (1, sizeof *f);
  fm_store_init (&f->store, &fake_ops, size, 1000000000ULL);
  pthread_mutex_init (&f->lock, NULL);
  f->bytes = calloc (size, 1);
  f->lazy = lazy;
  return f;
}

void
fake_close (struct fake *f)
{
  fm_store_close (&f->store);
}
