"""The ledger in Redis or Valkey, shared by any number of processes and machines.

Every event loop has a channel and a link of its own: its calls need no other thread. Calls that block, and those that
are few, go through a loop in a thread, which also watches the server. So a process has one connection, or two.

A call that is lost on the way is sent again with the same requests for as long as its callers wait: what had been
recorded is answered again. After that it is ``pending``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, Final, TypeVar

from redis.exceptions import ResponseError

from scanengine.errors import LedgerUnavailableError, ScanEngineError
from scanengine.ledger.processes import process_number
from scanengine.ledger.protocol import (
    LedgerTotals,
    all_facts_of,
    check_generation,
    check_observe,
    facts_of,
    receipts_of,
)
from scanengine.ledger.redis import control
from scanengine.ledger.redis._checks import Checker
from scanengine.ledger.redis._codec import Encoder
from scanengine.ledger.redis.asking import Asker
from scanengine.ledger.redis.background import Background, running_loop
from scanengine.ledger.redis.channel import Channel
from scanengine.ledger.redis.health import Health
from scanengine.ledger.redis.keys import Keys
from scanengine.ledger.redis.link import Link, LinkError, Target, said_by
from scanengine.ledger.redis.session import Session, is_over
from scanengine.model import Adjustment, ClaimRequest, Event, ObserveRequest, Receipt, ScanFacts

BATCH_MAX: Final = 128
"""Most requests in one call: a few milliseconds of the server at most, for which all its other clients wait."""
CHECK_S: Final = 30.0
"""How often the durability is read again."""
WATCH_S: Final = 1.0
"""How often the server is looked for while nothing is asked of it."""

_LOOP_ENDS_S: Final = 0.05
"""How often to look whether an event loop that should answer has ended instead."""

_Request = ClaimRequest | ObserveRequest
_Answer = Receipt | ScanFacts
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class RedisLedger:
    """Ledger in Redis or Valkey 7.0 or newer; a :class:`scanengine.ledger.Ledger`.

    Parameters
    ----------
    url : str
        ``redis://[user:password@]host:port/db``, ``rediss://`` with TLS, ``unix://path``; of a Cluster any node.
    program_id : str
        The program that the ledger belongs to; its part before ``/`` is the hash tag of all keys.
    scan_events : bool
        Whether visits without a recorded claim make an event.
    timeout_s : float
        How long a call waits for its answer, seconds.
    durability : str
        The least that the server must promise: ``strict``, ``everysec``, ``volatile`` or ``unverified``. With less,
        claims are ``pending`` and :attr:`trouble` says what to set.
    outbox : str or None
        ``keep`` or ``drop`` events while no reader is registered.
    epoch_path : Path or None
        File that remembers which ledger was used, so that one that vanished is not begun anew.
    check_s : float
        How often the durability is read again, seconds.

    Raises
    ------
    LedgerFormatError
        The ledger is of another program or format, or the one that was used before is gone.
    SettingsError
        The URL cannot be read, the program's id cannot be a hash tag, or no reader is registered and `outbox` is None.

    Notes
    -----
    A server that does not answer is no error: :attr:`trouble` says so, claims are ``pending``, and it is looked for
    until it does.
    """

    kind: Final = "redis"

    def __init__(
        self, url: str, program_id: str, *, scan_events: bool = False, timeout_s: float = 5.0,
        durability: str = "everysec", outbox: str | None = None, epoch_path: Path | None = None,
        check_s: float = CHECK_S,
    ) -> None:  # fmt: skip
        self._calls = 0
        self._refused = 0
        self._timeout_s = timeout_s
        self._check_s = check_s
        self._keys = Keys(program_id)
        self._checker = Checker()
        self._health = Health(durability)
        self._target = Target(url, self._keys.tag, timeout_s)
        self._session = Session(
            self._keys, program_id, self._target, self._health, outbox=outbox, epoch_path=epoch_path,
            timeout_s=timeout_s,
        )  # fmt: skip
        self._drops_events = outbox == "drop"
        self._encoder = Encoder(self._keys, outbox=outbox or "keep", scan_events=scan_events)
        self._channels: dict[asyncio.AbstractEventLoop, Channel[_Request, _Answer]] = {}
        self._process = process_number()
        self._is_closed = False
        self._lock = threading.Lock()
        self._background = Background()
        self._asker = self._new_asker()
        self._link = self._asker.link
        try:
            self._background.run(self._first_look())
        except BaseException:
            self._background.run(self._link.close())
            self._background.stop()
            raise
        asyncio.run_coroutine_threadsafe(self._watch(), self._background.loop)

    @property
    def calls(self) -> int:
        """Claims and observations that have reached the ledger."""
        return self._calls

    @property
    def refused(self) -> int:
        """Claims and observations that were refused as too many waited; they have not reached the ledger."""
        return self._refused + sum(channel.line.refused for channel in list(self._channels.values()))

    @property
    def trouble(self) -> str | None:
        """Why claims are pending, or None if they are not."""
        return self._health.trouble

    @property
    def durability(self) -> str:
        """What the server promises, as it was read last."""
        return self._health.durability

    @property
    def alarms(self) -> tuple[str, ...]:
        """What an operator should look after before it becomes trouble."""
        return self._health.alarms

    @property
    def generation(self) -> int:
        """Newest generation that this process has seen."""
        return self._session.generation

    def claim(self, request: ClaimRequest) -> Receipt:
        """Claim an item for a person, or tell why not; blocks until the server has answered."""
        return self.claim_many((request,))[0]

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Claim in order, each request for itself; blocks until the server has answered."""
        self._checker.check(requests)
        return receipts_of(self._in_thread(self._ask(requests, is_let_in)))

    async def claim_async(self, request: ClaimRequest) -> Receipt:
        """Do :meth:`claim` without blocking the event loop."""
        self._checker.check((request,))
        answers = await self._channel().begin((request,))
        return receipts_of(answers or [None])[0]

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        """Do :meth:`claim_many` without blocking the event loop."""
        self._checker.check(requests)
        return receipts_of(await self._ask(requests, is_let_in))

    def observe(self, request: ObserveRequest) -> ScanFacts:
        """Count a visit, or only look; blocks until the server has answered."""
        self._check_look(request)
        return facts_of(self._in_thread(self._ask((request,)))[0])

    async def observe_async(self, request: ObserveRequest) -> ScanFacts:
        """Do :meth:`observe` without blocking the event loop."""
        self._check_look(request)
        answers = await self._channel().begin((request,))
        return facts_of((answers or [None])[0])

    async def observe_many_async(self, requests: Sequence[ObserveRequest]) -> list[ScanFacts | None]:
        """Do :meth:`observe_async` for many items; None for each without an answer."""
        for request in requests:
            self._check_look(request)
        return all_facts_of(await self._ask(requests))

    def adjust(self, adjustment: Adjustment) -> bool:
        """Apply an adjustment; False if it was applied before."""
        return self._control(control.adjust(self._keys, adjustment))

    def announce(self, generation: int) -> None:
        """Tell that a generation is published: claims decided on older ones are ``stale`` from now on."""
        check_generation(generation)
        self._session.generation = self._control(control.announce(self._keys, generation))

    def register_reader(self, name: str) -> None:
        """Make sure that no event is trimmed before this reader has acknowledged it; again is no change."""
        self._control(control.register_reader(self._keys, name))

    def remove_reader(self, name: str) -> None:
        """Keep no event for this reader any longer; again, or of an unknown one, is no change."""
        self._control(control.remove_reader(self._keys, name))

    def events(self, reader: str, after: int, limit: int) -> list[Event]:
        """Return at most ``limit`` events with ``seq`` above ``after``, in order."""
        return self._control(control.events(self._keys, reader, after, limit))

    def ack(self, reader: str, up_to: int) -> None:
        """Acknowledge all events up to ``up_to``; what all readers have acknowledged is trimmed."""
        self._control(control.acknowledge(self._keys, reader, up_to))

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""
        return self._control(control.totals(self._keys))

    def close(self) -> None:
        """Answer what was asked, then let go of the connections; again is no change.

        Notes
        -----
        Called inside the event loop that makes the calls it cannot wait for them: those are ``pending``.
        """
        with self._lock:
            if self._is_closed:
                return
            self._check_process()
            self._is_closed = True
            channels = list(self._channels.items())
        try:
            for loop, channel in channels:
                _end(loop, channel)
        finally:
            self._background.run(self._link.close())
            self._background.stop()

    # In the loop of the caller -----------------------------------------------------------------------------------

    async def _ask(self, requests: Sequence[_Request], is_let_in: bool = False) -> list[_Answer | None]:
        return await self._channel().ask(requests, is_let_in)

    def _channel(self) -> Channel[_Request, _Answer]:
        """Return the channel of the running loop."""
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None or self._is_closed or process_number() != self._process:
            self._check_process()  # Before the lock, which another thread may have held when this process was forked.
            with self._lock:
                channel = self._open_channel(loop)
        return channel

    def _open_channel(self, loop: asyncio.AbstractEventLoop) -> Channel[_Request, _Answer]:
        self._check()
        for other in [other for other in self._channels if other.is_closed()]:
            self._refused += self._channels.pop(other).line.refused
        asker = self._asker if loop is self._background.loop else self._new_asker()

        async def handle(requests: list[_Request], is_wanted: Callable[[], bool]) -> list[_Answer | None]:
            self._calls += len(requests)
            return await asker.answer(requests, is_wanted)

        channel: Channel[_Request, _Answer] = Channel(
            handle, asker.link.close, batch_max=BATCH_MAX, timeout_s=self._timeout_s
        )
        self._channels[loop] = channel
        return channel

    def _new_asker(self) -> Asker:
        link = Link(self._target, self._session.greet, self._health.tell, self._timeout_s)
        return Asker(link, self._keys, self._session, self._encoder, self._health)

    # In the loop of the thread -----------------------------------------------------------------------------------

    def _in_thread(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop of the thread and wait for it."""
        try:
            self._check_process()
            with self._lock:
                self._check()
                asked = self._background.begin(work)
        except LedgerUnavailableError:
            work.close()
            raise
        try:
            return asked.result()
        except CancelledError as error:
            raise LedgerUnavailableError("the ledger was closed before it answered") from error

    def _control(self, question: control.Question[Result]) -> Result:
        """Ask something that is no claim, again while the connection is lost and the deadline has not come.

        Raises
        ------
        LedgerUnavailableError
            No answer came in time; the outcome is unknown, and it may be asked again.
        """
        return self._in_thread(self._ask_control(question))

    async def _ask_control(self, question: control.Question[Result]) -> Result:
        due_s = time.monotonic() + self._timeout_s
        while True:
            try:
                await self._link.ready()
                return await question(self._link.call, self._session.epoch)
            except LinkError as error:
                if time.monotonic() >= due_s:
                    raise LedgerUnavailableError(
                        f"no answer of the ledger within {self._timeout_s} s; the outcome is unknown: {error}"
                    ) from error
            except ResponseError as error:
                if not is_over(error):
                    raise LedgerUnavailableError(f"the ledger refuses: {said_by(error)}") from error
                await self._link.drop()

    async def _first_look(self) -> None:
        try:
            await self._link.ready()
        except LinkError as error:
            if isinstance(error.__cause__, ScanEngineError) and not isinstance(error.__cause__, LedgerUnavailableError):
                raise error.__cause__ from None
            _log.error("the ledger is not available yet: %s", error)
        if self._health.refusal:
            _log.error("claims are not taken: %s", self._health.refusal)

    async def _watch(self) -> None:
        """Look for the server while nobody asks, and read its durability again from time to time."""
        checked_s = time.monotonic()
        while True:
            await asyncio.sleep(min(WATCH_S, self._check_s))
            try:
                if await self._asker.probe():
                    self._health.tell(None)
                if time.monotonic() - checked_s >= self._check_s:
                    checked_s = time.monotonic()
                    before = self._health.refusal
                    await self._link.use(self._session.check)
                    if self._health.refusal and self._health.refusal != before:
                        _log.error("claims are not taken: %s", self._health.refusal)
                if self._drops_events:
                    await self._link.use(self._session.drop_events)
            except LinkError as error:
                _log.debug("the ledger is away: %s", error)
            except Exception:  # noqa: BLE001 - a watch that ends would never read the durability again.
                _log.exception("the ledger's watch failed")

    # Checks ------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._check_process()
        if self._is_closed:
            raise LedgerUnavailableError("the ledger is closed")

    def _check_process(self) -> None:
        if process_number() != self._process:
            raise LedgerUnavailableError(
                f"the ledger was opened by process {self._process} and cannot be used after a fork; "
                f"open it in process {process_number()} instead"
            )

    def _check_look(self, request: ObserveRequest) -> None:
        check_observe(request)
        if self._health.away and not request.counts_scan:
            raise LedgerUnavailableError(f"the ledger is away: {self._health.away}")


def _end(loop: asyncio.AbstractEventLoop, channel: Channel[_Request, _Answer]) -> None:
    """Let a channel answer what was asked of it and end, for as long as its loop runs."""
    if loop is running_loop():
        channel.abort()
        return
    with contextlib.suppress(RuntimeError):  # The loop is closed.
        loop.call_soon_threadsafe(channel.finish)
        while loop.is_running() and not channel.ended.wait(_LOOP_ENDS_S):
            pass
