"""Memory of the Redis ledger with 1, 20 and 80 % of a batch of 10 million codes claimed, in random order.

    python benchmarks/redis_memory.py

Once with all claims by one person, which is the memory of the claims alone, and once with one person for every three
claims. Every event is acknowledged, so the outbox holds none. Prints bytes a claim, above the empty server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import numpy as np
import redis
from msgspec.structs import replace

from ledger_claims import TERMS, requests_for
from redis_server import redis_server
from scanengine.ledger.redis import RedisLedger

CODES = 10_000_000
SHARES = (0.01, 0.2, 0.8)
CHUNK = 12_800
CLAIMS_A_PERSON = 3
UNLIMITED = replace(TERMS, per_user=None, per_user_per_day=None)


def used_bytes(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


async def claim_all(ledger: RedisLedger, items: np.ndarray, people: np.ndarray, generator: np.random.Generator) -> None:
    for start in range(0, len(items), CHUNK):
        part = slice(start, start + CHUNK)
        requests = [
            replace(request, terms=UNLIMITED, user=f"wx:{person}", user_hash=person, visit_hash=hash_)
            for request, person, hash_ in zip(
                requests_for(items[part], generator),
                people[part].tolist(),
                generator.integers(0, 1 << 63, len(items[part])).tolist(),
                strict=True,
            )
        ]
        receipts = await ledger.claim_many_async(requests)
        assert all(not receipt.replayed and receipt.status.value in ("awarded", "no_prize") for receipt in receipts)


def run(codes: int, *, is_one_person: bool) -> dict[str, float]:
    generator = np.random.default_rng(5)
    items = generator.permutation(np.arange(codes))
    found = {}
    with (
        tempfile.TemporaryDirectory(prefix="redis-memory-") as folder,
        redis_server(Path(folder) / "server", "volatile") as url,
        redis.Redis.from_url(url) as client,
    ):
        ledger = RedisLedger(url, "benchmark", durability="volatile", outbox="drop", timeout_s=60)
        empty = used_bytes(client)
        done = 0
        hashes = generator.integers(0, 1 << 63, codes // CLAIMS_A_PERSON + 1)
        for share in SHARES:
            target = int(codes * share)
            numbers = np.arange(done, target)
            people = np.zeros(len(numbers), np.int64) if is_one_person else hashes[numbers // CLAIMS_A_PERSON]
            asyncio.run(claim_all(ledger, items[done:target], people, generator))
            done = target
            found[f"{share:.0%}"] = (used_bytes(client) - empty) / done
        assert ledger.totals().claims == done
        ledger.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--codes", type=int, default=CODES)
    arguments = parser.parse_args()
    claims = run(arguments.codes, is_one_person=True)
    print(json.dumps({"claims alone, bytes": claims}), flush=True)
    print(json.dumps({"with one person for three claims, bytes": run(arguments.codes, is_one_person=False)}))


if __name__ == "__main__":
    main()
