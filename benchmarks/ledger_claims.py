"""Durable claims per second of the SQLite ledger, at a given number of earlier claims.

Run: python benchmarks/ledger_claims.py [--earlier 5000000] [--claims 300000] [--callers 256] [--folder FOLDER]

A ledger is filled with valid records, events and counters through plain SQL, far faster than by claiming. Then it is
opened as a server would, and asyncio callers claim fresh items in random order, each waiting for its answer before the
next. Requests are made before the clock starts; after it stops every answer is checked against a second claim of the
same item, and the whole file by the audit. Latency is that of a closed loop: it says how long a caller waited at this
load, not what it would wait at a lower one. Garbage collection is as in a default interpreter, apart from the inputs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from scanengine.ledger import SqliteLedger, SqliteReader, audit, schema
from scanengine.ledger.records import CLAIM_DTYPE
from scanengine.ledger.sealing import seal
from scanengine.model import CampaignTerms, ClaimRequest, Event, Offer, Party, PrizeTerms, Receipt

USERS = 300_000
DATE = 20_513
NOW_MS = 1_772_298_000_000
TERMS = CampaignTerms(
    id="spring",
    opens_ms=0,
    closes_ms=NOW_MS + 10**10,
    prizes=(PrizeTerms(0, money=100, stock=10**9, stock_per_day=10**9, fallback=1), PrizeTerms(1)),
    per_user=1000,
    per_user_per_day=1000,
    budget_total=10**12,
)
CHUNK = 50_000


def user_hash(users: np.ndarray) -> np.ndarray:
    return users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def claim_records(items: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return claims of items in their order, one in ten awarded, spread over ten days; and who made each."""
    count = len(items)
    records = np.zeros(count, CLAIM_DTYPE)
    users = generator.integers(0, USERS, count)
    days = np.arange(count) * 10 // max(count, 1)
    is_awarded = np.arange(count) % 10 == 0
    records["item"] = items
    records["user_hash"] = user_hash(users)
    records["visit_hash"] = generator.integers(0, 1 << 63, count)
    records["at_ms"] = NOW_MS - count + np.arange(count)
    records["money"] = np.where(is_awarded, 100, 0)
    records["campaign"] = records["generation"] = records["is_first_scan"] = 1
    records["local_date"] = DATE - 9 + days
    records["unit"] = np.where(is_awarded, np.cumsum(is_awarded), 0)
    records["person_total"] = count_up(users)
    records["person_day"] = count_up(users * 16 + days)
    records["drawn"] = records["prize"] = np.where(is_awarded, 0, -1)
    return records, users


