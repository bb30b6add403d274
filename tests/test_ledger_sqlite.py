"""What the SQLite ledger promises beyond the suite: concurrency, and trouble with the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from helpers_ledger import NOW_MS, Opener, a_campaign, a_claim, a_look, in_thread, problems_of, rows
from scanengine.errors import LedgerUnavailableError
from scanengine.ledger import PENDING, SqliteLedger, queries
from scanengine.model import NO_PRIZE, Adjustment, ClaimStatus, PrizeTerms, ScanFacts


@contextmanager
def kept_waiting(path: Path) -> Iterator[None]:
    """Someone else has the database locked for writing meanwhile."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def full_disk(ledger: SqliteLedger) -> Iterator[None]:
    """The database cannot grow meanwhile."""

    def limit(pages: int) -> None:
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")

    in_thread(ledger, lambda: limit(1))  # SQLite takes the present size where less is asked for.
    try:
        yield
    finally:
        in_thread(ledger, lambda: limit(1 << 30))


# Concurrency.


def test_many_threads_award_one_code_once(ledger: SqliteLedger, path: Path) -> None:
    barrier = threading.Barrier(64)

    def scan(n: int) -> str:
        barrier.wait()
        return str(ledger.claim(a_claim(1, f"user{n}")).status)

    with ThreadPoolExecutor(64) as threads:
        statuses = Counter(threads.map(scan, range(64)))
    assert statuses == {"awarded": 1, "taken": 63}
    assert ledger.observe(a_look(1)).count == 65
    assert problems_of(path) == []


async def test_many_tasks_award_one_code_once(ledger: SqliteLedger) -> None:
    receipts = await asyncio.gather(*(ledger.claim_async(a_claim(1, f"user{n}")) for n in range(64)))
    assert Counter(str(receipt.status) for receipt in receipts) == {"awarded": 1, "taken": 63}
    assert {receipt.scan.number for receipt in receipts if receipt.scan} == set(range(1, 65))


def test_budget_is_never_overspent_by_concurrent_winners(ledger: SqliteLedger, path: Path) -> None:
    terms = a_campaign((PrizeTerms(0, money=100, fallback=1), PrizeTerms(1)), budget_total=1000)
    with ThreadPoolExecutor(16) as threads:
        receipts = list(threads.map(lambda n: ledger.claim(a_claim(n, f"user{n}", terms=terms)), range(1000)))
    assert Counter(receipt.prize for receipt in receipts) == {0: 10, 1: 990}
    assert sorted(receipt.unit for receipt in receipts if receipt.prize == 0) == list(range(1, 11))
    assert problems_of(path, terms) == []


async def test_waiting_calls_are_committed_together(ledger: SqliteLedger) -> None:
    gate, reached = threading.Event(), threading.Event()
    statements: list[str] = []
    ledger._connection.set_trace_callback(statements.append)
    holding = asyncio.create_task(asyncio.to_thread(in_thread, ledger, lambda: (reached.set(), gate.wait())))
    await asyncio.to_thread(reached.wait)
    claims = [asyncio.create_task(ledger.claim_async(a_claim(n))) for n in range(300)]
    await asyncio.sleep(0)  # Each task has put its call in the queue.
    gate.set()
    receipts = await asyncio.gather(*claims)
    await holding
    assert sorted(receipt.unit for receipt in receipts) == list(range(1, 301))
    assert statements.count("COMMIT") == 1


def test_batch_holds_at_most_512_requests(ledger: SqliteLedger) -> None:
    statements: list[str] = []
    ledger._connection.set_trace_callback(statements.append)
    ledger.claim_many([a_claim(n) for n in range(1100)])
    assert statements.count("COMMIT") == 3


def test_questions_write_nothing(ledger: SqliteLedger) -> None:
    ledger.claim(a_claim(1))
    statements: list[str] = []
    ledger._connection.set_trace_callback(statements.append)
    ledger.claim(a_claim(1))
    ledger.observe(a_look(2, counts_scan=False))
    ledger.claim(a_claim(3, terms=None, counts_scan=False))
    assert "COMMIT" not in statements


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 100, 511, 512])
def test_batch_of_every_size_is_written_whole(ledger: SqliteLedger, path: Path, count: int) -> None:
    ledger.claim_many([a_claim(n, visit="v") for n in range(count)])
    ledger.claim_many([a_claim(n, "bob", visit="w") for n in range(count)])
    assert rows(path, "SELECT count(*), max(seq) FROM claims") == [(count, count)]
    assert rows(path, "SELECT count(*), max(seq) FROM scans") == [(count, count)]
    assert problems_of(path) == []


