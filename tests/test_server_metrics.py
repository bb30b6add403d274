"""``GET /metrics``: every reply, scan and claim is counted once, whichever worker is asked; and who may know."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from helpers import NOW_MS, TOKEN, Shop
from scanengine.errors import LedgerUnavailableError
from scanengine.ledger import MemoryLedger
from scanengine.ledger.protocol import LedgerTotals
from scanengine.model import ClaimRequest, ClaimStatus, Receipt, Status
from scanengine.server import make_app
from scanengine.server.metrics import Metrics, open_memory
from serving import Market, a_market, metrics_of, run_cli, serving

REQUESTS = "scanengine_http_requests_total"
SCANS, LOOKS, CLAIMS = "scanengine_scans_total", "scanengine_looks_total", "scanengine_claims_total"
HIDDEN = {"unknown_key", "forged", "unknown", "wrong_product"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def labels_of(found: dict[tuple[str, ...], float], name: str) -> dict[str, float]:
    """Return the values of a metric that are not zero by its only label."""
    return {labels[0]: value for (each, *labels), value in found.items() if each == name and value}


class Door:
    """An application that is asked in this process."""

    def __init__(self, client: TestClient[web.Request, web.Application]) -> None:
        self.client = client

    async def metrics(self) -> dict[tuple[str, ...], float]:
        reply = await self.client.get("/metrics", headers=BEARER)
        assert reply.status == 200
        return metrics_of(await reply.read())

    async def claim(self, code: str, user: str = "ann") -> None:
        await (await self.client.post("/v1/scans", json={"code": code, "user": user}, headers=BEARER)).read()

    async def look(self, code: str) -> None:
        await (await self.client.get(f"/s/{code}")).read()


@asynccontextmanager
async def a_door(shop: Shop, ledger: MemoryLedger | None = None, **options: Any) -> AsyncIterator[Door]:
    async with TestClient(TestServer(make_app(shop.program(ledger or MemoryLedger(), NOW_MS), **options))) as client:
        yield Door(client)


# What is counted ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("metrics") / "shop")


def test_every_reply_is_counted_by_its_route_and_status_code(market: Market) -> None:
    code = market.take("cash")
    asked: list[tuple[str, str, bytes | None, str, str]] = [
        ("POST", "/v1/scans", b'{"code": "hello", "user": "ann"}', "200", "/v1/scans"),
        ("POST", "/v1/scans", b"no JSON", "400", "/v1/scans"),
        ("POST", "/v1/scans", b" " * 70_000, "413", "/v1/scans"),
        ("POST", "/v1/scans/batch", b'{"scans": []}', "200", "/v1/scans/batch"),
        ("POST", "/v1/verify", b'{"code": "hello"}', "200", "/v1/verify"),
        ("GET", f"/v1/codes/{code}", None, "200", "/v1/codes/{code}"),
        ("HEAD", f"/v1/codes/{code}", None, "200", "/v1/codes/{code}"),
        ("GET", f"/s/{code}", None, "200", "/s/{code}"),
        ("GET", f"/S/{code}", None, "200", "/s/{code}"),
        ("GET", "/healthz", None, "200", "/healthz"),
        ("GET", "/readyz", None, "200", "/readyz"),
        ("GET", "/metrics", None, "200", "/metrics"),
        ("GET", "/v1/scans", None, "405", "other"),
        ("GET", "/nowhere", None, "404", "/{name}"),
        ("GET", "/no/where", None, "404", "other"),
    ]
    expected: dict[tuple[str, ...], float] = {}
    with serving(market.folder) as served:
        for method, path, body, status, route in asked:
            with served.client() as client:
                client.ask(method, path, body)
            expected[REQUESTS, status, route] = expected.get((REQUESTS, status, route), 0) + 1
        with served.client() as client:
            found = client.metrics()
        assert {key: value for key, value in found.items() if key[0] == REQUESTS} == expected
        durations = "scanengine_http_request_duration_seconds"
        for route in {key[2] for key in expected}:
            count = sum(value for key, value in expected.items() if key[2] == route)
            assert found[f"{durations}_count", route] == found[f"{durations}_bucket", "+Inf", route] == count
            buckets = [value for key, value in found.items() if key[0] == f"{durations}_bucket" and key[2] == route]
            assert buckets == sorted(buckets)
            assert found[f"{durations}_sum", route] > 0


async def test_scans_claims_and_looks_are_counted_by_their_answers(shop: Shop) -> None:
    async with a_door(shop) as door:
        assert labels_of(await door.metrics(), CLAIMS) == {}
        await door.claim(shop.code(0))
        first = labels_of(await door.metrics(), CLAIMS)
        (status,) = first
        assert status in ("awarded", "no_prize")
        await door.claim(shop.code(0), "bob")
        await door.claim("hello")
        await door.look(shop.code(1))
        await door.look("hello")
        scans = [{"code": shop.code(2), "user": "ann"}, {"code": "hello", "user": "ann"}, {"code": 5}]
        await (await door.client.post("/v1/scans/batch", json={"scans": scans}, headers=BEARER)).read()
        found = await door.metrics()
        assert labels_of(found, SCANS) == {"valid": 3, "malformed": 2}
        assert labels_of(found, LOOKS) == {"valid": 1, "malformed": 1}
        claims = labels_of(found, CLAIMS)
        assert (claims.pop("taken"), sum(claims.values())) == (1, 2)
        # Two new claims, one that was taken, one look.
        assert found["scanengine_ledger_calls_total",] == 4
        assert found["scanengine_outbox_events",] == 2


async def test_every_status_has_a_line_from_the_start(shop: Shop) -> None:
    """So that the first forged code of a year is a rise, and no new line."""
    statuses = {status.name.lower() for status in Status}
    for is_trusted, expected in ((True, statuses), (False, statuses - HIDDEN | {"invalid"})):
        async with a_door(shop, is_trusted=is_trusted) as door:
            found = await door.metrics()
            assert {key[1] for key in found if key[0] == SCANS} == expected
            assert {key[1] for key in found if key[0] == LOOKS} == expected
            assert {key[1] for key in found if key[0] == CLAIMS} == {*ClaimStatus} - {ClaimStatus.STALE}


# Who may know -------------------------------------------------------------------------------------------------------


async def test_metrics_need_a_token_where_one_is_configured(shop: Shop) -> None:
    async with a_door(shop) as door:
        reply = await door.client.get("/metrics")
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert b"scanengine_" not in await reply.read()
        reply = await door.client.get("/metrics", headers=BEARER)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert (REQUESTS, "401", "/metrics") in metrics_of(await reply.read())


async def test_metrics_do_not_tell_a_guesser_which_part_was_right(market: Market) -> None:
    """Goal: what replies show as one status is one here, too, but on the control socket."""
    shop = market.shop
    codes = [market.forged(shop.code(0)), market.unknown(), market.unknown_key()]
    shared = open_memory(1)
    async with a_door(shop, metrics=Metrics(shared)) as door:
        for code in codes:
            await door.claim(code)
            await door.look(code)
        assert labels_of(await door.metrics(), SCANS) == labels_of(await door.metrics(), LOOKS) == {"invalid": 3}
    async with a_door(shop, metrics=Metrics(shared), is_trusted=True) as door:
        assert labels_of(await door.metrics(), SCANS) == {"forged": 1, "unknown": 1, "unknown_key": 1}
    os.close(shared)


def test_the_control_socket_counts_with_the_port(tmp_path: Path) -> None:
    market = a_market(tmp_path / "shop", tokens=True)
    code = market.take("cash")
    with serving(market.folder) as served:
        assert "awarded" in run_cli(market.folder, "claim", code, "--user", "ann", "--json").stdout
        with served.client(TOKEN) as client:
            found = client.metrics()
    assert (found[CLAIMS, "awarded"], found[REQUESTS, "200", "/v1/scans"]) == (1, 1)


# What is true now ---------------------------------------------------------------------------------------------------


class SlowLedger(MemoryLedger):
    """A ledger that answers claims when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        self.is_asked.set()
        await self.may_answer.wait()
        return self.claim_many(requests)


