/* The simulator's stores: disks with a volatile cache, and the peer's store behind a link.
 *
 * Idea.  A disk outlives the sites that open it.  It has the bytes that a reader sees
 * (`now`), the bytes that are safe (`safe`), and a log of every sector written since the
 * last flush.  When the power goes, each logged sector is kept or lost by a coin of its own,
 * in order: so any subset of unflushed writes may survive, torn at sector size.  A killed
 * process loses nothing: the cache is the machine's.
 *
 * A flush that fails has lost an arbitrary part of what it covered, as Linux does: those pages
 * are clean, so no later flush writes them, and that one succeeds.  A reader finds older bytes
 * at once (SIM_LOSE_NOW), or the new ones until the cache needs the room (SIM_LOSE_LATER: a server,
 * whose cache is not the site's to drop; or our own kernel, until whoever was told of the failure
 * drops it, but for what is beside something dirty, and unless he is killed before: `sim_disk_ours`).
 * A disk may be slow: an operation takes its time before it has an effect.
 *
 * A store is one site's opening of a disk: as a file, whose operations are done at once and whose
 * flushes wait for those beside them (native/below.h), or behind a server, with connections.  When the site dies its stores are killed: what
 * still runs of it gets errors and changes nothing any more, and so unwinds.
 *
 * A link store has no bytes: its operations become messages (sim/network.py) whose answers
 * end them; a cut port ends all of its own with an error.
 *
 * Every operation is a point where other tasks may run and anything may crash: once before
 * it has any effect, or once after it and before its answer (`sim_event`).
 *
 * Left out: reads that fail only here and there, and a cache that writes back while up
 * (the same as a flush that nobody relies on: a coin that kept all of a prefix).
 */
#ifndef FM_SIMSTORE_H
#define FM_SIMSTORE_H

#include "below.h"
#include "request.h"
#include "simsched.h"

#define SIM_SECTOR 512

struct sim_disk;

extern uint64_t sim_seed; /* of what disks lose, and in which order they answer */
extern bool sim_traces;   /* `sim_operation` is called */

/* Implemented in Python. */
void sim_operation (int disk, int kind, bool after); /* for the trace */
int sim_connect (int remote, struct fm_port *p); /* a connection's number, or -errno */
void sim_disconnect (int connection);
void sim_send (int connection, struct fm_op *op);

/* A flush has lost something: what the caller knows of the disk's bytes is over; or (`later`) only
 * what he knows of its safe ones, until `sim_faded`: from then on readers find these in what is still
 * called stale (sim_disk_stale). */
void sim_lost (int disk, bool later);
void sim_folder_lost (unsigned below, bool later); /* state folders that stand on disks of that number */
void sim_faded (int disk);

enum sim_loss { SIM_LOSE_NOTHING, SIM_LOSE_NOW, SIM_LOSE_LATER };

struct sim_disk *sim_disk_new (int number, uint64_t size);
void sim_disk_free (struct sim_disk *d);
char *sim_disk_now (struct sim_disk *d);
char *sim_disk_safe (struct sim_disk *d);
/* Of each sector: 1: the cache holds what no flush will write. */
char *sim_disk_stale (struct sim_disk *d);
void sim_disk_evict (struct sim_disk *d); /* the cache needs the room: it holds no such sector any more */
void sim_disk_drop (struct sim_disk *d);  /* it is told to: none beside what is dirty */
uint64_t sim_disk_unflushed (struct sim_disk *d); /* sectors */
/* Into `out` what stands after a power loss that keeps a sector with a chance of
 * `keep` in 256; how many sectors were lost. */
uint64_t sim_disk_survivors (struct sim_disk *d, unsigned keep, char *out);
/* The power came back and this is what the disk holds. */
void sim_disk_reset (struct sim_disk *d, const char *bytes);
/* Somebody has written this over all of it, and not flushed it. */
void sim_disk_fill (struct sim_disk *d, const char *bytes);
/* Of the next operations of `kinds` (bits of 1 << kind) `count` fail with -rc; a write
 * that fails is torn. */
void sim_disk_fail (struct sim_disk *d, unsigned kinds, unsigned count, int rc);
/* The first of them stands still then: others run before anybody hears of it. */
void sim_disk_halt (struct sim_disk *d);

int sim_disk_number (const struct sim_disk *d);
uint64_t sim_disk_size (const struct sim_disk *d);
unsigned sim_disk_failing (struct sim_disk *d); /* how many are still to fail */
/* How many sectors a cache has shown for a while that a failed flush had lost. */
uint64_t sim_disk_faded (const struct sim_disk *d);
void sim_disk_lose (struct sim_disk *d, enum sim_loss loss); /* of flushes that fail */
/* Its cache is the own kernel's (native/store_file.c): who hears of a failed flush drops it. */
void sim_disk_ours (struct sim_disk *d);
/* It zeroes no faster than it writes, and says so (FM_FAST). */
void sim_disk_emulate (struct sim_disk *d);
/* From now on an operation takes so long, and so much more for each byte. */
void sim_disk_slow (struct sim_disk *d, uint64_t op_ns, uint64_t byte_ns);

/* From now on its failed flushes (EIO) lose of all disks of that number, above 0. */
void sim_disk_share (struct sim_disk *d, unsigned below);
/* The state folder on them was flushed, with rc: one that failed has lost of all of them (native/below.h). */
void sim_folder_flush (unsigned below, int rc, enum sim_loss loss);

/* As a file, whose operations are done at once; or behind a server, with connections. */
struct fm_store *sim_file_open (struct sim_disk *d);
struct fm_store *sim_server_open (struct sim_disk *d, unsigned lazy);
void sim_stores_forget (void); /* those of the schedule before */
struct fm_store *sim_remote_open (int remote, uint64_t size, uint64_t timeout_ns);
void sim_store_kill (struct fm_store *s);
/* Its server went and came back: every connection has ended; not of a file.  What the disk holds then is the
 * caller's to say (sim_disk_survivors). */
void sim_store_restart (struct fm_store *s);

/* A client's flush, and where its `heard` begins: cffi knows no atomics. */
uint64_t sim_told (struct fm_volume *v);
int sim_client_flush (struct fm_volume *v, uint64_t *heard);

/* An answer to an operation of a link store.  The port's next step takes it: `op` may lie on
 * the stack of a task, which is elsewhere while that task does not run, so nobody else may
 * touch it. */
void sim_answer (struct fm_port *p, struct fm_op *op, int rc);
/* The connection is gone: the port's next step ends what is under way. */
void sim_cut (struct fm_port *p, int rc);

#endif
