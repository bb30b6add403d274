"""Batches over a real socket: order, bad entries, both formats, limits, and bodies that mean harm."""

from __future__ import annotations

import io
import itertools
import json
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from helpers import TOKEN, Shop
from scanengine.errors import OverloadedError
from scanengine.ledger import MemoryLedger
from scanengine.model import ClaimRequest, Receipt
from scanengine.program.gathering import CLAIMS_AT_ONCE
from scanengine.server._batches import count_entries
from scanengine.server.app import make_app
from scanengine.server.formats import MEDIA
from serving import PLACES, Client, Market, Reply, Served, a_market, metrics_of, serving
from test_server_requests import problem_of

JSON, PACKED, VND = MEDIA
MIB = 1 << 20
DEEP = 100_000
ROUTES = {"/v1/scans/batch": "scans", "/v1/verify/batch": "codes"}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("batches") / "shop", tokens=True)


@pytest.fixture(scope="module")
def server(market: Market) -> Iterator[Served]:
    with serving(market.folder) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client(TOKEN) as client:
        yield client


def write(value: Any, media: str = JSON) -> bytes:
    return json.dumps(value).encode() if media == JSON else bytes(msgpack.packb(value))


def ask(client: Client, path: str, body: bytes, media: str = JSON, accept: str | None = None) -> Reply:
    headers = {"Content-Type": media} | ({} if accept is None else {"Accept": accept})
    return client.ask("POST", path, body, **headers)


def results_of(reply: Reply) -> list[Any]:
    """Return the results of a reply in whichever format it says it is."""
    assert reply.status == 200, reply.body
    media = reply.headers["content-type"]
    assert media in MEDIA
    found = reply.json if media == JSON else msgpack.unpackb(reply.body)
    assert list(found) == ["results"]
    results: list[Any] = found["results"]
    return results


def verify(client: Client, codes: list[Any], media: str = JSON) -> list[Any]:
    return results_of(ask(client, "/v1/verify/batch", write({"codes": codes}, media), media))


def claim(client: Client, scans: list[Any], media: str = JSON) -> list[Any]:
    return results_of(ask(client, "/v1/scans/batch", write({"scans": scans}, media), media))


# What is answered ---------------------------------------------------------------------------------------------------


def codes_of_every_kind(market: Market) -> list[str]:
    """Return codes of every kind of the market, those that are not ours, and other spellings."""
    own = [market.take(name) for name in PLACES if name not in ("valid", "load")]
    cash = market.take("cash")
    bad = [market.forged(cash), market.mistyped(cash), market.unknown(), market.unknown_key(), "hello", ""]
    spelled = [cash.lower(), f"{cash[:5]}-{cash[5:]}", f"https://example.com/S/{cash}", "6901234567892"]
    return [*own, *bad, cash, *spelled]


@pytest.mark.parametrize("media", MEDIA)
def test_every_code_is_answered_in_order_as_it_is_alone(market: Market, client: Client, media: str) -> None:
    """Goal: a batch says what single looks say, but for what only the ledger knows, and nothing more to outsiders."""
    codes = codes_of_every_kind(market)
    single = [client.post("/v1/verify", {"code": code}).json for code in codes]
    assert {answer["status"] for answer in single} >= {"valid", "void", "invalid", "mistyped", "malformed"}
    assert any(answer["scan"] for answer in single)
    assert verify(client, codes, media) == [answer | {"scan": None, "verdict": None} for answer in single]


@pytest.mark.parametrize("media", MEDIA)
def test_looks_claim_nothing_count_nothing_and_ask_no_ledger(market: Market, client: Client, media: str) -> None:
    code = market.take("cash")
    calls = client.calls()
    (found,) = verify(client, [code], media)
    assert (found["status"], found["code"], found["claim"], found["scan"]) == ("valid", code, None, None)
    assert client.calls() == calls
    assert client.post("/v1/verify", {"code": code}).json["scan"]["count"] == 0


@pytest.mark.parametrize("media", MEDIA)
def test_a_bad_code_fails_in_its_place(market: Market, client: Client, media: str) -> None:
    code = market.take("cash")
    codes = [code, 7, None, "x" * 513, ["x"], {"code": code}, True, 1.5, code, "x" * 512]
    results = verify(client, codes, media)
    shown = [(each["problem"]["status"], each["problem"]["field"]) if "problem" in each else each for each in results]
    assert shown[1:8] == [(400, "code")] * 7
    assert [each["status"] for each in (shown[0], shown[8], shown[9])] == ["valid", "valid", "malformed"]


