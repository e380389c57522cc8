/* Stores that stand on one disk lose together.
 *
 * Idea.  A disk that cannot flush its own cache says so once, to whoever asks; what is gone then may be anybody's who
 * stands on it.  So stores with a disk in common have a number in common (`below`; 0: such a store shares with none,
 * as a server's does), and so has the state folder.  A flush that fails is a loss for all of that number (store.h),
 * and one that is good counts only when every flush of that number that was under way at its end has told its own end:
 * else a client's flush, or a commit's, would be good between the disk's word to another and our counting it.
 *
 * Numbers below 0 are in doubt: what stands on one of them may stand on the disk of any other of them.  A flush there
 * that fails is a loss for all of these; but nobody waits for a flush of another number than his own: it may hang for
 * ever for a reason that is none of his disk's (the server of a file system).
 *
 * Invariants.  Who flushes waits for those alone that began before his own flush ended, none of which waits for him:
 * each has had its answer, or has it without us.  What a loss of memory, a full disk or a quota refuses is no loss of
 * the disk's.
 * Left out: which stores share a disk (below.py); what the disk says to another process, which nobody here hears of;
 * a bound of the wait for a flush beside that hangs: the disk's own would hang as long; in doubt, a good flush while a
 * disk's word is on its way to another number: the one after it fails.
 */
#ifndef FM_BELOW_H
#define FM_BELOW_H

#include "store.h"

/* A flush that is under way: on the stack of who does it. */
struct fm_below_flush {
  int below;
  uint64_t number;
  struct fm_below_flush *next;
};

/* Before a store is in use, a number that is not 0; it leaves when it is closed. */
void fm_below_join (struct fm_store *s, int below);
void fm_below_leave (struct fm_store *s);

void fm_below_begin (struct fm_below_flush *f, int below);
/* It has ended with rc; all others that may stand on that disk count a loss, if it is one of the disk's.  `own`: the
 * store it was of, which counts its own loss itself; NULL: a file of the folder. */
void fm_below_end (struct fm_below_flush *f, int rc, const struct fm_store *own);

/* Now, among the begins and ends of all flushes; and to wait until each flush of that number that began before then has
 * ended, and told what it heard. */
uint64_t fm_below_moment (void);
void fm_below_wait (int below, uint64_t moment);

/* The number of this process's state folder, 0: none; before it is in use, and after. */
void fm_below_set_folder (int below);
/* A store that is a file of it, and hurries: its flushes wait for no other's, so whoever uses it looks at its losses
 * for as long as he counts on what he has flushed (intent.h).  Before it is in use. */
void fm_below_join_folder (struct fm_store *s);
/* How often the folder's disk has lost something.  Asked before a file of it is changed, */
uint64_t fm_below_losses (void);
/* it is for the fsync(2), or fdatasync(2), that makes the change durable: 0 or -errno, -EIO too when there was a loss
 * `since`, whoever has met it. */
int fm_below_sync (int fd, bool data_only, uint64_t since);

#endif
