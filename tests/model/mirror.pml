/*
 * mirror.pml: the protocol of two sites, for spin.
 *
 * Idea.  Two processes.  `mirror` has every step that the protocol takes by itself, at both
 * sites; `world` has what happens to it: writes, cuts, losses of power, requests that arrive late,
 * an operator who promotes and rejoins.  Each option is one atomic step; between any two steps
 * anything may happen.  `promises` can only move when an invariant is broken.
 *
 *   stores    source (data of the source site), first, second (the intermediates), target (data of
 *             the target site).  Contents of a block: the number of the write that made it.
 *   power     a store has a cache and a disk; a loss keeps, for each block, any version written
 *             since the last flush, or the one before.
 *   requests  writes are reordered at will.  A request that may be in flight needs no variable: it
 *             is one whose turn has come (`unsent`, or all is sent and the commit is due).  A cut
 *             leaves all of those behind in the dead connection (`late_*`); each is carried out
 *             later, or never.  That is also the request carried out whose answer is lost.
 *   sessions  a late request is one of an older session.  To refuse it when it arrives is to
 *             forget it at the handshake.
 *   ghosts    `point` is the source's content at the consistency point of the running cycle, `held`
 *             that of the last committed one.  A commit carries its point along.
 *
 * Safety: `promises`, below, in every state.  Progress: whenever no step of the protocol is left to
 * do, both sites are equal (the `else` of `mirror`); and no run goes on for ever without such rest
 * (-DENDLESS).  So after the faults stop the sites become equal.
 *
 * Bounds: 2 blocks, and the numbers below, which -D changes.  The blocks are alike, so the first
 * write goes to block 0.  There are as many sequences as these lead to (about one for each write,
 * loss and promote).  9 million states, 0.8 GiB, 20 s; with CUTS=2, 16 million, 1.2 GiB.
 *
 * Left out: the first copy (both sites start equal), several volumes (freeze.pml), regions of more
 * than one block, torn blocks, I/O errors, stores behind a server, crashes between the steps of one
 * promote or rejoin, cycles of a promoted site before its peer has rejoined.
 * Weaker than the design, so safe in both: a writer waits for the first intermediate only
 * (preserve = "first"); the first intermediate is never flushed, as it is read only in the cycle
 * that wrote it; a promote leaves the intermediate as it is.
 *
 * Switches: each, given to spin with -D, removes one rule; then pan finds a trace, and `spin -t -B`
 * prints its steps.  A switch stands where the rule stands, with the invariant that it belongs to
 * (docs/explanation/invariants.md), if to one, and the rule's words.  Two remove nothing: SENT_AGAIN
 * adds an assert that no promise needs, ENDLESS looks for endless runs.
 */

#ifndef WRITES
#define WRITES 3 /* by clients */
#endif
#ifndef LOSSES
#define LOSSES 2 /* of power, at either site */
#endif
#ifndef CUTS
#define CUTS 1 /* of the link */
#endif
#ifndef PROMOTES
#define PROMOTES 1
#endif

/* ---- sets of blocks, and stores */

#define has(set, b) ((set >> b) & 1)
#define add(set, b) set = set | (1 << b)
#define drop(set, b) set = set & (3 - (1 << b))
#define without(set, other) (set & (3 - (other)))

typedef Store {
	byte cache[2];
	byte disk[2]
};

/* Whatever survives a loss of power now, block b is v. */
#define surely(store, b, v) (store.cache[b] == v && store.disk[b] == v)

inline put(store, b, v) {
	if
	:: store.cache[b] != store.disk[b] -> store.disk[b] = store.cache[b] /* went to the disk */
	:: true                                                              /* never did */
	fi;
	store.cache[b] = v
}

inline flush(store) {
	store.disk[0] = store.cache[0];
	store.disk[1] = store.cache[1]
}

inline survive(store, b) {
	if
	:: store.cache[b] != store.disk[b] -> store.disk[b] = store.cache[b]
	:: true                            -> store.cache[b] = store.disk[b]
	fi
}

inline lose_unflushed(store) {
	survive(store, 0);
	survive(store, 1)
}

/* ---- the source site */

Store source;
unsigned intent : 2;   /* durable */
byte begun;            /* durable */

unsigned next : 2;
byte k;                /* sequence of the running cycle, 0: none */
unsigned cycle : 2;    /* its blocks */
unsigned pending1 : 2; /* of these, not yet in the first intermediate */
unsigned unsent : 2;   /* of these, not acknowledged by the second intermediate */
unsigned unstable : 2; /* acknowledged, but not flushed by the same instance */
unsigned cooling : 2;  /* will leave the intent */
byte first[2];

/* ---- the target site */

