/* The store that is an NBD server, over libnbd: one connection a port, commands
 * asynchronous, many in flight.  See store.h; libnbd(3) for the calls. */
#include "flush.h"
#include "late.h"
#include "pool.h"
#include "room.h"
#include "store.h"
#include "wait.h"
#include "watch.h"

#include <assert.h>
#include <errno.h>
#include <libnbd.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "store_nbd.h"

#define TURNS 32 /* replies taken in one step at most: then the caller's own work again */

static int
nbd_errno (void)
{
  int e = nbd_get_errno ();
  return e ? -e : -ENOTCONN;
}

/* libnbd's words without the name of its function in front. */
static const char *
reason (void)
{
  const char *text = nbd_get_error (), *colon = text ? strstr (text, ": ") : NULL;
  if (!text)
    return "the connection failed";
  return colon && strncmp (text, "nbd_", 4) == 0 ? colon + 2 : text;
}

/* Move the handle's state machine as far as it goes without blocking. */
static void
turn (struct nbd_handle *h, short revents)
{
  unsigned dir = nbd_aio_get_direction (h);
  if ((revents & (POLLIN | POLLHUP | POLLERR)) && (dir & LIBNBD_AIO_DIRECTION_READ))
    nbd_aio_notify_read (h);
  else if ((revents & (POLLOUT | POLLHUP | POLLERR)) && (dir & LIBNBD_AIO_DIRECTION_WRITE))
    nbd_aio_notify_write (h);
}

static bool
wanted (struct nbd_handle *h, struct pollfd *fd)
{
  unsigned dir = nbd_aio_get_direction (h);
  fd->fd = nbd_aio_get_fd (h);
  fd->events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0)
                       | (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
  fd->revents = 0;
  return fd->fd >= 0 && fd->events;
}

static bool
ended (struct nbd_handle *h)
{
  return nbd_aio_is_dead (h) || nbd_aio_is_closed (h);
}

bool
fm_nbd_turn (struct nbd_handle *h, bool *moved)
{
  struct pollfd fd;
  for (int i = 0; i < TURNS && wanted (h, &fd) && poll (&fd, 1, 0) > 0; i++) {
    turn (h, fd.revents);
    if (moved)
      *moved = true;
  }
  return !ended (h);
}

int
fm_nbd_connect (const char *uri, uint64_t deadline_ns, struct nbd_handle **out, char *why,
                unsigned whysize)
{
  struct nbd_handle *h = nbd_create ();
  if (!h)
    return -ENOMEM;
  int rc = 0;
  uint64_t most = fm_now_ns () + FM_CONNECT_NS;
  deadline_ns = deadline_ns < most ? deadline_ns : most;
  bool tls = strncmp (uri, "nbds", 4) == 0;
  struct fm_watch watch = { .fd = -1 };
  nbd_set_pread_initialize (h, false);
  nbd_set_uri_allow_local_file (h, true); /* TLS and PSK files named by our own configuration */
  if (nbd_aio_connect_uri (h, uri) == -1)
    rc = nbd_errno ();
  while (rc == 0 && !nbd_aio_is_ready (h)) {
    struct pollfd fd;
    if (ended (h) || !wanted (h, &fd)) {
      rc = nbd_errno ();
      break;
    }
    rc = fm_poll_until (&fd, 1, deadline_ns);
    if (rc == 0 && tls && watch.fd != fd.fd) { /* another address has another socket */
      fm_watch_end (&watch, false);
      rc = fm_watch_begin (&watch, fd.fd, deadline_ns);
    }
    if (rc == 0)
      turn (h, fd.revents);
    if (fm_now_ns () >= deadline_ns)
      rc = -ETIMEDOUT;
  }
  fm_watch_end (&watch, rc == 0);
  if (rc == -EAGAIN) /* its line is full (unix(7)); of a write this errno says "not yet" */
    rc = -ECONNREFUSED;
  if (rc == 0) {
    fm_late_keep_asking (nbd_aio_get_fd (h), FM_ASK_MOST);
    *out = h;
    return 0;
  }
  if (why)
    snprintf (why, whysize, "%s", rc == -ETIMEDOUT ? "no answer in time" : reason ());
  nbd_close (h);
  return rc;
}

