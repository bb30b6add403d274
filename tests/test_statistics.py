"""Odds are kept: exact tables, and draws whose frequencies fit them.

Each chi-square test here draws once, at a fixed key, so its outcome never changes. Its limit is the value that a right
implementation with another key would exceed once in a million times: the false-alarm rate is 1e-6 a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import exp
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_core import (
    DRAW_KEY,
    NOW_MS,
    SERIAL_END,
    BatchSpec,
    ResolverSpec,
    RuleSpec,
    active_profile,
    both,
    vector_slots,
)
from scanengine import _core, _reference
from scanengine.campaigns.odds import build_alias, probabilities

FALSE_ALARM_RATE = 1e-6
DRAW_COUNTS = [pytest.param(_core, 200_000, id="core"), pytest.param(_reference, 10_000, id="reference")]


def chi_square(counts: Sequence[int], weights: Sequence[int]) -> float:
    total = sum(counts)
    expected = [total * weight / sum(weights) for weight in weights]
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True) if mean)


def chance_of_more(statistic: float, outcome_count: int) -> float:
    """Chance of a larger chi-square statistic; closed form, for an odd number of outcomes (even degrees of freedom)."""
    assert outcome_count % 2 == 1
    term = total = 1.0
    for k in range(1, (outcome_count - 1) // 2):
        term *= statistic / 2 / k
        total += term
    return exp(-statistic / 2) * total


def draw_counts(impl: ModuleType, weights: Sequence[int], count: int, rule: int = 0) -> list[int]:
    """Draw for the items 0 to count - 1 and count the outcomes."""
    table = build_alias(weights)
    thresholds, aliases = np.array(table[0], np.uint64), np.array(table[1], np.uint32)
    drawn = Counter(
        impl.alias_draw(thresholds, aliases, *impl.draw_words(DRAW_KEY, item, rule)) for item in range(count)
    )
    return [drawn[outcome] for outcome in range(len(weights))]


def error_bound(outcome_count: int) -> Fraction:
    return Fraction(outcome_count, 2**63)


# ---- tables ----


@pytest.mark.parametrize(
    "weights",
    [
        [70, 20, 7, 3],
        [7_000, 2_000, 700, 300],
        [29, 71],
        [71, 29],
        [1, 999_999],
        [1] * 7,
        [5, 5, 10, 30, 50],
        [10**30, 1],
    ],
    ids=str,
)
def test_odds_come_out_as_written(weights: list[int]) -> None:
    """Goal: 70/20/7/3 is 70/20/7/3 and 29 of 100 is 29 of 100, whatever the order, with nothing lost to rounding.

    Method: chances are whole numbers of 2**-128, so they are compared with the weights twice: within the bound, and as
    the one fraction of that denominator which lies nearest.
    """
    total = sum(weights)
    chances = probabilities(*build_alias(weights))
    assert sum(chances) == 1
    for chance, weight in zip(chances, weights, strict=True):
        assert abs(chance - Fraction(weight, total)) <= error_bound(len(weights))
        if total < 2**30:
            assert chance.limit_denominator(total) == Fraction(weight, total)


def test_odds_that_fit_binary_words_are_exact() -> None:
    assert probabilities(*build_alias([1, 2, 1, 4])) == [Fraction(1, 8), Fraction(1, 4), Fraction(1, 8), Fraction(1, 2)]
    assert probabilities(*build_alias([1])) == [1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**70) | st.integers(0, 3), min_size=1, max_size=40).filter(any))
def test_tables_of_any_weights_keep_the_odds(weights: list[int]) -> None:
    thresholds, aliases = build_alias(weights)
    assert all(0 <= threshold < 2**64 for threshold in thresholds)
    assert all(0 <= alias < len(weights) for alias in aliases)
    chances = probabilities(thresholds, aliases)
    assert sum(chances) == 1
    for chance, weight in zip(chances, weights, strict=True):
        assert abs(chance - Fraction(weight, sum(weights))) <= error_bound(len(weights))
        assert weight > 0 or chance == 0


def test_probabilities_count_the_words_of_a_small_table_by_hand() -> None:
    """Two columns, each half of all words: a quarter of column 0 stays, three quarters go to outcome 1."""
    assert probabilities([2**62, 2**64 - 1], [1, 1]) == [Fraction(1, 8), Fraction(7, 8)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "at least one weight is needed"),
        ([3, -1, 2], "weight 1 is negative: -1"),
        ([-1], "weight 0 is negative: -1"),
        ([0, 0], "at least one weight must be positive"),
    ],
)
def test_weights_without_odds_are_refused(weights: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_alias(weights)


def test_columns_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        probabilities([1, 2], [0])


# ---- draws ----


@pytest.mark.parametrize(("impl", "count"), DRAW_COUNTS)
@pytest.mark.parametrize(
    "weights", [[70, 20, 7, 2, 1], [1, 1, 1], [600, 250, 100, 35, 15], list(range(1, 12))], ids=str
)
def test_frequencies_fit_the_odds(impl: ModuleType, count: int, weights: list[int]) -> None:
    counts = draw_counts(impl, weights, count)
    assert chance_of_more(chi_square(counts, weights), len(weights)) > FALSE_ALARM_RATE, counts


def test_the_chi_square_test_notices_odds_that_are_off() -> None:
    """Goal: the test above can fail. Method: the same draws against 68/22/7/2/1 instead of 70/20/7/2/1."""
    counts = draw_counts(_core, [70, 20, 7, 2, 1], 200_000)
    assert chance_of_more(chi_square(counts, [68, 22, 7, 2, 1]), 5) < FALSE_ALARM_RATE


def test_chances_of_chi_square_agree_with_published_critical_values() -> None:
    """Method: upper percentage points printed in every statistics table."""
    assert chance_of_more(5.991, 3) == pytest.approx(0.05, rel=1e-3)
    assert chance_of_more(9.488, 5) == pytest.approx(0.05, rel=1e-3)
    assert chance_of_more(23.209, 11) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("impl", "count"), DRAW_COUNTS)
def test_prizes_under_one_percent_are_drawn(impl: ModuleType, count: int) -> None:
    """0.3 % of 10 000 draws are 30: none at all would happen once in 10**13 times."""
    counts = draw_counts(impl, [3, 997], count)
    assert chance_of_more(chi_square([*counts, 0], [3, 997, 0]), 3) > FALSE_ALARM_RATE, counts
    assert counts[0] > 0


@pytest.mark.parametrize(("impl", "count"), DRAW_COUNTS)
def test_weight_zero_is_never_drawn(impl: ModuleType, count: int) -> None:
    counts = draw_counts(impl, [0, 3, 0, 1, 0], count)
    assert counts[0] == counts[2] == counts[4] == 0
    assert counts[1] + counts[3] == count


@both
@pytest.mark.parametrize("w1", [0, 2**64 - 1])
@pytest.mark.parametrize("weights", [[0, 1], [1, 0], [0, 3, 0, 1], [1, 0, 0]], ids=str)
def test_weight_zero_is_not_drawn_by_extreme_words_either(impl: ModuleType, weights: list[int], w1: int) -> None:
    table = build_alias(weights)
    thresholds, aliases = np.array(table[0], np.uint64), np.array(table[1], np.uint32)
    for w0 in (0, 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1):
        assert weights[impl.alias_draw(thresholds, aliases, w0, w1)] > 0


@pytest.mark.parametrize(("impl", "count"), DRAW_COUNTS)
def test_rules_and_items_draw_independently(impl: ModuleType, count: int) -> None:
    """Goal: what rule 0 gives an item says nothing of rule 1, nor of the next item.

    Method: 3 x 3 pairs of outcomes of even odds are nine even outcomes, eight degrees of freedom.
    """
    table = build_alias([1, 1, 1])
    thresholds, aliases = np.array(table[0], np.uint64), np.array(table[1], np.uint32)
    for step_item, step_rule in ((0, 1), (1, 0)):
        pairs = Counter(
            impl.alias_draw(thresholds, aliases, *impl.draw_words(DRAW_KEY, item, 0)) * 3
            + impl.alias_draw(thresholds, aliases, *impl.draw_words(DRAW_KEY, item + step_item, step_rule))
            for item in range(0, count // 2 * 2, 2)
        )
        assert chance_of_more(chi_square([pairs[pair] for pair in range(9)], [1] * 9), 9) > FALSE_ALARM_RATE


def test_a_million_scans_win_as_published() -> None:
    """Goal: the odds hold on the whole way from printed code to drawn prize, not in the leaf alone."""
    weights = [5_000, 20_000, 75_000, 200_000, 700_000]
    rules = RuleSpec().add_rule(0, build_alias(weights), [0, 1, 2, 3, -1])
    spec = ResolverSpec([BatchSpec(7 * SERIAL_END, 1_000_000)], [active_profile(rule_set=0)], [rules])
    codes = _core.CodeKeys(vector_slots()).encode_many(7, 0, 1_000_000)
    _, items, _, rule, drawn = spec.build(_core).resolve_many(codes, NOW_MS, 0, 0)
    np.testing.assert_array_equal(items, np.arange(1_000_000, dtype=np.uint64) + np.uint64(7 * SERIAL_END))
    assert (rule == 0).all()
    counts = [int((drawn == prize).sum()) for prize in (0, 1, 2, 3, -1)]
    assert sum(counts) == 1_000_000
    assert chance_of_more(chi_square(counts, weights), 5) > FALSE_ALARM_RATE, counts


# ---- pools ----


@both
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 64, 100, 257])
def test_a_pool_gives_each_place_exactly_once(impl: ModuleType, n: int) -> None:
    assert sorted(impl.permute(DRAW_KEY, 0, n, position) for position in range(n)) == list(range(n))


def test_a_pool_of_many_codes_gives_exactly_its_prizes() -> None:
    """Method: 58 000 prizes among 200 000 codes, counted over the whole pool, not estimated."""
    n = 200_000
    images = np.array([_core.permute(DRAW_KEY, 3, n, position) for position in range(n)])
    assert np.bincount(images, minlength=n).max() == 1
    assert int((images < 58_000).sum()) == 58_000


@pytest.mark.parametrize(
    ("impl", "count"), [pytest.param(_core, 90_000, id="core"), pytest.param(_reference, 1_800, id="reference")]
)
def test_winners_of_a_pool_are_spread_over_the_batch(impl: ModuleType, count: int) -> None:
    """Method: the first ``count`` of ten million places, in nine equal parts of the pool."""
    n = 10_000_000
    parts: Any = Counter(impl.permute(DRAW_KEY, 0, n, position) * 9 // n for position in range(count))
    assert chance_of_more(chi_square([parts[part] for part in range(9)], [1] * 9), 9) > FALSE_ALARM_RATE
