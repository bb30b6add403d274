"""A server of this process on connections of ours, whose ledger can be kept waiting, and clients that write bytes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, Final

from aiohttp import web

from helpers import TOKEN, Shop
from scanengine.ledger import SqliteLedger
from scanengine.server.app import make_app
from scanengine.server.connections import Runner
from scanengine.server.hot import make_desk
from scanengine.server.routes import METRICS
from serving import WAIT_S

PROBES: Final = 3


def our_runner(app: web.Application, **options: Any) -> web.AppRunner:
    desk = make_desk(app)
    assert desk is not None
    return Runner(app, desk=desk, **options)


class Serving:
    """A server in this process whose ledger can be kept waiting."""

    def __init__(self, shop: Shop, runner: web.AppRunner) -> None:
        self.shop = shop
        self.runner = runner
        self.clients: list[Client] = []

    @property
    def port(self) -> int:
        port: int = self.runner.addresses[0][1]
        return port

    @property
    def claims_in_progress(self) -> int:
        return self.runner.app[METRICS].claims_in_progress

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def look_around(self) -> None:
        """Return when the server has read what was sent before, and has done what needs no ledger."""
        client = await self.connect()
        for _ in range(PROBES):
            client.send(get("/healthz"))
            assert (await client.reply())[0] == 200
        client.abort()

    @contextmanager
    def stalled_ledger(self) -> Any:
        """Keep the ledger waiting."""
        with closing(sqlite3.connect(self.shop.workspace.ledger_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                other.execute("ROLLBACK")

    @property
    def kinds(self) -> set[type]:
        assert self.runner.server is not None
        return {type(connection) for connection in self.runner.server.connections}


class Client:
    """One connection that reads whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def reply(self) -> tuple[int, Any]:
        """Return status and body of the next reply; IncompleteReadError if the connection ends without one."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), WAIT_S)
        lines = head.lower().split(b"\r\n")
        (size,) = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        body = await asyncio.wait_for(self._reader.readexactly(size), WAIT_S)
        return int(lines[0].split()[1]), json.loads(body)

    async def rest_or_reply(self) -> int | str:
        """Return the status of the next reply, "ended" if the connection ends without one."""
        try:
            return (await self.reply())[0]
        except asyncio.IncompleteReadError:
            return "ended"

    async def rest(self) -> bytes:
        """Return what comes until the connection ends."""
        return await asyncio.wait_for(self._reader.read(), WAIT_S)

    def abort(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def serving(
    shop: Shop, make_runner: Callable[..., web.AppRunner] = our_runner, **options: Any
) -> AsyncIterator[Serving]:
    ledger = SqliteLedger(shop.workspace.ledger_path, "program-1", timeout_s=WAIT_S)
    program = shop.program(ledger)
    runner = make_runner(make_app(program), access_log=None, handle_signals=False, shutdown_timeout=WAIT_S, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = Serving(shop, runner)
    try:
        yield server
    finally:
        for client in server.clients:
            client.abort()
        await runner.cleanup()
        await asyncio.to_thread(program.close)


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n".encode()


def post(path: str, body: bytes, host: str = "Host: test\r\n") -> bytes:
    head = f"POST {path} HTTP/1.1\r\n{host}Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def scan(code: str, user: str = "ann", **more: str) -> bytes:
    return post("/v1/scans", json.dumps({"code": code, "user": user, **more}).encode())
