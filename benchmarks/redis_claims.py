"""Claims a second through the Redis ledger, against one call a claim over a pool, at 1, 16 and 256 callers.

    python benchmarks/redis_claims.py --profile everysec

Both send the same requests to the same function of one server; in turns, on items of their own. Beside them the plain
commands of a claim, each through ``redis-benchmark`` with a pipeline: what the server would do without any function,
without decisions, and without anybody waiting for an answer. Inputs are made before the clock; after it every answer
is asked for again and must be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from msgspec.structs import replace
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from harness import short
from ledger_claims import requests_for
from redis_server import redis_server
from scanengine.ledger.redis import RedisLedger
from scanengine.ledger.redis._codec import Encoder
from scanengine.ledger.redis._replies import decode_answers
from scanengine.ledger.redis.keys import Keys
from scanengine.model import ClaimRequest, Receipt

CALLERS = (1, 16, 256)
CLAIMS = {1: short(3_000, 200), 16: short(20_000, 1_000), 256: short(60_000, 4_000)}
POOL = 64
"""Connections of the pool; more make the baseline no faster."""
ROUNDS = short(3, 1)
PROGRAM = "benchmark"
PIPELINE = 16
PLAIN = {
    "hmget": ("hmget", "{b}:c:__rand_int__", "5", "133", "261"),
    "get": ("get", "{b}:u:1:__rand_int__"),
    "hset": ("hset", "{b}:c:__rand_int__", "5", "x" * 36),
    "set": ("set", "{b}:u:1:__rand_int__", "x" * 5),
    "xadd": ("xadd", "{b}:outbox", "*", "e", "x" * 120),
}

Claim = Callable[[ClaimRequest], Awaitable[Receipt]]


async def measure(claim: Claim, requests: list[ClaimRequest], callers: int) -> tuple[float, list[float], list[Receipt]]:
    """Return seconds, the seconds of each claim, and the receipts."""
    receipts: list[Receipt] = [None] * len(requests)  # type: ignore[list-item]
    latencies = [0.0] * len(requests)
    clock = time.perf_counter

    async def caller(first: int) -> None:
        for n in range(first, len(requests), callers):
            start = clock()
            receipts[n] = await claim(requests[n])
            latencies[n] = clock() - start

    start = clock()
    await asyncio.gather(*(caller(first) for first in range(callers)))
    return clock() - start, latencies, receipts


class OneCallEach:
    """The way of a pool: one connection and one call for each claim."""

    def __init__(self, url: str, epoch: bytes, number: int) -> None:
        self.pool = BlockingConnectionPool.from_url(
            url, max_connections=POOL, timeout=None, retry=Retry(NoBackoff(), 0)
        )
        self.encoder = Encoder(Keys(PROGRAM), outbox="drop", scan_events=False)
        self.epoch = epoch
        self.numbers = {"spring": number}
        self.names = {number: "spring"}

    async def claim(self, request: ClaimRequest) -> Receipt:
        connection = await self.pool.get_connection()
        try:
            await connection.send_packed_command(self.encoder.call(self.epoch, (request,), self.numbers))
            reply = await connection.read_response()
        finally:
            await self.pool.release(connection)
        receipt = decode_answers(reply, (request,), self.names)[1][0]
        assert isinstance(receipt, Receipt)
        return receipt


async def compare(url: str, generator: np.random.Generator) -> dict[str, float]:
    """Return claims a second and p99 of both ways, medians of the rounds."""
    ledger = RedisLedger(url, PROGRAM, durability="volatile", outbox="drop")
    try:
        warm = requests_for(np.arange(1 << 40, (1 << 40) + 500), generator)
        await ledger.claim_many_async(warm)
        number = ledger._session.numbers["spring"]
        other = OneCallEach(url, ledger._session.epoch, number)
        await asyncio.gather(*(other.claim(request) for request in warm))
        figures: dict[str, float] = {}
        start = 0
        for callers in CALLERS:
            samples: dict[str, list[tuple[float, float]]] = {"ledger": [], "pool": []}
            for _ in range(ROUNDS):
                for name, claim in (("ledger", ledger.claim_async), ("pool", other.claim)):
                    count = CLAIMS[callers] // (1 if name == "ledger" else 4)
                    requests = requests_for(generator.permutation(np.arange(start, start + count)), generator)
                    start += count
                    gc.collect()
                    gc.freeze()
                    seconds, latencies, receipts = await measure(claim, requests, callers)
                    again = await ledger.claim_many_async(requests)
                    assert again == [replace(receipt, replayed=True) for receipt in receipts], "an answer changed"
                    assert not any(receipt.replayed for receipt in receipts)
                    samples[name].append((count / seconds, float(np.percentile(latencies, 99)) * 1000))
            for name, found in samples.items():
                figures[f"{name}_{callers}"] = statistics.median(rate for rate, _ in found)
                figures[f"{name}_{callers}_p99_ms"] = statistics.median(p99 for _, p99 in found)
            figures[f"ratio_{callers}"] = figures[f"ledger_{callers}"] / figures[f"pool_{callers}"]
        await other.pool.disconnect()
        return figures
    finally:
        ledger.close()


def plain_commands(url: str) -> float | None:
    """Return how many claims a second the plain commands of a claim would make, None without the tool."""
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if tool is None:
        return None
    port = url.rpartition(":")[2].partition("/")[0]
    seconds = 0.0
    for words in PLAIN.values():
        done = subprocess.run(
            [tool, "-p", port, "-n", "100000", "-c", "8", "-P", str(PIPELINE), "-r", "1000000", "--csv", *words],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds += 1 / float(done.stdout.splitlines()[-1].split('","')[1])
    return 1 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", choices=("strict", "everysec", "volatile"), default="everysec")
    arguments = parser.parse_args()
    generator = np.random.default_rng(20260301)
    with (
        tempfile.TemporaryDirectory(prefix="redis-benchmark-") as folder,
        redis_server(Path(folder) / "server", arguments.profile) as url,
    ):
        figures: dict[str, Any] = dict(uvloop.run(compare(url, generator)))
        figures["plain_commands"] = plain_commands(url)
    shown = {name: round(value, 2) if value is not None else None for name, value in figures.items()}
    print(json.dumps({"profile": arguments.profile} | shown))


if __name__ == "__main__":
    main()
