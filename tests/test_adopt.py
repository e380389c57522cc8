"""A store that a person has looked at is taken in again, and the mirror stays right (I7).

Whoever adopts a source's data or a target's store says that it may hold something else: in these
tests it does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import (
    Handmade,
    flashmirror,
    kill,
    nothing_changes,
    record,
    refused,
    scrape,
    value,
)
from nbd_client import NbdClient, NbdError
from pair import FLASHMIRROR, MakePair, Pair, some
from pyroaring import BitMap64
from served import Server, create_anew, serve

from mirror_core import config, hardlog, ledger, runlog, server_instance
from mirror_core.flashcopy import packed_runs_of
from mirror_core.platform import HERE
from mirror_core.protocol import Stable, record_of

SIZE = 2 << 20


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    """Both hold the same, which is nowhere a hole; both were stopped."""
    pair = make_pair("--size", str(SIZE))
    pair.start()
    with pair.client() as client:
        client.write(0, os.urandom(SIZE))
    direct.sync(pair)
    pair.stop()
    return pair


def store(pair: Pair, site: str, part: str) -> Path:
    image = pair.image(site)
    return image if part == "data" else image.with_suffix(".intermediate.img")


def replace_store(pair: Pair, site: str, part: str, data: bytes | None = None) -> None:
    """By another file without a mark, with these bytes, or the same."""
    path = store(pair, site, part)
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    if data is not None:
        copy.write_bytes(data)
    copy.rename(path)


def adopt(pair: Pair, site: str, part: str) -> dict[str, object]:
    found: dict[str, object] = record("adopt", str(pair.toml(site)), "disk", part, "--yes")
    return found


def end(pair: Pair, site: str, how: str) -> None:
    """Of a stopped pair: `killed` is what a kill of that site leaves, with nothing written."""
    if how == "killed":
        pair.start()
        kill(pair, site)
        pair.stop()


def mirrors(pair: Pair) -> None:
    """Both start, and the target gets what the source has, and nothing else."""
    pair.start()
    direct.sync(pair)
    east, west = pair.image("east").read_bytes(), pair.image("west").read_bytes()
    assert east == west


@pytest.mark.parametrize("then", some(["loses its memory", "mirrors"]))
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_everything_in_an_adopted_source_reaches_the_target(
    pair: Pair, how: str, then: str
) -> None:
    """Other data in the source's place, anywhere, and no region was hot: what it holds is what the
    target gets, also if the source is killed, and loses its maps in memory, before it was all
    compared."""
    end(pair, "east", how)
    fresh = os.urandom(SIZE)
    replace_store(pair, "east", "data", fresh)
    with nothing_changes(pair.folder):
        assert "adopt" in refused("start", str(pair.toml("east")))
    said = adopt(pair, "east", "data")
    assert said["effect"] == "compare" and "not the store" in str(said["refusal"]), said
    if then == "loses its memory":
        pair.start("east")
        kill(pair, "east")
        for path in Path(os.environ["RUNTIME_DIRECTORY"]).glob("*.maps"):
            path.unlink()  # as a power loss does
    mirrors(pair)
    assert pair.image("east").read_bytes() == fresh


def test_what_an_adopted_source_shares_with_the_target_is_not_sent(pair: Pair) -> None:
    """It is compared: the same bytes in another file cost checksums only."""
    replace_store(pair, "east", "data")
    adopt(pair, "east", "data")
    mirrors(pair)
    figures = scrape(pair)
    assert value(figures, 'equal_bytes_total{volume="disk"}') == SIZE
    assert value(figures, 'wire_bytes_total{volume="disk"}') < SIZE / 10


def test_an_adopted_source_is_not_said_to_have_ended_without_order(pair: Pair) -> None:
    """It was stopped in order; that all is compared after an adoption is told as what it is, by
    `status`, by `stop` of the stopped site and in the log, until it has run."""
    replace_store(pair, "east", "data")
    adopt(pair, "east", "data")
    why = "its data was adopted: what may differ is compared"
    assert pair.status()["reason"] == f"{why} after the next start"
    assert json.loads(pair.run("stop", str(pair.toml("east")), "--json"))["in_order"]
    pair.start("east")
    kill(pair, "east")
    assert why in pair.log("east") and "not stopped in order" not in pair.log("east")
    assert pair.status()["reason"] == "it was not shut down cleanly"


def test_a_source_that_was_given_up_is_not_said_to_have_ended_without_order(pair: Pair) -> None:
    """Its data was adopted, and then it became a target: nothing of its history counts any more,
    and no second flashcopy goes on."""
    replace_store(pair, "east", "data")
    adopt(pair, "east", "data")
    pair.run("resync", "--full", "--force", str(pair.toml("east")))
    assert pair.status()["reason"] is None
    assert json.loads(pair.run("stop", str(pair.toml("east")), "--json"))["in_order"]
    before = len(pair.log("east"))
    pair.start("east")
    assert "in order" not in pair.log("east")[before:]
    direct.stop(pair, "east")


def test_an_adoption_forgets_no_loss(pair: Pair) -> None:
    """Of which a client was still to be told: the next process tells him."""
    state = pair.folder / "east" / "state"
    book = ledger.load(state)
    untold = {
        "version": server_instance.VERSION,
        "site": book.site,
        "run": book.run,
        "boot": HERE.boot_id(),
        "data": {},
        "untold": ["disk"],
    }
    server_instance.path_in(state).write_text(json.dumps(untold))
    adopt(pair, "east", "data")
    pair.start("east")
    with pair.client() as client:
        with pytest.raises(NbdError):
            client.flush()
        client.flush()


@pytest.mark.parametrize("how", some(["killed", "stopped"]))
def test_a_source_s_intermediate_is_only_recorded(pair: Pair, how: str) -> None:
    """Nobody reads what another file in its place holds; the exact maps stay."""
    end(pair, "east", how)
    replace_store(pair, "east", "intermediate", os.urandom(SIZE))
    assert adopt(pair, "east", "intermediate")["effect"] == "record"
    pair.start()
    assert "is compared" not in pair.log("east")
    mirrors(pair)


@pytest.mark.parametrize("part", ["data", "intermediate"])
def test_a_target_that_was_stopped_keeps_its_image_in_a_copy_of_its_store(
    pair: Pair, part: str
) -> None:
    """The bytes are those that the orderly stop left: the image stands, nothing is sent."""
    replace_store(pair, "west", part)
    said = adopt(pair, "west", part)
    assert said["effect"] == "keep" and said["sequence"], said
    pair.start("west")
    status = direct.status(pair, "west")
    assert status["committed"]["sequence"] == said["sequence"]
    mirrors(pair)


@pytest.mark.parametrize("part", ["data", "intermediate"])
@pytest.mark.parametrize("how", some(["killed", "stopped"]))
def test_a_target_with_another_store_gives_its_image_up(pair: Pair, part: str, how: str) -> None:
    """Its image is not known to be whole: it has none until everything was taken again."""
    end(pair, "west", how)
    replace_store(pair, "west", part, os.urandom(SIZE))
    assert "adopt" in refused("start", str(pair.toml("west")))
    assert adopt(pair, "west", part)["effect"] == "give up"
    pair.start("west")
    assert not direct.status(pair, "west")["committed"]["sequence"]
    assert "no image" in refused("promote", str(pair.toml("west")))
    mirrors(pair)


def lose_intermediate(pair: Pair, site: str) -> None:
    """Its disk has died: a blank file is in its place, without a mark."""
    path = store(pair, site, "intermediate")
    path.unlink()
    path.touch()
    os.truncate(path, SIZE)


def rests(
    pair: Pair, *, clean: bool, pending: list[int], hardened: list[int] | None = None
) -> None:
    """What the stopped target recorded last: its end, what was pending at its commit, or at an
    orderly stop, and what its log says was hardened since; None: there is no log."""
    state = pair.folder / "west/state"
    book = ledger.load(state)
    maps = {"disk/pending": BitMap64(pending)}
    ledger.save(state, replace(book, clean=clean, maps=maps))
    if hardened is None:
        hardlog.path_in(state, book).unlink()
        return
    log = runlog.RunLog(state, hardlog.KIND, book.run)
    if hardened:
        log.append(hardlog.history_of(book), {0: packed_runs_of(BitMap64(hardened))})
    log.close()


@pytest.mark.parametrize("then", some(["is promoted", "mirrors"]))
@pytest.mark.parametrize("how", some(["killed", "stopped"]))
def test_a_target_that_lost_an_intermediate_with_nothing_of_its_image_keeps_that(
    pair: Pair, how: str, then: str
) -> None:
    """It is all in the data store: whether the source is there or lost, a blank intermediate takes
    the place of the one whose disk has died, and nobody is told of a cost that there is not."""
    end(pair, "west", how)
    sequence = ledger.load(pair.folder / "west/state").committed
    lose_intermediate(pair, "west")
    said = refused("start", str(pair.toml("west")))
    shown = flashmirror("check", str(pair.toml("west"))).stdout
    for text in (said, shown):
        assert "'flashmirror adopt" in text and COST not in text, text
    said_of_it = adopt(pair, "west", "intermediate")
    assert (said_of_it["effect"], said_of_it["sequence"]) == ("keep", sequence)
    if then == "is promoted":
        pair.start("west")
        pair.run("promote", str(pair.toml("west")), "--force")
        with NbdClient(pair.run("uri", str(pair.toml("west"))).strip()) as client:
            assert client.read(0, SIZE) == pair.image("east").read_bytes()
        return
    pair.start()
    with pair.client() as client:
        client.write(4096, b"later" * 1000)
    direct.sync(pair)
    assert direct.status(pair, "west")["committed"]["sequence"] > sequence
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    assert value(scrape(pair), 'wire_bytes_total{volume="disk"}') < SIZE / 10


@pytest.mark.parametrize("kind", ["file", "server"])
def test_what_keeps_an_image_is_said_as_it_can_be_had(make_pair: MakePair, kind: str) -> None:
    """Of an intermediate whose bytes are others, and hold nothing of the image: only a file is
    taken for blank, so where a server was there is to be a file in its stead."""
    pair = make_pair("--size", str(SIZE))
    server = serve(pair, "west", part="intermediate")
    toml = pair.toml("west")
    blank = toml.with_name("blank.img")
    try:
        if kind == "file":
            toml.write_text(toml.read_text().replace(server.uri, str(server.image)))
        else:
            server.start()
            create_anew(pair, "west", "target")
        pair.start()
        direct.sync(pair)
        pair.stop()
        server.image.write_bytes(os.urandom(SIZE))
        said = refused("start", str(toml))
        here = "here" if kind == "file" else "of that size, named as 'intermediate' in its stead,"
        assert f"a blank file {here} keeps it" in said, said
        blank.touch()
        os.truncate(blank, SIZE)
        toml.write_text(toml.read_text().replace(f'"{server.uri}"', f'"{blank}"'))
        if kind == "file":
            blank.rename(server.image)
        assert adopt(pair, "west", "intermediate")["effect"] == "keep"
    finally:
        pair.kill()
        server.stop()


@pytest.mark.parametrize(
    ("clean", "pending", "hardened", "effect"),
    some(
        [
            (False, [5, 7], [5, 7], "keep"),
            (True, [7], [], "give up"),
            (True, [], None, "give up"),  # an older ledger: others came after it
            (True, [], [], "keep"),
            (False, [5, 7], [5], "give up"),
            (False, [], None, "give up"),
        ]
    ),
)
def test_a_block_of_the_image_that_was_lost_with_the_intermediate_gives_it_up(
    pair: Pair, *, clean: bool, pending: list[int], hardened: list[int] | None, effect: str
) -> None:
    """Or one that may have been: nobody knows without the log of hardenings.  Nothing is promoted
    then, and the target gets everything."""
    rests(pair, clean=clean, pending=pending, hardened=hardened)
    lose_intermediate(pair, "west")
    assert adopt(pair, "west", "intermediate")["effect"] == effect
    pair.start("west")
    if effect == "give up":
        assert "no image" in refused("promote", str(pair.toml("west")), "--force")
    mirrors(pair)


def test_what_a_cycle_had_made_stable_in_a_lost_intermediate_is_sent_again(pair: Pair) -> None:
    """The image stands without it; the next one would lack those blocks."""
    pair.start("west")
    hello = direct.hello(pair, 5)
    sequence, token = hello["committed"] + 1, "ab" * 16
    hello.update(begun=sequence, begun_token=token)
    direct.ask(pair, hello, "west")
    west = config.load(str(pair.toml("west")))
    with NbdClient(west.device_uri("disk/intermediate/5")) as client:
        client.write(4096, b"stable" * 100)
    stable = record_of(Stable(5, sequence, 1, token))
    direct.wait_for(lambda: bool(direct.ask(pair, stable, "west")["done"]), "it is stable")
    direct.stop(pair, "west")
    lose_intermediate(pair, "west")
    assert adopt(pair, "west", "intermediate")["effect"] == "keep"
    pair.start("west")
    again = {**hello, "session": 7, "resumes": sequence, "stable": 1}
    assert not direct.ask(pair, again, "west")["resumed"]


COST = "gives up the image of sequence "
LOST = "if the source is lost, do not: first copy the state folder and all stores elsewhere"


def test_what_an_adoption_costs_is_said_before_it_is_done(pair: Pair) -> None:
    """By `start` and `check`, which name the command, and by its question: after a kill a target's
    own store in another file gives the image up, and nothing can be promoted then."""
    replace_store(pair, "west", "data")
    said = refused("start", str(pair.toml("west")))
    assert "'flashmirror adopt" in said and COST not in said, "its bytes are those of the stop"
    assert adopt(pair, "west", "data")["effect"] == "keep"
    end(pair, "west", "killed")
    replace_store(pair, "west", "data")
    sequence = ledger.load(pair.folder / "west/state").committed
    said = refused("start", str(pair.toml("west")))
    shown = flashmirror("check", str(pair.toml("west"))).stdout
    for text in (said, shown):
        assert f"{COST}{sequence}: until everything is copied" in text and LOST in text, text
    asked = refused("adopt", str(pair.toml("west")), "disk", "data")
    assert "nothing can be promoted here" in asked and LOST in asked, asked
    replace_store(pair, "east", "data")
    said = refused("start", str(pair.toml("east")))
    assert "'flashmirror adopt" in said and "image" not in said, said


def test_a_target_whose_store_is_the_recorded_one_loses_nothing(pair: Pair) -> None:
    """Adopted though it need not be, and after a kill, its image stands."""
    end(pair, "west", "killed")
    assert adopt(pair, "west", "data")["effect"] == "keep"
    pair.start("west")
    assert direct.status(pair, "west")["committed"]["sequence"]
    mirrors(pair)


class Snapshot:
    """Every byte of a stopped pair, to be put back in place: inodes stay."""

    def __init__(self, pair: Pair, adopted: Path) -> None:
        self._folder, self._adopted = pair.folder, adopted
        self._files = {path: path.read_bytes() for path in self._all()}
        self._kept = {path: pair.folder / f"kept-{i}" for i, path in enumerate(self._files)}
        for path, kept in self._kept.items():
            kept.hardlink_to(path)

    def _all(self) -> list[Path]:
        return [
            path
            for site in ("east", "west")
            for path in (self._folder / site).rglob("*")
            if path.is_file()
        ]

    def put_back(self) -> None:
        for path in self._all():
            if path not in self._files:
                path.unlink()
        for path, data in self._files.items():
            path.unlink(missing_ok=True)
            path.hardlink_to(self._kept[path])
            path.write_bytes(data if any(data) else b"")
            os.truncate(path, len(data))  # what was blank is a hole again
        with contextlib.suppress(OSError):  # ENODATA: the adoption did not come so far
            os.removexattr(self._adopted, "user.flashmirror")


@pytest.mark.parametrize(
    ("site", "part", "effect"),
    some(
        [
            ("west", "intermediate", "keep"),
            ("east", "data", "compare"),
            ("west", "intermediate", "give up"),
        ],
        3,
    ),
)
def test_an_adoption_may_be_killed_anywhere(pair: Pair, site: str, part: str, effect: str) -> None:
    """Killed after each call that makes something durable: the store is refused as before, or it
    is taken with all that it may differ in."""
    toml = str(pair.toml(site))
    if effect == "keep":
        lose_intermediate(pair, site)
    else:
        replace_store(pair, site, part, os.urandom(SIZE))
    snapshot = Snapshot(pair, store(pair, site, part))

    def recorded() -> tuple[ledger.VolumeRecord, ...]:
        return ledger.load(pair.folder / site / "state").volumes

    before, taken = recorded(), []
    for call in ("fdatasync", "fsync", "rename", "fsetxattr", "unlink"):
        for n in range(1, 20):
            words = [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                f"trace={call}",
                "-e",
                f"inject={call}:signal=KILL:when={n}",
                str(FLASHMIRROR),
                "adopt",
                toml,
                "disk",
                part,
                "--yes",
            ]
            done = subprocess.run(words, check=False, capture_output=True, timeout=60)
            if done.returncode == 0:
                snapshot.put_back()
                break  # there is no n-th call
            taken.append(recorded() != before)
            if taken[-1]:
                mirrors(pair)
                pair.stop()
                snapshot.put_back()
            else:  # or another one is refused, which may stand on the same disk
                assert f"adopt {toml} disk " in refused("start", toml)
                snapshot.put_back()
        else:
            pytest.fail(f"{call} without end")
    assert True in taken and False in taken
    assert adopt(pair, site, part)["effect"] == effect
    mirrors(pair)


@pytest.mark.parametrize(("site", "effect"), [("east", "compare"), ("west", "keep")])
def test_a_flush_that_fails_at_a_start_costs_no_image_in_whose_place_nothing_was_put(
    pair: Pair, site: str, effect: str
) -> None:
    """Each start is refused from then on, also when the flush is good again; a person says that
    nothing was put there since the stop, and all stands."""
    toml, where = str(pair.toml(site)), store(pair, site, "data")
    words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        str(where),
        "-e",
        "inject=fdatasync:error=EIO:when=1",
        str(FLASHMIRROR),
        "start",
        toml,
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "a later one does not tell" in done.stderr, done.stderr
    assert "then adopt it with --unchanged" in refused("start", toml)
    for part in ("data",) if site == "east" else ("data", "intermediate"):
        said = flashmirror("adopt", "--yes", "--json", "--unchanged", toml, "disk", part)
        assert json.loads(said.stdout)["effect"] == effect
    mirrors(pair)


def test_a_person_s_word_that_nothing_was_put_there_does_not_stand_against_the_bytes(
    pair: Pair,
) -> None:
    """A copy was, and the start's flush of it has failed: what the cache shows of it is no seed."""
    toml, where = str(pair.toml("west")), store(pair, "west", "data")
    Path(where).write_bytes(os.urandom(SIZE))
    words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        str(where),
        "-e",
        "inject=fdatasync:error=EIO:when=1",
        str(FLASHMIRROR),
        "start",
        toml,
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "a later one does not tell" in done.stderr, done.stderr
    for part, effect in (("intermediate", "keep"), ("data", "give up")):
        said = flashmirror("adopt", "--yes", "--json", "--unchanged", toml, "disk", part)
        assert json.loads(said.stdout)["effect"] == effect
    assert ledger.load(pair.folder / "west/state").doubtful_data


