"""The prize table: what a published campaign draws and gives, as one immutable file.

    section  rows
          1  metadata (MessagePack): :class:`PrizeTableMetadata`
          2  rules        24 bytes   predicate and column ranges, number, mode
          3  predicates   16 bytes   field and range of ranges
          4  ranges       16 bytes   lo u8, hi u8: half open
          5  thresholds    8 bytes   u8, one a column
          6  aliases       4 bytes   u4, one a column, relative to the rule's first
          7  outcomes      2 bytes   i2, one a column: prize number or -1
          8  transitions  16 bytes   UTC offset of the campaign's zone from an instant on

The record layouts are those of ``scanengine._core``, which reads the sections as they are. Its checks of
every bound and index run once, at open; the checks of what the metadata means, and that both agree, live
here. A campaign file is not read here: whoever has compiled one hands over metadata and arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import DTypeLike, NDArray

from scanengine._core import PREDICATE_DTYPE, RULE_DTYPE, TRANSITION_DTYPE, RuleSet
from scanengine.errors import TableClosedError, TableFormatError
from scanengine.model import NO_PRIZE, CampaignTerms, PrizeTerms
from scanengine.tables.container import KIND_PRIZE, Container, open_container, write_container
from scanengine.tables.prize_metadata import (
    PrizeEntry,
    PrizeTableMetadata,
    RuleEntry,
)

RULES: Final = 2
PREDICATES: Final = 3
RANGES: Final = 4
THRESHOLDS: Final = 5
ALIASES: Final = 6
OUTCOMES: Final = 7
TRANSITIONS: Final = 8
LAYOUT: Final[Mapping[int, tuple[DTypeLike, int]]] = {
    RULES: (RULE_DTYPE, 1),
    PREDICATES: (PREDICATE_DTYPE, 1),
    RANGES: ("<u8", 2),
    THRESHOLDS: ("<u8", 1),
    ALIASES: ("<u4", 1),
    OUTCOMES: ("<i2", 1),
    TRANSITIONS: (TRANSITION_DTYPE, 1),
}
"""Section id -> record type and columns, in the order of the file."""
DRAW_VERSION: Final = 1
MODES: Final = ("weighted", "certain")
"""Name of a rule's mode, by its number in the core."""


class PrizeInfo(Struct, frozen=True):
    """What to tell of a prize; `amount` is in minor units of `currency` for cash."""

    number: int
    id: str
    kind: str
    amount: int | None
    currency: str | None
    title: str


def build_prize_table(path: Path, metadata: PrizeTableMetadata, sections: Mapping[int, NDArray[Any]]) -> None:
    """Write a prize table durably; nothing is written unless it would open again.

    Parameters
    ----------
    path : Path
        Must not exist.
    metadata : PrizeTableMetadata
        Checked as at open.
    sections : mapping of section id to array
        One array for each entry of ``LAYOUT``.

    Raises
    ------
    TableFormatError
        If metadata and arrays are not a table.
    FileExistsError
        If `path` exists.
    """
    typed = {number: np.ascontiguousarray(sections[number], dtype) for number, (dtype, _) in LAYOUT.items()}
    builtin = msgspec.to_builtins(metadata)
    _check(path, _checked_metadata(path, builtin), typed)
    write_container(path, KIND_PRIZE, builtin, typed)


