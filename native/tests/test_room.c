/* The promises of room.h: the buffers of a site have a bound, whatever the block size and the number
 * of volumes; and what a writer waits for is copied all the same. */
#include "check.h"
#include "fake.h"
#include "gather.h"
#include "lab.h"
#include "lane.h"
#include "request.h"
#include "room.h"
#include "wait.h"

#include <pthread.h>

#define VOLUMES 64 /* limits.VOLUMES_MAX */
#define LANES 4    /* limits.PRIORITY_LANES */
#define SLACK_BYTES (64 * FM_MIB) /* of what is not a buffer: connections, stacks, maps */

struct shape {
  unsigned volumes;
  uint64_t block, blocks;
};

static struct lab_server server;
static struct fm_volume *v[VOLUMES];
static struct fm_store *front[VOLUMES], *first[VOLUMES], *second[VOLUMES];
static struct shape shape;
static _Atomic bool stop;

static uint64_t
resident (void)
{
  char line[256];
  unsigned long long kib = 0;
  FILE *f = fopen ("/proc/self/status", "r");
  while (f && fgets (line, sizeof line, f))
    if (sscanf (line, "RssAnon: %llu kB", &kib) == 1)
      break;
  fclose (f);
  return kib * 1024;
}

static void *
writer (void *arg)
{
  unsigned i = (unsigned)(uintptr_t)arg;
  struct fm_volume *mine = v[i / LANES];
  char buf[512] = "new";
  for (uint64_t block = i % LANES; block < shape.blocks; block += LANES)
    CHECK_EQ (fm_volume_write (mine, 0, buf, sizeof buf, block * shape.block, 0), 0);
  return NULL;
}

static void *
watch_memory (void *arg)
{
  uint64_t *most = arg;
  while (!stop) {
    uint64_t now = resident ();
    *most = now > *most ? now : *most;
    usleep (2000);
  }
  return NULL;
}

static struct fm_store *
store_of (uint64_t size, bool fenced)
{
  struct fm_store *s = lab_nbd_store (&server);
  s->size = size;
  s->timeout_ns = 20000 * FM_MS; /* all are one server, and the machine may be busy */
  if (fenced)
    fm_store_set_fenced (s);
  return s;
}

static void
set_up (void)
{
  char arguments[64];
  uint64_t size = shape.block * shape.blocks, held;
  memset (&server, 0, sizeof server);
  snprintf (arguments, sizeof arguments, "memory,%llu", (unsigned long long)size);
  lab_serve (&server, arguments);
  for (unsigned i = 0; i < shape.volumes; i++) {
    front[i] = store_of (size, false);
    first[i] = store_of (size, false);
    second[i] = store_of (size, true);
    CHECK_EQ (fm_volume_create (front[i], first[i], size, (uint32_t)shape.block, false, &v[i]), 0);
    CHECK_EQ (fm_volume_link (v[i], second[i], LANES), 0);
    fm_volume_mark (v[i], 0, shape.blocks);
  }
  char *data = malloc (size); /* all stores are one memory: it is copied onto itself */
  memset (data, 'x', size);
  struct fm_op fill = { .kind = FM_WRITE, .length = size, .buf = data };
  CHECK_EQ (fm_store_io (front[0], &fill), 0);
  free (data);
  CHECK_EQ (fm_group_freeze (v, shape.volumes, 1000 * FM_MS, &held), 0);
}

static void
tear_down (void)
{
  for (unsigned i = 0; i < shape.volumes; i++) {
    fm_volume_free (v[i]);
    fm_store_close (front[i]);
    fm_store_close (first[i]);
    fm_store_close (second[i]);
  }
  lab_kill (&server);
}

