"""Sizes (`4K`, `10G`), durations (`500ms`, `5s`) and times as people write and read them."""

from __future__ import annotations

import re
from datetime import datetime

from mirror_core import limits
from mirror_core.errors import ConfigError

_SIZE = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_TIME = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str) -> int:
    """Bytes of `512`, `4K`, `20MiB`, `1T`: powers of 1024.  ConfigError if it is none."""
    match = re.fullmatch(r"(\d{1,20})\s*([KMGTP]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ConfigError(f"{text[:40]!r} is not a size: write it like 4096, 4K or 10G")
    return int(match[1]) * _SIZE[match[2].upper()]


def parse_rate(text: str) -> int:
    """Bytes a second of `20MiB/s`, `500K/s`; `0` is 0: no limit.  ConfigError if it is none."""
    match = re.fullmatch(r"(.+)/s", text.strip())
    if text.strip() == "0":
        return 0
    try:
        rate = parse_size(match[1]) if match else 0
    except ConfigError:
        rate = 0
    if not limits.RATE_MIN <= rate <= limits.RATE_MAX:
        raise ConfigError(
            f"{text[:40]!r} is not a bandwidth: write it like 20MiB/s, from 4KiB/s, or 0 for "
            "no limit"
        )
    return rate


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `5s`, `2m`, `1h`.  ConfigError if it is none."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h)", text.strip())
    if not match:
        raise ConfigError(f"{text[:40]!r} is not a duration: write it like 500ms, 5s or 2m")
    seconds = float(match[1]) * _TIME[match[2]]
    if seconds > limits.DURATION_MAX_S:
        raise ConfigError(f"{text!r} is longer than a year: write it like 500ms, 5s or 2m")
    return seconds


def format_time(moment: float | None) -> str:
    """Unix seconds -> '2026-11-26 21:46:44+00:00', in the zone of who reads it."""
    if moment is None:
        return "of an unknown time"
    try:
        return datetime.fromtimestamp(moment).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # the estimated end of a copy that hardly moves
        return "a time beyond the calendar"


def format_size(count: int) -> str:
    """1536 -> '1.5 KiB', for people."""
    value, unit = float(count), "B"
    for step in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, step
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
