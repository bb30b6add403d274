"""Claims on their way: decided, asked of the ledger, decided again where a publication came in between, answered.

Nothing here waits, so the blocking and the asynchronous calls of a program share it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from scanengine.engine import Engine
from scanengine.errors import LedgerUnavailableError, SettingsError, TableFormatError
from scanengine.keys import Keyring
from scanengine.ledger import PENDING
from scanengine.model import Answer, ClaimRequest, ClaimStatus, Decision, Party, Receipt, Status
from scanengine.program.answers import Answerer
from scanengine.program.scans import Scan

logger = logging.getLogger(__name__)

_STALE_TRIES: Final = 3


class ClaimsHost(Protocol):
    """What claims need of the program they belong to."""

    keyring: Keyring

    @property
    def engine(self) -> Engine:
        """The engine of the current snapshot."""

    @property
    def answerer(self) -> Answerer:
        """What puts answers into words."""

    def refresh(self) -> bool:
        """Take over what has been published since."""


def claim_request(keyring: Keyring, scan: Scan, decision: Decision, now_ms: int) -> ClaimRequest:
    """Return what to ask the ledger for a scan that was decided."""
    party = Party.of(scan.role)
    return ClaimRequest(
        item=decision.item,
        party=party,
        user=scan.user,
        user_hash=keyring.user_hash(scan.user),
        visit=scan.visit,
        visit_hash=keyring.visit_hash(scan.visit),
        claim_id=keyring.claim_id(decision.item, party),
        generation=decision.generation,
        offers=decision.offers,
        terms=decision.terms,
        refusal=decision.refusal,
        local_date=decision.local_date,
        now_ms=now_ms,
        counts_scan=decision.status == Status.VALID,
        batch=decision.batch or "",
        product=decision.product.gtin if decision.product else "",
        role=scan.role,
        region=scan.region,
    )


class Claims:
    """Some scans on their way through engine and ledger, without any waiting of its own.

    ``requests`` says what to ask the ledger next, ``receive`` takes the receipts, until there is nothing to ask. What
    was decided on a generation older than the ledger has seen comes back ``stale`` and is decided again: ``are_stale``
    asks for :meth:`refresh` first, which reads files and may wait for the ledger.
    """

    def __init__(self, host: ClaimsHost, scans: Sequence[Scan], now_ms: int) -> None:
        self._host = host
        self._scans = scans
        self._now_ms = now_ms
        self._answers: list[Answer | None] = [None] * len(scans)
        self._waiting = list(range(len(scans)))
        self._asked: list[tuple[int, Decision, str]] = []
        self._tries = 0
        self._engine = host.engine

    def requests(self) -> list[ClaimRequest]:
        """Return what to ask the ledger, empty when every scan is answered."""
        if self._tries == _STALE_TRIES:
            return []
        self._tries += 1
        self._engine = self._host.engine
        self._asked = []
        requests = []
        for index in self._waiting:
            scan = self._scans[index]
            decision = self._engine.decide(scan.code, self._now_ms, scan.role, scan.region)
            if decision.batch is not None:
                request = claim_request(self._host.keyring, scan, decision, self._now_ms)
                self._asked.append((index, decision, request.claim_id))
                requests.append(request)
            else:
                self._answers[index] = self._host.answerer.verified(decision, None)
        return requests

    @property
    def are_stale(self) -> bool:
        """Whether some are to be decided again, on newer tables."""
        return bool(self._waiting) and self._tries > 0

    def refresh(self) -> None:
        """Take over what has been published since."""
        try:
            self._host.refresh()
        except (TableFormatError, SettingsError, LedgerUnavailableError):
            # Other scans of this call may be recorded already: what cannot be decided stays pending.
            logger.exception("what was published cannot be used, the current tables stay")

    def receive(self, receipts: Sequence[Receipt]) -> None:
        """Take the receipts of the requests asked last, in order."""
        self._waiting = []
        for (index, decision, claim_id), receipt in zip(self._asked, receipts, strict=True):
            if receipt.status != ClaimStatus.STALE:
                self._settle(index, decision, claim_id, receipt)
            elif self._tries < _STALE_TRIES:
                self._waiting.append(index)
            else:
                # The ledger has seen a publication that this workspace does not show: restored from a backup, say.
                logger.error("item %d: the ledger is ahead of the manifest's generation", decision.item)
                self._settle(index, decision, claim_id, PENDING)
        if not self._waiting:
            self._tries = _STALE_TRIES

    def _settle(self, index: int, decision: Decision, claim_id: str, receipt: Receipt) -> None:
        answerer, snapshot = self._host.answerer, self._engine.snapshot
        try:
            self._answers[index] = answerer.claimed(decision, claim_id, receipt, snapshot)
        except TableFormatError as error:
            # The claim stands; what it gave is in a table that is gone. Others of this call must not suffer for it.
            logger.error("item %d: the claim cannot be told until a table is restored: %s", decision.item, error)
            self._answers[index] = answerer.claimed(decision, claim_id, PENDING, snapshot)

    def answers(self) -> list[Answer]:
        """Return all answers, in the order of the scans."""
        return [answer for answer in self._answers if answer is not None]
