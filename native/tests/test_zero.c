/* Promises of lane.h and request.h about zeroes, which cost nothing on one store and much on another:
 * nobody waits long behind them, no link is lost by them, and all of them arrive. */
#include "check.h"
#include "lab.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>

#define MB 1000000ULL
#define BLOCK 65536
#define SLICE (100 * FM_MS)

/* Zeroes are written there, so many bytes a second; the filter lets 2 s of it pass at once. */
static void
serve_slow_zeroes (struct lab_server *s, uint64_t size, uint64_t rate)
{
  char arguments[160];
  snprintf (arguments, sizeof arguments,
            "--filter=nozero,--filter=rate,null,%llu,zeromode=emulate,rate=%llu",
            (unsigned long long)size, (unsigned long long)rate * 8);
  *s = (struct lab_server){ 0 };
  lab_serve (s, arguments);
}

/* A zero, or a trim, of more than any store does at once: all of it is zero, and nothing else. */
static void
longer_than_any_piece (void)
{
  const uint64_t size = 160 << 20, from = (8 << 20) + 1, length = 130 << 20;
  for (unsigned punch = 0; punch < 2; punch++) {
    int front_fd, first_fd;
    struct fm_store *front = lab_file_store (size, &front_fd), *first = lab_file_store (size, &first_fd);
    struct fm_volume *v;
    CHECK_EQ (fm_volume_create (front, first, size, BLOCK, false, &v), 0);
    char mark[512], found[512], zeroes[512] = { 0 };
    memset (mark, 7, sizeof mark);
    const uint64_t step = 1000003; /* into every piece, whatever its size is */
    for (uint64_t at = 0; at + sizeof mark <= size; at += step)
      CHECK_EQ (fm_volume_write (v, 0, mark, sizeof mark, at, 0), 0);
    CHECK_EQ (fm_volume_write (v, 0, mark, 2, from - 1, 0), 0);
    CHECK_EQ (fm_volume_write (v, 0, mark, 2, from + length - 1, 0), 0);
    CHECK_EQ (fm_volume_zero (v, 0, length, from, punch ? FM_PUNCH : 0), 0);
    for (uint64_t at = 0; at + sizeof mark <= size; at += step) {
      bool zero = at >= from && at + sizeof mark <= from + length;
      CHECK (pread (front_fd, found, sizeof found, (off_t)at) == sizeof found);
      if (zero || at + sizeof mark <= from || at >= from + length)
        CHECK (memcmp (found, zero ? zeroes : mark, sizeof found) == 0);
    }
    CHECK (pread (front_fd, found, 2, (off_t)from - 1) == 2 && found[0] == 7 && found[1] == 0);
    CHECK (pread (front_fd, found, 2, (off_t)(from + length - 1)) == 2 && found[0] == 0 && found[1] == 7);
    fm_volume_free (v);
    fm_store_close (front), fm_store_close (first);
    close (front_fd), close (first_fd);
  }
}

static struct fm_volume *v;
static _Atomic bool stop;
static _Atomic uint64_t slowest_ns;
static uint64_t size;

static void *
write_here_and_there (void *arg)
{
  uint64_t seed = 11;
  (void)arg;
  while (!stop) {
    uint64_t start = fm_now_ns ();
    CHECK_EQ (fm_volume_write (v, 0, "new", 3, random_below (&seed, size - 3), 0), 0);
    uint64_t took = fm_now_ns () - start;
    slowest_ns = took > slowest_ns ? took : slowest_ns;
    fm_poll_until (NULL, 0, fm_now_ns () + 5 * FM_MS);
  }
  return NULL;
}

/* A peer that writes zeroes slowly, and a volume that is one hole: the link is not lost, each slice of
 * copying ends in its time, a writer who meets what is still to be copied does not wait behind
 * all of it, and the copying is as fast as the peer. */
