"""Bytes between this process and the functions of the library: records, terms, and what can be wrong with a reply.

The layouts are drawn in ``scan_v1.lua``, which reads the requests and writes everything else. What each claim needs is
in ``_checks.pyx``, ``_codec.pyx`` and ``_replies.pyx``, which ask here for what they do not need of each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, Final, NamedTuple

import msgspec

from scanengine.errors import LedgerFormatError
from scanengine.ledger.records import TIME_MS_MAX
from scanengine.model import CampaignTerms, ClaimRequest, ClaimStatus, ObserveRequest, Receipt, ScanFacts

NUMBER_MAX: Final = (1 << 53) - 1
"""Numbers in the functions are doubles, exact up to here. A limit above it is held for this one."""

_DAY_MS: Final = 86_400_000
_NO_LIMIT: Final = -1
_ENCODINGS_KEPT: Final = 64

_ANSWER: Final = Struct("<BQQIIB")
_GENERATION: Final = Struct("<I")
_RECORD: Final = Struct("<QQ6sI")
_RECORD_NUMBERS: Final = b"\x99"
"""Makes one MessagePack array of the nine numbers at the end of a record."""

_REPLAYED, _TAKEN = 2, 3
REFUSALS: Final = {
    4: (ClaimStatus.STALE, None),
    5: (ClaimStatus.INELIGIBLE, None),
    6: (ClaimStatus.CLOSED, "not_started"),
    7: (ClaimStatus.CLOSED, "ended"),
    8: (ClaimStatus.CLOSED, "paused"),
    9: (ClaimStatus.LIMITED, "per_user"),
    10: (ClaimStatus.LIMITED, "per_user_per_day"),
}
"""What the functions answer without a record: status and reason by number."""

_log = logging.getLogger(__name__)
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class StoredClaim(NamedTuple):
    """A claim as its bucket holds it; the campaign is its number."""

    user_hash: int
    visit_hash: int
    at_ms: int
    seq: int
    is_first_scan: int
    campaign: int
    generation: int
    local_date: int
    unit: int
    rule: int
    drawn: int
    prize: int
    money: int

    @classmethod
    def unpack(cls, packed: bytes) -> StoredClaim:
        """Read a record.

        Raises
        ------
        LedgerFormatError
            It is none.
        """
        try:
            user_hash, visit_hash, at, seq = _RECORD.unpack_from(packed)
            first, campaign, generation, days, *rest = _decode(_RECORD_NUMBERS + packed[_RECORD.size :])
            at_ms = int.from_bytes(at, "little")
            if at_ms > TIME_MS_MAX:
                raise ValueError(f"it was at {at_ms} ms since 1970, expected a time before the year 9999")
            date = at_ms // _DAY_MS + days
            return cls(user_hash, visit_hash, at_ms, seq, first, campaign, generation, date, *rest)
        except (ValueError, TypeError, msgspec.MsgspecError, StructError) as error:
            raise LedgerFormatError(f"a claim of {len(packed)} bytes is damaged: {error}") from error

    def pack(self) -> bytes:
        """Return the record."""
        numbers = (
            self.is_first_scan, self.campaign, self.generation, self.local_date - self.at_ms // _DAY_MS, self.unit,
            self.rule, self.drawn, self.prize, self.money,
        )  # fmt: skip
        head = _RECORD.pack(self.user_hash, self.visit_hash, self.at_ms.to_bytes(6, "little"), self.seq)
        return head + _encode(numbers)[1:]


class UnknownCampaignError(Exception):
    """A campaign has no number yet that this process knows of."""

    def __init__(self, campaign: str) -> None:
        self.campaign = campaign
        super().__init__(campaign)


class StrangeReplyError(Exception):
    """A reply is none that the functions give: others of their name must have answered."""


class PreparedTerms:
    """Terms as a call carries them, held so that their identity is not given to others.

    A call needs only the prizes that were drawn and those down their fallbacks.

    Parameters
    ----------
    key : bytes
        Of what is counted and adjusted of the campaign.
    """

    def __init__(self, terms: CampaignTerms, key: bytes) -> None:
        self.terms = terms
        self.key = key
        self._limits = (
            terms.opens_ms, terms.closes_ms, _limit(terms.per_user), _limit(terms.per_user_per_day),
            _limit(terms.budget_total), _limit(terms.budget_per_day),
        )  # fmt: skip
        self._chains: dict[int, dict[int, object]] = {}
        self._encodings: dict[tuple[int, bytes], bytes] = {}

    def chain(self, drawn: int) -> dict[int, object]:
        """Return a drawn prize and those that follow it, by number."""
        chain = self._chains.get(drawn)
        if chain is None:
            chain = self._chains[drawn] = {}
            number, prizes = drawn, self.terms.prizes
            while 0 <= number < len(prizes) and number not in chain:
                prize = prizes[number]
                if prize is None:
                    break
                chain[number] = (
                    prize.money, prize.amount, _limit(prize.stock), _limit(prize.stock_per_day), prize.fallback,
                )  # fmt: skip
                number = prize.fallback
        return chain

    def encoded(self, number: int, drawn: bytes) -> bytes:
        """Return the terms of the campaign of a number, with the prizes of a set: bit ``n & 7`` of byte ``n >> 3``."""
        encoding = self._encodings.get((number, drawn))
        if encoding is None:
            prizes: dict[int, object] = {}
            for prize in range(8 * len(drawn)):
                if drawn[prize >> 3] >> (prize & 7) & 1:
                    prizes.update(self.chain(prize))
            if len(self._encodings) >= _ENCODINGS_KEPT:
                self._encodings.clear()
            encoding = self._encodings[number, drawn] = _encode((number, *self._limits, len(prizes), prizes))
        return encoding


def check_terms(terms: CampaignTerms) -> None:
    """Check that terms fit the functions.

    Raises
    ------
    ValueError
        A prize gives more than 2**53 - 1, a limit is negative, a time is none.
    """
    limits = [terms.per_user, terms.per_user_per_day, terms.budget_total, terms.budget_per_day]
    for prize in filter(None, terms.prizes):
        limits += (prize.stock, prize.stock_per_day)
        if not (0 <= prize.money <= NUMBER_MAX and 0 <= prize.amount <= NUMBER_MAX and abs(prize.fallback) < 1 << 16):
            raise ValueError(f"a prize in a ledger in Redis gives at most {NUMBER_MAX}, found {prize}")
    if any(limit is not None and limit < 0 for limit in limits):
        raise ValueError(f"limits are not negative, found {terms}")
    if not max(abs(terms.opens_ms), abs(terms.closes_ms)) <= NUMBER_MAX:
        raise ValueError(f"a campaign opens and closes within 2**53 ms, found {terms.opens_ms} and {terms.closes_ms}")


def strange_reply(reply: Any, at: int, status: int | None = None) -> StrangeReplyError:
    """Return what to raise of a reply that another function must have given.

    Parameters
    ----------
    at : int
        Where nothing can be read, unless there is no such status.
    status : int, optional
        What was read for a status.
    """
    try:
        if status is not None:
            REFUSALS[status]
        (_ANSWER if at else _GENERATION).unpack_from(reply, at)
    except (StructError, TypeError, KeyError) as error:
        return StrangeReplyError(f"a reply of another function: {error!r}")
    return StrangeReplyError(f"a reply of another function: {len(reply)} bytes, expected {at}")


def read_recorded(
    item: int, status: int, packed: bytes, scan: ScanFacts, campaigns: Mapping[int, str]
) -> tuple[Receipt | None, bool]:
    """Return the answer that a record makes, None if it is damaged, and whether its campaign is known."""
    try:
        claim = StoredClaim.unpack(packed)
    except LedgerFormatError as error:
        _log.error("item %d: %s", item, error)
        return None, True
    if status == _TAKEN:
        return Receipt(ClaimStatus.TAKEN, at_ms=claim.at_ms, scan=scan), True
    campaign = campaigns.get(claim.campaign)
    if campaign is None:
        return None, False
    given = ClaimStatus.AWARDED if claim.prize >= 0 else ClaimStatus.NO_PRIZE
    receipt = Receipt(
        given, None, status == _REPLAYED, claim.at_ms, campaign, claim.generation, claim.rule, claim.drawn, claim.prize,
        claim.unit, scan,
    )  # fmt: skip
    return receipt, True


def take_back(
    requests: Sequence[ClaimRequest | ObserveRequest], answers: list[Receipt | ScanFacts | None], untold: Iterable[int]
) -> None:
    """Leave some requests without an answer: the first scan of their item is of a time that cannot be."""
    for index in untold:
        _log.error("item %d: the time of its first scan is damaged: it is after the year 9998", requests[index].item)
        answers[index] = None


def _limit(limit: int | None) -> int:
    return _NO_LIMIT if limit is None else min(limit, NUMBER_MAX)
