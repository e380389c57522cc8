/* See gate.h. */
#include "gate.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>

#define FM_GATE_CLOSED 0x80000000u

void
fm_gate_init (struct fm_gate *g)
{
  atomic_init (&g->state, 0);
  pthread_mutex_init (&g->lock, NULL);
  fm_cond_init (&g->opened);
  fm_cond_init (&g->drained);
}

void
fm_gate_free (struct fm_gate *g)
{
  assert (atomic_load (&g->state) == 0);
  pthread_cond_destroy (&g->opened);
  pthread_cond_destroy (&g->drained);
  pthread_mutex_destroy (&g->lock);
}

void
fm_gate_leave (struct fm_gate *g)
{
  uint32_t old = atomic_fetch_sub (&g->state, 1);
  assert ((old & ~FM_GATE_CLOSED) != 0);
  if (old == (FM_GATE_CLOSED | 1)) {
    pthread_mutex_lock (&g->lock);
    pthread_cond_signal (&g->drained);
    pthread_mutex_unlock (&g->lock);
  }
}

bool
fm_gate_try_enter (struct fm_gate *g)
{
  if (!(atomic_fetch_add (&g->state, 1) & FM_GATE_CLOSED))
    return true;
  fm_gate_leave (g); /* we were counted for an instant: the drain must hear of it */
  return false;
}

void
fm_gate_wait_open (struct fm_gate *g)
{
  pthread_mutex_lock (&g->lock);
  while (atomic_load (&g->state) & FM_GATE_CLOSED)
    fm_cond_wait (&g->opened, &g->lock);
  pthread_mutex_unlock (&g->lock);
}

void
fm_gate_close (struct fm_gate *g)
{
  uint32_t old = atomic_fetch_or (&g->state, FM_GATE_CLOSED);
  assert (!(old & FM_GATE_CLOSED));
}

int
fm_gate_drain (struct fm_gate *g, uint64_t deadline_ns)
{
  int r = 0;
  pthread_mutex_lock (&g->lock);
  while (r == 0 && (atomic_load (&g->state) & ~FM_GATE_CLOSED))
    r = fm_cond_wait_until (&g->drained, &g->lock, deadline_ns);
  if (r == -ETIMEDOUT && !(atomic_load (&g->state) & ~FM_GATE_CLOSED))
    r = 0;
  pthread_mutex_unlock (&g->lock);
  return r;
}

void
fm_gate_open (struct fm_gate *g)
{
  pthread_mutex_lock (&g->lock);
  atomic_fetch_and (&g->state, ~FM_GATE_CLOSED);
  pthread_cond_broadcast (&g->opened);
  pthread_mutex_unlock (&g->lock);
}
