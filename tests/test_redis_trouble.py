"""A Redis in trouble makes claims pending, never wrong: nothing half written, and the same answer when it is over."""

from __future__ import annotations

from collections.abc import Callable
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
    held_by,
    same_claim,
)  # fmt: skip
from redis_servers import EVERYSEC, STRICT, RedisServer, free_port, wait_until
from scanengine.errors import LedgerFormatError, LedgerUnavailableError
from scanengine.ledger import PENDING
from scanengine.ledger.redis import RedisLedger
from scanengine.ledger.redis.keys import Keys
from scanengine.model import Adjustment, ClaimRequest, ClaimStatus, PrizeTerms, ScanFacts
from serving import in_threads

Starter = Callable[..., RedisServer]
AUTUMN = a_campaign(id="autumn")


# A key of another type in the way.

IN_THE_WAY: dict[str, tuple[Callable[[Keys], bytes], ClaimRequest, ClaimRequest]] = {
    "claims": (lambda keys: keys.bucket_of(3), a_claim(3), a_claim(1_000)),
    "person": (lambda keys: keys.person(1, a_claim(user="bob").user_hash), a_claim(3, "bob"), a_claim(4)),
    "campaign": (lambda keys: keys.campaign("spring"), a_claim(3), a_claim(4, terms=AUTUMN)),
    "new campaign": (lambda keys: keys.campaign("autumn"), a_claim(3, terms=AUTUMN), a_claim(4)),
    "campaigns": (lambda keys: keys.campaigns, a_claim(3, terms=AUTUMN), a_claim(4)),
    "scans": (lambda keys: keys.scans_of(1), a_claim(1, visit="new"), a_claim(4)),
    "outbox": (lambda keys: keys.outbox, a_claim(3), a_claim(1)),
    "meta": (lambda keys: keys.meta, a_claim(3), a_claim(1)),
}
"""The key, a claim that needs it, and one that does not (or, if all claims do, a repeat)."""


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_key_of_another_type_is_refused_before_anything_is_written(
    name: str,
    redis_server: RedisServer,
    open_redis: RedisOpener,
    program_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key_of, in_need, other = IN_THE_WAY[name]
    client, key, aside = redis_server.client(), key_of(Keys(program_id)), f"aside-{program_id}"
    ledger = open_redis(redis_server.url(), timeout_s=1.0)
    ledger.claim(a_claim(1))
    if client.exists(key):
        client.rename(key, aside)
    client.rpush(key, "in the way")
    held = held_by(redis_server, program_id)
    assert ledger.claim(in_need) == PENDING
    assert held_by(redis_server, program_id) == held
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    # Nor does it stand in the way of others, even of those that travel with it.
    receipts = ledger.claim_many([in_need, other, in_need])
    assert (receipts[0], receipts[2]) == (PENDING, PENDING)
    if name == "meta":
        assert receipts[1] == PENDING
        assert ledger.trouble is not None
    else:
        assert receipts[1].status is ClaimStatus.AWARDED
    client.delete(key)
    if client.exists(aside):
        client.rename(aside, key)
    assert answered(ledger, in_need).status is ClaimStatus.AWARDED
    assert ledger.trouble is None
    assert audit_of_redis(redis_server.url(), program_id, a_campaign(), AUTUMN)[1] == []


def test_damaged_record_is_no_answer(redis_server: RedisServer, open_redis: RedisOpener, program_id: str) -> None:
    ledger = open_redis(redis_server.url(), timeout_s=1.0)
    ledger.claim(a_claim(1))
    redis_server.client().hset(Keys(program_id).bucket_of(2), "2", b"\x00" * 5)
    assert ledger.claim(a_claim(2)) == PENDING
    assert answered(ledger, a_claim(1_000)).unit == 2


def test_functions_of_somebody_else_by_the_same_name_are_not_believed(
    start_server: Starter, open_redis: RedisOpener, program_id: str
) -> None:
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=1.0)
    first = ledger.claim(a_claim(1))
    held = held_by(server, program_id)
    for reply in ("'x'", "nil", "''", "{1, 2}", "redis.error_reply('ERR no')"):
        functions = "".join(
            f"redis.register_function('scan_v1_{name}', function(keys, args) return {reply} end)\n"
            for name in ("claim", "open", "announce", "adjust", "reader", "ack", "totals")
        )
        server.client().execute_command("FUNCTION", "LOAD", "REPLACE", f"#!lua name=scan_v1\n{functions}")
        assert ledger.claim(a_claim(2)) == PENDING
        assert ledger.trouble is not None
    assert held_by(server, program_id) == held
    server.client().execute_command("FUNCTION", "FLUSH")
    assert same_claim(answered(ledger, a_claim(1))) == same_claim(first)
    assert answered(ledger, a_claim(2)).unit == 2


