/* Ends a socket at a deadline while its owner is inside a library that does not come back.
 *
 * Idea.  libnbd (1.14 at least) makes a TLS handshake in one piece: it asks the socket again and
 * again until the other side has answered, and a peer that has gone silent never does.  A thread
 * that watches the time shuts the socket down (shutdown(2)), so the library meets its end.
 * Meanwhile the socket blocks for a while at each read, so that this asking costs no processor.
 *
 * Invariant: whoever owns the descriptor ends the watch as soon as the library has closed it, and
 * then says so: nothing is done to a number that may be another's by then.
 */
#ifndef FM_WATCH_H
#define FM_WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct fm_watch {
  int fd; /* -1: nothing is watched */
  uint64_t deadline_ns;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  bool done; /* guarded by lock */
};

/* 0 or -errno: it is not watched. */
int fm_watch_begin (struct fm_watch *w, int fd, uint64_t deadline_ns);
/* `open`: the socket is still the owner's, and is to be as it was. */
void fm_watch_end (struct fm_watch *w, bool open);

#endif
