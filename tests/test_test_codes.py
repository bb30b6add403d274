"""Test codes never pay: they are decided and claimed like others, and what is real stays as it was."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import ACTIVE, CASH, NOW_MS, SPRING, Shop, a_shop, replaced
from helpers_cli import Run
from helpers_ledger import Opener, RedisOpener, audit_of_redis
from redis_servers import RedisServer
from scanengine import _core
from scanengine.campaigns import check_campaign_id
from scanengine.ledger import Ledger, SqliteReader, audit
from scanengine.model import TEST_SUFFIX, Status, terms_for_tests
from scanengine.program.auditing import audit_program
from scanengine.program.importing import import_batch
from scanengine.program.ledgers import open_ledger as open_own
from scanengine.program.moving import no_progress
from scanengine.program.publishing import create_batch
from scanengine.program.settings import load_settings

TIGHT = replaced(SPRING, "stock = 150", "stock = 3").replace("per_user = 5", "per_user = 4") + (
    '[budget]\ncurrency = "CNY"\ntotal = 35200\n'
)
REAL, TESTS = 40, 200


def a_tested_shop(folder: Path) -> Shop:
    """A shop with real codes, generated and imported test codes, and a campaign that is soon spent."""
    shop = a_shop(folder)
    shop.publish(TIGHT)
    create_batch(shop.workspace, shop.keyring, "trial", TESTS, test=True)
    lines = "".join(f"T{number}\n" for number in range(TESTS)).encode()
    import_batch(shop.workspace, shop.keyring, "trial-u", io.BytesIO(lines), test=True, progress=no_progress)
    for label in ("trial", "trial-u"):
        shop.assign(0, TESTS, ACTIVE, label)
    return shop


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return a_tested_shop(tmp_path_factory.mktemp("tested") / "shop")


def test_a_test_code_is_decided_like_others_under_terms_of_its_own(tested: Shop) -> None:
    engine = tested.engine
    real = engine.decide(tested.code(0), NOW_MS)
    assert (real.test, real.campaign, real.terms.id) == (False, "spring", "spring")
    for text in (tested.code(0, "trial"), "T7"):
        decision = engine.decide(text, NOW_MS)
        assert (decision.status, decision.test, decision.campaign) == (Status.VALID, True, "spring~test")
        assert decision.terms == terms_for_tests(real.terms)
        assert {(prize.money, prize.points) for prize in decision.terms.prizes} == {(0, 0)}
        assert len(decision.offers) == 1
    assert TEST_SUFFIX in decision.campaign
    assert check_campaign_id("spring~test") is not None


def test_arrays_of_test_codes_offer_nothing_of_worth(tested: Shop) -> None:
    texts = [*tested.codes(0, 100), *tested.codes(0, 100, "trial")]
    many = tested.engine.decide_many(texts, NOW_MS)
    names = [many.campaigns[number] for number in many.campaign.tolist()]
    assert names == ["spring"] * 100 + ["spring~test"] * 100
    assert (many.prize[:100] == CASH).any()
    assert (many.prize[100:] == CASH).any()
    assert many.amount[:100].any()
    assert not many.amount[100:].any()


def drawn_codes(shop: Shop, batch: str) -> list[str]:
    codes = shop.codes(0, TESTS, batch) if batch != "trial-u" else [f"T{number}" for number in range(TESTS)]
    many = shop.engine.decide_many(codes, NOW_MS)
    cash = [code for code, prize in zip(codes, many.prize.tolist(), strict=True) if prize == CASH]
    return cash + [code for code in codes if code not in cash]


def test_replies_and_events_of_tests_say_so_and_are_worth_nothing(
    tested: Shop, open_ledger: Opener, tmp_path: Path
) -> None:
    """Goal: whoever pays by replies, or by events, pays no test. Method: claim until money was drawn, and again."""
    ledger = open_ledger(tmp_path / "l.sqlite")
    program = tested.program(ledger)
    for batch in ("trial", "trial-u"):
        code = drawn_codes(tested, batch)[0]
        for is_again in (False, True):
            answer = program.claim(code, user="ann")
            assert (answer.test, answer.claim.status, answer.claim.replayed) == (True, "awarded", is_again)
            assert (answer.claim.prize.id, answer.claim.prize.amount) == ("cash-88", 0)
        assert b'"test":true' in _json(answer)
    real = program.claim(drawn_codes(tested, "cola")[0], user="ann")
    assert (real.claim.prize.amount, b'"test"' in _json(real)) == (8800, False)
    assert not real.test
    events = [event for _, event in _events(tmp_path / "l.sqlite")]
    assert [(event.campaign, event.amount) for event in events] == [
        ("spring~test", 0), ("spring~test", 0), ("spring", 8800),
    ]  # fmt: skip


def _json(answer: Any) -> bytes:
    return msgspec.json.encode(answer)


def _events(path: Path) -> list[Any]:
    with SqliteReader(path) as reader:
        return list(reader.events())


def run_through(shop: Shop, ledger: Ledger, order: list[tuple[bool, int, str]]) -> list[Any]:
    """Claim real and test codes in this order; return what was said of the real ones."""
    program = shop.program(ledger)
    said = []
    for is_test, number, user in order:
        batch = ("trial", "trial-u")[number % 2]
        codes = CODES[shop.folder, batch if is_test else "cola"]
        answer = program.claim(codes[number], user=user, visit=f"{is_test}-{number}-{user}")
        if not is_test:
            said.append((answer.claim.status, answer.claim.reason, answer.claim.prize))
    return said


CODES: dict[tuple[Path, str], list[str]] = {}
ORDERS = st.lists(
    st.tuples(st.booleans(), st.integers(0, REAL - 1), st.sampled_from(["ann", "bob", "carl"])), max_size=40
)
_numbers = itertools.count()


def expect_real_untouched(shop: Shop, order: list[tuple[bool, int, str]], with_tests: Ledger, without: Ledger) -> None:
    """Goal: stock, budget and persons' counts of the real campaign are the same, whatever tests were claimed.

    Method: the same real claims in two ledgers, one of them with test claims in between.
    """
    for batch in ("cola", "trial", "trial-u"):
        CODES.setdefault((shop.folder, batch), drawn_codes(shop, batch))
    assert run_through(shop, with_tests, order) == run_through(shop, without, [each for each in order if not each[0]])
    held = {campaign.id: campaign for campaign in with_tests.totals().campaigns}
    alone = {campaign.id: campaign for campaign in without.totals().campaigns}
    assert held.get("spring") == alone.get("spring")
    assert held.keys() <= {"spring", "spring~test"}
    if "spring~test" in held:
        assert held["spring~test"].money == 0


unhurried = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@unhurried
@given(ORDERS)
def test_real_totals_do_not_depend_on_tests(tested: Shop, open_ledger: Opener, tmp_path: Path, order: Any) -> None:
    number = next(_numbers)
    paths = [tmp_path / f"{number}-{name}.sqlite" for name in ("with", "without")]
    expect_real_untouched(tested, order, *map(open_ledger, paths))
    terms = tested.snapshot.prizes["spring"].terms
    with SqliteReader(paths[0]) as reader:
        assert audit(reader, {each.id: each for each in (terms, terms_for_tests(terms))}).problems == []


@settings(unhurried, max_examples=8)
@given(ORDERS)
def test_real_totals_do_not_depend_on_tests_in_redis(
    tested: Shop, redis_server: RedisServer, open_redis: RedisOpener, program_id: str, order: Any
) -> None:
    number = next(_numbers)
    names = [f"{name}{number}{program_id}" for name in ("with", "without")]
    expect_real_untouched(tested, order, *(open_redis(redis_server.url(), program_id=name) for name in names))
    terms = tested.snapshot.prizes["spring"].terms
    assert audit_of_redis(redis_server.url(), names[0], terms, terms_for_tests(terms))[1] == []


def test_audit_and_ledger_commands_understand_tests(tmp_path: Path, run: Run) -> None:
    """Goal: what the ledger holds of tests is shown, audited and moved like everything else."""
    shop = a_tested_shop(tmp_path / "shop")
    made = run("-w", shop.folder, "batch", "create", "more", "--count", 5, "--test", "--json")
    assert json.loads(made.out)["test"] is True
    code = drawn_codes(shop, "trial")[0]
    # The campaign of the helpers is open on 1 May 2026, and commands go by the clock of the machine.
    settings_ = load_settings(shop.workspace.settings_path)
    ledger = open_own(shop.workspace, settings_, shop.keyring)
    answer = shop.program(ledger).claim(code, user="ann")
    ledger.close()
    assert answer.claim.status == "awarded"
    witness = tmp_path / "witness.ndjson"
    witness.write_bytes(_json(answer) + b"\n")
    report = audit_program(shop.workspace, settings_, shop.keyring, witness)
    assert (report.is_clean, report.acknowledged) == (True, 1)
    assert "spring~test" in run("-w", shop.folder, "ledger", "show").out
    exported = tmp_path / "ledger.ndjson"
    assert run("-w", shop.folder, "ledger", "export", exported).code == 0
    shop.workspace.ledger_path.unlink()
    assert run("-w", shop.folder, "ledger", "import", exported).code == 0
    assert "spring~test" in run("-w", shop.folder, "ledger", "show").out
    assert run("-w", shop.folder, "batch", "list").out.count(" test") >= 3


def test_the_core_draws_for_tests_by_the_same_rules(tested: Shop) -> None:
    """The two campaigns of a test batch share one key: a draw is a function of campaign and code, and of no flag."""
    decision = tested.engine.decide(tested.code(3, "trial"), NOW_MS)
    words = _core.draw_words(tested.keyring.draw_key("spring"), decision.item, decision.offers[0].rule)
    thresholds, aliases, outcomes = tested.snapshot.prizes["spring"].columns(1)
    column = _core.alias_draw(np.array(thresholds, np.uint64), np.array(aliases, np.uint32), *words)
    assert outcomes[column] == decision.offers[0].drawn
