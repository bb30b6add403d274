"""Faults that a native path inside aiohttp's connections invites: each check fails on a naive one, and passes on ours.

The naive one takes every scan that arrives whole and passes on all else, which looks right and has four faults at
once: aiohttp does not know that it is busy, its replies come in any order, it cuts messages where segments end, and a
shutdown does not wait for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from helpers import Shop
from helpers_hot import Serving, get, post, scan, serving
from scanengine.program import Program
from scanengine.server import connections
from scanengine.server.connections import PENDING_MAX, Connection, PlainConnection, Runner
from scanengine.server.hot import make_desk
from scanengine.server.routes import PROGRAM
from serving import WAIT_S

KEEPALIVE_S: Final = 0.2
TURNS: Final = 100
"""Turns of the event loop that are more than anything here needs, if it needs no ledger."""
UNREAD_BYTES_MAX: Final = 32 << 20
"""More than the system's buffers of one connection hold, both ends together, and what a server may keep beside."""


class Naive(RequestHandler):
    """A connection that answers whole scans past aiohttp, and does nothing else about it."""

    program: Program

    def data_received(self, data: bytes) -> None:
        while data.startswith(b"POST /v1/scans ") and b"\r\n\r\n" in data:
            head, _, rest = data.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(rest) < size:
                break
            asyncio.get_running_loop().create_task(self._scan(rest[:size]))
            data = rest[size:]
        super().data_received(data)

    async def _scan(self, body: bytes) -> None:
        fields = json.loads(body)
        answer = await self.program.claim_async(fields.pop("code"), **fields)
        content = json.dumps({"code": answer.code}).encode()
        if self.transport is not None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)


class NaiveListener(web.Server):
    program: Program

    def __call__(self) -> RequestHandler:
        connection = Naive(self, loop=self._loop, **self._kwargs)
        connection.program = self.program
        return connection


class NaiveRunner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = NaiveListener
        assert isinstance(server, NaiveListener)
        server.program = self.app[PROGRAM]
        return server


Check = Callable[[Serving], Awaitable[None]]


# Four faults --------------------------------------------------------------------------------------------------------


async def check_a_busy_connection_is_not_idle(server: Serving) -> None:
    """Method: an idle connection that was opened later is closed by its timer while the ledger is still waiting."""
    busy = await server.connect()
    with server.stalled_ledger():
        busy.send(scan(server.shop.code(1)))
        await server.look_around()
        idle = await server.connect()
        assert await idle.rest() == b""
        await server.look_around()
    status, body = await busy.reply()
    assert (status, body["code"]) == (200, server.shop.code(1))


async def check_replies_come_in_order(server: Serving) -> None:
    """Method: while a scan waits for the ledger, the request behind it needs none."""
    client = await server.connect()
    with server.stalled_ledger():
        client.send(scan(server.shop.code(1)) + get("/healthz"))
        await server.look_around()
    assert (await client.reply())[1].get("code") == server.shop.code(1)
    assert "code" not in (await client.reply())[1]


async def check_a_body_is_no_request(server: Serving) -> None:
    """Method: a head arrives in two segments, and its body, which looks like a scan, in a third one."""
    client = await server.connect()
    inner = scan(server.shop.code(1), "mallory")
    outer = post("/v1/verify", inner)
    for piece in (outer[:40], outer[40 : -len(inner)], inner):
        client.send(piece)
        await server.look_around()
    assert (await client.reply())[0] == 400
    client.send(scan(server.shop.code(1)))
    claim = (await client.reply())[1]["claim"]
    assert claim is not None
    assert claim["status"] != "taken"


async def check_a_header_is_no_request(server: Serving) -> None:
    """Method: a head is cut in the middle of a value, and what comes next looks like a scan."""
    client = await server.connect()
    code = server.shop.code(1)
    client.send(f"GET /v1/codes/{code} HTTP/1.1\r\nHost: test\r\nX-Note: ".encode())
    await server.look_around()
    client.send(post("/v1/scans", json.dumps({"code": code, "user": "mallory"}).encode(), host=""))
    status, answer = await client.reply()
    assert (status, answer.get("scan", {}).get("count")) == (200, 0)
    client.send(scan(code))
    claim = (await client.reply())[1]["claim"]
    assert claim["status"] != "taken"


async def check_a_shutdown_waits_for_replies(server: Serving) -> None:
    """Method: the shutdown has begun, and has had time for all that needs no ledger, when the ledger goes on."""
    client = await server.connect()
    with server.stalled_ledger():
        client.send(scan(server.shop.code(1)))
        await server.look_around()
        cleanup = asyncio.create_task(server.runner.cleanup())
        for _ in range(TURNS):
            await asyncio.sleep(0)
    assert (await client.reply())[1]["code"] == server.shop.code(1)
    assert await client.rest() == b""
    await cleanup


FAULTS: Final[dict[str, tuple[Check, dict[str, Any]]]] = {
    "the timer closes a busy connection": (check_a_busy_connection_is_not_idle, {"keepalive_timeout": KEEPALIVE_S}),
    "a quick request overtakes a scan": (check_replies_come_in_order, {}),
    "a body is taken for a request": (check_a_body_is_no_request, {}),
    "a header is taken for a request": (check_a_header_is_no_request, {}),
    "a shutdown drops the reply of a claim": (check_a_shutdown_waits_for_replies, {}),
}
faults = pytest.mark.parametrize(("check", "options"), FAULTS.values(), ids=FAULTS)


