/* Promises of store.h and store_nbd.h, for NBD servers: real ones, nbdkit. */
#include "check.h"
#include "lab.h"
#include "line.h"
#include "relay.h"
#include "wait.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MANY 200
#define PIECE 16384

static struct lab_server
serve (const char *arguments)
{
  struct lab_server s = { 0 };
  lab_serve (&s, arguments);
  return s;
}

/* Step the port until all are done; how many ended, each counted once. */
static unsigned
until_done (struct fm_port *p, struct fm_op *ops, unsigned n)
{
  uint64_t deadline = fm_now_ns () + 10000 * FM_MS;
  for (;;) {
    unsigned done = 0;
    for (unsigned i = 0; i < n; i++)
      done += ops[i].done;
    if (done == n || fm_now_ns () > deadline)
      return done;
    struct pollfd fd;
    if (p->store->ops->pollfd (p, &fd))
      fm_poll_until (&fd, 1, fm_now_ns () + 20 * FM_MS);
    p->store->ops->step (p);
  }
}

/* Hundreds of operations under way on one port end once each, with their own bytes. */
static void
many_in_flight (void)
{
  struct lab_server server = serve ("memory,16M");
  struct fm_store *s = lab_nbd_store (&server);
  int rc;
  struct fm_port *p = fm_port_open (s, &rc);
  struct fm_op ops[MANY];
  char *out = malloc (MANY * PIECE), *in = calloc (MANY, PIECE);
  CHECK_EQ (s->size, 16 << 20);
  for (unsigned i = 0; i < MANY; i++) {
    memset (out + i * PIECE, (int)i + 1, PIECE);
    ops[i] = (struct fm_op){ .kind = FM_WRITE, .offset = i * PIECE, .length = PIECE,
                             .buf = out + i * PIECE };
    s->ops->submit (p, &ops[i]);
  }
  CHECK_EQ (until_done (p, ops, MANY), MANY);
  CHECK_EQ (s->written_bytes, MANY * PIECE);
  for (unsigned i = 0; i < MANY; i++) {
    CHECK_EQ (ops[i].rc, 0);
    bool zero = i % 3 == 0;
    ops[i] = (struct fm_op){ .kind = zero ? FM_ZERO : FM_READ, .offset = i * PIECE,
                             .length = PIECE, .buf = in + i * PIECE,
                             .flags = zero ? FM_PUNCH : 0 };
    s->ops->submit (p, &ops[i]);
  }
  CHECK_EQ (until_done (p, ops, MANY), MANY);
  for (unsigned i = 0; i < MANY; i++) {
    char *mine = in + i * PIECE;
    if (i % 3 == 0) {
      memset (out + i * PIECE, 0, PIECE);
      CHECK_EQ (fm_store_read (s, mine, PIECE, i * PIECE), 0);
    }
    CHECK (memcmp (mine, out + i * PIECE, PIECE) == 0);
  }
  CHECK (!p->under_way && !p->failed);
  fm_port_close (p);
  fm_store_close (s);
  lab_kill (&server);
  free (in);
  free (out);
}

/* A server that dies: what is under way ends, once, with an error; the port stays
 * failed, and no later operation on it touches a buffer or waits. */
static void
server_killed (void)
{
  struct lab_server server = serve ("--filter=delay,memory,16M,delay-write=300ms");
  struct fm_store *s = lab_nbd_store (&server);
  int rc;
  struct fm_port *p = fm_port_open (s, &rc);
  struct fm_op ops[MANY], late = { .kind = FM_FLUSH };
  char *buf = calloc (MANY, PIECE);
  for (unsigned i = 0; i < MANY; i++) {
    ops[i] = (struct fm_op){ .kind = i % 2 ? FM_READ : FM_WRITE, .offset = i * PIECE,
                             .length = PIECE, .buf = buf + i * PIECE };
    s->ops->submit (p, &ops[i]);
  }
  s->ops->step (p);
  lab_kill (&server);
  CHECK_EQ (until_done (p, ops, MANY), MANY); /* twice would fail fm_op_finish's assertion */
  unsigned failed = 0;
  for (unsigned i = 0; i < MANY; i++)
    failed += ops[i].rc < 0;
  CHECK (failed > 0);
  CHECK (p->failed < 0 && !p->under_way);
  s->ops->submit (p, &late);
  CHECK (late.done && late.rc == p->failed);
  fm_port_close (p);
  CHECK (fm_store_read (s, buf, 1, 0) < 0);
  fm_store_close (s);
  free (buf);
}

