"""Many callers, ledgers and processes on one program at the same time: every promise holds between them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from helpers import run_python
from helpers_ledger import (
    DATE,
    NOW_MS,
    RedisOpener,
    a_campaign,
    a_claim,
    a_look,
    audit_of_redis,
    same_claim,
    status_of,
)  # fmt: skip
from redis_servers import RedisServer
from scanengine.model import Adjustment, ClaimStatus, PrizeTerms, Receipt, ScanFacts
from serving import in_threads

ITEMS = 240
PURSE = a_campaign(
    (PrizeTerms(0, money=10, stock=100, fallback=1), PrizeTerms(1, money=3, stock_per_day=60)),
    budget_total=1_100, budget_per_day=1_100,
)  # fmt: skip
"""100 large awards take 1,000; 33 small ones take 99 of the rest."""


def check_purse(winners: list[Receipt], url: str, program_id: str) -> None:
    """Check that the winners of all items have exactly what the campaign can give."""
    assert len(winners) == ITEMS
    assert Counter(receipt.prize for receipt in winners) == {0: 100, 1: 33, -1: ITEMS - 133}
    for prize, given in ((0, 100), (1, 33)):
        assert sorted(receipt.unit for receipt in winners if receipt.prize == prize) == list(range(1, given + 1))
    assert audit_of_redis(url, program_id, PURSE) == (ITEMS, [])


def test_ledgers_race_for_codes_and_budget(redis_server: RedisServer, open_redis: RedisOpener, program_id: str) -> None:
    url = redis_server.url()
    ledgers = [open_redis(url), open_redis(url)]

    def call(caller: int) -> list[Receipt]:
        ledger = ledgers[caller % 2]
        return [ledger.claim(a_claim(item, f"user-{caller}", terms=PURSE)) for item in range(ITEMS)]

    by_caller = in_threads(6, call)
    winners = []
    for receipts in zip(*by_caller, strict=True):
        (winner,) = [receipt for receipt in receipts if receipt.status is not ClaimStatus.TAKEN]
        assert not winner.replayed
        winners.append(winner)
        assert sorted(receipt.scan.number for receipt in receipts) == [1, 2, 3, 4, 5, 6]
    check_purse(winners, url, program_id)


PROCESS = """
import json, sys
from helpers_ledger import a_claim
from scanengine.ledger.redis import RedisLedger
from test_redis_races import ITEMS, PURSE
url, program_id, user = sys.argv[1:]
ledger = RedisLedger(url, program_id, durability="volatile", outbox="keep", timeout_s=60)
told = []
for start in range(0, ITEMS, 5):
    requests = [a_claim(item, user, terms=PURSE) for item in range(start, start + 5)]
    told += [[str(receipt.status), receipt.prize, receipt.unit] for receipt in ledger.claim_many(requests)]
