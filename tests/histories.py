"""What callers of a ledger were told, what the ledger then holds, and whether both are one history the rules allow.

The check is a plain model: it uses nothing of a ledger's code, and would find the same in the history of any ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from helpers_ledger import a_look
from scanengine.ledger import Ledger, LedgerTotals
from scanengine.ledger.sealing import DamagedEventError
from scanengine.model import (
    NO_PRIZE,
    Adjustment,
    CampaignTerms,
    ClaimRequest,
    ClaimStatus,
    Event,
    Party,
    PrizeTerms,
    Receipt,
    ScanFacts,
)

RECORDED = (ClaimStatus.AWARDED, ClaimStatus.NO_PRIZE)
SETTLED = (*RECORDED, ClaimStatus.TAKEN)
READER = "accounts"
"""The reader whom the events are kept for."""
EVENTS_AT_ONCE = 5_000
FOREVER = 1 << 62


class Call(NamedTuple):
    """One call as its caller saw it; ``told`` is None where the outcome was not told.

    ``begun`` and ``ended`` are moments of one clock that counts.
    """

    begun: int
    ended: int
    asked: Any
    told: Any


@dataclass
class History:
    """All calls, in no order: of claims, of scans without a claim, of adjustments."""

    claims: list[Call] = field(default_factory=list)
    looks: list[Call] = field(default_factory=list)
    adjustments: list[Call] = field(default_factory=list)


@dataclass
class Held:
    """What the ledger holds in the end."""

    events: list[Event]
    totals: LedgerTotals
    scans: dict[int, ScanFacts]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, ledger: Ledger, items: Iterable[int]) -> Held:
        """Read it through the ledger's own door, past events that the ledger itself says are damaged or missing."""
        events: list[Event] = []
        problems: list[str] = []
        after = 0
        while True:
            try:
                part = ledger.events(READER, after, EVENTS_AT_ONCE)
            except DamagedEventError as error:
                problems.append(str(error))
                after = error.last
                continue
            if not part:
                break
            events += part
            after = part[-1].seq
        return cls(events, ledger.totals(), asyncio.run(_look_at_all(ledger, sorted(items))), problems)


async def _look_at_all(ledger: Ledger, items: Sequence[int]) -> dict[int, ScanFacts]:
    found: list[ScanFacts] = []
    for start in range(0, len(items), 1_000):
        looks = [a_look(item, counts_scan=False) for item in items[start : start + 1_000]]
        found += await asyncio.gather(*map(ledger.observe_async, looks))
    return dict(zip(items, found, strict=True))


class Span(NamedTuple):
    """Something took effect once, not before ``begun`` and not after ``ended``."""

    begun: int
    ended: int


