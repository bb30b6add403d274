"""What a ledger keeps in Redis: few keys, all of one program's slot, none that ends by itself, nothing said twice.

Each test of a known defect of prize engines says which one it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import redis
from msgspec.structs import replace

from helpers_ledger import (
    DATE,
    DAY_MS,
    NOW_MS,
    OPENS_MS,
    RedisOpener,
    a_campaign,
    a_claim,
    a_look,
    audit_of_redis,
    held_by,
    status_of,
    tag_of,
)  # fmt: skip
from plain_codec import Encoder
from redis_servers import RedisServer, slot_of
from scanengine.errors import LedgerFormatError, LedgerUnavailableError, SettingsError
from scanengine.ledger import MemoryLedger
from scanengine.ledger.redis import RedisLedger, RedisReader
from scanengine.ledger.redis.codec import StoredClaim
from scanengine.ledger.redis.keys import Keys
from scanengine.ledger.sealing import DamagedEventError
from scanengine.model import (
    NO_PRIZE,
    Adjustment,
    CampaignTerms,
    ClaimRequest,
    ClaimStatus,
    Offer,
    Party,
    PrizeTerms,
    Role,
    ScanFacts,
)


@pytest.fixture
def ledger(redis_server: RedisServer, open_redis: RedisOpener) -> RedisLedger:
    return open_redis(redis_server.url())


def use_everything(ledger: RedisLedger) -> None:
    """Leave something under every kind of key."""
    ledger.register_reader("accounts")
    terms = a_campaign((PrizeTerms(0, money=5, stock=9),), per_user=3, per_user_per_day=2, budget_per_day=100)
    for item in (1, 1_000, (1 << 55) - 1):
        ledger.claim(a_claim(item, terms=terms))
        ledger.claim(a_claim(item, "shop", party=Party.CHANNEL, role=Role.RETAILER))
        ledger.observe(a_look(item, "again"))
    ledger.adjust(Adjustment("more", "spring", "stock", prize=0, amount=3))
    ledger.announce(2)
    ledger.ack("accounts", 1)


# Keys.


def test_no_key_ends_by_itself(ledger: RedisLedger, redis_server: RedisServer, program_id: str) -> None:
    use_everything(ledger)
    keys = list(held_by(redis_server, program_id))
    assert len(keys) > 8
    assert {redis_server.client().ttl(key) for key in keys} == {-1}


def test_all_keys_of_a_program_are_in_one_slot(ledger: RedisLedger, redis_server: RedisServer, program_id: str) -> None:
    """Keys without a common hash tag are a script that fails as soon as the server is a Cluster."""
    before = set(redis_server.client().scan_iter(count=10_000))
    use_everything(ledger)
    made = set(redis_server.client().scan_iter(count=10_000)) - before
    assert {key.decode().startswith(tag_of(program_id)) for key in made} == {True}
    assert {slot_of(key) for key in made} == {slot_of(tag_of(program_id))}


def test_no_key_is_made_for_a_unit(ledger: RedisLedger, redis_server: RedisServer, program_id: str) -> None:
    """An engine that keeps a key for each unit of a prize fills the server with stock, and loses what is topped up."""
    terms = a_campaign((PrizeTerms(0, stock=300),))
    requests = [a_claim(item, terms=terms) for item in range(500)]
    ledger.claim_many(requests[:1])
    keys = held_by(redis_server, program_id).keys()
    receipts = ledger.claim_many(requests)
    assert sum(receipt.prize == 0 for receipt in receipts) == 300
    ledger.adjust(Adjustment("more", "spring", "stock", prize=0, amount=100_000))
    more = ledger.claim_many([a_claim(item, terms=terms) for item in range(512, 712)])
    assert [receipt.unit for receipt in more] == list(range(301, 501))
    grown = held_by(redis_server, program_id).keys() - keys
    # Claims of 712 items lie in buckets of 128 items each.
    assert len(grown) <= 712 // 128 + 3


def test_what_a_person_and_an_item_have_is_not_readable_in_any_key(
    ledger: RedisLedger, redis_server: RedisServer, program_id: str
) -> None:
    ledger.claim(a_claim(1, "ann-whose-name-is-told", visit="a-visit-that-is-told"))
    held = held_by(redis_server, program_id)
    outbox = held.pop(tag_of(program_id) + "outbox")
    assert b"ann-whose-name-is-told" in repr(outbox).encode()
    assert "ann-whose-name-is-told" not in repr(held)
    assert "a-visit-that-is-told" not in repr(held)


def test_programs_of_one_server_do_not_meet(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    one = open_redis(redis_server.url())
    other = open_redis(redis_server.url(), program_id="program-of-somebody-else/key")
    held = held_by(redis_server, "program-of-somebody-else/key")
    assert one.claim(a_claim()).unit == 1
    assert one.claim(a_claim(2)).unit == 2
    assert held_by(redis_server, "program-of-somebody-else/key") == held
    assert other.totals().claims == 0
    redis_server.client().delete(*held)


def test_ledger_of_another_program_key_is_refused(
    ledger: RedisLedger, redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    """Claim ids and hashes are made with the program's secret: another secret would award everything again."""
    ledger.claim(a_claim())
    held = held_by(redis_server, program_id)
    with pytest.raises(LedgerFormatError, match="program"):
        open_redis(redis_server.url(), program_id=program_id.partition("/")[0] + "/other")
    assert held_by(redis_server, program_id) == held


