/* See room.h. */
#include "room.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define SMALL (64 * 1024ULL) /* bytes; below, malloc(3) keeps what is given back itself */
#define PAGE 4096

/* Of two sizes: a piece of a writer's, and one of the background's. */
static const uint64_t sizes[] = { FM_PIECE, FM_PIECE_BULK };

struct kept {
  struct kept *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static struct kept *kept[2];
static uint64_t kept_bytes, used_bytes, most_bytes, requests_bytes;
static struct asker {
  struct asker *next;
} *askers;               /* requests that wait, in the order of coming */
static pthread_cond_t left;
static _Atomic uint64_t moved_ns; /* when something moved last of those that have room */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
init (void)
{
  fm_cond_init (&left);
}

static unsigned
class_of (uint64_t bytes)
{
  assert (bytes <= sizes[1]);
  return bytes > sizes[0];
}

static void
count (uint64_t bytes)
{
  used_bytes += bytes;
  if (used_bytes + kept_bytes > most_bytes)
    most_bytes = used_bytes + kept_bytes;
}

/* With `lock`: one of this class, or NULL. */
static void *
pop (unsigned class)
{
  struct kept *k = kept[class];
  if (k) {
    kept[class] = k->next;
    kept_bytes -= sizes[class];
  }
  return k;
}

void *
fm_room_take (uint64_t bytes)
{
  if (bytes <= SMALL && bytes <= sizes[0]) {
    void *small = malloc (bytes);
    pthread_mutex_lock (&lock);
    count (small ? bytes : 0);
    pthread_mutex_unlock (&lock);
    return small;
  }
  unsigned class = class_of (bytes);
  void *other = NULL;
  pthread_mutex_lock (&lock);
  void *buf = pop (class);
  if (!buf && used_bytes + kept_bytes + sizes[class] > FM_ROOM_BYTES)
    other = pop (!class); /* what is kept of the other size is in the way */
  count (sizes[class]);
  pthread_mutex_unlock (&lock);
  free (other);
  if (buf || posix_memalign (&buf, PAGE, sizes[class]) == 0)
    return buf;
  pthread_mutex_lock (&lock);
  used_bytes -= sizes[class];
  pthread_mutex_unlock (&lock);
  return NULL;
}

void
fm_room_give (void *buf, uint64_t bytes)
{
  if (!buf)
    return;
  bool small = bytes <= SMALL && bytes <= sizes[0];
  unsigned class = class_of (bytes);
  pthread_mutex_lock (&lock);
  used_bytes -= small ? bytes : sizes[class];
  bool keep = !small && kept_bytes + sizes[class] <= FM_ROOM_KEPT;
  if (keep) {
    ((struct kept *)buf)->next = kept[class];
    kept[class] = buf;
    kept_bytes += sizes[class];
  }
  pthread_mutex_unlock (&lock);
  if (!keep)
    free (buf);
}

/* With `lock`: take what is the store's own, if it is free. */
static bool
take_own (struct fm_room_turn *t, bool *own)
{
  if (!own || *own)
    return false;
  *own = true;
  t->own = own;
  t->bytes = t->bytes < FM_PIECE ? t->bytes : FM_PIECE;
  return true;
}

/* With `lock`: stand in line until it is our turn and there is room, or the store's own is free. */
static int
wait_in_line (struct fm_room_turn *t, bool *own, uint64_t timeout_ns)
{
  struct asker me = { NULL }, **at = &askers;
  uint64_t began = fm_now_ns ();
  int rc = 0;
  while (*at)
    at = &(*at)->next;
  *at = &me;
  while (!take_own (t, own) && (askers != &me || requests_bytes + t->bytes > FM_ROOM_REQUESTS)) {
    uint64_t moved = atomic_load (&moved_ns), deadline = (moved > began ? moved : began) + timeout_ns;
    if (rc < 0 && fm_now_ns () >= deadline)
      break;
    rc = fm_cond_wait_until (&left, &lock, deadline);
  }
  if (t->own || (askers == &me && requests_bytes + t->bytes <= FM_ROOM_REQUESTS))
    rc = 0;
  for (at = &askers; *at != &me;)
    at = &(*at)->next;
  *at = me.next;
  pthread_cond_broadcast (&left); /* there may be room for the next one */
  return rc;
}

int
fm_room_enter (struct fm_room_turn *t, bool *own, uint64_t bytes, uint64_t timeout_ns)
{
  int rc = 0;
  *t = (struct fm_room_turn){ .bytes = bytes };
  pthread_once (&once, init);
  pthread_mutex_lock (&lock);
  if (askers || requests_bytes + bytes > FM_ROOM_REQUESTS)
    rc = wait_in_line (t, own, timeout_ns);
  if (rc == 0 && !t->own)
    requests_bytes += bytes;
  pthread_mutex_unlock (&lock);
  return rc;
}

void
fm_room_moves (uint64_t now_ns)
{
  atomic_store_explicit (&moved_ns, now_ns, memory_order_relaxed);
}

void
fm_room_leave (struct fm_room_turn *t)
{
  pthread_mutex_lock (&lock);
  if (t->own)
    *t->own = false;
  else
    requests_bytes -= t->bytes;
  if (askers)
    pthread_cond_broadcast (&left);
  pthread_mutex_unlock (&lock);
}

uint64_t
fm_room_used (uint64_t *most)
{
  pthread_mutex_lock (&lock);
  uint64_t now = used_bytes + kept_bytes;
  *most = most_bytes;
  pthread_mutex_unlock (&lock);
  return now;
}
