/* The promises of volume.h as a whole: writers in several threads on a group of
 * two volumes, cycles of freeze, copy, flush and settle all the while, and after
 * each of them the sinks hold the source as it was at the freeze.
 *
 * These tests must fail without the freeze and without copy before write
 * (tests/faults/). */
#include "check.h"
#include "lab.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>

#define VOLUMES 2
#define WRITERS 4

struct shape {
  uint64_t size;
  uint32_t block;
  bool preserve_first;
  unsigned sinks; /* 2: the second is an NBD server */
};

struct world {
  struct shape shape;
  struct fm_volume *v[VOLUMES];
  struct fm_store *front[VOLUMES], *sink[VOLUMES][FM_SINKS];
  int front_fd[VOLUMES], sink_fd[VOLUMES][FM_SINKS];
  struct lab_server server[VOLUMES];
  char *snapshot[VOLUMES], *image;
  pthread_t writer[WRITERS];
  _Atomic bool stop;
};

static struct world w;

static void
build (struct shape shape)
{
  memset (&w, 0, sizeof w);
  w.shape = shape;
  w.image = malloc (shape.size);
  for (unsigned i = 0; i < VOLUMES; i++) {
    w.snapshot[i] = malloc (shape.size);
    w.front[i] = lab_file_store (shape.size, &w.front_fd[i]);
    w.sink[i][0] = lab_file_store (shape.size, &w.sink_fd[i][0]);
    CHECK_EQ (fm_volume_create (w.front[i], w.sink[i][0], shape.size, shape.block,
                                shape.preserve_first, &w.v[i]), 0);
    if (shape.sinks == 2) {
      char path[108], arguments[128];
      w.sink_fd[i][1] = lab_file (shape.size, path);
      snprintf (arguments, sizeof arguments, "file,%s", path);
      lab_serve (&w.server[i], arguments);
      w.sink[i][1] = lab_nbd_store (&w.server[i]);
    }
    CHECK_EQ (fm_volume_link (w.v[i], w.sink[i][1], 2), 0);
  }
}

static void
tear_down (void)
{
  for (unsigned i = 0; i < VOLUMES; i++) {
    fm_volume_free (w.v[i]);
    fm_store_close (w.front[i]);
    close (w.front_fd[i]);
    for (unsigned k = 0; k < w.shape.sinks; k++) {
      fm_store_close (w.sink[i][k]);
      close (w.sink_fd[i][k]);
    }
    if (w.shape.sinks == 2)
      lab_kill (&w.server[i]);
    free (w.snapshot[i]);
  }
  free (w.image);
}

static bool
read_all (int fd, char *buf)
{
  return pread (fd, buf, w.shape.size, 0) == (ssize_t)w.shape.size;
}

/* Copy, flush and settle what was frozen, late and in short slices: writers meet
 * pending blocks. */
static void
finish_cycle (void)
{
  for (unsigned i = 0; i < VOLUMES; i++) {
    int rc;
    usleep (1500);
    while ((rc = fm_volume_copy (w.v[i], 100000)) == 0)
      usleep (300);
    CHECK_EQ (rc, 1);
    CHECK_EQ (fm_volume_flush (w.v[i], true), 0);
    fm_volume_settle (w.v[i]);
  }
}

/* A cycle whose frozen moment is looked at while the gates are closed. */
static void
cycle_with_snapshot (void)
{
  fm_group_anchor (w.v, VOLUMES);
  while (fm_group_close (w.v, VOLUMES, fm_now_ns () + 200 * FM_MS) < 0)
    ;
  for (unsigned i = 0; i < VOLUMES; i++)
    CHECK (read_all (w.front_fd[i], w.snapshot[i]));
  fm_group_swap (w.v, VOLUMES);
  fm_group_open (w.v, VOLUMES);
  finish_cycle ();
  for (unsigned i = 0; i < VOLUMES; i++)
    for (unsigned k = 0; k < w.shape.sinks; k++)
      CHECK (read_all (w.sink_fd[i][k], w.image)
             && memcmp (w.image, w.snapshot[i], w.shape.size) == 0);
}

/* ---- any write, anywhere ---- */

