/* Promises of parts.h: a store or a link that is slow is not a lost one, whatever the size of a block;
 * one that is silent is lost within its time-out, for all who use it at once. */
#include "check.h"
#include "fake.h"
#include "lab.h"
#include "lane.h"
#include "relay.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>
#include <signal.h>

#define MB 1000000ULL
#define TIMEOUT (1000 * FM_MS)

static struct lab_server server;
static struct relay *relay;
static struct fm_volume *v;
static struct fm_store *front, *first, *second;
static int front_fd, first_fd, image;
static uint64_t size;

static void
fill (int fd, uint64_t bytes)
{
  char buf[65536];
  for (uint64_t at = 0; at < bytes; at += sizeof buf) {
    memset (buf, (int)(1 + at / sizeof buf % 250), sizeof buf);
    uint64_t n = bytes - at < sizeof buf ? bytes - at : sizeof buf;
    CHECK (pwrite (fd, buf, n, (off_t)at) == (ssize_t)n);
  }
}

/* A full volume, all of it pending.  The peer's server is nbdkit with these arguments, %s its file; the
 * way to it does `way` bytes a second, 0: any. */
static void
begin (uint64_t bytes, uint32_t block, const char *peer, uint64_t way)
{
  char path[108], arguments[256];
  size = bytes;
  image = lab_file (size, path);
  snprintf (arguments, sizeof arguments, peer, path);
  server = (struct lab_server){ 0 };
  lab_serve (&server, arguments);
  relay = relay_open (&server, way);
  char why[256] = "";
  CHECK_EQ (fm_store_open_nbd (relay_uri (relay), TIMEOUT, &second, why, sizeof why), 0);
  front = lab_file_store (size, &front_fd);
  first = lab_file_store (size, &first_fd);
  fill (front_fd, size);
  CHECK_EQ (fm_volume_create (front, first, size, block, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, second, 2), 0);
  fm_volume_mark (v, 0, (size + block - 1) / block);
  uint64_t held;
  CHECK_EQ (fm_group_freeze (&v, 1, 500 * FM_MS, &held), 0);
}

static void
end (void)
{
  fm_volume_free (v);
  fm_store_close (front), fm_store_close (first), fm_store_close (second);
  relay_close (relay);
  lab_kill (&server);
  close (front_fd), close (first_fd), close (image);
}

static int
lost (void)
{
  struct fm_volume_stats s;
  fm_volume_read_stats (v, &s);
  return s.second_lost;
}

static void
check_all_arrives (void)
{
  int rc;
  while ((rc = fm_volume_copy (v, 100 * FM_MS)) == 0 && !lost ())
    ;
  CHECK_EQ (rc, 1);
  CHECK_EQ (lost (), 0);
  CHECK_EQ (fm_volume_flush (v, true), 0);
  char *a = malloc (size), *b = malloc (size);
  CHECK (pread (front_fd, a, size, 0) == (ssize_t)size && pread (image, b, size, 0) == (ssize_t)size);
  CHECK (memcmp (a, b, size) == 0);
  free (a), free (b);
}

/* One block of 8 MiB takes 4 s at 2 MB/s, in the store or on the way, where 1 s of silence is a loss. */
static void
large_blocks (void)
{
  for (unsigned way = 0; way < 2; way++) {
    begin (8 << 20, 8 << 20, way ? "file,%s" : "--filter=rate,file,%s,rate=16M", way ? 2 * MB : 0);
    check_all_arrives ();
    end ();
  }
}

/* Small blocks at 0.1 MB/s: a run of 256 KiB takes 2.6 s, so runs are shorter there where 2 s of silence
 * are a loss. */
static void
small_blocks_at_a_low_rate (void)
{
  for (unsigned way = 0; way < 2; way++) {
    begin (512 << 10, 4096, way ? "file,%s" : "--filter=rate,file,%s,rate=800K", way ? MB / 10 : 0);
    second->timeout_ns = 2 * TIMEOUT;
    check_all_arrives ();
    end ();
  }
}

