"""A short form of ``tests/crash.py``, and that its checks do find what they look for."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from crash import VICTIMS, Crash, RedisCrash, run

BUDGET_AWARDS = 1_000


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(tmp_path: Path) -> None:
    report = run(tmp_path / "shop", cycles=5, budget_awards=BUDGET_AWARDS, seed=20_260_501)
    assert report.violations == []
    assert report.cycles == 5
    # The load was what it should be: kills cut requests off, the budget ran out, every kind of answer came.
    assert report.unanswered >= report.cycles
    assert report.spent == report.budget
    assert {"awarded", "no_prize", "awarded again", "no_prize again", "taken"} <= report.replies.keys()
    assert report.asked_again > 0


def test_nothing_acknowledged_is_lost_when_workers_and_redis_are_killed_under_load(tmp_path: Path) -> None:
    report = run(tmp_path / "shop", len(VICTIMS), budget_awards=500, seed=20_260_501, ledger="redis")
    assert report.violations == []
    assert report.kills == dict.fromkeys(VICTIMS, 1)
    # Claims were unknown, some of them recorded, and the budget ran out.
    assert report.unanswered >= report.cycles
    assert report.spent == report.budget
    assert {"awarded", "no_prize", "awarded again", "no_prize again", "taken"} <= report.replies.keys()
    assert report.asked_again > 0


def test_the_check_finds_claims_that_redis_has_lost(tmp_path: Path) -> None:
    crash = RedisCrash(tmp_path / "shop", BUDGET_AWARDS, seed=7)
    try:
        crash.cycle()
        lost = next(crash.redis.client().scan_iter(match="*:c:*"))
        crash.redis.client().delete(lost)
        violations = "\n".join(crash.finish().violations)
    finally:
        crash.close()
    assert "is not replayed" in violations
    assert "audit: exit" in violations


def test_the_check_finds_a_lost_claim_and_a_changed_one(tmp_path: Path) -> None:
    crash = Crash(tmp_path / "shop", BUDGET_AWARDS, seed=7)
    crash.cycle()
    ledger = sqlite3.connect(crash.shop.workspace.ledger_path)
    with ledger:
        ledger.execute("DELETE FROM claims WHERE seq > (SELECT max(seq) - 20 FROM claims)")
    ledger.close()
    (code, user), claim = next(iter(crash.told.items()))
    crash.told[code, user] = {**claim, "at": "2026-01-01T00:00:00.000+08:00"}
    text = "\n".join(crash.finish().violations)
    assert "is not replayed" in text
    assert f"claim {claim['id']} was" in text
    assert "audit: exit 3" in text
    assert "events of" in text
