"""Hypothesis strategies for the native core and its twin: copied codes, segments, rule sets, resolvers, faults."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import strategies as st

from helpers_core import (
    ALPHABET,
    BEGINNING_OF_TIME,
    HOUR_MS,
    NOW_MS,
    SERIAL_END,
    BatchSpec,
    ResolverSpec,
    RuleSpec,
    vector_slots,
)
from scanengine import _reference
from scanengine.campaigns.odds import build_alias

WORDS = st.integers(0, 2**64 - 1)
KEYS = st.binary(min_size=16, max_size=16)
ANY_KEYS = KEYS | st.binary(min_size=15, max_size=17)
SERIALS = st.sampled_from([-1, 0, 1, 31, 2**32, SERIAL_END - 1, SERIAL_END, 2**70]) | st.integers(0, SERIAL_END - 1)
ITEMS = st.sampled_from([0, 2**45, 2**55 - 1]) | st.integers(0, 2**55 - 1)
REFERENCE_KEYS = _reference.CodeKeys(vector_slots())
SLOTS = [slot for slot, _, _ in vector_slots()]


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A code of ours as people copy it: other case, separators, look-alikes, and sometimes a mistake."""
    code = REFERENCE_KEYS.encode(
        draw(st.sampled_from(SLOTS)), draw(st.integers(0, 60) | st.integers(0, SERIAL_END - 1))
    )
    symbols = list(code)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(symbols) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                symbols[place] = draw(st.sampled_from(ALPHABET + "OILUoilu-_ .\0\t%é\u0660\uff10\u017f\u0131\u212a"))
            case 1:
                symbols.insert(place, draw(st.sampled_from("- 0")))
            case 2:
                del symbols[place]
            case 3:
                symbols[place] = symbols[place].lower()
            case 4:
                look_alikes = {"0": "oO", "1": "iIlL"}.get(symbols[place], symbols[place])
                symbols[place] = draw(st.sampled_from(look_alikes))
            case _:
                symbols[place], symbols[0] = symbols[0], symbols[place]
    return "".join(symbols)


ANY_TEXTS = texts() | st.text(max_size=40) | st.text(ALPHABET + "- oil", min_size=18, max_size=24)


@st.composite
def batches(draw: st.DrawFn, start: int = 0) -> BatchSpec:
    count = draw(st.integers(1, 60) | st.integers(1, SERIAL_END) | st.sampled_from([SERIAL_END, 2**32, 2**20]))
    bounds = st.integers(1, max(1, min(count - 1, draw(st.sampled_from([50, 1_000, SERIAL_END])))))
    starts = sorted({0, *draw(st.lists(bounds, max_size=40))}) if count > 1 else [0]
    profile_count = draw(st.integers(1, 5))
    profile = st.integers(0, profile_count - 1)
    profiles = draw(st.lists(profile, min_size=len(starts), max_size=len(starts)))
    return BatchSpec(start, count, starts, profiles, profile_count)


GTINS = [0, 6_901_234_567_892, 6_920_000_000_001, 2**64 - 1]
REGIONS = [0, 110_000, 110_101, 440_300, 999_999]
TIMES = [0, NOW_MS - HOUR_MS, NOW_MS, NOW_MS + HOUR_MS, 2**62 - 1]
FIELD_POINTS = {  # where ranges begin and end, so that scans fall inside, outside and on the edges
    0: [*TIMES, 2**62],
    1: [0, 1, 600, 1_320, 1_440],
    2: [*GTINS, 1],
    3: [0, 7 * SERIAL_END, 7 * SERIAL_END + 20, 2**45, 2**55],
    4: [*REGIONS, 120_000],
    5: [0, 1, 2, 3, 4, 5],
}


