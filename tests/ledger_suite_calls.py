"""What every ledger must pass on scans, events and calls: inherit :class:`LedgerCallsSuite` as the suite of claims."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from helpers_ledger import CLOSES_MS, NOW_MS, TIME_MS_MAX, a_campaign, a_claim, a_look, status_of
from scanengine.errors import LedgerUnavailableError, OutboxError, UnknownReaderError
from scanengine.ledger import Ledger
from scanengine.model import (
    NO_PRIZE,
    Adjustment,
    ClaimStatus,
    ObserveRequest,
    Offer,
    Party,
    PrizeTerms,
    Receipt,
    Role,
    ScanFacts,
)


class LedgerCallsSuite:
    """Scans, events, and the calls themselves, whatever the ledger is kept in."""

    # Scans.

    def test_one_visit_counts_once(self, ledger: Ledger) -> None:
        assert ledger.observe(a_look(1, "v")) == ScanFacts(1, NOW_MS, 1)
        assert ledger.observe(a_look(1, "v", now_ms=NOW_MS + 1)) == ScanFacts(1, NOW_MS, 1)
        receipt = ledger.claim(a_claim(1, visit="v", now_ms=NOW_MS + 2))
        assert receipt.scan == ScanFacts(1, NOW_MS, 1)
        assert ledger.claim(a_claim(1, visit="v")).scan == ScanFacts(1, NOW_MS, 1)
        assert ledger.observe(a_look(1, "w")) == ScanFacts(2, NOW_MS, 2)
        assert ledger.observe(a_look(1, "v")) == ScanFacts(2, NOW_MS, 1)

    def test_visit_of_a_claim_counts_and_later_ones_follow(self, ledger: Ledger) -> None:
        assert ledger.observe(a_look(1, "seen", counts_scan=False)) == ScanFacts(0, None, 0)
        assert ledger.claim(a_claim(1, visit="v")).scan == ScanFacts(1, NOW_MS, 1)
        assert ledger.observe(a_look(1, "v")) == ScanFacts(1, NOW_MS, 1)
        assert ledger.observe(a_look(1, "w", counts_scan=False)) == ScanFacts(1, NOW_MS, 0)
        assert ledger.claim(a_claim(1, visit="x")).scan == ScanFacts(2, NOW_MS, 2)
        assert ledger.claim(a_claim(1, "bob", visit="y")).scan == ScanFacts(3, NOW_MS, 3)
        assert ledger.observe(a_look(1, "v")) == ScanFacts(3, NOW_MS, 1)

    def test_claim_that_does_not_count_is_no_scan(self, ledger: Ledger) -> None:
        assert ledger.claim(a_claim(1, visit="v", counts_scan=False)).scan == ScanFacts(0, None, 0)
        assert ledger.observe(a_look(1, "w", now_ms=NOW_MS + 4)) == ScanFacts(1, NOW_MS + 4, 1)
        assert ledger.claim(a_claim(1, visit="v", counts_scan=False)).scan == ScanFacts(1, NOW_MS + 4, 0)

    def test_refused_claims_count_their_visits(self, ledger: Ledger) -> None:
        closed = ledger.claim(a_claim(1, visit="a", terms=a_campaign(opens_ms=NOW_MS + 1)))
        assert closed.scan == ScanFacts(1, NOW_MS, 1)
        limited = ledger.claim(a_claim(1, visit="b", terms=a_campaign(per_user=0)))
        assert limited.scan == ScanFacts(2, NOW_MS, 2)
        ineligible = ledger.claim(a_claim(1, visit="c", terms=None, refusal="scene_off"))
        assert ineligible.scan == ScanFacts(3, NOW_MS, 3)
        assert ledger.claim(a_claim(1, visit="b")).scan == ScanFacts(3, NOW_MS, 2)

    def test_items_and_visits_do_not_mix(self, ledger: Ledger) -> None:
        for item in range(20):
            for visit in ("a", "b"):
                ledger.observe(a_look(item, visit))
        assert [ledger.observe(a_look(item, "b")) for item in range(20)] == [ScanFacts(2, NOW_MS, 2)] * 20

    @pytest.mark.parametrize("now_ms", [0, CLOSES_MS, TIME_MS_MAX])
    def test_look_does_not_move_the_clock(self, ledger: Ledger, now_ms: int) -> None:
        ledger.claim(a_claim(1, visit="v"))
        assert ledger.observe(a_look(1, counts_scan=False, now_ms=now_ms)) == ScanFacts(1, NOW_MS, 0)
        assert ledger.observe(a_look(2, counts_scan=False, now_ms=now_ms)) == ScanFacts(0, None, 0)
        receipt = ledger.claim(a_claim(2, now_ms=NOW_MS + 1))
        assert (*status_of(receipt), receipt.at_ms) == ("awarded", None, NOW_MS + 1)
        assert ledger.observe(a_look(3, now_ms=NOW_MS + 2)) == ScanFacts(1, NOW_MS + 2, 1)

    def test_time_of_a_look_is_the_ledgers_only_where_it_counts(self, ledger: Ledger) -> None:
        assert ledger.observe(a_look(1, now_ms=CLOSES_MS)) == ScanFacts(1, CLOSES_MS, 1)
        assert status_of(ledger.claim(a_claim(2))) == ("closed", "ended")

    # Events.

    def test_each_recorded_claim_has_one_event(self, ledger: Ledger) -> None:
        ledger.register_reader("accounts")
        terms = a_campaign((PrizeTerms(0, money=5, stock=1),))
        for _ in range(2):
            for user in ("ann", "bob"):
                ledger.claim(a_claim(1, user, terms=terms))
        ledger.claim(a_claim(2, terms=terms, role=Role.ASSOCIATE, party=Party.CHANNEL))
        ledger.claim(a_claim(3, terms=None, refusal="not_valid"))
        ledger.observe(a_look(4))
        first, second = ledger.events("accounts", 0, 10)
        assert (first.id, first.seq, first.type, first.at, first.item) == ("CLAIM1P0", 1, "claim", NOW_MS, 1)
        assert (first.batch, first.product, first.user, first.role) == ("cola", "06901234567892", "ann", "consumer")
        assert (first.region, first.campaign, first.generation, first.rule) == (440300, "spring", 1, 3)
        assert (first.drawn, first.prize, first.amount, first.unit) == (0, 0, 5, 1)
        assert (first.claim, first.visit) == ("CLAIM1P0", "1-ann")
        assert (second.seq, second.item, second.role) == (2, 2, "associate")
        assert (second.drawn, second.prize, second.amount, second.unit) == (0, NO_PRIZE, 0, 0)

    def test_the_event_tells_points_which_take_no_money(self, ledger: Ledger) -> None:
        ledger.register_reader("accounts")
        terms = a_campaign((PrizeTerms(0, points=10),), budget_total=5)
        assert ledger.claim(a_claim(1, terms=terms)).status == ClaimStatus.AWARDED
        (event,) = ledger.events("accounts", 0, 10)
        assert (event.prize, event.amount) == (0, 10)
        assert ledger.totals().campaigns[0].money == 0

    def test_events_are_read_in_pieces_and_again(self, ledger: Ledger) -> None:
        ledger.register_reader("accounts")
        for item in range(5):
            ledger.claim(a_claim(item))
        assert [event.seq for event in ledger.events("accounts", 0, 2)] == [1, 2]
        assert [event.seq for event in ledger.events("accounts", 2, 9)] == [3, 4, 5]
        assert [event.item for event in ledger.events("accounts", 2, 1)] == [2]
        assert ledger.events("accounts", 5, 9) == []
        assert ledger.events("accounts", 0, 0) == []

    def test_events_are_kept_until_every_reader_has_them(self, ledger: Ledger) -> None:
        ledger.register_reader("accounts")
        ledger.register_reader("payouts")
        for item in range(4):
            ledger.claim(a_claim(item))
        ledger.ack("accounts", 4)
        assert [event.seq for event in ledger.events("payouts", 0, 9)] == [1, 2, 3, 4]
        ledger.ack("payouts", 3)
        ledger.ack("payouts", 1)
        ledger.register_reader("payouts")
        ledger.claim(a_claim(9))
        assert [event.seq for event in ledger.events("payouts", 0, 9)] == [4, 5]
        ledger.ack("payouts", 5)
        ledger.ack("accounts", 5)
        ledger.register_reader("late")
        ledger.claim(a_claim(10))
        assert [event.seq for event in ledger.events("late", 0, 9)] == [6]
        assert ledger.totals().readers == {"accounts": 5, "late": 5, "payouts": 5}

    def test_a_reader_that_is_removed_keeps_no_events(self, ledger: Ledger) -> None:
        for name in ("abandoned", "accounts"):
            ledger.register_reader(name)
        for item in range(4):
            ledger.claim(a_claim(item))
        ledger.ack("accounts", 3)
        assert ledger.totals().events == 4
        ledger.remove_reader("abandoned")
        ledger.remove_reader("abandoned")
        ledger.remove_reader("never-there")
        ledger.claim(a_claim(9))
        assert [event.seq for event in ledger.events("accounts", 0, 9)] == [4, 5]
        assert ledger.totals().readers == {"accounts": 3}
        with pytest.raises(UnknownReaderError, match="no reader 'abandoned' is registered"):
            ledger.events("abandoned", 0, 1)
        with pytest.raises(UnknownReaderError, match="no reader 'abandoned' is registered"):
            ledger.ack("abandoned", 4)

    def test_events_stay_when_the_last_reader_is_removed(self, ledger: Ledger) -> None:
        ledger.register_reader("accounts")
        ledger.claim(a_claim(1))
        ledger.claim(a_claim(2))
        ledger.ack("accounts", 1)
        ledger.remove_reader("accounts")
        ledger.claim(a_claim(3))
        ledger.register_reader("accounts")
        assert [event.seq for event in ledger.events("accounts", 0, 9)] == [2, 3]

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 65, "安娜", "a\n", "\ud800", ".", "..", "-x", "_x"])
    def test_a_readers_name_is_part_of_addresses(self, ledger: Ledger, name: str) -> None:
        for call in (
            lambda: ledger.register_reader(name),
            lambda: ledger.remove_reader(name),
            lambda: ledger.events(name, 0, 1),
            lambda: ledger.ack(name, 0),
        ):
            with pytest.raises(OutboxError, match="a reader's name is"):
                call()

    def test_readers_must_be_known_and_not_run_ahead(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="no reader 'nobody' is registered"):
            ledger.events("nobody", 0, 1)
        with pytest.raises(ValueError, match="no reader 'nobody' is registered"):
            ledger.ack("nobody", 0)
        ledger.register_reader("accounts")
        ledger.claim(a_claim())
        with pytest.raises(ValueError, match="up to 2"):
            ledger.ack("accounts", 2)
        with pytest.raises(ValueError, match="up to -1"):
            ledger.ack("accounts", -1)
        with pytest.raises(ValueError, match="not negative"):
            ledger.events("accounts", -1, 1)
        assert len(ledger.events("accounts", 0, 9)) == 1

    def test_scan_events_are_every_other_visit(self, scan_ledger: Ledger) -> None:
        scan_ledger.register_reader("analytics")
        scan_ledger.observe(a_look(1, "v"))
        scan_ledger.observe(a_look(1, "v"))
        scan_ledger.observe(a_look(1, "looks", counts_scan=False))
        scan_ledger.claim(a_claim(1, visit="v"))
        scan_ledger.claim(a_claim(1, "bob", visit="w", generation=2))
        scan_ledger.claim(a_claim(1, "shop", visit="x", party=Party.CHANNEL, generation=2))
        scan_ledger.claim(a_claim(2, visit="y", terms=None, refusal="not_valid", generation=2))
        events = scan_ledger.events("analytics", 0, 99)
        assert [(event.type, event.item, event.visit) for event in events] == [
            ("scan", 1, ""), ("claim", 1, "v"), ("scan", 1, "w"), ("claim", 1, "x"), ("scan", 2, "y"),
        ]  # fmt: skip
        taken = events[2]
        assert (taken.user, taken.campaign, taken.generation, taken.claim) == ("bob", "spring", 2, None)
        assert (taken.rule, taken.drawn, taken.prize, taken.unit, taken.amount) == (-1, -1, -1, 0, 0)
        assert events[4].campaign is None
        assert len({event.id for event in events}) == 5

    # Calls.

    def test_many_claims_are_answered_in_order_each_for_itself(self, ledger: Ledger) -> None:
        requests = [a_claim(item // 2, "ann" if item % 2 == 0 else "bob") for item in range(600)]
        receipts = ledger.claim_many(requests)
        assert Counter(str(receipt.status) for receipt in receipts) == {"awarded": 300, "taken": 300}
        assert [receipt.unit for receipt in receipts[::2]] == list(range(1, 301))
        assert ledger.claim_many([]) == []
        assert ledger.calls == 600

    async def test_asynchronous_calls_answer_the_same(self, ledger: Ledger) -> None:
        awaited = await asyncio.gather(*(ledger.claim_async(a_claim(item)) for item in range(50)))
        assert sorted(receipt.unit for receipt in awaited) == list(range(1, 51))
        again = await ledger.claim_many_async([a_claim(item) for item in range(50)])
        assert again == [replace(receipt, replayed=True) for receipt in awaited]
        many = await ledger.claim_many_async([a_claim(item) for item in range(530)])
        assert len(many) == 530
        assert await ledger.claim_many_async([]) == []
        assert await ledger.observe_async(a_look(7)) == ScanFacts(2, NOW_MS, 2)

    @pytest.mark.parametrize(
        "change",
        [
            {"item": 1 << 55},
            {"item": -1},
            {"now_ms": -1},
            {"now_ms": TIME_MS_MAX + 1},
            {"user_hash": 1 << 64},
            {"visit_hash": -1},
            {"generation": 1 << 32},
            {"local_date": 0},
            {"offers": (Offer(-1, 0),)},
            {"offers": (Offer(0, 256),)},
            {"user": "\ud800"},
            {"visit": "\udfff"},
            {"party": 2},
            {"party": 7},
            {"party": -1},
            {"role": 5},
            {"role": 9},
            {"role": -1},
        ],
    )
    def test_claim_that_cannot_be_is_refused_alone(self, ledger: Ledger, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"needs|surrogates"):
            ledger.claim_many([a_claim(1), replace(a_claim(2), **change)])
        assert ledger.totals().claims == 0

    async def test_claim_that_cannot_be_does_not_disturb_those_beside_it(self, ledger: Ledger) -> None:
        wrong = [a_claim(item, **change) for item, change in ((20, {"role": 9}), (21, {"party": 7}))]
        claims = [a_claim(item) for item in range(40)]
        claims[20:22] = wrong
        told = await asyncio.gather(*map(ledger.claim_async, claims), return_exceptions=True)
        assert [type(each) for each in told[20:22]] == [ValueError] * 2
        assert [str(each.status) for each in told[:20] + told[22:] if isinstance(each, Receipt)] == ["awarded"] * 38

    @pytest.mark.parametrize("look", [a_look(1 << 55), a_look(-1), a_look(now_ms=-1), a_look(now_ms=TIME_MS_MAX + 1)])
    def test_observation_that_cannot_be_is_refused(self, ledger: Ledger, look: ObserveRequest) -> None:
        with pytest.raises(ValueError, match="an observation needs"):
            ledger.observe(look)

    def test_extreme_values_are_kept(self, ledger: Ledger) -> None:
        word = (1 << 64) - 1
        terms = a_campaign(closes_ms=TIME_MS_MAX + 1)
        request = a_claim(
            (1 << 55) - 1, terms=terms, user_hash=word, visit_hash=word, generation=(1 << 32) - 1, now_ms=TIME_MS_MAX,
            local_date=(1 << 31) - 1, offers=(Offer(255, 1),), user="安娜", claim_id="X" * 26,
        )  # fmt: skip
        first = ledger.claim(request)
        assert ledger.claim(request) == replace(first, replayed=True)
        assert (first.at_ms, first.generation, first.rule) == (TIME_MS_MAX, (1 << 32) - 1, 255)
        assert first.scan == ScanFacts(1, TIME_MS_MAX, 1)

    @pytest.mark.parametrize("generation", [-1, 1 << 32])
    def test_generation_that_cannot_be_is_refused(self, ledger: Ledger, generation: int) -> None:
        with pytest.raises(ValueError, match="a generation is"):
            ledger.announce(generation)

    def test_totals_say_what_is_held(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, money=5, stock=1, fallback=1), PrizeTerms(1)))
        for item in range(3):
            ledger.claim(a_claim(item, terms=terms))
        ledger.adjust(Adjustment("a", "spring", "stock", prize=0, amount=2))
        ledger.adjust(Adjustment("b", "spring", "budget", amount=7))
        ledger.adjust(Adjustment("c", "autumn", "pause"))
        ledger.adjust(Adjustment("d", "autumn", "close"))
        totals = ledger.totals()
        assert (totals.claims, totals.events, totals.event_seq, totals.generation) == (3, 3, 3, 1)
        autumn, spring = totals.campaigns
        assert (spring.id, spring.claims, spring.money, spring.awards) == ("spring", 3, 5, {0: 1, 1: 2})
        assert (spring.extra_stock, spring.extra_budget) == ({0: 2}, 7)
        assert (spring.is_paused, spring.is_closed) == (False, False)
        assert (autumn.id, autumn.claims, autumn.is_paused, autumn.is_closed) == ("autumn", 0, True, True)

    async def test_closed_ledger_says_so(self, ledger: Ledger) -> None:
        ledger.register_reader("accounts")
        ledger.close()
        ledger.close()
        for call in (
            lambda: ledger.claim(a_claim()),
            lambda: ledger.observe(a_look()),
            lambda: ledger.adjust(Adjustment("a", "spring", "pause")),
            lambda: ledger.announce(1),
            lambda: ledger.register_reader("x"),
            lambda: ledger.remove_reader("x"),
            lambda: ledger.events("accounts", 0, 1),
            lambda: ledger.ack("accounts", 0),
            ledger.totals,
        ):
            with pytest.raises(LedgerUnavailableError, match="closed"):
                call()
        with pytest.raises(LedgerUnavailableError, match="closed"):
            await ledger.claim_async(a_claim())
