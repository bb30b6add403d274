"""What every ledger must pass on claims: inherit :class:`LedgerSuite` and give it the fixtures of a backend."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from helpers_ledger import CLOSES_MS, DATE, DAY_MS, NOW_MS, OPENS_MS, a_campaign, a_claim, a_look, status_of
from scanengine.errors import AdjustmentError
from scanengine.ledger import Ledger
from scanengine.ledger.checks import ADDED_MAX
from scanengine.model import (
    NO_PRIZE,
    Adjustment,
    ClaimStatus,
    Offer,
    Party,
    PrizeTerms,
    Receipt,
    Role,
    ScanFacts,
)


class LedgerSuite:
    """What a ledger promises of claims, whatever it is kept in."""

    # Step 1: an answer given stays the answer.

    def test_first_claim_is_awarded_with_all_values(self, ledger: Ledger) -> None:
        receipt = ledger.claim(a_claim())
        assert receipt == Receipt(
            ClaimStatus.AWARDED, None, False, NOW_MS, "spring", 1, 3, 0, 0, 1, ScanFacts(1, NOW_MS, 1)
        )
        assert ledger.calls == 1

    def test_same_person_again_gets_the_same_claim(self, ledger: Ledger) -> None:
        first = ledger.claim(a_claim())
        for visit in ("1-ann", "later"):
            again = ledger.claim(a_claim(visit=visit, now_ms=NOW_MS + 5))
            assert replace(again, replayed=False, scan=first.scan) == first
            assert again.replayed

    def test_no_prize_is_recorded_and_replayed(self, ledger: Ledger) -> None:
        first = ledger.claim(a_claim(drawn=NO_PRIZE))
        assert (first.status, first.prize, first.drawn, first.unit) == (ClaimStatus.NO_PRIZE, -1, -1, 0)
        again = ledger.claim(a_claim(drawn=0))
        assert (again.status, again.replayed, again.drawn) == (ClaimStatus.NO_PRIZE, True, NO_PRIZE)
        assert ledger.claim(a_claim(user="bob")).status is ClaimStatus.TAKEN

    def test_other_person_is_told_taken_with_the_time_of_the_first(self, ledger: Ledger) -> None:
        ledger.claim(a_claim())
        receipt = ledger.claim(a_claim(user="bob", now_ms=NOW_MS + 9))
        assert (receipt.status, receipt.at_ms, receipt.prize) == (ClaimStatus.TAKEN, NOW_MS, NO_PRIZE)
        assert (receipt.campaign, receipt.replayed) == (None, False)

    @pytest.mark.parametrize(
        "change",
        [
            {"terms": None, "refusal": "not_valid", "offers": ()},
            {"now_ms": CLOSES_MS + 1},
            {"terms": a_campaign(id="autumn"), "generation": 9},
            {"terms": a_campaign((None,))},
            {"terms": a_campaign(per_user=0)},
            {"offers": (), "refusal": "no_rule"},
            {"generation": 0},
        ],
    )
    def test_answer_given_outlives_every_change(self, ledger: Ledger, change: dict[str, Any]) -> None:
        first = ledger.claim(a_claim())
        ledger.announce(5)
        ledger.adjust(Adjustment("stop", "spring", "close"))
        again = ledger.claim(a_claim(**change))
        assert again == replace(first, replayed=True)
        assert ledger.claim(a_claim(user="bob", **change)).status is ClaimStatus.TAKEN

    # Generations.

    def test_decision_of_an_old_generation_is_stale_and_unwritten(self, ledger: Ledger) -> None:
        ledger.claim(a_claim(1, generation=4))
        assert ledger.generation == 4
        receipt = ledger.claim(a_claim(2, generation=3))
        assert (receipt.status, receipt.at_ms, receipt.scan) == (ClaimStatus.STALE, NOW_MS, ScanFacts(0, None, 0))
        assert ledger.claim(a_claim(2, generation=3, terms=None)).status is ClaimStatus.STALE
        decided_again = ledger.claim(a_claim(2, generation=4))
        assert (decided_again.status, decided_again.unit) == (ClaimStatus.AWARDED, 2)

    def test_announced_generation_makes_older_decisions_stale(self, ledger: Ledger) -> None:
        ledger.announce(2)
        ledger.announce(1)
        assert ledger.generation == 2
        assert ledger.claim(a_claim(generation=1)).status is ClaimStatus.STALE
        assert ledger.claim(a_claim(generation=2)).status is ClaimStatus.AWARDED

    # Step 2: the window.

    @pytest.mark.parametrize(
        ("now_ms", "expected"),
        [
            (OPENS_MS - 1, ("closed", "not_started")),
            (OPENS_MS, ("awarded", None)),
            (CLOSES_MS - 1, ("awarded", None)),
            (CLOSES_MS, ("closed", "ended")),
        ],
    )
    def test_window_is_half_open(self, ledger: Ledger, now_ms: int, expected: tuple[str, str | None]) -> None:
        receipt = ledger.claim(a_claim(now_ms=now_ms))
        assert status_of(receipt) == expected
        assert receipt.at_ms == now_ms

    def test_pause_resume_and_close(self, ledger: Ledger) -> None:
        ledger.adjust(Adjustment("a", "spring", "pause"))
        assert status_of(ledger.claim(a_claim())) == ("closed", "paused")
        assert status_of(ledger.claim(a_claim(now_ms=OPENS_MS - 1))) == ("closed", "paused")
        ledger.adjust(Adjustment("b", "spring", "resume"))
        assert status_of(ledger.claim(a_claim(1))) == ("awarded", None)
        ledger.adjust(Adjustment("c", "spring", "close"))
        ledger.adjust(Adjustment("d", "spring", "resume"))
        assert status_of(ledger.claim(a_claim(2))) == ("closed", "ended")
        ledger.adjust(Adjustment("e", "spring", "pause"))
        assert status_of(ledger.claim(a_claim(2))) == ("closed", "paused")
        other = a_claim(2, terms=a_campaign(id="autumn"))
        assert status_of(ledger.claim(other)) == ("awarded", None)

    def test_window_comes_before_limits_and_offers(self, ledger: Ledger) -> None:
        terms = a_campaign(per_user=0)
        assert status_of(ledger.claim(a_claim(terms=terms, offers=(), now_ms=CLOSES_MS))) == ("closed", "ended")

    def test_without_terms_the_refusal_is_the_reason(self, ledger: Ledger) -> None:
        for refusal in ("not_valid", "scene_off"):
            receipt = ledger.claim(a_claim(terms=None, offers=(), refusal=refusal, local_date=0))
            assert status_of(receipt) == ("ineligible", refusal)
        assert ledger.claim(a_claim()).status is ClaimStatus.AWARDED

    def test_time_does_not_run_backwards(self, ledger: Ledger) -> None:
        ledger.claim(a_claim(1, now_ms=NOW_MS + 1000))
        assert ledger.claim(a_claim(2, now_ms=NOW_MS)).at_ms == NOW_MS + 1000
        ledger.observe(a_look(3, now_ms=CLOSES_MS))
        assert status_of(ledger.claim(a_claim(4))) == ("closed", "ended")

    # Step 3: limits of a person.

    def test_limit_of_a_person_leaves_the_code_unused(self, ledger: Ledger) -> None:
        terms = a_campaign(per_user=2)
        assert ledger.claim(a_claim(1, terms=terms)).status is ClaimStatus.AWARDED
        assert ledger.claim(a_claim(2, terms=terms, drawn=NO_PRIZE)).status is ClaimStatus.NO_PRIZE
        assert status_of(ledger.claim(a_claim(3, terms=terms, offers=()))) == ("limited", "per_user")
        assert ledger.claim(a_claim(3, "bob", terms=terms)).status is ClaimStatus.AWARDED
        assert ledger.claim(a_claim(4, terms=replace(terms, id="autumn"))).status is ClaimStatus.AWARDED

    def test_limit_of_a_day_ends_with_the_local_day(self, ledger: Ledger) -> None:
        terms = a_campaign(per_user_per_day=1, per_user=2)
        midnight = OPENS_MS + DAY_MS
        assert ledger.claim(a_claim(1, terms=terms, now_ms=midnight - 2)).status is ClaimStatus.AWARDED
        late = ledger.claim(a_claim(2, terms=terms, now_ms=midnight - 1))
        assert status_of(late) == ("limited", "per_user_per_day")
        next_day = ledger.claim(a_claim(2, terms=terms, now_ms=midnight, local_date=DATE + 1))
        assert next_day.status is ClaimStatus.AWARDED
        both = ledger.claim(a_claim(3, terms=terms, now_ms=midnight, local_date=DATE + 1))
        assert status_of(both) == ("limited", "per_user")

    def test_one_call_may_cross_midnight(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock_per_day=1, fallback=1), PrizeTerms(1)), per_user_per_day=2)
        evening = {"terms": terms, "now_ms": OPENS_MS + DAY_MS - 1}
        morning = {"terms": terms, "now_ms": OPENS_MS + DAY_MS, "local_date": DATE + 1}
        receipts = ledger.claim_many(
            [a_claim(n, **day) for n, day in enumerate((evening, evening, evening, morning, morning, evening))]
        )
        assert [(*status_of(receipt), receipt.prize) for receipt in receipts] == [
            ("awarded", None, 0), ("awarded", None, 1), ("limited", "per_user_per_day", NO_PRIZE),
            ("awarded", None, 0), ("awarded", None, 1), ("limited", "per_user_per_day", NO_PRIZE),
        ]  # fmt: skip
        assert receipts[5].at_ms == OPENS_MS + DAY_MS

    def test_clock_that_steps_back_over_midnight_gives_no_second_day(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock_per_day=2),), per_user_per_day=1)
        later = {"terms": terms, "now_ms": NOW_MS + DAY_MS, "local_date": DATE + 1}
        assert ledger.claim(a_claim(1, **later)).status is ClaimStatus.AWARDED
        assert status_of(ledger.claim(a_claim(2, terms=terms))) == ("limited", "per_user_per_day")
        assert ledger.claim(a_claim(3, "bob", terms=terms)).prize == 0
        assert ledger.claim(a_claim(4, "cid", terms=terms)).prize == NO_PRIZE

    def test_date_is_the_campaigns_own(self, ledger: Ledger) -> None:
        terms = a_campaign(per_user_per_day=1)
        ledger.claim(a_claim(1, terms=replace(terms, id="autumn"), local_date=DATE + 1))
        ledger.claim(a_claim(2, terms=terms))
        next_day = a_claim(3, terms=terms, local_date=DATE + 1)
        assert ledger.claim(next_day).status is ClaimStatus.AWARDED

    # Step 4: offers, stock and money.

    def test_no_offer_is_ineligible(self, ledger: Ledger) -> None:
        assert status_of(ledger.claim(a_claim(offers=(), refusal="no_rule"))) == ("ineligible", "no_rule")
        assert status_of(ledger.claim(a_claim(offers=()))) == ("ineligible", "no_rule")
        assert ledger.claim(a_claim()).status is ClaimStatus.AWARDED

    def test_first_offer_decides(self, ledger: Ledger) -> None:
        receipt = ledger.claim(a_claim(offers=(Offer(7, 1), Offer(8, 0))))
        assert (receipt.rule, receipt.drawn, receipt.prize) == (7, 1, 1)

    def test_stock_is_never_exceeded_and_units_run_on(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock=2),))
        receipts = [ledger.claim(a_claim(item, terms=terms)) for item in range(4)]
        assert [(r.prize, r.unit, r.drawn) for r in receipts] == [(0, 1, 0), (0, 2, 0), (-1, 0, 0), (-1, 0, 0)]
        assert receipts[2].status is ClaimStatus.NO_PRIZE

    def test_stock_of_zero_is_nothing_left(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock=0, fallback=1), PrizeTerms(1, stock_per_day=0)))
        receipt = ledger.claim(a_claim(terms=terms))
        assert (receipt.status, receipt.prize, receipt.unit) == (ClaimStatus.NO_PRIZE, NO_PRIZE, 0)

    def test_fallbacks_are_walked_in_order(self, ledger: Ledger) -> None:
        prizes = (PrizeTerms(0, stock=1, fallback=2), PrizeTerms(1), PrizeTerms(2, stock=1, fallback=1))
        terms = a_campaign(prizes)
        receipts = [ledger.claim(a_claim(item, terms=terms)) for item in range(4)]
        assert [(r.drawn, r.prize, r.unit) for r in receipts] == [(0, 0, 1), (0, 2, 1), (0, 1, 1), (0, 1, 2)]

    def test_fallback_to_a_prize_that_is_gone_or_in_a_circle_gives_nothing(self, ledger: Ledger) -> None:
        gone = a_campaign((PrizeTerms(0, stock=0, fallback=1), None))
        circle = a_campaign((PrizeTerms(0, stock=0, fallback=1), PrizeTerms(1, stock=0, fallback=0)))
        beyond = a_campaign((PrizeTerms(0, stock=0, fallback=200),))
        for item, terms in enumerate((gone, circle, beyond)):
            assert ledger.claim(a_claim(item, terms=terms)).status is ClaimStatus.NO_PRIZE

    def test_stock_of_a_day_comes_back_next_day(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock_per_day=1, stock=2),))
        prizes = [
            ledger.claim(a_claim(item, terms=terms, local_date=DATE + day)).prize
            for item, day in enumerate((0, 0, 1, 1, 2))
        ]
        assert prizes == [0, NO_PRIZE, 0, NO_PRIZE, NO_PRIZE]

    def test_budget_in_all_falls_to_what_still_fits(self, ledger: Ledger) -> None:
        prizes = (PrizeTerms(0, money=80, fallback=1), PrizeTerms(1, money=15, fallback=2), PrizeTerms(2))
        terms = a_campaign(prizes, budget_total=100)
        receipts = [ledger.claim(a_claim(item, terms=terms)) for item in range(4)]
        assert [r.prize for r in receipts] == [0, 1, 2, 2]
        assert ledger.totals().campaigns[0].money == 95

    def test_budget_of_a_day_can_be_spent_to_the_last_unit(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, money=50),), budget_per_day=100, budget_total=150)
        prizes = [
            ledger.claim(a_claim(item, terms=terms, local_date=DATE + day)).prize
            for item, day in enumerate((0, 0, 0, 1, 1))
        ]
        assert prizes == [0, 0, NO_PRIZE, 0, NO_PRIZE]

    def test_limits_shrunk_by_a_later_generation_bind_at_once(self, ledger: Ledger) -> None:
        for item in range(3):
            ledger.claim(a_claim(item, terms=a_campaign((PrizeTerms(0, stock=9),))))
        smaller = a_claim(9, terms=a_campaign((PrizeTerms(0, stock=2),)), generation=2)
        assert ledger.claim(smaller).status is ClaimStatus.NO_PRIZE

    # Adjustments.

    def test_adjustment_is_applied_once(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock=1, money=10),), budget_total=20)
        top_up = Adjustment("more", "spring", "stock", prize=0, amount=5)
        assert ledger.adjust(top_up)
        assert not ledger.adjust(top_up)
        assert not ledger.adjust(replace(top_up, at_ms=NOW_MS))
        prizes = [ledger.claim(a_claim(item, terms=terms)).prize for item in range(3)]
        assert prizes == [0, 0, NO_PRIZE]
        assert ledger.adjust(Adjustment("money", "spring", "budget", amount=100))
        receipts = [ledger.claim(a_claim(item, terms=terms)) for item in range(3, 8)]
        assert [(r.prize, r.unit) for r in receipts] == [(0, 3), (0, 4), (0, 5), (0, 6), (NO_PRIZE, 0)]

    def test_an_id_that_was_used_for_something_else_is_refused(self, ledger: Ledger) -> None:
        """Goal: nobody takes a campaign for paused that is open."""
        first = Adjustment("q1", "spring", "stock", prize=0, amount=5)
        assert ledger.adjust(first)
        for other in (
            Adjustment("q1", "spring", "pause"),
            Adjustment("q1", "autumn", "close"),
            replace(first, campaign="autumn"),
            replace(first, prize=1),
            replace(first, amount=50),
            Adjustment("q1", "spring", "budget", amount=5),
        ):
            with pytest.raises(AdjustmentError, match="the id 'q1' was used before, for stock of prize 0 by 5"):
                ledger.adjust(other)
        assert not ledger.adjust(first)
        assert ledger.adjust(Adjustment("q2", "spring", "pause", prize=3))
        assert not ledger.adjust(Adjustment("q2", "spring", "pause"))
        assert [status_of(ledger.claim(a_claim(1)))] == [("closed", "paused")]
        (spring,) = [held for held in ledger.totals().campaigns if held.id == "spring"]
        assert (spring.extra_stock, spring.extra_budget) == ({0: 5}, 0)

    @pytest.mark.parametrize(
        "adjustment",
        [
            Adjustment("", "spring", "pause"),
            Adjustment("a", "", "pause"),
            Adjustment("a\n", "spring", "pause"),
            Adjustment("a", "spring", "halt"),
            Adjustment("a", "spring", "stock", prize=NO_PRIZE, amount=1),
            Adjustment("a", "spring", "stock", prize=0, amount=0),
            Adjustment("a", "spring", "budget", amount=-1),
            Adjustment("a", "spring", "budget", amount=ADDED_MAX + 1),
        ],
    )
    def test_adjustment_without_a_meaning_is_refused(self, ledger: Ledger, adjustment: Adjustment) -> None:
        with pytest.raises(ValueError, match=r"adjust|adding"):
            ledger.adjust(adjustment)

    def test_adjustments_add_up_to_what_can_be_counted_and_no_further(self, ledger: Ledger) -> None:
        terms = a_campaign((PrizeTerms(0, stock=0, money=10),), budget_total=0)
        for action in ("stock", "budget"):
            assert ledger.adjust(Adjustment(f"{action}-1", "spring", action, prize=0, amount=ADDED_MAX - 5))
            with pytest.raises(AdjustmentError, match=r"exceed|found 6"):
                ledger.adjust(Adjustment(f"{action}-2", "spring", action, prize=0, amount=6))
            assert ledger.adjust(Adjustment(f"{action}-2", "spring", action, prize=0, amount=5))
        assert [ledger.claim(a_claim(item, terms=terms)).prize for item in range(2)] == [0, 0]
        (spring,) = ledger.totals().campaigns
        assert (spring.extra_stock, spring.extra_budget) == ({0: ADDED_MAX}, ADDED_MAX)

    # Parties.

    def test_channel_and_consumer_have_one_claim_each_and_share_the_scans(self, ledger: Ledger) -> None:
        consumer = ledger.claim(a_claim(1, "ann"))
        channel = ledger.claim(a_claim(1, "shop", party=Party.CHANNEL, role=Role.RETAILER, now_ms=NOW_MS + 3))
        assert [consumer.status, channel.status] == [ClaimStatus.AWARDED] * 2
        assert channel.scan == ScanFacts(2, NOW_MS, 2)
        assert ledger.claim(a_claim(1, "ann")).scan == ScanFacts(2, NOW_MS, 1)
        assert ledger.claim(a_claim(1, "eve", party=Party.CHANNEL)).status is ClaimStatus.TAKEN
        assert ledger.observe(a_look(1)) == ScanFacts(4, NOW_MS, 4)
