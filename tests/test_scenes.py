"""Scene tables: segments against a plain list, and what is found in a table of a million of them."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from helpers import ranges
from scanengine.errors import AssignmentError, TableClosedError, TableFormatError
from scanengine.model import Scene, SegmentState
from scanengine.tables.container import KIND_SCENE, write_container
from scanengine.tables.scenes import ALWAYS_MS, LINK_CHARS_MAX, Profile, SceneTable, Segments, link_fault

BLANK = Profile()
LOTS = [Profile(lot=lot) for lot in "ABC"]


def as_list(segments: Segments) -> list[Profile]:
    """Write the segments out, one profile a code."""
    bounds = [*segments.starts.tolist(), segments.count]
    return [
        segments.profiles[index]
        for index, start, end in zip(segments.indices.tolist(), bounds, bounds[1:], strict=False)
        for _ in range(start, end)
    ]


def check_form(segments: Segments) -> None:
    """Check what a written table needs: segments tile the batch, neighbours differ, profiles are used and differ."""
    starts, indices = segments.starts.tolist(), segments.indices.tolist()
    assert (segments.starts.dtype, segments.indices.dtype) == (np.uint64, np.uint32)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < segments.count
    assert all(left != right for left, right in pairwise(indices))
    assert set(indices) == set(range(len(segments.profiles)))
    assert len(set(segments.profiles)) == len(segments.profiles)


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, list[tuple[list[tuple[int, int]], str, str]]]:
    count = draw(st.integers(1, 40))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(1, count)).filter(lambda pair: pair[0] < pair[1])
    change = st.tuples(
        st.lists(pairs, min_size=1, max_size=5), st.sampled_from(["lot", "market"]), st.sampled_from("ABC")
    )
    return count, draw(st.lists(change, max_size=8))


@given(changes())
@example((1, [([(0, 1)], "lot", "A"), ([(0, 1), (0, 1)], "lot", "A")]))
def test_assigning_is_writing_into_a_list(
    given_changes: tuple[int, list[tuple[list[tuple[int, int]], str, str]]],
) -> None:
    count, steps = given_changes
    segments, model = Segments.blank(count, BLANK), [BLANK] * count
    for pairs, field, value in steps:
        segments = segments.assign(ranges(*pairs), lambda profile, f=field, v=value: replace(profile, **{f: v}))
        for offset in {offset for start, end in pairs for offset in range(start, end)}:
            model[offset] = replace(model[offset], **{field: value})
        assert as_list(segments) == model
        check_form(segments)


@given(changes())
def test_a_written_table_says_of_each_offset_what_was_assigned(
    tmp_path_factory: pytest.TempPathFactory, given_changes: tuple[int, list[tuple[list[tuple[int, int]], str, str]]]
) -> None:
    count, steps = given_changes
    segments = Segments.blank(count, BLANK)
    for pairs, field, value in steps:
        segments = segments.assign(ranges(*pairs), lambda profile, f=field, v=value: replace(profile, **{f: v}))
    path = tmp_path_factory.mktemp("table") / "cola@1.scenes"
    segments.write(path, "cola", 7)
    table = SceneTable(path)
    assert (table.batch, table.count, table.generation) == ("cola", count, 7)
    assert [table.profiles[table.segment_map.profile_at(offset)] for offset in range(count)] == as_list(segments)
    again = table.segments()
    assert as_list(again) == as_list(segments)
    assert table.verify() > 0


def test_what_says_the_same_again_is_merged() -> None:
    a, b, _ = LOTS
    segments = Segments.blank(10, BLANK).assign(ranges((2, 4)), lambda _: a).assign(ranges((4, 6)), lambda _: b)
    assert segments.starts.tolist() == [0, 2, 4, 6]
    assert segments.assign(ranges((4, 6)), lambda _: a).starts.tolist() == [0, 2, 6]
    whole = segments.assign(ranges((0, 10)), lambda _: b)
    assert (whole.starts.tolist(), whole.indices.tolist(), whole.profiles) == ([0], [0], [b])


def test_an_exception_is_a_segment_of_one_code() -> None:
    frozen = Profile(SegmentState.FROZEN)
    segments = Segments.blank(10, BLANK).assign(ranges((9, 10), (0, 1), (4, 5)), lambda _: frozen)
    assert segments.starts.tolist() == [0, 1, 4, 5, 9]
    assert [offset for offset, profile in enumerate(as_list(segments)) if profile == frozen] == [0, 4, 9]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no code was named: give a range or a file of codes"),
        ([(3, 3)], "range 3:3 is empty or outside the batch, which has offsets 0:10"),
        ([(0, 2), (5, 4)], "range 5:4 is empty"),
        ([(9, 11)], "range 9:11 is empty or outside the batch"),
        ([(10, 11)], "range 10:11 is empty or outside the batch"),
        ([(0, 2**64 - 1)], "range 0:18446744073709551615 is empty or outside the batch"),
    ],
)
def test_a_wrong_range_changes_nothing(pairs: list[tuple[int, int]], message: str) -> None:
    segments = Segments.blank(10, BLANK).assign(ranges((2, 4)), lambda _: LOTS[0])
    before = as_list(segments)
    with pytest.raises(AssignmentError, match=message):
        segments.assign(ranges(*pairs), lambda _: LOTS[1])
    assert as_list(segments) == before
    check_form(segments)


@pytest.mark.parametrize(
    "profile",
    [
        Profile(active_from_ms=5, active_until_ms=5),
        Profile(active_from_ms=ALWAYS_MS[1]),
        Profile(active_until_ms=ALWAYS_MS[1] + 1),
        Profile(active_from_ms=ALWAYS_MS[0] - 1),
        Profile(product="69012345678923456"),
        Profile(product="cola"),
        Profile(product="６９０"),
        Profile(scenes=Scene(64)),
    ],
)
def test_a_profile_that_could_not_be_read_is_not_written(tmp_path: Path, profile: Profile) -> None:
    with pytest.raises(AssignmentError):
        Segments.blank(10, profile).write(tmp_path / "cola@1.scenes", "cola", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "link",
    [
        "https://brand.example/欢迎?code={code}&from=scan",
        "HTTP://brand.example",
        "https://品牌.example:8443/#/{code}",
        "http://[2001:db8::1]/a%20b?x={code}&y={code}",
        "https://a.example/" + "x" * (LINK_CHARS_MAX - 18),
    ],
)
def test_an_address_on_the_web_is_a_landing_link(link: str) -> None:
    assert link_fault(link) is None


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("javascript:alert(1)", "found 'javascript:'"),
        ("data:text/html,x", "found 'data:'"),
        ("weixin://dl/business", "found 'weixin:'"),
        ("//brand.example/x", "found no scheme"),
        ("www.brand.example/{code}", "found no scheme"),
        ("brand.example:80/x", "found 'brand.example:'"),
        ("/x", "found no scheme"),
        ("https:///x", "found no host"),
        ("https:brand.example", "found no host"),
        ("https://:80/", "found no host"),
        ("https://./", "found no host"),
        ("https://brand.example:99999/", "found Port out of range"),
        ("https://[brand/", "found Invalid IPv6 URL"),
        ("https://brand.example@evil.example/", "found a user name"),
        ("https://brand.example\\@evil.example/", "found '\\\\'"),
        ("https://brand.example/ x", "found ' '"),
        (" https://brand.example/", "found ' '"),
        ("java\nscript:alert(1)", "found '\\n'"),
        ("https://brand.example/\r\nSet-Cookie:x", "found '\\r'"),
        ("https://brand.example/\u202e", "found '\\u202e'"),
        ("https://brand.example/\u3000", "found '\\u3000'"),
        ("https://brand.example/{user}", "no other braces than {code}"),
        ("https://brand.example/{{code}}", "no other braces than {code}"),
        ("https://{code}.brand.example/", "none in the host"),
        ("https://a.example/" + "x" * (LINK_CHARS_MAX - 17), "found 2,049"),
    ],
)
def test_other_texts_are_no_landing_links(link: str, found: str) -> None:
    fault = link_fault(link)
    assert fault is not None
    assert found in fault
    assert len(fault) < 300


def test_all_that_a_segment_says_comes_back(tmp_path: Path) -> None:
    full = Profile(
        SegmentState.RECALLED, Scene(31), "6901234567892", "L-2026/05", "华南", "https://example.com/{code}", "spring",
        -1, 1_777_608_000_000,
    )  # fmt: skip
    Segments.blank(10, full).write(tmp_path / "cola@1.scenes", "cola", 1)
    assert SceneTable(tmp_path / "cola@1.scenes").profiles == [full]


@pytest.mark.parametrize(
    ("starts", "profiles"),
    [([1], [0]), ([0, 0], [0, 0]), ([0, 5, 3], [0, 0, 0]), ([0, 10], [0, 0]), ([0], [1]), ([0, 1], [0]), ([], [])],
)
def test_segments_that_do_not_tile_the_batch_are_refused(
    tmp_path: Path, starts: list[int], profiles: list[int]
) -> None:
    metadata = {"batch": "cola", "count": 10, "generation": 1, "profiles": [{}]}
    sections = {2: np.array(starts, "<u8"), 3: np.array(profiles, "<u4")}
    write_container(tmp_path / "t", KIND_SCENE, metadata, sections)
    with pytest.raises(TableFormatError, match=str(tmp_path / "t")):
        SceneTable(tmp_path / "t")


def test_a_table_of_a_million_segments_opens_and_finds_right(tmp_path: Path) -> None:
    """Goal: the look-up is right whatever the sizes of segments, far beyond what one bucket of the index holds.

    Method: gaps from one code to a billion, in random order; compare at, before and after each sampled bound.
    """
    source = np.random.default_rng(20_260_501)
    gaps = np.minimum((1 / source.random(1_000_000)).astype(np.uint64), np.uint64(500_000)) + np.uint64(1)
    starts = np.concatenate((np.zeros(1, np.uint64), np.cumsum(gaps)))[:-1]
    count = int(starts[-1]) + 17
    indices = source.integers(0, len(LOTS), len(starts), dtype=np.uint32)
    Segments(count, starts, indices, LOTS).write(tmp_path / "cola@1.scenes", "cola", 1)
    table = SceneTable(tmp_path / "cola@1.scenes")
    assert table.segment_map.segment_count == 1_000_000
    for place in [0, 1, len(starts) - 1, *source.integers(1, len(starts), 5_000).tolist()]:
        start = int(starts[place])
        assert table.segment_map.find(start) == place
        assert table.segment_map.profile_at(start) == indices[place]
        if place:
            assert table.segment_map.find(start - 1) == place - 1
    assert table.segment_map.find(count - 1) == len(starts) - 1
    with pytest.raises(IndexError, match=f"offset {count} is outside"):
        table.segment_map.find(count)


def test_a_closed_table_answers_through_what_borrowed_from_it(tmp_path: Path) -> None:
    path = tmp_path / "cola@1.scenes"
    Segments.blank(10, BLANK).assign(ranges((3, 5)), lambda _: LOTS[0]).write(path, "cola", 1)
    table = SceneTable(path)
    table.close()
    table.close()
    os.unlink(path)
    assert table.segment_map.find(4) == 1
    with pytest.raises(TableClosedError):
        table.verify()