/* Every lane of every volume has a writer, who waits for a copy, beside the background. */
static void
bounded (struct shape s)
{
  shape = s;
  set_up ();
  uint64_t before = resident (), most_resident = 0, most;
  pthread_t t[VOLUMES * LANES], watcher;
  stop = false;
  pthread_create (&watcher, NULL, watch_memory, &most_resident);
  for (uintptr_t i = 0; i < shape.volumes * LANES; i++)
    pthread_create (&t[i], NULL, writer, (void *)i);
  for (bool done = false; !done;) {
    done = true;
    for (unsigned i = 0; i < shape.volumes; i++) {
      int rc = fm_volume_copy (v[i], 50 * FM_MS);
      CHECK (rc >= 0);
      done &= rc != 0;
    }
  }
  for (unsigned i = 0; i < shape.volumes * LANES; i++)
    pthread_join (t[i], NULL);
  stop = true;
  pthread_join (watcher, NULL);
  uint64_t now = fm_room_used (&most);
  if (getenv ("TIMES"))
    printf ("  %u volumes, blocks of %llu KiB: buffers %llu MiB, RssAnon %llu MiB more\n",
            shape.volumes, (unsigned long long)shape.block / 1024,
            (unsigned long long)(most / FM_MIB),
            (unsigned long long)((most_resident - before) / FM_MIB));
  CHECK (most <= FM_ROOM_BYTES);
  CHECK (now <= FM_ROOM_KEPT);
  CHECK (most_resident - before <= FM_ROOM_BYTES + SLACK_BYTES || SANITIZED);
  tear_down ();
}

static void
many_volumes (void)
{
  bounded ((struct shape){ SANITIZED ? 8 : VOLUMES, 4096, 256 });
}

static void
many_volumes_of_large_blocks (void)
{
  bounded ((struct shape){ SANITIZED ? 8 : VOLUMES, 4 * FM_MIB, 2 });
}

static void
largest_blocks (void)
{
  bounded ((struct shape){ 2, 32 * FM_MIB, 4 });
}

static struct fake *f_front, *f_first, *f_second;

/* Of what is read from a server for a file nothing is counted in a flow: the number of slots is all
 * that bounds it. */
static void
largest_blocks_to_a_file (void)
{
  enum { BLOCKS = 20 };
  uint64_t block = 32 * FM_MIB, size = BLOCKS * block, held, most;
  struct fm_volume *w;
  int fd;
  struct fm_store *file = lab_file_store (size, &fd);
  f_front = fake_open (size, 0);
  f_front->stuck = true; /* nothing ends, so all that begins has its buffer at the same time */
  CHECK_EQ (fm_volume_create (&f_front->store, file, size, (uint32_t)block, false, &w), 0);
  CHECK_EQ (fm_volume_link (w, NULL, 1), 0);
  fm_volume_mark (w, 0, BLOCKS);
  CHECK_EQ (fm_group_freeze (&w, 1, 100 * FM_MS, &held), 0);
  CHECK (fm_lane_fill (w->bulk, UINT64_MAX) && w->bulk->active > 1);
  CHECK (fm_room_used (&most) <= FM_ROOM_BULK + FM_ROOM_KEPT);
  f_front->read_rc = -EIO;
  f_front->stuck = false;
  CHECK_EQ (fm_volume_copy (w, 1000 * FM_MS), -EIO);
  fm_volume_free (w);
  fake_close (f_front);
  fm_store_close (file);
  close (fd);
}

/* A long run is copied in pieces, whatever fails in the middle of it: a block counts as sent only
 * when all of it stands in every sink. */
