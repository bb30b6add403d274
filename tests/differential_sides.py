"""The two servers of ``differential.py`` as their clients see them, and what a client waits for.

No reply is waited for by time. Where it is known how many come, these are waited for. For the rest each server is asked
a claim on another connection, again and again: as ledgers answer in order of arrival, a connection that got no byte
during a few of these will get none.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, cast

from differential_cases import Wait
from helpers import TOKEN

QUIET_PROBES: Final = 3
"""How many claims of others are answered while a connection gets no byte, until none is expected. One would do if both
were read at the same moment."""
STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
"""How a reply begins."""
WAIT_S: Final = 120.0
"""How long anything here waits before the run fails; nothing waits this long when all is well."""


class Wire(asyncio.Protocol):
    """One connection that is always read."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.has_ended = False
        self.changed = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.changed.set()

    def eof_received(self) -> None:
        self.has_ended = True
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.has_ended = True
        self.changed.set()

    def write(self, data: bytes) -> None:
        if data and not self.has_ended and self.transport is not None:
            self.transport.write(data)

    def finish(self) -> None:
        """Say that no more will be sent."""
        if not self.has_ended and self.transport is not None:
            self.transport.write_eof()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def replies(self) -> int:
        """How many replies have begun."""
        return len(STATUS.findall(self.received))

    async def replied(self, count: int) -> None:
        """Return when so many replies have begun, or the connection has ended."""
        await self._until(lambda: self.replies >= count)

    async def ended(self) -> None:
        """Return when the connection has ended."""
        await self._until(lambda: False)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not (self.has_ended or is_so()):
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), WAIT_S)


class Probe:
    """Asks one request again and again while somebody waits for a reply to it.

    Parameters
    ----------
    anew : bool
        Whether each request has a connection of its own. Connections are accepted in their order, not all in one turn.
    """

    def __init__(self, port: int, request: bytes, *, anew: bool = False) -> None:
        self._port = port
        self._request = request
        self._anew = anew
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._ask())

    async def close(self) -> None:
        """Ask no more; raises what went wrong, if anything has."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                waiting, self._waiting = self._waiting, []
                if self._anew:
                    writer.transport.abort()
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(self._request)
                head = await reader.readuntil(b"\r\n\r\n")
                (size,) = re.findall(rb"\r\nContent-Length: (\d+)\r\n", head)
                body = await reader.readexactly(int(size))
                assert head.startswith(b"HTTP/1.1 200 "), head + body
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_result(None)
        finally:
            writer.transport.abort()

    async def answered(self) -> None:
        """Return when a request that was sent from now on is answered."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wanted.set()
        await asyncio.wait({waiter, self._task}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        assert waiter.done(), "the server does not answer"


class Side:
    """One of the two servers."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, code: str) -> None:
        self._process = process
        self.port = port
        scan = json.dumps({"code": code, "user": "prober", "visit": "one"}).encode()
        head = "POST /v1/scans HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n"
        self._read = Probe(port, b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        self._accepted = Probe(port, b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n", anew=True)
        self._answered = Probe(port, head.format(TOKEN, len(scan)).encode() + scan)

    async def connect(self, source: str) -> Wire:
        """Return a connection from this address that the server has accepted."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(Wire, "127.0.0.1", self.port, local_addr=(source, 0))
        await self._accepted.answered()
        return wire

    async def wait(self, wire: Wire, wait: Wait) -> None:
        """Wait as a client does."""
        if wire.has_ended:
            return
        if wait is Wait.NOTHING:
            await asyncio.sleep(0)
        elif wait is Wait.READ:
            await self._read.answered()
        else:
            size = -1
            while size != len(wire.received) and not wire.has_ended:
                size = len(wire.received)
                for _ in range(QUIET_PROBES):
                    await self._answered.answered()

    async def forward(self) -> None:
        """Let time pass for budgets of bad codes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"forward\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), WAIT_S)
        assert line == b"forward\n", line

    async def close(self) -> None:
        """Stop the server, which first answers everything."""
        for probe in (self._read, self._accepted, self._answered):
            await probe.close()
        await asyncio.sleep(0)  # So that what was aborted is closed.
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = await asyncio.wait_for(self._process.wait(), WAIT_S)
        assert code == 0, f"a server ended with exit code {code}"


@asynccontextmanager
async def a_side(folder: Path, code: str, plant: str | None = None) -> AsyncIterator[Side]:
    """Serve a workspace."""
    arguments = [str(Path(__file__).with_name("differential_twin.py")), str(folder), *([plant] if plant else [])]
    pipe = asyncio.subprocess.PIPE
    log_path = folder.with_name(f"{folder.name}.log")
    with open(log_path, "wb") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=log)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), WAIT_S)
        side = Side(process, int(line), code)
        yield side
        await side.close()
        assert "Traceback" not in log_path.read_text(), log_path.read_text()[-8_000:]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
