/* Promises of gate.h. */
#include "check.h"

#include "gate.h"
#include "wait.h"

#define WRITERS 4

static struct fm_gate gate;
static _Atomic int inside;
static _Atomic bool stop;
/* Written only inside, read only when drained: the thread sanitizer sees it if
 * the gate does not order the two. */
static uint64_t plain[WRITERS];

static void
enter (struct fm_gate *g)
{
  while (!fm_gate_try_enter (g))
    fm_gate_wait_open (g);
}

static void *
writer (void *arg)
{
  uint64_t *mine = arg;
  while (!stop) {
    enter (&gate);
    atomic_fetch_add (&inside, 1);
    ++*mine;
    atomic_fetch_sub (&inside, 1);
    fm_gate_leave (&gate);
  }
  return NULL;
}

/* I6: between a drain that returned 0 and the open nobody is inside, and what
 * was done inside before is seen. */
static void
nobody_inside_while_drained (void)
{
  pthread_t t[WRITERS];
  unsigned frozen = 0;
  stop = false;
  fm_gate_init (&gate);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_create (&t[i], NULL, writer, &plain[i]);
  uint64_t end = fm_now_ns () + 800 * FM_MS;
  while (fm_now_ns () < end) {
    fm_gate_close (&gate);
    if (fm_gate_drain (&gate, fm_now_ns () + 1000 * FM_MS) == 0) {
      uint64_t sum = 0, again = 0;
      for (unsigned i = 0; i < WRITERS; i++)
        sum += plain[i];
      CHECK_EQ (inside, 0);
      for (volatile int i = 0; i < 1000; i++)
        ;
      for (unsigned i = 0; i < WRITERS; i++)
        again += plain[i];
      CHECK_EQ (sum, again);
      frozen++;
    }
    fm_gate_open (&gate);
  }
  stop = true;
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (t[i], NULL);
  CHECK (frozen > 10);
  fm_gate_free (&gate);
}

/* A deadline that is missed is missed in time, and nothing is broken by it. */
static void
missed_deadline_leaves_it_usable (void)
{
  fm_gate_init (&gate);
  CHECK (fm_gate_try_enter (&gate));
  for (unsigned i = 0; i < 5; i++) {
    uint64_t start = fm_now_ns ();
    fm_gate_close (&gate);
    CHECK (!fm_gate_try_enter (&gate));
    CHECK_EQ (fm_gate_drain (&gate, start + 20 * FM_MS), -ETIMEDOUT);
    uint64_t took = fm_now_ns () - start;
    CHECK (took >= 20 * FM_MS && took < 2000 * FM_MS);
    fm_gate_open (&gate);
    CHECK (fm_gate_try_enter (&gate));
    fm_gate_leave (&gate);
  }
  fm_gate_close (&gate);
  fm_gate_leave (&gate);
  CHECK_EQ (fm_gate_drain (&gate, 0), 0); /* a deadline that is over does not matter then */
  fm_gate_open (&gate);
  fm_gate_free (&gate);
}

static void *
leaver (void *arg)
{
  (void)arg;
  for (volatile int i = 0; i < 200; i++)
    ;
  fm_gate_leave (&gate);
  return NULL;
}

/* The last one to leave wakes who drains, however close the two are. */
static void
no_lost_wakeup_of_the_drain (void)
{
  fm_gate_init (&gate);
  for (unsigned i = 0; i < (SANITIZED ? 1000 : 5000); i++) {
    pthread_t t;
    CHECK (fm_gate_try_enter (&gate));
    pthread_create (&t, NULL, leaver, NULL);
    fm_gate_close (&gate);
    CHECK_EQ (fm_gate_drain (&gate, fm_now_ns () + 5000 * FM_MS), 0);
    fm_gate_open (&gate);
    pthread_join (t, NULL);
  }
  fm_gate_free (&gate);
}

static void *
waiter (void *arg)
{
  (void)arg;
  fm_gate_wait_open (&gate);
  enter (&gate);
  fm_gate_leave (&gate);
  return NULL;
}

/* All who wait for the gate go on when it opens. */
static void
open_wakes_all (void)
{
  fm_gate_init (&gate);
  for (unsigned i = 0; i < 100; i++) {
    pthread_t t[WRITERS];
    fm_gate_close (&gate);
    for (unsigned k = 0; k < WRITERS; k++)
      pthread_create (&t[k], NULL, waiter, NULL);
    CHECK_EQ (fm_gate_drain (&gate, fm_now_ns () + 1000 * FM_MS), 0);
    fm_gate_open (&gate);
    for (unsigned k = 0; k < WRITERS; k++)
      pthread_join (t[k], NULL); /* hangs, and is killed, if one is forgotten */
  }
  CHECK (true);
  fm_gate_free (&gate);
}

int
main (void)
{
  RUN (nobody_inside_while_drained);
  RUN (missed_deadline_leaves_it_usable);
  RUN (no_lost_wakeup_of_the_drain);
  RUN (open_wakes_all);
  return finish ("gate");
}
