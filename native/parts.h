/* An operation in parts, one after the other, each as large as the store's pace says (pace.h).
 *
 * Idea.  One operation may be 64 MiB, and a store may do 0.1 MB/s: nobody can tell such an operation
 * from one that hangs.  A part takes some milliseconds, so it has an answer soon, and each
 * answer shows that the store is there.  Parts begin small with a store that nobody knows, and
 * are small again after one that was not answered.
 *
 * Silence.  A port is silent when, for its store's timeout_ns, nothing moves on it though
 * something is under way: no operation begins on an idle port or ends, no byte comes, and no
 * byte of what was sent is taken by the other side.  So a slow link is not a dead one, whatever
 * the size of a part; and a silent one is found, whatever moves on other ports.
 *
 * Invariant: no part is begun before the one before has ended well; an error ends the operation.
 * What was done in parts before an error has happened.
 * Left out: a flush has one part, and no size: it must be answered within timeout_ns; an
 * answer that never comes on a port where others do.
 */
#ifndef FM_PARTS_H
#define FM_PARTS_H

#include "store.h"

struct fm_parts {
  struct fm_op op;   /* the part that is under way; its rc, when all is done, is that of all */
  uint64_t left;     /* bytes after it */
  uint64_t begun_ns; /* of a part that shows the pace, else 0 */
  bool seen;         /* that this part has ended */
};

void fm_parts_begin (struct fm_parts *t, struct fm_port *p, struct fm_op op);
/* After a step of the port, which may be another one of the store for each part, and NULL when no
 * part is to be begun now.  True: all is done.  `learns`: the pace may be taken from it. */
bool fm_parts_step (struct fm_parts *t, struct fm_store *s, struct fm_port *p, bool learns);

/* How many bytes may be asked of this store at once; UINT64_MAX: any. */
uint64_t fm_parts_piece (const struct fm_store *s, enum fm_op_kind kind);
/* One operation of a store that does it at once (`run`), with its pace: rc. */
int fm_parts_run (struct fm_store *s, const struct fm_op *op);

/* Whether the port is silent: then it has failed with -ETIMEDOUT, and its next step ends all on it. */
bool fm_parts_silent (struct fm_port *p, uint64_t now_ns);
/* When to ask that again; UINT64_MAX: nothing is under way, or it is not known yet: soon. */
uint64_t fm_parts_look_ns (const struct fm_port *p);

#endif
