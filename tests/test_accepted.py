"""What a configuration accepts works, or `check` and `start` refuse it at once, in the same words:
hosts, keys, paths, stores, and what surrounds them."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import direct
import pytest
from handmade import Handmade, east, edit, flashmirror, kill, record, refused, scrape, state_of
from nbd_client import NbdClient
from pair import FLASHMIRROR, MakePair, Pair
from remote import MakeRemote, RemotePair, free_ports
from served import Server

from mirror_core import limits, pki, sockets
from mirror_core.address import Tcp

root = pytest.mark.root("has mounts and a network of its own")


def place(*steps: str) -> tuple[str, ...]:
    """Words before a command that give it mounts and a network of its own, and do these first."""
    return ("unshare", "--mount", "--net", "sh", "-ec", "\n".join([*steps, 'exec "$0" "$@"']))


def with_hosts(folder: Path, text: str) -> str:
    """A step of `place`: its /etc/hosts."""
    (folder / "hosts").write_text(text)
    return f"mount --bind {folder}/hosts /etc/hosts"


def refused_alike(pair: Pair) -> str:
    """The words with which both `start` and `check` refuse the source; nothing else is wrong."""
    line, said = refused("start", east(pair)), flashmirror("check", east(pair))
    assert said.returncode and line in said.stderr, (line, said.stderr)
    return line


# ---- hosts


@root
def test_a_host_that_the_hosts_file_names_twice_is_listened_on_once(make_pair: MakePair) -> None:
    """As is a number that several of the site's addresses mean."""
    pair = make_pair("--size", "1M")
    pair.configure("east", "insecure = true")
    own = f"unix:{pair.folder}/east.sock"
    edit(pair, f'["{own}"]', f'["{own}", "tcp:twice.test:10999", "tcp:127.0.0.1:10999"]')
    hosts = with_hosts(pair.folder, "127.0.0.1 twice.test\n127.0.0.1 twice.test again.test\n")
    for command in ("check", "start"):  # its peer does not run, which `check` says
        done = flashmirror(command, east(pair), prefix=place("ip link set lo up", hosts))
        assert "Address already in use" not in done.stderr
    assert state_of(pair)["pid"]


@root
def test_localhost_is_listened_on_where_there_is_no_ipv6(make_pair: MakePair) -> None:
    """Its number that this machine does not have is left out, for the peer and for metrics; a host
    of which no number is this machine's is refused, by `check` with the same words."""
    pair = make_pair("--size", "1M")
    pair.configure("east", "insecure = true")
    own = f"unix:{pair.folder}/east.sock"
    edit(pair, f'["{own}"]', f'["{own}", "tcp:localhost:10999"]')
    edit(pair, '"127.0.0.1:0"', '"localhost:9809"')
    no_ipv6 = place(
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
        "ip link set lo up",
        with_hosts(pair.folder, "::1 localhost\n127.0.0.1 localhost\n::1 six.test\n"),
    )
    assert flashmirror("start", east(pair), prefix=no_ipv6).returncode == 0
    assert state_of(pair)["metrics_address"] == "localhost:9809"
    pair.stop("east")
    edit(pair, "tcp:localhost", "tcp:six.test")
    line = refused("start", east(pair), prefix=no_ipv6)
    assert line == (
        "listen: six.test:10999: Cannot assign requested address: mend that, or change 'listen'"
    )
    assert line in flashmirror("check", east(pair), prefix=no_ipv6).stderr
    late = place(
        "ip link set lo up",
        with_hosts(pair.folder, "127.0.0.1 late.test\n10.99.99.99 late.test\n"),
    )
    edit(pair, "tcp:six.test", "tcp:late.test")
    line = refused("start", east(pair), prefix=late)  # or it would never listen there
    assert line.startswith("listen: late.test:10999: Cannot assign requested address"), line


