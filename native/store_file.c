/* The store that is a file or a block device: every operation is done at once, by whoever asks.
 * See store.h. */
#include "store.h"
#include "wait.h"

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
file_do (int fd, const struct fm_op *op)
{
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

/* ---- what has FM_FUA
 *
 * Linux tells an error of writeback once to each descriptor that open(2) has given before it, at the end of the
 * first operation on that one which asks (errseq).  So whoever asks has a descriptor alone, from before he writes: on
 * a shared one another could hear what is his, and he that all is well.  Free ones are kept (of a device that is
 * closed udev reads all labels), but not beyond an error, of which they would tell whoever is next.
 *
 * When a device below fails to flush its own cache, it says that to who has asked, and to no other descriptor (such
 * are disks of virtual machines, loop and network devices).  What is gone then may be anybody's who has not flushed. */

/* -errno: there is none, and none can be opened.  *told: for give_fua. */
static int
take_fua (struct fm_store *s, uint64_t *told)
{
  char again[32];
  int fd = -1, rc = 0;
  snprintf (again, sizeof again, "/proc/self/fd/%d", s->fd);
  pthread_mutex_lock (&s->lock);
  for (;;) {
    if (s->fua_free)
      fd = s->fua[--s->fua_free];
    else if (s->fua_lent < FM_FUA_MOST && (fd = open (again, O_RDWR | O_CLOEXEC)) < 0)
      rc = -errno;
    if (fd >= 0 || !s->fua_lent)
      break;
    fm_cond_wait (&s->freed, &s->lock);
  }
  s->fua_lent += fd >= 0;
  *told = s->told;
  pthread_mutex_unlock (&s->lock);
  return fd >= 0 ? fd : rc;
}

static void
give_fua (struct fm_store *s, int fd, uint64_t told)
{
  pthread_mutex_lock (&s->lock);
  bool keep = told == s->told;
  if (keep)
    s->fua[s->fua_free++] = fd;
  s->fua_lent--;
  pthread_cond_broadcast (&s->freed);
  pthread_mutex_unlock (&s->lock);
  if (!keep)
    close (fd);
}

/* An error may have been told: what was opened before is of no more use. */
static void
drop_fua (struct fm_store *s)
{
  int gone[FM_FUA_MOST];
  pthread_mutex_lock (&s->lock);
  unsigned n = s->fua_free;
  memcpy (gone, s->fua, sizeof gone);
  s->fua_free = 0;
  s->told++;
  pthread_mutex_unlock (&s->lock);
  while (n)
    close (gone[--n]);
}

/* It was asked to be durable, and failed: is that for all to hear?  Not if it cannot be written at all, as on a full
 * disk.  So it is written once more, to be flushed by others like what is there in part. */
static void
lose_for_all (struct fm_store *s, const struct fm_op *op)
{
  struct fm_op again = *op;
  again.flags &= ~(unsigned)FM_FUA;
  posix_fadvise (s->fd, 0, 0, POSIX_FADV_DONTNEED); /* as after a flush */
  if (file_do (s->fd, &again) == 0)
    fm_store_lose (s);
}

static int
file_run (struct fm_store *s, const struct fm_op *op)
{
  bool durable = op->flags & FM_FUA;
  uint64_t told;
  int fd = durable ? take_fua (s, &told) : s->fd;
  if (fd < 0)
    return fd;
  int rc = file_do (fd, op);
  if (rc < 0 && (durable || op->kind == FM_FLUSH))
    drop_fua (s);
  if (rc < 0 && durable)
    lose_for_all (s, op);
  if (durable)
    give_fua (s, fd, told);
  return rc;
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
  drop_fua (s);
  close (s->fd);
}

static const struct fm_store_ops file_ops = {
  .run = file_run,
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
  uint64_t told;
  int one = take_fua (s, &told);
  if (one < 0) { /* no /proc */
    s->fd = -1; /* still the caller's */
    fm_store_close (s);
    return one;
  }
  give_fua (s, one, told);
  *out = s;
  return 0;
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
