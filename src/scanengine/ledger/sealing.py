"""Events as they are stored: with a check value, so that a byte that was changed shows.

Records of claims hold most of what an event says, and the audit compares the two. Some of it, such as the region, is
in the event alone; for that there is nothing to compare with but what was written with it. A CRC-32 finds every change
of one byte, and every other change but one in four billion. It is no proof against who can write the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final
from zlib import crc32

import msgspec

from scanengine.errors import LedgerFormatError
from scanengine.model import Event

_CHECK: Final = ',"check":"'

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Event).decode


class DamagedEventError(LedgerFormatError):
    """An event is not as it was written, or is missing.

    Parameters
    ----------
    seq : int
        Number of the event.
    claim : int
        Number of the claim that it is stored for, 0 if it is not known.
    event : Event or None
        What it says all the same, as far as it can be read.
    last : int or None
        Number of the last one, if several are missing.
    """

    def __init__(self, seq: int, claim: int, what: str, event: Event | None = None, last: int | None = None) -> None:
        self.seq = seq
        self.last = seq if last is None else last
        self.claim = claim
        self.event = event
        super().__init__(f"event {seq} is damaged: {what}")


def seal(event: Event) -> str:
    """Return an event as JSON whose last field checks all the others."""
    body = _encode(event)[:-1]
    return f'{body.decode()}{_CHECK}{crc32(body):08x}"}}'


def unseal(seq: int, claim: int, sealed: bytes) -> Event:
    """Return the event of a row.

    Raises
    ------
    DamagedEventError
        It is not what was sealed, or of another row.
    """
    try:
        event = _decode(sealed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedEventError(seq, claim, str(error)) from error
    body, _, check = sealed.rpartition(_CHECK.encode())
    if check != b'%08x"}' % crc32(body):
        raise DamagedEventError(seq, claim, "its bytes do not agree with their check value", event)
    if event.seq != seq:
        raise DamagedEventError(seq, claim, f"it says that it is event {event.seq}", event)
    return event


def hand_out(events: Iterable[Event], after: int, limit: int, *, newest: int, trimmed: int) -> list[Event]:
    """Return at most `limit` of the events after one, up to the first that is damaged or missing.

    Parameters
    ----------
    events : iterable of Event
        As they are stored; raises DamagedEventError at the first that is damaged.
    newest : int
        An event that was written before `events` were read.
    trimmed : int
        How far events were trimmed after `events` were read: those may be there or not.

    Raises
    ------
    DamagedEventError
        The very first one is damaged or missing.
    """
    found: list[Event] = []
    due = after + 1
    try:
        for event in islice(events, limit):
            _check_next(due, event.seq, trimmed)
            found.append(event)
            due = event.seq + 1
        if len(found) < limit:
            _check_next(due, newest + 1, trimmed)
    except DamagedEventError as error:
        if found:
            return found
        _check_next(due, error.seq, trimmed)
        raise
    return found


def _check_next(due: int, seq: int, trimmed: int) -> None:
    """Check that no event is missing before one."""
    due = max(due, trimmed + 1)
    if seq > due:
        others = f", and so are all up to {seq - 1}" if seq - 1 > due else ""
        raise DamagedEventError(due, 0, f"it is missing{others}", last=seq - 1)
