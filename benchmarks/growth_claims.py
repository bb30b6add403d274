"""One sample of claims a second of a ledger that holds earlier ones: a fresh process, 256 callers, fresh items.

    python growth_claims.py PATH_OR_URL PROGRAM ITEMS_FILE FIRST COUNT

The items file holds int64 in random order; claimed are COUNT of them from FIRST on. After the clock every answer is
asked for again and must be the same, and the ledger must have grown by exactly COUNT claims. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from pathlib import Path

import numpy as np
import uvloop
from msgspec.structs import replace

from ledger_claims import requests_for, run
from scanengine.ledger import SqliteLedger
from scanengine.ledger.redis import RedisLedger

CALLERS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("ledger", "program", "items", "first", "count"):
        parser.add_argument(name, type=int if name in ("first", "count") else str)
    arguments = parser.parse_args()
    items = np.fromfile(arguments.items, np.int64, arguments.count, offset=8 * arguments.first)
    requests = requests_for(items, np.random.default_rng(arguments.first))
    start = time.perf_counter()
    if arguments.ledger.startswith("redis://"):
        ledger = RedisLedger(arguments.ledger, arguments.program, durability="everysec", outbox="drop")
    else:
        ledger = SqliteLedger(Path(arguments.ledger), arguments.program)
    opened_s = time.perf_counter() - start
    before = ledger.totals().claims
    gc.collect()
    gc.freeze()
    elapsed_s, latencies, receipts = uvloop.run(run(ledger, requests, CALLERS))
    again = ledger.claim_many(requests)
    assert again == [replace(receipt, replayed=True) for receipt in receipts], "an answer changed"
    assert not any(receipt.replayed for receipt in receipts), "an item was claimed before"
    assert ledger.totals().claims == before + arguments.count, "claims are missing"
    figures = {
        "claims_per_s": arguments.count / elapsed_s,
        "p99_ms": float(np.percentile(latencies, 99)) * 1000,
        "open_s": opened_s,
        "process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "index_bytes": getattr(ledger, "index_bytes", 0),
    }
    ledger.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
