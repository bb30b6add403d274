"""What goes the native way, and that one client's trouble there stays that client's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers import Shop
from helpers_hot import Serving, get, scan, serving
from scanengine.program.gathering import Questions
from scanengine.server import connections
from scanengine.server._replies import write_reply
from scanengine.server.connections import PENDING_MAX, Connection
from scanengine.server.hot import Desk
from scanengine.server.requests import REQUEST_ID
from serving import WAIT_S

UNPARSABLE = b"GET http://%0[[]0@[:@ HTTP/1.1\r\nHost: a\r\n\r\n"
"""aiohttp's parser raises an error of another kind for it than for what is not HTTP."""


def connection_of(server: Serving) -> Connection:
    assert server.runner.server is not None
    (connection,) = server.runner.server.connections
    assert isinstance(connection, Connection)
    return connection


def requests_of_aiohttp(server: Serving) -> int:
    assert server.runner.server is not None
    return server.runner.server.requests_count


async def test_the_commonest_requests_do_not_reach_aiohttp(shop: Shop) -> None:
    code = shop.code(1)
    async with serving(shop) as server:
        client = await server.connect()
        client.send(
            scan(code) + scan(code) + get(f"/v1/codes/{code}") + get(f"/s/{code}", "Accept: application/json\r\n")
        )
        replies = [await client.reply() for _ in range(4)]
        assert [status for status, _ in replies] == [200] * 4
        assert [body["scan"]["count"] for _, body in replies] == [1, 2, 2, 2]
        assert requests_of_aiohttp(server) == 0
        client.send(get("/healthz") + scan(code) + get("/healthz"))
        assert [(await client.reply())[0] for _ in range(3)] == [200] * 3
        assert requests_of_aiohttp(server) == 2


async def test_what_aiohttp_cannot_parse_ends_one_connection_and_no_other(shop: Shop) -> None:
    """Goal: it is found while the replies of one turn are handed out, and the others of that turn have theirs."""
    async with serving(shop) as server:
        bad = await server.connect()
        others = [await server.connect() for _ in range(5)]
        await server.look_around()
        bad.send(get(f"/v1/codes/{shop.code(1)}") + UNPARSABLE)
        for other in others:
            other.send(get(f"/v1/codes/{shop.code(2)}"))
        assert [(await other.reply())[0] for other in others] == [200] * 5
        assert (await bad.reply())[0] == 200
        assert await bad.rest() == b""


async def test_what_aiohttp_cannot_parse_ends_a_connection_that_it_had(shop: Shop) -> None:
    async with serving(shop) as server:
        client = await server.connect()
        client.send(get("/healthz") + UNPARSABLE)
        assert (await client.reply())[0] == 200
        assert await client.rest() == b""


