"""A campaign as its file says it: validated words and numbers, before they become arrays.

    campaign file (TOML) --parse--> Campaign --compile--> prize table

A :class:`Campaign` that exists is one without faults in itself. What only shows against the world (whether a
batch exists, which numbers an earlier generation gave out) is found when it is compiled.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from scanengine.model import Role
from scanengine.tables.themes import PageTheme

NONE: Final = "none"
"""Id of the outcome without a prize; no prize can have it."""
KINDS: Final = ("cash", "points", "coupon", "goods")
MODES: Final = ("weighted", "certain")

Kind = Literal["cash", "points", "coupon", "goods"]
Mode = Literal["weighted", "certain"]


class Limits(Struct, frozen=True):
    """Most recorded claims of one person, in all and on one local day; None for no limit."""

    per_user: int | None = None
    per_user_per_day: int | None = None


class Budget(Struct, frozen=True):
    """Most money awarded, in all and on one local day, in minor units of the currency; None for no limit."""

    currency: str
    total: int | None = None
    per_day: int | None = None


class Prize(Struct, frozen=True):
    """One ``[[prizes]]`` entry.

    Parameters
    ----------
    amount : int or None
        Minor units of `currency` for cash, points for points, free for the other kinds.
    currency : str or None
        Three capital letters; only, and always, for cash.
    stock, stock_per_day : int or None
        Most awards in all and on one local day; None for no limit.
    fallback : str or None
        Id of the prize to give when this one cannot be given.
    number : int or None
        0 to 255 if the file chooses it, which is only possible the first time.
    """

    id: str
    kind: Kind
    title: str
    amount: int | None = None
    currency: str | None = None
    stock: int | None = None
    stock_per_day: int | None = None
    fallback: str | None = None
    number: int | None = None


class Conditions(Struct, frozen=True):
    """What must all hold for a rule to draw; an absent one always holds.

    Parameters
    ----------
    roles : tuple of Role
        Consumers only unless the file says otherwise, so that a retailer cannot take the buyer's odds a
        second time.
    regions : tuple of str
        Prefixes of 2, 4 or 6 digits of China's administrative division codes.
    products : tuple of int
        GTINs as integers: leading zeros carry no meaning.
    batches : tuple of str
        Labels of batches.
    hours : tuple of (int, int)
        Local minutes of the day, half open; an end before the start lies on the next day.
    opens, closes : datetime or None
        Half-open window.
    """

    roles: tuple[Role, ...] = (Role.CONSUMER,)
    regions: tuple[str, ...] = ()
    products: tuple[int, ...] = ()
    batches: tuple[str, ...] = ()
    hours: tuple[tuple[int, int], ...] = ()
    opens: datetime | None = None
    closes: datetime | None = None

    @property
    def is_by_role_only(self) -> bool:
        """Whether nothing but the role decides."""
        return self == Conditions(roles=self.roles)


class Rule(Struct, frozen=True):
    """One ``[[rules]]`` entry.

    Parameters
    ----------
    weights : tuple of (str, int)
        Outcome (a prize id or ``none``) and weight in file order; integers of any size and any sum. A certain
        rule has one outcome of weight 1.
    """

    id: str
    mode: Mode
    weights: tuple[tuple[str, int], ...]
    when: Conditions = Conditions()
    number: int | None = None

    @property
    def weight_total(self) -> int:
        """Sum of the weights, at least 1."""
        return sum(weight for _, weight in self.weights)


class Campaign(Struct, frozen=True):
    """A campaign file without faults.

    Parameters
    ----------
    opens, closes : datetime
        Half-open window; both carry a UTC offset.
    timezone : str
        Name in the IANA time zone database; local days and hours are counted in it.
    source_digest : str
        XXH3-128 of the file's text, 32 hexadecimal digits: which text a table was made from.
    """

    id: str
    title: str
    opens: datetime
    closes: datetime
    timezone: str
    prizes: tuple[Prize, ...]
    rules: tuple[Rule, ...]
    source_digest: str
    limits: Limits = Limits()
    budget: Budget | None = None
    page: PageTheme | None = None

    @property
    def currency(self) -> str | None:
        """The one currency of all cash; None without cash and budget."""
        if self.budget is not None:
            return self.budget.currency
        return next((prize.currency for prize in self.prizes if prize.kind == "cash"), None)

    def prize(self, prize_id: str) -> Prize:
        """Return a prize by its id.

        Raises
        ------
        KeyError
            If the campaign has no such prize.
        """
        for prize in self.prizes:
            if prize.id == prize_id:
                return prize
        raise KeyError(prize_id)