/* What is sent and on its way moves, though nobody answers yet and nothing can be added: one part takes
 * 2.6 s here, and 1.5 s of silence are a loss (what the buffers on the way hold takes 0.7 s). */
static void
bytes_on_the_way_are_no_silence (void)
{
  begin (1 << 20, 4096, "file,%s", MB / 40);
  char *buf = calloc (1, FM_PACE_LEAST);
  second->timeout_ns = 1500 * FM_MS;
  struct fm_op op = { .kind = FM_WRITE, .length = FM_PACE_LEAST, .buf = buf };
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_store_io (second, &op), 0);
  CHECK (fm_now_ns () - start > second->timeout_ns);
  free (buf);
  end ();
}

static void *
write_over_it (void *arg)
{
  uint64_t *took = arg, start = fm_now_ns ();
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 0, 0), 0);
  *took = fm_now_ns () - start;
  return NULL;
}

static void *
look_when_lost (void *arg)
{
  uint64_t *when = arg;
  while (!lost () && fm_now_ns () < *when)
    fm_poll_until (NULL, 0, fm_now_ns () + FM_MS);
  *when = fm_now_ns ();
  return NULL;
}

/* Of many connections one carries nothing any more, while the others do: a writer who waits for what is on
 * it waits as long as the time-out, and no longer; then the link is lost for all. */
static void
one_silent_connection (void)
{
  begin (128 << 20, 4096, "--filter=delay,file,%s,wdelay=60ms", 0);
  for (uint64_t b = 0; b < size / 4096; b += 2) /* no two of them are one run */
    fm_bitmap_clear (v->pending, b, 1);
  CHECK_EQ (fm_volume_copy (v, 400 * FM_MS), 0); /* there are more connections now */
  CHECK (relay_connections (relay) > 8);
  CHECK_EQ (lost (), 0);
  relay_silence (relay, 1); /* the background's first: 0 was asked for the size */
  uint64_t start = fm_now_ns (), took = start + 10 * TIMEOUT;
  pthread_t t;
  pthread_create (&t, NULL, look_when_lost, &took);
  fm_volume_copy (v, 4 * TIMEOUT); /* a slice that is long, as on a long way */
  pthread_join (t, NULL);
  took -= start;
  CHECK_EQ (lost (), -ETIMEDOUT);
  CHECK (took < TIMEOUT + 500 * FM_MS);
  end ();
}

/* The same of a writer's own connection: who finds it silent tells all. */
static void
silent_for_writers (void)
{
  begin (64 << 20, 65536, "file,%s", 0);
  for (unsigned i = 0; i < relay_connections (relay); i++)
    relay_silence (relay, i);
  pthread_t t[2];
  uint64_t took[2];
  for (unsigned i = 0; i < 2; i++)
    pthread_create (&t[i], NULL, write_over_it, &took[i]);
  for (unsigned i = 0; i < 2; i++) {
    pthread_join (t[i], NULL);
    CHECK (took[i] > TIMEOUT / 2 && took[i] < TIMEOUT + 500 * FM_MS);
  }
  CHECK_EQ (lost (), -ETIMEDOUT);
  end ();
}

/* A request of a client that a slow store takes long for is done, and one on a silent store is not. */
static void
requests_of_clients (void)
{
  struct fm_store *s;
  char why[256], *buf = malloc (8 << 20);
  server = (struct lab_server){ 0 };
  memset (buf, 5, 8 << 20);
  lab_serve (&server, "--filter=rate,memory,64M,rate=16M");
  CHECK_EQ (fm_store_open_nbd (server.uri, TIMEOUT, &s, why, sizeof why), 0);
  struct fm_op op = { .kind = FM_WRITE, .length = 8 << 20, .buf = buf };
  for (unsigned i = 0; i < 2; i++)
    CHECK_EQ (fm_store_io (s, &op), 0);
  memset (buf, 6, 8 << 20);
  CHECK_EQ (fm_store_read (s, buf, 1 << 20, (7 << 20) - 1000), 0);
  CHECK (buf[0] == 5 && memcmp (buf, buf + 1, (1 << 20) - 1) == 0);
  lab_stop (&server);
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_store_io (s, &op), -ETIMEDOUT);
  CHECK (fm_now_ns () - start >= TIMEOUT && fm_now_ns () - start < TIMEOUT + 500 * FM_MS);
  kill (server.pid, SIGCONT);
  fm_store_close (s);
  lab_kill (&server);
  free (buf);
}

