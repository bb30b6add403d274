"""Imported codes in the native core against the plain twin: the same lines read, the same index, the same answers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_core import NOW_MS, BatchSpec, ResolverSpec, active_profile, observe, rows_of
from scanengine import _core, _reference
from scanengine.model import IMPORTED_START, NO_ITEM, Status
from strategies_core import REFERENCE_KEYS

LETTERS = "AB1%+/$*:."
"""Few, so that texts are alike in part and whole."""
KEY = bytes(range(16))
TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=5) | st.text(LETTERS, min_size=62, max_size=64), max_size=20)
WHOLE = (7 << 40, 60)


def rows(texts: list[str], width: int | None = None) -> Any:
    """Texts as rows, filled up with zeros."""
    size = width or max(map(len, texts))
    return np.array([text.encode() for text in texts], f"S{size}").view(np.uint8).reshape(len(texts), size)


def an_index(impl: ModuleType, texts: list[str], key: bytes = KEY) -> Any:
    table = rows(texts)
    slots = np.zeros(len(texts) + len(texts) // 2 + 1, np.uint32)
    lengths, doubles, _ = impl.fill_slots(table, slots, key, 0, len(texts))
    assert doubles == 0
    return impl.TextIndex(table, slots, key, lengths)


def a_resolver(impl: ModuleType, *lists: list[str], gtin: int = 0, keys: tuple[bytes, ...] = (KEY, KEY, KEY)) -> Any:
    """Sixty codes of slot 7, then a batch of imported codes for each list."""
    spec = ResolverSpec(batches=[BatchSpec(*WHOLE)], profiles=[active_profile(gtin)])
    batches = [(WHOLE[0], WHOLE[1], spec.batches[0].build_map(impl), 0)]
    texts = []
    for number, found in enumerate(lists):
        batch = BatchSpec(IMPORTED_START + (number << 32), len(found))
        texts.append((len(batches), an_index(impl, found, keys[number])))
        batches.append((batch.start, batch.count, batch.build_map(impl), 0))
    profiles = np.zeros(1, impl.PROFILE_DTYPE)
    profiles[0] = (*spec.profiles[0], b"")
    return impl.Resolver(impl.CodeKeys(spec.slots), batches, profiles, [], texts)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.binary(max_size=70)
        | st.text(LETTERS, max_size=66).map(str.encode)
        | st.sampled_from([b"", b"\r", b"A\r", b"A\r\r", b"A" * 64 + b"\r", b"A" * 65]),
        max_size=30,
    ),
    st.booleans(),
    st.integers(1, 10**12),
)
def test_lines_are_read_alike(lines: list[bytes], ends: bool, line: int) -> None:
    data = b"\n".join(lines) + b"\n" * ends
    assert observe(_core.read_texts, data, line) == observe(_reference.read_texts, data, line)


@settings(deadline=None, max_examples=300)
@given(TEXTS.filter(bool), st.binary(min_size=16, max_size=16), st.integers(0, 20), st.integers(-1, 30))
def test_an_index_is_filled_alike(texts: list[str], key: bytes, split: int, more: int) -> None:
    """Goal: slot by slot the same, whatever stands twice, in one go or two, with slots to spare or too few."""
    table = rows(texts)
    found = []
    for impl in (_core, _reference):
        slots = np.zeros(max(len(texts) + more, 0), np.uint32)
        cut = min(split, len(texts))
        seen = [observe(impl.fill_slots, table, slots, key, *part) for part in ((0, cut), (cut, len(texts)))]
        found.append((seen, slots.tolist()))
    assert found[0] == found[1]
    if more > 0:
        assert sum(map(bool, found[0][1])) == len(set(texts))


@settings(deadline=None, max_examples=300)
@given(TEXTS.filter(bool), st.lists(st.text(LETTERS + "\0é ", max_size=66), max_size=20))
def test_texts_are_found_alike(texts: list[str], others: list[str]) -> None:
    texts = list(dict.fromkeys(texts))
    core, reference = an_index(_core, texts), an_index(_reference, texts)
    for offset, text in enumerate(texts):
        assert core.find(text) == reference.find(text) == offset
    for text in others:
        expected = texts.index(text) if text in texts else -1
        assert core.find(text) == reference.find(text) == expected
    asked = rows([text for text in others if text.isascii() and len(text) <= 64] + texts, 64)
    assert core.find_many(asked).tolist() == reference.find_many(asked).tolist()
    core.check()
    reference.check()


FAULTS = st.tuples(
    st.sampled_from(["texts", "slots", "key", "lengths", "entry"]), st.integers(0, 2**32 - 1), st.integers(0, 9)
)


@settings(deadline=None, max_examples=300)
@given(FAULTS)
def test_a_faulty_index_is_refused_alike(fault: tuple[str, int, int]) -> None:
    """Goal: no index is accepted that could be read beyond its texts, and both say the same of it."""
    what, value, place = fault
    texts = ["A", "B", "AB", "A/1", "%"]

    def build(impl: ModuleType) -> list[int]:
        table = rows(texts)
        slots = np.zeros(10, np.uint32)
        lengths, _, _ = impl.fill_slots(table, slots, KEY, 0, len(texts))
        key = KEY
        if what == "texts":
            table = [np.zeros((5, 65), np.uint8), np.zeros((0, 3), np.uint8), np.zeros(5, np.uint8), table[:4]][
                value % 4
            ]
        elif what == "slots":
            slots = [slots[:5], slots.astype(np.int64), slots.reshape(2, 5), slots[:0]][value % 4]
        elif what == "key":
            key = KEY[: value % 17]
        elif what == "lengths":
            lengths = value % 20
        else:
            slots[place] = value
        index = impl.TextIndex(table, slots, key, lengths)
        return [index.find(text) for text in texts]

    assert observe(build, _core) == observe(build, _reference)


@pytest.mark.parametrize("impl", [_core, _reference], ids=["core", "reference"])
def test_what_was_checked_cannot_be_changed_any_more(impl: ModuleType) -> None:
    """Goal: arrays that their owner writes to afterwards do not lead beyond the texts."""
    texts = ["A", "B", "AB"]
    table, slots = rows(texts), np.zeros(5, np.uint32)
    lengths, _, _ = impl.fill_slots(table, slots, KEY, 0, 3)
    index = impl.TextIndex(table, slots, KEY, lengths)
    slots[slots > 0] |= (1 << 25) - 1
    table[:] = 0
    assert [index.find(text) for text in texts] == [0, 1, 2]
    index.check()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(TEXTS.filter(bool), max_size=3),
    st.lists(st.text(LETTERS + "- 0", max_size=24), max_size=10),
    st.sampled_from([0, 6901234567892, 36000291452]),
    st.sampled_from([0, 6901234567892]),
    st.sampled_from([(KEY, KEY, KEY), (KEY, bytes(16), KEY)]),
)
def test_imported_and_generated_codes_resolve_alike(
    lists: list[list[str]], odd: list[str], named: int, gtin: int, keys: tuple[bytes, ...]
) -> None:
    """Goal: one text at a time and many at once, natively or not, four answers are one; the first list wins."""
    lists = [list(dict.fromkeys(texts)) for texts in lists]
    pair = [a_resolver(impl, *lists, gtin=gtin, keys=keys) for impl in (_core, _reference)]
    codes = [REFERENCE_KEYS.encode(7, serial) for serial in (0, 59, 60)]
    numbers = ["6901234567892", "6901234567893", "00000000", "96385074", "036000291452", "10614141000415"]
    asked = [*codes, *odd, *numbers, *(text for texts in lists for text in texts)]
    for text in asked:
        answers = [observe(impl.resolve, text, NOW_MS, 0, 0, named) for impl in pair]
        assert answers[0] == answers[1]
        assert pair[0].is_imported(text) == pair[1].is_imported(text) == any(text in texts for texts in lists)
    table = rows([text for text in asked if len(text) <= 64], 64)
    table = table[:, : max(1, int(table.any(axis=0).sum()))]
    gtins = np.full(len(table), named, np.uint64)
    many = [observe(impl.resolve_many, table, NOW_MS, 0, 0, gtins) for impl in pair]
    assert many[0] == many[1]
    for number, texts in enumerate(lists):
        for offset, text in enumerate(texts):
            if not any(text in earlier for earlier in lists[:number]):
                status, item, *_ = pair[0].resolve(text, NOW_MS, 0, 0)
                assert (status, item) == (Status.VALID, IMPORTED_START + (number << 32) + offset)


@pytest.mark.parametrize("impl", [_core, _reference], ids=["core", "reference"])
def test_a_product_that_the_text_names_must_be_the_items(impl: ModuleType) -> None:
    """An item without a product contradicts nobody; of a wrong product nothing is told but the item."""
    code = REFERENCE_KEYS.encode(7, 0)
    cola = a_resolver(impl, ["AB"], gtin=6901234567892)
    blank = a_resolver(impl, ["AB"])
    for text, item in ((code, WHOLE[0]), ("AB", IMPORTED_START)):
        assert cola.resolve(text, NOW_MS, 0, 0, 6901234567892)[:2] == (Status.VALID, item)
        assert cola.resolve(text, NOW_MS, 0, 0, 96385074) == (Status.WRONG_PRODUCT, item, -1, -1, -1, -1, 0)
        assert blank.resolve(text, NOW_MS, 0, 0, 96385074)[:2] == (Status.VALID, item)
    assert cola.resolve("6901234567892", NOW_MS, 0, 0)[:2] == (Status.PRODUCT_ONLY, NO_ITEM)
    for gtin in (-1, 10**14):
        assert observe(cola.resolve, code, NOW_MS, 0, 0, gtin)[1:] == (
            "ValueError", f"a GTIN has at most 14 digits, found {gtin}",
        )  # fmt: skip


@pytest.mark.parametrize("impl", [_core, _reference], ids=["core", "reference"])
def test_rows_of_twenty_letters_may_be_imported_codes_too(impl: ModuleType) -> None:
    """Goal: the quick way of rows of 20 letters does not pass over imported texts of that length, or of less."""
    generated = REFERENCE_KEYS.encode(7, 3)
    resolver = a_resolver(impl, [generated, "AB"])
    found = resolver.resolve_many(rows([generated, "AB"], 20), NOW_MS, 0, 0)[1]
    assert found.tolist() == [IMPORTED_START, IMPORTED_START + 1]
    without = a_resolver(impl, ["AB"]).resolve_many(rows_of([generated]), NOW_MS, 0, 0)[1]
    assert without.tolist() == [WHOLE[0] + 3]


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        ([(1, 2)], "texts 0: 1 texts for a batch of 2"),
        ([(0, 1)], "texts 0: 1 texts for a batch of 60"),
        ([(3, 1)], "texts 0: batch 3 is not 0 to 1"),
        ([(1, 1), (1, 1)], "texts 1: batch 1 is not 2 to 1"),
    ],
)
def test_texts_that_do_not_fit_their_batches_are_refused_alike(texts: list[tuple[int, int]], fault: str) -> None:
    def build(impl: ModuleType) -> None:
        spec = ResolverSpec(
            batches=[BatchSpec(*WHOLE), BatchSpec(IMPORTED_START, texts[0][1])], profiles=[active_profile()]
        )
        batches = [(batch.start, batch.count, batch.build_map(impl), 0) for batch in spec.batches]
        profiles = np.zeros(1, impl.PROFILE_DTYPE)
        given = [(number, an_index(impl, ["AB"])) for number, _ in texts]
        impl.Resolver(impl.CodeKeys(spec.slots), batches, profiles, [], given)

    assert observe(build, _core) == observe(build, _reference) == ("error", "ValueError", fault)
