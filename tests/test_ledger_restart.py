"""What the SQLite ledger knows again after a restart, an orderly one or not, and what its file says of each day."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from helpers_ledger import (
    CLOSES_MS,
    DATE,
    DAY_MS,
    NOW_MS,
    OPENS_MS,
    TIME_MS_MAX,
    Opener,
    a_campaign,
    a_claim,
    a_look,
    in_thread,
    problems_of,
    rows,
    status_of,
)
from scanengine.ledger import SqliteLedger, schema
from scanengine.model import NO_PRIZE, Adjustment, ClaimRequest, ClaimStatus, ObserveRequest, PrizeTerms, ScanFacts


def a_copy(path: Path, folder: Path) -> Path:
    """The file as a machine that stopped at this moment would leave it: nobody has tidied up."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(path.with_name(path.name + suffix), folder)
    return folder / path.name


def test_everything_outlives_a_restart(open_ledger: Opener) -> None:
    terms = a_campaign((PrizeTerms(0, money=10, stock=3),), per_user=2, per_user_per_day=1, budget_total=40)
    ledger = open_ledger()
    ledger.register_reader("accounts")
    first = ledger.claim(a_claim(1, terms=terms, visit="v"))
    ledger.observe(a_look(1, "w", now_ms=NOW_MS + 7))
    ledger.observe(a_look(2, "x", now_ms=NOW_MS + 8))
    ledger.observe(a_look(2, "y", now_ms=NOW_MS + 9))
    ledger.adjust(Adjustment("a", "spring", "stock", prize=0, amount=1))
    ledger.announce(3)
    before = ledger.totals()
    ledger.close()

    ledger = open_ledger()
    assert (ledger.totals(), ledger.generation, ledger.calls) == (before, 3, 0)
    assert ledger.claim(a_claim(1, terms=terms, visit="v")) == replace(
        first, replayed=True, scan=ScanFacts(2, NOW_MS, 1)
    )
    assert ledger.observe(a_look(1, "w")) == ScanFacts(2, NOW_MS, 2)
    assert ledger.observe(a_look(2, "x")) == ScanFacts(2, NOW_MS + 8, 1)
    assert not ledger.adjust(Adjustment("a", "spring", "stock", prize=0, amount=1))
    again = a_claim(3, terms=terms, generation=3)
    assert status_of(ledger.claim(again)) == ("limited", "per_user_per_day")
    assert ledger.claim(a_claim(4, "bob", terms=terms, generation=3)).unit == 2
    assert [event.seq for event in ledger.events("accounts", 0, 9)] == [1, 2]


def test_time_outlives_a_restart_even_if_nothing_was_recorded(open_ledger: Opener) -> None:
    ledger = open_ledger()
    ended = a_claim(1, now_ms=CLOSES_MS, counts_scan=False)
    assert status_of(ledger.claim(ended)) == ("closed", "ended")
    ledger.close()
    ledger = open_ledger()
    assert status_of(ledger.claim(a_claim(1))) == ("closed", "ended")


def test_time_of_a_look_does_not_outlive_anything(open_ledger: Opener) -> None:
    ledger = open_ledger()
    ledger.claim(a_claim(1))
    ledger.observe(a_look(1, counts_scan=False, now_ms=TIME_MS_MAX))
    ledger.close()
    assert open_ledger().claim(a_claim(2)).at_ms == NOW_MS


@pytest.mark.parametrize("newest", [a_claim(2, now_ms=NOW_MS + 1000), a_look(2, now_ms=NOW_MS + 1000)])
def test_time_of_a_record_outlives_a_power_cut(
    open_ledger: Opener, path: Path, tmp_path: Path, newest: ClaimRequest | ObserveRequest
) -> None:
    """Goal: time never runs back. Method: open a copy of the file while its owner lives, who saves it at close."""
    ledger = open_ledger()
    if isinstance(newest, ClaimRequest):
        ledger.claim(newest)
    else:
        ledger.observe(newest)
    ledger = open_ledger(a_copy(path, tmp_path / "copy"))
    assert ledger.claim(a_claim(3, now_ms=NOW_MS)).at_ms == NOW_MS + 1000


def test_time_of_an_answer_is_durable_before_the_answer(ledger: SqliteLedger, path: Path) -> None:
    ledger.claim(a_claim(1, now_ms=CLOSES_MS, counts_scan=False))
    assert rows(path, "SELECT value FROM meta WHERE key = 'clock_ms'") == [(CLOSES_MS,)]


def test_event_numbers_never_start_again(open_ledger: Opener, path: Path) -> None:
    ledger = open_ledger()
    ledger.register_reader("accounts")
    ledger.claim_many([a_claim(n) for n in range(9000)])
    ledger.ack("accounts", 9000)
    ledger.close()
    ledger = open_ledger()
    in_thread(ledger, lambda: None)
    ledger.claim(a_claim(9001))
    assert [event.seq for event in ledger.events("accounts", 0, 9)] == [9001]
    ledger.close()
    # A trim that was cut short by a close goes on when the ledger is opened again.
    open_ledger().claim(a_claim(9002))
    assert problems_of(path) == []


def test_event_numbers_go_on_after_everything_was_trimmed(open_ledger: Opener, path: Path) -> None:
    ledger = open_ledger()
    ledger.register_reader("accounts")
    ledger.claim_many([a_claim(n) for n in range(3)])
    ledger.ack("accounts", 3)
    in_thread(ledger, lambda: None)
    assert rows(path, "SELECT count(*) FROM events") == [(0,)]
    ledger.close()
    ledger = open_ledger()
    ledger.claim(a_claim(4))
    assert [(event.seq, event.item) for event in ledger.events("accounts", 3, 9)] == [(4, 4)]
    assert problems_of(path) == []