class Checker:
    """Says what in a history cannot be.

    The events give the order of the recorded claims; in this order the claims are decided again from nothing but the
    requests and the terms. Nothing of the ledger's code is used.
    """

    def __init__(self, history: History, held: Held, campaigns: Iterable[CampaignTerms]) -> None:
        self._history = history
        self._held = held
        self._terms = {terms.id: terms for terms in campaigns}
        self._problems: list[str] = list(held.problems)
        self._events: dict[tuple[int, int], Event] = {}
        self._calls: dict[tuple[int, int], list[Call]] = defaultdict(list)
        self._sent: dict[tuple[int, int, str, str], list[Call]] = defaultdict(list)
        for call in history.claims:
            asked = call.asked
            self._calls[asked.item, asked.party].append(call)
            self._sent[asked.item, asked.party, asked.user, asked.visit].append(call)
        self._adjusted = self._spans_of_adjustments()
        self._spans: dict[int, Span] = {}
        """By ``seq`` of the event: when its claim was recorded."""
        self._persons: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        """By campaign and person: local date and earliest moment of the recorded claims."""

    def check(self) -> list[str]:
        """Return one line for each thing that cannot be."""
        self._check_events()
        for key, calls in self._calls.items():
            self._check_answers(key, calls)
        for campaign in self._terms:
            self._decide_again(campaign)
        for call in self._history.claims:
            if call.told is not None and call.told.status not in (*SETTLED, ClaimStatus.STALE):
                self._check_refusal(call)
        self._check_totals()
        self._check_scans()
        return self._problems

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self._problems.append(otherwise)

    def _check_events(self) -> None:
        events = self._held.events
        self._expect([event.seq for event in events] == [*range(1, len(events) + 1)], "the events have gaps")
        self._expect(len({event.id for event in events}) == len(events), "two events have one id")
        before_ms = 0
        for event in events:
            key = (event.item, Party.CONSUMER if event.role == "consumer" else Party.CHANNEL)
            self._expect(key not in self._events, f"{key}: two claims are recorded")
            self._events[key] = event
            self._expect(event.at >= before_ms, f"event {event.seq}: the ledger's time ran backwards")
            before_ms = event.at
            sent = self._sent.get((*key, event.user, event.visit))
            if sent is None:
                self._problems.append(f"event {event.seq}: nobody made this claim")
                continue
            calls = self._calls[key]
            known = [call.ended for call in calls if call.told is not None and call.told.status in SETTLED]
            span = Span(min(call.begun for call in sent), min(known, default=FOREVER))
            self._spans[event.seq] = span
            is_one = any(_content(call.asked) == _content_of(event) for call in sent)
            self._expect(is_one, f"event {event.seq}: its content is of no request of its visit: {event}")

    def _check_answers(self, key: tuple[int, int], calls: list[Call]) -> None:
        """All that was ever told of an item and party is one claim."""
        event = self._events.get(key)
        told = [call for call in calls if call.told is not None]
        recorded = [call for call in told if call.told.status in RECORDED]
        taken = [call for call in told if call.told.status == ClaimStatus.TAKEN]
        if event is None:
            self._expect(not recorded, f"{key}: a claim that was acknowledged is lost")
            self._expect(not taken, f"{key}: taken, but nobody has it")
            return
        for call in recorded:
            self._expect(call.asked.user == event.user, f"{key}: awarded to {call.asked.user} and to {event.user}")
            is_same = _outcome(call.told) == _outcome_of(event)
            self._expect(is_same, f"{key}: was told {_outcome(call.told)}, the event says {_outcome_of(event)}")
        fresh = sum(not call.told.replayed for call in recorded)
        self._expect(fresh <= 1, f"{key}: told {fresh} times as if it were the first time")
        for call in taken:
            self._expect(call.asked.user != event.user, f"{key}: its owner was told that it is taken")
            self._expect(call.told.at_ms == event.at, f"{key}: taken at {call.told.at_ms}, claimed at {event.at}")
        settled = min((call.ended for call in (*recorded, *taken)), default=FOREVER)
        late = [call.told.status for call in told if call.begun > settled and call.told.status not in SETTLED]
        self._expect(not late, f"{key}: was {late} after its claim had been told")

    def _decide_again(self, campaign: str) -> None:
        """Decide the recorded claims of a campaign again, in their order."""
        terms = self._terms[campaign]
        given = _Given(terms)
        for event in self._held.events:
            if event.campaign != campaign or event.seq not in self._spans:
                continue
            span, place = self._spans[event.seq], f"event {event.seq} ({campaign})"
            asked = self._sent[event.item, _party_of(event), event.user, event.visit][0].asked
            given.turn_to(asked.local_date)
            self._expect(event.at >= asked.now_ms, f"{place}: recorded before it was asked for")
            self._expect(terms.opens_ms <= event.at < terms.closes_ms, f"{place}: recorded outside the window")
            self._expect(not self._is_paused(campaign, span), f"{place}: recorded while paused")
            most, most_today = terms.per_user or FOREVER, terms.per_user_per_day or FOREVER
            self._expect(given.people[event.user] < most, f"{place}: {event.user} is over per_user")
            self._expect(given.people_today[event.user] < most_today, f"{place}: {event.user} is over per_user_per_day")
            surely, perhaps = self._extras(campaign, span)
            number = event.drawn
            while number not in (event.prize, NO_PRIZE):
                prize = _prize(terms, number)
                is_left = given.can_give(prize, surely)
                self._expect(not is_left, f"{place}: prize {number} was left, {event.prize} was given")
                number = prize.fallback
            self._expect(number == event.prize, f"{place}: prize {event.prize} is no fallback of {event.drawn}")
            amount = 0
            if event.prize != NO_PRIZE:
                prize = _prize(terms, event.prize)
                amount = prize.amount
                self._expect(given.can_give(prize, perhaps), f"{place}: prize {event.prize} is over a limit")
            unit = given.count(event)
            self._expect((event.amount, event.unit) == (amount, unit), f"{place}: not {amount}, unit {unit}: {event}")
            self._persons[campaign, event.user].append((given.date, span.begun))

    def _check_refusal(self, call: Call) -> None:
        told, asked, terms = call.told, call.asked, call.asked.terms
        place = f"item {asked.item}: {told.status} {told.reason}"
        mine = [date for date, begun in self._persons[terms.id, asked.user] if begun < call.ended]
        if told.status == ClaimStatus.LIMITED and told.reason == "per_user":
            self._expect(terms.per_user is not None and len(mine) >= terms.per_user, f"{place}: has {len(mine)}")
        elif told.status == ClaimStatus.LIMITED and told.reason == "per_user_per_day":
            most = max(Counter(mine).values(), default=0)
            is_right = terms.per_user_per_day is not None and most >= terms.per_user_per_day
            self._expect(is_right, f"{place}: has {most}")
        elif told.status == ClaimStatus.CLOSED and told.reason == "paused":
            self._expect(self._may_be_paused(terms.id, call), f"{place}: it was not")
        elif told.status == ClaimStatus.CLOSED and told.reason == "ended":
            self._expect(told.at_ms >= terms.closes_ms, f"{place}: it had not")
        else:
            self._problems.append(f"{place}: no rule says so")

    def _check_totals(self) -> None:
        events, totals = self._held.events, self._held.totals
        self._expect(totals.claims == len(events), f"{totals.claims} claims are counted, {len(events)} have events")
        self._expect(totals.event_seq == len(events), f"the newest event is {totals.event_seq} of {len(events)}")
        for campaign in totals.campaigns:
            mine = [event for event in events if event.campaign == campaign.id]
            units = Counter(event.prize for event in mine if event.prize != NO_PRIZE)
            prizes = self._terms[campaign.id]
            money = sum(_prize(prizes, number).money * count for number, count in units.items())
            extra: Counter[int] = Counter()
            for id_, (adjustment, _) in self._adjusted.items():
                if adjustment.campaign == campaign.id and adjustment.action in ("stock", "budget"):
                    extra[adjustment.prize] += adjustment.amount
                    self._expect(adjustment.id == id_, f"adjustment {id_} has two contents")
            budget = extra.pop(NO_PRIZE, 0)
            counted = (campaign.claims, campaign.money, campaign.awards, campaign.extra_stock, campaign.extra_budget)
            expected = (len(mine), money, dict(units), dict(extra), budget)
            self._expect(counted == expected, f"{campaign.id}: the counters say {counted}, the events {expected}")

    def _check_scans(self) -> None:
        """A visit is counted once, however often it asked; all have an answer in the end."""
        numbers: dict[int, dict[int, int]] = defaultdict(dict)
        visits: dict[int, set[int]] = defaultdict(set)
        unknown: dict[int, set[int]] = defaultdict(set)
        for call in (*self._history.claims, *self._history.looks):
            asked, told = call.asked, call.told
            item, final = asked.item, self._held.scans[asked.item]
            facts = told.scan if isinstance(told, Receipt) else told
            if isinstance(told, Receipt) and told.status == ClaimStatus.STALE:
                continue
            if facts is None:
                if asked.counts_scan:
                    unknown[item].add(asked.visit_hash)
                continue
            self._expect(facts.number <= facts.count <= final.count, f"item {item}: {facts} of {final}")
            if facts.count:
                self._expect(facts.first_at_ms == final.first_at_ms, f"item {item}: first scan {facts} or {final}")
            if asked.counts_scan:
                visits[item].add(asked.visit_hash)
                number = numbers[item].setdefault(asked.visit_hash, facts.number)
                self._expect(number == facts.number, f"item {item}: one visit is number {number} and {facts.number}")
        for item, final in self._held.scans.items():
            most = len(visits[item] | unknown[item])
            is_right = len(visits[item]) <= final.count <= most
            self._expect(is_right, f"item {item}: {final.count} scans of {len(visits[item])} to {most} visits")
            if most == len(visits[item]):
                is_right = sorted(numbers[item].values()) == [*range(1, most + 1)]
                self._expect(is_right, f"item {item}: scans are numbered {sorted(numbers[item].values())}")

    # Adjustments ----------------------------------------------------------------------------------------------------

    def _spans_of_adjustments(self) -> dict[str, tuple[Adjustment, Span]]:
        found: dict[str, tuple[Adjustment, Span]] = {}
        applied: Counter[str] = Counter()
        for call in self._history.adjustments:
            ended = FOREVER if call.told is None else call.ended
            adjustment, span = found.get(call.asked.id, (call.asked, Span(call.begun, ended)))
            found[call.asked.id] = adjustment, Span(min(span.begun, call.begun), min(span.ended, ended))
            applied[call.asked.id] += call.told is True
        for id_, count in applied.items():
            self._expect(count <= 1, f"adjustment {id_} was applied {count} times")
        return found

    def _extras(self, campaign: str, span: Span) -> tuple[Callable[[str, int], int], Callable[[str, int], int]]:
        """Return what had surely, and what had perhaps been added before a claim was recorded."""

        def total(action: str, prize: int, is_in: Callable[[Span], bool]) -> int:
            return sum(
                adjustment.amount
                for adjustment, other in self._adjusted.values()
                if (adjustment.campaign, adjustment.action, adjustment.prize) == (campaign, action, prize)
                and is_in(other)
            )

        return (
            lambda action, prize: total(action, prize, lambda other: other.ended < span.begun),
            lambda action, prize: total(action, prize, lambda other: other.begun < span.ended),
        )

    def _switches(self, campaign: str) -> Iterator[tuple[str, Span, Span]]:
        """Yield each pause and resume, when it took effect, and when the next one did; they never overlap."""
        mine = [
            (adjustment.action, span)
            for adjustment, span in self._adjusted.values()
            if adjustment.campaign == campaign and adjustment.action in ("pause", "resume")
        ]
        mine.sort(key=lambda switch: switch[1])
        ends = [*(span for _, span in mine), Span(FOREVER, FOREVER)][1:]
        for (action, span), end in zip(mine, ends, strict=True):
            yield action, span, end

    def _is_paused(self, campaign: str, span: Span) -> bool:
        """Tell whether a campaign was paused all the time in which something was recorded."""
        return any(
            action == "pause" and start.ended < span.begun and span.ended < end.begun
            for action, start, end in self._switches(campaign)
        )

    def _may_be_paused(self, campaign: str, call: Call) -> bool:
        return any(
            action == "pause" and start.begun < call.ended and call.begun < end.ended
            for action, start, end in self._switches(campaign)
        )


