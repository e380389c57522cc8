/* See lab.h. */
#include "lab.h"
#include "wait.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];

static void
fatal (const char *what)
{
  fprintf (stderr, "lab: %s: %s\n", what, strerror (errno));
  abort ();
}

static void
remove_folder (void)
{
  DIR *d = opendir (folder);
  for (struct dirent *e; d && (e = readdir (d));)
    if (e->d_name[0] != '.')
      unlinkat (dirfd (d), e->d_name, 0);
  if (d)
    closedir (d);
  rmdir (folder);
}

static void
scratch_path (char path[108], const char *kind)
{
  static unsigned number;
  if (!folder[0]) {
    const char *parent = getenv ("FM_SCRATCH"); /* run.sh's, which cleans up after the killed */
    snprintf (folder, sizeof folder, "%.50s/fm-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp (folder))
      fatal (folder);
    atexit (remove_folder);
  }
  snprintf (path, 108, "%.40s/%u.%.10s", folder, number++, kind);
}

int
lab_file (uint64_t size, char path[108])
{
  scratch_path (path, "img");
  int fd = open (path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate (fd, (off_t)size) < 0)
    fatal (path);
  return fd;
}

struct fm_store *
lab_file_store (uint64_t size, int *fd)
{
  char path[108];
  struct fm_store *s;
  *fd = lab_file (size, path);
  if (fm_store_open_file (dup (*fd), size, &s) < 0)
    fatal (path);
  return s;
}

/* ---- servers ---- */

static bool
answers (const char *socket_path)
{
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  snprintf (a.sun_path, sizeof a.sun_path, "%s", socket_path);
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool yes = connect (fd, (struct sockaddr *)&a, sizeof a) == 0;
  close (fd);
  return yes;
}

/* Spawned, not forked: between fork and exec the child of a process with threads may allocate nothing
 * (fork(2)), and the thread sanitizer allocates at each call. */
static pid_t
spawn_nbdkit (const char *socket_path, const char *arguments)
{
  char *copy = strdup (arguments), *rest;
  char *argv[32] = { "nbdkit", "--exit-with-parent", "-f", "-U", (char *)socket_path };
  unsigned n = 5;
  for (char *a = strtok_r (copy, ",", &rest); a && n < 31; a = strtok_r (NULL, ",", &rest))
    argv[n++] = a;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init (&actions);
  /* It complains about clients that vanish, which is what tests do. */
  posix_spawn_file_actions_addopen (&actions, 2, "/dev/null", O_RDWR, 0);
  pid_t pid;
  int rc = posix_spawnp (&pid, "nbdkit", &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy (&actions);
  free (copy);
  if (rc)
    fatal ("nbdkit");
  return pid;
}

void
lab_serve (struct lab_server *s, const char *arguments)
{
  if (!s->socket[0])
    scratch_path (s->socket, "sock");
  snprintf (s->uri, sizeof s->uri, "nbd+unix:///?socket=%s", s->socket);
  unlink (s->socket);
  s->pid = spawn_nbdkit (s->socket, arguments);
  for (unsigned i = 0; !answers (s->socket); i++) {
    if (i == 2000 || waitpid (s->pid, NULL, WNOHANG) == s->pid)
      fatal (arguments);
    usleep (5000);
  }
}

void
lab_kill (struct lab_server *s)
{
  kill (s->pid, SIGKILL);
  waitpid (s->pid, NULL, 0);
}

void
lab_stop (struct lab_server *s)
{
  kill (s->pid, SIGSTOP);
  waitpid (s->pid, NULL, WUNTRACED); /* not before all of its threads have stopped */
}

struct fm_store *
lab_nbd_store (const struct lab_server *s)
{
  struct fm_store *store;
  char why[256] = "";
  if (fm_store_open_nbd (s->uri, LAB_TIMEOUT_NS, &store, why, sizeof why) < 0) {
    fprintf (stderr, "lab: %s: %s\n", s->uri, why);
    abort ();
  }
  return store;
}
