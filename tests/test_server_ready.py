"""``GET /readyz``: whether claims can be taken, and what a server does while they cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from helpers import Shop
from redis_servers import RedisServer, wait_until
from scanengine.ledger import MemoryLedger
from scanengine.server import make_app
from serving import Client, Market, a_copy, a_market, serving, use_redis


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("ready") / "shop")


@pytest.fixture
def market(template: Market, tmp_path: Path) -> Market:
    return a_copy(template, tmp_path / "shop")


async def readiness(shop: Shop, ledger: MemoryLedger) -> tuple[int, dict[str, Any]]:
    async with TestClient(TestServer(make_app(shop.program(ledger)))) as client:
        reply = await client.get("/readyz")
        return reply.status, await reply.json()


async def test_alarms_are_told_and_keep_a_server_ready(shop: Shop) -> None:
    ledger = MemoryLedger()
    assert (await readiness(shop, ledger))[1]["alarms"] == []
    ledger.alarms = ("memory is over 80 %", "the outbox grows")
    status, found = await readiness(shop, ledger)
    assert (status, found["status"], found["alarms"]) == (200, "ready", [*ledger.alarms])
    assert "reason" not in found


async def test_tables_older_than_the_ledger_has_seen_are_an_alarm(shop: Shop) -> None:
    ledger = MemoryLedger()
    ledger.announce(shop.snapshot.generation)
    assert (await readiness(shop, ledger))[1]["alarms"] == []
    ledger.announce(shop.snapshot.generation + 1)
    (alarm,) = (await readiness(shop, ledger))[1]["alarms"]
    assert f"has seen generation {shop.snapshot.generation + 1}" in alarm


async def test_trouble_is_the_reason_why_a_server_is_not_ready(shop: Shop) -> None:
    ledger = MemoryLedger()
    ledger.trouble, ledger.alarms = "disk full", ("memory is over 80 %",)
    status, found = await readiness(shop, ledger)
    assert (status, found) == (
        503,
        {
            "status": "not_ready",
            "generation": shop.snapshot.generation,
            "ledger": {"kind": "memory", "durability": "volatile", "calls": 0},
            "alarms": ["memory is over 80 %"],
            "reason": "disk full",
        },
    )


def test_a_redis_that_promises_less_than_is_required_is_not_ready(market: Market, redis_server: RedisServer) -> None:
    use_redis(market, redis_server.url(), durability="everysec")
    code = market.take("cash")
    with serving(market.folder) as served, served.client() as client:
        ready = client.get("/readyz")
        assert (ready.status, ready.json["status"]) == (503, "not_ready")
        assert ready.json["ledger"] == {"kind": "redis", "durability": "volatile", "required": "everysec", "calls": 0}
        assert "append" in ready.json["reason"]
        assert client.post("/v1/scans", {"code": code, "user": "ann"}).json["claim"]["status"] == "pending"
    with serving(market.folder, "--durability", "volatile") as served, served.client() as client:
        ready = client.get("/readyz")
        assert (ready.status, ready.json["status"]) == (200, "ready")
        assert client.claim(code, "ann")["claim"]["status"] == "awarded"


def status_of(client: Client) -> int:
    return client.get("/readyz").status


def test_while_a_redis_is_away_claims_are_pending_and_codes_are_verified(
    market: Market, start_server: Callable[..., RedisServer]
) -> None:
    """Goal: never "no prize" for what is not known, and no scan counted twice. Method: the Redis stands still."""
    redis = start_server()
    use_redis(market, redis.url(), timeout_s=0.3)
    code, other = market.take("cash"), market.take("cash")
    scan = {"code": code, "user": "ann", "visit": "one"}
    with serving(market.folder, "--workers", 2) as served, served.client() as client:
        assert client.claim(other, "ann")["claim"]["status"] == "awarded"
        redis.pause()
        reply = client.post("/v1/scans", scan)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        pending = reply.json["claim"]
        assert pending["status"] == "pending"
        for look in (client.get(f"/s/{other}"), client.post("/v1/verify", {"code": other})):
            assert (look.status, look.json["status"], look.json["scan"], look.json["verdict"]) == (
                200,
                "valid",
                None,
                None,
            )
        wait_until(lambda: status_of(client) == 503, "the server to say that it is not ready")
        assert client.metrics()["scanengine_ledger_trouble",] == 1
        redis.resume()
        wait_until(lambda: status_of(client) == 200, "the server to be ready again")
        answer = client.claim(code, "ann", visit="one")
        assert (answer["claim"]["id"], answer["claim"]["status"]) == (pending["id"], "awarded")
        assert answer["scan"]["count"] == 1
        assert client.get(f"/s/{other}").json["verdict"] == "repeat"
