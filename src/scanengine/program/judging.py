"""The rules of one prize table taken apart: what each asks of a scan, and what it draws.

The core finds the rule that draws and says no more. Whoever explains or audits a decision needs each predicate by
itself, and must do with less than all that was known at the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scanengine._core import (
    FIELD_ITEM,
    FIELD_MINUTE,
    FIELD_PRODUCT,
    FIELD_REGION,
    FIELD_ROLE,
    FIELD_TIME,
    alias_draw,
    draw_words,
)
from scanengine.keys import Keyring
from scanengine.model import NO_PRIZE
from scanengine.tables.prize_metadata import RuleEntry
from scanengine.tables.prizes import PrizeTable


class Facts(NamedTuple):
    """What rules may ask of one scan; None is not known.

    Parameters
    ----------
    roles : frozenset of int
        Every role that it may have been.
    region : int or None
        Six-digit adcode, 0 if the scan did not say.
    """

    item: int
    gtin: int
    now_ms: int
    roles: frozenset[int]
    region: int | None


@dataclass(frozen=True)
class Predicate:
    """One condition: the field of the core, and the half-open ranges of which one must hold its value."""

    field: int
    ranges: tuple[tuple[int, int], ...]

    def holds(self, value: int) -> bool:
        """Whether a value is in one of the ranges."""
        return any(low <= value < high for low, high in self.ranges)


@dataclass(frozen=True)
class JudgedRule:
    """One rule: its entry in the metadata, its predicates in the order in which the core asks them, its alias table."""

    entry: RuleEntry
    predicates: tuple[Predicate, ...]
    thresholds: NDArray[np.uint64]
    aliases: NDArray[np.uint32]
    outcomes: list[int]


class RuleBook:
    """The rules of one prize table, ready to be asked one by one.

    Parameters
    ----------
    keyring : Keyring
        Must hold the draw secret that the table was published for.
    """

    def __init__(self, table: PrizeTable, keyring: Keyring) -> None:
        self.table = table
        self._draw_key = keyring.draw_key(table.id)
        self._rule_set = table.rule_set(self._draw_key)
        self.rules = tuple(_judged(table, index, entry) for index, entry in enumerate(table.metadata.rules))
        self._by_number = {rule.entry.number: rule for rule in self.rules}

    def rule(self, number: int) -> JudgedRule | None:
        """Return a rule by its number, None if this generation has none."""
        return self._by_number.get(number)

    def values(self, predicate: Predicate, facts: Facts) -> list[int]:
        """Return every value that the field of a predicate may have had; empty if nothing is known of it."""
        if predicate.field == FIELD_ROLE:
            return sorted(facts.roles)
        if predicate.field == FIELD_REGION:
            return [] if facts.region is None else [facts.region]
        if predicate.field == FIELD_MINUTE:
            return [self._rule_set.local_minute(facts.now_ms)]
        known = {FIELD_TIME: facts.now_ms, FIELD_PRODUCT: facts.gtin, FIELD_ITEM: facts.item}
        return [known[predicate.field]]

    def holds(self, rule: JudgedRule, facts: Facts) -> bool | None:
        """Whether a rule's predicates all hold; None if that depends on what is not known."""
        is_sure = True
        for predicate in rule.predicates:
            found = {predicate.holds(value) for value in self.values(predicate, facts)}
            if found == {False}:
                return False
            is_sure &= found == {True}
        return True if is_sure else None

    def candidates(self, facts: Facts) -> Iterator[int]:
        """Yield the numbers of the rules that may have drawn, in order: one or none if everything is known."""
        for rule in self.rules:
            holds = self.holds(rule, facts)
            if holds is not False:
                yield rule.entry.number
            if holds:
                return

    def draw(self, rule: JudgedRule, item: int) -> int:
        """Return the number of the prize that a rule draws for an item, ``NO_PRIZE`` for none."""
        words = draw_words(self._draw_key, item, rule.entry.number)
        return rule.outcomes[alias_draw(rule.thresholds, rule.aliases, *words)]

    def decide(self, facts: Facts) -> tuple[int, int]:
        """Return rule and prize as the core decides, for the first of the roles, and for no region if none is known."""
        return self._rule_set.decide(facts.item, facts.now_ms, min(facts.roles), facts.region or 0, facts.gtin)

    def chain(self, drawn: int) -> list[int]:
        """Return the numbers of a drawn prize and of those that follow when it cannot be given."""
        chain: list[int] = []
        prizes = self.table.terms.prizes
        number = drawn
        while number != NO_PRIZE and number not in chain and number < len(prizes):
            prize = prizes[number]
            if prize is None:
                break
            chain.append(number)
            number = prize.fallback
        return chain


def _judged(table: PrizeTable, index: int, entry: RuleEntry) -> JudgedRule:
    predicates = tuple(Predicate(field, tuple(ranges)) for field, ranges in table.predicates(index))
    thresholds, aliases, outcomes = table.columns(index)
    return JudgedRule(entry, predicates, np.array(thresholds, np.uint64), np.array(aliases, np.uint32), outcomes)