# Memory.


def test_full_memory_writes_nothing_by_halves(start_server: Starter, open_redis: RedisOpener, program_id: str) -> None:
    server = start_server(config={"maxmemory-policy": "noeviction"})
    ledger = open_redis(server.url(), timeout_s=1.0)
    server.client().config_set("maxmemory", server.client().info("memory")["used_memory"] + 150_000)
    told: dict[int, object] = {}
    requests = [a_claim(item * 131, f"user-{item}") for item in range(6_000)]
    for start in range(0, len(requests), 100):
        part = requests[start : start + 100]
        receipts = ledger.claim_many(part)
        told |= {request.item: receipt for request, receipt in zip(part, receipts, strict=True) if receipt != PENDING}
        if PENDING in receipts:
            break
    assert 0 < len(told) < len(requests), "memory was never full"
    assert ledger.trouble is not None
    assert "memory" in ledger.trouble
    held = held_by(server, program_id)
    assert ledger.claim(requests[-1]) == PENDING
    assert held_by(server, program_id) == held
    server.client().config_set("maxmemory", 0)
    assert audit_of_redis(server.url(), program_id, a_campaign()) == (len(told), [])
    receipts = [answered(ledger, request) for request in requests[: len(told) + 100]]
    for request, receipt in zip(requests, receipts[: len(told)], strict=False):
        assert receipt == replace(told[request.item], replayed=True)
    assert [receipt.unit for receipt in receipts] == list(range(1, len(told) + 101))
    assert audit_of_redis(server.url(), program_id, a_campaign()) == (len(told) + 100, [])


def test_memory_is_an_alarm_before_it_is_trouble(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server(config={"maxmemory-policy": "noeviction"})
    client = server.client()
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used * 10)
    assert open_redis(server.url()).alarms == ()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.85))
    ledger = open_redis(server.url(), program_id="another-program/key")
    assert ledger.claim(a_claim()).status is ClaimStatus.AWARDED
    (alarm,) = ledger.alarms
    assert "memory" in alarm
    assert ledger.trouble is None


# Functions.


@pytest.mark.parametrize("words", [("FUNCTION", "FLUSH"), ("FUNCTION", "DELETE", "scan_v1")])
def test_functions_that_vanish_are_loaded_again(
    words: tuple[str, ...], start_server: Starter, open_redis: RedisOpener, program_id: str
) -> None:
    server = start_server()
    ledger = open_redis(server.url())
    first = ledger.claim(a_claim(1))
    server.client().execute_command(*words)
    assert answered(ledger, a_claim(1)) == replace(first, replayed=True)
    server.client().execute_command(*words)
    assert answered(ledger, a_claim(2)).unit == 2
    server.client().execute_command(*words)
    assert ledger.adjust(Adjustment("more", "spring", "stock", prize=0, amount=1))
    server.client().execute_command(*words)
    assert ledger.totals().claims == 2
    assert audit_of_redis(server.url(), program_id, a_campaign()) == (2, [])


# Data that is gone.


@pytest.mark.parametrize("how", ["flushall", "restart"])
def test_ledger_that_is_gone_does_not_begin_anew(
    how: str, start_server: Starter, open_redis: RedisOpener, program_id: str, tmp_path: Path
) -> None:
    """Beginning anew would award every code a second time."""
    server = start_server(config=EVERYSEC)
    more = {"durability": "everysec", "timeout_s": 1.0, "epoch_path": tmp_path / "ledger.epoch"}
    ledger = open_redis(server.url(), **more)
    assert ledger.claim(a_claim(1)).status is ClaimStatus.AWARDED
    if how == "flushall":
        server.client().flushall()
    else:
        server.kill()
        for file in (server.folder / "appendonlydir").iterdir():
            file.unlink()
        server.restart()
    for request in (a_claim(1), a_claim(2)):
        assert ledger.claim(request) == PENDING
    assert held_by(server, program_id) == {}
    assert ledger.trouble is not None
    assert "gone" in ledger.trouble
    with pytest.raises(LedgerUnavailableError):
        ledger.observe(a_look())
    # Nor does a process that is started now: the workspace knows that there was a ledger.
    with pytest.raises(LedgerFormatError, match="gone"):
        open_redis(server.url(), **more)
    assert held_by(server, program_id) == {}


