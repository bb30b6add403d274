"""A clock that stands still until it is told otherwise."""

from __future__ import annotations

from datetime import datetime, timedelta

from scanengine.program.scans import time_ms_of

Moment = datetime | int | str
"""A time with a zone, milliseconds since 1970 UTC, or ISO 8601 with a UTC offset."""


def moment_ms(moment: Moment) -> int:
    """Return a moment as milliseconds since 1970 UTC; ScanError for one without a zone."""
    return time_ms_of(datetime.fromisoformat(moment) if isinstance(moment, str) else moment)


class Clock:
    """What a program takes for now; calling it returns milliseconds since 1970 UTC.

    Notes
    -----
    A ledger's time never runs backwards: after a claim, setting the clock back changes what is decided, and not the
    time that the ledger has seen.
    """

    def __init__(self, moment: Moment) -> None:
        self._now_ms = moment_ms(moment)

    def __call__(self) -> int:
        """Return the time it shows."""
        return self._now_ms

    def set(self, moment: Moment) -> None:
        """Make it a certain time.

        Raises
        ------
        ScanError
            If the moment has no zone, or is after the year 9998.
        """
        self._now_ms = moment_ms(moment)

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass, or go back."""
        passed = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        self._now_ms = time_ms_of(self._now_ms + round(passed.total_seconds() * 1000))
