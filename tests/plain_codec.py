"""The twin of the native ``_checks``, ``_codec`` and ``_replies`` in plain Python: to be read and to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class

import msgspec

from scanengine.ledger.protocol import check_claim
from scanengine.ledger.records import TIME_MS_MAX
from scanengine.ledger.redis.codec import (
    REFUSALS,
    PreparedTerms,
    StrangeReplyError,
    UnknownCampaignError,
    check_terms,
    read_recorded,
    take_back,
)
from scanengine.ledger.redis.events import pack_said
from scanengine.ledger.redis.keys import BUCKET_MASK, Keys
from scanengine.model import NO_PRIZE, NO_RULE, ClaimRequest, ClaimStatus, ObserveRequest, Receipt, Role, ScanFacts

LOOK, CLAIM, SEEN = 0, 1, 11
REQUEST = Struct("<BBBBHHIIQhhQQI")
ANSWER = Struct("<BQQIIB")
GENERATION = Struct("<I")

_encode = msgspec.msgpack.Encoder().encode


class Encoder:
    """Makes calls of ``scan_v1_claim``, as lists of arguments."""

    def __init__(self, keys: Keys, *, outbox: str, scan_events: bool) -> None:
        self.keys = keys
        self.options = (outbox, b"1" if scan_events else b"0")

    def call(
        self, epoch: bytes, requests: Iterable[ClaimRequest | ObserveRequest], numbers: Mapping[str, int]
    ) -> list[bytes | str | int]:
        names = self.keys
        items: list[bytes] = []
        packed: list[tuple[bytes, bytes]] = []
        learnt: dict[int, tuple[PreparedTerms, set[int]]] = {}
        people: dict[bytes, int] = {}
        for request in requests:
            items += (names.bucket_of(request.item), names.scans_of(request.item))
            packed.append(
                look(request) if isinstance(request, ObserveRequest) else self.claim(request, numbers, learnt, people)
            )
        terms = [known for known, _ in learnt.values()]
        drawn = [sum(1 << prize for prize in prizes).to_bytes(32, "little") for _, prizes in learnt.values()]
        encoded = [known.encoded(numbers[known.terms.id], prizes) for known, prizes in zip(terms, drawn, strict=True)]
        counts = _encode([None] * len(terms)).removesuffix(b"\xc0" * len(terms)) + b"".join(encoded)
        keys = [names.meta, names.readers, names.outbox, *(known.key for known in terms), *people, *items]
        counts += _encode(len(people)) + _encode(len(packed))
        return ["FCALL", "scan_v1_claim", len(keys), *keys, epoch, *self.options, counts,
                b"".join(request for request, _ in packed), b"".join(said for _, said in packed)]  # fmt: skip

    def claim(
        self,
        request: ClaimRequest,
        numbers: Mapping[str, int],
        learnt: dict[int, tuple[PreparedTerms, set[int]]],
        people: dict[bytes, int],
    ) -> tuple[bytes, bytes]:
        rule, drawn = NO_RULE, NO_PRIZE
        if request.offers:
            rule, drawn = request.offers[0].rule, request.offers[0].drawn
        index = person = date = 0
        campaign: str | None = None
        if request.terms is not None:
            campaign = request.terms.id
            if campaign not in numbers:
                raise UnknownCampaignError(campaign)
            known = PreparedTerms(request.terms, self.keys.campaign(campaign))
            _, prizes = learnt.setdefault(id(request.terms), (known, set()))
            prizes |= {drawn} - {NO_PRIZE}
            index = [*learnt].index(id(request.terms)) + 1
            key = self.keys.person(numbers[campaign], request.user_hash)
            person = people.setdefault(key, len(people) + 1)
            date = request.local_date
        said = pack_said((
            request.claim_id, request.item, request.batch, request.product, request.user,
            Role(request.role).name.lower(), request.region, campaign, request.generation, request.visit,
        ))  # fmt: skip
        return REQUEST.pack(
            CLAIM, request.item & BUCKET_MASK, request.party, request.counts_scan, index, person, request.generation,
            date, request.now_ms, rule, drawn, request.user_hash, request.visit_hash, len(said),
        ), said  # fmt: skip


def look(request: ObserveRequest) -> tuple[bytes, bytes]:
    said = pack_said(("", request.item, "", "", "", "", 0, None, 0, ""))
    return REQUEST.pack(
        LOOK, request.item & BUCKET_MASK, 0, request.counts_scan, 0, 0, 0, 0, request.now_ms, NO_RULE, NO_PRIZE,
        0, request.visit_hash, len(said),
    ), said  # fmt: skip


def check_claims(requests: Iterable[ClaimRequest]) -> None:
    for request in requests:
        check_claim(request)
        if request.terms is not None:
            check_terms(request.terms)


def decode_answers(
    reply: bytes, requests: Sequence[ClaimRequest | ObserveRequest], campaigns: Mapping[int, str]
) -> tuple[int, list[Receipt | ScanFacts | None], bool]:
    answers: list[Receipt | ScanFacts | None] = []
    untold = []
    is_whole = True
    try:
        generation: int = GENERATION.unpack_from(reply)[0]
        at = GENERATION.size
        for request in requests:
            status, time_ms, first, count, number, length = ANSWER.unpack_from(reply, at)
            at += ANSWER.size
            if first > TIME_MS_MAX + 1:
                untold.append(len(answers))
            scan = ScanFacts(count, first - 1 if first else None, number)
            if status == SEEN:
                answers.append(scan)
            elif length:
                answer, is_known = read_recorded(request.item, status, reply[at : at + length], scan, campaigns)
                answers.append(answer)
                is_whole &= is_known
                at += length
            else:
                answers.append(refused(request, *REFUSALS[status], time_ms, scan))
    except (StructError, TypeError, KeyError) as error:
        raise StrangeReplyError(f"a reply of another function: {error!r}") from error
    if at != len(reply):
        raise StrangeReplyError(f"a reply of another function: {len(reply)} bytes, expected {at}")
    take_back(requests, answers, untold)
    return generation, answers, is_whole


def refused(
    request: ClaimRequest | ObserveRequest, status: ClaimStatus, reason: str | None, time_ms: int, scan: ScanFacts
) -> Receipt:
    if status is ClaimStatus.INELIGIBLE and isinstance(request, ClaimRequest):
        reason = request.refusal if request.terms is None else request.refusal or "no_rule"
    return Receipt(status, reason, at_ms=time_ms, scan=scan)