async def test_claims_in_progress_are_those_that_wait_for_the_ledger(shop: Shop) -> None:
    ledger = SlowLedger()
    async with a_door(shop, ledger) as door:
        claim = asyncio.create_task(door.claim(shop.code(0)))
        await ledger.is_asked.wait()
        assert (await door.metrics())["scanengine_claims_in_progress",] == 1
        ledger.may_answer.set()
        await claim
        assert (await door.metrics())["scanengine_claims_in_progress",] == 0


class SilentTotals(MemoryLedger):
    """A ledger that does not say what it holds."""

    def totals(self) -> LedgerTotals:
        raise LedgerUnavailableError("no answer")


async def test_trouble_and_alarms_of_the_ledger_show(shop: Shop) -> None:
    ledger = MemoryLedger()
    async with a_door(shop, ledger) as door:
        found = await door.metrics()
        assert (found["scanengine_ledger_trouble",], found["scanengine_ledger_alarms",]) == (0, 0)
        assert found["scanengine_ledger_info", "volatile", "memory"] == 1
        assert ("scanengine_outbox_events",) in found
        ledger.trouble, ledger.alarms = "disk full", ("memory is over 80 %",)
        found = await door.metrics()
        assert (found["scanengine_ledger_trouble",], found["scanengine_ledger_alarms",]) == (1, 1)
        assert ("scanengine_outbox_events",) not in found