def on_a_terminal(
    *words: str, answer: bytes, meanwhile: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """The exit status, and what was shown; `meanwhile` is done while the question stands."""
    terminal, theirs = pty.openpty()
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as asking:
        os.close(theirs)
        shown = b""
        try:
            with contextlib.suppress(OSError):  # EIO: the other end is closed
                while part := os.read(terminal, 65536):
                    shown += part
                    if shown.endswith(b"[y/N]: "):
                        meanwhile()
                        os.write(terminal, answer)
            status = asking.wait(timeout=20)
        finally:
            asking.kill()
            os.close(terminal)
    return status, shown.decode()


def test_a_person_is_shown_what_is_there_and_asked(pair: Pair) -> None:
    """On a terminal: what is recorded, what is found, why it is refused today and what follows;
    then a question, whose answer is no unless it is yes."""
    replace_store(pair, "west", "data", os.urandom(SIZE))
    words = [str(FLASHMIRROR), "adopt", str(pair.toml("west")), "disk", "data"]
    inode = pair.image("west").stat().st_ino
    for answer in (b"\n", b"n\n"):
        with nothing_changes(pair.folder):
            status, shown = on_a_terminal(*words, answer=answer)
        assert status == 1 and "nothing was changed" in shown, shown
    status, shown = on_a_terminal(*words, answer=b"y\n")
    assert status == 0, shown
    assert f"store     {pair.image('west')}" in shown
    assert "recorded  file " in shown and f"found     file {inode}" in shown
    assert "today     not the store that was recorded" in shown
    assert "the image of sequence" in shown and "is given up on west" in shown
    mirrors(pair)


def test_a_question_holds_neither_the_site_nor_the_store(pair: Pair) -> None:
    """A person takes their time: the site can be started and stopped meanwhile; nothing is adopted
    of one that runs when they agree."""
    words = [str(FLASHMIRROR), "adopt", str(pair.toml("west")), "disk", "data"]
    status, shown = on_a_terminal(*words, answer=b"y\n", meanwhile=lambda: pair.start("west"))
    assert status == 1 and "west: runs: stop it" in shown, shown
    mirrors(pair)


def test_what_changed_while_a_person_was_asked_is_not_adopted(pair: Pair) -> None:
    """They have agreed to another store, or to keep an image that is given up now."""
    words = [str(FLASHMIRROR), "adopt", str(pair.toml("west")), "disk", "data"]
    book = pair.folder / "west/state/ledger"
    before = book.read_bytes()
    for data in (None, os.urandom(SIZE)):
        replaced = functools.partial(replace_store, pair, "west", "data", data)
        status, shown = on_a_terminal(*words, answer=b"y\n", meanwhile=replaced)
        assert status == 1 and "changed meanwhile: nothing was changed" in shown, shown
        assert book.read_bytes() == before
    assert adopt(pair, "west", "data")["effect"] == "give up"
    mirrors(pair)


def test_a_store_that_cannot_be_marked_is_adopted_all_the_same(pair: Pair) -> None:
    """It is known by its inode, as where there are no attributes, until the next adoption."""
    replace_store(pair, "west", "data")
    inject = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsetxattr",
        "-e",
        "inject=fsetxattr:error=EIO",
    )
    done = flashmirror("adopt", str(pair.toml("west")), "disk", "data", "--yes", prefix=inject)
    assert done.returncode == 0, done.stderr
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(pair.image("west"), "user.flashmirror")
    mirrors(pair)


