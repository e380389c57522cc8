/* Ports, one synchronous operation, and the store that is a file or a block device.
 * See store.h. */
#include "store.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define FOREVER_NS (1000000000ULL * FM_MS) /* a wait that something else bounds */

void
fm_op_finish (struct fm_store *s, struct fm_op *op, int rc)
{
  assert (!op->done);
  op->rc = rc;
  op->done = true;
  if (rc < 0) {
    atomic_fetch_add_explicit (&s->errors, 1, memory_order_relaxed);
    if (op->kind == FM_FLUSH)
      atomic_fetch_add (&s->lost, 1);
  } else if (op->kind == FM_WRITE)
    atomic_fetch_add_explicit (&s->written_bytes, op->length, memory_order_relaxed);
}

/* ---- files and block devices ---- */

static int
file_read (int fd, char *buf, uint64_t n, uint64_t at)
{
  while (n) {
    ssize_t r = pread (fd, buf, n, (off_t)at);
    if (r < 0 && errno == EINTR)
      continue;
    if (r < 0)
      return -errno;
    if (r == 0)
      return -EIO; /* the file became shorter than the volume */
    buf += r, at += (uint64_t)r, n -= (uint64_t)r;
  }
  return 0;
}

static int
file_write (int fd, const char *buf, uint64_t n, uint64_t at, unsigned flags)
{
  while (n) {
    struct iovec v = { .iov_base = (void *)buf, .iov_len = n };
    ssize_t r = flags & FM_FUA ? pwritev2 (fd, &v, 1, (off_t)at, RWF_DSYNC)
                               : pwrite (fd, buf, n, (off_t)at);
    if (r < 0 && errno == EINTR)
      continue;
    if (r < 0)
      return -errno;
    if (r == 0)
      return -EIO;
    buf += r, at += (uint64_t)r, n -= (uint64_t)r;
  }
  return 0;
}

static int
file_allocate (int fd, int mode, uint64_t at, uint64_t n)
{
  int r;
  do
    r = fallocate (fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
  while (r < 0 && errno == EINTR);
  return r < 0 ? -errno : 0;
}

static bool
unsupported (int rc)
{
  /* EINVAL: a block device and a range that is not aligned to its sectors. */
  return rc == -EOPNOTSUPP || rc == -ENODEV || rc == -ENOTTY || rc == -ENOSYS || rc == -EINVAL;
}

/* After a failure the pages are clean and the disk may not have them: they are read again,
 * so that who copies this store copies what stands on the disk. */
static int
file_flush (int fd)
{
  if (fdatasync (fd) == 0)
    return 0;
  int rc = -errno;
  posix_fadvise (fd, 0, 0, POSIX_FADV_DONTNEED);
  return rc;
}

static int
file_zero (int fd, uint64_t n, uint64_t at, unsigned flags)
{
  static const char zeroes[64 * 1024];
  int rc = -EOPNOTSUPP;
  if (flags & FM_PUNCH)
    rc = file_allocate (fd, FALLOC_FL_PUNCH_HOLE, at, n);
  if (unsupported (rc))
    rc = file_allocate (fd, FALLOC_FL_ZERO_RANGE, at, n);
  if (unsupported (rc)) {
    if (flags & FM_FAST)
      return -EOPNOTSUPP;
    for (rc = 0; rc == 0 && n;) {
      uint64_t some = n < sizeof zeroes ? n : sizeof zeroes;
      rc = file_write (fd, zeroes, some, at, 0);
      at += some, n -= some;
    }
  }
  return rc == 0 && (flags & FM_FUA) ? file_flush (fd) : rc;
}

static int
file_run (const struct fm_store *s, const struct fm_op *op)
{
  int fd = op->flags & FM_FUA ? s->fua_fd : s->fd;
  switch (op->kind) {
  case FM_READ:
    return file_read (fd, op->buf, op->length, op->offset);
  case FM_WRITE:
    return file_write (fd, op->buf, op->length, op->offset, op->flags);
  case FM_ZERO:
    return file_zero (fd, op->length, op->offset, op->flags);
  case FM_FLUSH:
    return file_flush (fd);
  }
  return -EINVAL;
}

static int
file_port_open (struct fm_port *p, uint64_t deadline_ns)
{
  (void)p, (void)deadline_ns;
  return 0;
}

static void
file_port_close (struct fm_port *p)
{
  (void)p;
}

static void
file_submit (struct fm_port *p, struct fm_op *op)
{
  fm_op_finish (p->store, op, file_run (p->store, op));
}

static void
file_step (struct fm_port *p)
{
  (void)p;
}

static bool
file_pollfd (struct fm_port *p, struct pollfd *fd)
{
  (void)p, (void)fd;
  return false;
}

static uint64_t
file_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  off_t at = lseek (s->fd, (off_t)offset, SEEK_DATA);
  if (data)
    *data = length;
  if (at < 0 && errno == ENXIO) /* nothing but a hole to the end, which may come too early */
    at = lseek (s->fd, 0, SEEK_END);
  if (at < (off_t)offset)
    return 0;
  uint64_t hole = (uint64_t)at - offset;
  if (hole)
    return hole < length ? hole : length;
  if (!data)
    return 0; /* nobody asks how far: tmpfs would walk the file's pages to its end */
  at = lseek (s->fd, (off_t)offset, SEEK_HOLE);
  if (at > (off_t)offset && (uint64_t)at - offset < length)
    *data = (uint64_t)at - offset;
  return 0;
}

