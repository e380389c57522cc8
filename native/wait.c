/* See wait.h. */
#include "wait.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

uint64_t
fm_now_ns (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static struct timespec
timespec_of (uint64_t ns)
{
  return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000ULL),
                            .tv_nsec = (long)(ns % 1000000000ULL) };
}

void
fm_cond_init (pthread_cond_t *c)
{
  pthread_condattr_t a;
  pthread_condattr_init (&a);
  pthread_condattr_setclock (&a, CLOCK_MONOTONIC);
  pthread_cond_init (c, &a);
  pthread_condattr_destroy (&a);
}

void
fm_cond_wait (pthread_cond_t *c, pthread_mutex_t *m)
{
  pthread_cond_wait (c, m);
}

int
fm_cond_wait_until (pthread_cond_t *c, pthread_mutex_t *m, uint64_t deadline_ns)
{
  struct timespec t = timespec_of (deadline_ns);
  return pthread_cond_timedwait (c, m, &t) == ETIMEDOUT ? -ETIMEDOUT : 0;
}

int
fm_poll_until (struct pollfd *fds, nfds_t n, uint64_t deadline_ns)
{
  uint64_t now = fm_now_ns ();
  struct timespec t = timespec_of (deadline_ns > now ? deadline_ns - now : 0);
  int r = ppoll (fds, n, &t, NULL);
  return r == 0 ? -ETIMEDOUT : 0; /* EINTR: the caller steps and comes again */
}

int
fm_thread_begin (pthread_t *t, void *(*work) (void *), void *arg)
{
  sigset_t all, before;
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &before); /* the process's are for threads of its own choice */
  int rc = -pthread_create (t, NULL, work, arg);
  pthread_sigmask (SIG_SETMASK, &before, NULL);
  return rc;
}

void
fm_thread_end (pthread_t t)
{
  pthread_join (t, NULL);
}
