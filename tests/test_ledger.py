"""Every ledger keeps the promises of the suite: the model in memory, the SQLite file, Redis, Valkey and a Cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger_suite import LedgerSuite
from ledger_suite_calls import LedgerCallsSuite
from redis_servers import RedisServer, server_binaries
from scanengine.ledger import Ledger, MemoryLedger, SqliteLedger
from scanengine.ledger.redis import RedisLedger

Opener = Callable[[bool], Ledger]


@pytest.fixture(params=["memory", "sqlite", *sorted(server_binaries()), "cluster"])
def open_ledger(
    request: pytest.FixtureRequest, tmp_path: Path, redis_servers: Callable[[str], RedisServer], program_id: str
) -> Iterator[Opener]:
    opened: list[Ledger] = []

    def opener(scan_events: bool) -> Ledger:
        ledger: Ledger
        if request.param == "memory":
            ledger = MemoryLedger(scan_events=scan_events)
        elif request.param == "sqlite":
            ledger = SqliteLedger(tmp_path / "ledger.sqlite", "program-1", scan_events=scan_events)
        else:
            where = request.getfixturevalue("redis_cluster") if request.param == "cluster" else None
            url = where.url if where else redis_servers(request.param).url()
            ledger = RedisLedger(url, program_id, scan_events=scan_events, durability="volatile", outbox="keep")
        opened.append(ledger)
        return ledger

    yield opener
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Opener) -> Ledger:
    return open_ledger(False)


@pytest.fixture
def scan_ledger(open_ledger: Opener) -> Ledger:
    return open_ledger(True)


class TestLedger(LedgerSuite):
    """Claims, on each backend."""


class TestLedgerCalls(LedgerCallsSuite):
    """Scans, events and calls, on each backend."""