/* A server that is silent: an operation ends with -ETIMEDOUT when its time is over. */
static void
server_silent (void)
{
  struct lab_server server = serve ("memory,1M");
  struct fm_store *s = lab_nbd_store (&server);
  char buf[512];
  s->timeout_ns = 300 * FM_MS;
  CHECK_EQ (fm_store_read (s, buf, sizeof buf, 0), 0); /* leaves an idle port */
  lab_stop (&server);
  for (unsigned i = 0; i < 2; i++) { /* on the idle port, then on a new connection */
    uint64_t start = fm_now_ns ();
    CHECK_EQ (fm_store_read (s, buf, sizeof buf, 0), -ETIMEDOUT);
    CHECK (fm_now_ns () - start >= 300 * FM_MS && fm_now_ns () - start < 1500 * FM_MS);
  }
  kill (server.pid, SIGCONT);
  CHECK_EQ (fm_store_read (s, buf, sizeof buf, 0), 0);
  fm_store_close (s);
  lab_kill (&server);
}

/* The same with many under way: all end when the port is given up, and libnbd,
 * which may still hold their buffers, is done with them. */
static void
port_given_up (void)
{
  struct lab_server server = serve ("memory,16M");
  struct fm_store *s = lab_nbd_store (&server);
  int rc;
  struct fm_port *p = fm_port_open (s, &rc);
  struct fm_op ops[MANY];
  lab_stop (&server);
  for (unsigned i = 0; i < MANY; i++) {
    ops[i] = (struct fm_op){ .kind = i % 2 ? FM_READ : FM_WRITE, .offset = i * PIECE,
                             .length = PIECE, .buf = calloc (1, PIECE) };
    s->ops->submit (p, &ops[i]);
  }
  p->failed = -ETIMEDOUT;
  s->ops->step (p);
  for (unsigned i = 0; i < MANY; i++) {
    CHECK (ops[i].done && ops[i].rc == -ETIMEDOUT);
    free (ops[i].buf);
  }
  fm_port_close (p);
  fm_store_close (s);
  lab_kill (&server);
}

static void
refused (const char *lacks, const char *arguments)
{
  struct lab_server server = serve (arguments);
  struct fm_store *s = NULL;
  char why[256] = "";
  CHECK_EQ (fm_store_open_nbd (server.uri, LAB_TIMEOUT_NS, &s, why, sizeof why), -EPROTO);
  CHECK (!s && strstr (why, lacks));
  lab_kill (&server);
}

/* A server that lacks what mirroring needs is refused with the reason. */
static void
refusals (void)
{
  refused ("read-only", "-r,memory,1M");
  refused ("multi-conn", "--filter=multi-conn,memory,1M,multi-conn-mode=disable");
  refused ("zero", "--filter=nozero,memory,1M");
  refused ("FUA", "--filter=fua,memory,1M"); /* fuamode=none is its default */
  refused ("flush", "eval,get_size=echo 1M,pread=exit 1,pwrite=exit 1");
  struct fm_store *s = NULL;
  char why[256] = "";
  int rc = fm_store_open_nbd ("nbd+unix:///?socket=/nowhere", LAB_TIMEOUT_NS, &s, why, 256);
  CHECK (rc == -ENOENT && !s && why[0]);
  why[0] = 0;
  CHECK (fm_store_open_nbd ("no uri at all", LAB_TIMEOUT_NS, &s, why, 256) < 0 && why[0]);
}

