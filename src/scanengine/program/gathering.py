"""Calls of many callers of one event loop, answered together.

What the loop reads from its sockets in one turn is decided, asked of the ledger and put into words as one batch. Code
that runs for many scans in a row costs a fraction of the same code between two system calls: on the way of one HTTP
request it was a third of all processor time (CPython 3.11, November 2026, ``benchmarks/bench_server.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

CLAIMS_AT_ONCE: Final = 128
"""Claims decided between two turns of the event loop, well under a millisecond, and asked of the ledger together."""

logger = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Gathering(Generic[Asked, Told]):
    """The calls of one event loop that wait for the end of its turn.

    Parameters
    ----------
    answer_many : coroutine function
        Returns the answers to what was asked, in order.
    """

    def __init__(self, answer_many: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]]) -> None:
        self._answer_many = answer_many
        self._waiting: list[tuple[Asked, Callable[[Told | BaseException], None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, asked: Asked, deliver: Callable[[Told | BaseException], None]) -> None:
        """Ask for an answer, which is delivered when it is there, or the error why there is none."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
        self._waiting.append((asked, deliver))

    def ask(self, asked: Asked) -> asyncio.Future[Told]:
        """Return the answer to come. Cancelling it does not cancel what was asked."""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()

        def deliver(told: Told | BaseException) -> None:
            if future.done():
                return
            if isinstance(told, BaseException):
                future.set_exception(told)
            else:
                future.set_result(told)

        self.add(asked, deliver)
        return future

    def _begin(self) -> None:
        # In groups that the ledger takes or refuses whole: nobody is told what became of somebody else's claim.
        waiting, self._waiting = self._waiting[:CLAIMS_AT_ONCE], self._waiting[CLAIMS_AT_ONCE:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
        task = asyncio.create_task(self._answer(waiting))
        self._tasks.add(task)  # A task that nobody holds may vanish.
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, waiting: list[tuple[Asked, Callable[[Told | BaseException], None]]]) -> None:
        try:
            answers = await self._answer_many([asked for asked, _ in waiting])
            if len(answers) != len(waiting):
                raise RuntimeError(f"{len(answers)} answers to {len(waiting)} calls")  # Whose is whose?
        except BaseException as error:
            _hand_out([error] * len(waiting), waiting)
            if not isinstance(error, Exception):
                raise
            return
        _hand_out(answers, waiting)


def _hand_out(
    answers: Sequence[Told | BaseException],
    waiting: Sequence[tuple[Asked, Callable[[Told | BaseException], None]]],
) -> None:
    for (_, deliver), told in zip(waiting, answers, strict=True):
        try:
            deliver(told)
        except Exception:
            logger.exception("an answer could not be handed over")
