"""The claims of a batch, a few parts at a time, so that the claims of others come in between.

A ledger answers in the order in which it is asked. A batch that asked for all of its claims at once would be a long
line, and whoever comes after it would wait for the end of it. So only a few parts of it wait at a time; when one is
answered the next joins the line, behind whatever has come meanwhile. A batch whose ledger takes no more gets by with
fewer at a time; only where it could not have even one is it refused, part by part.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from scanengine.errors import OverloadedError
from scanengine.ledger import PENDING, Ledger
from scanengine.model import Answer, ClaimRequest, ClaimStatus, Receipt
from scanengine.program.claims import Claims, ClaimsHost
from scanengine.program.gathering import CLAIMS_AT_ONCE
from scanengine.program.scans import Scan
from scanengine.program.settings import Settings

PARTS_AT_ONCE: Final = 2
"""One is being decided while the other is being written. Three claim a tenth more in a second, and a single claim
between two batches waits for a third longer, 20 ms instead of 15 (Redis, November 2026)."""


class PartsHost(ClaimsHost, Protocol):
    """What the parts of a batch need of the program they belong to."""

    settings: Settings

    @property
    def ledger(self) -> Ledger:
        """The ledger."""


class Parts:
    """A batch of scans on its way.

    Parameters
    ----------
    time_ms : callable
        Returns the time of a part, milliseconds since 1970 UTC.
    is_whole : bool
        Whether the ledger takes or refuses the batch as a whole, by its first part; otherwise each part for itself.
    """

    def __init__(
        self, host: PartsHost, scans: Sequence[Scan], time_ms: Callable[[], int], *, is_whole: bool = False
    ) -> None:
        self._host = host
        self._scans = scans
        self._time_ms = time_ms
        self._is_whole = is_whole
        self._starts = deque(range(0, len(scans), CLAIMS_AT_ONCE))
        self._workers = PARTS_AT_ONCE
        self._found: list[list[Answer] | OverloadedError] = []
        self._is_let_in = False
        self._is_silent = False

    async def claim(self) -> list[Answer | OverloadedError]:
        """Return the answers in order, and the refusal for each scan of a part that was refused.

        Once the ledger has not answered a part in time it is asked for no other one: what is left of the batch is
        ``pending`` at once, so that a ledger that is away costs one deadline. Cancelling this does not cancel claims.

        Raises
        ------
        OverloadedError
            If the batch was refused as a whole; nothing of it was done.
        LedgerUnavailableError
            If the ledger is closed.
        """
        self._found = [[] for _ in range(0, len(self._scans), CLAIMS_AT_ONCE)]
        work = asyncio.gather(*(self._work() for _ in range(PARTS_AT_ONCE)))
        # Where the caller has gone nobody else asks how it ended: mostly with the loop, under way.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(work)
        answers: list[Answer | OverloadedError] = []
        for number, found in enumerate(self._found):
            if isinstance(found, OverloadedError):
                answers += [found] * len(self._part(number * CLAIMS_AT_ONCE))
            else:
                answers += found
        return answers

    def _part(self, start: int) -> Sequence[Scan]:
        return self._scans[start : start + CLAIMS_AT_ONCE]

    async def _work(self) -> None:
        """Claim part after part, as long as there are any and the ledger takes them."""
        while self._starts:
            start = self._starts.popleft()
            try:
                found = await self.claim_part(self._part(start))
            except OverloadedError as error:
                if self._is_whole:
                    self._starts.clear()
                    raise
                if self._workers > 1:
                    self._starts.appendleft(start)
                    break
                self._found[start // CLAIMS_AT_ONCE] = error
            else:
                self._found[start // CLAIMS_AT_ONCE] = found
            # A part that the ledger need not be asked about, or that it refuses, has not waited for anything.
            await asyncio.sleep(0)
        self._workers -= 1

    async def claim_part(self, scans: Sequence[Scan]) -> list[Answer]:
        """Return the answers to some scans, which are asked of the ledger together."""
        claims = Claims(self._host, scans, self._time_ms())
        is_let_in = False
        while requests := claims.requests():
            claims.receive(await self._ask(requests, is_let_in=is_let_in or self._is_let_in))
            is_let_in = True  # Some may be recorded by now.
            if claims.are_stale:
                await asyncio.to_thread(claims.refresh)
        return claims.answers()

    async def _ask(self, requests: Sequence[ClaimRequest], *, is_let_in: bool) -> Sequence[Receipt]:
        if self._is_silent:
            return [PENDING] * len(requests)
        # A ledger refuses before anything else runs, and a refusal of a whole batch ends it.
        self._is_let_in = self._is_whole
        ledger, began_s = self._host.ledger, time.monotonic()
        receipts = await ledger.claim_many_async(requests, is_let_in=is_let_in)
        if all(receipt.status == ClaimStatus.PENDING for receipt in receipts):
            # At once, and without trouble of the ledger, it is these claims that have one, as by a damaged record.
            is_late = time.monotonic() - began_s >= self._host.settings.ledger.timeout_s
            self._is_silent |= is_late or ledger.trouble is not None
        return receipts
