"""The kit for tests of embedders: a program in memory whose clock, odds and silences the test decides."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import scanengine
from helpers import run_python
from scanengine.errors import CampaignError, LedgerUnavailableError, ScanError, SettingsError
from scanengine.testing import Clock, sample_program

pytest_plugins = ["pytester"]
NO_ZONE = datetime(2026, 1, 1)  # noqa: DTZ001 - what the kit must refuse
STATUSES = (
    "malformed", "mistyped", "unknown_key", "forged", "unknown", "wrong_product", "inactive", "frozen", "void",
    "recalled", "expired", "valid", "product_only",
)  # fmt: skip


@pytest.mark.parametrize("prize", ["cash-88", "points-10", "none"])
def test_a_code_draws_the_prize_that_was_asked_for(prize: str) -> None:
    with sample_program() as program:
        for _ in range(20):
            claim = program.claim(program.code(prize=prize), user="ann").claim
            assert claim is not None
            assert (claim.prize.id if claim.prize else "none") == prize


def test_no_code_is_handed_out_twice() -> None:
    with sample_program(codes=30) as program:
        codes = [program.code() for _ in range(30)]
        assert len(set(codes)) == 30
        with pytest.raises(ValueError, match="no code that is valid is left of 30"):
            program.code()


def test_codes_are_the_same_in_every_run() -> None:
    with sample_program() as program, sample_program() as again:
        assert [program.code() for _ in range(5)] == [again.code() for _ in range(5)]


@pytest.mark.parametrize("status", STATUSES)
def test_a_code_can_be_anything_that_a_code_can_be(status: str) -> None:
    assert {member.name.lower() for member in scanengine.Status} == set(STATUSES)
    with sample_program() as program:
        codes = [program.code(status=status) for _ in range(3)]
        assert len(set(codes)) == (1 if status == "product_only" else 3)
        assert {program.verify(code).status for code in codes} == {status}


def test_odds_prizes_limits_and_budget_are_those_given() -> None:
    prizes = [{"id": "tea", "kind": "goods", "title": 'A "big" tea 茶', "stock": 1}, {"id": "five", "kind": "cash",
              "amount": 500, "currency": "CNY", "title": "5 yuan"}]  # fmt: skip
    budget = {"currency": "CNY", "total": 500}
    with sample_program(odds={"tea": 1, "five": 1}, prizes=prizes, limits={"per_user": 3}, budget=budget) as program:
        claims = [program.claim(program.code(prize=prize), user="ann").claim for prize in ("tea", "tea", "five")]
        assert [claim.status for claim in claims] == ["awarded", "no_prize", "awarded"]
        assert claims[0].prize.title == 'A "big" tea 茶'
        assert program.claim(program.code(), user="ann").claim.reason == "per_user"
        assert program.claim(program.code(prize="five"), user="bob").claim.status == "no_prize"


def test_a_whole_campaign_file_can_be_given(tmp_path: Path) -> None:
    text = """