static void
pieces_are_one_copy (void)
{
  enum { BLOCK_BYTES = 4 * 1024 * 1024, SIZE_BYTES = 2 * BLOCK_BYTES };
  for (unsigned fails = 0; fails < 3; fails++) {
    struct fm_volume *w;
    uint64_t held;
    f_front = fake_open (SIZE_BYTES, 1);
    f_first = fake_open (SIZE_BYTES, 1);
    f_second = fake_open (SIZE_BYTES, 1);
    for (unsigned i = 0; i < SIZE_BYTES; i++)
      f_front->bytes[i] = (char)(1 + i / 4096);
    CHECK_EQ (fm_volume_create (&f_front->store, &f_first->store, SIZE_BYTES, BLOCK_BYTES, false,
                                &w), 0);
    CHECK_EQ (fm_volume_link (w, &f_second->store, 1), 0);
    fm_volume_mark (w, 0, 2);
    CHECK_EQ (fm_group_freeze (&w, 1, 100 * FM_MS, &held), 0);
    struct fake *broken = fails == 0 ? NULL : fails == 1 ? f_first : f_second;
    if (broken) {
      broken->fail_after = 1;
      broken->fail_rc = -EIO;
    }
    int rc;
    while ((rc = fm_volume_copy (w, 50 * FM_MS)) == 0)
      ;
    CHECK_EQ (rc, fails == 1 ? -EIO : 1);
    if (fails == 0)
      CHECK (w->sent->count == 2 && memcmp (f_second->bytes, f_front->bytes, SIZE_BYTES) == 0);
    if (fails != 1)
      CHECK (memcmp (f_first->bytes, f_front->bytes, SIZE_BYTES) == 0);
    if (fails == 1) {
      CHECK_EQ (fm_bitmap_count (w->pending), 2);
      CHECK_EQ (fm_bitmap_count (w->sent), 0);
    }
    if (fails == 2) { /* all of both stands in sink 0, and is to be fed */
      CHECK_EQ (w->second_lost, -EIO);
      CHECK (fm_bitmap_count (&w->unsent) == 2 && fm_bitmap_count (w->pending) == 0);
      CHECK_EQ (fm_volume_part (w, 1), 0);
      f_second->fail_rc = 0;
      CHECK_EQ (fm_volume_link (w, &f_second->store, 1), 0);
      while ((rc = fm_volume_copy (w, 50 * FM_MS)) == 0)
        ;
      CHECK_EQ (rc, 1);
      CHECK (memcmp (f_second->bytes, f_front->bytes, SIZE_BYTES) == 0);
    }
    fm_volume_fail (w, -EIO, -1);
    fm_volume_free (w);
    fake_close (f_front);
    fake_close (f_first);
    fake_close (f_second);
  }
}

/* A request that is larger than a piece reaches a server whole, and waits for room no longer than
 * its time. */
static void
requests_wait_in_turn (void)
{
  enum { BYTES = 9 * 1024 * 1024 + 512 };
  memset (&server, 0, sizeof server);
  lab_serve (&server, "memory,16M");
  struct fm_store *s = lab_nbd_store (&server);
  char *out = malloc (BYTES), *in = calloc (1, BYTES);
  for (unsigned i = 0; i < BYTES; i++)
    out[i] = (char)(i / 511);
  struct fm_op w = { .kind = FM_WRITE, .flags = FM_FUA, .offset = 4096, .length = BYTES, .buf = out };
  CHECK_EQ (fm_store_io (s, &w), 0);
  CHECK (w.done);
  CHECK_EQ (fm_store_read (s, in, BYTES, 4096), 0);
  CHECK (memcmp (in, out, BYTES) == 0);
  struct fm_room_turn all, own;
  CHECK_EQ (fm_room_enter (&all, NULL, FM_ROOM_REQUESTS, 0), 0);
  CHECK_EQ (fm_room_enter (&own, &s->room_used, FM_PIECE_BULK, 0), 0);
  CHECK_EQ (own.bytes, FM_PIECE);
  s->timeout_ns = 100 * FM_MS;
  uint64_t began = fm_now_ns ();
  CHECK_EQ (fm_store_read (s, in, 512, 0), -ETIMEDOUT);
  CHECK (fm_now_ns () - began >= s->timeout_ns);
  fm_room_leave (&own);
  CHECK_EQ (fm_store_read (s, in, BYTES, 4096), 0); /* in its own room, piece by piece */
  CHECK (memcmp (in, out, BYTES) == 0);
  fm_room_leave (&all);
  CHECK_EQ (fm_store_read (s, in, 512, 0), 0);
  fm_store_close (s);
  lab_kill (&server);
  free (in);
  free (out);
}

