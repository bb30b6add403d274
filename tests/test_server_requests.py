"""What a server refuses, and how: problem details that name the field, and nothing claimed."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import TOKEN
from serving import Client, Market, Reply, Served, a_market, raw_ask, raw_post, serving

MIB = 1 << 20
DEEP = 100_000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("requests") / "shop")


@pytest.fixture(scope="module")
def server(market: Market) -> Iterator[Served]:
    with serving(market.folder) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client() as client:
        yield client


def problem_of(reply: Reply, status: int = 400) -> Any:
    """Return problem details after checking what all of them have."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json
    assert problem["status"] == status
    assert problem["type"].startswith("urn:scanengine:problem:")
    assert problem["title"]
    assert problem["detail"]
    return problem


def scan(**changes: Any) -> bytes:
    return json.dumps({"code": "hello", "user": "ann", **changes}).encode()


BAD_SCANS = {
    "empty": (b"", "body"),
    "not JSON": (b"{", "body"),
    "no JSON value": (b"NaN", "body"),
    "more after it": (scan() + b"x", "body"),
    "not UTF-8": (b'{"code":"\xff","user":"u"}', "body"),
    "a byte order mark": (b"\xef\xbb\xbf" + scan(), "body"),
    "a bare NUL": (b'{"code":"a\0b","user":"u"}', "body"),
    "a list": (b"[]", "body"),
    "a text": (b'"hello"', "body"),
    "null": (b"null", "body"),
    "nested lists": (b"[" * 60_000, "body"),
    "nested code": (b'{"code":' + b"[" * 60_000, "code"),
    "half a character in the code": (b'{"code":"\\ud800","user":"u"}', "body"),
    "half a character in the user": (b'{"code":"x","user":"\\ud800"}', "body"),
    "a field of which nobody heard": (scan(prize="cash-88"), "prize"),
    "no code": (b'{"user":"u"}', "code"),
    "no user": (b'{"code":"x"}', "user"),
    "code a number": (scan(code=7), "code"),
    "code null": (scan(code=None), "code"),
    "code too long": (scan(code="x" * 513), "code"),
    "user empty": (scan(user=""), "user"),
    "user too long": (scan(user="u" * 65), "user"),
    "user too long in bytes": (scan(user="码" * 22), "user"),
    "user a list": (scan(user=[]), "user"),
    "visit empty": (scan(visit=""), "visit"),
    "visit too long": (scan(visit="v" * 65), "visit"),
    "visit a number": (scan(visit=1), "visit"),
    "role unknown": (scan(role="king"), "role"),
    "role in capitals": (scan(role="Consumer"), "role"),
    "role a number": (scan(role=0), "role"),
    "region a word": (scan(region="south"), "region"),
    "region too short": (scan(region="4"), "region"),
    "region too long": (scan(region=4_400_000), "region"),
    "region negative": (scan(region=-44), "region"),
    "region a fraction": (scan(region=44.5), "region"),
    "region a truth": (scan(region=True), "region"),
    "region of many digits": (b'{"code":"x","user":"u","region":' + b"9" * 5000 + b"}", "region"),
}


@pytest.mark.parametrize("name", BAD_SCANS)
def test_a_bad_scan_is_400_and_names_the_field(client: Client, name: str) -> None:
    body, field = BAD_SCANS[name]
    problem = problem_of(client.post("/v1/scans", body))
    assert (problem["type"], problem["field"]) == ("urn:scanengine:problem:bad-request", field)


@pytest.mark.parametrize("body", [scan(code="x" * 512), scan(user="u" * 64), scan(visit="v" * 64), scan(visit=None),
                                  scan(region=None), scan(region="44"), scan(region=4403), scan(region="440300"),
                                  scan(role="inspector")])  # fmt: skip
def test_the_longest_and_the_shortest_that_is_allowed(client: Client, body: bytes) -> None:
    reply = client.post("/v1/scans", body)
    assert (reply.status, reply.json["status"]) == (200, "malformed")


@pytest.mark.parametrize(("body", "field"), [(b'{"code":"x","user":"u"}', "user"), (b"{}", "code"), (b"[]", "body"),
                                             (b'{"code":"' + b"x" * 513 + b'"}', "code")])  # fmt: skip
def test_a_bad_look_is_400_and_names_the_field(client: Client, body: bytes, field: str) -> None:
    assert problem_of(client.post("/v1/verify", body))["field"] == field


@pytest.mark.parametrize("path", ["/s/", "/v1/codes/"])
def test_a_code_in_a_path_has_the_same_bound(client: Client, path: str) -> None:
    assert problem_of(client.get(path + "x" * 513))["field"] == "code"
    for text in ("x" * 512, "%00", "%FF", "%ED%A0%80", "a%2Fb", "%"):
        reply = client.get(path + text)
        assert (reply.status, reply.json["status"]) == (200, "malformed")


