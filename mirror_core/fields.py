"""Explicit tables of the fields of a record, for files and for the wire.

A table says for each field its key in the record, the attribute that holds it here, its kind, and
the version of the format that it came with.  So an attribute can be renamed without a change of
the format, and an older version is read and written by the same table: what it does not have is
the field's default, which says "unknown".

Invariant: a key, once in a version, keeps its name and its meaning for good.
Left out: where a record stands, its checksum and its version (ledger.py, protocol.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mirror_core.errors import short

T = TypeVar("T")
Record = dict[str, Any]
NUMBERS = 1 << 63  # a number is below
_LAST_SECOND = 253402128000  # 9999-12-30, Unix: in no time zone has it a name that a date cannot


class Unfit(ValueError):
    """A field is not there, or cannot be meant; the text says which, and what stands there."""


@dataclass(frozen=True)
class Kind:
    """How a value is read from a record (Unfit, ValueError), and written into one."""

    read: Callable[[Any], Any]
    write: Callable[[Any, int], Any] = lambda value, version: value


@dataclass(frozen=True)
class Field:
    key: str
    attribute: str
    kind: Kind
    since: int = 0
    default: Any = None  # of a record that is older


class Table(Generic[T]):
    def __init__(self, make: Callable[..., T], *fields: Field) -> None:
        self._make, self._fields = make, fields

    def write(self, value: T, version: int) -> Record:
        return {
            field.key: field.kind.write(getattr(value, field.attribute), version)
            for field in self._fields
            if field.since <= version
        }

    def read(self, record: Any, version: int, **more: Any) -> T:
        """`more`: attributes that do not stand in the record.  Unfit."""
        if not isinstance(record, dict):
            raise Unfit(f"not a record: {short(record)}")
        values = dict(more)
        for field in self._fields:
            if field.since > version:
                values[field.attribute] = field.default
            else:
                values[field.attribute] = take(record, field.key, field.kind)
        return self._make(**values)

    def keys(self, version: int) -> set[str]:
        return {field.key for field in self._fields if field.since <= version}

    def kind(self) -> Kind:
        """Of a field that holds such a record."""
        return Kind(lambda value: self.read(value, _NEWEST), self.write)


_NEWEST = 1 << 30  # records within records have no version of their own


def take(record: Record, key: str, kind: Kind) -> Any:
    """Unfit."""
    try:
        return kind.read(record.get(key))
    except ValueError as error:
        raise Unfit(f"{key}: {error}") from error


def _of_type(*types: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in types:
            raise Unfit(short(value))
        if type(value) in (int, float) and not 0 <= value < NUMBERS:
            raise Unfit(short(value))
        return value

    return read


TEXT = Kind(_of_type(str))
FLAG = Kind(_of_type(bool))
NUMBER = Kind(_of_type(int))  # from 0 to 2**63 - 1
LIST = Kind(_of_type(list))
RECORD = Kind(_of_type(dict))


def _read_seconds(value: Any) -> float:
    seconds = float(_of_type(int, float)(value))
    if seconds > _LAST_SECOND:
        raise Unfit(short(value))
    return seconds


SECONDS = Kind(_read_seconds)


def matching(pattern: str) -> Kind:
    """A text of which all matches."""

    def read(value: Any) -> str:
        if type(value) is not str or not re.fullmatch(pattern, value):
            raise Unfit(short(value))
        return value

    return Kind(read)


def one_of(*words: str) -> Kind:
    return matching("|".join(map(re.escape, words)))


def optional(kind: Kind) -> Kind:
    """The same, or null."""
    return Kind(
        lambda value: None if value is None else kind.read(value),
        lambda value, version: None if value is None else kind.write(value, version),
    )


def meaning(default: Any, kind: Kind) -> Kind:
    """The same; a record without it means this one."""
    return Kind(lambda value: default if value is None else kind.read(value), kind.write)


def several(kind: Kind, most: int) -> Kind:
    """A tuple of up to so many."""

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise Unfit(short(value))
        if len(value) > most:
            raise Unfit(f"{len(value)} of them")
        return tuple(map(kind.read, value))

    def write(values: Sequence[Any], version: int) -> list[Any]:
        return [kind.write(value, version) for value in values]

    return Kind(read, write)
