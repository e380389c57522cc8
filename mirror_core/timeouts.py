"""Every wait that follows from `link_timeout`, and their sums: what a write waits at most.

`link_timeout` is how long the other site, or a store behind a server, may be silent.  Everything
that waits for either derives its own bound from it here, so that the sums can be seen, and are
asserted (docs/timeouts.md is this page for people).

    a write     is held by a freeze, then waits for a copy of the block that it meets
    a loss      is noticed by whoever waits first: a lane, a control request, or an idle look
    a request   waits inside the other site (CONTROL_WAIT_S, COMPARE_S), and for one read there

Invariants: `check`, for every link_timeout.
Left out: what waits for a store that is a file or a device: the system gives no bound for it.
"""

from __future__ import annotations

from mirror_core import limits


def lane_s(link_timeout: float) -> float:
    """A connection that carries copies, or a server of a store, is lost after so much silence
    while something is under way on it (native/lane.c, store.h)."""
    return link_timeout


def patience_s(link_timeout: float) -> float:
    """A write waits for the other site so long, in all: for the copies that stand before its own
    at the lanes, and for its own.  Then the link is lost, though it may get on
    (native/request.c)."""
    return link_timeout


def put_off_s(silence: float) -> float:
    """What a source writes to a block that its target still hardens is put off after so long, and
    comes again: a request ends well before its source takes the target for silent.  `silence`: as
    the source says; 0: it does not, and does not know what is put off: for ever."""
    return min(limits.CONTROL_WAIT_S, _link_timeout_of(silence) / 4) if silence else 0.0


def fence_s(link_timeout: float, silence: float = 0.0) -> float:
    """Before it opens a session a target waits so long for the requests of older ones: who asks for
    it is there still to hear that they do not end.  `silence`: as the source says; 0: it does not,
    or this is a promotion, which has none."""
    theirs = _link_timeout_of(silence) if silence else link_timeout
    return min(limits.FENCE_BUDGET_S, link_timeout, theirs)


def _link_timeout_of(silence: float) -> float:
    """Of a source that says that."""
    return max(0.01, silence - 2 * limits.IDLE_LOOK_S)


def write_s(link_timeout: float, freeze_max: float) -> float:
    """The longest that a write waits for mirroring: a hold, and the copies.  What this site's own
    stores take comes on top."""
    return freeze_max + patience_s(link_timeout)


def request_s(link_timeout: float) -> float:
    """A control request is given up: no write waits for one."""
    return link_timeout + limits.CONTROL_WAIT_S


def look_s(link_timeout: float) -> float:
    """The same of an idle look, by which a loss is noticed while nothing is copied."""
    return max(link_timeout - limits.IDLE_LOOK_S, link_timeout / 2)


def farewell_s() -> float:
    """A source that is told to stop has left its target within this time, whatever that does: a
    freeze or a slice goes on, then no answer comes, or a connection does not come about, after
    which none is begun (native/link.c).  Its own stores' time comes on top."""
    return limits.FREEZE_MOST_S + limits.SLICE_S + limits.FAREWELL_S + limits.CONNECT_S


def opened_s() -> float:
    """A source that is told to stop while it opens an intermediate behind a server, for which no
    session is open yet: one connection to see what it is, and those that it needs at the least."""
    return (1 + limits.STORE_CONNECTIONS_MIN) * limits.CONNECT_S


def compared_s(link_timeout: float) -> float:
    """The target answers what it has compared: after COMPARE_S no read is begun, and those under
    way end, or their server is lost."""
    return limits.COMPARE_S + lane_s(link_timeout)


def silence_s(link_timeout: float) -> float:
    """How long a source that is there may be silent to its target: between two looks, or two beats
    of its pulse, and for one that is answered late."""
    return link_timeout + 2 * limits.IDLE_LOOK_S


def asks_again_s(silence: float) -> float:
    """A source that is there, but has no session, has asked for one within this time: it makes a
    pause between two tries."""
    return silence + limits.BACKOFF_MAX_S


def knocks_again_s(silence: float) -> float:
    """The same of its pulse, which says that it is there, whatever its control is busy with."""
    return silence + limits.KNOCK_S


def check(link_timeout: float) -> None:
    """The sums, of one site's setting."""
    noticed = limits.IDLE_LOOK_S + look_s(link_timeout)
    assert noticed <= max(link_timeout, limits.IDLE_LOOK_S + link_timeout / 2), "an idle loss"
    assert write_s(link_timeout, 0.0) <= link_timeout, "no write waits longer than that for a link"
    assert compared_s(link_timeout) < request_s(link_timeout), "a comparison is answered in time"
    assert silence_s(link_timeout) >= noticed, "who is looked at has not been silent"
    put_off = put_off_s(silence_s(link_timeout))
    assert put_off <= lane_s(link_timeout) / 2, "a target that puts off is not silent on its lane"
    assert request_s(link_timeout) > limits.CONTROL_WAIT_S, "a request may wait inside"
    fenced = fence_s(limits.LINK_TIMEOUT_MAX_S, silence_s(link_timeout))
    assert fenced < request_s(link_timeout), "a source hears why it gets no session"


for _seconds in (0.01, 0.1, limits.LINK_TIMEOUT_S, 60.0, limits.LINK_TIMEOUT_MAX_S):
    check(_seconds)
assert farewell_s() + limits.CONNECT_S < limits.JOIN_S, "no silent target, nor its name server,"
assert opened_s() < limits.JOIN_S, "and no slow server of an intermediate holds up a stop"
assert write_s(limits.LINK_TIMEOUT_S, limits.FREEZE_MAX_S) <= 2 * limits.LINK_TIMEOUT_S
assert limits.SLICE_S <= limits.LINK_TIMEOUT_S, "the control looks at the world in time"