class _Given:
    """What a campaign has given so far, in all and on the newest of its days."""

    def __init__(self, terms: CampaignTerms) -> None:
        self.date = 0
        self.people: Counter[str] = Counter()
        self.people_today: Counter[str] = Counter()
        self._terms = terms
        self._units: Counter[int] = Counter()
        self._units_today: Counter[int] = Counter()
        self._spent = 0
        self._spent_today = 0

    def turn_to(self, date: int) -> None:
        """Begin a new day, unless it is an older one."""
        if date > self.date:
            self.date = date
            self._spent_today = 0
            self._units_today.clear()
            self.people_today.clear()

    def can_give(self, prize: PrizeTerms, extra: Callable[[str, int], int]) -> bool:
        """Tell whether one more unit keeps every limit."""
        limits = [(self._units[prize.number], 1, prize.stock, extra("stock", prize.number))]
        limits.append((self._units_today[prize.number], 1, prize.stock_per_day, 0))
        if prize.money:
            limits.append((self._spent, prize.money, self._terms.budget_total, extra("budget", NO_PRIZE)))
            limits.append((self._spent_today, prize.money, self._terms.budget_per_day, 0))
        return all(most is None or before + one <= most + more for before, one, most, more in limits)

    def count(self, event: Event) -> int:
        """Count a recorded claim and return the unit that it was given."""
        self.people[event.user] += 1
        self.people_today[event.user] += 1
        if event.prize == NO_PRIZE:
            return 0
        money = _prize(self._terms, event.prize).money
        self._units[event.prize] += 1
        self._units_today[event.prize] += 1
        self._spent += money
        self._spent_today += money
        return self._units[event.prize]


