/* Where bytes live: the seam between the core and files, devices and servers.
 *
 * Idea.  An operation (fm_op) is submitted on a port and is done at once (a
 * file) or later (a server); `step` makes what progress it can without
 * blocking.  A port is a private channel to a store: used by one thread at a
 * time, so nothing in it needs a lock.  A file's port is the file; a server's
 * port is one NBD connection.  A third kind, the simulator's, fits the table.
 *
 * Contracts.
 *   - Every submitted op becomes done exactly once, with rc 0 or -errno; after
 *     a port failed, all of its ops are done with the error.
 *   - A flush that is done with 0 covers every write that was done on *any*
 *     port of the store before the flush was submitted, if the port that
 *     flushes was open before they were submitted.  For servers this is
 *     NBD's multi-conn promise, and a connection to a server without it is refused (-EPROTO), as
 *     is one to a server that has become smaller, or takes fewer requests: at the opening, and each later one.
 *   - A port whose connection failed stays failed: nothing reconnects behind
 *     the caller's back (I9).
 *   - One that is lent has not ended as far as is known: what ended while nobody used it is no answer to
 *     who asks next.  A write then counts on the anchor that there is, not on the one that ended.
 *   - A zero that may punch (FM_PUNCH) still reads as zeroes afterwards.
 *
 * What was written and not flushed may be gone (I9): a flush failed, or a server
 * went and came back.  Nobody may be told later that it is durable, and everybody
 * who relies on it must hear.  So a store counts its losses (`lost`), and whoever
 * flushes it remembers up to which he has heard of them (fm_store_flush): the next
 * flush of each ends with an error once, whoever met the loss first.
 *   - A flush that fails is a loss: a file says so once, to whichever of its users
 *     asks first, and takes the pages for clean afterwards.  A write with FUA would be
 *     such a user: so it is a write, and then a flush like all others, whose answers
 *     come in the order in which they were asked for.
 *     One of another store that stands on the same disk is, too (below.h).
 *   - A file or device that somebody has made smaller than its volume has lost what stood behind its end.  No flush
 *     of it is good while it is so small; and a write that would make it large again tells of it first, on file
 *     systems that cost nothing to ask.  On others, or if somebody else makes it large again, nobody has seen it.
 *   - A server is flushed on one connection, its anchor, open from before the first
 *     write of fm_store_io was submitted.  As long as it lives, so does the server's
 *     process that has answered the writes, and a flush on it covers them.  When it
 *     has ended while something is written and not covered by a good flush, that is
 *     a loss; so is a write whose anchor is another one when it is done than when it
 *     was submitted.  A server that ends when all is flushed costs nothing.
 *   - After a flush that failed there is none, until somebody writes, flushes, or is about to copy what he
 *     reads to where it will count (fm_group_freeze): else that server could go unnoticed.
 *   - Who writes on ports of his own (a lane's sinks) flushes on one of them that was
 *     open before the first write and stays failed if it fails: his own anchor.
 * How many connections a server takes is not known.  Two are needed: the anchor (of a store that only lanes write to the
 * background's own), and one that is lent to each operation in turn (fm_port_borrow); more are opened beside when operations wait, until
 * the server refuses one or lets it hang (pool.c).
 * Counted on: at most one process serves a store at a time.
 * A write that was given up may be done by a server later: late.h.
 * Left out: reconnection, retries and roles (policy is never in C).
 */
#ifndef FM_STORE_H
#define FM_STORE_H

#include "pace.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum fm_op_kind { FM_READ, FM_WRITE, FM_ZERO, FM_FLUSH };
enum fm_op_flag {
  FM_FUA = 1,   /* durable when done */
  FM_PUNCH = 2, /* a zero may give the space back */
  FM_FAST = 4,  /* a zero that is no faster than a write fails with -EOPNOTSUPP */
  FM_KEEP = 8,  /* of a write, or with FM_PUNCH: where the store can tell, space is neither given back nor taken */
};

struct fm_op {
  enum fm_op_kind kind;
  unsigned flags;
  uint64_t offset; /* bytes */
  uint64_t length; /* bytes */
  void *buf;       /* READ, WRITE */
  int rc;          /* once done: 0 or -errno */
  bool done;
  bool refused;    /* it failed, and nothing of it was sent to a server: it has changed nothing */
  struct fm_op *link; /* the port's list of what is under way */
  void *command;      /* of a server: store_nbd.c */
};