/* One that accepts and never speaks is given up in time. */
static void
connect_has_a_deadline (void)
{
  struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0fm-silent" };
  snprintf (a.sun_path + 1, sizeof a.sun_path - 1, "fm-silent-%d", (int)getpid ());
  char path[108], uri[160], why[256] = "";
  close (lab_file (0, path));
  unlink (path);
  snprintf (a.sun_path, sizeof a.sun_path, "%s", path);
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK (bind (fd, (struct sockaddr *)&a, sizeof a) == 0 && listen (fd, 8) == 0);
  snprintf (uri, sizeof uri, "nbd+unix:///?socket=%s", path);
  struct fm_store *s;
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_store_open_nbd (uri, 200 * FM_MS, &s, why, sizeof why), -ETIMEDOUT);
  CHECK (fm_now_ns () - start < 1500 * FM_MS);
  CHECK (strstr (why, "in time"));
  struct fm_line *l;
  CHECK_EQ (fm_line_open (uri, 200 * FM_MS, &l, why, sizeof why), -ETIMEDOUT);
  close (fd);
}

/* A server that has come back with less than mirroring counts on is not written to: a flush on one of its
 * connections would not cover what was written on another, or what is behind its end is gone. */
static void
another_comes_back (void)
{
  const char *others[] = { "--filter=multi-conn,memory,1M,multi-conn-mode=disable", "memory,512K" };
  char buf[512] = "x";
  for (unsigned i = 0; i < 2; i++) {
    struct lab_server server = serve ("memory,1M");
    struct fm_store *s = lab_nbd_store (&server);
    struct fm_op op = { .kind = FM_WRITE, .length = sizeof buf, .buf = buf };
    CHECK_EQ (fm_store_io (s, &op), 0);
    s->used = 1 << 20;
    lab_kill (&server);
    lab_serve (&server, others[i]);
    for (unsigned again = 0; again < 3; again++) /* the first meets a connection that has ended */
      CHECK (fm_store_io (s, &op) < 0);
    CHECK_EQ (op.rc, -EPROTO);
    CHECK_EQ (fm_store_read (s, buf, sizeof buf, 0), -EPROTO);
    CHECK (!fm_store_cuts (s) == (i == 0)); /* one that is smaller has bytes cut off, until a person says otherwise */
    lab_kill (&server);
    lab_serve (&server, "memory,2M");
    CHECK_EQ (fm_store_io (s, &op), 0);
    fm_store_close (s);
    lab_kill (&server);
  }
}

static struct fm_store *
store_over_a_file (struct lab_server *server, const char *filters, int *fd)
{
  char path[108], arguments[512], why[256] = "", buf[4096] = "x";
  int rc;
  struct fm_store *s;
  struct fm_op op = { .kind = FM_WRITE, .offset = 1 << 19, .length = sizeof buf, .buf = buf };
  *fd = lab_file (1 << 20, path);
  snprintf (arguments, sizeof arguments, filters, path);
  lab_serve (server, arguments);
  CHECK_EQ (fm_store_open_nbd (server->uri, 5 * LAB_TIMEOUT_NS, &s, why, sizeof why), 0);
  s->used = 1 << 20;
  CHECK_EQ (fm_store_io (s, &op), 0);
  CHECK (fm_store_reserve (s, 2, &rc) >= 1);
  CHECK_EQ (fm_store_cuts (s), 0);
  return s;
}

/* The connections of the store's pool, and those that are lent besides from now on. */
static unsigned
pool_with (struct fm_store *s, int more)
{
  pthread_mutex_lock (&s->lock);
  unsigned n = s->npool += (unsigned)more;
  pthread_mutex_unlock (&s->lock);
  return n;
}

static bool
is_opening (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  bool opening = s->opening;
  pthread_mutex_unlock (&s->lock);
  return opening;
}

/* A server that runs on over a file that was cut, and answers whoever reads behind the end with this error: it is asked
 * for the size by a new connection, also if it takes that long after, and as soon if it has answered so before for
 * another reason, for which no connection more is kept. */