async def test_a_reply_that_cannot_be_made_ends_its_connection(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(head: bytes, request_id: str, tail: bytes, body: bytes) -> bytes:
        if shop.code(1).encode() in body:
            raise RuntimeError("planted")
        return write_reply(head, request_id, tail, body)

    monkeypatch.setattr("scanengine.server.hot.write_reply", write)
    async with serving(shop) as server:
        first, second = await server.connect(), await server.connect()
        await server.look_around()
        first.send(scan(shop.code(1)))
        second.send(scan(shop.code(2)))
        assert (await second.reply())[0] == 200
        assert await first.rest() == b""
        assert server.claims_in_progress == 0
    assert "planted" in caplog.text


async def test_answers_that_cannot_be_handed_over_end_their_connections(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: nobody waits for ever, whatever goes wrong with a whole batch."""

    def count(*_: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("scanengine.server.metrics.Metrics.count_requests", count)
    async with serving(shop) as server:
        first, second = await server.connect(), await server.connect()
        first.send(scan(shop.code(1)))
        second.send(get(f"/v1/codes/{shop.code(2)}"))
        assert await first.rest() == b""
        assert await second.rest() == b""
    assert "planted" in caplog.text


async def test_what_comes_while_a_connection_ends_is_not_kept(shop: Shop) -> None:
    """Goal: a client that goes on sending does not fill the memory of a server that stops."""
    async with serving(shop) as server:
        client = await server.connect()
        with server.stalled_ledger():
            client.send(scan(shop.code(1)))
            await server.look_around()
            connection = next(each for each in server.runner.server.connections if each._pending)  # type: ignore[union-attr]
            connection.close()
            for _ in range(20):
                client.send(b"x" * 100_000)
                await server.look_around()
            assert len(connection._framer) == 0
        assert (await client.reply())[0] == 200
        assert await client.rest() == b""


@pytest.mark.parametrize("ending", ["close", "keep-alive", "shutdown"])
async def test_what_has_arrived_is_answered_when_the_connection_ends_in_the_same_turn(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Goal: what the server has read is begun, although that waits for the end of the turn."""
    receive, ended = Connection.data_received, asyncio.Event()

    def then_end(self: Connection, data: bytes) -> None:
        receive(self, data)
        if ending == "close":
            self.close()
        elif ending == "keep-alive":
            self._next_keepalive_close_time = 0.0
            self._waiter = asyncio.get_running_loop().create_future()
            self._process_keepalive()
        else:
            shutting_down.append(asyncio.ensure_future(self.shutdown(WAIT_S)))
        ended.set()

    shutting_down: list[asyncio.Future[None]] = []
    async with serving(shop) as server:
        client = await server.connect()
        monkeypatch.setattr(Connection, "data_received", then_end)
        client.send(scan(shop.code(1)))
        await ended.wait()
        status, answer = await client.reply()
        assert (status, answer["claim"]["replayed"]) == (200, False)
        monkeypatch.undo()
        client.abort()
        await asyncio.gather(*shutting_down)


async def test_replies_that_are_made_at_once_leave_others_their_turn(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: one read of many requests that need no ledger is not one turn of the event loop."""
    turns: list[int] = []
    monkeypatch.setattr(connections.Connection, "go_on", spied(connections.Connection.go_on, turns))

    def begin(self: Desk, connection: Connection, request: Any) -> bool:
        request.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        return True

    monkeypatch.setattr(Desk, "begin", begin)
    async with serving(shop) as server:
        client = await server.connect()
        client.send(get(f"/s/{shop.code(1)}") * (10 * PENDING_MAX))
        for _ in range(10 * PENDING_MAX):
            assert (await client.reply())[0] == 200
    assert len(turns) >= 9


def spied(function: Any, calls: list[int]) -> Any:
    def call(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return call


async def test_answers_that_are_too_few_are_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: nobody is told another's answer, whatever went wrong before."""

    async def too_few(asked: Any) -> list[str]:
        return list(asked)[1:]

    questions = Questions[str, str](too_few)
    futures = [questions.ask(name) for name in ("ann", "bob", "carl")]
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(each, RuntimeError) for each in found)
    assert not caplog.records


async def test_one_that_cannot_take_its_answer_keeps_it_from_nobody(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Connection.take_replies

    def take(self: Connection) -> bytes:
        if shop.code(1).encode() in self._pending[0].reply:  # type: ignore[operator]
            raise RuntimeError("planted")
        return real(self)

    monkeypatch.setattr(Connection, "take_replies", take)
    async with serving(shop) as server:
        first, second = await server.connect(), await server.connect()
        await server.look_around()
        first.send(scan(shop.code(1)))
        second.send(scan(shop.code(2)))
        assert (await second.reply())[0] == 200
        assert await first.rest() == b""
    assert "planted" in caplog.text


async def test_the_id_of_a_refused_request_stays_with_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def refuse(self: Any, scans: Any, **_: Any) -> Any:
        seen.append(REQUEST_ID.get())
        raise RuntimeError("planted")

    monkeypatch.setattr("scanengine.program.program.Program.claim_many_async", refuse)
    async with serving(shop) as server:
        client = await server.connect()
        client.send(b"".join(scan(code) for code in shop.codes(0, PENDING_MAX + 5)))
        for _ in range(PENDING_MAX + 5):
            assert (await client.reply())[0] == 500
    assert set(seen) == {""}


async def test_one_look_at_the_door_that_fails_spoils_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: also where both are looked up together."""
    failed: list[bytes] = []

    def fail_once(budget: Any, source: bytes, status: Any) -> None:
        if not failed:
            failed.append(source)
            raise RuntimeError("planted")

    monkeypatch.setattr("scanengine.server.hot.charge", fail_once)
    async with serving(shop) as server:
        clients = [await server.connect() for _ in range(2)]
        for offset, client in enumerate(clients):
            client.send(get(f"/s/{shop.code(offset)}", "Accept: application/json\r\n"))
        found = await asyncio.gather(*(client.rest_or_reply() for client in clients))
    assert sorted(map(str, found)) == ["200", "ended"]
    assert "planted" in caplog.text


async def test_what_is_read_after_a_reply_is_nobodys_in_the_log(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the reply to one request makes the server read on, which may be a stranger's request."""
    seen: list[str] = []
    read_all = Desk._read_all

    def noting(self: Desk) -> None:
        seen.append(REQUEST_ID.get())
        read_all(self)

    monkeypatch.setattr(Desk, "_read_all", noting)
    async with serving(shop) as server:
        client = await server.connect()
        # One claim that waits holds the look behind it; its reply lets the look be begun.
        client.send(scan(shop.code(1)) + get(f"/v1/codes/{shop.code(2)}"))
        assert [(await client.reply())[0] for _ in range(2)] == [200, 200]
    assert len(seen) > 1
    assert set(seen) == {""}
