/* See flush.h. */
#include "flush.h"
#include "late.h"
#include "pool.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>

#define SIZE_ASKED_NS (500 * FM_MS)

uint64_t
fm_store_lose (struct fm_store *s)
{
  atomic_store (&s->lost_ns, fm_now_ns ()); /* first: who sees the loss sees that it is new */
  return atomic_fetch_add (&s->lost, 1) + 1;
}

uint64_t
fm_store_losses (struct fm_store *s)
{
  return atomic_load (&s->lost);
}

void
fm_store_cut (struct fm_store *s)
{
  atomic_fetch_add (&s->cuts, 1); /* first: who hears of the loss knows what it was */
  fm_store_lose (s);
}

static bool
is_doubted (struct fm_store *s)
{
  return atomic_load (&s->settled) < atomic_load (&s->doubts);
}

/* A connection counts as it is opened (store_nbd.c). */
static void
ask_size (struct fm_store *s)
{
  int rc;
  fm_port_close (fm_port_open_by (s, fm_now_ns () + SIZE_ASKED_NS, &rc));
}

/* Who counts on the bytes waits for one try.  What that does not tell, the next connection that is opened does, and one
 * is opened beside for it (pool.c): a server may take no more, or be slow, and nobody is to wait for that again and
 * again, nor to lose a connection that there is. */
uint64_t
fm_store_cuts (struct fm_store *s)
{
  if (is_doubted (s)) {
    pthread_mutex_lock (&s->lock);
    while (s->asking) /* his answer is ours */
      fm_cond_wait (&s->flush_free, &s->lock);
    uint64_t settled = atomic_load (&s->settled);
    bool mine = s->asking = is_doubted (s) && s->in_vain != 1 + settled;
    pthread_mutex_unlock (&s->lock);
    if (mine) {
      ask_size (s);
      pthread_mutex_lock (&s->lock);
      s->asking = false;
      s->in_vain = 1 + settled; /* another number by now if it has told the size */
      pthread_cond_broadcast (&s->flush_free);
      pthread_mutex_unlock (&s->lock);
    }
    if (is_doubted (s))
      fm_pool_ask_size (s);
  }
  return atomic_load (&s->cuts);
}

/* ---- who may flush, or open the anchor ---- */

#define AN_ANCHOR 0
#define TOGETHER_NS (1000 * FM_MS) /* the ends of a server's connections are heard of within that */

/* What somebody waits for: a flush of so many writes, or an anchor. */
static bool
is_done (struct fm_store *s, uint64_t wanted)
{
  return wanted == AN_ANCHOR ? atomic_load (&s->anchored) != 0 : atomic_load (&s->covered) >= wanted;
}

/* True: it is held.  False: meanwhile another has done what was wanted.  *came: see `failed_for`. */
static bool
hold_flush (struct fm_store *s, uint64_t wanted, uint64_t *came)
{
  pthread_mutex_lock (&s->lock);
  *came = ++s->comers;
  while (s->flush_held && !is_done (s, wanted))
    fm_cond_wait (&s->flush_free, &s->lock);
  bool mine = !s->flush_held;
  s->flush_held = true;
  pthread_mutex_unlock (&s->lock);
  return mine;
}

/* The same at once, or not at all. */
static bool
try_hold_flush (struct fm_store *s, uint64_t *came)
{
  pthread_mutex_lock (&s->lock);
  bool held = s->flush_held;
  *came = s->comers += !held;
  s->flush_held = true;
  pthread_mutex_unlock (&s->lock);
  return !held;
}

static void
free_flush (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  s->flush_held = false;
  pthread_cond_broadcast (&s->flush_free);
  pthread_mutex_unlock (&s->lock);
}

/* The next lines: held. */

static uint64_t
count_comers (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  uint64_t n = s->comers;
  pthread_mutex_unlock (&s->lock);
  return n;
}

static int
fail_for (struct fm_store *s, uint64_t comers, int rc)
{
  s->failed_for = comers;
  return s->failed_rc = rc;
}

/* `before`: that many writes do not count on it. */
static void
take_anchor (struct fm_store *s, struct fm_port *p, uint64_t before)
{
  s->anchor = p;
  s->before = before;
  pthread_mutex_lock (&s->lock);
  atomic_store (&s->anchored, ++s->anchors);
  pthread_cond_broadcast (&s->flush_free);
  pthread_mutex_unlock (&s->lock);
}

static int
open_anchor (struct fm_store *s)
{
  int rc;
  uint64_t comers = count_comers (s); /* who comes later has a try of his own */
  struct fm_port *p = fm_port_own (s, &rc);
  if (!p)
    return fail_for (s, comers, rc);
  take_anchor (s, p, 0);
  return 0;
}

static int
need_anchor (struct fm_store *s, uint64_t came)
{
  if (s->anchor)
    return 0;
  return came <= s->failed_for ? s->failed_rc : open_anchor (s);
}

/* Its connection has ended, so the idle ones most likely did; or its server cannot flush. */
static void
drop_anchor (struct fm_store *s)
{
  bool gone = s->anchor->failed == -ENOTCONN; /* else it is silent only, and may do what it has */
  atomic_store (&s->anchored, 0); /* before `writes` is read: fm_store_written */
  if (gone)
    atomic_store (&s->gone_ns, fm_now_ns ());
  fm_port_close (s->anchor);
  s->anchor = NULL;
  uint64_t writes = atomic_load (&s->writes);
  if (writes > atomic_load (&s->covered) && writes > s->before)
    fm_store_lose (s);
  if (gone)
    fm_late_server_gone (s);
  fm_pool_drop (s);
}

