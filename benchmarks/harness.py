"""One method for all: A and B interleaved in one run, medians, answers checked after the clock."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

Count = TypeVar("Count", int, float)
IS_SHORT = os.environ.get("BENCH_SHORT", "") not in ("", "0")
"""``BENCH_SHORT=1``: little of everything, to see that a benchmark runs and its checks hold. Figures are not kept."""


def short(full: Count, little: Count) -> Count:
    """Return how much to do: the second in a short run."""
    return little if IS_SHORT else full


def seconds(run: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(rounds: int, **runs: Callable[[], Any]) -> dict[str, float]:
    """Return the median seconds of each run, taken in turns, so that a noisy moment hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(seconds(run))
    return {name: statistics.median(found) for name, found in samples.items()}


def report(benchmark: Any, **figures: Any) -> None:
    """Keep figures with the benchmark's record and print them."""
    shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    benchmark.extra_info.update(shown | ({"is_short": True} if IS_SHORT else {}))
    print("\n  " + "  ".join(f"{name}={value}" for name, value in shown.items()))
