/* native/wait.c of the simulator: the clock is a number, and whoever waits gives way.
 *
 * Idea.  wait.c is the only place where the core blocks, so with this file in its place the
 * core's own blocking loops, unchanged, run as tasks of one thread: a wait hands control to
 * the scheduler (simsched.h), which comes back at its signal or its deadline, and now and then
 * without a reason, as the contract of a condition allows.
 *
 * Invariant.  No mutex is held while another task runs.
 */
#include "simstore.h"
#include "wait.h"

#include <errno.h>

uint64_t
fm_now_ns (void)
{
  return sim_clock_ns += 100; /* a look at the clock takes time, so that slices end */
}

void
fm_cond_init (pthread_cond_t *c)
{
  pthread_cond_init (c, NULL);
}

int
fm_cond_wait_until (pthread_cond_t *c, pthread_mutex_t *m, uint64_t deadline_ns)
{
  pthread_mutex_unlock (m);
  int late = sim_wait (c, deadline_ns);
  pthread_mutex_lock (m);
  return late ? -ETIMEDOUT : 0;
}

void
fm_cond_wait (pthread_cond_t *c, pthread_mutex_t *m)
{
  fm_cond_wait_until (c, m, UINT64_MAX);
}

int
fm_poll_until (struct pollfd *fds, nfds_t n, uint64_t deadline_ns)
{
  (void)fds, (void)n;
  return sim_wait (NULL, deadline_ns) ? -ETIMEDOUT : 0;
}

/* At once: what is opened beside is there, or cannot be had, before the caller goes on. */
int
fm_thread_begin (pthread_t *t, void *(*work) (void *), void *arg)
{
  (void)t;
  work (arg);
  return 0;
}

void
fm_thread_end (pthread_t t)
{
  (void)t;
}
