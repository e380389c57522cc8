/* Promises of below.h: what one store's flush says of a disk is said to all that stand on it, and no flush is good
 * before they can hear it. */
#include "below.h"
#include "check.h"
#include "fake.h"
#include "intent.h"
#include "lab.h"
#include "news.h"
#include "request.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 4096
#define SIZE (1 << 20)

enum { ONE, OTHER, ELSEWHERE, APART, STORES };

static struct fm_store *store[STORES];
static int file[STORES];
static _Atomic uint64_t heard[STORES];
static int plain, another; /* files of the state folder */

/* ---- the disk: this stands in front of libc's ---- */

static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER; /* guards the next lines */
static pthread_cond_t moved;
static int code; /* the errno of the next call; 0: none */
static bool waits, waiting; /* the call that fails is to wait; it does */
static unsigned asked; /* calls that have ended */
static int held = -1, forgetting = -1; /* descriptors of which these calls do not end */
static bool is_held;

/* With `disk`. */
static void
stand_still (int fd, const int *of)
{
  while (fd == *of) {
    is_held = true;
    pthread_cond_broadcast (&moved);
    fm_cond_wait (&moved, &disk);
  }
}

static void
hold (int fd, int *of)
{
  pthread_mutex_lock (&disk);
  *of = fd;
  is_held = false;
  pthread_mutex_unlock (&disk);
}

static void
until_held (void)
{
  pthread_mutex_lock (&disk);
  while (!is_held)
    fm_cond_wait (&moved, &disk);
  pthread_mutex_unlock (&disk);
}

static void
let_go (int *of)
{
  pthread_mutex_lock (&disk);
  *of = -1;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
}

int
posix_fadvise (int fd, off_t offset, off_t length, int advice)
{
  (void)offset, (void)length, (void)advice;
  pthread_mutex_lock (&disk);
  stand_still (fd, &forgetting);
  pthread_mutex_unlock (&disk);
  return 0;
}

int
fdatasync (int fd)
{
  pthread_mutex_lock (&disk);
  stand_still (fd, &held);
  int mine = code;
  code = 0;
  waiting = mine && waits;
  pthread_cond_broadcast (&moved);
  while (mine && waits)
    fm_cond_wait (&moved, &disk);
  asked++;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
  if (!mine)
    return (int)syscall (SYS_fdatasync, fd);
  errno = mine;
  return -1;
}

static void
begin_with (const int *below)
{
  for (int i = 0; i < STORES; i++) {
    store[i] = lab_file_store (SIZE, &file[i]);
    if (below[i])
      fm_below_join (store[i], below[i]);
    heard[i] = 0;
  }
}

static void
begin (void)
{
  begin_with ((int[STORES]){ 1, 1, 2, 0 });
}

static void
end (void)
{
  for (int i = 0; i < STORES; i++) {
    fm_store_close (store[i]);
    close (file[i]);
  }
}

static void
put (int i)
{
  struct fm_op op = { .kind = FM_WRITE, .length = BLOCK, .buf = (char[BLOCK]){ 'x' } };
  CHECK_EQ (fm_store_io (store[i], &op), 0);
}

static int
flush (int i)
{
  return fm_store_flush (store[i], &heard[i]);
}

/* All on that disk hear, once, and nobody else does; a full disk or a quota has lost nothing of others'. */
static void
a_loss_is_told_to_all (void)
{
  begin ();
  for (int i = 0; i < STORES; i++)
    put (i);
  uint64_t known = fm_below_losses ();
  code = EIO;
  CHECK_EQ (flush (ONE), -EIO);
  CHECK_EQ (flush (OTHER), -EIO);
  CHECK_EQ (flush (ELSEWHERE), 0);
  CHECK_EQ (flush (APART), 0);
  CHECK_EQ (fm_below_sync (plain, true, known), -EIO); /* of what was written before the loss, */
  CHECK_EQ (fm_below_sync (plain, true, known), -EIO); /* whoever has heard of it since */
  CHECK_EQ (fm_below_sync (plain, true, fm_below_losses ()), 0);
  for (int i = 0; i < STORES; i++)
    CHECK_EQ (flush (i), 0);
  static const int refusals[] = { ENOSPC, EDQUOT, EFBIG };
  for (int k = 0; k < 3; k++) {
    put (ONE);
    put (OTHER);
    code = refusals[k];
    CHECK_EQ (flush (ONE), -refusals[k]);
    CHECK_EQ (flush (OTHER), 0);
    CHECK_EQ (fm_below_sync (plain, false, fm_below_losses ()), 0);
  }
  code = EIO;
  CHECK_EQ (fm_below_sync (plain, true, fm_below_losses ()), -EIO);
  CHECK_EQ (fm_below_sync (plain, true, fm_below_losses ()), 0);
  CHECK_EQ (flush (OTHER), -EIO);
  CHECK_EQ (flush (ELSEWHERE), 0);
  end ();
}

