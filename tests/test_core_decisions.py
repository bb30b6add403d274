"""Rules and resolutions by hand: what a scan of a given code, at a given moment, is answered, and what is refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from helpers_core import (
    BEGINNING_OF_TIME,
    DRAW_KEY,
    HOUR_MS,
    NOW_MS,
    SERIAL_END,
    BatchSpec,
    ResolverSpec,
    RuleSpec,
    active_profile,
    both,
    observe,
    rows_of,
    vector_slots,
)
from scanengine import _reference
from scanengine.campaigns.odds import build_alias
from scanengine.model import NO_ITEM, Role, Scene, SegmentState, Status

REFERENCE_KEYS = _reference.CodeKeys(vector_slots())

# ---- rules ----


def one_rule(number: int = 0) -> RuleSpec:
    return RuleSpec().add_rule(number, build_alias([1, 3]), [0, -1], [(1, [[0, 600]])])


@both
@pytest.mark.parametrize(
    ("name", "row", "column", "value", "message"),
    [
        ("rules", 0, 0, 1, "rule 0: predicates 1+1 are outside the 1 given"),
        ("rules", 0, 1, 2**32 - 1, "rule 0: predicates 0+4294967295 are outside the 1 given"),
        ("rules", 0, 3, 3, "rule 0: columns 0+3 are outside the 2 given"),
        ("rules", 0, 3, 0, "rule 0: at least one column is needed"),
        ("rules", 0, 5, 2, "rule 0: mode 2 is not 0 or 1"),
        ("predicates", 0, 0, 6, "predicate 0: field 6 is not 0 to 5"),
        ("predicates", 0, 2, 2, "predicate 0: ranges 0+2 are outside the 1 given"),
        ("ranges", 0, 1, 0, "range 0: 0 to 0 is empty"),
        ("thresholds", None, None, [1], "1 thresholds, 2 aliases and 2 outcomes do not agree"),
        ("aliases", 1, None, 2, "rule 0: alias 2 of column 1 is outside its 2 columns"),
        ("outcomes", 0, None, 256, "outcome 0: prize 256 is not -1 to 255"),
        ("outcomes", 1, None, -2, "outcome 1: prize -2 is not -1 to 255"),
        ("transitions", None, None, [], "at least one transition is needed"),
        ("transitions", 0, 0, 0, "the first transition must be the beginning of time"),
        (
            "transitions",
            None,
            None,
            [[BEGINNING_OF_TIME, 0], [9, 0], [9, 0]],
            "transition 2 is not after the one before it",
        ),
        ("transitions", 0, 1, -86_401, "transition 0: offset -86401 s is more than a day"),
    ],
)
def test_each_fault_of_a_rule_set_is_named(
    impl: ModuleType, name: str, row: int | None, column: int | None, value: Any, message: str
) -> None:
    spec = one_rule()
    if row is None:
        setattr(spec, name, value)
    elif column is None:
        getattr(spec, name)[row] = value
    else:
        getattr(spec, name)[row][column] = value
    assert observe(spec.build, impl) == ("error", "ValueError", message)


@both
def test_rule_numbers_are_unique_and_at_most_256(impl: ModuleType) -> None:
    twice = one_rule(7).add_rule(7, build_alias([1]), [0])
    assert observe(twice.build, impl) == ("error", "ValueError", "rule 1: number 7 is given twice")
    most = RuleSpec()
    for number in range(256):
        most.add_rule(number, build_alias([1]), [number], [(5, [[number, number + 1]])], mode=1)
    assert most.build(impl).decide(1, NOW_MS, 3, 0, 0) == (3, 3)
    most.add_rule(0, build_alias([1]), [0])
    assert observe(most.build, impl) == ("error", "ValueError", "more than 256 rules: 257")


@both
def test_a_draw_key_of_another_length_is_refused(impl: ModuleType) -> None:
    expected = ("error", "ValueError", "a SipHash key has 16 bytes, found 15")
    assert observe(RuleSpec(draw_key=DRAW_KEY[1:]).build, impl) == expected


@both
def test_local_time_changes_with_the_transitions(impl: ModuleType) -> None:
    """Method: 8 hours east of Greenwich, from NOW_MS on 5 hours west of it; day and minute reckoned by hand."""
    spec = RuleSpec(transitions=[[BEGINNING_OF_TIME, 28_800], [NOW_MS, -18_000]])
    rules = spec.build(impl)
    assert rules.local_date(0) == 0
    assert rules.local_minute(0) == 8 * 60
    assert rules.local_date(16 * HOUR_MS - 1) == 0
    assert rules.local_date(16 * HOUR_MS) == 1
    assert rules.local_minute(NOW_MS - 1) == (NOW_MS - 1 + 8 * HOUR_MS) // 60_000 % 1_440
    assert rules.local_minute(NOW_MS) == (NOW_MS - 5 * HOUR_MS) // 60_000 % 1_440
    west = RuleSpec(transitions=[[BEGINNING_OF_TIME, -18_000]]).build(impl)
    assert west.local_date(0) == west.local_date(5 * HOUR_MS - 1) == -1
    assert west.local_date(5 * HOUR_MS) == 0
    assert west.local_minute(0) == 19 * 60


@both
def test_the_first_rule_whose_predicates_all_hold_decides(impl: ModuleType) -> None:
    certain = build_alias([1])
    spec = RuleSpec()
    spec.add_rule(9, certain, [90], [(5, [[1, 2]]), (4, [[110_000, 120_000]])], mode=1)
    spec.add_rule(2, certain, [20], [(2, [[5, 6], [8, 10]])], mode=1)
    spec.add_rule(4, certain, [-1], [(3, [[100, 200]])], mode=1)
    spec.add_rule(5, certain, [50], [(0, [[NOW_MS + 1, NOW_MS + 2]])], mode=1)
    spec.add_rule(6, certain, [60], [(1, [])], mode=1)
    rules = spec.build(impl)
    assert rules.decide(100, NOW_MS, 1, 110_101, 5) == (9, 90)
    assert rules.decide(100, NOW_MS, 1, 120_000, 5) == (2, 20)
    assert rules.decide(100, NOW_MS, 0, 110_101, 9) == (2, 20)
    assert rules.decide(100, NOW_MS, 0, 110_101, 6) == (4, -1)
    assert rules.decide(200, NOW_MS + 1, 0, 110_101, 10) == (5, 50)
    assert rules.decide(200, NOW_MS + 2, 0, 0, 0) == (-1, -1)
    spec.add_rule(8, certain, [80], mode=1)
    assert spec.build(impl).decide(200, NOW_MS + 2, 0, 0, 0) == (8, 80)


# ---- resolving ----


def two_batches() -> ResolverSpec:
    batches_of_ten = [BatchSpec(100, 10), BatchSpec(110, 10, base=1)]
    return ResolverSpec(batches_of_ten, [active_profile(), active_profile()], [one_rule()])


@both
def test_each_fault_of_a_resolver_is_named(impl: ModuleType) -> None:
    assert observe(lambda: bool(two_batches().build(impl))) == ("value", True)

    def fault_of(change: str, value: int) -> tuple[object, ...]:
        spec = two_batches()
        if hasattr(spec.batches[1], change):
            setattr(spec.batches[1], change, value)
        else:
            spec.profiles[1][{"rule_set": 3, "state": 4, "scenes": 5}[change]] = value
        return observe(spec.build, impl)[1:]

    assert fault_of("start", 109) == ("ValueError", "batch 1: items 109+10 overlap the batch before")
    assert fault_of("start", 2**55 - 9) == ("ValueError", f"batch 1: items {2**55 - 9}+10 are outside the item space")
    assert fault_of("map_count", 11) == ("ValueError", "batch 1: a segment map of 11 codes for a batch of 10")
    assert fault_of("base", 2) == ("ValueError", "batch 1: profiles from 2 are outside the 2 given")
    assert fault_of("state", 5) == ("ValueError", "profile 1: state 5 is not 0 to 4")
    assert fault_of("scenes", 32) == ("ValueError", "profile 1: scenes 32 is not 0 to 31")
    assert fault_of("rule_set", 1) == ("ValueError", "profile 1: rule set 1 is not -1 to 0")
    assert fault_of("rule_set", -2) == ("ValueError", "profile 1: rule set -2 is not -1 to 0")


@both
@pytest.mark.parametrize("state", SegmentState)
def test_the_state_wins_over_the_window(impl: ModuleType, state: SegmentState) -> None:
    profile = [NOW_MS, NOW_MS + 10, 0, -1, state, 0]
    resolver = ResolverSpec([BatchSpec(7 * SERIAL_END, 1)], [profile]).build(impl)
    code = REFERENCE_KEYS.encode(7, 0)
    found = {
        now_ms: Status(resolver.resolve(code, now_ms, 0, 0)[0]).name for now_ms in (NOW_MS - 1, NOW_MS, NOW_MS + 10)
    }
    if state == SegmentState.ACTIVE:
        assert list(found.values()) == ["INACTIVE", "VALID", "EXPIRED"]
    else:
        assert list(found.values()) == [state.name] * 3


@both
def test_a_resolution_says_what_applies_and_no_more(impl: ModuleType) -> None:
    """Method: certain rules for product 5; profiles with campaign and scene, scene off, no campaign, not active."""
    rules = RuleSpec().add_rule(3, build_alias([1]), [33], [(2, [[5, 6]])], mode=1)
    scenes_without_marketing = int(Scene.AUTHENTICITY)
    profiles = [
        active_profile(gtin=5, rule_set=0),
        active_profile(gtin=5, rule_set=0, scenes=scenes_without_marketing),
        active_profile(gtin=5),
        active_profile(gtin=5, rule_set=0, state=SegmentState.RECALLED),
        active_profile(gtin=6, rule_set=0),
    ]
    batch = BatchSpec(7 * SERIAL_END + 10, 5, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 5)
    resolver = ResolverSpec([batch], profiles, [rules]).build(impl)

    def resolve(serial: int) -> tuple[int, ...]:
        answer: tuple[int, ...] = resolver.resolve(REFERENCE_KEYS.encode(7, serial), NOW_MS, Role.CONSUMER, 0)
        return answer

    date = (NOW_MS + 8 * HOUR_MS) // (24 * HOUR_MS)
    first = 7 * SERIAL_END + 10
    assert resolve(9) == resolve(15) == (Status.UNKNOWN, NO_ITEM, -1, -1, -1, -1, 0)
    assert resolve(10) == (Status.VALID, first, 0, 0, 3, 33, date)
    assert resolve(11) == (Status.VALID, first + 1, 0, 1, -1, -1, date)
    assert resolve(12) == (Status.VALID, first + 2, 0, 2, -1, -1, 0)
    assert resolve(13) == (Status.RECALLED, first + 3, 0, 3, -1, -1, 0)
    assert resolve(14) == (Status.VALID, first + 4, 0, 4, -1, -1, date)
    assert resolver.resolve("no code", NOW_MS, 0, 0) == (Status.MALFORMED, NO_ITEM, -1, -1, -1, -1, 0)


@both
@pytest.mark.parametrize(
    ("role", "region", "message"),
    [
        (np.zeros(2, np.uint8), 0, "role must be one value or 3 integers, found uint8 (2,)"),
        (np.zeros(0, np.uint8), 0, "role must be one value or 3 integers, found uint8 (0,)"),
        (0, np.zeros(1, np.uint32), "region must be one value or 3 integers, found uint32 (1,)"),
        (np.zeros(3), 0, "role must be one value or 3 integers, found float64 (3,)"),
        (0, np.zeros((3, 1), np.uint32), "region must be one value or 3 integers, found uint32 (3, 1)"),
        (np.array([4, 5, 6], np.uint8), 0, "a role is 0 to 4, found 5"),
        (0, np.array([0, 999_999, 1_000_000], np.uint32), "a region is a six-digit code, found 1000000"),
    ],
)
def test_columns_that_do_not_fit_are_refused(impl: ModuleType, role: Any, region: Any, message: str) -> None:
    resolver = ResolverSpec().build(impl)
    seen = observe(resolver.resolve_many, np.zeros((3, 20), np.uint8), NOW_MS, role, region)
    assert seen == ("error", "ValueError", message)


@both
@pytest.mark.parametrize(
    "codes",
    [np.zeros((2, 65), np.uint8), np.zeros(20, np.uint8), np.zeros((2, 20), np.int8), np.zeros((1, 2, 20), np.uint8)],
    ids=lambda codes: f"{codes.dtype}{codes.shape}",
)
def test_codes_of_another_shape_are_refused(impl: ModuleType, codes: Any) -> None:
    seen = observe(ResolverSpec().build(impl).resolve_many, codes, NOW_MS, 0, 0)
    assert seen == ("error", "ValueError", "codes must be uint8 of shape (n, 20), or of another width from 1 to 64")


@both
def test_rows_may_be_read_only_strided_or_absent(impl: ModuleType) -> None:
    resolver = two_batches().build(impl)
    codes = np.repeat(REFERENCE_KEYS.encode_many(0, 100, 20), 2, axis=0)
    codes.setflags(write=False)
    _, items, profiles, _, _ = resolver.resolve_many(codes[::2], NOW_MS, 0, 0)
    assert items.tolist() == list(range(100, 120))
    assert profiles.tolist() == [0] * 10 + [1] * 10
    assert [len(column) for column in resolver.resolve_many(codes[:0], NOW_MS, 0, 0)] == [0] * 5


@both
@pytest.mark.parametrize("byte", range(256))
def test_each_byte_in_a_row_means_what_it_means_in_a_text(impl: ModuleType, byte: int) -> None:
    resolver = two_batches().build(impl)
    text = chr(byte) + REFERENCE_KEYS.encode(0, 100)[1:]
    status, item = resolver.resolve_many(rows_of([text]), NOW_MS, 0, 0)[:2]
    assert (status[0], item[0]) == resolver.resolve(text, NOW_MS, 0, 0)[:2]
    assert (status[0] == Status.VALID) == (chr(byte) in "0oO")