def counters_of(records: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return kind, prize, local date and value of all counters that such claims make."""
    rows = []
    for date in [0, *range(DATE - 9, DATE + 1)]:
        chosen = records if not date else records[records["local_date"] == date]
        awards = int((chosen["prize"] == 0).sum())
        rows += [(schema.COUNT_CLAIMS, 0, date, len(chosen)), (schema.COUNT_AWARDS, 0, date, awards)]
        rows += [(schema.COUNT_MONEY, 0, date, awards * 100)]
    return [row for row in rows if row[-1]]


def fill(path: Path, count: int, generator: np.random.Generator) -> None:
    """Write ``count`` claims of items 0 to ``count`` - 1 and their events."""
    connection = schema.open_owned(path, "benchmark")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("INSERT INTO campaigns VALUES (1, 'spring')")
    schema.write_meta(connection, "generation", 1)
    records, users = claim_records(generator.permutation(count), generator)
    for start in range(0, count, CHUNK):
        write_chunk(connection, start, records[start : start + CHUNK], users[start : start + CHUNK])
    connection.executemany("INSERT INTO counters VALUES (1, ?, ?, ?, ?)", counters_of(records))
    connection.close()


def write_chunk(connection: sqlite3.Connection, start: int, records: np.ndarray, users: np.ndarray) -> None:
    packed = records.tobytes()
    size = CLAIM_DTYPE.itemsize
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO claims VALUES (?, ?)",
        ((start + i + 1, packed[i * size : (i + 1) * size]) for i in range(len(records))),
    )
    events = []
    for i, (record, user) in enumerate(zip(records.tolist(), users.tolist(), strict=True)):
        item, _, _, at_ms, money, *_, unit, _, _, rule, drawn, prize, _, _ = record
        seq = start + i + 1
        event = Event(
            claim_id(item), seq, "claim", at_ms, item, "cola-2026", "06901234567892", f"wechat:{user:028}", "consumer",
            440300, "spring", 1, rule, drawn, prize, money, unit, claim_id(item), f"visit-{item:016}",
        )  # fmt: skip
        events.append((seq, seq, seal(event)))
    connection.executemany("INSERT INTO events VALUES (?, ?, ?)", events)
    connection.execute("COMMIT")


def count_up(keys: np.ndarray) -> np.ndarray:
    """Return for each place how often its key has occurred up to there."""
    order = np.argsort(keys, kind="stable")
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[order][1:] != keys[order][:-1]
    places = np.arange(len(keys))
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = places - np.maximum.accumulate(np.where(is_first, places, 0)) + 1
    return numbers


def claim_id(item: int) -> str:
    return f"{item:026}"


def requests_for(items: np.ndarray, generator: np.random.Generator) -> list[ClaimRequest]:
    users = generator.integers(0, USERS, len(items))
    hashes = user_hash(users).tolist()
    first = ClaimRequest(
        item=0,
        party=Party.CONSUMER,
        user="",
        user_hash=0,
        visit="",
        visit_hash=0,
        claim_id="",
        generation=1,
        offers=(),
        terms=TERMS,
        refusal=None,
        local_date=DATE,
        now_ms=NOW_MS,
        batch="cola-2026",
        product="06901234567892",
        region=440300,
    )
    return [
        replace(
            first,
            item=item,
            user=f"wechat:{user:028}",
            user_hash=hash_,
            visit=f"visit-{item:016}",
            visit_hash=item * 7 + 1,
            claim_id=claim_id(item),
            offers=(Offer(0, 0 if item % 10 == 0 else -1),),
        )
        for item, user, hash_ in zip(items.tolist(), users.tolist(), hashes, strict=True)
    ]


async def run(
    ledger: SqliteLedger, requests: list[ClaimRequest], callers: int
) -> tuple[float, list[float], list[Receipt]]:
    latencies = [0.0] * len(requests)
    receipts: list[Receipt | None] = [None] * len(requests)
    clock = time.perf_counter

    async def caller(first: int) -> None:
        for n in range(first, len(requests), callers):
            start = clock()
            receipts[n] = await ledger.claim_async(requests[n])
            latencies[n] = clock() - start

    start = clock()
    await asyncio.gather(*(caller(first) for first in range(callers)))
    return clock() - start, latencies, [receipt for receipt in receipts if receipt is not None]


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--earlier", type=int, default=5_000_000)
    parser.add_argument("--claims", type=int, default=300_000)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--keep", type=Path, help="a filled ledger to copy; made there if it does not exist")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--no-audit", action="store_true")
    arguments = parser.parse_args()
    generator = np.random.default_rng(20260301)
    folder = Path(tempfile.mkdtemp(prefix="ledger-benchmark-", dir=arguments.folder))
    path = folder / "ledger.sqlite"
    try:
        source = arguments.keep or path
        if not source.exists():
            start = time.perf_counter()
            fill(source, arguments.earlier, generator)
            print(f"filled with {arguments.earlier} claims in {time.perf_counter() - start:.0f} s")
        if arguments.keep:
            shutil.copy(source, path)
        os.sync()  # What was written to prepare shall not be flushed while claims are measured.
        measure(path, arguments, generator)
    finally:
        shutil.rmtree(folder)


def measure(path: Path, arguments: argparse.Namespace, generator: np.random.Generator) -> None:
    before_mb = memory_mb()
    start = time.perf_counter()
    ledger = SqliteLedger(path, "benchmark")
    opened_s = time.perf_counter() - start
    opened_mb = memory_mb()
    items = generator.permutation(np.arange(arguments.earlier, arguments.earlier + arguments.claims))
    requests = requests_for(items, generator)
    gc.collect()
    gc.freeze()  # The inputs would not be there in a server; the collector shall not walk over them.
    runner = asyncio.run
    if arguments.uvloop:
        import uvloop

        runner = uvloop.run
    cpu_s = time.process_time()
    elapsed_s, latencies, receipts = runner(run(ledger, requests, arguments.callers))
    cpu_s = time.process_time() - cpu_s
    again = ledger.claim_many(requests)
    assert again == [replace(receipt, replayed=True) for receipt in receipts], "an answer changed"
    assert all(receipt.prize == (0 if item % 10 == 0 else -1) for receipt, item in zip(receipts, items, strict=True))
    index_mb = ledger.index_bytes / 1e6
    ledger.close()
    p50, p99, longest = np.percentile(np.array(latencies) * 1000, [50, 99, 100])
    figures = {
        "claims_per_s": arguments.claims / elapsed_s,
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": longest,
        "cpu_us_per_claim": cpu_s / arguments.claims * 1e6,
        "open_s": opened_s,
        "indexes_mb": index_mb,
        "opening_peak_mb": opened_mb - before_mb,
    }
    print(json.dumps({name: round(float(value), 2) for name, value in figures.items()}))
    if not arguments.no_audit:
        start = time.perf_counter()
        with SqliteReader(path) as reader:
            report = audit(reader, {"spring": TERMS})
        print(
            f"audit: {report.claims} claims, {report.events} events, {report.problems or 'no problems'},"
            f" {time.perf_counter() - start:.0f} s, {memory_mb():.0f} MB at most"
        )


if __name__ == "__main__":
    main()