/* What libnbd knows of an operation; it outlives one that is given up. */
struct command {
  struct fm_op *op; /* NULL: given up */
  void *bytes;      /* what is sent or received; NULL: libnbd has the caller's (fenced) */
  uint64_t n;
  struct fm_late *late; /* of a write that was given up */
};

static void
free_command (void *user)
{
  struct command *c = user;
  fm_room_give (c->bytes, c->n);
  free (c);
}

static int
on_done (void *user, int *error)
{
  struct command *c = user;
  struct fm_op *op = c->op;
  if (c->late && *error == ENOTCONN)
    fm_late_cut (c->late);
  if (!op)
    return 1;
  if (op->kind == FM_READ && c->bytes && !*error)
    memcpy (op->buf, c->bytes, op->length);
  op->rc = *error ? -*error : 0;
  op->done = true; /* taken off the list, and finished, by `reap` */
  return 1;        /* retire the command */
}

static bool
is_write (const struct fm_op *op)
{
  return op->kind == FM_WRITE || op->kind == FM_ZERO;
}

/* Before a write ends whose connection has: late.h.  No server answers with ENOTCONN (nbd proto.md). */
static void
look_for_late (struct fm_port *p, const struct fm_op *op)
{
  bool ended = is_write (op) && op->rc == -ENOTCONN;
  if (!ended || !p->late || p->store->fenced || fm_flush_gone_with (p->store, p->opened_ns, p->seen_ns))
    return;
  fm_late_add (p, NULL);
}

/* Take what is done off the list of what is under way. */
static void
reap (struct fm_port *p)
{
  for (struct fm_op **at = &p->under_way; *at;) {
    struct fm_op *op = *at;
    if (!op->done) {
      at = &op->link;
      continue;
    }
    *at = op->link;
    op->done = false;
    look_for_late (p, op);
    if (op->rc == -EPERM && p->store->fenced)
      op->rc = -EAGAIN; /* the other site: not yet (client.c) */
    fm_op_finish (p->store, op, op->rc);
  }
}

/* A connection that is given up with writes under way goes on by itself: late.h. */
static bool
leave_late (struct fm_port *p)
{
  bool writes = false;
  for (const struct fm_op *op = p->under_way; op; op = op->link)
    writes |= is_write (op);
  if (!writes || p->store->fenced || p->failed != -ETIMEDOUT)
    return false;
  for (struct fm_op *op = p->under_way; op; op = op->link) {
    struct command *c = op->command;
    c->op = NULL;
    c->late = is_write (op) ? p->late : NULL;
  }
  fm_late_add (p, p->nbd);
  return true;
}

/* The connection ends; so does, with its error, everything under way on it. */
static void
fail (struct fm_port *p)
{
  reap (p);
  if (p->nbd && !leave_late (p))
    nbd_close (p->nbd); /* from here on libnbd touches no buffer of ours */
  p->nbd = NULL;
  while (p->under_way) {
    struct fm_op *op = p->under_way;
    p->under_way = op->link;
    op->done = false;
    fm_op_finish (p->store, op, p->failed);
  }
}

/* 0 of libnbd: the server does not say. */
static uint32_t
size_or (struct nbd_handle *h, int which, uint32_t otherwise)
{
  int64_t n = nbd_get_block_size (h, which);
  return n > 0 && n < UINT32_MAX ? (uint32_t)n : otherwise;
}

static bool
are_block_sizes (const struct fm_block_sizes *b)
{
  return (b->minimum & (b->minimum - 1)) == 0 && b->minimum <= FM_MINIMUM_MOST
         && b->maximum >= b->minimum
         && (b->maximum == UINT32_MAX || b->maximum % b->minimum == 0);
}

