"""The page's words: one file for each language, read once, filled with values that are never read as patterns."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Final, Literal

Language = Literal["zh", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("zh", "en")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BEIJING_S: Final = 8 * 3600
_MINOR_DIGITS: Final = {
    "JPY": 0,
    "KRW": 0,
    "VND": 0,
    "CLP": 0,
    "ISK": 0,
    "KWD": 3,
    "BHD": 3,
    "OMR": 3,
    "JOD": 3,
    "TND": 3,
}
"""Digits after the point of currencies that have not two (ISO 4217)."""


class Words:
    """Everything the page says in one language.

    Parameters
    ----------
    entries : dict of key to text
        Keys such as ``status.inactive.title``; ``{count}`` and the like are filled in.
    """

    def __init__(self, language: Language, entries: Mapping[str, str]) -> None:
        self.language = language
        self.entries = entries

    def __call__(self, key: str, **values: object) -> str:
        """Return a text; KeyError if there is none of this key."""
        text = self.entries[key]
        return text.format_map(values) if values else text

    def first(self, *keys: str) -> str:
        """Return the first of these keys that has a title."""
        return next(key for key in keys if f"{key}.title" in self.entries)

    def time(self, text: str) -> str:
        """Return an ISO 8601 time for people: to the minute, with the offset where it is not a matter of course."""
        moment = datetime.fromisoformat(text)
        offset = moment.utcoffset()
        offset_s = 0 if offset is None else int(offset.total_seconds())
        sign, minutes = "-" if offset_s < 0 else "+", abs(offset_s) // 60
        zone = f"UTC{sign}{minutes // 60}" + (f":{minutes % 60:02}" if minutes % 60 else "")
        if self.language == "zh":
            shown = f"{moment.year}年{moment.month}月{moment.day}日 {moment:%H:%M}"
            return shown if offset_s == _BEIJING_S else f"{shown}（{zone}）"
        return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}, {moment:%H:%M} ({zone})"

    def money(self, amount: int, currency: str) -> tuple[str, str]:
        """Return (figure, unit) of minor units: ``88`` and ``元``, ``0.30`` and ``元``."""
        digits = _MINOR_DIGITS.get(currency, 2)
        whole, rest = divmod(amount, 10**digits)
        figure = f"{whole:,}" + (f".{rest:0{digits}}" if rest else "")
        return figure, self.entries.get(f"currency.{currency}", currency)


def _flat(table: Mapping[str, object], above: str = "") -> dict[str, str]:
    entries: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            entries |= _flat(value, f"{above}{key}.")
        else:
            entries[above + key] = str(value)
    return entries


def _load(language: Language) -> Words:
    text = files("scanengine.server.pages").joinpath(f"{language}.toml").read_text("utf-8")
    return Words(language, _flat(tomllib.loads(text)))


WORDS: Final[dict[Language, Words]] = {language: _load(language) for language in LANGUAGES}
