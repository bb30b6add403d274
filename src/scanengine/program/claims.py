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
from scanengine.model import Answer, ClaimRequest, Decision, Receipt
from scanengine.program._claims import Asked, ask, request_of, tell
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
    return request_of(keyring.claim_keys, scan, decision, now_ms)


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
        self._asked: Asked | None = None
        self._tries = 0
        self._engine = host.engine

    def requests(self) -> list[ClaimRequest]:
        """Return what to ask the ledger, empty when every scan is answered."""
        if self._tries == _STALE_TRIES:
            return []
        self._tries += 1
        self._engine = self._host.engine
        self._asked, others = ask(
            self._engine.decider, self._host.keyring.claim_keys, self._scans, self._waiting, self._now_ms
        )
        for index, decision in others:
            self._answers[index] = self._host.answerer.verified(decision, None)
        return self._asked.requests

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
        assert self._asked is not None  # Receipts are of requests.
        answerer, snapshot = self._host.answerer, self._engine.snapshot
        self._waiting = []
        untold = tell(answerer, self._asked, receipts, snapshot, self._answers)
        for index, decision, claim_id, error in untold:
            if error is not None:
                # The claim stands; what it gave is in a table that is gone. Others of this call must not suffer for it.
                logger.error("item %d: the claim cannot be told until a table is restored: %s", decision.item, error)
            elif self._tries < _STALE_TRIES:
                self._waiting.append(index)
                continue
            else:
                # The ledger has seen a publication that this workspace does not show: restored from a backup, say.
                logger.error("item %d: the ledger is ahead of the manifest's generation", decision.item)
            self._answers[index] = answerer.claimed(decision, claim_id, PENDING, snapshot)
        if not self._waiting:
            self._tries = _STALE_TRIES

    def answers(self) -> list[Answer]:
        """Return all answers, in the order of the scans."""
        return [answer for answer in self._answers if answer is not None]