def test_a_bad_request_claims_nothing(market: Market, client: Client) -> None:
    code = market.take("cash")
    for changes in ({"user": ""}, {"role": "king"}, {"region": "x"}, {"visit": ""}, {"prize": "cash-88"}):
        problem_of(client.post("/v1/scans", {"code": code, "user": "ann", **changes}))
    assert client.post("/v1/verify", {"code": code}).json["scan"]["count"] == 0


# Sizes, encodings, and what is no HTTP ------------------------------------------------------------------------------


def test_a_huge_body_is_413_however_it_is_sent(server: Served, client: Client) -> None:
    for path, size in (("/v1/scans", 64 << 10), ("/v1/verify", 64 << 10), ("/v1/scans/batch", 4 * MIB)):
        with server.client() as other:
            problem_of(other.post(path, b" " * (size + 1)), 413)
        with server.client() as other:
            problem_of(other.post(path, b" " * size))
        packed = gzip.compress(b" " * (size + 1))
        with server.client() as other:
            problem_of(other.ask("POST", path, packed, **{"Content-Encoding": "gzip"}), 413)
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    head = b"POST /v1/scans HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw_ask(server.port, head + chunk * 3 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_body_with_a_broken_encoding_is_400(server: Served, client: Client) -> None:
    broken = raw_post("/v1/scans", b"abcde").replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)
    head, _, body = raw_ask(server.port, broken).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["field"] == "body"
    whole = gzip.compress(scan())
    assert client.ask("POST", "/v1/scans", whole, **{"Content-Encoding": "gzip"}).json["status"] == "malformed"


def test_what_is_not_http_is_400_and_leaves_no_code_in_the_log(market: Market, server: Served) -> None:
    """Goal: outsiders can neither fill the log nor put codes into it. Method: send a code in a broken request line."""
    code = market.take("cash").encode()
    for request in (
        b"GET /s/" + code + b"\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        b"NOT HTTP " + code + b"\r\n\r\n",
        b"GET /s/" + code * 1000 + b" HTTP/1.1\r\nHost: test\r\n\r\n",
        b"POST /v1/scans HTTP/1.1\r\nHost: test\r\nContent-Length: " + code + b"\r\n\r\n",
        b"POST /v1/scans HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + code,
    ):
        assert b" 400 " in raw_ask(server.port, request).partition(b"\r\n")[0]
    with server.client() as client:
        assert client.get("/healthz").status == 200
    assert server.log_path.read_text() == ""


