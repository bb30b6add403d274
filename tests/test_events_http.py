"""Events over HTTP: read in pieces or waited for, acknowledged, and kept for whoever is registered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers import TOKEN
from redis_servers import RedisServer, server_binaries
from serving import Market, Reply, Served, a_market, in_threads, serving, use_redis

ADMIN = "an-admins-token-for-tests-only"
READERS = "/v1/events/readers"


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def place(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis_servers: Callable[[str], RedisServer],
) -> Iterator[tuple[Market, Served]]:
    market = a_market(tmp_path_factory.mktemp("events") / "shop", tokens=True)
    keys_path = market.shop.workspace.keys_path
    keys_path.write_text(keys_path.read_text() + f'[[tokens]]\nname = "boss"\ntoken = "{ADMIN}"\nadmin = true\n')
    if request.param == "redis":
        use_redis(market, redis_servers(sorted(server_binaries())[0]).url())
    with serving(market.folder) as server:
        yield market, server


class Reading:
    """A reader of its own for each test, removed when the test ends."""

    def __init__(self, place: tuple[Market, Served], name: str) -> None:
        self.market, self.server = place
        self.name = name
        self.admin = self.server.client(ADMIN)
        self.shop = self.server.client(TOKEN)

    def ask(self, **query: object) -> Reply:
        parts = {"reader": self.name, **query}
        return self.admin.get("/v1/events?" + "&".join(f"{name}={value}" for name, value in parts.items()))

    def read(self, **query: object) -> Any:
        reply = self.ask(**query)
        assert reply.status == 200, reply.body
        return reply.json

    def claim(self, count: int = 1) -> list[str]:
        """Claim codes and return the ids of the claims."""
        codes = [self.market.take("load") for _ in range(count)]
        return [self.shop.claim(code, "ann")["claim"]["id"] for code in codes]

    def waiting(self) -> int:
        (held,) = [held for held in self.admin.get(READERS).json["readers"] if held["reader"] == self.name]
        waiting: int = held["waiting"]
        return waiting


@pytest.fixture
def reading(place: tuple[Market, Served], request: pytest.FixtureRequest) -> Iterator[Reading]:
    reading = Reading(place, f"reader-{abs(hash(request.node.name)) % 10**9}")
    assert reading.admin.ask("PUT", f"{READERS}/{reading.name}").status == 200
    # What earlier tests left is not for this one.
    reading.admin.post("/v1/events/ack", {"reader": reading.name, "up_to": reading.admin.get(READERS).json["newest"]})
    yield reading
    reading.admin.ask("DELETE", f"{READERS}/{reading.name}")
    for client in (reading.admin, reading.shop):
        client.close()


def test_events_are_read_in_pieces_and_acknowledged(reading: Reading) -> None:
    claims = reading.claim(5)
    first = reading.read(limit=2)
    second = reading.read(limit=2, after=first["next"])
    rest = reading.read(after=second["next"])
    found = first["events"] + second["events"] + rest["events"]
    assert [event["claim"] for event in found] == claims
    assert [len(part["events"]) for part in (first, second, rest)] == [2, 2, 1]
    assert reading.read(after=rest["next"]) == {"events": [], "next": rest["next"]}
    assert reading.waiting() == 5
    assert reading.read(limit=0)["events"] == []
    acked = reading.admin.post("/v1/events/ack", {"reader": reading.name, "up_to": second["next"]})
    assert acked.json == {"reader": reading.name, "up_to": second["next"]}
    assert reading.waiting() == 1
    assert [event["claim"] for event in reading.read()["events"]] == claims[4:]


def test_an_event_tells_the_whole_claim(reading: Reading) -> None:
    code = reading.market.take("cash")
    claim = reading.shop.claim(code, "ann", visit="one", region="440300")["claim"]
    (event,) = reading.read()["events"]
    assert (event["id"], event["claim"], event["type"]) == (claim["id"], claim["id"], "claim")
    assert (event["user"], event["visit"], event["role"], event["region"]) == ("ann", "one", "consumer", 440300)
    assert (event["batch"], event["campaign"], event["prize"], event["amount"]) == ("cola", "spring", 0, 8800)
    assert code not in str(event)


def test_a_request_that_waits_is_answered_by_the_next_claim(reading: Reading) -> None:
    found: list[Any] = []

    def wait() -> None:
        with reading.server.client(ADMIN) as admin:
            found.append(admin.get(f"/v1/events?reader={reading.name}&wait=30").json)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        (claim,) = reading.claim()
    finally:
        waiting.join()
    assert [event["claim"] for event in found[0]["events"]] == [claim]


def test_a_request_waits_no_longer_than_it_says(reading: Reading) -> None:
    mark = reading.read()["next"]
    assert reading.read(wait=1) == {"events": [], "next": mark}


def test_an_abandoned_reader_keeps_events_until_it_is_removed(reading: Reading) -> None:
    reading.claim(3)
    other = f"{READERS}/abandoned"
    assert reading.admin.ask("PUT", other).status == 200
    assert reading.admin.ask("PUT", other).status == 200
    newest = reading.admin.get(READERS).json["newest"]
    reading.admin.post("/v1/events/ack", {"reader": reading.name, "up_to": newest})
    before = reading.admin.get("/v1/ledger").json["totals"]["events"]
    assert before >= 3
    assert reading.admin.ask("DELETE", other).status == 200
    reading.claim(1)
    reading.admin.post("/v1/events/ack", {"reader": reading.name, "up_to": newest + 1})
    for _ in range(10_000):
        if reading.admin.get("/v1/ledger").json["totals"]["events"] == 0:
            break
    assert reading.admin.get("/v1/ledger").json["totals"]["events"] == 0
    gone = reading.admin.ask("DELETE", other)
    assert (gone.status, gone.json["type"]) == (404, "urn:scanengine:problem:not-found")


def test_an_unknown_reader_is_told_what_to_do(reading: Reading) -> None:
    replies = (
        reading.ask(reader="nobody"),
        reading.ask(reader="nobody", after=0),
        reading.admin.post("/v1/events/ack", {"reader": "nobody", "up_to": 0}),
        reading.admin.ask("DELETE", f"{READERS}/nobody"),
    )
    for reply in replies:
        assert reply.status == 404
        assert "no reader 'nobody' is registered" in reply.json["detail"]
        assert "PUT /v1/events/readers/NAME" in reply.json["detail"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "reader: expected the name"),
        ("reader=accounts&limit=1001", "limit: expected a number of 0 to 1000, found '1001'"),
        ("reader=accounts&limit=-1", "limit: expected"),
        ("reader=accounts&limit=", "limit: expected"),
        ("reader=accounts&after=x", "after: expected"),
        ("reader=accounts&after=%D9%A3", "after: expected"),
        ("reader=accounts&after=99999999999999999999", "after: expected"),
        ("reader=accounts&wait=31", "wait: expected a number of 0 to 30"),
        ("reader=accounts&form=csv", "form: unknown"),
    ],
)
def test_a_question_that_cannot_be_is_refused(reading: Reading, query: str, message: str) -> None:
    reply = reading.admin.get(f"/v1/events?{query}")
    assert (reply.status, message in reply.json["detail"]) == (400, True), reply.body


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"reader": "a"}', b'{"reader": "a", "up_to": -1}', b'{"reader": "a", "up_to": 1.5}',
     b'{"reader": "a", "up_to": 99999999999999999999999}', b'{"reader": 1, "up_to": 1}',
     b'{"reader": "a", "up_to": 1, "x": 1}'],
)  # fmt: skip
def test_an_acknowledgement_that_cannot_be_is_refused(reading: Reading, body: bytes) -> None:
    assert reading.admin.post("/v1/events/ack", body).status == 400


def test_what_is_not_there_yet_cannot_be_acknowledged(reading: Reading) -> None:
    newest = reading.admin.get(READERS).json["newest"]
    reply = reading.admin.post("/v1/events/ack", {"reader": reading.name, "up_to": newest + 1})
    assert (reply.status, f"but the newest event is {newest}" in reply.json["detail"]) == (409, True)


@pytest.mark.parametrize("name", ["a%20b", "%00", "%E5%AE%89", "a" * 65, "%2e%2e%2f"])
def test_a_readers_name_is_checked(reading: Reading, name: str) -> None:
    assert reading.admin.ask("PUT", f"{READERS}/{name}").status in (404, 409)
    assert reading.admin.ask("DELETE", f"{READERS}/{name}").status == 404
    assert reading.admin.get(f"/v1/events?reader={name}").status == 404
    assert reading.admin.get(f"/v1/events?reader={name}&after=0").status in (404, 409)


def test_nothing_is_missed_or_read_twice_while_claims_come(reading: Reading) -> None:
    def work(number: int) -> list[str]:
        if number:
            with reading.server.client(TOKEN) as client:
                codes = [reading.market.take("load") for _ in range(60)]
                return [client.claim(code, f"user-{number}")["claim"]["id"] for code in codes]
        found: list[str] = []
        after = mark
        while len(found) < 120:
            reply = reading.read(after=after, wait=5, limit=7)
            found += [event["claim"] for event in reply["events"]]
            after = reply["next"]
            reading.admin.post("/v1/events/ack", {"reader": reading.name, "up_to": after})
        return found

    mark = reading.admin.get(READERS).json["newest"]
    found, *told = in_threads(3, work)
    assert sorted(found) == sorted(told[0] + told[1])
    assert reading.waiting() == 0
