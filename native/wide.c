/* See wide.h. */
#include "wide.h"
#include "wait.h"

static void *
open_port (void *arg)
{
  struct fm_wide *w = arg;
  int rc;
  atomic_store (&w->port, fm_port_open (w->store, &rc));
  return NULL;
}

struct fm_port *
fm_wide_port (struct fm_wide *w, struct fm_store *s)
{
  if (!w->store) {
    w->store = s;
    w->begun = fm_thread_begin (&w->thread, open_port, w) == 0;
  }
  return atomic_load (&w->port);
}

void
fm_wide_close (struct fm_wide *w)
{
  if (w->begun)
    fm_thread_end (w->thread);
  fm_port_close (atomic_load (&w->port));
}
