/* Included before every file of the core: its anonymous mappings come from a pool, and whom a
 * condition wakes is the scheduler's to know (simsched.h).
 *
 * Idea.  A site of a few blocks maps a dozen pages when it starts and gives them back when it
 * ends, and a schedule starts many: the kernel took a tenth of the simulator's time.  One page
 * is all that a map of the simulator's volumes needs.
 */
#ifndef FM_SIMMEM_H
#define FM_SIMMEM_H

#include <pthread.h>
#include <sys/mman.h>

int sim_signal (const void *condition);
#define pthread_cond_broadcast sim_signal
#define pthread_cond_signal sim_signal

void *sim_map (size_t bytes); /* zeroes */
int sim_unmap (void *p, size_t bytes);
int sim_advise (void *p, size_t bytes, int advice);

#define mmap(at, bytes, protection, flags, fd, offset) sim_map (bytes)
#define munmap sim_unmap
#define madvise sim_advise

#endif
