"""Claims a second through the Redis ledger, against one call a claim over a pool; ``redis_claims.py`` says how.

Durability: named with each figure; an answer counts when the server has given it, under that profile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness

SCRIPT = Path(__file__).with_name("redis_claims.py")


@pytest.mark.parametrize("profile", ["everysec", "strict"])
def bench_redis_claims(benchmark: Any, profile: str) -> None:
    command = [sys.executable, str(SCRIPT), "--profile", profile]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    benchmark.pedantic(lambda: None, rounds=1)
    harness.report(benchmark, **json.loads(done.stdout))
