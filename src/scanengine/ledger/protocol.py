"""What a ledger is to the rest of the engine: the one part that remembers.

A ledger answers claims and counts scans, each in one atomic step, and hands out the events written with them. It is
said here once what may be asked; how the answer comes about is in :mod:`scanengine.ledger.rules`, and where it is kept
is each backend's own matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from scanengine.errors import LedgerUnavailableError
from scanengine.ledger.records import TIME_MS_MAX, ClaimRecord
from scanengine.model import (
    NO_PRIZE,
    NO_RULE,
    Adjustment,
    ClaimRequest,
    ClaimStatus,
    Event,
    ObserveRequest,
    Party,
    Receipt,
    Role,
    ScanFacts,
)

PENDING: Final = Receipt(ClaimStatus.PENDING)
"""The outcome is unknown: ask again with the same visit."""

_ITEM_BITS = 55
_WORD_MAX = (1 << 64) - 1
_GENERATION_MAX = (1 << 32) - 1
_DATE_MAX = (1 << 31) - 1
_NUMBER_MAX = 255
_PARTIES = frozenset(Party)
_ROLES = frozenset(Role)


class CampaignTotals(Struct, frozen=True):
    """What one campaign has given so far, and the adjustments in force.

    Parameters
    ----------
    claims : int
        Recorded claims.
    money : int
        Money awarded, in the currency's minor unit.
    awards, extra_stock : dict of int to int
        Units by prize number.
    """

    id: str
    claims: int
    money: int
    awards: dict[int, int]
    is_paused: bool
    is_closed: bool
    extra_stock: dict[int, int]
    extra_budget: int


class LedgerTotals(Struct, frozen=True):
    """What a ledger holds, for a person to look at.

    Parameters
    ----------
    event_seq : int
        Number of the newest event, 0 before the first.
    events : int
        Events not yet trimmed.
    campaigns : tuple of CampaignTotals
        In the order of their ids.
    readers : dict of str to int
        Reader to the newest event that it has acknowledged.
    """

    claims: int
    events: int
    event_seq: int
    generation: int
    campaigns: tuple[CampaignTotals, ...]
    readers: dict[str, int]


class LedgerMarks(Struct, frozen=True):
    """How far a ledger has come, and whose it is.

    Parameters
    ----------
    program : str
        Identity of the program.
    clock_ms : int
        The ledger's time, milliseconds since 1970 UTC.
    generation : int
        Newest generation seen.
    claims, scans, events : int
        Number of the newest of each, 0 before the first.
    trimmed : int
        Number of the newest event that was trimmed.
    trimmed_claims : int
        How many events of claims were trimmed.
    """

    program: str
    clock_ms: int
    generation: int
    claims: int
    scans: int
    events: int
    trimmed: int
    trimmed_claims: int


PERSON_DTYPE: Final = np.dtype(
    [("user_hash", "<u8"), ("campaign", "<i8"), ("total", "<i8"), ("date", "<i8"), ("day", "<i8"), ("claims", "<i8")]
)
"""What is counted of a person in a campaign: claims in all, newest local date, claims on that date; and the number of
the newest claim of the ledger that may be counted in it."""


class LedgerReader(Protocol):
    """What a ledger holds, for commands that show, count again or carry it elsewhere; for one thread.

    Notes
    -----
    Records are the structured arrays of :mod:`scanengine.ledger.records`; a campaign is its number in them. Any method
    raises ``LedgerFormatError`` where it meets damage and ``LedgerUnavailableError`` where it gets no answer.
    """

    def __enter__(self) -> LedgerReader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def snapshot(self) -> AbstractContextManager[LedgerReader]:
        """Read everything inside the block as of one moment, however much is claimed meanwhile."""

    def scan_facts(self, item: int) -> ScanFacts:
        """Return the counted scans of an item; ``number`` is 0, as looking does not count."""

    def claim_of(self, item: int, party: Party) -> ClaimRecord | None:
        """Return the recorded claim of an item and party, or None; the person's running numbers may be 0."""

    def person(self, campaign: str, user_hash: int) -> tuple[int, int, int]:
        """Return a person's recorded claims in a campaign: in all, newest local date, on that date; zeros for none."""

    def claims(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield the claims in order, many at a time: row numbers (n,), records (n,) of ``CLAIM_DTYPE``."""

    def scans(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield the scans that are rows of their own: row numbers (n,), records (n,) of ``SCAN_DTYPE``."""

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield the events not yet trimmed, in order: row number of the claim (0 for a scan), event."""

    def counters(self) -> dict[tuple[int, int, int, int], int]:
        """Return every counter by campaign number, kind, prize number and local date."""

    def adjustments(self) -> list[Adjustment]:
        """Return the adjustments in the order in which they were applied."""

    def campaigns(self) -> dict[int, str]:
        """Return the ids of campaigns by their numbers in the records."""

    def people(self) -> Iterator[NDArray[np.void]] | None:
        """Yield the counts of persons, many at a time: (n,) of ``PERSON_DTYPE``, a person perhaps more than once.

        None if they are kept nowhere but in the records of claims. Each is as of its own moment, also in a snapshot.
        """

    def marks(self) -> LedgerMarks:
        """Return how far the ledger has come."""

    def trimmed_claims(self) -> int:
        """Return how many events of claims have been trimmed by now, also in a snapshot that does not hold them."""

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""

    def close(self) -> None:
        """Let go of the ledger; again is no change."""


class Ledger(Protocol):
    """Durable, atomic memory of claims and scans of one program.

    Notes
    -----
    Thread-safe. Trouble of the world (no answer within the deadline, a transaction that failed) is never an exception
    of a claim: the receipt says ``pending``. What could not be answered in time because too much is asked is not begun:
    claims and observations raise :class:`~scanengine.errors.OverloadedError` then, and nothing of the call was done.
    Every method raises :class:`~scanengine.errors.LedgerUnavailableError` after ``close`` and in a process forked from
    the one that opened the ledger, and ``ValueError`` for an argument that no caller should make.
    """

    @property
    def kind(self) -> str:
        """What the ledger is kept in: ``sqlite``, ``redis`` or ``memory``."""

    @property
    def durability(self) -> str:
        """What an answer has survived: ``strict``, ``everysec``, ``volatile`` or ``unverified``."""

    @property
    def alarms(self) -> tuple[str, ...]:
        """What an operator should look after before it becomes trouble, one text each."""

    @property
    def calls(self) -> int:
        """Claims and observations that have reached the ledger."""

    @property
    def refused(self) -> int:
        """Claims and observations that were refused as too many waited; they have not reached the ledger."""

    @property
    def trouble(self) -> str | None:
        """Why the newest batch could not be written, or None if it could: claims are ``pending`` while it lasts."""

    @property
    def generation(self) -> int:
        """Newest generation seen in a request or announced."""

    def claim(self, request: ClaimRequest) -> Receipt:
        """Claim an item for a person, or tell why not; blocks until the answer is durable."""

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Claim in order, each request for itself; blocks until all answers are durable.

        Parameters
        ----------
        is_let_in : bool
            Whether they are a later part of something that was let in, which cannot be refused any more.
        """

    def observe(self, request: ObserveRequest) -> ScanFacts:
        """Count a visit, or only look; raises ``LedgerUnavailableError`` where a claim would be pending."""

    async def claim_async(self, request: ClaimRequest) -> Receipt:
        """Do :meth:`claim` without blocking the event loop."""

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Do :meth:`claim_many` without blocking the event loop."""

    async def observe_async(self, request: ObserveRequest) -> ScanFacts:
        """Do :meth:`observe` without blocking the event loop."""

    async def observe_many_async(self, requests: Sequence[ObserveRequest]) -> list[ScanFacts | None]:
        """Do :meth:`observe_async` for many items; None for each without an answer."""

    def adjust(self, adjustment: Adjustment) -> bool:
        """Apply an adjustment; False if it was applied before. Raises ``LedgerUnavailableError`` if unknown.

        Raises ``AdjustmentError`` if its id was applied for something else.
        """

    def announce(self, generation: int) -> None:
        """Tell that a generation is published: claims decided on older ones are ``stale`` from now on."""

    def register_reader(self, name: str) -> None:
        """Make sure that no event is trimmed before this reader has acknowledged it; again is no change."""

    def remove_reader(self, name: str) -> None:
        """Keep no event for this reader any longer; again, or of an unknown one, is no change."""

    def events(self, reader: str, after: int, limit: int) -> list[Event]:
        """Return at most ``limit`` events with ``seq`` above ``after``, in order.

        Ends before an event that is damaged or missing; raises ``DamagedEventError`` if that is the first one.
        """

    def ack(self, reader: str, up_to: int) -> None:
        """Acknowledge all events up to ``up_to``; what all readers have acknowledged is trimmed."""

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""

    def close(self) -> None:
        """Answer what was asked, then let go of everything; again is no change."""


def check_claim(request: ClaimRequest) -> None:
    """Check that a claim fits the records, so that one wrong request cannot spoil the batch it shares.

    Raises
    ------
    ValueError
        A number is outside its range, there is no such party or role, or an offer names a rule or a prize that cannot
        be.
    """
    if not (
        0 <= request.item < 1 << _ITEM_BITS
        and 0 <= request.now_ms <= TIME_MS_MAX
        and 0 <= request.user_hash <= _WORD_MAX
        and 0 <= request.visit_hash <= _WORD_MAX
        and 0 <= request.generation <= _GENERATION_MAX
        and 0 <= request.region <= _GENERATION_MAX
    ):
        raise ValueError(
            "a claim needs item < 2**55, now_ms before year 9999, hashes of 64 bits, generation and region < 2**32, "
            f"found item={request.item} now_ms={request.now_ms} generation={request.generation}"
        )
    if request.party not in _PARTIES or request.role not in _ROLES:
        raise ValueError(f"a claim needs party 0 or 1 and role 0 to 4, found {request.party!r} and {request.role!r}")
    texts = request.user + request.visit + request.batch + request.product + request.claim_id
    if not texts.isascii():
        texts.encode()  # A lone surrogate is a ValueError here, not in the midst of a batch.
    if request.terms is not None and not 1 <= request.local_date <= _DATE_MAX:
        raise ValueError(f"a claim in a campaign needs a local date of 1 to {_DATE_MAX}, found {request.local_date}")
    for offer in request.offers:
        if not (NO_RULE < offer.rule <= _NUMBER_MAX and NO_PRIZE <= offer.drawn <= _NUMBER_MAX):
            raise ValueError(f"an offer needs rule 0 to 255 and drawn -1 to 255, found {offer}")


def check_observe(request: ObserveRequest) -> None:
    """Check that an observation fits the records.

    Raises
    ------
    ValueError
        A number is outside its range.
    """
    if not (
        0 <= request.item < 1 << _ITEM_BITS
        and 0 <= request.now_ms <= TIME_MS_MAX
        and 0 <= request.visit_hash <= _WORD_MAX
    ):
        raise ValueError(
            "an observation needs item < 2**55, now_ms before the year 9999 and a visit hash of 64 bits, found "
            f"item={request.item} now_ms={request.now_ms}"
        )


def check_generation(generation: int) -> None:
    """Check that a generation fits the records.

    Raises
    ------
    ValueError
        It is negative or needs more than 32 bits.
    """
    if not 0 <= generation <= _GENERATION_MAX:
        raise ValueError(f"a generation is 0 to {_GENERATION_MAX}, found {generation}")


def receipts_of(answers: Sequence[Receipt | ScanFacts | None]) -> list[Receipt]:
    """Return the receipts of claims, pending where there is no answer."""
    return [answer if isinstance(answer, Receipt) else PENDING for answer in answers]


def all_facts_of(answers: Iterable[Receipt | ScanFacts | None]) -> list[ScanFacts | None]:
    """Return what observations were answered, None for each without an answer."""
    return [answer if isinstance(answer, ScanFacts) else None for answer in answers]


def facts_of(answer: Receipt | ScanFacts | None) -> ScanFacts:
    """Return what an observation was answered.

    Raises
    ------
    LedgerUnavailableError
        There is no answer.
    """
    if not isinstance(answer, ScanFacts):
        raise LedgerUnavailableError("the ledger did not answer in time or could not write; ask again")
    return answer
