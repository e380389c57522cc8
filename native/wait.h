/* The only place where the core blocks, and the clock that it blocks by.
 *
 * Everything else in native/ is a step that returns at once; the loops that
 * production threads run around those steps sleep here, each with a bound
 * (but for a closed gate, which its closer always opens), so a simulator that puts
 * its own wait.c here runs all the rest without a thread or a clock.  All times
 * are nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef FM_WAIT_H
#define FM_WAIT_H

#include <poll.h>
#include <pthread.h>
#include <stdint.h>

#define FM_MS 1000000ULL

uint64_t fm_now_ns (void);

void fm_cond_init (pthread_cond_t *c); /* a condition on the monotonic clock */
void fm_cond_wait (pthread_cond_t *c, pthread_mutex_t *m); /* its end is signalled for sure */
/* 0 when woken, -ETIMEDOUT at the deadline. */
int fm_cond_wait_until (pthread_cond_t *c, pthread_mutex_t *m, uint64_t deadline_ns);

/* Sleep until one of the descriptors is ready or the deadline.  0 or -ETIMEDOUT. */
int fm_poll_until (struct pollfd *fds, nfds_t n, uint64_t deadline_ns);

/* Work beside the caller's, in a thread; 0 or -errno.  Each is ended once: that waits for it. */
int fm_thread_begin (pthread_t *t, void *(*work) (void *), void *arg);
void fm_thread_end (pthread_t t);

#endif