struct fm_store;

struct fm_port {
  struct fm_store *store;
  int failed;             /* 0, or the -errno that ended this port */
  void *nbd;              /* struct nbd_handle *, for a server */
  struct fm_op *under_way;
  struct fm_late *late;   /* of a server: for writes that are given up (late.h) */
  uint64_t opened_ns;     /* of a server: it was connected by then, ... */
  uint64_t seen_ns;       /* ... and had not ended the last time that somebody looked */
  bool ends_at_once;      /* late.h */
  struct fm_port *next;   /* in the store's idle list */
  bool stirred;           /* something has moved; this and the next lines: parts.h */
  uint64_t moved_ns, looked_ns, look_ns; /* last; last; next */
  int queued;             /* bytes sent and not taken by the other side, at the last look */
};

struct fm_store_ops {
  /* One operation at once, from any thread: rc.  NULL: it takes a port, and flushes an anchor. */
  int (*run) (struct fm_store *s, const struct fm_op *op);
  int (*port_open) (struct fm_port *p, uint64_t deadline_ns);
  void (*port_close) (struct fm_port *p);
  void (*submit) (struct fm_port *p, struct fm_op *op);
  void (*step) (struct fm_port *p);
  bool (*pollfd) (struct fm_port *p, struct pollfd *fd);
  /* Whether since it was last asked the other side has taken bytes that were sent.  May be NULL. */
  bool (*drains) (struct fm_port *p);
  /* How many bytes from `offset` (at most `length`) are known to be a hole, or
   * 0 with in *data (may be NULL) how many are not; a store that cannot tell says
   * all data.  Asking for *data can be slow. */
  uint64_t (*hole) (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data);
  /* What this machine caches of it, and may be on no disk, is not read any more.  May be NULL. */
  void (*forget) (struct fm_store *s);
  /* What this machine caches of it is on its way to the disk, so that the next flush has little to do.  It waits for a
   * place in the disk's queue alone, and promises nothing.  May be NULL. */
  void (*write_out) (struct fm_store *s);
  /* Whether somebody has made it smaller than what is in use of it.  NULL: it cannot tell. */
  bool (*is_short) (struct fm_store *s);
  void (*close) (struct fm_store *s);
};

/* What a request's offset and length must be multiples of, what is best, and the most that is read or written at once
 * (nbd proto.md, "Block size constraints").  A file takes any. */
#define FM_MINIMUM_MOST (1u << 16)
struct fm_block_sizes {
  uint32_t minimum, preferred, maximum; /* bytes; the first two are powers of two */
};

#define FM_FLUSH_BYTE_NS 1000 /* 1 MB/s: no disk is slower, but one that hangs */
#define FM_SLOW_FLUSH_NS (500 * FM_MS)
#define FM_FLUSH_MOST (1ULL << 30) /* bytes: a server that has kept more than that has written some of it */
#define FM_POOL_MAX 32 /* connections of a store that are lent */

struct fm_store {
  const struct fm_store_ops *ops;
  uint64_t size;  /* bytes */
  uint64_t used;  /* of these by a volume, from the beginning; 0: by none yet */
  struct fm_block_sizes sizes;
  /* The other site: it refuses what was given up itself (I8): see late.h; and a write that it cannot
   * do yet ends with -EAGAIN (fm_volume_set_patience). */
  bool fenced;
  int fd;         /* file */
  bool knows_holes; /* store_file.c; this and the next two, too: */
  bool knows_its_size; /* at no cost */
  bool tells_of_others; /* a write that fails may be told of what others have written before; */
  bool full_tells_of_others; /* ... also one that finds no space */
  int below; /* what it stands on; this and the next two lines: below.h */
  bool hurries;
  struct fm_store *beside;
  char *uri;      /* server */
  uint64_t timeout_ns; /* how long a server may be silent (parts.h), and connecting may take */
  _Atomic uint64_t written_bytes;  /* payload of WRITE ops that were done well on ports */
  _Atomic uint64_t changed_bytes;  /* of WRITE and ZERO ops that have ended; fm_store_unflushed */
  _Atomic uint64_t flushed_bytes;  /* of those, what a good flush on a port has covered */
  _Atomic bool flushes_slowly; /* of a file: one took FM_SLOW_FLUSH_NS, since it was opened */
  _Atomic uint64_t errors;
  _Atomic bool no_clone; /* it was tried, and is not to be had */
  _Atomic uint64_t lost;   /* how often what was not flushed may have gone, ... */
  _Atomic uint64_t lost_ns; /* ... the last time at this one */
  _Atomic uint64_t cuts;   /* how often it was found too short: what was flushed may have gone, too */
  _Atomic uint64_t doubts;  /* answers of its server with an error, as one gives behind the end of a file; */
  _Atomic uint64_t settled; /* ... how many of them came before a connection was begun that has told its size */
  _Atomic uint64_t writes; /* done by fm_store_io, to be flushed; one for what was before us */
  _Atomic unsigned nlate;  /* connections with writes that were given up */
  bool room_used; /* of room.c: what is its own is in use */
  _Atomic uint64_t moved_ns; /* when something moved last on a connection (parts.h) */

