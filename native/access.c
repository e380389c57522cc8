/* A client's reads, writes and zeroes from their begin to their end.  See request.h. */
#include "parts.h"
#include "request.h"

#include <errno.h>

static int
run (struct fm_volume *v, struct fm_request *r)
{
  int rc;
  while ((rc = fm_request_begin (v, r)) == -EAGAIN)
    fm_gate_wait_open (&v->gate);
  while (rc == 0 && (rc = fm_request_step (v, r)) == 0)
    fm_request_wait (v, r);
  return rc < 0 ? rc : fm_request_finish (v, r);
}

static bool
outside (const struct fm_volume *v, uint64_t n, uint64_t offset)
{
  return offset > v->size || n > v->size - offset;
}

int
fm_volume_read (struct fm_volume *v, void *buf, uint64_t n, uint64_t offset)
{
  if (outside (v, n, offset))
    return -EINVAL;
  struct fm_op op = { .kind = FM_READ, .offset = offset, .length = n, .buf = buf };
  int rc = n ? fm_store_io (v->front, &op) : 0;
  if (rc < 0)
    atomic_fetch_add (&v->read_errors, 1);
  fm_request_note (&v->failed_read, &op, rc);
  return rc;
}

int
fm_volume_write (struct fm_volume *v, uint64_t session, const void *buf, uint64_t n,
                 uint64_t offset, unsigned flags)
{
  if (outside (v, n, offset))
    return -ENOSPC; /* as a device answers a write past its end: nbd proto.md */
  struct fm_request r = { .session = session,
                          .op = { .kind = FM_WRITE, .flags = flags, .offset = offset,
                                  .length = n, .buf = (void *)buf } };
  return n ? run (v, &r) : 0;
}

int
fm_volume_zero (struct fm_volume *v, uint64_t session, uint64_t n, uint64_t offset,
                unsigned flags)
{
  if (outside (v, n, offset))
    return -ENOSPC;
  int rc = 0;
  bool durable = n && (flags & FM_FUA);
  _Atomic uint64_t heard = fm_store_losses (v->front);
  /* In pieces, each in the gate: a freeze must not wait for gigabytes, nor for a slow store; and one flush for
   * all.  They end where a store can punch whole blocks. */
  while (n && rc == 0) {
    uint64_t piece = fm_parts_piece (v->front, FM_ZERO) - offset % FM_PACE_LEAST;
    piece = n < piece ? n : piece;
    struct fm_request r = { .session = session,
                            .op = { .kind = FM_ZERO, .flags = flags & ~(unsigned)FM_FUA,
                                    .offset = offset, .length = piece } };
    rc = run (v, &r);
    offset += piece, n -= piece;
  }
  if (rc < 0 || !durable)
    return rc;
  rc = fm_request_flush (v, &heard);
  return rc == 0 ? fm_volume_seal_intent (v) : rc;
}
