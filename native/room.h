/* The buffers of a site: at most FM_ROOM_BYTES, whatever the block size and the number of volumes.
 *
 * Idea.  What is copied or sent goes in pieces, so no buffer is larger than FM_PIECE_BULK; and who
 * may have how many at once is bounded where they are taken:
 *
 *     background   32 MiB: the volumes of a site copy one after another       lane.c
 *     writers      64 MiB: 64 volumes x FM_PRIO lanes x FM_PIECE              lane.c
 *     the same     again, of what is under way to a server (store_nbd.c)
 *     requests     32 MiB under way to servers: more wait for their turn,     store.c
 *                  but for one of each of 128 stores, which has FM_PIECE
 *                  whatever the others do: 32 MiB
 *
 * So nobody but a request waits for room, and it waits with nothing in its hands, for others that
 * have all that they need: each copy that a writer waits for can always be made.  And the requests of
 * a store whose server is well never wait for those of one that is slow.
 *
 * Buffers that were given back are kept for the next, up to FM_ROOM_KEPT: a fresh one costs a fault
 * for each of its pages.
 * Left out: nbdkit's own buffers, one for each of its threads, as large as a client's request; what
 * a server that hangs has not answered (late.h), one piece a connection.
 */
#ifndef FM_ROOM_H
#define FM_ROOM_H

#include <stdbool.h>
#include <stdint.h>

#define FM_MIB (1024 * 1024ULL)
#define FM_ROOM_BYTES (256 * FM_MIB)
#define FM_ROOM_BULK (32 * FM_MIB)
#define FM_ROOM_REQUESTS (32 * FM_MIB)
#define FM_ROOM_KEPT (32 * FM_MIB)
#ifndef FM_PIECE /* the simulator's are smaller, as its blocks are */
#define FM_PIECE (FM_MIB / 4)      /* of a copy that a writer waits for */
#define FM_PIECE_BULK (2 * FM_MIB) /* of one in the background, and of a request */
#endif

/* A buffer, aligned to a page if it is large; NULL: no memory.  Given back with the same `bytes`. */
void *fm_room_take (uint64_t bytes);
void fm_room_give (void *buf, uint64_t bytes);
/* The bytes that a request may have under way. */
struct fm_room_turn {
  uint64_t bytes; /* as asked for; or less: FM_PIECE of the store's own */
  bool *own;
};
/* In the order of asking; and before that, if it is not in use, what is the store's own: `own` (NULL:
 * it has none) says whether it is, and is this file's.  0, or -ETIMEDOUT: nothing has moved for
 * timeout_ns of those that have room, whatever stores they are of. */
int fm_room_enter (struct fm_room_turn *t, bool *own, uint64_t bytes, uint64_t timeout_ns);
void fm_room_leave (struct fm_room_turn *t);
void fm_room_moves (uint64_t now_ns);
/* Bytes in buffers now, those kept included; and the most there were. */
uint64_t fm_room_used (uint64_t *most);

#endif
