"""Closing comes to an end, whatever the callers and their event loops do meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import pytest

from helpers_ledger import RedisOpener, a_claim
from redis_servers import RedisServer, wait_until
from scanengine.errors import LedgerUnavailableError, OverloadedError
from scanengine.ledger import PENDING
from scanengine.ledger.redis import RedisLedger
from scanengine.model import Receipt
from serving import WAIT_S

Starter = Callable[..., RedisServer]


def closed_in_time(ledger: RedisLedger) -> bool:
    closer = threading.Thread(target=ledger.close)
    closer.start()
    closer.join(WAIT_S)
    return not closer.is_alive()


def test_cancelled_caller_of_a_server_that_is_away_does_not_hold_it_up(
    start_server: Starter, open_redis: RedisOpener
) -> None:
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=1.0)
    is_cancelled = threading.Event()
    may_end = threading.Event()

    async def call() -> None:
        await ledger.claim_async(a_claim(1))
        server.kill()
        claim = asyncio.create_task(ledger.claim_async(a_claim(2)))
        await asyncio.sleep(0.05)
        claim.cancel()
        is_cancelled.set()
        await asyncio.to_thread(may_end.wait, WAIT_S)

    caller = threading.Thread(target=asyncio.run, args=(call(),))
    caller.start()
    assert is_cancelled.wait(WAIT_S)
    assert closed_in_time(ledger)
    may_end.set()
    caller.join()


def test_loops_that_begin_and_end_meanwhile_do_not_hold_it_up(
    redis_server: RedisServer, open_redis: RedisOpener
) -> None:
    """Callers are answered, or told that the ledger is closed, and nothing else."""
    for _ in range(15):
        ledger = open_redis(redis_server.url(), timeout_s=5.0)
        strange: list[BaseException] = []

        def call(ledger: RedisLedger = ledger, strange: list[BaseException] = strange) -> None:
            async def claim(item: int) -> Receipt:
                return await ledger.claim_async(a_claim(item))

            try:
                for item in range(1_000):
                    asyncio.run(claim(item % 7))
            except LedgerUnavailableError:
                pass
            except BaseException as error:  # noqa: BLE001 - whatever else it is, the test shall say so
                strange.append(error)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        wait_until(lambda ledger=ledger: ledger.calls > 20, "some calls")
        assert closed_in_time(ledger)
        for caller in callers:
            caller.join(WAIT_S)
        assert strange == []
        assert not any(caller.is_alive() for caller in callers)


def test_control_call_in_flight_is_told(open_redis: RedisOpener) -> None:
    ledger = open_redis("redis://127.0.0.1:1/0", timeout_s=30.0)
    errors: list[BaseException] = []

    def announce() -> None:
        try:
            ledger.announce(7)
        except LedgerUnavailableError as error:
            errors.append(error)

    caller = threading.Thread(target=announce)
    caller.start()
    wait_until(lambda: bool(asyncio.all_tasks(ledger._background.loop)), "the call")
    assert closed_in_time(ledger)
    caller.join(WAIT_S)
    assert len(errors) == 1


async def test_closing_inside_the_loop_tells_those_who_wait_at_once(
    start_server: Starter, open_redis: RedisOpener
) -> None:
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=60.0)
    await ledger.claim_async(a_claim(1))
    server.pause()
    waiting = [asyncio.create_task(ledger.claim_async(a_claim(item))) for item in range(2, 5)]
    await asyncio.sleep(0.05)
    with contextlib.ExitStack() as stack:
        stack.callback(server.resume)
        ledger.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), WAIT_S / 2) == [PENDING] * 3


@pytest.mark.parametrize("count", [20_001, 40_000])
async def test_calls_beyond_the_line_leave_nothing_behind(
    count: int, start_server: Starter, open_redis: RedisOpener
) -> None:
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=60.0)
    await ledger.claim_async(a_claim(1))
    server.pause()
    futures = []
    for item in range(count):
        with contextlib.suppress(OverloadedError):
            futures.append(ledger._channel().begin((a_claim(item),)))
    assert (len(futures), ledger.refused) == (20_000, count - 20_000)
    assert len(ledger._channel()._port._waiting) == 20_000
    server.kill()
