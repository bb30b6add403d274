"""The database file of the SQLite ledger: its tables, how it is opened, and how many rows are written at once.

Everything that grows is append-only: ``claims``, ``scans`` and ``events`` are keyed by a running number, so a commit
touches a few pages at the end of the file whatever it holds. What is looked up by item or person is indexed in memory.
``counters`` is small, one row for each limit and day.

A statement gives the GIL up and takes it back. When the event loop is busy that may take a whole switch interval, 5 ms,
so rows are not written one by one but by few statements of many rows.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Final

from scanengine.errors import LedgerBusyError, LedgerFormatError, LedgerUnavailableError

APPLICATION_ID: Final = 0x5343414E
"""``SCAN``: marks the file as ours, see the pragma ``application_id``."""
FORMAT_VERSION: Final = 1
BATCH_MAX: Final = 512
"""Most requests in one transaction: bounds what one caller waits for the others."""

COUNT_CLAIMS: Final = 1
COUNT_AWARDS: Final = 2
COUNT_MONEY: Final = 3
"""Kinds of counters. Claims and money have ``number`` 0, awards the prize's; ``date`` 0 is the count over all days."""

_MADE: Final = b"made\n"
_ROWS_STEP: Final = 32
_CACHE_KIB: Final = 16 * 1024
_MMAP_BYTES: Final = 1 << 30
_WAL_PAGES: Final = 4000
_STATEMENTS: Final = 256