def test_metrics_of_every_number_are_of_ipv4_s_too(make_pair: MakePair) -> None:
    """`[::]` is all that the machine has."""
    pair = make_pair("--size", "1M")
    edit(pair, '"127.0.0.1:0"', '"[::]:0"')
    pair.start("east")
    port = state_of(pair)["metrics_address"].rpartition(":")[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"flashmirror_" in answer.read()


def test_the_folder_of_a_socket_is_made_where_it_goes_at_each_boot(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its owner only: what is below /run, as in the configuration of README.md, is gone then.
    A mistyped one elsewhere is refused, and not made."""
    pair = make_pair("--size", "1M")
    folder = pair.folder / "run"
    edit(pair, f"unix:{pair.folder}/east.sock", f"unix:{folder}/east.sock")
    said = f"{folder}: no such folder for the socket: make it, or change 'listen'"
    assert refused_alike(pair) == said
    assert not folder.exists()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(pair.folder))
    assert "ok      listen" in flashmirror("check", east(pair)).stdout
    assert not folder.exists()
    assert flashmirror("start", east(pair)).returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pair.client() as client:
        client.write(0, b"1")


def test_metrics_of_a_name_of_every_number_of_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hosts file may give both `::` and `0.0.0.0` for it: one socket each."""
    (port,) = free_ports(1)
    both = [(socket.AF_INET6, ("::", port, 0, 0)), (socket.AF_INET, ("0.0.0.0", port))]
    monkeypatch.setattr(sockets, "_numbers", lambda *_: both)
    made = sockets.tcp([Tcp("every.test", port)], "metrics")
    assert len(made) == 2
    for one in made:
        one.close()


def test_check_says_of_a_busy_port_what_start_says(make_pair: MakePair) -> None:
    """Of metrics, whose own port is taken; and is content when it is free."""
    pair = make_pair("--size", "1M")
    pair.start("west")
    edit(pair, '"127.0.0.1:0"', f'"{state_of(pair, "west")["metrics_address"]}"')
    assert "Address already in use: free it, or change 'metrics'" in refused_alike(pair)
    pair.stop("west")
    pair.start()
    assert flashmirror("check", east(pair)).returncode == 0


@pytest.mark.parametrize("host", ["[::1]", "localhost", "127.0.0.1"])
def test_the_address_of_the_metrics_makes_a_url(make_pair: MakePair, host: str) -> None:
    """As `status` shows it, whatever host it names."""
    pair = make_pair("--size", "1M")
    (port,) = free_ports(1)
    edit(pair, '"127.0.0.1:0"', f'"{host}:{port}"')
    pair.start("east")
    assert state_of(pair)["metrics_address"] == f"{host}:{port}"
    assert "flashmirror_info" in scrape(pair)


# ---- TLS


PLAIN = f"flashmirror:{'5e' * 32}"
TAKEN = ["{}", "{}\n", "somebody:00\n{}\n", "{}\n# a remark\nflashmirror:00\n"]
NOT_READ = [
    "{}\r\n",
    "{} \n",
    "{}\t\n",
    "\ufeff{}\n",
    " {}\n",
    "flashmirror:00\n{}\n",
    "{}0\n",
    "{}zz\n",
]


@pytest.mark.parametrize("file", [*TAKEN, *NOT_READ])
def test_a_key_file_that_is_taken_is_one_that_the_tls_library_reads(
    make_remote: MakeRemote, file: str
) -> None:
    """Whatever an editor or another system has made of its lines: the sites find each other, or
    `start` and `check` say what a line has to be."""
    pair = make_remote("--size", "1M", kind="psk")
    (pair.folder / "key").write_bytes(file.format(PLAIN).encode())
    if file in TAKEN:
        pair.start()
        direct.sync(pair)
    else:
        assert "key: holds no line 'flashmirror:KEY'" in refused_alike(pair)


@pytest.mark.parametrize("name", ["server", "client"])
def test_a_key_of_another_certificate_is_refused(make_remote: MakeRemote, name: str) -> None:
    """By both, not when the sites try to find each other; whatever ends the lines of the right
    ones have, they are taken."""
    pair = make_remote("--size", "1M")
    own, other = (pair.credentials(site) / f"{name}-key.pem" for site in ("east", "west"))
    right = own.read_bytes()
    own.write_bytes(other.read_bytes())
    assert f"{own}: is not the key of {name}-cert.pem beside it" in refused_alike(pair)
    own.write_bytes(right.replace(b"\n", b"\r\n"))
    pair.start()
    direct.sync(pair)


@root
@pytest.mark.parametrize("kind", ["certificates", "psk", "plain"])
def test_a_peer_over_ipv6_only_is_reached(make_remote: MakeRemote, kind: str) -> None:
    """By its name with TLS; in plain also by its number, with the zone that a local one needs."""
    pair = make_remote("--size", "1M", kind=kind)
    pki.make(pair.folder / "six", {"east": ("six.test",), "west": ("six.test",)}, days=1)
    host = "[fe80::1%dc0]" if kind == "plain" else "six.test"
    for site in ("east", "west"):
        text = pair.toml(site).read_text().replace("/pki/", "/six/")
        text = text.replace("tcp:127.0.0.1", "tcp:" + host).replace("//localhost", "//" + host)
        pair.toml(site).write_text(text)
    steps = [
        "ip link set lo up",
        "ip link add dc0 type veth peer name dc1",
        "ip link set dc0 up",
        "ip link set dc1 up",
        "ip addr add fe80::1/64 dev dc0 nodad",
        with_hosts(pair.folder, "::1 six.test\n"),
        *(f"{FLASHMIRROR} start {pair.toml(site)}" for site in ("west", "east")),
    ]
    done = flashmirror("sync", east(pair), "--timeout", "20s", prefix=place(*steps))
    assert done.returncode == 0, done.stderr


# ---- stores


def test_a_store_s_socket_may_be_relative_to_the_file(handmade: Handmade) -> None:
    """As every path is, for each command, wherever it is given, and for the site."""
    pair = handmade
    server = Server(pair.folder / "served.img")
    server.image.touch()
    os.truncate(server.image, pair.size)
    server.start()
    try:
        pair.stores["east", "data"] = "nbd+unix:///?socket=served.sock"
        pair.create()
        pair.start()
        with pair.client() as client:
            client.write(0, b"x" * 4096)
        direct.sync(pair)
        pair.stop("east")
        assert server.image.read_bytes() == pair.image("west").read_bytes()
        assert flashmirror("check", east(pair)).returncode == 0
    finally:
        pair.stop()
        server.stop()


@pytest.mark.parametrize("kind", ["certificates", "psk"])
def test_any_path_may_hold_blanks_and_what_means_something_elsewhere(
    scratch: Path, kind: str
) -> None:
    """In a URI, a shell, nbdkit's words or a TOML file: two sites over TLS in such a folder, by the
    paths of their files too; what `uri` prints opens the device, and a promotion begins anew."""
    pair = RemotePair(scratch / "a b%20+#?&;=é'ü :x$(y)" / "z  ", "--size", "1M", kind=kind)
    try:
        pair.start()
        with NbdClient(pair.run("uri", east(pair)).strip()) as client:
            client.write(0, b"x" * 4096)
        direct.sync(pair)
        assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
        assert flashmirror("check", east(pair)).returncode == 0
        pair.run("promote", str(pair.toml("west")), "--force")
        assert state_of(pair, "west")["role"] == "source"
    finally:
        pair.kill()


def test_a_path_that_is_no_utf8_is_refused_before_anything_is_made(scratch: Path) -> None:
    """A site there could not be started: `init` left it behind, and ended with a traceback."""
    folder = scratch / os.fsdecode(b"gr\xfcn")
    shown = f"{scratch}/gr\\xfcn"
    line = "is no UTF-8: rename it, or name another"
    assert refused("init", str(folder), "--size", "1M") == f"{shown}: {line}"
    assert refused("pki", str(folder)) == f"{shown}: {line}"
    assert not folder.exists()
    for command in ("create", "check", "start", "status", "stop"):
        words = ["--role", "source"] if command == "create" else []
        said = refused(command, str(folder / "east.toml"), *words)
        assert said == f"{shown}/east.toml: {line}"


# ---- volumes


def turn_round(pair: Pair, site: str) -> None:
    """Write a site's [[volume]] tables in the opposite order."""
    head, *volumes = pair.toml(site).read_text().split("[[volume]]")
    turned = "".join(f"[[volume]]{volume.rstrip()}\n\n" for volume in reversed(volumes))
    pair.toml(site).write_text(head + turned)


def test_the_order_of_the_volumes_in_the_file_means_nothing(make_pair: MakePair) -> None:
    """Turned round at either site, after a kill with something still to be copied and after an
    orderly stop: each volume keeps its own stores, maps and logs."""
    pair = make_pair("--size", "4M", "--volumes", "2")
    volumes = ("disk", "disk2")
    pair.start()
    pair.sync()
    ends: list[Callable[[Pair, str], None]] = [kill, Pair.stop]
    for turn, end in enumerate(ends, 1):
        for number, volume in enumerate(volumes):
            with pair.client(volume) as client:
                client.write(65536 * (turn + number), bytes([16 * turn + number]) * 65536)
        for site in ("east", "west"):
            end(pair, site)
            turn_round(pair, site)
        pair.start()
        direct.sync(pair)
    for number, volume in enumerate(volumes):
        data = pair.image("east", volume).read_bytes()
        assert data == pair.image("west", volume).read_bytes()
        for turn in (1, 2):
            at = 65536 * (turn + number)
            assert data[at : at + 65536] == bytes([16 * turn + number]) * 65536


def test_other_volumes_than_those_of_the_ledger_are_refused(make_pair: MakePair) -> None:
    """One that was renamed: both names are said."""
    pair = make_pair("--size", "1M", "--volumes", "2")
    edit(pair, 'name = "disk2"', 'name = "other"')
    assert "(disk2, other): mend [[volume]]" in refused_alike(pair)


# ---- what surrounds a site


def test_a_limit_of_open_files_that_is_too_low_is_refused(make_pair: MakePair) -> None:
    """By a line that says which one is needed, and with that the site starts and mirrors; a soft
    limit is no limit."""
    pair = make_pair("--size", "1M", "--volumes", "2")
    low = ("prlimit", "--nofile=100:100")
    line = refused("start", east(pair), prefix=low)
    assert line in flashmirror("check", east(pair), prefix=low).stderr
    found = re.search(r"may have 100 files open here, and the site needs (\d+): raise that", line)
    assert found, line
    need = int(found[1])
    assert "needs" in refused("start", east(pair), prefix=("prlimit", f"--nofile=64:{need - 1}"))
    for site in ("west", "east"):
        words = ("start", str(pair.toml(site)))
        assert not flashmirror(*words, prefix=("prlimit", f"--nofile=64:{need}")).returncode
    with contextlib.ExitStack() as clients:
        for volume in ("disk", "disk2") * 4:
            clients.enter_context(pair.client(volume)).write(0, b"x" * 4096)
        direct.sync(pair)


def test_a_file_that_was_changed_under_a_running_site_is_not_in_force(make_pair: MakePair) -> None:
    """`status`, `start` and `check` say so, in one row and one field, until the site is started
    again; of one that listens elsewhere `start` says so at once; a remark, blanks, and another
    order are no change."""
    pair = make_pair("--size", "1M", "--volumes", "2")
    pair.start()
    turn_round(pair, "east")
    text = pair.toml("east").read_text()
    pair.toml("east").write_text(text.replace("\nlisten = ", "\n\n# a remark\nlisten   =  "))
    assert record("status", east(pair))["configuration_changed"] is False
    assert record("start", east(pair))["configuration_changed"] is False
    pair.configure("east", 'interval = "1s"')
    for command in ("status", "start", "check"):
        done = flashmirror(command, east(pair))
        rows = [row for row in done.stdout.splitlines() if "changed since the start" in row]
        assert len(rows) == 1 and done.returncode == 0
    assert record("status", east(pair))["configuration_changed"] is True
    assert record("start", east(pair))["configuration_changed"] is True
    assert record("status", str(pair.toml("west")))["configuration_changed"] is False
    edit(pair, "unix:", "unix:elsewhere/")
    assert "was 'listen' changed since the start" in refused("status", east(pair))
    began = time.monotonic()
    assert "was 'listen' changed since the start" in refused("start", east(pair))
    assert time.monotonic() - began < limits.START_TIMEOUT_S / 3
    edit(pair, "unix:elsewhere/", "unix:")
    pair.stop("east")
    assert record("status", east(pair))["configuration_changed"] is None
    pair.start("east")
    assert record("status", east(pair))["configuration_changed"] is False


def test_a_file_may_begin_with_a_byte_order_mark(make_pair: MakePair) -> None:
    """And have the line ends of another system."""
    pair = make_pair("--size", "1M")
    text = pair.toml("east").read_text()
    pair.toml("east").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    pair.start("east")
    assert record("status", east(pair))["role"] == "source"


def test_a_folder_that_is_gone_is_named_as_the_reason(make_pair: MakePair) -> None:
    """A command that is given in a folder which was removed works with a whole path, and says what
    is wrong with another one."""
    pair = make_pair("--size", "1M")
    gone = (
        "sh",
        "-ec",
        f'mkdir "{pair.folder}/gone"; cd "{pair.folder}/gone"; rmdir "$PWD"; exec "$0" "$@"',
    )
    for words in (("start", "./east.toml"), ("init", "pair"), ("pki", "pki")):
        assert "the folder that this command is given in is gone" in refused(*words, prefix=gone)
    assert flashmirror("start", east(pair), prefix=gone).returncode == 0
    assert state_of(pair)["pid"]
