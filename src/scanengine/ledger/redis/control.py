"""What the Redis ledger is asked besides claims: adjustments, generations, events and their readers, totals.

Each function checks its arguments and returns a question: a coroutine function that is given the link's ``call`` and
the epoch, and may be asked again when the connection was lost, as every question changes nothing the second time.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from redis.exceptions import ResponseError

from scanengine.errors import AdjustmentError, OutboxError, UnknownReaderError
from scanengine.ledger.checks import check_adjustment, check_events, check_reader_name, check_repeated
from scanengine.ledger.protocol import (
    CampaignTotals,
    LedgerTotals,
)
from scanengine.ledger.redis.codec import NUMBER_MAX
from scanengine.ledger.redis.events import read_entries
from scanengine.ledger.redis.keys import Keys
from scanengine.ledger.redis.link import said_by
from scanengine.ledger.sealing import hand_out
from scanengine.model import Adjustment, Event

Call = Callable[..., Awaitable[Any]]
Result_co = TypeVar("Result_co", covariant=True)

ENTRIES_AT_ONCE: Final = 128
"""Entries of the outbox read by one call, each of up to a batch of events."""
TRIM_EVENTS: Final = 4096
"""Events deleted by one call; more would keep claims waiting."""

_decode_adjustment: Final = msgspec.json.Decoder(Adjustment).decode


class Question(Protocol[Result_co]):
    """Something to ask the server, again if need be."""

    async def __call__(self, call: Call, epoch: bytes) -> Result_co:
        """Ask, and return the answer."""


def adjust(keys: Keys, adjustment: Adjustment) -> Question[bool]:
    """Apply an adjustment; False if it was applied before, AdjustmentError if its id was for something else."""
    check_adjustment(adjustment)
    nonce = secrets.token_hex(8)  # Tells this call, asked again, from another of the same id.

    async def ask(call: Call, epoch: bytes) -> bool:
        await number(keys, adjustment.campaign)(call, epoch)
        try:
            done = await call(
                "FCALL", "scan_v1_adjust", 3, keys.meta, keys.adjustments, keys.campaign(adjustment.campaign), epoch,
                adjustment.id, nonce, adjustment.action, adjustment.prize, adjustment.amount,
                msgspec.json.encode(adjustment),
            )  # fmt: skip
        except ResponseError as error:
            name, _, what = said_by(error).partition(" ")
            if name == "LEDGERRANGE":
                raise AdjustmentError(what) from error
            raise
        if not done:
            # What was applied never changes, so it may be read a moment later.
            held = await call("HGET", keys.adjustments, adjustment.id)
            check_repeated(adjustment, read_adjustment(held))
        return bool(done)

    return ask


def number(keys: Keys, campaign: str) -> Question[int]:
    """Return the number of a campaign, which is given to it if it has none."""

    async def ask(call: Call, epoch: bytes) -> int:
        return int(
            await call(
                "FCALL", "scan_v1_number", 3, keys.meta, keys.campaigns, keys.campaign(campaign), epoch, campaign
            )
        )

    return ask


def announce(keys: Keys, generation: int) -> Question[int]:
    """Tell a generation; the newest that the ledger has seen."""

    async def ask(call: Call, epoch: bytes) -> int:
        return int(await call("FCALL", "scan_v1_announce", 1, keys.meta, epoch, generation))

    return ask


def register_reader(keys: Keys, name: str) -> Question[None]:
    """Register a reader; it starts at the oldest event that is still there."""
    check_reader_name(name)

    async def ask(call: Call, epoch: bytes) -> None:
        await call("FCALL", "scan_v1_reader", 2, keys.meta, keys.readers, epoch, name)

    return ask


def remove_reader(keys: Keys, name: str) -> Question[None]:
    """Forget a reader, if there is one, and trim what was kept for it alone."""
    check_reader_name(name)

    async def ask(call: Call, epoch: bytes) -> None:
        trimmed, target = -1, 0
        while trimmed < target:
            trimmed, target = await call(
                "FCALL", "scan_v1_unreader", 3, keys.meta, keys.readers, keys.outbox, epoch, name, TRIM_EVENTS
            )

    return ask


def events(keys: Keys, reader: str, after: int, limit: int) -> Question[list[Event]]:
    """Return events in order, up to the first that is damaged or missing.

    UnknownReaderError if there is no such reader; DamagedEventError if the very first event is damaged or missing.
    """
    check_reader_name(reader)
    check_events(after, limit)

    async def ask(call: Call, epoch: bytes) -> list[Event]:
        if not await call("HEXISTS", keys.readers, reader):
            raise UnknownReaderError(reader)
        newest = int(await call("HGET", keys.meta, "events") or 0)
        found: list[Any] = []
        start, newest_found, count = f"{after + 1}-0", after, 1
        while newest_found < min(after + limit, NUMBER_MAX):
            # An entry may hold one event, or a whole batch.
            count = min(2 * count, ENTRIES_AT_ONCE)
            entries = await call("XRANGE", keys.outbox, start, "+", "COUNT", count)
            found += entries
            if len(entries) < count:
                break
            newest_found = int(entries[-1][0].partition(b"-")[0])
            start = "(" + entries[-1][0].decode()
        trimmed = int(await call("HGET", keys.meta, "trimmed") or 0)
        stored = (event for _, event in read_entries(found, max(after, trimmed)))
        return hand_out(stored, after, limit, newest=newest, trimmed=trimmed)

    return ask


def acknowledge(keys: Keys, reader: str, up_to: int) -> Question[None]:
    """Move a reader's mark forward; OutboxError if there is no such reader, or no such event yet."""
    check_reader_name(reader)

    async def ask(call: Call, epoch: bytes) -> None:
        trimmed, target = -1, 0
        while trimmed < target:
            try:
                trimmed, target = await call(
                    "FCALL", "scan_v1_ack", 3, keys.meta, keys.readers, keys.outbox, epoch, reader, up_to, TRIM_EVENTS
                )
            except ResponseError as error:
                name, _, newest = said_by(error).partition(" ")
                if name == "LEDGERREADER":
                    raise UnknownReaderError(reader) from error
                if name == "LEDGERAHEAD":
                    raise OutboxError(
                        f"reader {reader!r} acknowledges up to {up_to}, but the newest event is {newest}"
                    ) from error
                raise

    return ask