@faults
async def test_our_connections_do_not_have_the_fault(shop: Shop, check: Check, options: dict[str, Any]) -> None:
    async with serving(shop, **options) as server:
        await check(server)


@faults
async def test_a_naive_connection_has_the_fault(shop: Shop, check: Check, options: dict[str, Any]) -> None:
    """Goal: each check can fail."""
    async with serving(shop, NaiveRunner, **options) as server:
        with pytest.raises((AssertionError, asyncio.IncompleteReadError, ConnectionError)):
            await check(server)


# What else holds ----------------------------------------------------------------------------------------------------


async def test_the_next_request_waits_when_as_many_as_may_be_are_in_flight(shop: Shop) -> None:
    more = 5
    codes = shop.codes(0, PENDING_MAX + more)
    async with serving(shop) as server:
        client = await server.connect()
        with server.stalled_ledger():
            client.send(b"".join(map(scan, codes)))
            await server.look_around()
            assert server.claims_in_progress == PENDING_MAX
        assert [(await client.reply())[1]["code"] for _ in codes] == codes
        assert server.claims_in_progress == 0


async def test_who_does_not_read_is_not_read(shop: Shop) -> None:
    """Goal: a client cannot fill the server's memory. Method: it sends until nothing more is taken from it."""
    look = get(f"/v1/codes/{shop.code(1)}")
    piece = look * 200
    sent = 0
    loop = asyncio.get_running_loop()
    async with serving(shop) as server:
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            before = -1
            while before != sent:
                before = sent
                with suppress(BlockingIOError):
                    while sent < UNREAD_BYTES_MAX:
                        sent += client.send(piece[sent % len(look) :])
                await server.look_around()
            assert sent < UNREAD_BYTES_MAX
            received = 0
            while received < sent // len(look):  # All that was taken is answered.
                data = await asyncio.wait_for(loop.sock_recv(client, 1 << 20), WAIT_S)
                assert data
                received += data.count(b"Server: ")


async def test_a_client_that_goes_away_leaves_its_claims_made(shop: Shop) -> None:
    codes = shop.codes(0, 20)
    async with serving(shop) as server:
        client = await server.connect()
        with server.stalled_ledger():
            client.send(b"".join(scan(code, f"u-{code}", visit="first") for code in codes))
            await server.look_around()
            assert server.claims_in_progress == len(codes)
            client.abort()
            await server.look_around()
        again = await server.connect()
        again.send(b"".join(scan(code, f"u-{code}", visit="second") for code in codes))
        for code in codes:
            answer = (await again.reply())[1]
            assert (answer["code"], answer["claim"]["replayed"], answer["scan"]["count"]) == (code, True, 2)


async def test_a_connection_that_ends_in_the_middle_of_a_request_leaves_nothing(shop: Shop) -> None:
    async with serving(shop) as server:
        whole = scan(shop.code(1))
        for size in range(1, len(whole), 7):
            client = await server.connect()
            client.send(whole[:size])
            await server.look_around()
            client.abort()
        await server.look_around()
        client = await server.connect()
        client.send(whole)
        answer = (await client.reply())[1]
        assert (answer["claim"]["replayed"], answer["scan"]["count"]) == (False, 1)


# When it is not used ------------------------------------------------------------------------------------------------


def switch_off(shop: Shop) -> None:
    path = shop.workspace.settings_path
    text = path.read_text()
    path.write_text(text.replace("[server]\n", "[server]\nhot_path = false\n", 1))
    assert text != path.read_text()


async def test_switched_off_aiohttp_reads_everything(shop: Shop) -> None:
    switch_off(shop)
    async with serving(shop, lambda app, **options: Runner(app, desk=make_desk(app), **options)) as server:
        client = await server.connect()
        client.send(scan(shop.code(1)))
        assert (await client.reply())[1]["code"] == shop.code(1)
        assert server.kinds == {PlainConnection}
    assert PlainConnection.data_received is RequestHandler.data_received


async def test_switched_on_it_is_used(shop: Shop) -> None:
    async with serving(shop) as server:
        client = await server.connect()
        client.send(scan(shop.code(1)))
        assert (await client.reply())[1]["code"] == shop.code(1)
        assert server.kinds == {Connection}
    assert Connection.data_received is not RequestHandler.data_received


async def test_with_an_aiohttp_that_it_does_not_know_it_is_not_used(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: another version of aiohttp makes the server slower, never wrong, and the log says so."""
    monkeypatch.setattr(connections, "_LEANT_ON", frozenset({"_messages", "_part_that_is_gone"}))
    with caplog.at_level(logging.WARNING):
        async with serving(shop) as server:
            client = await server.connect()
            client.send(scan(shop.code(1)))
            assert (await client.reply())[1]["code"] == shop.code(1)
            assert server.kinds == {PlainConnection}
    (told,) = [record.getMessage() for record in caplog.records]
    assert ("_part_that_is_gone" in told, "_messages" in told) == (True, False)
