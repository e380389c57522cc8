/* Promises of callers.h. */
#include "check.h"

#include "callers.h"

#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MANY 8

/* A socket that listens on the loopback of this family; its port. */
static int
listening (int family, uint16_t *port)
{
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } a;
  socklen_t size = family == AF_INET ? sizeof a.v4 : sizeof a.v6;
  memset (&a, 0, sizeof a);
  a.any.sa_family = (sa_family_t)family;
  if (family == AF_INET)
    a.v4.sin_addr.s_addr = htonl (INADDR_LOOPBACK);
  else
    a.v6.sin6_addr = in6addr_loopback;
  int fd = socket (family, SOCK_STREAM, 0);
  if (fd < 0 || bind (fd, &a.any, size) < 0 || listen (fd, MANY) < 0
      || getsockname (fd, &a.any, &size) < 0)
    return -1;
  *port = ntohs (family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
  return fd;
}

/* A client of that socket, and the descriptor that it was accepted as. */
static int
call (int listener, int *accepted)
{
  struct sockaddr_storage a;
  socklen_t size = sizeof a;
  getsockname (listener, (struct sockaddr *)&a, &size);
  int fd = socket (a.ss_family, SOCK_STREAM, 0);
  CHECK_EQ (connect (fd, (struct sockaddr *)&a, size), 0);
  *accepted = accept (listener, NULL, NULL);
  return fd;
}

static bool
has_ended (int fd)
{
  char c;
  return recv (fd, &c, 1, MSG_DONTWAIT) == 0;
}

/* Those of our port are found, by the address of the client, and no others: not
 * what listens, not our own calls to others, not another port's. */
static void
finds_who_called (int family, const char *host)
{
  uint16_t ports[2];
  int ours = listening (family, &ports[0]), other = listening (family, &ports[1]), a, b, c;
  if (ours < 0)
    return; /* this machine does not have the family */
  int first = call (ours, &a), second = call (ours, &b), third = call (other, &c);
  struct fm_caller found[MANY];
  CHECK_EQ (fm_callers ("/none", ports, 1, found, MANY), 2);
  CHECK_EQ (fm_callers ("/none", ports, 2, found, MANY), 3);
  CHECK_EQ (fm_callers ("/none", ports, 2, found, 1), 1);
  CHECK_EQ (fm_callers ("/none", ports, 1, found, MANY), 2);
  for (unsigned i = 0; i < 2; i++) {
    CHECK_EQ (strcmp (found[i].host, host), 0);
    CHECK (found[i].fd == a || found[i].fd == b);
  }
  int end = found[0].fd == a ? first : second, stay = end == first ? second : first;
  fm_caller_shut (&found[0], SHUT_RDWR);
  CHECK (has_ended (end) && !has_ended (stay) && !has_ended (third));
  int all[] = { ours, other, a, b, c, first, second, third };
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
    close (all[i]);
}

static void
finds_clients_over_tcp (void)
{
  finds_who_called (AF_INET, "127.0.0.1");
  finds_who_called (AF_INET6, "::1");
}

/* A descriptor that has become another connection meanwhile is left alone. */
static void
spares_who_has_the_number_now (void)
{
  uint16_t port;
  int ours = listening (AF_INET, &port), a, b;
  int first = call (ours, &a);
  struct fm_caller found[MANY];
  CHECK_EQ (fm_callers ("/none", &port, 1, found, MANY), 1);
  int second = call (ours, &b);
  CHECK_EQ (dup2 (b, a), a);
  fm_caller_shut (&found[0], SHUT_RDWR);
  CHECK (!has_ended (second));
  close (a);
  fm_caller_shut (&found[0], SHUT_RDWR); /* no descriptor any more */
  CHECK (!has_ended (second));
  close (b), close (first), close (second), close (ours);
}

/* Without a descriptor to look with, nobody is said to have gone. */
static void
says_that_it_cannot_look (void)
{
  struct rlimit all, none;
  uint16_t port;
  int ours = listening (AF_INET, &port), accepted;
  int client = call (ours, &accepted);
  struct fm_caller found[MANY];
  CHECK_EQ (getrlimit (RLIMIT_NOFILE, &all), 0);
  none = all;
  none.rlim_cur = 0;
  CHECK_EQ (setrlimit (RLIMIT_NOFILE, &none), 0);
  int rc = fm_callers ("/none", &port, 1, found, MANY);
  CHECK_EQ (setrlimit (RLIMIT_NOFILE, &all), 0);
  CHECK_EQ (rc, -EMFILE);
  CHECK_EQ (fm_callers ("/none", &port, 1, found, MANY), 1);
  close (client), close (accepted), close (ours);
}

/* By the path, as long as a path may be. */
static void
finds_clients_of_a_unix_socket (void)
{
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  char path[sizeof a.sun_path];
  int n = snprintf (path, sizeof path, "/tmp/callers.%d.", (int)getpid ());
  memset (path + n, 'x', sizeof path - 1 - (size_t)n);
  path[sizeof path - 1] = 0;
  strcpy (a.sun_path, path);
  int ours = socket (AF_UNIX, SOCK_STREAM, 0), accepted;
  CHECK_EQ (bind (ours, (struct sockaddr *)&a, sizeof a), 0);
  CHECK_EQ (listen (ours, MANY), 0);
  int client = call (ours, &accepted);
  struct fm_caller found[MANY];
  CHECK_EQ (fm_callers ("/none", NULL, 0, found, MANY), 0);
  CHECK_EQ (fm_callers (path, NULL, 0, found, MANY), 1);
  CHECK (found[0].fd == accepted && found[0].port == 0);
  fm_caller_shut (&found[0], SHUT_RD);
  CHECK (!has_ended (client) && has_ended (accepted));
  close (client), close (accepted), close (ours);
  unlink (path);
}

int
main (void)
{
  RUN (finds_clients_over_tcp);
  RUN (spares_who_has_the_number_now);
  RUN (says_that_it_cannot_look);
  RUN (finds_clients_of_a_unix_socket);
  return finish ("callers");
}
