/* The pin: a worker thread of nbdkit keeps its Python thread state between requests.
 *
 * Idea.  nbdkit's Python plugin brackets each callback with PyGILState_Ensure
 * and _Release, and the outermost Release destroys the thread state: an mmap
 * and a munmap a request, the largest cost of a small one (measured: 24 k
 * against 160 k IOPS).  One Ensure without a Release keeps the state for the
 * life of the thread.  When the thread ends, a pthread key's destructor puts
 * its state on a list, and the next thread that is pinned, holding the GIL,
 * frees what is on the list (as cffi's misc_thread_common.h does; a destructor
 * must not take the GIL itself).
 *
 * Invariants.  Only nbdkit's worker threads come here, never a thread that
 * Python made (it frees its own state).  Called with the GIL held.
 * Proven on CPython 3.11, written for 3.12 and 3.13 too; on any other it does nothing.
 */
#ifndef FM_PIN_H
#define FM_PIN_H

void fm_pin (void);

#endif
