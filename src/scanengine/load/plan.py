"""What is sent: which code, by whom, with which visit, in which order.

A follow-up (repeat, taken) comes some way behind the claim that it follows. Where it overtakes that claim after all,
the answers are judged by when they came: see :mod:`scanengine.load.judging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scanengine.load.options import KINDS, Options

NEW, REPEAT, TAKEN, FORGED = range(len(KINDS))
PERSON_DIGITS: Final = 9
PEOPLE_MAX: Final = 10**PERSON_DIGITS
_DISTANCE: Final = 4
"""How many times the connections a follow-up is behind what it follows, at least."""
_ZIPF_EXPONENT: Final = 1.0
"""The thousandth busiest person scans a thousandth as often as the busiest."""


@dataclass(frozen=True)
class Plan:
    """Requests of one client process, as columns of shape (n,).

    Parameters
    ----------
    kind : uint8
        ``NEW``, ``REPEAT``, ``TAKEN`` or ``FORGED``.
    code : int64
        Row among the codes that were taken for this plan; forged ones have rows of their own among the forged.
    person, visit, region : int64
        Numbers; a region is a six-digit adcode, 0 for none.
    """

    kind: NDArray[np.uint8]
    code: NDArray[np.int64]
    person: NDArray[np.int64]
    visit: NDArray[np.int64]
    region: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kind)

    def part(self, rows: NDArray[np.int64]) -> Plan:
        """Return some of the requests."""
        return Plan(self.kind[rows], self.code[rows], self.person[rows], self.visit[rows], self.region[rows])

    @property
    def fresh_codes(self) -> int:
        """Codes that nobody has claimed that this plan needs."""
        return int(np.count_nonzero(self.kind == NEW))

    @property
    def forged_codes(self) -> int:
        """Forged codes that this plan needs."""
        return int(np.count_nonzero(self.kind == FORGED))


class People:
    """Who scans: numbers below a count, some of them far busier than others with ``zipf``."""

    def __init__(self, options: Options) -> None:
        self._count = options.people
        self._shares: NDArray[np.float64] | None = None
        if options.spread == "zipf":
            weights = np.arange(1, options.people + 1, dtype=np.float64) ** -_ZIPF_EXPONENT
            self._shares = np.cumsum(weights) / weights.sum()

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return so many people."""
        if self._shares is None:
            return random.integers(0, self._count, count)
        found = np.searchsorted(self._shares, random.random(count), side="right")
        return np.minimum(found, self._count - 1).astype(np.int64)


def make_plan(
    options: Options, people: People, random: np.random.Generator, count: int, connections: int, first_visit: int
) -> Plan:
    """Return `count` requests of a mix.

    Parameters
    ----------
    connections : int
        Of the process that sends them.
    first_visit : int
        Visits are numbered from here on; the next plan begins `count` later.
    """
    weights = np.array([getattr(options.mix, kind) for kind in KINDS], np.float64)
    kind = random.choice(len(KINDS), count, p=weights / weights.sum()).astype(np.uint8)
    distance = max(1, min(_DISTANCE * connections, count // _DISTANCE))
    kind[:distance][(kind[:distance] == REPEAT) | (kind[:distance] == TAKEN)] = NEW
    kind[:1] = NEW
    is_new, is_forged = kind == NEW, kind == FORGED
    code = np.zeros(count, np.int64)
    code[is_new] = np.arange(np.count_nonzero(is_new))
    code[is_forged] = np.arange(np.count_nonzero(is_forged))
    person = people.draw(random, count)
    visit = np.arange(first_visit, first_visit + count)
    later = np.flatnonzero((kind == REPEAT) | (kind == TAKEN))
    new_rows = np.flatnonzero(is_new)
    # How many claims each may follow: those at least `distance` before it.
    choices = np.searchsorted(new_rows, later - distance, side="right")
    origin = new_rows[(random.random(len(later)) * choices).astype(np.int64)]
    code[later] = code[origin]
    is_repeat = kind[later] == REPEAT
    repeats, others = later[is_repeat], later[~is_repeat]
    person[repeats], visit[repeats] = person[origin[is_repeat]], visit[origin[is_repeat]]
    if len(others):
        step = random.integers(1, options.people, len(others))
        person[others] = (person[origin[~is_repeat]] + step) % options.people
    region = np.zeros(count, np.int64)
    if options.regions:
        shares = np.array(list(options.regions.values()), np.float64)
        names = np.array([int(name) for name in options.regions], np.int64)
        region = names[random.choice(len(names), count, p=shares / shares.sum())]
        region[repeats] = region[origin[is_repeat]]
    return Plan(kind, code, person, visit, region)
