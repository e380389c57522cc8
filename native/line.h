/* A connection to a control export (mirror_core/exports.py), for one request after the other.
 *
 * Idea.  A request is written at 0, and its answer read at 0, piece by piece up to the first zero
 * byte.  To connect takes more round trips than to ask, so the connection is kept; and whoever
 * asks may do other things until the answer is there.
 *
 * Invariants: one request at a time; a line that failed stays failed.  Used by one thread at a time.
 */
#ifndef FM_LINE_H
#define FM_LINE_H

#include <stdint.h>

struct fm_line;

/* `timeout_ns`: for connecting, and then for each answer of the server.  0, or -errno with one
 * line in `why`. */
int fm_line_open (const char *uri, uint64_t timeout_ns, struct fm_line **out, char *why,
                  unsigned whysize);
void fm_line_close (struct fm_line *l);

/* Begin to ask; none is under way.  0 or -ENOMEM. */
int fm_line_ask (struct fm_line *l, const void *request, uint64_t bytes);
/* Go on for `wait_ns` at most, 0: without waiting.  1: `answer` (of `bytes`) has it all, zeroes at its
 * end; 0: not yet; -errno. */
int fm_line_hear (struct fm_line *l, void *answer, uint64_t bytes, uint64_t wait_ns);

#endif
