/* See simstore.h. */
#include "simstore.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct sim_disk {
  int number;
  uint64_t size;
  char *now, *safe;
  struct sim_sector { uint32_t sector; char bytes[SIM_SECTOR]; } *log;
  size_t nlog, room;
  unsigned fail_kinds, fail_count;
  int fail_rc;
  bool halts; /* others run once an operation has failed, before anybody hears of it */
  enum sim_loss loss;
  char *stale; /* a sector each: 1: the cache holds what no flush will write */
  unsigned nstale;
  uint64_t faded; /* sectors that were read from the cache, and then differently from the disk */
  uint64_t op_ns, byte_ns; /* what an operation takes */
  bool ours;               /* its cache is the machine's kernel's */
  bool emulates;           /* zeroes are written like other bytes */
  unsigned below;          /* not 0: it loses together with those of that number */
  struct sim_disk *beside; /* the next one that does */
};

struct sim_store {
  struct fm_store store; /* first: the store is this one */
  struct sim_disk *disk; /* NULL: a link store */
  unsigned lazy;
  bool dead;
  intptr_t server; /* its number; a port has that of when it was opened */
  int remote;
  struct sim_store *before; /* opened before it, in this schedule */
  struct answer { struct fm_port *port; struct fm_op *op; int rc; struct answer *next; } *answers;
};

uint64_t sim_seed;
bool sim_traces;

static unsigned
random_below (unsigned n)
{
  sim_seed ^= sim_seed << 13;
  sim_seed ^= sim_seed >> 7;
  sim_seed ^= sim_seed << 17;
  return (unsigned)((sim_seed >> 20) % n);
}

/* ---- disks ---- */

/* The last one may be short; its rest is there and is zero. */
static uint64_t
sectors (const struct sim_disk *d)
{
  return (d->size + SIM_SECTOR - 1) / SIM_SECTOR;
}

struct sim_disk *
sim_disk_new (int number, uint64_t size)
{
  struct sim_disk *d = calloc (1, sizeof *d);
  d->number = number;
  d->size = size;
  d->now = calloc (sectors (d), SIM_SECTOR);
  d->safe = calloc (sectors (d), SIM_SECTOR);
  d->stale = calloc (1, sectors (d));
  return d;
}

static struct sim_disk *sharing;

void
sim_disk_share (struct sim_disk *d, unsigned below)
{
  if (!d->below) {
    d->beside = sharing;
    sharing = d;
  }
  d->below = below;
}

void
sim_disk_free (struct sim_disk *d)
{
  for (struct sim_disk **at = &sharing; *at; at = &(*at)->beside)
    if (*at == d) {
      *at = d->beside;
      break;
    }
  free (d->now);
  free (d->safe);
  free (d->log);
  free (d->stale);
  free (d);
}

char *
sim_disk_now (struct sim_disk *d)
{
  return d->now;
}

char *
sim_disk_safe (struct sim_disk *d)
{
  return d->safe;
}

char *
sim_disk_stale (struct sim_disk *d)
{
  return d->stale;
}

int
sim_disk_number (const struct sim_disk *d)
{
  return d->number;
}

uint64_t
sim_disk_size (const struct sim_disk *d)
{
  return d->size;
}

uint64_t
sim_disk_unflushed (struct sim_disk *d)
{
  return d->nlog;
}

uint64_t
sim_disk_survivors (struct sim_disk *d, unsigned keep, char *out)
{
  uint64_t lost = 0;
  memcpy (out, d->safe, d->size);
  for (size_t i = 0; i < d->nlog; i++) {
    uint64_t at = (uint64_t)d->log[i].sector * SIM_SECTOR, left = d->size - at;
    if (random_below (256) < keep)
      memcpy (out + at, d->log[i].bytes, left < SIM_SECTOR ? left : SIM_SECTOR);
    else
      lost++;
  }
  return lost;
}

void
sim_disk_reset (struct sim_disk *d, const char *bytes)
{
  memcpy (d->now, bytes, d->size);
  memcpy (d->safe, bytes, d->size);
  d->faded += d->nstale;
  memset (d->stale, 0, sectors (d));
  d->nlog = d->nstale = 0;
}

uint64_t
sim_disk_faded (const struct sim_disk *d)
{
  return d->faded;
}

void
sim_disk_lose (struct sim_disk *d, enum sim_loss loss)
{
  d->loss = loss;
}

void
sim_disk_ours (struct sim_disk *d)
{
  d->ours = true;
}

void
sim_disk_emulate (struct sim_disk *d)
{
  d->emulates = true;
}

