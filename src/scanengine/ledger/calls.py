"""How callers reach the one thread that owns a ledger, and how its answers get back.

*Natural batching*: while the thread works on one batch the calls that arrive wait in a queue, and make the next one.
There is no timer: a lone call is taken at once, and under load batches grow by themselves. The queue has an end: who
would wait too long in it is refused, before anything of the call is in it.

A caller waits no longer than the deadline. Its call may still be carried out later; one that is found given up before
its batch begins is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from scanengine.errors import LedgerUnavailableError
from scanengine.ledger.processes import process_number
from scanengine.ledger.waiting import Answer, Awaited, Line, Port, Request, ask_in_parts, parts_of

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class _Blocked(Generic[Request, Answer]):
    """A call whose thread waits. The lock is held until the answers are there."""

    __slots__ = ("_done", "answers", "is_given_up", "requests")

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.answers: list[Answer] | None = None
        self.is_given_up = False
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self, timeout_s: float) -> list[Answer] | None:
        if not self._done.acquire(timeout=timeout_s):
            self.is_given_up = True
            return None
        return self.answers

    def deliver(self, answers: list[Answer] | None) -> None:
        self.answers = answers
        self._done.release()


class _Task:
    """Work for the ledger's thread that is not a request, in its turn between two batches."""

    __slots__ = ("_done", "error", "function")

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.error: BaseException | None = LedgerUnavailableError("the ledger was closed before its turn came")
        self._done = threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        try:
            self.function()
            self.error = None
        except Exception as error:  # noqa: BLE001 - it is raised again, in the thread of the caller.
            self.error = error
        self.skip()

    def skip(self) -> None:
        self._done.release()

    def wait(self, timeout_s: float) -> bool:
        return self._done.acquire(timeout=timeout_s)


class _Stop:
    """The last entry of the queue."""


_Call = _Blocked[Request, Answer] | Awaited[Request, Answer]
_Entry = _Blocked[Request, Answer] | Awaited[Request, Answer] | _Task | _Stop


