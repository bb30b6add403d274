"""The index of the ledger is a dictionary from 64 bits to 64 bits, whatever the keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanengine.ledger._index import IntMap, mix, mix_many

WORD_MAX = (1 << 64) - 1
words = st.integers(0, WORD_MAX)
keys = st.one_of(words, st.integers(0, 20), st.sampled_from([WORD_MAX, WORD_MAX - 1, 1 << 63]))
values = st.integers(1, WORD_MAX)


def contents(index: IntMap) -> dict[int, int]:
    return {int(key): int(value) for key, value in index.items()}


@given(st.lists(st.tuples(keys, values)))
def test_put_is_a_dictionary(pairs: list[tuple[int, int]]) -> None:
    index, model = IntMap(), dict(pairs)
    for key, value in pairs:
        index.put(key, value)
    assert contents(index) == model
    assert len(index) == len(model)
    assert all(index.get(key) == value for key, value in model.items())


@given(st.lists(st.tuples(keys, values)), st.lists(keys))
def test_put_many_keeps_the_last_of_equal_keys(pairs: list[tuple[int, int]], others: list[int]) -> None:
    index, model = IntMap(), dict(pairs)
    array = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    index.put_many(np.ascontiguousarray(array[:, 0]), np.ascontiguousarray(array[:, 1]))
    assert contents(index) == model
    assert [index.get(key, 7) for key in others] == [model.get(key, 7) for key in others]


@given(st.lists(st.tuples(keys, st.integers(1, 1 << 40))))
def test_add_counts(pairs: list[tuple[int, int]]) -> None:
    index, model = IntMap(), dict[int, int]()
    for key, delta in pairs:
        model[key] = model.get(key, 0) + delta
        assert index.add(key, delta) == model[key]
    assert contents(index) == model


@given(st.lists(keys), st.integers(1, 1 << 40))
def test_add_many_counts_each_occurrence(several: list[int], delta: int) -> None:
    index = IntMap()
    index.add_many(np.array(several, dtype=np.uint64), delta)
    assert contents(index) == {key: several.count(key) * delta for key in several}


def test_growth_keeps_everything() -> None:
    index = IntMap()
    several = np.arange(100_000, dtype=np.uint64) * np.uint64(1 << 20)
    for start in range(0, len(several), 999):
        index.put_many(several[start : start + 999], several[start : start + 999] + np.uint64(1))
    assert len(index) == len(several)
    assert all(index.get(key) == key + 1 for key in several.tolist())
    assert [index.get(key) for key in (1, 2, 3)] == [0, 0, 0]
    assert 16 / 0.7 * len(index) <= index.nbytes <= 2.2 * 16 / 0.7 * len(index)


def test_empty_index_holds_nothing() -> None:
    index = IntMap()
    assert (len(index), index.nbytes, index.get(0), index.get(5, 9), index.items().shape) == (0, 0, 0, 9, (0, 2))


def test_zero_stands_for_absent_and_is_refused() -> None:
    index = IntMap()
    with pytest.raises(ValueError, match="absent"):
        index.put(1, 0)
    with pytest.raises(ValueError, match="absent"):
        index.add(1, 0)
    with pytest.raises(ValueError, match="absent"):
        index.add_many(np.ones(1, np.uint64), 0)
    with pytest.raises(ValueError, match="value 1 is 0"):
        index.put_many(np.array([1, 2, 3], np.uint64), np.array([5, 0, 6], np.uint64))
    assert contents(index) == {1: 5}


def test_numbers_beyond_64_bits_are_refused() -> None:
    index = IntMap()
    index.put(1, WORD_MAX)
    with pytest.raises(ValueError, match="more than 64 bits"):
        index.add(1, 1)
    with pytest.raises(ValueError, match="a sum of key 1 needs more than 64 bits"):
        index.add_many(np.array([2, 1, 3], np.uint64), 1)
    assert contents(index) == {1: WORD_MAX, 2: 1}
    for key in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            index.get(key)
        with pytest.raises(OverflowError):
            index.put(key, 1)
    with pytest.raises(ValueError, match="do not pair"):
        index.put_many(np.ones(2, np.uint64), np.ones(1, np.uint64))


@given(st.lists(st.tuples(words, words), max_size=20))
def test_mix_of_arrays_equals_mix_of_each(pairs: list[tuple[int, int]]) -> None:
    array = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    mixed = mix_many(np.ascontiguousarray(array[:, 0]), np.ascontiguousarray(array[:, 1]))
    assert mixed.tolist() == [mix(first, second) for first, second in pairs]


def test_mix_tells_neighbours_apart() -> None:
    grid = [(first, second) for first in range(300) for second in range(300)]
    assert len({mix(first, second) for first, second in grid}) == len(grid)
    with pytest.raises(ValueError, match="do not pair"):
        mix_many(np.ones(2, np.uint64), np.ones(1, np.uint64))