void
sim_disk_slow (struct sim_disk *d, uint64_t op_ns, uint64_t byte_ns)
{
  d->op_ns = op_ns;
  d->byte_ns = byte_ns;
}

unsigned
sim_disk_failing (struct sim_disk *d)
{
  return d->fail_count;
}

void
sim_disk_fail (struct sim_disk *d, unsigned kinds, unsigned count, int rc)
{
  d->fail_kinds = kinds;
  d->fail_count = count;
  d->fail_rc = rc;
  d->halts = false;
}

void
sim_disk_halt (struct sim_disk *d)
{
  d->halts = true;
}

static void
log_sector (struct sim_disk *d, uint64_t sector)
{
  if (d->nlog == d->room) {
    d->room = d->room ? 2 * d->room : 64;
    d->log = realloc (d->log, d->room * sizeof *d->log);
  }
  d->nstale -= d->stale[sector];
  d->stale[sector] = 0;
  struct sim_sector *s = &d->log[d->nlog++];
  s->sector = (uint32_t)sector;
  memcpy (s->bytes, d->now + sector * SIM_SECTOR, SIM_SECTOR);
}

void
sim_disk_fill (struct sim_disk *d, const char *bytes)
{
  memcpy (d->now, bytes, d->size);
  for (uint64_t sector = 0; sector < sectors (d); sector++)
    log_sector (d, sector);
}

static void
revert (struct sim_disk *d, uint64_t sector)
{
  memcpy (d->now + sector * SIM_SECTOR, d->safe + sector * SIM_SECTOR, SIM_SECTOR);
}

void
sim_disk_evict (struct sim_disk *d)
{
  if (!d->nstale)
    return;
  for (uint64_t sector = 0; sector < sectors (d); sector++)
    if (d->stale[sector])
      revert (d, sector);
  sim_faded (d->number);
  memset (d->stale, 0, sectors (d));
  d->faded += d->nstale;
  d->nstale = 0;
}

/* The cache is told to let go of what it holds.  What is dirty stays, and what is beside it: a kernel drops
 * whole folios. */
void
sim_disk_drop (struct sim_disk *d)
{
  if (!d->nstale)
    return;
  uint64_t folio = 1U << random_below (4), kept = 0;
  char *dirty = calloc (1, sectors (d) / folio + 1);
  for (size_t i = 0; i < d->nlog; i++)
    dirty[d->log[i].sector / folio] = 1;
  for (uint64_t sector = 0; sector < sectors (d); sector++)
    if (d->stale[sector] && !dirty[sector / folio])
      revert (d, sector);
  sim_faded (d->number);
  for (uint64_t sector = 0; sector < sectors (d); sector++) {
    d->stale[sector] &= dirty[sector / folio];
    kept += d->stale[sector];
  }
  d->faded += d->nstale - kept;
  d->nstale = (unsigned)kept;
  free (dirty);
}

/* A flush that fails: of each sector that it covered all writes are lost, done, or still to be
 * flushed, and nobody is told which. */
static void
lose (struct sim_disk *d)
{
  enum fate { UNKNOWN, LOST, WRITTEN, DIRTY };
  char *fate = calloc (1, sectors (d));
  unsigned chance = 64U << random_below (3);
  size_t kept = 0;
  bool any = false;
  for (size_t i = 0; i < d->nlog; i++) {
    uint64_t sector = d->log[i].sector;
    if (fate[sector] == UNKNOWN) {
      fate[sector] = random_below (256) < chance ? LOST : random_below (2) ? WRITTEN : DIRTY;
      if (fate[sector] == WRITTEN)
        memcpy (d->safe + sector * SIM_SECTOR, d->now + sector * SIM_SECTOR, SIM_SECTOR);
      else if (fate[sector] == LOST && d->loss == SIM_LOSE_LATER)
        d->nstale += !d->stale[sector], d->stale[sector] = 1;
      else if (fate[sector] == LOST)
        revert (d, sector);
      any = any || fate[sector] == LOST;
    }
    if (fate[sector] == DIRTY)
      d->log[kept++] = d->log[i];
  }
  d->nlog = kept;
  free (fate);
  if (any)
    sim_lost (d->number, d->loss == SIM_LOSE_LATER);
}

/* All of that number but `own`. */
static void
lose_beside (unsigned below, enum sim_loss loss, const struct sim_disk *own)
{
  if (!below || loss == SIM_LOSE_NOTHING)
    return;
  for (struct sim_disk *d = sharing; d; d = d->beside)
    if (d->below == below && d != own) {
      enum sim_loss mine = d->loss;
      d->loss = loss;
      lose (d);
      d->loss = mine;
    }
  sim_folder_lost (below, loss == SIM_LOSE_LATER);
}

