"""Reading a ledger file beside the process that owns it: for commands that show, and for the audit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from scanengine.errors import LedgerFormatError
from scanengine.ledger import queries, schema
from scanengine.ledger.protocol import LedgerMarks, LedgerTotals
from scanengine.ledger.records import (
    CLAIM_DTYPE,
    SCAN_DTYPE,
    ClaimRecord,
    ScanRecord,
    unpack_claims,
    unpack_scans,
)
from scanengine.ledger.sealing import unseal
from scanengine.ledger.state import read_adjustments, read_campaigns, read_chunks
from scanengine.model import Adjustment, Event, Party, Receipt, ScanFacts


class SqliteReader:
    """Read-only view of a ledger file, whether or not a process owns it at the moment.

    Parameters
    ----------
    path : str or Path
    program_id : str or None
        The program that the ledger must belong to; None for any.

    Raises
    ------
    LedgerFormatError
        The file is missing, damaged, or of another kind, version or program.
    LedgerUnavailableError
        The file cannot be read.

    Notes
    -----
    For one thread. The owner keeps its index in memory, so a look-up here reads the whole table: about a second for
    five million claims. Any method raises ``LedgerFormatError`` where it meets damage.
    """

    def __init__(self, path: str | Path, program_id: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise LedgerFormatError(f"{self.path}: there is no ledger; it is made when the program is first opened")
        self._connection = schema.connect(self.path, read_only=True)
        try:
            with self._explained():
                schema.check_format(self._connection, self.path, program_id)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> SqliteReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def snapshot(self) -> Iterator[SqliteReader]:
        """Read everything inside the block as of one moment, however much is claimed meanwhile."""
        with self._explained():
            self._connection.execute("BEGIN")
            try:
                yield self
            finally:
                self._connection.execute("COMMIT")

    def recall(self, item: int, party: Party) -> Receipt | None:
        """Return the recorded claim of an item and party as its owner would be given it again, or None."""
        claim = self.claim_of(item, party)
        return claim and claim.receipt(self.campaigns()[claim.campaign], self.scan_facts(item))

    def claim_of(self, item: int, party: Party) -> ClaimRecord | None:
        """Return the recorded claim of an item and party, or None."""
        return next((claim for claim in self._claims_of(item) if claim.party == party), None)

    def person(self, campaign: str, user_hash: int) -> tuple[int, int, int]:
        """Return a person's recorded claims in a campaign: in all, newest local date, on that date."""
        numbers = {name: number for number, name in self.campaigns().items()}
        total = date = day = 0
        for _, claims in self.claims():
            mine = claims[(claims["campaign"] == numbers.get(campaign)) & (claims["user_hash"] == user_hash)]
            if len(mine):
                total, date, day = (int(mine[name][-1]) for name in ("person_total", "local_date", "person_day"))
        return total, date, day

    def scan_facts(self, item: int) -> ScanFacts:
        """Return the counted scans of an item; ``number`` is 0, as looking does not count."""
        scans = self._scans_of(item)
        if scans:
            return ScanFacts(scans[-1].number, scans[-1].first_at_ms, 0)
        first_ms = [claim.at_ms for claim in self._claims_of(item) if claim.is_first_scan]
        return ScanFacts(1, first_ms[0], 0) if first_ms else ScanFacts(0, None, 0)

    def claims(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield the claims in order, some ten thousand at a time: row numbers (n,), records (n,) of ``CLAIM_DTYPE``."""
        with self._explained():
            for first, records in read_chunks(self._connection, "claims", CLAIM_DTYPE):
                yield np.arange(first, first + len(records)), records

    def scans(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield the scans that are rows of their own: row numbers (n,), records (n,) of ``SCAN_DTYPE``."""
        with self._explained():
            for first, records in read_chunks(self._connection, "scans", SCAN_DTYPE):
                yield np.arange(first, first + len(records)), records

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield the events not yet trimmed, in order: row number of the claim (0 for a scan), event."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT seq, claim, CAST(body AS BLOB) FROM events WHERE seq > ? ORDER BY seq", (after,)
            )
            for seq, claim, body in rows:
                yield claim, unseal(seq, claim, body)

    def counters(self) -> dict[tuple[int, int, int, int], int]:
        """Return every counter by campaign number, kind (``schema.COUNT_...``), prize number and local date."""
        with self._explained():
            return queries.read_counters(self._connection)

    def adjustments(self) -> list[Adjustment]:
        """Return the adjustments in the order in which they were applied."""
        with self._explained():
            return read_adjustments(self._connection, read_campaigns(self._connection))

    def campaigns(self) -> dict[int, str]:
        """Return the ids of campaigns by their numbers in the records."""
        with self._explained():
            return read_campaigns(self._connection)

    def people(self) -> None:
        """Return None: what is counted of persons is in the records of their claims."""

    def marks(self) -> LedgerMarks:
        """Return how far the ledger has come."""
        with self._explained():
            number = partial(schema.read_meta_number, self._connection)
            claims, claimed_ms = self._newest("claims", CLAIM_DTYPE)
            scans, scanned_ms = self._newest("scans", SCAN_DTYPE)
            return LedgerMarks(
                program=str(schema.read_meta(self._connection, "program_id")),
                clock_ms=max(number("clock_ms"), claimed_ms, scanned_ms),
                generation=number("generation"),
                claims=claims,
                scans=scans,
                events=queries.newest_event(self._connection),
                trimmed=number("trimmed_seq"),
                trimmed_claims=number("trimmed_claims"),
            )

    def trimmed_claims(self) -> int:
        """Return how many events of claims have been trimmed."""
        with self._explained():
            return schema.read_meta_number(self._connection, "trimmed_claims")

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""
        with self._explained():
            return queries.read_totals(self._connection)

    def close(self) -> None:
        """Close the file; again is no change."""
        self._connection.close()

    def _newest(self, table: str, dtype: np.dtype[np.void]) -> tuple[int, int]:
        """Return number and time of the newest record of a table, zeros before the first."""
        row = self._connection.execute(f"SELECT seq, record FROM {table} ORDER BY seq DESC LIMIT 1").fetchone()
        if row is None:
            return 0, 0
        seq, record = row
        if len(record) != dtype.itemsize:
            raise LedgerFormatError(
                f"{self.path}: a record of {table} has {len(record)} bytes, expected {dtype.itemsize}"
            )
        return seq, int(np.frombuffer(record, dtype)["at_ms"][0])

    def _claims_of(self, item: int) -> list[ClaimRecord]:
        return unpack_claims(self._find("claims", item))

    def _scans_of(self, item: int) -> list[ScanRecord]:
        return unpack_scans(self._find("scans", item))

    def _find(self, table: str, item: int) -> bytes:
        """Return the records of an item; every record begins with its item."""
        with self._explained():
            rows = self._connection.execute(
                f"SELECT record FROM {table} WHERE substr(record, 1, 8) = ? ORDER BY seq", (item.to_bytes(8, "little"),)
            )
            return b"".join(record for (record,) in rows)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise schema.explain(self.path, error) from error
