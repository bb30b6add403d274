"""Builders for ledger tests, each with the changes that a test is about, and ways to look into a ledger's file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from redis_servers import RedisServer, wait_until
from scanengine.errors import OverloadedError
from scanengine.ledger import Ledger, SqliteLedger, SqliteReader, audit
from scanengine.ledger.redis import RedisLedger, RedisReader
from scanengine.model import (
    CampaignTerms,
    ClaimRequest,
    ClaimStatus,
    ObserveRequest,
    Offer,
    Party,
    PrizeTerms,
    Receipt,
)

OPENS_MS = 1_772_294_400_000
"""2026-03-01 00:00 in Shanghai, which is 2026-02-28 16:00 UTC."""
CLOSES_MS = OPENS_MS + 30 * 86_400_000
DATE = 20_513
"""2026-03-01 in days since 1970-01-01."""
NOW_MS = OPENS_MS + 3_600_000
DAY_MS = 86_400_000
TIME_MS_MAX = 253_370_764_799_999
"""9998-12-31 23:59:59.999 UTC, the newest time that a ledger takes."""

Opener = Callable[..., SqliteLedger]
"""The fixture ``open_ledger``: opens a ledger file that is closed when the test ends."""
RedisOpener = Callable[..., RedisLedger]
"""The fixture ``open_redis``: opens a ledger at a URL that is closed when the test ends."""
UNLIMITED = (PrizeTerms(0), PrizeTerms(1))


def a_campaign(prizes: tuple[PrizeTerms | None, ...] = UNLIMITED, **changes: Any) -> CampaignTerms:
    """Terms without limits but those given."""
    terms = CampaignTerms("spring", OPENS_MS, CLOSES_MS, prizes)
    return replace(terms, **changes)


def a_claim(
    item: int = 1, user: str = "ann", *, drawn: int = 0, visit: str | None = None, **changes: Any
) -> ClaimRequest:
    """A claim of an open campaign that draws prize 0, by a visit of its own for each item and user."""
    visit = f"{item}-{user}" if visit is None else visit
    party = changes.get("party", Party.CONSUMER)
    request = ClaimRequest(
        item=item,
        party=Party.CONSUMER,
        user=user,
        user_hash=int.from_bytes(user.encode().ljust(8, b"\0")[:8], "little"),
        visit=visit,
        visit_hash=hash_of(visit),
        claim_id=f"CLAIM{item}P{int(party)}",
        generation=1,
        offers=(Offer(3, drawn),),
        terms=a_campaign(),
        refusal=None,
        local_date=DATE,
        now_ms=NOW_MS,
        batch="cola",
        product="06901234567892",
        region=440300,
    )
    return replace(request, **changes)


def a_look(item: int = 1, visit: str = "look", *, counts_scan: bool = True, now_ms: int = NOW_MS) -> ObserveRequest:
    """A visit without a claim."""
    return ObserveRequest(item, hash_of(visit), now_ms, counts_scan)


def hash_of(visit: str) -> int:
    """Stands in for the keyed hash of a visit."""
    return int.from_bytes(visit.encode().ljust(8, b"\0")[-8:], "little")


def status_of(receipt: Receipt) -> tuple[str, str | None]:
    """Status and reason."""
    return str(receipt.status), receipt.reason


def in_thread(ledger: SqliteLedger, function: Callable[[], object]) -> None:
    """Run a function where the ledger's own work runs, after the work that was put off before it."""
    ledger._calls.run(function)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What the file holds, as another process would see it."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def problems_of(path: Path, *terms: CampaignTerms) -> list[str]:
    """What the audit finds."""
    with SqliteReader(path) as reader:
        return audit(reader, {campaign.id: campaign for campaign in terms}).problems


def audit_of_redis(url: str, program_id: str, *terms: CampaignTerms) -> tuple[int, list[str]]:
    """How many claims the audit counts at a server, and what it finds."""
    with RedisReader.open(url, program_id, None) as reader:
        report = audit(reader, {campaign.id: campaign for campaign in terms})
    return report.claims, report.problems


def held_by(server: RedisServer, program_id: str) -> dict[str, object]:
    """Every key of a program with what is in it, as any client of the server would see it."""
    client = server.client()
    reads = {b"hash": client.hgetall, b"stream": client.xrange, b"string": client.get, b"list": client.llen}
    held: dict[str, object] = {}
    for key in sorted(client.scan_iter(match=f"{tag_of(program_id)}*", count=10_000)):
        held[key.decode()] = reads[client.type(key)](key)
    return held


def tag_of(program_id: str) -> str:
    """What every key of a program begins with."""
    return "{" + program_id.partition("/")[0] + "}:"


def answered(ledger: Ledger, request: ClaimRequest) -> Receipt:
    """Ask as a caller does that is told ``pending``, or refused: the same again until there is an answer."""
    receipts: list[Receipt] = []

    def ask() -> bool:
        try:
            receipts.append(ledger.claim(request))
        except OverloadedError:
            return False
        return receipts[-1].status is not ClaimStatus.PENDING

    wait_until(ask, lambda: f"an answer; the ledger's trouble is {ledger.trouble}")
    return receipts[-1]


def same_claim(receipt: Receipt) -> Receipt:
    """The receipt without what differs between a claim's first answer and the later ones."""
    return replace(receipt, replayed=False, scan=None)