/* A flush as native/below.h has it, but not on a stack, which is elsewhere while others run. */
struct flush {
  struct fm_below_flush below;
  struct flush *next;
};

static struct flush *flushes; /* that are under way in this schedule */

static struct flush *
begin_flush (unsigned below)
{
  struct flush *f = calloc (1, sizeof *f);
  f->next = flushes;
  flushes = f;
  fm_below_begin (&f->below, below);
  return f;
}

/* What a dead process has heard is told to nobody. */
static void
end_flush (struct flush *f, int rc, bool dead, const struct fm_store *own)
{
  struct flush **at = &flushes;
  while (*at != f)
    at = &(*at)->next;
  *at = f->next;
  fm_below_end (&f->below, dead ? -ENOSPC : rc, own);
  free (f);
}

void
sim_folder_flush (unsigned below, int rc, enum sim_loss loss)
{
  struct flush *f = begin_flush (below);
  if (rc < 0)
    lose_beside (below, loss, NULL);
  if (below)
    sim_event (); /* the disk has said it, and nobody has heard it */
  end_flush (f, rc, sim_dead, NULL);
}

static void
flush (struct sim_disk *d)
{
  for (uint64_t sector = 0; d->nstale && sector < sectors (d); sector++)
    if (!d->stale[sector])
      memcpy (d->safe + sector * SIM_SECTOR, d->now + sector * SIM_SECTOR, SIM_SECTOR);
  if (!d->nstale)
    memcpy (d->safe, d->now, d->size);
  d->nlog = 0;
}

static int
disk_run (struct sim_disk *d, const struct fm_op *op)
{
  if (d->nstale && random_below (32) == 0)
    sim_disk_evict (d);
  bool fails = d->fail_count && (d->fail_kinds & (1U << op->kind));
  if (fails)
    d->fail_count--;
  if (op->kind == FM_FLUSH) {
    if (!fails)
      flush (d);
    else if (d->loss != SIM_LOSE_NOTHING) {
      lose (d);
      if (d->fail_rc == -EIO)
        lose_beside (d->below, d->loss, d);
    }
    return fails ? d->fail_rc : 0;
  }
  if (op->offset > d->size || op->length > d->size - op->offset)
    return -EINVAL;
  if (op->kind == FM_READ) {
    if (!fails)
      memcpy (op->buf, d->now + op->offset, op->length);
    return fails ? d->fail_rc : 0;
  }
  if (op->kind == FM_ZERO && op->flags & FM_FAST && d->emulates)
    return -EOPNOTSUPP;
  uint64_t end = op->offset + op->length, n;
  for (uint64_t at = op->offset; at < end; at += n) {
    n = SIM_SECTOR - at % SIM_SECTOR;
    n = n < end - at ? n : end - at;
    if (fails && random_below (2))
      continue;
    if (op->kind == FM_WRITE)
      memcpy (d->now + at, (const char *)op->buf + (at - op->offset), n);
    else
      memset (d->now + at, 0, n);
    log_sector (d, at / SIM_SECTOR);
  }
  return fails ? d->fail_rc : 0;
}

/* ---- a disk's store ---- */

static struct sim_store *
store_of (struct fm_port *p)
{
  return (struct sim_store *)p->store;
}

/* Before an operation, or (`after`) after it. */
static void
let_others_run (const struct sim_disk *d, const struct fm_op *op, bool after)
{
  if (sim_traces)
    sim_operation (d->number, op->kind, after);
  sim_event ();
}

static void disk_forget (struct fm_store *store);

/* Whether the port's server is still there. */
static bool
connected (struct fm_port *p)
{
  if ((intptr_t)p->nbd != store_of (p)->server && !p->failed)
    p->failed = -ENOTCONN;
  return !p->failed;
}

static void
take_time (const struct sim_store *s, const struct fm_op *op)
{
  uint64_t ns = s->disk->op_ns + op->length * s->disk->byte_ns, until = sim_clock_ns + ns;
  while (ns && !s->dead && sim_clock_ns < until)
    sim_sleep (until);
}

/* 0, or why nothing is done any more, or heard of. */
static int
ended (const struct sim_store *s, struct fm_port *p)
{
  return s->dead ? -EIO : p && !connected (p) ? p->failed : 0;
}