def test_reply_comes_after_the_commit(ledger: SqliteLedger, path: Path) -> None:
    for n in range(20):
        ledger.claim(a_claim(n))
        assert rows(path, "SELECT max(seq), (SELECT max(seq) FROM events) FROM claims") == [(n + 1, n + 1)]


async def test_reply_to_a_task_comes_after_the_commit(ledger: SqliteLedger, path: Path) -> None:
    async def claim_and_look(n: int) -> None:
        receipt = await ledger.claim_async(a_claim(n))
        assert rows(path, f"SELECT count(*) FROM claims WHERE seq = {receipt.unit}") == [(1,)]

    await asyncio.gather(*(claim_and_look(n) for n in range(40)))


async def test_cancelled_call_does_not_disturb_the_others(ledger: SqliteLedger, path: Path) -> None:
    with kept_waiting(path):
        tasks = [asyncio.create_task(ledger.claim_async(a_claim(n))) for n in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
    receipts = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(receipts[3], asyncio.CancelledError)
    assert all(receipt.status is ClaimStatus.AWARDED for n, receipt in enumerate(receipts) if n != 3)  # type: ignore[union-attr]


def test_event_loop_that_is_gone_does_not_disturb_the_ledger(ledger: SqliteLedger, path: Path) -> None:
    async def ask_and_leave() -> None:
        asyncio.create_task(ledger.claim_async(a_claim(1)))  # noqa: RUF006 - it is to be left behind.
        await asyncio.sleep(0)

    with kept_waiting(path):
        asyncio.run(ask_and_leave())
    assert ledger.claim(a_claim(2)).status is ClaimStatus.AWARDED
    assert asyncio.run(ledger.claim_async(a_claim(3))).status is ClaimStatus.AWARDED


# Trouble.


async def test_no_answer_in_time_is_pending_and_the_answer_comes_later(
    open_ledger: Opener, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanengine.ledger.waiting.OLD_SHARE", 1_000)  # However long others wait, all are let in.
    ledger = open_ledger(timeout_s=0.05)
    with kept_waiting(path):
        assert await asyncio.to_thread(ledger.claim, a_claim(1)) == PENDING
        assert await ledger.claim_async(a_claim(2)) == PENDING
        assert await asyncio.gather(*(ledger.claim_async(a_claim(n)) for n in (3, 4))) == [PENDING] * 2
        assert await ledger.claim_many_async([a_claim(n) for n in range(5, 700)]) == [PENDING] * 695
        for call in (lambda: ledger.observe(a_look(1)), lambda: ledger.announce(1)):
            with pytest.raises(LedgerUnavailableError):
                await asyncio.to_thread(call)
        with pytest.raises(LedgerUnavailableError):
            await ledger.observe_async(a_look(1))
    ledger.close()
    ledger = open_ledger()
    answers = [ledger.claim(a_claim(n)) for n in (1, 2, 3, 4)]
    assert [answer.status for answer in answers] == [ClaimStatus.AWARDED] * 4
    assert sorted(answer.unit for answer in answers) == [1, 2, 3, 4]
    ledger.close()
    assert problems_of(path) == []


async def look_at_many(ledger: SqliteLedger) -> None:
    await asyncio.gather(*(ledger.observe_async(a_look(n)) for n in range(5000, 5500)))


def test_failed_transaction_is_pending_and_changes_nothing(ledger: SqliteLedger, path: Path) -> None:
    terms = a_campaign((PrizeTerms(0, stock=600),), per_user=600)
    first = [ledger.claim(a_claim(n, terms=terms)) for n in range(5)]
    with full_disk(ledger):
        refused = [a_claim(n, terms=terms, visit="v" * 60) for n in range(100, 600)]
        assert ledger.claim_many(refused) == [PENDING] * 500
        assert "full" in (ledger.trouble or "")
        with pytest.raises(LedgerUnavailableError):
            asyncio.run(look_at_many(ledger))
        assert ledger.claim(a_claim(1, terms=terms)) == replace(first[1], replayed=True)
    assert rows(path, "SELECT count(*) FROM claims") == [(5,)]
    receipts = ledger.claim_many(refused)
    assert ledger.trouble is None
    assert [receipt.unit for receipt in receipts] == list(range(6, 506))
    assert all(receipt.scan == ScanFacts(1, NOW_MS, 1) for receipt in receipts)
    assert ledger.claim_many(refused) == [replace(receipt, replayed=True) for receipt in receipts]
    assert problems_of(path) == []


def test_failed_adjustment_is_said_and_can_be_made_again(ledger: SqliteLedger, path: Path) -> None:
    adjustment = Adjustment("x" * 9000, "spring", "stock", prize=0, amount=1)
    with full_disk(ledger), pytest.raises(LedgerUnavailableError, match="cannot be written"):
        ledger.adjust(adjustment)
    assert ledger.adjust(adjustment)
    assert not ledger.adjust(adjustment)
    terms = a_campaign((PrizeTerms(0, stock=0),))
    assert [ledger.claim(a_claim(n, terms=terms)).prize for n in range(2)] == [0, NO_PRIZE]


def test_bug_in_one_batch_is_pending_and_not_the_end(ledger: SqliteLedger, path: Path) -> None:
    impossible = a_campaign((PrizeTerms(0, money=1 << 63),))
    assert ledger.claim_many([a_claim(1), a_claim(2, terms=impossible)]) == [PENDING] * 2
    assert ledger.claim(a_claim(1)).unit == 1
    assert problems_of(path) == []


async def test_part_that_fails_is_pending_and_the_others_are_not(ledger: SqliteLedger, path: Path) -> None:
    impossible = a_campaign((PrizeTerms(0, money=1 << 63),))
    for start, claim_many in ((0, ledger.claim_many_async), (5000, partial(asyncio.to_thread, ledger.claim_many))):
        requests = [a_claim(start + n) for n in range(1100)]
        requests[700] = a_claim(start + 700, terms=impossible)
        receipts = await claim_many(requests)
        assert receipts[512:1024] == [PENDING] * 512
        given = receipts[:512] + receipts[1024:]
        assert {receipt.status for receipt in given} == {ClaimStatus.AWARDED}
        assert ledger.claim_many(requests[:512] + requests[1024:]) == [
            replace(receipt, replayed=True) for receipt in given
        ]
    assert ledger.totals().claims == 2 * (1100 - 512)
    assert problems_of(path) == []


def test_bug_in_trimming_is_not_the_end(
    ledger: SqliteLedger, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_: object) -> None:
        raise RuntimeError("lost")

    ledger.register_reader("accounts")
    ledger.claim_many([a_claim(n) for n in range(5)])
    with monkeypatch.context() as patch:
        patch.setattr(queries, "trim_events", stumble)
        ledger.ack("accounts", 3)
        assert ledger.claim(a_claim(5)).unit == 6
    assert "the ledger failed at its background work" in caplog.messages
    ledger.ack("accounts", 4)
    in_thread(ledger, lambda: None)
    assert [event.seq for event in ledger.events("accounts", 0, 99)] == [5, 6]
    assert problems_of(path) == []


def test_trim_that_fails_is_made_up_for(ledger: SqliteLedger, path: Path) -> None:
    ledger.register_reader("accounts")
    ledger.claim_many([a_claim(n) for n in range(10)])

    def refuse(action: int, table: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if (action, table) == (sqlite3.SQLITE_DELETE, "events") else sqlite3.SQLITE_OK

    in_thread(ledger, lambda: ledger._connection.set_authorizer(refuse))
    ledger.ack("accounts", 5)
    assert len(ledger.events("accounts", 0, 99)) == 10
    in_thread(ledger, lambda: ledger._connection.set_authorizer(None))
    ledger.ack("accounts", 7)
    in_thread(ledger, lambda: None)
    assert [event.seq for event in ledger.events("accounts", 0, 99)] == [8, 9, 10]
    assert problems_of(path) == []


def test_task_that_never_has_its_turn_is_unknown(open_ledger: Opener, path: Path) -> None:
    ledger = open_ledger(timeout_s=0.05)
    with kept_waiting(path), pytest.raises(LedgerUnavailableError, match=r"within 0\.05 s; the outcome is unknown"):
        ledger.adjust(Adjustment("a", "spring", "close"))
