"""What the SQLite ledger asks its database besides claims: events and their readers, adjustments, totals.

The functions read or write through a connection of the caller; those that write do so inside its transaction.
"""

from __future__ import annotations

import sqlite3

from scanengine.errors import OutboxError, UnknownReaderError
from scanengine.ledger import schema
from scanengine.ledger.protocol import CampaignTotals, LedgerTotals
from scanengine.ledger.sealing import hand_out, unseal
from scanengine.ledger.state import Book, read_books
from scanengine.model import Adjustment, Event


def add_reader(connection: sqlite3.Connection, name: str) -> None:
    """Register a reader; it starts at the oldest event that is still there."""
    trimmed = schema.read_meta_number(connection, "trimmed_seq")
    connection.execute("INSERT OR IGNORE INTO readers VALUES (?, ?)", (name, trimmed))


def drop_reader(connection: sqlite3.Connection, name: str) -> None:
    """Forget a reader, if there is one."""
    connection.execute("DELETE FROM readers WHERE name = ?", (name,))


def acknowledge(connection: sqlite3.Connection, reader: str, up_to: int) -> None:
    """Move a reader's mark forward.

    Raises
    ------
    OutboxError
        No such reader, or no such event yet: a mark ahead of the events would let unread ones be trimmed.
    """
    check_reader(connection, reader)
    newest = newest_event(connection)
    if not 0 <= up_to <= newest:
        raise OutboxError(f"reader {reader!r} acknowledges up to {up_to}, but the newest event is {newest}")
    connection.execute("UPDATE readers SET acked = max(acked, ?) WHERE name = ?", (up_to, reader))


def acknowledged(connection: sqlite3.Connection) -> int:
    """Return the newest event that every reader has acknowledged, 0 without readers."""
    return connection.execute("SELECT min(acked) FROM readers").fetchone()[0] or 0


def check_reader(connection: sqlite3.Connection, reader: str) -> None:
    """Check that a reader is registered.

    Raises
    ------
    UnknownReaderError
        It is not.
    """
    if connection.execute("SELECT 1 FROM readers WHERE name = ?", (reader,)).fetchone() is None:
        raise UnknownReaderError(reader)


def newest_event(connection: sqlite3.Connection) -> int:
    """Return the number of the newest event that was ever written, 0 before the first."""
    newest: int | None = connection.execute("SELECT max(seq) FROM events").fetchone()[0]
    # After everything was trimmed only the mark of the trim knows how far the numbers had come.
    return newest or schema.read_meta_number(connection, "trimmed_seq")


def read_events(connection: sqlite3.Connection, reader: str, after: int, limit: int) -> list[Event]:
    """Return events in order, up to the first that is damaged or missing.

    Raises
    ------
    UnknownReaderError
        No such reader.
    DamagedEventError
        The first one is not as it was written, or is missing.
    """
    check_reader(connection, reader)
    rows = connection.execute(
        "SELECT seq, claim, CAST(body AS BLOB) FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
    ).fetchall()
    trimmed = schema.read_meta_number(connection, "trimmed_seq")
    # Which event is the newest is known from the events themselves.
    newest = rows[-1][0] if rows else 0
    return hand_out((unseal(*row) for row in rows), after, limit, newest=newest, trimmed=trimmed)


def trim_events(connection: sqlite3.Connection, up_to: int) -> None:
    """Delete events up to a number, and remember how many of them were of claims."""
    gone = connection.execute("SELECT count(*) FROM events WHERE seq <= ? AND claim > 0", (up_to,)).fetchone()[0]
    connection.execute("DELETE FROM events WHERE seq <= ?", (up_to,))
    schema.write_meta(connection, "trimmed_claims", schema.read_meta_number(connection, "trimmed_claims") + gone)
    schema.write_meta(connection, "trimmed_seq", up_to)


def read_counters(connection: sqlite3.Connection) -> dict[tuple[int, int, int, int], int]:
    """Return every counter by campaign number, kind, number and date."""
    rows = connection.execute("SELECT campaign, kind, number, date, value FROM counters")
    return {(campaign, kind, number, date): value for campaign, kind, number, date, value in rows}


def read_adjustment(connection: sqlite3.Connection, id_: str) -> Adjustment | None:
    """Return the adjustment of this id, None if none was applied."""
    row = connection.execute(
        "SELECT adjustments.id, campaigns.id, action, prize, amount, at_ms "
        "FROM adjustments JOIN campaigns ON campaigns.number = campaign WHERE adjustments.id = ?",
        (id_,),
    ).fetchone()
    return None if row is None else Adjustment(*row)


def add_adjustment(
    connection: sqlite3.Connection, adjustment: Adjustment, campaign: int, *, is_new_campaign: bool
) -> None:
    """Record an adjustment of a campaign, and the campaign if nothing was recorded of it."""
    if is_new_campaign:
        connection.execute("INSERT INTO campaigns VALUES (?, ?)", (campaign, adjustment.campaign))
    connection.execute(
        "INSERT INTO adjustments (id, campaign, action, prize, amount, at_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (adjustment.id, campaign, adjustment.action, adjustment.prize, adjustment.amount, adjustment.at_ms),
    )


def read_totals(connection: sqlite3.Connection) -> LedgerTotals:
    """Return what the ledger holds, all of one moment: of the caller's transaction if there is one."""
    is_outermost = not connection.in_transaction
    if is_outermost:
        connection.execute("BEGIN")
    try:
        claims = connection.execute("SELECT max(seq) FROM claims").fetchone()[0] or 0
        event_seq = newest_event(connection)
        return LedgerTotals(
            claims=claims,
            events=event_seq - schema.read_meta_number(connection, "trimmed_seq"),
            event_seq=event_seq,
            generation=schema.read_meta_number(connection, "generation"),
            campaigns=tuple(sorted(map(_campaign_totals, read_books(connection).values()), key=lambda held: held.id)),
            readers=dict(connection.execute("SELECT name, acked FROM readers ORDER BY name").fetchall()),
        )
    finally:
        if is_outermost:
            connection.execute("COMMIT")


def _campaign_totals(book: Book) -> CampaignTotals:
    return CampaignTotals(
        id=book.id,
        claims=book.claims.total,
        money=book.spent.total,
        awards={number: tally.total for number, tally in sorted(book.prizes.items())},
        is_paused=book.is_paused,
        is_closed=book.is_closed,
        extra_stock=dict(book.extra_units),
        extra_budget=book.extra_budget,
    )