static void
asked_for_its_size (const char *filters, bool at_once) /* by who asks first */
{
  char buf[4096];
  int fd;
  struct lab_server server = { 0 };
  struct fm_store *s = store_over_a_file (&server, filters, &fd);
  unsigned had = pool_with (s, 0);
  uint64_t until = fm_now_ns () + 40000 * FM_MS;
  for (unsigned i = 0; i < 10; i++) {
    fm_store_read (s, buf, sizeof buf, 1 << 19);
    CHECK_EQ (fm_store_cuts (s), 0);
  }
  while ((s->settled < s->doubts || is_opening (s)) && fm_now_ns () < until) {
    fm_store_cuts (s);
    usleep (1000);
  }
  CHECK_EQ (pool_with (s, 0), had);
  CHECK (ftruncate (fd, 4096) == 0);
  CHECK (fm_store_read (s, buf, sizeof buf, 1 << 19) < 0);
  uint64_t began = fm_now_ns ();
  int lent = at_once ? 0 : FM_POOL_MAX;
  pool_with (s, lent);
  while (!fm_store_cuts (s) && fm_now_ns () < until) {
    CHECK (!at_once);
    fm_poll_until (NULL, 0, fm_now_ns () + 50 * FM_MS);
  }
  CHECK (fm_store_cuts (s) && (!at_once || fm_now_ns () - began < 2000 * FM_MS));
  while (is_opening (s) && fm_now_ns () < until) /* what was opened to tell the size is closed then */
    usleep (1000);
  CHECK_EQ (pool_with (s, -lent), had);
  fm_store_close (s);
  lab_kill (&server);
  close (fd);
}

static void
cut_under_a_server (void)
{
  asked_for_its_size ("file,%s", true);
  asked_for_its_size ("--filter=error,file,%s,error-pread=ENOSPC,error-pread-rate=100%%", true);
  asked_for_its_size ("--filter=delay,file,%s,delay-open=2500ms", false);
  asked_for_its_size ("--filter=error,--filter=delay,file,%s,delay-open=800ms,error-pread=EIO,"
                      "error-pread-rate=100%%", false);
}

/* A server that takes no more: whoever asks waits once, and every request has a connection as before. */
static void
no_size_to_be_had (void)
{
  char buf[4096] = "x";
  int fd;
  struct lab_server server = { 0 };
  struct fm_store *s = store_over_a_file (&server, "--filter=error,--filter=limit,file,%s,limit=2,"
                                           "error-pread=EIO,error-pread-rate=100%%", &fd);
  struct fm_op op = { .kind = FM_WRITE, .offset = 1 << 19, .length = sizeof buf, .buf = buf };
  for (unsigned i = 0; i < 20; i++) {
    CHECK_EQ (fm_store_read (s, buf, sizeof buf, 1 << 19), -EIO);
    CHECK_EQ (fm_store_cuts (s), 0);
    CHECK_EQ (fm_store_io (s, &op), 0);
  }
  fm_store_close (s);
  lab_kill (&server);
  close (fd);

  s = store_over_a_file (&server, "--filter=error,file,%s,error-pread=EIO,error-pread-rate=100%%", &fd);
  CHECK_EQ (fm_store_read (s, buf, sizeof buf, 1 << 19), -EIO);
  lab_stop (&server);
  uint64_t began = fm_now_ns ();
  CHECK_EQ (fm_store_cuts (s), 0);
  CHECK (fm_now_ns () - began > 400 * FM_MS);
  began = fm_now_ns ();
  for (unsigned i = 0; i < 20; i++)
    CHECK_EQ (fm_store_cuts (s), 0);
  CHECK (fm_now_ns () - began < 400 * FM_MS);
  kill (server.pid, SIGCONT);
  fm_store_close (s);
  lab_kill (&server);
  close (fd);
}