def totals(keys: Keys) -> Question[LedgerTotals]:
    """Return what the ledger holds."""

    async def ask(call: Call, epoch: bytes) -> LedgerTotals:
        names = sorted(read_campaigns(await call("HGETALL", keys.campaigns)).values())
        found = await call(
            "FCALL_RO", "scan_v1_totals", 3 + len(names), keys.meta, keys.readers, keys.campaigns,
            *map(keys.campaign, names),
        )  # fmt: skip
        return read_totals(names, found)

    return ask


def read_adjustment(held: bytes) -> Adjustment:
    """Return an adjustment as it is kept, after its number and the nonce of its call."""
    return _decode_adjustment(held.split(b" ", 2)[2])


def read_campaigns(reply: Sequence[bytes]) -> dict[int, str]:
    """Return the ids of campaigns by their numbers."""
    return {int(number): name.decode() for name, number in read_hash(reply).items()}


def read_hash(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields of a hash."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def read_totals(names: Sequence[str], found: Sequence[Sequence[bytes]]) -> LedgerTotals:
    """Return the totals of what ``scan_v1_totals`` replied for the campaigns of these ids."""
    meta = {name: int(value) for name, value in read_hash(found[0]).items() if value.isdigit()}
    events_seq = meta.get(b"events", 0)
    return LedgerTotals(
        claims=meta.get(b"claims", 0),
        events=events_seq - meta.get(b"trimmed", 0),
        event_seq=events_seq,
        generation=meta.get(b"generation", 0),
        campaigns=tuple(
            _campaign_totals(name, held)
            for name, held in zip(names, map(read_hash, found[3:]), strict=True)
            # One that has only been given its number yet has nothing to tell.
            if len(held) > 1
        ),
        readers={name.decode(): int(acked) for name, acked in sorted(read_hash(found[1]).items())},
    )


def _campaign_totals(name: str, held: dict[bytes, bytes]) -> CampaignTotals:
    def numbered(kind: bytes) -> dict[int, int]:
        found = {}
        for field, value in held.items():
            parts = field.split(b":")
            if parts[0] == kind and len(parts) == 2:
                found[int(parts[1])] = int(value)
        return dict(sorted(found.items()))

    return CampaignTotals(
        id=name,
        claims=int(held.get(b"claims", 0)),
        money=int(held.get(b"money", 0)),
        awards=numbered(b"awards"),
        is_paused=held.get(b"paused") == b"1",
        is_closed=held.get(b"closed") == b"1",
        extra_stock=numbered(b"stock"),
        extra_budget=int(held.get(b"budget", 0)),
    )
