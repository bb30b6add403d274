"""A server follows what is published, from its first moment on and after trouble, and says good-bye to its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

import scanengine
from helpers import TOKEN, Shop
from scanengine.ledger import MemoryLedger
from scanengine.model import SegmentState
from scanengine.program import Program
from scanengine.program.publishing import SceneChange
from scanengine.server import Server, make_app
from scanengine.server.routes import STOPPING

VOID = SceneChange(state=SegmentState.VOID)
POLLS = 500


@asynccontextmanager
async def serving(program: Program) -> AsyncIterator[Server]:
    server = Server(program, port=0)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def until_void(server: Server, code: str) -> bool:
    """Look until the code is void; False if it never is."""
    async with ClientSession(headers={"Accept": "application/json"}) as session:
        for _ in range(POLLS):
            async with session.get(f"http://127.0.0.1:{server.port}/s/{code}") as reply:
                if (await reply.json())["status"] == "void":
                    return True
            await asyncio.sleep(0.02)
    return False


async def test_what_was_published_while_the_ledger_was_opened_is_served(shop: Shop) -> None:
    program = scanengine.open(shop.folder)
    shop.assign(0, 1, VOID)
    async with serving(program) as server:
        assert await until_void(server, shop.code(0))


async def test_a_publication_that_cannot_be_read_is_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = scanengine.open(shop.folder)
    refresh, failures = program.refresh, [OSError(24, "Too many open files")] * 2

    def fail_first() -> bool:
        if failures:
            raise failures.pop()
        return refresh()

    async with serving(program) as server:
        monkeypatch.setattr(program, "refresh", fail_first)
        shop.assign(0, 1, VOID)
        assert await until_void(server, shop.code(0))
    assert failures == []
    assert caplog.text.count("Too many open files") == 1


async def test_a_stopping_server_tells_clients_to_send_nothing_more(shop: Shop) -> None:
    app = make_app(shop.program(MemoryLedger()))
    async with TestClient(TestServer(app)) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        paths = {"/healthz": 200, f"/v1/codes/{shop.code(0)}": 200, "/nowhere": 404}
        for path in paths:
            assert "Connection" not in (await client.get(path, headers=headers)).headers
        app[STOPPING].set()
        for path, status in paths.items():
            reply = await client.get(path, headers=headers)
            assert (reply.status, reply.headers["Connection"]) == (status, "close")
