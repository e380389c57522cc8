/* See watch.h. */
#include "watch.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>

#define LOOK_US 100000 /* a read blocks for so long */

static void *
watch (void *arg)
{
  struct fm_watch *w = arg;
  pthread_mutex_lock (&w->lock);
  while (!w->done && fm_cond_wait_until (&w->ended, &w->lock, w->deadline_ns) == 0)
    ;
  if (!w->done)
    shutdown (w->fd, SHUT_RDWR);
  pthread_mutex_unlock (&w->lock);
  return NULL;
}

static void
set_blocking (int fd, bool blocking)
{
  int flags = fcntl (fd, F_GETFL);
  struct timeval t = { .tv_usec = blocking ? LOOK_US : 0 };
  fcntl (fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
  setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

int
fm_watch_begin (struct fm_watch *w, int fd, uint64_t deadline_ns)
{
  w->fd = fd;
  w->deadline_ns = deadline_ns;
  w->done = false;
  pthread_mutex_init (&w->lock, NULL);
  fm_cond_init (&w->ended);
  int rc = fm_thread_begin (&w->thread, watch, w);
  if (rc < 0) {
    pthread_cond_destroy (&w->ended);
    pthread_mutex_destroy (&w->lock);
    w->fd = -1;
    rc = -ENOMEM; /* pthread_create(3) calls it EAGAIN, which says something else here: volume.h */
  } else
    set_blocking (fd, true);
  return rc;
}

void
fm_watch_end (struct fm_watch *w, bool open)
{
  if (w->fd < 0)
    return;
  pthread_mutex_lock (&w->lock);
  w->done = true;
  pthread_cond_signal (&w->ended);
  pthread_mutex_unlock (&w->lock);
  pthread_join (w->thread, NULL);
  pthread_cond_destroy (&w->ended);
  pthread_mutex_destroy (&w->lock);
  if (open)
    set_blocking (w->fd, false);
  w->fd = -1;
}
