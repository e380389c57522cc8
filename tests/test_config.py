"""Every refusal of a configuration: one line that names the file, the key, and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mirror_core import config, limits
from mirror_core.address import Remote, Tcp, Tls
from mirror_core.errors import ConfigError, MirrorError

GOOD = """\
name = "east"
listen = ["unix:east.sock"]
peer = "unix:west.sock"
state = "state"
"""
VOLUME = """\
[[volume]]
name = "disk"
data = "disk.img"
intermediate = "disk.intermediate.img"
"""
TLS = VOLUME + '[tls]\ncertificates = "pki"\n'


def listening(*more: str) -> str:
    """GOOD that listens on these, too."""
    addresses = ", ".join(f'"{address}"' for address in ("unix:east.sock", *more))
    return GOOD.replace('"unix:east.sock"', addresses)


def loaded(folder: Path, text: str) -> config.SiteConfig:
    path = folder / "east.toml"
    path.write_text(text)
    return config.load(str(path))


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return str(caught.value)


def test_a_short_file_means_the_defaults_of_the_design(tmp_path: Path) -> None:
    """What is not written has the default that the interface gives; paths are the file's."""
    site = loaded(tmp_path, GOOD + VOLUME)
    assert (site.name, site.metrics, site.preserve) == ("east", None, "both")
    assert (site.interval, site.link_timeout, site.block_size) == (0.0, 2.0, 4096)
    assert (site.freeze_deadline, site.freeze_max) == (0.05, 1.0)
    assert (site.socket, site.peer) == (tmp_path / "east.sock", tmp_path / "west.sock")
    assert (site.tcp, site.tls, site.insecure) == ((), None, False)
    assert site.state == tmp_path / "state"
    assert site.volumes == (
        config.VolumeConfig(
            "disk", str(tmp_path / "disk.img"), str(tmp_path / "disk.intermediate.img")
        ),
    )


def test_every_setting_is_taken(tmp_path: Path) -> None:
    """Each setting of the interface reaches the site as it was written."""
    more = (
        'metrics = "[::1]:9809"\ninterval = "5s"\npreserve = "first"\nlink_timeout = "3s"\n'
        'freeze_deadline = "10ms"\nfreeze_max = "2s"\nblock_size = "64K"\n'
        'on_link_loss = "degrade"\nbandwidth = "0"\ninsecure = false\n'
    )
    stores = VOLUME.replace('"disk.img"', '"nbd://localhost/x"')
    site = loaded(tmp_path, GOOD + more + stores)
    assert site.metrics == Tcp("::1", 9809)
    assert (site.interval, site.preserve, site.link_timeout) == (5.0, "first", 3.0)
    assert (site.freeze_deadline, site.freeze_max, site.block_size) == (0.01, 2.0, 65536)
    assert site.volumes[0].data == "nbd://localhost/x"


def test_a_peer_may_be_written_as_the_nbd_uri_of_its_socket(tmp_path: Path) -> None:
    """unix:/path and nbd+unix:///?socket=/path mean the same peer."""
    text = GOOD.replace("unix:west.sock", "nbd+unix:///?socket=/run/west.sock")
    assert loaded(tmp_path, text + VOLUME).peer == Path("/run/west.sock")


def test_a_peer_on_the_network_is_a_host_and_a_port(tmp_path: Path) -> None:
    """The port is NBD's if none is written; what is said of TLS becomes the URI of each export,
    and the certificates are the file's."""
    text = listening("tcp:10.0.0.1:10809", "tcp:[::1]:7") + TLS
    tls = Tls(certificates=tmp_path / "pki")
    for uri, at in (
        ("nbds://west.example.com", Tcp("west.example.com", 10809)),
        ("nbds://10.0.0.2:7/", Tcp("10.0.0.2", 7)),
        ("nbds://WEST.", Tcp("WEST.", 10809)),
    ):
        site = loaded(tmp_path, text.replace("unix:west.sock", uri))
        assert site.tcp == (Tcp("10.0.0.1", 10809), Tcp("::1", 7)) and site.tls == tls
        assert site.peer == Remote(at, tls) and str(site.peer) == f"nbds://{at}"
        assert site.peer_uri("/control") == (
            f"nbds://{at}/%2Fcontrol?tls-certificates={tmp_path}/pki"
        )


