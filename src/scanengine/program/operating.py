"""What operators ask for in words, checked: a change of scenes, an adjustment, the readers of events."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from msgspec import Struct

from scanengine.errors import AdjustmentError, AssignmentError, UnknownReaderError
from scanengine.ledger.checks import ACTIONS, check_adjustment
from scanengine.ledger.protocol import LedgerTotals
from scanengine.model import NO_PRIZE, TEST_SUFFIX, Adjustment, Scene, SegmentState
from scanengine.tables.prize_metadata import PrizeEntry
from scanengine.tables.snapshot import Snapshot

STATE_NAMES: Final = tuple(state.name.lower() for state in SegmentState)
SCENE_NAMES: Final = tuple(str(scene.name).lower() for scene in Scene)
_ID_CHARACTERS_MAX: Final = 128
_YEAR_MAX: Final = 9_998


def state_of(name: str) -> SegmentState:
    """Return a state by its name; AssignmentError if there is none."""
    if name not in STATE_NAMES:
        raise AssignmentError(f"state: expected one of {', '.join(STATE_NAMES)}, found {name!r}")
    return SegmentState[name.upper()]


def scenes_of(names: Iterable[str]) -> Scene:
    """Return the scenes of these names together; AssignmentError naming one that is unknown."""
    scenes = Scene(0)
    for name in names:
        if name not in SCENE_NAMES:
            raise AssignmentError(f"scenes: expected any of {', '.join(SCENE_NAMES)}, found {name!r}")
        scenes |= Scene[name.upper()]
    return scenes


def moment_of(name: str, text: str) -> int:
    """Return a time in milliseconds since 1970 UTC; AssignmentError if it is none, or has no UTC offset."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("it has no UTC offset")
        if moment.year > _YEAR_MAX:
            raise ValueError("it cannot be told in every zone")
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise AssignmentError(f"{name}: expected a time such as 2026-05-01T00:00:00+08:00, found {text!r}") from error


def adjustment_of(
    snapshot: Snapshot,
    campaign: str,
    action: str,
    id_: str,
    *,
    prize: str | int | None = None,
    amount: int | None = None,
    at_ms: int,
) -> Adjustment:
    """Return an adjustment of a published campaign, or of its tests, which have counters of their own.

    Parameters
    ----------
    campaign : str
        Id; of the tests it ends in ``~test``.
    id_ : str
        1 to 128 printable characters; each is applied once.
    prize : str or int or None
        Id or number of the prize whose stock is raised.
    amount : int or None
        Units of stock, or money in minor units, to add.
    at_ms : int
        When it is made, milliseconds since 1970 UTC.

    Raises
    ------
    AdjustmentError
        If the campaign is not published, has no such prize, or the rest cannot be.
    """
    published = snapshot.prizes.get(campaign.removesuffix(TEST_SUFFIX))
    if published is None:
        known = ", ".join(sorted(snapshot.prizes)) or "none"
        raise AdjustmentError(f"campaign {campaign!r}: not published; there are {known}")
    if len(id_) > _ID_CHARACTERS_MAX:
        raise AdjustmentError(f"the id of an adjustment has at most {_ID_CHARACTERS_MAX} characters, found {len(id_)}")
    if action not in ACTIONS:
        raise AdjustmentError(f"an adjustment is one of {', '.join(ACTIONS)}, found {action!r}")
    if (prize is not None) != (action == "stock"):
        raise AdjustmentError("a prize goes with stock, and with nothing else")
    if (amount is not None) != (action in ("stock", "budget")):
        raise AdjustmentError("an amount goes with stock and budget, and with nothing else")
    number = NO_PRIZE if prize is None else _prize_number(campaign, published.metadata.prizes, prize)
    adjustment = Adjustment(id_, campaign, action, number, amount or 0, at_ms)
    check_adjustment(adjustment)
    return adjustment


def _prize_number(campaign: str, prizes: tuple[PrizeEntry, ...], prize: str | int) -> int:
    wanted = str(prize)
    for held in prizes:
        if wanted in (held.id, str(held.number)):
            return held.number
    known = ", ".join(f"{held.number} ({held.id})" for held in prizes)
    kind = "number" if wanted.isdecimal() else "id"
    raise AdjustmentError(f"campaign {campaign!r}: no prize has {kind} {wanted}; there are {known}")


class ReaderShown(Struct, frozen=True):
    """How far a reader of events has come.

    Parameters
    ----------
    acknowledged : int
        Number of the newest event that it has dealt with.
    waiting : int
        Events that it has not.
    """

    reader: str
    acknowledged: int
    waiting: int


class ReadersShown(Struct, frozen=True):
    """All readers of events, and the number of the newest event."""

    readers: tuple[ReaderShown, ...]
    newest: int


def show_readers(totals: LedgerTotals) -> ReadersShown:
    """Return how far the readers have come."""
    newest = totals.event_seq
    return ReadersShown(
        tuple(ReaderShown(name, acked, newest - acked) for name, acked in totals.readers.items()), newest
    )


def mark_of(totals: LedgerTotals, reader: str) -> int:
    """Return the newest event that a reader has acknowledged; UnknownReaderError if it is not registered."""
    if reader not in totals.readers:
        raise UnknownReaderError(reader)
    return totals.readers[reader]