id = "shops"
title = "For shops"
opens = 2026-01-01T00:00:00+08:00
closes = 2027-01-01T00:00:00+08:00
timezone = "Asia/Shanghai"
prizes = [{ id = "points-5", kind = "points", amount = 5, title = "5 points" }]
rules = [{ id = "shop", draw = { mode = "certain", prize = "points-5" }, when = { roles = ["retailer"] } }]
"""
    with sample_program(campaign=text) as program:
        code = program.code(prize="points-5", role="retailer")
        assert program.claim(code, user="shop:1", role="retailer").claim.status == "awarded"
        assert program.claim(code, user="ann").claim.status == "ineligible"
        with pytest.raises(ValueError, match="no code that draws 'points-5' is left"):
            program.code(prize="points-5")


def test_the_clock_moves_only_when_told() -> None:
    with sample_program(limits={"per_user_per_day": 1}) as program:
        first = program.claim(program.code(), user="ann")
        assert first.claim.at == "2026-05-01T12:00:00.000+08:00"
        assert program.claim(program.code(), user="ann").claim.reason == "per_user_per_day"
        program.clock.advance(days=1, hours=-2, minutes=1, seconds=0.5)
        assert program.claim(program.code(), user="ann").claim.at == "2026-05-02T10:01:00.500+08:00"
        program.clock.set("2028-01-01T00:00:00+00:00")
        assert program.claim(program.code(), user="bob").claim.reason == "ended"
        program.clock.set(datetime(2026, 1, 1, tzinfo=UTC))
        assert program.decide(program.code()).status.name == "VALID"


def test_a_clock_shows_what_it_is_set_to() -> None:
    clock = Clock(0)
    clock.set(datetime(1970, 1, 2, tzinfo=UTC))
    assert clock() == timedelta(days=1) / timedelta(milliseconds=1)
    for wrong in (NO_ZONE, -1, "2026-01-01T00:00:00", 10**15):
        with pytest.raises(ScanError, match="now"):
            clock.set(wrong)
    with pytest.raises(ScanError):
        clock.advance(days=-2)
    assert clock() == 86_400_000


@pytest.mark.parametrize("recorded", [True, False])
def test_pending_claims_have_one_answer_when_asked_again(recorded: bool) -> None:
    with sample_program() as program:
        code = program.code(prize="cash-88")
        program.pending(2, recorded=recorded)
        for _ in range(2):
            unknown = program.claim(code, user="ann", visit="v-1")
            assert unknown.is_pending
            assert unknown.scan is None
        answer = program.claim(code, user="ann", visit="v-1")
        assert (answer.claim.status, answer.claim.prize.id) == ("awarded", "cash-88")
        assert answer.claim.replayed is recorded
        assert answer.claim.id == unknown.claim.id
        assert answer.scan.count == 1
        assert len(program.events) == 1
        assert program.claim(code, user="bob").claim.status == "taken"


async def test_pending_is_the_same_without_blocking() -> None:
    with sample_program() as program:
        program.pending(1)
        codes = [program.code() for _ in range(3)]
        answers = await asyncio.gather(*[program.claim_async(code, user="ann", visit="v") for code in codes])
        assert sum(answer.is_pending for answer in answers) == 1
        again = await asyncio.gather(*[program.claim_async(code, user="ann", visit="v") for code in codes])
        assert not any(answer.is_pending for answer in again)
        program.pending(5)
        program.pending(0)
        assert not program.claim(program.code(), user="ann").is_pending


def test_events_are_those_of_the_claims() -> None:
    with sample_program() as program:
        assert program.events == []
        answer = program.claim(program.code(prize="cash-88"), user="ann")
        program.claim(program.code(status="forged"), user="ann")
        (event,) = program.events
        assert (event.claim, event.amount, event.user) == (answer.claim.id, 8800, "ann")


def test_a_code_can_change_its_state() -> None:
    with sample_program() as program:
        code = program.code()
        generation = program.snapshot.generation
        program.set_state(code, "frozen")
        assert program.verify(code).status == "frozen"
        assert program.snapshot.generation > generation
        program.set_state(code, "active")
        assert program.verify(code).status == "valid"


def test_what_cannot_be_is_refused_with_what_can() -> None:
    with sample_program() as program:
        for call, word in (
            (lambda: program.code(prize="gold"), "cash-88, points-10 or none"),
            (lambda: program.code(status="lost"), "frozen"),
            (lambda: program.code(status="void", prize="none"), "not for both"),
            (lambda: program.set_state(program.code(), "lost"), "recalled"),
            (lambda: program.set_state(program.code(status="unknown"), "void"), "not one of the sample batch"),
            (lambda: program.pending(-1), "0 or more"),
        ):
            with pytest.raises(ValueError, match=word):
                call()
    for wrong, error in (
        ({"odds": {"gold": 1}}, CampaignError),
        ({"limits": {"per_week": 1}}, CampaignError),
        ({"prizes": []}, CampaignError),
        ({"campaign": "id ="}, CampaignError),
        ({"settings": "[nonsense]"}, SettingsError),
        ({"now": NO_ZONE}, ScanError),
        ({"codes": 0}, scanengine.ScanEngineError),
    ):
        with pytest.raises(error):
            sample_program(**wrong)


def test_closing_leaves_nothing_behind() -> None:
    program = sample_program()
    code = program.code()
    folder = program.workspace.folder
    assert folder.exists()
    program.close()
    program.close()
    assert not folder.exists()
    assert program.decide(code).status.name == "VALID"
    with pytest.raises(LedgerUnavailableError):
        program.claim(code, user="ann")


def test_who_forgets_to_close_leaves_nothing_behind_either() -> None:
    """Also one that could not be made, and a child process that ends before its parent."""
    source = """
import os, sys
from pathlib import Path
from scanengine.testing import sample_program
program = sample_program()
if os.fork() == 0:
    sys.exit()
assert os.wait()[1] == 0 and program.workspace.folder.exists()
program.set_state(program.code(), "void")
folders = set(program.workspace.folder.parent.glob("scanengine-testing-*"))
try:
    sample_program(settings="[nonsense]")
except Exception:
    pass
print(program.workspace.folder)
"""
    folder = Path(run_python(source).strip())
    assert folder.name.startswith("scanengine-testing-")
    assert not folder.exists()


def test_two_programs_share_nothing() -> None:
    with sample_program() as one, sample_program() as other:
        code = one.code()
        assert one.claim(code, user="ann").claim.status != "taken"
        assert other.claim(code, user="bob").claim.status != "taken"


def test_the_kit_needs_no_extra_and_no_test_framework() -> None:
    source = """
import sys
from scanengine.testing import sample_program
with sample_program() as program:
    program.claim(program.code(), user="ann")
print(sorted({"pytest", "aiohttp", "redis", "click", "segno", "uvloop"} & set(sys.modules)))
"""
    assert run_python(source) == "[]\n"


def test_the_fixtures_are_asked_for_by_name(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """Goal: a suite that says so has the fixtures; one that does not never imports scanengine."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest('pytest_plugins = ["scanengine.testing.plugin"]')
    pytester.makepyfile(
        """
        def test_one(scanengine_program):
            answer = scanengine_program.claim(scanengine_program.code(prize="cash-88"), user="ann")
            assert answer.claim.status == "awarded"

        def test_fresh(scanengine_program, make_scanengine_program):
            assert scanengine_program.events == []
            other = make_scanengine_program(odds={"points-10": 1})
            assert other.claim(other.code(), user="ann").claim.prize.id == "points-10"
            assert other is not scanengine_program
        """
    )
    done = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", timeout=120)
    done.assert_outcomes(passed=2)
    (tmp_path / "test_none.py").write_text("import sys\ndef test_it():\n    assert 'scanengine' not in sys.modules\n")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stdout
