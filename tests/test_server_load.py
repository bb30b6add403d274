"""Many at once over real sockets: one award per code, budgets that hold, floods that cost the ledger nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from scanengine.ledger import SqliteReader
from serving import PLACES, PURSE_UNITS, Market, Served, a_market, in_threads, run_cli, serving

FLOOD = 2_000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("load") / "shop")


@pytest.fixture(scope="module")
def server(market: Market) -> Iterator[Served]:
    with serving(market.folder) as served:
        yield served
    assert run_cli(market.folder, "audit").returncode == 0


async def post_all(port: int, bodies: list[dict[str, Any]]) -> list[Any]:
    """Post all scans at once, each on a connection of its own."""

    async def post(body: dict[str, Any]) -> Any:
        async with session.post(f"http://127.0.0.1:{port}/v1/scans", json=body) as response:
            assert response.status == 200
            return await response.json()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*map(post, bodies))


async def test_64_people_at_once_get_one_award_of_one_code(market: Market, server: Served) -> None:
    code = market.take("cash")
    answers = await post_all(server.port, [{"code": code, "user": f"user-{number}"} for number in range(64)])
    claims = [answer["claim"] for answer in answers]
    assert Counter(claim["status"] for claim in claims) == {"awarded": 1, "taken": 63}
    assert len({(claim["id"], claim["at"]) for claim in claims}) == 1
    assert sorted(answer["scan"]["count"] for answer in answers) == list(range(1, 65))
    assert Counter(answer["verdict"] for answer in answers) == {"first_scan": 1, "repeat": 9, "suspect": 54}


async def test_64_retries_at_once_are_one_claim_and_one_scan(market: Market, server: Served) -> None:
    code = market.take("cash")
    answers = await post_all(server.port, [{"code": code, "user": "ann", "visit": "one"}] * 64)
    claims = [answer["claim"] for answer in answers]
    assert Counter((claim["status"], claim["replayed"]) for claim in claims) == {
        ("awarded", False): 1,
        ("awarded", True): 63,
    }
    assert {answer["scan"]["count"] for answer in answers} == {1}


async def test_both_parties_at_once_get_one_award_each(market: Market, server: Served) -> None:
    code = market.take("no_rule")
    bodies = [{"code": code, "user": f"shop-{number}", "role": "retailer"} for number in range(32)]
    bodies += [{"code": code, "user": f"user-{number}"} for number in range(32)]
    answers = await post_all(server.port, bodies)
    statuses = [answer["claim"]["status"] for answer in answers]
    assert Counter(statuses[:32]) == {"awarded": 1, "taken": 31}
    assert Counter(statuses[32:]) == {"ineligible": 32}


async def test_a_budget_of_10_under_1000_winners_gives_exactly_10(market: Market, server: Served) -> None:
    start, end, _ = PLACES["purse"]
    codes = market.shop.codes(start, end)
    assert len(codes) == 1000
    answers = await post_all(server.port, [{"code": code, "user": f"user-{code}"} for code in codes])
    awarded = [answer for answer in answers if answer["claim"]["status"] == "awarded"]
    assert Counter(answer["claim"]["status"] for answer in answers) == {"awarded": PURSE_UNITS, "no_prize": 990}
    assert {answer["claim"]["prize"]["id"] for answer in awarded} == {"cash-88"}
    with SqliteReader(market.shop.workspace.ledger_path) as reader:
        (totals,) = [totals for totals in reader.totals().campaigns if totals.id == "purse"]
    assert (totals.claims, totals.awards, totals.money) == (1000, {0: PURSE_UNITS}, PURSE_UNITS * 8800)
    again = await post_all(server.port, [{"code": code, "user": f"user-{code}"} for code in codes])
    for first, second in zip(answers, again, strict=True):
        assert second["claim"] == {**first["claim"], "replayed": True}


def test_a_flood_of_bad_codes_makes_no_ledger_call(market: Market, server: Served) -> None:
    good = market.shop.codes(*PLACES["void"][:2])
    kinds = [
        lambda number: market.forged(good[number % len(good)]),
        lambda number: market.mistyped(good[number % len(good)]),
        market.unknown,
        market.unknown_key,
        lambda number: f"text {number}",
    ]
    bad = [kinds[number % len(kinds)](number) for number in range(FLOOD)]

    def flood(index: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        with server.client() as client:
            for code in bad[index::4]:
                seen[client.claim(code, "eve")["status"]] += 1
                seen[client.post("/v1/verify", {"code": code}).json["status"]] += 1
        return seen

    with server.client() as client:
        calls = client.calls()
        seen = sum(in_threads(4, flood), Counter())
        scans = [{"code": code, "user": "eve"} for code in bad]
        seen.update(result["status"] for result in client.post("/v1/scans/batch", {"scans": scans}).json["results"])
        share = 3 * FLOOD // len(kinds)
        assert seen == {"invalid": 3 * share, "mistyped": share, "malformed": share}
        assert client.calls() == calls
        # The counter counts: one good code is one call.
        client.claim(market.take("cash"), "ann")
        assert client.calls() == calls + 1


def test_a_batch_of_thousands_beside_single_scans(market: Market, server: Served) -> None:
    """Goal: single scans are answered in between, and nobody's answer is another's."""
    codes = [market.take("load") for _ in range(8_000)]

    def scan(index: int) -> None:
        with server.client() as client:
            if index == 0:
                scans = [{"code": code, "user": "batch"} for code in codes[:4_000]]
                results = client.post("/v1/scans/batch", {"scans": scans}).json["results"]
                assert [result["code"] for result in results] == codes[:4_000]
                assert {result["claim"]["replayed"] for result in results} == {False}
                return
            for code in codes[4_000 + index :: 20][:150]:
                answer = client.claim(code, f"user-{index}")
                assert (answer["code"], answer["claim"]["replayed"]) == (code, False)

    in_threads(5, scan)
