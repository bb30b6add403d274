"""One batch of requests of the SQLite ledger: answered in memory in order, then written in one transaction.

A later request of the batch sees what an earlier one did, as if each had been committed alone. Nothing here may be told
to a caller before :meth:`Batch.write` and the COMMIT after it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from typing import Final

from scanengine.errors import LedgerFormatError
from scanengine.ledger import rules, schema
from scanengine.ledger._index import mix
from scanengine.ledger.protocol import PENDING
from scanengine.ledger.records import CLAIM_BYTES, CLAIM_STRUCT, SCAN_STRUCT, unpack_claim
from scanengine.ledger.sealing import seal
from scanengine.ledger.state import Book, State
from scanengine.model import (
    NO_PRIZE,
    NO_RULE,
    ClaimRequest,
    ClaimStatus,
    Event,
    ObserveRequest,
    Receipt,
    Role,
    ScanFacts,
)

_ROLES: Final = {role: role.name.lower() for role in Role}
_pack_claim: Final = CLAIM_STRUCT.pack
_log = logging.getLogger(__name__)


class Batch:
    """The answers to a batch, and the rows that make them durable.

    Parameters
    ----------
    state : State
        Changed as the requests are answered; if the rows cannot be committed it is worth nothing any more.
    connection : sqlite3.Connection
        Where earlier claims of the requested items are read.
    requests : iterable of ClaimRequest or ObserveRequest
    scan_events : bool
        Whether visits without a recorded claim make an event.
    """

    def __init__(
        self,
        state: State,
        connection: sqlite3.Connection,
        requests: Iterable[ClaimRequest | ObserveRequest],
        *,
        scan_events: bool,
    ) -> None:
        self._state = state
        self._scan_events = scan_events
        self._claims: list[object] = []
        self._scans: list[object] = []
        self._events: list[object] = []
        self._books: set[Book] = set()
        self._new_books: list[Book] = []
        requests = list(requests)
        self._known, self._damaged = _read_claims(state, connection, requests)
        self.answers: list[Receipt | ScanFacts] = [self._answer(request) for request in requests]

    @property
    def has_rows(self) -> bool:
        """Whether there is anything to write."""
        state = self._state
        return bool(self._claims or self._scans or state.has_unsaved_time or state.generation > state.saved_generation)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the rows, inside a transaction of the caller: claims first, then counters, then events.

        Raises
        ------
        sqlite3.Error
            A row could not be written.
        """
        state = self._state
        for book in self._new_books:
            connection.execute("INSERT INTO campaigns VALUES (?, ?)", (book.number, book.id))
        schema.insert_rows(connection, "claims", 2, self._claims)
        schema.insert_rows(connection, "scans", 2, self._scans)
        counters: list[object] = []
        for book in self._books:
            counters += book.take_rows()
        schema.insert_rows(
            connection, "counters", 5, counters,
            "ON CONFLICT (campaign, kind, number, date) DO UPDATE SET value = excluded.value",
        )  # fmt: skip
        schema.insert_rows(connection, "events", 3, self._events)
        save_marks(state, connection)

    def _answer(self, request: ClaimRequest | ObserveRequest) -> Receipt | ScanFacts:
        if request.item in self._damaged:
            return PENDING  # Nothing is known of it, and the others of the batch have nothing to do with that.
        return self._claim(request) if isinstance(request, ClaimRequest) else self._observe(request)

    def _claim(self, request: ClaimRequest) -> Receipt:
        state = self._state
        at_ms = state.tick(request.now_ms)
        state.generation = max(state.generation, request.generation)
        packed = self._known.get(request.item * 2 + request.party)
        earlier = None if packed is None else unpack_claim(packed)
        terms = request.terms
        book = None if terms is None else state.book(terms.id)
        date = 0 if book is None else max(request.local_date, book.local_date)
        verdict = rules.settle(request, earlier, book, generation=state.generation, at_ms=at_ms, date=date)
        if verdict.is_recorded and book is not None:
            return self._record(request, verdict, book, at_ms, date)
        status = verdict.status
        scan, is_new = self._visit(request, at_ms, request.counts_scan and status is not ClaimStatus.STALE)
        if is_new:
            self._add_scan(request, at_ms, scan)
            if self._scan_events:
                self._add_scan_event(request, at_ms)
        if earlier is not None:
            if verdict is rules.REPLAYED:
                return earlier.receipt(state.campaigns[earlier.campaign], scan)
            return Receipt(status, at_ms=earlier.at_ms, scan=scan)
        if status is ClaimStatus.CLOSED or status is ClaimStatus.LIMITED:
            state.has_unsaved_time = True
        return Receipt(status, verdict.reason, at_ms=at_ms, scan=scan)

    def _record(self, request: ClaimRequest, verdict: rules.Verdict, book: Book, at_ms: int, date: int) -> Receipt:
        """Record a claim, its counts and its event."""
        state = self._state
        scan, is_new = self._visit(request, at_ms, request.counts_scan)
        is_first_scan = is_new and scan.number == 1
        if is_new and not is_first_scan:
            self._add_scan(request, at_ms, scan)
        if not book.number:
            book.number = len(state.campaigns) + 1
            state.campaigns[book.number] = book.id
            self._new_books.append(book)
        rule, drawn, prize, money, amount = verdict.rule, verdict.drawn, verdict.prize, verdict.money, verdict.amount
        unit, person_total, person_day = book.record(request.user_hash, prize, money, date)
        self._books.add(book)
        item, party, generation = request.item, request.party, request.generation
        packed = _pack_claim(
            item, request.user_hash, request.visit_hash, at_ms, money, book.number, generation, date, unit,
            person_total, person_day, rule, drawn, prize, party, is_first_scan,
        )  # fmt: skip
        key = item * 2 + party
        state.claim_seq += 1
        state.claims.put(key, state.claim_seq)
        self._known[key] = packed
        self._claims += (state.claim_seq, packed)
        state.event_seq += 1
        claim_id = request.claim_id
        event = Event(
            claim_id, state.event_seq, "claim", at_ms, item, request.batch, request.product, request.user,
            _ROLES[request.role], request.region, book.id, generation, rule, drawn, prize, amount, unit, claim_id,
            request.visit,
        )  # fmt: skip
        self._events += (state.event_seq, state.claim_seq, seal(event))
        return Receipt(verdict.status, None, False, at_ms, book.id, generation, rule, drawn, prize, unit, scan)

    def _observe(self, request: ObserveRequest) -> ScanFacts:
        # A look leaves no trace, so its time does not count either: a wrong one would close campaigns for good.
        at_ms = self._state.tick(request.now_ms) if request.counts_scan else self._state.clock_ms
        scan, is_new = self._visit(request, at_ms, request.counts_scan)
        if is_new:
            self._add_scan(request, at_ms, scan)
            if self._scan_events:
                self._add_scan_event(request, at_ms)
        return scan

    def _visit(self, request: ClaimRequest | ObserveRequest, at_ms: int, counts: bool) -> tuple[ScanFacts, bool]:
        """Return the scans of an item as this visit sees them, and whether it is a new one to be recorded."""
        state = self._state
        item = request.item
        number = 0
        first_ms = None
        count = state.scan_count.get(item)
        if count:
            first_ms = state.scan_first.get(item) - 1
            number = state.visits.get(mix(item, request.visit_hash))
        known = self._known
        for packed in (known.get(item * 2), known.get(item * 2 + 1)):
            if packed is None:
                continue
            claim = unpack_claim(packed)
            if claim.is_first_scan:
                count = count or 1
                first_ms = claim.at_ms
                if claim.visit_hash == request.visit_hash:
                    number = 1
        if number or not counts:
            return ScanFacts(count, first_ms, number), False
        return ScanFacts(count + 1, at_ms if first_ms is None else first_ms, count + 1), True

    def _add_scan(self, request: ClaimRequest | ObserveRequest, at_ms: int, scan: ScanFacts) -> None:
        """Record a new visit as a row of its own."""
        state = self._state
        item, visit_hash, number = request.item, request.visit_hash, scan.number
        first_ms = at_ms if scan.first_at_ms is None else scan.first_at_ms
        state.scan_count.put(item, number)
        state.scan_first.put(item, first_ms + 1)
        state.visits.put(mix(item, visit_hash), number)
        state.scan_seq += 1
        self._scans += (state.scan_seq, SCAN_STRUCT.pack(item, visit_hash, at_ms, first_ms, number))

    def _add_scan_event(self, request: ClaimRequest | ObserveRequest, at_ms: int) -> None:
        state = self._state
        state.event_seq += 1
        event = _scan_event(request, at_ms, f"scan-{state.scan_seq}", state.event_seq)
        self._events += (state.event_seq, 0, seal(event))


