"""A history of everything that a ledger can hold, and exports of what it made."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

from helpers_ledger import DATE, DAY_MS, NOW_MS, a_campaign, a_claim, a_look
from scanengine.ledger import Ledger, LedgerReader, SqliteLedger, SqliteReader
from scanengine.ledger.moving import Target, export_ledger, import_ledger
from scanengine.ledger.redis import RedisReader
from scanengine.model import NO_PRIZE, Adjustment, ClaimRequest, Offer, Party, PrizeTerms, Role

SPRING = a_campaign(
    (PrizeTerms(0, money=10, stock=5, stock_per_day=4, fallback=1), PrizeTerms(1, points=7), PrizeTerms(2)),
    per_user=7, per_user_per_day=5, budget_total=50, budget_per_day=40,
)  # fmt: skip
AUTUMN = a_campaign((PrizeTerms(0, money=3),), id="autumn", per_user=3, budget_total=9)
CLOSED = a_campaign(id="closed")
CAMPAIGNS = (SPRING, AUTUMN, CLOSED)
READERS = ("accounts", "payouts")
LAST_ITEM = 1 << 54


def spring_claim(item: int, **changes: object) -> ClaimRequest:
    """The claim of an item in the campaign with all limits, by one of two persons, eight items a day."""
    day = (item - 1) // 8
    made: dict[str, object] = {
        "terms": SPRING,
        "local_date": DATE + day,
        "now_ms": NOW_MS + day * DAY_MS + item,
        "party": Party.CHANNEL if item > 10 else Party.CONSUMER,
        "role": Role.RETAILER if item > 10 else Role.CONSUMER,
        **changes,
    }
    return a_claim(item, "ann" if item % 2 else "bob", **made)


def fill(ledger: Ledger) -> None:
    """Claims of both parties in two campaigns on two days, all kinds of prizes, scans before and after, events read."""
    for name in READERS:
        ledger.register_reader(name)
    ledger.adjust(Adjustment("top-up", "spring", "stock", prize=0, amount=1, at_ms=NOW_MS))
    ledger.observe(a_look(3, "before", now_ms=NOW_MS))
    for item in range(1, 13):
        ledger.claim(spring_claim(item))
        ledger.observe(a_look(item, "after", now_ms=NOW_MS + item))
    late_ms = NOW_MS + 2 * DAY_MS
    ledger.claim(spring_claim(1, party=Party.CHANNEL, role=Role.DISTRIBUTOR, now_ms=late_ms, local_date=DATE + 2))
    ledger.claim(a_claim(LAST_ITEM, "cid", terms=AUTUMN, now_ms=late_ms, visit="\u6e56\u5357"))
    ledger.claim(a_claim(40, "cid", terms=AUTUMN, drawn=NO_PRIZE, now_ms=late_ms))
    ledger.claim(a_claim(41, "dan", terms=AUTUMN, generation=7, counts_scan=False, now_ms=late_ms))
    ledger.claim(a_claim(42, "eve", terms=SPRING, offers=(Offer(0, 2),), generation=7, now_ms=late_ms))
    ledger.claim(a_claim(43, "eve", terms=CLOSED, generation=7, now_ms=late_ms + DAY_MS))
    ledger.announce(9)
    for id_, action in (("p", "pause"), ("r", "resume"), ("c", "close")):
        ledger.adjust(Adjustment(id_, "closed", action))
    ledger.adjust(Adjustment("more", "spring", "budget", amount=10))
    ledger.ack("accounts", 9)
    ledger.ack("payouts", 4)


def a_filled_file(path: Path, program_id: str) -> bytes:
    """Make an SQLite ledger of that history, with events of scans, and return its export."""
    ledger = SqliteLedger(path, program_id, scan_events=True)
    fill(ledger)
    ledger.close()
    return exported_file(path)


def carry(export: bytes, target: Target, program_id: str) -> None:
    """Import an export."""
    import_ledger(io.BytesIO(export), target, program_id)


def exported(reader: LedgerReader) -> bytes:
    """The export of a ledger."""
    lines = io.BytesIO()
    export_ledger(reader, lines.write)
    return lines.getvalue()


def exported_file(path: Path) -> bytes:
    """The export of an SQLite ledger."""
    with SqliteReader(path) as reader:
        return exported(reader)


def exported_redis(url: str, program_id: str) -> bytes:
    """The export of a ledger in Redis."""
    with RedisReader(url, program_id) as reader:
        return exported(reader)


def sealed(lines: list[bytes]) -> bytes:
    """Lines with an end that fits them, as whoever changes a file might write it."""
    text = b"".join(lines)
    end = {"lines": len(lines), "digest": hashlib.blake2b(text, digest_size=16).hexdigest()}
    return text + json.dumps(end).encode() + b"\n"
