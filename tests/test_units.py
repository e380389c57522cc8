"""Sizes and durations, as people write them."""

from __future__ import annotations

import contextlib
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_core import fields
from mirror_core.errors import ConfigError
from mirror_core.units import format_size, format_time, parse_duration, parse_size

LAST = fields._LAST_SECOND


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("4K", 4096),
        ("4k", 4096),
        ("4KiB", 4096),
        ("4kB", 4096),
        (" 20 MiB ", 20 << 20),
        ("10G", 10 << 30),
        ("64T", 1 << 46),
        ("2P", 1 << 51),
    ],
)
def test_a_size_is_a_number_with_a_power_of_1024(text: str, count: int) -> None:
    """4K, 4k, 4KiB and 4096 are the same size."""
    assert parse_size(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("0s", 0.0), ("2.5s", 2.5), ("2m", 120.0), (" 1h ", 3600)]
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    """500ms, 2.5s, 2m and 1h are durations."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5G", "4X", "1e3", "0x10", "4 K K", "9" * 9999])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    """A size that cannot be meant is refused, and the line shows how to write one."""
    with pytest.raises(ConfigError, match="write it like 4096, 4K or 10G"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "5", "-1s", "1d", "s", "1 s s", "1e3s", "nan s", "9" * 9999])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    """A duration without a unit, or below zero, is refused; the line shows how to write one."""
    with pytest.raises(ConfigError, match="write it like 500ms, 5s or 2m"):
        parse_duration(text)


def test_a_duration_beyond_all_clocks_is_refused() -> None:
    """A number of hours too large for a clock is refused, not infinite."""
    with pytest.raises(ConfigError):
        parse_duration("9" * 400 + "h")


@given(st.text())
def test_no_text_makes_the_parsers_fail_otherwise(text: str) -> None:
    """Whatever is written, the answer is a number or a ConfigError."""
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ConfigError):
            assert math.isfinite(parse(text))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 << 40, "64 TiB"),
        (1 << 62, "4 EiB"),
    ],
)
def test_sizes_are_shown_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    """1536 bytes are shown as 1.5 KiB."""
    assert format_size(count) == text


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_last_moment_that_a_record_may_hold_has_a_name(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """In each time zone, or a command would fail after it has done what it was asked for."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert format_time(fields.take({"point": LAST}, "point", fields.SECONDS))[:4] == "9999"
        with pytest.raises(fields.Unfit):
            fields.take({"point": LAST + 1}, "point", fields.SECONDS)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_time_beyond_the_calendar_is_shown_all_the_same() -> None:
    """As the estimated end of a copy that hardly moves."""
    for moment in (1e12, 1e300, math.inf, math.nan, -1e300):
        assert format_time(moment) == "a time beyond the calendar"
