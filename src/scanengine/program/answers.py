"""Decision and receipt to the answer that a caller sees: names for numbers, times in the program's zone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from scanengine.model import TEST_SUFFIX, PrizeReply
from scanengine.program._claims import Wording, scene_names
from scanengine.program.settings import Settings
from scanengine.tables.prizes import PrizeTable
from scanengine.tables.snapshot import Snapshot
from scanengine.tables.workspace import Workspace

__all__ = ["Answerer", "scene_names"]

_SECONDS_KEPT: Final = 1024
"""Seconds of the last claims and scans: many fall into one, and a person who scans again is told the same one."""


class Answerer(Wording):
    """Puts answers into words for one program: ``verified`` for looks, ``claimed`` for claims.

    Old prize tables are opened when a claim refers to them and kept: what a person was told once, they are told again,
    whatever has been published since.
    """

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        super().__init__(
            partial(_time_text, lru_cache(maxsize=_SECONDS_KEPT)(partial(_second_text, settings.zone))),
            settings.authenticity.suspect_after,
        )
        self._workspace = workspace
        self._old_prizes: dict[tuple[str, int], PrizeTable] = {}
        self._old_tables: dict[Path, PrizeTable] = {}

    def prize_told(self, campaign: str, generation: int, number: int, snapshot: Snapshot) -> PrizeReply:
        """Return what to tell of a prize of a campaign that was current at a generation.

        Raises
        ------
        TableFormatError
            As :meth:`prize_table`.
        """
        prize = self.prize_table(campaign, generation, snapshot).prize(number)
        assert prize is not None  # The ledger gives only prizes of the terms, which are those of this very table.
        # Whoever pays by replies must not pay a test.
        amount = 0 if prize.amount and campaign.endswith(TEST_SUFFIX) else prize.amount
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


def _time_text(second_text: Callable[[int], tuple[str, str]], time_ms: int) -> str:
    """Return a time as ISO 8601 with milliseconds, in the program's zone."""
    second, ms = divmod(time_ms, 1000)
    before, after = second_text(second)
    return f"{before}.{ms:03d}{after}"


def _second_text(zone: ZoneInfo, second: int) -> tuple[str, str]:
    """Return what stands before and after the milliseconds of a time."""
    text = datetime.fromtimestamp(second, zone).isoformat(timespec="seconds")
    return text[:19], text[19:]
