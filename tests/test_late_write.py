"""A write to a store's server that was given up keeps the store from writing only for as long as
somebody may still do it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pair import some
from served import NBDKIT

# In a network of its own, which it can cut.
ALONE = """
import fcntl, os, pathlib, signal, socket, struct, subprocess, sys, time, types
from mirror_core import native

UP, SET_FLAGS = 1, 0x8914  # linux/if.h, linux/sockios.h: IFF_UP, SIOCSIFFLAGS

def network(flags):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, SET_FLAGS, struct.pack("16sh22x", b"lo", flags))

folder = pathlib.Path({folder!r})
network(UP)
pathlib.Path("/proc/sys/net/ipv4/tcp_rmem").write_text("4096 4096 4096")  # full with one request
subprocess.Popen(
    [{nbdkit!r}, "-f", "-p", "10809", "-P", folder / "pid", "eval", "get_size=echo 64M",
     "thread_model=echo parallel", "can_write=true", "can_flush=true", "flush=true",
     "can_fua=echo native", "can_zero=true", "zero=true", "can_multi_conn=true",
     "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null"])
while not (folder / "pid").exists():
    time.sleep(0.01)
store = native.Store.nbd("nbd://127.0.0.1:10809", 0.5)
client = native.Client(native.Volume(store, None, 64 << 20, 4096, False), 0)
client.zero(4096, 0, 0)
lines = [line.split() for line in open("/proc/net/tcp")]
timers = [one[5] for one in lines if one[2].endswith(":2A39") and one[3] == "01"]  # proc(5)
print(len(timers), "connections,", sum(timer.startswith("02:") for timer in timers), "asked")

def connections():
    for link in pathlib.Path("/proc/self/fd").iterdir():
        if link.is_socket():
            with socket.socket(fileno=os.dup(int(link.name))) as one:
                if one.family == socket.AF_INET:
                    yield one

def takes_no_more(one):  # linux/tcp.h, struct tcp_info
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 148)
    unacked, unsent = (struct.unpack_from("I", info, at)[0] for at in (24, 144))
    return unsent and not unacked

for one in connections():
    each_s = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    assert each_s * one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) > 600
hangs = {hangs}
if hangs:  # first the server, then its machine: by then it takes no more
    os.kill(int((folder / "pid").read_text()), signal.SIGSTOP)
else:
    network(0)
calls = types.ModuleType("calls")
native.take_hot_calls(calls, lambda *_: print("failed"))
calls.pwrite(client, memoryview(bytes(64 << 10 if hangs else 4096)), 0, 0)
began, full = time.monotonic(), False
# The kernel has no event for it, and may send again what was dropped.
while hangs and not full and time.monotonic() - began < 20:
    full = any(map(takes_no_more, connections()))
    time.sleep(0 if full else 0.01)
print("takes no more" if full else "takes more")
network(0)
assert not store.is_settled()
began = time.monotonic()
while not store.is_settled() and time.monotonic() - began < 60:
    time.sleep(0.1)
print("settled" if store.is_settled() else "still late")
lines = [line.split() for line in open("/proc/net/tcp")]
unsent = [one for one in lines if one[2].endswith(":2A39") and one[3] != "01"]
print(len(unsent), "go on being sent")
print(store.losses, "loss", flush=True)
os.kill(int((folder / "pid").read_text()), 9)
os._exit(0)
"""


@pytest.mark.root("makes a network of its own")
@pytest.mark.parametrize("hangs", some([True, False]))
def test_a_late_write_of_a_machine_that_is_gone_ends(tmp_path: Path, *, hangs: bool) -> None:
    """Its network drops everything without a word: after half a minute the store is used again, not
    after the quarter of an hour for which the kernel sends again what nobody answers, or probes
    (`hangs`) whether more is taken; and from then on that is not sent any more.  The connections on
    which nothing was asked outlast it."""
    script = ALONE.format(folder=str(tmp_path), nbdkit=NBDKIT, hangs=hangs)
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    first, *others = done.stdout.splitlines()
    full = "takes no more" if hangs else "takes more"
    assert others == ["failed", full, "settled", "0 go on being sent", "1 loss"], done.stderr
    assert first == "2 connections, 2 asked", "who says nothing is asked"
