"""Large batches on their way to the ledger: others come in between, one deadline for all, refusals in their place."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Sequence

import pytest

from helpers import CODES, HOUR_MS, NOW_MS, Shop
from scanengine.errors import LedgerUnavailableError, OverloadedError
from scanengine.ledger import PENDING, MemoryLedger, SqliteLedger, schema
from scanengine.ledger.calls import _Task
from scanengine.ledger.redis import ledger as redis_ledger
from scanengine.model import Answer, ClaimRequest, Receipt, Scene, SegmentState
from scanengine.program import Program
from scanengine.program.gathering import CLAIMS_AT_ONCE
from scanengine.program.parts import PARTS_AT_ONCE
from scanengine.program.publishing import SceneChange, create_batch
from scanengine.program.scans import Scan

PARTS = -(-CODES // CLAIMS_AT_ONCE)
OVERLOADED = OverloadedError("too much is asked")


class Gate(MemoryLedger):
    """A ledger whose calls wait until the test lets them in, first come first served as in every ledger.

    Attributes
    ----------
    asked : list of int
        Number of claims in each call, in the order in which they came.
    """

    def __init__(self, refuse: Callable[[int], Exception | None] = lambda _: None) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.let_in: list[bool] = []
        self.refuse = refuse
        self._waiting: list[asyncio.Event] = []
        self.is_open = False

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        self.asked.append(len(requests))
        self.let_in.append(is_let_in)
        refusal = self.refuse(len(self.asked))
        if refusal is not None:
            raise refusal
        if not self.is_open:
            turn = asyncio.Event()
            self._waiting.append(turn)
            await turn.wait()
        return await super().claim_many_async(requests)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def answer_one(self) -> None:
        """Answer the call that has waited for longest."""
        self._waiting.pop(0).set()

    def open(self) -> None:
        """Answer all calls, now and later."""
        self.is_open = True
        while self._waiting:
            self.answer_one()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


def scans_of(codes: Sequence[str], user: str = "batch") -> list[Scan]:
    return [Scan.of(code, f"{user}-{number % 250}", f"visit-{code}") for number, code in enumerate(codes)]


def statuses_of(found: Sequence[Answer | OverloadedError]) -> list[str]:
    """Return the status of each claim, ``overloaded`` for a refusal."""
    return [
        "overloaded" if isinstance(each, OverloadedError) else each.claim.status if each.claim else each.status
        for each in found
    ]


def test_a_group_of_claims_fits_a_batch_of_every_ledger() -> None:
    """A ledger takes or refuses a batch whole, and so each group: nobody is told what became of others' claims."""
    assert min(schema.BATCH_MAX, redis_ledger.BATCH_MAX) >= CLAIMS_AT_ONCE


async def test_a_single_claim_does_not_wait_for_a_batch_of_10000(shop: Shop) -> None:
    """Goal: whoever comes while a batch is on its way is next but for what waits already.

    Method: a ledger that answers in the order of the calls, one at a time; count the calls before the single one.
    """
    create_batch(shop.workspace, shop.keyring, "many", 10_000)
    shop.assign(0, 10_000, SceneChange(SegmentState.ACTIVE, Scene.MARKETING, "spring"), "many")
    ledger = Gate()
    program = shop.program(ledger)
    codes = shop.codes(0, 10_000, "many")
    batch = asyncio.create_task(program.claim_each_async(scans_of(codes)))
    await settle()
    for _ in range(10):
        assert ledger.waiting == PARTS_AT_ONCE
        ledger.answer_one()
        await settle()
    single = asyncio.create_task(program.claim_async(shop.code(0), user="ann"))
    await settle()
    assert ledger.asked.count(1) == 1
    ahead = ledger.waiting - 1
    assert ahead == PARTS_AT_ONCE
    for _ in range(ahead + 1):
        assert not single.done()
        ledger.answer_one()
        await settle()
    assert (await single).claim is not None
    assert not batch.done()
    assert len(ledger.asked) < 20
    ledger.open()
    assert [each.code for each in await batch if isinstance(each, Answer)] == codes
    assert max(ledger.asked) == CLAIMS_AT_ONCE


@pytest.mark.parametrize("count", [0, 1, CLAIMS_AT_ONCE, CLAIMS_AT_ONCE + 1, CODES])
async def test_answers_come_in_order_however_many_there_are(shop: Shop, count: int) -> None:
    ledger = Gate()
    ledger.open()
    program = shop.program(ledger)
    codes = [code if number % 7 else f"junk {number}" for number, code in enumerate(shop.codes(0, count))]
    found = await program.claim_each_async(scans_of(codes))
    assert [each.code for each in found if isinstance(each, Answer)] == [
        code if number % 7 else None for number, code in enumerate(codes)
    ]
    again = await program.claim_many_async(scans_of(codes))
    assert [each.claim and each.claim.id for each in again] == [
        each.claim and each.claim.id for each in found if isinstance(each, Answer)
    ]


