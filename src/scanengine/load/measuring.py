"""From moments to figures: latencies in an HDR histogram, the run second by second, and whether it counts at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from scanengine.load.results import Latencies, Window
from scanengine.load.tape import SLOT_NS

_MOST_US: Final = 24 * 3_600_000_000
_DIGITS: Final = 3
"""Latencies are kept to one part in a thousand."""
_CURVE_HALVINGS: Final = 24
_SATURATED: Final = 0.95
"""Share of a core; a generator that uses more had no time to spare."""
_SLOTS_PER_S: Final = 1_000_000_000 // SLOT_NS


@dataclass(frozen=True)
class Timed:
    """When everything happened in one client process, nanoseconds from the start.

    Parameters
    ----------
    begun : int64, shape (n,)
        When each request was due in an open loop, or sent in a closed one.
    sent, answered : int64, shape (n,)
        0 where it was not.
    is_reply : bool, shape (n,)
        Whether a reply came.
    is_error : bool, shape (n,)
        Whether it failed.
    lag : int64, shape (slots,)
    cpu_s, wall_s : float
        What the process used.
    """

    begun: NDArray[np.int64]
    sent: NDArray[np.int64]
    answered: NDArray[np.int64]
    is_reply: NDArray[np.bool_]
    is_error: NDArray[np.bool_]
    lag: NDArray[np.int64]
    cpu_s: float
    wall_s: float


def latencies_of(parts: Iterable[Timed]) -> Latencies:
    """Return the latencies of all replies, a histogram of each process merged into one."""
    merged = HdrHistogram(1, _MOST_US, _DIGITS)
    for part in parts:
        histogram = HdrHistogram(1, _MOST_US, _DIGITS)
        taken_us = (part.answered - part.begun)[part.is_reply] // 1000
        values, counts = np.unique(np.clip(taken_us, 1, _MOST_US), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            histogram.record_value(value, count)
        merged.add(histogram)
    total = merged.get_total_count()
    if not total:
        return Latencies()

    def at(percentile: float) -> float:
        return float(merged.get_value_at_percentile(percentile)) / 1000

    # Half as far from 100 each time, to where there is one reply beyond.
    steps = [100 * (1 - 0.5 ** (half / 2)) for half in range(2 * _CURVE_HALVINGS)]
    curve = [(step, at(step)) for step in steps if (100 - step) / 100 * total >= 1]
    return Latencies(
        count=total,
        mean_ms=float(merged.get_mean_value()) / 1000,
        p50_ms=at(50),
        p90_ms=at(90),
        p99_ms=at(99),
        p999_ms=at(99.9),
        max_ms=float(merged.get_max_value()) / 1000,
        curve=[*curve, (100.0, float(merged.get_max_value()) / 1000)],
        hdr=merged.encode().decode("ascii"),
    )


def windows_of(parts: list[Timed]) -> list[Window]:
    """Return the run second by second."""
    last_ns = max((int(max(part.answered.max(), part.sent.max())) for part in parts if len(part.sent)), default=0)
    count = last_ns // 1_000_000_000 + 1 if last_ns else 0
    sent, answered, errors = (np.zeros(count, np.int64) for _ in range(3))
    lag = np.zeros(count, np.int64)
    seconds, taken = [], []
    for part in parts:
        sent += _by_second(part.sent[part.sent > 0], count)
        answered += _by_second(part.answered[part.is_reply], count)
        failed = np.where(part.answered > 0, part.answered, part.begun)[part.is_error]
        errors += _by_second(failed, count)
        seconds.append(part.answered[part.is_reply] // 1_000_000_000)
        taken.append((part.answered - part.begun)[part.is_reply])
        slots = part.lag[: count * _SLOTS_PER_S]
        padded = np.zeros(count * _SLOTS_PER_S, np.int64)
        padded[: len(slots)] = slots
        lag = np.maximum(lag, padded.reshape(count, _SLOTS_PER_S).max(axis=1, initial=0))
    order = np.argsort(np.concatenate(seconds), kind="stable") if seconds else np.empty(0, np.int64)
    sorted_taken = np.concatenate(taken)[order] if taken else np.empty(0, np.int64)
    bounds = np.cumsum([0, *answered.tolist()])
    windows = []
    for second in range(count):
        mine = sorted_taken[bounds[second] : bounds[second + 1]]
        p50, p99 = (np.percentile(mine, (50, 99), method="inverted_cdf") / 1e6).tolist() if len(mine) else (0.0, 0.0)
        windows.append(
            Window(second, int(sent[second]), int(answered[second]), p50, p99, int(errors[second]),
                   float(lag[second]) / 1e6)
        )  # fmt: skip
    return windows


def _by_second(times_ns: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(np.clip(times_ns // 1_000_000_000, 0, max(count - 1, 0)), minlength=count)[:count]


def lag_of(parts: list[Timed], seconds: float) -> tuple[float, float]:
    """Return how far the generator was behind, in milliseconds: at most, and at the 99th percentile of its time."""
    slots = max(1, int(seconds * _SLOTS_PER_S))
    found = np.concatenate([part.lag[:slots] for part in parts])
    seen = found[found > 0]
    if not len(seen):
        return 0.0, 0.0
    return float(seen.max()) / 1e6, float(np.percentile(seen, 99, method="inverted_cdf")) / 1e6


def void_reason(parts: list[Timed], lag_p99_ms: float, lag_limit_ms: float) -> str:
    """Return why the figures of an open loop say nothing of the server, "" if they do."""
    if lag_p99_ms > lag_limit_ms:
        return f"the generator fell behind by {lag_p99_ms:.1f} ms (p99), more than {lag_limit_ms:g} ms"
    if is_saturated(parts):
        return "the generator had no processor time to spare: give it more --processes, or a lower --rate"
    return ""


def is_saturated(parts: list[Timed]) -> bool:
    """Whether a process of the generator was busy all the time, and so perhaps slower than the server."""
    return any(part.cpu_s > _SATURATED * part.wall_s for part in parts if part.wall_s)