ledger.close()
print(json.dumps(told))
"""


def test_processes_race_for_codes_and_budget(redis_server: RedisServer, program_id: str) -> None:
    url = redis_server.url()
    by_process: list[Any] = in_threads(
        3, lambda index: json.loads(run_python(PROCESS, url, program_id, f"user-{index}"))
    )
    winners = []
    for answers in zip(*by_process, strict=True):
        (winner,) = [answer for answer in answers if answer[0] != "taken"]
        winners.append(Receipt(ClaimStatus(winner[0]), prize=winner[1], unit=winner[2]))
    check_purse(winners, url, program_id)


def test_one_person_who_asks_many_times_at_once_has_one_claim(
    redis_server: RedisServer, open_redis: RedisOpener
) -> None:
    ledgers = [open_redis(redis_server.url()), open_redis(redis_server.url())]
    terms = a_campaign(per_user=1, per_user_per_day=1)
    receipts = in_threads(8, lambda index: ledgers[index % 2].claim(a_claim(1, terms=terms)))
    assert {same_claim(receipt) for receipt in receipts} == {same_claim(receipts[0])}
    assert status_of(receipts[0]) == ("awarded", None)
    assert [receipt.replayed for receipt in receipts].count(False) == 1
    assert {receipt.scan for receipt in receipts} == {ScanFacts(1, NOW_MS, 1)}


def test_limit_of_a_person_holds_between_ledgers(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    ledgers = [open_redis(redis_server.url()), open_redis(redis_server.url())]
    terms = a_campaign(per_user=5)
    receipts = in_threads(
        8, lambda index: [ledgers[index % 2].claim(a_claim(index * 10 + i, terms=terms)) for i in range(5)]
    )
    found = Counter(status_of(receipt) for many in receipts for receipt in many)
    assert found == {("awarded", None): 5, ("limited", "per_user"): 35}


def test_scans_from_many_callers_are_counted_exactly(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    """An engine that reads a count and writes it back loses scans as soon as two come at once."""
    ledgers = [open_redis(redis_server.url()), open_redis(redis_server.url())]

    def call(caller: int) -> list[int]:
        ledger = ledgers[caller % 2]
        numbers = [ledger.observe(a_look(1, f"{caller}-{visit}")).number for visit in range(30)]
        return [*numbers, ledger.claim(a_claim(1, f"{caller}", visit=f"{caller}-c")).scan.number]

    numbers = [number for many in in_threads(8, call) for number in many]
    assert sorted(numbers) == list(range(1, 8 * 31 + 1))
    assert ledgers[0].observe(a_look(1, counts_scan=False)) == ScanFacts(8 * 31, NOW_MS, 0)
    assert audit_of_redis(redis_server.url(), program_id, a_campaign()) == (1, [])


async def test_tasks_of_one_loop_race_over_two_ledgers(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    # More than a batch waits at once, and is let in however slow the machine.
    ledgers = [open_redis(redis_server.url(), timeout_s=60.0) for _ in range(2)]
    receipts = await asyncio.gather(
        *(ledgers[n % 2].claim_async(a_claim(n // 3, f"user-{n % 3}", terms=PURSE)) for n in range(3 * ITEMS))
    )
    check_purse([receipt for receipt in receipts if receipt.status is not ClaimStatus.TAKEN],
                redis_server.url(), program_id)  # fmt: skip


def test_adjustment_sent_twice_is_applied_once(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    ledgers = [open_redis(redis_server.url()), open_redis(redis_server.url())]
    more = Adjustment("more", "spring", "stock", prize=0, amount=5)
    applied = in_threads(6, lambda index: ledgers[index % 2].adjust(more))
    assert sorted(applied) == [False] * 5 + [True]
    assert ledgers[1].totals().campaigns[0].extra_stock == {0: 5}


def test_what_one_ledger_is_told_the_other_knows(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    one, other = open_redis(redis_server.url()), open_redis(redis_server.url())
    one.announce(5)
    assert other.claim(a_claim(1, generation=4)).status is ClaimStatus.STALE
    assert other.generation == 5
    one.adjust(Adjustment("stop", "spring", "pause"))
    assert status_of(other.claim(a_claim(1, generation=5))) == ("closed", "paused")
    other.adjust(Adjustment("go", "spring", "resume"))
    first = one.claim(a_claim(1, generation=5))
    assert other.claim(a_claim(1, generation=5)).replayed
    assert other.claim(a_claim(1, "bob", generation=5)).at_ms == first.at_ms
    one.register_reader("accounts")
    assert [event.item for event in other.events("accounts", 0, 9)] == [1]
    other.ack("accounts", 1)
    assert one.events("accounts", 0, 9) == []
    # Time is the ledger's, whoever's clock is ahead.
    later = other.claim(a_claim(2, now_ms=NOW_MS + 9_000, local_date=DATE, generation=5))
    assert one.claim(a_claim(3, generation=5)).at_ms == later.at_ms == NOW_MS + 9_000


def test_larger_calls_than_one_batch_share_the_program(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledgers = [open_redis(redis_server.url()), open_redis(redis_server.url())]
    requests = [a_claim(item, f"user-{item}") for item in range(3_000)]
    by_ledger = in_threads(2, lambda index: ledgers[index].claim_many(requests))
    for one, other in zip(*by_ledger, strict=True):
        assert same_claim(one) == same_claim(other)
        assert one.replayed != other.replayed
    assert sorted(receipt.unit for receipt in by_ledger[0]) == list(range(1, 3_001))
    assert ledgers[0].totals().events == 3_000
    assert audit_of_redis(redis_server.url(), program_id, a_campaign()) == (3_000, [])


def test_largest_batch_of_things_that_have_nothing_in_common(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    """Every request has a bucket, person, date and campaign or prize of its own, and every item many scans."""
    ledger = open_redis(redis_server.url())
    prizes = tuple(PrizeTerms(number, money=1) for number in range(256))
    few = [a_campaign(prizes, id=f"campaign-{number}", per_user=9) for number in range(40)]
    far_apart = [
        a_claim(item * 131, f"{item}", terms=few[item % 40], local_date=DATE + item, drawn=item % 256)
        for item in range(2_000)
    ]
    alike = [a_claim(7, "eve", visit=f"v{number}", terms=few[0], local_date=DATE + 9_000) for number in range(2_000)]
    dates = [
        a_claim(1_000_000 + item, f"{item}", terms=few[1], local_date=DATE + 9_000 + item, drawn=item % 256)
        for item in range(2_000)
    ]
    for requests in (far_apart, alike, dates):
        receipts = ledger.claim_many(requests)
        assert {receipt.status for receipt in receipts} == {ClaimStatus.AWARDED}, ledger.trouble
    assert audit_of_redis(redis_server.url(), program_id, *few) == (4_001, [])
