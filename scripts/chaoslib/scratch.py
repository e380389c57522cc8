"""The image of a stopped target, found without knowing any of its formats.

The target's files are copied aside; the site itself is promoted, where nobody hears of it, and its
volumes are read; then everything is put back as it was.  The originals are what is promoted, and
not the copy, because a site knows its stores by their inodes.

`Snapshot` is that copy; put back later it is a site that went back in time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from chaoslib.nbd import NbdClient
from chaoslib.sites import BOUNDS_S, Site

READ_S = 60.0


class Snapshot:
    """The state and the stores of a site that does not run."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._folder = site, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        site.disk.empty()
        for server in site.servers.values():
            server.write_down()
        shutil.copytree(site.disk.folder, folder / "state")
        for image in site.folder.glob("*.img"):
            shutil.copy2(image, folder / image.name)

    def put_back(self, *, stores: bool = True) -> None:
        site = self._site
        site.disk.empty()
        _empty(site.disk.folder)
        shutil.copytree(self._folder / "state", site.disk.folder, dirs_exist_ok=True)
        if stores:
            for server in site.servers.values():
                server.kill()  # its cache is of the time that is gone
            for copy in self._folder.glob("*.img"):
                _overwrite(copy, site.folder / copy.name)
            site.mend_servers()

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _overwrite(copy: Path, image: Path) -> None:
    """The same inode, with the copy's bytes and attributes."""
    with copy.open("rb") as old, image.open("r+b") as new:
        new.truncate(0)
        shutil.copyfileobj(old, new, 1 << 20)
        new.truncate(os.fstat(old.fileno()).st_size)
    for name in os.listxattr(image):
        os.removexattr(image, name)
    for name in os.listxattr(copy):
        os.setxattr(image, name, os.getxattr(copy, name))


def image_of(site: Site, settings: str) -> list[bytes]:
    """The volumes of a target's image; the site does not run, before or after.  Raises
    CommandFailed if it cannot be promoted."""
    toml, socket = site.base / "scratch.toml", site.base / "scratch.sock"
    snapshot = Snapshot(site, site.base / "scratch")
    ordinary, site.toml = site.toml, toml
    environment = site.environment
    maps = site.base / "run" / "scratch"
    maps.mkdir(exist_ok=True)
    site.environment = {**environment, "RUNTIME_DIRECTORY": str(maps)}
    try:
        site.configure(toml, socket, site.base / "nobody.sock", settings)
        site.start()
        site.run("promote", "--force", bound_s=BOUNDS_S["promote"])
        images = [read_device(uri) for uri in site.uris()]
        site.stop()
        return images
    finally:
        if site.pid:
            site.kill()
        site.toml, site.environment = ordinary, environment
        snapshot.put_back()
        snapshot.forget()
        shutil.rmtree(maps)


def read_device(uri: str) -> bytes:
    """All that the volume holds, as a client reads it."""
    with NbdClient(uri, READ_S) as client:
        step = 1 << 20
        return b"".join(
            client.read(at, min(step, client.size - at)) for at in range(0, client.size, step)
        )
