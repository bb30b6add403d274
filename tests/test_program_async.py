"""Programs in an event loop: the same answers, and a caller that goes away has claimed all the same."""

from __future__ import annotations

import asyncio
import threading

import pytest

import scanengine
from helpers import NOW_MS, Shop
from scanengine.ledger import SqliteLedger
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
