"""The ledger as plainly as it can be said: lists of what happened, and counting again for every question.

It is the model that the other ledgers are tested against, so it shares no rule with them. Good for tests and for
trying things out; nothing is durable, and a claim costs as much as all claims before it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from scanengine.errors import LedgerUnavailableError, OutboxError, UnknownReaderError
from scanengine.ledger.checks import check_adjustment, check_events, check_reader_name, check_repeated
from scanengine.ledger.protocol import (
    CampaignTotals,
    LedgerMarks,
    LedgerTotals,
    check_claim,
    check_generation,
    check_observe,
)
from scanengine.ledger.sealing import hand_out
from scanengine.model import (
    Adjustment,
    ClaimRequest,
    ClaimStatus,
    Event,
    ObserveRequest,
    PrizeTerms,
    Receipt,
    ScanFacts,
)

_Claim = tuple[ClaimRequest, Receipt, int, int]  # Request, receipt, local date in force, money.


class MemoryLedger:
    """Ledger in memory; a :class:`scanengine.ledger.Ledger`.

    Parameters
    ----------
    scan_events : bool
        Whether visits without a recorded claim make an event.
    """

    kind: Final = "memory"
    durability: Final = "volatile"
    alarms: Final[tuple[str, ...]] = ()

    def __init__(self, *, scan_events: bool = False) -> None:
        self.calls = 0
        self.refused = 0
        self.trouble: str | None = None
        self.generation = 0
        self._scan_events = scan_events
        self._clock_ms = 0
        self._claims: list[_Claim] = []
        self._visits: list[tuple[int, int, int]] = []  # Item, visit, time: one for each counted visit.
        self._scan_rows = 0
        self._events: list[Event] = []
        self._event_seq = 0
        self._adjustments: list[Adjustment] = []
        self._readers: dict[str, int] = {}
        self._trimmed = 0
        self._is_closed = False
        self._lock = threading.RLock()

    def claim(self, request: ClaimRequest) -> Receipt:
        """Claim an item for a person, or tell why not."""
        check_claim(request)
        with self._lock:
            self._check_open()
            self.calls += 1
            self._clock_ms = max(self._clock_ms, request.now_ms)
            self.generation = max(self.generation, request.generation)
            for earlier, receipt, _, _ in self._claims:
                if (earlier.item, earlier.party) == (request.item, request.party):
                    scan = self._scan(request, request.counts_scan, is_claim=False)
                    if earlier.user_hash == request.user_hash:
                        return replace(receipt, replayed=True, scan=scan)
                    return Receipt(ClaimStatus.TAKEN, at_ms=receipt.at_ms, scan=scan)
            if request.generation < self.generation:
                return Receipt(ClaimStatus.STALE, at_ms=self._clock_ms, scan=self._scan(request, False, is_claim=False))
            status, reason = self._refusal(request)
            if status is not None:
                scan = self._scan(request, request.counts_scan, is_claim=False)
                return Receipt(status, reason, at_ms=self._clock_ms, scan=scan)
            return self._record(request)

    def observe(self, request: ObserveRequest) -> ScanFacts:
        """Count a visit, or only look."""
        check_observe(request)
        with self._lock:
            self._check_open()
            self.calls += 1
            if request.counts_scan:
                self._clock_ms = max(self._clock_ms, request.now_ms)
            return self._scan(request, request.counts_scan, is_claim=False)

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Claim in order, each request for itself."""
        for request in requests:
            check_claim(request)
        return [self.claim(request) for request in requests]

    async def claim_async(self, request: ClaimRequest) -> Receipt:
        """Do :meth:`claim`."""
        return self.claim(request)

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Do :meth:`claim_many`."""
        return self.claim_many(requests)

    async def observe_async(self, request: ObserveRequest) -> ScanFacts:
        """Do :meth:`observe`."""
        return self.observe(request)

    async def observe_many_async(self, requests: Sequence[ObserveRequest]) -> list[ScanFacts | None]:
        """Do :meth:`observe` for many items."""
        return [self.observe(request) for request in requests]

    def adjust(self, adjustment: Adjustment) -> bool:
        """Apply an adjustment; False if it was applied before."""
        check_adjustment(adjustment)
        with self._lock:
            self._check_open()
            for applied in self._adjustments:
                if applied.id == adjustment.id:
                    check_repeated(adjustment, applied)
                    return False
            what = (adjustment.campaign, adjustment.action, adjustment.prize)
            earlier = [a for a in self._adjustments if (a.campaign, a.action, a.prize) == what]
            check_adjustment(adjustment, sum(a.amount for a in earlier))
            self._adjustments.append(adjustment)
            return True

    def announce(self, generation: int) -> None:
        """Tell that a generation is published."""
        check_generation(generation)
        with self._lock:
            self._check_open()
            self.generation = max(self.generation, generation)

    def register_reader(self, name: str) -> None:
        """Make sure that no event is trimmed before this reader has acknowledged it; again is no change."""
        check_reader_name(name)
        with self._lock:
            self._check_open()
            self._readers.setdefault(name, self._trimmed)

    def remove_reader(self, name: str) -> None:
        """Keep no event for this reader any longer; again, or of an unknown one, is no change."""
        check_reader_name(name)
        with self._lock:
            self._check_open()
            self._readers.pop(name, None)
            self._trim()

    def events(self, reader: str, after: int, limit: int) -> list[Event]:
        """Return at most ``limit`` events with ``seq`` above ``after``, in order."""
        check_reader_name(reader)
        check_events(after, limit)
        with self._lock:
            self._check_reader(reader)
            found = (event for event in self._events if event.seq > after)
            return hand_out(found, after, limit, newest=self._event_seq, trimmed=self._trimmed)

    def ack(self, reader: str, up_to: int) -> None:
        """Acknowledge all events up to ``up_to``; what all readers have acknowledged is trimmed."""
        check_reader_name(reader)
        with self._lock:
            self._check_reader(reader)
            if not 0 <= up_to <= self._event_seq:
                raise OutboxError(
                    f"reader {reader!r} acknowledges up to {up_to}, the newest event is {self._event_seq}"
                )
            self._readers[reader] = max(self._readers[reader], up_to)
            self._trim()

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""
        with self._lock:
            self._check_open()
            campaigns = {receipt.campaign for _, receipt, _, _ in self._claims if receipt.campaign}
            campaigns |= {adjustment.campaign for adjustment in self._adjustments}
            return LedgerTotals(
                claims=len(self._claims),
                events=len(self._events),
                event_seq=self._event_seq,
                generation=self.generation,
                campaigns=tuple(self._campaign_totals(name) for name in sorted(campaigns)),
                readers=dict(sorted(self._readers.items())),
            )

    def marks(self, program: str) -> LedgerMarks:
        """Return how far the ledger has come; it does not know itself whose it is."""
        with self._lock:
            self._check_open()
            return LedgerMarks(
                program=program, clock_ms=self._clock_ms, generation=self.generation, claims=len(self._claims),
                scans=self._scan_rows, events=self._event_seq, trimmed=self._trimmed,
                trimmed_claims=len(self._claims) - sum(event.type == "claim" for event in self._events),
            )  # fmt: skip

    def close(self) -> None:
        """Refuse everything from now on."""
        self._is_closed = True

    def _refusal(self, request: ClaimRequest) -> tuple[ClaimStatus | None, str | None]:
        terms = request.terms
        if terms is None:
            return ClaimStatus.INELIGIBLE, request.refusal
        if self._clock_ms < terms.opens_ms:
            return ClaimStatus.CLOSED, "not_started"
        if self._clock_ms >= terms.closes_ms:
            return ClaimStatus.CLOSED, "ended"
        switches = self._switches(terms.id)
        if [action for action in switches if action != "close"][-1:] == ["pause"]:
            return ClaimStatus.CLOSED, "paused"
        if "close" in switches:
            return ClaimStatus.CLOSED, "ended"
        date = self._date(request)
        mine = [claim for claim in self._claims_in(terms.id) if claim[0].user_hash == request.user_hash]
        today = [claim for claim in mine if claim[2] == date]
        if terms.per_user is not None and len(mine) >= terms.per_user:
            return ClaimStatus.LIMITED, "per_user"
        if terms.per_user_per_day is not None and len(today) >= terms.per_user_per_day:
            return ClaimStatus.LIMITED, "per_user_per_day"
        if not request.offers:
            return ClaimStatus.INELIGIBLE, request.refusal or "no_rule"
        return None, None

    def _record(self, request: ClaimRequest) -> Receipt:
        terms = request.terms
        assert terms is not None
        offer = request.offers[0]
        prize, money, amount, unit, seen = offer.drawn, 0, 0, 0, set()
        while prize >= 0:
            given = terms.prizes[prize] if prize < len(terms.prizes) and prize not in seen else None
            if given is None:
                prize = -1
            elif self._has_left(request, given):
                money, amount = given.money, given.amount
                unit = 1 + sum(receipt.prize == prize for _, receipt, _, _ in self._claims_in(terms.id))
                break
            else:
                seen.add(prize)
                prize = given.fallback
        status = ClaimStatus.AWARDED if prize >= 0 else ClaimStatus.NO_PRIZE
        at_ms, scan = self._clock_ms, self._scan(request, request.counts_scan, is_claim=True)
        receipt = Receipt(
            status, None, False, at_ms, terms.id, request.generation, offer.rule, offer.drawn, prize, unit, scan
        )
        self._claims.append((request, receipt, self._date(request), money))
        self._event_seq += 1
        event = Event(
            request.claim_id, self._event_seq, "claim", at_ms, request.item, request.batch, request.product,
            request.user, request.role.name.lower(), request.region, terms.id, request.generation, offer.rule,
            offer.drawn, prize, amount, unit, request.claim_id, request.visit,
        )  # fmt: skip
        self._events.append(event)
        return receipt

    def _has_left(self, request: ClaimRequest, prize: PrizeTerms) -> bool:
        terms = request.terms
        assert terms is not None
        date = self._date(request)
        claims = self._claims_in(terms.id)
        today = [claim for claim in claims if claim[2] == date]
        adjustments = [adjustment for adjustment in self._adjustments if adjustment.campaign == terms.id]
        units = sum(a.amount for a in adjustments if a.action == "stock" and a.prize == prize.number)
        money = sum(a.amount for a in adjustments if a.action == "budget")
        given = sum(receipt.prize == prize.number for _, receipt, _, _ in claims)
        given_today = sum(receipt.prize == prize.number for _, receipt, _, _ in today)
        spent = sum(claim[3] for claim in claims) + prize.money
        spent_today = sum(claim[3] for claim in today) + prize.money
        return not (
            (prize.stock is not None and given + 1 > prize.stock + units)
            or (prize.stock_per_day is not None and given_today + 1 > prize.stock_per_day)
            or (prize.money and terms.budget_total is not None and spent > terms.budget_total + money)
            or (prize.money and terms.budget_per_day is not None and spent_today > terms.budget_per_day)
        )

    def _scan(self, request: ClaimRequest | ObserveRequest, counts: bool, *, is_claim: bool) -> ScanFacts:
        visits = [visit for item, visit, _ in self._visits if item == request.item]
        if counts and request.visit_hash not in visits:
            self._visits.append((request.item, request.visit_hash, self._clock_ms))
            visits.append(request.visit_hash)
            # The first scan of an item is part of its claim; every other one has a number of its own.
            self._scan_rows += not (is_claim and len(visits) == 1)
            if self._scan_events and not is_claim:
                self._add_scan_event(request)
        first_ms = next((at_ms for item, _, at_ms in self._visits if item == request.item), None)
        number = visits.index(request.visit_hash) + 1 if request.visit_hash in visits else 0
        return ScanFacts(len(visits), first_ms, number)

    def _add_scan_event(self, request: ClaimRequest | ObserveRequest) -> None:
        self._event_seq += 1
        event = Event(
            f"scan-{self._scan_rows}", self._event_seq, "scan", self._clock_ms, request.item, "", "", "", "", 0, None,
            0, -1, -1, -1, 0, 0, None, "",
        )  # fmt: skip
        if isinstance(request, ClaimRequest):
            event = replace(
                event, batch=request.batch, product=request.product, user=request.user, visit=request.visit,
                role=request.role.name.lower(), region=request.region, generation=request.generation,
                campaign=request.terms.id if request.terms else None,
            )  # fmt: skip
        self._events.append(event)

    def _claims_in(self, campaign: str) -> list[_Claim]:
        return [claim for claim in self._claims if claim[1].campaign == campaign]

    def _date(self, request: ClaimRequest) -> int:
        assert request.terms is not None
        return max([request.local_date] + [claim[2] for claim in self._claims_in(request.terms.id)])

    def _switches(self, campaign: str) -> list[str]:
        switches = ("pause", "resume", "close")
        return [a.action for a in self._adjustments if a.campaign == campaign and a.action in switches]

    def _campaign_totals(self, campaign: str) -> CampaignTotals:
        claims = self._claims_in(campaign)
        switches = self._switches(campaign)
        awards: dict[int, int] = {}
        extra: dict[int, int] = {}
        for prize in sorted(receipt.prize for _, receipt, _, _ in claims if receipt.prize >= 0):
            awards[prize] = awards.get(prize, 0) + 1
        mine = [adjustment for adjustment in self._adjustments if adjustment.campaign == campaign]
        for adjustment in mine:
            if adjustment.action == "stock":
                extra[adjustment.prize] = extra.get(adjustment.prize, 0) + adjustment.amount
        return CampaignTotals(
            id=campaign, claims=len(claims), money=sum(claim[3] for claim in claims), awards=awards,
            is_paused=[action for action in switches if action != "close"][-1:] == ["pause"],
            is_closed="close" in switches, extra_stock=extra,
            extra_budget=sum(adjustment.amount for adjustment in mine if adjustment.action == "budget"),
        )  # fmt: skip

    def _trim(self) -> None:
        self._trimmed = min(self._readers.values(), default=self._trimmed)
        self._events = [event for event in self._events if event.seq > self._trimmed]

    def _check_open(self) -> None:
        if self._is_closed:
            raise LedgerUnavailableError("the ledger is closed")

    def _check_reader(self, reader: str) -> None:
        self._check_open()
        if reader not in self._readers:
            raise UnknownReaderError(reader)
