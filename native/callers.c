/* See callers.h. */
#include "callers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union address {
  char zeroed[sizeof (struct sockaddr_un) + 1]; /* so a path of full length has an end */
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  struct sockaddr_un local;
};

/* The port of an address of TCP, its host as text; 0: it is none. */
static uint16_t
port_of (const union address *a, char *host, socklen_t size)
{
  if (a->any.sa_family == AF_INET)
    return inet_ntop (AF_INET, &a->v4.sin_addr, host, size) ? ntohs (a->v4.sin_port) : 0;
  if (a->any.sa_family == AF_INET6)
    return inet_ntop (AF_INET6, &a->v6.sin6_addr, host, size) ? ntohs (a->v6.sin6_port) : 0;
  return 0;
}

static bool
peer_of (int fd, struct fm_caller *c)
{
  union address peer;
  socklen_t size = sizeof peer;
  if (getpeername (fd, &peer.any, &size) < 0)
    return false; /* it listens, or has ended */
  c->fd = fd;
  c->host[0] = 0;
  c->port = port_of (&peer, c->host, sizeof c->host);
  return true;
}

static bool
is_ours (int fd, const char *path, const uint16_t *ports, unsigned nports)
{
  union address own;
  char host[46];
  socklen_t size = sizeof own;
  memset (&own, 0, sizeof own);
  if (getsockname (fd, &own.any, &size) < 0)
    return false;
  if (own.any.sa_family == AF_UNIX)
    return size > offsetof (struct sockaddr_un, sun_path) && strcmp (own.local.sun_path, path) == 0;
  uint16_t port = port_of (&own, host, sizeof host);
  for (unsigned i = 0; i < nports; i++)
    if (port && port == ports[i])
      return true;
  return false;
}

int
fm_callers (const char *path, const uint16_t *ports, unsigned nports, struct fm_caller *out,
            unsigned max)
{
  DIR *all = opendir ("/proc/self/fd");
  if (!all)
    return -errno;
  unsigned n = 0;
  for (struct dirent *e; n < max && (e = readdir (all));) {
    int fd = atoi (e->d_name); /* of "." and "..": 0, which is no socket of ours */
    if (is_ours (fd, path, ports, nports) && peer_of (fd, &out[n]))
      n++;
  }
  closedir (all);
  return (int)n;
}

void
fm_caller_shut (const struct fm_caller *c, int how)
{
  int fd = fcntl (c->fd, F_DUPFD_CLOEXEC, 0); /* holds it while it is looked at */
  struct fm_caller now;
  if (fd >= 0 && peer_of (fd, &now) && now.port == c->port && strcmp (now.host, c->host) == 0)
    shutdown (fd, how);
  if (fd >= 0)
    close (fd);
}
