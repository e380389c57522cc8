/* A store of the tests: memory whose operations end later, in any order, and
 * fail when told.  Bytes move when an operation ends, not when it is submitted,
 * so code that lets two of them overlap gets the wrong bytes. */
#ifndef FM_FAKE_H
#define FM_FAKE_H

#include "store.h"

struct fake {
  struct fm_store store; /* first: the store is the fake */
  char *bytes;
  pthread_mutex_t lock;
  unsigned lazy; /* an operation ends at a step with a chance of 1 in 1 + lazy */
  _Atomic bool stuck;        /* nothing ends, as with a server that is silent */
  _Atomic bool unheard;      /* a port that is opened is open when this is over, ... */
  _Atomic int open_rc;       /* ... or fails with this */
  _Atomic unsigned opens;    /* that were begun */
  _Atomic unsigned ports;    /* that are open */
  unsigned most;             /* of them at once; 0: any.  One more is refused, ... */
  bool beyond_hangs;         /* ... or waits for another to be closed */
  _Atomic int fail_rc;       /* 0, or what writes and zeroes (of sinks) end with */
  _Atomic unsigned fail_after; /* ... after this many more that go well */
  int flush_rc, read_rc;     /* 0, or what these end with */
  _Atomic unsigned long writes, flushes;
  /* Asked of each write and zero as it is submitted. */
  void (*on_write) (struct fake *f, const struct fm_op *op);
  void *user;
};

struct fake *fake_open (uint64_t size, unsigned lazy);
void fake_close (struct fake *f);

#endif
