"""The highest rate that is still good: a closed loop for how much there can be, then an open loop by bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from scanengine.load.options import Options
from scanengine.load.results import Outcome, Step
from scanengine.load.session import Run, Session

_CONNECTIONS_FROM: Final = 16
_GAIN: Final = 1.05
"""More connections must bring this much, or the last number of them stays."""
_BISECTIONS: Final = 5


class Found(msgspec.Struct, frozen=True):
    """What a search found.

    Parameters
    ----------
    best : Run or None
        The run at the best rate; None if no rate was good.
    """

    steps: list[Step]
    best_rate: float
    connections: int
    best: Run | None


def find_max(
    session: Session, options: Options, p99_limit_ms: float, step_s: float, on_step: Callable[[Step], None]
) -> Found:
    """Search for the highest rate of an open loop that holds a p99, without errors, by a generator that keeps up.

    Parameters
    ----------
    options : Options
        `connections` is the most that are tried.
    step_s : float
        How long each step takes.
    """
    steps: list[Step] = []

    def note(step: Step) -> Step:
        steps.append(step)
        on_step(step)
        return step

    guess = session.warm_up(options)
    ceiling, connections = 0.0, min(_CONNECTIONS_FROM, options.connections)
    tried = connections
    while True:
        closed = replace(
            options, rate=None, ramp_s=0.0, burst=None, requests=0, duration_s=step_s,
            connections=max(tried, options.processes),
        )  # fmt: skip
        outcome = session.run(closed, rate_guess=max(guess, ceiling)).outcome
        note(_step(outcome, closed, p99_limit_ms=None))
        has_gained = outcome.per_second > ceiling * _GAIN
        if outcome.per_second > ceiling:
            ceiling, connections = outcome.per_second, closed.connections
        if not has_gained or tried >= options.connections:
            break
        tried = min(tried * 2, options.connections)
    # More connections than the best closed loop needs keep an open loop from waiting for a free one.
    steady = replace(options, requests=0, duration_s=step_s, ramp_s=0.0, burst=None, connections=options.connections)
    low, high, best = 0.0, ceiling, None
    rate = ceiling * 0.8
    for _ in range(_BISECTIONS):
        run = session.run(replace(steady, rate=rate))
        if note(_step(run.outcome, replace(steady, rate=rate), p99_limit_ms=p99_limit_ms)).is_good:
            low, best = rate, run
        else:
            high = rate
        rate = (low + high) / 2
    return Found(steps, low, connections, best)


def _step(outcome: Outcome, options: Options, *, p99_limit_ms: float | None) -> Step:
    p99_ms = outcome.latencies.p99_ms
    why = ""
    shed = sum(outcome.counts.get(name, 0) for name in ("overloaded", "rate_limited", "pending"))
    if outcome.wrong:
        why = f"{outcome.wrong:,} wrong answers"
    elif outcome.is_void:
        why = outcome.void_reason
    elif outcome.failed or shed:
        why = f"{outcome.failed + shed:,} scans failed or were turned away"
    elif p99_limit_ms is not None and p99_ms > p99_limit_ms:
        why = f"p99 above {p99_limit_ms:g} ms"
    return Step(
        connections=options.connections,
        rate=options.rate,
        per_second=outcome.per_second,
        p99_ms=p99_ms,
        errors=outcome.failed + shed,
        lag_ms=outcome.lag_p99_ms,
        is_good=not why,
        why=why,
    )
