"""A server of which more is asked than its ledger can answer: what is refused was not done, the rest is as ever."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from helpers import TOKEN, Shop
from helpers_cli import Run
from helpers_door import SAFARI, Browser
from open_loop import Offered, Told, claim_of, keep, offer
from redis_servers import RedisServer, newest_binary
from scanengine.cli import scans
from scanengine.cli.control import ServedLedger
from scanengine.errors import LedgerBusyError, OverloadedError
from scanengine.ledger import MemoryLedger
from scanengine.model import Answer, ClaimReply, ClaimRequest, ObserveRequest, Receipt, ScanFacts
from scanengine.server import make_app
from serving import Client, Market, a_copy, a_market, run_cli, serving, use_redis

BATCH_MAX = 16
BATCH_S = 0.05
CONNECTIONS = 64
CAPACITY_PER_S = BATCH_MAX / BATCH_S
SHARES = (1.5, 3)
SECONDS = 4
SLOW = (Path(__file__).with_name("slow_serve.py"), BATCH_MAX, BATCH_S)
PROBLEM = "urn:scanengine:problem:overloaded"


# Past the capacity of a real server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("overload") / "shop")


def is_refused(told: Told) -> bool:
    """Whether a claim was refused; everything else about a refusal must be right."""
    if told.status == 200:
        return False
    assert told.status == 503, told
    assert told.json["type"] == PROBLEM, told
    assert "was not done" in told.json["detail"]
    assert b"\r\nretry-after: 1\r\n" in told.headers + b"\r\n"
    return True


def are_new(told: Sequence[Told]) -> bool:
    """Whether all of these claims were the first of their codes, by whoever."""
    found = [each.json for each in told]
    return all(
        answer["claim"]["status"] in ("awarded", "no_prize")
        and not answer["claim"]["replayed"]
        and answer["scan"]["count"] == 1
        for answer in found
    )


async def overload(market: Market, port: int) -> tuple[Offered, list[str]]:
    """Offer half as much again as the ledger can take, and more if a generator that fell behind offered less."""
    for share in SHARES:
        codes = [market.take("load") for _ in range(round(share * CAPACITY_PER_S * SECONDS))]
        requests = [claim_of(code, "ann") for code in codes]
        offered = await offer(port, requests, share * CAPACITY_PER_S, 4 * CONNECTIONS)
        if any(map(is_refused, offered.told)):
            return offered, codes
    raise AssertionError(f"nothing was refused at {share} times the capacity")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_past_capacity_claims_are_refused_or_made_and_never_left_in_doubt(
    kind: str, market: Market, tmp_path: Path
) -> None:
    """Goal: who is told ``overloaded`` has claimed nothing, everybody else has an answer, and the books agree.

    Method: a server whose batches are small and slow; half as much again as it does at its best; then somebody else
    claims what was refused, and the same people what was not.
    """
    shop = a_copy(market, tmp_path / "shop")
    if kind == "redis":
        with RedisServer(newest_binary(), tmp_path / "server") as server:
            use_redis(shop, server.url())
            await check_overload(shop)
    else:
        await check_overload(shop)


async def check_overload(market: Market) -> None:
    with serving(market.folder, program=SLOW) as served:
        offered, codes = await overload(market, served.port)
        refused = [code for code, told in zip(codes, offered.told, strict=True) if is_refused(told)]
        made = [code for code, told in zip(codes, offered.told, strict=True) if told.status == 200]
        assert refused
        assert made
        assert are_new([told for told in offered.told if told.status == 200])
        with served.client() as client:
            found = client.metrics()
            assert found["scanengine_overloaded_total",] >= len(refused)
            assert found["scanengine_claims_total", "pending"] == 0
            assert client.get("/readyz").status == 200
        later = await keep(served.port, [claim_of(code, "bob") for code in refused], CONNECTIONS)
        assert are_new(later.told)
        again = await keep(served.port, [claim_of(code, "ann") for code in made], CONNECTIONS)
        assert all(told.json["claim"]["replayed"] for told in again.told)
    log = served.log_path.read_text()
    # One line for many, and none of an error.
    assert 1 <= log.count("overloaded: ") < len(refused) / 10
    assert "ERROR" not in log
    audit = run_cli(market.folder, "audit", "--json")
    assert audit.returncode == 0, audit.stdout + audit.stderr


# What is said of it -------------------------------------------------------------------------------------------------


class FullLedger(MemoryLedger):
    """A ledger for which too many wait, until it is told otherwise."""

    is_full = True

    def _check(self) -> None:
        if self.is_full:
            raise OverloadedError("too many wait")

    async def claim_async(self, request: ClaimRequest) -> Receipt:
        self._check()
        return await super().claim_async(request)

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        self._check()
        return await super().claim_many_async(requests)

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        self._check()
        return super().claim_many(requests)

    async def observe_async(self, request: ObserveRequest) -> ScanFacts:
        self._check()
        return await super().observe_async(request)

    async def observe_many_async(self, requests: Sequence[ObserveRequest]) -> list[ScanFacts | None]:
        self._check()
        return await super().observe_many_async(requests)

    def observe(self, request: ObserveRequest) -> ScanFacts:
        self._check()
        return super().observe(request)


@asynccontextmanager
async def full_door(shop: Shop) -> AsyncIterator[tuple[FullLedger, int]]:
    """Serve a shop whose browsers may claim without a login; yield its ledger and port."""
    path = shop.folder / "scanengine.toml"
    path.write_text(path.read_text().replace("[page]\n", "[page]\nguests = true\n"))
    ledger = FullLedger()
    server = TestServer(make_app(shop.program(ledger)))
    await server.start_server()
    try:
        yield ledger, server.port or 0
    finally:
        await server.close()


async def test_back_ends_are_told_and_codes_are_looked_at_without_counts(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def work(port: int) -> None:
        with Client(port, TOKEN) as client:
            code = shop.code(0)
            for _ in range(20):
                reply = client.post("/v1/scans", {"code": code, "user": "ann", "visit": "one"})
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
                assert (reply.json["type"], reply.json["status"], reply.json["title"]) == (PROBLEM, 503, "Overloaded")
                for looked in (client.post("/v1/verify", {"code": code}), client.get(f"/v1/codes/{code}")):
                    assert (looked.status, looked.json["status"]) == (200, "valid")
                    assert (looked.json["scan"], looked.json["verdict"], looked.json["claim"]) == (None, None, None)
            assert client.get("/readyz").status == 200
            assert client.metrics()["scanengine_claims_in_progress",] == 0

    async with full_door(shop) as (ledger, port):
        await asyncio.to_thread(work, port)
        ledger.is_full = False
        answer = await shop.program(ledger).claim_async(shop.code(0), user="bob")
        assert answer.claim is not None
        assert answer.claim.status in ("awarded", "no_prize")
    # The ledger itself says so, once for many.
    assert [record.message for record in caplog.records if "scanengine" in record.name] == []


async def test_the_page_says_that_it_did_not_get_through_and_its_button_stays(shop: Shop) -> None:
    def work(port: int, ledger: FullLedger) -> None:
        browser = Browser(f"http://127.0.0.1:{port}", SAFARI)
        path = f"/s/{shop.code(0)}"
        assert browser.get(path).status == 200
        page = browser.press(path)
        assert (page.status, page.headers["retry-after"]) == (503, "1")
        text = page.body.decode()
        assert "That did not get through. Please try again." in text
        assert f'action="{path}"' in text
        assert 'data-state="ready"' in text
        reply = browser.claim(path)
        assert (reply.status, reply.json["type"]) == (503, PROBLEM)
        shown = browser.get(path)
        assert (shown.status, "did not get through" in shown.body.decode()) == (200, False)
        ledger.is_full = False
        assert browser.claim(path).json["claim"]["status"] in ("awarded", "no_prize")

    async with full_door(shop) as (ledger, port):
        await asyncio.to_thread(work, port, ledger)


async def test_the_program_raises_and_looks_go_on(shop: Shop) -> None:
    ledger = FullLedger()
    program = shop.program(ledger)
    code = shop.code(0)
    for _ in range(2):
        with pytest.raises(OverloadedError):
            program.claim(code, user="ann")
        with pytest.raises(OverloadedError):
            await program.claim_async(code, user="ann")
    for user in (None, "ann"):
        decision, answer = await program.look_async(code, user=user, visit="one")
        assert (decision.code, answer.status, answer.scan, answer.claim) == (code, "valid", None, None)
    assert program.verify(code).scan is None
    assert (await program.verify_async(code)).scan is None
    ledger.is_full = False
    assert program.claim(code, user="bob").scan is not None


def test_the_command_says_it_in_words(market: Market, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def owned(folder: Path, settings: object) -> Any:
        raise LedgerBusyError("owned by a server")

    body = {"type": PROBLEM, "status": 503, "detail": "this was not done: send it again"}
    monkeypatch.setattr(scans, "open_program", owned)
    monkeypatch.setattr(ServedLedger, "_exchange", lambda *_: (503, json.dumps(body).encode()))
    done = run("-w", market.folder, "claim", "x", "--user", "ann")
    assert (done.code, done.out) == (1, "")
    assert "the server that owns the ledger is overloaded: this was not done: send it again" in done.err
    # An answer that is pending has the same status, and is an answer.
    pending = Answer("valid", None, claim=ClaimReply("ID", "pending"))
    monkeypatch.setattr(ServedLedger, "_exchange", lambda *_: (503, msgspec.json.encode(pending)))
    assert run("-w", market.folder, "claim", "x", "--user", "ann").code == 4
