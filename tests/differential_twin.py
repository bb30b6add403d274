"""One of the two servers of ``differential.py``: a process whose clocks stand still until they are told to go on.

    python tests/differential_twin.py FOLDER [PLANT]

Prints its port, then answers each line of its input: ``forward`` lets a quarter of an hour pass for the budgets of bad
codes, so that all of them are full again. The end of the input stops it. A plant is a fault that is put into some
replies, for the test that faults are found.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

import scanengine
from helpers import NOW_MS
from scanengine.server import Server
from scanengine.server.limits import FailureBudget, open_memory

PLANTED_AT: Final = "Priority"
"""Requests with this header, of which there are some, get a fault."""
_FORWARD_S: Final = 900.0

_last_bodies: dict[object, bytes] = {}
"""By the address of the client."""


class BudgetClock:
    """A clock of seconds that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def _change_header(request: web.Request, response: web.Response) -> None:
    response.headers["Content-Type"] = f"{response.headers['Content-Type']} "


def _swap_headers(request: web.Request, response: web.Response) -> None:
    response.headers["Content-Type"] = response.headers.pop("Content-Type")
    response.headers["X-Request-Id"] = response.headers.pop("X-Request-Id", "0" * 20)


def _change_body(request: web.Request, response: web.Response) -> None:
    assert isinstance(response.body, bytes)
    response.body = response.body[:-1] + b"~"


def _answer_another(request: web.Request, response: web.Response) -> None:
    """Give what the request before on the same connection was answered with."""
    response.body = _last_bodies.get(_client(request), b"{}")


def _client(request: web.Request) -> object:
    return request.transport.get_extra_info("peername") if request.transport else None


def _close(request: web.Request, response: web.Response) -> None:
    response.force_close()


PLANTS: Final[dict[str, Callable[[web.Request, web.Response], None]]] = {
    "header": _change_header,
    "header-order": _swap_headers,
    "body-byte": _change_body,
    "reply-order": _answer_another,
    "close": _close,
}


def _planting(name: str) -> Middleware:
    """Return what puts a fault into the replies to some requests, whatever their codes are."""

    @web.middleware
    async def plant(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if isinstance(response, web.Response) and isinstance(response.body, bytes) and response.status == HTTPStatus.OK:
            body = response.body
            if PLANTED_AT in request.headers:
                PLANTS[name](request, response)
            _last_bodies[_client(request)] = body
        return response

    return plant


async def serve(folder: Path, plant: str | None) -> None:
    """Serve until the input ends."""
    clock = BudgetClock()
    defaults = FailureBudget.__init__.__kwdefaults__
    assert "now_s" in defaults
    defaults["now_s"] = clock
    memory = open_memory()
    os.pwrite(memory, bytes(range(32)), 0)  # Both servers keep sources in the same places.
    program = scanengine.open(folder)
    program.clock = lambda: NOW_MS
    server = Server(program, port=0, budget_memory=memory, gate=_planting(plant) if plant else None)
    await server.start()
    print(server.port, flush=True)

    def read() -> None:
        line = sys.stdin.readline()
        if line:
            clock.now_s += _FORWARD_S
            print("forward", flush=True)
        else:
            asyncio.get_running_loop().remove_reader(0)
            server.stop()

    asyncio.get_running_loop().add_reader(0, read)
    await server.run_until_stopped()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