def test_a_shared_key_and_a_plain_peer(tmp_path: Path) -> None:
    """psk names a file whose user is flashmirror; nbd:// is plain, and wants to be asked for."""
    psk = GOOD.replace("unix:west.sock", "nbds://west") + VOLUME + '[tls]\npsk = "key"\n'
    assert loaded(tmp_path, psk).peer_uri("a") == (
        f"nbds://flashmirror@west:10809/a?tls-psk-file={tmp_path}/key"
    )
    plain = GOOD.replace("unix:west.sock", "nbd://west") + "insecure = true\n" + VOLUME
    assert loaded(tmp_path, plain).peer_uri("a") == "nbd://west:10809/a"
    assert loaded(tmp_path, plain).insecure
    for uri, at in (
        ("nbd://[::1]", "[::1]:10809"),
        ("nbd://[fe80::1%eth0]:7", "[fe80::1%25eth0]:7"),
        ("nbd://[fe80::1%25eth0]:7", "[fe80::1%25eth0]:7"),
        ("nbd://west_1", "west_1:10809"),
    ):
        written = loaded(tmp_path, plain.replace("nbd://west", uri))
        assert written.peer_uri("a") == f"nbd://{at}/a"


def test_the_paths_in_the_uri_of_a_store_are_the_file_s(tmp_path: Path) -> None:
    """Its socket, and what TLS needs; one that is whole stays as it is written, byte by byte, as
    the ledger knows the store by it."""
    here = tmp_path / "a b"
    here.mkdir()
    for written, meant in (
        ("nbd+unix:///?socket=s.sock", f"nbd+unix:///?socket={tmp_path}/a%20b/s.sock"),
        ("nbd+unix:///x?socket=d/s%20t+", f"nbd+unix:///x?socket={tmp_path}/a%20b/d/s%20t%2B"),
        ("nbd+unix:///?socket=/a%2Bb/s+t", "nbd+unix:///?socket=/a%2Bb/s+t"),
        ("nbd+unix:///?socket=%2Fs", "nbd+unix:///?socket=%2Fs"),
        (
            "nbds://h/x?tls-certificates=pki&tls-psk-file=/k",
            f"nbds://h/x?tls-certificates={tmp_path}/a%20b/pki&tls-psk-file=/k",
        ),
        (
            "nbds+unix:///?tls-psk-file=k;socket=s",
            f"nbds+unix:///?tls-psk-file={tmp_path}/a%20b/k;socket={tmp_path}/a%20b/s",
        ),
    ):
        site = loaded(here, GOOD + VOLUME.replace("disk.img", written))
        assert site.volumes[0].data == meant


def test_a_site_is_a_path_or_a_name_in_etc() -> None:
    """SITE is a file where it looks like one, else a name in /etc/flashmirror/."""
    assert config.find("east") == Path("/etc/flashmirror/east.toml")
    assert config.find("/a/east.toml") == Path("/a/east.toml")
    assert config.find("east.toml") == Path.cwd() / "east.toml"
    assert config.find("./east") == Path.cwd() / "east"


