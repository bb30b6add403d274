"""The server with the hot path and the one without it give the same replies, and the comparison finds what differs."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import uvloop

from differential import Plan, Result, run
from differential_cases import Case, a_case
from differential_goods import Goods
from differential_twin import PLANTS

REQUESTS = 10_000
"""In each of two comparisons."""
PLANTED_REQUESTS = 400


def compare(folder: Path, plan: Plan) -> Result:
    return uvloop.run(run(plan, folder))


def told(result: Result) -> str:
    return "\n".join([*map(str, result.differences), *result.ledger_differences[:20]])


@pytest.mark.parametrize(
    "plan",
    [Plan(1, REQUESTS, ledger="sqlite", has_tokens=True), Plan(2, REQUESTS, ledger="redis", has_tokens=False)],
    ids=["sqlite", "redis without tokens"],
)
def test_both_servers_give_the_same_replies(tmp_path: Path, plan: Plan) -> None:
    result = compare(tmp_path, plan)
    assert result.is_clean, told(result)
    assert result.requests >= REQUESTS
    statuses = Counter({kind: count for kind, count in result.kinds.items() if kind.startswith("status ")})
    assert statuses.keys() >= {f"status {status}" for status in (100, 200, 302, 400, 404, 405, 413, 417, 429)}
    assert statuses["status 200"] > REQUESTS / 4
    odd = {kind for kind in result.kinds if kind.startswith("odd: ")}
    assert len(odd) > 100


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_difference_is_found_and_made_small(tmp_path: Path, plant: str) -> None:
    """Goal: one header, the order of two headers or of two replies, one byte, or an early end does not go unseen."""
    plan = Plan(3, PLANTED_REQUESTS, plant=plant, hot_paths=(False, False), differences_max=1)
    result = compare(tmp_path, plan)
    assert len(result.differences) == 1
    (found,) = result.differences
    assert len(found.case.parts) <= (2 if plant == "reply-order" else 1)
    assert re.search(rf"--seed 3 --case {found.number}\b", str(found))


def test_servers_without_the_hot_path_have_no_difference(tmp_path: Path) -> None:
    """Goal: nothing that is compared is of chance."""
    result = compare(tmp_path, Plan(4, PLANTED_REQUESTS, hot_paths=(False, False)))
    assert result.is_clean, told(result)


def test_a_case_is_the_same_each_time_it_is_made(tmp_path: Path) -> None:
    """Goal: a seed and a number are enough to see a difference again."""
    goods = [Goods(tmp_path / name, 20, has_tokens=True) for name in ("first", "second")]
    first, second = ([a_case(5, number, each) for number in range(20)] for each in goods)
    assert first == second
    assert [a_case(6, number, goods[0]) for number in range(20)] != first
    assert _codes_of(first[3], goods[0]).isdisjoint(_codes_of(a_case(5, 3, goods[0], place=4), goods[0]))


def _codes_of(case: Case, goods: Goods) -> set[str]:
    data = b"".join(part.data for part in case.parts).decode("latin-1").upper()
    return {code for number in range(goods.cases) for code in goods.codes(number) if code in data}
