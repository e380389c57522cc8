/* See pin.h. */
#include <Python.h>

#include "pin.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#if PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030e0000
#define PIN 1
#else
#define PIN 0
#endif

struct ended {
  PyThreadState *state;
  struct ended *next;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ended *ended; /* guarded by lock */
static __thread bool pinned;

static void
thread_ends (void *value)
{
  struct ended *e = value;
  pthread_mutex_lock (&lock);
  e->next = ended;
  ended = e;
  pthread_mutex_unlock (&lock);
}

static void
make_key (void)
{
  pthread_key_create (&key, thread_ends);
}

/* With the GIL held. */
static void
free_ended (void)
{
  pthread_mutex_lock (&lock);
  struct ended *e = ended;
  ended = NULL;
  pthread_mutex_unlock (&lock);
  while (e) {
    struct ended *next = e->next;
    PyThreadState_Clear (e->state);
#if PY_VERSION_HEX >= 0x030c0000
    /* Or Delete would make *this* thread forget its own state (cffi does the same). */
    e->state->_status.bound_gilstate = 0;
#endif
    PyThreadState_Delete (e->state);
    free (e);
    e = next;
  }
}

void
fm_pin (void)
{
  if (pinned || !PIN)
    return;
  pinned = true; /* tried once a thread, whatever comes of it */
  pthread_once (&once, make_key);
  struct ended *e = calloc (1, sizeof *e);
  if (!e)
    return;
  PyGILState_Ensure (); /* never released: this is the pin */
  e->state = PyThreadState_Get ();
  free_ended ();
  pthread_setspecific (key, e);
}
