"""``Program.look_async``: what a consumer's page asks. It counts visits, tells earlier claims, and claims nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import NOW_MS, Shop
from scanengine.program import Program, open_program


@pytest.fixture
def program(shop: Shop) -> Iterator[Program]:
    with open_program(shop.folder) as opened:
        opened.clock = lambda: NOW_MS
        yield opened


async def test_look_with_a_visit_counts_once_for_each_visit(program: Program, shop: Shop) -> None:
    (code,) = shop.codes(0, 1)
    for visit, count in (("v1", 1), ("v1", 1), ("v2", 2), (None, 2)):
        decision, answer = await program.look_async(code, visit=visit)
        assert answer.scan is not None
        assert (answer.scan.count, answer.claim) == (count, None)
        assert decision.campaign == "spring"
    assert answer.verdict == "repeat"


@pytest.mark.parametrize("with_user_first", [True, False])
async def test_look_tells_an_earlier_claim_and_makes_none(program: Program, shop: Shop, with_user_first: bool) -> None:
    (code,) = shop.codes(1, 2)
    if with_user_first:
        _, answer = await program.look_async(code, user="ann", visit="v1")
        assert (answer.claim, answer.verdict) == (None, "first_scan")
    claimed = await program.claim_async(code, user="ann", visit="v1")
    assert claimed.claim is not None
    assert not claimed.claim.replayed
    _, answer = await program.look_async(code, user="ann", visit="v1")
    assert answer.claim is not None
    assert answer.claim.replayed
    assert (answer.claim.id, answer.claim.prize) == (claimed.claim.id, claimed.claim.prize)
    _, others = await program.look_async(code, user="bob", visit="v2")
    assert others.claim is not None
    assert (others.claim.status, others.claim.prize) == ("taken", None)
    _, nobody = await program.look_async(code)
    assert nobody.claim is None
    assert nobody.scan is not None
    assert nobody.scan.count == 2


async def test_look_at_a_code_that_is_not_ours_asks_nothing(program: Program, shop: Shop) -> None:
    (code,) = shop.codes(2, 3)
    calls = program.ledger.calls
    for text in (code[:-1], code[:-1] + ("0" if code[-1] != "0" else "1"), "none"):
        decision, answer = await program.look_async(text, user="ann", visit="v1")
        assert (decision.batch, answer.scan, answer.claim) == (None, None, None)
    assert program.ledger.calls == calls


async def test_look_while_the_ledger_is_away_has_no_counts(program: Program, shop: Shop) -> None:
    (code,) = shop.codes(3, 4)
    program.ledger.close()
    for user in ("ann", None):
        _, answer = await program.look_async(code, user=user, visit="v1")
        assert (answer.status, answer.scan, answer.claim, answer.verdict) == ("valid", None, None, None)
