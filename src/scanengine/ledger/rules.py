"""What a claim is answered: the one place that says it, as pure functions of a request and of what a ledger holds.

The order of the steps is a promise. An earlier claim of the same item and party comes before everything else: states,
closings and rules that changed since do not change an answer given. Then the window, then the person's limits, then the
offers. Only awards take stock or money; a refusal leaves the code unused.
"""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

from scanengine.ledger.records import ClaimRecord
from scanengine.model import NO_PRIZE, NO_RULE, CampaignTerms, ClaimRequest, ClaimStatus, PrizeTerms


class Book(Protocol):
    """What a ledger holds of one campaign. A ``date`` of 0 asks for the count over all days."""

    @property
    def is_paused(self) -> bool:
        """Whether the newest of the adjustments ``pause`` and ``resume`` is a pause."""

    @property
    def is_closed(self) -> bool:
        """Whether it was closed by an adjustment."""

    @property
    def extra_budget(self) -> int:
        """Money added by adjustments."""

    def extra_stock(self, prize: int) -> int:
        """Return the units of a prize added by adjustments."""

    def claims_of(self, user_hash: int, date: int) -> int:
        """Return the recorded claims of a person."""

    def awards(self, prize: int, date: int) -> int:
        """Return the units given of a prize."""

    def money(self, date: int) -> int:
        """Return the money given."""


class Verdict(Struct, frozen=True, gc=False):
    """What becomes of a claim; ``rule`` to ``amount`` mean something only where it is recorded."""

    status: ClaimStatus
    reason: str | None = None
    rule: int = NO_RULE
    drawn: int = NO_PRIZE
    prize: int = NO_PRIZE
    money: int = 0
    amount: int = 0
    is_recorded: bool = False


REPLAYED: Final = Verdict(ClaimStatus.AWARDED)
"""The same person again: the recorded claim is the answer, whichever of the two recorded statuses it has."""
TAKEN: Final = Verdict(ClaimStatus.TAKEN)
STALE: Final = Verdict(ClaimStatus.STALE)
NOT_STARTED: Final = Verdict(ClaimStatus.CLOSED, "not_started")
ENDED: Final = Verdict(ClaimStatus.CLOSED, "ended")
PAUSED: Final = Verdict(ClaimStatus.CLOSED, "paused")
PER_USER: Final = Verdict(ClaimStatus.LIMITED, "per_user")
PER_USER_PER_DAY: Final = Verdict(ClaimStatus.LIMITED, "per_user_per_day")


def settle(
    request: ClaimRequest,
    earlier: ClaimRecord | None,
    book: Book | None,
    *,
    generation: int,
    at_ms: int,
    date: int,
) -> Verdict:
    """Return what becomes of a claim.

    Parameters
    ----------
    earlier : ClaimRecord or None
        The recorded claim of the same item and party.
    book : Book or None
        What is held of the request's campaign; needed where the request has terms.
    generation : int
        Newest generation that the ledger has seen.
    at_ms : int
        The ledger's time, which never runs backwards, milliseconds since 1970 UTC.
    date : int
        The campaign's local date, which never runs backwards, days since 1970-01-01.
    """
    if earlier is not None:
        return REPLAYED if earlier.user_hash == request.user_hash else TAKEN
    if request.generation < generation:
        return STALE
    terms = request.terms
    if terms is None or book is None:
        return Verdict(ClaimStatus.INELIGIBLE, request.refusal)
    refusal = _refuse(request, terms, book, at_ms, date)
    if refusal is not None:
        return refusal
    if not request.offers:
        return Verdict(ClaimStatus.INELIGIBLE, request.refusal or "no_rule")
    offer = request.offers[0]
    prize = _choose_prize(offer.drawn, terms, book, date)
    if prize is None:
        return Verdict(ClaimStatus.NO_PRIZE, None, offer.rule, offer.drawn, NO_PRIZE, 0, 0, True)
    return Verdict(ClaimStatus.AWARDED, None, offer.rule, offer.drawn, prize.number, prize.money, prize.amount, True)


def _refuse(request: ClaimRequest, terms: CampaignTerms, book: Book, at_ms: int, date: int) -> Verdict | None:
    """Return why nothing can be claimed in this campaign now, by this person."""
    if at_ms < terms.opens_ms:
        return NOT_STARTED
    if at_ms >= terms.closes_ms:
        return ENDED
    if book.is_paused:
        return PAUSED
    if book.is_closed:
        return ENDED
    if terms.per_user is not None and book.claims_of(request.user_hash, 0) >= terms.per_user:
        return PER_USER
    if terms.per_user_per_day is not None and book.claims_of(request.user_hash, date) >= terms.per_user_per_day:
        return PER_USER_PER_DAY
    return None


def _choose_prize(drawn: int, terms: CampaignTerms, book: Book, date: int) -> PrizeTerms | None:
    """Return the prize drawn or the first of its fallbacks that can be given; None if none is left."""
    number = drawn
    # A chain visits each prize at most once. A campaign with a cycle is refused when it is published; the bound
    # keeps a wrong caller from stopping the ledger.
    for _ in terms.prizes:
        if not 0 <= number < len(terms.prizes):
            return None
        prize = terms.prizes[number]
        if prize is None:
            return None
        if _can_give(prize, terms, book, date):
            return prize
        number = prize.fallback
    return None


def _can_give(prize: PrizeTerms, terms: CampaignTerms, book: Book, date: int) -> bool:
    """Tell whether one more unit of a prize keeps every limit."""
    number, money = prize.number, prize.money
    if prize.stock is not None and book.awards(number, 0) >= prize.stock + book.extra_stock(number):
        return False
    if prize.stock_per_day is not None and book.awards(number, date) >= prize.stock_per_day:
        return False
    if not money:
        return True
    if terms.budget_total is not None and book.money(0) + money > terms.budget_total + book.extra_budget:
        return False
    return terms.budget_per_day is None or book.money(date) + money <= terms.budget_per_day
