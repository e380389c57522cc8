/* See pace.h. */
#include "pace.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define MUCH 8       /* times FM_PACE_NS */
#define PROOF 16     /* quick operations, until twice as much is tried */
#define TRY_AGAIN 32 /* trials, until twice as much is tried again */

void
fm_pace_init (struct fm_pace *p)
{
  *p = (struct fm_pace){ .piece = FM_PACE_LEAST, .trials = 1 };
}

uint64_t
fm_pace_piece (const struct fm_pace *p)
{
  return p->piece;
}

static void
go_to (struct fm_pace *p, unsigned size)
{
  p->size = size;
  p->piece = FM_PACE_LEAST << size;
}

void
fm_pace_forget (struct fm_pace *p)
{
  memset (p->took_ns, 0, sizeof p->took_ns);
  p->trial = 0, p->trial_ns = 0;
  p->trials = p->under_way + 1;
  go_to (p, 0);
}

void
fm_pace_begin (struct fm_pace *p)
{
  p->under_way++;
}

/* Twice the bytes took `more`: hardly longer than `less`, so they are worth it. */
static bool
pays (uint64_t less, uint64_t more)
{
  return more < less + less / 2;
}

/* One of the class in use took so long. */
static void
decide (struct fm_pace *p, uint64_t took_ns)
{
  unsigned k = p->size;
  uint64_t took = p->took_ns[k] = p->took_ns[k] ? (p->took_ns[k] + took_ns) / 2 : took_ns;
  bool slow = took > FM_PACE_NS;
  if (k && slow && !(p->took_ns[k - 1] && pays (p->took_ns[k - 1], took))) {
    unsigned down = 1;
    for (uint64_t t = took_ns / MUCH; t > FM_PACE_NS && down < k; t /= 2)
      down++;
    if (down > 1)
      memset (p->took_ns, 0, sizeof p->took_ns);
    go_to (p, k - down);
    return;
  }
  if (k + 1 == FM_PACE_SIZES)
    return;
  uint64_t *twice = &p->took_ns[k + 1];
  if (++p->tries >= TRY_AGAIN)
    p->tries = *twice = 0;
  if (!*twice || *twice <= FM_PACE_NS || pays (took, *twice))
    go_to (p, k + 1);
}

void
fm_pace_end (struct fm_pace *p, uint64_t bytes, uint64_t begun_ns, uint64_t now_ns)
{
  assert (p->under_way > 0);
  p->under_way--;
  uint64_t since = begun_ns > p->ended_ns ? begun_ns : p->ended_ns;
  p->ended_ns = now_ns;
  if (!begun_ns || bytes != p->piece)
    return; /* the end of a longer run, or begun before the last step */
  p->trial_ns += now_ns - since;
  p->trial++;
  bool enough = p->trial >= p->trials && (p->trial >= PROOF || p->trial_ns > MUCH * FM_PACE_NS);
  if (!enough && p->trial_ns <= MUCH * FM_PACE_NS * p->trials)
    return;
  decide (p, p->trial_ns / p->trial + 1);
  p->trial = 0, p->trial_ns = 0;
  p->trials = p->under_way + 1;
}
