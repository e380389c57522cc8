"""What a target can produce from its durable state alone: image(committed) by invariant I1."""

from __future__ import annotations

from dependent import Judge
from pair import Pair

from mirror_core import hardlog, ledger


def load_book(pair: Pair, site: str = "west") -> ledger.Ledger:
    """The ledger of a site that does not run, with its pending maps as they are on disk."""
    state = pair.folder / site / "state"
    return hardlog.recover(state, ledger.load(state))


def image(pair: Pair, book: ledger.Ledger, volume: str) -> bytes:
    """A volume's bytes at the committed consistency point."""
    block = book.volumes[0].block_size
    stores = {
        "data": pair.image("west", volume).read_bytes(),
        "intermediate": (pair.folder / "west" / f"{volume}.intermediate.img").read_bytes(),
    }
    return b"".join(
        stores[ledger.image(book, volume, at // block)][at : at + block]
        for at in range(0, len(stores["data"]), block)
    )


def check(pair: Pair, judge: Judge) -> ledger.Ledger:
    """The stopped or killed target's image is of one moment, the one that it says."""
    book = load_book(pair)
    assert book.whole
    images = [image(pair, book, volume.name) for volume in book.volumes]
    judge.check(images, point=book.consistency_point)
    return book
