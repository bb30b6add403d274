"""What the library promises to whoever embeds it, sentence by sentence of its page; the types of its native parts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import scanengine
from helpers import CODES, NOON, NOW_MS, Shop
from scanengine.errors import LedgerUnavailableError, ScanError
from scanengine.model import NO_ITEM
from scanengine.testing import sample_program

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "status": "u1", "item": "u8", "scenes": "u1", "campaign": "u2", "offer_start": "i8", "rule": "u1", "prize": "i2",
    "amount": "u8",
}  # fmt: skip


def kinds_of(codes: list[str]) -> list[list[str] | np.ndarray]:
    """Return the same codes in each of the three kinds that are taken."""
    letters = np.array(codes, "S20")
    return [codes, letters, letters.view(np.uint8).reshape(-1, 20)]


def assert_same(found: scanengine.Decisions, expected: scanengine.Decisions) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_everything_that_callers_name_is_at_the_top() -> None:
    assert {"open", "Program", "Scan", "Decision", "Decisions", "Answer", "Status", "Role", "Scene"} <= set(
        scanengine.__all__
    )


@pytest.mark.parametrize("mode", [None, "none"])
def test_without_a_ledger_a_program_decides_only(shop: Shop, mode: str | None) -> None:
    with scanengine.open(str(shop.folder), ledger=mode) as program:
        assert program.decide(shop.code(0), now=NOON).status == scanengine.Status.VALID
        assert program.verify(shop.code(0), now=NOON).scan is None
        with pytest.raises(LedgerUnavailableError, match="ledger='own'"):
            program.claim(shop.code(0), user="ann")
    assert not shop.workspace.ledger_path.exists()


def test_a_mode_that_is_none_of_them_is_refused(shop: Shop) -> None:
    with pytest.raises(ValueError, match="'own', 'read', 'none' or None, found 'all'"):
        scanengine.open(shop.folder, ledger="all")  # type: ignore[arg-type]


def test_columns_have_the_types_of_the_page(shop: Shop) -> None:
    program = shop.program()
    for kind in kinds_of([*shop.codes(0, 51), shop.code(0)[::-1]]):
        decisions = program.decide_many(kind, now=NOON)
        assert {name: getattr(decisions, name).dtype.str.lstrip("<|") for name in COLUMNS} == COLUMNS
        lengths = {name: len(getattr(decisions, name)) for name in COLUMNS}
        offers = int(decisions.offer_start[-1])
        assert lengths == {
            "status": 52, "item": 52, "scenes": 52, "campaign": 52, "offer_start": 53, "rule": offers, "prize": offers,
            "amount": offers,
        }  # fmt: skip
        assert decisions.campaigns == ("spring",)
        assert len(decisions) == 52


def test_all_kinds_of_codes_are_decided_alike(shop: Shop) -> None:
    codes = [*shop.codes(0, 200), *shop.codes(CODES - 5, CODES), "0" * 20, shop.code(0).lower()]
    program = shop.program()
    one_by_one = [program.decide(code, now=NOON) for code in codes]
    expected = program.decide_many(codes, now=NOON)
    assert expected.status.tolist() == [decision.status for decision in one_by_one]
    assert expected.item.tolist() == [decision.item for decision in one_by_one]
    assert [int(item) for item in expected.item].count(NO_ITEM) == 1
    offers = [offer for decision in one_by_one for offer in decision.offers]
    assert list(zip(expected.rule.tolist(), expected.prize.tolist(), strict=True)) == [
        (offer.rule, offer.drawn) for offer in offers
    ]
    for kind in kinds_of(codes):
        assert_same(program.decide_many(kind, now=NOON), expected)


@pytest.mark.parametrize("role", ["consumer", "retailer", "inspector"])
@pytest.mark.parametrize("region", [None, "44", 440300])
def test_role_and_region_are_one_for_all_or_one_each(shop: Shop, role: str, region: str | int | None) -> None:
    codes = shop.codes(0, 60)
    program = shop.program()
    digits = {None: 0, "44": 440_000, 440300: 440_300}[region]
    roles = np.full(60, int(scanengine.Role[role.upper()]))
    expected = program.decide_many(codes, now=NOON, role=role, region=region)
    for kind in kinds_of(codes):
        for each_role in (role, scanengine.Role[role.upper()], roles, roles.astype(np.uint8)):
            for each_region in (region, np.full(60, digits), np.full(60, digits, np.uint32)):
                assert_same(program.decide_many(kind, now=NOON, role=each_role, region=each_region), expected)


def test_each_row_has_its_own_role_and_region(shop: Shop) -> None:
    codes = shop.codes(0, 90)
    program = shop.program()
    roles, regions = np.arange(90) % 5, np.array([0, 440_300, 110_000] * 30)
    for kind in kinds_of(codes):
        decisions = program.decide_many(kind, now=NOON, role=roles, region=regions)
        for row, code in enumerate(codes):
            one = program.decide(code, now=NOON, role=scanengine.Role(roles[row]), region=int(regions[row]))
            first, end = decisions.offer_start[row : row + 2].tolist()
            assert [(offer.rule, offer.drawn) for offer in one.offers] == list(
                zip(decisions.rule[first:end].tolist(), decisions.prize[first:end].tolist(), strict=True)
            )


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": np.zeros(3, int)}, {"region": np.zeros((5, 1), int)}, {"role": np.full(5, 5)},
        {"region": np.full(5, -1)}, {"role": np.zeros(5)}, {"role": "boss"}, {"region": "4"},
        {"now": datetime(2026, 1, 1)},  # noqa: DTZ001 - what must be refused
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_decided(shop: Shop, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shop.program().decide_many(shop.codes(0, 5), **({"now": NOON} | wrong))


def test_times_with_a_zone_are_those_in_milliseconds(shop: Shop) -> None:
    program = shop.program()
    moments = (NOON, NOON.astimezone(UTC), NOW_MS, None)
    assert len({program.decide(shop.code(0), now=moment).local_date for moment in moments}) == 1


def test_claims_of_many_threads_are_one_a_code(shop: Shop) -> None:
    """Goal: `claim` is blocking and safe for threads: ten threads race for the same codes."""
    codes = shop.codes(0, 20)
    winners: list[tuple[str, str]] = []
    with scanengine.open(shop.folder) as program:

        def race(user: str) -> None:
            for code in codes:
                answer = program.claim(code, user=user, now=NOON)
                if answer.claim and answer.claim.status in ("awarded", "no_prize"):
                    winners.append((code, user))

        threads = [threading.Thread(target=race, args=(f"user-{number}",)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        totals = program.ledger.totals()
    assert sorted(code for code, _ in winners) == sorted(codes)
    assert totals.claims == len(codes)


async def test_an_unknown_outcome_is_returned_and_not_raised() -> None:
    with sample_program() as program:
        scan = scanengine.Scan.of(program.code(), "ann", "v-1")
        calls = [
            lambda: asyncio.to_thread(program.claim, scan.code, user="ann", visit="v-1"),
            lambda: program.claim_async(scan.code, user="ann", visit="v-1"),
            lambda: program.claim_scan_async(scan),
        ]
        for call in calls:
            program.pending(1)
            assert (await call()).is_pending
        program.pending(1)
        assert program.claim_many([scan])[0].is_pending
        program.pending(1)
        assert (await program.claim_many_async([scan]))[0].is_pending
        assert (await program.claim_async(scan.code, user="ann", visit="v-1")).claim.replayed


def test_a_wrong_field_is_named() -> None:
    with sample_program() as program, pytest.raises(ScanError, match=r"^user: ") as refused:
        program.claim(program.code(), user="")
    assert refused.value.field == "user"
    assert isinstance(refused.value, ValueError)


def test_the_types_of_the_native_parts_are_what_was_compiled(tmp_path: Path) -> None:
    """Goal: a stub that says another thing than its module misleads every type checker."""
    modules = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in (ROOT / "src").rglob("*.pyx")]
    assert "scanengine._core" in modules
    allowed = ROOT / "tests" / "data" / "stubtest-allow.txt"
    options = ["--ignore-disjoint-bases", "--ignore-unused-allowlist", "--allowlist", allowed]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *map(str, options), *modules],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
