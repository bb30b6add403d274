"""The native way to and from the functions of the ledger against its plain twin: the same bytes, answers and errors."""

from __future__ import annotations

from struct import pack
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import plain_codec
from helpers_core import observe
from helpers_ledger import DATE, NOW_MS, TIME_MS_MAX, a_campaign, a_claim, a_look
from scanengine.ledger.redis import _checks, _codec, _replies
from scanengine.ledger.redis.codec import StoredClaim, StrangeReplyError, UnknownCampaignError
from scanengine.ledger.redis.keys import Keys
from scanengine.model import CampaignTerms, ClaimRequest, ObserveRequest, Offer, Party, PrizeTerms, Role

EPOCH = b"0123456789abcdef"
NUMBERS = {"spring": 1, "autumn": 300, "spring~test": 70_000}
CAMPAIGNS = {number: name for name, number in NUMBERS.items()}
KEYS = Keys("shop/1")

CHAIN = (PrizeTerms(0, money=100, stock=5, fallback=2), None, PrizeTerms(2, stock_per_day=1 << 60, fallback=0))
TERMS = (
    a_campaign(),
    a_campaign(),  # Equal to the first, and another object: so are the terms of two generations.
    a_campaign(CHAIN, per_user=1, budget_total=1 << 60),
    a_campaign(tuple(PrizeTerms(n, points=n, fallback=n + 1) for n in range(255)), id="autumn", opens_ms=-1),
    a_campaign((), id="spring~test", per_user_per_day=0, budget_per_day=7),
)

thorough = settings(deadline=None, max_examples=150)


def numbers_up_to(bits: int) -> st.SearchStrategy[int]:
    """Numbers below a power of two, often beside the ends of a byte, of two, of four and of all."""
    ends = [1 << n for n in (0, 5, 7, 8, 15, 16, 31, 32, 63) if n < bits] + [1 << bits]
    beside = [end + step for end in ends for step in (-1, 0, 1) if 0 <= end + step < 1 << bits]
    return st.sampled_from(beside) | st.integers(0, (1 << bits) - 1)


WORDS = numbers_up_to(64)
TEXTS = st.sampled_from(["", "ann", "红", "🍾" * 8, "a" * 31, "a" * 32, "å" * 127, "a" * 255, "\0" * 256]) | st.text(
    max_size=4
)
OFFERS = st.builds(Offer, st.integers(0, 255), st.integers(-1, 255))
LOOKS = st.builds(ObserveRequest, numbers_up_to(55), WORDS, numbers_up_to(47), st.booleans())
CLAIMS = st.builds(
    ClaimRequest,
    item=numbers_up_to(55) | st.integers(0, 5),
    party=st.sampled_from(Party),
    user=TEXTS,
    user_hash=WORDS | st.integers(0, 3),
    visit=TEXTS,
    visit_hash=WORDS,
    claim_id=TEXTS,
    generation=numbers_up_to(32),
    offers=st.lists(OFFERS, max_size=2).map(tuple),
    terms=st.none() | st.sampled_from(TERMS),
    refusal=st.none() | st.just("no_rule") | st.just("scene_off"),
    local_date=st.integers(1, (1 << 31) - 1),
    now_ms=numbers_up_to(47),
    counts_scan=st.booleans(),
    batch=TEXTS,
    product=TEXTS,
    role=st.sampled_from(Role),
    region=numbers_up_to(32),
)
BATCHES = st.lists(CLAIMS | LOOKS, max_size=8)


def packed(encoder: Any, *arguments: Any) -> bytes:
    made = encoder.call(EPOCH, *arguments)
    return made if isinstance(made, bytes) else hiredis.pack_command(tuple(made))


@thorough
@given(batch=BATCHES, outbox=st.sampled_from(["keep", "drop"]), scan_events=st.booleans())
def test_a_call_is_the_same_bytes(batch: list[Any], outbox: str, scan_events: bool) -> None:
    encoders = [codec.Encoder(KEYS, outbox=outbox, scan_events=scan_events) for codec in (_codec, plain_codec)]
    first, second = (packed(encoder, batch, NUMBERS) for encoder in encoders)
    assert first == second
    assert packed(encoders[0], batch, NUMBERS) == first  # What it keeps of one call does not show in the next.


