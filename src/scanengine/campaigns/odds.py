"""Odds: integer weights to alias tables and back.

The table built here is the normative one of draw version 1: the same weights in the same order give the same table
everywhere, so a published campaign draws the same outcomes on every machine. Drawing from a table is not here; that
is :func:`scanengine._reference.alias_draw` and its native twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

WORD_BITS: Final = 64
FULL: Final = (1 << WORD_BITS) - 1
"""Threshold of a full column. The one word that is not below it leads to the alias, which is the column itself."""


def build_alias(weights: Sequence[int]) -> tuple[list[int], list[int]]:
    """Build the alias table that draws outcome ``i`` with chance ``weights[i] / sum(weights)``.

    Parameters
    ----------
    weights : sequence of int, length n >= 1
        Non-negative, at least one positive; of any size and without a unit. The order is part of the result.

    Returns
    -------
    thresholds : list of int, length n
        Chance of staying in a column, in units of 2**-64.
    aliases : list of int, length n
        Outcome of a column that is not stayed in. A full column is its own alias.

    Raises
    ------
    ValueError
        If there is no weight, a negative one, or no positive one.

    Notes
    -----
    O(n) and exact: each column is cut by at most one 2**-64 of itself. An outcome of weight 0 is never drawn, as no
    column has it for an alias and no word is below its threshold 0.

    References
    ----------
    Walker (1977), "An efficient method for generating discrete random variables with general distributions";
    Vose (1991), "A linear algorithm for generating random numbers with a given distribution".
    """
    if not weights:
        raise ValueError("at least one weight is needed")
    for place, weight in enumerate(weights):
        if weight < 0:
            raise ValueError(f"weight {place} is negative: {weight}")
    total = sum(weights)
    if total == 0:
        raise ValueError("at least one weight must be positive")

    # Scaled by n, the weights average to the total: a column is exactly full when it holds the total.
    n = len(weights)
    mass = [weight * n for weight in weights]
    poor = [column for column in range(n) if mass[column] < total]
    rich = [column for column in range(n) if mass[column] > total]
    thresholds = [FULL] * n
    aliases = list(range(n))
    # What the poor lack is what the rich have too much, in exact integers: while there is a poor column there is a
    # rich one.
    while poor:
        column = poor.pop()
        donor = rich.pop()
        thresholds[column] = (mass[column] << WORD_BITS) // total
        aliases[column] = donor
        mass[donor] -= total - mass[column]
        if mass[donor] > total:
            rich.append(donor)
        elif mass[donor] < total:
            poor.append(donor)
    return thresholds, aliases


def probabilities(thresholds: Sequence[int], aliases: Sequence[int]) -> list[Fraction]:
    """Compute the exact chance of each outcome of an alias table, drawn with two uniform 64-bit words.

    Parameters
    ----------
    thresholds : sequence of int, length n >= 1
        Chances of staying in a column, in units of 2**-64.
    aliases : sequence of int, length n
        Each in ``[0, n)``.

    Returns
    -------
    list of Fraction, length n
        Chances that sum to exactly 1. A table of :func:`build_alias` is within ``n * 2**-63`` of the weights at each
        outcome, because columns and thresholds are whole numbers of 2**-64.

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    n = len(thresholds)
    words = 1 << WORD_BITS
    chances = [0] * n
    for column, (threshold, alias) in enumerate(zip(thresholds, aliases, strict=True)):
        # Column c is drawn by the words w0 with c <= w0 * n / 2**64 < c + 1: not equally many when n does not
        # divide 2**64.
        width = -(-(column + 1) * words // n) - -(-column * words // n)
        chances[column] += width * threshold
        chances[alias] += width * (words - threshold)
    return [Fraction(chance, words * words) for chance in chances]