/* Of a server by that port, or (NULL) of a file: rc. */
static int
run (struct sim_store *s, struct fm_port *p, const struct fm_op *op)
{
  take_time (s, op);
  if (p && !connected (p))
    return p->failed;
  bool event = !s->dead && sim_touch (), before = event && random_below (2);
  if (before)
    let_others_run (s->disk, op, false);
  int rc = ended (s, p), end;
  rc = rc < 0 ? rc : disk_run (s->disk, op);
  if (rc < 0 && s->disk->halts) {
    s->disk->halts = before = false;
    event = true;
  }
  if (event && !before) {
    let_others_run (s->disk, op, true);
    if ((end = ended (s, p)) < 0)
      rc = end;
  }
  if (op->kind == FM_FLUSH && rc < 0)
    disk_forget (&s->store);
  return rc;
}

/* A file's, at once, as store_file.c does it. */
static int
file_run (struct fm_store *store, const struct fm_op *op)
{
  struct sim_store *s = (struct sim_store *)store;
  if (op->kind != FM_FLUSH)
    return run (s, NULL, op);
  struct flush *f = begin_flush (store->below);
  int rc = run (s, NULL, op);
  end_flush (f, rc, s->dead, store);
  return rc;
}

static void
file_submit (struct fm_port *p, struct fm_op *op)
{
  fm_op_finish (p->store, op, file_run (p->store, op));
}

static int
disk_port_open (struct fm_port *p, uint64_t deadline_ns)
{
  (void)deadline_ns;
  p->nbd = (void *)store_of (p)->server;
  return store_of (p)->dead ? -EIO : 0;
}

static void
disk_port_close (struct fm_port *p)
{
  (void)p;
}

static void
disk_submit (struct fm_port *p, struct fm_op *op)
{
  if (!store_of (p)->lazy) {
    fm_op_finish (p->store, op, run (store_of (p), p, op));
    return;
  }
  op->link = p->under_way;
  p->under_way = op;
  sim_fly (1);
}

/* Ends some of what is under way in any order, and at least one, so that nobody starves. */
static void
disk_step (struct fm_port *p)
{
  bool one = false;
  connected (p); /* whoever looks sees that its server has gone */
  for (struct fm_op **at = &p->under_way; *at;) {
    struct fm_op *op = *at;
    if (op->link ? random_below (1 + store_of (p)->lazy) : one) {
      at = &op->link;
      continue;
    }
    *at = op->link;
    sim_fly (-1);
    fm_op_finish (p->store, op, run (store_of (p), p, op));
    one = true;
  }
}

static void
file_step (struct fm_port *p)
{
  (void)p;
}

static bool
disk_pollfd (struct fm_port *p, struct pollfd *fd)
{
  (void)p, (void)fd;
  return false;
}

static uint64_t
disk_hole (struct fm_store *store, uint64_t offset, uint64_t length, uint64_t *data)
{
  struct sim_disk *d = ((struct sim_store *)store)->disk;
  uint64_t n = 0;
  while (n < length && d->now[offset + n] == 0)
    n++;
  n -= n % SIM_SECTOR;
  if (n)
    return n;
  if (data)
    *data = length < SIM_SECTOR ? length : SIM_SECTOR;
  return 0;
}

static struct sim_store *opened; /* and neither closed nor forgotten */

static void
disk_close (struct fm_store *store)
{
  struct sim_store *s = (struct sim_store *)store;
  for (struct sim_store **at = &opened; *at; at = &(*at)->before)
    if (*at == s) {
      *at = s->before;
      break;
    }
}

static void
disk_forget (struct fm_store *store)
{
  struct sim_store *s = (struct sim_store *)store;
  if (s->disk->ours && !s->dead)
    sim_disk_drop (s->disk);
}

static void
close_nothing (struct fm_store *s)
{
  (void)s;
}

static const struct fm_store_ops file_ops = {
  .run = file_run,
  .port_open = disk_port_open,
  .port_close = disk_port_close,
  .submit = file_submit,
  .step = file_step,
  .pollfd = disk_pollfd,
  .hole = disk_hole,
  .forget = disk_forget,
  .close = disk_close,
};

static const struct fm_store_ops server_ops = {
  .port_open = disk_port_open,
  .port_close = disk_port_close,
  .submit = disk_submit,
  .step = disk_step,
  .pollfd = disk_pollfd,
  .hole = disk_hole,
  .forget = disk_forget,
  .close = disk_close,
};

static struct sim_store *
new_store (const struct fm_store_ops *ops, uint64_t size)
{
  struct sim_store *s = calloc (1, sizeof *s);
  fm_store_init (&s->store, ops, size, 1000000000ULL);
  return s;
}

