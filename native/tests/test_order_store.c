/* Promises of store.h about what was written and not flushed, in every order that clients and the end of a server
 * can have: interleave.h.  The server here does at once what it is asked, and keeps it in a cache until it is
 * flushed on any connection; at a restart the cache is gone, and so is each connection.  A flush that fails says so
 * to whoever asked for it, once: what it was to cover is shown, and takes no part in later ones (Linux). */
#include "check.h"
#include "store.h"
#include "wait.h"

#include "interleave.h"

#define BLOCKS 3
#define MANY 50 /* runs; fewer would mean that a scenario has no points */

static struct fm_store *s;
static char cache[BLOCKS], disk[BLOCKS];
static bool dirty[BLOCKS]; /* in the cache, for the next flush */
static bool fails_once; /* the next flush */
static bool written; /* block 0, or that has failed */
static uintptr_t instance; /* of the server; a port's `nbd` is that of its connection */

static bool
is_connected (struct fm_port *p)
{
  if (!p->failed && (uintptr_t)p->nbd != instance)
    p->failed = -ENOTCONN;
  return !p->failed;
}

static int
server_open (struct fm_port *p, uint64_t deadline_ns)
{
  (void)deadline_ns;
  interleave_point ();
  p->nbd = (void *)instance;
  return 0;
}

static void
server_close (struct fm_port *p)
{
  (void)p;
}

static int
server_flush (void)
{
  int rc = fails_once ? -EIO : 0;
  fails_once = false;
  for (unsigned i = 0; i < BLOCKS; i++) {
    if (dirty[i] && rc == 0)
      disk[i] = cache[i];
    dirty[i] = false;
  }
  return rc;
}

static void
server_submit (struct fm_port *p, struct fm_op *op)
{
  int rc = 0;
  op->done = false;
  interleave_point ();
  if (!is_connected (p)) {
    fm_op_finish (p->store, op, p->failed);
    return;
  }
  if (op->kind == FM_READ)
    *(char *)op->buf = cache[op->offset];
  if (op->kind == FM_WRITE) {
    cache[op->offset] = *(char *)op->buf;
    dirty[op->offset] = true;
  }
  if (op->kind == FM_FLUSH || op->flags & FM_FUA)
    rc = server_flush ();
  interleave_point (); /* the answer is under way */
  fm_op_finish (p->store, op, rc);
}

static void
server_step (struct fm_port *p)
{
  interleave_point ();
  is_connected (p);
}

static bool
server_pollfd (struct fm_port *p, struct pollfd *fd)
{
  (void)p, (void)fd;
  return false;
}

static void
server_end (struct fm_store *store)
{
  (void)store;
}

static const struct fm_store_ops server_ops = {
  .port_open = server_open, .port_close = server_close, .submit = server_submit,
  .step = server_step,      .pollfd = server_pollfd,    .close = server_end,
};

static int
write_block (unsigned block, unsigned flags)
{
  char one = 1;
  struct fm_op op = { .kind = FM_WRITE, .flags = flags, .offset = block, .length = 1, .buf = &one };
  return fm_store_io (s, &op);
}

/* With connections of before the tasks, and all flushed. */
static void
begin (void)
{
  _Atomic uint64_t heard = 0;
  int rc;
  memset (cache, 0, sizeof cache);
  memset (disk, 0, sizeof disk);
  memset (dirty, 0, sizeof dirty);
  written = fails_once = false;
  instance = 1;
  s = calloc (1, sizeof *s);
  fm_store_init (s, &server_ops, BLOCKS, UINT64_MAX / 4);
  CHECK_EQ (fm_store_reserve (s, 3, &rc), 3);
  CHECK_EQ (write_block (2, 0), 0);
  CHECK_EQ (fm_store_flush (s, &heard), 0);
}

static void
begin_with_a_failure (void)
{
  begin ();
  fails_once = true;
}

static void
end (void)
{
  fm_store_close (s);
}

/* What was written well is on the disk when the next flush is good; else that one fails. */
static void
write_and_flush (unsigned block)
{
  _Atomic uint64_t heard = fm_store_losses (s);
  int rc = write_block (block, 0);
  written |= block == 0;
  if (fm_store_flush (s, &heard) == 0 && rc == 0)
    CHECK (disk[block]);
}

static void
one (void)
{
  write_and_flush (0);
}

static void
other (void)
{
  write_and_flush (1);
}

static void
write_only (void)
{
  write_block (0, 0);
  written = true;
}

/* A cycle (fm_group_freeze, fm_volume_flush): no write is under way when it begins, and what it has read is
 * on the disk when the flush after it is good. */
static void
copy (void)
{
  char got = 0;
  if (fm_store_need_anchor (s) < 0)
    return;
  while (!written)
    interleave_wait ();
  _Atomic uint64_t heard = fm_store_losses (s);
  if (fm_store_has_anchor (s) && fm_store_read (s, &got, 1, 0) == 0 && fm_store_flush (s, &heard) == 0)
    CHECK (!got || disk[0]);
}

static void
durable (void)
{
  if (write_block (1, FM_FUA) == 0)
    CHECK (disk[1]);
}

static void
restart (void)
{
  interleave_point ();
  instance++;
  memcpy (cache, disk, sizeof cache);
  memset (dirty, 0, sizeof dirty);
}

static void
restart_twice (void)
{
  restart ();
  restart ();
}

static void
all_orders (struct interleave scenario)
{
  unsigned long runs = interleave (&scenario);
  CHECK (runs > MANY || checks_failed);
  if (getenv ("TIMES"))
    printf ("  %lu runs\n", runs);
}

/* The first flush that is good says that all is on the disk which was written well before it, whoever
 * meets the end of the server first. */
static void
a_restart_beside_clients (void)
{
  all_orders ((struct interleave){ begin, { one, restart_twice }, end, NULL, 3 });
  all_orders ((struct interleave){ begin, { one, other, restart }, end, NULL, 2 });
  all_orders ((struct interleave){ begin, { one, durable, restart }, end, NULL, 2 });
}

/* No cycle is committed with what a server has read from a cache that is gone (I9). */
static void
a_restart_beside_a_copy (void)
{
  all_orders ((struct interleave){ begin, { write_only, copy, restart }, end, NULL, 3 });
  all_orders ((struct interleave){ begin, { one, copy, restart_twice }, end, NULL, 2 });
}

/* A server flushes for a write with FUA, and has one word of what that has lost: no flush of anybody else's, and no
 * commit, is good between that word and its arrival. */
static void
a_flush_that_fails_beside_others (void)
{
  all_orders ((struct interleave){ begin_with_a_failure, { one, durable }, end, NULL, 3 });
  all_orders ((struct interleave){ begin_with_a_failure, { one, other, durable }, end, NULL, 2 });
}

int
main (void)
{
  RUN (a_flush_that_fails_beside_others);
  RUN (a_restart_beside_clients);
  RUN (a_restart_beside_a_copy);
  return finish ("order_store");
}
