/* What a fuzzer's bytes mean: numbers, one after another; zeroes when they have run out.
 * A broken promise aborts, which libFuzzer keeps as a file of the bytes that did it. */
#ifndef FM_FUZZ_H
#define FM_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PROMISE(x)                                                        \
  do {                                                                    \
    if (!(x)) {                                                           \
      fprintf (stderr, "FAILED %s:%d: %s\n", __FILE__, __LINE__, #x);     \
      abort ();                                                           \
    }                                                                     \
  } while (0)

/* Of a model: not what is looked at, so neither watched nor slowed down. */
#define MODEL __attribute__ ((no_sanitize ("address", "undefined", "coverage")))

struct input {
  const uint8_t *at, *end;
};

static inline uint64_t
take (struct input *in, unsigned bytes)
{
  uint64_t value = 0;
  for (; bytes && in->at < in->end; bytes--)
    value = value << 8 | *in->at++;
  return value;
}

/* A place from 0 to n, often next to a border of a word, of a group, or of the end. */
static inline uint64_t
take_place (struct input *in, uint64_t n)
{
  unsigned how = (unsigned)take (in, 1), near = how >> 2 & 7;
  uint64_t borders[] = { 0, 64, 512, n }, unit = borders[how & 3], at = take (in, 3);
  if (unit == n)
    at = how & 128 ? at : n;
  else if (unit)
    at = at % (n / unit + 1) * unit;
  at = how & 64 ? at + near : at - (at < near ? at : near);
  return at % (n + 1);
}

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif
