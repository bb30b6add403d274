"""What may be asked of a ledger besides claims: adjustments, and readers of events."""

from __future__ import annotations

import re
from typing import Final

from scanengine.errors import AdjustmentError, OutboxError
from scanengine.model import NO_PRIZE, Adjustment

ACTIONS: Final = ("stock", "budget", "pause", "resume", "close")
ADDED_MAX: Final = (1 << 53) - 1
"""Most that all adjustments may add to one stock or budget: up to here every backend counts exactly."""
SEQ_MAX: Final = (1 << 62) - 1
_PRIZE_MAX: Final = 255
_READER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_adjustment(adjustment: Adjustment, added: int = 0) -> None:
    """Check that an adjustment says something.

    Parameters
    ----------
    added : int
        What earlier adjustments have added to the same stock or budget.

    Raises
    ------
    AdjustmentError
        The action is unknown, the id is no name or the campaign empty, or the prize or amount cannot be added.
    """
    if not adjustment.id or not adjustment.campaign:
        raise AdjustmentError("an adjustment needs an id and a campaign, found none: the id is a name of your choice")
    if not adjustment.id.isprintable():
        raise AdjustmentError("the id of an adjustment is printable characters, found others")
    if adjustment.action not in ACTIONS:
        raise AdjustmentError(f"an adjustment is one of {', '.join(ACTIONS)}, found {adjustment.action!r}")
    if adjustment.action == "stock" and not 0 <= adjustment.prize <= _PRIZE_MAX:
        raise AdjustmentError(f"an adjustment of stock needs a prize of 0 to {_PRIZE_MAX}, found {adjustment.prize}")
    if adjustment.action in ("stock", "budget") and not 1 <= adjustment.amount <= ADDED_MAX - added:
        raise AdjustmentError(
            f"adding {adjustment.action} needs an amount of 1 to {ADDED_MAX - added}, found {adjustment.amount}"
        )


def check_repeated(adjustment: Adjustment, earlier: Adjustment) -> None:
    """Check that an adjustment says what the one of the same id said that was applied; when does not matter.

    Raises
    ------
    AdjustmentError
        The id was used for something else, so this one was never applied.
    """
    if _meaning(adjustment) != _meaning(earlier):
        raise AdjustmentError(
            f"the id {adjustment.id!r} was used before, for {_words(earlier)}: expected the same, found "
            f"{_words(adjustment)}; nothing was changed: choose another id"
        )


def _meaning(adjustment: Adjustment) -> tuple[str, str, int, int]:
    """Return what an adjustment does; a number that goes with another action says nothing."""
    action = adjustment.action
    prize = adjustment.prize if action == "stock" else NO_PRIZE
    return adjustment.campaign, action, prize, adjustment.amount if action in ("stock", "budget") else 0


def _words(adjustment: Adjustment) -> str:
    campaign, action, prize, amount = _meaning(adjustment)
    numbers = [f"of prize {prize}"] * (prize != NO_PRIZE) + [f"by {amount}"] * (amount != 0)
    return " ".join([action, *numbers, f"in campaign {campaign!r}"])


def check_reader_name(name: str) -> None:
    """Check the name of a reader, which is part of addresses.

    Raises
    ------
    OutboxError
        It cannot be one.
    """
    if not _READER_NAME.fullmatch(name):
        raise OutboxError(
            "a reader's name is 1 to 64 letters A to z, digits, dots, hyphens and underscores, the first a letter or a "
            f"digit, found {name[:65]!r}"
        )


def check_events(after: int, limit: int) -> None:
    """Check the arguments of ``events``.

    Raises
    ------
    OutboxError
        One of them is negative, or larger than any number of events.
    """
    if not (0 <= after <= SEQ_MAX and 0 <= limit <= SEQ_MAX):
        raise OutboxError(f"after and limit are not negative and below 2**62, found {after} and {limit}")
