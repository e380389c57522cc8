/* See news.h. */
#include "news.h"
#include "wait.h"

#include <stdlib.h>

/* The losses of which a connection that is opened now need not hear. */
static uint64_t
old_news (struct fm_volume *v)
{
  uint64_t lost = atomic_load (&v->front->lost), since = atomic_load (&v->front->lost_ns);
  uint64_t left = atomic_load (&v->left_ns);
  since = left > since ? left : since;
  return fm_now_ns () < since + v->returning_ns ? atomic_load (&v->told) : lost;
}

struct fm_news *
fm_news_begin (struct fm_volume *v)
{
  struct fm_news *n = calloc (1, sizeof *n);
  if (!n)
    return NULL;
  n->since_ns = fm_now_ns ();
  pthread_mutex_lock (&v->lock);
  n->heard = n->sure = old_news (v);
  n->next = v->news;
  v->news = n;
  pthread_mutex_unlock (&v->lock);
  return n;
}

void
fm_news_end (struct fm_volume *v, struct fm_news *n)
{
  uint64_t now = fm_now_ns ();
  pthread_mutex_lock (&v->lock);
  struct fm_news **at = &v->news;
  while (*at != n)
    at = &(*at)->next;
  *at = n->next;
  bool was_there = n->since_ns < atomic_load (&v->front->lost_ns);
  if (n->sure != atomic_load (&v->front->lost)
      && (was_there || now >= n->since_ns + v->returning_ns))
    atomic_store (&v->left_ns, now);
  pthread_mutex_unlock (&v->lock);
  free (n);
}

int
fm_news_flush (struct fm_volume *v, struct fm_news *n)
{
  uint64_t heard = atomic_load (&n->heard);
  int rc = fm_store_flush (v->front, &n->heard);
  if (rc < 0)
    return rc;
  atomic_store (&n->sure, heard);
  return fm_volume_seal_intent (v);
}

bool
fm_news_is_due (struct fm_volume *v)
{
  uint64_t lost = atomic_load (&v->front->lost);
  pthread_mutex_lock (&v->lock);
  bool due = old_news (v) != lost;
  for (const struct fm_news *n = v->news; n && !due; n = n->next)
    due = n->sure != lost;
  pthread_mutex_unlock (&v->lock);
  return due;
}

void
fm_news_free (struct fm_volume *v)
{
  while (v->news) {
    struct fm_news *n = v->news;
    v->news = n->next;
    free (n);
  }
}