@pytest.mark.parametrize("media", MEDIA)
def test_scans_are_claimed_in_order_and_bad_ones_fail_in_their_place(
    market: Market, client: Client, media: str
) -> None:
    cash, nothing = market.take("cash"), market.take("nothing")
    entries: list[Any] = [
        {"code": nothing, "user": "ann", "visit": "v"},
        {"code": cash, "user": "ann", "region": 44.0},
        7,
        {"code": cash, "user": "bob"},
        {"code": cash},
        {"code": cash, "user": "x" * 65},
        {"code": cash, "user": "ann", "region": 44.5},
        {"code": cash, "user": "ann", "more": 1},
        {"code": market.unknown(), "user": "ann"},
    ]
    results = claim(client, entries, media)
    assert [each["claim"] and each["claim"]["status"] for each in results if "claim" in each] == [
        "no_prize", "awarded", "taken", None,
    ]  # fmt: skip
    fields = [each["problem"]["field"] for each in results if "problem" in each]
    assert fields == ["body", "user", "user", "region", "more"]
    again = claim(client, entries[:2], media)
    assert [each["claim"]["replayed"] for each in again] == [True, True]
    assert [each["scan"]["count"] for each in again] == [1, 3]


def test_a_number_that_nothing_can_hold_fails_in_its_place(market: Market, client: Client) -> None:
    code = market.take("cash")
    body = f'{{"codes": ["{code}", {"9" * 5_000}, 1e999, "{code}"]}}'.encode()
    first, *bad, last = results_of(ask(client, "/v1/verify/batch", body))
    assert [each["problem"]["status"] for each in bad] == [400, 400]
    assert (first["code"], last["code"]) == (code, code)


def test_half_an_emoji_fails_in_its_place(market: Market, client: Client) -> None:
    code = market.take("cash")
    body = json.dumps({"codes": [code, "\ud83c", "\ud83c" * 20, code]}).encode()
    results = results_of(ask(client, "/v1/verify/batch", body))
    assert ["problem" in each for each in results] == [False, True, True, False]


def test_thousands_are_answered_in_order(market: Market, client: Client) -> None:
    start, end, _ = PLACES["load"]
    codes = market.shop.codes(start, end)[-10_000:]
    for media in (JSON, PACKED):
        results = verify(client, codes, media)
        assert [each["code"] for each in results] == codes
    scans = [{"code": code, "user": f"user-{number % 70}"} for number, code in enumerate(codes)]
    first, again = claim(client, scans, PACKED), claim(client, scans)
    assert [each["code"] for each in first] == codes
    for one, two in zip(first, again, strict=True):
        assert one["claim"]["status"] in ("awarded", "no_prize")
        assert two["claim"] == one["claim"] | {"replayed": True}


class Overloaded(MemoryLedger):
    """A ledger that takes the first call alone."""

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        if self.calls:
            raise OverloadedError("too much is asked")
        return await super().claim_many_async(requests, is_let_in=is_let_in)


@pytest.mark.parametrize("media", MEDIA)
async def test_what_an_overloaded_ledger_refuses_is_told_in_its_place(shop: Shop, media: str) -> None:
    """Goal: whoever sends a batch knows of each entry whether it was done. Method: all but the first part refused."""
    codes = shop.codes(0, 500)
    body = write({"scans": [{"code": code, "user": f"user-{code}"} for code in codes]}, media)
    async with TestClient(TestServer(make_app(shop.program(Overloaded())))) as client:
        headers = {"Content-Type": media, "Authorization": f"Bearer {TOKEN}"}
        response = await client.post("/v1/scans/batch", data=body, headers=headers)
        reply = Reply(response.status, {"content-type": response.content_type}, await response.read())
        metrics = metrics_of(await (await client.get("/metrics", headers=headers)).read())
    results = results_of(reply)
    done = [each["code"] for each in results if "claim" in each]
    assert done == codes[:CLAIMS_AT_ONCE]
    refused = [each["problem"] for each in results if "problem" in each]
    assert len(refused) == 500 - CLAIMS_AT_ONCE
    assert {(each["type"].rpartition(":")[2], each["status"]) for each in refused} == {("overloaded", 503)}
    assert metrics["scanengine_scans_total", "valid"] == CLAIMS_AT_ONCE
    assert metrics["scanengine_claims_in_progress",] == 0


# Formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media", "accept", "expected"),
    [
        (JSON, None, JSON),
        (PACKED, None, PACKED),
        (VND, None, VND),
        (PACKED, JSON, JSON),
        (JSON, VND, VND),
        (JSON, PACKED.upper(), PACKED),
        ("APPLICATION/JSON; charset=utf-8", "*/*", JSON),
        (VND, "*/*", VND),
        (PACKED, "application/json, text/plain, */*", JSON),
        (JSON, "application/*;q=0.9, application/msgpack;q=0.5", JSON),
        (JSON, "application/json;q=0.5, application/vnd.msgpack; q=0.6", VND),
        (PACKED, "application/json;q=0, text/html", PACKED),
        (JSON, "application/msgpack;q=much, application/vnd.msgpack;q=nan", JSON),
        (JSON, ",;,=;q=,", JSON),
    ],
)
def test_the_reply_has_the_format_that_is_asked_for(
    client: Client, media: str, accept: str | None, expected: str
) -> None:
    spoken = JSON if "json" in media.lower() else PACKED
    for path, field in ROUTES.items():
        reply = ask(client, path, write({field: [7]}, spoken), media, accept)
        assert reply.headers["content-type"] == expected
        assert results_of(reply)[0]["problem"]["status"] == 400


def test_without_a_content_type_a_batch_is_json(client: Client) -> None:
    assert results_of(client.ask("POST", "/v1/verify/batch", b'{"codes": ["hello"]}'))[0]["status"] == "malformed"


@pytest.mark.parametrize("media", ["text/plain", "multipart/form-data", "", "msgpack", "é" * 300])
def test_another_content_type_is_415_and_says_which_are_read(client: Client, media: str) -> None:
    for path in ROUTES:
        problem = problem_of(ask(client, path, b"{}", media), 415)
        assert problem["type"] == "urn:scanengine:problem:unsupported-media-type"
        assert all(each in problem["detail"] for each in MEDIA)
        assert len(problem["detail"]) < 300


def test_a_whole_batch_that_is_refused_is_told_in_json(client: Client) -> None:
    """Problem details have one content type, whatever the batch is in."""
    problem_of(ask(client, "/v1/verify/batch", write({"codes": 1}, PACKED), PACKED))


# Limits and hostile bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
def test_a_batch_has_a_size(client: Client, path: str) -> None:
    field = ROUTES[path]
    entry = "hello" if field == "codes" else {"code": "hello", "user": "ann"}
    for media in (JSON, PACKED):
        for count in (0, 1, 15, 16, 10_000):
            assert len(results_of(ask(client, path, write({field: [entry] * count}, media), media))) == count
        problem = problem_of(ask(client, path, write({field: [entry] * 10_001}, media), media))
        assert problem["field"] == field
        # MessagePack is refused by the head of its list, of which the decoder tells the bound only.
        assert ("at most 10000 entries, found 10001" if media == JSON else "length <= 10000") in problem["detail"]


MILLIONS = {
    "nils": (PACKED, b"\x81\xa5FIELD\xdd\x00\x3d\x09\x00" + b"\xc0" * 4_000_000),
    "numbers": (JSON, b'{"FIELD": [' + b"1," * 2_000_000 + b"1]}"),
    "numbers behind half an emoji": (JSON, rb'{"FIELD": ["\ud83c"' + b",1" * 2_000_000 + b"]}"),
}


@pytest.mark.parametrize("name", MILLIONS)
@pytest.mark.parametrize("path", ROUTES)
async def test_millions_of_entries_are_refused_before_anything_is_made_of_them(
    shop: Shop, path: str, name: str
) -> None:
    """Goal: a body costs what its bytes do, not what its entries would. Method: the most memory that was in use."""
    media, body = MILLIONS[name]
    body = hostile(body, ROUTES[path])
    headers = {"Content-Type": media, "Authorization": f"Bearer {TOKEN}"}
    async with TestClient(TestServer(make_app(shop.program(MemoryLedger())))) as client:
        tracemalloc.start()
        try:
            response = await client.post(path, data=io.BytesIO(body), headers=headers)
            _, used = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        problem = await response.json(content_type=None)
    assert (response.status, problem["field"], "10000" in problem["detail"]) == (400, ROUTES[path], True)
    assert used < 5 * len(body)


def lists_of_json() -> st.SearchStrategy[list[Any]]:
    leaves = (
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["\\", '"', ",[]{}", '\\"'])
    )
    nested = st.recursive(leaves, lambda kinds: st.lists(kinds) | st.dictionaries(st.text(max_size=3), kinds))
    return st.lists(nested, max_size=9)