REFUSED = [  # text, key, a part of what to do
    (GOOD.replace('name = "east"\n', "") + VOLUME, "name", "add it"),
    (GOOD.replace('"east"', "0x" + "f" * 5000) + VOLUME, "name", "must be a text in quotes"),
    (GOOD.replace('"east"', '""') + VOLUME, "name", "must be a text in quotes"),
    (GOOD.replace('"east"', "7") + VOLUME, "name", "must be a text in quotes"),
    (GOOD.replace('"east"', '".."') + VOLUME, "name", "use 1 to 64 of"),
    (GOOD.replace('"east"', f'"{"a" * 65}"') + VOLUME, "name", "use 1 to 64 of"),
    (GOOD.replace('"east"', '"a/b"') + VOLUME, "name", "use 1 to 64 of"),
    (GOOD.replace('listen = ["unix:east.sock"]', "") + VOLUME, "listen", "a list of addresses"),
    (GOOD.replace('["unix:east.sock"]', "[]") + VOLUME, "listen", "one unix:/path"),
    (GOOD.replace('["unix:east.sock"]', "[1]") + VOLUME, "listen", "a list of addresses"),
    (GOOD.replace('"unix:east.sock"', '"unix:a", "unix:b"') + VOLUME, "listen", "one unix:/path"),
    (GOOD.replace("unix:east.sock", "tcp:1.2.3.4:10809") + TLS, "listen", "one unix:/path"),
    (listening("tcp:1.2.3.4") + TLS, "listen", "tcp:HOST:PORT"),
    (listening("tcp:1.2.3.4:0") + TLS, "listen", "tcp:HOST:PORT"),
    (listening("tcp:1.2.3.4:65536") + TLS, "listen", "tcp:HOST:PORT"),
    (listening("tcp:::1:10809") + TLS, "listen", "tcp:HOST:PORT"),
    (listening("tcp:a b:10809") + TLS, "listen", "tcp:HOST:PORT"),
    (listening("vsock:1:10809") + TLS, "listen", "tcp:HOST:PORT"),
    (listening("tcp:h:1", "tcp:h:1") + TLS, "listen", "remove one"),
    (listening("tcp:1.2.3.4:10809") + VOLUME, "listen", "needs a [tls] table, or 'insecure"),
    (GOOD.replace("east.sock", "") + VOLUME, "listen", "unix:/path"),
    (GOOD.replace("east.sock", "a\\nb") + VOLUME, "listen", "unix:/path"),
    (GOOD.replace("east.sock", "x" * 108) + VOLUME, "listen", "107 bytes"),
    (GOOD.replace('peer = "unix:west.sock"', "") + VOLUME, "peer", "add it"),
    (GOOD.replace("unix:west.sock", "unix:") + VOLUME, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "nbd://west.example.com") + TLS, "peer", "not encrypted"),
    (GOOD.replace("unix:west.sock", "nbds://west.example.com") + VOLUME, "peer", "[tls] table"),
    (GOOD.replace("unix:west.sock", "nbd://[::1") + VOLUME, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "nbds://west:0") + TLS, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "nbds://me@west") + TLS, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "nbds://west/disk") + TLS, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "nbds://west?tls-verify-peer=false") + TLS, "peer", "HOST"),
    (GOOD.replace("unix:west.sock", "nbds://") + TLS, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "https://west") + TLS, "peer", "nbds://HOST"),
    (GOOD.replace("unix:west.sock", "nbds://[::1]") + TLS, "peer: ::1", "a name in /etc/hosts"),
    (GOOD.replace("unix:west.sock", "nbds://west_1") + TLS, "peer: west_1", "A-Z a-z 0-9 . -"),
    (GOOD + VOLUME.replace("disk.img", "nbds://[::1]/x"), "volume disk: data: ::1", "/etc/hosts"),
    (GOOD + VOLUME.replace("disk.img", "nbd://[::1/x"), "volume disk: data", "no NBD URI"),
    (GOOD.replace("west.sock", "x" * 108) + VOLUME, "peer", "107 bytes"),
    (GOOD.replace("west.sock", "east.sock") + VOLUME, "peer", "name the other site's"),
    (GOOD.replace('state = "state"', "") + VOLUME, "state", "add it"),
    (GOOD + 'metrics = "9809"\n' + VOLUME, "metrics", "write 127.0.0.1:9809"),
    (GOOD + 'metrics = "::1:9809"\n' + VOLUME, "metrics", "or unix:/path"),
    (GOOD + f'metrics = "unix:{"x" * 108}"\n' + VOLUME, "metrics", "107 bytes"),
    (GOOD + 'metrics = "unix:east.sock"\n' + VOLUME, "metrics", "socket of 'listen'"),
    (GOOD + 'metrics = "unix:./a/../west.sock"\n' + VOLUME, "metrics", "socket of 'peer'"),
    (GOOD.replace("west.sock", "a/../east.sock") + VOLUME, "peer", "name the other site's"),
    (GOOD + "metrics = 9809\n" + VOLUME, "metrics", "write 127.0.0.1:9809"),
    (GOOD + "metrics = 0x" + "f" * 5000 + "\n" + VOLUME, "metrics", "write 127.0.0.1:9809"),
    (GOOD + 'metrics = "127.0.0.1:99999"\n' + VOLUME, "metrics", "write 127.0.0.1:9809"),
    (GOOD + 'interval = "5"\n' + VOLUME, "interval", "write it like 500ms"),
    (GOOD + 'interval = "999999h"\n' + VOLUME, "interval", "longer than a year"),
    (GOOD + "interval = 5\n" + VOLUME, "interval", "must be a text in quotes"),
    (GOOD + 'preserve = "none"\n' + VOLUME, "preserve", "not one of both, first"),
    (GOOD + 'on_link_loss = "wait"\n' + VOLUME, "on_link_loss", "not one of degrade, block"),
    (GOOD + 'link_timeout = "0s"\n' + VOLUME, "link_timeout", "must be more than zero"),
    (GOOD + 'freeze_deadline = "0ms"\n' + VOLUME, "freeze_deadline", "must be more than zero"),
    (GOOD + 'freeze_max = "1ms"\n' + VOLUME, "freeze_max", "must not be below freeze_deadline"),
    (GOOD + 'block_size = "4X"\n' + VOLUME, "block_size", "write it like 4096"),
    (GOOD + 'block_size = "3000"\n' + VOLUME, "block_size", "power of two from 512"),
    (GOOD + 'block_size = "256"\n' + VOLUME, "block_size", "power of two from 512"),
    (GOOD + 'block_size = "64M"\n' + VOLUME, "block_size", "power of two from 512 to 32M"),
    (GOOD + 'block_size = "0"\n' + VOLUME, "block_size", "power of two from 512"),
    (GOOD + 'bandwidth = "1M"\n' + VOLUME, "bandwidth", "write it like 20MiB/s"),
    (GOOD + 'bandwidth = "1K/s"\n' + VOLUME, "bandwidth", "from 4KiB/s"),
    (GOOD + 'insecure = "yes"\n' + VOLUME, "insecure", "true or false"),
    (GOOD + 'tls = "certificates"\n' + VOLUME, "tls", "a table [tls]"),
    (GOOD + VOLUME + "[tls]\n", "tls", "a table [tls]"),
    (GOOD + VOLUME + '[tls]\npsk = "x"\ncertificates = "y"\n', "tls", "a table [tls]"),
    (GOOD + VOLUME + '[tls]\nkey = "x"\n', "tls.key", "write 'certificates' or 'psk'"),
    (GOOD + VOLUME + "[tls]\npsk = 7\n", "tls.psk", "must be a text"),
    (GOOD + 'intervall = "5s"\n' + VOLUME, "intervall", "remove it or mend its spelling"),
    (GOOD + '"a\\nb" = "5s"\n' + VOLUME, "'a\\nb'", "remove it or mend its spelling"),
    (GOOD, "volume", "add a [[volume]]"),
    (GOOD + 'volume = "disk"\n', "volume", "add a [[volume]]"),
    (GOOD + 'volume = ["disk"]\n', "volume", "add a [[volume]]"),
    (GOOD + "volume = [1]\n", "volume", "add a [[volume]]"),
    (GOOD + VOLUME.replace("[[volume]]", "[volume]"), "volume", "add a [[volume]]"),
    (GOOD + VOLUME.replace('name = "disk"', ""), "volume.name", "add it"),
    (GOOD + VOLUME.replace('"disk"', '"a b"'), "volume.name", "use 1 to 64 of"),
    (GOOD + VOLUME.replace('data = "disk.img"', ""), "volume disk: data", "add it"),
    (GOOD + VOLUME.replace('"disk.img"', "[]"), "volume disk: data", "must be a text"),
    (GOOD + VOLUME.replace("disk.img", "a\\u0000b"), "volume disk: data", "control characters"),
    (GOOD + VOLUME.replace("disk.img", "a\\nb"), "volume disk: data", "control characters"),
    (GOOD + VOLUME + "size = 1\n", "volume disk: size", "remove it or mend its spelling"),
    (GOOD + VOLUME + VOLUME, "volume", "is the name of two volumes"),
    (GOOD + VOLUME + VOLUME.replace('"disk"', '"b"'), "volume", "is used twice"),
    (GOOD + VOLUME.replace("disk.intermediate", "disk"), "volume", "is used twice"),
]


