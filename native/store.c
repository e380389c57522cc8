/* Ports, one synchronous operation, and the store that is a file or a block device.
 * See store.h. */
#include "store.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

void
fm_op_finish (struct fm_store *s, struct fm_op *op, int rc)
{
  assert (!op->done);
  op->rc = rc;
  op->done = true;
  if (rc < 0)
    atomic_fetch_add_explicit (&s->errors, 1, memory_order_relaxed);
  else if (op->kind == FM_WRITE)
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
  if (rc == 0 && (flags & FM_FUA) && fdatasync (fd) < 0)
    rc = -errno;
  return rc;
}

static int
file_run (int fd, const struct fm_op *op)
{
  switch (op->kind) {
  case FM_READ:
    return file_read (fd, op->buf, op->length, op->offset);
  case FM_WRITE:
    return file_write (fd, op->buf, op->length, op->offset, op->flags);
  case FM_ZERO:
    return file_zero (fd, op->length, op->offset, op->flags);
  case FM_FLUSH:
    return fdatasync (fd) < 0 ? -errno : 0;
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
  fm_op_finish (p->store, op, file_run (p->store->fd, op));
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
  s->ops = &file_ops;
  s->fd = fd;
  s->size = size;
  pthread_mutex_init (&s->lock, NULL);
  *out = s;
  return 0;
}

/* ---- any store ---- */

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
  s->ops->close (s);
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
  return p ? p : fm_port_open (s, rc);
}

static void
give_port (struct fm_store *s, struct fm_port *p)
{
  pthread_mutex_lock (&s->lock);
  p->next = s->idle;
  s->idle = p;
  s->nidle++;
  struct fm_port *gone = NULL;
  if (p->failed) { /* the others most likely died with it: the next call connects anew */
    gone = s->idle;
    s->idle = NULL;
    s->nidle = 0;
  } else if (s->nidle > FM_STORE_IDLE_MAX) {
    gone = p;
    s->idle = p->next;
    p->next = NULL;
    s->nidle--;
  }
  pthread_mutex_unlock (&s->lock);
  close_ports (gone);
}

int
fm_store_io (struct fm_store *s, struct fm_op *op)
{
  if (s->ops == &file_ops) {
    fm_op_finish (s, op, file_run (s->fd, op));
    return op->rc;
  }
  int rc = 0;
  struct fm_port *p = take_port (s, &rc);
  if (!p) {
    fm_op_finish (s, op, rc);
    return rc;
  }
  uint64_t deadline = fm_now_ns () + s->timeout_ns;
  s->ops->submit (p, op);
  while (!op->done) {
    struct pollfd fd;
    if (s->ops->pollfd (p, &fd) && fm_poll_until (&fd, 1, deadline) == -ETIMEDOUT)
      p->failed = -ETIMEDOUT; /* the step below ends all that is under way */
    s->ops->step (p);
  }
  give_port (s, p);
  return op->rc;
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
