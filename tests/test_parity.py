"""The native core against its plain Python twin: the same values and the same errors, word for word, on any input."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_core import ALPHABET, NOW_MS, SERIAL_END, BatchSpec, ResolverSpec, RuleSpec, observe, rows_of, vector_slots
from scanengine import _core, _reference
from scanengine.model import Status
from strategies_core import (
    ANY_KEYS,
    ANY_TEXTS,
    ITEMS,
    KEYS,
    MOMENTS,
    REFERENCE_KEYS,
    REGIONS,
    SCANS,
    SERIALS,
    SLOTS,
    WORDS,
    batches,
    faulty_resolvers,
    faulty_rule_sets,
    resolvers,
    rule_sets,
)

unhurried = settings(deadline=None)
thorough = settings(deadline=None, max_examples=200)


def agree(name: str, *arguments: object) -> None:
    assert observe(getattr(_core, name), *arguments) == observe(getattr(_reference, name), *arguments)


def agree_on(core: object, reference: object, name: str, *arguments: object) -> tuple[object, ...]:
    seen = observe(getattr(core, name), *arguments)
    assert seen == observe(getattr(reference, name), *arguments)
    return seen


def built(spec: Any) -> tuple[Any, Any] | None:
    """Build a spec with both; None if both refuse it for the same reason."""
    made: list[Any] = []

    def build(impl: ModuleType) -> str:
        made.append(spec.build(impl))
        return "built"

    assert observe(build, _core) == observe(build, _reference)
    return (made[0], made[1]) if made else None


# ---- constants ----


def test_constants_and_record_layouts_are_the_same() -> None:
    for name in ("TIME", "MINUTE", "PRODUCT", "ITEM", "REGION", "ROLE"):
        assert getattr(_core, f"FIELD_{name}") == getattr(_reference, f"FIELD_{name}")
    assert _core.ALPHABET == _reference.ALPHABET == ALPHABET
    for name, size in (("RULE", 24), ("PREDICATE", 16), ("TRANSITION", 16), ("PROFILE", 32)):
        layout = getattr(_core, f"{name}_DTYPE")
        assert layout == getattr(_reference, f"{name}_DTYPE")
        assert layout.itemsize == size


# ---- SipHash and codes ----


@unhurried
@given(ANY_KEYS, st.binary(max_size=300))
def test_siphash_agrees(key: bytes, data: bytes) -> None:
    agree("siphash24", key, data)


@unhurried
@given(st.lists(st.tuples(st.integers(-1, 33), ANY_KEYS, ANY_KEYS), max_size=4))
def test_key_rings_agree(slots: list[tuple[int, bytes, bytes]]) -> None:
    def show(impl: ModuleType) -> str:
        return repr(impl.CodeKeys(slots))

    assert observe(show, _core) == observe(show, _reference)


@unhurried
@given(KEYS, KEYS, st.integers(0, 31), st.integers(-2, 40), SERIALS, st.integers(-2, 6))
def test_written_codes_agree(tag_key: bytes, mask_key: bytes, slot: int, asked: int, serial: int, count: int) -> None:
    core, reference = (impl.CodeKeys([(slot, tag_key, mask_key)]) for impl in (_core, _reference))
    for slot_asked in (slot, asked):
        seen = agree_on(core, reference, "encode", slot_asked, serial)
        agree_on(core, reference, "encode_many", slot_asked, serial, count)
        if seen[0] == "value":
            assert core.decode(seen[1]) == (Status.VALID, slot * SERIAL_END + serial)


@thorough
@given(ANY_TEXTS)
def test_texts_are_read_alike(text: str) -> None:
    agree_on(_core.CodeKeys(vector_slots()), REFERENCE_KEYS, "decode", text)
    agree("normalize", text)


@pytest.mark.parametrize(
    "text", ["-" * 10_000, " -" * 500 + "0" * 20, "0" * 21, "0" * 20 + "-", "\ud800" * 20, "0" * 100_000]
)
def test_long_and_odd_texts_are_read_alike(text: str) -> None:
    agree_on(_core.CodeKeys(vector_slots()), REFERENCE_KEYS, "decode", text)
    agree("normalize", text)


@pytest.mark.parametrize("text", [None, 7, b"0" * 20, ["0"] * 20], ids=repr)
def test_what_is_not_text_is_a_type_error_in_both(text: object) -> None:
    for function in ("decode", "resolve"):
        for impl in (_core, _reference):
            owner = impl.CodeKeys([]) if function == "decode" else ResolverSpec().build(impl)
            more = () if function == "decode" else (NOW_MS, 0, 0)
            assert observe(getattr(owner, function), text, *more) == ("error", "TypeError")
    agree("normalize", text)


@unhurried
@given(st.binary(min_size=15, max_size=17))
def test_base32_texts_agree(digest: bytes) -> None:
    agree("base32_text", digest)


@unhurried
@given(st.binary(min_size=18, max_size=20) | st.lists(st.integers(0, 33), min_size=19, max_size=19).map(bytes))
def test_check_symbols_agree(symbols: bytes) -> None:
    agree("check_symbol", symbols)


# ---- draws ----


@unhurried
@given(ANY_KEYS, ITEMS | st.sampled_from([-1, 2**55, 2**64]), st.integers(-1, 256))
def test_draw_words_agree(key: bytes, item: int, rule: int) -> None:
    agree("draw_words", key, item, rule)


@unhurried
@given(st.data(), st.integers(0, 40), WORDS, WORDS)
def test_alias_draws_agree(data: st.DataObject, n: int, w0: int, w1: int) -> None:
    thresholds = data.draw(st.lists(WORDS, min_size=n, max_size=n))
    aliases = data.draw(st.lists(st.integers(0, max(n - 1, 0)), min_size=n, max_size=n))
    for word in (w1, *thresholds[:2]):
        agree("alias_draw", np.array(thresholds, np.uint64), np.array(aliases, np.uint32), w0, word)


def test_alias_tables_of_different_lengths_are_refused_alike() -> None:
    agree("alias_draw", np.zeros(2, np.uint64), np.zeros(1, np.uint32), 0, 0)


@unhurried
@given(
    ANY_KEYS,
    st.integers(-1, 256),
    st.integers(-1, 70) | st.integers(1, SERIAL_END) | st.sampled_from([SERIAL_END, SERIAL_END + 1, 2**32, 2**32 + 1]),
    st.integers(-1, 70) | st.integers(0, SERIAL_END),
)
def test_permutations_agree(key: bytes, rule: int, n: int, position: int) -> None:
    agree("permute", key, rule, n, position)
    if n > 0:
        agree("permute", key, rule, n, position % n)


# ---- segments ----


@thorough
@given(batches(), st.lists(st.integers(-1, SERIAL_END), max_size=10))
def test_segments_agree(batch: BatchSpec, offsets: list[int]) -> None:
    core, reference = batch.build_map(_core), batch.build_map(_reference)
    assert (core.count, core.profile_count) == (reference.count, reference.profile_count)
    near = [start + step for start in batch.segment_starts for step in (-1, 0, 1)]
    for offset in [*near, *offsets, batch.count - 1, batch.count, batch.count + 1]:
        agree_on(core, reference, "find", offset)
        agree_on(core, reference, "profile_at", offset)
    for index, start in enumerate(batch.segment_starts):
        assert core.find(start) == index


@thorough
@given(
    st.lists(st.integers(0, 12) | WORDS, max_size=6),
    st.lists(st.integers(0, 4), max_size=6),
    st.integers(-1, 14) | st.sampled_from([SERIAL_END, SERIAL_END + 1]),
    st.integers(0, 5),
    st.booleans(),
)
def test_faulty_segments_are_refused_alike(
    starts: list[int], profiles: list[int], count: int, profile_count: int, is_mended: bool
) -> None:
    if is_mended:  # Otherwise the later checks would hardly be reached.
        starts = sorted({0, *starts})
        profiles = (profiles + [0] * len(starts))[: len(starts)]

    def build(impl: ModuleType) -> str:
        impl.SegmentMap(np.array(starts, np.uint64), np.array(profiles, np.uint32), count, profile_count)
        return "built"

    assert observe(build, _core) == observe(build, _reference)


# ---- rules ----


@thorough
@given(rule_sets(), st.lists(SCANS, min_size=1, max_size=8))
def test_decisions_agree(spec: RuleSpec, scans: list[tuple[int, int, int, int, int]]) -> None:
    pair = built(spec)
    assert pair is not None
    for item, now_ms, role, region, gtin in scans:
        agree_on(*pair, "decide", item, now_ms, role, region, gtin)
        agree_on(*pair, "local_date", now_ms)
        agree_on(*pair, "local_minute", now_ms)


@pytest.mark.parametrize("now_ms", [-1, 2**62, 2**70])
def test_times_out_of_range_are_refused_alike(now_ms: int) -> None:
    pair = RuleSpec().build(_core), RuleSpec().build(_reference)
    for name, arguments in (("decide", (0, now_ms, 0, 0, 0)), ("local_date", (now_ms,)), ("local_minute", (now_ms,))):
        assert agree_on(*pair, name, *arguments)[1] == "ValueError"


@pytest.mark.parametrize(("role", "region"), [(-1, 0), (5, 0), (2**40, 0), (0, -1), (0, 1_000_000), (0, 2**40)])
def test_roles_and_regions_out_of_range_are_refused_alike(role: int, region: int) -> None:
    rules = RuleSpec().build(_core), RuleSpec().build(_reference)
    assert agree_on(*rules, "decide", 0, NOW_MS, role, region, 0)[1] == "ValueError"
    resolvers = ResolverSpec().build(_core), ResolverSpec().build(_reference)
    assert agree_on(*resolvers, "resolve", "", NOW_MS, role, region)[1] == "ValueError"
    for rows in (0, 2):
        codes = np.zeros((rows, 20), np.uint8)
        assert agree_on(*resolvers, "resolve_many", codes, NOW_MS, role, region)[1] == "ValueError"


@settings(deadline=None, max_examples=600)
@given(faulty_rule_sets(), SCANS)
def test_faulty_rule_sets_are_refused_alike(spec: RuleSpec, scan: tuple[int, int, int, int, int]) -> None:
    pair = built(spec)
    if pair is not None:  # Some changes do no harm; then the decisions must still agree.
        agree_on(*pair, "decide", *scan)


# ---- resolving ----


@thorough
@given(resolvers(), st.lists(ANY_TEXTS, max_size=6), st.lists(st.integers(0, 70), max_size=10), MOMENTS, st.data())
def test_resolutions_agree(
    spec: ResolverSpec, odd_texts: list[str], serials: list[int], now_ms: int, data: st.DataObject
) -> None:
    """Goal: one text at a time and many at once, natively or not, four answers are one.

    Method: codes in, between and beyond the batches and texts that are no codes; the rows take those of 20 characters.
    """
    pair = built(spec)
    assert pair is not None
    codes = [REFERENCE_KEYS.encode(slot, serial) for serial in serials for slot in SLOTS]
    role, region = data.draw(st.integers(0, 4)), data.draw(st.sampled_from(REGIONS))
    for text in codes + odd_texts:
        agree_on(*pair, "resolve", text, now_ms, role, region)

    rows = [text for text in codes + odd_texts if len(text) == 20 and max(text) <= "\xff"]
    roles = data.draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
    regions = data.draw(st.lists(st.sampled_from(REGIONS), min_size=len(rows), max_size=len(rows)))
    columns = np.array(roles, np.uint8), np.array(regions, np.uint32)
    agree_on(*pair, "resolve_many", rows_of(rows), now_ms, role, region)
    agree_on(*pair, "resolve_many", rows_of(rows), now_ms, *columns)
    answers = pair[0].resolve_many(rows_of(rows), now_ms, *columns)
    for row, text in enumerate(rows):
        status, item, _, profile, rule, drawn, _ = pair[1].resolve(text, now_ms, roles[row], regions[row])
        assert [int(column[row]) for column in answers] == [status, item, profile, rule, drawn]


@thorough
@given(faulty_resolvers())
def test_faulty_resolvers_are_refused_alike(spec: ResolverSpec) -> None:
    built(spec)