async def test_what_the_ledger_cannot_say_is_left_out(shop: Shop) -> None:
    async with a_door(shop, SilentTotals()) as door:
        assert ("scanengine_outbox_events",) not in await door.metrics()


# Over the workers ---------------------------------------------------------------------------------------------------


def shown(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return metrics_of(metrics.render(MemoryLedger(), None, shows_all=True))


def test_whoever_is_asked_the_sum_is_the_same_and_no_counter_goes_back(shop: Shop) -> None:
    """Goal: a worker's counts stay when it dies, and what was true of it alone goes. Method: rows of one memory."""
    memory = open_memory(2)
    one, two = (Metrics(memory, worker) for worker in range(2))
    program = shop.program(MemoryLedger())
    for metrics, count in ((one, 3), (two, 5)):
        metrics.sample(program)
        for _ in range(count):
            metrics.count_request("/healthz", 200, 2_000_000)
        metrics.claims_in_progress = count
        metrics.sample(program)
    found = shown(one)
    assert found == shown(two)
    assert found[REQUESTS, "200", "/healthz"] == 8
    assert found["scanengine_http_request_duration_seconds_sum", "/healthz"] == pytest.approx(0.016)
    assert found["scanengine_claims_in_progress",] == 8
    assert labels_of(found, "scanengine_worker_requests_total") == {"0": 3, "1": 5}
    assert labels_of(found, "scanengine_generation") == dict.fromkeys("01", program.snapshot.generation)

    Metrics(memory, None).forget(1)
    found = shown(one)
    assert found[REQUESTS, "200", "/healthz"] == 8
    assert (found["scanengine_claims_in_progress",], found["scanengine_workers",]) == (3, 1)
    assert labels_of(found, "scanengine_generation").keys() == {"0"}

    again = Metrics(memory, 1)
    again.count_request("/healthz", 200, 0)
    found = shown(one)
    assert found[REQUESTS, "200", "/healthz"] == 9
    assert (found["scanengine_workers",], found["scanengine_workers_configured",]) == (2, 2)
    assert found["scanengine_worker_starts_total",] == 3
    os.close(memory)


@pytest.mark.parametrize(
    ("duration_ns", "bound"), [(0, "0.001"), (1_000_000, "0.001"), (1_000_001, "0.0025"), (5 * 10**9 + 1, "+Inf")]
)
def test_a_bucket_holds_what_is_not_longer_than_its_bound(duration_ns: int, bound: str) -> None:
    metrics = Metrics()
    metrics.count_request("/healthz", 200, duration_ns)
    found = shown(metrics)
    filled = [key[1] for key, value in found.items() if key[0].endswith("_bucket") and value]
    assert filled[0] == bound


@pytest.mark.parametrize(
    "durations_ns",
    [(), (7,), (1, 2, 1_000_000), (1_000_000, 1_000_001), (0, 6 * 10**9, 30_000_000, 0), (6 * 10**9, 7 * 10**9)],
)
def test_requests_counted_together_count_as_if_one_by_one(durations_ns: tuple[int, ...]) -> None:
    together, apart = Metrics(), Metrics()
    together.count_requests("/v1/scans", 503, durations_ns)
    for duration_ns in durations_ns:
        apart.count_request("/v1/scans", 503, duration_ns)
    assert shown(together) == shown(apart)


def test_a_status_code_without_a_cell_of_its_own_is_counted_too() -> None:
    metrics = Metrics()
    metrics.count_request("/healthz", 418, 0)
    assert shown(metrics)[REQUESTS, "other", "/healthz"] == 1
