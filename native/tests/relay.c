/* See relay.h.  A thread for those who come, and two for each of them, one a direction. */
#include "relay.h"
#include "check.h"
#include "wait.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MOST 64
#define CHUNK 4096

struct half {
  struct relay *r;
  unsigned number;
  int from, to;
  bool limited;
};

struct relay {
  char uri[64], server[108];
  int listener;
  uint64_t rate;
  pthread_mutex_t lock; /* guards the next two */
  uint64_t free_ns;     /* when the way has carried what it was given */
  unsigned n;
  _Atomic bool silent[MOST], ended;
  struct half half[MOST][2];
  pthread_t thread[MOST][2], accepting;
};

static int
server_socket (const struct relay *r)
{
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  snprintf (a.sun_path, sizeof a.sun_path, "%s", r->server);
  int small = CHUNK, fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt (fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  if (connect (fd, (struct sockaddr *)&a, sizeof a) < 0)
    abort ();
  return fd;
}

/* TCP, of which the system takes little ahead of those who read, if the way is limited. */
static void
listen_for_clients (struct relay *r)
{
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t n = sizeof a;
  int small = 4 * CHUNK;
  r->listener = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (r->rate)
    setsockopt (r->listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  if (bind (r->listener, (struct sockaddr *)&a, n) < 0 || listen (r->listener, MOST) < 0
      || getsockname (r->listener, (struct sockaddr *)&a, &n) < 0)
    abort ();
  snprintf (r->uri, sizeof r->uri, "nbd://127.0.0.1:%u", ntohs (a.sin_port));
}

/* The way is one for all: each chunk has its turn. */
static void
wait_turn (struct relay *r, uint64_t bytes)
{
  pthread_mutex_lock (&r->lock);
  uint64_t now = fm_now_ns ();
  r->free_ns = (r->free_ns > now ? r->free_ns : now) + bytes * 1000000000ULL / r->rate;
  uint64_t until = r->free_ns;
  pthread_mutex_unlock (&r->lock);
  fm_poll_until (NULL, 0, until);
}

static void *
carry (void *arg)
{
  struct half *h = arg;
  char buf[CHUNK];
  ssize_t n;
  while ((n = recv (h->from, buf, sizeof buf, 0)) > 0) {
    if (h->limited)
      wait_turn (h->r, (uint64_t)n);
    while (h->r->silent[h->number] && !h->r->ended)
      fm_poll_until (NULL, 0, fm_now_ns () + FM_MS);
    if (send (h->to, buf, (size_t)n, MSG_NOSIGNAL) != n)
      break;
  }
  shutdown (h->from, SHUT_RDWR);
  shutdown (h->to, SHUT_RDWR);
  return NULL;
}

static void *
accept_all (void *arg)
{
  struct relay *r = arg;
  int client;
  while ((client = accept4 (r->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0 && r->n < MOST) {
    int server = server_socket (r);
    unsigned i = r->n;
    r->half[i][0] = (struct half){ r, i, client, server, r->rate != 0 };
    r->half[i][1] = (struct half){ r, i, server, client, false };
    pthread_mutex_lock (&r->lock); /* what it carries already is counted by who asks then */
    for (unsigned k = 0; k < 2; k++)
      pthread_create (&r->thread[i][k], NULL, carry, &r->half[i][k]);
    r->n++;
    pthread_mutex_unlock (&r->lock);
  }
  return NULL;
}

struct relay *
relay_open (const struct lab_server *s, uint64_t rate)
{
  struct relay *r = calloc (1, sizeof *r);
  r->rate = rate;
  pthread_mutex_init (&r->lock, NULL);
  snprintf (r->server, sizeof r->server, "%s", s->socket);
  listen_for_clients (r);
  pthread_create (&r->accepting, NULL, accept_all, r);
  return r;
}

const char *
relay_uri (const struct relay *r)
{
  return r->uri;
}

unsigned
relay_connections (struct relay *r)
{
  pthread_mutex_lock (&r->lock);
  unsigned n = r->n;
  pthread_mutex_unlock (&r->lock);
  return n;
}

void
relay_silence (struct relay *r, unsigned number)
{
  r->silent[number] = true;
}

void
relay_cut (struct relay *r, unsigned number)
{
  for (unsigned k = 0; k < 2; k++)
    shutdown (r->half[number][k].from, SHUT_RDWR);
}

void
relay_close (struct relay *r)
{
  r->ended = true;
  shutdown (r->listener, SHUT_RDWR);
  pthread_join (r->accepting, NULL);
  for (unsigned i = 0; i < r->n; i++) {
    for (unsigned k = 0; k < 2; k++)
      shutdown (r->half[i][k].from, SHUT_RDWR);
    for (unsigned k = 0; k < 2; k++)
      pthread_join (r->thread[i][k], NULL);
    for (unsigned k = 0; k < 2; k++)
      close (r->half[i][k].from);
  }
  close (r->listener);
  free (r);
}
