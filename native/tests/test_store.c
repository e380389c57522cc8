/* Promises of store.h, for files. */
#include "check.h"
#include "lab.h"
#include "request.h"
#include "wait.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define SIZE (3 * 1024 * 1024 + 77) /* odd: the last block is short */

static int
zero (struct fm_store *s, uint64_t offset, uint64_t n, unsigned flags)
{
  struct fm_op op = { .kind = FM_ZERO, .flags = flags, .offset = offset, .length = n };
  int rc = fm_store_io (s, &op);
  CHECK (op.done && op.rc == rc);
  return rc;
}

static int
put (struct fm_store *s, uint64_t offset, const void *buf, uint64_t n, unsigned flags)
{
  struct fm_op op = { .kind = FM_WRITE, .flags = flags, .offset = offset, .length = n,
                      .buf = (void *)buf };
  int rc = fm_store_io (s, &op);
  CHECK (op.done && op.rc == rc);
  return rc;
}

/* Writes, zeroes and punches of all alignments read back as in memory, up to the
 * last byte, and never change the size of the file. */
static void
bytes (void)
{
  int fd;
  struct fm_store *s = lab_file_store (SIZE, &fd);
  char *model = calloc (SIZE, 1), *buf = malloc (SIZE);
  uint64_t seed = 3;
  for (unsigned i = 0; i < 300; i++) {
    uint64_t offset = random_below (&seed, SIZE);
    uint64_t max = random_below (&seed, 2) ? 5000 : 200000;
    uint64_t n = 1 + random_below (&seed, SIZE - offset < max ? SIZE - offset : max);
    if (random_below (&seed, 8) == 0)
      n = SIZE - offset;
    unsigned fua = random_below (&seed, 8) ? 0 : FM_FUA;
    if (random_below (&seed, 2)) {
      memset (model + offset, (int)i, n);
      CHECK_EQ (put (s, offset, model + offset, n, fua), 0);
    } else {
      memset (model + offset, 0, n);
      CHECK_EQ (zero (s, offset, n, fua | (random_below (&seed, 2) ? FM_PUNCH : 0)), 0);
    }
    CHECK_EQ (fm_store_read (s, buf, n, offset), 0);
    CHECK (memcmp (buf, model + offset, n) == 0);
  }
  CHECK_EQ (fm_store_read (s, buf, SIZE, 0), 0);
  CHECK (memcmp (buf, model, SIZE) == 0);
  struct fm_op flush = { .kind = FM_FLUSH };
  CHECK_EQ (fm_store_io (s, &flush), 0);
  struct stat st;
  CHECK (fstat (fd, &st) == 0 && st.st_size == SIZE);
  CHECK (s->covered == s->writes && s->lost == 0);
  CHECK_EQ (s->errors, 0);
  free (buf);
  free (model);
  close (fd);
  fm_store_close (s);
}

/* A punched range gives its space back; what is a hole is told as one, and data
 * around it is not. */
static void
holes (void)
{
  int fd;
  const uint64_t MiB = 1 << 20;
  struct fm_store *s = lab_file_store (4 * MiB, &fd);
  char *buf = malloc (MiB);
  uint64_t data;
  struct stat st;
  memset (buf, 1, MiB);
  CHECK_EQ (fm_store_hole (s, 0, 4 * MiB, &data), 4 * MiB);
  CHECK_EQ (put (s, MiB, buf, MiB, 0), 0);
  CHECK_EQ (fm_store_hole (s, 0, 4 * MiB, &data), MiB);
  CHECK_EQ (fm_store_hole (s, 0, 1000, &data), 1000);
  CHECK_EQ (fm_store_hole (s, MiB, 3 * MiB, &data), 0);
  CHECK_EQ (data, MiB);
  CHECK_EQ (fm_store_hole (s, MiB, 1000, &data), 0);
  CHECK_EQ (data, 1000);
  CHECK_EQ (fm_store_hole (s, 2 * MiB, 2 * MiB, &data), 2 * MiB);
  CHECK (fstat (fd, &st) == 0 && st.st_blocks == (blkcnt_t)(MiB / 512));
  CHECK_EQ (zero (s, 0, 4 * MiB, FM_PUNCH), 0);
  CHECK (fstat (fd, &st) == 0 && st.st_blocks == 0);
  free (buf);
  close (fd);
  fm_store_close (s);
}

