/* Promises of store.h about what was written and not flushed: whoever counts on it hears, once,
 * that it may be gone, and nobody hears so when it is not. */
#include "check.h"
#include "fake.h"
#include "flush.h"
#include "lab.h"
#include "lane.h"
#include "late.h"
#include "news.h"
#include "relay.h"
#include "request.h"
#include "wait.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define BLOCK 4096
#define WRITERS 4
#define RESTARTS 25

static struct lab_server server;
static struct fm_store *s;
static char image[108], arguments[256];
static int disk; /* what the server's disk holds */

static void
begin_with (const char *filter, const char *parameter)
{
  memset (&server, 0, sizeof server);
  disk = lab_file (1 << 20, image);
  snprintf (arguments, sizeof arguments, "%s--filter=cache,file,%s,cache=writeback%s", filter,
            image, parameter);
  lab_serve (&server, arguments);
  s = lab_nbd_store (&server);
}

static void
begin (void)
{
  begin_with ("", "");
}

/* What it had answered and not flushed is gone. */
static void
restart (void)
{
  lab_kill (&server);
  lab_serve (&server, arguments);
}

static void
end (void)
{
  fm_store_close (s);
  lab_kill (&server);
  close (disk);
}

static int
write_number (uint64_t block, uint64_t number, unsigned flags)
{
  uint64_t buf[BLOCK / 8] = { number };
  struct fm_op op = { .kind = FM_WRITE, .flags = flags, .offset = block * BLOCK,
                      .length = BLOCK, .buf = buf };
  return fm_store_io (s, &op);
}

static int
write_at (uint64_t block, unsigned flags)
{
  return write_number (block, 1, flags);
}

/* Something that meets the connection which has ended, and is told nothing of writes. */
static void
stumble (void)
{
  char byte;
  for (unsigned i = 0; i < 2 && fm_store_read (s, &byte, 1, 0) < 0; i++)
    ;
  CHECK_EQ (fm_store_read (s, &byte, 1, 0), 0);
}

/* A server goes and comes back between a write and the flush: the next flush of everybody who
 * counts on that write fails once, whoever met the dead connection first. */
static void
each_is_told_once (void)
{
  for (unsigned stumbles = 0; stumbles < 2; stumbles++) {
    begin ();
    _Atomic uint64_t one = 0, other = 0;
    CHECK_EQ (write_at (0, 0), 0);
    CHECK_EQ (fm_store_flush (s, &one), 0);
    CHECK_EQ (write_at (1, 0), 0);
    restart ();
    if (stumbles)
      stumble ();
    CHECK (fm_store_flush (s, &one) < 0);
    CHECK_EQ (write_at (1, 0), 0);
    CHECK_EQ (fm_store_flush (s, &one), 0);
    CHECK_EQ (fm_store_flush (s, &other), -EIO);
    CHECK_EQ (fm_store_flush (s, &other), 0);
    end ();
  }
}

/* Who looks at the other end of the anchor has a descriptor of his own, which stays his when the
 * connection ends meanwhile and its number is another's. */
static void
the_anchor_as_it_was (void)
{
  begin ();
  _Atomic uint64_t heard = 0;
  struct stat before, after;
  CHECK_EQ (write_at (0, 0), 0);
  int fd = fm_store_server_fd (s);
  CHECK_EQ (fstat (fd, &before), 0);
  restart ();
  CHECK (fm_store_flush (s, &heard) < 0);
  int other = open ("/dev/null", O_RDONLY);
  CHECK (fstat (fd, &after) == 0 && before.st_ino == after.st_ino && before.st_dev == after.st_dev);
  close (other);
  CHECK_EQ (close (fd), 0);
  end ();
}

static void *
flush_once (void *arg)
{
  _Atomic uint64_t heard = 0;
  CHECK_EQ (fm_store_flush (arg, &heard), 0);
  return NULL;
}

/* Who looks does not wait for a flush, which may take long. */
static void
an_anchor_that_flushes_is_busy (void)
{
  struct fake *f = fake_open (1 << 20, 0);
  struct fm_op write = { .kind = FM_WRITE, .buf = "x", .length = 1 };
  pthread_t flushes;
  int fd;
  CHECK_EQ (fm_store_io (&f->store, &write), 0);
  f->stuck = true;
  CHECK_EQ (pthread_create (&flushes, NULL, flush_once, &f->store), 0);
  uint64_t until = fm_now_ns () + 500 * FM_MS;
  while ((fd = fm_store_server_fd (&f->store)) >= 0 && fm_now_ns () < until)
    close (fd);
  CHECK_EQ (fd, -EBUSY);
  f->stuck = false;
  pthread_join (flushes, NULL);
  CHECK ((fd = fm_store_server_fd (&f->store)) >= 0);
  close (fd);
  fake_close (f);
}