Store second;
Store target;
byte committed;           /* durable */
unsigned pending2 : 2;    /* durable */
unsigned written : 2;
unsigned written_disk : 2; /* the durable part of `written` */
unsigned copied : 2;      /* of pending2, in `target` but not flushed */
bool restarted;           /* since the last handshake: another instance */

bool promoted;            /* durable, as are the next two */
bool whole = true;        /* false: rejoined, and nothing committed since */
unsigned intent2 : 2;     /* intent of a promoted site */

/* ---- between them */

bool link = true;
byte late_write[2]; /* content + 1, 0: none */
byte late_commit;   /* sequence, 0: none */
byte late_point[2];

/* ---- ghosts and budgets */

byte point[2];
byte held[2];
byte writes, losses, cuts, promotes;

/* ======== the first flashcopy: source -> first, second */

/* The freeze, and then the durable number (I3): one moment here.  A writer may copy in between. */
inline begin() {
#ifdef NO_FIRST_CYCLE /* until the first commit of a lineage, an empty cycle counts */
	!k && next ->
#else
	!k && (next || !whole) ->
#endif
	printf("begin\n");
	begun++;
	k = begun;
	point[0] = source.cache[0];
	point[1] = source.cache[1];
	cycle = next;
	pending1 = next;
	unsent = next;
	next = 0
}

inline copy_to_first(b) {
	has(pending1, b) ->
	printf("copy_to_first %d\n", b);
#ifdef COMPARE_WITH_FIRST /* what matches is looked for in the second intermediate */
	if
	:: first[b] == source.cache[b] -> drop(unsent, b)
	:: else
	fi;
#endif
	first[b] = source.cache[b];
	drop(pending1, b)
}

#define due(b) (has(unsent, b) && !has(pending1, b))

/* The gate of the second intermediate: a pending block is copied, flushed and recorded first. */
#ifdef NO_WAIT_FOR_HARDENING /* I2: ... and has durably left pending2 */
#define may_write(b) (!has(without(pending2, copied), b))
#else
#define may_write(b) (!has(pending2, b))
#endif

inline accept(b, v) {
	put(second, b, v);
	add(written, b)
}

inline copy_to_second(b) {
	link && due(b) && may_write(b) ->
	printf("copy_to_second %d\n", b);
	accept(b, first[b]);
	drop(unsent, b);
	add(unstable, b)
}

/* The second intermediate holds it already: it counts as sent. */
inline skip_equal(b) {
	link && due(b) && second.cache[b] == first[b] ->
	printf("skip_equal %d\n", b);
	drop(unsent, b);
#ifndef NO_JOIN_UNSTABLE /* a block found equal joins unstable */
	add(unstable, b);
#endif
#ifndef NO_JOIN_WRITTEN /* ... and written */
	add(written, b)
#endif
}

#ifdef NO_WHOLE_IMAGE /* compare.py: data is compared if the site has an image */
#define has_image true
#else
#define has_image whole
#endif
#ifdef NO_HARDENED_IMAGE /* compare.py: ... and all of that is in data */
#define is_hardened true
#else
#define is_hardened (!pending2)
#endif
#ifdef NO_UNWRITTEN /* compare.py: ... where nothing was written to the second intermediate since */
#define unwritten(b) true
#else
#define unwritten(b) (!has(written, b))
#endif

/* Or its data does, and the image: it need not be written, and the image is read there still. */
inline skip_in_data(b) {
	link && due(b) && has_image && is_hardened && unwritten(b) && target.cache[b] == first[b] ->
	printf("skip_in_data %d\n", b);
	drop(unsent, b);
	add(unstable, b)
}

inline flush_target() {
	flush(second);
#ifndef NO_DURABLE_WRITTEN /* I3: a flush of the intermediate makes `written` durable too */
	written_disk = written
#endif
}

inline flush_second() {
	link && unstable ->
	printf("flush_second\n");
	flush_target();
	unstable = 0
}

/* ======== the commit */

#ifdef NO_WAIT_FOR_PENDING2 /* I3: when pending2 of the commit before is empty */
#define may_commit true
#else
#define may_commit (!pending2)
#endif

/* At the target: sequence s is the image. */
inline record_commit(s, content0, content1) {
	assert(s > committed); /* with the assert of settle(): never below what was acknowledged */
#ifndef NO_COMMIT_FLUSH /* I3: after a flush of everything the cycle wrote */
	flush(second);
#endif
	pending2 = written;
	written = 0;
	written_disk = 0;
	copied = 0;
	committed = s;
	held[0] = content0;
	held[1] = content1;
	whole = true
}

inline forget_cycle() {
	k = 0;
	cycle = 0;
	pending1 = 0;
	unsent = 0;
	unstable = 0;
	point[0] = 0;
	point[1] = 0;
#ifndef COMPARE_WITH_FIRST
	first[0] = 0; /* nobody reads it again: fewer states */
	first[1] = 0
#endif
}

