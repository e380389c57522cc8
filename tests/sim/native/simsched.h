/* Who goes on, and what time it is: the part of the scheduler that is asked at each switch.
 *
 * Idea.  A task (sched.py) is a greenlet, but most of those who give way are chosen to go on
 * themselves, or wait in the core; so the choice is made here, and Python is entered only to
 * change greenlets (`sim_switch`).  The clock is a number, and everything is drawn from one
 * stream: one seed, one run.
 *
 * Invariants.
 *   - Time goes on to the next deadline only when every task waits, and what is in flight was
 *     looked for in vain.
 *   - Who waits in the core is woken as in production: a signal that the core forgets is a hang or
 *     a time-out here too (simmem.h).
 *   - The world (SIM_WORLD) has its turn when `sim_until` switches are over, or nobody can go on.
 */
#ifndef FM_SIMSCHED_H
#define FM_SIMSCHED_H

#include <stdbool.h>
#include <stdint.h>

#define SIM_WORLD (-1)
#define SIM_NEVER UINT64_MAX

/* Looking: in a wait of the core.  Waiting: until it is woken, or its deadline. */
enum sim_state { SIM_FREE, SIM_READY, SIM_WAITING, SIM_LOOKING };

extern uint64_t sim_clock_ns, sim_switches, sim_busy; /* busy: switches to others than clients */
extern uint64_t sim_until; /* the switches after which the world goes on */
extern bool sim_dead;      /* the life of who runs: its waits end at once */

/* A schedule: between two switches there are up to `stride` operations of disks, which take up
 * to `tick_ns`. */
void sim_begin (uint64_t seed, unsigned stride, uint64_t tick_ns);

/* Its number.  A laggard gets a turn seldom. */
int sim_task_new (bool laggard, bool client);
void sim_task_end (int task);
enum sim_state sim_task_state (int task);
void sim_task_ready (int task); /* whatever it waits for */
void sim_task_wake (int task);  /* if it is waiting */
bool sim_task_late (int task);  /* its last wait ended by the deadline */

int sim_next (void); /* who goes on, instead of who runs: a task, or SIM_WORLD */
void sim_go_on (int task); /* without a choice */
/* Who runs gives way: who goes on, perhaps itself. */
int sim_give_way (enum sim_state state, uint64_t deadline_ns);
bool sim_touch (void); /* an operation: whether others are to run now */

/* Of the core: they come back when it is this task's turn again.  A wait ends by the signal of
 * its condition (NULL: of a poll), by its deadline, and now and then without a reason. */
int sim_wait (const void *condition, uint64_t deadline_ns); /* 1: the deadline has passed */
int sim_signal (const void *condition); /* 0 */
void sim_fly (int more); /* so many more operations are in flight: whoever began them may end them
                          * by a look */
void sim_sleep (uint64_t until_ns);  /* or until the site dies */
void sim_event (void);               /* others may run */

void sim_switch (int task); /* implemented in Python: comes back when this task's turn is next */

#endif
