/* The smallest test harness that serves: CHECK counts, RUN names a promise and
 * bounds it in time, FINISH prints `name: P passed, F failed (C checks)`. */
#ifndef FM_CHECK_H
#define FM_CHECK_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TEST_SECONDS_MAX 60 /* a test that hangs is killed, which run.sh counts as failed */
#define COMPLAINTS_MAX 10   /* printed of one test; the rest is only counted */

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define SANITIZED 1 /* memory is not what it is in production; everything is slower */
#else
#define SANITIZED 0
#endif

static _Atomic unsigned long checks_made, checks_failed;
static unsigned tests_passed, tests_failed;

static inline bool
check_that (bool good, const char *what, const char *file, int line, long long a, long long b)
{
  atomic_fetch_add (&checks_made, 1);
  if (!good && atomic_fetch_add (&checks_failed, 1) < COMPLAINTS_MAX)
    fprintf (stderr, "  %s:%d: %s  (%lld, %lld)\n", file, line, what, a, b);
  return good;
}

static inline bool
check_equal (long long a, long long b, const char *what, const char *file, int line)
{
  return check_that (a == b, what, file, line, a, b);
}

#define CHECK(x) check_that (!!(x), #x, __FILE__, __LINE__, 0, 0)
#define CHECK_EQ(a, b) \
  check_equal ((long long)(a), (long long)(b), #a " == " #b, __FILE__, __LINE__)

static inline void
run_test (const char *name, void (*test) (void))
{
  struct timespec start, end;
  clock_gettime (CLOCK_MONOTONIC, &start);
  atomic_store (&checks_failed, 0);
  alarm (TEST_SECONDS_MAX);
  test ();
  alarm (0);
  clock_gettime (CLOCK_MONOTONIC, &end);
  if (getenv ("TIMES"))
    printf ("  %s: %.2f s\n", name, (double)(end.tv_sec - start.tv_sec)
                                       + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
  bool good = checks_failed == 0;
  *(good ? &tests_passed : &tests_failed) += 1;
  if (!good)
    printf ("FAILED %s: %lu checks\n", name, checks_failed);
  fflush (stdout);
}
#define RUN(test) run_test (#test, test)

static inline int
finish (const char *name)
{
  printf ("%s: %u passed, %u failed (%lu checks)\n", name, tests_passed, tests_failed,
          checks_made);
  return tests_failed != 0;
}

/* xorshift64*: the same numbers in every run from the same seed. */
static inline uint64_t
random_next (uint64_t *state)
{
  uint64_t x = *state;
  x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
  *state = x;
  return x * 2685821657736338717ULL;
}

static inline uint64_t
random_below (uint64_t *state, uint64_t n)
{
  return (random_next (state) >> 11) % n;
}

#endif
