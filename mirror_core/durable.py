"""Replaces a file of the state folder whole and durably, or not at all.

    a new file beside it is written and flushed, renamed over it, and the folder flushed (rename(2))

Invariants.  A reader finds the old bytes or the new ones, never a part.  When `replace` returns
the new ones are durable.  When it raises OSError the old ones are, and stand.  There is no way
back after the rename, so what fails then is done again from the beginning, some times, with
pauses, for it may be only what others have lost on this disk; if that fails too nobody knows
which of the two a power loss would leave, and Doubt is raised: whoever has acted on the old bytes,
or would act on the new ones, must not go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mirror_core.platform import HERE, Platform

FRESH = ".new"  # what the name of a file that is being written ends with
_PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.3)  # before each try after the rename


class Doubt(Exception):
    """The old file or the new one may be what a power loss leaves."""


def replace(path: Path, data: bytes, platform: Platform = HERE) -> None:
    """OSError: the old file stands.  Doubt."""
    known = platform.losses()
    _put(path, data, platform)
    try:
        sync_folder(path.parent, known, platform)
    except Exception as error:
        _put_again(path, data, platform, error)


def _put_again(path: Path, data: bytes, platform: Platform, error: Exception) -> None:
    """Until it is durable: a flush is not to be believed after one that failed, but another rename
    is another change.  Doubt."""
    for pause_s in _PAUSES_S:
        platform.sleep(pause_s)
        try:
            known = platform.losses()
            _put(path, data, platform)
            sync_folder(path.parent, known, platform)
            return
        except Exception as worse:
            error = worse
    raise Doubt(f"{path}: {error}") from error


def _put(path: Path, data: bytes, platform: Platform) -> None:
    """The new file takes the place of the old one.  OSError: it does not."""
    known = platform.losses()
    fresh = path.with_name(path.name + FRESH)
    fd = platform.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        try:
            write(fd, data, 0, platform)
            platform.fsync(fd, known)
        finally:
            platform.close(fd)
        _rename(fresh, path, platform)
    except Exception:
        remove(fresh, platform)
        raise


def _rename(fresh: Path, path: Path, platform: Platform) -> None:
    """OSError: it was not done.  A server may have done it and have lost its answer."""
    try:
        platform.rename(fresh, path)
    except Exception as error:
        try:
            undone = platform.exists(fresh)
        except Exception as unknown:
            raise Doubt(f"{path}: {error}") from unknown
        if undone:
            raise


def make_folder(folder: Path, platform: Platform) -> Callable[[], None]:
    """It stands; and what makes its name durable, as those above it that were missing.  OSError:
    of each."""
    known = platform.losses()
    missing = [one for one in folder.parents if not platform.exists(one)]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def flush_names() -> None:
        for one in (folder, *missing):
            sync_folder(one.parent, known, platform)

    return flush_names


def write(fd: int, data: bytes, offset: int, platform: Platform) -> None:
    """All of it.  OSError: perhaps a part."""
    while data:
        done = platform.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def remove(path: Path, platform: Platform) -> None:
    """If it can be: a file that is left behind means nothing."""
    try:
        platform.unlink(path)
    except Exception:
        return


def sync_folder(folder: Path, known: int, platform: Platform) -> None:
    """The names in it are durable that came or went since `platform.losses()` was `known`.
    OSError: some may not be."""
    fd = platform.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        platform.fsync(fd, known)
    finally:
        platform.close(fd)
