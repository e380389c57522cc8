"""A target becomes a source: its image, read and write, is a new data history.

    fence     requests of the old source end, and it gets no session meanwhile (I8)
    finish    the second flashcopy: then `data` alone is the image
    record    one change of the ledger: role, and a new lineage that names the old one
    anew      the process begins again, and finds that it is a source

Invariants.  Until the record nothing has changed but this process's mind: it may end at any
instant and is a target again, also if who asked for it is gone, or takes it back.  A site that is
told to stop begins neither of the last two steps.  From the record on every start serves the
volumes, and the old source is refused by lineage.  What is written is marked in an intent log that
begins empty, which is exactly what this site and the old history differ by.

So what would keep the process from beginning anew, such as a configuration that was edited since
the start, is refused before the record.

Left out: failback.  The intermediate keeps what an uncommitted cycle had written; a source never
reads its intermediate but for blocks that it has put there in the same cycle.
"""

from __future__ import annotations

import errno

from mirror_core import limits, protocol, status, stores
from mirror_core.errors import MirrorError, StillLooking
from mirror_core.ledger import Lineage
from mirror_core.site import Site
from mirror_core.target import Target
from mirror_core.units import format_time

_STOPPED = errno.ECANCELED  # the site, before the promotion was done


def promote(
    site: Site, *, force: bool, newest: bool = False, wait_s: float = limits.CONTROL_WAIT_S
) -> protocol.Record:
    """One turn, to be asked again until `done`.  MirrorError: refused, or it failed: unless the
    record stands, this is a target as before.  So it is if nobody asks again."""
    takings = site.takings  # before it waits for its turn
    with site.promotion:
        patience_s = 0.0
        try:
            answer = _turn(site, takings, force=force, newest=newest, wait_s=wait_s)
            patience_s = limits.CONTROL_TIMEOUT_S
            return answer
        finally:
            if isinstance(site.control, Target):
                site.control.end_turn(patience_s)


def take_back(site: Site) -> protocol.Record:
    """Whoever asked for it asks no more.  What the site is now: a source if the record stands.  No
    turn that was asked for before records any more: one under way, which may take long, or one
    that waits for it."""
    with site.taking:
        site.takings += 1
    with site.promotion:
        if isinstance(site.control, Target):
            site.control.take_back_promotion()
        return {"role": site.book.current.role}


def _turn(site: Site, takings: int, *, force: bool, newest: bool, wait_s: float) -> protocol.Record:
    book = site.book.current
    if not isinstance(site.control, Target):
        if book.lineage is None or book.lineage.parent is None:
            raise MirrorError("is a source already", errno.EINVAL)
        return {"done": True, "status": status.of(site)}  # asked again after it was done
    recorded = book.role == "source"  # and the machine has refused to begin anew
    if not recorded:
        _refuse_taken_back(site, takings)
        until = site.platform.monotonic() + wait_s
        try:
            site.refuse_anew()  # before the source loses its session
        except StillLooking as error:
            site.platform.sleep(max(0.0, until - site.platform.monotonic()))
            found = {**status.of(site), "reason": str(error)}
            return {"done": False, "waits": str(error), "status": found}
    if recorded or site.control.prepare_promotion(force=force, newest=newest, wait_s=wait_s):
        if not recorded:
            _record(site, takings)
        _begin_anew(site)
    return {"done": False, "status": status.of(site)}


def _begin_anew(site: Site) -> None:
    """Asked again if the machine refused it.  MirrorError: it did, or the site is to end."""
    try:
        if not site.begin_anew():
            raise MirrorError("is being stopped: it is a source from its next start on", _STOPPED)
    except OSError as error:
        raise MirrorError(
            f"is a source from its next start on, but cannot begin anew ({error.strerror}): "
            "stop it and start it",
            error.errno or errno.EIO,
        ) from error


def _refuse_taken_back(site: Site, takings: int) -> None:
    if site.takings != takings:
        raise MirrorError("the promotion was taken back", _STOPPED)


def _record(site: Site, takings: int) -> None:
    book = site.book.current
    image, at = book.committed, format_time(book.consistency_point)
    volumes = site.records("source", stores.Opened.stopped_or_unread)  # it takes its time
    site.refuse_anew(again=True)
    if site.is_ending:
        raise MirrorError("is being stopped: start it and promote it again", _STOPPED)
    _refuse_taken_back(site, takings)
    assert book.lineage is not None and book.whole and book.hardened == book.committed
    assert isinstance(site.control, Target)
    doubtful = book.doubtful_before or site.control.may_read_a_cache()
    site.book.update(
        role="source",
        lineage=Lineage(site.platform.token(), parent=book.lineage.id, forked_at=book.committed),
        begun=max(book.begun, book.committed),
        begun_token="",
        since=site.platform.time(),
        committed=0,
        committed_token="",
        consistency_point=None,
        runs=(),
        source_run="",
        source_silence=0.0,
        unsure=False,
        hardened=0,
        whole=False,
        doubtful_sent=False,
        copied=False,
        doubtful_before=doubtful,  # its intermediate is a target's again some day
        paused=False,
        clean=True,  # nothing is left in memory that counts
        maps={},
        volumes=volumes,
    )
    site.journal.say(f"promoted: source as of consistency point {image}, {at}")
