"""What the SQLite ledger keeps in memory: indexes and counts, all of which can be built from the database.

One thread owns a state. It runs ahead of the database while a batch is being answered; if the batch cannot be
committed the state is thrown away and built anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scanengine.errors import LedgerFormatError
from scanengine.ledger import schema
from scanengine.ledger._index import IntMap, mix_many
from scanengine.ledger.records import CLAIM_DTYPE, SCAN_DTYPE, TIME_MS_MAX
from scanengine.model import Adjustment

_LOAD_ROWS = 1 << 16


class Tally:
    """One counter: its total, and its value on the newest local date of its campaign.

    Earlier days stay in the database. A campaign's date never runs backwards, so nobody asks for them again.
    """

    __slots__ = ("kind", "number", "today", "total")

    def __init__(self, kind: int, number: int) -> None:
        self.kind = kind
        self.number = number
        self.total = 0
        self.today = 0

    def add(self, delta: int) -> int:
        """Add to both values and return the total."""
        self.today += delta
        self.total += delta
        return self.total


class Book:
    """What is held of one campaign; a :class:`scanengine.ledger.rules.Book`.

    ``number`` is 0 until something is recorded of the campaign. ``local_date`` is the newest one recorded.
    """

    __slots__ = (
        "_people", "_people_today", "_rows", "claims", "dirty", "extra_budget", "extra_units", "id", "is_closed",
        "is_paused", "local_date", "number", "prizes", "spent",
    )  # fmt: skip

    def __init__(self, campaign: str, number: int = 0) -> None:
        self.id = campaign
        self.number = number
        self.local_date = 0
        self.claims = Tally(schema.COUNT_CLAIMS, 0)
        self.spent = Tally(schema.COUNT_MONEY, 0)
        self.prizes: dict[int, Tally] = {}
        self.dirty: set[Tally] = set()
        self._rows: list[object] = []
        self.is_paused = False
        self.is_closed = False
        self.extra_budget = 0
        self.extra_units: dict[int, int] = {}
        self._people = IntMap()
        self._people_today = IntMap()

    def extra_stock(self, prize: int) -> int:
        """Return the units of a prize added by adjustments."""
        return self.extra_units.get(prize, 0)

    def added(self, adjustment: Adjustment) -> int:
        """Return what earlier adjustments have added to what this one adds to."""
        return self.extra_stock(adjustment.prize) if adjustment.action == "stock" else self.extra_budget

    def claims_of(self, user_hash: int, date: int) -> int:
        """Return the recorded claims of a person, on one date or (0) on all."""
        if not date:
            return self._people.get(user_hash)
        return self._people_today.get(user_hash) if date == self.local_date else 0

    def awards(self, prize: int, date: int) -> int:
        """Return the units given of a prize, on one date or (0) on all."""
        tally = self.prizes.get(prize)
        return 0 if tally is None else self._value(tally, date)

    def money(self, date: int) -> int:
        """Return the money given, on one date or (0) on all."""
        return self._value(self.spent, date)

    def record(self, user_hash: int, prize: int, money: int, date: int) -> tuple[int, int, int]:
        """Count one recorded claim; return its unit and the person's running numbers, in all and on that date."""
        if date > self.local_date:
            self._turn_to(date)
        self.claims.add(1)
        self.dirty.add(self.claims)
        unit = 0
        if prize >= 0:
            tally = self.prize(prize)
            unit = tally.add(1)
            self.dirty.add(tally)
            if money:
                self.spent.add(money)
                self.dirty.add(self.spent)
        return unit, self._people.add(user_hash), self._people_today.add(user_hash)

    def prize(self, number: int) -> Tally:
        """Return the tally of a prize's awards."""
        tally = self.prizes.get(number)
        if tally is None:
            tally = self.prizes[number] = Tally(schema.COUNT_AWARDS, number)
        return tally

    def tallies(self) -> list[Tally]:
        """Return all tallies."""
        return [self.claims, self.spent, *self.prizes.values()]

    def take_rows(self) -> list[object]:
        """Return the rows of the counters that have changed, five values each, and hold them for written."""
        self._put_rows()
        rows, self._rows = self._rows, []
        return rows

    def _put_rows(self) -> None:
        for tally in self.dirty:
            self._rows += (self.number, tally.kind, tally.number, 0, tally.total)
            self._rows += (self.number, tally.kind, tally.number, self.local_date, tally.today)
        self.dirty.clear()

    def apply(self, adjustment: Adjustment) -> None:
        """Put an adjustment in force."""
        action, prize = adjustment.action, adjustment.prize
        if action == "stock":
            self.extra_units[prize] = self.extra_stock(prize) + adjustment.amount
        elif action == "budget":
            self.extra_budget += adjustment.amount
        elif action == "close":
            self.is_closed = True
        else:
            self.is_paused = action == "pause"

    def load_counter(self, kind: int, number: int, date: int, value: int) -> None:
        """Take up one row of the counters, dates in ascending order."""
        tally = {schema.COUNT_CLAIMS: self.claims, schema.COUNT_MONEY: self.spent}.get(kind) or self.prize(number)
        if not date:
            tally.total = value
            return
        if date > self.local_date:
            self._turn_to(date)
        tally.today = value

    def load_claims(self, claims: NDArray[np.void]) -> None:
        """Take up the persons of recorded claims of this campaign, in the order of their records."""
        self._people.put_many(_column(claims, "user_hash"), _column(claims, "person_total"))
        today = claims[claims["local_date"] == self.local_date]
        self._people_today.put_many(_column(today, "user_hash"), _column(today, "person_day"))

    @property
    def nbytes(self) -> int:
        """Bytes of the indexes."""
        return self._people.nbytes + self._people_today.nbytes

    def _turn_to(self, date: int) -> None:
        self._put_rows()  # A batch may cross midnight: the day that ends has rows of its own.
        self.local_date = date
        self._people_today = IntMap()
        for tally in self.tallies():
            tally.today = 0

    def _value(self, tally: Tally, date: int) -> int:
        if not date:
            return tally.total
        return tally.today if date == self.local_date else 0


