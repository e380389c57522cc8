/* A volume's maps in a file of memory (tmpfs) that outlives the process: see volume.h.
 *
 *     first page   the caller's, but for its last number: 0 once a map found no room
 *     the maps     one after another, each as long as fm_bitmap_shared_bytes
 */
#include "volume.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HEAD_BYTES 4096
#define MAPS (FM_MAPS + 2)

static struct fm_bitmap *
map_of (struct fm_volume *v, unsigned i)
{
  return i < FM_MAPS ? &v->maps[i] : i == FM_MAPS ? &v->unsent : &v->stable;
}

uint64_t
fm_volume_shared_bytes (const struct fm_volume *v)
{
  return HEAD_BYTES + MAPS * fm_bitmap_shared_bytes (&v->unsent);
}

/* Whether the file is in memory, which a disk's is not: it would be read and written back in
 * the way of writes; and whether it can be emptied, as fm_bitmap_reset does. */
static int
can_hold_maps (int fd, uint64_t bytes)
{
  struct statfs where;
  if (fstatfs (fd, &where) < 0)
    return -errno;
  if (where.f_type != TMPFS_MAGIC)
    return -EOPNOTSUPP;
  return fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HEAD_BYTES,
                    (off_t)(bytes - HEAD_BYTES)) < 0 ? -errno : 0;
}

int
fm_volume_share (struct fm_volume *v, int fd)
{
  assert (!v->strict);
  int rc = v->shared_fd >= 0 ? -EBUSY : can_hold_maps (fd, fm_volume_shared_bytes (v));
  void *head = MAP_FAILED;
  if (rc == 0
      && (head = mmap (NULL, HEAD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
    rc = -errno;
  if (rc < 0) {
    close (fd);
    return rc;
  }
  v->shared_fd = fd;
  v->shared_head = head;
  _Atomic uint64_t *whole = (_Atomic uint64_t *)((char *)head + HEAD_BYTES) - 1;
  uint64_t each = fm_bitmap_shared_bytes (&v->unsent);
  for (unsigned i = 0; rc == 0 && i < MAPS; i++)
    rc = fm_bitmap_share (map_of (v, i), fd, HEAD_BYTES + i * each, whole);
  if (rc < 0)
    atomic_store (whole, 0);
  return rc;
}

int
fm_volume_mark_shared (struct fm_volume *v, int fd)
{
  int rc = 0;
  for (unsigned i = 0; rc == 0 && i < MAPS; i++)
    rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i * fm_bitmap_shared_bytes (v->next));
  if (fm_bitmap_count (v->next))
    atomic_store (&v->next_since_ns, FM_SINCE_UNKNOWN);
  return rc;
}

void
fm_volume_unshare (struct fm_volume *v)
{
  if (v->shared_head)
    munmap (v->shared_head, HEAD_BYTES);
  if (v->shared_fd >= 0)
    close (v->shared_fd);
}