/* A file that became shorter than its volume is an error, never zeroes: neither
 * reading it nor asking for its holes may take the missing end for empty. */
static void
file_too_short (void)
{
  int fd;
  char buf[8192];
  uint64_t data = 0;
  struct fm_store *s = lab_file_store (1 << 20, &fd);
  CHECK (ftruncate (fd, 100 * 1024) == 0);
  CHECK_EQ (fm_store_read (s, buf, sizeof buf, 100 * 1024 - sizeof buf), 0);
  CHECK_EQ (fm_store_read (s, buf, sizeof buf, 100 * 1024 - 1), -EIO);
  CHECK_EQ (fm_store_read (s, buf, 1, (1 << 20) - 1), -EIO);
  CHECK_EQ (s->errors, 2);
  CHECK_EQ (fm_store_hole (s, 200 * 1024, 100 * 1024, &data), 0);
  CHECK_EQ (data, 100 * 1024);
  CHECK (fm_store_hole (s, 0, 1 << 20, &data) <= 100 * 1024);
  close (fd);
  fm_store_close (s);
}

/* So it is when it is flushed, whether anything was written or not: what stood behind the end that it has now may be
 * what a commit counts on.  Who has heard of that is told so until it is large again; who has not, once after that.
 * A store that is larger than its volume may lose the rest. */
static void
file_cut (void)
{
  int fd;
  char buf[4096] = { 1 };
  struct fm_store *s = lab_file_store (1 << 20, &fd);
  _Atomic uint64_t heard = fm_store_losses (s), other = heard;
  s->used = 1 << 19;
  CHECK (ftruncate (fd, 1 << 19) == 0);
  CHECK_EQ (put (s, 0, buf, sizeof buf, 0), 0);
  CHECK_EQ (fm_store_flush (s, &heard), 0);
  CHECK (ftruncate (fd, (1 << 19) - 1) == 0);
  CHECK_EQ (fm_store_cuts (s), 0);
  CHECK_EQ (fm_store_flush (s, &heard), -EIO);
  CHECK_EQ (fm_store_flush (s, &heard), -EIO);
  CHECK (fm_store_cuts (s) && fm_store_losses (s));
  CHECK (ftruncate (fd, 1 << 19) == 0);
  CHECK_EQ (fm_store_flush (s, &heard), 0);
  CHECK_EQ (fm_store_flush (s, &other), -EIO);
  CHECK_EQ (fm_store_flush (s, &other), 0);
  close (fd);
  fm_store_close (s);
}

/* The write that makes it large again hides nothing, be it on a port or not. */
static void
file_cut_and_written (void)
{
  int fd, rc;
  char buf[4096] = { 1 };
  struct fm_store *s = lab_file_store (1 << 20, &fd);
  struct fm_port *p = fm_port_open (s, &rc);
  _Atomic uint64_t heard = fm_store_losses (s);
  s->used = 1 << 20;
  for (unsigned own = 0; own < 2; own++) {
    struct fm_op op = { .kind = FM_WRITE, .offset = (1 << 20) - sizeof buf, .length = sizeof buf, .buf = buf };
    CHECK (ftruncate (fd, 1 << 18) == 0);
    CHECK_EQ (own ? fm_port_io (p, &op) : fm_store_io (s, &op), 0);
    CHECK_EQ (fm_store_cuts (s), own + 1);
    CHECK_EQ (fm_store_flush (s, &heard), -EIO);
    CHECK_EQ (fm_store_flush (s, &heard), 0);
  }
  fm_port_close (p);
  close (fd);
  fm_store_close (s);
}

/* Nor does the end that a read meets: what is large again a moment later is zeroes. */
static void
file_cut_and_read (void)
{
  int fd, rc;
  char buf[4096];
  struct fm_store *s = lab_file_store (1 << 20, &fd);
  struct fm_port *p = fm_port_open (s, &rc);
  _Atomic uint64_t heard = fm_store_losses (s);
  s->used = 1 << 20;
  for (unsigned own = 0; own < 2; own++) {
    struct fm_op op = { .kind = FM_READ, .offset = (1 << 20) - sizeof buf, .length = sizeof buf, .buf = buf };
    CHECK (ftruncate (fd, 1 << 18) == 0);
    CHECK_EQ (own ? fm_port_io (p, &op) : fm_store_io (s, &op), -EIO);
    CHECK_EQ (fm_store_cuts (s), own + 1);
    CHECK (ftruncate (fd, 1 << 20) == 0);
    CHECK_EQ (fm_store_io (s, &op), 0);
    CHECK_EQ (fm_store_flush (s, &heard), -EIO);
  }
  fm_port_close (p);
  close (fd);
  fm_store_close (s);
}

