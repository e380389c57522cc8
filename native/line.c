/* See line.h. */
#include "line.h"
#include "store_nbd.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_PIECE 4096 /* bytes; mirror_core/limits.py counts on it */

struct fm_line {
  struct fm_store server;
  struct fm_port port;
  struct fm_op op;
  char *request;
  char piece[ANSWER_PIECE];
  enum { IDLE, ASKING, HEARING } state;
  uint64_t at;       /* bytes of the answer that are there */
  uint64_t since_ns; /* when op was submitted */
};

int
fm_line_open (const char *uri, uint64_t timeout_ns, struct fm_line **out, char *why,
              unsigned whysize)
{
  struct fm_line *l = calloc (1, sizeof *l);
  if (!l)
    return -ENOMEM;
  struct nbd_handle *h;
  int rc = fm_nbd_connect (uri, fm_now_ns () + timeout_ns, &h, why, whysize);
  if (rc < 0) {
    free (l);
    return rc;
  }
  l->server = (struct fm_store){ .ops = &fm_nbd_ops, .fenced = true, .timeout_ns = timeout_ns };
  l->port = (struct fm_port){ .store = &l->server, .nbd = h };
  *out = l;
  return 0;
}

void
fm_line_close (struct fm_line *l)
{
  if (!l)
    return;
  if (l->state != IDLE) { /* libnbd has our buffers: they are given back first */
    l->port.failed = l->port.failed ? l->port.failed : -ECANCELED;
    fm_nbd_ops.step (&l->port);
  }
  fm_nbd_ops.port_close (&l->port);
  free (l->request);
  free (l);
}

static void
submit (struct fm_line *l, struct fm_op op)
{
  l->op = op;
  l->since_ns = fm_now_ns ();
  fm_nbd_ops.submit (&l->port, &l->op);
}

int
fm_line_ask (struct fm_line *l, const void *request, uint64_t bytes)
{
  assert (l->state == IDLE);
  char *copy = realloc (l->request, bytes);
  if (!copy)
    return -ENOMEM;
  l->request = copy;
  memcpy (copy, request, bytes);
  l->state = ASKING;
  submit (l, (struct fm_op){ .kind = FM_WRITE, .buf = copy, .length = bytes });
  return 0;
}

/* What was submitted is done: take it, and submit what follows. */
static void
advance (struct fm_line *l, char *answer, uint64_t bytes)
{
  if (l->state == HEARING) {
    memcpy (answer + l->at, l->piece, l->op.length);
    l->at += l->op.length;
  } else
    l->at = 0;
  if (l->at && (l->at == bytes || !answer[l->at - 1])) {
    memset (answer + l->at, 0, bytes - l->at);
    l->state = IDLE;
    return;
  }
  l->state = HEARING;
  uint64_t left = bytes - l->at;
  submit (l, (struct fm_op){ .kind = FM_READ, .offset = l->at, .buf = l->piece,
                             .length = left < ANSWER_PIECE ? left : ANSWER_PIECE });
}

int
fm_line_hear (struct fm_line *l, void *answer, uint64_t bytes, uint64_t wait_ns)
{
  assert (l->state != IDLE);
  uint64_t deadline = fm_now_ns () + wait_ns;
  for (;;) {
    fm_nbd_ops.step (&l->port);
    if (l->op.done && l->op.rc < 0) {
      l->state = IDLE;
      return l->op.rc;
    }
    if (l->op.done) {
      advance (l, answer, bytes);
      if (l->state == IDLE)
        return 1;
      continue;
    }
    uint64_t now = fm_now_ns (), patience = l->since_ns + l->server.timeout_ns;
    struct pollfd fd;
    if (now >= patience)
      l->port.failed = -ETIMEDOUT;
    else if (now >= deadline)
      return 0;
    else if (fm_nbd_ops.pollfd (&l->port, &fd))
      fm_poll_until (&fd, 1, deadline < patience ? deadline : patience);
  }
}
