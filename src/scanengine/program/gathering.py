"""Calls of many callers of one event loop, answered together.

What the loop reads from its sockets in one turn is decided, asked of the ledger and put into words as one batch. Code
that runs for many scans in a row costs a fraction of the same code between two system calls: on the way of one HTTP
request it was a third of all processor time (CPython 3.11, November 2026, ``benchmarks/bench_server.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

CLAIMS_AT_ONCE: Final = 128
"""Claims decided between two turns of the event loop, well under a millisecond, and asked of the ledger together."""

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Gathering(Generic[Asked, Told]):
    """The calls of one event loop that wait for the end of its turn, as whoever adds them sees it.

    Parameters
    ----------
    answer_many : coroutine function
        Returns the answers to what was asked, in order.
    hand_out : callable
        Takes what was asked together and its answers in order, or the error why there are none.

    Attributes
    ----------
    add : callable
        Adds what is to be asked when the turn ends.
    """

    def __init__(
        self,
        answer_many: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]],
        hand_out: Callable[[Sequence[Asked], Sequence[Told] | BaseException], None],
    ) -> None:
        self._answer_many = answer_many
        self._hand_out = hand_out
        self._waiting: list[Asked] = []
        self.add: Final[Callable[[Asked], None]] = self._waiting.append
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Ask for what has been added in this turn; nothing is no change."""
        # In groups that the ledger takes or refuses whole: nobody is told what became of somebody else's claim.
        waiting = self._waiting[:CLAIMS_AT_ONCE]
        del self._waiting[:CLAIMS_AT_ONCE]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self.begin)
        if waiting:
            task = asyncio.create_task(self._answer(waiting))
            self._tasks.add(task)  # A task that nobody holds may vanish.
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, waiting: Sequence[Asked]) -> None:
        try:
            answers = await self._answer_many(waiting)
            if len(answers) != len(waiting):
                raise RuntimeError(f"{len(answers)} answers to {len(waiting)} calls")  # Whose is whose?
        except BaseException as error:
            self._hand_out(waiting, error)
            if not isinstance(error, Exception):
                raise
            return
        self._hand_out(waiting, answers)


class Questions(Generic[Asked, Told]):
    """Calls of one event loop that are gathered as long as its turn lasts, each waited for by itself.

    Parameters
    ----------
    answer_many : coroutine function
        Returns the answers to what was asked, in order.
    """

    def __init__(self, answer_many: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]]) -> None:
        self._answer_many = answer_many
        self._gathering: Gathering[tuple[Asked, asyncio.Future[Told]], Told] = Gathering(self._answer_all, _hand_out)
        self._are_any = False

    def ask(self, asked: Asked) -> asyncio.Future[Told]:
        """Return the answer to come. Cancelling it does not cancel what was asked."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Told] = loop.create_future()
        if not self._are_any:
            self._are_any = True
            loop.call_soon(self._begin)
        self._gathering.add((asked, future))
        return future

    def _begin(self) -> None:
        self._are_any = False
        self._gathering.begin()

    async def _answer_all(self, waiting: Sequence[tuple[Asked, asyncio.Future[Told]]]) -> Sequence[Told]:
        return await self._answer_many([asked for asked, _ in waiting])


def _hand_out(waiting: Sequence[tuple[Asked, asyncio.Future[Told]]], told: Sequence[Told] | BaseException) -> None:
    for number, (_, future) in enumerate(waiting):
        if future.done():
            continue
        if isinstance(told, BaseException):
            future.set_exception(told)
        else:
            future.set_result(told[number])
