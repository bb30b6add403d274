"""Programs in an event loop: the same answers, and a caller that goes away has claimed all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

import scanengine
from helpers import NOW_MS, Shop
from scanengine.errors import LedgerUnavailableError
from scanengine.ledger import MemoryLedger, SqliteLedger
from scanengine.model import ClaimRequest, Receipt, Scene, SegmentState
from scanengine.program.publishing import SceneChange
from scanengine.program.scans import Scan


async def test_a_cancelled_caller_has_claimed_all_the_same(shop: Shop) -> None:
    """Goal: whoever stops waiting does not hand the code to the next person.

    Method: hold the ledger's thread, cancel the task when its claim is in the queue, let the thread go on.
    """
    code = shop.code(0)
    with scanengine.open(shop.folder) as program:
        ledger = program.ledger
        assert isinstance(ledger, SqliteLedger)
        is_held, release = threading.Event(), threading.Event()
        holder = threading.Thread(target=lambda: ledger._calls.run(lambda: is_held.set() or release.wait()))
        holder.start()
        is_held.wait()
        task = asyncio.create_task(program.claim_async(code, user="ann", now=NOW_MS))
        await asyncio.sleep(0)
        task.cancel()
        release.set()
        holder.join()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer = await program.claim_async(code, user="bob", now=NOW_MS)
        assert answer.claim is not None
        assert answer.claim.status == "taken"
        again = await program.claim_async(code, user="ann", now=NOW_MS)
        assert again.claim is not None
        assert again.claim.replayed


async def test_awaited_answers_are_those_of_blocking_calls(shop: Shop) -> None:
    code = shop.code(0)
    with scanengine.open(shop.folder) as program:
        codes = shop.codes(0, 600)
        scans = [Scan.of(text, f"user-{index % 300}", f"visit-{index}") for index, text in enumerate(codes)]
        awaited = await program.claim_many_async(scans, now=NOW_MS)
        blocking = await asyncio.to_thread(program.claim_many, scans, now=NOW_MS)
        assert [answer.claim.id for answer in awaited] == [answer.claim.id for answer in blocking]
        assert [answer.claim.prize for answer in awaited] == [answer.claim.prize for answer in blocking]
        looked = await program.verify_async(code, now=NOW_MS)
        assert looked == program.verify(code, now=NOW_MS)
    with scanengine.open(shop.folder, ledger="read") as reader:
        assert await reader.verify_async(code, now=NOW_MS) == looked


class Turns(MemoryLedger):
    """A ledger that remembers how many claims it was asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.error: Exception | None = None

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        if self.error is not None:
            raise self.error
        self.asked.append(len(requests))
        return await super().claim_many_async(requests)


async def test_claims_of_one_turn_of_the_loop_are_made_together(shop: Shop) -> None:
    ledger = Turns()
    program = shop.program(ledger)
    codes = shop.codes(0, 40)
    answers = await asyncio.gather(*(program.claim_async(code, user=f"user-{code}") for code in codes))
    assert [answer.code for answer in answers] == codes
    assert ledger.asked == [40]
    await program.claim_async(shop.code(50), user="ann")
    assert ledger.asked == [40, 1]


async def test_who_leaves_before_the_turn_ends_has_claimed_all_the_same(shop: Shop) -> None:
    ledger = Turns()
    program = shop.program(ledger)
    leaving = asyncio.create_task(program.claim_async(shop.code(0), user="ann"))
    staying = asyncio.create_task(program.claim_async(shop.code(1), user="bob"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).claim.replayed is False
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await program.claim_async(shop.code(0), user="eve")).claim.status == "taken"


async def test_an_error_reaches_everybody_who_waits(shop: Shop) -> None:
    ledger = Turns()
    ledger.error = LedgerUnavailableError("the ledger is closed")
    program = shop.program(ledger)
    claims = [program.claim_async(code, user="ann") for code in shop.codes(0, 3)]
    found = await asyncio.gather(*claims, return_exceptions=True)
    assert [str(error) for error in found] == ["the ledger is closed"] * 3
    ledger.error = None
    assert (await program.claim_async(shop.code(0), user="ann")).claim.replayed is False


def test_every_event_loop_gathers_for_itself(shop: Shop) -> None:
    program = shop.program(Turns())
    for offset in range(3):
        answer = asyncio.run(program.claim_async(shop.code(offset), user="ann"))
        assert answer.claim is not None


async def test_tables_are_read_again_outside_the_event_loop(shop: Shop) -> None:
    """A publication that a claim meets is taken over in a thread; if the ledger cannot be told, it is pending."""
    ledger = Turns()
    program = shop.program(ledger)
    shop.assign(0, 9, SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, "spring"))
    ledger.announce(shop.workspace.read_manifest().generation)
    threads = []

    def refresh() -> bool:
        threads.append(threading.current_thread())
        raise LedgerUnavailableError("the ledger is away")

    program.refresh = refresh  # type: ignore[method-assign]
    answer = await program.claim_async(shop.code(0), user="ann")
    assert answer.is_pending
    assert threads
    assert threading.main_thread() not in threads
    del program.refresh
    assert (await program.claim_async(shop.code(0), user="ann")).claim.replayed is False
