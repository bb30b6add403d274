"""A Cluster: any node's address will do, and a slot on the move costs time, never an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from helpers_ledger import (
    NOW_MS,
    RedisOpener,
    a_campaign,
    a_claim,
    a_look,
    answered,
    audit_of_redis,
    same_claim,
    tag_of,
)  # fmt: skip
from redis_servers import EVERYSEC, RedisCluster, RedisServer, newest_binary, slot_of, wait_until
from scanengine.ledger import PENDING
from scanengine.model import Adjustment, ClaimStatus, ScanFacts


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """A Cluster for one test alone, which may end its nodes."""
    with RedisCluster(newest_binary(), tmp_path / "cluster", config=EVERYSEC) as cluster:
        yield cluster


def sides(cluster: RedisCluster, program_id: str) -> tuple[int, RedisServer, RedisServer]:
    """The slot of a program, the node that owns it, and another one."""
    slot = slot_of(tag_of(program_id))
    source = cluster.owner_of_slot(slot)
    return slot, source, next(node for node in cluster.nodes if node is not source)


def test_any_node_leads_to_the_program(redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str) -> None:
    ledgers = [open_redis(node.url()) for node in redis_cluster.nodes]
    receipts = [ledger.claim(a_claim(1)) for ledger in ledgers]
    assert [receipt.replayed for receipt in receipts] == [False, True, True]
    assert [ledger.claim(a_claim(2 + n)).unit for n, ledger in enumerate(ledgers)] == [2, 3, 4]
    for node in redis_cluster.nodes:
        assert audit_of_redis(node.url(), program_id, a_campaign()) == (4, [])


def test_programs_share_a_cluster(redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str) -> None:
    """Each program has one slot, so that several spread over the nodes."""
    ledgers = [open_redis(redis_cluster.url, program_id=f"{number}-{program_id}") for number in range(8)]
    assert [ledger.claim(a_claim()).unit for ledger in ledgers] == [1] * 8
    assert len({redis_cluster.owner_of(tag_of(f"{number}-{program_id}")).port for number in range(8)}) > 1


def test_every_primary_has_the_functions(redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str) -> None:
    """A slot may move to any of them."""
    for node in redis_cluster.nodes:
        node.client().execute_command("FUNCTION", "FLUSH")
    assert open_redis(redis_cluster.url).claim(a_claim()).unit == 1
    for node in redis_cluster.nodes:
        found = node.client().execute_command("FUNCTION LIST", "LIBRARYNAME", "scan_v1")
        assert found, f"node {node.port} has no library scan_v1"


def test_slot_on_the_move_refuses_whole_batches_or_answers_them(
    redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_cluster.url, timeout_s=1.0)
    ledger.register_reader("accounts")
    first = ledger.claim_many([a_claim(item * 131) for item in range(40)])
    slot, source, target = sides(redis_cluster, program_id)
    redis_cluster.begin_migration(slot, source, target)
    told = {}
    for moved in (0, 3, 10, 20):
        if moved:
            redis_cluster.move_keys(slot, source, target, moved)
        fresh = [a_claim(item, f"user-{item}") for item in (10_000 * moved + 1, 10_000 * moved + 131)]
        receipts = ledger.claim_many([a_claim(0), *fresh])
        assert (PENDING in receipts) is (receipts == [PENDING] * 3)
        told |= {
            item: same_claim(receipt) for item, receipt in zip((0, *[r.item for r in fresh]), receipts, strict=True)
        }
    redis_cluster.finish_migration(slot, source, target)
    assert [answered(ledger, a_claim(item * 131)) for item in range(40)] == [
        replace(receipt, replayed=True) for receipt in first
    ]
    for item, receipt in told.items():
        if receipt != PENDING and item:
            assert same_claim(answered(ledger, a_claim(item, f"user-{item}"))) == receipt
    claims = ledger.totals().claims
    assert answered(ledger, a_claim(77, "bob")).unit == claims + 1
    assert [event.seq for event in ledger.events("accounts", 0, 999)] == list(range(1, claims + 2))
    assert audit_of_redis(redis_cluster.url, program_id, a_campaign()) == (claims + 1, [])


def test_slot_moves_while_claims_go_on(redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str) -> None:
    """Goal: a slot that goes round all nodes under load loses no claim, doubles none, and changes no answer."""
    ledger = open_redis(redis_cluster.url)
    told: dict[int, object] = {}
    is_over = threading.Event()

    def call() -> None:
        item = 0
        while not is_over.is_set():
            item += 131
            told[item] = same_claim(answered(ledger, a_claim(item)))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(4):
            count = len(told)
            wait_until(lambda count=count: len(told) > count + 20, "claims")  # type: ignore[misc]
            slot, source, target = sides(redis_cluster, program_id)
            redis_cluster.begin_migration(slot, source, target)
            redis_cluster.finish_migration(slot, source, target)
    finally:
        is_over.set()
        caller.join()
    again = ledger.claim_many([a_claim(item) for item in told])
    assert [same_claim(receipt) for receipt in again] == list(told.values())
    assert sorted(receipt.unit for receipt in again) == list(range(1, len(told) + 1))
    assert audit_of_redis(redis_cluster.url, program_id, a_campaign()) == (len(told), [])


def test_everything_else_follows_a_slot_that_moved(
    redis_cluster: RedisCluster, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_cluster.url)
    ledger.register_reader("accounts")
    ledger.claim(a_claim(1))
    slot, source, target = sides(redis_cluster, program_id)
    redis_cluster.begin_migration(slot, source, target)
    redis_cluster.finish_migration(slot, source, target)
    assert ledger.observe(a_look(1)) == ScanFacts(2, NOW_MS, 2)
    assert ledger.adjust(Adjustment("more", "spring", "stock", prize=0, amount=1))
    ledger.announce(3)
    assert [event.item for event in ledger.events("accounts", 0, 9)] == [1]
    ledger.ack("accounts", 1)
    assert (ledger.totals().events, ledger.totals().generation) == (0, 3)


def test_node_that_ends_and_comes_back(own_cluster: RedisCluster, open_redis: RedisOpener, program_id: str) -> None:
    ledger = open_redis(own_cluster.url, durability="everysec", timeout_s=1.0)
    first = ledger.claim(a_claim(1))
    assert first.status is ClaimStatus.AWARDED
    _, owner, _ = sides(own_cluster, program_id)
    owner.kill()
    assert ledger.claim(a_claim(1)) == PENDING
    owner.restart()
    assert answered(ledger, a_claim(1)) == replace(first, replayed=True)


def test_node_of_the_address_may_end(own_cluster: RedisCluster, open_redis: RedisOpener) -> None:
    """The address only leads to the Cluster: once there, the ledger lives on the node that owns the program."""
    number = next(n for n in range(99) if own_cluster.owner_of(tag_of(f"program-{n}")) is not own_cluster.nodes[0])
    ledger = open_redis(own_cluster.url, program_id=f"program-{number}/key", durability="everysec")
    first = ledger.claim(a_claim(1))
    for node in own_cluster.nodes:
        node.client().config_set("cluster-require-full-coverage", "no")
    own_cluster.nodes[0].kill()
    assert answered(ledger, a_claim(1)) == replace(first, replayed=True)
    assert answered(ledger, a_claim(2)).unit == 2
