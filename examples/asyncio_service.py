"""Scanning as a part of another aiohttp service: its own routes and middlewares around ``program.web_app()``.

python asyncio_service.py shop --port 8082
curl -s localhost:8082/scan/v1/scans -d '{"code": "…", "user": "ann"}'
curl -s localhost:8082/points/ann -d '{"codes": ["…", "…"]}'
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

import scanengine

PROGRAM = web.AppKey("program", scanengine.Program)
FOLLOW_S = 0.5
logger = logging.getLogger(__name__)


async def collect_points(request: web.Request) -> web.Response:
    """Claim all codes of a shopping bag for one member, and add up the points."""
    codes = (await request.json())["codes"]
    program, member = request.app[PROGRAM], request.match_info["member"]
    # The same visit for the same code of the same member: asking again never counts or gives twice.
    answers = await asyncio.gather(
        *[program.claim_async(code, user=f"member:{member}", visit=f"bag:{member}") for code in codes]
    )
    prizes = [answer.claim.prize for answer in answers if answer.claim and answer.claim.prize]
    return web.json_response(
        {
            "points": sum(prize.amount or 0 for prize in prizes if prize.kind == "points"),
            "pending": sum(answer.is_pending for answer in answers),
        }
    )


@web.middleware
async def name_the_shop(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Stand for what a service does around all of its routes, the mounted ones too."""
    response = await handler(request)
    response.headers["X-Shop"] = "corner"
    return response


async def following(app: web.Application) -> AsyncIterator[None]:
    """Take over publications while the service runs, as a server of scanengine's own does."""

    async def follow() -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                await asyncio.to_thread(app[PROGRAM].refresh)
            except scanengine.ScanEngineError:
                logger.exception("the publication cannot be used, the old one stays")

    task = asyncio.create_task(follow())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def make_app(program: scanengine.Program) -> web.Application:
    """Return the whole service; bodies may have 4 MiB, as batches of scans need."""
    app = web.Application(middlewares=[name_the_shop], client_max_size=4 << 20)
    app[PROGRAM] = program
    app.router.add_post("/points/{member}", collect_points)
    app.add_subapp("/scan/", program.web_app())
    app.cleanup_ctx.append(following)
    return app


async def serve(folder: str, port: int) -> None:
    """Serve until cancelled, as by control-C; requests in progress are answered before the ledger is closed."""
    with scanengine.open(folder) as program:
        runner = web.AppRunner(make_app(program), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace")
    parser.add_argument("--port", type=int, default=8082)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.workspace, arguments.port))


if __name__ == "__main__":
    main()
