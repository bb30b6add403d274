"""The description of the routes is whole and true: routes, problems, and a tool that tries to prove otherwise."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from scanengine.errors import LedgerUnavailableError, OverloadedError, ScanError
from scanengine.server.app import ROUTES
from scanengine.server.metrics import ROUTES as METRIC_ROUTES
from scanengine.server.openapi import openapi_of
from scanengine.server.problems import KINDS, KINDS_BY_STATUS, TYPE_PREFIX, TooManyBadCodesError, problem_of
from scanengine.server.routes import Route
from serving import Market, Served, a_copy, a_market, serving

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "scanengine").rglob("*.py"))
HTTP_PAGE = ROOT / "docs" / "http.md"
ADMIN = "a-token-of-an-admin"
NAMES = [f"{route.method} {route.path}" for route in ROUTES]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_of(ROUTES, needs_token=True)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    market = a_market(tmp_path_factory.mktemp("openapi") / "shop", tokens=True)
    keys = market.shop.workspace.keys_path
    keys.write_text(keys.read_text() + f'\n[[tokens]]\nname = "admin"\ntoken = "{ADMIN}"\nadmin = true\n')
    return market


@pytest.fixture(scope="module")
def server(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(a_copy(market, tmp_path_factory.mktemp("served") / "shop").folder) as served:
        yield served


# Whole ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=NAMES)
def test_every_route_is_described(document: dict[str, Any], route: Route) -> None:
    """Goal: no route can be added without saying what it takes and gives. Method: what each must have by its kind."""
    operation = document["paths"][route.path][route.method.lower()]
    assert len(operation["summary"]) > 10
    good = [status for status in operation["responses"] if status < "400"]
    assert good, "the route names no reply that is not a problem"
    assert operation["responses"]["500"]
    assert all("X-Request-Id" in response["headers"] for response in operation["responses"].values())
    assert [each["name"] for each in operation["parameters"] if each["in"] == "path"] == re.findall(
        r"{(\w+)}", route.path
    )
    assert ("429" in operation["responses"]) == route.shows_codes
    if route.method in ("POST", "PUT") and route.path.startswith("/v1/") and "{reader}" not in route.path:
        assert {"400", "413"} <= set(operation["responses"])
        assert operation["requestBody"]["content"]["application/json"]["schema"]
    if route.path.startswith("/v1/"):
        assert operation["security"] == [{"token": []}]
        assert operation["responses"]["401"]
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]


def test_no_two_routes_share_an_operation_or_hide_from_the_metrics(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids) == len(ROUTES)
    first_paths = {route.handler: route.path for route in reversed(ROUTES)}
    assert set(first_paths.values()) <= set(METRIC_ROUTES)


def test_whatever_looks_up_a_code_for_strangers_has_a_failure_budget() -> None:
    """Goal: no new way to guess. Method: open routes with a code, Digital Link or login in their path are."""
    for route in ROUTES:
        holds_code = any(part in route.path for part in ("{code}", "{gtin}", "/wechat/"))
        assert route.shows_codes == (holds_code and not route.path.startswith("/v1/")), route.path


def test_without_tokens_back_ends_need_none_and_operators_do() -> None:
    paths = openapi_of(ROUTES, needs_token=False)["paths"]
    assert "security" not in paths["/v1/scans"]["post"]
    assert "security" in paths["/v1/ledger"]["get"]
    trusted = openapi_of(ROUTES, needs_token=True, is_trusted=True)["paths"]
    assert "security" not in json.dumps(trusted)


def test_the_server_hands_out_the_document(server: Served, document: dict[str, Any]) -> None:
    with server.client() as client:
        reply = client.get("/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == json.loads(json.dumps(document))
    assert reply.json["openapi"].startswith("3.1")


# True: a tool that tries hard -----------------------------------------------------------------------------------------


def schemathesis(port: int, *headers: str, seed: int) -> subprocess.CompletedProcess[str]:
    """Run all checks of schemathesis against a server, in an order and with inputs that the seed decides."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ["--checks", "all", "--seed", str(seed), "--max-examples", "6", "--workers", "1", "--no-color"]
    search = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [*command, *options, *(part for header in headers for part in ("-H", header))],
        env={**os.environ, "PYTHONPATH": search, "SCHEMATHESIS_HOOKS": "openapi_formats"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.parametrize("who", ["an admin", "anybody where no token is set"])
def test_schemathesis_accepts_the_api_with_all_checks(market: Market, tmp_path: Path, who: str) -> None:
    """Goal: what the document promises is what the server does, for good requests and for bad ones."""
    shop = a_copy(market, tmp_path / "shop")
    settings = shop.shop.workspace.settings_path
    # When the budget is spent, a route of codes has one answer only.
    settings.write_text(settings.read_text().replace("[server]", "[server]\nbad_codes_per_minute = 0", 1))
    headers = [f"Authorization: Bearer {ADMIN}"] if who == "an admin" else []
    if who == "anybody where no token is set":
        keys = shop.shop.workspace.keys_path
        keys.write_text(keys.read_text().partition("[[tokens]]")[0])
    with serving(shop.folder) as served:
        # As a page of our own would ask, so that claims are tried too.
        done = schemathesis(served.port, "Sec-Fetch-Site: same-origin", *headers, seed=1)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None, done.stdout[-2_000:]
    assert found[1] == found[2]
    assert int(found[1]) > 300


# Problems -------------------------------------------------------------------------------------------------------------


def documented_problems() -> dict[str, int]:
    """Return the problems of the table in the documents: name to HTTP status."""
    section = HTTP_PAGE.read_text("utf-8").partition("\n## Problems\n")[2].partition("\n## ")[0]
    return {name: int(status) for status, name in re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", section, re.MULTILINE)}


def test_every_problem_is_documented_and_every_documented_one_can_occur() -> None:
    assert documented_problems() == {kind.name: kind.status for kind in KINDS}


def test_no_problem_is_made_beside_the_list() -> None:
    """Goal: a type that a program has seen once means the same for ever. Method: what the sources name or raise."""
    for path in SOURCES:
        text = path.read_text("utf-8")
        if path.name != "problems.py":
            assert TYPE_PREFIX not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr.startswith("HTTP") and hasattr(web, node.attr):
                status = getattr(web, node.attr).status_code
                assert status is None or status < 400 or status in KINDS_BY_STATUS, (path, node.attr)


@pytest.mark.parametrize(
    "kind",
    [
        each
        for each in vars(web).values()
        if isinstance(each, type) and issubclass(each, web.HTTPError) and each.status_code > 0
    ],
)
def test_whatever_the_library_raises_has_a_type_of_the_list(kind: type[web.HTTPError]) -> None:
    error = kind.__new__(kind)
    web.Response.__init__(error, status=kind.status_code)
    assert problem_of(error).type in {each.type for each in KINDS}


def test_our_own_errors_have_their_types() -> None:
    expected = {
        ScanError("user", "is empty"): ("bad-request", 400),
        LedgerUnavailableError("away"): ("unavailable", 503),
        OverloadedError("too much"): ("overloaded", 503),
        TooManyBadCodesError(3): ("too-many-bad-codes", 429),
        RuntimeError("a fault"): ("internal", 500),
    }
    for error, (name, status) in expected.items():
        problem = problem_of(error)
        assert (problem.type, problem.status) == (TYPE_PREFIX + name, status)