static void *
fails (void *unused)
{
  (void)unused;
  CHECK_EQ (flush (ONE), -EIO);
  return NULL;
}

static bool done;

static void *
is_told (void *unused)
{
  (void)unused;
  CHECK_EQ (flush (OTHER), -EIO);
  pthread_mutex_lock (&disk);
  done = true;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
  return NULL;
}

/* One that the disk has answered well is not good before another's, which had the disk's word, has told it. */
static void
waits_for_one_beside_it (int number, int elsewhere)
{
  pthread_t one, other;
  begin_with ((int[STORES]){ number, number, elsewhere, 0 });
  put (ONE);
  put (OTHER);
  code = EIO;
  waits = true;
  asked = 0;
  done = false;
  pthread_create (&one, NULL, fails, NULL);
  pthread_mutex_lock (&disk);
  while (!waiting)
    fm_cond_wait (&moved, &disk);
  pthread_mutex_unlock (&disk);
  pthread_create (&other, NULL, is_told, NULL);
  pthread_mutex_lock (&disk);
  while (!asked)
    fm_cond_wait (&moved, &disk);
  uint64_t until = fm_now_ns () + 50 * FM_MS;
  while (!done && fm_cond_wait_until (&moved, &disk, until) == 0)
    ;
  CHECK (!done);
  pthread_mutex_unlock (&disk);
  CHECK_EQ (flush (ELSEWHERE), 0); /* another disk's waits for nobody */
  pthread_mutex_lock (&disk);
  waits = false;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
  pthread_join (one, NULL);
  pthread_join (other, NULL);
  end ();
}

static void
a_good_flush_waits_for_those_beside_it (void)
{
  waits_for_one_beside_it (1, 2);
  waits_for_one_beside_it (-1, -2);
}

static void *
fails_elsewhere (void *unused)
{
  (void)unused;
  CHECK_EQ (flush (ELSEWHERE), -EIO);
  return NULL;
}

/* Where only a doubt has two stores share: the flush of the one may hang for as long as it likes, and no flush of the
 * other, of the folder, or of the log waits for it.  What it hears at last is a loss for all of these. */
static void
a_doubt_is_a_loss_and_no_wait (void)
{
  pthread_t one;
  fm_below_set_folder (-3);
  begin_with ((int[STORES]){ -1, -1, -2, 0 });
  for (int i = 0; i < STORES; i++)
    put (i);
  uint64_t known = fm_below_losses ();
  hold (store[ELSEWHERE]->fd, &held);
  pthread_create (&one, NULL, fails_elsewhere, NULL);
  until_held ();
  CHECK_EQ (flush (ONE), 0);
  CHECK_EQ (fm_below_sync (plain, true, known), 0);
  fm_below_wait (store[ONE]->below, fm_below_moment ());
  code = EIO;
  let_go (&held);
  pthread_join (one, NULL);
  CHECK_EQ (flush (ONE), -EIO);
  CHECK_EQ (flush (OTHER), -EIO);
  CHECK_EQ (flush (APART), 0);
  CHECK_EQ (fm_below_sync (plain, true, known), -EIO);
  for (int i = 0; i < STORES; i++)
    CHECK_EQ (flush (i), 0);
  end ();
  fm_below_set_folder (1);
}

static void *
sync_is_told (void *since)
{
  CHECK_EQ (fm_below_sync (plain, true, *(uint64_t *)since), -EIO);
  return NULL;
}

/* Of two files of the folder one's sync fails, or a store's flush: the other one's, which is under way, is not good. */
static void
syncs_at_once_are_all_told (void)
{
  for (int of_a_store = 0; of_a_store < 2; of_a_store++) {
    pthread_t one;
    begin ();
    put (ONE);
    uint64_t since = fm_below_losses ();
    hold (plain, &held);
    pthread_create (&one, NULL, sync_is_told, &since);
    until_held ();
    code = EIO;
    CHECK_EQ (of_a_store ? flush (ONE) : fm_below_sync (another, true, since), -EIO);
    let_go (&held);
    pthread_join (one, NULL);
    end ();
  }
}

