"""A light closed-loop client: N connections on loopback, prepared requests, replies read after the clock.

Run as a process of its own, so that it shares no interpreter with the server it measures:

    python load_client.py PORT FILE SIZE FIRST CONNECTIONS [--seconds S] [--count N] [--replies FILE]

The file holds whole requests of SIZE bytes each; sent are those from FIRST on, each once, for so long or so many.
Prints the same line of JSON as ``records.lua``. With ``--replies`` every reply is kept, a line of hexadecimal each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import time
from pathlib import Path

import uvloop


class Work:
    """The requests that are left, and what came of the others."""

    def __init__(self, file: mmap.mmap, size: int, first: int, count: int, seconds: float) -> None:
        self.file, self.size, self.at = file, size, first
        self.end = min(len(file) // size, first + count) if count else len(file) // size
        self.ran_out = 0
        self.sent = 0
        self.seconds = seconds
        self.due = float("inf")
        self.replies: list[bytes] = []
        self.times: list[float] = []

    def next(self) -> bytes | None:
        """Return the next request, None when time or requests are at an end."""
        if time.perf_counter() >= self.due:
            return None
        if self.at == self.end:
            self.ran_out = 1
            return None
        self.at += 1
        self.sent += 1
        return self.file[(self.at - 1) * self.size : self.at * self.size]


class Connection(asyncio.Protocol):
    """Sends the next request when the whole reply to the one before has come."""

    def __init__(self, work: Work, done: asyncio.Event) -> None:
        self.work, self.done = work, done
        self.buffer = b""
        self.sent_at = 0.0
        self.is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        request = self.work.next()
        self.is_waiting = request is not None
        if request is None:
            self.transport.close()
            return
        self.sent_at = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.buffer[:head_end].lower()
        at = head.index(b"content-length: ") + 16
        size = int(head[at:].partition(b"\r\n")[0])
        if len(self.buffer) < head_end + 4 + size:
            return
        self.work.times.append(time.perf_counter() - self.sent_at)
        self.work.replies.append(self.buffer)
        self.buffer = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()


async def run(port: int, work: Work, connections: int) -> tuple[float, int]:
    """Return how long it took, and how many requests got no reply."""
    loop = asyncio.get_running_loop()
    made = []
    start = time.perf_counter()
    if work.seconds:
        work.due = start + work.seconds
    for _ in range(connections):
        done = asyncio.Event()
        _, connection = await loop.create_connection(lambda done=done: Connection(work, done), "127.0.0.1", port)
        made.append(connection)
    await asyncio.gather(*(connection.done.wait() for connection in made))
    return time.perf_counter() - start, sum(connection.is_waiting for connection in made)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("port", "file", "size", "first", "connections"):
        parser.add_argument(name, type=Path if name == "file" else int)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--replies", type=Path)
    arguments = parser.parse_args()
    with arguments.file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as requests:
        work = Work(requests, arguments.size, arguments.first, arguments.count, arguments.seconds)
        took, errors = uvloop.run(run(arguments.port, work, arguments.connections))
    if arguments.replies:
        with arguments.replies.open("w") as out:
            out.writelines(reply.hex() + "\n" for reply in work.replies)
    times = sorted(work.times)
    found = {
        "replies": len(times),
        "seconds": took,
        "sent": work.sent,
        "refused": sum(reply[9:10] not in (b"2", b"3") for reply in work.replies),
        "errors": errors,
        "ran_out": work.ran_out,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