class State:
    """Everything in memory.

    Attributes
    ----------
    claims : IntMap
        Item and party (``ClaimRecord.key``) to the number of the claim's row.
    scan_count, scan_first : IntMap
        Item to the number of its counted visits, and to the time of the first plus one (an index holds no 0); only for
        items with rows in the table of scans. The one scan of any other item is in the record of its claim.
    visits : IntMap
        Item and visit, mixed, to the ordinal of the visit, for the rows in the table of scans.
    clock_ms, generation : int
        Newest time and generation seen.
    has_unsaved_time : bool
        Whether an answer depended on a time that no record holds.
    """

    def __init__(self) -> None:
        self.claims = IntMap()
        self.scan_count = IntMap()
        self.scan_first = IntMap()
        self.visits = IntMap()
        self.clock_ms = 0
        self.generation = 0
        self.saved_generation = 0
        self.has_unsaved_time = False
        self.claim_seq = 0
        self.scan_seq = 0
        self.event_seq = 0
        self.books: dict[str, Book] = {}
        self.campaigns: dict[int, str] = {}

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> State:
        """Build the state from the database.

        Raises
        ------
        LedgerFormatError
            Rows are missing, or a record has another length than it should or a time that cannot be.
        sqlite3.Error
            The database cannot be read.

        Notes
        -----
        Under a microsecond a claim, most of it SQLite's; memory of one chunk of records besides the indexes.
        """
        state = cls()
        for number, book in read_books(connection).items():
            state.books[book.id] = book
            state.campaigns[number] = book.id
        state._load_claims(connection)
        state._load_scans(connection)
        state.clock_ms = max(state.clock_ms, schema.read_meta_number(connection, "clock_ms"))
        if state.clock_ms > TIME_MS_MAX:
            raise LedgerFormatError(
                f"the newest time is {state.clock_ms} ms since 1970, expected one before the year 9999: the ledger is "
                "damaged"
            )
        state.generation = state.saved_generation = schema.read_meta_number(connection, "generation")
        newest = connection.execute("SELECT max(seq) FROM events").fetchone()[0]
        # After everything was trimmed only the mark of the trim knows how far the numbers had come.
        state.event_seq = max(newest or 0, schema.read_meta_number(connection, "trimmed_seq"))
        return state

    def book(self, campaign: str) -> Book:
        """Return the book of a campaign, an empty one if nothing is recorded of it."""
        book = self.books.get(campaign)
        if book is None:
            book = self.books[campaign] = Book(campaign)
        return book

    def tick(self, now_ms: int) -> int:
        """Return the ledger's time: a caller's clock that stepped back does not turn it back."""
        self.clock_ms = max(self.clock_ms, now_ms)
        return self.clock_ms

    @property
    def nbytes(self) -> int:
        """Bytes of the indexes."""
        maps = (self.claims, self.scan_count, self.scan_first, self.visits)
        return sum(index.nbytes for index in maps) + sum(book.nbytes for book in self.books.values())

    def _load_claims(self, connection: sqlite3.Connection) -> None:
        for first, claims in read_chunks(connection, "claims", CLAIM_DTYPE):
            if first != self.claim_seq + 1:
                raise LedgerFormatError(f"claim {self.claim_seq + 1} is missing: the ledger is damaged")
            seqs = np.arange(first, first + len(claims), dtype=np.uint64)
            self.claims.put_many(claims["item"] * np.uint64(2) + claims["party"], seqs)
            for number in np.unique(claims["campaign"]).tolist():
                if number not in self.campaigns:
                    raise LedgerFormatError(f"a claim names campaign {number}, which is missing: the ledger is damaged")
                self.books[self.campaigns[number]].load_claims(claims[claims["campaign"] == number])
            self.claim_seq = first + len(claims) - 1
            self.clock_ms = max(self.clock_ms, _newest_ms("claims", claims["at_ms"]))

    def _load_scans(self, connection: sqlite3.Connection) -> None:
        for first, scans in read_chunks(connection, "scans", SCAN_DTYPE):
            if first != self.scan_seq + 1:
                raise LedgerFormatError(f"scan {self.scan_seq + 1} is missing: the ledger is damaged")
            items, numbers = _column(scans, "item"), _column(scans, "number")
            self.scan_count.put_many(items, numbers)
            self.scan_first.put_many(items, _column(scans, "first_at_ms") + np.uint64(1))
            self.visits.put_many(mix_many(items, _column(scans, "visit_hash")), numbers)
            self.scan_seq = first + len(scans) - 1
            self.clock_ms = max(self.clock_ms, _newest_ms("scans", scans["at_ms"], scans["first_at_ms"]))