def test_ledger_of_a_later_format_is_refused(
    ledger: RedisLedger, redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledger.claim(a_claim())
    redis_server.client().hset(tag_of(program_id) + "meta", "format", 999)
    with pytest.raises(LedgerFormatError, match="999"):
        open_redis(redis_server.url())


# Answers.


def test_stock_of_zero_is_never_given(ledger: RedisLedger) -> None:
    """An engine that decrements first and looks later takes a stock of 0, then -1, for success."""
    terms = a_campaign((PrizeTerms(0, stock=0, fallback=1), PrizeTerms(1, stock_per_day=0, fallback=2), PrizeTerms(2)))
    receipts = ledger.claim_many([a_claim(item, terms=terms) for item in range(50)])
    assert {(receipt.drawn, receipt.prize) for receipt in receipts} == {(0, 2)}
    assert ledger.totals().campaigns[0].awards == {2: 50}
    # Nothing was taken by those who got nothing: one more unit is one more award.
    ledger.adjust(Adjustment("one", "spring", "stock", prize=0, amount=1))
    prizes = [ledger.claim(a_claim(item, terms=terms)).prize for item in (50, 51)]
    assert prizes == [0, 2]


def test_retry_is_answered_with_the_win(ledger: RedisLedger) -> None:
    """An engine that locks the person or cools down before it looks answers a retry with an error."""
    terms = a_campaign((PrizeTerms(0, stock=1, money=7),), per_user=1, per_user_per_day=1, budget_total=7)
    first = ledger.claim(a_claim(terms=terms))
    assert (first.status, first.prize, first.unit) == (ClaimStatus.AWARDED, 0, 1)
    for _ in range(20):
        assert ledger.claim(a_claim(terms=terms)) == replace(first, replayed=True)
    assert ledger.claim_many([a_claim(terms=terms)] * 20) == [replace(first, replayed=True)] * 20
    assert (ledger.totals().claims, ledger.totals().campaigns[0].awards) == (1, {0: 1})


def test_two_scans_of_one_code_in_one_batch(ledger: RedisLedger) -> None:
    first, again, other, visit = ledger.claim_many(
        [a_claim(1, "ann"), a_claim(1, "ann"), a_claim(1, "bob"), a_claim(1, "ann", visit="later")]
    )
    assert status_of(first) == ("awarded", None)
    assert again == replace(first, replayed=True)
    assert status_of(other) == ("taken", None)
    assert [receipt.scan for receipt in (other, visit)] == [ScanFacts(2, NOW_MS, 2), ScanFacts(3, NOW_MS, 3)]
    assert (visit.replayed, visit.unit) == (True, 1)
    assert ledger.totals().claims == 1


def test_limits_bind_inside_one_batch(ledger: RedisLedger) -> None:
    terms = a_campaign((PrizeTerms(0, money=30, stock=5),), per_user=2, budget_per_day=100)
    receipts = ledger.claim_many([a_claim(item, f"user-{item // 3}", terms=terms) for item in range(9)])
    assert [(*status_of(receipt), receipt.prize) for receipt in receipts] == [
        ("awarded", None, 0), ("awarded", None, 0), ("limited", "per_user", -1),
        ("awarded", None, 0), ("no_prize", None, -1), ("limited", "per_user", -1),
        ("no_prize", None, -1), ("no_prize", None, -1), ("limited", "per_user", -1),
    ]  # fmt: skip


PRIZES = (PrizeTerms(0, money=80, stock=40, stock_per_day=9, fallback=1), PrizeTerms(1, money=3, stock=90, fallback=2))
CAMPAIGNS = [
    a_campaign((*PRIZES, PrizeTerms(2, points=5), None), id=name, per_user=40, per_user_per_day=9, budget_total=5_000)
    for name in ("spring", "summer", "autumn")
]


def mixed_claims(seed: int, count: int) -> list[ClaimRequest]:
    """Claims of three campaigns that pass four midnights, in some of which the clock steps back."""
    chance = random.Random(seed)
    claims = []
    now_ms = OPENS_MS
    for number in range(count):
        now_ms += chance.randrange(4 * DAY_MS // count * 2)
        at_ms = now_ms - chance.choice([0, 0, 0, 5_000])
        party = chance.choice(list(Party))
        claims.append(
            a_claim(
                chance.randrange(count // 2), f"user-{chance.randrange(25)}", visit=f"{number % 7}", party=party,
                role=Role.RETAILER if party else Role.CONSUMER, terms=chance.choice(CAMPAIGNS), now_ms=at_ms,
                local_date=DATE + max(at_ms - OPENS_MS, 0) // DAY_MS,
                offers=(Offer(chance.randrange(3), chance.choice([0, 0, 1, 2, 3, NO_PRIZE])),),
            )
        )  # fmt: skip
    return claims


def test_batches_across_campaigns_and_midnights_are_answered_as_by_the_model(
    ledger: RedisLedger, redis_server: RedisServer, program_id: str
) -> None:
    model = MemoryLedger()
    requests = mixed_claims(seed=7, count=600)
    for start in range(0, len(requests), 150):
        part = requests[start : start + 150]
        assert ledger.claim_many(part) == model.claim_many(part)
    assert replace(ledger.totals(), readers={}) == replace(model.totals(), readers={})
    claims, problems = audit_of_redis(redis_server.url(), program_id, *CAMPAIGNS)
    assert problems == []
    assert claims == model.totals().claims > 150


LATE = (1 << 48) - 1
"""Milliseconds of which no year can be told."""


def test_time_that_cannot_be_told_is_no_answer_and_spoils_no_other(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys, client = Keys(program_id), redis_server.client()
    ledger = open_redis(redis_server.url(), timeout_s=1.0)
    ledger.claim_many([a_claim(1), a_claim(2), a_claim(3)])
    ledger.observe(a_look(4))
    record = StoredClaim.unpack(client.hget(keys.bucket_of(1), "1"))
    client.hset(keys.bucket_of(1), "1", record._replace(at_ms=LATE, local_date=LATE // DAY_MS).pack())
    client.hset(keys.bucket_of(4), str(256 + 4), (1).to_bytes(4, "little") + LATE.to_bytes(6, "little"))
    claims = [a_claim(1), a_claim(1, "bob"), a_claim(2), a_claim(4), a_claim(1, party=Party.CHANNEL), a_claim(3, "bob")]
    statuses = [str(receipt.status) for receipt in ledger.claim_many(claims)]
    assert statuses == ["pending", "pending", "awarded", "pending", "pending", "taken"]
    for item in (1, 4):
        with pytest.raises(LedgerUnavailableError):
            ledger.observe(a_look(item, "later"))
    year = pytest.raises(LedgerFormatError, match="expected a time before the year 9999")
    with RedisReader.open(redis_server.url(), program_id, None) as reader, year:
        reader.claim_of(1, Party.CONSUMER)
    assert ledger.trouble is None
    for begin in ("item 1: a claim of 35 bytes is damaged", "item 4: the time of its first scan is damaged"):
        assert begin in caplog.text


# The outbox.


def test_what_becomes_of_events_without_a_reader_must_be_chosen(
    redis_server: RedisServer, open_redis: RedisOpener
) -> None:
    with pytest.raises(SettingsError, match="outbox"):
        open_redis(redis_server.url(), outbox=None)


def test_a_reader_makes_the_choice_unneeded(
    ledger: RedisLedger, redis_server: RedisServer, open_redis: RedisOpener
) -> None:
    ledger.register_reader("accounts")
    later = open_redis(redis_server.url(), outbox=None)
    assert later.claim(a_claim()).status is ClaimStatus.AWARDED
    assert [event.item for event in ledger.events("accounts", 0, 9)] == [1]


def test_kept_events_wait_for_the_first_reader(ledger: RedisLedger) -> None:
    for item in range(5):
        ledger.claim(a_claim(item))
    ledger.register_reader("accounts")
    assert [event.seq for event in ledger.events("accounts", 0, 9)] == [1, 2, 3, 4, 5]
    ledger.ack("accounts", 4)
    assert ledger.totals().events == 1
    assert [event.seq for event in ledger.events("accounts", 0, 9)] == [5]


@pytest.mark.parametrize("up_to", range(1, 7))
def test_events_of_one_call_are_acknowledged_one_by_one(
    up_to: int, redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    """Goal: they are written as one entry, and nobody can tell; the scans between them are events too."""
    ledger = open_redis(redis_server.url(), scan_events=True)
    ledger.claim(a_claim(0))
    ledger.register_reader("accounts")
    asked = [
        a_claim(1, "ann"),
        a_claim(1, "bob"),
        a_claim(1, "bob"),
        a_claim(2, "a" * 60),
        a_claim(3, "carl"),
        a_claim(4),
    ]
    ledger.claim_many(asked)
    every = ledger.events("accounts", 0, 9)
    assert [(event.seq, event.type, event.item) for event in every] == [
        (1, "claim", 0), (2, "claim", 1), (3, "scan", 1), (4, "claim", 2), (5, "claim", 3), (6, "claim", 4)
    ]  # fmt: skip
    assert [event.user for event in every if event.type == "claim"][1:4] == ["ann", "a" * 60, "carl"]
    assert redis_server.client().xlen(Keys(program_id).outbox) == 2
    ledger.ack("accounts", up_to)
    assert ledger.events("accounts", 0, 9) == ledger.events("accounts", up_to, 9) == every[up_to:]
    assert [ledger.events("accounts", seq, 1) for seq in range(up_to, 6)] == [[event] for event in every[up_to:]]
    assert ledger.totals().events == 6 - up_to
    ledger.register_reader("analytics")
    assert ledger.events("analytics", 0, 9) == every[up_to:]
    assert redis_server.client().xlen(Keys(program_id).outbox) == (up_to < 1) + (up_to < 6)
    # Which claims have no event any more is known to the number, also where an entry is half acknowledged.
    assert audit_of_redis(redis_server.url(), program_id) == (5, [])


def test_a_missing_newest_event_is_missing_alone(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    for item in range(5):
        ledger.claim(a_claim(item))
    redis_server.client().xdel(Keys(program_id).outbox, "5-0")
    ledger.ack("accounts", 5)
    assert audit_of_redis(redis_server.url(), program_id) == (5, ["claim 5: item 4 has no event"])


def test_as_many_events_are_read_as_are_asked_for_and_few_more_are_fetched(
    redis_server: RedisServer, open_redis: RedisOpener
) -> None:
    """Goal: entries of a whole batch and of one event alike; what is fetched keeps claims waiting."""
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    for item in range(40):
        ledger.claim(a_claim(item))
    for first in range(1_000, 3_000, 200):
        ledger.claim_many([a_claim(first + item) for item in range(100)])
    for after, limit in ((0, 1), (0, 40), (0, 41), (39, 2), (139, 300), (100, 500), (939, 100), (1_000, 100)):
        seqs = [event.seq for event in ledger.events("accounts", after, limit)]
        assert seqs == list(range(after + 1, min(after + limit, 1_040) + 1))
    client = redis_server.client()
    client.config_resetstat()
    before = client.info("stats")["total_net_output_bytes"]
    ledger.events("accounts", 100, 100)
    assert client.info("stats")["total_net_output_bytes"] - before < 400 * 250
    assert client.info("commandstats")["cmdstat_xrange"]["calls"] <= 2


def test_an_entry_that_is_damaged_keeps_back_none_before_it(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    for first in (10, 20, 30):
        ledger.claim_many([a_claim(first), a_claim(first + 1)])
    client, outbox = redis_server.client(), Keys(program_id).outbox
    entries = client.xrange(outbox)
    client.delete(outbox)
    for id_, fields in entries:
        ((heads, said),) = fields.items()
        client.xadd(outbox, {heads[:-1] if id_ == b"4-0" else heads: said}, id=id_)
    assert [event.seq for event in ledger.events("accounts", 0, 9)] == [1, 2]
    with pytest.raises(
        DamagedEventError, match="event 3 is damaged: its entry 4 is none that the ledger writes"
    ) as found:
        ledger.events("accounts", 2, 9)
    assert (found.value.seq, found.value.last) == (3, 4)
    ledger.ack("accounts", 3)
    ledger.ack("accounts", found.value.last)
    assert [event.seq for event in ledger.events("accounts", 4, 9)] == [5, 6]
    ledger.ack("accounts", 6)
    assert audit_of_redis(redis_server.url(), program_id) == (6, [])


def test_dropped_events_are_not_written_until_there_is_a_reader(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    dropping = open_redis(redis_server.url(), outbox="drop")
    dropping.claim_many([a_claim(item) for item in range(5)])
    assert (dropping.totals().claims, dropping.totals().events) == (5, 0)
    dropping.register_reader("accounts")
    dropping.claim(a_claim(9))
    (event,) = dropping.events("accounts", 0, 9)
    assert (event.item, event.claim) == (9, "CLAIM9P0")
    assert event.seq == dropping.totals().event_seq
    assert audit_of_redis(redis_server.url(), program_id, a_campaign()) == (6, [])


def test_terms_of_one_campaign_may_differ_inside_a_batch(ledger: RedisLedger) -> None:
    """A new generation may arrive between two scans that travel together: each is answered by its own terms."""
    first: CampaignTerms = a_campaign((PrizeTerms(0, stock=2),))
    second = a_campaign((PrizeTerms(0, stock=3),))
    receipts = ledger.claim_many(
        [a_claim(item, terms=first, generation=1) for item in range(3)]
        + [a_claim(item, terms=second, generation=2) for item in range(3, 6)]
        + [a_claim(9, terms=first, generation=1)]
    )
    assert [receipt.unit for receipt in receipts] == [1, 2, 0, 3, 0, 0, 0]
    assert [str(receipt.status) for receipt in receipts[-3:]] == ["no_prize", "no_prize", "stale"]


def test_campaigns_that_begin_in_one_batch_count_a_person_each_for_itself(ledger: RedisLedger) -> None:
    spring, autumn = a_campaign(per_user=1), a_campaign(id="autumn", per_user=1, per_user_per_day=1)
    requests = [a_claim(1, terms=spring), a_claim(2, terms=autumn), a_claim(3, terms=autumn), a_claim(4, terms=spring)]
    expected = [("awarded", None), ("awarded", None), ("limited", "per_user"), ("limited", "per_user")]
    assert [status_of(receipt) for receipt in ledger.claim_many(requests)] == expected
    again = [a_claim(5, terms=autumn), a_claim(6, terms=spring)]
    assert [status_of(receipt) for receipt in ledger.claim_many(again)] == [("limited", "per_user")] * 2


def test_dropping_begins_with_what_was_kept_and_no_reader_misses_an_event(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    open_redis(redis_server.url(), outbox="keep").claim(a_claim(1))
    ledger = open_redis(redis_server.url(), outbox="drop")
    assert (ledger.totals().events, ledger.totals().event_seq) == (0, 1)
    assert redis_server.client().xlen(Keys(program_id).outbox) == 0
    ledger.claim(a_claim(2))
    assert ledger.totals().events == 0
    open_redis(redis_server.url(), outbox="keep").claim(a_claim(3))
    # Behind an event that is kept none is dropped, until the next ledger that drops begins.
    ledger.claim(a_claim(4))
    ledger.register_reader("accounts")
    assert [event.item for event in ledger.events("accounts", 0, 9)] == [3, 4]
    assert open_redis(redis_server.url(), outbox="drop").totals().events == 2
    assert audit_of_redis(redis_server.url(), program_id) == (4, [])


def test_more_than_a_batch_is_refused_by_the_server(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    ledger = open_redis(redis_server.url())
    with pytest.raises(redis.ResponseError, match="513 requests"):
        redis_server.client().execute_command(
            "FCALL", "scan_v1_claim", 3, ledger._keys.meta, ledger._keys.readers, ledger._keys.outbox,
            ledger._session.epoch, "keep", "0", b"\x90\x00\xcd\x02\x01", b"x", b"",
        )  # fmt: skip


@pytest.mark.parametrize(("at", "value"), [(1, 128), (1, 255), (2, 2), (2, 7)])
def test_a_place_that_cannot_be_is_refused_and_nothing_is_written(
    at: int, value: int, redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    """Goal: a wrong party or offset in the midst of a batch cannot end the call between its claims and its events."""
    ledger = open_redis(redis_server.url())
    ledger.claim(a_claim(1))
    before = held_by(redis_server, program_id)
    encoder = Encoder(Keys(program_id), outbox="keep", scan_events=False)
    *command, requests, said = encoder.call(ledger._session.epoch, [a_claim(2), a_claim(3)], {"spring": 1})
    second = len(requests) // 2
    requests = requests[: second + at] + bytes([value]) + requests[second + at + 1 :]
    with pytest.raises(redis.ResponseError, match=f"LEDGERRANGE .* {value}\\b.*expected below 128 and 2"):
        redis_server.client().execute_command(*command, requests, said)
    assert held_by(redis_server, program_id) == before


@pytest.mark.parametrize("change", [lambda part: part + b"x", lambda part: part[:-8]], ids=["too_long", "too_short"])
@pytest.mark.parametrize(("at", "problem"), [(-2, "bytes of requests"), (-1, "bytes are said of requests")])
def test_requests_of_another_size_are_refused_and_nothing_is_written(
    at: int, problem: str, change: Callable[[bytes], bytes], redis_server: RedisServer, open_redis: RedisOpener,
    program_id: str,
) -> None:  # fmt: skip
    ledger = open_redis(redis_server.url())
    ledger.claim(a_claim(1))
    before = held_by(redis_server, program_id)
    encoder = Encoder(Keys(program_id), outbox="keep", scan_events=False)
    command = [*encoder.call(ledger._session.epoch, [a_claim(2), a_claim(3)], {"spring": 1})]
    command[at] = change(command[at])
    with pytest.raises(redis.ResponseError, match=problem):
        redis_server.client().execute_command(*command)
    assert held_by(redis_server, program_id) == before
