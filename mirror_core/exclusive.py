"""A block device, opened as its exclusive user: whoever has mounted it, or made another device of
it, is one, too."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from mirror_core import apart

_OPENER = str(Path(__file__).with_name("opener.py"))


def open_alone(path: str) -> int:
    """OSError: EBUSY, it has another one; ETIMEDOUT, it does not answer.  Who opens a device may
    have its partitions looked for, for as long as its site is away."""
    answer = apart.ask(sys.executable, "-I", "-S", _OPENER, path)  # without modules of others
    if not answer.fds:
        number = int(answer.said or errno.EIO)
        raise OSError(number, os.strerror(number))
    return answer.fds[0]