@given(lists_of_json(), st.sampled_from([None, 1]), st.booleans())
def test_entries_are_counted_as_json_reads_them(entries: list[Any], indent: int | None, is_ascii: bool) -> None:
    body = json.dumps({"codes": entries}, indent=indent, ensure_ascii=is_ascii).encode()
    assert count_entries(body) == max(len(entries), 1)


@given(st.binary(max_size=50) | st.text(alphabet='{[]},"\\:1', max_size=50).map(str.encode))
def test_whatever_is_counted_is_no_more_than_its_commas(body: bytes) -> None:
    assert 1 <= count_entries(body) <= body.count(b",") + 1


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_has_a_size(server: Served, path: str) -> None:
    for media, fill in ((JSON, b" "), (PACKED, b"\xc0")):
        with server.client(TOKEN) as client:
            problem_of(ask(client, path, fill * (4 * MIB + 1), media), 413)
        with server.client(TOKEN) as client:
            assert problem_of(ask(client, path, fill * (4 * MIB), media))["field"] == "body"


HOSTILE_JSON = {
    "nothing": (b"", "body"),
    "no object": (b"[]", "body"),
    "no field": (b"{}", "FIELD"),
    "no list": (b'{"FIELD": {}}', "FIELD"),
    "null": (b'{"FIELD": null}', "FIELD"),
    "another field": (b'{"FIELD": [], "more": 1}', "more"),
    "another field beside half an emoji": (rb'{"FIELD": ["\ud83c"], "more": 1}', "more"),
    "half an emoji in no batch": (rb'["\ud83c"]', "body"),
    "cut off": (b'{"FIELD": ["a"', "body"),
    "more after it": (b'{"FIELD": []}x', "body"),
    "deep lists": (b'{"FIELD": ' + b"[" * DEEP, "body"),
    "deep closed lists": (b'{"FIELD": [' + b"[" * DEEP + b"]" * DEEP + b"]}", "body"),
    "deep objects": (b'{"FIELD": [' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"]}", "body"),
    "not UTF-8": (b'\xff{"FIELD": []}', "body"),
    "UTF-16": ('{"codes": []}'.encode("utf-16"), "body"),
    "UTF-16 without its mark": ('{"codes": []}'.encode("utf-16-le"), "body"),
    "a byte order mark": (b'\xef\xbb\xbf{"FIELD": []}', "body"),
    "what only Python takes for a number": (b'{"FIELD": [NaN]}', "body"),
    "another one, behind half an emoji": (rb'{"FIELD": ["\ud83c", -Infinity]}', "body"),
    "MessagePack": (msgpack.packb({"FIELD": []}), "body"),
}
HOSTILE_PACKED = {
    "nothing": (b"", "body"),
    "nil": (b"\xc0", "body"),
    "no field": (b"\x80", "FIELD"),
    "no list": (b"\x81\xa5FIELD\x80", "FIELD"),
    "another field": (b"\x82\xa5FIELD\x90\xa4more\x01", "more"),
    "a number for a name": (b"\x81\x01\x90", "body"),
    "cut off in a text": (b"\x81\xa5FIELD\x91\xa5abc", "body"),
    "cut off in the list": (b"\x81\xa5FIELD\xdc\x00\x09", "body"),
    "a huge list": (b"\x81\xa5FIELD\xdd\xff\xff\xff\xff", "FIELD"),
    "a long text that is not there": (b"\x81\xa5FIELD\x91\xdb\xff\xff\xff\xff", "body"),
    "a huge map": (b"\xdf\xff\xff\xff\xff", "body"),
    "a byte that means nothing": (b"\xc1", "body"),
    "more after it": (b"\x81\xa5FIELD\x90\x00", "body"),
    "deep lists": (b"\x81\xa5FIELD" + b"\x91" * DEEP, "body"),
    "deep closed lists": (b"\x81\xa5FIELD" + b"\x91" * DEEP + b"\x90", "body"),
    "deep maps": (b"\x81\xa5FIELD\x91" + b"\x81\xa1a" * DEEP + b"\x01", "body"),
    "JSON": (b'{"FIELD": []}', "body"),
}


def hostile(body: bytes, field: str) -> bytes:
    """Return a body with its field put in; the name is as long as the word that stands for it."""
    return body.replace(b"FIELD", field.encode())


