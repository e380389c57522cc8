"""Which of the kernel's devices are a site's: by what each was connected with, its backend.

A device outlives what its site becomes.  A source that was given another history (`resync`), was
created anew or has become a target leaves the device of the old one behind, and what is mounted on
it: nobody serves that any more, and it is for the same commands.  So a device is found by its site,
and its history is told.

Two pairs on one machine may have sites of one name.  Whose a device is says the configuration that
its holder was begun with (holders.py), as long as that file is there; else its name.

When the machine goes down every device of ours is to be unmounted.  So nothing that is wrong with a
configuration or a ledger, which a site that runs does not need, keeps anything mounted, nor a disk
that hangs with the ledger: where they do not say for certain what the site is called, all are meant
that are not known to be another's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mirror_core import config, holders, kernel, ledger, process
from mirror_core.config import SiteConfig
from mirror_core.errors import MirrorError
from mirror_core.platform import TOKEN

PREFIX = "flashmirror/"


def backend_of(site: str, volume: str, lineage: str) -> str:
    """By what the kernel knows a volume of a history."""
    return f"{PREFIX}{site}/{volume}/{lineage}"


@dataclass(frozen=True)
class Attached:
    """A device of ours."""

    index: int
    site: str
    volume: str
    lineage: str
    backend: str


def at(index: int) -> Attached:
    """The one of this number, be it nobody's or not ours, as its backend says."""
    return _named(index, kernel.backend_of(index) or "")


def _named(index: int, backend: str) -> Attached:
    site, volume, lineage = [*backend.removeprefix(PREFIX).split("/"), "", "", ""][:3]
    return Attached(index, site, volume, lineage, backend)


def _of(volume: str | None) -> list[Attached]:
    """All of ours that the kernel has, or those of the volumes of this name."""
    each = [_named(*one) for one in kernel.backends().items() if one[1].startswith(PREFIX)]
    return [one for one in each if volume in (None, one.volume)]


def of(site: SiteConfig, volume: str | None = None) -> list[Attached]:
    """Those of a site, or of one of its volumes, of whatever history."""
    today = lineage_of(site)
    return [
        one for one in _of(volume) if _is_named(one, site, today) or _is_begun_by(one, site.path)
    ]


def _is_named(one: Attached, site: SiteConfig, today: str | None) -> bool:
    if one.site != site.name:
        return False
    return one.lineage == today or not _is_of_another(one, site.path)


def _is_of_another(one: Attached, path: Path) -> bool:
    """Whether its holder was begun with another configuration than `path`, which is there."""
    begun = holders.configuration_of(one.backend)
    return begun is not None and os.path.exists(begun) and not _is_begun_by(one, path)


def _is_begun_by(one: Attached, path: Path) -> bool:
    begun = holders.configuration_of(one.backend)
    try:
        return begun is not None and os.path.samefile(begun, path)
    except OSError:
        return False


def lineage_of(site: SiteConfig) -> str | None:
    """What a site serves by its ledger; None: nothing, or that cannot be read, or its folder does
    not answer."""
    try:
        book = _book_of(site)
    except MirrorError:
        return None
    if book.name != site.name or book.role != "source" or book.lineage is None:
        return None
    return book.lineage.id if TOKEN.fullmatch(book.lineage.id) else None


def _book_of(site: SiteConfig) -> ledger.Ledger:
    """MirrorError."""
    process.refuse_hung(site)
    return ledger.load(site.state)


@dataclass(frozen=True)
class GoingDown:
    devices: list[Attached]
    lineage: str | None  # of today
    doubt: str = ""  # why these are all that may be


def going_down(site: str, volume: str | None = None) -> GoingDown:
    """Those of the site SITE when the machine goes down; it never fails."""
    devices = _of(volume)
    try:
        path = config.find(site)
        known = [one for one in devices if not _is_of_another(one, path)]
    except MirrorError as error:
        return GoingDown(devices, None, f"{error}")
    try:
        settings = config.load(site)
        named = _book_of(settings).name
        if named != settings.name:
            raise MirrorError(f"{settings.path}: 'name' is {settings.name}, its ledger's {named}")
    except Exception as error:  # whatever it is: afterwards it would be too late
        return GoingDown(known, None, f"{error}")
    mine = [one for one in devices if one.site == named or _is_begun_by(one, path)]
    return GoingDown(mine, lineage_of(settings))
