"""Small charts as SVG: lines over time, latency by percentile, bars. Knows nothing of load tests.

A chart is laid out here in its own units, and written by one template, ``pages/chart.svg``. Colours are plain
attributes on white paper, so that a file of its own and every renderer show the same; a page that is dark overrides
them by class. Lines differ by their dashes too, as not everybody tells colours apart.

    | title                                |
    | legend                               |
    | y label +--------------------------+ |
    |         |  the plot                | |
    |         +--------------------------+ |
    |            x labels        x unit    |
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Final

import msgspec
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

WIDTH: Final = 440.0
"""Units across; type of 13 units stays readable when a phone shows all of it."""
TYPE: Final = 13.0
FONTS: Final = (
    "-apple-system, 'PingFang SC', 'Noto Sans CJK SC', 'Source Han Sans SC', 'Microsoft YaHei', "
    "'Segoe UI', 'DejaVu Sans', 'Bitstream Vera Sans', sans-serif"
)
_HEIGHT: Final = 240.0
_MARGIN: Final = 12.0
_TITLE: Final = 26.0
_LEGEND: Final = 20.0
_BELOW: Final = 40.0
_BAR: Final = 24.0
_POINTS_MAX: Final = 600
"""Of a line: more than the plot has pixels."""
_TICKS: Final = 4
_DASHES: Final = ("none", "7 4", "2 4", "9 3 2 3")
_TONES: Final = ("#1f5fa8", "#8a5200", "#0f6541", "#8e2a6b")
"""Each with a contrast of at least 4.5 with the paper."""
_ILLEGIBLE: Final = {"Cc", "Cf", "Cn", "Cs"}
"""Kinds of letters: controls, formats, letters that are none, halves of letters."""
_NINES_MAX: Final = 7.0
"""The percentile axis ends at 99.99999: beyond it no run has enough answers."""

Point = tuple[float, float | None]


class Line(msgspec.Struct, frozen=True):
    """A named line; None, or what is no finite number, is a gap in it."""

    name: str
    points: Sequence[Point]


class Bar(msgspec.Struct, frozen=True):
    """A named bar: its length, and the value as it is written beside it; `is_bad` makes it red."""

    name: str
    value: float
    shown: str
    is_bad: bool = False


class _Tick(msgspec.Struct, frozen=True):
    place: float
    label: str


class _Axis(msgspec.Struct, frozen=True):
    """Where a value lies between 0 and 1, and what is written along the axis."""

    place: Callable[[float], float]
    ticks: tuple[_Tick, ...]


class _Stroke(msgspec.Struct, frozen=True):
    name: str
    path: str
    tone: int
    dash: str
    color: str
    legend_x: float


class _Row(msgspec.Struct, frozen=True):
    name: str
    shown: str
    y: float
    length: float
    is_bad: bool


def line_chart(
    title: str, description: str, lines: Sequence[Line], x_unit: str, y_unit: str, *, key: str = "chart"
) -> str:
    """Return lines over a quantity that begins at its lowest point, such as time; both axes are linear, y from 0.

    Values below 0 are gaps.

    Parameters
    ----------
    description : str
        What the chart says, in a sentence, for those who do not see it.
    key : str
        Begins the ids in the chart; two charts of one page need two.

    Returns
    -------
    str
        An ``<svg>`` element, which is a whole file as well.
    """
    lines = [Line(line.name, [(x, y if y is not None and y >= 0 else None) for x, y in line.points]) for line in lines]
    xs = [x for x, _ in _shown_points(lines)]
    ys = [y for _, y in _shown_points(lines)]
    low = min(xs, default=0.0)
    x_axis = _linear(low, max(max(xs, default=0.0), low + 1.0))
    return _plot(title, description, lines, x_axis, _linear(0.0, max(ys, default=0.0) or 1.0), x_unit, y_unit, key)


def percentile_chart(
    title: str, description: str, lines: Sequence[Line], x_unit: str, y_unit: str, *, key: str = "chart"
) -> str:
    """Return values by percentile, 0 to 100, each further nine as wide as the one before; values are logarithmic.

    A point at 100 is the largest value, and stands at the end of the axis. Values of 0 or less are gaps.
    """
    positive = [Line(line.name, [(x, y if y and y > 0 else None) for x, y in line.points]) for line in lines]
    points = _shown_points(positive)
    nines = [_nines(x) for x, _ in points if x < 100]
    has_end = any(x >= 100 for x, _ in points)
    last = min(_NINES_MAX, max([1.0, *nines]))
    width = math.ceil(last - 1e-9) + (0.5 if has_end else 0.0)
    ticks = [_Tick(nine / width, _percent(nine)) for nine in range(math.ceil(last - 1e-9) + 1)]
    if has_end:
        ticks.append(_Tick(1.0, "max"))
    x_axis = _Axis(lambda x: 1.0 if x >= 100 else min(last, _nines(x)) / width, tuple(ticks))
    ys = [y for _, y in points]
    return _plot(title, description, positive, x_axis, _logarithmic(ys), x_unit, y_unit, key)


def bar_chart(title: str, description: str, bars: Sequence[Bar], *, key: str = "chart") -> str:
    """Return horizontal bars, in their order, each with its name before and its value after it."""
    longest = max([0.0, *(bar.value for bar in bars if math.isfinite(bar.value))]) or 1.0
    left = _MARGIN + min(WIDTH * 0.45, max((text_width(bar.name) for bar in bars), default=0.0) * TYPE) + 8
    right = _MARGIN + max((text_width(bar.shown) for bar in bars), default=0.0) * TYPE + 8
    room = max(20.0, WIDTH - left - right)
    names = (left - _MARGIN) / TYPE
    rows = [
        _Row(
            cut(bar.name, names), bar.shown, _TITLE + _MARGIN + _BAR * index,
            max(0.0, bar.value) / longest * room if math.isfinite(bar.value) else 0.0, bar.is_bad,
        )
        for index, bar in enumerate(bars)
    ]  # fmt: skip
    height = _TITLE + 2 * _MARGIN + _BAR * len(bars)
    return _write("bars", title, description, key, height, rows=rows, left=left, bar=_BAR)


def text_width(text: str) -> float:
    """Return the width of a text, in sizes of its type: wide letters are square, the others a bit over half of it."""
    return sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.6 for letter in text)


def cut(text: str, width: float) -> str:
    """Return a text, shortened with an ellipsis where it is wider than so many sizes of its type."""
    if text_width(text) <= width:
        return text
    kept = ""
    for letter in text:
        if text_width(kept + letter) + 1 > width:
            break
        kept += letter
    return kept + "…"


# Axes ---------------------------------------------------------------------------------------------------------------


def _linear(low: float, high: float) -> _Axis:
    """Return an axis from `low` to `high`, or a round value above it."""
    step = _round_step((high - low) / _TICKS)
    first = math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9)
    end = last * step
    ticks = tuple(_Tick((n * step - low) / (end - low), _number(n * step, step)) for n in range(first, last + 1))
    return _Axis(lambda value: (value - low) / (end - low), ticks)


def _logarithmic(values: Sequence[float]) -> _Axis:
    """Return an axis over at least one whole decade."""
    low = math.floor(math.log10(min(values, default=1.0)) + 1e-9)
    high = max(low + 1, math.ceil(math.log10(max(values, default=10.0)) - 1e-9))
    # A label each decade, or more of them where there is room.
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    marks = [step * 10.0**decade for decade in range(low, high) for step in steps] + [10.0**high]
    ticks = tuple(_Tick((math.log10(mark) - low) / (high - low), f"{mark:,.9g}") for mark in marks)
    return _Axis(lambda value: (math.log10(value) - low) / (high - low), ticks)


def _round_step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= least * (1 - 1e-9))


def _number(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits}f}"


def _nines(percentile: float) -> float:
    return -math.log10(1 - max(0.0, percentile) / 100)


def _percent(nines: int) -> str:
    return f"{100 - 100 / 10**nines:.9g}%"


# Drawing ------------------------------------------------------------------------------------------------------------


def _shown_points(lines: Iterable[Line]) -> list[tuple[float, float]]:
    return [(x, y) for line in lines for x, y in line.points if y is not None and math.isfinite(x) and math.isfinite(y)]


def _plot(
    title: str, description: str, lines: Sequence[Line], x_axis: _Axis, y_axis: _Axis, x_unit: str, y_unit: str,
    key: str,
) -> str:  # fmt: skip
    """Return a chart with two axes."""
    left = _MARGIN + max(text_width(tick.label) for tick in y_axis.ticks) * TYPE + 6
    top = _TITLE + _LEGEND + _MARGIN
    width, height = WIDTH - left - 2 * _MARGIN, _HEIGHT - top - _BELOW
    strokes = []
    legend_x = left
    for index, line in enumerate(lines):
        path = _path(line.points, x_axis, y_axis, left, top, width, height)
        tone = index % len(_TONES)
        strokes.append(_Stroke(line.name, path, tone, _DASHES[tone], _TONES[tone], legend_x))
        legend_x += 34 + text_width(line.name) * TYPE
    return _write(
        "plot", title, description, key, _HEIGHT, left=left, top=top, plot_width=width, plot_height=height,
        x_ticks=_apart(x_axis.ticks, width), y_ticks=y_axis.ticks, x_unit=x_unit, y_unit=y_unit, strokes=strokes,
    )  # fmt: skip


def _apart(ticks: Sequence[_Tick], width: float) -> list[_Tick]:
    """Return the ticks whose labels do not touch; the last one stays, as it says where the axis ends."""
    kept: list[_Tick] = []
    start = math.inf
    for tick in reversed(ticks):
        half = text_width(tick.label) * TYPE / 2
        if tick.place * width + half < start:
            kept.append(tick)
            start = tick.place * width - half - 4
    return kept


def _path(
    points: Sequence[Point], x_axis: _Axis, y_axis: _Axis, left: float, top: float, width: float, height: float
) -> str:
    """Return a line as path data; a point between two gaps is a dot."""
    parts: list[str] = []
    for has_value, run in groupby(points, lambda point: bool(_shown_points([Line("", [point])]))):
        if has_value:
            places = [
                (left + x_axis.place(x) * width, top + (1 - y_axis.place(y)) * height) for x, y in run if y is not None
            ]
            steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in _thinned(places))
            parts.append(f"M{steps}" + ("h0" if len(places) == 1 else ""))
    return "".join(parts)


def _thinned(places: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return no more points than can be seen: of each stretch its lowest and its highest, so that no peak is lost."""
    if len(places) <= _POINTS_MAX:
        return places
    size = math.ceil(2 * len(places) / _POINTS_MAX)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(places), size):
        stretch = places[start : start + size]
        ends = {
            min(range(len(stretch)), key=lambda n: stretch[n][1]),
            max(range(len(stretch)), key=lambda n: stretch[n][1]),
        }
        kept += [stretch[n] for n in sorted(ends)]
    return kept


def template(name: str) -> str:
    """Return a template, or another file beside them."""
    return (files("scanengine.load") / "pages" / name).read_text("utf-8")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return what fills the templates: every value is escaped, and a name that is missing is an error."""
    return Environment(
        loader=FunctionLoader(template),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=legible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def legible(value: object) -> object:
    """Return a text without what no XML may hold, and without what would turn the text around it."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(
        "\ufffd" if unicodedata.category(letter) in _ILLEGIBLE and letter != "\n" else letter for letter in value
    )


def _write(kind: str, title: str, description: str, key: str, height: float, **values: object) -> str:
    return (
        environment()
        .get_template("chart.svg")
        .render(
            kind=kind,
            title=title,
            description=description,
            key=key,
            width=WIDTH,
            height=height,
            fonts=FONTS,
            type=TYPE,
            **values,
        )
    )