def _prize(terms: CampaignTerms, number: int) -> PrizeTerms:
    prize = terms.prizes[number]
    assert prize is not None
    return prize


def _party_of(event: Event) -> Party:
    return Party.CONSUMER if event.role == "consumer" else Party.CHANNEL


def _outcome(receipt: Receipt) -> tuple[Any, ...]:
    return (
        str(receipt.status), receipt.at_ms, receipt.campaign, receipt.generation, receipt.rule, receipt.drawn,
        receipt.prize, receipt.unit,
    )  # fmt: skip


def _outcome_of(event: Event) -> tuple[Any, ...]:
    status = "no_prize" if event.prize == NO_PRIZE else "awarded"
    return (status, event.at, event.campaign, event.generation, event.rule, event.drawn, event.prize, event.unit)


def _content(asked: ClaimRequest) -> tuple[Any, ...]:
    assert asked.terms is not None
    return (
        asked.claim_id, "claim", asked.batch, asked.product, asked.role.name.lower(), asked.region, asked.terms.id,
        asked.generation, asked.offers[0].rule, asked.offers[0].drawn, asked.claim_id,
    )  # fmt: skip


def _content_of(event: Event) -> tuple[Any, ...]:
    return (
        event.id, event.type, event.batch, event.product, event.role, event.region, event.campaign, event.generation,
        event.rule, event.drawn, event.claim,
    )  # fmt: skip
