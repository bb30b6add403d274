"""The ceiling of one Python process: a bare protocol on uvloop that answers each read of its socket.

It is no HTTP server: whatever arrives in one read is taken for one request, which is what a generator without
pipelining sends on loopback.

python uvloop_protocol.py BYTES
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop


class Hello(asyncio.Protocol):
    """Answers the same whatever it is sent."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.reply)


async def serve(body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = head.encode() + body
    server = await asyncio.get_running_loop().create_server(lambda: Hello(reply), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(b"x" * int(sys.argv[1])))
