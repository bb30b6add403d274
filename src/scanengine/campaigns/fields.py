"""Reading one TOML table with all its faults, not only the first.

A reader takes values out by name. What is wrong becomes a line ``place: what is wrong`` in a list that all
readers of one file share, and the value becomes None (or empty), so that the caller can go on and find the
next fault. Whoever started the list must refuse the file if it is not empty. Nothing here knows what a
campaign is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from typing import Final

INT64_MAX: Final = (1 << 63) - 1
"""Largest integer that SQLite and MessagePack readers of any language hold."""
SHOWN_CHARS_MAX: Final = 60
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""A campaign "without end" would need its zone's clock changes forever; no code on a cap lasts that long."""


def hint(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` if one of the known words is close, else nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """Describe a TOML value for a message: in TOML's words, cut short, whatever its size."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits, which hexadecimal TOML can hold.
        return str(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "...")
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return str(value)


def milliseconds(moment: datetime) -> int:
    """Return milliseconds since 1970 UTC, rounded down; exact, without floats."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


class Fields:
    """One TOML table being read.

    Parameters
    ----------
    table : object
        What the file holds at this place; anything but a table is a fault and reads as an empty one.
    place : str
        Where in the file, such as ``rules[0].draw``; empty for the file itself.
    faults : list of str
        Shared by all readers of the file; appended to.
    known : sequence of str
        The keys this table may have. Others are faults at once.
    """

    def __init__(self, table: object, place: str, faults: list[str], known: Sequence[str]) -> None:
        self.place = place
        self.faults = faults
        self.values: dict[str, object] = {}
        self.is_table = isinstance(table, dict)
        if not isinstance(table, dict):
            faults.append(f"{place}: expected a table, found {shown(table)}")
            return
        self.values = table
        for key in table:
            if key not in known:
                self.fault(key, f"unknown key{hint(key, known)} (known: {', '.join(known)})")

    def at(self, key: str) -> str:
        """Return the place of a key."""
        return f"{self.place}.{key}" if self.place else key

    def fault(self, key: str, text: str) -> None:
        """Note a fault at a key."""
        self.faults.append(f"{self.at(key)}: {text}")

    def has(self, key: str) -> bool:
        """Tell whether the key is there, whatever its value."""
        return key in self.values

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Return a string, or None after a fault or if it is absent."""
        value = self.values.get(key)
        if isinstance(value, str):
            return value
        self._absent_or(key, value, required, "a string")
        return None

    def line(self, key: str, chars_max: int, *, required: bool = False) -> str | None:
        """Return a string of 1 to `chars_max` characters without line breaks and other control characters."""
        value = self.text(key, required=required)
        if value is not None and (
            not 1 <= len(value) <= chars_max or any(unicodedata.category(char) == "Cc" for char in value)
        ):
            self.fault(key, f"expected 1 to {chars_max} characters on one line, found {shown(value)}")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str | None:
        """Return a required string out of a fixed few."""
        value = self.text(key, required=True)
        if value is not None and value not in choices:
            self.fault(key, f"expected {' or '.join(choices)}, found {shown(value)}{hint(value, choices)}")
            return None
        return value

    def integer(self, key: str, low: int, high: int = INT64_MAX) -> int | None:
        """Return an integer of ``[low, high]``, or None after a fault or if it is absent."""
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            if low <= value <= high:
                return value
            limit = "2**63 - 1" if high == INT64_MAX else str(high)
            self.fault(key, f"expected an integer from {low} to {limit}, found {shown(value)}")
            return None
        self._absent_or(key, value, False, "an integer")
        return None

    def moment(self, key: str, *, required: bool = False) -> datetime | None:
        """Return a date and time with its offset, from 1970 until 2200."""
        value = self.values.get(key)
        if isinstance(value, date) and (not isinstance(value, datetime) or value.tzinfo is None):
            wanted = "write the date, the time and the UTC offset, as in 2026-03-01T00:00:00+08:00"
            self.fault(key, f"{wanted}, found {shown(value)}")
            return None
        if isinstance(value, datetime):
            if EPOCH <= value < MOMENT_LAST:
                return value
            self.fault(key, f"expected a time from 1970 until 2200, found {shown(value)}")
            return None
        self._absent_or(key, value, required, "a date and time with its UTC offset")
        return None

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings that is not empty, or None after a fault or if it is absent."""
        value = self.values.get(key)
        if not isinstance(value, list):
            self._absent_or(key, value, False, "a list of strings")
            return None
        if not value:
            self.fault(key, "an empty list would let nobody through: leave the key out, or name at least one")
        strings = tuple(entry for entry in value if isinstance(entry, str))
        for index, entry in enumerate(value):
            if not isinstance(entry, str):
                self.fault(f"{key}[{index}]", f"expected a string, found {shown(entry)}: write it in quotes")
        return strings if strings and len(strings) == len(value) else None

    def table(self, key: str, known: Sequence[str], *, required: bool = False) -> Fields | None:
        """Return a reader of a table inside this one, or None if it is absent or no table."""
        value = self.values.get(key)
        if value is None:
            self._absent_or(key, value, required, "a table")
            return None
        reader = Fields(value, self.at(key), self.faults, known)
        return reader if reader.is_table else None

    def tables(self, key: str, known: Sequence[str], count_max: int) -> list[Fields]:
        """Return a reader for each table of a required ``[[key]]`` list of 1 to `count_max`."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self.fault(key, f"expected tables headed [[{key}]], found {shown(value)}")
            return []
        if not value:
            self.fault(key, f"at least one [[{key}]] is needed")
        if len(value) > count_max:
            self.fault(key, f"at most {count_max} are possible, found {len(value)}")
        return [Fields(entry, f"{self.at(key)}[{index}]", self.faults, known) for index, entry in enumerate(value)]

    def _absent_or(self, key: str, value: object, required: bool, expected: str) -> None:
        if value is not None:
            self.fault(key, f"expected {expected}, found {shown(value)}")
        elif required and self.is_table:
            self.fault(key, f"missing, expected {expected}")
