"""Durable, atomic memory of a program: claims, scans, counters and the outbox of events.

Backends share one contract, :class:`Ledger`, and one set of tests. :class:`SqliteLedger` is the embedded default;
:class:`SqliteReader` reads its file beside the owner; :class:`MemoryLedger` is the model that they are tested against;
:func:`audit` counts a ledger again from its records. The ledger in Redis or Valkey is in
:mod:`scanengine.ledger.redis`, which needs the extra ``redis`` and is not imported here.
"""

from scanengine.ledger.audit import AuditReport, audit
from scanengine.ledger.memory import MemoryLedger
from scanengine.ledger.protocol import PENDING, CampaignTotals, Ledger, LedgerReader, LedgerTotals
from scanengine.ledger.reader import SqliteReader
from scanengine.ledger.sqlite import SqliteLedger

__all__ = [
    "PENDING",
    "AuditReport",
    "CampaignTotals",
    "Ledger",
    "LedgerReader",
    "LedgerTotals",
    "MemoryLedger",
    "SqliteLedger",
    "SqliteReader",
    "audit",
]