@st.composite
def predicates(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    what = draw(st.integers(0, 5))
    pairs = st.lists(st.sampled_from(FIELD_POINTS[what]), min_size=2, max_size=2, unique=True).map(sorted)
    return what, draw(st.lists(pairs, max_size=3))


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSpec:
    spec = RuleSpec(draw_key=draw(KEYS))
    for number in draw(st.lists(st.integers(0, 255), max_size=5, unique=True)):
        weights = draw(st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(any))
        outcomes = draw(st.lists(st.integers(-1, 255), min_size=len(weights), max_size=len(weights)))
        own = draw(st.lists(predicates(), max_size=2))
        spec.add_rule(number, build_alias(weights), outcomes, own, mode=int(len(weights) == 1 and draw(st.booleans())))
    moments = draw(st.lists(st.sampled_from(TIMES) | st.integers(0, 2 * NOW_MS), max_size=4, unique=True))
    offsets = st.sampled_from([-86_400, -18_000, 0, 1, 28_800, 86_400])
    spec.transitions = [[at_ms, draw(offsets)] for at_ms in [BEGINNING_OF_TIME, *sorted(moments)]]
    return spec


SCANS = st.tuples(
    ITEMS | st.sampled_from(FIELD_POINTS[3][:-1]),
    st.sampled_from([*TIMES, HOUR_MS * 5, HOUR_MS * 24 - 1]) | st.integers(0, 2 * NOW_MS),
    st.integers(0, 4),
    st.sampled_from(REGIONS) | st.integers(0, 999_999),
    st.sampled_from(GTINS),
)


# Places of a rule set and values that break it there: (attribute, row or column of lists, values).
FAULTS = {
    "rules": [
        (0, [0, 1, 7, 2**32 - 1]),
        (1, [1, 9, 2**32 - 1]),
        (2, [0, 1, 7, 2**32 - 1]),
        (3, [0, 1, 9, 2**32 - 1]),
        (4, [0, 1, 255]),
        (5, [0, 1, 2, 255]),
    ],
    "predicates": [(0, [5, 6, 2**32 - 1]), (1, [0, 1, 8, 2**32 - 1]), (2, [0, 1, 9, 2**32 - 1])],
    "ranges": [(0, [0, 7, 2**64 - 1]), (1, [0, 7, 2**64 - 1])],
    "transitions": [
        (0, [BEGINNING_OF_TIME, BEGINNING_OF_TIME + 1, 0, 2**63 - 1]),
        (1, [-86_401, 86_401, 2**31 - 1, -(2**31)]),
    ],
    "aliases": [(None, [0, 1, 5, 2**32 - 1])],
    "outcomes": [(None, [-2, -1, 255, 256, 2**15 - 1, -(2**15)])],
    "thresholds": [(None, [0, 2**64 - 1])],
}


@st.composite
def faulty_rule_sets(draw: st.DrawFn) -> RuleSpec:
    spec = deepcopy(draw(rule_sets()))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(FAULTS)))
        rows = getattr(spec, name)
        if not rows:
            continue
        index = draw(st.integers(0, len(rows) - 1))
        if draw(st.integers(0, 7)) == 0:
            del rows[index]
            continue
        column, values = draw(st.sampled_from(FAULTS[name]))
        value = draw(st.sampled_from(values))
        if column is None:
            rows[index] = value
        else:
            rows[index][column] = value
    return spec


PROFILES = st.tuples(
    st.sampled_from([-(2**63), 0, NOW_MS - 1, NOW_MS, NOW_MS + 1]),
    st.sampled_from([2**63 - 1, NOW_MS - 1, NOW_MS, NOW_MS + 1]),
    st.sampled_from(GTINS),
    st.integers(-1, 2),
    st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    st.integers(0, 31),
).map(list)


@st.composite
def resolvers(draw: st.DrawFn) -> ResolverSpec:
    """Batches near the start of slots 0, 7 and 31 and among the imported items, with profiles and campaigns."""
    spec = ResolverSpec(rule_sets=draw(st.lists(rule_sets(), max_size=3)))
    for start in draw(st.lists(st.sampled_from([0, 7 * SERIAL_END, 31 * SERIAL_END, 2**45]), unique=True)):
        end = start + draw(st.integers(0, 5))
        for _ in range(draw(st.integers(1, 2))):
            batch = draw(batches(end))
            if batch.start + batch.count > start + SERIAL_END:
                continue
            batch.base = len(spec.profiles)
            spec.profiles += draw(st.lists(PROFILES, min_size=batch.profile_count, max_size=batch.profile_count))
            spec.batches.append(batch)
            end = batch.start + batch.count + draw(st.integers(0, 3))
    spec.batches.sort(key=lambda batch: batch.start)
    for profile in spec.profiles:
        profile[3] = min(profile[3], len(spec.rule_sets) - 1)
    return spec


MOMENTS = st.sampled_from([0, NOW_MS - 1, NOW_MS, NOW_MS + 1, 2**62 - 1])


@st.composite
def faulty_resolvers(draw: st.DrawFn) -> ResolverSpec:
    spec = deepcopy(draw(resolvers()))
    if spec.batches:
        batch = draw(st.sampled_from(spec.batches))
        match draw(st.integers(0, 4)):
            case 0:
                batch.start = draw(st.sampled_from([0, 2**55 - 1, 2**55, batch.start + 1]))
            case 1:
                batch.base = draw(st.integers(0, len(spec.profiles) + 1))
            case 2:
                batch.map_count = draw(st.sampled_from([batch.count + 1, SERIAL_END]))
            case 3:
                spec.batches.reverse()
            case _:
                pass
    for profile in spec.profiles[:2]:
        column, value = draw(st.sampled_from([(3, -2), (3, 5), (4, 5), (4, 255), (5, 32), (5, 255), (0, 0), (1, 0)]))
        profile[column] = value
    return spec