/* At the source: sequence k is committed. */
inline settle() {
	assert(committed >= k && held[0] == point[0] && held[1] == point[1]);
#ifndef NO_SOURCE_FLUSH /* I4: the source store was flushed since the consistency point */
	flush(source);
#endif
#ifdef NO_COOLING_RULE /* I4: and the block was not written since */
	cooling = cooling | cycle;
#else
	cooling = cooling | without(cycle, next);
#endif
	forget_cycle()
}

inline commit() {
	link && k && !pending1 && !unsent && may_commit ->
	printf("commit\n");
#ifdef SENT_AGAIN /* what an abandoned cycle had written is; I4 makes that so */
	assert(!without(written, cycle));
#endif
	record_commit(k, point[0], point[1]);
	settle()
}

/* Sooner or later, maybe in the next cycle.  That `next` lacks a block would prove nothing here:
 * a freeze empties it.  So it is the writer who heats the block again. */
inline cool() {
	cooling ->
	printf("cool\n");
	intent = without(intent, cooling);
	cooling = 0
}

/* ======== the second flashcopy: second -> target */

inline copy_to_target(b) {
	has(without(pending2, copied), b) ->
	printf("copy_to_target %d\n", b);
	put(target, b, second.cache[b]);
	add(copied, b)
}

inline harden() {
	copied ->
	printf("harden\n");
#ifndef NO_HARDENING_FLUSH /* I2: the copy in data is flushed before the block leaves pending2 */
	flush(target);
#endif
	pending2 = without(pending2, copied);
	copied = 0
}

/* ======== sessions */

/* The target: older sessions are refused, and drained. */
inline fence() {
#ifndef NO_FENCE_WRITES /* I8 */
#ifdef NO_FENCE_WAITING /* I8: those that wait for a copy before write included */
	if
	:: !has(pending2, 0) -> late_write[0] = 0
	:: else
	fi;
	if
	:: !has(pending2, 1) -> late_write[1] = 0
	:: else
	fi;
#else
	late_write[0] = 0;
	late_write[1] = 0;
#endif
#endif
#ifndef NO_FENCE_COMMITS /* I8 */
	late_commit = 0;
	late_point[0] = 0;
	late_point[1] = 0;
#endif
	skip
}

inline handshake() {
	!link && !promoted ->
	printf("handshake\n");
	fence();
	link = true;
	if
	:: k && committed >= k -> settle() /* its acknowledgement was lost */
	:: else
	fi;
#ifndef NO_RESEND_UNSTABLE /* I9: if the instance changed, unstable blocks are sent again */
	if
	:: restarted -> unsent = unsent | unstable; unstable = 0
	:: else
	fi;
#endif
	restarted = false
}

/* What the connection may hold when it dies. */
inline leave_behind() {
	if
	:: link && due(0) -> late_write[0] = first[0] + 1
	:: else
	fi;
	if
	:: link && due(1) -> late_write[1] = first[1] + 1
	:: else
	fi;
	if
	:: link && k && !pending1 && !unsent ->
		late_commit = k;
		late_point[0] = point[0];
		late_point[1] = point[1]
	:: else
	fi;
	link = false
}

#define equal(b) (surely(source, b, held[b]) && surely(target, b, held[b]))
#define converged (equal(0) && equal(1) && !intent && whole)

active proctype mirror() {
	do
	:: atomic {
		if
		:: begin()
		:: copy_to_first(0)
		:: copy_to_first(1)
		:: copy_to_second(0)
		:: copy_to_second(1)
		:: skip_equal(0)
		:: skip_equal(1)
		:: skip_in_data(0)
		:: skip_in_data(1)
		:: flush_second()
		:: commit()
		:: cool()
		:: copy_to_target(0)
		:: copy_to_target(1)
		:: harden()
		:: handshake()
#ifndef ENDLESS /* pan -l then finds every endless run: this is the only step that repeats */
		:: else -> assert(promoted || converged)
#endif
		fi
	   }
	od
}

/* ======== the world */

/* A client's write: a pending block waits, intent is durable before the source store is written. */
inline write(b) {
#ifdef NO_COPY_BEFORE_WRITE /* I5 */
	writes < WRITES && (b == 0 || writes) ->
#else
	writes < WRITES && (b == 0 || writes) && !has(pending1, b) ->
#endif
	printf("write %d\n", b);
	writes++;
	add(intent, b);
#ifndef NO_REHEAT /* I4: a writer that meets cooling heats it again */
	drop(cooling, b);
#endif
	add(next, b);
	put(source, b, writes)
}

inline write_promoted(b) {
	promoted && writes < WRITES && (b == 0 || writes) ->
	printf("write_promoted %d\n", b);
	writes++;
	add(intent2, b);
	put(target, b, writes)
}

