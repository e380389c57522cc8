/* See simsched.h. */
#include "simsched.h"

#include <assert.h>
#include <string.h>

enum { TASKS_MAX = 512, SECOND_NS = 1000000000 };

static struct task {
  enum sim_state state;
  bool late, laggard, client;
  bool sleeping; /* in an operation that takes its time */
  uint64_t deadline_ns;
  const void *condition; /* of a wait in the core; NULL: a poll */
} tasks[TASKS_MAX];
static int living[TASKS_MAX], nliving; /* numbers of those in use */
static int running = SIM_WORLD;
static int looked; /* for what is in flight, since anything else happened */

static unsigned in_flight; /* operations that a look of whoever began them may end */
static uint64_t stream, max_tick_ns;
static unsigned max_stride, credit; /* operations until the next switch */

uint64_t sim_clock_ns, sim_switches, sim_busy, sim_until;
bool sim_dead;

static uint64_t
draw (void) /* splitmix64 */
{
  uint64_t z = stream += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

static int
draw_below (int n)
{
  return (int)(draw () % (unsigned)n);
}

static void
give_credit (void)
{
  uint64_t chance = draw () & 0xfffff;
  credit = 1 + (unsigned)(chance * max_stride >> 20);
  sim_clock_ns += chance * max_tick_ns >> 20;
}

void
sim_begin (uint64_t seed, unsigned stride, uint64_t tick_ns)
{
  memset (tasks, 0, sizeof tasks);
  nliving = looked = 0;
  running = SIM_WORLD;
  stream = seed;
  max_stride = stride;
  max_tick_ns = tick_ns;
  sim_clock_ns = SECOND_NS;
  sim_switches = sim_busy = sim_until = in_flight = 0;
  sim_dead = false;
  give_credit ();
}

int
sim_task_new (bool laggard, bool client)
{
  int number = 0;
  assert (nliving < TASKS_MAX);
  while (tasks[number].state != SIM_FREE)
    number++;
  tasks[number] = (struct task){
    .state = SIM_READY, .laggard = laggard, .client = client, .deadline_ns = SIM_NEVER
  };
  living[nliving++] = number;
  return number;
}

void
sim_task_end (int task)
{
  int at = 0;
  assert (tasks[task].state != SIM_FREE);
  while (living[at] != task)
    at++;
  memmove (living + at, living + at + 1, (size_t)(--nliving - at) * sizeof *living);
  tasks[task].state = SIM_FREE;
  looked = 0;
}

enum sim_state
sim_task_state (int task)
{
  return tasks[task].state;
}

void
sim_task_ready (int task)
{
  tasks[task].state = SIM_READY;
}

void
sim_task_wake (int task)
{
  if (tasks[task].state == SIM_WAITING) {
    tasks[task].state = SIM_READY;
    tasks[task].late = false;
  }
}

bool
sim_task_late (int task)
{
  return tasks[task].late;
}

/* ---- the choice ---- */

static int
those_in (enum sim_state state, int found[])
{
  int n = 0;
  for (int i = 0; i < nliving; i++)
    if (tasks[living[i]].state == state)
      found[n++] = living[i];
  return n;
}

/* To the first deadline; false: there is none. */
static bool
pass_time (void)
{
  uint64_t first = SIM_NEVER, slow = SIM_NEVER;
  looked = 0;
  for (int i = 0; i < nliving; i++) {
    const struct task *t = &tasks[living[i]];
    if (t->deadline_ns < first)
      first = t->deadline_ns;
    if (t->sleeping && t->deadline_ns < slow)
      slow = t->deadline_ns;
  }
  if (first == SIM_NEVER)
    return false;
  if (slow != SIM_NEVER && slow > first) {
    /* Who looks each instant whether it is done is late, or we never end. */
    uint64_t part = slow > sim_clock_ns ? sim_clock_ns + (slow - sim_clock_ns) / 16 : slow;
    if (part > first)
      first = part;
  }
  if (first > sim_clock_ns)
    sim_clock_ns = first;
  for (int i = 0; i < nliving; i++) {
    struct task *t = &tasks[living[i]];
    if (t->deadline_ns <= first) {
      t->state = SIM_READY;
      t->late = true;
    }
  }
  return true;
}

/* Somebody who waits in the core looks without a signal. */
static int
looker (void)
{
  int looking[TASKS_MAX], n = those_in (SIM_LOOKING, looking);
  if (n == 0)
    return SIM_WORLD;
  int task = looking[draw_below (n)];
  tasks[task].state = SIM_READY;
  looked++;
  return task;
}

static int
choose (void)
{
  for (;;) {
    int ready[TASKS_MAX], n = those_in (SIM_READY, ready);
    bool look = n ? draw_below (in_flight ? 5 : 32) == 0 : in_flight && looked < 2 * nliving;
    int task = look ? looker () : SIM_WORLD;
    if (task != SIM_WORLD)
      return task;
    if (n) {
      looked = 0;
      task = ready[draw_below (n)];
      return tasks[task].laggard && draw_below (100) < 85 ? ready[draw_below (n)] : task;
    }
    if (!pass_time ())
      return SIM_WORLD;
  }
}

int
sim_next (void)
{
  running = sim_switches < sim_until ? choose () : SIM_WORLD;
  if (running != SIM_WORLD) {
    sim_switches++;
    sim_busy += !tasks[running].client;
  }
  return running;
}

void
sim_go_on (int task)
{
  running = task;
}

int
sim_give_way (enum sim_state state, uint64_t deadline_ns)
{
  tasks[running].state = state;
  tasks[running].deadline_ns = deadline_ns;
  if (state != SIM_LOOKING)
    looked = 0;
  return sim_next ();
}

bool
sim_touch (void)
{
  if (credit > 1) {
    credit--;
    return false;
  }
  give_credit ();
  return true;
}

/* ---- for the core ---- */

static void
give_way (enum sim_state state, uint64_t deadline_ns)
{
  int self = running, next = sim_give_way (state, deadline_ns);
  if (next != self)
    sim_switch (next);
}

int
sim_wait (const void *condition, uint64_t deadline_ns)
{
  assert (running != SIM_WORLD);
  tasks[running].condition = condition;
  if (sim_dead)
    give_way (SIM_READY, SIM_NEVER);
  else
    give_way (SIM_LOOKING, deadline_ns);
  if (sim_dead) { /* whatever it waits for: it is late */
    uint64_t late = sim_clock_ns + 9ULL * SECOND_NS;
    if (deadline_ns < late)
      late = deadline_ns;
    if (late > sim_clock_ns)
      sim_clock_ns = late;
    return 1;
  }
  return sim_clock_ns >= deadline_ns;
}

int
sim_signal (const void *condition)
{
  for (int i = 0; i < nliving; i++) {
    struct task *t = &tasks[living[i]];
    if (t->state == SIM_LOOKING && t->condition == condition)
      t->state = SIM_READY;
  }
  return 0;
}

void
sim_fly (int more)
{
  in_flight += (unsigned)more;
  looked = 0;
}

void
sim_sleep (uint64_t until_ns)
{
  if (running == SIM_WORLD || sim_dead)
    return;
  struct task *t = &tasks[running];
  t->sleeping = true;
  give_way (SIM_WAITING, until_ns);
  t->sleeping = false;
}

void
sim_event (void)
{
  if (running != SIM_WORLD)
    give_way (SIM_READY, SIM_NEVER);
}