async def test_bad_codes_cost_no_call_and_let_others_in_between(shop: Shop) -> None:
    """Goal: a batch that needs no ledger does not hold the event loop. Method: count the loop's turns meanwhile."""
    ledger = Gate()
    program = shop.program(ledger)
    turns = 0
    batch = asyncio.create_task(program.claim_each_async(scans_of(["hello"] * 10_000)))
    while not batch.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10_000 // CLAIMS_AT_ONCE // PARTS_AT_ONCE
    assert ledger.asked == []
    assert set(statuses_of(await batch)) == {"malformed"}


class Silent(Gate):
    """A ledger that answers some calls, and then is in trouble."""

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        receipts = await super().claim_many_async(requests, is_let_in=is_let_in)
        if len(self.asked) <= 2:
            return receipts
        self.trouble = "the ledger is away"
        return [PENDING] * len(requests)


@pytest.mark.parametrize("kind", ["each", "whole"])
async def test_a_ledger_that_is_away_is_waited_for_once(shop: Shop, kind: str) -> None:
    """Goal: one deadline, not one for each part. Method: count the calls made after the first unanswered one."""
    ledger = Silent()
    program = shop.program(ledger)
    scans = scans_of(["hello", *shop.codes(0, CODES)])
    batch = asyncio.create_task(program.claim_each_async(scans) if kind == "each" else program.claim_many_async(scans))
    await settle()
    assert len(ledger.asked) == PARTS_AT_ONCE
    ledger.open()
    found = statuses_of(await batch)
    assert len(ledger.asked) <= 2 * PARTS_AT_ONCE
    assert found[0] == "malformed"
    assert set(found[-CLAIMS_AT_ONCE:]) == {"pending"}
    assert len(found) == len(scans)


class Late(SqliteLedger):
    """A ledger whose thread is busy until the end of a test, so that calls wait for their whole deadline."""

    def __init__(self, shop: Shop, timeout_s: float) -> None:
        super().__init__(shop.workspace.ledger_path, "program-1", timeout_s=timeout_s)
        self.asked = 0
        self.free = threading.Event()
        self._calls._queue.put(_Task(lambda: self.free.wait() and None))

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        self.asked += 1
        return await super().claim_many_async(requests, is_let_in=is_let_in)


async def test_a_ledger_that_is_late_is_waited_for_once(shop: Shop) -> None:
    """Goal: one deadline, though the ledger does not know of any trouble."""
    timeout_s = 0.05
    settings = shop.workspace.settings_path
    settings.write_text(settings.read_text().replace("[ledger]", f"[ledger]\ntimeout_s = {timeout_s}", 1))
    ledger = Late(shop, timeout_s)
    with shop.program(ledger) as program:
        try:
            found = statuses_of(await program.claim_many_async(scans_of(shop.codes(0, CODES))))
            assert ledger.trouble is None
        finally:
            ledger.free.set()
    assert set(found) == {"pending"}
    assert ledger.asked == PARTS_AT_ONCE


class Damaged(Gate):
    """A ledger that cannot tell of one person's claims, whose records are damaged."""

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        receipts = await super().claim_many_async(requests, is_let_in=is_let_in)
        return [PENDING if request.user == "eve" else each for request, each in zip(requests, receipts, strict=True)]


async def test_a_damaged_claim_alone_in_its_part_does_not_speak_for_the_ledger(shop: Shop) -> None:
    ledger = Damaged()
    ledger.open()
    codes = shop.codes(0, CODES)
    alone = [*scans_of(["hello"] * (CLAIMS_AT_ONCE - 1)), Scan.of(codes.pop(), "eve", None)]
    found = statuses_of(await shop.program(ledger).claim_each_async([*alone, *scans_of(codes)]))
    assert found.count("pending") == 1
    assert sum(ledger.asked) == CODES


class Failing(Gate):
    """A ledger whose first call finds it in trouble, and whose second is answered all the same."""

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        is_first = not self.asked
        receipts = await super().claim_many_async(requests, is_let_in=is_let_in)
        self.trouble = "the ledger is away" if is_first else None
        return [PENDING] * len(requests) if is_first else receipts


async def test_a_part_that_was_under_way_does_not_have_the_ledger_asked_again(shop: Shop) -> None:
    """Goal: one deadline. Method: of two parts that end together the first is not answered and the second is."""
    ledger = Failing()
    batch = asyncio.create_task(shop.program(ledger).claim_each_async(scans_of(shop.codes(0, CODES))))
    await settle()
    while ledger.waiting:
        ledger.answer_one()
    ledger.open()
    found = statuses_of(await batch)
    assert len(ledger.asked) == PARTS_AT_ONCE
    assert found.count("pending") == CODES - CLAIMS_AT_ONCE