def save_marks(state: State, connection: sqlite3.Connection) -> None:
    """Write the time and generation that no record holds, inside a transaction of the caller."""
    if state.has_unsaved_time:
        schema.write_meta(connection, "clock_ms", state.clock_ms)
        state.has_unsaved_time = False
    if state.generation > state.saved_generation:
        schema.write_meta(connection, "generation", state.generation)
        state.saved_generation = state.generation


def _read_claims(
    state: State, connection: sqlite3.Connection, requests: list[ClaimRequest | ObserveRequest]
) -> tuple[dict[int, bytes], set[int]]:
    """Return the earlier claims of the requested items, packed, both parties', by item * 2 + party; and damaged items.

    One step of SQLite for the whole batch: the rows come back as one value.
    """
    find = state.claims.get
    seqs = set()
    for request in requests:
        key = request.item * 2
        seqs.add(find(key))
        seqs.add(find(key + 1))
    seqs.discard(0)
    if not seqs:
        return {}, set()
    sql = "SELECT CAST(group_concat(record, '') AS BLOB) FROM claims WHERE seq IN (SELECT value FROM json_each(?))"
    packed: bytes = connection.execute(sql, (str(list(seqs)),)).fetchone()[0]
    known: dict[int, bytes] = {}
    damaged: set[int] = set()
    for start in range(0, len(packed), CLAIM_BYTES):
        record = packed[start : start + CLAIM_BYTES]
        try:
            claim = unpack_claim(record)
        except LedgerFormatError as error:
            _log.error("%s", error)
            damaged.add(int.from_bytes(record[:8], "little"))
            continue
        known[claim.item * 2 + claim.party] = record
    return known, damaged


def _scan_event(request: ClaimRequest | ObserveRequest, at_ms: int, id_: str, seq: int) -> Event:
    if isinstance(request, ObserveRequest):
        return Event(
            id_, seq, "scan", at_ms, request.item, "", "", "", "", 0, None, 0, NO_RULE, NO_PRIZE, NO_PRIZE, 0, 0,
            None, "",
        )  # fmt: skip
    campaign = None if request.terms is None else request.terms.id
    return Event(
        id_, seq, "scan", at_ms, request.item, request.batch, request.product, request.user, _ROLES[request.role],
        request.region, campaign, request.generation, NO_RULE, NO_PRIZE, NO_PRIZE, 0, 0, None, request.visit,
    )  # fmt: skip
