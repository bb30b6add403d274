"""Builders for the native core and its twin: one description in plain Python, built for either implementation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from scanengine import _core, _reference

IMPLEMENTATIONS: dict[str, ModuleType] = {"core": _core, "reference": _reference}
both = pytest.mark.parametrize("impl", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())
"""Runs a test with the native core and again with the plain Python twin."""

DATA = Path(__file__).parent / "data"
CODE_VECTORS: dict[str, Any] = json.loads((DATA / "code-v1.json").read_text("utf-8"))
DRAW_VECTORS: dict[str, Any] = json.loads((DATA / "draw-v1.json").read_text("utf-8"))

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
DRAW_KEY = bytes(range(100, 116))
BEGINNING_OF_TIME = -(2**63)
NOW_MS = 1_780_000_000_000  # a moment in May 2026
HOUR_MS = 3_600_000
SERIAL_END = 2**40


def sub_key(secret: bytes, person: bytes, data: bytes = b"") -> bytes:
    """Derive a 16-byte key as the format says, without any code of ours."""
    return blake2b(data, digest_size=16, key=secret, person=person).digest()


def vector_slots() -> list[tuple[int, bytes, bytes]]:
    """Slots, tag keys and mask keys of the golden vectors."""
    secrets = {int(slot): bytes.fromhex(text) for slot, text in CODE_VECTORS["secrets_hex"].items()}
    return [(slot, sub_key(secret, b"scan-tag"), sub_key(secret, b"scan-mask")) for slot, secret in secrets.items()]


def records(dtype: np.dtype[Any], rows: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
    """Make a structured array; the reserved bytes at the end of each record stay zero."""
    result = np.zeros(len(rows), dtype)
    for column, name in enumerate(dtype.names or ()):
        if name != "reserved":
            result[name] = [row[column] for row in rows]
    return result


@dataclass
class RuleSpec:
    """A rule set in plain lists, in the order of the columns of the table."""

    rules: list[list[int]] = field(default_factory=list)  # predicates from, count; columns from, count; number, mode
    predicates: list[list[int]] = field(default_factory=list)  # field; ranges from, count
    ranges: list[list[int]] = field(default_factory=list)  # low, high
    thresholds: list[int] = field(default_factory=list)
    aliases: list[int] = field(default_factory=list)
    outcomes: list[int] = field(default_factory=list)
    transitions: list[list[int]] = field(default_factory=lambda: [[BEGINNING_OF_TIME, 8 * 3_600]])
    draw_key: bytes = DRAW_KEY

    def add_rule(
        self,
        number: int,
        table: tuple[list[int], list[int]],
        outcomes: list[int],
        predicates: Sequence[tuple[int, list[list[int]]]] = (),
        mode: int = 0,
    ) -> RuleSpec:
        """Append a rule with its own predicates (field, ranges) and columns."""
        self.rules.append([len(self.predicates), len(predicates), len(self.thresholds), len(outcomes), number, mode])
        for what, ranges in predicates:
            self.predicates.append([what, len(self.ranges), len(ranges)])
            self.ranges += ranges
        self.thresholds += table[0]
        self.aliases += table[1]
        self.outcomes += outcomes
        return self

    def build(self, impl: ModuleType) -> Any:
        return impl.RuleSet(
            self.draw_key,
            records(impl.RULE_DTYPE, self.rules),
            records(impl.PREDICATE_DTYPE, self.predicates),
            np.array(self.ranges, np.uint64).reshape(-1, 2),
            np.array(self.thresholds, np.uint64),
            np.array(self.aliases, np.uint32),
            np.array(self.outcomes, np.int16),
            records(impl.TRANSITION_DTYPE, self.transitions),
        )


@dataclass
class BatchSpec:
    """A batch: its place among the items, its segments, and where its profiles begin."""

    start: int
    count: int
    segment_starts: list[int] = field(default_factory=lambda: [0])
    segment_profiles: list[int] = field(default_factory=lambda: [0])
    profile_count: int = 1
    base: int = 0
    map_count: int | None = None
    """What the segment map says of the count, if it is not the same."""

    def build_map(self, impl: ModuleType) -> Any:
        starts, profiles = np.array(self.segment_starts, np.uint64), np.array(self.segment_profiles, np.uint32)
        return impl.SegmentMap(starts, profiles, self.map_count or self.count, self.profile_count)


@dataclass
class ResolverSpec:
    """Everything a resolver is made of."""

    batches: list[BatchSpec] = field(default_factory=list)
    profiles: list[list[int]] = field(default_factory=list)  # active from, until; gtin; rule set; state; scenes
    rule_sets: list[RuleSpec] = field(default_factory=list)
    slots: list[tuple[int, bytes, bytes]] = field(default_factory=vector_slots)

    def build(self, impl: ModuleType) -> Any:
        batches = [(batch.start, batch.count, batch.build_map(impl), batch.base) for batch in self.batches]
        profiles = records(impl.PROFILE_DTYPE, self.profiles)
        return impl.Resolver(
            impl.CodeKeys(self.slots), batches, profiles, [rules.build(impl) for rules in self.rule_sets]
        )


def active_profile(gtin: int = 0, rule_set: int = -1, state: int = 0, scenes: int = 3) -> list[int]:
    """Make a profile whose window holds at NOW_MS."""
    return [NOW_MS - HOUR_MS, NOW_MS + HOUR_MS, gtin, rule_set, state, scenes]


def letters(text: str) -> list[int]:
    """Return the symbol values of a code in its bare spelling."""
    return [ALPHABET.index(letter) for letter in text]


def rows_of(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return texts of 20 Latin-1 characters as rows of bytes."""
    return np.frombuffer("".join(texts).encode("latin-1"), np.uint8).reshape(len(texts), 20)


def plain(value: object) -> object:
    """Turn arrays into their type, shape and values, so that answers compare as data."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tolist()
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    return value


def observe(function: Callable[..., object], *arguments: object) -> tuple[object, ...]:
    """Turn a call into data, so that errors are compared as strictly as values.

    Of a TypeError only the kind counts: the interpreter words many of them itself.
    """
    try:
        return "value", plain(function(*arguments))
    except TypeError:
        return "error", "TypeError"
    except Exception as error:  # noqa: BLE001 (whatever goes wrong is the observation)
        return "error", type(error).__name__, str(error)