def test_without_a_terminal_it_is_said_what_is_there(pair: Pair) -> None:
    """One line, and nothing is changed: --yes is a person's word."""
    replace_store(pair, "east", "data")
    with nothing_changes(pair.folder):
        line = refused("adopt", str(pair.toml("east")), "disk", "data")
    assert "recorded file " in line and "is compared" in line and "--yes" in line, line


def test_a_running_site_adopts_nothing(pair: Pair) -> None:
    """It is stopped first; nothing is changed by the refusal."""
    pair.start()
    line = refused("adopt", str(pair.toml("east")), "disk", "data", "--yes")
    assert "east: runs: stop it with 'flashmirror stop" in line
    mirrors(pair)


def marked(pair: Pair) -> None:
    replace_store(pair, "east", "data")
    os.setxattr(pair.image("east"), "user.flashmirror", b"another/disk/data")


def swapped(pair: Pair) -> None:
    for part in ("data", "intermediate"):  # no mark tells them apart
        os.removexattr(store(pair, "east", part), "user.flashmirror")
    data, other = store(pair, "east", "data"), store(pair, "east", "intermediate")
    data.rename(data.with_suffix(".aside"))
    other.rename(data)
    data.with_suffix(".aside").rename(other)


def missing(pair: Pair) -> None:
    pair.image("east").unlink()