static void *
any_writer (void *arg)
{
  uint64_t seed = 1000 + (uintptr_t)arg, size = w.shape.size;
  uint64_t longest = 3ULL * w.shape.block < 100000 ? 3ULL * w.shape.block : 100000;
  char *buf = malloc (longest);
  while (!w.stop) {
    struct fm_volume *v = w.v[random_below (&seed, VOLUMES)];
    uint64_t offset = random_below (&seed, size);
    uint64_t max = size - offset < longest ? size - offset : longest;
    uint64_t n = 1 + random_below (&seed, max), kind = random_below (&seed, 8);
    unsigned fua = random_below (&seed, 16) ? 0 : FM_FUA;
    if (kind < 6) {
      memset (buf, (int)random_below (&seed, 256), n);
      CHECK_EQ (fm_volume_write (v, 0, buf, n, offset, fua), 0);
    } else
      CHECK_EQ (fm_volume_zero (v, 0, n, offset, fua | (kind == 7 ? FM_PUNCH : 0)), 0);
    usleep (50);
  }
  free (buf);
  return NULL;
}

static void
start_writers (void *(*writer) (void *))
{
  for (uintptr_t i = 0; i < WRITERS; i++)
    pthread_create (&w.writer[i], NULL, writer, (void *)i);
}

static void
stop_writers (void)
{
  w.stop = true;
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (w.writer[i], NULL);
}

static void
snapshots (struct shape shape, unsigned cycles)
{
  struct fm_volume_stats s = { 0 };
  build (shape);
  start_writers (any_writer);
  for (unsigned i = 0; i < cycles; i++)
    cycle_with_snapshot ();
  stop_writers ();
  cycle_with_snapshot ();
  for (unsigned i = 0; i < VOLUMES; i++) {
    fm_volume_read_stats (w.v[i], &s);
    CHECK_EQ (s.next_blocks + s.pending_blocks + s.unsent_blocks + s.sent_blocks, 0);
    CHECK (s.next_since_ns == 0 && s.cycle_since_ns == 0);
    CHECK (s.write_errors == 0 && s.abandoned == 0);
    if (shape.size > 1 << 20)
      CHECK (s.copies_before_write > 0); /* or this test tested nothing */
  }
  tear_down ();
}

#define FEW (SANITIZED ? 3 : 8)

/* Both sinks hold exactly the source at the freeze; writers wait for both. */
static void
two_sinks_preserve_both (void)
{
  snapshots ((struct shape){ 3 << 20, 4096, false, 2 }, 3 * FEW);
}

/* The same where writers wait for the first sink and the second is fed from it. */
static void
two_sinks_preserve_first (void)
{
  snapshots ((struct shape){ (3 << 20) + 512, 4096, true, 2 }, 3 * FEW);
}

/* One sink: the target's flashcopy, or a source whose link is lost. */
static void
one_sink (void)
{
  snapshots ((struct shape){ (3 << 20) + 1, 4096, false, 1 }, 3 * FEW);
  snapshots ((struct shape){ (2 << 20) + 4095, 4096, true, 1 }, FEW);
}

/* Odd sizes down to one byte and block sizes from 512 B to 1 MiB: the short last
 * block is right, also where a block is more than one copy takes at once. */
static void
sizes_and_blocks (void)
{
  snapshots ((struct shape){ 1, 512, false, 2 }, FEW);
  snapshots ((struct shape){ 511, 4096, true, 2 }, FEW);
  snapshots ((struct shape){ 1048576 + 513, 512, false, 2 }, FEW);
  snapshots ((struct shape){ 1048576 + 513, 512, true, 2 }, FEW);
  snapshots ((struct shape){ (2 << 20) + 7, 65536, true, 2 }, FEW);
  snapshots ((struct shape){ (3 << 20) + 70000, 1 << 20, false, 2 }, FEW);
  snapshots ((struct shape){ (3 << 20) + 70001, 1 << 20, true, 2 }, FEW);
  snapshots ((struct shape){ (2 << 20) + 3, 1 << 18, false, 1 }, FEW);
}

/* ---- numbered writes, each after the acknowledgement of the one before ---- */

#define WORD 8
#define AREA (128 * 1024) /* bytes of each volume that belong to one writer */
#define ENTRIES_MAX 400000

struct entry {
  uint32_t offset, length; /* in words of the writer's area */
  bool zero;
};

struct numbered {
  struct entry *log;       /* entry i is write number i + 1, on volume i % VOLUMES */
  _Atomic uint64_t issued; /* entries that may be read */
  uint64_t at;             /* the model holds this prefix */
  uint64_t *model[VOLUMES];
};

static struct numbered numbered[WRITERS];

