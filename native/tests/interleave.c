/* See interleave.h.  Takes the place of wait.c, too. */
#include "interleave.h"
#include "check.h"
#include "wait.h"

#include <ucontext.h>

#define TASKS_MAX 4
#define STACK_BYTES (256 * 1024)
#define POINTS_MAX 20000 /* of one run; more is a loop */

struct choice {
  unsigned char taken, ways;
};

static const struct interleave *scenario;
static ucontext_t outside, context[TASKS_MAX];
static char stack[TASKS_MAX][STACK_BYTES] __attribute__ ((aligned (64)));
static unsigned ntasks, now_task, preempted;
static bool ended[TASKS_MAX], waiting[TASKS_MAX], running;
static struct choice choices[POINTS_MAX];
static unsigned nchoices, replayed; /* of this run; of those, how many are the same as before */
static unsigned long points;
static uint64_t clock_ns;

static unsigned
others (unsigned out[TASKS_MAX])
{
  unsigned n = 0;
  for (unsigned i = 1; i < ntasks; i++)
    if (!ended[(now_task + i) % ntasks])
      out[n++] = (now_task + i) % ntasks;
  return n;
}

/* One of so many ways: what the last run took, or the first. */
static unsigned
choose (unsigned ways)
{
  if (ways < 2 || nchoices == POINTS_MAX)
    return 0;
  if (nchoices >= replayed)
    choices[nchoices] = (struct choice){ 0, (unsigned char)ways };
  return choices[nchoices++].taken;
}

static void
go_on_with (unsigned task)
{
  unsigned before = now_task;
  now_task = task;
  if (task != before)
    swapcontext (&context[before], &context[task]);
}

static void
give_up (const char *why)
{
  CHECK_EQ (0, (long long)points);
  fprintf (stderr, "  %s\n", why);
  abort ();
}

static void
step (void)
{
  if (scenario->watch) {
    running = false;
    scenario->watch ();
    running = true;
  }
  clock_ns += 1000;
  if (++points > POINTS_MAX)
    give_up ("a run does not end");
}

void
interleave_point (void)
{
  unsigned way, other[TASKS_MAX];
  if (!running)
    return;
  step ();
  way = preempted < scenario->preemptions ? choose (1 + others (other)) : 0;
  if (way) {
    preempted++;
    go_on_with (other[way - 1]);
  }
}

void
interleave_wait (void)
{
  unsigned other[TASKS_MAX], n, able = 0;
  if (!running)
    return;
  step ();
  waiting[now_task] = true;
  n = others (other);
  for (unsigned i = 0; i < n; i++) /* those that wait, too, come last, and all in turn */
    if (!waiting[other[i]]) {
      unsigned first = other[able];
      other[able++] = other[i];
      other[i] = first;
    }
  if (n)
    go_on_with (other[choose (able)]);
  waiting[now_task] = false;
}

void
interleave_lock (pthread_mutex_t *m)
{
  interleave_point ();
  while (pthread_mutex_trylock (m) != 0)
    interleave_wait ();
}

#undef pthread_mutex_unlock
void
interleave_unlock (pthread_mutex_t *m)
{
  pthread_mutex_unlock (m);
  interleave_point ();
}

static void
run_task (void)
{
  unsigned other[TASKS_MAX];
  scenario->task[now_task]();
  ended[now_task] = true;
  unsigned n = others (other);
  if (n)
    go_on_with (other[choose (n)]);
  running = false;
  setcontext (&outside);
}

static void
run_once (void)
{
  nchoices = preempted = 0;
  points = 0;
  scenario->begin ();
  for (unsigned i = 0; i < ntasks; i++) {
    ended[i] = waiting[i] = false;
    getcontext (&context[i]);
    context[i].uc_stack.ss_sp = stack[i];
    context[i].uc_stack.ss_size = STACK_BYTES;
    makecontext (&context[i], run_task, 0);
  }
  now_task = choose (ntasks);
  running = true;
  swapcontext (&outside, &context[now_task]);
  scenario->end ();
}

unsigned long
interleave (const struct interleave *what)
{
  unsigned long runs = 0;
  scenario = what;
  for (ntasks = 0; ntasks < TASKS_MAX && what->task[ntasks];)
    ntasks++;
  for (replayed = 0;;) {
    run_once ();
    runs++;
    while (nchoices && choices[nchoices - 1].taken + 1 == choices[nchoices - 1].ways)
      nchoices--;
    if (!nchoices || checks_failed)
      return runs; /* the first run that fails tells enough */
    choices[nchoices - 1].taken++;
    replayed = nchoices;
  }
}

/* ---- wait.h: nobody sleeps, and time is what points cost ---- */

uint64_t
fm_now_ns (void)
{
  return clock_ns += 1000;
}

void
fm_cond_init (pthread_cond_t *c)
{
  pthread_cond_init (c, NULL);
}

void
fm_cond_wait (pthread_cond_t *c, pthread_mutex_t *m)
{
  (void)c;
  pthread_mutex_unlock (m);
  interleave_wait ();
  interleave_lock (m);
}

int
fm_cond_wait_until (pthread_cond_t *c, pthread_mutex_t *m, uint64_t deadline_ns)
{
  (void)deadline_ns;
  fm_cond_wait (c, m);
  return 0;
}

int
fm_poll_until (struct pollfd *fds, nfds_t n, uint64_t deadline_ns)
{
  (void)fds, (void)n, (void)deadline_ns;
  interleave_wait ();
  return 0;
}

/* No scenario begins a thread. */
int
fm_thread_begin (pthread_t *t, void *(*work) (void *), void *arg)
{
  (void)t, (void)work, (void)arg;
  return -EAGAIN;
}

void
fm_thread_end (pthread_t t)
{
  (void)t;
}
