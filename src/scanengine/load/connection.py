"""One connection of the load generator: a request out, a reply in, and nothing in between.

Replies are framed strictly: HTTP/1.1, one Content-Length, no transfer encoding, not a byte more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from scanengine.load.tape import BROKEN, LOST, TIMED_OUT

_BUFFER_BYTES: Final = 1 << 16
_LENGTH: Final = b"\r\ncontent-length: "
_LENGTH_DIGITS_MAX: Final = 9
_OK: Final = b"HTTP/1.1 200 "
_LENGTH_AS_WE_WRITE_IT: Final = b"\r\nContent-Length: "
_CLOSES: Final = b"\r\nConnection: close\r\n"


class Dispatcher(Protocol):
    """What a connection needs of the crew it belongs to: where to note things, and what to do next."""

    start_ns: int
    width: int
    requests: memoryview[Any]
    sent: memoryview[Any]
    answered: memoryview[Any]
    status: memoryview[Any]
    start: memoryview[Any]
    size: memoryview[Any]
    replies: bytearray
    in_flight: int

    def is_free(self, connection: Connection, now_ns: int) -> None:
        """Let a connection send the next request, or wait for it to be due."""

    def is_gone(self, connection: Connection) -> None:
        """Open a connection in place of one that ended."""


class Connection(asyncio.BufferedProtocol):
    """One connection with at most one request on its way."""

    def __init__(self, crew: Dispatcher) -> None:
        self._crew = crew
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._write: Callable[[Any], None]
        self.row = -1
        self.sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Get ready to be used."""
        # uvloop's transports are none of asyncio's classes, and have the same methods.
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write

    def send(self, row: int, now_ns: int) -> None:
        """Send the request of a row."""
        self.row = row
        self.sent_ns = now_ns
        crew = self._crew
        crew.sent[row] = now_ns - crew.start_ns
        start = row * crew.width
        self._write(crew.requests[start : start + crew.width])

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._view[self._filled :] if self._filled else self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes of a reply; when it is whole, note it and send on."""
        now_ns = time.monotonic_ns()
        filled = self._filled + nbytes
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", 0, filled)
        if end < 0:
            self._filled = filled
            if filled == _BUFFER_BYTES:
                self._is_broken(now_ns)
            return
        at = buffer.find(_LENGTH_AS_WE_WRITE_IT, 0, end)
        # As little as framing needs: whether the head is strictly right is looked at when the clock has stopped.
        if at > 0 and buffer.startswith(_OK):
            length = buffer[at + len(_LENGTH_AS_WE_WRITE_IT) : buffer.find(b"\r", at + 2, end + 1)]
            status, size = 200, int(length) if length.isdigit() else -1
            closes = buffer.find(_CLOSES, 0, end + 2) > 0
        else:
            status, size, closes = read_head(bytes(buffer[: end + 2]))
        whole = end + 4 + size
        if size < 0 or self.row < 0 or filled > whole or whole > _BUFFER_BYTES:
            self._is_broken(now_ns)
            return
        if filled < whole:
            self._filled = filled
            return
        self._filled = 0
        crew, row, self.row = self._crew, self.row, -1
        replies = crew.replies
        crew.answered[row] = now_ns - crew.start_ns
        crew.start[row] = len(replies)
        crew.size[row] = whole
        crew.status[row] = status
        replies += self._view[:whole]
        crew.in_flight -= 1
        if closes:
            self.transport.close()
            return
        crew.is_free(self, now_ns)

    def _is_broken(self, now_ns: int) -> None:
        self._fail(BROKEN, now_ns)
        self.transport.abort()

    def _fail(self, status: int, now_ns: int) -> None:
        crew = self._crew
        if self.row >= 0:
            crew.status[self.row] = status
            # Not counted as an answer; kept to tell when it failed.
            crew.answered[self.row] = now_ns - crew.start_ns
            crew.in_flight -= 1
            self.row = -1

    def give_up(self, now_ns: int) -> None:
        """End a connection whose request was not answered in time."""
        self._fail(TIMED_OUT, now_ns)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note what was on its way as lost, and let the crew open another."""
        self._fail(LOST, time.monotonic_ns())
        self._crew.is_gone(self)


def read_head(head: bytes) -> tuple[int, int, bool]:
    """Return status, body size and whether the connection ends; size -1 if the head is not strictly right.

    Strict is HTTP/1.1, one Content-Length of digits alone, and no Transfer-Encoding.
    """
    head = head.lower()
    at = head.find(_LENGTH)
    length = head[at + len(_LENGTH) : head.find(b"\r\n", at + len(_LENGTH))]
    status = head[9:12]
    if (
        not head.startswith(b"http/1.1 ")
        or not status.isdigit()
        or head[12:13] not in (b" ", b"\r")
        or status < b"200"
        or at < 0
        or not length.isdigit()
        or len(length) > _LENGTH_DIGITS_MAX
        or head.count(b"\r\ncontent-length") != 1
        or b"\r\ntransfer-encoding" in head
    ):
        return 0, -1, True
    return int(status), int(length), b"\r\nconnection: close\r\n" in head