/* ---- anchors ---- */

int
fm_flush_anchor (struct fm_store *s, uint64_t *number)
{
  uint64_t came;
  while (!(*number = atomic_load (&s->anchored)))
    if (hold_flush (s, AN_ANCHOR, &came)) {
      int rc = need_anchor (s, came);
      *number = rc < 0 ? 0 : s->anchors;
      free_flush (s);
      return rc;
    }
  return 0;
}

int
fm_store_need_anchor (struct fm_store *s)
{
  uint64_t number;
  return fm_store_is_server (s) ? fm_flush_anchor (s, &number) : 0;
}

void
fm_store_watch (struct fm_store *s)
{
  uint64_t came;
  if (fm_store_has_anchor (s) || !try_hold_flush (s, &came))
    return;
  struct fm_port *p = s->anchor ? NULL : fm_pool_spare (s);
  if (p)
    take_anchor (s, p, atomic_load (&s->writes));
  free_flush (s);
}

bool
fm_store_has_anchor (const struct fm_store *s)
{
  return !fm_store_is_server (s) || atomic_load (&s->anchored);
}

bool
fm_flush_gone_with (struct fm_store *s, uint64_t opened_ns, uint64_t seen_ns)
{
  uint64_t gone = atomic_load (&s->gone_ns);
  return gone > opened_ns && gone + TOGETHER_NS > seen_ns;
}

/* Held. */
static void
look (struct fm_store *s)
{
  if (!s->anchor)
    return;
  s->ops->step (s->anchor);
  if (s->anchor->failed)
    drop_anchor (s);
}

void
fm_flush_look (struct fm_store *s)
{
  uint64_t came;
  if (!try_hold_flush (s, &came))
    return; /* who flushes finds out */
  look (s);
  free_flush (s);
}

void
fm_store_give_port (struct fm_store *s, struct fm_port *p)
{
  if (p->failed)
    fm_flush_look (s);
  fm_port_give (p);
}

/* ---- flushes ---- */

/* Held. */
static void
flush (struct fm_store *s, struct fm_op *op)
{
  uint64_t covers = atomic_load (&s->writes);
  if (fm_store_is_server (s))
    fm_port_io (s->anchor, op);
  else
    fm_op_finish (s, op, s->ops->run (s, op));
  if (op->rc == 0)
    atomic_store (&s->covered, covers);
  else
    fail_for (s, count_comers (s), op->rc); /* it is a loss, of which all of them are to hear */
  /* Who only passes on to a server that has gone may answer so for ever on the connections that there are. */
  if (s->anchor && (s->anchor->failed || op->rc < 0))
    drop_anchor (s);
}

static bool
is_short (struct fm_store *s)
{
  return s->ops->is_short && s->ops->is_short (s);
}

int
fm_flush_run (struct fm_store *s, struct fm_op *op)
{
  uint64_t mine = atomic_load (&s->writes), came;
  int rc = 0;
  bool held = hold_flush (s, mine, &came);
  if (held && atomic_load (&s->nlate))
    look (s); /* as `fm_late_settled` cannot now */
  if ((rc = fm_late_refusal (s)) < 0)
    fm_op_unsent (s, op, rc);
  else if (is_done (s, mine) && !(held && is_short (s)))
    /* nothing was written, or another's flush has covered it by now */
    fm_op_unsent (s, op, 0);
  else if (came <= s->failed_for)
    fm_op_unsent (s, op, s->failed_rc);
  else if (fm_store_is_server (s) && (rc = need_anchor (s, came)) < 0)
    fm_op_unsent (s, op, rc);
  else
    flush (s, op);
  if (held)
    free_flush (s);
  return op->rc;
}

int
fm_store_server_fd (struct fm_store *s)
{
  if (!fm_store_is_server (s))
    return -ENOTSOCK;
  struct pollfd fd;
  uint64_t came;
  if (!try_hold_flush (s, &came))
    return -EBUSY;
  int rc = need_anchor (s, came);
  if (rc == 0) {
    look (s);
    rc = s->anchor && s->ops->pollfd (s->anchor, &fd) ? fcntl (fd.fd, F_DUPFD_CLOEXEC, 0) : -ENOTCONN;
    if (rc == -1)
      rc = -errno;
  }
  free_flush (s);
  return rc;
}

void
fm_store_written (struct fm_store *s, uint64_t number, int rc)
{
  /* First count it, then look: who drops an anchor does the one and the other in the other
   * order, so one of the two sees that the anchor did not outlive the write.  One that failed
   * may have been done in part, which is to be flushed, but nobody counts on it. */
  atomic_fetch_add (&s->writes, 1);
  if (rc == 0 && fm_store_is_server (s) && atomic_load (&s->anchored) != number)
    fm_store_lose (s);
}

int
fm_store_flush (struct fm_store *s, _Atomic uint64_t *heard)
{
  struct fm_op op = { .kind = FM_FLUSH };
  uint64_t known = atomic_load (heard);
  int rc = fm_store_io (s, &op);
  uint64_t lost = atomic_load (&s->lost);
  atomic_store (heard, lost);
  return rc == 0 && lost != known ? -EIO : rc;
}

int
fm_store_flush_now (struct fm_store *s)
{
  _Atomic uint64_t heard = fm_store_losses (s);
  atomic_fetch_add (&s->writes, 1); /* of whoever does not write through it */
  return fm_store_flush (s, &heard);
}
