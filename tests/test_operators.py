"""Operators at a running server: scenes, the ledger and its adjustments, over HTTP and by commands, on both ledgers."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import GTIN, TOKEN
from redis_servers import RedisServer, server_binaries
from scanengine.ledger.checks import ADDED_MAX
from scanengine.tables.workspace import Workspace
from serving import (
    PLACES,
    PURSE_UNITS,
    Client,
    Market,
    Served,
    a_campaign,
    a_market,
    run_cli,
    serving,
    use_redis,
)

ADMIN = "an-admins-token-for-tests-only"
ADMINS_KEYS = f'[[tokens]]\nname = "boss"\ntoken = "{ADMIN}"\nadmin = true\n'
SCENES = "/v1/batches/cola/scenes"
ADJUST = "/v1/ledger/adjust"
ROUTES = [
    ("GET", "/v1/events?reader=accounts"),
    ("POST", "/v1/events/ack"),
    ("GET", "/v1/events/readers"),
    ("PUT", "/v1/events/readers/accounts"),
    ("DELETE", "/v1/events/readers/accounts"),
    ("PUT", SCENES),
    ("GET", "/v1/ledger"),
    ("POST", ADJUST),
]


class Place:
    """A market and its server, with clients of the shop's back end and of an admin."""

    def __init__(self, market: Market, server: Served) -> None:
        self.market = market
        self.server = server
        self.shop = server.client(TOKEN)
        self.admin = server.client(ADMIN)

    def set_scenes(self, body: object) -> Any:
        reply = self.admin.ask("PUT", SCENES, json.dumps(body).encode())
        return reply.status, reply.json

    def adjust(self, **body: object) -> Any:
        reply = self.admin.post(ADJUST, body)
        return reply.status, reply.json

    def look(self, code: str) -> Any:
        return self.shop.get(f"/v1/codes/{code}").json

    def run(self, *words: object) -> str:
        """Run a command that has nothing to complain about, and return what it printed."""
        done = run_cli(self.market.folder, *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def place(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis_servers: Callable[[str], RedisServer],
) -> Iterator[Place]:
    market = a_market(tmp_path_factory.mktemp("operators") / "shop", tokens=True)
    keys_path = market.shop.workspace.keys_path
    keys_path.write_text(keys_path.read_text() + ADMINS_KEYS)
    if request.param == "redis":
        use_redis(market, redis_servers(sorted(server_binaries())[0]).url())
    with serving(market.folder) as server:
        place = Place(market, server)
        yield place
        for client in (place.shop, place.admin):
            client.close()


# Who may.


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_an_admin_may(place: Place, method: str, path: str) -> None:
    with place.server.client() as nobody:
        assert nobody.ask(method, path, b"{}").status == 401
    refused = place.shop.ask(method, path, b"{}")
    assert refused.status == 403
    assert "'shop-backend' is not one of an admin" in refused.json["detail"]
    assert place.admin.ask(method, path, b"{}").status in (200, 400, 404, 409)


def test_the_control_socket_asks_for_no_token(place: Place) -> None:
    if place.admin.get("/v1/ledger").json["kind"] == "redis":
        assert not place.market.shop.workspace.control_path.exists()
        return
    assert asked_at_control(place.market.shop.workspace, "/v1/ledger")["kind"] == "sqlite"


def asked_at_control(workspace: Workspace, path: str) -> Any:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with workspace.control_address() as address:
        connection.sock.connect(address)
    connection.request("GET", path)
    reply = json.loads(connection.getresponse().read())
    connection.close()
    return reply


# Scenes.


def test_what_is_set_is_served_at_once(place: Place) -> None:
    code, start = place.market.take("inactive"), PLACES["inactive"][0]
    assert place.look(code)["status"] == "inactive"
    status, reply = place.set_scenes(
        {
            "ranges": [[start, start + 1], [start + 2, start + 4]],
            "state": "active",
            "scenes": ["authenticity", "trace"],
            "product": GTIN,
            "lot": "L7",
            "market": "CN",
            "link": "https://example.com/?c={code}",
            "campaign": "spring",
            "active_from": "2026-01-01T00:00:00+08:00",
            "active_until": "2099-01-01T00:00:00Z",
        }
    )
    assert (status, reply["batch"], reply["codes"], reply["served"]) == (200, "cola", 3, True)
    looked = place.look(code)
    assert (looked["status"], looked["scenes"]) == ("valid", ["authenticity", "trace"])
    assert place.look(place.market.take("inactive"))["status"] == "inactive"
    assert place.look(place.market.take("inactive"))["status"] == "valid"
    assert place.admin.get("/readyz").json["generation"] == reply["generation"]
    shown = json.loads(place.run("scenes", "show", "cola", "--limit", 100, "--json"))
    (segment,) = [row for row in shown if row["range"] == f"{start}:{start + 1}"]
    assert (segment["lot"], segment["market"], segment["campaign"]) == ("L7", "CN", "spring")


def test_codes_that_are_named_twice_count_once(place: Place) -> None:
    start = PLACES["load"][0]
    ranges = [[start, start + 10], [start + 5, start + 12], [start, start + 1], [start + 20, start + 21]]
    assert place.set_scenes({"ranges": ranges, "lot": "L8"})[1]["codes"] == 13
    first, other = place.market.take("load"), place.market.take("load")
    assert place.set_scenes({"codes": [first, other, first], "lot": "L9"})[1]["codes"] == 2


def test_codes_are_named_one_by_one_and_an_empty_text_takes_away(place: Place) -> None:
    first, other, last = (place.market.take("early") for _ in range(3))
    assert place.set_scenes({"codes": [first, f"https://example.com/s/{last}"], "campaign": ""})[0] == 200
    statuses = [place.shop.claim(code, "ann")["claim"] for code in (first, other, last)]
    assert [claim["reason"] for claim in statuses] == ["no_rule", "not_started", "no_rule"]


def test_a_campaign_that_is_not_published_yet_is_told(place: Place) -> None:
    start = PLACES["unbound"][0]
    status, reply = place.set_scenes({"range": [start, start + 1], "campaign": "summer"})
    assert (status, reply["unbound"]) == (200, ["nobody", "summer"])
    assert place.set_scenes({"range": [start, start + 1], "campaign": "nobody"})[1]["unbound"] == ["nobody"]


@pytest.mark.parametrize("state", ["frozen", "recalled"])
def test_a_state_stops_claims_and_leaves_earlier_ones(place: Place, state: str) -> None:
    """Goal: a recalled bottle whose buyer has won stays won; nobody else claims any more."""
    won, fresh = place.market.take("cash"), place.market.take("cash")
    claim = place.shop.claim(won, "ann", visit="one")["claim"]
    assert claim["status"] == "awarded"
    assert place.set_scenes({"codes": [won, fresh], "state": state})[0] == 200
    again = place.shop.claim(won, "ann", visit="two")
    assert (again["status"], again["claim"]) == (state, {**claim, "replayed": True})
    assert place.shop.claim(won, "bob")["claim"]["status"] == "taken"
    refused = place.shop.claim(fresh, "bob")
    assert (refused["status"], refused["claim"]) == (state, None)
    place.run("scenes", "set", "cola", "--from", fresh, "--to", fresh, "--state", "active")
    until_served(place)
    assert place.shop.claim(fresh, "bob")["claim"]["status"] == "awarded"


def until_served(place: Place) -> None:
    """Wait until the server has taken over what a command published."""
    newest = place.market.shop.snapshot.generation
    for _ in range(10_000):
        if place.admin.get("/readyz").json["generation"] >= newest:
            return
    raise AssertionError("the publication was never served")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"state": "void"}, "in one way: range, ranges or codes"),
        ({"range": [0, 1], "codes": [], "state": "void"}, "in one way"),
        ({"range": [0, 1]}, "nothing to set"),
        ({"range": [0, 1], "state": "broken"}, "state: expected one of active, inactive, frozen, void, recalled"),
        ({"range": [0, 1], "scenes": ["marketing", "magic"]}, "found 'magic'"),
        ({"range": [1, 1], "state": "void"}, "range 1:1 is empty or outside the batch"),
        ({"range": [0, 30_001], "state": "void"}, "range 0:30001 is empty or outside"),
        ({"range": [-1, 5], "state": "void"}, ">= 0"),
        ({"range": [0, 1 << 70], "state": "void"}, "range"),
        ({"range": [0, 1, 2], "state": "void"}, "length 2"),
        ({"ranges": [], "state": "void"}, "no code was named"),
        ({"codes": [], "state": "void"}, "no code was named"),
        ({"range": [0, 1], "product": "1234"}, "expected a GTIN"),
        ({"range": [0, 1], "product": "4006381333931"}, "has no line in"),
        ({"range": [0, 1], "campaign": "../spring"}, "campaign: expected letters"),
        (
            {"range": [0, 1], "link": "javascript:alert(1)"},
            "expected http:// or https:// with a host, found 'javascript:'",
        ),
        ({"range": [0, 1], "link": "https://example.com/\r\nX: 1"}, "without spaces, control characters"),
        ({"range": [0, 1], "active_from": "2026-01-01"}, "active_from: expected a time"),
        ({"range": [0, 1], "active_from": "9999-12-31T23:59:59-23:00"}, "active_from"),
        ({"range": [0, 1], "active_until": "1999-01-01T00:00:00Z", "active_from": "2000-01-01T00:00:00Z"}, "is empty"),
        ({"range": [0, 1], "state": "void", "colour": "red"}, "unknown field `colour`"),
        ({"range": [0, 1], "lot": "L" * 3_000}, "length <= 2048"),
        ([], "object"),
    ],
)
def test_scenes_that_cannot_be_set_change_nothing(place: Place, body: object, message: str) -> None:
    before = place.admin.get("/readyz").json["generation"]
    status, problem = place.set_scenes(body)
    assert status in (400, 409)
    assert message in problem["detail"]
    assert place.market.shop.snapshot.generation == before


