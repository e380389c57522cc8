"""A site whose ledger is gone: nothing that a command says costs the image, or lets a person do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, flashmirror, nothing_changes, refused
from pair import MakePair, Pair
from served import Server

from mirror_core import config, ledger, process

LOST = "west/state/ledger: the ledger is lost: put it back"


@pytest.fixture
def served(handmade: Handmade) -> Iterator[Pair]:
    """Stopped in order, with an image in stores that carry no mark, as block devices carry none."""
    servers = [Server(handmade.folder / f"{part}.img") for part in ("data", "intermediate")]
    for server, part in zip(servers, ("data", "intermediate"), strict=True):
        server.image.write_bytes(bytes(handmade.size))
        server.start()
        handmade.stores["west", part] = server.uri
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop()
    yield handmade
    handmade.kill()
    for server in servers:
        server.stop()


COMMANDS = (
    ("create", "--role", "target"),
    ("start",),
    ("status",),
    ("resync", "--full"),
    ("seed",),
    ("adopt", "disk", "data", "--yes"),
)


def test_a_lost_ledger_is_not_taken_for_a_new_site(served: Pair) -> None:
    """Its folder holds more than `create` makes: each command says so, and `create` above all."""
    book = served.folder / "west/state/ledger"
    aside = book.rename(served.folder / "aside")
    for name, *words in COMMANDS:
        with nothing_changes(served.folder):
            said = refused(name, str(served.toml("west")), *words)
        assert LOST in said and "docs/recovery.md, 'A ledger is lost'" in said, said
        assert "flashmirror create" not in said, said
    aside.rename(book)
    served.start("west")
    assert direct.status(served, "west")["committed"]["sequence"]


def test_a_create_that_was_killed_may_be_said_again(handmade: Handmade) -> None:
    """What it leaves, and what a file system's own root holds, is nothing of a site's."""
    handmade.write("west")
    state = handmade.folder / "west/state"
    (state / "lost+found").mkdir(parents=True)
    for name in ("lock", "ledger.new"):
        (state / name).touch()
    handmade.create("west")


def test_an_existing_site_is_not_to_be_removed(handmade: Handmade) -> None:
    """Its folder is the only place that knows where the image is."""
    handmade.create("west")
    said = refused("create", str(handmade.toml("west")), "--role", "target")
    assert "holds a site already" in said and "move it away" in said and "is lost with it" in said


def test_a_running_site_writes_its_lost_ledger_again(make_pair: MakePair) -> None:
    """`check` says that it does, and how it is made to; so it is."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    (pair.folder / "west/state/ledger").unlink()
    said = flashmirror("check", str(pair.toml("west")))
    assert said.returncode == 1 and "'flashmirror sync'" in said.stdout, said.stdout
    assert "create" not in said.stdout
    direct.sync(pair)
    assert flashmirror("check", str(pair.toml("west"))).returncode == 0
    assert ledger.load(pair.folder / "west/state").whole


@pytest.mark.parametrize("lost", ["log", "exchanged log", "ledger", "folder"])
def test_a_target_says_what_was_taken_of_its_state_and_a_stop_writes_it(
    make_pair: MakePair, lost: str
) -> None:
    """Its image stands and falls with its ledger and its log of hardenings.  If one of them is not
    where the next start looks for it, the target is degraded, names it and what to do, and so does
    `check`; a stop makes it again, and the next start has the image."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    state, image = pair.folder / "west/state", direct.status(pair, "west")["committed"]
    [log] = state.glob("hardened.*")
    gone = state / "ledger" if lost == "ledger" else log
    if lost == "folder":
        shutil.rmtree(state)
        state.mkdir(0o700)
    elif lost == "exchanged log":
        shutil.copy(log, log.with_suffix(".copy"))
        log.with_suffix(".copy").rename(log)
    else:
        gone.unlink()
    found = direct.status(pair, "west")
    assert found["state"] == "degraded" and found["reason"].startswith(f"{gone}: "), found["reason"]
    assert "a stop in order writes it again" in found["reason"]
    assert found["reason"] in flashmirror("check", str(pair.toml("west"))).stdout
    assert process.stop(config.load(str(pair.toml("west"))))
    pair.start("west")
    after = direct.status(pair, "west")
    assert after["committed"] == image and "writes it again" not in after["reason"]


def test_a_stopped_target_without_its_log_is_not_called_in_order(make_pair: MakePair) -> None:
    """`stop` and `status` tell what the next start will find."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    pair.stop()
    [log] = (pair.folder / "west/state").glob("hardened.*")
    log.unlink()
    assert pair.status("west")["reason"] == "it was not shut down cleanly"
    assert not process.stop(config.load(str(pair.toml("west"))))


def test_the_page_ends_where_a_stop_has_written_the_ledger_again(make_pair: MakePair) -> None:
    """Its first list of commands, which costs nothing, is all for a site that still runs; the one
    that gives the image up is another."""
    page = (Path(__file__).parent.parent / "docs/recovery.md").read_text()
    text = page.partition("## A ledger is lost")[2].partition("\n## ")[0]
    first, second = (part.split("\n\n")[0] for part in text.split("\n\n    ")[1:])
    words = [line.split()[1] for line in first.splitlines()]
    assert words == ["detach", "stop", "check", "start"] and "flashmirror stop" not in second
    assert (
        "flashmirror create" in second
        and "there is no image at the target until everything" in text
    )
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    (pair.folder / "west/state/ledger").unlink()
    pair.stop("west")
    rows = flashmirror("check", str(pair.toml("west"))).stdout
    assert re.search(r"^ok +ledger +target", rows, re.MULTILINE), rows
    pair.start("west")
    assert direct.status(pair, "west")["committed"]["sequence"]
