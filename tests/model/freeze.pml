/*
 * freeze.pml: the consistency point of two volumes, for spin.
 *
 * Idea.  A client writes to either volume, each write only after the one before is acknowledged:
 * so a later write may depend on every earlier one.  `freeze` makes consistency points while it
 * does, one gate at a time: no step here touches two volumes at once.  Each volume has one block;
 * its content is the number of the last write.  `first` is the copy of the last point.
 *
 * Safety (I6): the copied point is a prefix of the client's writes, it holds every write that was
 * acknowledged before the freeze began, and what differs from it is in a map.  Progress: both
 * processes come to their end, so no write waits for ever.
 *
 * Bounds: 2 volumes, WRITES, POINTS, and MISSES, the deadlines that pass before the swap: 150,000
 * states, a second.
 *
 * Left out: everything after the copy of the point to `first` (mirror.pml); several clients: what
 * depends on no other write may be on either side of the point.
 *
 * Switches: as in mirror.pml, each removes the rule that it stands at.
 */

#ifndef WRITES
#define WRITES 4
#endif
#ifndef POINTS
#define POINTS 2
#endif
#ifndef MISSES
#define MISSES 1
#endif

/* each for volume 0 and volume 1 */
bool closed[2];    /* the gate */
byte in_flight[2]; /* writes past the gate */
bool next[2];
bool pending1[2];
byte data[2];
byte first[2];

/* ghosts */
byte acked;                 /* the last write acknowledged */
byte volume_of[WRITES + 1]; /* where each write went */

inline copy_to_first(v) {
	atomic {
		if
		:: pending1[v] ->
			printf("copy_to_first %d\n", v);
			first[v] = data[v];
			pending1[v] = false
		:: else
		fi
	}
}

active proctype client() {
	byte n, v;
	for (n : 1 .. WRITES) {
		select (v : 0 .. 1);
		atomic {
			!closed[v] ->
			printf("enter %d\n", v);
			in_flight[v]++;
			volume_of[n] = v
		};
#ifndef NO_COPY_BEFORE_WRITE /* I5 */
		copy_to_first(v);
#endif
		next[v] = true;
		atomic {
			data[v] = n;
			printf("write %d\n", v)
		};
		atomic {
			in_flight[v]--;
			acked = n;
			printf("acknowledge %d\n", v)
		}
	}
}

inline drain(v) {
#ifndef NO_DRAIN /* I6: no write of any volume is in flight */
	!in_flight[v]
#else
	skip
#endif
}

inline swap(v) {
	atomic {
		printf("swap %d\n", v);
		pending1[v] = next[v];
		next[v] = false
	}
}

#ifdef SWAP_PER_VOLUME /* close all gates, drain all, swap all, open all */
inline make_point() {
	for (v : 0 .. 1) {
		closed[v] = true;
		drain(v);
		swap(v);
		closed[v] = false
	}
}
#else
inline make_point() {
	do
	:: closed[0] = true;
	   closed[1] = true;
	   if
	   :: drain(0); drain(1); break
	   :: misses < MISSES -> misses++ /* the deadline, at any time before the swap: only open */
	   fi;
	   closed[0] = false;
	   closed[1] = false
	od;
	swap(0);
	swap(1);
	closed[0] = false;
	closed[1] = false
}
#endif

active proctype freeze() {
	byte point, v, other, n, known, last, misses;
	for (point : 1 .. POINTS) {
		known = acked;
		make_point();
		select (v : 0 .. 1);
		other = 1 - v;
		copy_to_first(v);
		copy_to_first(other);
		d_step {
			last = (first[0] > first[1] -> first[0] : first[1]);
			for (n : 1 .. WRITES) {
				/* A prefix: with the last of the point's writes, all before it. */
				assert(n > last || n <= first[volume_of[n]]);
				assert(n > known || n <= first[volume_of[n]])
			}
			n = 0;
			last = 0;
			known = 0
		}
	}
}

/* What differs from the point is still to be copied, by this flashcopy or by the next. */
#define mapped(v) (data[v] == first[v] || next[v] || pending1[v])

active proctype promises() {
end:
	atomic {
		!mapped(0) || !mapped(1) ->
		assert(mapped(0) && mapped(1))
	}
}