/* What mirroring needs of a server, or the reason in `why`. */
static int
examine (struct nbd_handle *h, uint64_t *size, struct fm_block_sizes *sizes, char *why,
         unsigned whysize)
{
  sizes->minimum = size_or (h, LIBNBD_SIZE_MINIMUM, 1);
  sizes->preferred = size_or (h, LIBNBD_SIZE_PREFERRED, sizes->minimum);
  if (sizes->preferred & (sizes->preferred - 1) || sizes->preferred < sizes->minimum)
    sizes->preferred = sizes->minimum; /* it is advice */
  sizes->maximum = size_or (h, LIBNBD_SIZE_MAXIMUM, UINT32_MAX);
  const char *lacks = nbd_is_read_only (h) != 0        ? "is read-only"
                      : nbd_can_flush (h) != 1         ? "does not support flush"
                      : nbd_can_multi_conn (h) != 1    ? "does not promise that its connections agree (multi-conn)"
                      : nbd_can_fua (h) != 1           ? "does not support FUA"
                      : nbd_can_zero (h) != 1          ? "does not support zeroing"
                      : !are_block_sizes (sizes)       ? "names block sizes that are none"
                                                       : NULL;
  int64_t n = nbd_get_size (h);
  *size = n > 0 ? (uint64_t)n : 0; /* too small for any volume, which is for its owner to say */
  if (!lacks)
    return 0;
  snprintf (why, whysize, "the server's export %s", lacks);
  return -EPROTO;
}

/* The same server may come back with other options, or another one at its address: whoever counts on a
 * connection counts on all that was asked of the first one, and on all bytes of the store. */
static int
examine_again (struct fm_store *s, struct nbd_handle *h)
{
  char why[128];
  uint64_t size;
  struct fm_block_sizes sizes;
  int rc = examine (h, &size, &sizes, why, sizeof why);
  if (size < s->used)
    fm_store_cut (s); /* whatever else it lacks, and whatever size it has the next time */
  if (rc < 0)
    return rc;
  bool less = size < (s->used ? s->used : s->size) || sizes.minimum > s->sizes.minimum
              || sizes.maximum < s->sizes.maximum;
  return less ? -EPROTO : 0;
}

static int
nbd_port_open (struct fm_port *p, uint64_t deadline_ns)
{
  struct nbd_handle *h;
  p->late = fm_late_new ();
  if (!p->late)
    return -ENOMEM;
  int rc = fm_nbd_connect (p->store->uri, deadline_ns, &h, NULL, 0);
  if (rc == 0 && (rc = examine_again (p->store, h)) < 0)
    nbd_close (h);
  if (rc < 0) {
    free (p->late);
    return rc;
  }
  p->nbd = h;
  fm_flush_look (p->store); /* one that has gone before is not this one's server ... */
  fm_late_settled (p->store); /* ... and of one whose connection has ended before, this one does not tell */
  p->opened_ns = p->seen_ns = fm_now_ns ();
  return 0;
}

static void
nbd_port_close (struct fm_port *p)
{
  free (p->late);
  if (!p->nbd)
    return;
  if (!p->failed) {
    if (p->ends_at_once)
      fm_late_end_at_once (nbd_aio_get_fd (p->nbd), false);
    nbd_aio_disconnect (p->nbd, 0);
  }
  nbd_close (p->nbd);
}

/* 0, or why this is not sent at all. */
static int
refusal (struct fm_port *p, const struct fm_op *op)
{
  if (p->failed)
    return p->failed;
  int late = is_write (op) ? fm_late_refusal (p->store) : 0;
  if (late)
    return late;
  if (op->kind == FM_ZERO && (op->flags & FM_FAST) && nbd_can_fast_zero (p->nbd) != 1)
    return -EOPNOTSUPP; /* libnbd's own refusal would be EINVAL */
  return 0;
}