@pytest.mark.parametrize(("text", "key", "advice"), REFUSED)
def test_a_refusal_is_one_line_with_file_key_and_advice(
    tmp_path: Path, text: str, key: str, advice: str
) -> None:
    """A setting that cannot be meant is refused; the line says where and what to do."""
    line = refusal(tmp_path, text)
    assert line.startswith(f"{tmp_path / 'east.toml'}: {key}"), line
    assert advice in line, line
    assert line.isprintable(), line


def test_more_volumes_than_a_group_holds_are_refused(tmp_path: Path) -> None:
    """A group has a bound, and the line says which."""
    tables = "".join(
        f'[[volume]]\nname = "v{i}"\ndata = "d{i}"\nintermediate = "i{i}"\n'
        for i in range(limits.VOLUMES_MAX + 1)
    )
    assert f"more than {limits.VOLUMES_MAX} volumes" in refusal(tmp_path, GOOD + tables)


@pytest.mark.parametrize(
    "data",
    [b"name = ", b"\xff\xfe", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000, b"\0"],
    ids=["cut", "not-utf-8", "nested", "huge-number", "zero"],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    """A damaged file is refused by its name, in one line."""
    path = tmp_path / "east.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^{path}: not valid TOML: ") as caught:
        config.load(str(path))
    assert str(caught.value).isprintable()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, or a folder or a pipe in its place, is refused by its name, at once."""
    (tmp_path / "d.toml").mkdir()
    os.mkfifo(tmp_path / "p.toml")
    for name, why in (("no", "No such file"), ("d", "directory"), ("p", "Not a file")):
        path = tmp_path / f"{name}.toml"
        with pytest.raises(ConfigError, match=rf"^{path}: .*{why}.*: name a site's TOML file"):
            config.load(str(path))


def test_what_the_machine_does_not_read_is_no_mistake_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may pass, and systemd tries again; of a mistake (exit status 2) it does not."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(MirrorError, match="Input/output error: mend that") as caught:
            config.load(str(tmp_path / "east.toml"))
    assert not isinstance(caught.value, ConfigError)


def test_a_key_that_comes_late_is_no_mistake_and_a_wrong_one_is(tmp_path: Path) -> None:
    """What holds it may not be mounted yet, and a site starts when it is."""
    key = tmp_path / "late" / "key"
    with pytest.raises(MirrorError, match="No such file or directory: make the key") as caught:
        Tls(psk=key).check()
    assert not isinstance(caught.value, ConfigError)
    with pytest.raises(MirrorError, match="'flashmirror pki' makes what") as caught:
        Tls(certificates=tmp_path / "late").check()
    assert not isinstance(caught.value, ConfigError)
    key.parent.mkdir()
    key.touch(mode=0o600)
    with pytest.raises(ConfigError, match="holds no line"):
        Tls(psk=key).check()


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("state =", "stat =", "stat: no such setting"),
        ('name = "disk"', 'nam = "disk"', "volume: nam: no such setting"),
        ("data =", "dta =", "volume disk: dta: no such setting"),
        ("[[volume]]", "[[volum]]", "volum: no such setting"),
    ],
)
def test_a_misspelt_key_is_named_before_what_it_leaves_missing(
    tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    """Or a person would look for what stands there, with a letter less."""
    text = GOOD + VOLUME
    assert right in text
    assert said in refusal(tmp_path, text.replace(right, wrong))
