"""Clients of ``POST /v1/scans`` that send at a rate, whatever comes back, or keep so many requests on their way.

An open loop does not slow down with the server that it asks, as a crowd does not, and says how far it fell behind.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from serving import WAIT_S, raw_post

_CONNECTIONS_MAX = 8_000


class Told(NamedTuple):
    """One reply; status 0 if the connection was lost."""

    status: int
    headers: bytes
    body: bytes
    seconds: float
    """From the time at which it was to be sent."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Offered(NamedTuple):
    """What became of requests, in their order."""

    told: list[Told]
    seconds: float
    """From the first request to the last reply."""
    lag_s: float
    """How late the latest request was sent."""


class _Connection(asyncio.Protocol):
    """Kept alive, with one request on its way at a time."""

    def __init__(self, is_idle: Callable[[_Connection], None]) -> None:
        self._is_idle = is_idle
        self._received = b""
        self._tell: Callable[[int, bytes, bytes], None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._is_idle(self)

    def send(self, request: bytes, tell: Callable[[int, bytes, bytes], None]) -> None:
        assert self._transport is not None
        self._tell = tell
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) == size:
            tell, self._tell, self._received = self._tell, None, b""
            assert tell is not None
            tell(int(head[9:12]), head, body)
            self._is_idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._tell is not None:
            self._tell(0, b"", b"")

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


class _Crowd:
    """Requests that wait for a connection, and connections that wait for a request."""

    def __init__(self, port: int, count: int) -> None:
        self.told: list[Told | None] = [None] * count
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._left = count
        self._waiting: deque[tuple[int, bytes, float]] = deque()
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
        self._opening: set[asyncio.Task[Any]] = set()

    async def open(self, count: int) -> None:
        for _ in range(count):
            await self._loop.create_connection(self._connection, "127.0.0.1", self._port)

    def send(self, number: int, request: bytes, due_s: float) -> None:
        self._waiting.append((number, request, due_s))
        if self._idle:
            self._use(self._idle.pop())
        elif len(self._all) < _CONNECTIONS_MAX:
            task = self._loop.create_task(self.open(1))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def _connection(self) -> _Connection:
        self._all.append(_Connection(self._use))
        return self._all[-1]

    def _use(self, connection: _Connection) -> None:
        if not self._waiting:
            self._idle.append(connection)
            return
        number, request, due_s = self._waiting.popleft()

        def tell(status: int, headers: bytes, body: bytes) -> None:
            self.told[number] = Told(status, headers, body, self._loop.time() - due_s)
            self._left -= 1
            if not self._left:
                self.done.set()

        connection.send(request, tell)


async def offer(port: int, requests: Sequence[bytes], per_s: float, connections: int = 64) -> Offered:
    """Send at a rate."""
    crowd = _Crowd(port, len(requests))
    await crowd.open(connections)
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    sent, lag_s = 0, 0.0
    while sent < len(requests):
        now_s = loop.time()
        due_s = start_s + sent / per_s
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)
            continue
        lag_s = max(lag_s, now_s - due_s)
        crowd.send(sent, requests[sent], due_s)
        sent += 1
    return await _end(crowd, start_s, lag_s)


async def keep(port: int, requests: Sequence[bytes], connections: int) -> Offered:
    """Keep so many requests on their way."""
    crowd = _Crowd(port, len(requests))
    loop = asyncio.get_running_loop()
    await crowd.open(connections)
    start_s = loop.time()
    for number, request in enumerate(requests):
        crowd._waiting.append((number, request, start_s))
    for connection in [crowd._idle.pop() for _ in range(connections)]:
        crowd._use(connection)
    return await _end(crowd, start_s, 0.0)


async def _end(crowd: _Crowd, start_s: float, lag_s: float) -> Offered:
    await asyncio.wait_for(crowd.done.wait(), WAIT_S)
    seconds = asyncio.get_running_loop().time() - start_s
    crowd.close()
    return Offered([told for told in crowd.told if told is not None], seconds, lag_s)


def claim_of(code: str, user: str) -> bytes:
    """Return the bytes of one claim."""
    return raw_post("/v1/scans", json.dumps({"code": code, "user": user}).encode(), "keep-alive")
