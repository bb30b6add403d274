"""Builders of load results with changes: a good run unless a test says otherwise."""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace

from scanengine.load.results import (
    AuditSummary,
    Latencies,
    LoadResult,
    Machine,
    Mix,
    Outcome,
    Profile,
    Step,
    Window,
    WrongAnswer,
)

SECONDS = 60
COUNTS = {"awarded": 1_176_000, "no_prize": 784_123, "replayed": 280_007, "taken": 420_011, "invalid": 140_003}
PRIZES = {"cash-88": 117_612, "points-10": 1_058_388}
CURVE = [
    (0.0, 0.31), (25.0, 0.72), (50.0, 0.97), (75.0, 1.42), (90.0, 2.13), (95.0, 2.9), (99.0, 4.83), (99.5, 6.1),
    (99.9, 9.57), (99.95, 12.4), (99.99, 17.9), (99.999, 24.6), (100.0, 31.4),
]  # fmt: skip


def a_window(second: int, **changes: Any) -> Window:
    rate = 46_700 + round(900 * math.sin(second / 3))
    return replace(Window(second, 46_700, rate, 0.97, 4.2 + second % 5 / 4, 0, 0.4), **changes)


def an_outcome(**changes: Any) -> Outcome:
    answered = sum(COUNTS.values())
    latencies = Latencies(answered, 1.23, 0.97, 2.13, 4.83, 9.57, 31.4, CURVE, "HISTFAAA")
    outcome = Outcome(
        SECONDS + 0.02, answered, answered, 46_669.1, COUNTS, PRIZES, {}, latencies, lag_max_ms=1.71, lag_p99_ms=0.38
    )
    return replace(outcome, **changes)


def a_profile(**changes: Any) -> Profile:
    profile = Profile(
        "redis", "everysec", "own server", 1, 1, 64, Mix(70, 10, 15, 5), 46_700.0, 60.0, 0, people=300_000, seed=7,
        regions={"110000": 3, "310000": 5},
    )  # fmt: skip
    return replace(profile, **changes)


def a_result(**changes: Any) -> LoadResult:
    result = LoadResult(
        command="scanengine load --ledger redis --durability everysec --rate 46700 --duration 60s "
        "--mix new=70,repeat=10,taken=15,forged=5 --html card.html --png card.png",
        date="2026-11-22T06:11:00Z",
        version="0.1.0",
        commit="0123456789ab",
        machine=Machine("Some Processor 2.60GHz", 2, 8 << 30, "Linux 6.1", "3.11.7"),
        profile=a_profile(),
        outcome=an_outcome(),
        windows=[a_window(second) for second in range(SECONDS + 1)],
        audit=AuditSummary(1_960_123, 2_660_141, 1_960_123, 1_960_123, 0, 0, 0),
    )
    return replace(result, **changes)


def a_wrong_run(**changes: Any) -> LoadResult:
    """Return a run with answers that must not be, and a ledger that does not agree."""
    wrong = [
        WrongAnswer("double_award", 17, "taken", "awarded points-10"),
        WrongAnswer("not_a_reply", -1, "one JSON object", "half of one"),
    ]
    audit = AuditSummary(1_960_122, 2_660_141, 1_960_122, 1_960_123, 1, 0, 0, ["item 17: answered, not recorded"])
    return a_result(outcome=an_outcome(wrong=1_234, wrong_answers=wrong), audit=audit, **changes)


def a_void_run(**changes: Any) -> LoadResult:
    outcome = an_outcome(is_void=True, void_reason="the generator fell 812 ms behind", lag_max_ms=812.0)
    return a_result(outcome=outcome, **changes)


def a_search(**changes: Any) -> LoadResult:
    steps = [
        Step(64, None, 51_000.0, 9.1, 0, 0.0, is_good=True),
        Step(64, 60_000.0, 55_012.0, 480.5, 3, 1.5, is_good=False, why="p99 over 10 ms"),
        Step(64, 52_500.0, 52_498.0, 8.8, 0, 0.9, is_good=True),
    ]
    return a_result(steps=steps, best_rate=52_500.0, p99_limit_ms=10.0, notes=["at 70 % of the best rate"], **changes)
