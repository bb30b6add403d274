"""Durable claims of the SQLite ledger through 256 concurrent callers, empty and with 5 million earlier claims.

Durability: WAL, synchronous=FULL; a claim counts when its COMMIT is done. ``ledger_claims.py`` says how it is measured
and checks the answers; each sample is a fresh process on a fresh copy of the file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness

SCRIPT = Path(__file__).with_name("ledger_claims.py")
SAMPLES = harness.short(3, 1)
CLAIMS = harness.short(300_000, 5_000)


@pytest.mark.parametrize("earlier", [0, 5_000_000])
def bench_ledger_claims(benchmark: Any, tmp_path: Path, earlier: int) -> None:
    found = []
    for sample in range(SAMPLES):
        command = [sys.executable, str(SCRIPT), "--earlier", str(harness.short(earlier, earlier // 100))]
        command += ["--claims", str(CLAIMS), "--folder", str(tmp_path)]
        command += ["--keep", str(tmp_path / "filled.sqlite")]
        if sample < SAMPLES - 1:
            command.append("--no-audit")
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    assert "no problems" in done.stdout
    benchmark.pedantic(lambda: None, rounds=1)
    harness.report(
        benchmark, earlier=earlier, **{name: statistics.median(row[name] for row in found) for name in found[0]}
    )