inline cut() {
	cuts < CUTS && link ->
	printf("cut\n");
	cuts++;
	leave_behind()
}

inline deliver_late_write(b) {
	late_write[b] && may_write(b) ->
	printf("deliver_late_write %d\n", b);
	accept(b, late_write[b] - 1);
	late_write[b] = 0
}

inline deliver_late_commit() {
	late_commit && may_commit ->
	printf("deliver_late_commit\n");
	if
	:: late_commit > committed -> record_commit(late_commit, late_point[0], late_point[1])
	:: else
	fi;
	late_commit = 0;
	late_point[0] = 0;
	late_point[1] = 0
}

/* Restart: next := intent; the unfinished cycle is abandoned. */
inline lose_power_at_source() {
	losses < LOSSES ->
	printf("lose_power_at_source\n");
	losses++;
	leave_behind();
	lose_unflushed(source);
#ifdef NO_DURABLE_INTENT /* I4: it is durable before the write is issued */
	intent = without(intent, next);
#endif
#ifdef NO_DURABLE_BEGUN /* I3: begun is durable, a number is never reused */
	begun = committed;
#endif
	forget_cycle();
	cooling = 0;
#ifdef NO_RESTART_FROM_INTENT /* next := intent, the unfinished cycle included */
	next = 0
#else
	next = intent
#endif
}

/* Restart: ledger, pending2 and the durable part of `written` are there; its connections died. */
inline lose_power_at_target() {
	losses < LOSSES ->
	printf("lose_power_at_target\n");
	losses++;
	if
	:: written != written_disk -> flush_target() /* a flush whose answer was lost */
	:: true
	fi;
	lose_unflushed(second);
	lose_unflushed(target);
	written = written_disk;
	copied = 0;
	restarted = true;
	link = false;
	late_write[0] = 0;
	late_write[1] = 0;
	late_commit = 0;
	late_point[0] = 0;
	late_point[1] = 0
}

/* The operator.  pending2 was finished by the steps of the second flashcopy. */
inline promote() {
#ifdef NO_FIRST_COMMIT /* a rejoined target cannot be promoted before it */
	promotes < PROMOTES && !promoted && !pending2 ->
#else
	promotes < PROMOTES && !promoted && !pending2 && whole ->
#endif
	printf("promote\n");
	promotes++;
	leave_behind();
#ifndef NO_FENCE_AT_PROMOTE /* I8: and before a promote writes its record */
	fence();
#endif
	written = 0;
	written_disk = 0;
	promoted = true
}

inline swap(x, y) {
	other = x;
	x = y;
	y = other
}

/* Failback: the old source is the target now.  Its stores change places in this model. */
inline rejoin() {
	promoted ->
	printf("rejoin\n");
	swap(first[0], second.cache[0]);
	swap(first[1], second.cache[1]);
	flush(second);
	forget_cycle();
	cooling = 0;
	swap(source.cache[0], target.cache[0]);
	swap(source.cache[1], target.cache[1]);
	swap(source.disk[0], target.disk[0]);
	swap(source.disk[1], target.disk[1]);
#ifdef NO_UNION /* the blocks to send are intent(old) and intent(new) */
	intent = intent2;
#else
	intent = intent | intent2;
#endif
	next = intent;
	intent2 = 0;
	begun = committed; /* max(begun, committed): this site had begun nothing */
	pending2 = 0;
	written = 0;
	written_disk = 0;
	copied = 0;
	whole = false;
	restarted = false;
	promoted = false
}

active proctype world() {
	byte other;
	do
	:: atomic {
		if
		:: write(0)
		:: write(1)
		:: write_promoted(0)
		:: write_promoted(1)
		:: cut()
		:: deliver_late_write(0)
		:: deliver_late_write(1)
		:: deliver_late_commit()
		:: lose_power_at_source()
		:: lose_power_at_target()
		:: promote()
		:: rejoin()
		fi;
		other = 0
	   }
	od
}

/* ======== the promises */

/* I1: the image of the committed sequence is the source at its consistency point. */
#define image(b) (has(pending2, b) -> surely(second, b, held[b]) : surely(target, b, held[b]))
#define recoverable (promoted || !whole || (image(0) && image(1)))

/* Promoted: the volume is that image, and what was written since is in its intent. */
#define served(b) (has(intent2, b) || surely(target, b, held[b]))
#define serves_the_image (!promoted || (served(0) && served(1)))

/* I4: what may differ from the last committed consistency point is in the intent. */
#define known(b) (has(intent, b) || surely(source, b, held[b]))
#define nothing_forgotten (known(0) && known(1))

active proctype promises() {
end:
	atomic {
		if
		:: !recoverable       -> assert(recoverable)
		:: !serves_the_image  -> assert(serves_the_image)
		:: !nothing_forgotten -> assert(nothing_forgotten)
		fi
	}
}
