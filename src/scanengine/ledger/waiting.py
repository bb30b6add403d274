"""Calls that wait for an answer of a ledger: each no longer than its deadline, and no more than can be answered."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from scanengine.errors import OverloadedError

WAITING_MAX: Final = 20_000
"""Requests that may wait for their batch, whatever the ledger can do: what they take is bounded."""
OLD_SHARE: Final = 0.1
"""Share of the deadline that the oldest request may wait for its batch, while others wait that fill one."""
_INSTANT_S: Final = 1e-6
_TOLD_S: Final = 1.0
"""A line in the log at most this often while requests are refused."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class Line:
    """The requests that wait for their batch, and whether another may join them.

    A line that everybody may join grows until each is served just before it gives up, and then just after: the ledger
    works as hard as it can, and nobody has an answer. So the line is kept so short that whoever joins it is answered
    long before the deadline, and all others are told at once that nothing was done. Two things end it: its oldest
    request has waited for long, as when the ledger stalls; or more wait than were taken in that time of late, without
    which a sudden rush could join, in that time, for several times the deadline. Neither ends it below one batch: what
    waits then is taken at once with whoever joins, and a ledger whose rounds are long would be sent batches half empty.

    Joined in any thread, left in one.

    Parameters
    ----------
    timeout_s : float
        How long a caller waits for its answer, seconds.
    batch_max : int
        Most requests in one batch: as many may wait, however slow the ledger.

    Attributes
    ----------
    refused : int
        Requests that were not let in.
    """

    def __init__(self, timeout_s: float, batch_max: int) -> None:
        self.refused = 0
        self._since_s: deque[float] = deque()  # One entry a request: its length and its head are read in any thread.
        self._old_s = timeout_s * OLD_SHARE
        self._batch_max = batch_max
        self._room = WAITING_MAX
        self._taken = 0
        self._counted_s = self._begun_s = 0.0
        self._lock = threading.Lock()
        self._told = 0
        self._tell_s = 0.0

    def check(self, count: int) -> None:
        """Check that a call of so many requests may join; of any size where nobody waits.

        Raises
        ------
        OverloadedError
            It would wait too long.
        """
        since_s = self._since_s
        if not since_s:
            return
        now_s = time.monotonic()
        waiting_count = len(since_s)
        if waiting_count >= self._room or (waiting_count >= self._batch_max and self._is_old(now_s)):
            with self._lock:
                self.refused += count
                self._tell(now_s)
            raise OverloadedError("more is asked of the ledger than it can answer in time; nothing was done, ask again")

    def join(self, count: int) -> None:
        """Let so many requests wait from now on."""
        since_s, now_s = self._since_s, time.monotonic()
        if not since_s:
            self._begun_s = now_s
        since_s.extend([now_s] * count)

    def leave(self, count: int, taken: int) -> None:
        """Let the oldest requests go: so many in all, of which some are taken and the others were given up."""
        since_s, now_s = self._since_s, time.monotonic()
        for _ in range(count):
            since_s.popleft()
        self._taken += taken
        # What was taken while some still waited: an idle ledger could have taken more.
        counted_s = now_s - max(self._counted_s, self._begun_s)
        if not since_s and self.refused != self._told:
            with self._lock:
                self._tell(now_s)
        if not since_s and taken < self._batch_max:
            self._room = WAITING_MAX  # The batch has places left: whatever comes can be taken at once.
        elif since_s and counted_s * 4 < self._old_s:
            return
        else:
            room = round(self._taken / max(counted_s, _INSTANT_S) * self._old_s)
            self._room = min(max(room, self._batch_max), WAITING_MAX)
        self._taken, self._counted_s = 0, now_s

    def _is_old(self, now_s: float) -> bool:
        try:
            return now_s - self._since_s[0] > self._old_s
        except IndexError:  # Taken meanwhile, by the ledger's thread.
            return False

    def _tell(self, now_s: float) -> None:
        """Say in the log how many were refused, unless it was said just now."""
        if now_s >= self._tell_s:
            _log.warning("overloaded: %d requests were refused, %d wait", self.refused - self._told, len(self._since_s))
            self._told, self._tell_s = self.refused, now_s + _TOLD_S


class Awaited(Generic[Request, Answer]):
    """A call whose task waits in an event loop."""

    __slots__ = ("answers", "due_s", "future", "port", "requests")

    def __init__(
        self,
        requests: Sequence[Request],
        future: asyncio.Future[list[Answer] | None],
        port: Port[Request, Answer],
        due_s: float,
    ) -> None:
        self.requests = requests
        self.future = future
        self.port = port
        self.due_s = due_s
        self.answers: list[Answer] | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether the caller was told that the outcome is unknown, so that the call need not be carried out."""
        # A caller that went away has claimed all the same, for as long as it would have waited.
        if self.future.cancelled():
            return self.port.loop.time() >= self.due_s
        return self.future.done()


class Port(Generic[Request, Answer]):
    """One event loop's side: the calls waiting in it, and a single timer for all their deadlines.

    Every call has the same time to wait, so the oldest one is always due first.
    """

    __slots__ = ("_timer", "_waiting", "loop", "timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.loop = loop
        self.timeout_s = timeout_s
        self._waiting: deque[Awaited[Request, Answer]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, requests: Sequence[Request]) -> Awaited[Request, Answer]:
        """Let a call wait from now on."""
        call = Awaited(requests, self.loop.create_future(), self, self.loop.time() + self.timeout_s)
        self._waiting.append(call)
        if self._timer is None:
            self._timer = self.loop.call_at(call.due_s, self._expire)
        return call

    def post(self, calls: list[Awaited[Request, Answer]]) -> None:
        """Hand answers over from the ledger's thread: one wake-up of the loop for a whole batch."""
        try:
            self.loop.call_soon_threadsafe(self.deliver, calls)
        except RuntimeError:
            _log.debug("an event loop was closed before %d answers of the ledger reached it", len(calls))

    def deliver(self, calls: list[Awaited[Request, Answer]]) -> None:
        """Hand answers over, in the loop itself."""
        for call in calls:
            if not call.future.done():
                call.future.set_result(call.answers)
        waiting = self._waiting
        while waiting and waiting[0].future.done():
            waiting.popleft()

    def _expire(self) -> None:
        now_s = self.loop.time()
        waiting = self._waiting
        while waiting and (waiting[0].due_s <= now_s or waiting[0].future.done()):
            call = waiting.popleft()
            if not call.future.done():
                call.future.set_result(None)
        self._timer = self.loop.call_at(waiting[0].due_s, self._expire) if waiting else None


def parts_of(requests: Sequence[Request], batch_max: int) -> list[Sequence[Request]]:
    """Return the requests in parts that fit into a batch."""
    return [requests[start : start + batch_max] for start in range(0, len(requests), batch_max)]


async def ask_in_parts(
    begin: Callable[[Sequence[Request]], asyncio.Future[list[Answer] | None]],
    requests: Sequence[Request],
    batch_max: int,
) -> list[Answer | None]:
    """Ask part by part at once and return all answers in order, None for each that is not known."""
    parts = parts_of(requests, batch_max)
    answers: list[Answer | None] = []
    for part, future in zip(parts, [begin(part) for part in parts], strict=True):
        answers += await future or [None] * len(part)
    return answers
