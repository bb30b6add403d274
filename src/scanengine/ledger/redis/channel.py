"""Natural batching inside one event loop: while batches are on their way, the calls that arrive make the next one.

Who would wait too long for a batch is refused; nothing is sent for the call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic

from scanengine.ledger.waiting import Answer, Awaited, Line, Port, Request, parts_of

IN_FLIGHT: Final = 2
"""Batches on their way at a time: while the server works on one, the next is packed or unpacked here."""

_log = logging.getLogger(__name__)


class Channel(Generic[Request, Answer]):
    """The calls of one event loop on their way to the ledger; made inside the loop.

    Parameters
    ----------
    handle : callable
        Answers a batch: as many answers as requests, None for each that is not known. Asks the second argument whether
        anybody still waits before it tries again.
    end : callable
        Called when the channel ends, also when its loop does.
    batch_max : int
        Most requests in one batch.
    timeout_s : float
        How long a caller waits, seconds.
    """

    def __init__(
        self,
        handle: Callable[[list[Request], Callable[[], bool]], Awaitable[list[Answer | None]]],
        end: Callable[[], Awaitable[None]],
        *,
        batch_max: int,
        timeout_s: float,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = threading.Event()
        self._handle = handle
        self._end = end
        self._batch_max = batch_max
        self._port: Port[Request, Answer | None] = Port(self.loop, timeout_s)
        self._queue: deque[Awaited[Request, Answer | None]] = deque()
        self._sent: dict[int, list[Awaited[Request, Answer | None]]] = {}
        self.line = Line(timeout_s, batch_max)
        self._idle: list[asyncio.Future[None]] = []  # Set when there is news for a pump that has nothing to send.
        self._is_ending = False
        # A task of the loop, so that a loop that ends ends the channel with it.
        self._task = self.loop.create_task(self._run(), name="scanengine-ledger")

    def begin(self, requests: Sequence[Request], is_let_in: bool = False) -> asyncio.Future[list[Answer | None] | None]:
        """Queue at most ``batch_max`` requests; the future holds the answers, or None at the deadline.

        Parameters
        ----------
        is_let_in : bool
            Whether they are a later part of something that was let in, which cannot be refused any more.

        Raises
        ------
        OverloadedError
            Too many wait; nothing of it was done.
        """
        if self._is_ending:
            ended: asyncio.Future[list[Answer | None] | None] = self.loop.create_future()
            ended.set_result(None)
            return ended
        if not is_let_in:
            self.line.check(len(requests))
        self.line.join(len(requests))
        call = self._port.begin(requests)
        self._queue.append(call)
        self._wake(1)
        return call.future

    async def ask(self, requests: Sequence[Request], is_let_in: bool = False) -> list[Answer | None]:
        """Return the answers in order, None for each that is not known within the deadline of its part.

        The next part is sent when the one before is answered: batches that are on their way together may arrive the
        other way round. After a part of which nothing is known no other is sent.

        Raises
        ------
        OverloadedError
            Too many wait; nothing of it was done.
        """
        if not is_let_in:
            self.line.check(len(requests))
        answers: list[Answer | None] = []
        for part in parts_of(requests, self._batch_max):
            known = await self.begin(part, is_let_in=True)
            if known is None:
                break
            answers += known
        return answers + [None] * (len(requests) - len(answers))

    def finish(self) -> None:
        """Answer what was asked, then end, which sets :attr:`ended`; in the loop itself."""
        self._is_ending = True
        self._wake(IN_FLIGHT)

    def abort(self) -> None:
        """End at once, in the loop itself; what was asked is unknown."""
        self._is_ending = True
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await asyncio.gather(*(self._pump(number) for number in range(IN_FLIGHT)))
        finally:
            self._is_ending = True
            self._port.deliver([call for calls in self._sent.values() for call in calls] + list(self._queue))
            try:
                await self._end()
            finally:
                self.ended.set()

    async def _pump(self, number: int) -> None:
        """Send batch after batch, and wait for news when there is none to send."""
        while True:
            while self._queue:
                self._sent[number] = self._collect()
                await self._answer(self._sent[number])
            if self._is_ending:
                return
            news: asyncio.Future[None] = self.loop.create_future()
            self._idle.append(news)
            await news

    def _wake(self, count: int) -> None:
        """Let so many pumps look for news, of those that wait for it."""
        for _ in range(min(count, len(self._idle))):
            news = self._idle.pop()
            if not news.done():
                news.set_result(None)

    def _collect(self) -> list[Awaited[Request, Answer | None]]:
        """Return the calls of the next batch, without those that were given up."""
        calls: list[Awaited[Request, Answer | None]] = []
        left = taken = 0
        while self._queue:
            call = self._queue[0]
            count = len(call.requests)
            if not call.is_given_up:
                if calls and taken + count > self._batch_max:
                    break
                calls.append(call)
                taken += count
            left += count
            self._queue.popleft()
        self.line.leave(left, taken)
        return calls

    async def _answer(self, calls: list[Awaited[Request, Answer | None]]) -> None:
        if not calls:
            return
        requests = [request for call in calls for request in call.requests]
        try:
            answers = await self._handle(requests, lambda: any(not call.is_given_up for call in calls))
        except Exception:  # noqa: BLE001 - a channel that ends would leave every later caller without an answer.
            _log.exception("the ledger failed on a batch of %d requests", len(requests))
            answers = [None] * len(requests)
        at = 0
        for call in calls:
            call.answers = answers[at : at + len(call.requests)]
            at += len(call.requests)
        self._port.deliver(calls)
