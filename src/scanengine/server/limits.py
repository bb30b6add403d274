"""The failure budget: how many bad codes one source may show in a minute.

A tag of 50 bits keeps guessers away only if they cannot guess without end. Each bad code that an outsider shows is
taken off the budget of where it came from; when nothing is left, no code of that source is answered, good or bad, so
that the refusal says nothing about the code. Good codes cost nothing.

No address is kept. A source is four numbers, made from it with a key that changes every few minutes, and each number
is a place in a row of times:

    | key | row 0 | row 1 | row 2 | row 3 |     and once more for the key before
            t       t       t       t           when the source will have its whole budget again

A source has left what the earliest of its four times says: one that shares a place with somebody else is not harmed
unless it shares all four with somebody who has spent theirs. So memory is fixed, whatever a flood of sources does, and
nothing is ever thrown out to make room: a spent budget stays spent. Times that have passed mean nothing, so nothing has
to be cleaned, and workers can share the memory as it is.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from time import monotonic
from typing import Final

from aiohttp import web

from scanengine.model import Status
from scanengine.server.problems import TooManyBadCodesError

WINDOW_S: Final = 60.0
EPOCH_S: Final = 300.0
"""How long a key is used; it is looked after for one window more."""
_ROW_CELLS: Final = 1 << 16
"""One 16-bit number picks a cell. 32,000 sources that each spend a whole budget every minute fill 39 % of a row, and
then 2.4 % of the others find all of their four places taken."""
_KEY_BYTES: Final = 32
_CELLS: Final = 2 * 4 * _ROW_CELLS
_MEMORY_BYTES: Final = _KEY_BYTES + 8 * _CELLS
"""4 MiB, of which the system provides what is written to."""
_numbers: Final = Struct("<4H").unpack

BAD_STATUSES: Final = frozenset(
    (Status.MALFORMED, Status.MISTYPED, Status.UNKNOWN_KEY, Status.FORGED, Status.UNKNOWN, Status.WRONG_PRODUCT)
)
"""What a guess comes out as. A text that is no code of ours at all is a guess too, at an imported code."""
_BAD_NAMES: Final = frozenset(status.name.lower() for status in BAD_STATUSES)

SOURCE: Final = web.RequestKey("source", bytes)
"""Whose budget a bad code is taken off; not set where none is."""


def open_memory() -> int:
    """Return the file descriptor of memory for workers to share; it has no name and goes with its last user."""
    found = os.memfd_create("scanengine-limits")
    os.truncate(found, _MEMORY_BYTES)
    os.pwrite(found, os.urandom(_KEY_BYTES), 0)
    return found


class FailureBudget:
    """How many bad codes each source may still show.

    Parameters
    ----------
    per_minute : int
        Bad codes for each source, at once or spread over a minute; at least 1.
    memory : int, optional
        File descriptor of :func:`open_memory`; memory of its own for a server of one process.
    now_s : callable
        A clock that never goes backwards and is the same in all processes, seconds.

    Notes
    -----
    A generic cell rate algorithm: each bad code moves the source's time `WINDOW_S / per_minute` further, up to one
    window ahead of now. A call allocates nothing that stays. Two processes that charge one source in the same
    microsecond may count once.

    References
    ----------
    Cormode and Muthukrishnan (2005), the count-min sketch; Estan and Varghese (2002), its conservative update.
    """

    def __init__(self, per_minute: int, *, memory: int | None = None, now_s: Callable[[], float] = monotonic) -> None:
        if per_minute < 1:
            raise ValueError(f"per_minute is at least 1, found {per_minute}")
        mapped = mmap.mmap(-1, _MEMORY_BYTES) if memory is None else mmap.mmap(memory, _MEMORY_BYTES)
        if memory is None:
            mapped[:_KEY_BYTES] = os.urandom(_KEY_BYTES)
        self._key = mapped[:_KEY_BYTES]
        self._cells = memoryview(mapped)[_KEY_BYTES:].cast("d")
        self._step_s = WINDOW_S / per_minute
        self._now_s = now_s

    def wait_s(self, source: bytes) -> int:
        """Return for how many seconds a source has to wait before its next code is answered; 0 if it need not."""
        now = self._now_s()
        return self._wait_s(self._full_at(source, now)[0], now)

    def spend(self, source: bytes) -> int:
        """Take one bad code off a source's budget; return 0, or what :meth:`wait_s` does if nothing is left."""
        now = self._now_s()
        full_at, places = self._full_at(source, now)
        wait = self._wait_s(full_at, now)
        if wait == 0:
            cells, then = self._cells, max(full_at, now) + self._step_s
            for place in places:
                # Never back: another source of this place may have spent more.
                cells[place] = max(cells[place], then)
        return wait

    def left(self, source: bytes) -> int:
        """Return how many bad codes a source may show now."""
        now = self._now_s()
        ahead_s = max(self._full_at(source, now)[0] - now, 0.0)
        # A thousandth of a step is for the rounding of sums.
        return max(int((WINDOW_S - ahead_s) / self._step_s + 0.001), 0)

    def _wait_s(self, full_at: float, now: float) -> int:
        # A thousandth of a step is for the rounding of sums.
        wait = full_at + 0.999 * self._step_s - now - WINDOW_S
        return math.ceil(wait) if wait > 0 else 0

    def _full_at(self, source: bytes, now: float) -> tuple[float, tuple[int, int, int, int]]:
        """Return when a source will have its whole budget again, and its places under the key of now."""
        epoch = int(now // EPOCH_S)
        cells = self._cells
        places = a, b, c, d = self._places(source, epoch)
        full_at = min(cells[a], cells[b], cells[c], cells[d])
        if now - epoch * EPOCH_S <= WINDOW_S:
            a, b, c, d = self._places(source, epoch - 1)
            full_at = max(full_at, min(cells[a], cells[b], cells[c], cells[d]))
        return full_at, places

    def _places(self, source: bytes, epoch: int) -> tuple[int, int, int, int]:
        digest = blake2b(source + epoch.to_bytes(8, "little"), digest_size=8, key=self._key).digest()
        a, b, c, d = _numbers(digest)
        start = (epoch & 1) * 4 * _ROW_CELLS
        return start + a, start + _ROW_CELLS + b, start + 2 * _ROW_CELLS + c, start + 3 * _ROW_CELLS + d


BUDGET: Final = web.AppKey("budget", FailureBudget)


def check_budget(request: web.Request, source: bytes) -> None:
    """Refuse a source that has nothing left, before its code is looked at.

    Raises
    ------
    TooManyBadCodesError
        If it has to wait.
    """
    request[SOURCE] = source
    wait_s = request.app[BUDGET].wait_s(source)
    if wait_s:
        raise TooManyBadCodesError(wait_s)


def count_guess(request: web.Request, status: Status | str) -> None:
    """Take a code that has been looked at off the budget of its source if it is a bad one.

    Every route on which an outsider can try codes calls this between deciding and answering, for good codes too: of
    requests that arrive together, those beyond the budget must get no answer from which the code can be told.

    Parameters
    ----------
    status : Status or str
        The true status, or its name.

    Raises
    ------
    TooManyBadCodesError
        If nothing was left when the code was decided.
    """
    source = request.get(SOURCE)
    if source is not None:
        charge(request.app[BUDGET], source, status)


def charge(budget: FailureBudget, source: bytes, status: Status | str) -> None:
    """Do :func:`count_guess` for a source.

    Raises
    ------
    TooManyBadCodesError
        If nothing was left when the code was decided.
    """
    is_bad = status in _BAD_NAMES if isinstance(status, str) else status in BAD_STATUSES
    wait_s = budget.spend(source) if is_bad else budget.wait_s(source)
    if wait_s:
        raise TooManyBadCodesError(wait_s)