# A server that cannot be reached, or is not the one that writes.


def test_opening_does_not_need_the_server(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server()
    server.stop()
    ledger = open_redis(server.url(), timeout_s=0.2)
    assert ledger.claim(a_claim()) == PENDING
    assert ledger.trouble is not None
    for call in (
        lambda: ledger.observe(a_look()),
        lambda: ledger.adjust(Adjustment("a", "spring", "pause")),
        lambda: ledger.announce(1),
        lambda: ledger.register_reader("accounts"),
        lambda: ledger.events("accounts", 0, 1),
        lambda: ledger.ack("accounts", 0),
        ledger.totals,
    ):
        with pytest.raises(LedgerUnavailableError):
            call()
    server.restart()
    assert answered(ledger, a_claim()).unit == 1
    assert ledger.trouble is None


def test_address_where_nobody_listens_can_be_closed_again(open_redis: RedisOpener) -> None:
    ledger = open_redis(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.2)
    assert ledger.claim_many([a_claim(1), a_claim(2)]) == [PENDING, PENDING]
    ledger.close()
    with pytest.raises(LedgerUnavailableError, match="closed"):
        ledger.claim(a_claim(1))


def test_replica_is_refused(start_server: Starter, open_redis: RedisOpener, program_id: str) -> None:
    primary = start_server(config={"repl-diskless-sync-delay": "0"})
    replica = start_server(config={"replicaof": f"127.0.0.1 {primary.port}"})
    wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up", "the replica")
    open_redis(primary.url()).claim(a_claim(1))
    ledger = open_redis(replica.url(), timeout_s=1.0)
    assert ledger.claim(a_claim(2)) == PENDING
    assert ledger.trouble is not None
    assert "replica" in ledger.trouble
    # Promoted, it is the one that writes.
    replica.client().replicaof("NO", "ONE")
    assert answered(ledger, a_claim(2)).unit == 2


def test_primary_that_becomes_a_replica_is_left_alone(start_server: Starter, open_redis: RedisOpener) -> None:
    server, other = start_server(), start_server()
    ledger = open_redis(server.url(), timeout_s=1.0)
    ledger.claim(a_claim(1))
    server.client().replicaof("127.0.0.1", str(other.port))
    assert ledger.claim(a_claim(2)) == PENDING
    wait_until(lambda: ledger.claim(a_claim(2)) == PENDING and ledger.trouble is not None, "trouble")


# Ends and pauses.


def test_server_that_goes_and_comes_back_is_told_to_the_log(
    start_server: Starter, open_redis: RedisOpener, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    ledger = open_redis(server.url())
    assert caplog.messages == []
    server.kill()
    wait_until(lambda: ledger.trouble is not None, "the loss to be noticed")
    server.restart()
    wait_until(lambda: ledger.trouble is None, "the return to be noticed")
    told = [record.message for record in caplog.records if record.name == "scanengine.ledger.redis.health"]
    assert [message.partition(":")[0] for message in told] == [
        "the ledger is away, claims are pending until it is back", "the ledger is back",
    ]  # fmt: skip


def test_server_that_is_killed_and_comes_back_gives_the_same_answers(
    start_server: Starter, open_redis: RedisOpener, program_id: str
) -> None:
    server = start_server(config=STRICT)
    ledger = open_redis(server.url(), durability="strict", timeout_s=1.0)
    ledger.register_reader("accounts")
    first = ledger.claim_many([a_claim(item) for item in range(300)])
    facts = ledger.observe(a_look(7))
    server.kill()
    assert ledger.claim(a_claim(1)) == PENDING
    server.restart()
    again = [answered(ledger, a_claim(item)) for item in range(300)]
    assert [same_claim(receipt) for receipt in again] == [same_claim(receipt) for receipt in first]
    assert ledger.observe(a_look(7)) == facts == ScanFacts(2, NOW_MS, 2)
    assert answered(ledger, a_claim(300)).unit == 301
    assert [event.seq for event in ledger.events("accounts", 0, 999)] == list(range(1, 302))
    assert audit_of_redis(server.url(), program_id, a_campaign()) == (301, [])


def test_answers_told_before_a_kill_are_kept(start_server: Starter, open_redis: RedisOpener, program_id: str) -> None:
    """No answer is told before what it says is written: callers are cut off in the midst of claims, three times."""
    server = start_server(config=STRICT)
    ledger = open_redis(server.url(), durability="strict", timeout_s=5.0)
    terms = a_campaign((PrizeTerms(0, money=1, stock=700, fallback=1), PrizeTerms(1)), budget_total=600)
    told: dict[int, object] = {}

    def call(caller: int) -> None:
        for item in range(caller, 900, 3):
            receipt = ledger.claim(a_claim(item, f"user-{caller}", terms=terms))
            if receipt != PENDING:
                told[item] = same_claim(receipt)

    def kill(_: int) -> None:
        for share in (1, 2, 3):
            wait_until(lambda share=share: len(told) > 200 * share, "claims")  # type: ignore[misc]
            server.kill()
            server.restart()

    in_threads(4, lambda index: kill(index) if index == 3 else call(index))
    assert len(told) > 600
    for item in range(900):
        receipt = same_claim(answered(ledger, a_claim(item, f"user-{item % 3}", terms=terms)))
        assert told.setdefault(item, receipt) == receipt
    assert audit_of_redis(server.url(), program_id, terms) == (900, [])
    assert ledger.totals().campaigns[0].awards == {0: 600, 1: 300}


def test_call_given_up_is_answered_once_and_counted_once(
    start_server: Starter, open_redis: RedisOpener, program_id: str
) -> None:
    """A retry never awards or counts a second time, whether or not the first call was carried out late."""
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=0.5)
    ledger.register_reader("accounts")
    assert ledger.claim(a_claim(1)).unit == 1
    server.pause()
    assert [ledger.claim(a_claim(2)) for _ in range(2)] == [PENDING] * 2
    with pytest.raises(LedgerUnavailableError):
        ledger.observe(a_look(1, "v"))
    server.resume()
    receipt = answered(ledger, a_claim(2))
    assert (receipt.status, receipt.unit, receipt.scan) == (ClaimStatus.AWARDED, 2, ScanFacts(1, NOW_MS, 1))
    wait_until(lambda: ledger.claim(a_claim(2)) == replace(receipt, replayed=True), "the same answer")
    assert [event.item for event in ledger.events("accounts", 0, 9)] == [1, 2]
    assert ledger.observe(a_look(1, "v")) == ScanFacts(2, NOW_MS, 2)
    assert audit_of_redis(server.url(), program_id, a_campaign()) == (2, [])


def test_connections_that_are_cut_are_made_anew(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server()
    ledger: RedisLedger = open_redis(server.url())
    for item in range(20):
        server.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        # A call that is lost on the way is sent again: its caller never hears of it.
        assert ledger.claim(a_claim(item)).unit == item + 1
    assert ledger.trouble is None


def test_wrong_password_is_trouble_that_can_end(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server(acl=["ann on >right ~* &* +@all"])
    ledger = open_redis(server.url("ann", "wrong"), timeout_s=1.0)
    assert ledger.claim(a_claim()) == PENDING
    assert ledger.trouble is not None
    assert "wrong" not in ledger.trouble.split()
    server.client().execute_command("ACL", "SETUSER", "ann", ">wrong")
    assert answered(ledger, a_claim()).unit == 1


def test_trouble_ends_when_its_cause_does_though_nobody_claims(start_server: Starter, open_redis: RedisOpener) -> None:
    """A server that is out of rotation for its trouble is sent no claim that could tell that it is over."""
    server = start_server()
    ledger = open_redis(server.url(), timeout_s=1.0)
    ledger.claim(a_claim(1))
    server.client().config_set("maxmemory", 1)
    assert ledger.claim(a_claim(2)) == PENDING
    assert "memory" in str(ledger.trouble)
    server.client().config_set("maxmemory", 0)
    wait_until(lambda: ledger.trouble is None, "the end of the trouble")


def test_item_that_cannot_be_read_is_no_trouble_of_the_server(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    keys = Keys(program_id)
    ledger = open_redis(redis_server.url(), timeout_s=1.0)
    ledger.claim_many([a_claim(1), a_claim(300)])
    client = redis_server.client()
    client.hset(keys.bucket_of(1), "2", b"\x01" * 300)  # No claim is that long.
    client.hset(keys.bucket_of(300), str(300 & 127), b"\x02" * 36)
    client.hset(keys.bucket_of(3), "259", b"\x09")  # No count of scans is that short.
    client.set(keys.person(1, a_claim(user="bob").user_hash), b"\xc1")
    receipts = ledger.claim_many([a_claim(2), a_claim(300), a_claim(3), a_claim(4, "bob"), a_claim(5), a_claim(1)])
    assert receipts[:4] == [PENDING] * 4
    assert [receipt.status for receipt in receipts[4:]] == [ClaimStatus.AWARDED] * 2
    assert ledger.trouble is None
