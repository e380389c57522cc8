"""Every bound and default in one place; their relations are asserted at import."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- a volume
BLOCK_SIZE_DEFAULT = 4 * KIB
BLOCK_SIZE_MIN = 512
BLOCK_SIZE_MAX = 32 * MIB  # the largest that an NBD server may prefer (nbdkit-plugin(3))
VOLUME_SIZE_MAX = 1 << 62
IDENTITIES_MAX = 8  # that outlive a reboot, of one store
VOLUMES_MAX = 64  # the volumes of a group freeze together: each adds to the hold

# --- the intent log: fine for small volumes, of a bounded size for large ones
INTENT_REGION_MIN = MIB
INTENT_REGIONS_MAX = 1 << 20
INTENT_COOL_S = 30  # a region that no cycle had a block of for so long is cooled

# --- a store's fingerprint: samples of its bytes
SAMPLE_BYTES = 4 * KIB
SAMPLES = 64  # spread over it
SAMPLES_FIRST = 16  # beside each other, at its beginning

# --- names
NAME_PATTERN = r"[A-Za-z0-9_.-]{1,64}"

# --- the control export
EXTENTS_MAX = 1024  # told at a time; who wants more asks again
CONTROL_BYTES = 64 * KIB  # a request, and an answer, with their padding
ANSWER_BYTES = 4 * KIB  # an answer is read in such pieces, up to its first zero byte
CONTROL_WAIT_S = 1.0  # how long one request may wait inside a site before it answers
LINE_MAX = 1000  # characters of what a peer says that a person is shown
CONTROL_TIMEOUT_S = 10.0  # how long a command waits for an answer

RUNS_KNOWN = 1024  # of a source, since its target has answered it last
UNFLUSHED_MAX = 4096  # names of stores that could not be flushed, the last ones
SESSIONS_KNOWN = 1024  # the last ones, whose handshakes a target does not take again

# --- comparing by checksums: what one request holds
COMPARE_UNIT_BYTES = 4 * KIB  # under one checksum, at least
COMPARE_SUMS = 2048
COMPARE_SUMS_FIRST = 128  # in a cycle's first request; twice as many if all were answered
COMPARE_RUNS = 256
COMPARE_BYTES = 16 * MIB  # to be read by each site for one request
COMPARE_READ_BYTES = 8 * MIB  # read together, and held in memory; or one block
COMPARE_RUN_BYTES = 256 * KIB  # of one read
COMPARE_DEPTH = 32  # reads at once, at most
COMPARE_S = 0.25  # of reading, then what was compared so far is answered

# --- timing, seconds
DURATION_MAX_S = 366 * 86_400.0  # a setting; in nanoseconds it fits 64 bits
LINK_TIMEOUT_S = 2.0
LINK_TIMEOUT_MAX_S = 600.0
FREEZE_DEADLINE_S = 0.05
FREEZE_MAX_S = 1.0
FREEZE_MOST_S = 10.0  # that freeze_max may be
FENCE_BUDGET_S = 5.0
STABLE_S = 1.0  # of sending, between two records of what need not be sent again
STABLE_SHARE = 2  # and as many times as long as the last record took
SLICE_S = 0.5  # of copying, between two looks of the control at the world
SLICE_SHORT_S = 0.2  # the same, while an answer is awaited; and of the second flashcopy
HARDEN_SLICE_S = 0.002  # the least time of copying between two hardenings
IDLE_POLL_S = 0.02  # how soon an idle control notices the first write
IDLE_LOOK_S = 0.25  # how often an idle control looks whether its peer still answers
LOSS_LOOK_S = 0.25  # how often it is looked whether a loss is to be recorded
STORES_LOOK_S = 1.0  # how often a site looks whether somebody has cut or deleted a store
RENEW_PAUSE_MAX_S = 30.0  # between two tries to write a log anew that cannot be written
PULSE_S = 0.35  # a control that has asked for nothing for so long: another thread shows life
KNOCK_S = 1.0  # between two signs of life of a source that has no session
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0
START_TIMEOUT_S = 30.0
ANEW_S = 10.0  # how long a process that begins anew (a promotion) may be away
LOCK_PATIENCE_S = 0.5  # with others' looks at the lock of a state folder
STOP_TIMEOUT_S = 60.0
FAREWELL_S = 2.0  # how long a site that ends waits for an answer of the other one
CONNECT_S = 10.0  # how long connecting to a server may take: native/store_nbd.h
JOIN_S = 45.0  # how long a stop waits for the control thread; then the site ends as if killed

# --- lanes: connections to the peer for each volume, for writers that wait
PRIORITY_LANES = 4
WRITERS_ROOM = 64 * MIB  # of buffers for their copies: native/room.h counts on it
WRITERS_PIECE = 256 * KIB

# --- connections to a store's server, if it takes so many clients (native/pool.c)
STORE_CONNECTIONS_MIN = 2  # one that flushes, and one that all else takes turns on
STORE_CONNECTIONS_GOOD = 8  # `create` and `check` tell of a server that takes fewer

# --- sequences: a record holds a number below 2**63
SEQUENCE_STEP_MAX = 1 << 40  # from one commit to the next: no cycles ever are so many

# --- the bandwidth of the background, bytes a second
RATE_MIN = 4 * KIB
RATE_MAX = 1 << 40

# --- the network
PORT = 10809  # of NBD, as IANA has it
PEM_BYTES_MAX = 256 * KIB  # of a file with a certificate or a key
PKI_DAYS = 3650  # how long a certificate of `flashmirror pki` is valid
PKI_WARN_DAYS = 30  # `check` warns so long before one ends
BACKLOG = 1024  # connections that wait to be accepted
KEEPALIVE_S = 10  # a client that is silent for so long is asked whether it is still there
KEEPALIVE_PROBES = 3
DOOR_LOOK_S = 0.25  # how often it is looked what became of clients that no session uses
OPENING_S = 10.0  # how long a client over TCP may take to open an export
STRANGERS_MAX = 256  # clients over TCP that no session uses; more: the oldest goes
TCP_CLIENTS_MAX = 4096
METRICS_CLIENTS = 8  # at a time; more: the oldest goes
METRICS_THREADS = 16  # with those of clients that have to go and have not gone
METRICS_PATIENCE_S = 5.0  # with one that is silent
METRICS_PAUSE_S = 0.1
OWN_NAME_S = 60.0  # between two look-ups of this machine's whole name
CALLERS_MAX = 65_536  # connections that are looked at together
TELL_AGAIN_S = 60.0  # a refusal that repeats itself is logged so often, with how many they were
REFUSALS_KNOWN = 1024  # kinds of them that are told apart

# --- the kernel's device
ATTACH_CONNECTIONS = 1  # with more a slow write may be sent, and done, twice (docs/attach.md)
ATTACH_CONNECTIONS_MAX = 16
DEVICE_BLOCK_SIZE = 512  # the logical one: whatever is on the device must fit it for ever
DEAD_CONNECTION_S = 30 * 86_400  # how long requests wait for a site that is gone, then fail
# How long the kernel waits for an answer before it sends the request again, over another
# connection (docs/attach.md); with one connection only if that one was replaced.
REQUEST_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_LINKS = 3  # at least so many times `link_timeout`
REQUEST_TIMEOUT_ALONE_S = 2.0
DEVICE_BUSY_S = 3.0  # with udev and others who open a device for a moment
DEVICE_LOCK_S = 0.02  # between two tries to lock one
DEVICE_LOOK_S = 0.5  # how often a holder looks whether its device is still its own
# Before the machine goes down; systemd ends by force after 90 s (DefaultTimeoutStopSec=) whoever
# uses what is mounted.
UNMOUNT_S = 100.0
UNMOUNT_AGAIN_S = 0.2
ATTACH_SITE_S = 10.0  # a holder that systemd starts waits so long for a site that is just starting
ATTACH_BACKOFF_MAX_S = 1.0  # between two tries to reach a site of this machine
# A client whose connection has ended, all of which are of this machine, is back within: until then
# whoever connects may be one whose writes were lost (native/news.h).
COMING_BACK_S = 30.0
HANDSHAKE_ANSWERS = 16
HANDSHAKE_ANSWER_BYTES = 4 * KIB
NETLINK_BYTES = 16 * KIB
OOM_SCORE = -1000  # never killed for want of memory: that would free the least of it

# --- Unix sockets: sockaddr_un.sun_path holds 108 bytes with the final zero
SOCKET_PATH_MAX = 107

assert BLOCK_SIZE_MIN <= BLOCK_SIZE_DEFAULT <= BLOCK_SIZE_MAX
assert FREEZE_DEADLINE_S <= FREEZE_MAX_S <= LINK_TIMEOUT_S <= LINK_TIMEOUT_MAX_S
assert FREEZE_MAX_S <= FREEZE_MOST_S
assert CONTROL_WAIT_S < CONTROL_TIMEOUT_S
assert SLICE_SHORT_S <= SLICE_S <= LINK_TIMEOUT_S
assert IDLE_LOOK_S + IDLE_POLL_S < PULSE_S < 2 * IDLE_LOOK_S
assert BACKOFF_MIN_S < BACKOFF_MAX_S
assert JOIN_S < STOP_TIMEOUT_S
assert 2 * STRANGERS_MAX < TCP_CLIENTS_MAX < CALLERS_MAX
assert METRICS_CLIENTS < METRICS_THREADS
assert DOOR_LOOK_S < OPENING_S <= CONNECT_S
assert VOLUMES_MAX * PRIORITY_LANES * WRITERS_PIECE <= WRITERS_ROOM
assert 1 < STORE_CONNECTIONS_MIN < STORE_CONNECTIONS_GOOD
assert BACKOFF_MIN_S < ATTACH_BACKOFF_MAX_S
assert REQUEST_TIMEOUT_S >= REQUEST_TIMEOUT_LINKS * LINK_TIMEOUT_S
assert DEVICE_LOOK_S < DEVICE_BUSY_S
