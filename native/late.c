/* See late.h. */
#include "late.h"
#include "flush.h"
#include "store_nbd.h"
#include "wait.h"

#include <errno.h>
#include <libnbd.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#define PROBE_S 5
#define PROBES 4
#define SILENT_MS (1000 * PROBE_S * (1 + PROBES))

struct fm_late {
  struct nbd_handle *connection; /* NULL: it has ended, ... */
  uint64_t until_ns;             /* ... and its server may be silent for so long */
  uint64_t opened_ns, seen_ns; /* as of its port */
  bool is_cut;        /* it has ended, and a write has had no answer */
  uint64_t probed_ns; /* since then no probe was answered; 0: the last one was */
  struct fm_late *next;
};

struct fm_late *
fm_late_new (void)
{
  return calloc (1, sizeof (struct fm_late));
}

void
fm_late_keep_asking (int fd, int times)
{
  int yes = 1, seconds = PROBE_S;
  setsockopt (fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes); /* a Unix socket needs it not */
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
  setsockopt (fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

void
fm_late_end_at_once (int fd, bool at_once)
{
  struct linger linger = { .l_onoff = at_once };
  setsockopt (fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger); /* socket(7) */
}

void
fm_late_add (struct fm_port *p, struct nbd_handle *connection)
{
  struct fm_store *s = p->store;
  struct fm_late *late = p->late;
  p->late = NULL;
  late->connection = connection;
  late->opened_ns = p->opened_ns;
  late->seen_ns = p->seen_ns;
  late->until_ns = fm_now_ns () + s->timeout_ns;
  if (connection)
    fm_late_keep_asking (nbd_aio_get_fd (connection), PROBES);
  pthread_mutex_lock (&s->lock);
  late->next = s->late;
  s->late = late;
  s->nlate++;
  pthread_mutex_unlock (&s->lock);
}

void
fm_late_cut (struct fm_late *late)
{
  late->is_cut = true;
}

static void
take_first (struct fm_late **at)
{
  struct fm_late *late = *at;
  *at = late->next;
  if (late->connection)
    nbd_close (late->connection);
  free (late);
}

/* The kernel asks nothing on a connection on which something is unanswered, and sends that again for a quarter
 * of an hour.  (TCP_USER_TIMEOUT would end one, too, whose server answers, and reads nothing.)  Where the other side
 * takes nothing it probes whether it does, less and less often, up to every two minutes. */
static bool
is_unheard (struct fm_late *late, int fd)
{
  struct tcp_info info = { 0 };
  socklen_t size = sizeof info;
  if (getsockopt (fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
    return false;
  if (info.tcpi_unacked)
    return info.tcpi_last_ack_recv > SILENT_MS;
  uint64_t now = fm_now_ns ();
  if (!info.tcpi_probes || !info.tcpi_notsent_bytes)
    late->probed_ns = 0;
  else if (!late->probed_ns)
    late->probed_ns = now;
  return late->probed_ns && now - late->probed_ns > SILENT_MS * FM_MS;
}

/* Its connection has ended: whether its server may have it yet.  One that lives has shown that it takes longer than
 * the store's time; of one that nobody knows to live that would be waited for after each restart.  (Each connection
 * looks here before it can be an anchor: store_nbd.c.) */
static bool
may_be_had (struct fm_store *s, struct fm_late *late)
{
  if (!late->is_cut || fm_flush_gone_with (s, late->opened_ns, late->seen_ns))
    return false;
  uint64_t ns = fm_store_has_anchor (s) ? SILENT_MS * FM_MS : 0;
  late->until_ns = fm_now_ns () + (ns > s->timeout_ns ? ns : s->timeout_ns);
  nbd_close (late->connection);
  late->connection = NULL;
  return true;
}

static bool
may_come (struct fm_store *s, struct fm_late *late)
{
  struct nbd_handle *h = late->connection;
  if (!h)
    return fm_now_ns () < late->until_ns;
  if (!fm_nbd_turn (h, NULL))
    return may_be_had (s, late);
  late->seen_ns = fm_now_ns ();
  return nbd_aio_in_flight (h) > 0 && !is_unheard (late, nbd_aio_get_fd (h));
}

bool
fm_late_settled (struct fm_store *s)
{
  if (atomic_load (&s->nlate) == 0)
    return true;
  fm_flush_look (s); /* whether the server lives */
  pthread_mutex_lock (&s->lock);
  for (struct fm_late **at = &s->late; *at;) {
    if (may_come (s, *at)) {
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

int
fm_late_refusal (struct fm_store *s)
{
  if (fm_late_settled (s))
    return 0;
  pthread_mutex_lock (&s->lock);
  int rc = s->late ? -ENOTCONN : 0;
  for (struct fm_late *late = s->late; late; late = late->next)
    if (late->connection)
      rc = -ETIMEDOUT;
  pthread_mutex_unlock (&s->lock);
  return rc;
}

void
fm_late_server_gone (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  for (struct fm_late **at = &s->late; *at;)
    if ((*at)->connection)
      at = &(*at)->next;
    else {
      take_first (at);
      s->nlate--;
    }
  pthread_mutex_unlock (&s->lock);
}

void
fm_late_forget (struct fm_store *s)
{
  while (s->late)
    take_first (&s->late);
}
