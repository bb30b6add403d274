"""Every status and every claim status as a client of a real server sees it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from helpers import NOW_MS, TOKEN, Shop
from scanengine.ledger import PENDING
from scanengine.ledger.memory import MemoryLedger
from scanengine.model import ClaimRequest, Receipt
from scanengine.server import make_app
from serving import Client, Market, Reply, Served, a_market, run_cli, serving

PRODUCT = {"gtin": "6901234567892", "title": "可乐"}
NOTHING = {"verdict": None, "scan": None, "product": None, "batch": None, "scenes": [], "claim": None}
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+08:00"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("replies") / "shop")


@pytest.fixture(scope="module")
def server(market: Market) -> Iterator[Served]:
    with serving(market.folder) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client() as client:
        yield client


def test_an_award_says_all_that_the_contract_names(market: Market, client: Client) -> None:
    code = market.take("cash")
    answer = client.claim(code, "ann")
    at = answer["claim"].pop("at")
    assert re.fullmatch(TIME, at)
    assert re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", answer["claim"].pop("id"))
    assert answer == {
        "status": "valid",
        "code": code,
        "verdict": "first_scan",
        "scan": {"count": 1, "first_at": at},
        "product": PRODUCT,
        "batch": "cola",
        "scenes": ["authenticity", "marketing"],
        "claim": {
            "status": "awarded",
            "replayed": False,
            "prize": {"id": "cash-88", "kind": "cash", "amount": 8800, "currency": "CNY", "title": "88 yuan"},
        },
    }


def test_a_second_scan_is_told_the_same_claim(market: Market, client: Client) -> None:
    code = market.take("points")
    first = client.claim(code, "ann")
    again = client.claim(code, "ann")
    assert first["claim"]["prize"] == {
        "id": "points-10", "kind": "points", "amount": 10, "currency": None, "title": "10 points",
    }  # fmt: skip
    assert again["claim"] == {**first["claim"], "replayed": True}
    assert (again["verdict"], again["scan"]) == ("repeat", {**first["scan"], "count": 2})


def test_a_retry_of_one_visit_counts_once(market: Market, client: Client) -> None:
    code = market.take("points")
    for replayed in (False, True, True):
        answer = client.claim(code, "ann", visit="one-visit")
        assert (answer["claim"]["replayed"], answer["scan"]["count"]) == (replayed, 1)
        assert answer["verdict"] == "first_scan"


def test_a_draw_of_nothing_is_recorded(market: Market, client: Client) -> None:
    code = market.take("nothing")
    first = client.claim(code, "ann")["claim"]
    assert (first["status"], first["replayed"], "prize" in first) == ("no_prize", False, False)
    assert client.claim(code, "ann")["claim"] == {**first, "replayed": True}


def test_a_taken_code_shows_when_but_neither_who_nor_what(market: Market, client: Client) -> None:
    code = market.take("cash")
    first = client.claim(code, "ann-the-first")
    reply = client.post("/v1/scans", {"code": code, "user": "bob"})
    assert reply.json["claim"] == {
        "id": first["claim"]["id"], "status": "taken", "at": first["claim"]["at"],
    }  # fmt: skip
    assert b"ann" not in reply.body
    assert b"cash" not in reply.body


def test_a_retailer_and_a_consumer_each_claim_the_same_item(market: Market, client: Client) -> None:
    code = market.take("no_rule")
    retailer = client.claim(code, "shop:1", role="retailer")["claim"]
    assert (retailer["status"], retailer["prize"]["id"]) == ("awarded", "points-10")
    consumer = client.claim(code, "ann")["claim"]
    assert (consumer["status"], consumer["reason"]) == ("ineligible", "no_rule")
    assert consumer["id"] != retailer["id"]


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("ended", "closed", "ended"),
        ("early", "closed", "not_started"),
        ("scene_off", "ineligible", "scene_off"),
        ("no_rule", "ineligible", "no_rule"),
        ("unbound", "ineligible", "no_rule"),
    ],
)
def test_what_cannot_be_claimed_says_why_and_records_nothing(
    market: Market, client: Client, kind: str, status: str, reason: str
) -> None:
    code = market.take(kind)
    for count in (1, 2):
        answer = client.claim(code, "ann")
        assert (answer["status"], answer["scan"]["count"]) == ("valid", count)
        assert (answer["claim"]["status"], answer["claim"]["reason"]) == (status, reason)
        assert answer["claim"].keys() == {"id", "status", "reason"}


@pytest.mark.parametrize(("kind", "reason"), [("once", "per_user"), ("daily", "per_user_per_day")])
def test_a_limit_leaves_the_code_for_somebody_else(market: Market, client: Client, kind: str, reason: str) -> None:
    first, second = market.take(kind), market.take(kind)
    user = f"{kind}-ann"
    assert client.claim(first, user)["claim"]["status"] == "awarded"
    limited = client.claim(second, user)["claim"]
    assert (limited["status"], limited["reason"]) == ("limited", reason)
    assert client.claim(first, user)["claim"]["replayed"] is True
    assert client.claim(second, f"{kind}-bob")["claim"]["status"] == "awarded"


@pytest.mark.parametrize("status", ["inactive", "frozen", "void", "recalled", "expired"])
def test_a_code_out_of_use_says_its_state_and_claims_nothing(market: Market, client: Client, status: str) -> None:
    code = market.take(status)
    answer = client.claim(code, "ann")
    scenes = [] if status == "inactive" else ["authenticity", "marketing"]
    expected = {**NOTHING, "status": status, "code": code, "product": PRODUCT, "batch": "cola", "scenes": scenes}
    assert answer == expected
    assert client.post("/v1/verify", {"code": code}).json == expected


def test_a_mistyped_code_and_a_text_that_is_none(market: Market, client: Client) -> None:
    mistyped = market.mistyped(market.take("cash"))
    assert client.claim(mistyped, "ann") == {**NOTHING, "status": "mistyped", "code": mistyped}
    for text in ("hello", "", "https://example.com/other", "\0" * 20, "码" * 20, "\udbff\udfff" * 4):
        assert client.claim(text, "ann") == {**NOTHING, "status": "malformed", "code": None}


def test_outsiders_cannot_tell_forged_unknown_and_foreign_codes_apart(market: Market, client: Client) -> None:
    """By text, by size or by header: only the code that they sent themselves differs."""
    codes = (market.forged(market.take("cash")), market.unknown(), market.unknown_key())
    asks = (
        lambda code: client.post("/v1/scans", {"code": code, "user": "eve"}),
        lambda code: client.post("/v1/verify", {"code": code}),
        lambda code: client.get(f"/v1/codes/{code}"),
        lambda code: client.get(f"/s/{code}"),
        lambda code: client.post("/v1/scans/batch", {"scans": [{"code": code, "user": "eve"}]}),
    )
    for ask in asks:
        shown = {_without(ask(code), code) for code in codes}
        assert len(shown) == 1
        assert b'"status":"invalid"' in shown.pop()[1]


def _without(reply: Reply, code: str) -> tuple[str, bytes]:
    headers = {name: value for name, value in reply.headers.items() if name not in ("date", "x-request-id")}
    assert reply.body.count(code.encode()) == 1
    return repr((reply.status, headers)), reply.body.replace(code.encode(), b"CODE")


@pytest.mark.parametrize("spelling", ["{}", "https://example.com/s/{}", "HTTPS://EXAMPLE.COM/S/{}?x=1", " {} "])
def test_a_code_is_found_in_what_the_scanner_handed_over(market: Market, client: Client, spelling: str) -> None:
    code = market.take("nothing")
    hyphenated = "-".join(code[start : start + 5] for start in range(0, 20, 5)).lower()
    for text in (spelling.format(code), spelling.format(hyphenated)):
        answer = client.post("/v1/verify", {"code": text}).json
        assert (answer["status"], answer["code"]) == ("valid", code)


def test_looking_never_claims_and_never_counts(market: Market, client: Client) -> None:
    code = market.take("cash")
    looks = [
        lambda: client.post("/v1/verify", {"code": code}),
        lambda: client.get(f"/v1/codes/{code}"),
        lambda: client.get(f"/s/{code}"),
        lambda: client.get(f"/S/{code.lower()}"),
    ]
    for look in looks:
        for path in (f"/s/{code}", f"/v1/codes/{code}"):
            head = client.ask("HEAD", path)
            assert (head.status, head.body) == (200, b"")
        answer = look().json
        assert (answer["verdict"], answer["scan"]) == ("first_scan", {"count": 0, "first_at": None})
        assert answer["claim"] is None
    assert client.claim(code, "ann")["claim"]["replayed"] is False
    assert client.get(f"/s/{code}").json["scan"]["count"] == 1


def test_a_look_at_a_claimed_code_counts_its_scans_but_shows_no_claim(market: Market, client: Client) -> None:
    code = market.take("cash")
    at = client.claim(code, "ann")["claim"]["at"]
    answer = client.post("/v1/verify", {"code": code}).json
    assert (answer["scan"], answer["verdict"], answer["claim"]) == ({"count": 1, "first_at": at}, "repeat", None)


def test_a_code_scanned_too_often_is_suspect(market: Market, client: Client) -> None:
    code = market.take("nothing")
    verdicts = [client.claim(code, f"user-{number}")["verdict"] for number in range(12)]
    assert verdicts == ["first_scan"] + ["repeat"] * 9 + ["suspect"] * 2


def test_what_a_browser_may_keep_and_pass_on_is_nothing(market: Market, client: Client) -> None:
    reply = client.get(f"/s/{market.take('nothing')}")
    assert (reply.headers["cache-control"], reply.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert reply.headers["content-type"] == "application/json"


def test_health_and_readiness(market: Market, client: Client) -> None:
    assert client.get("/healthz").json == {"status": "ok"}
    ready = client.get("/readyz").json
    assert ready["status"] == "ready"
    assert ready["generation"] == market.shop.snapshot.generation
    assert ready["ledger"] == {"kind": "sqlite", "durability": "strict", "calls": ready["ledger"]["calls"]}
    assert ready["alarms"] == []


class SilentLedger(MemoryLedger):
    """A ledger that never says what became of a claim."""

    def claim(self, request: ClaimRequest) -> Receipt:
        return PENDING


class BrokenLedger(MemoryLedger):
    """A ledger with a fault that nobody foresaw."""

    def claim(self, request: ClaimRequest) -> Receipt:
        raise ZeroDivisionError(f"while writing {request.user}")


async def _post(shop: Shop, path: str, body: dict[str, Any], ledger: MemoryLedger | None = None) -> Reply:
    async with TestClient(TestServer(make_app(shop.program(ledger or SilentLedger())))) as client:
        response = await client.post(path, json=body, headers={"Authorization": f"Bearer {TOKEN}"})
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, await response.read())


async def test_an_unknown_outcome_is_503_and_pending(shop: Shop) -> None:
    code = shop.code(0)
    reply = await _post(shop, "/v1/scans", {"code": code, "user": "ann"})
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert (reply.json["status"], reply.json["code"], reply.json["scan"]) == ("valid", code, None)
    assert reply.json["claim"].keys() == {"id", "status"}
    assert reply.json["claim"]["status"] == "pending"


async def test_in_a_batch_an_unknown_outcome_is_that_entry(shop: Shop) -> None:
    scans = [{"code": shop.code(0), "user": "ann"}, {"code": "hello", "user": "ann"}, {"code": 5, "user": "ann"}]
    reply = await _post(shop, "/v1/scans/batch", {"scans": scans})
    assert (reply.status, "retry-after" in reply.headers) == (200, False)
    pending, malformed, problem = reply.json["results"]
    assert pending["claim"]["status"] == "pending"
    assert malformed["status"] == "malformed"
    assert problem["problem"]["field"] == "code"


async def test_bad_codes_are_answered_without_the_ledger(shop: Shop) -> None:
    reply = await _post(shop, "/v1/scans", {"code": "hello", "user": "ann"})
    assert (reply.status, reply.json["status"]) == (200, "malformed")


async def test_a_closed_ledger_is_503_and_nothing_was_done(shop: Shop) -> None:
    ledger = MemoryLedger()
    ledger.close()
    reply = await _post(shop, "/v1/scans", {"code": shop.code(0), "user": "ann"}, ledger)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.json["type"] == "urn:scanengine:problem:unavailable"


async def test_a_fault_of_ours_is_500_and_told_to_the_log_alone(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    reply = await _post(shop, "/v1/scans", {"code": shop.code(0), "user": "ann"}, BrokenLedger())
    assert (reply.status, reply.headers["content-type"]) == (500, "application/problem+json")
    assert reply.json["type"] == "urn:scanengine:problem:internal"
    assert b"ann" not in reply.body
    assert "ZeroDivisionError" in caplog.text


async def test_a_ledger_in_trouble_is_not_ready(shop: Shop) -> None:
    ledger = MemoryLedger()
    async with TestClient(TestServer(make_app(shop.program(ledger)))) as client:
        assert (await client.get("/readyz")).status == 200
        ledger.trouble = "the ledger cannot be written: disk full"
        response = await client.get("/readyz")
        assert response.status == 503
        found = await response.json()
        assert (found["status"], found["reason"]) == ("not_ready", ledger.trouble)


def test_a_ledger_that_cannot_write_is_pending_until_it_can(tmp_path: Path) -> None:
    """Goal: never "no prize" for what is not known. Method: someone else keeps the database locked meanwhile."""
    market = a_market(tmp_path / "shop")
    with open(market.shop.workspace.settings_path, "a") as settings:
        settings.write("timeout_s = 0.1\n")
    code = market.take("cash")
    scan = {"code": code, "user": "ann", "visit": "one"}
    with serving(market.folder) as served, served.client() as client:
        other = sqlite3.connect(market.shop.workspace.ledger_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        reply = client.post("/v1/scans", scan)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.json["claim"]["status"] == "pending"
        done = run_cli(market.folder, "claim", code, "--user", "ann", "--visit", "one", "--json")
        assert (done.returncode, json.loads(done.stdout)["claim"]["status"]) == (4, "pending")
        assert client.post("/v1/verify", {"code": code}).status == 200
        other.execute("ROLLBACK")
        other.close()
        answer = _claim_until_known(client, scan)
        assert (answer["claim"]["status"], answer["claim"]["id"]) == ("awarded", reply.json["claim"]["id"])
        assert answer["scan"]["count"] == 1


def _claim_until_known(client: Client, scan: dict[str, str]) -> Any:
    """Ask again with the same visit, as a client of a pending claim does."""
    for _ in range(200):
        reply = client.post("/v1/scans", scan)
        if reply.status == 200:
            return reply.json
    raise AssertionError("the claim stays pending")


def test_the_clock_of_the_shop_stands_at_noon(shop: Shop) -> None:
    """The stubbed tests above would pass on a closed campaign, too; this one says that theirs is open."""
    assert shop.program(MemoryLedger(), NOW_MS).claim(shop.code(0), user="ann").claim is not None
