"""A bad network in front of a server: loses requests, loses replies, delays, tears and resets, by seeded chance.

What a client sends before the next reply counts as one request, whatever the number of packets. A request that is
late arrives late: also when its sender has given it up, gone away, or sent it again on another connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, Final

FAULTS: Final = (
    "refuse", "cut_request", "cut_reply", "reset_request", "reset_reply", "delay_request", "delay_reply", "slice",
)  # fmt: skip
"""``refuse`` is by connection, the others by request. A request that is cut does not reach the server whole; a reply
that is cut is one of a request that the server has carried out."""

_CHUNK = 1 << 16
_PIECES_MAX = 16
_PIECE_GAP_S = 0.0002
"""Long enough that two pieces are two packets."""
_NO_LINGER = struct.pack("ii", 1, 0)
"""A socket closed with this sends RST instead of FIN."""


class FaultProxy:
    """Listens on loopback and passes everything on to a port there, apart from its faults; a context manager.

    Parameters
    ----------
    target_port : int
        Port of the server.
    rates : mapping of str to float
        Chance of each fault, for a request or connection; those not named are 0. Together at most 1.
    delay_s : tuple of float
        Shortest and longest delay, seconds.

    Attributes
    ----------
    port : int
        Port to connect to.
    counts : Counter
        Faults done, by name.
    requests, connections : int
        All of them, with faults or without.
    """

    def __init__(
        self,
        target_port: int,
        *,
        seed: int = 0,
        rates: Mapping[str, float] | None = None,
        delay_s: tuple[float, float] = (0.0, 0.2),
    ) -> None:
        self.port = 0
        self.counts: Counter[str] = Counter()
        self.requests = 0
        self.connections = 0
        self.delay_s = delay_s
        self._target_port = target_port
        self._seed = seed
        self._rates: dict[str, float] = {}
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self.set_rates(rates or {})

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Replace all rates, for the requests and connections that come from now on."""
        unknown = rates.keys() - set(FAULTS)
        assert not unknown, f"no such faults: {unknown}"
        self._rates = {name: rates.get(name, 0.0) for name in FAULTS}

    def cut_all(self) -> None:
        """Cut every connection there is now."""
        self._call(self._cut_all())

    def url(self, scheme: str = "redis") -> str:
        """Return the URL to give to a client."""
        return f"{scheme}://127.0.0.1:{self.port}/0"

    def chance(self) -> random.Random:
        """Return the chance of the next connection: the seed's, whatever other connections do meanwhile."""
        return random.Random(f"{self._seed} {self.connections}")

    def choose(self, chance: random.Random) -> str | None:
        """Return the fault of one request, or None; of the kinds that are on each comes once before any comes twice."""
        self.requests += 1
        at = chance.random()
        for name in FAULTS[1:]:
            at -= self._rates[name]
            if at < 0:
                found = next((kind for kind in FAULTS[1:] if self._rates[kind] and not self.counts[kind]), name)
                self.counts[found] += 1
                return found
        return None

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        chance = self.chance()
        if chance.random() < self._rates["refuse"]:
            self.counts["refuse"] += 1
            _reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # The server is not there, so neither is anything behind this port.
            _reset(writer)
            return
        link = _Link(self, chance, (reader, writer), (server_reader, server_writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _cut_all(self) -> None:
        for link in self._links:
            link.close()

    async def _stop(self) -> None:
        self._server.close()
        await self._cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # Transports close their sockets in the turn after.


class _Link:
    """One client's connection, and the one to the server that stands for it."""

    def __init__(
        self,
        proxy: FaultProxy,
        chance: random.Random,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._chance = chance
        self._client_reader, self._client = client
        self._server_reader, self._server = server
        self._fault: str | None = None
        self._is_answered = True

    async def run(self) -> None:
        """Pass everything on until one side, or a fault, ends it."""
        replies = asyncio.ensure_future(self._pass_replies())
        try:
            await self._pass_requests()
        finally:
            replies.cancel()
            await asyncio.gather(replies, return_exceptions=True)
            self.close()

    def close(self, *, is_reset: bool = False) -> None:
        """End both connections; what is on its way to the server still arrives, as it would on a network."""
        self._server.close()
        if is_reset:
            _reset(self._client)
        self._client.close()

    async def _pass_requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._client_reader.read(_CHUNK):
                if self._is_answered:
                    self._is_answered = False
                    self._fault = self._proxy.choose(self._chance)
                    if self._fault in ("cut_request", "reset_request"):
                        self._server.write(self._part(data))
                        self.close(is_reset=self._fault == "reset_request")
                        return
                    if self._fault == "delay_request":
                        await self._wait()
                await self._write(self._server, data)

    async def _pass_replies(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._server_reader.read(_CHUNK):
                self._is_answered = True
                if self._fault in ("cut_reply", "reset_reply"):
                    self._client.write(self._part(data))
                    self.close(is_reset=self._fault == "reset_reply")
                    return
                if self._fault == "delay_reply":
                    await self._wait()
                await self._write(self._client, data)
        self.close()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self._fault != "slice" or len(data) < 2:
            writer.write(data)
            await writer.drain()
            return
        count = min(_PIECES_MAX, len(data) - 1)
        places = [0, *sorted(self._chance.sample(range(1, len(data)), self._chance.randint(1, count))), len(data)]
        for start, end in itertools.pairwise(places):
            writer.write(data[start:end])
            await writer.drain()
            await asyncio.sleep(_PIECE_GAP_S)

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.uniform(*self._proxy.delay_s))

    def _part(self, data: bytes) -> bytes:
        """Return the beginning of something, perhaps nothing, never all of it."""
        return data[: self._chance.randrange(len(data))]


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
