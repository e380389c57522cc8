/* See relay.h.  A thread for those who come, and two for each of them, one a direction. */
#include "relay.h"
#include "check.h"
#include "wait.h"

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
  char socket[108], uri[160], server[108];
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
unix_socket (const char *path, struct sockaddr_un *a)
{
  *a = (struct sockaddr_un){ .sun_family = AF_UNIX };
  snprintf (a->sun_path, sizeof a->sun_path, "%s", path);
  int small = CHUNK, fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt (fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  return fd;
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
    struct sockaddr_un a;
    int server = unix_socket (r->server, &a);
    if (connect (server, (struct sockaddr *)&a, sizeof a) < 0)
      abort ();
    unsigned i = r->n;
    r->half[i][0] = (struct half){ r, i, client, server, r->rate != 0 };
    r->half[i][1] = (struct half){ r, i, server, client, false };
    for (unsigned k = 0; k < 2; k++)
      pthread_create (&r->thread[i][k], NULL, carry, &r->half[i][k]);
    pthread_mutex_lock (&r->lock);
    r->n++;
    pthread_mutex_unlock (&r->lock);
  }
  return NULL;
}

struct relay *
relay_open (const struct lab_server *s, uint64_t rate)
{
  struct relay *r = calloc (1, sizeof *r);
  struct sockaddr_un a;
  r->rate = rate;
  pthread_mutex_init (&r->lock, NULL);
  snprintf (r->server, sizeof r->server, "%s", s->socket);
  snprintf (r->socket, sizeof r->socket, "%.100s.way", s->socket);
  snprintf (r->uri, sizeof r->uri, "nbd+unix:///?socket=%s", r->socket);
  r->listener = unix_socket (r->socket, &a);
  if (bind (r->listener, (struct sockaddr *)&a, sizeof a) < 0 || listen (r->listener, MOST) < 0)
    abort ();
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
  unlink (r->socket);
  free (r);
}
