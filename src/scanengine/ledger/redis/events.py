"""Events of the outbox as bytes: what the functions write, and how it is read back.

What the client said of its request comes with a check value, and the rest can be compared with the record of the claim.
The layout is drawn in ``scan_v1.lua``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec

from scanengine.ledger.sealing import DamagedEventError
from scanengine.model import Event

_EVENT_PARTS: Final = b"\x9a"
"""Makes one MessagePack array of the nine numbers of an event and of what the client said."""
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


def encode_event(claims: int, event: Event) -> bytes:
    """Return an event as the functions write it; `claims` is the number of claims so far."""
    is_claim = event.claim is not None
    scan = 0 if is_claim else int(event.id.rpartition("-")[2])
    return _pack_event(
        (int(is_claim), event.at, claims, scan, event.rule, event.drawn, event.prize, event.amount, event.unit),
        (event.claim or "", event.item, event.batch, event.product, event.user, event.role, event.region,
         event.campaign, event.generation, event.visit),
    )  # fmt: skip


def decode_event(seq: int, packed: bytes) -> tuple[int, Event]:
    """Return the number of the event's claim (0 for a scan) and the event.

    Raises
    ------
    DamagedEventError
        It is not as it was written.
    """
    try:
        *numbers, said = _decode(_EVENT_PARTS + packed)
        kind, at_ms, claims, scan, rule, drawn, prize, amount, unit = numbers
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
    if kind not in (0, 1) or is_claim == (scan > 0) or _pack_event(numbers, said[:-1]) != packed:
        raise DamagedEventError(seq, claim, "its bytes do not agree with their check value", event)
    return claim, event


def _pack_event(numbers: Sequence[int], said: Sequence[object]) -> bytes:
    return _encode(numbers)[1:] + pack_said(said)
