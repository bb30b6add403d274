"""Calls and the life of a ledger in Redis: threads, event loops, forks, cancelled callers, and closing in the midst."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from helpers import run_python
from helpers_ledger import NOW_MS, RedisOpener, a_claim, a_look, same_claim
from redis_servers import RedisServer
from scanengine.errors import LedgerUnavailableError, OverloadedError
from scanengine.ledger import PENDING
from scanengine.ledger.redis import RedisLedger
from scanengine.ledger.redis.channel import Channel
from scanengine.model import ClaimStatus, ScanFacts
from serving import in_threads

Starter = Callable[..., RedisServer]


@pytest.fixture
def ledger(redis_server: RedisServer, open_redis: RedisOpener) -> RedisLedger:
    return open_redis(redis_server.url(), timeout_s=30.0)


def test_one_ledger_serves_loops_that_come_and_go(ledger: RedisLedger) -> None:
    async def call(start: int) -> list[int]:
        receipts = await asyncio.gather(*(ledger.claim_async(a_claim(start + item)) for item in range(20)))
        return [receipt.unit for receipt in receipts]

    units = [unit for start in range(0, 100, 20) for unit in asyncio.run(call(start))]
    assert sorted(units) == list(range(1, 101))
    assert ledger.claim(a_claim(100)).unit == 101


def test_threads_and_loops_call_side_by_side(ledger: RedisLedger) -> None:
    async def call_many(caller: int) -> list[str]:
        receipts = await asyncio.gather(*(ledger.claim_async(a_claim(item, f"{caller}")) for item in range(200)))
        return [str(receipt.status) for receipt in receipts]

    def call(caller: int) -> list[str]:
        if caller % 2:
            return asyncio.run(call_many(caller))
        return [str(ledger.claim(a_claim(item, f"{caller}")).status) for item in range(200)]

    found = Counter(status for statuses in in_threads(4, call) for status in statuses)
    assert found == {"awarded": 200, "taken": 600}


async def test_caller_that_goes_away_has_claimed_and_disturbs_nobody(ledger: RedisLedger) -> None:
    tasks = [asyncio.create_task(ledger.claim_async(a_claim(item))) for item in range(60)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    answers = [result for result in results if not isinstance(result, BaseException)]
    assert {receipt.status for receipt in answers} == {ClaimStatus.AWARDED}
    again = await ledger.claim_many_async([a_claim(item) for item in range(60)])
    assert all(receipt.replayed for receipt in again[1::2])
    assert sorted(receipt.unit for receipt in again) == list(range(1, 61))


def test_call_of_any_size_is_answered(ledger: RedisLedger) -> None:
    """The line of waiting calls has an end, but one call is not turned away from an empty line."""
    requests = [a_claim(item, f"{item}") for item in range(25_000)]
    receipts = ledger.claim_many(requests)
    assert Counter(str(receipt.status) for receipt in receipts) == {"awarded": 25_000}


async def test_parts_of_one_call_reach_the_server_in_order() -> None:
    """Two batches may be on their way at a time, and the first may have more to prepare than the second."""
    reached: list[int] = []

    async def handle(requests: list[int], is_wanted: Callable[[], bool]) -> list[int | None]:
        for _ in range(0 if reached else 20):
            await asyncio.sleep(0)
        reached.extend(requests)
        return list(requests)

    channel: Channel[int, int] = Channel(handle, _nothing, batch_max=2, timeout_s=30.0)
    assert await channel.ask(range(7)) == list(range(7)) == reached
    channel.finish()


async def test_nothing_is_sent_after_a_part_of_which_nothing_is_known() -> None:
    reached: list[int] = []

    async def handle(requests: list[int], is_wanted: Callable[[], bool]) -> list[int | None]:
        reached.extend(requests)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    channel: Channel[int, int] = Channel(handle, _nothing, batch_max=2, timeout_s=0.01)
    assert await channel.ask(range(7)) == [None] * 7
    assert reached == [0, 1]
    channel.abort()


async def _nothing() -> None:
    pass


async def test_line_of_waiting_calls_has_an_end(
    start_server: Starter, open_redis: RedisOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a server that does not answer costs no memory without bounds: those who come too late are refused at once.

    Method: with the server paused, ask for more than may wait; those refused are the late ones.
    """
    monkeypatch.setattr("scanengine.ledger.waiting.WAITING_MAX", 200)
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=60.0)
    await ledger.claim_async(a_claim(0))
    server.pause()
    tasks = [asyncio.create_task(ledger.claim_async(a_claim(item, f"{item}"))) for item in range(1, 1_001)]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert {type(task.exception()) for task in done} == {OverloadedError}
    assert len(waiting) >= 200
    server.resume()
    receipts = await asyncio.gather(*waiting)
    assert Counter(str(receipt.status) for receipt in receipts) == {"awarded": len(waiting)}
    assert (ledger.refused, ledger.totals().claims) == (len(done), 1 + len(waiting))
    again = await ledger.claim_many_async([a_claim(item, f"{item}") for item in range(1, 101)])
    assert {receipt.status for receipt in again} == {ClaimStatus.AWARDED}


def test_closing_answers_what_was_asked(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    ledger = open_redis(redis_server.url())
    told: list[object] = []
    begun = threading.Event()

    def call() -> None:
        for item in range(100_000):
            try:
                told.append(ledger.claim(a_claim(item)))
            except LedgerUnavailableError:
                return
            begun.set()

    caller = threading.Thread(target=call)
    caller.start()
    begun.wait(60)
    ledger.close()
    caller.join(60)
    assert not caller.is_alive()
    later = open_redis(redis_server.url())
    for item, receipt in enumerate(told):
        if receipt != PENDING:
            assert same_claim(later.claim(a_claim(item))) == same_claim(receipt)
    # At most the call that was under way was not told.
    assert later.totals().claims <= len(told) + 1


def test_closing_does_not_wait_for_a_server_that_is_gone(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=0.5)
    ledger.claim(a_claim(1))
    server.pause()
    assert ledger.claim(a_claim(2)) == PENDING
    ledger.close()
    with pytest.raises(LedgerUnavailableError, match="closed"):
        ledger.claim(a_claim(2))


FORK = """
import os, sys
from helpers_ledger import a_claim, a_look
from scanengine.errors import LedgerUnavailableError
from scanengine.ledger.redis import RedisLedger
from scanengine.ledger.redis.channel import Channel
ledger = RedisLedger(sys.argv[1], sys.argv[2], durability="volatile", outbox="keep")
assert ledger.claim(a_claim(1)).unit == 1
child = os.fork()
if not child:
    refused = 0
    for call in (lambda: ledger.claim(a_claim(2)), lambda: ledger.observe(a_look(1)), ledger.totals, ledger.close):
        try:
            call()
        except LedgerUnavailableError as error:
            refused += "fork" in str(error)
    os._exit(0 if refused == 4 else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert ledger.claim(a_claim(3)).unit == 2
ledger.close()
print("done")
"""


def test_fork_is_refused_and_does_no_harm(redis_server: RedisServer, program_id: str) -> None:
    assert run_python(FORK, redis_server.url(), program_id) == "done\n"


def test_visit_of_a_claim_that_was_given_up_is_counted_once(ledger: RedisLedger) -> None:
    """A retry with the same visit is the same scan, through whatever call it comes."""
    first = ledger.claim(a_claim(1, visit="v"))
    assert ledger.observe(a_look(1, "v")) == first.scan == ScanFacts(1, NOW_MS, 1)
    assert ledger.claim_many([a_claim(1, visit="v")] * 3) == [replace(first, replayed=True)] * 3
