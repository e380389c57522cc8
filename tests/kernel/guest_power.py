"""Runs in a guest: one site on a disk of its own, whose power the test cuts.

    guest_power.py SITE OTHER-ADDRESS SHARE [LIAR]

Images, intermediates and the state folder are on an ext4 on /dev/ubda; the sockets and all else
that is on a tmpfs are gone after a power cut. Dirty pages are written back after a fifth of a
second, so that what a cut leaves of unflushed writes is a mixture, not simply nothing.

The host's orders come as one JSON line each and are answered by ``done`` and JSON; reports of the
load come in between. It gathers facts and judges nothing (``power``); an order that cannot be
carried out ends it with its traceback.

With LIAR the stores are behind servers that forget every flush, and no page leaves early: the
control of the test.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import guest_link
from nbd_client import NbdClient
from power_load import VOLUME_BYTES, VOLUMES, Writer

from mirror_core import config, hardlog, ledger, limits, peer, process
from mirror_core.creation import create

DISK = Path("/mnt/disk")
RUN = Path("/run")
ROLES: dict[str, ledger.Role] = {"east": "source", "west": "target"}
OTHER = {"east": "west", "west": "east"}
SECONDS = 60.0
IN_MOVED_TO = 0x80
LOG_REPORTED = 3000  # characters
POLL_SECONDS = 0.03  # how often a running load asks for the last commit
LINK_TIMEOUT = {False: "1s", True: "20s"}  # a liar's stores have servers, which may be slow


def durable_book(state: Path) -> ledger.Ledger:
    """The ledger of a target that has lost power, with its pending maps as they are on disk: all
    that image(committed) is read by (I1), from the state folder alone."""
    return hardlog.recover(state, ledger.load(state))


_print_lock = threading.Lock()


def say(line: str) -> None:
    with _print_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def save(path: Path, data: bytes) -> None:
    """To the host: all of it is there when this returns."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fail(kind: Any, error: Any, trace: Any, *_: Any) -> None:
    """Whichever thread it was: say all that is known, and end."""
    log = DISK / "state" / "site.log"
    if log.exists():
        say(log.read_text()[-LOG_REPORTED:])
    say("".join(traceback.format_exception(kind, error, trace)))
    os._exit(1)