/* A copy to two sinks that has ended in one is asked again and again, for the other: its connection does
 * not move by that.  Else two sinks that fall silent at once are never found so, each kept by copies
 * that wait for the other. */
static void
what_has_ended_moves_once (void)
{
  int rc;
  char byte = 1;
  struct fake *f = fake_open (4096, 0);
  f->store.timeout_ns = 200 * FM_MS;
  struct fm_port *p = fm_port_open (&f->store, &rc);
  struct fm_parts ended, stuck;
  struct fm_op op = { .kind = FM_WRITE, .length = 1, .buf = &byte };
  fm_parts_begin (&ended, p, op);
  p->store->ops->step (p);
  CHECK (fm_parts_step (&ended, &f->store, p, true));
  f->stuck = true;
  fm_parts_begin (&stuck, p, op);
  uint64_t start = fm_now_ns ();
  while (!fm_parts_silent (p, fm_now_ns ()) && fm_now_ns () < start + TIMEOUT) {
    p->store->ops->step (p);
    CHECK (fm_parts_step (&ended, &f->store, p, true) && !fm_parts_step (&stuck, &f->store, p, true));
    fm_poll_until (NULL, 0, fm_now_ns () + FM_MS);
  }
  CHECK_EQ (p->failed, -ETIMEDOUT);
  p->store->ops->step (p);
  CHECK (fm_parts_step (&stuck, &f->store, p, true) && stuck.op.rc == -ETIMEDOUT);
  fm_port_close (p);
  fake_close (f);
}

/* After an operation of a large size that was not answered in time the next one is small: the store may be
 * another one when it is back, and be silent again for as long. */
static void
what_was_silent_begins_small (void)
{
  int rc;
  char *buf = calloc (1, 16 * FM_PACE_LEAST);
  struct fake *f = fake_open (16 * FM_PACE_LEAST, 0);
  struct fm_pace *pace = &f->store.pace[FM_WRITE];
  f->store.timeout_ns = 100 * FM_MS;
  for (uint64_t now = FM_MS; fm_pace_piece (pace) < 16 * FM_PACE_LEAST; now += FM_MS) {
    fm_pace_begin (pace);
    fm_pace_end (pace, fm_pace_piece (pace), now, now + FM_MS / 2);
  }
  struct fm_port *p = fm_port_open (&f->store, &rc);
  struct fm_parts stuck;
  struct fm_op op = { .kind = FM_WRITE, .length = 16 * FM_PACE_LEAST, .buf = buf };
  f->stuck = true;
  fm_parts_begin (&stuck, p, op);
  CHECK_EQ (stuck.op.length, 16 * FM_PACE_LEAST);
  uint64_t start = fm_now_ns ();
  while (!fm_parts_step (&stuck, &f->store, p, true) && fm_now_ns () < start + TIMEOUT) {
    p->store->ops->step (p);
    fm_parts_silent (p, fm_now_ns ());
    fm_poll_until (NULL, 0, fm_now_ns () + FM_MS);
  }
  CHECK_EQ (stuck.op.rc, -ETIMEDOUT);
  CHECK_EQ (fm_pace_piece (pace), FM_PACE_LEAST);
  fm_port_close (p);
  fake_close (f);
  free (buf);
}

static _Atomic bool over;

static void *
read_on (void *arg)
{
  char buf[4096];
  (void)arg;
  while (!over) {
    CHECK_EQ (fm_volume_read (v, buf, sizeof buf, 0), 0);
    fm_poll_until (NULL, 0, fm_now_ns () + 50 * FM_MS);
  }
  return NULL;
}

/* A slow server that takes two connections: a client gets its turn on the one that is lent, though long
 * runs are read on it, which take 3 s together. */
