"""A server with faults to be found: the real routes of a real program, and replies that are changed on the way out."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

import scanengine

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[["StandIn", dict[str, Any], dict[str, Any]], dict[str, Any] | None]
"""Gets the scan and the answer; returns what is answered instead, None for no reply at all."""
Before = Callable[["StandIn"], Awaitable[web.Response | None]]
"""Called before a scan is executed; what it returns is answered instead."""


class StandIn:
    """A program behind a fault.

    Attributes
    ----------
    first : dict of code to claim
        As they were told first.
    scans, answers : int
        How many were asked, and how many a fault was shown.
    ended : asyncio.Event
        Set when the server is to stop.
    """

    def __init__(self, folder: Path, fault: Fault | None, before: Before | None) -> None:
        self.first: dict[str, Any] = {}
        self.scans = 0
        self.answers = 0
        self.port = 0
        self._folder = folder
        self._fault = fault
        self._before = before
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self.ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> StandIn:
        self._thread.start()
        assert self._started.wait(60)
        assert self.port
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.ended.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        with scanengine.open(self._folder) as program:
            app = program.web_app()

            @web.middleware
            async def between(request: web.Request, handler: Handler) -> web.StreamResponse:
                return await self._answer(request, handler)

            app.middlewares.insert(0, between)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self.ended.wait()
            await runner.cleanup()

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/v1/scans":
            return await handler(request)
        self.scans += 1
        scan = json.loads(await request.read())
        if self._before is not None:
            instead = await self._before(self)
            if instead is not None:
                return instead
        response = await handler(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        answer = json.loads(response.body)
        claim = answer.get("claim")
        if claim and claim["status"] in ("awarded", "no_prize"):
            self.first.setdefault(scan["code"], claim)
        if self._fault is None:
            return response
        self.answers += 1
        changed = self._fault(self, scan, answer)
        if changed is None:
            assert request.transport is not None
            request.transport.abort()
            return response
        status = changed.pop("http_status", response.status)
        return web.json_response(changed, status=status)


@contextmanager
def standing_in(folder: Path, fault: Fault | None = None, *, before: Before | None = None) -> Iterator[StandIn]:
    """Serve a workspace with a fault."""
    with StandIn(folder, fault, before) as stand_in:
        yield stand_in