  pthread_mutex_t lock; /* guards all below, to the blank line */
  struct fm_port *idle; /* connections that are free to be lent, last used first */
  unsigned npool;       /* those, what is lent, and what is being opened for it */
  struct fm_asker *askers; /* who waits for one (pool.c) */
  pthread_cond_t freed; /* one was given back, or opened, or could not be */
  unsigned opening;     /* not 0: one is being opened beside, by `opener`, ... */
  bool asks_size;       /* ... and closed when it has told the size, unless somebody waits and there is room */
  bool asking;          /* somebody asks its server for the size (flush.c), and others wait for the answer */
  uint64_t in_vain;     /* 1 + `settled` when a try began: until more is settled nobody waits for another */
  uint64_t more_ns;     /* not before this, after the server took no more */
  bool flush_held;      /* somebody has what belongs to flushing */
  uint64_t comers;      /* who have wanted that, so many */
  pthread_cond_t flush_free; /* it is free, or there is an anchor */
  struct fm_late *late; /* those connections (late.h) */
  struct fm_pace pace[FM_ZERO + 1]; /* of READ, WRITE and ZERO (parts.h) */

  bool opener_begun; /* of who begins it, and of who closes the store */
  pthread_t opener;

  /* Of who holds what belongs to flushing. */
  _Atomic uint64_t covered; /* `writes` when the last good flush began; read by all */
  uint64_t failed_for;    /* for those of the comers it has failed, to flush or to have an anchor: none tries again ... */
  int failed_rc;          /* ... and each ends with this */
  struct fm_port *anchor; /* of a server, or NULL */
  uint64_t before;        /* so many of `writes` do not count on it */
  uint64_t anchors;       /* how many there have been */
  _Atomic uint64_t anchored; /* the number of this one, 0: there is none; read by all */
  _Atomic uint64_t gone_ns; /* when the end of one has told that the server has gone; read by all */
};

/* Its operations need a connection, which may end. */
static inline bool
fm_store_is_server (const struct fm_store *s)
{
  return !s->ops->run;
}

/* For implementations: what is the same for all.  The memory is zeroed. */
void fm_store_init (struct fm_store *s, const struct fm_store_ops *ops, uint64_t size,
                    uint64_t timeout_ns);

/* Takes the descriptor over, also on failure.  0 or -errno. */
int fm_store_open_file (int fd, uint64_t size, struct fm_store **out);
/* Connects once to learn the sizes.  -EPROTO: the server lacks what mirroring
 * needs (writable, flush, FUA, zeroing, multi-conn); the reason is in `why`. */
int fm_store_open_nbd (const char *uri, uint64_t timeout_ns, struct fm_store **out, char *why,
                       unsigned whysize);
void fm_store_set_fenced (struct fm_store *s); /* before it is in use */
/* Its server may have anything in its cache, of whoever used it before: so the flushes of it have the
 * time that the most takes, until one is good.  Before it is in use. */
void fm_store_unflushed (struct fm_store *s);
void fm_store_close (struct fm_store *s);

/* A port of its own, connected now; NULL: *rc. */
struct fm_port *fm_port_open (struct fm_store *s, int *rc);
/* The same, by then at the latest, whatever timeout_ns is. */
struct fm_port *fm_port_open_by (struct fm_store *s, uint64_t deadline_ns, int *rc);
void fm_port_close (struct fm_port *p);
/* The same, but of the pool's connections if it has one to spare.  For fm_port_close. */
struct fm_port *fm_port_own (struct fm_store *s, int *rc);
/* Lend one of the pool's connections: waits for one to be free until nothing has moved on any for
 * timeout_ns (a file: as long as it takes), and at most that long to connect if there is none at all.  NULL: *rc.  To be given back
 * with nothing under way, and soon when somebody waits (fm_port_wanted). */
