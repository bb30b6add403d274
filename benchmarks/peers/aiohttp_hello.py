"""The yardstick: aiohttp's own ``web.Application`` on uvloop, one process; reads the body, answers a fixed length.

python aiohttp_hello.py BYTES
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def serve(body: bytes) -> None:
    async def hello(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/scans", hello)
    app.router.add_get("/hello/{code}", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(b"x" * int(sys.argv[1])))
