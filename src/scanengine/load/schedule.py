"""When the requests of an open loop are due: a constant rate, with a ramp at its beginning and bursts if asked for."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from scanengine.errors import SettingsError
from scanengine.load.options import Options

_STEP_S: Final = 0.001
"""The rate is constant between the points of a grid this fine."""
_SPAN_S_MAX: Final = 6 * 3600.0
REQUESTS_MAX: Final = 10_000_000
"""More requests of one run than memory holds; a mistyped rate is told as one."""


def due_times(options: Options) -> NDArray[np.int64]:
    """Return when each request is due, nanoseconds from the start, ascending.

    Raises
    ------
    SettingsError
        If these are more requests than one run can hold.

    Notes
    -----
    Arrivals are even: of a constant rate each comes 1/rate after the one before. They are places on a line that do
    not move, however slowly the server answers.
    """
    assert options.rate is not None
    span_s = options.duration_s
    if options.requests:
        # As long as they take in all, were the rate its lowest throughout; what is too much is cut off below.
        slowest = min(1.0, options.burst.factor) if options.burst else 1.0
        span_s = options.requests / (options.rate * slowest) + options.ramp_s + 1
    factor = options.burst.factor if options.burst else 1.0
    if span_s * options.rate * max(factor, 1.0) > REQUESTS_MAX or span_s > _SPAN_S_MAX:
        raise SettingsError(
            f"--rate {options.rate:g}/s for {span_s:g} s is more than one run can hold, which is {REQUESTS_MAX:,} "
            "requests in 6 hours: take a lower rate or a shorter time"
        )
    grid = np.arange(0.0, span_s + _STEP_S, _STEP_S)
    rates = np.full(len(grid), options.rate)
    if options.ramp_s:
        rates *= np.minimum(grid / options.ramp_s, 1.0)
    if options.burst is not None:
        rates[grid % options.burst.every_s < options.burst.length_s] *= options.burst.factor
    arrived = np.concatenate([[0.0], np.cumsum((rates[1:] + rates[:-1]) / 2 * _STEP_S)])
    count = int(np.interp(span_s, grid, arrived) + 1e-6)
    if options.requests:
        count = min(count, options.requests)
    due_s = np.interp(np.arange(1, count + 1, dtype=np.float64), arrived, grid)
    found: NDArray[np.int64] = (due_s * 1e9).astype(np.int64)
    return found