struct fm_port *fm_port_borrow (struct fm_store *s, int *rc);
void fm_port_give (struct fm_port *p);
bool fm_port_wanted (struct fm_store *s);
/* Open connections until the pool has `n`.  How many it has; fewer: *rc says why. */
unsigned fm_store_reserve (struct fm_store *s, unsigned n, int *rc);

/* The same, by who has used it: if it failed, its server may have gone with what was not flushed. */
void fm_store_give_port (struct fm_store *s, struct fm_port *p);

/* One operation on a port of the caller's, to its end, in parts: rc.  -ETIMEDOUT: the server was
 * silent for timeout_ns.  Any operation of up to FM_PACE_LEAST bytes must be answered in that time, so
 * where these are slower than that the setting behind timeout_ns is too short; a flush in that and
 * FM_FLUSH_BYTE_NS for each byte written or zeroed since the one before, FM_FLUSH_MOST at most, if
 * meanwhile the server answers reads. */
int fm_port_io (struct fm_port *p, struct fm_op *op);
/* The same from any thread; with a connection to be made it is bounded by twice that; and one with FUA as a
 * flush is. */
int fm_store_io (struct fm_store *s, struct fm_op *op);
/* The same without that flush: 1 if there is to be one.  Then what was written is durable when fm_store_flush with this
 * *heard is good, and the caller lets others go on before. */
int fm_store_io_unflushed (struct fm_store *s, struct fm_op *op, _Atomic uint64_t *heard);
/* Flush, for somebody who has heard of *heard losses: 0, or -errno, once for all that he has
 * not heard of.  From any thread, and of two at once for the same one each is told. */
int fm_store_flush (struct fm_store *s, _Atomic uint64_t *heard);
/* The same for who has heard of all losses until now. */
int fm_store_flush_now (struct fm_store *s);

/* A server has an anchor from now on, or -errno: what is read from its cache and counted on is told as lost
 * (`lost`) when it goes before it was flushed, as what is written is. */
int fm_store_need_anchor (struct fm_store *s);
/* Nobody counts on an anchor of it, for only lanes write to it; but its server has one, which tells when that goes
 * (late.h), as soon as it is known to take a connection more than all else needs.  For now and then; it never waits. */
void fm_store_watch (struct fm_store *s);
bool fm_store_has_anchor (const struct fm_store *s); /* a file needs none */
/* A duplicate, for the caller to close, of the socket of a server's anchor, which is opened if there is
 * none, and has not ended; or -errno, EBUSY while it is in a flush.  To look who is at the other end. */
int fm_store_server_fd (struct fm_store *s);

/* `to` shares these bytes with `from` (FICLONERANGE: files of one file system that has
 * reflinks, aligned to its blocks), without moving them.  0, or -errno: copy them instead. */
int fm_store_clone (struct fm_store *from, struct fm_store *to, uint64_t offset, uint64_t length);

uint64_t fm_store_size (struct fm_store *s);
struct fm_block_sizes fm_store_block_sizes (const struct fm_store *s);
/* What was written and not flushed may be gone: count it.  How often that was so. */
uint64_t fm_store_lose (struct fm_store *s);
/* It was found to be smaller than what is in use of it: that is a loss.  How often that was so: a server
 * tells its size to a new connection only, and is asked so first if it has answered with an error since, for half a
 * second; if that cannot be had, the next connection tells it. */
void fm_store_cut (struct fm_store *s);
uint64_t fm_store_cuts (struct fm_store *s);
/* A write has ended with rc; `number`: of the anchor (`anchored`) at its begin.  For who writes on a port
 * of his own and counts on fm_store_flush. */
void fm_store_written (struct fm_store *s, uint64_t number, int rc);
/* How often what was written and not flushed may have gone, since the store was opened. */
uint64_t fm_store_losses (struct fm_store *s);
int fm_store_read (struct fm_store *s, void *buf, uint64_t n, uint64_t offset);
/* See `hole` in fm_store_ops. */
uint64_t fm_store_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data);

/* For implementations: take `op` off the port's list with this result. */
void fm_op_finish (struct fm_store *s, struct fm_op *op, int rc);

#endif
