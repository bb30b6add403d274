"""The UTC offsets of a time zone over a campaign's life, so that the core needs no time-zone database.

offset  +1 h ──────────┐ 02:00 UTC      ┌──────────
        +2 h           └────────────────┘
entry   (-2**63, 3600)  (…, 7200)        (…, 3600)      each holds from its instant until the next
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

BEFORE_OPENING: Final = timedelta(days=1)
AFTER_CLOSING: Final = timedelta(days=400)
"""A closed campaign still answers for its claims, with local dates, for a year and a month."""
BEGINNING_MS: Final = -(1 << 63)
STEP_S: Final = 6 * 3600
"""A zone that changed and changed back within six hours would be missed; none ever did."""


def offset_transitions(zone: str, opens: datetime, closes: datetime) -> list[tuple[int, int]]:
    """Return the UTC offsets of a zone from a day before the opening until 400 days after the closing.

    Parameters
    ----------
    zone : str
        Name in the IANA time zone database.
    opens, closes : datetime
        With UTC offsets.

    Returns
    -------
    list of (int, int)
        Instant in milliseconds since 1970 UTC, and offset in seconds from it on. The first entry is at
        -2**63; the last one holds for ever.

    Notes
    -----
    Scans in steps of six hours and bisects to the second, in which every change of the database lies. A
    campaign of a year takes some 3,000 look-ups.
    """
    zone_info = ZoneInfo(zone)
    second = int((opens - BEFORE_OPENING).timestamp())
    last = int((closes + AFTER_CLOSING).timestamp())
    offset = _offset_s(zone_info, second)
    transitions = [(BEGINNING_MS, offset)]
    while second < last:
        following = min(second + STEP_S, last)
        if _offset_s(zone_info, following) != offset:
            second = _first_change(zone_info, second, following)
            offset = _offset_s(zone_info, second)
            transitions.append((second * 1000, offset))
        else:
            second = following
    return transitions


def _first_change(zone: ZoneInfo, before: int, after: int) -> int:
    """Return the first second whose offset is no longer that of `before`."""
    offset = _offset_s(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset_s(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset_s(zone: ZoneInfo, second: int) -> int:
    offset = datetime.fromtimestamp(second, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
