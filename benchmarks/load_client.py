"""A light closed-loop client: N connections on loopback, prebuilt requests, replies kept and read after the clock.

Run as a process of its own, so that it shares no interpreter with the server it measures:

    python load_client.py PORT REQUESTS_FILE REPLIES_FILE CONNECTIONS

Each line of the requests file is the hexadecimal of one request. Prints {"seconds", "p50_ms", "p99_ms"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque

import uvloop


class Connection(asyncio.Protocol):
    """Sends the next request when the whole reply to the one before has come."""

    def __init__(self, queue: deque[bytes], replies: list[bytes], times: list[float], done: asyncio.Event) -> None:
        self.queue, self.replies, self.times, self.done = queue, replies, times, done
        self.buffer = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        if not self.queue:
            self.transport.close()
            return
        self.sent_at = time.perf_counter()
        self.transport.write(self.queue.popleft())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        at = self.buffer.index(b"Content-Length: ") + 16
        size = int(self.buffer[at : self.buffer.index(b"\r\n", at)])
        if len(self.buffer) < head_end + 4 + size:
            return
        self.times.append(time.perf_counter() - self.sent_at)
        self.replies.append(self.buffer)
        self.buffer = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()


async def run(port: int, requests: list[bytes], connections: int) -> tuple[float, list[bytes], list[float]]:
    loop = asyncio.get_running_loop()
    queue, replies, times = deque(requests), [], []
    ends = [asyncio.Event() for _ in range(connections)]
    start = time.perf_counter()
    for end in ends:
        await loop.create_connection(lambda end=end: Connection(queue, replies, times, end), "127.0.0.1", port)
    await asyncio.gather(*(end.wait() for end in ends))
    return time.perf_counter() - start, replies, times


def main() -> None:
    port, requests_path, replies_path, connections = sys.argv[1:]
    with open(requests_path) as file:
        requests = [bytes.fromhex(line) for line in file]
    took, replies, times = uvloop.run(run(int(port), requests, int(connections)))
    with open(replies_path, "w") as file:
        file.writelines(reply.hex() + "\n" for reply in replies)
    times.sort()
    figures = {"seconds": took, "replies": len(replies)}
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        figures[name] = times[int(len(times) * share)] * 1e3
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
