"""Reading a ledger in Redis: the same as from a file, as of one moment, and the audit finds what is damaged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from helpers_ledger import DATE, NOW_MS, Opener, RedisOpener, a_campaign, a_claim, a_look, held_by, tag_of
from helpers_moving import AUTUMN, CAMPAIGNS, LAST_ITEM, SPRING, fill
from redis_servers import RedisCluster, RedisServer, free_port, slot_of, wait_until
from scanengine.errors import LedgerFormatError, LedgerUnavailableError, SettingsError
from scanengine.ledger import AuditReport, LedgerReader, SqliteReader, audit
from scanengine.ledger.redis import RedisReader
from scanengine.ledger.redis.codec import StoredClaim
from scanengine.ledger.redis.events import encode_event
from scanengine.model import NO_PRIZE, Adjustment, CampaignTerms, ClaimStatus, Event, Party, PrizeTerms

TERMS = a_campaign(
    (PrizeTerms(0, money=10, stock=5, stock_per_day=4, fallback=1), PrizeTerms(1)),
    per_user=6, per_user_per_day=5, budget_total=50, budget_per_day=40,
)  # fmt: skip
ANN, BOB = (int.from_bytes(name.ljust(8, b"\0"), "little") for name in (b"ann", b"bob"))


def examine(url: str, program_id: str, *terms: CampaignTerms) -> AuditReport:
    with RedisReader(url, program_id) as reader:
        return audit(reader, {campaign.id: campaign for campaign in terms})


def everything_in(reader: LedgerReader) -> list[object]:
    """All that a reader tells, but for persons."""
    tables = []
    for chunks in (reader.claims(), reader.scans()):
        for seqs, records in chunks:
            tables += [seqs.tolist(), records.dtype, records.tolist()]
    items = [*range(50), LAST_ITEM]
    return [
        reader.marks(), reader.totals(), reader.campaigns(), reader.counters(), reader.adjustments(),
        reader.trimmed_claims(), list(reader.events()), list(reader.events(9)), *tables,
        [reader.scan_facts(item) for item in items],
    ]  # fmt: skip


# The same as from a file.


@pytest.mark.parametrize("scan_events", [False, True])
def test_either_reader_tells_the_same_of_the_same_history(
    redis_server: RedisServer,
    open_redis: RedisOpener,
    open_ledger: Opener,
    path: Path,
    program_id: str,
    scan_events: bool,
) -> None:
    fill(open_redis(redis_server.url(), scan_events=scan_events))
    ledger = open_ledger(scan_events=scan_events)
    fill(ledger)
    ledger.close()
    with RedisReader(redis_server.url(), program_id) as reader, SqliteReader(path) as expected:
        found = everything_in(reader)
        wanted = everything_in(expected)
        assert found[1:] == wanted[1:]
        assert msgspec.structs.replace(found[0], program="program-1") == wanted[0]
        with reader.snapshot():
            assert everything_in(reader) == found
        assert audit(reader, {terms.id: terms for terms in CAMPAIGNS}).problems == []


def test_many_claims_come_in_order(redis_server: RedisServer, open_redis: RedisOpener, program_id: str) -> None:
    """Goal: more buckets, persons and scans than one exchange reads. Method: sparse items, out of order."""
    ledger = open_redis(redis_server.url())
    items = np.random.default_rng(20260301).permutation(1500) * 1000
    requests = [a_claim(int(item), f"user{item % 700}") for item in items]
    assert all(receipt.status is ClaimStatus.AWARDED for receipt in ledger.claim_many(requests))
    for item in items[:600].tolist():
        ledger.observe(a_look(item, "again"))
    with RedisReader(redis_server.url(), program_id) as reader:
        ((seqs, claims),) = reader.claims()
        ((scan_seqs, scans),) = reader.scans()
        assert seqs.tolist() == list(range(1, 1501))
        assert claims["item"].tolist() == items.tolist()
        assert claims["unit"].tolist() == seqs.tolist()
        assert scan_seqs.tolist() == list(range(1, 601))
        assert scans["item"].tolist() == items[:600].tolist()
        assert [event.item for _, event in reader.events()] == items.tolist()
        report = audit(reader, {"spring": a_campaign()})
    assert (report.claims, report.scans, report.events, report.problems) == (1500, 600, 1500, [])


def test_any_node_of_a_cluster_leads_to_the_ledger(
    redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str
) -> None:
    fill(open_redis(redis_cluster.url))
    reports = [examine(node.url(), program_id, *CAMPAIGNS) for node in redis_cluster.nodes]
    assert [report.problems for report in reports] == [[], [], []]
    assert {report.claims for report in reports} == {18}


def test_slot_that_is_being_moved_cannot_be_audited(
    redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str
) -> None:
    """Keys that are at the other primary already would be missed, and reported as lost."""
    ledger = open_redis(redis_cluster.url)
    ledger.claim(a_claim())
    slot = slot_of(tag_of(program_id))
    source = redis_cluster.owner_of_slot(slot)
    target = next(node for node in redis_cluster.nodes if node is not source)
    redis_cluster.begin_migration(slot, source, target)
    try:
        with pytest.raises(LedgerUnavailableError, match="slot is being moved"):
            examine(redis_cluster.url, program_id)
    finally:
        redis_cluster.finish_migration(slot, source, target)
    assert examine(redis_cluster.url, program_id, a_campaign()).problems == []


# Whose ledger it is, and whether there is one.


def test_no_ledger_is_said_and_none_is_made(redis_server: RedisServer, program_id: str) -> None:
    with pytest.raises(LedgerFormatError, match="there is no ledger"):
        RedisReader.open(redis_server.url(), program_id, None)
    assert held_by(redis_server, program_id) == {}


def test_reading_changes_nothing(redis_server: RedisServer, open_redis: RedisOpener, program_id: str) -> None:
    fill(open_redis(redis_server.url()))
    before = held_by(redis_server, program_id)
    with RedisReader(redis_server.url(), program_id) as reader:
        everything_in(reader)
        audit(reader, {})
    assert held_by(redis_server, program_id) == before


def test_ledger_of_another_key_or_format_is_refused(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    open_redis(redis_server.url())
    RedisReader.open(redis_server.url(), program_id, program_id).close()
    with pytest.raises(LedgerFormatError, match=r"expected .*/other"):
        RedisReader.open(redis_server.url(), program_id, program_id.partition("/")[0] + "/other")
    redis_server.client().hset(f"{tag_of(program_id)}meta", "format", 7)
    with pytest.raises(LedgerFormatError, match="format 7, expected 1"):
        RedisReader.open(redis_server.url(), program_id, None)


def test_server_that_is_away_is_said(program_id: str) -> None:
    with pytest.raises(LedgerUnavailableError, match="does not answer"):
        RedisReader(f"redis://127.0.0.1:{free_port()}/0", program_id)
    with pytest.raises(SettingsError, match="url cannot be read"):
        RedisReader("http://127.0.0.1/0", program_id)


def test_reader_finds_its_server_again(
    start_server: Callable[..., RedisServer], open_redis: RedisOpener, program_id: str
) -> None:
    server = start_server(config={"appendonly": "yes", "appendfsync": "always"})
    open_redis(server.url()).claim(a_claim())
    with RedisReader(server.url(), program_id) as reader:
        server.kill()
        with pytest.raises(LedgerUnavailableError):
            reader.scan_facts(1)
        server.restart()
        assert reader.scan_facts(1).count == 1


def test_health_is_read_from_the_server(
    start_server: Callable[..., RedisServer], open_redis: RedisOpener, program_id: str
) -> None:
    server = start_server(config={"appendonly": "yes", "appendfsync": "everysec"})
    open_redis(server.url())
    with RedisReader(server.url(), program_id) as reader:
        assert (reader.health("everysec").durability, reader.health("everysec").trouble) == ("everysec", None)
        assert "appendfsync is everysec, expected always" in str(reader.health("strict").trouble)


# While it is used.


def test_ledger_in_use_is_audited_as_of_one_moment(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    """Goal: no false alarm. Method: claims, scans, adjustments and acknowledgements go on while audits run."""
    ledger = open_redis(redis_server.url(), scan_events=True)
    ledger.register_reader("accounts")
    is_over = threading.Event()
    rounds: list[int] = []

    def use() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            start = number * 100
            terms = AUTUMN if number % 5 == 0 else SPRING
            ledger.claim_many([a_claim(start + i, f"u{i % 9}{number % 40}", terms=terms) for i in range(50)])
            ledger.observe(a_look(start, "again"))
            ledger.adjust(Adjustment(f"a{number}", "spring", "stock", prize=0, amount=1))
            if number % 3 == 0:
                ledger.ack("accounts", ledger.totals().event_seq - 20)
            rounds.append(number)

    user = threading.Thread(target=use)
    user.start()
    try:
        wait_until(lambda: len(rounds) > 5, "claims")
        for _ in range(5):
            before = len(rounds)
            report = examine(redis_server.url(), program_id, AUTUMN)
            assert report.problems == []
            wait_until(lambda before=before: len(rounds) > before, "more claims")
    finally:
        is_over.set()
        user.join()
    assert examine(redis_server.url(), program_id, AUTUMN).claims == ledger.totals().claims


# What the audit finds.


class Planted:
    """A ledger of 13 claims, and ways to damage it."""

    def __init__(self, client: redis.Redis, program_id: str) -> None:
        self.client = client
        self.tag = tag_of(program_id)

    def key(self, name: str) -> str:
        return self.tag + name

    def change_claim(self, field: int, **changes: int) -> None:
        packed = self.client.hget(self.key("c:0"), str(field))
        assert packed is not None
        self.client.hset(self.key("c:0"), str(field), StoredClaim.unpack(packed)._replace(**changes).pack())

    def copy_claim(self, field: int, to: int) -> None:
        self.client.hset(self.key("c:0"), str(to), self.client.hget(self.key("c:0"), str(field)))

    def hold_person(self, campaign: int, user: int, *counts: int) -> None:
        self.client.set(self.key(f"u:{campaign:x}:{user:016x}"), b"".join(map(msgspec.msgpack.encode, counts)))

    def copy_event(self, seq: int, to: str) -> None:
        ((_, fields),) = self.client.xrange(self.key("outbox"), seq, seq)
        self.client.xadd(self.key("outbox"), fields, id=to)


@pytest.fixture
def planted(redis_server: RedisServer, open_redis: RedisOpener, program_id: str) -> Planted:
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    for item in range(1, 13):
        user = "ann" if item % 2 else "bob"
        party = Party.CHANNEL if item > 10 else Party.CONSUMER
        day = (item - 1) // 8
        ledger.claim(a_claim(item, user, terms=TERMS, local_date=DATE + day, now_ms=NOW_MS + item, party=party))
        ledger.observe(a_look(item, "w"))
    ledger.claim(a_claim(13, "cid", terms=a_campaign(id="autumn"), drawn=NO_PRIZE))
    ledger.adjust(Adjustment("more", "spring", "stock", prize=1, amount=4))
    ledger.close()
    report = examine(redis_server.url(), program_id, TERMS)
    assert report == AuditReport(claims=13, scans=12, events=13, counters=14, problems=[])
    return Planted(redis_server.client(), program_id)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda it: it.client.hdel(it.key("c:0"), "5"), "claim 5: the record is missing"),
        (lambda it: it.client.hdel(it.key("c:0"), "13"), "claim 13: the record is missing"),
        (lambda it: it.client.delete(it.key("c:0")), "claim 1 to 13: records are missing"),
        (lambda it: it.client.hset(it.key("meta"), "claims", 99), "claim 14 to 99: records are missing"),
        (lambda it: it.copy_claim(5, 50), "claim 5: two records have this number"),
        (lambda it: it.change_claim(5, seq=77), "claim 5: the record is missing"),
        (lambda it: it.change_claim(3, unit=7), "claim 3: item 3 campaign spring prize 0: unit is 7, expected 3"),
        (
            lambda it: it.change_claim(5, money=3),
            "campaign spring: counter of money in all holds 50, the records say 53",
        ),
        (
            lambda it: it.change_claim(6, at_ms=1),
            "claim 6: item 6 was recorded at an earlier time than the claim before it",
        ),
        (lambda it: it.change_claim(2, prize=1), "claim 2: item 2: the event says prize 0, the record 1"),
        (
            lambda it: it.change_claim(9, user_hash=BOB),
            f"campaign spring: claims of a person are held as 6 in all and 2 on date {DATE + 1}, "
            f"the records say 5 in all and 1 on date {DATE + 1}",
        ),
        (
            lambda it: it.client.hset(it.key("k:spring"), "awards:0", 4),
            "campaign spring: counter of awards of prize 0 in all holds 4, the records say 5",
        ),
        (
            lambda it: it.client.hset(it.key("k:spring"), f"money:{DATE}", 99),
            f"campaign spring: counter of money on date {DATE} holds 99, the records say 40",
        ),
        (
            lambda it: it.client.hdel(it.key("k:autumn"), "claims"),
            "campaign autumn: counter of claims in all holds 0, the records say 1",
        ),
        (
            lambda it: it.client.hset(it.key("k:spring"), "stock:1", 400),
            "campaign spring: added stock is held as {1: 400}, the adjustments say {1: 4}",
        ),
        (
            lambda it: it.client.hset(it.key("k:spring"), "paused", 1),
            "campaign spring: paused is held as True, the adjustments say False",
        ),
        (
            lambda it: it.client.hdel(it.key("adjustments"), "more"),
            "campaign spring: added stock is held as {1: 4}, the adjustments say {}",
        ),
        (
            lambda it: it.client.hdel(it.key("campaigns"), "autumn"),
            "campaign 2: has claims, but is not in the table of campaigns",
        ),
        (
            lambda it: it.hold_person(1, ANN, 5, DATE + 1, 2),
            f"campaign spring: claims of a person are held as 5 in all and 2 on date {DATE + 1}, "
            f"the records say 6 in all and 2 on date {DATE + 1}",
        ),
        (
            lambda it: it.hold_person(1, 99, 1, DATE, 1),
            f"campaign spring: claims of a person are held as 1 in all and 1 on date {DATE}, "
            "the records say 0 in all and 0 on date 0",
        ),
        (
            lambda it: it.client.delete(it.key(f"u:1:{BOB:016x}")),
            "campaign spring: claims of a person are recorded, but none are held",
        ),
        (lambda it: it.client.xdel(it.key("outbox"), "5-0"), "claim 5: item 5 has no event"),
        (lambda it: it.client.xdel(it.key("outbox"), "13-0"), "claim 13: item 13 has no event"),
        (lambda it: it.client.delete(it.key("outbox")), "claim 1: item 1 has no event"),
        (lambda it: it.copy_event(13, "14-0"), "claim 13: has more than one event"),
        (lambda it: it.copy_event(5, "13-1"), "claim 5: has more than one event"),
        (
            lambda it: it.client.hdel(it.key("c:0"), str(256 + 5)),
            "item 5: its scans say another time of the first than the first itself",
        ),
        (lambda it: it.client.delete(it.key("s:5")), "scan 5: the record is missing"),
        (lambda it: it.client.hset(it.key("meta"), "scans", 14), "scan 13 to 14: records are missing"),
    ],
)
def test_planted_damage_is_found_and_named(
    planted: Planted, damage: Callable[[Planted], object], problem: str, redis_server: RedisServer, program_id: str
) -> None:
    damage(planted)
    problems = examine(redis_server.url(), program_id, TERMS).problems
    assert problem in problems
    names = {f"{user:x}" for user in (ANN, BOB)} | {str(user) for user in (ANN, BOB)} | {"ann", "bob"}
    assert not [text for text in problems for name in names if name in text], "a problem names a person"


@pytest.mark.parametrize(
    "damage",
    [
        lambda it: it.client.hset(it.key("c:0"), "5", b"short"),
        lambda it: it.client.hset(it.key("c:0"), "5", b"x" * 36),
        lambda it: it.client.hset(it.key("c:0"), "five", b"x"),
        lambda it: it.client.hset(it.key("c:zz"), "5", b"x"),
        lambda it: it.change_claim(5, prize=1 << 20),
        lambda it: it.client.hset(it.key("s:5"), b"otherone", b"short"),
        lambda it: it.client.hset(it.key("s:5"), b"brief", b"x" * 14),
        lambda it: it.client.hset(it.key("c:0"), str(256 + 5), bytes([9] + [0] * 9)),
        lambda it: it.client.set(it.key(f"u:1:{ANN:016x}"), b"\xc1"),
        lambda it: it.client.set(it.key(f"u:1:{ANN:016x}"), b"\1"),
        lambda it: it.client.set(it.key("u:one:two:three"), b"\1\1\1"),
        lambda it: it.client.hset(it.key("adjustments"), "x", "not json"),
        lambda it: it.client.hset(it.key("k:spring"), "claims", "many"),
        lambda it: it.client.hset(it.key("campaigns"), "spring", "one"),
        lambda it: it.client.hset(it.key("meta"), "claims", "many"),
        lambda it: (it.client.delete(it.key("readers")), it.client.set(it.key("readers"), 1)),
        lambda it: it.client.set(it.key("c:77"), 1),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_format(
    planted: Planted, damage: Callable[[Planted], object], redis_server: RedisServer, program_id: str
) -> None:
    damage(planted)
    with pytest.raises(LedgerFormatError):
        examine(redis_server.url(), program_id, TERMS)


@pytest.mark.parametrize(
    "odd",
    [{"unit": 1 << 32}, {"prize": 1 << 15}, {"amount": -1}, {"at": 1 << 48}, {"id": f"scan-{1 << 32}", "claim": None}],
)
def test_a_number_that_no_event_can_hold_is_named_and_not_written(odd: dict[str, Any]) -> None:
    event = Event("c", 7, "claim", 1, 2, "", "", "ann", "", 0, "spring", 1, 0, 0, 0, 5, 1, "c", "")
    encode_event(1, event)
    with pytest.raises(LedgerFormatError, match="event 7: it holds a number that none can be in Redis"):
        encode_event(1, msgspec.structs.replace(event, **odd))