static void
file_close (struct fm_store *s)
{
  if (s->fua_fd != s->fd)
    close (s->fua_fd);
  close (s->fd);
}

static const struct fm_store_ops file_ops = {
  .port_open = file_port_open,
  .port_close = file_port_close,
  .submit = file_submit,
  .step = file_step,
  .pollfd = file_pollfd,
  .hole = file_hole,
  .close = file_close,
};

int
fm_store_open_file (int fd, uint64_t size, struct fm_store **out)
{
  struct fm_store *s = calloc (1, sizeof *s);
  if (!s) {
    close (fd);
    return -ENOMEM;
  }
  fm_store_init (s, &file_ops, size, 0);
  s->fd = fd;
  char again[32];
  snprintf (again, sizeof again, "/proc/self/fd/%d", fd);
  s->fua_fd = open (again, O_RDWR | O_CLOEXEC);
  if (s->fua_fd < 0)
    s->fua_fd = fd; /* no /proc */
  *out = s;
  return 0;
}

/* ---- any store ---- */

void
fm_store_init (struct fm_store *s, const struct fm_store_ops *ops, uint64_t size,
               uint64_t timeout_ns)
{
  s->ops = ops;
  s->size = size;
  s->timeout_ns = timeout_ns;
  atomic_init (&s->writes, 1);
  pthread_mutex_init (&s->lock, NULL);
  fm_cond_init (&s->flush_free);
}

struct fm_port *
fm_port_open (struct fm_store *s, int *rc)
{
  struct fm_port *p = calloc (1, sizeof *p);
  if (!p) {
    *rc = -ENOMEM;
    return NULL;
  }
  p->store = s;
  *rc = s->ops->port_open (p, fm_now_ns () + s->timeout_ns);
  if (*rc < 0) {
    free (p);
    return NULL;
  }
  return p;
}

void
fm_port_close (struct fm_port *p)
{
  if (!p)
    return;
  assert (!p->under_way);
  p->store->ops->port_close (p);
  free (p);
}

static void
close_ports (struct fm_port *p)
{
  while (p) {
    struct fm_port *next = p->next;
    fm_port_close (p);
    p = next;
  }
}

void
fm_store_close (struct fm_store *s)
{
  if (!s)
    return;
  close_ports (s->idle);
  fm_port_close (s->anchor);
  s->ops->close (s);
  pthread_cond_destroy (&s->flush_free);
  pthread_mutex_destroy (&s->lock);
  free (s->uri);
  free (s);
}

