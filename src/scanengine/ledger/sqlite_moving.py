"""A ledger file that is carried elsewhere, or made of an export."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from scanengine.errors import LedgerFormatError, LedgerUnavailableError
from scanengine.ledger import schema
from scanengine.ledger.lines import Adjusted, Campaign, Claims, Events, Part, Reader, Scans
from scanengine.ledger.protocol import LedgerMarks, LedgerReader
from scanengine.ledger.reader import SqliteReader
from scanengine.ledger.sealing import seal

_COMPANIONS: Final = ("-wal", "-shm", "-journal")


@contextmanager
def at_rest(path: Path) -> Iterator[None]:
    """Hold the right to write a ledger, so that nobody else does.

    Raises
    ------
    LedgerBusyError
        Another process owns the ledger.
    """
    lock = schema.FileLock(path)
    try:
        yield
    finally:
        lock.release()


class SqliteTarget:
    """A ledger file that an import makes; a :class:`scanengine.ledger.moving.Target`.

    Made aside, whole and synced, and then renamed: there is the new ledger or there is none. The owner's lock is held
    all the while.

    Parameters
    ----------
    path : Path
        Of the ledger to be.
    program_id : str
        The program that the ledger belongs to.

    Raises
    ------
    LedgerBusyError
        Another process owns the ledger.
    LedgerFormatError
        There is a ledger that was used.
    """

    def __init__(self, path: Path, program_id: str) -> None:
        self._path = path
        self._program_id = program_id
        self._aside = path.with_name(f"{path.name}.import")
        self._connection: sqlite3.Connection | None = None
        self._campaigns: dict[str, int] = {}
        self._adjustments = 0

    def __enter__(self) -> SqliteTarget:
        self._lock = schema.FileLock(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        _remove(self._aside)
        self._lock.release()

    def begin(self, marks: LedgerMarks) -> None:
        """Make an empty file aside; LedgerFormatError if there is a ledger that was used."""
        if self._path.exists() and self._path.stat().st_size:
            with SqliteReader(self._path) as reader:
                held, totals = reader.marks(), reader.totals()
            if held.claims or held.scans or held.events or totals.campaigns or totals.readers:
                raise LedgerFormatError(
                    f"{self._path}: this ledger was used; an import makes a new one, and never changes another"
                )
        _remove(self._aside)
        self._connection = schema.open_owned(self._aside, self._program_id)
        # Nobody reads this file before it is whole and synced.
        self._connection.execute("PRAGMA synchronous = OFF")
        with self._writing() as connection:
            for key, value in (
                ("clock_ms", marks.clock_ms), ("generation", marks.generation), ("trimmed_seq", marks.trimmed),
                ("trimmed_claims", marks.trimmed_claims),
            ):  # fmt: skip
                schema.write_meta(connection, key, value)

    def put(self, part: Part) -> None:
        """Write what a file holds, in its order."""
        values: list[object] = []
        with self._writing() as connection:
            match part:
                case Campaign(number, name, counters):
                    self._campaigns[name] = number
                    schema.insert_rows(connection, "campaigns", 2, [number, name])
                    for counter in counters:
                        values += (number, *counter)
                    schema.insert_rows(connection, "counters", 5, values)
                case Adjusted(adjustment):
                    self._adjustments += 1
                    connection.execute(
                        "INSERT INTO adjustments VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (self._adjustments, adjustment.id, self._campaigns[adjustment.campaign], adjustment.action,
                         adjustment.prize, adjustment.amount, adjustment.at_ms),
                    )  # fmt: skip
                case Reader(name, acked):
                    schema.insert_rows(connection, "readers", 2, [name, acked])
                case Claims(seqs, records) | Scans(seqs, records):
                    packed, size = records.tobytes(), records.dtype.itemsize
                    for i, seq in enumerate(seqs.tolist()):
                        values += (seq, packed[i * size : (i + 1) * size])
                    schema.insert_rows(connection, "claims" if isinstance(part, Claims) else "scans", 2, values)
                case Events(rows):
                    for claim, event in rows:
                        values += (event.seq, claim, seal(event))
                    schema.insert_rows(connection, "events", 3, values)

    def reader(self) -> LedgerReader:
        """Return a reader of what was written, which is everything now."""
        assert self._connection is not None, "begin comes first"
        self._connection.execute("PRAGMA journal_mode = DELETE")  # The file is to be all there is.
        self._connection.close()
        return SqliteReader(self._aside, self._program_id)

    def commit(self) -> None:
        """Let what was written be the ledger, durably."""
        file = os.open(self._aside, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        # What lies beside an empty ledger would be taken for the new one's.
        for companion in _COMPANIONS:
            self._path.with_name(self._path.name + companion).unlink(missing_ok=True)
        os.replace(self._aside, self._path)
        schema.sync_folder(self._path)
        self._lock.mark()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write in a transaction."""
        assert self._connection is not None, "begin comes first"
        try:
            self._connection.execute("BEGIN")
            yield self._connection
            self._connection.execute("COMMIT")
        except (sqlite3.IntegrityError, KeyError, OverflowError) as error:
            raise LedgerFormatError(f"what is imported does not fit together: {error!r}") from error
        except sqlite3.Error as error:
            raise LedgerUnavailableError(f"{self._aside}: the ledger cannot be written: {error}") from error


def _remove(path: Path) -> None:
    for companion in ("", *_COMPANIONS):
        path.with_name(path.name + companion).unlink(missing_ok=True)
