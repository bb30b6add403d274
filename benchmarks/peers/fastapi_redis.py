"""The same service as it is commonly written: FastAPI, redis-py, an HMAC in each code, ``random.choices``, one script.

A code is ten symbols of a serial and ten of its HMAC. The prize is drawn when the scan arrives; the script takes the
code if nobody has, counts the person's day and the stock, and adds an event, so it writes what a claim of ours writes.
It is a fair baseline of the usual way, not a rival of the same promises: nothing shows later how a prize was drawn.

python fastapi_redis.py REDIS_URL
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import sys
import time

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Redis

SECRET = b"a secret of this benchmark alone"
PRIZES = ("cash-88", "points-10", "none")
WEIGHTS = (1, 99, 900)
STOCK = 100_000_000
PER_DAY = 1_000_000
POOL = 64
CLAIM = """
local before = redis.call('GET', KEYS[1])
if before then
  return before
end
if redis.call('INCR', KEYS[2]) > tonumber(ARGV[3]) then
  redis.call('DECR', KEYS[2])
  return ARGV[5]
end
local prize = ARGV[2]
if prize ~= 'none' and redis.call('INCR', KEYS[3]) > tonumber(ARGV[4]) then
  redis.call('DECR', KEYS[3])
  prize = 'none'
end
local claim = cjson.encode({user = ARGV[1], prize = prize, at = ARGV[6]})
redis.call('SET', KEYS[1], claim)
redis.call('XADD', KEYS[4], '*', 'claim', claim, 'code', KEYS[1])
return claim
"""


def tag(serial: str) -> str:
    """Return the ten symbols that prove a serial."""
    return base64.b32encode(hmac.digest(SECRET, serial.encode(), hashlib.sha256)[:7]).decode()[:10]


class ScanBody(BaseModel):
    """Body of ``POST /v1/scans``."""

    code: str
    user: str
    visit: str | None = None


def make_app(url: str) -> FastAPI:
    app = FastAPI()
    client = Redis(connection_pool=BlockingConnectionPool.from_url(url, max_connections=POOL, timeout=None))
    claim = client.register_script(CLAIM)

    @app.post("/v1/scans")
    async def scan(body: ScanBody) -> dict[str, object]:
        serial = body.code[:10]
        if not hmac.compare_digest(tag(serial), body.code[10:]):
            raise HTTPException(404, "not a code of ours")
        now = time.time()
        day = time.strftime("%Y%m%d", time.gmtime(now))
        drawn = random.choices(PRIZES, WEIGHTS)[0]
        keys = [f"claim:{serial}", f"user:{body.user}:{day}", f"stock:{drawn}", "events"]
        found = await claim(keys=keys, args=[body.user, drawn, PER_DAY, STOCK, '{"prize": "limited"}', int(now * 1000)])
        return {"code": body.code, "status": "valid", "claim": json.loads(found)}

    return app


if __name__ == "__main__":
    configuration = uvicorn.Config(make_app(sys.argv[1]), host="127.0.0.1", port=0, access_log=False, log_level="error")
    server = uvicorn.Server(configuration)
    socket = configuration.bind_socket()
    socket.listen(1024)
    print(socket.getsockname()[1], flush=True)
    server.run(sockets=[socket])