class Calls(Generic[Request, Answer]):
    """A thread, and the queue in front of it.

    Parameters
    ----------
    handle : callable
        Answers a batch: as many answers as requests, in order, or None if nothing is known of any of them.
        Runs in the thread.
    background : callable
        Does a small piece of work that can wait and returns whether there is more of it. Runs in the thread.
    batch_max : int
        Most requests in one batch.
    timeout_s : float
        How long a caller waits, seconds.
    """

    def __init__(
        self,
        handle: Callable[[list[Request]], list[Answer] | None],
        background: Callable[[], bool],
        *,
        batch_max: int,
        timeout_s: float,
    ) -> None:
        self.requests_taken = 0
        self.line = Line(timeout_s, batch_max)
        self._handle = handle
        self._background = background
        self._batch_max = batch_max
        self._timeout_s = timeout_s
        self._queue: SimpleQueue[_Entry[Request, Answer]] = SimpleQueue()
        self._ports: dict[asyncio.AbstractEventLoop, Port[Request, Answer]] = {}
        self._process = process_number()
        self._is_closed = False
        self._close_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="scanengine-ledger", daemon=True)
        self._thread.start()

    def ask(self, requests: Sequence[Request], is_let_in: bool = False) -> list[Answer | None]:
        """Return the answers in order, None for each that is not known within the deadline; blocks.

        Raises
        ------
        OverloadedError
            Too many wait; nothing of it was done.
        LedgerUnavailableError
            Closed, or used in a forked process.
        """
        self.check()
        if not is_let_in:
            self.line.check(len(requests))
        due_s = time.monotonic() + self._timeout_s
        calls = [_Blocked[Request, Answer](part) for part in parts_of(requests, self._batch_max)]
        for call in calls:
            self.line.join(len(call.requests))
            self._queue.put(call)
        answers: list[Answer | None] = []
        for call in calls:
            answers += call.wait(max(due_s - time.monotonic(), 0)) or [None] * len(call.requests)
        return answers

    async def ask_async(self, requests: Sequence[Request], is_let_in: bool = False) -> list[Answer | None]:
        """Do :meth:`ask` without blocking the event loop."""
        self.check()
        if not is_let_in:
            self.line.check(len(requests))
        return await ask_in_parts(partial(self.begin, is_let_in=True), requests, self._batch_max)

    def begin(self, requests: Sequence[Request], is_let_in: bool = False) -> asyncio.Future[list[Answer] | None]:
        """Put at most ``batch_max`` requests in the queue; the future holds the answers, or None at the deadline.

        Parameters
        ----------
        is_let_in : bool
            Whether they are a later part of something that was let in, which cannot be refused any more.

        Raises
        ------
        OverloadedError
            Too many wait; nothing of it was done.
        LedgerUnavailableError
            Closed, or used in a forked process.
        """
        self.check()
        loop = asyncio.get_running_loop()
        port = self._ports.get(loop) or self._open_port(loop)
        if not is_let_in:
            self.line.check(len(requests))
        self.line.join(len(requests))
        call = port.begin(requests)
        self._queue.put(call)
        return call.future

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in the thread, between two batches, and return its result; blocks.

        Raises
        ------
        LedgerUnavailableError
            Closed, used in a forked process, or its turn did not come within the deadline: it may still run.
        Exception
            Whatever the function raised.
        """
        self.check()
        results: list[Result] = []
        task = _Task(lambda: results.append(function()))
        self._queue.put(task)
        if not task.wait(self._timeout_s):
            raise LedgerUnavailableError(f"no answer of the ledger within {self._timeout_s} s; the outcome is unknown")
        if task.error is not None:
            raise task.error
        return results[0]

    def check(self) -> None:
        """Raise ``LedgerUnavailableError`` if closed or in a forked process."""
        if process_number() != self._process:
            raise LedgerUnavailableError(
                f"the ledger was opened by process {self._process} and cannot be used after a fork; "
                f"open it in process {process_number()} instead, after the other has closed it"
            )
        if self._is_closed:
            raise LedgerUnavailableError("the ledger is closed")

    def close(self) -> bool:
        """Answer what was asked, then end the thread; False if it had ended before.

        Raises
        ------
        LedgerUnavailableError
            In a forked process, which has no such thread.
        """
        with self._close_lock:
            if self._is_closed:
                return False
            self.check()
            self._is_closed = True
        self._queue.put(_Stop())
        self._thread.join()
        return True

    def _open_port(self, loop: asyncio.AbstractEventLoop) -> Port[Request, Answer]:
        for other in list(self._ports):
            if other.is_closed():
                self._ports.pop(other, None)
        port: Port[Request, Answer] = Port(loop, self._timeout_s)
        self._ports[loop] = port
        return port

    def _run(self) -> None:
        has_more = False
        entry: _Entry[Request, Answer] | None = None
        while not isinstance(entry, _Stop):
            if entry is None and has_more and self._queue.empty():
                has_more = self._work_on()
                continue
            calls, entry = self._collect(entry or self._queue.get())
            if calls:
                self._answer(calls)
            if isinstance(entry, _Task):
                entry.run()
                entry = None
            has_more = self._work_on()
        self._refuse_rest()

    def _work_on(self) -> bool:
        try:
            return self._background()
        except Exception:  # noqa: BLE001 - a thread that ends would leave every later caller without an answer.
            _log.exception("the ledger failed at its background work")
            return False

    def _collect(
        self, entry: _Entry[Request, Answer]
    ) -> tuple[list[_Call[Request, Answer]], _Entry[Request, Answer] | None]:
        """Return the calls of the next batch and the entry that ended it, which is not part of it.

        A task ends the batch: it sees all that was asked before it and nothing asked after it.
        """
        calls: list[_Call[Request, Answer]] = []
        left = taken = 0
        following: _Entry[Request, Answer] | None = entry
        while isinstance(following, (_Blocked, Awaited)):
            count = len(following.requests)
            if not following.is_given_up:
                if calls and taken + count > self._batch_max:
                    break
                calls.append(following)
                taken += count
            left += count
            try:
                following = self._queue.get_nowait()
            except Empty:
                following = None
        self.line.leave(left, taken)
        return calls, following

    def _answer(self, calls: list[_Call[Request, Answer]]) -> None:
        requests = [request for call in calls for request in call.requests]
        self.requests_taken += len(requests)
        try:
            answers = self._handle(requests)
        except Exception:  # noqa: BLE001 - a thread that ends would leave every later caller without an answer.
            _log.exception("the ledger failed on a batch of %d requests", len(requests))
            answers = None
        posts: dict[Port[Request, Answer], list[Awaited[Request, Answer]]] = {}
        at = 0
        for call in calls:
            part = None if answers is None else answers[at : at + len(call.requests)]
            at += len(call.requests)
            if isinstance(call, Awaited):
                call.answers = part
                posts.setdefault(call.port, []).append(call)
            else:
                call.deliver(part)
        for port, group in posts.items():
            port.post(group)

    def _refuse_rest(self) -> None:
        """Let go of calls that slipped in while the ledger was being closed."""
        while not self._queue.empty():
            entry = self._queue.get()
            if isinstance(entry, _Task):
                entry.skip()
            elif isinstance(entry, _Blocked):
                entry.deliver(None)
            elif isinstance(entry, Awaited):
                entry.port.post([entry])
