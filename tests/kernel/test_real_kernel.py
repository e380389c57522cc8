"""A mirrored volume as a real Linux kernel's /dev/nbd0, and what its target is worth.

One guest for each kernel and file system gathers the facts (``guest_volume``: both sites, the
device, a real tree, databases under load, a trim); each test here judges one promise by them. The
same is asked of an ordinary server, where the source is the target: the control, without which a
failure might be the test's own.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kernels
import pytest
import uml
from guest_volume import GIVEN_BACK, PLAIN, Facts, Target

GUEST_SCRIPT = Path(__file__).with_name("guest_volume.py")
GUEST_SECONDS = 150
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")
RECOVERED = {"ext4": "): recovery complete", "xfs": "): Ending recovery"}


@dataclass(frozen=True)
class Case:
    """One guest's run."""

    file_system: str
    device_block: int
    program: str
    guest: uml.GuestResult
    facts: Facts

    @property
    def targets(self) -> tuple[Target, Target]:
        return self.facts.under_load, self.facts.at_rest


DEVICE_BLOCK = {"ext4": 4096, "xfs": 512}
PROGRAM = {"flashmirror": str(FLASHMIRROR), "control": PLAIN}


def runs() -> Iterator[object]:
    """The other Debian's kernel has one of them in CI, and all in `make soak`."""
    for kernel in kernels.all_kernels():
        for file_system in DEVICE_BLOCK:
            for kind, program in PROGRAM.items():
                name = f"{file_system}-{kind}"
                in_ci = kernel == "own" or name == "ext4-flashmirror"
                yield pytest.param(
                    (kernel, file_system, program),
                    id=f"{kernel}-{name}",
                    marks=[] if in_ci else pytest.mark.soak,
                )


@pytest.fixture(scope="module", params=runs())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kernel, file_system, program = request.param
    device_block = DEVICE_BLOCK[file_system]
    if program != PLAIN and not FLASHMIRROR.exists():
        pytest.fail(f"{FLASHMIRROR}: run make build", pytrace=False)
    share = tmp_path_factory.mktemp(file_system)
    facts = share / "facts.json"
    guest = uml.run_guest(
        [
            *("/usr/bin/python3", "-X", "faulthandler", GUEST_SCRIPT),
            *(facts, file_system, str(device_block), program),
        ],
        share,
        GUEST_SECONDS,
        kernel=kernels.get(kernel),
        modules=("nbd nbds_max=1", "loop"),
        memory="1536M",
    )
    if guest.status != 0:
        pytest.fail(guest.report(), pytrace=False)
    print(guest.output)
    return Case(file_system, device_block, program, guest, Facts.load(facts))


def test_a_target_at_rest_holds_the_same_tree(case: Case) -> None:
    """After a sync every file, link, mode, time and byte of the source's tree is on the target."""
    assert case.facts.tree
    assert case.facts.at_rest.tree == case.facts.tree


def test_a_target_at_rest_holds_exactly_the_acknowledged_rows(case: Case) -> None:
    """After the load has ended, a sync brings every row to the target, and no other."""
    rows = case.facts.acknowledged_at_end
    assert case.facts.at_rest.databases == {
        "wal": {"integrity": "ok", "rows": rows, "intact": True},
        "delete": {"integrity": "ok", "rows": rows, "intact": True},
    }


def test_a_sync_beside_the_load_holds_every_row_acknowledged_before_it(case: Case) -> None:
    """While rows are written, a sync has all that were committed before the call, and whole."""
    assert case.facts.acknowledged_before_sync > 0
    for database in case.facts.under_load.databases.values():
        assert database["integrity"] == "ok"
        assert database["intact"]
        assert database["rows"] >= case.facts.acknowledged_before_sync
    assert case.facts.under_load.tree == case.facts.tree


def test_databases_written_in_turn_are_of_one_moment(case: Case) -> None:
    """Each row goes to one database, then to the other: never is the second ahead on the target."""
    first, second = (found["rows"] for found in case.facts.under_load.databases.values())
    assert first - 1 <= second <= first


def test_every_target_image_recovers_from_its_journal_and_is_clean(case: Case) -> None:
    """As after a power cut: the kernel replays the journal, and then fsck has nothing to say."""
    assert [target.fsck for target in case.targets] == ["", ""]
    recovered = case.guest.kernel_log.count(RECOVERED[case.file_system])
    assert recovered == len(case.targets), case.guest.report()


def test_trimmed_space_reaches_the_target_as_holes(case: Case) -> None:
    """After a file is deleted and fstrim has run, a sync gives its space back at the target too."""
    given_back = case.facts.allocated_before_trim_bytes - case.facts.allocated_after_trim_bytes
    assert given_back >= GIVEN_BACK * case.facts.big_file_bytes


def test_the_target_shares_extents_where_its_file_system_can(case: Case) -> None:
    """On a file system with reflinks the second flashcopy of long runs moves no bytes; the images
    judged above are made of such runs."""
    can = case.file_system == "xfs" and case.program != PLAIN
    assert (case.facts.shared_extents > 0) == can


def test_the_kernel_has_no_complaint(case: Case) -> None:
    """No I/O error, no hung task, no file system error, from attach to detach."""
    assert case.guest.complaints == []