REFUSALS: dict[str, tuple[Callable[[Pair], None], str]] = {
    "another site's": (marked, "and nothing of it is wanted, for its image or data goes with this"),
    "swapped": (swapped, "disk.img: recorded as intermediate of volume disk: name it there"),
    "missing": (missing, "disk.img: No such file"),
}


@pytest.mark.parametrize(("damage", "text"), REFUSALS.values(), ids=list(REFUSALS))
def test_what_nobody_can_mean_is_not_adopted(
    pair: Pair, damage: Callable[[Pair], None], text: str
) -> None:
    """Not even with --yes; one line, and nothing is changed."""
    damage(pair)
    with nothing_changes(pair.folder):
        assert text in refused("adopt", str(pair.toml("east")), "disk", "data", "--yes")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("no-such", "data"), "east has no volume no-such: it has disk"),
        (("disk", "both"), "'both' is not one of"),
    ],
)
def test_a_store_that_is_not_there_is_wrong_usage(
    pair: Pair, words: tuple[str, ...], text: str
) -> None:
    """One line and exit status 2."""
    done = flashmirror("adopt", str(pair.toml("east")), *words, "--yes")
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("site", ["east", "west"])
def test_a_server_with_another_uri_is_adopted(handmade: Handmade, scratch: Path, site: str) -> None:
    """The spelling of a URI is an accident: the same store by another socket is refused until a
    person says so; what was whole stays whole."""
    one = Server(scratch / "one.img")
    one.image.write_bytes(os.urandom(handmade.size))
    other = Server(scratch / "other.img", "file", str(one.image))
    one.start()
    try:
        handmade.stores[site, "data"] = one.uri
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        handmade.stop()
        one.stop()
        other.start()
        text = handmade.toml(site).read_text()
        handmade.toml(site).write_text(text.replace(one.uri, other.uri))
        assert "adopt" in refused("start", str(handmade.toml(site)))
        effect = adopt(handmade, site, "data")["effect"]
        assert effect == ("compare" if site == "east" else "keep")
        handmade.start()
        direct.sync(handmade)
    finally:
        one.stop()
        other.stop()