@pytest.mark.parametrize("size", [65_535, 65_536, 300_000])
def test_a_text_of_any_length_is_the_same_bytes(size: int) -> None:
    """Nothing bounds the texts of a claim that was not made of a scan."""
    batch = [a_claim(user="a" * size), a_claim(2, batch="b" * size)]
    first, second = (
        packed(codec.Encoder(KEYS, outbox="keep", scan_events=True), batch, NUMBERS) for codec in (_codec, plain_codec)
    )
    assert first == second


def test_a_whole_batch_of_people_and_campaigns_is_the_same_bytes() -> None:
    """More people, items and terms than one byte counts."""
    batch = [a_claim(n, f"{n}", terms=a_campaign(id="autumn", per_user=n), drawn=n % 2) for n in range(512)]
    first, second = (
        packed(codec.Encoder(KEYS, outbox="keep", scan_events=True), batch, NUMBERS) for codec in (_codec, plain_codec)
    )
    assert first == second


def test_numbers_of_another_ledger_are_not_remembered() -> None:
    """A server that came back may have given a number to another campaign since."""
    encoder = _codec.Encoder(KEYS, outbox="keep", scan_events=False)
    first = packed(encoder, [a_claim()], {"spring": 1})
    assert packed(encoder, [a_claim()], {"spring": 2}) != first
    assert packed(encoder, [a_claim()], {"spring": 1}) == first


def test_a_campaign_without_a_number_is_named() -> None:
    for codec in (_codec, plain_codec):
        encoder = codec.Encoder(KEYS, outbox="keep", scan_events=False)
        with pytest.raises(UnknownCampaignError) as caught:
            packed(encoder, [a_claim(), a_claim(terms=a_campaign(id="winter"))], NUMBERS)
        assert caught.value.campaign == "winter"


@pytest.mark.parametrize(
    "changes",
    [{"item": -1}, {"item": 1 << 64}, {"user_hash": -1}, {"offers": (Offer(0, 256),)}, {"offers": (Offer(0, -2),)},
     {"role": 5}, {"role": -1}, {"user": None}, {"generation": 1 << 32}, {"item": "1"}, {"offers": (None,)}],
    ids=str,
)  # fmt: skip
def test_a_request_that_was_not_checked_is_an_error(changes: dict[str, Any]) -> None:
    """Nobody checked it, so it must not be written beyond the end of anything."""
    encoder = _codec.Encoder(KEYS, outbox="keep", scan_events=False)
    with pytest.raises((ValueError, TypeError, AttributeError, OverflowError)):
        packed(encoder, [a_claim(), replace(a_claim(), **changes)], NUMBERS)


ANY_NUMBERS = st.integers(-(1 << 70), 1 << 70) | numbers_up_to(64) | st.sampled_from([-1, 1 << 55, TIME_MS_MAX + 1])
LIMITS = st.none() | st.integers(-2, 3) | st.just(1 << 70)
ANY_TERMS = st.builds(
    CampaignTerms,
    id=st.just("spring"),
    opens_ms=st.sampled_from([0, -(1 << 53), (1 << 53) - 1, 1 << 53]),
    closes_ms=st.sampled_from([NOW_MS, 1 << 53, -(1 << 53)]),
    prizes=st.lists(
        st.none()
        | st.builds(PrizeTerms, st.just(0), st.sampled_from([0, -1, 1 << 53]), LIMITS, LIMITS, st.integers(-2, 70_000)),
        max_size=2,
    ).map(tuple),
    per_user=LIMITS,
    budget_per_day=LIMITS,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("item", "user_hash", "visit_hash", "generation", "local_date", "now_ms", "region"), ANY_NUMBERS
        ),
        **{
            name: st.sampled_from(["", "a", "红", "\ud800", "a\udfff"])
            for name in ("user", "visit", "batch", "product", "claim_id")
        },
        "party": st.sampled_from(Party) | ANY_NUMBERS,
        "role": st.sampled_from(Role) | st.integers(-1, 6) | ANY_NUMBERS,
        "offers": st.lists(st.builds(Offer, st.integers(-2, 257), st.integers(-2, 257)), max_size=2).map(tuple),
        "terms": st.none() | ANY_TERMS,
    },
)


@thorough
@given(claims=st.lists(CHANGES.map(lambda changes: replace(a_claim(), **changes)), max_size=3))
def test_a_claim_is_refused_by_both_or_by_none(claims: list[ClaimRequest]) -> None:
    assert observe(_checks.Checker().check, claims) == observe(plain_codec.check_claims, claims)


