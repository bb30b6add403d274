"""A ledger that stalls refuses what would wait too long, and carries out exactly what it let in: on each backend."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers_ledger import NOW_MS, RedisOpener, a_claim, a_look, audit_of_redis, problems_of
from redis_servers import RedisServer, server_binaries
from scanengine.errors import LedgerUnavailableError, OverloadedError
from scanengine.ledger import Ledger, SqliteLedger
from scanengine.model import ClaimStatus, Receipt, ScanFacts

BATCH_MAX = 8
CLAIMS_MAX = 1_000
WAIT_S = 60.0


class Slow(NamedTuple):
    """A ledger, and ways to stall it and to look for faults in it."""

    ledger: Ledger
    stalled: Callable[[], AbstractContextManager[None]]
    problems: Callable[[], list[str]]


@pytest.fixture(params=["sqlite", *sorted(server_binaries())])
def slow(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    open_redis: RedisOpener,
    program_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Slow]:
    """A ledger that refuses as soon as a whole batch waits, however short; its deadline is far away."""
    monkeypatch.setattr("scanengine.ledger.waiting.OLD_SHARE", 0)
    for module in ("schema", "redis.ledger"):
        monkeypatch.setattr(f"scanengine.ledger.{module}.BATCH_MAX", BATCH_MAX)
    if request.param == "sqlite":
        path = tmp_path / "ledger.sqlite"
        ledger = SqliteLedger(path, "program-1", timeout_s=WAIT_S)

        @contextmanager
        def held() -> Iterator[None]:
            gate, reached = threading.Event(), threading.Event()
            with ThreadPoolExecutor(1) as threads:
                threads.submit(ledger._calls.run, lambda: (reached.set(), gate.wait()))
                reached.wait()
                try:
                    yield
                finally:
                    gate.set()

        yield Slow(ledger, held, lambda: problems_of(path))
        ledger.close()
        return
    with RedisServer(server_binaries()[request.param], tmp_path / "server") as server:

        @contextmanager
        def paused() -> Iterator[None]:
            server.pause()
            try:
                yield
            finally:
                server.resume()

        yield Slow(
            open_redis(server.url(), timeout_s=WAIT_S), paused, lambda: audit_of_redis(server.url(), program_id)[1]
        )


async def until_refused(claim: Callable[[int], asyncio.Task[Receipt]]) -> tuple[list[asyncio.Task[Receipt]], int]:
    """Claim one item after the other until one is refused; return those let in, and the number of the refused one."""
    let_in: list[asyncio.Task[Receipt]] = []
    for item in range(CLAIMS_MAX):
        task = claim(item)
        for _ in range(5):
            await asyncio.sleep(0)
        if task.done():
            assert isinstance(task.exception(), OverloadedError)
            return let_in, item
        let_in.append(task)
    raise AssertionError(f"{CLAIMS_MAX} claims wait for a ledger that stalls")


async def test_a_stalled_ledger_refuses_and_carries_out_what_it_let_in(slow: Slow) -> None:
    ledger = slow.ledger
    await ledger.claim_async(a_claim(5_000))
    with slow.stalled():
        let_in, refused = await until_refused(lambda item: asyncio.create_task(ledger.claim_async(a_claim(item))))
        assert let_in
        for call in (
            ledger.claim_async(a_claim(refused)),
            ledger.claim_many_async([a_claim(item) for item in range(refused, refused + 700)]),
            ledger.observe_async(a_look(5_000)),
        ):
            with pytest.raises(OverloadedError, match="nothing was done"):
                await call
    receipts = await asyncio.gather(*let_in)
    # In the order in which they were asked for.
    assert [receipt.unit for receipt in receipts] == list(range(2, 2 + len(let_in)))
    assert (ledger.calls, ledger.refused) == (1 + len(let_in), 703)
    assert ledger.totals().claims == 1 + len(let_in)
    # What was refused is not there: another person claims it.
    later = await ledger.claim_many_async([a_claim(item, "bob") for item in range(refused, refused + 700)])
    assert {receipt.status for receipt in later} == {ClaimStatus.AWARDED}
    assert await ledger.observe_async(a_look(5_000)) == ScanFacts(2, NOW_MS, 2)
    assert [problem for problem in slow.problems() if "not published" not in problem] == []


async def test_a_call_of_many_parts_is_let_in_whole_or_not_at_all(slow: Slow) -> None:
    ledger = slow.ledger
    receipts = await ledger.claim_many_async([a_claim(item) for item in range(1_300)])
    assert {receipt.status for receipt in receipts} == {ClaimStatus.AWARDED}
    with slow.stalled():
        let_in, refused = await until_refused(
            lambda item: asyncio.create_task(ledger.claim_async(a_claim(10_000 + item)))
        )
        assert refused
        late = asyncio.create_task(ledger.claim_many_async([a_claim(20_000)], is_let_in=True))
        await asyncio.sleep(0)
        assert not late.done()
    await asyncio.gather(*let_in)
    (receipt,) = await late
    assert receipt.status is ClaimStatus.AWARDED


def test_blocking_callers_are_refused_as_well(slow: Slow) -> None:
    ledger = slow.ledger
    with ThreadPoolExecutor(32) as threads:
        with slow.stalled():
            asked: list[Future[Receipt]] = []
            while len(asked) < 32 and not any(call.done() for call in asked):
                asked.append(threads.submit(ledger.claim, a_claim(len(asked))))
                wait(asked, 0.05, FIRST_COMPLETED)
            refused = [call for call in asked if call.done()]
            assert refused
            assert all(isinstance(call.exception(), OverloadedError) for call in refused)
        found = [call.result() for call in asked if call not in refused]
    assert {receipt.status for receipt in found} == {ClaimStatus.AWARDED}
    assert ledger.totals().claims == len(found)


async def test_refusals_stop_when_the_ledger_is_back(slow: Slow) -> None:
    ledger = slow.ledger
    with slow.stalled():
        let_in, refused = await until_refused(lambda item: asyncio.create_task(ledger.claim_async(a_claim(item))))
    await asyncio.gather(*let_in)
    assert (await ledger.claim_async(a_claim(refused))).status is ClaimStatus.AWARDED


async def test_a_closed_ledger_is_not_overloaded(slow: Slow) -> None:
    slow.ledger.close()
    with pytest.raises(LedgerUnavailableError) as raised:
        await slow.ledger.claim_async(a_claim())
    assert not isinstance(raised.value, OverloadedError)