/* An error of the server reaches the caller with its errno; the port lives on. */
static void
server_error (void)
{
  struct lab_server server = serve ("--filter=error,memory,1M,error-pwrite=ENOSPC,error-pwrite-rate=100%");
  struct fm_store *s = lab_nbd_store (&server);
  char buf[512] = { 0 };
  int rc;
  struct fm_port *p = fm_port_open (s, &rc);
  struct fm_op ops[2] = { { .kind = FM_WRITE, .length = 512, .buf = buf },
                          { .kind = FM_READ, .length = 512, .buf = buf } };
  s->ops->submit (p, &ops[0]);
  s->ops->submit (p, &ops[1]);
  CHECK_EQ (until_done (p, ops, 2), 2);
  CHECK_EQ (ops[0].rc, -ENOSPC);
  CHECK_EQ (ops[1].rc, 0);
  CHECK (!p->failed);
  CHECK_EQ (s->errors, 1);
  fm_port_close (p);
  fm_store_close (s);
  lab_kill (&server);
}

/* A fast zero on a server that has none is -EOPNOTSUPP, as with files: never an
 * error of the client. */
static void
no_fast_zero (void)
{
  struct lab_server server
      = serve ("--filter=nozero,memory,1M,zeromode=emulate,fastzeromode=none");
  struct fm_store *s = lab_nbd_store (&server);
  struct fm_op fast = { .kind = FM_ZERO, .flags = FM_FAST, .length = 4096 };
  struct fm_op slow = { .kind = FM_ZERO, .flags = FM_PUNCH | FM_FUA, .length = 4096 };
  CHECK_EQ (fm_store_io (s, &fast), -EOPNOTSUPP);
  CHECK_EQ (fm_store_io (s, &slow), 0);
  fm_store_close (s);
  lab_kill (&server);
}

static struct fm_store *shared;

static void *
client (void *arg)
{
  uint64_t mine = (uintptr_t)arg;
  char out[4096], in[4096];
  for (unsigned i = 0; i < 100; i++) {
    memset (out, (int)(mine + i), sizeof out);
    struct fm_op w = { .kind = FM_WRITE, .offset = mine * 4096, .length = 4096, .buf = out };
    CHECK_EQ (fm_store_io (shared, &w), 0);
    CHECK_EQ (fm_store_read (shared, in, sizeof in, mine * 4096), 0);
    CHECK (memcmp (in, out, sizeof in) == 0);
  }
  return NULL;
}

/* fm_store_io serves any number of threads at once. */
static void
io_from_many_threads (void)
{
  struct lab_server server = serve ("memory,1M");
  pthread_t t[40]; /* more than FM_POOL_MAX */
  shared = lab_nbd_store (&server);
  for (uintptr_t i = 0; i < 40; i++)
    pthread_create (&t[i], NULL, client, (void *)i);
  for (unsigned i = 0; i < 40; i++)
    pthread_join (t[i], NULL);
  CHECK (shared->npool > 1 && shared->npool <= FM_POOL_MAX);
  fm_store_close (shared);
  lab_kill (&server);
}

/* Control requests: what is written at 0 is asked, what is read at 0 answers, up to its first
 * zero byte; a line that is given up in the middle, or whose server goes, ends well. */
static void
line (void)
{
  struct lab_server server = serve ("memory,64K");
  char request[4096] = "hello", answer[8192], why[256] = "";
  struct fm_line *l;
  CHECK_EQ (fm_line_open (server.uri, LAB_TIMEOUT_NS, &l, why, sizeof why), 0);
  for (int i = 0; i < 3; i++) {
    request[0] = (char)('h' + i);
    memset (answer, 'x', sizeof answer);
    CHECK_EQ (fm_line_ask (l, request, sizeof request), 0);
    CHECK_EQ (fm_line_hear (l, answer, sizeof answer, LAB_TIMEOUT_NS), 1);
    CHECK (memcmp (request, answer, 4096) == 0 && answer[4096] == 0 && answer[8191] == 0);
  }
  CHECK_EQ (fm_line_ask (l, request, sizeof request), 0);
  fm_line_close (l);
  CHECK_EQ (fm_line_open (server.uri, LAB_TIMEOUT_NS, &l, why, sizeof why), 0);
  lab_kill (&server);
  CHECK_EQ (fm_line_ask (l, request, sizeof request), 0);
  CHECK_EQ (fm_line_hear (l, answer, sizeof answer, LAB_TIMEOUT_NS), -ENOTCONN);
  fm_line_close (l);
  CHECK (fm_line_open (server.uri, LAB_TIMEOUT_NS, &l, why, sizeof why) < 0 && why[0]);
}

