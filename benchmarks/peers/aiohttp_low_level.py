"""The same as ``aiohttp_hello.py`` without routes, middlewares or an application: aiohttp's low-level ``web.Server``.

python aiohttp_low_level.py BYTES
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def serve(body: bytes) -> None:
    async def hello(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(hello, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(b"x" * int(sys.argv[1])))