static struct fm_port *
take_port (struct fm_store *s, int *rc)
{
  pthread_mutex_lock (&s->lock);
  struct fm_port *p = s->idle;
  if (p) {
    s->idle = p->next;
    s->nidle--;
  }
  pthread_mutex_unlock (&s->lock);
  if (p)
    p->next = NULL;
  return p ? p : fm_port_open (s, rc);
}

static struct fm_port *
take_idle (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  struct fm_port *all = s->idle;
  s->idle = NULL;
  s->nidle = 0;
  pthread_mutex_unlock (&s->lock);
  return all;
}

static void
give_port (struct fm_store *s, struct fm_port *p)
{
  if (p->failed) { /* the others most likely died with it: the next call connects anew */
    close_ports (take_idle (s));
    fm_port_close (p);
    return;
  }
  pthread_mutex_lock (&s->lock);
  bool keep = s->nidle < FM_STORE_IDLE_MAX;
  if (keep) {
    p->next = s->idle;
    s->idle = p;
    s->nidle++;
  }
  pthread_mutex_unlock (&s->lock);
  if (!keep)
    fm_port_close (p);
}

int
fm_port_io (struct fm_port *p, struct fm_op *op)
{
  uint64_t deadline = fm_now_ns () + p->store->timeout_ns;
  p->store->ops->submit (p, op);
  while (!op->done) {
    struct pollfd fd;
    if (p->store->ops->pollfd (p, &fd) && fm_poll_until (&fd, 1, deadline) == -ETIMEDOUT)
      p->failed = -ETIMEDOUT; /* the step below ends all that is under way */
    p->store->ops->step (p);
  }
  return op->rc;
}

/* ---- what is written and not flushed: see store.h ---- */

static int
hold_flush (struct fm_store *s)
{
  uint64_t deadline = fm_now_ns () + (s->timeout_ns ? s->timeout_ns : FOREVER_NS);
  int rc = 0;
  pthread_mutex_lock (&s->lock);
  while (s->flush_held && rc == 0)
    rc = fm_cond_wait_until (&s->flush_free, &s->lock, deadline);
  if (!s->flush_held) {
    s->flush_held = true;
    rc = 0;
  }
  pthread_mutex_unlock (&s->lock);
  return rc;
}

static void
free_flush (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  s->flush_held = false;
  pthread_cond_broadcast (&s->flush_free);
  pthread_mutex_unlock (&s->lock);
}

static bool
has_anchor (const struct fm_store *s)
{
  return s->ops != &file_ops;
}

/* Held. */
static int
need_anchor (struct fm_store *s)
{
  int rc = 0;
  if (!s->anchor && (s->anchor = fm_port_open (s, &rc)))
    atomic_store (&s->anchored, ++s->anchors);
  return rc;
}

/* Held.  Its connection has ended, so the idle ones most likely did. */
static void
drop_anchor (struct fm_store *s)
{
  atomic_store (&s->anchored, 0); /* before the look at `writes`: see fm_store_io */
  fm_port_close (s->anchor);
  s->anchor = NULL;
  if (atomic_load (&s->writes) > s->covered)
    atomic_fetch_add (&s->lost, 1);
  close_ports (take_idle (s));
}

/* The number of the anchor that a write which is submitted now counts on. */
static int
anchor_for_write (struct fm_store *s, uint64_t *number)
{
  if ((*number = atomic_load (&s->anchored)))
    return 0;
  int rc = hold_flush (s);
  if (rc < 0)
    return rc;
  rc = need_anchor (s);
  *number = s->anchors;
  free_flush (s);
  return rc;
}

/* A connection has ended: with it the server? */
static void
look_at_anchor (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  bool held = s->flush_held;
  s->flush_held = true;
  pthread_mutex_unlock (&s->lock);
  if (held)
    return; /* who flushes finds out */
  if (s->anchor) {
    s->ops->step (s->anchor);
    if (s->anchor->failed)
      drop_anchor (s);
  }
  free_flush (s);
}

