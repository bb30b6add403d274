"""What an answer survives is read from the server, shown, and required: below the requirement nothing is claimed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from helpers_ledger import NOW_MS, RedisOpener, a_claim, a_look, answered, held_by
from redis_servers import EVERYSEC, STRICT, RedisServer, wait_until
from scanengine.errors import SettingsError
from scanengine.ledger import PENDING
from scanengine.ledger.redis.asking import Asker
from scanengine.model import ClaimStatus, ScanFacts

Starter = Callable[..., RedisServer]
PROFILES = ("strict", "everysec", "volatile")
SERVERS = {
    "aof-always": (STRICT, "strict"),
    "aof-always-paused-by-rewrites": ({**STRICT, "no-appendfsync-on-rewrite": "yes"}, "everysec"),
    "aof-everysec": (EVERYSEC, "everysec"),
    "aof-left-to-the-system": ({"appendonly": "yes", "appendfsync": "no"}, "volatile"),
    "snapshots-only": ({"save": "60 1000"}, "volatile"),
    "nothing": ({}, "volatile"),
    "evicts": ({**STRICT, "maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "volatile"),
    "evicts-what-expires": ({**STRICT, "maxmemory": "100mb", "maxmemory-policy": "volatile-ttl"}, "volatile"),
}
"""Settings of a server, and the profile that they are."""


@pytest.mark.parametrize("name", SERVERS)
def test_profile_is_read_from_the_server(name: str, start_server: Starter, open_redis: RedisOpener) -> None:
    config, profile = SERVERS[name]
    ledger = open_redis(start_server(config=config).url())
    assert ledger.claim(a_claim()).status is ClaimStatus.AWARDED
    assert ledger.durability == profile


@pytest.mark.parametrize("required", PROFILES)
@pytest.mark.parametrize(("config", "found"), [(STRICT, "strict"), (EVERYSEC, "everysec"), ({}, "volatile")])
def test_less_than_required_claims_nothing_and_says_what_to_set(
    config: dict[str, str], found: str, required: str, start_server: Starter, open_redis: RedisOpener, program_id: str
) -> None:
    server = start_server(config=config)
    ledger = open_redis(server.url(), durability=required, timeout_s=1.0)
    if PROFILES.index(found) <= PROFILES.index(required):
        assert ledger.claim(a_claim()).status is ClaimStatus.AWARDED
        assert ledger.trouble is None
        return
    held = held_by(server, program_id)
    assert ledger.claim(a_claim()) == PENDING
    assert held_by(server, program_id) == held
    assert ledger.durability == found
    assert ledger.trouble is not None
    assert "appendonly" in ledger.trouble or "appendfsync" in ledger.trouble
    # Nothing is given away by telling whether a code is genuine, so looks go on.
    assert ledger.observe(a_look()) == ScanFacts(1, NOW_MS, 1)


def test_change_while_running_is_noticed(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server(config=STRICT)
    ledger = open_redis(server.url(), durability="strict", timeout_s=1.0, check_s=0.05)
    assert ledger.claim(a_claim(1)).status is ClaimStatus.AWARDED
    server.client().config_set("appendfsync", "everysec")
    wait_until(lambda: ledger.durability == "everysec", "the ledger to notice")
    assert ledger.claim(a_claim(2)) == PENDING
    assert ledger.trouble is not None
    assert "appendfsync" in ledger.trouble
    server.client().config_set("appendfsync", "always")
    assert answered(ledger, a_claim(2)).unit == 2
    assert (ledger.durability, ledger.trouble) == ("strict", None)


def test_profile_is_read_again_after_a_restart(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server(config=EVERYSEC)
    ledger = open_redis(server.url(), durability="everysec", timeout_s=1.0)
    assert ledger.claim(a_claim(1)).status is ClaimStatus.AWARDED
    server.configure(appendfsync="no")
    server.restart()
    assert ledger.claim(a_claim(2)) == PENDING
    wait_until(lambda: ledger.claim(a_claim(2)) == PENDING and ledger.durability == "volatile", "the ledger to notice")
    server.configure(appendfsync="everysec")
    server.restart()
    assert answered(ledger, a_claim(2)).unit == 2


def test_settings_that_may_not_be_read_are_unverified(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server(config=STRICT, acl=["ann on >secret ~* &* +@all -config"])
    trusting = open_redis(server.url("ann", "secret"), durability="unverified")
    assert trusting.claim(a_claim(1)).unit == 1
    assert trusting.durability == "unverified"
    for required in ("strict", "everysec"):
        ledger = open_redis(server.url("ann", "secret"), durability=required, timeout_s=1.0)
        assert ledger.claim(a_claim(2)) == PENDING
        assert ledger.trouble is not None
        assert "config" in ledger.trouble.lower()


def test_unknown_requirement_is_refused(redis_server: RedisServer, open_redis: RedisOpener) -> None:
    with pytest.raises((SettingsError, ValueError), match="safe"):
        open_redis(redis_server.url(), durability="safe")


def test_answers_are_for_requirement_not_for_looks(start_server: Starter, open_redis: RedisOpener) -> None:
    """A strict ledger's answer says so: what ``durability`` shows is what was found, not what was asked."""
    ledger = open_redis(start_server(config=STRICT).url(), durability="volatile")
    assert ledger.claim(a_claim()).status is ClaimStatus.AWARDED
    assert (ledger.kind, ledger.durability) == ("redis", "strict")


