"""The ledger in one SQLite file, owned by one process: the default of a program on one machine.

A thread owns the database and the indexes in memory. It answers the calls that wait as one batch, writes them in one
transaction, and lets the callers go after COMMIT, when the operating system has said that the data is on the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from scanengine.errors import LedgerFormatError, LedgerUnavailableError
from scanengine.ledger import queries, schema
from scanengine.ledger.batch import Batch, save_marks
from scanengine.ledger.calls import Calls
from scanengine.ledger.checks import check_adjustment, check_events, check_reader_name, check_repeated
from scanengine.ledger.protocol import (
    LedgerTotals,
    all_facts_of,
    check_claim,
    check_generation,
    check_observe,
    facts_of,
    receipts_of,
)
from scanengine.ledger.state import State
from scanengine.model import Adjustment, ClaimRequest, Event, ObserveRequest, Receipt, ScanFacts

_TRIM_EVENTS = 4096
"""Events deleted in one go; more would keep claims waiting."""

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class SqliteLedger:
    """Ledger in an SQLite file; a :class:`scanengine.ledger.Ledger`.

    Parameters
    ----------
    path : str or Path
        Of the database; made if it does not exist. ``-wal``, ``-shm`` and ``.lock`` files lie beside it.
    program_id : str
        The program that the ledger belongs to.
    scan_events : bool
        Whether visits without a recorded claim make an event.
    timeout_s : float
        How long a call waits for its answer, seconds.

    Raises
    ------
    LedgerBusyError
        Another process owns the file.
    LedgerFormatError
        The file is damaged, or of another kind, version or program.
    LedgerUnavailableError
        The file cannot be opened, read or written.

    Notes
    -----
    Opening reads every claim once. Memory is 23 to 46 bytes for each claim, for each person in a campaign, for each
    person of a campaign's newest day, and three times as much for each visit that did not make the first claim of its
    item.
    """

    kind: Final = "sqlite"
    durability: Final = "strict"
    alarms: Final[tuple[str, ...]] = ()

    def __init__(self, path: str | Path, program_id: str, *, scan_events: bool = False, timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self._scan_events = scan_events
        self._trouble: str | None = None
        self._read_lock = threading.Lock()
        self._lock = schema.FileLock(self.path)
        try:
            self._connection = schema.open_owned(self.path, program_id, is_new=not self._lock.is_marked)
            self._lock.mark()
        except BaseException:
            self._lock.release()
            raise
        try:
            self._state: State | None = self._load()
            self._trimmed = schema.read_meta_number(self._connection, "trimmed_seq")
            self._trim_to = queries.acknowledged(self._connection)
            self._reading = schema.connect(self.path, read_only=True)
        except BaseException:
            self._connection.close()
            self._lock.release()
            raise
        self._generation = self._alive().generation
        self._calls: Calls[ClaimRequest | ObserveRequest, Receipt | ScanFacts] = Calls(
            self._answer, self._trim, batch_max=schema.BATCH_MAX, timeout_s=timeout_s
        )

    @property
    def calls(self) -> int:
        """Claims and observations that have reached the ledger."""
        return self._calls.requests_taken

    @property
    def refused(self) -> int:
        """Claims and observations that were refused as too many waited; they have not reached the ledger."""
        return self._calls.line.refused

    @property
    def trouble(self) -> str | None:
        """Why the newest batch could not be written, or None if it could."""
        return self._trouble

    @property
    def generation(self) -> int:
        """Newest generation seen in a request or announced."""
        return self._generation

    @property
    def index_bytes(self) -> int:
        """Bytes of the indexes in memory."""
        return self._calls.run(lambda: self._alive().nbytes)

    def claim(self, request: ClaimRequest) -> Receipt:
        """Claim an item for a person, or tell why not; blocks until the answer is durable."""
        return self.claim_many((request,))[0]

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Claim in order, each request for itself; blocks until all answers are durable."""
        for request in requests:
            check_claim(request)
        return receipts_of(self._calls.ask(requests, is_let_in))

    async def claim_async(self, request: ClaimRequest) -> Receipt:
        """Do :meth:`claim` without blocking the event loop."""
        check_claim(request)
        answers = await self._calls.begin((request,))
        return receipts_of([None] if answers is None else answers)[0]

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Do :meth:`claim_many` without blocking the event loop."""
        for request in requests:
            check_claim(request)
        return receipts_of(await self._calls.ask_async(requests, is_let_in))

    def observe(self, request: ObserveRequest) -> ScanFacts:
        """Count a visit, or only look; blocks until it is durable."""
        check_observe(request)
        return facts_of(self._calls.ask((request,))[0])

    async def observe_async(self, request: ObserveRequest) -> ScanFacts:
        """Do :meth:`observe` without blocking the event loop."""
        check_observe(request)
        answers = await self._calls.begin((request,))
        return facts_of(None if answers is None else answers[0])

    async def observe_many_async(self, requests: Sequence[ObserveRequest]) -> list[ScanFacts | None]:
        """Do :meth:`observe_async` for many items; None for each without an answer."""
        for request in requests:
            check_observe(request)
        return all_facts_of(await self._calls.ask_async(requests))

    def adjust(self, adjustment: Adjustment) -> bool:
        """Apply an adjustment; False if it was applied before."""
        check_adjustment(adjustment)
        return self._calls.run(lambda: self._adjust(adjustment))

    def announce(self, generation: int) -> None:
        """Tell that a generation is published: claims decided on older ones are ``stale`` from now on."""
        check_generation(generation)
        self._calls.run(lambda: self._announce(generation))

    def register_reader(self, name: str) -> None:
        """Make sure that no event is trimmed before this reader has acknowledged it; again is no change."""
        check_reader_name(name)
        self._calls.run(lambda: self._acknowledge(lambda: queries.add_reader(self._connection, name)))

    def remove_reader(self, name: str) -> None:
        """Keep no event for this reader any longer; again, or of an unknown one, is no change."""
        check_reader_name(name)
        self._calls.run(lambda: self._acknowledge(lambda: queries.drop_reader(self._connection, name)))

    def events(self, reader: str, after: int, limit: int) -> list[Event]:
        """Return at most ``limit`` events with ``seq`` above ``after``, in order.

        Notes
        -----
        Reads beside the writing thread; claims do not wait for it.
        """
        check_reader_name(reader)
        check_events(after, limit)
        return self._read(lambda: queries.read_events(self._reading, reader, after, limit))

    def ack(self, reader: str, up_to: int) -> None:
        """Acknowledge all events up to ``up_to``; what all readers have acknowledged is trimmed soon after."""
        check_reader_name(reader)
        self._calls.run(lambda: self._acknowledge(lambda: queries.acknowledge(self._connection, reader, up_to)))

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""
        return self._read(lambda: queries.read_totals(self._reading))

    def close(self) -> None:
        """Answer what was asked, then close the database and give the lock back; again is no change."""
        if not self._calls.close():
            return
        with self._read_lock:
            self._reading.close()
        try:
            state = self._state
            if state is not None:
                # Answers that needed no record may have seen a later time than any record holds.
                state.has_unsaved_time = True
                self._write(lambda: save_marks(state, self._connection))
        except LedgerUnavailableError as error:
            _log.warning("the newest time could not be saved: %s", error)
        finally:
            self._connection.close()
            self._lock.release()

    def _read(self, question: Callable[[], Result]) -> Result:
        """Ask the database through the connection for reading, which callers share."""
        self._calls.check()  # Before the lock, which another thread may have held when this process was forked.
        with self._read_lock:
            self._calls.check()
            try:
                return question()
            except sqlite3.DatabaseError as error:
                raise schema.explain(self.path, error) from error

    # What follows runs in the ledger's thread.

    def _answer(self, requests: list[ClaimRequest | ObserveRequest]) -> list[Receipt | ScanFacts] | None:
        state = self._alive()
        try:
            batch = Batch(state, self._connection, requests, scan_events=self._scan_events)
            if batch.has_rows:
                self._connection.execute("BEGIN IMMEDIATE")
                batch.write(self._connection)
                self._connection.execute("COMMIT")
                self._trouble = None
        except sqlite3.Error as error:
            self._trouble = f"the ledger cannot be written: {error}"
            self._abandon()
            _log.error("%s: %d requests could not be written: %s", self.path, len(requests), error)
            return None
        except BaseException:
            self._abandon()
            raise
        self._generation = state.generation
        return batch.answers

    def _adjust(self, adjustment: Adjustment) -> bool:
        state = self._alive()
        earlier = queries.read_adjustment(self._connection, adjustment.id)
        if earlier is not None:
            check_repeated(adjustment, earlier)
            return False
        book = state.book(adjustment.campaign)
        check_adjustment(adjustment, book.added(adjustment))
        number = book.number or len(state.campaigns) + 1
        is_new = not book.number
        self._write(lambda: queries.add_adjustment(self._connection, adjustment, number, is_new_campaign=is_new))
        book.number = number
        state.campaigns[number] = book.id
        book.apply(adjustment)
        return True

    def _announce(self, generation: int) -> None:
        state = self._alive()
        if generation > state.generation:
            state.generation = generation
            self._write(lambda: save_marks(state, self._connection))
            self._generation = generation

    def _acknowledge(self, change: Callable[[], None]) -> None:
        self._write(change)
        self._trim_to = queries.acknowledged(self._connection)

    def _trim(self) -> bool:
        """Delete some events that all readers have acknowledged; tell whether there are more."""
        up_to = min(self._trim_to, self._trimmed + _TRIM_EVENTS)
        if up_to <= self._trimmed:
            return False
        try:
            self._write(lambda: queries.trim_events(self._connection, up_to))
        except LedgerUnavailableError as error:
            _log.warning("acknowledged events could not be deleted, the next ack tries again: %s", error)
            self._trim_to = self._trimmed
            return False
        self._trimmed = up_to
        return up_to < self._trim_to

    def _write(self, change: Callable[[], None]) -> None:
        """Make a change in a transaction of its own.

        Raises
        ------
        LedgerUnavailableError
            The database could not be written; nothing was changed.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            change()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._abandon()
            raise LedgerUnavailableError(f"{self.path}: the ledger cannot be written: {error}") from error
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def _abandon(self) -> None:
        """Undo a transaction that failed, and forget what was in memory: it had run ahead of the database."""
        self._state = None
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                _log.error("%s: a failed transaction could not be undone: %s", self.path, error)

    def _alive(self) -> State:
        """Return the state, built anew if the last transaction failed."""
        if self._state is None:
            self._state = self._load()
        return self._state

    def _load(self) -> State:
        try:
            return State.load(self._connection)
        except sqlite3.DatabaseError as error:
            raise schema.explain(self.path, error) from error
        except (LedgerFormatError, ValueError, KeyError) as error:
            raise LedgerFormatError(f"{self.path}: {error}") from error
