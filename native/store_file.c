/* The store that is a file or a block device: every operation is done at once, by whoever asks.
 * See store.h. */
#include "below.h"
#include "store.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define KEEP_PAGE 4096 /* bytes: what FM_KEEP looks at, one after the other */

static int
file_read (int fd, char *buf, uint64_t n, uint64_t at, bool *ended)
{
  while (n) {
    ssize_t r = pread (fd, buf, n, (off_t)at);
    if (r < 0 && errno == EINTR)
      continue;
    if (r < 0)
      return -errno;
    *ended = r == 0; /* it became shorter than the volume */
    if (*ended)
      return -EIO;
    buf += r, at += (uint64_t)r, n -= (uint64_t)r;
  }
  return 0;
}

static int
file_write (int fd, const char *buf, uint64_t n, uint64_t at)
{
  while (n) {
    ssize_t r = pwrite (fd, buf, n, (off_t)at);
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

static void
file_forget (struct fm_store *s)
{
  posix_fadvise (s->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static bool
is_full (int rc)
{
  return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG;
}

/* Alone, SYNC_FILE_RANGE_WRITE waits for nothing to be written, and takes no error from who flushes.  What its own
 * begin has met may be told to nobody else.  Where it is not to be had all is as without it. */
static void
file_write_out (struct fm_store *s)
{
  if (sync_file_range (s->fd, 0, 0, SYNC_FILE_RANGE_WRITE) < 0 && (errno == EIO || is_full (-errno)))
    fm_store_lose (s);
}

static bool
is_device (int fd)
{
  struct stat info;
  return fstat (fd, &info) == 0 && S_ISBLK (info.st_mode);
}

/* A device of no size is away, and says so itself.  The offset that lseek(2) moves is nobody's. */
static bool
file_is_short (struct fm_store *s)
{
  off_t end = lseek (s->fd, 0, SEEK_END);
  return end >= 0 && (uint64_t)end < s->used && (end > 0 || !is_device (s->fd));
}

/* Before a write makes it large again, as none does a device, of which lseek(2) takes a lock of all writers. */
static void
file_grows (struct fm_store *s)
{
  if (s->knows_its_size && file_is_short (s))
    fm_store_cut (s);
}

/* After a failure the pages are clean and the disk may not have them: they are read again,
 * so that who copies this store copies what stands on the disk. */
static int
file_flush (struct fm_store *s)
{
  struct fm_below_flush f;
  fm_below_begin (&f, s->below);
  uint64_t began = fm_now_ns ();
  int rc = fdatasync (s->fd) < 0 ? -errno : 0;
  if (fm_now_ns () - began >= FM_SLOW_FLUSH_NS)
    atomic_store (&s->flushes_slowly, true);
  fm_below_end (&f, rc, s);
  if (rc < 0)
    file_forget (s);
  else if (file_is_short (s)) {
    fm_store_cut (s);
    rc = -EIO; /* of this store alone */
  }
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
      rc = file_write (fd, zeroes, some, at);
      at += some, n -= some;
    }
  }
  return rc;
}

/* NFS tells whoever writes next that it could not keep what others had written, and nobody after that. */
static int
file_wrote (struct fm_store *s, int rc)
{
  if (rc < 0 && (is_full (rc) ? s->full_tells_of_others : s->tells_of_others))
    fm_store_lose (s);
  return rc;
}

static uint64_t
file_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  if (!s->knows_holes) {
    if (data)
      *data = length;
    return 0;
  }
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

/* Of what somebody has read there: a hole that a file system knows of is no page in a cache, and stays.  A page that is
 * not zero is not asked about: where there is much data, that takes long on some. */
static bool
stays_hole (struct fm_store *s, const struct fm_op *op, uint64_t at, uint64_t n, uint64_t *hole_end)
{
  static const char zeroes[KEEP_PAGE];
  if (op->kind != FM_ZERO && memcmp ((const char *)op->buf + at, zeroes, n) != 0)
    return false;
  if (at >= *hole_end) /* one question a hole: beside many extents without data it takes long */
    *hole_end = at + file_hole (s, op->offset + at, op->length - at, NULL);
  return at + n <= *hole_end;
}

static int
keep_run (struct fm_store *s, const struct fm_op *op, uint64_t at, uint64_t n)
{
  if (n == 0)
    return 0;
  if (op->kind == FM_WRITE)
    return file_write (s->fd, (const char *)op->buf + at, n, op->offset + at);
  return file_zero (s->fd, n, op->offset + at, s->knows_holes ? op->flags & ~(unsigned)FM_PUNCH : op->flags);
}

static int
file_keep (struct fm_store *s, const struct fm_op *op)
{
  int rc = 0;
  uint64_t from = 0, hole_end = 0, n; /* what is before `from` is done */
  for (uint64_t at = 0; rc == 0 && at < op->length; at += n) {
    n = KEEP_PAGE - (op->offset + at) % KEEP_PAGE;
    n = op->length - at < n ? op->length - at : n;
    if (stays_hole (s, op, at, n, &hole_end)) {
      rc = keep_run (s, op, from, at - from);
      from = at + n;
    }
  }
  return rc < 0 ? rc : keep_run (s, op, from, op->length - from);
}

static int
file_run (struct fm_store *s, const struct fm_op *op)
{
  int rc;
  bool ended = false;
  switch (op->kind) {
  case FM_READ:
    rc = file_read (s->fd, op->buf, op->length, op->offset, &ended);
    if (ended && (!is_device (s->fd) || file_is_short (s))) /* a device may be away */
      fm_store_cut (s);
    return rc;
  case FM_WRITE:
    file_grows (s);
    rc = op->flags & FM_KEEP ? file_keep (s, op) : file_write (s->fd, op->buf, op->length, op->offset);
    return file_wrote (s, rc);
  case FM_ZERO:
    file_grows (s);
    rc = op->flags & FM_KEEP ? file_keep (s, op) : file_zero (s->fd, op->length, op->offset, op->flags);
    return rc == -EOPNOTSUPP ? rc : file_wrote (s, rc);
  case FM_FLUSH:
    return file_flush (s);
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

/* Whether lseek(2) tells of what was written and is not on the disk yet.  FUSE asks its server, who does
 * not know what the kernel has cached, and overlayfs what it stands on: only those are asked that are known
 * to look into the cache.  With others only reading costs: what is read as zeroes is sent as zeroes.  A device has
 * none that lseek(2) tells of, and stands on tmpfs itself. */
static bool
knows_holes (int fd)
{
  struct statfs fs;
  if (is_device (fd) || fstatfs (fd, &fs) < 0)
    return false;
  switch ((unsigned long)fs.f_type & UINT32_MAX) {
  case EXT4_SUPER_MAGIC:
  case XFS_SUPER_MAGIC:
  case BTRFS_SUPER_MAGIC:
  case TMPFS_MAGIC:
    return true;
  }
  return false;
}

/* Whether a file system finds space for a write before it takes it, and so has none for that write alone: those
 * of this machine.  An overlay asks its upper one, which NFS cannot be.  One that is not known may ask a server. */
static bool
finds_space_first (int fd)
{
  struct statfs fs;
  if (fstatfs (fd, &fs) < 0)
    return false;
  switch ((unsigned long)fs.f_type & UINT32_MAX) {
  case OVERLAYFS_SUPER_MAGIC:
  case F2FS_SUPER_MAGIC:
  case MSDOS_SUPER_MAGIC:
  case EXFAT_SUPER_MAGIC:
  case 0x2fc12fc1: /* ZFS */
  case 0xca451a4e: /* bcachefs */
    return true;
  }
  return false;
}

static void
file_close (struct fm_store *s)
{
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
  .forget = file_forget,
  .write_out = file_write_out,
  .is_short = file_is_short,
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
  s->knows_holes = knows_holes (fd);
  s->knows_its_size = s->knows_holes;
  s->tells_of_others = !s->knows_holes && !is_device (fd);
  s->full_tells_of_others = s->tells_of_others && !finds_space_first (fd);
  *out = s;
  return 0;
}

int
fm_store_clone (struct fm_store *from, struct fm_store *to, uint64_t offset, uint64_t length)
{
  if (from->ops != &file_ops || to->ops != &file_ops || atomic_load (&to->no_clone))
    return -EOPNOTSUPP;
  file_grows (to);
  struct file_clone_range range = { .src_fd = from->fd, .src_offset = offset,
                                    .src_length = length, .dest_offset = offset };
  if (ioctl (to->fd, FICLONERANGE, &range) == 0)
    return 0;
  int rc = -errno;
  if (rc != -EINVAL) /* which is about alignment: another range may do */
    atomic_store (&to->no_clone, true);
  return rc;
}