def test_server_that_promises_less_by_the_time_it_is_asked_is_given_no_claim(
    start_server: Starter, open_redis: RedisOpener, program_id: str
) -> None:
    """Goal: what was read on one connection is not believed of the next.

    Method: the claim waits for its turn; the connection it would have had is cut, and the settings are weaker.
    """
    server = start_server(config=STRICT)
    ledger = open_redis(server.url(), durability="strict", timeout_s=5.0)

    async def scenario() -> None:
        await ledger.claim_async(a_claim(1))
        (channel_link,) = [asker.link for asker in askers if asker.link._connection is not None]
        async with channel_link._turn:
            claim = asyncio.ensure_future(ledger.claim_async(a_claim(2)))
            while not channel_link._turn._waiters:
                await asyncio.sleep(0)
            server.client().config_set("appendfsync", "no")
            await channel_link.drop()
        assert await claim == PENDING

    askers: list[Asker] = []
    make = ledger._new_asker

    def remember() -> Asker:
        askers.append(make())
        return askers[-1]

    ledger._new_asker = remember  # type: ignore[method-assign]
    held = held_by(server, program_id)
    asyncio.run(scenario())
    assert ledger.durability == "volatile"
    buckets = {key for key in held_by(server, program_id) if ":c:" in key}
    assert len(buckets) == 1
    assert held.keys() < held_by(server, program_id).keys()


def test_file_that_is_still_being_begun_is_not_strict(start_server: Starter, open_redis: RedisOpener) -> None:
    """Switched on while the server runs, the file holds nothing before its first rewrite is done."""
    server = start_server(config={"appendfsync": "always"})
    client = server.client()
    client.config_set("rdb-key-save-delay", 20_000)
    with client.pipeline(transaction=False) as pipe:
        for number in range(1_000):
            pipe.set(f"other-{number}", "x")
        pipe.execute()
    client.config_set("appendonly", "yes")
    ledger = open_redis(server.url(), durability="strict", timeout_s=1.0, check_s=0.1)
    assert client.info("persistence")["aof_rewrite_in_progress"] == 1
    assert ledger.claim(a_claim()) == PENDING
    assert ledger.durability == "volatile"
    assert "being begun" in str(ledger.trouble)
    client.config_set("rdb-key-save-delay", 0)
    assert answered(ledger, a_claim()).status is ClaimStatus.AWARDED
    assert ledger.durability == "strict"