def test_person_of_yesterday_is_not_limited_today_after_a_restart(open_ledger: Opener) -> None:
    terms = a_campaign(per_user_per_day=1)
    ledger = open_ledger()
    ledger.claim(a_claim(1, "ann", terms=terms, local_date=DATE))
    ledger.claim(a_claim(2, "bob", terms=terms, local_date=DATE + 1))
    ledger.close()
    ledger = open_ledger()
    assert ledger.claim(a_claim(3, "ann", terms=terms, local_date=DATE + 1)).status is ClaimStatus.AWARDED
    again = [ledger.claim(a_claim(4, user, terms=terms, local_date=DATE + 1)) for user in ("ann", "bob")]
    assert [status_of(receipt) for receipt in again] == [("limited", "per_user_per_day")] * 2


def test_people_of_the_newest_day_are_known_after_a_restart(open_ledger: Opener) -> None:
    terms = a_campaign(per_user_per_day=2, per_user=3)
    ledger = open_ledger()
    for item, date in enumerate((DATE, DATE, DATE + 1)):
        ledger.claim(a_claim(item, terms=terms, local_date=date))
    ledger.claim(a_claim(3, "bob", terms=terms, local_date=DATE + 1))
    ledger.close()
    ledger = open_ledger()
    assert status_of(ledger.claim(a_claim(9, terms=terms, local_date=DATE + 1))) == ("limited", "per_user")
    assert ledger.claim(a_claim(9, "bob", terms=terms)).status is ClaimStatus.AWARDED
    assert status_of(ledger.claim(a_claim(10, "bob", terms=terms))) == ("limited", "per_user_per_day")


# Days.


def counters(path: Path) -> dict[tuple[object, ...], object]:
    """Values by kind, number and date; there is one campaign."""
    return {
        (kind, number, date): value
        for kind, number, date, value in rows(path, "SELECT kind, number, date, value FROM counters WHERE campaign = 1")
    }


def test_batch_that_crosses_midnight_has_the_counters_of_both_days(open_ledger: Opener, path: Path) -> None:
    """Goal: no day is lost. Method: the last millisecond of a day and the first of the next in one transaction."""
    terms = a_campaign(
        (PrizeTerms(0, money=10, stock_per_day=2, fallback=1), PrizeTerms(1)), budget_per_day=20, per_user_per_day=3
    )
    midnight_ms = OPENS_MS + DAY_MS
    evening = {"terms": terms, "now_ms": midnight_ms - 1, "local_date": DATE}
    morning = {"terms": terms, "now_ms": midnight_ms, "local_date": DATE + 1}
    ledger = open_ledger()
    receipts = ledger.claim_many(
        [a_claim(n, **evening) for n in range(3)]
        + [a_claim(n, **morning) for n in range(3, 5)]
        + [a_claim(5, **evening), a_claim(6, "bob", drawn=NO_PRIZE, **morning)]
    )
    assert [receipt.prize for receipt in receipts] == [0, 0, 1, 0, 0, 1, NO_PRIZE]
    claims, awards, money = schema.COUNT_CLAIMS, schema.COUNT_AWARDS, schema.COUNT_MONEY
    expected = {
        (claims, 0, 0): 7, (awards, 0, 0): 4, (awards, 1, 0): 2, (money, 0, 0): 40,
        (claims, 0, DATE): 3, (awards, 0, DATE): 2, (awards, 1, DATE): 1, (money, 0, DATE): 20,
        (claims, 0, DATE + 1): 4, (awards, 0, DATE + 1): 2, (awards, 1, DATE + 1): 1, (money, 0, DATE + 1): 20,
    }  # fmt: skip
    assert counters(path) == expected
    assert problems_of(path, terms) == []
    ledger.close()
    ledger = open_ledger()
    assert status_of(ledger.claim(a_claim(7, **evening))) == ("limited", "per_user_per_day")
    assert ledger.claim(a_claim(7, "bob", **morning)).prize == 1
    assert problems_of(path, terms) == []


def test_batch_over_many_days_adds_to_the_first_and_writes_each(ledger: SqliteLedger, path: Path) -> None:
    ledger.claim_many([a_claim(n, local_date=DATE) for n in range(2)])
    ledger.claim_many([a_claim(n, local_date=DATE + day) for n, day in enumerate((0, 1, 1, 4, 2, 5), start=2)])
    days = {date: value for (kind, _, date), value in counters(path).items() if kind == schema.COUNT_CLAIMS}
    assert days == {0: 8, DATE: 3, DATE + 1: 2, DATE + 4: 2, DATE + 5: 1}
    assert problems_of(path) == []


def test_batch_that_crosses_midnight_and_fails_leaves_no_day_behind(ledger: SqliteLedger, path: Path) -> None:
    ledger.claim(a_claim(1))
    before = counters(path)
    impossible = a_campaign((PrizeTerms(0, money=1 << 63),))
    receipts = ledger.claim_many([a_claim(2), a_claim(3, local_date=DATE + 1), a_claim(4, terms=impossible)])
    assert {receipt.status for receipt in receipts} == {ClaimStatus.PENDING}
    assert counters(path) == before
    assert ledger.claim(a_claim(2)).unit == 2
    assert problems_of(path) == []
