"""An exception at every call that a site makes, in the simulator (tests/sim/injections.py)."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from pair import SOAK
from simulated import counter, simulate

from mirror_core import native
from mirror_core.platform import Platform

# Methods in whose place nothing is raised, and why that leaves nothing out.
_MEANS_UNKNOWN = "an error there means that something is not known (test_below.py)"
_NO_WAY_TO_FAIL = "it sets or reads what is in memory, and can neither fail nor wait"
_TAKES_BACK = "it takes something back, and has no way to fail"
_BUILDS = "it builds the object, before the site is there"
SPARED = {
    "Platform": {
        "condition": "what waits for a lock is not to be left without it",
        "lock": "what waits for a lock is not to be left without it",
        "losses": _NO_WAY_TO_FAIL,
        "folder_stands_on": _NO_WAY_TO_FAIL,
        "fstat": _MEANS_UNKNOWN,
        "stat": _MEANS_UNKNOWN,
        "ioctl": _MEANS_UNKNOWN,
        "abort": "the process ends there",
        "looker": "it asks nothing itself, and who asks takes what fails for unknown",
    },
    "Store": {
        "file": _BUILDS,
        "nbd": "by control_channel's and peer_store's; of an own store by its server (faulty.py)",
        "stands_on": _NO_WAY_TO_FAIL,
        "stands_with_folder": _NO_WAY_TO_FAIL,
        "unflushed": _NO_WAY_TO_FAIL,
        "server_socket": _NO_WAY_TO_FAIL,
        "is_settled": _NO_WAY_TO_FAIL,
        "cut": _NO_WAY_TO_FAIL,
    },
    "Intent": {"log_bytes": _NO_WAY_TO_FAIL},
    "Volume": {
        "lose_front": _NO_WAY_TO_FAIL,
        "lose_second": _TAKES_BACK,
        "leave_second": _TAKES_BACK,
        "abandon": _TAKES_BACK,
        "fail": _TAKES_BACK,
        "mark_shared": _TAKES_BACK,
        "news_is_due": _NO_WAY_TO_FAIL,
        "renew_intent": "it is of the thread that looks at servers, which no simulated site has",
        "set_strict": _NO_WAY_TO_FAIL,
        "set_hold": _NO_WAY_TO_FAIL,
        "set_returning": _NO_WAY_TO_FAIL,
        "set_patience": _NO_WAY_TO_FAIL,
        "doubt_front": _NO_WAY_TO_FAIL,
        "doubts_front": _NO_WAY_TO_FAIL,
        "share": "by the maps' own (SimMaps.share)",
        "shared_bytes": _NO_WAY_TO_FAIL,
        "touches": _NO_WAY_TO_FAIL,
    },
    "Group": {},
}


def test_an_exception_at_any_call_leaves_nobody_waiting() -> None:
    """Of the system, a store, a map, in a cycle, a handshake, a boot, a promotion, a stop: writers
    are answered, a control that has ended says so, a stop ends, and a restart makes all right.
    (A sample; `make soak` has every call.)"""
    every = "1" if SOAK > 1 else "389"
    status, output = simulate("--injections", "--every", every, "--count", "1000000")
    assert status == 0, output
    assert counter(output, "exceptions thrown") > (5_000 if SOAK > 1 else 22)


def _injected() -> dict[str, set[str]]:
    """WHAT of sim/injections.py, which is not imported: that would put another core into this
    process."""
    path = Path(__file__).parent / "sim/injections.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "WHAT":
            assert isinstance(node.value, ast.Tuple)
            return {
                ast.unparse(kind).rpartition(".")[2].replace("SimPlatform", "Platform"): {
                    *ast.literal_eval(names).split()
                }
                for one in node.value.elts
                if isinstance(one, ast.Tuple)
                for kind, names in [one.elts]
            }
    raise AssertionError(f"{path} has no WHAT")


def test_every_call_that_may_fail_is_one_in_whose_place_something_is_raised() -> None:
    """A method that is new to the seam or to the core is named there, or here with the reason."""
    what = _injected()
    for kind in (Platform, native.Store, native.Intent, native.Volume, native.Group):
        methods = {
            name
            for name, member in vars(kind).items()
            if not name.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, (staticmethod, classmethod)))
        }
        raised, spared = what[kind.__name__], SPARED[kind.__name__]
        assert raised | spared.keys() == methods, kind
        assert not raised & spared.keys(), kind