async def test_parts_that_are_refused_are_told_so_and_the_others_keep_their_answers(shop: Shop) -> None:
    ledger = Gate(lambda call: OVERLOADED if call > 4 else None)
    program = shop.program(ledger)
    codes = shop.codes(0, CODES)
    batch = asyncio.create_task(program.claim_each_async(scans_of(codes)))
    await settle()
    ledger.open()
    found = await batch
    shown = statuses_of(found)
    assert shown.count("overloaded") == CODES - 4 * CLAIMS_AT_ONCE
    assert set(shown) <= {"awarded", "no_prize", "overloaded", "limited"}
    assert not any(ledger.let_in)
    ledger.refuse = lambda _: None
    again = await program.claim_each_async(scans_of(codes))
    for first, second in zip(found, again, strict=True):
        assert isinstance(second, Answer)
        assert second.claim is not None
        # What was refused has not been done, and what was answered has been.
        if isinstance(first, OverloadedError):
            assert not second.claim.replayed
        elif first.claim is not None and first.claim.status != "limited":
            assert second.claim.replayed


async def test_a_batch_gets_by_with_what_the_ledger_takes(shop: Shop) -> None:
    """Goal: a batch alone is not refused by a ledger that takes one part at a time, or hesitates once."""
    for refuse in (lambda call: OVERLOADED if call == 2 else None, lambda call: OVERLOADED if call == 5 else None):
        ledger = Gate(refuse)
        batch = asyncio.create_task(shop.program(ledger).claim_each_async(scans_of(shop.codes(0, CODES))))
        await settle()
        ledger.open()
        assert "overloaded" not in statuses_of(await batch)


async def test_a_whole_batch_is_refused_by_its_first_part_or_not_at_all(shop: Shop) -> None:
    """Goal: whoever is told that nothing was done can rely on it."""
    refusing = Gate(lambda _: OVERLOADED)
    with pytest.raises(OverloadedError):
        await shop.program(refusing).claim_many_async(scans_of(shop.codes(0, CODES)))
    assert refusing.asked == [CLAIMS_AT_ONCE]
    ledger = Gate()
    ledger.open()
    await shop.program(ledger).claim_many_async(scans_of(shop.codes(0, CODES)))
    assert ledger.let_in == [False] + [True] * (PARTS - 1)


async def test_codes_that_need_no_ledger_do_not_let_the_others_in(shop: Shop) -> None:
    """Goal: bad codes in front are no way around a ledger that takes no more."""
    scans = scans_of([*["hello"] * 3 * CLAIMS_AT_ONCE, *shop.codes(0, CODES)])
    refusing = Gate(lambda _: OVERLOADED)
    with pytest.raises(OverloadedError):
        await shop.program(refusing).claim_many_async(scans)
    assert refusing.let_in == [False]
    ledger = Gate()
    ledger.open()
    assert len(await shop.program(ledger).claim_many_async(scans)) == len(scans)
    assert ledger.let_in == [False] + [True] * (PARTS - 1)


async def test_claims_decided_again_are_not_refused(shop: Shop) -> None:
    """Goal: a part of which some are recorded is never told that nothing was done. Method: publish in between."""
    ledger = Gate()
    ledger.open()
    program: Program = shop.program(ledger)
    shop.assign(0, 9, SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, "spring"))
    ledger.announce(shop.workspace.read_manifest().generation)
    found = statuses_of(await program.claim_each_async(scans_of(shop.codes(0, 9))))
    assert set(found) <= {"awarded", "no_prize"}
    assert ledger.let_in == [False, True]


@pytest.mark.parametrize("kind", ["each", "whole"])
async def test_cancelling_a_batch_does_not_cancel_its_claims(shop: Shop, kind: str) -> None:
    ledger = Gate()
    program = shop.program(ledger, NOW_MS + HOUR_MS)
    scans = scans_of(shop.codes(0, CODES))
    batch = asyncio.create_task(program.claim_each_async(scans) if kind == "each" else program.claim_many_async(scans))
    await settle()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    ledger.open()
    while len(ledger.asked) < PARTS:
        await asyncio.sleep(0)
    await settle()
    again = await program.claim_many_async(scans)
    assert all(each.claim is not None and each.claim.replayed for each in again if each.claim.status != "limited")
    assert any(each.claim.replayed for each in again[-CLAIMS_AT_ONCE:])


def test_a_loop_that_ends_under_way_says_nothing(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    program = shop.program(Gate())

    async def leave() -> asyncio.Task[list[Answer]]:
        batch = asyncio.create_task(program.claim_many_async(scans_of(shop.codes(0, CODES))))
        await settle()
        return batch

    assert asyncio.run(leave()).cancelled()
    gc.collect()
    assert caplog.text == ""


async def test_a_closed_ledger_is_an_error_of_the_whole_batch(shop: Shop) -> None:
    ledger = Gate(lambda call: LedgerUnavailableError("the ledger is closed") if call > 2 else None)
    ledger.open()
    with pytest.raises(LedgerUnavailableError, match="closed"):
        await shop.program(ledger).claim_each_async(scans_of(shop.codes(0, CODES)))
