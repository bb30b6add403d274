"""Opening a workspace with a batch of 100 million codes: time and memory, imports excluded, in a fresh process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
import inputs

COUNT = 100_000_000
SCRIPT = """
import json, sys, time
import scanengine
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before, start = resident(), time.perf_counter()
program = scanengine.open(sys.argv[1], ledger=sys.argv[2])
took, grew = time.perf_counter() - start, resident() - before
batch = program.snapshot.batches[0]
assert batch.codes.count == 100_000_000
code = program.keyring.code_keys.encode(batch.codes.slot, batch.codes.count - 1)
assert program.decide(code).status.name == "VALID"
print(json.dumps({"ms": took * 1e3, "bytes": grew}))
program.close()
"""


def bench_open(benchmark: Any, tmp_path: Path) -> None:
    create = harness.seconds(lambda: inputs.shop(tmp_path / "shop", COUNT))
    for ledger in ("none", "own"):
        found = []
        for _ in range(7):
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, str(tmp_path / "shop"), ledger],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            found.append(json.loads(done.stdout))
        harness.report(
            benchmark,
            **{
                f"open_{ledger}_ms": statistics.median(row["ms"] for row in found),
                f"open_{ledger}_mb": statistics.median(row["bytes"] for row in found) / 1e6,
            },
        )
    harness.report(benchmark, make_all_s=create)
    benchmark.pedantic(lambda: None, rounds=1)
