/* See below.h. */
#include "below.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

/* Taken first, and guards `stores` with `lock`: whoever holds one of the two may read it.  To forget what a cache
 * holds may take long on a disk that fails, and no flush of another one waits for that. */
static pthread_mutex_t members = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the next lines */
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;  /* a flush */
static struct fm_store *stores;                          /* that have joined, by `beside` */
static struct fm_below_flush *under_way;
static uint64_t numbers;

/* The state folder counts its losses as a store does. */
static const struct fm_store_ops no_ops;
static struct fm_store folder = { .ops = &no_ops };

void
fm_below_join (struct fm_store *s, int below)
{
  assert (below && !s->below);
  pthread_mutex_lock (&members);
  pthread_mutex_lock (&lock);
  s->below = below;
  s->beside = stores;
  stores = s;
  pthread_mutex_unlock (&lock);
  pthread_mutex_unlock (&members);
}

void
fm_below_leave (struct fm_store *s)
{
  if (!s->below)
    return;
  pthread_mutex_lock (&members);
  pthread_mutex_lock (&lock);
  for (struct fm_store **at = &stores; *at; at = &(*at)->beside)
    if (*at == s) {
      *at = s->beside;
      break;
    }
  pthread_mutex_unlock (&lock);
  pthread_mutex_unlock (&members);
}

void
fm_below_set_folder (int below)
{
  fm_below_leave (&folder);
  folder.below = 0;
  if (below)
    fm_below_join (&folder, below);
}

void
fm_below_join_folder (struct fm_store *s)
{
  s->hurries = true;
  if (folder.below)
    fm_below_join (s, folder.below);
}

static bool
is_the_disks (int rc)
{
  return rc < 0 && rc != -ENOSPC && rc != -EDQUOT && rc != -EFBIG && rc != -ENOMEM;
}

/* With `members` or `lock`. */
static bool
loses_too (const struct fm_store *s, int below, const struct fm_store *own)
{
  return s != own && (s->below == below || (s->below < 0 && below < 0));
}

/* With `lock`. */
static void
count_loss (int below, const struct fm_store *own)
{
  for (struct fm_store *s = stores; s; s = s->beside)
    if (loses_too (s, below, own))
      fm_store_lose (s);
}

/* When all know. */
static void
forget (int below, const struct fm_store *own)
{
  pthread_mutex_lock (&members);
  for (struct fm_store *s = stores; s; s = s->beside)
    if (loses_too (s, below, own) && s->ops->forget)
      s->ops->forget (s);
  pthread_mutex_unlock (&members);
}

void
fm_below_begin (struct fm_below_flush *f, int below)
{
  f->below = below;
  if (!below)
    return;
  pthread_mutex_lock (&lock);
  f->number = ++numbers;
  f->next = under_way;
  under_way = f;
  pthread_mutex_unlock (&lock);
}

static bool
any_before (int below, uint64_t number)
{
  for (const struct fm_below_flush *f = under_way; f; f = f->next)
    if (f->below == below && f->number < number)
      return true;
  return false;
}

void
fm_below_end (struct fm_below_flush *f, int rc, const struct fm_store *own)
{
  if (!f->below)
    return;
  pthread_mutex_lock (&lock);
  if (is_the_disks (rc))
    count_loss (f->below, own);
  uint64_t end = ++numbers;
  for (struct fm_below_flush **at = &under_way; *at; at = &(*at)->next)
    if (*at == f) {
      *at = f->next;
      break;
    }
  pthread_cond_broadcast (&ended);
  while (rc == 0 && !(own && own->hurries) && any_before (f->below, end))
    fm_cond_wait (&ended, &lock);
  pthread_mutex_unlock (&lock);
  if (is_the_disks (rc))
    forget (f->below, own);
}

uint64_t
fm_below_moment (void)
{
  pthread_mutex_lock (&lock);
  uint64_t moment = ++numbers;
  pthread_mutex_unlock (&lock);
  return moment;
}

void
fm_below_wait (int below, uint64_t moment)
{
  pthread_mutex_lock (&lock);
  while (any_before (below, moment))
    fm_cond_wait (&ended, &lock);
  pthread_mutex_unlock (&lock);
}

uint64_t
fm_below_losses (void)
{
  return fm_store_losses (&folder);
}

int
fm_below_sync (int fd, bool data_only, uint64_t since)
{
  struct fm_below_flush f;
  int rc;
  fm_below_begin (&f, folder.below);
  do
    rc = data_only ? fdatasync (fd) : fsync (fd);
  while (rc < 0 && errno == EINTR);
  rc = rc < 0 ? -errno : 0;
  fm_below_end (&f, rc, NULL);
  return rc == 0 && fm_below_losses () != since ? -EIO : rc;
}