@pytest.mark.parametrize(
    ("media", "name"), [*itertools.product([JSON], HOSTILE_JSON), *itertools.product([PACKED], HOSTILE_PACKED)]
)
@pytest.mark.parametrize("path", ROUTES)
def test_a_body_that_is_no_batch_is_refused_whole(client: Client, path: str, media: str, name: str) -> None:
    body, field = (HOSTILE_JSON if media == JSON else HOSTILE_PACKED)[name]
    problem = problem_of(ask(client, path, hostile(body, ROUTES[path]), media))
    assert problem["field"] == field.replace("FIELD", ROUTES[path])


PACKED_ENTRIES = {
    "a text that is not UTF-8": b"\xa2\xff\xfe",
    "bytes": b"\xc4\x02ab",
    "an extension": b"\xd4\x05\x00",
    "a time": b"\xd6\xff\x00\x00\x00\x01",
    "a time that cannot be": b"\xc7\x0c\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
    "NaN": b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "a map with a list for a key": b"\x81\x90\x01",
    "a map with a map for a key": b"\x81\x80\x01",
    "a large number": b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", PACKED_ENTRIES)
def test_what_only_messagepack_has_harms_nobody(market: Market, client: Client, name: str) -> None:
    """Goal: never a code that was not sent, never a 500. Where the format itself is broken the batch is refused."""
    entry, code = PACKED_ENTRIES[name], market.take("cash")
    good = msgpack.packb({"code": code, "user": "ann"})
    for path, neighbour, wrapped in (
        ("/v1/verify/batch", msgpack.packb(code), entry),
        ("/v1/scans/batch", good, entry),
        ("/v1/scans/batch", good, b"\x82\xa4code" + entry + b"\xa4user\xa3ann"),
        ("/v1/scans/batch", good, b"\x83\xa4code\xa1x\xa4user\xa3ann\xa6region" + entry),
    ):
        field = ROUTES[path].encode()
        body = b"\x81" + msgpack.packb(field.decode()) + b"\x93" + neighbour + wrapped + neighbour
        reply = ask(client, path, body, PACKED)
        if reply.status == 400:
            assert problem_of(reply)["field"] == "body"
            continue
        first, bad, last = results_of(reply)
        assert (first["code"], last["code"]) == (code, code)
        assert bad["problem"]["status"] == 400


def test_of_a_name_that_stands_twice_the_last_counts(market: Market, client: Client) -> None:
    one, other = market.take("cash"), market.take("cash")
    body = f'{{"codes": ["{one}"], "codes": ["{other}"]}}'.encode()
    assert [each["code"] for each in results_of(ask(client, "/v1/verify/batch", body))] == [other]
    packed = b"\x82" + b"".join(msgpack.packb("codes") + msgpack.packb([code]) for code in (one, other))
    assert [each["code"] for each in results_of(ask(client, "/v1/verify/batch", packed, PACKED))] == [other]
    twice = f'{{"scans": [{{"code": "{one}", "code": "{other}", "user": "ann"}}]}}'.encode()
    assert results_of(ask(client, "/v1/scans/batch", twice))[0]["code"] == other


# Who may ask, and what is counted -------------------------------------------------------------------------------------


def test_batches_are_for_back_ends(market: Market, server: Served) -> None:
    code = market.take("cash")
    with server.client() as stranger:
        problem_of(ask(stranger, "/v1/verify/batch", write({"codes": [code]})), 401)
        problem_of(ask(stranger, "/v1/scans/batch", write({"scans": [{"code": code, "user": "eve"}]})), 401)


def test_looks_of_a_batch_are_counted(market: Market, client: Client) -> None:
    before = client.metrics()
    verify(client, [market.take("cash"), market.take("void"), "hello", 7, market.unknown(), market.take("cash")])
    after = client.metrics()

    def grown(*name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    found = {status: grown("scanengine_looks_total", status) for status in ("valid", "void", "malformed", "invalid")}
    assert found == {"valid": 2, "void": 1, "malformed": 1, "invalid": 1}
    assert grown("scanengine_http_requests_total", "200", "/v1/verify/batch") == 1
    assert grown("scanengine_scans_total", "valid") == 0


def test_no_code_is_in_the_log(market: Market, server: Served, client: Client) -> None:
    code = market.take("cash")
    for media in MEDIA:
        verify(client, [code, 7], media)
        ask(client, "/v1/verify/batch", write({"codes": [code], code: code}, media), media)
        ask(client, "/v1/scans/batch", write({"scans": [{"code": code}]}, media)[:-1], media)
    assert code not in server.log_path.read_text()
