"""What a person would be given now: the ledger's part of an explanation, without claiming.

The ledger is read beside whoever owns it, and the answer comes from the very rules by which claims are settled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from scanengine.errors import ScanError
from scanengine.keys import Keyring
from scanengine.ledger import LedgerReader, rules, schema
from scanengine.ledger.protocol import CampaignTotals
from scanengine.ledger.records import ClaimRecord
from scanengine.model import (
    NO_PRIZE,
    NO_RULE,
    CampaignTerms,
    ClaimStatus,
    PrizeTerms,
    Role,
    Status,
)
from scanengine.program.answers import Answerer
from scanengine.program.claims import claim_request
from scanengine.program.explaining import Explained, Step, explain
from scanengine.program.ledgers import open_reader
from scanengine.program.program import Program
from scanengine.program.scans import Scan, check_code
from scanengine.tables.snapshot import Snapshot

_NOBODY: Final = "nobody"
_TIME_MS_END: Final = 253_370_764_800_000
"""The year 9999 UTC, as for any scan."""
_RECORDED: Final = {True: ClaimStatus.AWARDED, False: ClaimStatus.NO_PRIZE}


class Foreseen(Struct, frozen=True):
    """What a claim would be answered.

    Parameters
    ----------
    status : str
        Of the code.
    claim : str or None
        Of the claim; None if nothing would be said of one.
    reason : str or None
    replayed : bool
        Whether it is what this person was given before.
    rule, drawn, prize : int
    prize_id : str or None
        Of the prize that would be given.
    """

    status: str
    claim: str | None = None
    reason: str | None = None
    replayed: bool = False
    rule: int = NO_RULE
    drawn: int = NO_PRIZE
    prize: int = NO_PRIZE
    prize_id: str | None = None


class Why(Struct, frozen=True):
    """An explanation: the item, every step, and what would be answered."""

    item: int | None
    steps: list[Step]
    answer: Foreseen


class _Held:
    """What the ledger holds of one campaign, for one person; a :class:`scanengine.ledger.rules.Book`."""

    def __init__(
        self, totals: CampaignTotals | None, counters: dict[tuple[int, int, int], int], person: tuple[int, int, int]
    ) -> None:
        self._totals = totals
        self._counters = counters
        self._person = person
        self.date = max((date for _, _, date in counters), default=0)
        """Newest local date that was recorded of the campaign."""
        self.is_paused = totals is not None and totals.is_paused
        self.is_closed = totals is not None and totals.is_closed
        self.extra_budget = totals.extra_budget if totals is not None else 0

    def extra_stock(self, prize: int) -> int:
        return self._totals.extra_stock.get(prize, 0) if self._totals is not None else 0

    def claims_of(self, user_hash: int, date: int) -> int:
        total, newest, day = self._person
        return (day if date == newest else 0) if date else total

    def awards(self, prize: int, date: int) -> int:
        return self._counters.get((schema.COUNT_AWARDS, prize, date), 0)

    def money(self, date: int) -> int:
        return self._counters.get((schema.COUNT_MONEY, 0, date), 0)


def why(
    program: Program,
    text: str,
    *,
    user: str | None = None,
    role: str | Role = Role.CONSUMER,
    region: str | int | None = None,
    now_ms: int | None = None,
) -> Why:
    """Return why a code is answered as it is, and what a person would be given now. Never claims, never counts.

    Parameters
    ----------
    program : Program
        Opened in any way: the ledger is read beside its owner.
    user : str or None
        Who would claim; None for somebody who has claimed nothing.
    now_ms : int or None
        Milliseconds since 1970 UTC; None for now.

    Raises
    ------
    ScanError
        If code, user, role or region are wrong.
    LedgerFormatError, LedgerUnavailableError
        If the ledger cannot be read.
    """
    scan = Scan.of(check_code(text), _NOBODY if user is None else user, None, role, region)
    now_ms = program.clock() if now_ms is None else now_ms
    if not 0 <= now_ms < _TIME_MS_END:
        raise ScanError("now", f"expected a time from 1970 on and before the year 9999, found {now_ms} ms")
    time_text = program.answerer.time_text
    explained = explain(program.engine, text, now_ms, scan.role, scan.region, time_text)
    decision = explained.decision
    status = decision.status.name.lower()
    steps = list(explained.steps)
    if decision.batch is None:
        steps.append(Step("answer_status", "no", {"status": status}))
        return Why(None, steps, Foreseen(status))
    reader = open_reader(program.workspace, program.settings, program.keyring)
    if reader is None:
        found = _Foreseeing(program, explained, scan, now_ms, is_named=user is not None, steps=steps).without_ledger()
        return Why(decision.item, steps, found)
    with reader:
        trouble = _trouble_of(reader, program)
        with reader.snapshot():
            foreseeing = _Foreseeing(program, explained, scan, now_ms, is_named=user is not None, steps=steps)
            return Why(decision.item, steps, foreseeing.of(reader, trouble))


def _trouble_of(reader: LedgerReader, program: Program) -> str | None:
    """Return why claims would be pending whatever is held: a Redis that promises too little."""
    if program.settings.ledger.url is None:
        return None
    from scanengine.ledger.redis import RedisReader

    assert isinstance(reader, RedisReader)
    return reader.health(program.settings.ledger.durability).trouble


class _Foreseeing:
    def __init__(
        self, program: Program, explained: Explained, scan: Scan, now_ms: int, *, is_named: bool, steps: list[Step]
    ) -> None:
        self._keyring: Keyring = program.keyring
        self._answerer: Answerer = program.answerer
        self._snapshot: Snapshot = program.engine.snapshot
        self._time: Callable[[int], str] = program.answerer.time_text
        self._explained = explained
        self._decision = explained.decision
        self._status = explained.decision.status.name.lower()
        self._is_named = is_named
        self._steps = steps
        self._request = claim_request(program.keyring, scan, explained.decision, now_ms)

    def _say(self, key: str, outcome: Any, **values: Any) -> None:
        self._steps.append(Step(key, outcome, values))

    def without_ledger(self) -> Foreseen:
        """Foresee the first claim of a program whose ledger was never opened."""
        self._say("ledger_none", "info")
        return self._settle(None, _Held(None, {}, (0, 0, 0)), 0, self._request.now_ms, None)

    def of(self, reader: LedgerReader, trouble: str | None) -> Foreseen:
        """Foresee a claim by what a ledger holds at this moment."""
        request, terms = self._request, self._decision.terms
        facts = reader.scan_facts(request.item)
        first = None if facts.first_at_ms is None else self._time(facts.first_at_ms)
        self._say("scans" if facts.count else "scans_none", "info", count=facts.count, first=first)
        campaigns = reader.campaigns()
        earlier = reader.claim_of(request.item, request.party)
        self._say_earlier(earlier, campaigns)
        held = _Held(None, {}, (0, 0, 0))
        if terms is not None:
            totals = {each.id: each for each in reader.totals().campaigns}
            counters = {key[1:]: value for key, value in reader.counters().items() if campaigns[key[0]] == terms.id}
            person = reader.person(terms.id, request.user_hash) if self._is_named else (0, 0, 0)
            held = _Held(totals.get(terms.id), counters, person)
        marks = reader.marks()
        if marks.clock_ms > request.now_ms:
            self._say("clock_ahead", "info", clock=self._time(marks.clock_ms))
        campaign = campaigns.get(earlier.campaign) if earlier is not None else None
        if trouble is not None:
            self._say("ledger_trouble", "no", trouble=trouble)
            return self._answer(Foreseen(self._status, ClaimStatus.PENDING.value))
        return self._settle(earlier, held, marks.generation, max(marks.clock_ms, request.now_ms), campaign)

    def _say_earlier(self, earlier: ClaimRecord | None, campaigns: dict[int, str]) -> None:
        party = self._request.party.name.lower()
        if earlier is None:
            self._say("claimed_not", "yes", party=party)
            return
        values = {"party": party, "at": self._time(earlier.at_ms), "campaign": campaigns.get(earlier.campaign, "")}
        if not self._is_named:
            self._say("claimed", "no", **values)
        elif earlier.user_hash == self._request.user_hash:
            self._say("claimed_mine", "yes", **values)
        else:
            self._say("claimed_other", "no", **values)

    def _settle(
        self, earlier: ClaimRecord | None, held: _Held, generation: int, at_ms: int, campaign: str | None
    ) -> Foreseen:
        request, terms = self._request, self._decision.terms
        date = max(request.local_date, held.date)
        if earlier is None and terms is not None and request.generation >= generation:
            self._say_campaign(terms, held, at_ms, date)
        verdict = rules.settle(request, earlier, held, generation=generation, at_ms=at_ms, date=date)
        if verdict is rules.REPLAYED and earlier is not None:
            return self._answer(Foreseen(
                self._status, _RECORDED[earlier.prize != NO_PRIZE].value, None, True, earlier.rule, earlier.drawn,
                earlier.prize, self._prize_id(campaign, earlier.generation, earlier.prize),
            ))  # fmt: skip
        if verdict.status is ClaimStatus.STALE:
            self._say("generation_behind", "no", found=request.generation, expected=generation)
            return self._answer(Foreseen(self._status, ClaimStatus.PENDING.value))
        if verdict.status is ClaimStatus.INELIGIBLE and self._decision.status is not Status.VALID:
            return self._answer(Foreseen(self._status))
        prize_id = self._prize_id(terms.id, request.generation, verdict.prize) if terms is not None else None
        return self._answer(Foreseen(
            self._status, verdict.status.value, verdict.reason, False, verdict.rule, verdict.drawn, verdict.prize,
            prize_id,
        ))  # fmt: skip

    def _prize_id(self, campaign: str | None, generation: int, prize: int) -> str | None:
        if prize == NO_PRIZE or campaign is None:
            return None
        found = self._answerer.prize_table(campaign, generation, self._snapshot).prize(prize)
        return found.id if found is not None else None

    def _say_campaign(self, terms: CampaignTerms, held: _Held, at_ms: int, date: int) -> None:
        """Tell the window, the switches, the person's limits and the prizes, in the order in which they decide."""
        if at_ms < terms.opens_ms:
            self._say("not_started", "no", opens=self._time(terms.opens_ms))
        elif at_ms >= terms.closes_ms:
            self._say("ended", "no", closes=self._time(terms.closes_ms))
        elif held.is_paused:
            self._say("paused", "no")
        elif held.is_closed:
            self._say("closed", "no")
        else:
            self._say("open", "yes")
        if self._is_named:
            for key, limit, day in (("limit", terms.per_user, 0), ("limit_day", terms.per_user_per_day, date)):
                count = held.claims_of(self._request.user_hash, day)
                if limit is None:
                    self._say(f"{key}_none", "info", count=count)
                else:
                    self._say(key, "yes" if count < limit else "no", count=count, limit=limit)
        book = self._explained.book
        if book is None or self._explained.rule == NO_RULE:
            return
        for number in book.chain(self._explained.drawn):
            prize = terms.prizes[number]
            assert prize is not None  # A chain holds prizes of the terms.
            if self._say_prize(prize, terms, held, date):
                return
        if self._explained.drawn != NO_PRIZE:
            self._say("nothing_left", "no")

    def _say_prize(self, prize: PrizeTerms, terms: CampaignTerms, held: _Held, date: int) -> bool:
        """Tell what is left of a prize; whether it can be given."""
        info = self._explained.book.table.prize(prize.number) if self._explained.book is not None else None
        name = info.id if info is not None else str(prize.number)
        budget = None if terms.budget_total is None else terms.budget_total + held.extra_budget
        stock = None if prize.stock is None else prize.stock + held.extra_stock(prize.number)
        limits = [
            ("stock", held.awards(prize.number, 0), 1, stock),
            ("stock_day", held.awards(prize.number, date), 1, prize.stock_per_day),
        ]
        if prize.money:
            limits.append(("budget", held.money(0), prize.money, budget))
            limits.append(("budget_day", held.money(date), prize.money, terms.budget_per_day))
        can_be_given = True
        for key, given, more, limit in limits:
            if limit is not None:
                is_left = given + more <= limit
                can_be_given &= is_left
                self._say(key, "yes" if is_left else "no", prize=name, given=given, limit=limit)
        self._say("given" if can_be_given else "not_given", "yes" if can_be_given else "no", prize=name)
        return can_be_given

    def _answer(self, foreseen: Foreseen) -> Foreseen:
        """Tell the end of it."""
        values = {"status": self._status, "prize": foreseen.prize_id, "who": self._is_named}
        if foreseen.claim is None:
            self._say("answer_status", "no", **values)
        else:
            key = f"answer_{foreseen.claim}"
            if foreseen.replayed:
                key += "_again"
            elif foreseen.reason is not None:
                key += f"_{foreseen.reason}"
            is_good = foreseen.claim in (ClaimStatus.AWARDED, ClaimStatus.NO_PRIZE)
            self._say(key, "yes" if is_good else "no", **values)
        return foreseen