def _newest_ms(table: str, *times_ms: NDArray[np.int64]) -> int:
    """Return the newest of some times of records.

    Raises
    ------
    LedgerFormatError
        One cannot be.
    """
    oldest = min(int(column.min()) for column in times_ms)
    newest = max(int(column.max()) for column in times_ms)
    if oldest < 0 or newest > TIME_MS_MAX:
        raise LedgerFormatError(
            f"{table} at {oldest} to {newest} ms since 1970, expected times before the year 9999: the ledger is damaged"
        )
    return newest


def read_campaigns(connection: sqlite3.Connection) -> dict[int, str]:
    """Return the ids of campaigns by their numbers."""
    return dict(connection.execute("SELECT number, id FROM campaigns ORDER BY number").fetchall())


def read_adjustments(connection: sqlite3.Connection, campaigns: dict[int, str]) -> list[Adjustment]:
    """Return the adjustments in the order in which they were applied."""
    rows = connection.execute("SELECT id, campaign, action, prize, amount, at_ms FROM adjustments ORDER BY seq")
    return [Adjustment(id_, campaigns[campaign], *rest) for id_, campaign, *rest in rows]


def read_books(connection: sqlite3.Connection) -> dict[int, Book]:
    """Return the counters and adjustments of every campaign by its number, without persons."""
    campaigns = read_campaigns(connection)
    books = {number: Book(campaign, number) for number, campaign in campaigns.items()}
    for campaign, *counter in connection.execute("SELECT * FROM counters ORDER BY date"):
        books[campaign].load_counter(*counter)
    numbers = {campaign: number for number, campaign in campaigns.items()}
    for adjustment in read_adjustments(connection, campaigns):
        books[numbers[adjustment.campaign]].apply(adjustment)
    return books


def read_chunks(
    connection: sqlite3.Connection, table: str, dtype: np.dtype[np.void]
) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Yield the records of an append-only table in runs without a gap: number of the first row, and the records.

    Raises
    ------
    LedgerFormatError
        A record has another length than it should.

    Notes
    -----
    SQLite joins the records of a chunk, so that five million of them are not five million Python objects.
    """
    newest = connection.execute(f"SELECT max(seq) FROM {table}").fetchone()[0] or 0
    for start in range(1, newest + 1, _LOAD_ROWS):
        bounds = (start, start + _LOAD_ROWS - 1)
        count, first, last, shortest, longest = connection.execute(
            "SELECT count(*), min(seq), max(seq), min(length(record)), max(length(record)) "
            f"FROM {table} WHERE seq BETWEEN ? AND ?",
            bounds,
        ).fetchone()
        if not count:
            continue
        if not shortest == longest == dtype.itemsize:
            raise LedgerFormatError(
                f"{table} {first} to {last}: records of {shortest} to {longest} bytes, expected {dtype.itemsize}: "
                "the ledger is damaged"
            )
        packed = connection.execute(
            "SELECT CAST(group_concat(record, '') AS BLOB) FROM "
            f"(SELECT record FROM {table} WHERE seq BETWEEN ? AND ? ORDER BY seq)",
            bounds,
        ).fetchone()[0]
        records = np.frombuffer(packed, dtype)
        if count == last - first + 1:
            yield first, records
            continue
        rows = connection.execute(f"SELECT seq FROM {table} WHERE seq BETWEEN ? AND ? ORDER BY seq", bounds)
        seqs = np.array(rows.fetchall()).ravel()
        for run in np.split(np.arange(count), np.flatnonzero(np.diff(seqs) > 1) + 1):
            yield int(seqs[run[0]]), records[run]


def _column(records: NDArray[np.void], name: str) -> NDArray[np.uint64]:
    return np.ascontiguousarray(records[name].astype(np.uint64))