static void
slow_at_the_peer (void)
{
  struct lab_server server;
  int fd[2];
  const uint64_t rate = 25 * MB;
  size = 200 * MB;
  serve_slow_zeroes (&server, size, rate);
  struct fm_store *front = lab_file_store (size, &fd[0]), *first = lab_file_store (size, &fd[1]),
                  *second = lab_nbd_store (&server);
  CHECK_EQ (fm_volume_create (front, first, size, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, second, 2), 0);
  fm_volume_mark (v, 0, (size + BLOCK - 1) / BLOCK);
  uint64_t held, slice = 0, start = fm_now_ns ();
  CHECK_EQ (fm_group_freeze (&v, 1, 500 * FM_MS, &held), 0);
  pthread_t writer;
  stop = false;
  slowest_ns = 0;
  pthread_create (&writer, NULL, write_here_and_there, NULL);
  for (int rc = 0; rc == 0;) {
    uint64_t began = fm_now_ns ();
    rc = fm_volume_copy (v, SLICE);
    uint64_t took = fm_now_ns () - began;
    slice = took > slice ? took : slice;
    CHECK (rc >= 0);
  }
  uint64_t took = fm_now_ns () - start;
  stop = true;
  pthread_join (writer, NULL);
  struct fm_volume_stats s;
  fm_volume_read_stats (v, &s);
  CHECK_EQ (s.second_lost, 0);
  CHECK (slowest_ns < 700 * FM_MS);
  CHECK (slice < SLICE + 700 * FM_MS);
  CHECK (took < 10000 * FM_MS); /* 8 s at its rate */
  if (getenv ("TIMES"))
    printf ("  slowest write %llu ms, slice %llu ms, all %llu ms\n", (unsigned long long)slowest_ns / 1000000,
            (unsigned long long)slice / 1000000, (unsigned long long)took / 1000000);
  fm_volume_free (v);
  fm_store_close (front), fm_store_close (first), fm_store_close (second);
  close (fd[0]), close (fd[1]);
  lab_kill (&server);
}

static void *
zero_all (void *arg)
{
  (void)arg;
  CHECK_EQ (fm_volume_zero (v, 0, size, 0, 0), 0);
  stop = true;
  return NULL;
}

/* A client's own zero on a store that does it slowly: it takes what it takes, and is done; it holds up no
 * freeze; and a write beside it is soon done. */
static void
slow_at_the_front (void)
{
  struct lab_server server;
  int fd;
  const uint64_t rate = 12 * MB;
  size = 72 * MB;
  serve_slow_zeroes (&server, size, rate);
  struct fm_store *front = lab_nbd_store (&server), *first = lab_file_store (size, &fd);
  CHECK_EQ (fm_volume_create (front, first, size, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 2), 0);
  pthread_t client, writer;
  stop = false;
  slowest_ns = 0;
  pthread_create (&client, NULL, zero_all, NULL);
  pthread_create (&writer, NULL, write_here_and_there, NULL);
  unsigned freezes = 0;
  uint64_t longest = 0;
  while (!stop) {
    uint64_t held;
    CHECK_EQ (fm_group_close (&v, 1, (held = fm_now_ns ()) + 700 * FM_MS), 0);
    held = fm_now_ns () - held;
    longest = held > longest ? held : longest;
    fm_group_open (&v, 1);
    freezes++;
    fm_poll_until (NULL, 0, fm_now_ns () + 20 * FM_MS);
  }
  pthread_join (client, NULL);
  pthread_join (writer, NULL);
  CHECK (freezes > 20);
  CHECK (slowest_ns < 1400 * FM_MS);
  if (getenv ("TIMES"))
    printf ("  slowest write %llu ms, %u freezes, at most %llu ms\n", (unsigned long long)slowest_ns / 1000000,
            freezes, (unsigned long long)longest / 1000000);
  fm_volume_free (v);
  fm_store_close (front), fm_store_close (first);
  close (fd);
  lab_kill (&server);
}

/* Where zeroes cost nothing they are done in large pieces: 4 TiB in no time. */
static void
fast_where_they_cost_nothing (void)
{
  int fd[2];
  size = SANITIZED ? 64ULL << 30 : 4ULL << 40;
  struct fm_store *front = lab_file_store (size, &fd[0]), *first = lab_file_store (size, &fd[1]);
  CHECK_EQ (fm_volume_create (front, first, size, BLOCK, false, &v), 0);
  uint64_t start = fm_now_ns (), held;
  CHECK_EQ (fm_volume_link (v, NULL, 2), 0);
  CHECK_EQ (fm_volume_zero (v, 0, size, 0, FM_PUNCH), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 500 * FM_MS, &held), 0);
  int rc;
  while ((rc = fm_volume_copy (v, SLICE)) == 0)
    ;
  CHECK_EQ (rc, 1);
  CHECK (fm_now_ns () - start < 10000 * FM_MS);
  if (getenv ("TIMES"))
    printf ("  4 TiB zeroed and copied in %llu ms\n", (unsigned long long)(fm_now_ns () - start) / 1000000);
  fm_volume_free (v);
  fm_store_close (front), fm_store_close (first);
  close (fd[0]), close (fd[1]);
}

int
main (void)
{
  RUN (longer_than_any_piece);
  RUN (slow_at_the_peer);
  RUN (slow_at_the_front);
  RUN (fast_where_they_cost_nothing);
  return finish ("zero");
}
