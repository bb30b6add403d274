"""Events of the outbox as bytes: what the functions write, and how it is read back.

An entry holds the events of one call: their heads, of one size, and what the clients said of them. What a client said
comes with a check value, and the head of a claim's event can be compared with the record of the claim. The layout is
drawn in ``scan_v1.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class
from typing import Any, Final
from zlib import crc32

import msgspec

from scanengine.errors import LedgerFormatError
from scanengine.ledger.sealing import DamagedEventError
from scanengine.model import Event

_HEAD: Final = Struct("<B6sIIhhhIQI")
_TIME_BYTES: Final = 6
_SAID_PARTS: Final = b"\x9b"
"""Makes one of the ten things that a client says and of their check value."""
_CHECK: Final = Struct(">BI")
_UINT32: Final = 0xCE

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
_convert_event: Final = partial(msgspec.convert, type=Event)


def pack_said(said: Sequence[object]) -> bytes:
    """Return what a client says of its request for an event, with a check value."""
    packed = _encode(said)[1:]
    return _SAID_PARTS + packed + _CHECK.pack(_UINT32, crc32(packed))


def encode_event(claims: int, event: Event) -> tuple[bytes, bytes]:
    """Return head and said of an event, as the functions write them; `claims` is the number of claims so far.

    Raises
    ------
    LedgerFormatError
        It holds a number that the functions never write.
    """
    is_claim = event.claim is not None
    scan = 0 if is_claim else int(event.id.rpartition("-")[2])
    said = pack_said((
        event.claim or "", event.item, event.batch, event.product, event.user, event.role, event.region,
        event.campaign, event.generation, event.visit,
    ))  # fmt: skip
    try:
        head = _HEAD.pack(
            is_claim, event.at.to_bytes(_TIME_BYTES, "little"), claims, scan, event.rule, event.drawn, event.prize,
            event.unit, event.amount, len(said),
        )  # fmt: skip
    except (StructError, OverflowError) as error:
        raise LedgerFormatError(f"event {event.seq}: it holds a number that none can be in Redis: {error}") from error
    return head, said


def read_entries(entries: Iterable[Any], after: int) -> Iterator[tuple[int, Event]]:
    """Yield number of the claim (0 for a scan) and event of all events after one.

    Raises
    ------
    DamagedEventError
        An event is not as it was written.
    """
    newest = after
    for id_, (heads, said, *others) in entries:
        last = int(id_.partition(b"-")[0])
        count, rest = divmod(len(heads), _HEAD.size)
        if not count or rest or others:
            # Which events it held is not to be known, but they came after the one before it.
            raise DamagedEventError(newest + 1, 0, f"its entry {last} is none that the ledger writes", last=last)
        at = 0
        is_whole = sum(head[-1] for head in _HEAD.iter_unpack(heads)) == len(said)
        for seq, head in enumerate(_HEAD.iter_unpack(heads), last - count + 1):
            # The last one has all that is left, so that nothing can be there that no event says.
            end = at + head[-1] if seq < last else len(said)
            if seq > after:
                try:
                    found = decode_event(seq, head, said[at:end])
                except DamagedEventError as error:
                    if is_whole:
                        raise
                    what = f"it cannot be told from those after it, up to {last}"
                    raise DamagedEventError(seq, error.claim, what, last=last) from error
                yield found
            at = end
        newest = max(newest, last)


def decode_event(seq: int, head: Sequence[Any], packed: bytes) -> tuple[int, Event]:
    """Return the number of the event's claim (0 for a scan) and the event, from its head and what the client said.

    Raises
    ------
    DamagedEventError
        It is not as it was written.
    """
    kind, at_bytes, claims, scan, rule, drawn, prize, unit, amount, size = head
    at_ms = int.from_bytes(at_bytes, "little")
    try:
        said = _decode(packed)
        id_, item, batch, product, user, role, region, campaign, generation, visit, _ = said
        is_claim = kind == 1
        event = _convert_event({
            "id": id_ if is_claim else f"scan-{scan}", "seq": seq, "type": "claim" if is_claim else "scan",
            "at": at_ms, "item": item, "batch": batch, "product": product, "user": user, "role": role,
            "region": region, "campaign": campaign, "generation": generation, "rule": rule, "drawn": drawn,
            "prize": prize, "amount": amount, "unit": unit, "claim": id_ if is_claim else None, "visit": visit,
        })  # fmt: skip
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise DamagedEventError(seq, 0, str(error)) from error
    claim = claims if is_claim else 0
    # Numbers and texts have one spelling each, so bytes that differ anywhere are not those that were written.
    if kind not in (0, 1) or is_claim == (scan > 0) or size != len(packed) or pack_said(said[:-1]) != packed:
        raise DamagedEventError(seq, claim, "its bytes do not agree with their check value", event)
    return claim, event
