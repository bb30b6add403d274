"""Every ledger keeps the promises of the suite: the model in memory and the SQLite file alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger_suite import LedgerSuite
from ledger_suite_calls import LedgerCallsSuite
from scanengine.ledger import Ledger, MemoryLedger, SqliteLedger

Opener = Callable[[bool], Ledger]


@pytest.fixture(params=["memory", "sqlite"])
def open_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opened: list[Ledger] = []

    def opener(scan_events: bool) -> Ledger:
        ledger: Ledger
        if request.param == "memory":
            ledger = MemoryLedger(scan_events=scan_events)
        else:
            ledger = SqliteLedger(tmp_path / "ledger.sqlite", "program-1", scan_events=scan_events)
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
