"""Bytes between this process and the functions of the library: requests, answers, records.

The layouts are drawn in ``scan_v1.lua``, which reads the requests and writes everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final, NamedTuple

import msgspec

from scanengine.errors import LedgerFormatError
from scanengine.ledger.protocol import check_claim
from scanengine.ledger.redis.events import pack_said
from scanengine.ledger.redis.keys import BUCKET_BITS, BUCKET_MASK, Keys
from scanengine.model import (
    NO_PRIZE,
    NO_RULE,
    CampaignTerms,
    ClaimRequest,
    ClaimStatus,
    ObserveRequest,
    Receipt,
    Role,
    ScanFacts,
)

NUMBER_MAX: Final = (1 << 53) - 1
"""Numbers in the functions are doubles, exact up to here. A limit above it is held for this one."""

_DAY_MS: Final = 86_400_000
_LOOK, _CLAIM = 0, 1
_NO_LIMIT: Final = -1
_TERMS_KEPT: Final = 64
_ROLES: Final = {role: role.name.lower() for role in Role}

_REQUEST: Final = Struct("<BBBBHHIIQhhQQ")
_ANSWER: Final = Struct("<BQQIIB")
_GENERATION: Final = Struct("<I")
_RECORD: Final = Struct("<QQ6sI")
_RECORD_NUMBERS: Final = b"\x99"
"""Makes one MessagePack array of the nine numbers at the end of a record."""

_REPLAYED, _TAKEN, _SEEN = 2, 3, 11
_STATUSES: Final = {
    4: (ClaimStatus.STALE, None),
    5: (ClaimStatus.INELIGIBLE, None),
    6: (ClaimStatus.CLOSED, "not_started"),
    7: (ClaimStatus.CLOSED, "ended"),
    8: (ClaimStatus.CLOSED, "paused"),
    9: (ClaimStatus.LIMITED, "per_user"),
    10: (ClaimStatus.LIMITED, "per_user_per_day"),
}

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
            date = at_ms // _DAY_MS + days
            return cls(user_hash, visit_hash, at_ms, seq, first, campaign, generation, date, *rest)
        except (ValueError, TypeError, msgspec.MsgspecError, IndexError) as error:
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


class _Terms:
    """Terms as a call carries them, held so that their identity is not given to others.

    A call needs only the prizes that were drawn and those down their fallbacks.
    """

    def __init__(self, terms: CampaignTerms, key: bytes) -> None:
        self.terms = terms
        self.key = key
        self._limits = (
            terms.opens_ms, terms.closes_ms, _limit(terms.per_user), _limit(terms.per_user_per_day),
            _limit(terms.budget_total), _limit(terms.budget_per_day),
        )  # fmt: skip
        self._chains: dict[int, dict[int, object]] = {}

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

    def encoded(self, number: int, prizes: dict[int, object]) -> tuple[object, ...]:
        """Return the terms of the campaign of a number with these prizes."""
        return (number, *self._limits, len(prizes), prizes)


class Encoder:
    """Makes calls of ``scan_v1_claim`` for one program.

    Parameters
    ----------
    keys : Keys
    outbox : str
        ``keep`` or ``drop``.
    scan_events : bool
        Whether visits without a recorded claim make an event.
    """

    def __init__(self, keys: Keys, *, outbox: str, scan_events: bool) -> None:
        self._keys = keys
        self._options = (outbox, b"1" if scan_events else b"0")
        self._terms: dict[int, _Terms] = {}

    def call(
        self, epoch: bytes, requests: Iterable[ClaimRequest | ObserveRequest], numbers: Mapping[str, int]
    ) -> list[bytes | str | int]:
        """Return the command for a batch of requests.

        Raises
        ------
        UnknownCampaignError
            A campaign is not among ``numbers``.
        """
        names = self._keys
        buckets, scans = names.buckets, names.scans
        items: list[bytes] = []
        packed: list[bytes] = []
        learnt: list[_Terms] = []
        prizes: list[dict[int, object]] = []
        terms_at: dict[int, int] = {}
        people: dict[bytes, int] = {}
        for request in requests:
            item = request.item
            items += (buckets + b"%x" % (item >> BUCKET_BITS), scans + b"%x" % item)
            if isinstance(request, ObserveRequest):
                packed.append(
                    _REQUEST.pack(
                        _LOOK, item & BUCKET_MASK, 0, request.counts_scan, 0, 0, 0, 0, request.now_ms, NO_RULE,
                        NO_PRIZE, 0, request.visit_hash,
                    ) + pack_said(("", item, "", "", "", "", 0, None, 0, ""))
                )  # fmt: skip
                continue
            rule, drawn = NO_RULE, NO_PRIZE
            if request.offers:
                rule, drawn = request.offers[0].rule, request.offers[0].drawn
            index = person = date = 0
            campaign: str | None = None
            if request.terms is not None:
                campaign = request.terms.id
                number = numbers.get(campaign)
                if number is None:
                    raise UnknownCampaignError(campaign)
                index = terms_at.get(id(request.terms), 0)
                if not index:
                    learnt.append(self._learn(request.terms))
                    prizes.append({})
                    index = terms_at[id(request.terms)] = len(learnt)
                if drawn >= 0:
                    prizes[index - 1].update(learnt[index - 1].chain(drawn))
                person = people.setdefault(names.person(number, request.user_hash), len(people) + 1)
                date = request.local_date
            packed.append(
                _REQUEST.pack(
                    _CLAIM, item & BUCKET_MASK, request.party.value, request.counts_scan, index, person,
                    request.generation, date, request.now_ms, rule, drawn, request.user_hash, request.visit_hash,
                ) + pack_said((
                    request.claim_id, item, request.batch, request.product, request.user, _ROLES[request.role],
                    request.region, campaign, request.generation, request.visit,
                ))
            )  # fmt: skip
        keys = [names.meta, names.readers, names.outbox, *(terms.key for terms in learnt), *people, *items]
        all_terms = [terms.encoded(numbers[terms.terms.id], given) for terms, given in zip(learnt, prizes, strict=True)]
        options = (*self._options, _encode(all_terms) + _encode(len(people)))
        return ["FCALL", "scan_v1_claim", len(keys), *keys, epoch, *options, *packed]

    def _learn(self, terms: CampaignTerms) -> _Terms:
        """Return the encoded terms, kept because all claims of a generation share one object."""
        known = self._terms.get(id(terms))
        if known is None:
            if len(self._terms) >= _TERMS_KEPT:
                self._terms.clear()
            known = self._terms[id(terms)] = _Terms(terms, self._keys.campaign(terms.id))
        return known


def check_claims(requests: Iterable[ClaimRequest]) -> None:
    """Check that claims fit the records, and that their terms fit the functions.

    Raises
    ------
    ValueError
        A number is outside its range: a prize gives more than 2**53 - 1, a limit is negative, a time is none.
    """
    checked = None
    for request in requests:
        check_claim(request)
        terms = request.terms
        if terms is not None and terms is not checked:
            checked = terms
            _check_terms(terms)


def _check_terms(terms: CampaignTerms) -> None:
    limits = [terms.per_user, terms.per_user_per_day, terms.budget_total, terms.budget_per_day]
    for prize in filter(None, terms.prizes):
        limits += (prize.stock, prize.stock_per_day)
        if not (0 <= prize.money <= NUMBER_MAX and 0 <= prize.amount <= NUMBER_MAX and abs(prize.fallback) < 1 << 16):
            raise ValueError(f"a prize in a ledger in Redis gives at most {NUMBER_MAX}, found {prize}")
    if any(limit is not None and limit < 0 for limit in limits):
        raise ValueError(f"limits are not negative, found {terms}")
    if not max(abs(terms.opens_ms), abs(terms.closes_ms)) <= NUMBER_MAX:
        raise ValueError(f"a campaign opens and closes within 2**53 ms, found {terms.opens_ms} and {terms.closes_ms}")


def decode_answers(
    reply: bytes, requests: Sequence[ClaimRequest | ObserveRequest], campaigns: Mapping[int, str]
) -> tuple[int, list[Receipt | ScanFacts | None], bool]:
    """Return the newest generation, the answers, and whether every campaign in them is known.

    An answer is None for a claim whose record is damaged, or of a campaign that is not in ``campaigns``.

    Raises
    ------
    StrangeReplyError
        The reply is not one to these requests.
    """
    answers: list[Receipt | ScanFacts | None] = []
    is_whole = True
    unpack, size = _ANSWER.unpack_from, _ANSWER.size
    try:
        generation: int = _GENERATION.unpack_from(reply)[0]
        at = _GENERATION.size
        for request in requests:
            status, time_ms, first, count, number, length = unpack(reply, at)
            at += size
            scan = ScanFacts(count, first - 1 if first else None, number)
            if status == _SEEN:
                answers.append(scan)
            elif length:
                answer, is_known = _recorded(request.item, status, reply[at : at + length], scan, campaigns)
                answers.append(answer)
                is_whole &= is_known
                at += length
            else:
                answers.append(_refused(request, *_STATUSES[status], time_ms, scan))
    except (StructError, TypeError, KeyError) as error:
        raise StrangeReplyError(f"a reply of another function: {error!r}") from error
    if at != len(reply):
        raise StrangeReplyError(f"a reply of another function: {len(reply)} bytes, expected {at}")
    return generation, answers, is_whole


def _recorded(
    item: int, status: int, packed: bytes, scan: ScanFacts, campaigns: Mapping[int, str]
) -> tuple[Receipt | None, bool]:
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


def _refused(
    request: ClaimRequest | ObserveRequest, status: ClaimStatus, reason: str | None, time_ms: int, scan: ScanFacts
) -> Receipt:
    if status is ClaimStatus.INELIGIBLE and isinstance(request, ClaimRequest):
        reason = request.refusal if request.terms is None else request.refusal or "no_rule"
    return Receipt(status, reason, at_ms=time_ms, scan=scan)


def _limit(limit: int | None) -> int:
    return _NO_LIMIT if limit is None else min(limit, NUMBER_MAX)
