"""Our own core and our own Redis function, in a plain aiohttp handler: one call of the function for each request.

What is left out is what this project adds around them: calls gathered into batches, and the hot path. The body is read,
the code is proved and decided, the claim is made and told by the same code as in the server; only the way to Redis is
that of a connection pool, one connection for as long as one claim takes. The workspace must be one whose ledger is in
Redis.

python one_fcall.py WORKSPACE
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import uvloop
from aiohttp import web
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import scanengine
from scanengine.ledger.redis import control
from scanengine.ledger.redis._codec import Encoder
from scanengine.ledger.redis._replies import decode_answers
from scanengine.ledger.redis.keys import Keys
from scanengine.model import Receipt
from scanengine.program.claims import claim_request
from scanengine.server.scans import read_scan

POOL = 64
"""Connections of the pool: as many as clients ask at a time, so nobody waits for one."""
CAMPAIGN = "bench"


async def serve(folder: str) -> None:
    program = scanengine.open(folder)
    keys = Keys(program.settings.program.id)
    epoch = program.ledger._session.epoch
    pool = BlockingConnectionPool.from_url(
        program.settings.ledger.url, max_connections=POOL, timeout=None, retry=Retry(NoBackoff(), 0)
    )
    client = Redis(connection_pool=pool)
    number = await control.number(keys, CAMPAIGN)(client.execute_command, epoch)
    encoder = Encoder(keys, outbox="keep", scan_events=False)
    numbers, names = {CAMPAIGN: number}, {number: CAMPAIGN}

    async def claim(request: web.Request) -> web.Response:
        scan = read_scan(await request.read())
        now_ms = time.time_ns() // 1_000_000
        engine = program.engine
        decision = engine.decide(scan.code, now_ms)
        asked = claim_request(program.keyring, scan, decision, now_ms)
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(encoder.call(epoch, (asked,), numbers))
            reply = await connection.read_response()
        finally:
            await pool.release(connection)
        receipt = decode_answers(reply, (asked,), names)[1][0]
        assert isinstance(receipt, Receipt)
        answer = program.answerer.claimed(decision, asked.claim_id, receipt, engine.snapshot)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/scans", claim)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
