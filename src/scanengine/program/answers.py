"""Decision and receipt to the answer that a caller sees: names for numbers, times in the program's zone."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from pathlib import Path

from msgspec import UNSET

from scanengine.model import (
    NO_PRIZE,
    TEST_SUFFIX,
    Answer,
    ClaimReply,
    ClaimStatus,
    Decision,
    PrizeReply,
    ProductReply,
    Receipt,
    ScanFacts,
    ScanReply,
    Scene,
    Status,
)
from scanengine.program.settings import Settings
from scanengine.tables.prizes import PrizeTable
from scanengine.tables.snapshot import Snapshot
from scanengine.tables.workspace import Workspace

# Looked up by position: hashing or combining members of an enumeration runs Python code, and every scan comes this way.
_STATUS_NAMES = ("", *(status.name.lower() for status in Status))
_SCENE_NAMES = tuple(
    tuple(scene.name.lower() for scene in Scene if scene.name and scene & bits) for bits in range(2 * max(Scene))
)
_AUTHENTICITY = int(Scene.AUTHENTICITY)
_RECORDED = {ClaimStatus.AWARDED: "awarded", ClaimStatus.NO_PRIZE: "no_prize"}


def scene_names(scenes: Scene) -> tuple[str, ...]:
    """Return the names of the scenes that are on."""
    return _SCENE_NAMES[scenes]


class Answerer:
    """Puts answers into words for one program.

    Old prize tables are opened when a claim refers to them and kept: what a person was told once, they are told again,
    whatever has been published since.
    """

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace = workspace
        self._zone = settings.zone
        # Most answers tell one time twice, of the scan and of the claim, and many are of the same millisecond.
        self.time_text = lru_cache(maxsize=1024)(self._time_text)
        self._suspect_after = settings.authenticity.suspect_after
        self._old_prizes: dict[tuple[str, int], PrizeTable] = {}
        self._old_tables: dict[Path, PrizeTable] = {}

    def _time_text(self, time_ms: int) -> str:
        """Return a time as ISO 8601 with milliseconds, in the program's zone."""
        return datetime.fromtimestamp(time_ms / 1000, self._zone).isoformat(timespec="milliseconds")

    def verified(self, decision: Decision, facts: ScanFacts | None) -> Answer:
        """Return the answer to a look without a claim; `facts` None if counts are unavailable."""
        return self._answer(decision, facts, None)

    def claimed(self, decision: Decision, claim_id: str, receipt: Receipt, snapshot: Snapshot) -> Answer:
        """Return the answer to a claim."""
        if receipt.status == ClaimStatus.INELIGIBLE and decision.status != Status.VALID:
            return self._answer(decision, None, None)
        return self._answer(decision, receipt.scan, self._claim(claim_id, receipt, snapshot))

    def _answer(self, decision: Decision, facts: ScanFacts | None, claim: ClaimReply | None) -> Answer:
        product = decision.product
        return Answer(
            status=_STATUS_NAMES[decision.status],
            code=decision.code,
            verdict=self._verdict(decision, facts),
            scan=None
            if facts is None
            else ScanReply(facts.count, None if facts.first_at_ms is None else self.time_text(facts.first_at_ms)),
            product=None if product is None else ProductReply(product.gtin, product.title),
            batch=decision.batch,
            scenes=scene_names(decision.scenes),
            claim=claim,
            test=decision.test or UNSET,
        )

    def _verdict(self, decision: Decision, facts: ScanFacts | None) -> str | None:
        if facts is None or decision.status != Status.VALID or not int(decision.scenes) & _AUTHENTICITY:
            return None
        if facts.number == 1 or facts.count == 0:
            return "first_scan"
        return "suspect" if facts.count > self._suspect_after else "repeat"

    def _claim(self, claim_id: str, receipt: Receipt, snapshot: Snapshot) -> ClaimReply:
        recorded = _RECORDED.get(receipt.status)
        if recorded:
            return ClaimReply(
                claim_id,
                recorded,
                replayed=receipt.replayed,
                at=self.time_text(receipt.at_ms),
                prize=self._prize(receipt, snapshot),
            )
        at = self.time_text(receipt.at_ms) if receipt.status == ClaimStatus.TAKEN else None
        return ClaimReply(claim_id, receipt.status.value, at=at, reason=receipt.reason)

    def _prize(self, receipt: Receipt, snapshot: Snapshot) -> PrizeReply | None:
        if receipt.prize == NO_PRIZE or receipt.campaign is None:
            return None
        prize = self.prize_table(receipt.campaign, receipt.generation, snapshot).prize(receipt.prize)
        assert prize is not None  # The ledger gives only prizes of the terms, which are those of this very table.
        # Whoever pays by replies must not pay a test.
        amount = 0 if prize.amount and receipt.campaign.endswith(TEST_SUFFIX) else prize.amount
        return PrizeReply(prize.id, prize.kind, amount, prize.currency, prize.title)

    def prize_table(self, campaign: str, generation: int, snapshot: Snapshot) -> PrizeTable:
        """Return the prize table of a campaign that was current at a generation; tests draw from the real one's.

        Raises
        ------
        TableFormatError
            If it is gone or damaged.
        """
        campaign = campaign.removesuffix(TEST_SUFFIX)
        current = snapshot.prizes.get(campaign)
        if current is not None and current.generation <= generation <= snapshot.generation:
            return current
        table = self._old_prizes.get((campaign, generation))
        if table is None:
            # Many generations share one file; each mapping of its own would hold a file descriptor.
            path = self._workspace.prize_path_at(campaign, generation)
            table = self._old_tables.get(path) or self._old_tables.setdefault(path, PrizeTable(path))
            self._old_prizes[campaign, generation] = table
        return table