/* Ended before it was submitted. */
static int
not_begun (struct fm_store *s, struct fm_op *op, int rc)
{
  if (rc < 0)
    atomic_fetch_add_explicit (&s->errors, 1, memory_order_relaxed);
  op->rc = rc;
  op->done = true;
  return rc;
}

static int
run_flush (struct fm_store *s, struct fm_op *op)
{
  uint64_t mine = atomic_load (&s->writes);
  int rc = hold_flush (s);
  if (rc < 0)
    return not_begun (s, op, rc);
  if (!fm_store_settled (s))
    not_begun (s, op, -ETIMEDOUT);
  else if (s->covered >= mine) /* nothing was written, or another's flush has covered it by now */
    not_begun (s, op, 0);
  else if (has_anchor (s) && (rc = need_anchor (s)) < 0)
    not_begun (s, op, rc);
  else {
    uint64_t covers = atomic_load (&s->writes);
    if (has_anchor (s))
      fm_port_io (s->anchor, op);
    else
      fm_op_finish (s, op, file_run (s, op));
    if (op->rc == 0)
      s->covered = covers;
    if (s->anchor && s->anchor->failed)
      drop_anchor (s);
  }
  free_flush (s);
  return op->rc;
}

/* ---- one operation, from any thread ---- */

static int
run_on_server (struct fm_store *s, struct fm_op *op)
{
  int rc = 0;
  struct fm_port *p = take_port (s, &rc);
  if (!p)
    return not_begun (s, op, rc);
  fm_port_io (p, op);
  if (p->failed)
    look_at_anchor (s);
  give_port (s, p);
  return op->rc;
}

static int
run (struct fm_store *s, struct fm_op *op)
{
  if (has_anchor (s))
    return run_on_server (s, op);
  fm_op_finish (s, op, file_run (s, op));
  return op->rc;
}

int
fm_store_io (struct fm_store *s, struct fm_op *op)
{
  if (op->kind == FM_FLUSH)
    return run_flush (s, op);
  if (op->kind == FM_READ || op->flags & FM_FUA)
    return run (s, op);
  uint64_t number = 0;
  int rc = has_anchor (s) ? anchor_for_write (s, &number) : 0;
  if (rc < 0)
    return not_begun (s, op, rc);
  if (run (s, op) < 0)
    return op->rc;
  /* First count it, then look: who drops an anchor does the one and the other in the other
   * order, so one of the two sees that the anchor did not outlive the write. */
  atomic_fetch_add (&s->writes, 1);
  if (atomic_load (&s->anchored) != number)
    atomic_fetch_add (&s->lost, 1);
  return 0;
}

int
fm_store_flush (struct fm_store *s, _Atomic uint64_t *heard)
{
  struct fm_op op = { .kind = FM_FLUSH };
  uint64_t known = atomic_load (heard);
  int rc = fm_store_io (s, &op);
  uint64_t lost = atomic_load (&s->lost);
  atomic_store (heard, lost);
  return rc == 0 && lost != known ? -EIO : rc;
}

int
fm_store_clone (struct fm_store *from, struct fm_store *to, uint64_t offset, uint64_t length)
{
  if (from->ops != &file_ops || to->ops != &file_ops || atomic_load (&to->no_clone))
    return -EOPNOTSUPP;
  struct file_clone_range range = { .src_fd = from->fd, .src_offset = offset,
                                    .src_length = length, .dest_offset = offset };
  if (ioctl (to->fd, FICLONERANGE, &range) == 0)
    return 0;
  int rc = -errno;
  if (rc != -EINVAL) /* which is about alignment: another range may do */
    atomic_store (&to->no_clone, true);
  return rc;
}

uint64_t
fm_store_size (struct fm_store *s)
{
  return s->size;
}

int
fm_store_read (struct fm_store *s, void *buf, uint64_t n, uint64_t offset)
{
  struct fm_op op = { .kind = FM_READ, .buf = buf, .length = n, .offset = offset };
  return fm_store_io (s, &op);
}

uint64_t
fm_store_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  return s->ops->hole (s, offset, length, data);
}