def test_a_wrong_code_is_named_by_its_line_and_not_shown(place: Place) -> None:
    good, forged = place.market.take("load"), place.market.forged(place.market.take("load"))
    status, problem = place.set_scenes({"codes": [good, forged], "state": "void"})
    assert (status, problem["detail"]) == (409, "line 2: the code is forged, expected one of batch 'cola'")
    assert place.look(good)["status"] == "valid"


def test_a_batch_that_is_not_there_is_not_found(place: Place) -> None:
    for label in ("pepsi", "..", "a%2Fb", "%00", "x" * 300):
        reply = place.admin.ask("PUT", f"/v1/batches/{label}/scenes", b'{"range": [0, 1], "state": "void"}')
        assert reply.status == 404, label
    assert place.admin.ask("PUT", SCENES, b"{").status == 400


# The ledger.


def test_the_ledger_is_shown_as_the_command_shows_it(place: Place) -> None:
    place.shop.claim(place.market.take("cash"), "ann")
    shown = place.admin.get("/v1/ledger").json
    assert shown["totals"]["claims"] > 0
    assert json.loads(place.run("ledger", "show", "--json")) == shown


def test_an_adjustment_acts_at_once_and_only_once(place: Place) -> None:
    assert place.adjust(id="p1", campaign="once", action="pause") == (200, {"id": "p1", "applied": True})
    code = place.market.take("once")
    closed = place.shop.claim(code, "carl")["claim"]
    assert (closed["status"], closed["reason"]) == ("closed", "paused")
    assert place.adjust(id="p2", campaign="once", action="resume")[1]["applied"] is True
    assert place.adjust(id="p1", campaign="once", action="pause")[1]["applied"] is False
    assert place.shop.claim(code, "carl")["claim"]["status"] == "awarded"