def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_error(server: Served, client: Client) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        other.sendall(raw_post("/v1/scans", scan())[:-5])
    assert client.get("/healthz").status == 200
    assert server.log_path.read_text() == ""


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/scans", "POST"),
        ("PUT", "/v1/scans/batch", "POST"),
        ("GET", "/v1/verify", "POST"),
        ("POST", "/v1/codes/x", "GET, HEAD"),
        ("DELETE", "/s/x", "GET, HEAD, POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
def test_another_method_is_405_and_says_which_are_allowed(client: Client, method: str, path: str, allowed: str) -> None:
    reply = client.ask(method, path, b"")
    assert problem_of(reply, 405)["type"] == "urn:scanengine:problem:method-not-allowed"
    assert reply.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/s/", "/v1/scan", "/s/a/b", "/v1/scans/", "/../keys.toml"])
def test_another_path_is_404(client: Client, path: str) -> None:
    assert problem_of(client.get(path), 404)["type"] == "urn:scanengine:problem:not-found"


# Batches ------------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_in_order_with_bad_entries_in_place(market: Market, client: Client) -> None:
    cash, nothing, void = market.take("cash"), market.take("nothing"), market.take("void")
    entries = [
        {"code": nothing, "user": "ann"},
        7,
        {"code": void, "user": "ann"},
        {"code": cash},
        {"code": cash, "user": "ann"},
        {"code": "hello", "user": ""},
        {"code": market.unknown(), "user": "ann"},
        None,
        {"code": "hello", "user": "ann", "prize": 1},
    ]
    reply = client.post("/v1/scans/batch", {"scans": entries})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    shown = [
        (entry["problem"]["status"], entry["problem"]["field"]) if "problem" in entry
        else (entry["status"], entry["claim"] and entry["claim"]["status"])
        for entry in reply.json["results"]
    ]  # fmt: skip
    assert shown == [
        ("valid", "no_prize"), (400, "body"), ("void", None), (400, "user"), ("valid", "awarded"), (400, "user"),
        ("invalid", None), (400, "body"), (400, "prize"),
    ]  # fmt: skip


def test_half_an_emoji_fails_in_its_place(market: Market, client: Client) -> None:
    """JavaScript cuts texts inside a surrogate pair and sends the half; its neighbours are not to blame."""
    code = market.take("cash")
    entries = [
        r'{"code":"hello","user":"\ud83c"}',
        json.dumps({"code": code, "user": "ann"}),
        r'{"code":"\udc00","user":"a"}',
    ]
    body = ('{"scans":[' + ",".join(entries) + "]}").encode()
    bad, good, other = client.post("/v1/scans/batch", body).json["results"]
    assert (bad["problem"]["status"], other["problem"]["status"]) == (400, 400)
    assert good["claim"]["status"] == "awarded"
    assert problem_of(client.post("/v1/scans", entries[0].encode()))["field"] == "body"


def test_one_code_many_times_in_one_batch_is_claimed_once(market: Market, client: Client) -> None:
    code = market.take("cash")
    users = ["ann", "bob", "ann", "bob", "ann"]
    scans = [{"code": code, "user": user} for user in users]
    results = client.post("/v1/scans/batch", {"scans": scans}).json["results"]
    claims = [entry["claim"] for entry in results]
    assert [claim["status"] for claim in claims] == ["awarded", "taken", "awarded", "taken", "awarded"]
    assert [claim.get("replayed") for claim in claims] == [False, None, True, None, True]
    assert [entry["scan"]["count"] for entry in results] == [1, 2, 3, 4, 5]
    assert {claim["at"] for claim in claims} == {claims[0]["at"]}


def test_a_batch_has_a_size(client: Client) -> None:
    assert client.post("/v1/scans/batch", {"scans": []}).json == {"results": []}
    entry = {"code": "hello", "user": "ann"}
    assert len(client.post("/v1/scans/batch", {"scans": [entry] * 10_000}).json["results"]) == 10_000
    problem = problem_of(client.post("/v1/scans/batch", {"scans": [entry] * 10_001}))
    assert (problem["field"], "10001" in problem["detail"]) == ("scans", True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"{}", "scans"),
        (b'{"scans":{}}', "scans"),
        (b'{"scans":[],"more":1}', "more"),
        (b'{"scans":[}', "body"),
        (b'{"scans":' + b"[" * DEEP, "body"),
        (b'{"scans":[' + b'{"code":' * DEEP + b"1" + b"}" * DEEP + b"]}", "body"),
    ],
)
def test_a_batch_that_is_none_is_refused_whole(client: Client, body: bytes, field: str) -> None:
    assert problem_of(client.post("/v1/scans/batch", body))["field"] == field


# Tokens -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Market, Served]]:
    market = a_market(tmp_path_factory.mktemp("tokens") / "shop", tokens=True)
    with serving(market.folder) as served:
        yield market, served


@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer x{TOKEN}"],
)
def test_without_the_token_the_back_end_routes_are_401(guarded: tuple[Market, Served], header: str | None) -> None:
    market, served = guarded
    code = market.take("cash")
    headers = {} if header is None else {"Authorization": header}
    with served.client() as client:
        for method, path, body in (
            ("POST", "/v1/scans", {"code": code, "user": "eve"}),
            ("POST", "/v1/scans/batch", {"scans": [{"code": code, "user": "eve"}]}),
            ("POST", "/v1/verify", {"code": code}),
            ("GET", f"/v1/codes/{code}", None),
        ):
            reply = client.ask(method, path, json.dumps(body).encode() if body else None, **headers)
            problem_of(reply, 401)
            assert reply.headers["www-authenticate"] == "Bearer"
        assert client.get(f"/s/{code}").json["scan"]["count"] == 0


def test_with_the_token_they_answer(guarded: tuple[Market, Served]) -> None:
    market, served = guarded
    code = market.take("cash")
    with served.client(TOKEN) as client:
        assert client.claim(code, "ann")["claim"]["status"] == "awarded"
        assert client.get(f"/v1/codes/{code}").json["status"] == "valid"
        assert client.post("/v1/verify", {"code": code}).json["status"] == "valid"
    with served.client() as client:
        headers = {"Authorization": f"bearer  {TOKEN} "}
        assert client.ask("GET", f"/v1/codes/{code}", **headers).status == 200


def test_what_is_open_to_everybody_stays_open(guarded: tuple[Market, Served]) -> None:
    market, served = guarded
    assert "bearer token needed" in served.banner
    with served.client() as client:
        assert client.get("/healthz").status == client.get("/readyz").status == 200
        assert client.get(f"/s/{market.take('nothing')}").json["status"] == "valid"


def test_no_token_is_in_the_log_or_on_the_screen(guarded: tuple[Market, Served]) -> None:
    _, served = guarded
    assert TOKEN not in served.banner + served.log_path.read_text()
