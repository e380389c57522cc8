/* See late.h. */
#include "late.h"
#include "store_nbd.h"

#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>

struct fm_late {
  struct nbd_handle *connection;
  struct fm_late *next;
};

struct fm_late *
fm_late_new (void)
{
  return calloc (1, sizeof (struct fm_late));
}

/* A machine that is gone says nothing: without a question its connection would stay for ever. */
static void
keep_asking (int fd)
{
  int yes = 1, seconds = 5, times = 4;
  setsockopt (fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes); /* a Unix socket needs it not */
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

void
fm_late_add (struct fm_store *s, struct fm_late *late, struct nbd_handle *connection)
{
  late->connection = connection;
  keep_asking (nbd_aio_get_fd (connection));
  pthread_mutex_lock (&s->lock);
  late->next = s->late;
  s->late = late;
  s->nlate++;
  pthread_mutex_unlock (&s->lock);
}

static void
take_first (struct fm_late **at)
{
  struct fm_late *late = *at;
  *at = late->next;
  nbd_close (late->connection);
  free (late);
}

bool
fm_late_settled (struct fm_store *s)
{
  if (atomic_load (&s->nlate) == 0)
    return true;
  pthread_mutex_lock (&s->lock);
  for (struct fm_late **at = &s->late; *at;) {
    struct nbd_handle *h = (*at)->connection;
    if (fm_nbd_turn (h, NULL) && nbd_aio_in_flight (h) > 0) {
      at = &(*at)->next;
      continue;
    }
    take_first (at);
    fm_store_lose (s); /* before anybody finds it settled */
    s->nlate--;
  }
  bool settled = s->nlate == 0;
  pthread_mutex_unlock (&s->lock);
  return settled;
}

void
fm_late_forget (struct fm_store *s)
{
  while (s->late)
    take_first (&s->late);
}