static void
turns_of_clients (void)
{
  char why[256] = "";
  int rc;
  size = 40 << 20;
  server = (struct lab_server){ 0 };
  lab_serve (&server, "--filter=limit,--filter=rate,memory,40M,rate=64M,limit=2");
  CHECK_EQ (fm_store_open_nbd (server.uri, TIMEOUT, &front, why, sizeof why), 0);
  fm_poll_until (NULL, 0, fm_now_ns () + 200 * FM_MS); /* the server may take the first for open yet */
  CHECK_EQ (fm_store_reserve (front, 2, &rc), 2);
  first = lab_file_store (size, &first_fd);
  CHECK_EQ (fm_volume_create (front, first, size, 8 << 20, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (fm_volume_write (v, 0, "x", 1, 0, 0), 0); /* the other is the anchor now */
  fm_volume_mark (v, 0, 5);
  uint64_t held;
  CHECK_EQ (fm_group_freeze (&v, 1, 500 * FM_MS, &held), 0);
  over = false;
  pthread_t t;
  pthread_create (&t, NULL, read_on, NULL);
  while ((rc = fm_volume_copy (v, 500 * FM_MS)) == 0)
    ;
  CHECK_EQ (rc, 1);
  over = true;
  pthread_join (t, NULL);
  fm_volume_free (v);
  fm_store_close (front), fm_store_close (first);
  lab_kill (&server);
  close (first_fd);
}

static void *
write_a_lot (void *arg)
{
  struct fm_store *s = arg;
  struct fm_op op = { .kind = FM_WRITE, .length = 1 << 20, .buf = calloc (1, 1 << 20) };
  CHECK_EQ (fm_store_io (s, &op), 0);
  free (op.buf);
  return NULL;
}

/* Many who wait in line for the one connection of a slow server that is lent: 5 s, the last one.  It moves,
 * so nobody gives up. */
static void
a_line_that_moves (void)
{
  char why[256] = "";
  int rc;
  struct fm_store *s;
  server = (struct lab_server){ 0 };
  lab_serve (&server, "--filter=limit,--filter=rate,memory,1M,rate=8M,limit=2");
  CHECK_EQ (fm_store_open_nbd (server.uri, TIMEOUT, &s, why, sizeof why), 0);
  fm_poll_until (NULL, 0, fm_now_ns () + 200 * FM_MS);
  CHECK_EQ (fm_store_reserve (s, 2, &rc), 2);
  pthread_t t[7];
  for (unsigned i = 0; i < 7; i++)
    pthread_create (&t[i], NULL, write_a_lot, s);
  for (unsigned i = 0; i < 7; i++)
    pthread_join (t[i], NULL);
  fm_store_close (s);
  lab_kill (&server);
}

/* A server each of whose flushes takes that long, and all else no time.  `blocks`: it reads no less
 * than 4 KiB. */
static struct fm_store *
flushes_take (const char *seconds, bool blocks, uint64_t timeout_ns)
{
  char arguments[512], why[256] = "";
  struct fm_store *s;
  server = (struct lab_server){ 0 };
  snprintf (arguments, sizeof arguments,
            "%seval,thread_model=echo parallel,get_size=echo 256M,can_write=exit 0,can_flush=exit 0,"
            "can_multi_conn=exit 0,can_fua=echo emulate,can_zero=exit 0,pread=head -c $3 /dev/zero,"
            "pwrite=cat >/dev/null,zero=exit 0,flush=sleep %s%s",
            blocks ? "--filter=blocksize-policy," : "", seconds,
            blocks ? ",blocksize-minimum=4096,blocksize-preferred=4096" : "");
  lab_serve (&server, arguments);
  CHECK_EQ (fm_store_open_nbd (server.uri, timeout_ns, &s, why, sizeof why), 0);
  return s;
}

static void *
write_and_flush (void *arg)
{
  struct fm_store *s = arg;
  _Atomic uint64_t heard = 0;
  struct fm_op op = { .kind = FM_WRITE, .length = 512, .buf = (char[512]){ 1 } };
  CHECK_EQ (fm_store_io (s, &op), 0);
  CHECK_EQ (fm_store_flush (s, &heard), 0);
  return NULL;
}

/* Who waits for another's flush, and then for a third one's, waits as long as each of them may. */
static void
a_line_of_flushes (void)
{
  struct fm_store *s = flushes_take ("0.7", false, TIMEOUT);
  pthread_t t[5];
  for (unsigned i = 0; i < 5; i++) {
    pthread_create (&t[i], NULL, write_and_flush, s);
    fm_poll_until (NULL, 0, fm_now_ns () + 60 * FM_MS);
  }
  for (unsigned i = 0; i < 5; i++)
    pthread_join (t[i], NULL);
  fm_store_close (s);
  lab_kill (&server);
}

/* A server that has much to flush, be it zeroes or of the process before, takes longer than its time-out
 * and answers others meanwhile; one that has little, or is silent, is lost as ever.  So it is with one that
 * reads no less than 4 KiB, of which libnbd tells without asking it. */
static void
much_to_flush (void)
{
  enum { MUCH, ZEROES, BEFORE, LITTLE, SILENT, MUCH_IN_BLOCKS, SILENT_IN_BLOCKS, CASES };
  char *buf = calloc (1, 8 << 20);
  for (unsigned i = 0; i < CASES; i++) {
    bool blocks = i >= MUCH_IN_BLOCKS, silent = i == SILENT || i == SILENT_IN_BLOCKS;
    bool well = i <= BEFORE || i == MUCH_IN_BLOCKS;
    struct fm_store *s = flushes_take ("3", blocks, TIMEOUT);
    struct fm_op write = { .kind = i == ZEROES ? FM_ZERO : FM_WRITE, .buf = buf,
                           .length = i == LITTLE || i == BEFORE ? 4096 : 8 << 20 };
    if (i == BEFORE)
      fm_store_unflushed (s);
    struct fm_op flush = { .kind = FM_FLUSH };
    memset (buf, 1, 8 << 20);
    CHECK_EQ (fm_store_io (s, &write), 0);
    if (silent)
      lab_stop (&server);
    uint64_t start = fm_now_ns ();
    CHECK_EQ (fm_store_io (s, &flush), well ? 0 : -ETIMEDOUT);
    CHECK (well || fm_now_ns () - start < TIMEOUT + 500 * FM_MS);
    if (i == BEFORE) { /* which was flushed: it is as patient as ever */
      write = (struct fm_op){ .kind = FM_WRITE, .buf = buf, .length = 4096 };
      flush = (struct fm_op){ .kind = FM_FLUSH };
      CHECK_EQ (fm_store_io (s, &write), 0);
      CHECK_EQ (fm_store_io (s, &flush), -ETIMEDOUT);
    }
    if (silent)
      kill (server.pid, SIGCONT);
    fm_store_close (s);
    lab_kill (&server);
  }
  free (buf);
}

/* So it is when what asks for that is a write with FUA. */
static void
much_to_flush_for_fua (void)
{
  char *buf = calloc (1, 8 << 20);
  struct fm_store *s = flushes_take ("3", false, TIMEOUT);
  struct fm_op write = { .kind = FM_WRITE, .buf = buf, .length = 8 << 20 };
  struct fm_op durable = { .kind = FM_WRITE, .flags = FM_FUA, .buf = buf, .length = 4096 };
  CHECK_EQ (fm_store_io (s, &write), 0);
  CHECK_EQ (fm_store_io (s, &durable), 0);
  CHECK_EQ (fm_store_losses (s), 0);
  fm_store_close (s);
  lab_kill (&server);
  free (buf);
}

int
main (void)
{
  RUN (large_blocks);
  RUN (small_blocks_at_a_low_rate);
  RUN (bytes_on_the_way_are_no_silence);
  RUN (one_silent_connection);
  RUN (silent_for_writers);
  RUN (requests_of_clients);
  RUN (what_has_ended_moves_once);
  RUN (what_was_silent_begins_small);
  RUN (turns_of_clients);
  RUN (a_line_that_moves);
  RUN (a_line_of_flushes);
  RUN (much_to_flush);
  RUN (much_to_flush_for_fua);
  return finish ("slow");
}