/* A disk that fails may take long to drop what it holds: that is no matter of another disk. */
static void
to_forget_keeps_no_other_disk_waiting (void)
{
  pthread_t one;
  begin ();
  put (ONE);
  put (ELSEWHERE);
  hold (store[OTHER]->fd, &forgetting);
  code = EIO;
  pthread_create (&one, NULL, fails, NULL);
  until_held ();
  CHECK_EQ (flush (ELSEWHERE), 0);
  let_go (&forgetting);
  pthread_join (one, NULL);
  end ();
}

/* Of a sink 0: what it was sent is not whole, though its own flush is good.  In a cycle after it all is well. */
static void
a_sink_that_lost_something_is_not_whole (void)
{
  struct fm_volume *v;
  uint64_t held;
  begin ();
  CHECK_EQ (fm_volume_create (store[ELSEWHERE], store[ONE], SIZE, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ (fm_volume_write (v, 0, (char[BLOCK]){ 'x' }, BLOCK, 0, 0), 0);
    CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
    CHECK_EQ (fm_volume_copy (v, 100 * FM_MS), 1);
    put (OTHER);
    code = i == 1 ? EIO : 0;
    CHECK_EQ (flush (OTHER), i == 1 ? -EIO : 0);
    CHECK_EQ (fm_volume_flush (v, true), i == 1 ? -EIO : 0);
    if (i == 1) {
      CHECK (v->abandoned == -EIO && v->failed_part == 0);
      fm_volume_abandon (v);
    } else
      fm_volume_settle (v);
  }
  fm_volume_free (v);
  end ();
}

static char
log_byte (void)
{
  char byte = 0;
  CHECK_EQ (pread (file[ONE], &byte, 1, 0), 1);
  return byte;
}

/* The bits of what is hot may be lost with another's flush, whatever their own has said.  They are written anew before
 * the next write goes on, and after a commit; and a writer waits for no other's flush, for he is in the gate. */
static void
a_log_that_may_be_lost_is_written_anew (void)
{
  struct fm_intent *i;
  begin ();
  struct fm_bitmap none;
  pthread_t other;
  store[ONE]->hurries = true;
  CHECK_EQ (fm_bitmap_init (&none, SIZE / BLOCK), 0);
  CHECK_EQ (fm_intent_open (store[ONE], 0, SIZE, 16, &i), 0);
  for (int round = 0; round < 2; round++) {
    CHECK_EQ (fm_intent_heat_step (i, 0, BLOCK), 1);
    CHECK_EQ (log_byte (), 1);
    CHECK_EQ (pwrite (file[ONE], "", 1, 0), 1);
    CHECK_EQ (fm_intent_heat_step (i, 0, BLOCK), 1);
    CHECK_EQ (log_byte (), 0); /* nothing was lost: it is not written */
    put (OTHER);
    code = EIO;
    CHECK_EQ (flush (OTHER), -EIO);
    if (round == 0)
      CHECK_EQ (fm_intent_heat_step (i, 0, BLOCK), 1);
    else
      CHECK_EQ (fm_intent_cool (i, &none, 12, 0), 0);
    CHECK_EQ (log_byte (), 1);
  }
  put (OTHER);
  code = EIO;
  waits = true;
  done = false;
  pthread_create (&other, NULL, is_told, NULL);
  pthread_mutex_lock (&disk);
  while (!waiting)
    fm_cond_wait (&moved, &disk);
  pthread_mutex_unlock (&disk);
  CHECK_EQ (fm_intent_heat_step (i, 9 << 16, BLOCK), 1);
  pthread_mutex_lock (&disk);
  CHECK (!done);
  waits = false;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
  pthread_join (other, NULL);
  fm_intent_close (i);
  fm_bitmap_free (&none);
  end ();
}

static void *
heat_sixth (void *log)
{
  CHECK_EQ (fm_intent_heat_step (log, 5 << 16, BLOCK), 1);
  return NULL;
}

/* Region 0 is hot; a loss takes its bit, and another region is heated: before the loss, or after it. */
static void
while_the_log_is_written_anew (bool loss_first)
{
  struct fm_intent *i;
  pthread_t one;
  begin ();
  CHECK_EQ (fm_intent_open (store[ONE], 0, SIZE, 16, &i), 0);
  CHECK_EQ (fm_intent_heat_step (i, 0, BLOCK), 1);
  put (OTHER);
  for (int step = 0; step < 2; step++)
    if ((step == 0) == loss_first) {
      code = EIO;
      CHECK_EQ (flush (OTHER), -EIO);
      CHECK_EQ (pwrite (file[ONE], "", 1, 0), 1);
    } else {
      hold (store[ONE]->fd, &held);
      pthread_create (&one, NULL, heat_sixth, i);
      until_held ();
    }
  CHECK_EQ (fm_intent_heat_step (i, 0, BLOCK), 0); /* it waits */
  let_go (&held);
  pthread_join (one, NULL);
  CHECK_EQ (log_byte (), 1 | 1 << 5);
  CHECK_EQ (fm_intent_heat_step (i, 0, BLOCK), 1);
  fm_intent_close (i);
  end ();
}

/* Nothing is taken for hot before it has been written anew and flushed, and no loss in between is missed: a client's
 * write waits, and nobody's fails for it. */
static void
nothing_is_hot_before_the_log_is_whole (void)
{
  while_the_log_is_written_anew (true);
  while_the_log_is_written_anew (false);
}

/* What a client's flush has made durable is hot on the log's disk, too; and who looks for losses sees to the rest. */
static void
a_good_flush_has_a_whole_log (void)
{
  struct fm_intent *i;
  struct fm_volume *v;
  begin ();
  CHECK_EQ (fm_intent_open (store[ONE], 0, SIZE, 16, &i), 0);
  CHECK_EQ (fm_volume_create (store[ELSEWHERE], store[APART], SIZE, BLOCK, false, &v), 0);
  fm_volume_set_intent (v, i);
  struct fm_news *client = fm_news_begin (v);
  for (int round = 0; round < 2; round++) {
    CHECK_EQ (fm_volume_write (v, 0, (char[BLOCK]){ 'x' }, BLOCK, 0, 0), 0);
    put (OTHER);
    code = EIO;
    CHECK_EQ (flush (OTHER), -EIO);
    CHECK_EQ (pwrite (file[ONE], "", 1, 0), 1);
    CHECK_EQ (round ? fm_volume_renew_intent (v) : fm_news_flush (v, client), 0);
    CHECK_EQ (log_byte (), 1);
  }
  fm_news_end (v, client);
  fm_volume_free (v);
  fm_intent_close (i);
  end ();
}

static struct fm_intent *renewed;

static void *
renew (void *unused)
{
  (void)unused;
  CHECK_EQ (fm_intent_seal (renewed), 0);
  pthread_mutex_lock (&disk);
  done = true;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
  return NULL;
}

/* A flush beside the log's was under way when that one was good, and may have had the disk's word: a client's flush
 * waits for it, and has the log written anew then. */
static void
a_whole_log_has_heard_of_those_under_way (void)
{
  pthread_t one, client;
  begin ();
  put (OTHER);
  CHECK_EQ (fm_intent_open (store[ONE], 0, SIZE, 16, &renewed), 0);
  store[ONE]->hurries = true;
  code = EIO;
  waits = true;
  done = false;
  pthread_create (&one, NULL, is_told, NULL);
  pthread_mutex_lock (&disk);
  while (!waiting)
    fm_cond_wait (&moved, &disk);
  pthread_mutex_unlock (&disk);
  CHECK_EQ (fm_intent_heat_step (renewed, 0, BLOCK), 1);
  CHECK_EQ (pwrite (file[ONE], "", 1, 0), 1);
  pthread_create (&client, NULL, renew, NULL);
  pthread_mutex_lock (&disk);
  uint64_t until = fm_now_ns () + 50 * FM_MS;
  while (!done && fm_cond_wait_until (&moved, &disk, until) == 0)
    ;
  CHECK (!done);
  waits = false;
  pthread_cond_broadcast (&moved);
  pthread_mutex_unlock (&disk);
  pthread_join (one, NULL);
  pthread_join (client, NULL);
  CHECK_EQ (log_byte (), 1);
  fm_intent_close (renewed);
  end ();
}

int
main (void)
{
  char path[108];
  fm_cond_init (&moved);
  plain = lab_file (BLOCK, path);
  another = lab_file (BLOCK, path);
  fm_below_set_folder (1);
  RUN (a_loss_is_told_to_all);
  RUN (a_good_flush_waits_for_those_beside_it);
  RUN (a_doubt_is_a_loss_and_no_wait);
  RUN (syncs_at_once_are_all_told);
  RUN (to_forget_keeps_no_other_disk_waiting);
  RUN (a_sink_that_lost_something_is_not_whole);
  RUN (a_log_that_may_be_lost_is_written_anew);
  RUN (nothing_is_hot_before_the_log_is_whole);
  RUN (a_good_flush_has_a_whole_log);
  RUN (a_whole_log_has_heard_of_those_under_way);
  return finish ("below");
}
