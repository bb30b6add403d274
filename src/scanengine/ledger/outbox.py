"""Checks the events of a ledger against the records of its claims, and lets others check what they know of them.

The ledger knows no key and no table. Who does hands over a :class:`Replay`, which decides again what was decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from scanengine.ledger.counting import group, limited
from scanengine.ledger.protocol import LedgerReader
from scanengine.ledger.sealing import DamagedEventError, hand_out
from scanengine.model import Event, Party, Role

_EVENT_DTYPE: Final = np.dtype(
    [("claim", "<i8"), ("item", "<u8"), ("at_ms", "<i8"), ("money", "<i8"), ("generation", "<i8"), ("unit", "<i8"),
     ("rule", "<i8"), ("drawn", "<i8"), ("prize", "<i8"), ("party", "<i8"), ("campaign", "<i8"),
     ("user_hash", "<u8"), ("visit_hash", "<u8")]
)  # fmt: skip
_SHOWN: Final = ("item", "at_ms", "money", "generation", "unit", "rule", "drawn", "prize", "campaign")
_HIDDEN: Final = {"party": "party", "user_hash": "user", "visit_hash": "visit"}
"""What the ledger takes as it is told; who replays knows what follows from the event."""
_EVENT_ROWS: Final = 1 << 16
_NUMBER_END: Final = 1 << 63
_STRANGE: Final = -1
"""Party of a role and number of a campaign that nobody knows."""
_PARTIES: Final = {role.name.lower(): int(Party.of(role)) for role in Role}
_TYPES: Final = ("claim", "scan")

_Records = NDArray[np.void]
_Numbers = NDArray[np.int64]


class Replay(Protocol):
    """What can only be checked with keys and tables. Problems are one line each, and hold no code and no user."""

    def hashes(self, event: Event) -> tuple[int, int]:
        """Return under which hashes a record knows the event's user and visit."""

    def event(self, event: Event) -> Iterable[str]:
        """Yield what is wrong with an event of a claim, or of a scan."""

    def claims(self, seqs: _Numbers, claims: _Records, campaigns: Mapping[int, str]) -> Iterator[str]:
        """Yield what is wrong with the records of claims."""


class EventsRead(Struct, frozen=True):
    """What was read of the outbox.

    Parameters
    ----------
    count : int
        All events.
    claims : (n,) of the fields that a claim's event shares with its record
    problems : list of str
    """

    count: int
    claims: _Records
    problems: list[str]


def read_events(reader: LedgerReader, campaigns: Mapping[int, str], replay: Replay | None) -> EventsRead:
    """Read all events, past those that are damaged, and let each be replayed."""
    numbers = {name: number for number, name in campaigns.items()}
    parts: list[_Records] = []
    rows: list[tuple[int, ...]] = []
    count = 0

    def found() -> Iterator[str]:
        nonlocal count
        for claim, event, damage in _each_event(reader):
            count += 1
            if damage is not None:
                yield damage
            if event is None:
                continue
            problems = [f"type is {event.type!r}, expected claim or scan"] if event.type not in _TYPES else []
            if event.type == "claim":
                row = (
                    claim, event.item, event.at, event.amount, event.generation, event.unit, event.rule, event.drawn,
                    event.prize, _PARTIES.get(event.role, _STRANGE), numbers.get(event.campaign or "", _STRANGE),
                )  # fmt: skip
                if -_NUMBER_END <= min(row) <= max(row) < _NUMBER_END and event.item >= 0:
                    rows.append(row + (replay.hashes(event) if replay else (0, 0)))
                else:
                    problems.append("it holds a number that none can be")
            if len(rows) == _EVENT_ROWS:
                parts.append(np.array(rows, _EVENT_DTYPE))
                rows.clear()
            if replay and not problems:
                problems += replay.event(event)
            for problem in problems:
                yield f"event {event.seq}: item {event.item}: {problem}"

    problems = limited(found())
    parts.append(np.array(rows, _EVENT_DTYPE))
    return EventsRead(count, np.concatenate(parts), problems)


def _each_event(reader: LedgerReader) -> Iterator[tuple[int, Event | None, str | None]]:
    """Yield number of the claim, event, and what is damaged of it."""
    after = 0
    while True:
        try:
            for claim, event in reader.events(after):
                yield claim, event, None
            return
        except DamagedEventError as error:
            after = error.last
            yield error.claim, error.event, str(error)


def next_events(reader: LedgerReader, after: int, limit: int) -> list[Event]:
    """Return at most `limit` events after one, up to the first that is damaged or missing.

    Raises
    ------
    DamagedEventError
        The very first one is damaged or missing.
    """
    newest = reader.marks().events
    found: list[Event] = []
    damage: DamagedEventError | None = None
    try:
        found += (event for _, event in islice(reader.events(after), limit))
    except DamagedEventError as error:
        damage = error

    def stored() -> Iterator[Event]:
        yield from found
        if damage is not None:
            raise damage

    return hand_out(stored(), after, limit, newest=newest, trimmed=reader.marks().trimmed)


def check_events(
    seqs: _Numbers, claims: _Records, events: _Records, trimmed_before: int, trimmed: int, *, is_replayed: bool
) -> list[str]:
    """Check that each claim but those whose events were trimmed has one event, which says the same.

    Events that were trimmed while they were read may be there or not.
    """
    events = events[(events["claim"] <= trimmed_before) | (events["claim"] > trimmed)]
    order, is_first = group([events["claim"]])
    problems = limited(f"claim {events['claim'][i]}: has more than one event" for i in np.sort(order[~is_first]))
    single = events[np.sort(order[is_first])] if len(events) else events
    # Events are trimmed from the oldest, and are in the order of their claims.
    expected = seqs[seqs > trimmed]
    positions = {"missing": np.setdiff1d(expected, single["claim"]), "extra": np.setdiff1d(single["claim"], expected)}
    items = claims["item"]
    problems += limited(
        f"claim {seq}: item {items[np.searchsorted(seqs, seq)]} has no event" for seq in positions["missing"]
    )
    problems += limited(f"claim {seq}: there is an event, but no such claim without one" for seq in positions["extra"])
    known = single[np.isin(single["claim"], expected)]
    recorded = claims[np.searchsorted(seqs, known["claim"])]
    # What an event says of points is not in the record: only money is counted.
    known["money"][(recorded["money"] == 0) & (recorded["prize"] >= 0)] = 0
    for field in _SHOWN:
        problems += limited(
            f"claim {known['claim'][i]}: item {recorded['item'][i]}: the event says {field} {known[field][i]}, "
            f"the record {recorded[field][i]}"
            for i in np.flatnonzero(known[field] != recorded[field])
        )
    for field, what in _HIDDEN.items() if is_replayed else ():
        problems += limited(
            f"claim {known['claim'][i]}: item {recorded['item'][i]}: the event is of another {what} than the record"
            for i in np.flatnonzero(known[field] != recorded[field])
        )
    return problems
