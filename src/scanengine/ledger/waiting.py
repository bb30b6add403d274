"""Calls that wait in an event loop for an answer of a ledger, each no longer than its deadline."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


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
