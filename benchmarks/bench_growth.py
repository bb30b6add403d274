"""A ledger as it grows from 100,000 to 10 million claims: claims a second, memory, and how long a server starts.

The ledgers are made of the parts of an import, all events acknowledged and trimmed; all are of one batch in which every
code can be claimed in random order, so the small one is sparse and the large one dense, as they would be. Then
each is opened in turns, and 256 callers claim (``growth_claims.py``): small and large meet the same moments of the
machine. Durability: SQLite WAL and synchronous=FULL, Redis appendfsync everysec.

    GROWTH_MAX=1000000                  up to there only
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import harness
import inputs
from ledger_claims import NOW_MS, claim_records, counters_of
from redis_server import redis_server
from scanengine.ledger.lines import Campaign, Claims
from scanengine.ledger.moving import Target
from scanengine.ledger.protocol import LedgerMarks
from scanengine.ledger.redis.moving import RedisTarget
from scanengine.ledger.sqlite_moving import SqliteTarget
from scanengine.program.settings import ledger_identity, load_settings
from servers import serve, settle

SCRIPT = Path(__file__).with_name("growth_claims.py")
GROWTH_MAX = int(os.environ.get("GROWTH_MAX", harness.short(10_000_000, 20_000)))
LEAST = harness.short(100_000, 5_000)
CLAIMS = harness.short(60_000, 2_000)
"""Of one sample."""
SAMPLES = harness.short(5, 1)
STARTS = harness.short(3, 1)
CHUNK = 50_000


def sizes() -> list[int]:
    """Return how many earlier claims to look at: each ten times the one before, and the most at the end."""
    found = [LEAST]
    while found[-1] * 10 < GROWTH_MAX:
        found.append(found[-1] * 10)
    return [*found, GROWTH_MAX] if GROWTH_MAX > LEAST else [GROWTH_MAX]


def fill(target: Target, program: str, items: np.ndarray) -> None:
    """Make a ledger in which these items are claimed."""
    records, _ = claim_records(items, np.random.default_rng(31))
    count = len(items)
    with target:
        target.begin(LedgerMarks(program, NOW_MS, 1, count, 0, count, count, count))
        target.put(Campaign(1, "spring", counters_of(records)))
        for start in range(0, count, CHUNK):
            part = records[start : start + CHUNK]
            target.put(Claims(np.arange(start + 1, start + len(part) + 1), part))
        with target.reader() as reader:
            assert reader.totals().claims == count
        target.commit()


def fill_redis(url: str, program: str, items: np.ndarray) -> float:
    """Fill a server, make it durable, and return how many bytes a claim takes in its memory."""
    with redis.Redis.from_url(url) as client:
        empty = int(client.info("memory")["used_memory"])
        fill(RedisTarget(url, program), program, items)
        grown = int(client.info("memory")["used_memory"]) - empty
        client.config_set("appendonly", "yes")
        while True:
            state = client.info("persistence")
            if not state["aof_rewrite_in_progress"] and not state.get("aof_rewrite_scheduled"):
                break
            time.sleep(0.1)
        assert state["aof_last_bgrewrite_status"] == "ok"
    return grown / len(items)


def start_s(folder: Path) -> float:
    """Return how long a server takes until it answers that it is ready, seconds."""
    start = time.perf_counter()
    with serve(folder) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        took = time.perf_counter() - start
        assert response.status == 200, response.read()
        connection.close()
    return took


def sample(ledger: str, program: str, items: Path, first: int) -> dict[str, float]:
    command = [sys.executable, str(SCRIPT), ledger, program, str(items), str(first), str(CLAIMS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def bench_growth(benchmark: Any, tmp_path: Path, kind: str) -> None:
    total = GROWTH_MAX + CLAIMS * SAMPLES
    items = np.random.default_rng(30).permutation(total).astype(np.int64)
    items.tofile(tmp_path / "items")
    workspace, keyring = inputs.shop(tmp_path / "shop", 1_000)
    program = ledger_identity(load_settings(workspace.settings_path), keyring)
    figures: dict[str, float] = {}
    rates: dict[int, list[dict[str, float]]] = {size: [] for size in sizes()}
    ledgers: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        for size in sizes():
            folder = tmp_path / str(size)
            shutil.copytree(tmp_path / "shop", folder)
            if kind == "sqlite":
                path = folder / "ledger.sqlite"
                fill(SqliteTarget(path, program), program, items[:size])
                figures[f"file_bytes_a_claim_{size}"] = path.stat().st_size / size
                ledgers[size] = str(path)
            else:
                url = stack.enter_context(redis_server(tmp_path / f"redis-{size}", "volatile"))
                figures[f"bytes_a_claim_{size}"] = fill_redis(url, program, items[:size])
                settle(folder, url=url, durability="everysec")
                ledgers[size] = url
        os.sync()  # What was written to prepare shall not be flushed while claims are measured.
        for _ in range(STARTS):
            for size in sizes():
                rates[size].append({"start_s": start_s(tmp_path / str(size))})
        for number in range(SAMPLES):
            for size, ledger in ledgers.items():
                # Every size has the same room left: what was not claimed before follows the earlier claims.
                rates[size].append(sample(ledger, program, tmp_path / "items", size + number * CLAIMS))
    for size, rows in rates.items():
        for name in ("claims_per_s", "p99_ms", "start_s"):
            figures[f"{name}_{size}"] = statistics.median(row[name] for row in rows if name in row)
        if kind == "sqlite":
            figures[f"bytes_a_claim_{size}"] = rows[-1]["index_bytes"] / (size + CLAIMS * SAMPLES)
    benchmark.pedantic(lambda: None, rounds=1)
    ratio = figures[f"claims_per_s_{GROWTH_MAX}"] / figures[f"claims_per_s_{sizes()[0]}"]
    harness.report(
        benchmark, profile={"sqlite": "FULL", "redis": "everysec"}[kind], sizes=sizes(), ratio=ratio, **figures
    )