class Agent:
    """Carries out the host's orders, one after another."""

    def __init__(self, site: str, share: Path, liar: bool) -> None:
        self.site, self.share = site, share
        self._toml = DISK / f"{site}.toml"
        for volume in VOLUMES:
            for store in DISK / f"{volume}.img", DISK / f"{volume}.intermediate.img":
                if not store.exists():
                    store.touch()
                    os.truncate(store, VOLUME_BYTES)
                if liar:
                    _serve_lying(store)
        if not self._toml.exists():
            self._create(liar)
        self._config = config.load(str(self._toml))
        self._load: list[Writer] = []

    def _create(self, liar: bool) -> None:
        def where(store: str) -> str:
            return f"nbd+unix:///?socket={RUN}/{store}.sock" if liar else f"{DISK}/{store}"

        text = (
            f'name = "{self.site}"\nlisten = ["unix:{RUN}/{self.site}.sock"]\n'
            f'peer = "unix:{RUN}/{OTHER[self.site]}.sock"\nstate = "{DISK}/state"\n'
            f'link_timeout = "{LINK_TIMEOUT[liar]}"\n'
        )
        for volume in VOLUMES:
            text += (
                f'[[volume]]\nname = "{volume}"\ndata = "{where(volume + ".img")}"\n'
                f'intermediate = "{where(volume + ".intermediate.img")}"\n'
            )
        self._toml.write_text(text)
        create(config.load(str(self._toml)), ROLES[self.site])
        os.sync()  # a site that was created; what happens from here on is the test

    def _ask(self, record: dict[str, Any]) -> dict[str, Any]:
        return peer.ask(self._config.control_uri(), record, limits.CONTROL_TIMEOUT_S)

    # ---- the orders

    def ping(self) -> None:
        """All that was to be said before is said."""

    def start(self) -> None:
        process.start(self._config)
        if self.site == "west":
            threading.Thread(target=_watch_ledger, args=[DISK / "state"], daemon=True).start()

    def load(self, resume: list[tuple[int, int]]) -> None:
        """Replay each writer's writes in (flushed, newest], make that the image, and write on."""
        uris = [self._config.device_uri(volume) for volume in VOLUMES]
        self._load = [
            Writer(number, uris, flushed, newest, say)
            for number, (flushed, newest) in enumerate(resume)
        ]
        for writer in self._load:
            writer.replay()
        committed = self.sync()
        for writer in self._load:
            writer.start()
        threading.Thread(target=self._watch, args=[committed], daemon=True).start()

    def _watch(self, last: int) -> None:
        """Report each commit that the source knows of."""
        while not any(writer.stopping for writer in self._load):
            committed = self._ask({"op": "status"})["committed"]["sequence"] or 0
            if committed > last:
                last = committed
                say(f"committed {committed}")
            time.sleep(POLL_SECONDS)

    def end_load(self) -> None:
        for writer in self._load:
            writer.stopping = True
        for writer in self._load:
            writer.join(SECONDS)
            if writer.is_alive():
                raise TimeoutError(f"{writer.name} hangs")

    def sync(self) -> int:
        """`flashmirror sync`, less the 2 s that a new Python takes here; what is committed."""
        sequence: int = self._ask({"op": "sync"})["sequence"]
        deadline = time.monotonic() + SECONDS
        while not (answer := self._ask({"op": "wait", "sequence": sequence}))["done"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"sync: {answer}")
        return sequence

    def device(self) -> None:
        """All that the source's devices hold, into the share."""
        for volume in VOLUMES:
            with NbdClient(self._config.device_uri(volume), SECONDS) as client:
                step = 1 << 17
                parts = [client.read(at, step) for at in range(0, VOLUME_BYTES, step)]
            save(self.share / f"{self.site}-{volume}", b"".join(parts))

    def data(self) -> None:
        """All that the site's data stores hold, into the share."""
        for volume in VOLUMES:
            save(self.share / f"{self.site}-{volume}", (DISK / f"{volume}.img").read_bytes())

    def settle(self) -> None:
        """Of a target that runs, its source away: the second flashcopy has nothing left to do."""
        deadline = time.monotonic() + SECONDS
        while (status := self._ask({"op": "status"}))["hardened_sequence"] != (
            status["committed"]["sequence"]
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"settle: {status}")
            time.sleep(POLL_SECONDS)  # a status has no event to wait on

    def image(self) -> dict[str, Any]:
        """image(committed) of a target at rest, from its durable state alone, into the share; and
        what its ledger says of it."""
        book = durable_book(DISK / "state")
        from_intermediate = 0
        for record in book.volumes:
            size = record.block_size
            image = bytearray((DISK / f"{record.name}.img").read_bytes())
            second = (DISK / f"{record.name}.intermediate.img").read_bytes()
            for block in range(record.size // size):
                if ledger.image(book, record.name, block) == "intermediate":
                    part = slice(block * size, (block + 1) * size)
                    image[part] = second[part]
                    from_intermediate += 1
            save(self.share / f"west-{record.name}", bytes(image))
        return {
            "whole": book.whole,
            "sequence": book.committed,
            "point": book.consistency_point,
            "pending_blocks": from_intermediate,
        }


def _watch_ledger(state: Path) -> None:
    """Report each time that the ledger was replaced."""
    libc = ctypes.CDLL(None, use_errno=True)
    events = libc.inotify_init()
    if libc.inotify_add_watch(events, bytes(state), IN_MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), f"watch {state}")
    while os.read(events, 4096):
        say("ledger")


def _serve_lying(store: Path) -> None:
    """An NBD server over the file that answers a flush and does nothing."""
    words = ["nbdkit", "-U", f"{RUN}/{store.name}.sock", "--filter=fua", "file", str(store)]
    subprocess.run([*words, "fuamode=discard"], stdin=subprocess.DEVNULL, check=True)


def prepare(site: str, other: str, liar: bool) -> None:
    """The disk is mounted, dirty pages leave early, the way to the other guest is open."""
    if not liar:
        for name, centiseconds in ("writeback", 5), ("expire", 20):
            Path(f"/proc/sys/vm/dirty_{name}_centisecs").write_text(str(centiseconds))
    DISK.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"/dev/ubda", bytes(DISK), b"ext4", 0, None):
        raise OSError(ctypes.get_errno(), "mount /dev/ubda")
    if not os.fork():
        guest_link.serve(RUN / f"{site}.sock", RUN / f"{OTHER[site]}.sock", other)


def main(site: str, other: str, share: str, *liar: str) -> None:
    sys.excepthook = fail
    threading.excepthook = lambda failed: fail(*failed)
    prepare(site, other, bool(liar))
    agent = Agent(site, Path(share), bool(liar))
    orders: dict[str, Callable[..., Any]] = {
        order.__name__: order
        for order in (
            *(agent.ping, agent.start, agent.load, agent.end_load, agent.sync),
            *(agent.device, agent.data, agent.settle, agent.image),
        )
    }
    say("ready")
    for line in sys.stdin:
        words = json.loads(line)
        answer = orders[words.pop("order")](**words)
        say(f"done {json.dumps(answer)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