class PrizeTable:
    """One generation of one campaign, mapped read-only. Immutable, so any number of threads may read it.

    Parameters
    ----------
    path : Path
        A file written by :func:`build_prize_table`.

    Raises
    ------
    TableFormatError
        If the file is not a prize table, or anything in it is out of bounds or contradicts the rest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Container | None = open_container(path, KIND_PRIZE, frozenset(LAYOUT))
        try:
            self.metadata: Final = _checked_metadata(path, self._container.metadata)
            _check(path, self.metadata, self._sections())
        except BaseException:
            self.close()
            raise
        self.terms: Final = _terms(self.metadata)
        self._prizes = {
            entry.number: PrizeInfo(entry.number, entry.id, entry.kind, entry.amount, entry.currency, entry.title)
            for entry in self.metadata.prizes
        }

    @property
    def id(self) -> str:
        """Id of the campaign."""
        return self.metadata.id

    @property
    def generation(self) -> int:
        """Generation of the publication, from 1."""
        return self.metadata.generation

    @property
    def title(self) -> str:
        """Title of the campaign."""
        return self.metadata.title

    def prize(self, number: int) -> PrizeInfo | None:
        """Return what to tell of a prize, or None if this generation has no prize of that number."""
        return self._prizes.get(number)

    def rule_set(self, draw_key: bytes) -> RuleSet:
        """Return the rules as the core evaluates them.

        Parameters
        ----------
        draw_key : bytes, length 16
            The campaign's draw key.

        Raises
        ------
        TableFormatError
            If the key or a section cannot be used.
        TableClosedError
            If the table is closed.
        """
        return _rule_set(self.path, draw_key, self._sections())

    def columns(self, rule_index: int) -> tuple[list[int], list[int], list[int]]:
        """Return thresholds, aliases and outcomes of a rule: the odds as they are drawn.

        Parameters
        ----------
        rule_index : int
            Place of the rule in the file, from 0.

        Raises
        ------
        IndexError
            If there is no such rule.
        TableClosedError
            If the table is closed.
        """
        sections = self._sections()
        rule = sections[RULES][rule_index]
        part = slice(int(rule["column_start"]), int(rule["column_start"]) + int(rule["column_count"]))
        return (
            sections[THRESHOLDS][part].tolist(),
            sections[ALIASES][part].tolist(),
            sections[OUTCOMES][part].tolist(),
        )

    def predicates(self, rule_index: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """Return what must all hold for a rule to draw: field of the core, and half-open ranges one of which holds it.

        Raises
        ------
        IndexError
            If there is no such rule.
        TableClosedError
            If the table is closed.
        """
        sections = self._sections()
        rule = sections[RULES][rule_index]
        first, count = int(rule["predicate_start"]), int(rule["predicate_count"])
        ranges = sections[RANGES]
        return [
            (field, [(low, high) for low, high in ranges[start : start + length].tolist()])
            for field, start, length, _ in sections[PREDICATES][first : first + count].tolist()
        ]

    def verify(self) -> int:
        """Check the digest of every section; return the number of bytes read.

        Raises
        ------
        TableFormatError
            If the file is damaged.
        TableClosedError
            If the table is closed.
        """
        return self._opened().verify()

    def close(self) -> None:
        """Let go of the file. May be called twice; terms and prizes stay readable."""
        if self._container is not None:
            self._container.close()
        self._container = None

    def __enter__(self) -> PrizeTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Container:
        if self._container is None:
            raise TableClosedError(f"{self.path}: the table is closed")
        return self._container

    def _sections(self) -> dict[int, NDArray[Any]]:
        container = self._opened()
        return {
            number: container.section(number, dtype, columns=columns) for number, (dtype, columns) in LAYOUT.items()
        }


def _checked_metadata(path: Path, found: object) -> PrizeTableMetadata:
    try:
        return msgspec.convert(found, PrizeTableMetadata)
    except (msgspec.ValidationError, OverflowError) as error:
        raise TableFormatError(f"{path}: the metadata is not that of a prize table: {error}") from error


def _rule_set(path: Path, draw_key: bytes, sections: Mapping[int, NDArray[Any]]) -> RuleSet:
    try:
        return RuleSet(draw_key, *(sections[number] for number in LAYOUT))
    except ValueError as error:
        raise TableFormatError(f"{path}: {error}") from error


def _check(path: Path, metadata: PrizeTableMetadata, sections: Mapping[int, NDArray[Any]]) -> None:
    """Check everything that the hot path and the ledger trust."""
    _rule_set(path, bytes(16), sections)  # The key changes no bound, so any will do.
    for fault in _faults(metadata, sections):
        raise TableFormatError(f"{path}: {fault}")


def _faults(metadata: PrizeTableMetadata, sections: Mapping[int, NDArray[Any]]) -> list[str]:
    """Return where metadata and arrays are not one campaign, in a fixed order."""
    faults = []
    if metadata.closes_ms <= metadata.opens_ms:
        faults.append(f"closes at {metadata.closes_ms}, expected after {metadata.opens_ms}")
    faults += _number_faults("prize", metadata.prizes, metadata.prize_numbers)
    faults += _number_faults("rule", metadata.rules, metadata.rule_numbers)
    prizes = {entry.number: entry for entry in metadata.prizes}
    for entry in metadata.prizes:
        seen = {entry.number}
        follower = entry.fallback
        while follower != NO_PRIZE and follower in prizes and follower not in seen:
            seen.add(follower)
            follower = prizes[follower].fallback
        if follower != NO_PRIZE:
            faults.append(f"prize {entry.number} falls back on {follower}, which is missing or in a circle")
        if entry.kind == "cash" and (not entry.money or not entry.currency or entry.currency != metadata.currency):
            faults.append(f"prize {entry.number} is cash without an amount in the campaign's currency")
    rules = sections[RULES]
    if len(rules) != len(metadata.rules):
        return [*faults, f"{len(rules)} rules in the section, {len(metadata.rules)} in the metadata"]
    for index, (rule, drawn) in enumerate(zip(rules, metadata.rules, strict=True)):
        found = (int(rule["number"]), MODES[int(rule["mode"])], int(rule["column_count"]))
        expected = (drawn.number, drawn.mode, len(drawn.weights))
        if found != expected:
            faults.append(f"rule {index} has number, mode and columns {found}, expected {expected}")
        elif drawn.mode == "certain" and len(drawn.weights) != 1:
            faults.append(f"rule {index} is certain but has {len(drawn.weights)} columns")
    for outcome in np.unique(sections[OUTCOMES]).tolist():
        if outcome != NO_PRIZE and outcome not in prizes:
            faults.append(f"a rule draws prize {outcome}, which the metadata does not have")
    return faults


def _number_faults(what: str, entries: Sequence[PrizeEntry | RuleEntry], numbers: Mapping[str, int]) -> list[str]:
    faults = []
    if len(set(numbers.values())) != len(numbers):
        faults.append(f"two {what}s of the history have one number")
    if len({entry.id for entry in entries}) != len(entries):
        faults.append(f"two {what}s have one id")
    for entry in entries:
        past = numbers.get(entry.id)
        if past != entry.number:
            faults.append(f"{what} {entry.id!r} has number {entry.number}, its history says {past}")
    return faults


def _terms(metadata: PrizeTableMetadata) -> CampaignTerms:
    by_number = {
        entry.number: PrizeTerms(
            entry.number,
            entry.money,
            entry.stock,
            entry.stock_per_day,
            entry.fallback,
            points=0 if entry.money else entry.amount or 0,
        )
        for entry in metadata.prizes
    }
    return CampaignTerms(
        id=metadata.id,
        opens_ms=metadata.opens_ms,
        closes_ms=metadata.closes_ms,
        prizes=tuple(by_number.get(number) for number in range(max(by_number, default=-1) + 1)),
        per_user=metadata.limits.per_user,
        per_user_per_day=metadata.limits.per_user_per_day,
        budget_total=metadata.budget.total,
        budget_per_day=metadata.budget.per_day,
    )
