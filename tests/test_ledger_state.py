"""Any history of calls gives the same answers from each ledger as from the model, across restarts.

Goal: the indexes, counters and records that make a ledger fast never change what it says.
Method: hypothesis makes up histories of few items, few persons and tight limits, so that everything collides.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from helpers_ledger import DATE, DAY_MS, OPENS_MS, TIME_MS_MAX, a_campaign, a_claim, a_look
from redis_servers import RedisServer, server_binaries
from scanengine.errors import AdjustmentError
from scanengine.ledger import Ledger, LedgerReader, MemoryLedger, SqliteLedger, SqliteReader, audit
from scanengine.ledger.redis import RedisLedger, RedisReader
from scanengine.model import NO_PRIZE, Adjustment, Offer, Party, PrizeTerms, Role

PRIZES = (
    PrizeTerms(0, money=80, stock=2, stock_per_day=1, fallback=1),
    PrizeTerms(1, money=30, stock=3, fallback=2),
    PrizeTerms(2, stock_per_day=2),
    PrizeTerms(3, stock=0, fallback=2),
    None,
)
SPRING = a_campaign(
    PRIZES, closes_ms=OPENS_MS + 20 * DAY_MS, per_user=5, per_user_per_day=2, budget_total=250, budget_per_day=120
)
AUTUMN = replace(a_campaign(PRIZES), id="autumn", opens_ms=OPENS_MS + DAY_MS)
READERS = ("accounts", "payouts")

HOUR_MS = 3_600_000

items = st.integers(0, 19)
people = st.sampled_from(["ann", "bob", "cid"])
visits = st.sampled_from(["v", "w", "x", "y"])
steps_ms = st.sampled_from([0, 0, 1, HOUR_MS, HOUR_MS, 7 * HOUR_MS, DAY_MS - 1, -1, -HOUR_MS, -DAY_MS])
"""Time until the next call; less than nothing is a clock that is behind for this one call."""


prizes = st.sampled_from([0, 0, 1, 1, 2, 2, 3, 4, len(PRIZES), NO_PRIZE])
few = st.sampled_from([1, 1, 1, 0])


@st.composite
def claims(draw):
    """A claim whose time is still to be set."""
    party = draw(st.sampled_from(Party))
    offers = draw(st.lists(st.builds(Offer, st.integers(0, 2), prizes), min_size=draw(few), max_size=2))
    return a_claim(
        draw(items), draw(people), visit=draw(visits), party=party, offers=tuple(offers),
        terms=draw(st.sampled_from([SPRING, SPRING, SPRING, SPRING, AUTUMN, AUTUMN, None])),
        generation=draw(st.sampled_from([2] * 7 + [1])), counts_scan=draw(st.booleans()),
        refusal=None if offers else "no_rule", role=Role.RETAILER if party else Role.CONSUMER,
    )  # fmt: skip


def adjusted(ledger: Ledger, adjustment: Adjustment) -> bool | str:
    """What an adjustment is answered; an id that was used for something else is refused, by all in the same words."""
    try:
        return ledger.adjust(adjustment)
    except AdjustmentError as error:
        return str(error)


class LedgerMachine(RuleBasedStateMachine):
    """The same calls to both."""

    @initialize(scan_events=st.booleans())
    def open(self, scan_events: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.program_id = f"program-{secrets.token_hex(8)}"
        self.scan_events = scan_events
        self.now_ms = OPENS_MS - 1
        self.model = MemoryLedger(scan_events=scan_events)
        self.ledger = self.open_ledger()
        for reader in READERS:
            self.model.register_reader(reader)
            self.ledger.register_reader(reader)

    def open_ledger(self) -> Ledger:
        return SqliteLedger(self.folder / "ledger.sqlite", self.program_id, scan_events=self.scan_events)

    def open_reader(self) -> LedgerReader:
        return SqliteReader(self.folder / "ledger.sqlite")

    def after(self, step_ms):
        """The time of the next call; it passes days, midnights and at last the end of spring."""
        self.now_ms += max(step_ms, 0)
        return self.now_ms + min(step_ms, 0)

    def timed(self, claim, step_ms):
        now_ms = self.after(step_ms)
        return replace(claim, now_ms=now_ms, local_date=DATE + (now_ms - OPENS_MS) // DAY_MS)

    @rule(batch=st.lists(st.tuples(claims(), steps_ms), min_size=3, max_size=8))
    def claim_many(self, batch):
        requests = [self.timed(claim, step_ms) for claim, step_ms in batch]
        assert self.ledger.claim_many(requests) == self.model.claim_many(requests)

    @rule(claim=claims(), step_ms=steps_ms)
    def claim(self, claim, step_ms):
        request = self.timed(claim, step_ms)
        assert self.ledger.claim(request) == self.model.claim(request)

    @rule(item=items, visit=visits, step_ms=steps_ms)
    def observe(self, item, visit, step_ms):
        request = a_look(item, visit, now_ms=self.after(step_ms))
        assert self.ledger.observe(request) == self.model.observe(request)

    @rule(item=items, visit=visits, now_ms=st.one_of(st.integers(0, TIME_MS_MAX), st.just(TIME_MS_MAX)))
    def look(self, item, visit, now_ms):
        request = a_look(item, visit, counts_scan=False, now_ms=now_ms)
        assert self.ledger.observe(request) == self.model.observe(request)

    @rule(
        id_=st.integers(0, 9).map(str),
        campaign=st.sampled_from(["spring", "autumn", "winter"]),
        action=st.sampled_from(["stock", "stock", "stock", "budget", "budget", "pause", "resume", "resume", "close"]),
        prize=st.integers(0, 3),
        amount=st.integers(1, 60),
    )
    def adjust(self, id_, campaign, action, prize, amount):
        adjustment = Adjustment(id_, campaign, action, prize, amount)
        assert adjusted(self.ledger, adjustment) == adjusted(self.model, adjustment)

    @rule(generation=st.integers(0, 2))
    def announce(self, generation):
        self.ledger.announce(generation)
        self.model.announce(generation)

    @rule(reader=st.sampled_from(READERS), share=st.floats(0, 1))
    def ack(self, reader, share):
        up_to = int(self.model.totals().event_seq * share)
        self.ledger.ack(reader, up_to)
        self.model.ack(reader, up_to)

    @rule()
    def reopen(self):
        self.ledger.close()
        self.ledger = self.open_ledger()

    @invariant()
    @precondition(lambda self: hasattr(self, "ledger"))
    def holds_the_same(self):
        held, expected = self.ledger.totals(), self.model.totals()
        assert held.campaigns == expected.campaigns
        assert (held.claims, held.event_seq, held.readers) == (expected.claims, expected.event_seq, expected.readers)
        assert self.ledger.generation == self.model.generation

    def teardown(self):
        if not hasattr(self, "ledger"):
            return
        after = min(self.model.totals().readers.values())
        assert self.ledger.events("accounts", after, 999) == self.model.events("accounts", 0, 999)
        self.ledger.close()
        with self.open_reader() as reader:
            report = audit(reader, {"spring": SPRING, "autumn": AUTUMN})
        assert report.problems == []
        assert report.claims == self.model.totals().claims
        shutil.rmtree(self.folder)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class RedisMachine(LedgerMachine):
    """The same calls to a server, by two ledgers in turn: what one is told the other knows."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def open_ledger(self) -> Ledger:
        return Turns([self.open_one(), self.open_one()])

    def open_one(self) -> RedisLedger:
        return RedisLedger(
            self.url, self.program_id, scan_events=self.scan_events, durability="volatile", outbox="keep"
        )

    def open_reader(self) -> LedgerReader:
        return RedisReader.open(self.url, self.program_id, None)


class Turns:
    """Ledgers of one program that are called in turn."""

    def __init__(self, ledgers: list[RedisLedger]) -> None:
        self.ledgers = ledgers
        self.turn = 0

    def __getattr__(self, name: str) -> object:
        self.turn += 1
        return getattr(self.ledgers[self.turn % len(self.ledgers)], name)

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()

    @property
    def generation(self) -> int:
        """The newest one that any of them has seen."""
        return max(ledger.generation for ledger in self.ledgers)


@pytest.mark.parametrize("name", sorted(server_binaries()))
def test_any_history_on_a_server(name: str, redis_servers: Callable[[str], RedisServer]) -> None:
    url = redis_servers(name).url()
    run_state_machine_as_test(
        lambda: RedisMachine(url), settings=settings(max_examples=25, stateful_step_count=40, deadline=None)
    )