/* What is read of a file is the reader's own: servers that are slow do not hold it up. */
static void
files_need_no_turn (void)
{
  int fd;
  struct fm_store *s = lab_file_store (1 << 20, &fd);
  char buf[4096];
  uint64_t runs[] = { 0, sizeof buf };
  struct fm_gather_times times;
  struct fm_room_turn all;
  CHECK_EQ (fm_room_enter (&all, NULL, FM_ROOM_REQUESTS, 0), 0);
  CHECK_EQ (fm_store_gather (s, runs, 1, buf, 1, fm_now_ns () + 1000 * FM_MS, &times), 1);
  fm_room_leave (&all);
  fm_store_close (s);
  close (fd);
}

enum { CROWD = 48, FEW = 6 };

struct request {
  pthread_t thread;
  struct fm_store *store;
  uint64_t ended;
};

static void *
write_two_mib (void *arg)
{
  struct request *r = arg;
  char *buf = malloc (2 * FM_MIB);
  memset (buf, 7, 2 * FM_MIB);
  struct fm_op op = { .kind = FM_WRITE, .length = 2 * FM_MIB, .buf = buf };
  CHECK_EQ (fm_store_io (r->store, &op), 0);
  r->ended = fm_now_ns ();
  free (buf);
  return NULL;
}

/* A slow server whose clients have asked for more than there is room for: those of another one do not
 * wait for it. */
static void
a_crowd_elsewhere_holds_up_nobody (void)
{
  struct lab_server slow = { 0 };
  memset (&server, 0, sizeof server);
  lab_serve (&server, "memory,16M");
  lab_serve (&slow, "--filter=delay,memory,16M,wdelay=400ms");
  struct fm_store *well = lab_nbd_store (&server), *busy = lab_nbd_store (&slow);
  busy->timeout_ns = 20000 * FM_MS;
  struct request crowd[CROWD], few[FEW];
  for (unsigned i = 0; i < CROWD; i++) {
    crowd[i].store = busy;
    pthread_create (&crowd[i].thread, NULL, write_two_mib, &crowd[i]);
  }
  fm_poll_until (NULL, 0, fm_now_ns () + 500 * FM_MS);
  for (unsigned i = 0; i < FEW; i++) {
    few[i].store = well;
    pthread_create (&few[i].thread, NULL, write_two_mib, &few[i]);
  }
  uint64_t few_ended = 0, crowd_ended = 0;
  for (unsigned i = 0; i < FEW; i++) {
    pthread_join (few[i].thread, NULL);
    few_ended = few[i].ended > few_ended ? few[i].ended : few_ended;
  }
  for (unsigned i = 0; i < CROWD; i++) {
    pthread_join (crowd[i].thread, NULL);
    crowd_ended = crowd[i].ended > crowd_ended ? crowd[i].ended : crowd_ended;
  }
  CHECK (few_ended < crowd_ended); /* who queued behind them would be the last */
  char byte;
  CHECK_EQ (fm_store_read (well, &byte, 1, 2 * FM_MIB - 1), 0);
  CHECK_EQ (byte, 7);
  fm_store_close (well), fm_store_close (busy);
  lab_kill (&server), lab_kill (&slow);
}

int
main (void)
{
  RUN (many_volumes);
  RUN (many_volumes_of_large_blocks);
  RUN (largest_blocks);
  RUN (largest_blocks_to_a_file);
  RUN (pieces_are_one_copy);
  RUN (requests_wait_in_turn);
  RUN (files_need_no_turn);
  RUN (a_crowd_elsewhere_holds_up_nobody);
  return finish ("room");
}
