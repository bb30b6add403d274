"""Counting many records at once: groups of equal values, running numbers inside them, and the first of many lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SHOWN_MAX: Final = 20
"""Problems of one kind that are listed one by one; the rest is counted."""


def group(columns: Sequence[NDArray[np.generic]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a stable order by the columns, and for each place in it whether a new group begins there.

    Parameters
    ----------
    columns : sequence of arrays (n,)
        The first one weighs most.

    Returns
    -------
    order : (n,) int64
    is_first : (n,) bool
    """
    order = np.lexsort(columns[::-1])
    is_first = np.zeros(len(order), np.bool_)
    is_first[:1] = True
    for column in columns:
        ordered = column[order]
        is_first[1:] |= ordered[1:] != ordered[:-1]
    return order, is_first


def count_up(is_first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return 1, 2, 3 and so on from each place where a group begins."""
    places = np.arange(len(is_first))
    starts = np.maximum.accumulate(np.where(is_first, places, 0))
    return places - starts + 1


def limited(problems: Iterable[str]) -> list[str]:
    """Return the first problems of a kind and the number of the others."""
    shown: list[str] = []
    others = 0
    for problem in problems:
        if len(shown) < _SHOWN_MAX:
            shown.append(problem)
        else:
            others += 1
    return shown + [f"... and {others} more like the last one"] * bool(others)