static struct fm_store *
open_disk (struct sim_disk *d, const struct fm_store_ops *ops, unsigned lazy)
{
  struct sim_store *s = new_store (ops, d->size);
  s->disk = d;
  s->lazy = lazy;
  s->before = opened;
  opened = s;
  return &s->store;
}

struct fm_store *
sim_file_open (struct sim_disk *d)
{
  return open_disk (d, &file_ops, 0);
}

struct fm_store *
sim_server_open (struct sim_disk *d, unsigned lazy)
{
  return open_disk (d, &server_ops, lazy);
}

void
sim_stores_forget (void)
{
  while (flushes)
    end_flush (flushes, 0, true, NULL);
  for (; opened; opened = opened->before)
    fm_below_leave (&opened->store);
}

void
sim_store_kill (struct fm_store *s)
{
  ((struct sim_store *)s)->dead = true;
  fm_below_leave (s);
  sim_signal (NULL);
}

void
sim_store_restart (struct fm_store *s)
{
  assert (fm_store_is_server (s));
  ((struct sim_store *)s)->server++;
  sim_signal (NULL);
}

/* ---- the link's store ---- */

static int
link_port_open (struct fm_port *p, uint64_t deadline_ns)
{
  (void)deadline_ns;
  int number = sim_connect (store_of (p)->remote, p);
  p->nbd = (void *)(intptr_t)number;
  return number < 0 ? number : 0;
}

/* The answer that came for this operation: 1, or 0 if there is none yet.  `op` NULL: any. */
static int
take_answer (struct fm_port *p, const struct fm_op *op, int *rc)
{
  for (struct answer **at = &store_of (p)->answers; *at; at = &(*at)->next)
    if ((*at)->port == p && (!op || (*at)->op == op)) {
      struct answer *a = *at;
      *at = a->next;
      *rc = a->rc;
      free (a);
      return 1;
    }
  return 0;
}

static void
link_port_close (struct fm_port *p)
{
  int rc;
  while (take_answer (p, NULL, &rc))
    ; /* it came too late */
  sim_disconnect ((int)(intptr_t)p->nbd);
}

static void
link_submit (struct fm_port *p, struct fm_op *op)
{
  if (p->failed) {
    fm_op_finish (p->store, op, p->failed);
    return;
  }
  op->link = p->under_way;
  p->under_way = op;
  sim_send ((int)(intptr_t)p->nbd, op);
}

static void
link_step (struct fm_port *p)
{
  for (struct fm_op **at = &p->under_way; *at;) {
    struct fm_op *op = *at;
    int rc = p->failed;
    if (!p->failed && !take_answer (p, op, &rc)) {
      at = &op->link;
      continue;
    }
    *at = op->link;
    fm_op_finish (p->store, op, rc);
  }
}

static bool
link_pollfd (struct fm_port *p, struct pollfd *fd)
{
  *fd = (struct pollfd){ .fd = -1 };
  return !p->failed;
}

static uint64_t
link_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  (void)s, (void)offset;
  if (data)
    *data = length;
  return 0;
}

static const struct fm_store_ops link_ops = {
  .port_open = link_port_open,
  .port_close = link_port_close,
  .submit = link_submit,
  .step = link_step,
  .pollfd = link_pollfd,
  .hole = link_hole,
  .close = close_nothing,
};

struct fm_store *
sim_remote_open (int remote, uint64_t size, uint64_t timeout_ns)
{
  struct sim_store *s = new_store (&link_ops, size);
  s->remote = remote;
  s->store.timeout_ns = timeout_ns;
  return &s->store;
}

void
sim_answer (struct fm_port *p, struct fm_op *op, int rc)
{
  struct answer *a = calloc (1, sizeof *a);
  struct sim_store *s = store_of (p);
  *a = (struct answer){ .port = p, .op = op, .rc = rc, .next = s->answers };
  s->answers = a;
  sim_signal (NULL);
}

void
sim_cut (struct fm_port *p, int rc)
{
  if (!p->failed)
    p->failed = rc;
  sim_signal (NULL);
}

/* ---- clients ---- */

uint64_t
sim_told (struct fm_volume *v)
{
  return v->told;
}

int
sim_client_flush (struct fm_volume *v, uint64_t *heard)
{
  _Atomic uint64_t h = *heard;
  int rc = fm_store_flush (v->front, &h);
  *heard = h;
  return rc < 0 ? rc : fm_volume_seal_intent (v);
}
