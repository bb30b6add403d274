"""Looks at many codes at once, for who serves them from an event loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from scanengine.engine import Engine
from scanengine.errors import LedgerUnavailableError, OverloadedError
from scanengine.ledger import Ledger
from scanengine.model import Answer, Decision, ObserveRequest, ScanFacts, Status
from scanengine.program.answers import Answerer

logger = logging.getLogger(__name__)


class LooksHost(Protocol):
    """What looks need of the program they belong to."""

    @property
    def engine(self) -> Engine:
        """The engine of the current snapshot."""

    @property
    def answerer(self) -> Answerer:
        """What puts answers into words."""

    @property
    def ledger(self) -> Ledger:
        """The ledger, owned."""


def look_request(decision: Decision, now_ms: int) -> ObserveRequest | None:
    """Return what a look asks of the ledger, which counts nothing; None where there is nothing to ask."""
    if decision.status != Status.VALID:
        return None
    return ObserveRequest(decision.item, 0, now_ms, counts_scan=False)


async def verify_many(host: LooksHost, texts: Sequence[str], now_ms: int) -> list[Answer]:
    """Answer what codes are, with their counted scans, in order. Never claims and never counts."""
    decisions = [host.engine.decide(text, now_ms) for text in texts]
    requests = [look_request(decision, now_ms) for decision in decisions]
    asked = [request for request in requests if request is not None]
    found = iter(await _observe(host, asked) if asked else ())
    verified = host.answerer.verified
    return [
        verified(decision, None if request is None else next(found))
        for decision, request in zip(decisions, requests, strict=True)
    ]


async def _observe(host: LooksHost, requests: Sequence[ObserveRequest]) -> list[ScanFacts | None]:
    facts: list[ScanFacts | None] = [None] * len(requests)
    try:
        facts = await host.ledger.observe_many_async(requests)
    except OverloadedError:
        return facts  # The ledger says so, once for many.
    except LedgerUnavailableError:
        pass
    tell_uncounted([request.item for request, found in zip(requests, facts, strict=True) if found is None])
    return facts


def tell_uncounted(items: Sequence[int]) -> None:
    """Say in the log which item, or how many, the ledger did not answer about."""
    if len(items) == 1:
        logger.warning("item %d: verified without counts, the ledger did not answer", items[0])
    elif items:
        logger.warning("%d codes were verified without counts, the ledger did not answer", len(items))