def test_a_command_adjusts_while_the_server_runs(place: Place) -> None:
    """Goal: money that a command adds is given by the server, to the last unit."""
    codes = [place.market.take("purse") for _ in range(PURSE_UNITS + 5)]
    claims = [place.shop.claim(code, f"buyer-{number}")["claim"] for number, code in enumerate(codes)]
    assert [claim["status"] for claim in claims] == ["awarded"] * PURSE_UNITS + ["no_prize"] * 5
    add = ("ledger", "adjust", "purse", "budget", "--amount", 2 * 8800, "--id")
    assert place.run(*add, "more") == "campaign purse: budget applied\n"
    assert place.run(*add, "more") == "campaign purse: budget was applied before, nothing changed\n"
    codes = [place.market.take("purse") for _ in range(4)]
    claims = [place.shop.claim(code, f"late-{number}")["claim"] for number, code in enumerate(codes)]
    assert [claim["status"] for claim in claims] == ["awarded"] * 2 + ["no_prize"] * 2
    (purse,) = [held for held in place.admin.get("/v1/ledger").json["totals"]["campaigns"] if held["id"] == "purse"]
    assert (purse["money"], purse["extra_budget"]) == ((PURSE_UNITS + 2) * 8800, 2 * 8800)


def test_stock_is_raised_by_the_id_of_its_prize(place: Place) -> None:
    assert place.adjust(id="s1", campaign="daily", action="stock", prize="points-10", amount=3)[0] == 200
    place.run("ledger", "adjust", "daily", "stock", "--prize", "points-10", "--amount", 4, "--id", "s2")
    place.run("ledger", "adjust", "daily", "stock", "--prize", 1, "--amount", 5, "--id", "s3")
    (daily,) = [held for held in place.admin.get("/v1/ledger").json["totals"]["campaigns"] if held["id"] == "daily"]
    assert daily["extra_stock"] == {"1": 12}