static void
nbd_submit (struct fm_port *p, struct fm_op *op)
{
  int rc = refusal (p, op);
  op->done = false;
  op->refused = rc < 0;
  if (rc < 0) {
    fm_op_finish (p->store, op, rc);
    return;
  }
  struct nbd_handle *h = p->nbd;
  if (is_write (op) && !p->store->fenced && !p->ends_at_once) {
    fm_late_end_at_once (nbd_aio_get_fd (h), true);
    p->ends_at_once = true;
  }
  bool moves = (op->kind == FM_READ || op->kind == FM_WRITE) && !p->store->fenced;
  struct command *c = calloc (1, sizeof *c);
  if (!c || (moves && !(c->bytes = fm_room_take (op->length)))) {
    free (c);
    fm_op_finish (p->store, op, -ENOMEM);
    return;
  }
  c->op = op;
  c->n = op->length;
  if (moves && op->kind == FM_WRITE)
    memcpy (c->bytes, op->buf, op->length);
  op->command = c; /* until op is done: then libnbd has freed it */
  void *buf = moves ? c->bytes : op->buf;
  nbd_completion_callback cb = { .callback = on_done, .user_data = c, .free = free_command };
  uint32_t fua = op->flags & FM_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
  op->link = p->under_way;
  p->under_way = op;
  int64_t r = -1;
  switch (op->kind) {
  case FM_READ:
    r = nbd_aio_pread (h, buf, op->length, op->offset, cb, 0);
    break;
  case FM_WRITE:
    r = nbd_aio_pwrite (h, buf, op->length, op->offset, cb, fua);
    break;
  case FM_ZERO:
    r = nbd_aio_zero (h, op->length, op->offset, cb,
                      fua | (op->flags & FM_PUNCH ? 0 : LIBNBD_CMD_FLAG_NO_HOLE)
                          | (op->flags & FM_FAST ? LIBNBD_CMD_FLAG_FAST_ZERO : 0));
    break;
  case FM_FLUSH:
    r = nbd_aio_flush (h, cb, 0);
    break;
  }
  if (r == -1 && !op->done) { /* refused before it was queued */
    op->rc = nbd_errno ();
    op->done = true;
  }
  if (ended (h)) { /* while it sent, or before: then the refusal is of no known errno */
    p->failed = -ENOTCONN;
    if (op->done)
      op->rc = -ENOTCONN;
  }
  reap (p);
}

static void
nbd_step (struct fm_port *p)
{
  if (!p->failed && !fm_nbd_turn (p->nbd, &p->stirred))
    p->failed = -ENOTCONN;
  if (p->failed)
    fail (p);
  else {
    p->seen_ns = fm_now_ns ();
    reap (p);
  }
}

static bool
nbd_pollfd (struct fm_port *p, struct pollfd *fd)
{
  return !p->failed && wanted (p->nbd, fd);
}

/* What the other side's kernel has not taken yet (tcp(7), unix(7)). */
static bool
nbd_drains (struct fm_port *p)
{
  int before = p->queued;
  if (p->failed || ioctl (nbd_aio_get_fd (p->nbd), SIOCOUTQ, &p->queued) < 0)
    return false;
  return p->queued < before;
}

/* A server is not asked for its extents: what is read as zeroes
 * is sent as zeroes, so only reading costs. */
static uint64_t
nbd_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  (void)s, (void)offset;
  if (data)
    *data = length;
  return 0;
}

static void
nbd_close_store (struct fm_store *s)
{
  fm_late_forget (s);
}

const struct fm_store_ops fm_nbd_ops = {
  .port_open = nbd_port_open,
  .port_close = nbd_port_close,
  .submit = nbd_submit,
  .step = nbd_step,
  .pollfd = nbd_pollfd,
  .drains = nbd_drains,
  .hole = nbd_hole,
  .close = nbd_close_store,
};

int
fm_store_open_nbd (const char *uri, uint64_t timeout_ns, struct fm_store **out, char *why,
                   unsigned whysize)
{
  struct nbd_handle *h;
  uint64_t size;
  struct fm_block_sizes sizes;
  int rc = fm_nbd_connect (uri, fm_now_ns () + timeout_ns, &h, why, whysize);
  if (rc < 0)
    return rc;
  struct fm_store *s = calloc (1, sizeof *s);
  char *copy = strdup (uri);
  struct fm_port *first = calloc (1, sizeof *first);
  struct fm_late *late = fm_late_new ();
  rc = s && copy && first && late ? examine (h, &size, &sizes, why, whysize) : -ENOMEM;
  if (rc < 0) {
    nbd_close (h);
    free (late);
    free (first);
    free (copy);
    free (s);
    return rc;
  }
  fm_store_init (s, &fm_nbd_ops, size, timeout_ns);
  s->sizes = sizes;
  s->fd = -1;
  s->uri = copy;
  uint64_t now = fm_now_ns ();
  *first = (struct fm_port){ .store = s, .nbd = h, .late = late, .opened_ns = now, .seen_ns = now };
  fm_pool_add (s, first); /* closed, it could still count where the server takes only so many */
  *out = s;
  return 0;
}