def test_terms_that_were_found_wrong_are_found_wrong_again() -> None:
    good, wrong = a_claim(), a_claim(terms=a_campaign(per_user=-1))
    for claims in ([good], [wrong], [wrong], [good, wrong]):
        assert observe(_checks.Checker().check, claims) == observe(plain_codec.check_claims, claims)


def test_terms_are_checked_once_however_many_campaigns_come_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(_checks, "check_terms", lambda terms: checked.append(terms.id))
    checker = _checks.Checker()
    campaigns = [a_campaign(id=f"campaign-{n}") for n in range(200)]
    for _ in range(10):
        checker.check([a_claim(n, terms=terms) for n, terms in enumerate(campaigns[:60])])
    assert checked == [terms.id for terms in campaigns[:60]]
    checker.check([a_claim(n, terms=terms) for n, terms in enumerate(campaigns)])
    assert checked == [terms.id for terms in campaigns]


def test_terms_that_are_gone_are_not_taken_for_others() -> None:
    """Nobody else holds the terms, so that others may be made where they lay."""
    checker = _checks.Checker()
    for _ in range(500):
        checker.check([a_claim(terms=a_campaign())])
        with pytest.raises(ValueError, match="limits are not negative"):
            checker.check([a_claim(terms=a_campaign(per_user=-1))])


SIGNED = (
    st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-33, 300) | st.sampled_from([-129, -32_769, -(1 << 31) - 1])
)
TIMES = numbers_up_to(47) | st.sampled_from([TIME_MS_MAX, TIME_MS_MAX + 1, (1 << 48) - 1])
RECORDS = st.builds(
    StoredClaim,
    WORDS, WORDS, TIMES, numbers_up_to(32), st.integers(0, 1), st.sampled_from([*CAMPAIGNS, 2]) | SIGNED,
    numbers_up_to(32), st.integers(DATE - 400, DATE + 400), *[SIGNED | st.integers(-1, 255)] * 5,
).map(lambda record: record.pack())  # fmt: skip
DAMAGED = st.binary(max_size=60) | st.builds(
    lambda record, at, byte: record[:at] + bytes([byte]) + record[at + 1 :],
    RECORDS, st.integers(0, 60), st.integers(0, 255),
)  # fmt: skip
ANSWERS = st.builds(
    lambda status, at, first, count, number, record: (
        plain_codec.ANSWER.pack(status, at, first, count, number, len(record)) + record
    ),
    st.integers(1, 12) | st.sampled_from([0, 255]),
    WORDS, st.just(0) | TIMES.map(lambda at: at + 1) | WORDS, numbers_up_to(32), numbers_up_to(32),
    st.just(b"") | RECORDS | DAMAGED,
)  # fmt: skip


@thorough
@given(
    generation=numbers_up_to(32),
    pairs=st.lists(st.tuples(CLAIMS | LOOKS, ANSWERS), max_size=6),
    cut=st.just(0) | st.integers(-40, 40),
)
def test_a_reply_says_the_same(generation: int, pairs: list[tuple[Any, bytes]], cut: int) -> None:
    """Whole replies, replies that end too early or too late, and answers that there are not."""
    reply = pack("<I", generation) + b"".join(answer for _, answer in pairs)
    reply = reply[:cut] if cut < 0 else reply + b"\0" * cut
    requests = [request for request, _ in pairs]
    found = observe(_replies.decode_answers, reply, requests, CAMPAIGNS)
    assert found == observe(plain_codec.decode_answers, reply, requests, CAMPAIGNS)


@thorough
@given(reply=st.binary(max_size=200), requests=st.lists(st.sampled_from([a_claim(), a_look()]), max_size=4))
def test_any_bytes_for_a_reply_say_the_same(reply: bytes, requests: list[Any]) -> None:
    found = observe(_replies.decode_answers, reply, requests, CAMPAIGNS)
    assert found == observe(plain_codec.decode_answers, reply, requests, CAMPAIGNS)


@pytest.mark.parametrize("reply", [None, 7, "OK", [], [b"a"], b""], ids=repr)
def test_a_reply_of_another_kind_is_strange(reply: Any) -> None:
    for codec in (_replies, plain_codec):
        with pytest.raises(StrangeReplyError, match="a reply of another function"):
            codec.decode_answers(reply, [a_claim()], CAMPAIGNS)
    assert observe(_replies.decode_answers, reply, [], CAMPAIGNS) == observe(
        plain_codec.decode_answers, reply, [], CAMPAIGNS
    )