/* Who asks can do other things until the answer is there, and waits no longer than the timeout. */
static void
line_of_a_slow_server (void)
{
  struct lab_server server = serve ("--filter=delay,memory,64K,rdelay=300ms");
  char answer[4096], why[256] = "";
  struct fm_line *l;
  for (int patient = 0; patient < 2; patient++) {
    CHECK_EQ (fm_line_open (server.uri, patient ? LAB_TIMEOUT_NS : 100 * FM_MS, &l, why,
                            sizeof why), 0);
    CHECK_EQ (fm_line_ask (l, "?", 1), 0);
    uint64_t began = fm_now_ns ();
    CHECK_EQ (fm_line_hear (l, answer, sizeof answer, 0), 0);
    CHECK_EQ (fm_line_hear (l, answer, sizeof answer, 20 * FM_MS), 0);
    CHECK (fm_now_ns () - began < 90 * FM_MS);
    CHECK_EQ (fm_line_hear (l, answer, sizeof answer, LAB_TIMEOUT_NS), patient ? 1 : -ETIMEDOUT);
    fm_line_close (l);
  }
  lab_kill (&server);
}

/* A server that has no room in its line for one more refuses a connection.  EAGAIN, which the system calls
 * it, says of a write that the other site wants it later (volume.h). */
static void
a_full_line_is_a_refusal (void)
{
  char path[108], why[256] = "";
  int fd = lab_file (0, path), waiting[8];
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  struct fm_store *s;
  struct lab_server server;
  close (fd);
  unlink (path);
  snprintf (a.sun_path, sizeof a.sun_path, "%s", path);
  int listens = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK (bind (listens, (struct sockaddr *)&a, sizeof a) == 0 && listen (listens, 0) == 0);
  for (unsigned i = 0; i < 8; i++) {
    waiting[i] = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    connect (waiting[i], (struct sockaddr *)&a, sizeof a);
  }
  snprintf (server.uri, sizeof server.uri, "nbd+unix:///?socket=%s", path);
  CHECK_EQ (fm_store_open_nbd (server.uri, LAB_TIMEOUT_NS, &s, why, sizeof why), -ECONNREFUSED);
  CHECK (why[0]);
  for (unsigned i = 0; i < 8; i++)
    close (waiting[i]);
  close (listens);
  unlink (path);
}

/* The connection on which a server is examined is the first of the pool: opened again, it could be
 * refused by a server that takes few and has not noticed yet that the first one was closed. */
static void
looks_on_the_first_one (void)
{
  int rc;
  char why[256] = "";
  struct lab_server server = serve ("memory,1M");
  struct relay *relay = relay_open (&server, 0);
  struct fm_store *s;
  CHECK_EQ (fm_store_open_nbd (relay_uri (relay), LAB_TIMEOUT_NS, &s, why, sizeof why), 0);
  CHECK_EQ (relay_connections (relay), 1);
  CHECK_EQ (fm_store_reserve (s, 2, &rc), 2);
  CHECK_EQ (relay_connections (relay), 2);
  fm_store_close (s);
  relay_close (relay);
  lab_kill (&server);
}

int
main (void)
{
  RUN (many_in_flight);
  RUN (looks_on_the_first_one);
  RUN (server_killed);
  RUN (server_silent);
  RUN (port_given_up);
  RUN (refusals);
  RUN (connect_has_a_deadline);
  RUN (another_comes_back);
  RUN (cut_under_a_server);
  RUN (no_size_to_be_had);
  RUN (server_error);
  RUN (no_fast_zero);
  RUN (io_from_many_threads);
  RUN (line);
  RUN (line_of_a_slow_server);
  RUN (a_full_line_is_a_refusal);
  return finish ("nbd");
}