def test_an_id_is_not_used_for_something_else(place: Place) -> None:
    """Goal: who pauses a campaign under an id that was used is told that nothing was paused."""
    body = {"id": "q1", "campaign": "daily", "action": "budget", "amount": 5}
    assert [place.adjust(**body)[1]["applied"] for _ in range(2)] == [True, False]
    status, problem = place.adjust(id="q1", campaign="daily", action="pause")
    assert (status, problem["type"]) == (409, "urn:scanengine:problem:conflict")
    assert "the id 'q1' was used before, for budget by 5 in campaign 'daily'" in problem["detail"]
    done = run_cli(place.market.folder, "ledger", "adjust", "daily", "pause", "--id", "q1")
    assert (done.returncode, "was used before" in done.stderr) == (1, True)
    (daily,) = [held for held in place.admin.get("/v1/ledger").json["totals"]["campaigns"] if held["id"] == "daily"]
    assert (daily["is_paused"], daily["extra_budget"]) == (False, 5)


def test_the_tests_of_a_campaign_are_adjusted_apart(place: Place) -> None:
    assert place.adjust(id="t1", campaign="spring~test", action="pause")[1]["applied"] is True
    held = {held["id"]: held["is_paused"] for held in place.admin.get("/v1/ledger").json["totals"]["campaigns"]}
    assert (held["spring~test"], held.get("spring", False)) == (True, False)


def test_a_campaign_published_a_moment_ago_can_be_adjusted(place: Place) -> None:
    for name in ("fresh", "fresher"):
        rules = '[[rules]]\nid = "all"\ndraw = { mode = "certain", prize = "cash-88" }'
        place.market.shop.publish(a_campaign(name, rules), name)
        assert place.adjust(id=f"close {name}", campaign=name, action="close")[1]["applied"] is True


GOOD = {"id": "a", "campaign": "spring", "action": "budget", "amount": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "needs an id"),
        ({"id": "a\nb"}, "printable"),
        ({"id": "a" * 129}, "at most 128"),
        ({"campaign": ""}, "'': not published; there are"),
        ({"campaign": "winter"}, "'winter': not published; there are daily,"),
        ({"action": "explode"}, "one of stock, budget, pause, resume, close, found 'explode'"),
        ({"amount": 0}, "an amount of 1 to"),
        ({"amount": -1}, "found -1"),
        ({"amount": 1 << 62}, f"found {1 << 62}"),
        ({"amount": 10**40}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"amount": None}, "an amount goes with stock and budget"),
        ({"prize": 0}, "a prize goes with stock"),
        ({"action": "stock"}, "a prize goes with stock"),
        ({"action": "stock", "prize": 9}, "no prize has number 9; there are 0 (cash-88), 1 (points-10)"),
        ({"action": "stock", "prize": -1}, "no prize has"),
        ({"action": "stock", "prize": "gold"}, "no prize has id gold"),
        ({"action": "pause"}, "an amount goes with stock and budget"),
        ({"note": "x"}, "unknown field `note`"),
    ],
)
def test_an_adjustment_that_cannot_be_is_refused(place: Place, change: dict[str, Any], message: str) -> None:
    before = place.admin.get("/v1/ledger").json["totals"]["campaigns"]
    status, problem = place.adjust(**(GOOD | change))
    assert status in (400, 409)
    assert message in problem["detail"]
    assert place.admin.get("/v1/ledger").json["totals"]["campaigns"] == before


def test_the_largest_budgets_add_up_or_are_refused(place: Place) -> None:
    """Goal: what a ledger cannot count any more is an error of the request, and claims go on."""
    replies = [
        place.adjust(id=f"most-{number}", campaign="spring", action="budget", amount=ADDED_MAX) for number in (1, 2)
    ]
    assert replies[0][0] == 200
    assert replies[1][0] in (200, 409)
    assert place.shop.claim(place.market.take("cash"), "ann")["claim"]["status"] == "awarded"


def test_without_any_token_only_the_control_socket_is_left(tmp_path: Path) -> None:
    market = a_market(tmp_path / "shop")
    with serving(market.folder) as served, served.client() as client:
        for method, path in ROUTES:
            assert client.ask(method, path, b"{}").status == 401
        assert run_cli(market.folder, "ledger", "adjust", "spring", "pause", "--id", "p").returncode == 0
        assert paused(client, market.take("cash"))


def paused(client: Client, code: str) -> bool:
    claim = client.claim(code, "ann")["claim"]
    return (claim["status"], claim["reason"]) == ("closed", "paused")
