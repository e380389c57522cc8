/* Every order of a few tasks in the core: included before each of its files (make order).
 *
 * Idea.  Tasks are coroutines of one thread.  Each atomic operation, each lock and each wait of the
 * core is a *point*, at which another task may go on.  A scenario is run again and again, each time
 * with another choice at one of the points, until all have been tried in which at most `preemptions`
 * tasks were left where they could have gone on (waits are not counted): the order of two steps
 * that a stress test meets once in a million runs is met here, or is never.
 *
 * At every point `watch` is asked what must hold at every instant, as for a process that is killed
 * there.
 *
 * Left out: weaker memory than one order of all operations (the core's are seq_cst where it
 * matters); the clock, which only counts; wake-ups that are lost, because a wait here ends when any
 * other task has moved.
 */
#ifndef FM_INTERLEAVE_H
#define FM_INTERLEAVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct interleave {
  void (*begin) (void);         /* makes the world of one run */
  void (*task[4]) (void);       /* NULL: no more */
  void (*end) (void);           /* looks at it, and takes it down */
  void (*watch) (void);         /* or NULL: at every point */
  unsigned preemptions;
};

/* All runs of it; how many there were. */
unsigned long interleave (const struct interleave *scenario);

void interleave_point (void);
void interleave_wait (void); /* of a task that can do nothing before another has moved */
void interleave_lock (pthread_mutex_t *m);
void interleave_unlock (pthread_mutex_t *m);

#define POINT_AND(operation) (interleave_point (), (operation))

#undef atomic_load
#undef atomic_store
#undef atomic_exchange
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_fetch_or
#undef atomic_fetch_and
#undef atomic_compare_exchange_strong
#undef atomic_load_explicit
#define atomic_load(p) POINT_AND (__atomic_load_n (p, __ATOMIC_SEQ_CST))
#define atomic_store(p, v) POINT_AND (__atomic_store_n (p, v, __ATOMIC_SEQ_CST))
#define atomic_exchange(p, v) POINT_AND (__atomic_exchange_n (p, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_add(p, v) POINT_AND (__atomic_fetch_add (p, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_sub(p, v) POINT_AND (__atomic_fetch_sub (p, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_or(p, v) POINT_AND (__atomic_fetch_or (p, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_and(p, v) POINT_AND (__atomic_fetch_and (p, v, __ATOMIC_SEQ_CST))
#define atomic_compare_exchange_strong(p, old, v)                                       \
  POINT_AND (__atomic_compare_exchange_n (p, old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
#define atomic_load_explicit(p, order) POINT_AND (__atomic_load_n (p, order))

#define pthread_mutex_lock interleave_lock
#define pthread_mutex_unlock interleave_unlock

#endif