static void *
numbered_writer (void *arg)
{
  uintptr_t me = (uintptr_t)arg;
  struct numbered *l = &numbered[me];
  uint64_t seed = 2000 + me, buf[512];
  for (uint64_t i = 0; i < ENTRIES_MAX && !w.stop; i++) {
    uint32_t offset = (uint32_t)random_below (&seed, AREA / WORD);
    uint32_t most = AREA / WORD - offset < 512 ? AREA / WORD - offset : 512;
    struct entry e = { offset, 1 + (uint32_t)random_below (&seed, most), i % 16 == 15 };
    /* A zero may be done in pieces, which end here (access.c); one that is under way may be seen in part. */
    uint32_t whole = (FM_PACE_LEAST - offset * WORD % FM_PACE_LEAST) / WORD;
    if (e.zero && e.length > whole)
      e.length = whole;
    l->log[i] = e;
    atomic_store (&l->issued, i + 1);
    for (uint32_t k = 0; k < e.length; k++)
      buf[k] = i + 1;
    uint64_t at = me * AREA + e.offset * WORD, n = e.length * WORD;
    struct fm_volume *v = w.v[i % VOLUMES];
    CHECK_EQ (e.zero ? fm_volume_zero (v, 0, n, at, FM_PUNCH)
                     : fm_volume_write (v, 0, buf, n, at, 0), 0);
    if (i % 4 == 0)
      usleep (SANITIZED ? 500 : 50);
  }
  return NULL;
}

static void
apply (struct numbered *l)
{
  const struct entry *e = &l->log[l->at];
  for (uint32_t k = 0; k < e->length; k++)
    l->model[l->at % VOLUMES][e->offset + k] = e->zero ? 0 : l->at + 1;
  l->at++;
}

static bool
equals_model (const struct numbered *l, uint64_t *const images[VOLUMES])
{
  for (unsigned i = 0; i < VOLUMES; i++)
    if (memcmp (images[i], l->model[i], AREA) != 0)
      return false;
  return true;
}

/* Do the images hold, of this writer, all writes up to some number and nothing of
 * later ones?  A zero carries no number: the prefix may end with one. */
static bool
holds_a_prefix (struct numbered *l, uint64_t *const images[VOLUMES])
{
  uint64_t last = l->at;
  for (unsigned i = 0; i < VOLUMES; i++)
    for (unsigned k = 0; k < AREA / WORD; k++)
      if (images[i][k] > last)
        last = images[i][k];
  if (last > atomic_load (&l->issued))
    return false;
  while (l->at < last)
    apply (l);
  while (!equals_model (l, images)) {
    if (l->at >= atomic_load (&l->issued) || !l->log[l->at].zero)
      return false;
    apply (l);
  }
  return true;
}

static void
check_prefixes (unsigned sink)
{
  for (unsigned i = 0; i < VOLUMES; i++)
    CHECK (read_all (w.sink_fd[i][sink], w.snapshot[i]));
  for (unsigned k = 0; k < WRITERS; k++) {
    uint64_t *images[VOLUMES];
    for (unsigned i = 0; i < VOLUMES; i++)
      images[i] = (uint64_t *)(void *)(w.snapshot[i] + k * AREA);
    CHECK (holds_a_prefix (&numbered[k], images));
  }
}

static void
prefixes (bool preserve_first)
{
  build ((struct shape){ WRITERS * AREA, 4096, preserve_first, 2 });
  for (unsigned k = 0; k < WRITERS; k++) {
    numbered[k] = (struct numbered){ .log = calloc (ENTRIES_MAX, sizeof (struct entry)) };
    for (unsigned i = 0; i < VOLUMES; i++)
      numbered[k].model[i] = calloc (1, AREA);
  }
  start_writers (numbered_writer);
  for (unsigned i = 0; i < 5 * FEW; i++) {
    uint64_t held;
    while (fm_group_freeze (w.v, VOLUMES, 200 * FM_MS, &held) < 0)
      CHECK (held >= 200 * FM_MS);
    finish_cycle ();
    check_prefixes (0);
    check_prefixes (1);
    usleep (1000 * (i % 4));
  }
  stop_writers ();
  for (unsigned k = 0; k < WRITERS; k++) {
    CHECK (numbered[k].at > 10);
    free (numbered[k].log);
    for (unsigned i = 0; i < VOLUMES; i++)
      free (numbered[k].model[i]);
  }
  tear_down ();
}

/* I6, one moment for the group: no write without all those that it depends on,
 * none torn, over two volumes. */
static void
dependent_writes_preserve_both (void)
{
  prefixes (false);
}

static void
dependent_writes_preserve_first (void)
{
  prefixes (true);
}

int
main (void)
{
  RUN (two_sinks_preserve_both);
  RUN (two_sinks_preserve_first);
  RUN (one_sink);
  RUN (sizes_and_blocks);
  RUN (dependent_writes_preserve_both);
  RUN (dependent_writes_preserve_first);
  return finish ("volume");
}
