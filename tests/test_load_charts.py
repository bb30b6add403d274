"""Charts: every value has its place, gaps stay gaps, and a file of its own says what it shows."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
import resvg_py

from scanengine.load.charts import Bar, Line, bar_chart, cut, line_chart, percentile_chart, text_width
from scanengine.server.pages.colors import contrast

SVG = "{http://www.w3.org/2000/svg}"
ODD = [
    [], [(0.0, None)], [(0.0, 0.0)], [(5.0, 5.0)], [(0.0, math.nan), (1.0, math.inf)], [(0.0, 1e-12), (1e12, 1e15)],
    [(0.0, 3.0), (0.0, 4.0)], [(100.0, 7.0)], [(99.9999999999, 7.0)], [(50.0, -1.0), (90.0, 0.0)],
]  # fmt: skip


def shapes(svg: str, name: str, class_: str = "") -> list[ElementTree.Element]:
    return [
        each
        for each in ElementTree.fromstring(svg).iter(SVG + name)
        if class_ in each.get("class", "").split(" ") or not class_
    ]


def drawn(svg: str) -> list[str]:
    """Return the path data of the lines; what stands in the legend is none of them."""
    return [each.get("d", "") for each in shapes(svg, "path", "line") if each.get("stroke-linecap") == "round"]


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def labels(svg: str) -> list[str]:
    return [each.text or "" for each in shapes(svg, "text", "quiet")]


@pytest.mark.parametrize("points", ODD)
@pytest.mark.parametrize("make", [line_chart, percentile_chart])
def test_whatever_the_values_a_chart_stays_in_its_frame(make: object, points: list[tuple[float, float | None]]) -> None:
    svg = make("Title", "Text", [Line("a", points), Line("b", points)], "s", "ms")
    assert resvg_py.svg_to_bytes(svg_string=svg)
    frame = ElementTree.fromstring(svg)
    for path in drawn(svg):
        for x, y in places(path):
            assert 0 <= x <= float(frame.get("width", "0"))
            assert 0 <= y <= float(frame.get("height", "0"))
    assert "nan" not in svg


def test_values_keep_their_order_and_their_proportions() -> None:
    ((x0, y0), (x1, y1), (x2, y2)) = places(
        drawn(line_chart("T", "t", [Line("a", [(0, 0), (1, 10), (2, 20)])], "s", "/s"))[0]
    )
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1 > y2


def test_every_further_nine_is_as_wide_as_the_one_before() -> None:
    svg = percentile_chart("T", "t", [Line("a", [(0, 1), (90, 1), (99, 10), (99.9, 100)])], "", "ms")
    (x0, _), (x1, y1), (x2, y2), (x3, y3) = places(drawn(svg)[0])
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert {"0%", "90%", "99%", "99.9%", "1", "10", "100"} <= set(labels(svg))


def test_the_largest_value_stands_at_the_end() -> None:
    svg = percentile_chart("T", "t", [Line("a", [(50, 1), (99.9, 2), (100, 3)])], "", "ms")
    assert "max" in labels(svg)
    assert places(drawn(svg)[0])[-1][0] == max(x for x, _ in places(drawn(svg)[0]))


def test_a_gap_is_not_bridged_and_a_lone_value_is_a_dot() -> None:
    (path,) = drawn(
        line_chart("T", "t", [Line("a", [(0, 1), (1, 2), (2, None), (3, 2), (4, math.nan), (5, 1), (6, 1)])], "s", "")
    )
    assert [part.count("L") for part in path.split("M")[1:]] == [1, 0, 1]
    assert path.count("h0") == 1


def test_a_long_run_is_thinned_and_keeps_its_peak() -> None:
    points = [(second, 1000.0 if second == 77_777 else 1.0) for second in range(100_000)]
    svg = line_chart("T", "t", [Line("a", points)], "s", "ms")
    found = places(drawn(svg)[0])
    assert len(found) <= 610
    lowest = max(y for _, y in found)
    assert [y for _, y in found if y < lowest - 100] == [min(y for _, y in found)]
    assert len(svg) < 20_000


def test_axis_labels_are_round_and_do_not_touch() -> None:
    svg = line_chart("T", "t", [Line("a", [(0, 0), (86_399, 46_700)])], "s", "/s")
    assert {"0", "20,000", "40,000", "60,000"} <= set(labels(svg))
    bottom = [each for each in shapes(svg, "text", "quiet") if each.get("text-anchor") == "middle"]
    spans = [(float(each.get("x", "0")), text_width(each.text or "") * 13 / 2) for each in bottom]
    ordered = sorted(spans)
    assert all(x + half < other - half_other for (x, half), (other, half_other) in itertools.pairwise(ordered))


def test_bars_are_as_long_as_their_values() -> None:
    svg = bar_chart("T", "t", [Bar("a", 100, "100"), Bar("b", 50, "50"), Bar("c", 0, "0"), Bar("d", math.nan, "?")])
    lengths = [float(each.get("width", "0")) for each in shapes(svg, "rect", "bar")]
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=0.1)
    assert lengths[2:] == [0, 0]


def test_only_a_bad_bar_is_red() -> None:
    svg = bar_chart("T", "t", [Bar("good", 3, "3"), Bar("wrong", 3, "3", is_bad=True)])
    assert [len(shapes(svg, "rect", "bar")), len(shapes(svg, "rect", "bad"))] == [1, 1]


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it() -> None:
    svg = line_chart("<Rate>", "From 1 to 2 & back.", [], "s", "/s", key="rate")
    frame = ElementTree.fromstring(svg)
    assert frame.get("role") == "img"
    named = {each.get("id"): each.text for each in frame if each.get("id")}
    assert [named[id_] for id_ in frame.get("aria-labelledby", "").split()] == ["<Rate>", "From 1 to 2 & back."]


def test_lines_differ_by_more_than_their_colour_and_are_readable() -> None:
    svg = line_chart("T", "t", [Line(str(n), [(0, n), (1, n)]) for n in range(4)], "s", "/s")
    lines = [each for each in shapes(svg, "path", "line") if each.get("stroke-linecap")]
    assert len({each.get("stroke-dasharray") for each in lines}) == 4
    colors = [each.get("stroke", "") for each in lines] + [each.get("fill", "") for each in shapes(svg, "text")]
    assert min(contrast(color, "#ffffff") for color in colors) >= 4.5


def test_a_text_is_cut_to_a_width_in_which_chinese_is_wider() -> None:
    assert cut("short", 10) == "short"
    assert text_width(cut("a" * 100, 10)) <= 10
    assert text_width(cut("码" * 100, 10)) <= 10
    assert len(cut("码" * 100, 10)) < len(cut("a" * 100, 10))
