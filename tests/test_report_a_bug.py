"""docs/howto/report-a-bug.md: what it has a person type collects what it says, and what is packed
has nothing in it that the page calls secret."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pages
import pytest
from handmade import MIB, flashmirror
from pair import MakePair, Pair
from test_readme import typed

from mirror_core import config, holders

PAGE = pages.DOCS / "howto/report-a-bug.md"
TEXT = PAGE.read_text()
BLOCKS = pages.blocks(TEXT)
MARK = b"bytes of a volume that are nobody's to see"


def block(words: str) -> str:
    """The one that holds these."""
    (found,) = [one for one in BLOCKS if words in one]
    return found


def collect(pair: Pair, folder: Path) -> None:
    """At the source."""
    folder.mkdir()
    site = pair.toml("east")
    text = block("mkdir report")
    named = f"SITE={site} STATE={config.load(str(site)).state}"
    assert "SITE=east STATE=/var/lib/flashmirror/east\n" in text
    text = text.replace("SITE=east STATE=/var/lib/flashmirror/east", named)
    threads = block("/proc/") if pair.status()["pid"] else ""
    typed(f"cd {folder}", text, threads, block("nbdkit --version"))


def packed(folder: Path) -> dict[str, bytes]:
    """What is in the archive, by name."""
    typed(f"cd {folder}", block("tar -czf"))
    with tarfile.open(folder / "report.tar.gz") as archive:
        files = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
        return {name.removeprefix("report/"): file.read() for name, file in files.items() if file}


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair("--size", "1M")
    pair.start()
    with pair.client() as client:
        client.write(0, MARK.ljust(4096, b"\0") * (MIB // 4096))
    pair.sync()
    return pair


def test_what_is_collected_is_whole_and_what_is_packed_is_not_secret(
    pair: Pair, scratch: Path
) -> None:
    """Status, checks, log, history and versions, of a site that runs and of one that is stopped,
    whose ledger has the fingerprints of its stores; the number of the history in its first digits
    only, no checksum of a store, and no byte of a volume."""
    lineage = str(pair.status()["lineage"])
    judge(pair, scratch / "running", lineage, "mirroring")
    pair.stop("east")
    judge(pair, scratch / "stopped", lineage, "stopped")


def judge(pair: Pair, folder: Path, lineage: str, state: str) -> None:
    """What is collected and packed of the source."""
    collect(pair, folder)
    assert lineage in (folder / "report/status.json").read_text()
    found = packed(folder)
    status, first, head = found["status.json"], *found["ledger"].splitlines()
    assert json.loads(status)["state"] == state
    assert {row["result"] for row in json.loads(found["check.json"])} == {"ok"}
    assert first.startswith(b"flashmirror-ledger ") and json.loads(head)["committed"] > 0
    assert json.loads(status)["lineage"] == json.loads(head)["lineage"]["id"] == lineage[:8]
    assert b"flashmirror: mirroring to west" in found["site.log"]
    assert b"ledger" in found["files"] and found["time"]
    assert (b"nbdkit: " in found.get("threads", b"")) is (state != "stopped")
    for program in (b"flashmirror, version", b"nbdkit 1.", b"Python 3.", b"Linux ", b"libnbd0"):
        assert program in found["versions"], found["versions"]
    for name, data in found.items():
        assert not re.search(b"[0-9a-f]{32}", data) and MARK not in data, name
    assert [path for path in folder.rglob("*") if path.stat().st_mode & 0o077] == []


def test_what_is_left_in_a_report_keeps_it_from_being_packed(scratch: Path) -> None:
    """A number in another form than the page knows is shown, and nothing is packed."""
    (scratch / "report").mkdir()
    (scratch / "report/site.log").write_text(f"x{'a' * 40}\n")
    assert "a" * 40 in typed(f"cd {scratch}", block("tar -czf"))
    assert not (scratch / "report.tar.gz").exists()


def test_a_check_that_fails_is_whole_in_the_report(pair: Pair, scratch: Path) -> None:
    """Its exit status is 1, as the page says."""
    pair.stop("west")
    line = next(line for line in block("mkdir report").splitlines() if " check " in line)
    words = line.split(" > ")[0].replace('"$SITE"', str(pair.toml("east"))).split()
    done = flashmirror(*words[1:])
    assert done.returncode == 1
    failed = [row["check"] for row in json.loads(done.stdout) if row["result"] == "failed"]
    assert "peer" in failed


def test_what_is_named_beside_it_is_there() -> None:
    """The unit whose journal is asked for, the folder of the holders' logs, and the commit."""
    assert "journalctl --unit " in TEXT and "flashmirror@east" in block("journalctl")
    assert (pages.ROOT / "systemd/flashmirror@.service").exists()
    subprocess.run(["journalctl", "--help"], stdout=subprocess.DEVNULL, check=True)
    assert f"cp {holders.FOLDER}/*.log report" in block("dmesg")
    assert holders.log_path("east").suffix == ".log"
    if (pages.ROOT / ".git").exists():
        line = block("git rev-parse").replace("report/versions", "/dev/stdout")
        assert re.fullmatch("[0-9a-f]{40}\n", typed(f"cd {pages.ROOT}", line))
