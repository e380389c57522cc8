/* See wide.h. */
#include "wide.h"

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
    w->begun = pthread_create (&w->thread, NULL, open_port, w) == 0;
  }
  return atomic_load (&w->port);
}

void
fm_wide_close (struct fm_wide *w)
{
  if (w->begun)
    pthread_join (w->thread, NULL);
  fm_port_close (atomic_load (&w->port));
}