_TABLES: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) WITHOUT ROWID",
    "CREATE TABLE campaigns (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)",
    "CREATE TABLE claims (seq INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    "CREATE TABLE scans (seq INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, claim INTEGER NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE counters (campaign INTEGER, kind INTEGER, number INTEGER, date INTEGER, value INTEGER NOT NULL,"
    " PRIMARY KEY (campaign, kind, number, date)) WITHOUT ROWID",
    "CREATE TABLE adjustments (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, campaign INTEGER NOT NULL,"
    " action TEXT NOT NULL, prize INTEGER NOT NULL, amount INTEGER NOT NULL, at_ms INTEGER NOT NULL)",
    "CREATE TABLE readers (name TEXT PRIMARY KEY, acked INTEGER NOT NULL) WITHOUT ROWID",
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection in autocommit mode; transactions are begun and ended in words.

    Raises
    ------
    LedgerUnavailableError
        The file cannot be opened or created.
    """
    mode = "ro" if read_only else "rwc"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
        )
    except sqlite3.Error as error:
        raise LedgerUnavailableError(f"{path}: the ledger cannot be opened: {error}") from error
    return connection


def open_owned(path: Path, program_id: str, *, is_new: bool = True) -> sqlite3.Connection:
    """Open the ledger for its owner; a file that does not exist is made, whole or not at all.

    Parameters
    ----------
    is_new : bool
        Whether the ledger may still have to be made. One that was made before and is missing or empty now would begin
        anew and give every prize a second time.

    Raises
    ------
    LedgerFormatError
        The file is damaged, of another kind, version or program, or has vanished.
    LedgerUnavailableError
        The file cannot be opened, read or written.
    """
    if not is_new and (not path.exists() or path.stat().st_size == 0):
        raise LedgerFormatError(
            f"{path}: the ledger was here and is missing or empty now: restore it from a backup, or remove "
            f"{path.name}.lock to begin anew and forget every claim"
        )
    file = path.resolve()  # Made where a link leads to, which may not be there yet.
    try:
        # Events hold users whole. SQLite gives its other files the mode of this one.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # One that is there is not opened: to close it would give up, by the rules of POSIX, the locks of all that reads
        # the ledger in this process. SQLite would open one that may only be read.
        if not os.access(file, os.R_OK | os.W_OK):
            raise LedgerUnavailableError(f"{path}: the ledger cannot be opened: it may not be written") from None
    except OSError as error:
        raise LedgerUnavailableError(f"{path}: the ledger cannot be opened: {error.strerror}") from error
    connection = connect(path)
    try:
        is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not is_empty:
            check_format(connection, path, program_id)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"wal_autocheckpoint = {_WAL_PAGES}",
            f"cache_size = -{_CACHE_KIB}",
            f"mmap_size = {_MMAP_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if is_empty:
            _create(connection, program_id)
            sync_folder(path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise explain(path, error) from error
    except LedgerFormatError:
        connection.close()
        raise
    return connection


def check_format(connection: sqlite3.Connection, path: Path, program_id: str | None) -> None:
    """Check that a file is a ledger of this version and, where one is given, of this program.

    Raises
    ------
    LedgerFormatError
        It is not; the message says what was found.
    sqlite3.DatabaseError
        The file is damaged.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise LedgerFormatError(f"{path}: an SQLite database, but not a ledger of scanengine")
    if version != FORMAT_VERSION:
        raise LedgerFormatError(f"{path}: a ledger of format {version}, expected {FORMAT_VERSION}")
    found = read_meta(connection, "program_id")
    if program_id is not None and found != program_id:
        raise LedgerFormatError(
            f"{path}: the ledger of program {found}, expected {program_id}: the file, or the program's id or secret, "
            "is another"
        )


def explain(path: Path, error: sqlite3.DatabaseError) -> LedgerFormatError | LedgerUnavailableError:
    """Return the error that a caller is shown for one of SQLite's."""
    if isinstance(error, sqlite3.OperationalError):
        return LedgerUnavailableError(f"{path}: the ledger cannot be read or written: {error}")
    return LedgerFormatError(f"{path}: not a ledger, or damaged: {error}")


def read_meta(connection: sqlite3.Connection, key: str) -> str | int | None:
    """Return one value of the table ``meta``, None if it is not there."""
    row: tuple[str | int] | None = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def read_meta_number(connection: sqlite3.Connection, key: str) -> int:
    """Return one number of the table ``meta``, 0 if it is not there."""
    value = read_meta(connection, key)
    return value if isinstance(value, int) else 0


def write_meta(connection: sqlite3.Connection, key: str, value: str | int) -> None:
    """Set one value of the table ``meta``."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def insert_rows(
    connection: sqlite3.Connection, table: str, columns: int, values: list[object], suffix: str = ""
) -> None:
    """Insert rows by at most two statements for each 512 rows.

    Parameters
    ----------
    values : list
        The rows one after the other, a multiple of ``columns`` values.
    suffix : str
        What follows the values, for instance an ON CONFLICT clause.

    Notes
    -----
    Whole steps of 32 rows go into one statement and the rest into another, so that the 512 numbers of rows need only
    47 prepared statements.
    """
    rows = len(values) // columns
    done = 0
    while done < rows:
        count = min(rows - done, BATCH_MAX)
        if count > _ROWS_STEP:
            count -= count % _ROWS_STEP
        sql = _insert_statement(table, columns, count, suffix)
        connection.execute(sql, values[done * columns : (done + count) * columns])
        done += count


class FileLock:
    """The right to write a ledger, held by one process: a lock on ``<path>.lock``.

    Raises
    ------
    LedgerBusyError
        Another process, or another ledger object of this one, holds it.
    LedgerUnavailableError
        The file of the lock cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerUnavailableError(f"{self.path}: the lock cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise LedgerBusyError(f"{path}: another process owns this ledger; it holds {self.path}") from error

    @property
    def is_marked(self) -> bool:
        """Whether the ledger has been made; the database cannot say so itself once it is gone."""
        return os.pread(self._file, len(_MADE), 0) == _MADE

    def mark(self) -> None:
        """Note durably that the ledger has been made."""
        if not self.is_marked:
            os.pwrite(self._file, _MADE, 0)
            os.fsync(self._file)

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)


@lru_cache(maxsize=_STATEMENTS)
def _insert_statement(table: str, columns: int, rows: int, suffix: str) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)} {suffix}"


def _create(connection: sqlite3.Connection, program_id: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        connection.execute(statement)
    write_meta(connection, "program_id", program_id)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    connection.execute("COMMIT")


def sync_folder(path: Path) -> None:
    """Make the name of a new file durable, not only what is in it."""
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
