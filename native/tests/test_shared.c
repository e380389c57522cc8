/* Promises of shared.c: what a killed process leaves in the file of its maps is found by the next. */
#define BLOCKS 64
#include "stage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

static int
memory_file (void)
{
  int fd = memfd_create ("maps", 0);
  CHECK (fd >= 0 && ftruncate (fd, (off_t)fm_volume_shared_bytes (v)) == 0);
  return fd;
}

static _Atomic uint64_t *
whole (int fd)
{
  char *head = mmap (NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK (head != MAP_FAILED);
  return (_Atomic uint64_t *)(void *)(head + 4088);
}

static void
begin (void)
{
  front = fake_open (SIZE, 0);
  first = fake_open (SIZE, 0);
  second = fake_open (SIZE, 0);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, false, &v), 0);
}

/* One volume leaves the file, another of the same shape takes what is in it: these runs. */
static void
check_found (int fd, unsigned nruns, const uint64_t runs[][2])
{
  uint64_t found[2 * BLOCKS];
  fm_volume_free (v);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_mark_shared (v, fd), 0);
  CHECK_EQ (fm_volume_runs (v, 0, 0, found, BLOCKS), nruns);
  for (unsigned i = 0; i < nruns; i++)
    CHECK (found[2 * i] == runs[i][0] && found[2 * i + 1] == runs[i][1]);
}

/* A block that is in one of the six maps alone, whichever it is, is not forgotten. */
static void
a_block_of_each_map_is_found (void)
{
  for (uint64_t which = 0; which < 6; which++) {
    begin ();
    int fd = memory_file ();
    CHECK_EQ (fm_volume_share (v, dup (fd)), 0);
    struct fm_bitmap *maps[]
      = { v->next, v->pending, &v->unsent, v->sent, v->hardening, &v->stable };
    fm_bitmap_set (maps[which], 10 + which, 2);
    check_found (fd, 1, (const uint64_t[][2]){ { 10 + which, 2 } });
    tear_down ();
    close (fd);
  }
}

/* The same, of a cycle: its maps have changed places, and nothing was set by hand. */
static void
a_cycle_is_found (void)
{
  uint64_t held;
  begin ();
  int fd = memory_file ();
  CHECK_EQ (fm_volume_share (v, dup (fd)), 0);
  CHECK_EQ (fm_volume_link (v, &second->store, 1), 0);
  for (unsigned b = 0; b < BLOCKS; b += 3)
    fm_volume_mark (v, b, 1);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 3 * BLOCK, 0), 0); /* sent, and in next */
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 6 * BLOCK, 0), 0);
  fm_volume_mark (v, 4, 1);
  fm_volume_fail (v, -EIO, 0);
  uint64_t wanted[BLOCKS][2] = { { 0, 1 }, { 3, 2 } };
  for (unsigned i = 2; 3 * i < BLOCKS; i++)
    wanted[i][0] = 3 * i, wanted[i][1] = 1;
  check_found (fd, (BLOCKS + 2) / 3, (const uint64_t (*)[2])wanted);
  tear_down ();
  close (fd);
}

/* A cycle is given up while writers look at what is pending: no page of that map is given back, which a full file system
 * could not give again to a reader (SIGBUS). */
static void
an_abandoned_cycle_keeps_what_writers_look_at (void)
{
  uint64_t held;
  struct stat before, after;
  begin ();
  int fd = memory_file ();
  CHECK_EQ (fm_volume_share (v, dup (fd)), 0);
  fm_volume_mark (v, 5, 2);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  fm_volume_mark (v, 9, 1); /* a page of `next`, too */
  CHECK_EQ (fstat (fd, &before), 0);
  fm_volume_fail (v, -EIO, 0);
  fm_volume_abandon (v);
  CHECK_EQ (fstat (fd, &after), 0);
  CHECK_EQ (after.st_blocks, before.st_blocks);
  CHECK_EQ (stats ().pending_blocks, 0);
  check_found (fd, 2, (const uint64_t[][2]){ { 5, 2 }, { 9, 1 } });
  tear_down ();
  close (fd);
}

/* A file that cannot be shared, or not twice, says that it is worth nothing, and the volume goes on. */
static void
a_file_that_cannot_hold_them (void)
{
  begin ();
  int disk = open ("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  CHECK (disk >= 0 && fm_volume_share (v, disk) < 0);
  fm_volume_mark (v, 7, 1);
  CHECK_EQ (stats ().next_blocks, 1);
  tear_down ();
  begin ();
  int fd = memory_file ();
  atomic_store (whole (fd), 1);
  CHECK_EQ (fm_volume_share (v, dup (fd)), 0);
  CHECK_EQ (*whole (fd), 1);
  CHECK_EQ (fm_volume_share (v, memory_file ()), -EBUSY);
  tear_down ();
  close (fd);
}

/* A bit behind the last block is damage, which is said. */
static void
a_bit_of_no_block (void)
{
  begin ();
  int fd = memory_file ();
  char bit = 1;
  CHECK_EQ (pwrite (fd, &bit, 1, 4096 + BLOCKS / 8), 1);
  CHECK_EQ (fm_volume_mark_shared (v, fd), -EINVAL);
  close (fd);
  CHECK_EQ (fm_volume_mark_shared (v, fd), -EBADF);
  tear_down ();
}

int
main (void)
{
  RUN (a_block_of_each_map_is_found);
  RUN (a_cycle_is_found);
  RUN (an_abandoned_cycle_keeps_what_writers_look_at);
  RUN (a_file_that_cannot_hold_them);
  RUN (a_bit_of_no_block);
  return finish ("shared");
}
