"""Claims of many callers of one event loop, made together.

What the loop reads from its sockets in one turn is decided, asked of the ledger and put into words as one batch. Code
that runs for many scans in a row costs a fraction of the same code between two system calls: on the way of one HTTP
request it was a third of all processor time (CPython 3.11, November 2026, ``benchmarks/bench_server.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from scanengine.model import Answer
from scanengine.program.scans import Scan


class Gathering:
    """The scans of one event loop that wait for the end of its turn.

    Parameters
    ----------
    claim_many : coroutine function
        Claims scans and returns their answers in order.
    """

    def __init__(self, claim_many: Callable[[Sequence[Scan]], Awaitable[Sequence[Answer]]]) -> None:
        self._claim_many = claim_many
        self._waiting: list[tuple[Scan, asyncio.Future[Answer]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def claim(self, scan: Scan) -> asyncio.Future[Answer]:
        """Return the answer to come. Cancelling it does not cancel the claim."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append((scan, future))
        return future

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.create_task(self._make(waiting))
        self._tasks.add(task)  # A task that nobody holds may vanish.
        task.add_done_callback(self._tasks.discard)

    async def _make(self, waiting: list[tuple[Scan, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._claim_many([scan for scan, _ in waiting])
        except BaseException as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), answer in zip(waiting, answers, strict=True):
            if not future.done():
                future.set_result(answer)