/* The same when more is written to the new server before anybody flushes. */
static void
later_writes_hide_nothing (void)
{
  begin ();
  _Atomic uint64_t one = 0;
  CHECK_EQ (write_at (0, 0), 0);
  restart ();
  stumble ();
  CHECK_EQ (write_at (1, 0), 0);
  CHECK_EQ (write_at (2, 0), 0);
  CHECK (fm_store_flush (s, &one) < 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  end ();
}

/* A server that comes back costs no error of a flush when all was flushed, or written with FUA,
 * or only read, or a write could not be sent. */
static void
nothing_to_lose (void)
{
  begin ();
  _Atomic uint64_t one = 0;
  restart ();
  stumble ();
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (write_at (0, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (write_at (1, FM_FUA), 0);
  restart ();
  CHECK_EQ (fm_store_flush (s, &one), 0);
  stumble ();
  CHECK_EQ (write_at (2, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  lab_kill (&server);
  CHECK (write_at (3, 0) < 0); /* it was not sent */
  lab_serve (&server, arguments);
  CHECK_EQ (fm_store_need_anchor (s), 0);
  stumble ();
  restart ();
  stumble ();
  CHECK_EQ (s->lost, 0);
  end ();
}

/* A server comes back when all is flushed and nothing is asked of it: whoever asks next meets the new one, and
 * no error, on as many connections as there were. */
static void
a_restart_between_requests (void)
{
  for (unsigned i = 0; i < 3; i++) {
    begin ();
    _Atomic uint64_t one = 0;
    char byte;
    int rc;
    CHECK_EQ (fm_store_reserve (s, 3, &rc), 3);
    CHECK_EQ (write_at (0, 0), 0);
    CHECK_EQ (fm_store_flush (s, &one), 0);
    restart ();
    CHECK_EQ (i == 0 ? fm_store_read (s, &byte, 1, 0) : write_at (1, i == 1 ? 0 : FM_FUA), 0);
    CHECK_EQ (write_at (2, 0), 0);
    CHECK_EQ (fm_store_flush (s, &one), 0);
    CHECK_EQ (s->lost, 0);
    CHECK_EQ (s->errors, 0);
    end ();
  }
}

/* While the server is away a flush fails; the loss stays told when it is back. */
static void
flush_while_away (void)
{
  begin ();
  _Atomic uint64_t one = 0, other = 0;
  CHECK_EQ (write_at (0, 0), 0);
  lab_kill (&server);
  for (unsigned i = 0; i < 3; i++)
    CHECK (fm_store_flush (s, &one) < 0);
  lab_serve (&server, arguments);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (fm_store_flush (s, &other), -EIO);
  CHECK_EQ (fm_store_flush (s, &other), 0);
  end ();
}

/* What only passes on to the server behind it keeps our connections when that one has gone, and answers each request
 * on them with an error, for ever, and on a new one as it should: one flush that fails, and all are new. */
static void
errors_on_connections_that_stay (void)
{
  struct lab_server behind = { 0 };
  char passes_on[128], byte;
  _Atomic uint64_t one = 0, other = 0;
  int rc;
  memset (&server, 0, sizeof server);
  disk = lab_file (1 << 20, image);
  snprintf (arguments, sizeof arguments, "file,%s", image);
  lab_serve (&behind, arguments);
  snprintf (passes_on, sizeof passes_on, "nbd,socket=%s", behind.socket);
  lab_serve (&server, passes_on);
  s = lab_nbd_store (&server);
  CHECK_EQ (fm_store_reserve (s, 3, &rc), 3);
  CHECK_EQ (write_at (0, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (fm_store_flush (s, &other), 0);
  lab_kill (&behind);
  lab_serve (&behind, arguments);
  CHECK (write_at (0, 0) < 0);
  CHECK (fm_store_flush (s, &one) < 0);
  CHECK_EQ (write_at (0, 0), 0);
  CHECK_EQ (fm_store_read (s, &byte, 1, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (fm_store_flush (s, &other), -EIO);
  CHECK_EQ (fm_store_flush (s, &other), 0);
  end ();
  lab_kill (&behind);
}

static _Atomic unsigned told, good;
static _Atomic bool stop;

static void *
writer (void *arg)
{
  uint64_t mine = (uintptr_t)arg, number = 0, on_disk;
  _Atomic uint64_t heard = s->lost;
  while (!stop) {
    if (write_number (mine, ++number, 0) < 0)
      continue;
    usleep (500);
    int rc = fm_store_flush (s, &heard);
    CHECK_EQ (pread (disk, &on_disk, 8, (off_t)(mine * BLOCK)), 8);
    CHECK (rc < 0 || on_disk == number);
    *(rc < 0 ? &told : &good) += 1;
  }
  return NULL;
}

/* Writers on a server that is killed and started again and again: what was written before a
 * flush that ended well stands on the disk. */
static void
restarts_under_writers (void)
{
  begin ();
  pthread_t t[WRITERS];
  stop = false;
  for (uintptr_t i = 0; i < WRITERS; i++)
    pthread_create (&t[i], NULL, writer, (void *)i);
  for (unsigned i = 0; i < RESTARTS; i++) {
    usleep (20000);
    lab_kill (&server);
    lab_serve (&server, arguments);
  }
  usleep (50000);
  stop = true;
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (t[i], NULL);
  CHECK (told > 0 && good > 0);
  end ();
}

/* A write that was given up may still be done by the server: until it is over nothing else is
 * written, and nothing flushed; that it is over is told. */
static void
late_write (void)
{
  begin ();
  _Atomic uint64_t one = 0;
  s->timeout_ns = 200 * FM_MS;
  CHECK_EQ (write_number (0, 1, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  lab_stop (&server);
  CHECK_EQ (write_number (0, 2, 0), -ETIMEDOUT);
  uint64_t start = fm_now_ns (), found = 0;
  CHECK_EQ (write_number (1, 3, 0), -ETIMEDOUT);
  CHECK_EQ (fm_store_flush (s, &one), -ETIMEDOUT);
  CHECK (fm_now_ns () - start < 2 * s->timeout_ns + 100 * FM_MS);
  kill (server.pid, SIGCONT);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK_EQ (fm_store_read (s, &found, 8, 0), 0);
  CHECK_EQ (found, 2); /* it came late, and will not come later */
  CHECK (fm_store_flush (s, &one) < 0);
  CHECK_EQ (write_number (0, 4, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  lab_stop (&server); /* it is killed instead: what it did not do it never will */
  CHECK_EQ (write_number (0, 5, 0), -ETIMEDOUT);
  CHECK_EQ (write_number (0, 5, 0), -ETIMEDOUT);
  restart ();
  CHECK_EQ (write_number (0, 6, 0), 0);
  CHECK (fm_store_flush (s, &one) < 0);
  end ();
}

static char stall[128]; /* while this file is there the server does no write at 0 */

/* A server that holds back one write only, and does all else. */
static void
serve_with_a_stall (void)
{
  static const char script[] /* nbdkit-eval-plugin(3); lab.c splits at commas */
      = "eval,get_size=echo 1M,thread_model=echo parallel,can_write=true,can_flush=true,flush=true,"
        "can_fua=echo native,can_zero=true,zero=true,can_multi_conn=true,"
        "pread=tail -c +$(($4+1)) %1$s | head -c $3,"
        "pwrite=while [ $4 = 0 ] && [ -e %1$s.stall ]; do : > %1$s.seen; sleep 0.01; done; "
        "dd of=%1$s bs=1 seek=$4 conv=notrunc status=none";
  char long_arguments[1024];
  memset (&server, 0, sizeof server);
  disk = lab_file (1 << 20, image);
  snprintf (stall, sizeof stall, "%s.stall", image);
  snprintf (long_arguments, sizeof long_arguments, script, image);
  lab_serve (&server, long_arguments);
}

/* What is written over a connection that is in order could be undone by it, so it is refused, at once,
 * until that write has ended. */
static void
late_write_of_one_connection (void)
{
  uint64_t found;
  serve_with_a_stall ();
  s = lab_nbd_store (&server);
  CHECK_EQ (write_number (1, 1, 0), 0);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  s->timeout_ns = 300 * FM_MS;
  CHECK_EQ (write_number (0, 2, 0), -ETIMEDOUT);
  s->timeout_ns = LAB_TIMEOUT_NS;
  CHECK_EQ (fm_store_read (s, &found, 8, BLOCK), 0); /* a new connection, which is in order */
  uint64_t began = fm_now_ns ();
  CHECK_EQ (write_number (1, 3, 0), -ETIMEDOUT);
  CHECK_EQ (write_number (1, 3, FM_FUA), -ETIMEDOUT);
  CHECK (fm_now_ns () - began < s->timeout_ns);
  CHECK (pread (disk, &found, 8, BLOCK) == 8 && found == 1);
  CHECK_EQ (unlink (stall), 0);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK_EQ (write_number (0, 4, 0), 0);
  CHECK (pread (disk, &found, 8, 0) == 8 && found == 4);
  end ();
}

/* The server has it. */
static void
wait_for_the_write (void)
{
  char seen[128];
  snprintf (seen, sizeof seen, "%s.seen", image);
  while (unlink (seen) < 0)
    usleep (1000);
}

static void *
write_two (void *arg)
{
  *(int *)arg = write_number (0, 2, 0);
  return NULL;
}

/* Such a server behind a relay, where something was written and flushed: over the first connection, and the second,
 * which is the anchor. */
static struct relay *
flushed_over_a_way (_Atomic uint64_t *heard)
{
  serve_with_a_stall ();
  struct relay *way = relay_open (&server, 0);
  CHECK_EQ (fm_store_open_nbd (relay_uri (way), 2000 * FM_MS, &s, NULL, 0), 0);
  CHECK_EQ (write_number (1, 1, 0), 0);
  CHECK_EQ (fm_store_flush (s, heard), 0);
  return way;
}

/* Something on the way ends the connection of such a write, and the server lives: it may do it for as long as it
 * may be silent, so until then nothing is written or flushed, and then each is told that something was lost. */
static void
late_write_whose_connection_has_ended (void)
{
  _Atomic uint64_t one = 0;
  uint64_t found;
  int rc;
  pthread_t t;
  struct relay *way = flushed_over_a_way (&one);
  CHECK_EQ (relay_connections (way), 2);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  pthread_create (&t, NULL, write_two, &rc);
  wait_for_the_write ();
  uint64_t began = fm_now_ns ();
  relay_cut (way, 0);
  pthread_join (t, NULL);
  CHECK_EQ (rc, -ENOTCONN);
  CHECK_EQ (write_number (1, 3, 0), -ENOTCONN);
  CHECK_EQ (fm_store_flush (s, &one), -ENOTCONN);
  CHECK_EQ (unlink (stall), 0);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK (fm_now_ns () - began >= s->timeout_ns);
  CHECK (pread (disk, &found, 8, 0) == 8 && found == 2); /* it came late */
  CHECK_EQ (write_number (0, 4, 0), 0);
  CHECK (fm_store_flush (s, &one) < 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  relay_close (way);
  end ();
}

/* As a lane writes to sink 0: over a connection of its own, and this store has no anchor. */
static int
write_as_a_lane (uint64_t block, uint64_t number)
{
  int rc;
  uint64_t buf[BLOCK / 8] = { number };
  struct fm_op op = { .kind = FM_WRITE, .offset = block * BLOCK, .length = BLOCK, .buf = buf };
  struct fm_port *p = fm_port_own (s, &rc);
  CHECK (p);
  rc = fm_port_io (p, &op);
  fm_port_close (p);
  return rc;
}

static void *
write_two_as_a_lane (void *arg)
{
  *(int *)arg = write_as_a_lane (0, 2);
  return NULL;
}

/* Where no anchor ever was the server may live, too. */
static void
late_write_without_an_anchor (void)
{
  uint64_t found;
  int rc;
  pthread_t t;
  serve_with_a_stall ();
  struct relay *way = relay_open (&server, 0);
  CHECK_EQ (fm_store_open_nbd (relay_uri (way), 2000 * FM_MS, &s, NULL, 0), 0);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  pthread_create (&t, NULL, write_two_as_a_lane, &rc);
  wait_for_the_write ();
  relay_cut (way, relay_connections (way) - 1);
  pthread_join (t, NULL);
  CHECK_EQ (rc, -ENOTCONN);
  CHECK (!fm_store_has_anchor (s));
  uint64_t losses = fm_store_losses (s);
  CHECK_EQ (write_as_a_lane (1, 3), -ENOTCONN);
  CHECK_EQ (unlink (stall), 0);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK_EQ (fm_store_losses (s), losses + 1);
  CHECK (pread (disk, &found, 8, 0) == 8 && found == 2);
  CHECK_EQ (write_as_a_lane (0, 4), 0);
  relay_close (way);
  end ();
}

/* It has been given up before that: its server has shown that it takes longer than the store's time, and an anchor
 * that it lives.  Its end tells that nothing comes any more. */
static void
late_write_whose_connection_ends_after_it (void)
{
  _Atomic uint64_t one = 0;
  struct relay *way = flushed_over_a_way (&one);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  s->timeout_ns = 300 * FM_MS;
  CHECK_EQ (write_number (0, 2, 0), -ETIMEDOUT);
  CHECK (!fm_late_settled (s));
  relay_cut (way, 0);
  for (uint64_t cut = fm_now_ns (); fm_now_ns () < cut + 3 * s->timeout_ns; usleep (10000))
    CHECK_EQ (write_number (0, 3, 0), -ENOTCONN);
  CHECK (fm_store_has_anchor (s));
  relay_cut (way, 1);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK_EQ (unlink (stall), 0);
  relay_close (way);
  end ();
}

static void *
flush_it (void *arg)
{
  _Atomic uint64_t one = fm_store_losses (s);
  *(int *)arg = fm_store_flush (s, &one);
  return NULL;
}

/* An anchor that was given up because it is silent does not tell that the server has gone. */
static void
late_write_after_a_silent_anchor (void)
{
  _Atomic uint64_t one = 0;
  uint64_t found;
  int rc, flushed;
  pthread_t writes, flushes;
  struct relay *way = flushed_over_a_way (&one);
  CHECK_EQ (write_number (1, 1, 0), 0);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  relay_silence (way, 1);
  pthread_create (&flushes, NULL, flush_it, &flushed);
  usleep (1000000);
  pthread_create (&writes, NULL, write_two, &rc);
  wait_for_the_write ();
  pthread_join (flushes, NULL);
  CHECK_EQ (flushed, -ETIMEDOUT);
  CHECK (!fm_store_has_anchor (s));
  relay_cut (way, 0);
  pthread_join (writes, NULL);
  CHECK_EQ (rc, -ENOTCONN);
  CHECK_EQ (write_number (0, 3, 0), -ENOTCONN);
  CHECK_EQ (unlink (stall), 0);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK (pread (disk, &found, 8, 0) == 8 && found == 2);
  relay_close (way);
  end ();
}

/* Nor does one that ended before the write's connection was made: that one's server is another one, or the same. */
static void
late_write_after_an_anchor_has_ended (void)
{
  _Atomic uint64_t one = 0;
  uint64_t found;
  int rc;
  pthread_t t;
  struct relay *way = flushed_over_a_way (&one);
  for (unsigned i = 0; i < 2; i++)
    relay_cut (way, i);
  while (fm_store_has_anchor (s))
    fm_flush_look (s);
  CHECK (!fm_flush_gone_with (s, fm_now_ns (), fm_now_ns ()));
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  pthread_create (&t, NULL, write_two_as_a_lane, &rc);
  wait_for_the_write ();
  relay_cut (way, relay_connections (way) - 1);
  pthread_join (t, NULL);
  CHECK_EQ (rc, -ENOTCONN);
  CHECK_EQ (write_as_a_lane (0, 3), -ENOTCONN);
  CHECK_EQ (unlink (stall), 0);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK (pread (disk, &found, 8, 0) == 8 && found == 2);
  relay_close (way);
  end ();
}

/* Who has hung in a flush, too, and was restarted has no anchor that tells so.  That the new one answers does not show
 * that the old one lives, so nobody waits for longer than where nothing is known. */
static void
late_write_of_a_server_that_was_restarted (void)
{
  _Atomic uint64_t one = 0;
  int flushed;
  pthread_t flushes;
  begin ();
  CHECK_EQ (write_number (0, 1, 0), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (write_number (0, 2, 0), 0);
  s->timeout_ns = 300 * FM_MS;
  lab_stop (&server);
  pthread_create (&flushes, NULL, flush_it, &flushed);
  CHECK_EQ (write_number (0, 3, 0), -ETIMEDOUT);
  pthread_join (flushes, NULL);
  CHECK_EQ (flushed, -ETIMEDOUT);
  CHECK (!fm_store_has_anchor (s));
  s->timeout_ns = 1000 * FM_MS;
  restart ();
  uint64_t began = fm_now_ns ();
  CHECK_EQ (write_number (0, 4, 0), -ENOTCONN);
  CHECK (fm_store_has_anchor (s));
  while (write_number (0, 4, 0) < 0 && fm_now_ns () < began + 3 * s->timeout_ns)
    usleep (1000);
  CHECK (fm_late_settled (s));
  CHECK (fm_now_ns () - began >= s->timeout_ns);
  CHECK (fm_store_flush (s, &one) < 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  end ();
}

/* An anchor whose end was something on the way, as what has lived on since shows, tells nothing of a later end. */
static void
late_write_long_after_an_anchor_has_ended (void)
{
  _Atomic uint64_t one = 0;
  uint64_t found;
  int rc;
  struct relay *way = flushed_over_a_way (&one);
  struct fm_port *lanes = fm_port_open (s, &rc);
  CHECK (lanes);
  relay_cut (way, 1);
  while (fm_store_has_anchor (s))
    fm_flush_look (s);
  for (uint64_t ended = fm_now_ns (); fm_now_ns () < ended + 1100 * FM_MS; usleep (10000))
    s->ops->step (lanes);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  uint64_t buf[BLOCK / 8] = { 2 };
  struct fm_op op = { .kind = FM_WRITE, .length = BLOCK, .buf = buf };
  s->ops->submit (lanes, &op);
  wait_for_the_write ();
  relay_cut (way, relay_connections (way) - 1);
  while (!op.done)
    s->ops->step (lanes);
  CHECK_EQ (op.rc, -ENOTCONN);
  CHECK_EQ (write_as_a_lane (0, 3), -ENOTCONN);
  CHECK_EQ (unlink (stall), 0);
  while (!fm_late_settled (s))
    usleep (1000);
  CHECK (pread (disk, &found, 8, 0) == 8 && found == 2);
  fm_port_close (lanes);
  relay_close (way);
  end ();
}

/* But if the server has gone it does none of them, and nobody waits. */
static void
no_late_write_of_a_server_that_is_gone (void)
{
  _Atomic uint64_t one = 0;
  int rc;
  pthread_t t;
  serve_with_a_stall ();
  s = lab_nbd_store (&server);
  CHECK_EQ (write_number (1, 1, 0), 0);
  close (open (stall, O_CREAT | O_WRONLY, 0600));
  pthread_create (&t, NULL, write_two, &rc);
  wait_for_the_write ();
  lab_kill (&server);
  pthread_join (t, NULL);
  CHECK (rc < 0);
  rc = fm_store_flush (s, &one); /* he who asks first, be it by a flush */
  CHECK (rc < 0 && rc != -ETIMEDOUT);
  CHECK (fm_late_settled (s));
  CHECK_EQ (unlink (stall), 0);
  end ();
}

/* ---- a file, whose flush the system fails once */

static int pipe_ends[2], file;

/* fdatasync(2) fails from here on, as after an error of writeback ... */
static void
break_file (void)
{
  CHECK (pipe (pipe_ends) == 0 && dup2 (pipe_ends[1], s->fd) == s->fd);
}

/* ... or it has told somebody, and is content. */
static void
mend_file (void)
{
  CHECK (dup2 (file, s->fd) == s->fd);
  close (pipe_ends[0]);
  close (pipe_ends[1]);
}

/* One who flushes a file eats the error of it, as fdatasync(2) has it; the others are told. */
static void
file_tells_all (void)
{
  s = lab_file_store (1 << 20, &file);
  _Atomic uint64_t one = 0, other = 0;
  CHECK_EQ (write_at (0, 0), 0);
  break_file ();
  CHECK (fm_store_flush (s, &one) < 0);
  mend_file ();
  CHECK_EQ (fm_store_flush (s, &other), -EIO);
  CHECK_EQ (fm_store_flush (s, &other), 0);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  fm_store_close (s);
  close (file);
}

/* A write that finds the disk full, as at /dev/full. */
static void
fill_file (void)
{
  int full = open ("/dev/full", O_RDWR | O_CLOEXEC);
  CHECK (full >= 0 && dup2 (full, s->fd) == s->fd);
  close (full);
}

/* Of some file systems a failure may be another's: what that one wrote, and was told that it is good, is gone, and
 * no flush says so.  A disk's own is that write's alone; and so is that there is no space, where that is
 * found before a write is taken. */
static void
failed_write_tells_of_others (void)
{
  for (int of = 0; of < 6; of++) {
    bool any = of / 2 > 0, full = of / 2 > 1, space = of % 2;
    s = lab_file_store (1 << 20, &file);
    _Atomic uint64_t one = 0;
    CHECK (!s->tells_of_others && !s->full_tells_of_others);
    s->tells_of_others = any, s->full_tells_of_others = full;
    CHECK_EQ (write_at (0, 0), 0);
    if (space) {
      break_file ();
      CHECK_EQ (write_at (1, 0), -ESPIPE);
      mend_file ();
    } else {
      fill_file ();
      CHECK_EQ (write_at (1, 0), -ENOSPC);
      CHECK (dup2 (file, s->fd) == s->fd);
    }
    bool lost = space ? any : full;
    CHECK_EQ (fm_store_losses (s), (uint64_t)lost);
    CHECK_EQ (fm_store_flush (s, &one), lost ? -EIO : 0);
    CHECK_EQ (fm_store_flush (s, &one), 0);
    fm_store_close (s);
    close (file);
  }
}

/* A disk whose own cache cannot be flushed says so once, to who asks.  This stands in front of libc's. */
static bool below_fails;
static pthread_mutex_t asks = PTHREAD_MUTEX_INITIALIZER; /* guards the next lines */
static pthread_cond_t came;
static unsigned held_back, answered; /* calls that are to wait; that may go on */
static bool waits;

int
fdatasync (int fd)
{
  pthread_mutex_lock (&asks);
  bool fails = below_fails;
  below_fails = false;
  if (waits) {
    held_back++;
    pthread_cond_broadcast (&came);
    while (!answered)
      fm_cond_wait (&came, &asks);
    answered--;
  }
  pthread_mutex_unlock (&asks);
  errno = EIO;
  return fails ? -1 : (int)syscall (SYS_fdatasync, fd);
}

/* A volume over a file, whose first block a client has written and a cycle has copied. */
static struct fm_volume *
copied_from_a_file (struct fake *first, struct fm_news **client)
{
  struct fm_volume *v;
  uint64_t held;
  s = lab_file_store (1 << 20, &file);
  CHECK_EQ (fm_volume_create (s, &first->store, 1 << 20, BLOCK, false, &v), 0);
  *client = fm_news_begin (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (fm_volume_write (v, 0, (char[BLOCK]){ 'x' }, BLOCK, 0, 0), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 100 * FM_MS), 1);
  return v;
}

static void *
writes_durably (void *volume)
{
  CHECK_EQ (fm_volume_write (volume, 0, (char[BLOCK]){ 'y' }, BLOCK, BLOCK, FM_FUA), -EIO);
  return NULL;
}

struct flusher {
  struct fm_volume *v;
  struct fm_news *client;
};

static void *
flushes (void *arg)
{
  struct flusher *it = arg;
  CHECK_EQ (fm_news_flush (it->v, it->client), -EIO);
  return NULL;
}

/* A write with FUA hears it: that is the only word of what others had written.  All hear of it, and no flush of theirs,
 * nor a commit's, is good between the disk's answer and that; a cycle that has copied it is void. */
static void
fua_hears_for_all_of_a_device (void)
{
  struct fake *first = fake_open (1 << 20, 0);
  struct fm_news *client;
  struct fm_volume *v = copied_from_a_file (first, &client); /* and the system has written it to the device */
  pthread_t one, other;
  fm_cond_init (&came);
  below_fails = waits = true;
  pthread_create (&one, NULL, writes_durably, v);
  pthread_mutex_lock (&asks);
  while (!held_back)
    fm_cond_wait (&came, &asks);
  waits = false;
  pthread_mutex_unlock (&asks);
  pthread_create (&other, NULL, flushes, &(struct flusher){ v, client });
  pthread_mutex_lock (&asks);
  answered++;
  pthread_cond_broadcast (&came);
  pthread_mutex_unlock (&asks);
  pthread_join (one, NULL);
  pthread_join (other, NULL);
  CHECK_EQ (fm_news_flush (v, client), 0);
  CHECK (fm_volume_flush (v, true) < 0);
  CHECK (v->abandoned == -EIO && v->failed_part == -1);
  fm_volume_abandon (v);
  CHECK_EQ (fm_bitmap_count (v->next), 2);
  fm_volume_free (v);
  fake_close (first);
  fm_store_close (s);
  close (file);
}

/* A flush with nothing to cover asks nobody; a write that failed may be there in part, and is
 * covered: a commit that counts on what it copied of it flushes it. */
static void
failed_write_is_flushed (void)
{
  struct fake *f = fake_open (1 << 20, 0);
  _Atomic uint64_t heard = 0;
  s = &f->store;
  for (unsigned i = 0; i < 2; i++) {
    CHECK_EQ (fm_store_flush (s, &heard), 0);
    CHECK_EQ (f->flushes, 1);
  }
  f->fail_rc = -EIO;
  for (unsigned i = 0; i < 2; i++) {
    CHECK_EQ (write_at (0, i ? FM_FUA : 0), -EIO);
    CHECK_EQ (fm_store_flush (s, &heard), 0);
    CHECK_EQ (f->flushes, 2 + i);
  }
  fake_close (f);
}

/* What is said to the flush of a write with FUA may be the only word of what others had written, so all hear
 * of it; a write that is refused, such as on a full disk, is the matter of who wrote. */
static void
fua_tells_for_all (void)
{
  struct fake *f = fake_open (1 << 20, 0);
  _Atomic uint64_t one = 0, other = 0;
  s = &f->store;
  CHECK_EQ (write_at (1, 0), 0);
  f->fail_rc = -ENOSPC;
  CHECK_EQ (write_at (0, FM_FUA), -ENOSPC);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  f->fail_rc = 0;
  unsigned long flushes = f->flushes;
  CHECK_EQ (write_at (0, FM_FUA), 0);
  CHECK_EQ (f->flushes, flushes + 1);
  CHECK_EQ (write_at (1, 0), 0);
  f->flush_rc = -EIO;
  CHECK_EQ (write_at (0, FM_FUA), -EIO);
  f->flush_rc = 0;
  CHECK_EQ (fm_store_flush (s, &one), -EIO);
  CHECK_EQ (fm_store_flush (s, &other), -EIO);
  CHECK_EQ (fm_store_flush (s, &one), 0);
  CHECK_EQ (fm_store_flush (s, &other), 0);
  fake_close (f);
}

/* A client hears that the front's flush failed: the cycle that copied what he had written is
 * void, and the next one, which reads what is left, is not. */
static void
cycle_is_void (void)
{
  struct fake *first = fake_open (1 << 20, 0);
  struct fm_news *client;
  struct fm_volume *v = copied_from_a_file (first, &client);
  uint64_t held;
  break_file ();
  CHECK (fm_news_flush (v, client) < 0);
  mend_file ();
  CHECK_EQ (fm_volume_flush (v, true), -EIO);
  CHECK (v->abandoned == -EIO && v->failed_part == -1);
  fm_volume_abandon (v);
  CHECK_EQ (fm_bitmap_count (v->next), 1);
  s->lost++; /* once more, before the next one begins */
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 100 * FM_MS), 1);
  CHECK_EQ (fm_volume_flush (v, true), 0);
  fm_volume_settle (v);
  CHECK_EQ (fm_news_flush (v, client), -EIO);
  fm_volume_free (v);
  fake_close (first);
  fm_store_close (s);
  close (file);
}

/* The anchor ends while its server lives on; the next cycle copies what is in that server's cache, and only
 * then it goes.  Nobody writes or flushes in between. */
static void
what_is_copied_counts_on_an_anchor (void)
{
  begin ();
  struct fake *first = fake_open (1 << 20, 0);
  struct fm_volume *v;
  char buf[BLOCK] = "x";
  uint64_t held;
  CHECK_EQ (fm_volume_create (s, &first->store, 1 << 20, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, 0, 0), 0);
  int anchor = fm_store_server_fd (s);
  CHECK_EQ (shutdown (anchor, SHUT_RDWR), 0);
  close (anchor);
  CHECK (fm_volume_flush_front (v) < 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 100 * FM_MS), 1);
  CHECK (first->bytes[0] == 'x');
  restart ();
  CHECK (fm_volume_flush (v, true) < 0);
  CHECK (v->abandoned < 0 && v->failed_part == -1);
  fm_volume_abandon (v);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 100 * FM_MS), 1);
  CHECK (first->bytes[0] == 0); /* as the disk has it */
  CHECK_EQ (fm_volume_flush (v, true), 0);
  fm_volume_settle (v);
  lab_kill (&server); /* where there can be none a cycle is void from its beginning */
  for (unsigned i = 0; i < 3; i++)
    CHECK (fm_volume_read (v, buf, 1, 0) < 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK (v->abandoned < 0 && v->failed_part == -1);
  fm_volume_abandon (v);
  restart ();
  fm_volume_free (v);
  fake_close (first);
  end ();
}

static void *
copy_to_its_end (void *volume)
{
  CHECK (fm_volume_copy (volume, 10000 * FM_MS) < 0);
  return NULL;
}

/* A server ends when all is flushed, and comes back, and it is a copy that meets its end: that cycle is void,
 * and no client hears of a loss, for there is none. */
static void
a_copy_meets_the_end (void)
{
  begin_with ("--filter=delay,", ",rdelay=1");
  struct fake *first = fake_open (1 << 20, 0);
  struct fm_volume *v;
  char buf[BLOCK] = "x";
  uint64_t held;
  pthread_t t;
  CHECK_EQ (fm_volume_create (s, &first->store, 1 << 20, BLOCK, false, &v), 0);
  struct fm_news *client = fm_news_begin (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, 0, 0), 0);
  CHECK_EQ (fm_news_flush (v, client), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  pthread_create (&t, NULL, copy_to_its_end, v);
  for (unsigned reads = 0; !reads; usleep (1000)) {
    pthread_mutex_lock (&v->lock);
    reads = v->nclaims;
    pthread_mutex_unlock (&v->lock);
  }
  restart ();
  pthread_join (t, NULL);
  fm_volume_abandon (v);
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, BLOCK, 0), 0);
  CHECK_EQ (fm_news_flush (v, client), 0);
  CHECK_EQ (s->lost, 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 10000 * FM_MS), 1);
  CHECK_EQ (fm_volume_flush (v, true), 0);
  fm_volume_settle (v);
  fm_volume_free (v);
  fake_close (first);
  end ();
}

/* The same when something on the way ends that connection and the anchor, and spares another one:
 * who is lent that one next counts on an anchor that lives. */
static void
a_copy_meets_the_end_of_some (void)
{
  struct fake *front = fake_open (1 << 20, 0), *first = fake_open (1 << 20, 0);
  struct fm_volume *v;
  char buf[BLOCK] = "x";
  uint64_t held;
  int rc;
  CHECK_EQ (fm_store_reserve (&front->store, 3, &rc), 3);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, 1 << 20, BLOCK, false, &v), 0);
  struct fm_news *client = fm_news_begin (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, 0, 0), 0);
  CHECK_EQ (fm_news_flush (v, client), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  struct fm_port *spared = fm_port_borrow (&front->store, &rc);
  front->stuck = true;
  CHECK (fm_lane_fill (v->bulk, UINT64_MAX)); /* its read is under way */
  v->bulk->front->failed = front->store.anchor->failed = -ENOTCONN;
  CHECK_EQ (fm_volume_copy (v, 100 * FM_MS), -ENOTCONN);
  front->stuck = false;
  fm_port_give (spared);
  fm_volume_abandon (v);
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, BLOCK, 0), 0);
  CHECK_EQ (fm_news_flush (v, client), 0);
  CHECK_EQ (front->store.lost, 0);
  fm_news_end (v, client);
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
}

/* One cycle of what is recorded, to its end. */
static int
copy_all (struct fm_volume *v)
{
  uint64_t held;
  int rc;
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  while ((rc = fm_volume_copy (v, FM_MS)) == 0)
    ;
  if (rc == 1)
    CHECK_EQ (rc = fm_volume_flush (v, true), 0);
  if (rc == 0)
    fm_volume_settle (v);
  return rc;
}

/* A server that only lanes write to ends while a cycle is copied there, and comes back: the next cycle waits for nothing,
 * for nothing of the one before can come any more; and what was flushed is not called lost. */
static void
a_sink_that_comes_back_is_not_waited_for (void)
{
  struct fake *front = fake_open (1 << 20, 0);
  struct fm_volume *v;
  char buf[BLOCK] = "x";
  uint64_t held;
  pthread_t t;
  begin_with ("--filter=delay,", ",wdelay=100ms");
  CHECK_EQ (fm_volume_create (&front->store, s, 1 << 20, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  for (uint64_t began = fm_now_ns (); !fm_store_has_anchor (s) && fm_now_ns () < began + s->timeout_ns;) {
    CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, 0, 0), 0);
    CHECK_EQ (copy_all (v), 0);
  }
  CHECK (fm_store_has_anchor (s));
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, 0, 0), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  pthread_create (&t, NULL, copy_to_its_end, v);
  for (unsigned writes = 0; !writes; usleep (1000)) {
    pthread_mutex_lock (&v->lock);
    writes = v->nclaims;
    pthread_mutex_unlock (&v->lock);
  }
  restart ();
  uint64_t began = fm_now_ns ();
  pthread_join (t, NULL);
  fm_volume_abandon (v);
  fm_volume_unlink (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (copy_all (v), 0);
  CHECK (fm_now_ns () - began < s->timeout_ns);
  CHECK_EQ (fm_store_losses (s), 0);
  fm_volume_free (v);
  fake_close (front);
  end ();
}

/* What a cycle writes back to a front that may have lost something takes no more space there. */
static void
a_write_back_fills_no_hole (void)
{
  memset (&server, 0, sizeof server);
  disk = lab_file (1 << 20, image);
  snprintf (arguments, sizeof arguments, "file,%s", image);
  lab_serve (&server, arguments);
  s = lab_nbd_store (&server);
  struct fake *first = fake_open (1 << 20, 0);
  struct fm_volume *v;
  char buf[BLOCK] = "x";
  uint64_t held;
  struct stat found;
  CHECK_EQ (fm_volume_create (s, &first->store, 1 << 20, BLOCK, false, &v), 0);
  fm_volume_doubt_front (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  CHECK_EQ (fm_volume_write (v, 0, buf, BLOCK, 70 * BLOCK, 0), 0);
  fm_volume_mark (v, 0, (1 << 20) / BLOCK);
  uint64_t before = s->changed_bytes;
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  while (fm_volume_copy (v, 100 * FM_MS) == 0)
    ;
  CHECK_EQ (fm_volume_flush (v, true), 0);
  CHECK_EQ (s->changed_bytes - before, 1 << 20); /* all of it was written back */
  CHECK (fstat (disk, &found) == 0 && found.st_blocks * 512 <= 512 * 1024);
  CHECK (pread (disk, buf, 1, 70 * BLOCK) == 1 && buf[0] == 'x' && first->bytes[70 * BLOCK] == 'x');
  fm_volume_settle (v);
  fm_volume_free (v);
  fake_close (first);
  end ();
}

/* ---- clients who come back (news.h) */

#define RETURNING (300 * FM_MS)

static struct fm_volume *v;
static struct fake *first;

static void
begin_clients (void)
{
  s = lab_file_store (1 << 20, &file);
  first = fake_open (1 << 20, 0);
  CHECK_EQ (fm_volume_create (s, &first->store, 1 << 20, BLOCK, false, &v), 0);
  fm_volume_set_returning (v, RETURNING);
}

static void
end_clients (void)
{
  fm_volume_free (v);
  fake_close (first);
  fm_store_close (s);
  close (file);
}

/* Once by an error, then all is well. */
static void
check_is_told (struct fm_news *n)
{
  CHECK_EQ (fm_news_flush (v, n), -EIO);
  CHECK_EQ (fm_news_flush (v, n), 0);
}

static void
pass (uint64_t ns)
{
  for (uint64_t end = fm_now_ns () + ns; fm_now_ns () < end;)
    fm_poll_until (NULL, 0, end);
}

/* That one client was told says nothing of another one, who comes back on a new connection. */
static void
each_who_comes_back_is_told (void)
{
  begin_clients ();
  struct fm_news *one = fm_news_begin (v);
  fm_volume_lose_front (v);
  check_is_told (one);
  fm_news_end (v, one);
  for (unsigned i = 0; i < 2; i++) {
    one = fm_news_begin (v);
    CHECK (fm_news_is_due (v));
    check_is_told (one);
    fm_news_end (v, one);
  }
  end_clients ();
}

/* Later he is a client who is new, and hears nothing; who was there all the time still does. */
static void
a_new_client_is_not_told (void)
{
  begin_clients ();
  struct fm_news *there = fm_news_begin (v);
  fm_volume_lose_front (v);
  pass (RETURNING);
  struct fm_news *late = fm_news_begin (v);
  CHECK_EQ (fm_news_flush (v, late), 0);
  CHECK (fm_news_is_due (v));
  check_is_told (there);
  CHECK (!fm_news_is_due (v));
  fm_news_end (v, there);
  CHECK (!fm_news_is_due (v));
  end_clients ();
}

/* Who was there, and is replaced before he has heard for sure, hears on his next connection. */
static void
who_left_unheard_is_told (void)
{
  for (unsigned answer = 0; answer < 2; answer++) {
    begin_clients ();
    struct fm_news *client = fm_news_begin (v);
    fm_volume_lose_front (v);
    pass (RETURNING);
    if (answer) /* which is lost with the connection */
      CHECK_EQ (fm_news_flush (v, client), -EIO);
    fm_news_end (v, client);
    CHECK (fm_news_is_due (v));
    client = fm_news_begin (v);
    check_is_told (client);
    fm_news_end (v, client);
    pass (RETURNING);
    CHECK (!fm_news_is_due (v));
    end_clients ();
  }
}

/* The same of one who had come shortly before the loss: it was his. */
static void
who_had_just_come_and_left_is_told (void)
{
  begin_clients ();
  struct fm_news *client = fm_news_begin (v);
  fm_volume_lose_front (v);
  pass (RETURNING * 2 / 3);
  fm_news_end (v, client);
  pass (RETURNING * 2 / 3);
  CHECK (fm_news_is_due (v));
  client = fm_news_begin (v);
  check_is_told (client);
  fm_news_end (v, client);
  pass (RETURNING);
  CHECK (!fm_news_is_due (v));
  end_clients ();
}

/* Visits that flush nothing do not keep the time open for ever. */
static void
short_visits_change_nothing (void)
{
  begin_clients ();
  fm_volume_lose_front (v);
  for (uint64_t end = fm_now_ns () + RETURNING; fm_now_ns () < end; pass (RETURNING / 10))
    fm_news_end (v, fm_news_begin (v));
  CHECK (!fm_news_is_due (v));
  end_clients ();
}

/* A process before may have written to a store and not flushed it, in whichever role: the first flush is no other's. */
static void
the_first_flush_is_sent (void)
{
  struct fake *f = fake_open (BLOCK, 0);
  _Atomic uint64_t heard = fm_store_losses (&f->store);
  for (unsigned i = 0; i < 2; i++) {
    CHECK_EQ (fm_store_flush (&f->store, &heard), 0);
    CHECK_EQ (f->flushes, 1); /* and nothing was written since */
  }
  fake_close (f);
}

/* Bytes of its data that have space, without what a file system takes to know where that is: how many extents there
 * are decides whether ext4 has a block for them. */
static uint64_t
space_of (int fd)
{
  struct
  {
    struct fiemap map;
    struct fiemap_extent room[64];
  } found = { .map = { .fm_length = FIEMAP_MAX_OFFSET, .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = 64 } };
  struct stat whole;
  uint64_t sum = 0;
  if (ioctl (fd, FS_IOC_FIEMAP, &found) == -1) { /* tmpfs has none, and counts nothing else */
    CHECK (errno == EOPNOTSUPP && fstat (fd, &whole) == 0);
    return (uint64_t)whole.st_blocks * 512;
  }
  CHECK (found.map.fm_mapped_extents < 64);
  for (unsigned i = 0; i < found.map.fm_mapped_extents; i++)
    sum += found.map.fm_extents[i].fe_length;
  return sum;
}

/* What is written back to a file neither takes space nor gives any back: where its owner has reserved some, where there
 * are zeroes, and where there is a hole, though it be beside data; and wherever what is copied begins. */
static void
space_stays (unsigned block, uint64_t from)
{
  const unsigned quarter = 1 << 18;
  uint64_t before;
  struct fake *first = fake_open (4 * quarter, 0);
  struct fm_volume *v;
  uint64_t held;
  char *zeroes = calloc (1, quarter);
  s = lab_file_store (4 * quarter, &file);
  CHECK (pwrite (file, zeroes, quarter, 0) == quarter);
  CHECK (fallocate (file, FALLOC_FL_KEEP_SIZE, quarter, quarter) == 0);
  CHECK (pwrite (file, zeroes, 4096, 2 * quarter) == 4096); /* a piece of zeroes with space, a hole and data */
  CHECK (pwrite (file, "data", 4, 2 * quarter + quarter / 2) == 4);
  CHECK (pwrite (file, zeroes, 4096, 3 * quarter) == 4096); /* and one of zeroes with space, and a hole */
  CHECK (fsync (file) == 0);
  before = space_of (file);
  CHECK (before >= 2 * quarter);
  CHECK_EQ (fm_volume_create (s, &first->store, 4 * quarter, block, false, &v), 0);
  fm_volume_doubt_front (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  fm_volume_mark (v, from, 4 * quarter / block - from);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  while (fm_volume_copy (v, 1000 * FM_MS) == 0)
    ;
  CHECK_EQ (fm_volume_flush (v, true), 0);
  fm_volume_settle (v);
  CHECK_EQ (space_of (file), before);
  free (zeroes);
  fm_volume_free (v);
  fake_close (first);
  fm_store_close (s);
  close (file);
}

static void
space_of_a_file_stays (void)
{
  space_stays (4096, 0);
  space_stays (512, 1);
}

int
main (void)
{
  RUN (each_is_told_once);
  RUN (the_anchor_as_it_was);
  RUN (an_anchor_that_flushes_is_busy);
  RUN (later_writes_hide_nothing);
  RUN (nothing_to_lose);
  RUN (a_restart_between_requests);
  RUN (flush_while_away);
  RUN (errors_on_connections_that_stay);
  RUN (restarts_under_writers);
  RUN (late_write);
  RUN (late_write_of_one_connection);
  RUN (late_write_whose_connection_has_ended);
  RUN (late_write_without_an_anchor);
  RUN (late_write_whose_connection_ends_after_it);
  RUN (late_write_after_a_silent_anchor);
  RUN (late_write_after_an_anchor_has_ended);
  RUN (late_write_long_after_an_anchor_has_ended);
  RUN (late_write_of_a_server_that_was_restarted);
  RUN (no_late_write_of_a_server_that_is_gone);
  RUN (file_tells_all);
  RUN (failed_write_tells_of_others);
  RUN (fua_hears_for_all_of_a_device);
  RUN (fua_tells_for_all);
  RUN (failed_write_is_flushed);
  RUN (cycle_is_void);
  RUN (what_is_copied_counts_on_an_anchor);
  RUN (a_copy_meets_the_end);
  RUN (a_copy_meets_the_end_of_some);
  RUN (a_sink_that_comes_back_is_not_waited_for);
  RUN (a_write_back_fills_no_hole);
  RUN (each_who_comes_back_is_told);
  RUN (a_new_client_is_not_told);
  RUN (who_left_unheard_is_told);
  RUN (who_had_just_come_and_left_is_told);
  RUN (short_visits_change_nothing);
  RUN (the_first_flush_is_sent);
  RUN (space_of_a_file_stays);
  return finish ("lost");
}
