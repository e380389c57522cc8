"""flashmirror: the architecture in one page.

In full: docs/explanation/architecture.md; each word: docs/glossary.md.

What it is.  A block volume at a source site is mirrored, cycle after cycle, to a target site,
which can at every instant produce a complete image of the volume as it was at one moment, the
last committed consistency point: the method of US patent 7,277,997, claim 1.

Two sites, each one nbdkit process with our plugin inside; each volume has at each site a *data*
and an *intermediate* store:

      source site                                    target site
      data ==first flashcopy==> first intermediate
        |      (one copy, two sinks) ==NBD==>        second intermediate ==second flashcopy==> data
        `- clients write here, through the gate

A cycle.  Freeze all volumes of the group for an instant and swap each one's map `next` for the
empty `pending` (the consistency point).  Copy what is pending into both intermediates; flush; ask
the target to commit.  Its commit is one durable record: "the image is the second intermediate
where `pending` says so, data elsewhere".  It then copies pending to data while the next cycle
arrives.  Who writes to a block that is pending has it copied first.  So the target's image is
never a mixture.

One mechanism serves twice: a volume of native/ is a front, a gate before it, and a flashcopy
relation to one or two sinks.  At the source the front is data, at the target the intermediate.

The rooms.
    plugin/flashmirror.py  nbdkit's callbacks, each a delegation
    exports.py             what a client of the socket finds: devices, intermediates, control
    site.py                builds a site: opens, recovers, starts, stops; says how it is
    driver.py              the source's control thread: performs the effects of
    cycle.py               one cycle as a generator of effects; pure
    target.py              the target: sessions, commit, the second flashcopy and its hardening
    cut.py                 what a cut of a store costs, in which something counted
    session.py, pulse.py   a session with the target: handshake, requests, lanes, loss; a sign of
                           life in it while the control is busy here;
    beside.py              a thread beside the control, on which nothing depends
    hardlog.py, intent.py  the durable logs beside the ledger: of a target, of a source;
    written.py, runlog.py  what a cycle made stable at the target; the form of these logs
    mapfile.py             a source's maps in memory, which outlive its process
    compare.py             after a power loss: what the peer holds already is not sent
    promotion.py, resync.py   a target becomes a source; a person chooses a history
    recovery.py            a target's answer to a source's history; a pure table
    flashcopy.py           the relation of a whole group, for those two threads
    ledger.py, book.py     the durable record of a site; the one in use;
    lastrun.py             whether it is that of the last run, or an older one put back
    platform.py            the seam below all that: clock, chance, threads, files, connections
    durable.py, lock.py    a file replaced whole; who has the state folder
    timeouts.py            every wait that follows from link_timeout, and their sums
    age.py                 how old a point is, whatever the clocks do
    stores.py              opens stores exclusively and knows them again, by what
    identity.py, partition.py   the kernel says of files and devices;
    elsewhere.py           which of two names are one store; who else has it open
    below.py               which disks they stand on, and so share the losses of;
    heard.py               what the state folder's disk says, once, of those that stand on it, too;
    adoption.py            and what a person says of a store
    server_instance.py     whether a store's server is the process that it was before a kill
    protocol.py, peer.py, control.py   records over the control export: form, asking, answering
    native.py              the only file that touches cffi
    door.py, connections.py   who comes in by which socket, and what becomes of strangers; how
                           clients end when the site stops
    address.py, pki.py     the other site on the network, and what proves that it is the other site
    process.py, sockets.py the exec of nbdkit with its sockets, readiness, stop
    launch.py              what outlives its starter begins free of it
    attach.py              /dev/nbdN of a volume: attach, hold through restarts, detach; with
    attached.py            which of them are a site's, of whatever history;
    mounted.py, exclusive.py, opener.py, apart.py, unmounting.py   what is mounted on it for
                           certain, and is unmounted before the machine goes down;
    kernel.py, handshake.py   netlink and /sys (pyroute2 is there only); sockets for the kernel
    writeback.py           what a process owes that its own machine writes back to
    guard.py               what becomes of the two control threads when something is raised
    metrics.py, journal.py metrics; log lines and counts
    stderr.py, rotate.py   a log that nobody waits for, and that is opened again; how it is told to
    config.py, units.py, limits.py, errors.py, cli/
    ../native/             what must be fast or atomic, in C: bitmap, gate, request (a write as
                           begin / step / finish), plan, lane (copies in flight), volume, intent,
                           store, pool, room, late, client, callers, pin; its headers are its
                           documentation.  Policy is never in C.

The invariants.  The code names them I1 to I9: docs/explanation/invariants.md says what each one
promises, where it is kept and what shows that.  Device flush strictly before the record that
asserts it, everywhere.  Nothing is guessed: what is in doubt stops mirroring with one line and
waits for a person.
"""
