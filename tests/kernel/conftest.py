"""What these tests need of the machine: a missing program fails them, with its package's name."""

import kernels
import pytest
import uml

PACKAGES = {
    "nbdkit": "nbdkit",
    "nbd-client": "nbd-client",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "fstrim": "util-linux",
    "dmsetup": "dmsetup",
}


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    if missing := uml.missing(PACKAGES):
        pytest.fail(missing, pytrace=False)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name == "own" else pytest.mark.soak)
        for name in kernels.all_kernels()
    ],
)
def kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    """Each kernel of a supported Debian in turn, in `make soak`; in CI this machine's own."""
    return kernels.get(request.param)


@pytest.fixture(scope="module")
def newest() -> kernels.Kernel:
    """Of them, also in CI: for the few tests that the newest is most likely to fail."""
    return kernels.get(kernels.all_kernels()[-1])
