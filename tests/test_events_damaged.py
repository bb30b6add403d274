"""Events that are missing or damaged: their readers are told, given those before, and can pass them on purpose."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import Run, ok
from helpers_ledger import a_claim, tag_of
from redis_servers import RedisServer, server_binaries
from scanengine.ledger import Ledger, MemoryLedger, SqliteLedger
from scanengine.ledger.redis import RedisLedger
from scanengine.ledger.sealing import DamagedEventError, hand_out
from scanengine.model import Event
from scanengine.program.settings import load_settings
from serving import Market, a_copy, a_market, serving, use_redis

ADMIN = "an-admins-token-for-tests-only"
EVENTS = 9


class Store:
    """What holds the events of a ledger, as somebody may harm it who can write there."""

    def __init__(self, path: Path | None = None, server: RedisServer | None = None, program: str = "") -> None:
        self.path = path
        self.client = server.client() if server else None
        self.outbox = tag_of(program) + "outbox"

    def remove(self, *seqs: int) -> None:
        """Let events be gone that nobody has acknowledged."""
        if self.client is not None:
            assert self.client.xdel(self.outbox, *(f"{seq}-0" for seq in seqs)) == len(seqs)
        else:
            self._write("DELETE FROM events WHERE seq = ?", seqs)

    def damage(self, seq: int) -> None:
        """Change an event, so that it cannot be read."""
        if self.client is None:
            self._write("UPDATE events SET body = 'x' || substr(body, 2) WHERE seq = ?", (seq,))
            return
        entries = self.client.xrange(self.outbox)
        self.client.delete(self.outbox)
        for id_, fields in entries:
            harmed = {head: b"\xc1" + said[1:] for head, said in fields.items()} if id_ == b"%d-0" % seq else fields
            self.client.xadd(self.outbox, harmed, id=id_)

    def _write(self, sql: str, seqs: tuple[int, ...]) -> None:
        assert self.path is not None
        connection = sqlite3.connect(self.path)
        with connection:
            assert connection.executemany(sql, [(seq,) for seq in seqs]).rowcount == len(seqs)
        connection.close()


def a_seq(seq: int) -> Event:
    return Event("x", seq, "scan", 1, 2, "", "", "ann", "", 0, None, 0, -1, -1, -1, 0, 0, None, "")


def seqs_of(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


# At the ledger.


@pytest.fixture(params=["sqlite", *sorted(server_binaries())])
def held(
    request: pytest.FixtureRequest, tmp_path: Path, redis_servers: Callable[[str], RedisServer], program_id: str
) -> Any:
    """A ledger with events 1 to 9, of which a second reader has acknowledged all, and what holds them."""
    ledger: Ledger
    if request.param == "sqlite":
        ledger = SqliteLedger(tmp_path / "ledger.sqlite", "program-1")
        store = Store(tmp_path / "ledger.sqlite")
    else:
        server = redis_servers(request.param)
        ledger = RedisLedger(server.url(), program_id, durability="volatile", outbox="keep")
        store = Store(server=server, program=program_id)
    for name in ("accounts", "payouts"):
        ledger.register_reader(name)
    for item in range(EVENTS):
        ledger.claim(a_claim(item))
    ledger.ack("payouts", EVENTS)
    yield ledger, store
    ledger.close()


def test_a_missing_event_is_never_passed_in_silence(held: tuple[Ledger, Store]) -> None:
    ledger, store = held
    store.remove(4, 6, 7)
    assert seqs_of(ledger.events("accounts", 0, 99)) == [1, 2, 3]
    assert seqs_of(ledger.events("accounts", 0, 2)) == [1, 2]
    with pytest.raises(DamagedEventError, match=r"event 4 is damaged: it is missing$") as found:
        ledger.events("accounts", 3, 99)
    assert (found.value.seq, found.value.last) == (4, 4)
    assert seqs_of(ledger.events("accounts", 4, 99)) == [5]
    with pytest.raises(DamagedEventError, match="event 6 is damaged: it is missing, and so are all up to 7") as found:
        ledger.events("accounts", 5, 1)
    assert (found.value.seq, found.value.last) == (6, 7)
    ledger.ack("accounts", found.value.last)
    assert seqs_of(ledger.events("accounts", 7, 99)) == [8, 9]


def test_the_first_event_may_be_the_one_that_is_missing(held: tuple[Ledger, Store]) -> None:
    ledger, store = held
    ledger.ack("accounts", 3)
    assert seqs_of(ledger.events("accounts", 3, 1)) == [4]
    store.remove(4)
    with pytest.raises(DamagedEventError, match="event 4 is damaged"):
        ledger.events("accounts", 3, 1)
    assert ledger.events("accounts", 3, 0) == []


def test_a_damaged_event_keeps_back_none_before_it(held: tuple[Ledger, Store]) -> None:
    ledger, store = held
    store.damage(5)
    store.remove(4)
    assert seqs_of(ledger.events("accounts", 0, 99)) == [1, 2, 3]
    with pytest.raises(DamagedEventError, match="event 4 is damaged: it is missing"):
        ledger.events("accounts", 3, 99)
    with pytest.raises(DamagedEventError, match="event 5 is damaged"):
        ledger.events("accounts", 4, 99)
    # To pass it on purpose is always possible, also for the reader that is the last one to need it.
    ledger.ack("accounts", 5)
    assert seqs_of(ledger.events("accounts", 5, 99)) == [6, 7, 8, 9]
    ledger.ack("accounts", EVENTS)
    ledger.claim(a_claim(99))
    assert seqs_of(ledger.events("accounts", EVENTS, 99)) == [EVENTS + 1]


def test_redis_knows_that_its_newest_events_are_missing(
    redis_server: RedisServer, program_id: str, open_redis: Callable[..., RedisLedger]
) -> None:
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    for item in range(3):
        ledger.claim(a_claim(item))
    Store(server=redis_server, program=program_id).remove(2, 3)
    assert seqs_of(ledger.events("accounts", 0, 9)) == [1]
    with pytest.raises(DamagedEventError, match="event 2 is damaged: it is missing, and so are all up to 3"):
        ledger.events("accounts", 1, 9)


def test_events_dropped_while_nobody_reads_are_not_missing(
    redis_server: RedisServer, open_redis: Callable[..., RedisLedger]
) -> None:
    """Goal: no false alarm. Method: events that were never kept, before a reader that comes late."""
    ledger = open_redis(redis_server.url(), outbox="drop")
    ledger.claim_many([a_claim(item) for item in range(5)])
    ledger.register_reader("accounts")
    assert ledger.events("accounts", 0, 9) == []
    ledger.claim_many([a_claim(item) for item in range(5, 8)])
    assert seqs_of(ledger.events("accounts", 0, 9)) == [6, 7, 8]


def test_the_ledger_in_memory_tells_as_well() -> None:
    ledger = MemoryLedger()
    ledger.register_reader("accounts")
    for item in range(3):
        ledger.claim(a_claim(item))
    del ledger._events[1]
    assert seqs_of(ledger.events("accounts", 0, 9)) == [1]
    with pytest.raises(DamagedEventError, match="event 2 is damaged"):
        ledger.events("accounts", 1, 9)


@pytest.mark.parametrize(
    ("stored", "after", "trimmed", "newest"),
    [
        ([5, 6], 0, 4, 6),  # Trimmed before they were read,
        ([3, 4, 5, 6], 0, 4, 6),  # between reading them and looking how far,
        ([6], 2, 6, 6),  # or all of them.
        ([], 6, 0, 6),
        ([], 99, 0, 6),
        ([], 2, 6, 6),
        ([3, 4], 2, 0, 0),  # Newer than the newest that was known.
    ],
)
def test_what_was_trimmed_while_it_was_read_is_not_missing(
    stored: list[int], after: int, trimmed: int, newest: int
) -> None:
    assert seqs_of(hand_out(map(a_seq, stored), after, 99, newest=newest, trimmed=trimmed)) == stored


# By command, and over HTTP.


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    market = a_market(tmp_path_factory.mktemp("damaged") / "shop", tokens=True)
    keys_path = market.shop.workspace.keys_path
    keys_path.write_text(keys_path.read_text() + f'[[tokens]]\nname = "boss"\ntoken = "{ADMIN}"\nadmin = true\n')
    return market


@pytest.fixture(params=["sqlite", "redis"])
def place(
    request: pytest.FixtureRequest,
    template: Market,
    tmp_path: Path,
    run: Run,
    redis_servers: Callable[[str], RedisServer],
) -> tuple[Market, Store]:
    """A market with events 1 to 5 for one reader, of which 3 is damaged and 4 is missing."""
    market = a_copy(template, tmp_path / "shop")
    store = Store(market.shop.workspace.ledger_path)
    if request.param == "redis":
        server = redis_servers(sorted(server_binaries())[0])
        use_redis(market, server.url())
        store = Store(server=server, program=load_settings(market.shop.workspace.settings_path).program.id)
    ok(run("-w", market.folder, "events", "readers", "add", "accounts"))
    for _ in range(5):
        ok(run("-w", market.folder, "claim", market.take("cash"), "--user", "ann"))
    store.damage(3)
    store.remove(4)
    return market, store


@pytest.mark.parametrize("is_served", [False, True])
def test_following_ends_at_a_damaged_event_and_says_how_to_pass_it(
    place: tuple[Market, Store], run: Run, is_served: bool
) -> None:
    market, _ = place

    def check() -> None:
        follow = ("-w", market.folder, "events", "follow", "accounts", "--once", "--json")
        for written, seq in (([1, 2], 3), ([], 3), ([], 4)):
            done = run(*follow)
            assert [json.loads(line)["seq"] for line in done.out.splitlines()] == written
            assert (done.code, f"event {seq} is damaged: " in done.err, "Traceback" in done.err) == (1, True, False)
            assert f"scanengine events ack accounts {seq}" in done.err
            if not written:
                ok(run("-w", market.folder, "events", "ack", "accounts", seq))
        assert [json.loads(line)["seq"] for line in ok(run(*follow)).splitlines()] == [5]

    if is_served:
        with serving(market.folder):
            check()
    else:
        check()


def test_over_http_a_damaged_event_is_a_conflict_that_names_it(place: tuple[Market, Store]) -> None:
    market, _ = place
    with serving(market.folder) as server, server.client(ADMIN) as admin:
        read = "/v1/events?reader=accounts&wait=1"
        assert [event["seq"] for event in admin.get(read).json["events"]] == [1, 2]
        for seq in (3, 4):
            assert admin.post("/v1/events/ack", {"reader": "accounts", "up_to": seq - 1}).status == 200
            reply = admin.get(read)
            assert (reply.status, reply.json["type"]) == (409, "urn:scanengine:problem:conflict")
            assert reply.json["detail"].startswith(f"event {seq} is damaged: ")
            assert reply.json["detail"].endswith(f"POST /v1/events/ack with up_to {seq}")
        assert admin.post("/v1/events/ack", {"reader": "accounts", "up_to": 4}).status == 200
        assert [event["seq"] for event in admin.get(read).json["events"]] == [5]
