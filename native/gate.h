/* The write gate: what every write goes through, and what a freeze shuts.
 *
 * Idea.  Writers enter and leave; one who freezes closes the gate, waits until
 * those inside have left (drain, with a deadline), does its work, opens.  One
 * atomic word holds the number inside and a closed bit, so entering an open
 * gate is one atomic add and no system call.
 *
 * Invariants.
 *   - Between a drain that returned 0 and the open nobody is inside (I6).
 *   - One freezer at a time: the caller's lock (see volume.h) sees to it.
 *   - Who closed opens, whatever happened in between: writers wait without a
 *     deadline of their own, the freezer's deadline bounds their wait.
 * Left out: fairness between writers; recursion (a writer enters once).
 */
#ifndef FM_GATE_H
#define FM_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct fm_gate {
  _Atomic uint32_t state; /* FM_GATE_CLOSED | number inside */
  pthread_mutex_t lock;   /* orders the sleepers below with changes of `state` */
  pthread_cond_t opened;
  pthread_cond_t drained;
};

void fm_gate_init (struct fm_gate *g);
void fm_gate_free (struct fm_gate *g);

bool fm_gate_try_enter (struct fm_gate *g); /* false: it is closed */
void fm_gate_wait_open (struct fm_gate *g); /* blocks while it is closed */
void fm_gate_leave (struct fm_gate *g);

void fm_gate_close (struct fm_gate *g);
/* 0, or -ETIMEDOUT at `deadline_ns` of the monotonic clock; still closed. */
int fm_gate_drain (struct fm_gate *g, uint64_t deadline_ns);
void fm_gate_open (struct fm_gate *g);

#endif