/* What was sent to a sink 0 that was cut in between is not whole, however large its last write has made it. */
static void
sink_cut (void)
{
  int fd, other;
  const unsigned block = 4096;
  const uint64_t size = 1 << 20;
  char buf[4096] = { 1 };
  struct fm_store *front = lab_file_store (size, &other), *first = lab_file_store (size, &fd);
  struct fm_volume *v;
  uint64_t held;
  CHECK_EQ (fm_volume_create (front, first, size, block, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ (fm_volume_write (v, 0, buf, block, size - block, 0), 0);
    CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
    if (i == 1)
      CHECK (ftruncate (fd, 0) == 0);
    CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
    CHECK_EQ (fm_volume_flush (v, true), i == 1 ? -EIO : 0);
    if (i == 1) {
      CHECK (v->abandoned == -EIO && v->failed_part == 0);
      fm_volume_abandon (v);
    } else
      fm_volume_settle (v);
  }
  fm_volume_free (v);
  close (other);
  close (fd);
  fm_store_close (front);
  fm_store_close (first);
}

/* No space is -ENOSPC for writes and zeroes alike; a refused write counts as an
 * error, and as one that may be there in part (test_lost.c). */
static void
no_space (void)
{
  struct fm_store *s;
  char buf[4096] = { 1 };
  CHECK_EQ (fm_store_open_file (open ("/dev/full", O_RDWR | O_CLOEXEC), 1 << 20, &s), 0);
  CHECK_EQ (put (s, 0, buf, sizeof buf, 0), -ENOSPC);
  CHECK_EQ (zero (s, 0, 300000, 0), -ENOSPC);
  CHECK_EQ (zero (s, 0, 300000, FM_PUNCH), -ENOSPC);
  CHECK_EQ (zero (s, 0, 300000, FM_FAST), -EOPNOTSUPP);
  CHECK_EQ (s->errors, 4);
  CHECK_EQ (s->writes, 1 + 4);
  fm_store_close (s);
}

/* A write that stops half-way fails with what stopped it. */
static void
half_a_write (void)
{
  int fd;
  struct fm_store *s = lab_file_store (0, &fd);
  struct rlimit old, limit;
  char *buf = calloc (1, 256 * 1024);
  signal (SIGXFSZ, SIG_IGN);
  getrlimit (RLIMIT_FSIZE, &old);
  limit = (struct rlimit){ .rlim_cur = 100 * 1024, .rlim_max = old.rlim_max };
  setrlimit (RLIMIT_FSIZE, &limit);
  CHECK_EQ (put (s, 0, buf, 256 * 1024, 0), -EFBIG);
  setrlimit (RLIMIT_FSIZE, &old);
  CHECK_EQ (put (s, 0, buf, 256 * 1024, FM_FUA), 0);
  free (buf);
  close (fd);
  fm_store_close (s);
}

static unsigned syncs; /* by the core: this stands in front of libc's */
static bool slow_disk;

int
fdatasync (int fd)
{
  syncs++;
  if (slow_disk)
    usleep (FM_SLOW_FLUSH_NS / 1000);
  return (int)syscall (SYS_fdatasync, fd);
}

/* What has FUA is durable when it is done, by a flush; without FUA nothing is flushed. */
static void
fua_is_durable (void)
{
  int fd;
  struct fm_store *s = lab_file_store (1 << 20, &fd);
  char buf[4096] = { 1 };
  static const unsigned kinds[] = { 0, FM_PUNCH, FM_FAST, FM_PUNCH | FM_FAST };
  for (unsigned i = 0; i < 4; i++) {
    syncs = 0;
    CHECK_EQ (put (s, 0, buf, sizeof buf, 0), 0);
    int rc = zero (s, 0, sizeof buf, kinds[i]);
    CHECK_EQ (syncs, 0);
    CHECK_EQ (zero (s, 0, sizeof buf, kinds[i] | FM_FUA), rc);
    CHECK_EQ (syncs, rc == 0); /* a fast one may be refused */
  }
  struct fm_op flush = { .kind = FM_FLUSH };
  CHECK_EQ (put (s, 0, buf, sizeof buf, FM_FUA), 0);
  CHECK_EQ (put (s, 0, buf, sizeof buf, 0), 0);
  syncs = 0;
  CHECK_EQ (fm_store_io (s, &flush), 0);
  CHECK_EQ (syncs, 1);
  CHECK_EQ (fm_store_io (s, &flush), 0); /* nothing was written since */
  CHECK_EQ (syncs, 1);
  close (fd);
  fm_store_close (s);
}

/* A port of a file ends its operations as it gets them. */
static void
port_of_a_file (void)
{
  int fd, rc;
  struct fm_store *s = lab_file_store (4096, &fd);
  struct fm_port *p = fm_port_open (s, &rc);
  struct pollfd unused;
  char buf[4096];
  struct fm_op op = { .kind = FM_READ, .length = sizeof buf, .buf = buf };
  CHECK (p && rc == 0);
  s->ops->submit (p, &op);
  CHECK (op.done && op.rc == 0);
  CHECK (!s->ops->pollfd (p, &unused));
  fm_port_close (p);
  close (fd);
  fm_store_close (s);
}

/* This, too, stands in front of libc's: what the core has begun to write out, and how it fails. */
static struct fm_store *copied_to;
static uint64_t out_bytes;
static unsigned outs;
static int out_fails;

int
sync_file_range (int fd, off64_t offset, off64_t n, unsigned flags)
{
  outs++;
  CHECK (fd == copied_to->fd && offset == 0 && n == 0 && flags == SYNC_FILE_RANGE_WRITE);
  out_bytes = copied_to->written_bytes;
  errno = out_fails;
  return out_fails ? -1 : 0;
}

/* However much the background copies into a file, on a slow disk little of it is left to the flush, for which flushes
 * of others on that disk wait.  Clients' writes, and the copies that they wait for, do not wait for the disk's queue.  Where the
 * call is not to be had all goes well without it; what it says of the disk is a loss. */
static void
copies_leave_little_to_a_flush (void)
{
  const uint64_t size = 96 << 20, little = 18 << 20;
  static const int fails[] = { 0, 0, ENOSYS, EPERM, ESPIPE, EINVAL, EIO, ENOSPC };
  int fd, other;
  uint64_t held;
  struct fm_volume *v;
  struct fm_store *front = lab_file_store (size, &other), *first = lab_file_store (size, &fd);
  char *buf = malloc (size);
  copied_to = first;
  CHECK_EQ (fm_volume_create (front, first, size, 65536, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 2), 0);
  for (unsigned i = 0; i < sizeof fails / sizeof *fails; i++) {
    bool lost = fails[i] == EIO || fails[i] == ENOSPC;
    memset (buf, (int)i + 1, size);
    outs = 0;
    out_fails = fails[i];
    out_bytes = first->written_bytes;
    CHECK_EQ (fm_volume_write (v, 0, buf, size, 0, 0), 0);
    CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
    CHECK_EQ (fm_volume_write (v, 0, buf, size / 2, 0, 0), 0);
    CHECK (first->written_bytes - out_bytes >= size / 2); /* by copies of that writer's own */
    CHECK_EQ (outs, 0);
    while (fm_volume_copy (v, 1000 * FM_MS) == 0)
      ;
    CHECK (i ? outs > 0 && first->written_bytes - out_bytes <= little : outs == 0);
    slow_disk = i == 0; /* and is known to be from then on */
    CHECK_EQ (fm_volume_flush (v, true), lost ? -EIO : 0);
    slow_disk = false;
    if (lost)
      fm_volume_abandon (v);
    else
      fm_volume_settle (v);
  }
  free (buf);
  fm_volume_free (v);
  close (other);
  close (fd);
  fm_store_close (front);
  fm_store_close (first);
}

int
main (void)
{
  RUN (bytes);
  RUN (holes);
  RUN (file_too_short);
  RUN (file_cut);
  RUN (file_cut_and_written);
  RUN (file_cut_and_read);
  RUN (sink_cut);
  RUN (no_space);
  RUN (half_a_write);
  RUN (fua_is_durable);
  RUN (port_of_a_file);
  RUN (copies_leave_little_to_a_flush);
  return finish ("store");
}
