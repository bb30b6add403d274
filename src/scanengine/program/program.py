"""The one object everybody opens: decides by the current snapshot, commits to the ledger, answers.

    text -> Engine.decide -> ClaimRequest -> Ledger -> Receipt -> Answer

A program holds one reference to an :class:`Engine`; a refresh replaces it whole, so every scan sees one generation from
its beginning to its end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from scanengine.engine import Decisions, Engine
from scanengine.errors import LedgerUnavailableError, OverloadedError, SettingsError
from scanengine.keys import Keyring
from scanengine.ledger import Ledger, LedgerReader
from scanengine.model import TEST_SUFFIX, Answer, ClaimStatus, Decision, ObserveRequest, Role, ScanFacts, Status
from scanengine.program.answers import Answerer
from scanengine.program.claims import Claims, claim_request
from scanengine.program.gathering import CLAIMS_AT_ONCE, Questions
from scanengine.program.looks import look_request, tell_uncounted, verify_many
from scanengine.program.parts import Parts
from scanengine.program.scans import Scan, region_code, role_of, time_ms_of
from scanengine.program.settings import Settings
from scanengine.tables.snapshot import Snapshot, load_snapshot
from scanengine.tables.themes import PageTheme
from scanengine.tables.workspace import Workspace

if TYPE_CHECKING:
    from aiohttp import web

_TOLD_AGAIN: Final = (ClaimStatus.AWARDED, ClaimStatus.NO_PRIZE, ClaimStatus.TAKEN)
"""What is known of a claim that was made before."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Program:
    """Engine, ledger and workspace of one brand; safe for any number of threads, a context manager.

    Made by :func:`scanengine.open`. `clock` returns milliseconds since 1970 UTC and can be replaced.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        keyring: Keyring,
        snapshot: Snapshot,
        ledger: Ledger | None,
        reader: LedgerReader | None = None,
        *,
        has_counts: bool = True,
        clock: Callable[[], int] = _now_ms,
    ) -> None:
        self.workspace = workspace
        self.settings = settings
        self.keyring = keyring
        self.clock = clock
        self._engine = Engine(keyring, snapshot)
        self._ledger = ledger
        self._reader = reader
        self._has_counts = has_counts
        self._answerer = Answerer(workspace, settings)
        self._questions: WeakKeyDictionary[asyncio.AbstractEventLoop, Questions[Scan, Answer]] = WeakKeyDictionary()
        self._refresh_lock = threading.Lock()
        self._reader_lock = threading.Lock()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what was asked, then let go of the ledger. May be called twice."""
        if self._ledger is not None:
            self._ledger.close()
        if self._reader is not None:
            self._reader.close()

    # What is current ------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine of the current snapshot."""
        return self._engine

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot."""
        return self._engine.snapshot

    @property
    def answerer(self) -> Answerer:
        """What puts answers into words."""
        return self._answerer

    @property
    def ledger(self) -> Ledger:
        """The ledger; LedgerUnavailableError if this program was opened without owning one."""
        if self._ledger is None:
            raise LedgerUnavailableError(
                "this program was opened without owning a ledger: open it with ledger='own' to claim and count"
            )
        return self._ledger

    def refresh(self) -> bool:
        """Take over what has been published since; True if there was anything.

        Scans in progress finish on the snapshot they began with.

        Raises
        ------
        TableFormatError, SettingsError
            If what was published cannot be used; the current snapshot stays.
        """
        with self._refresh_lock:
            snapshot = load_snapshot(self.workspace, self.snapshot)
            is_new = snapshot.generation != self.snapshot.generation or snapshot.products != self.snapshot.products
            if is_new:
                self._engine = Engine(self.keyring, snapshot)
            if self._ledger is not None and snapshot.generation > self._ledger.generation:
                # Claims that were decided before and wait for the ledger are decided again.
                self._ledger.announce(snapshot.generation)
            return is_new

    def web_app(self) -> web.Application:
        """Return the HTTP routes of this program as an aiohttp application, to serve or to mount in another one.

        Each call returns a new one. The program stays the caller's, to refresh and, after it has stopped, to close.

        Raises
        ------
        LedgerUnavailableError
            If this program was opened without owning a ledger.
        SettingsError
            If the extra ``server`` is not installed.

        Notes
        -----
        Bearer tokens are those of ``keys.toml``; without any, back ends are answered on this machine only. Batches of
        scans need a ``client_max_size`` of 4 MiB, which the outermost application sets.
        """
        assert self.ledger
        try:
            # The one import that goes upwards, and only when it is called: nobody else needs aiohttp.
            from scanengine.server.app import make_app
        except ModuleNotFoundError as error:
            raise SettingsError(f"{error.name} is missing: pip install 'scanengine[server]'") from error
        return make_app(self)

    # Deciding -------------------------------------------------------------------------------------------------------

    def decide(
        self,
        text: str,
        *,
        now: datetime | int | None = None,
        role: str | Role = Role.CONSUMER,
        region: str | int | None = None,
    ) -> Decision:
        """Decide one scan by the tables alone. A bad code is a status, never an exception.

        Parameters
        ----------
        text : str
            What the scanner handed over.
        now : datetime with a zone, int (milliseconds since 1970 UTC) or None for the clock
        role : str or Role
            ``consumer``, ``retailer``, ``associate``, ``distributor`` or ``inspector``.
        region : str or int or None
            China adcode of 2, 4 or 6 digits.

        Raises
        ------
        ScanError
            If role or region are unknown.
        """
        return self._engine.decide(text, self._time_ms(now), role_of(role), region_code(region))

    def decide_many(
        self,
        codes: list[str] | NDArray[Any],
        *,
        now: datetime | int | None = None,
        role: str | Role | NDArray[Any] = Role.CONSUMER,
        region: str | int | NDArray[Any] | None = None,
    ) -> Decisions:
        """Decide many scans without the GIL; see :class:`~scanengine.engine.Decisions`.

        Parameters
        ----------
        codes : list of str, or array of ``S20`` (n,) or uint8 (n, 20)
        role, region
            One for all as in :meth:`decide`, or arrays of integers of shape (n,): roles 0 to 4, six-digit regions.
        """
        roles = role if isinstance(role, np.ndarray) else role_of(role)
        regions = region if isinstance(region, np.ndarray) else region_code(region)
        return self._engine.decide_many(codes, self._time_ms(now), roles, regions)

    # Looking, without claiming --------------------------------------------------------------------------------------

    def verify(self, text: str, *, now: datetime | int | None = None) -> Answer:
        """Answer what a code is, with its counted scans. Never claims and never counts.

        Notes
        -----
        Where the ledger does not answer, ``scan`` and ``verdict`` are None.
        """
        now_ms = self._time_ms(now)
        decision = self._engine.decide(text, now_ms)
        request = look_request(decision, now_ms)
        facts = None
        if request is not None:
            try:
                facts = self._look(request)
            except OverloadedError:
                pass  # The ledger says so, once for many.
            except LedgerUnavailableError:
                tell_uncounted([decision.item])
        return self._answerer.verified(decision, facts)

    async def verify_async(self, text: str, *, now: datetime | int | None = None) -> Answer:
        """Do :meth:`verify` without blocking the event loop."""
        if self._ledger is None:
            return await asyncio.to_thread(self.verify, text, now=now)
        return (await verify_many(self, [text], self._time_ms(now)))[0]

    async def look_async(
        self, text: str, *, user: str | None = None, visit: str | None = None, now: datetime | int | None = None
    ) -> tuple[Decision, Answer]:
        """Decide one scan of a consumer, count it, and tell what was claimed before. Never claims.

        Parameters
        ----------
        user : str or None
            Whose look it is: the answer holds the claim of the item if there is one, theirs or ``taken``.
        visit : str or None
            With it the look counts as a scan, once for each visit.

        Notes
        -----
        Where the ledger does not answer, ``scan``, ``verdict`` and ``claim`` are None.
        """
        now_ms = self._time_ms(now)
        engine = self._engine
        decision = engine.decide(text, now_ms)
        counts_scan = visit is not None and decision.status == Status.VALID
        if decision.batch is None or (decision.status != Status.VALID and user is None):
            return decision, self._answerer.verified(decision, None)
        try:
            if user is None:
                visit_hash = self.keyring.visit_hash(visit) if visit else 0
                look = ObserveRequest(decision.item, visit_hash, now_ms, counts_scan=counts_scan)
                return decision, self._answerer.verified(decision, await self.ledger.observe_async(look))
            asked = claim_request(self.keyring, Scan.of(text, user, visit), decision, now_ms)
            # Without terms the ledger can only tell what was claimed before.
            asked = replace(asked, offers=(), terms=None, refusal="not_asked", counts_scan=counts_scan)
            receipt = await self.ledger.claim_async(asked)
        except LedgerUnavailableError:
            return decision, self._answerer.verified(decision, None)
        if receipt.status in _TOLD_AGAIN:
            return decision, self._answerer.claimed(decision, asked.claim_id, receipt, engine.snapshot)
        return decision, self._answerer.verified(decision, receipt.scan)

    def page_of(self, decision: Decision) -> PageTheme:
        """Return how the page of a decision looks: as its campaign says, or the plain one without a campaign."""
        table = self.snapshot.prizes.get((decision.campaign or "").removesuffix(TEST_SUFFIX))
        if table is None:
            return PageTheme()
        theme = table.metadata.page or PageTheme()
        return theme if theme.title else replace(theme, title=table.title)

    def _look(self, request: ObserveRequest) -> ScanFacts | None:
        if self._ledger is not None:
            return self._ledger.observe(request)
        if self._reader is not None:
            with self._reader_lock:
                return self._reader.scan_facts(request.item)
        # A workspace whose ledger was never opened has counted nothing yet.
        return ScanFacts(0, None, 0) if self._has_counts else None

    # Claiming -------------------------------------------------------------------------------------------------------

    def claim(
        self,
        text: str,
        *,
        user: str,
        visit: str | None = None,
        role: str | Role = Role.CONSUMER,
        region: str | int | None = None,
        now: datetime | int | None = None,
    ) -> Answer:
        """Scan a code for a person: claim what it offers, once and for all.

        Parameters
        ----------
        user : str
            1 to 64 bytes of UTF-8, with its source in front if there are several: ``wx:o6_bm…``.
        visit : str or None
            At most 64 bytes. Retries of one scan carry the same visit and count once; None makes a new one.

        Returns
        -------
        Answer
            With ``claim.status`` ``pending`` if the outcome is unknown: ask again with the same visit.

        Raises
        ------
        ScanError
            If user, visit, role or region are wrong.
        OverloadedError
            If more is asked of the ledger than it can answer in time. Nothing was done: ask again, a little later.
        LedgerUnavailableError
            If this program does not own a ledger, or is closed.
        """
        return self.claim_many([Scan.of(text, user, visit, role, region)], now=now)[0]

    async def claim_async(
        self,
        text: str,
        *,
        user: str,
        visit: str | None = None,
        role: str | Role = Role.CONSUMER,
        region: str | int | None = None,
        now: datetime | int | None = None,
    ) -> Answer:
        """Do :meth:`claim` without blocking the event loop. Cancelling the caller does not cancel the claim."""
        scan = Scan.of(text, user, visit, role, region)
        if now is None:
            return await self.claim_scan_async(scan)
        return (await self.claim_many_async([scan], now=now))[0]

    async def claim_scan_async(self, scan: Scan) -> Answer:
        """Do :meth:`claim_async` for a scan whose fields were checked; with all others of the event loop's turn."""
        loop = asyncio.get_running_loop()
        questions = self._questions.get(loop)
        if questions is None:
            questions = self._questions[loop] = Questions(self.claim_many_async)
        return await questions.ask(scan)

    def claim_many(self, scans: Sequence[Scan], *, now: datetime | int | None = None) -> list[Answer]:
        """Claim many scans, each as :meth:`claim`; answers in order. ``OverloadedError`` if none of them was begun."""
        claims = Claims(self, scans, self._time_ms(now))
        is_let_in = False
        while requests := claims.requests():
            claims.receive(self.ledger.claim_many(requests, is_let_in=is_let_in))
            is_let_in = True
            if claims.are_stale:
                claims.refresh()
        return claims.answers()

    async def claim_many_async(self, scans: Sequence[Scan], *, now: datetime | int | None = None) -> list[Answer]:
        """Do :meth:`claim_many` without blocking the event loop; the scans may reach the ledger in another order."""
        parts = Parts(self, scans, lambda: self._time_ms(now), is_whole=True)
        if len(scans) <= CLAIMS_AT_ONCE:
            return await parts.claim_part(scans)
        return [each for each in await parts.claim() if not isinstance(each, OverloadedError)]

    async def claim_each_async(self, scans: Sequence[Scan]) -> list[Answer | OverloadedError]:
        """Do :meth:`claim_many_async`, with a refusal in place of each scan that an overloaded ledger did not take."""
        return await Parts(self, scans, self.clock).claim()

    def _time_ms(self, now: datetime | int | None) -> int:
        return self.clock() if now is None else time_ms_of(now)
