"""All of a prize table that is not an array, as it is in the file; what it means is checked in ``prizes``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from scanengine.tables.themes import PageTheme

Number = Annotated[int, Meta(ge=0, le=255)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Limit = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Name = Annotated[str, Meta(min_length=1)]
Decimal = Annotated[str, Meta(pattern=r"\A(0|[1-9][0-9]*)\Z")]


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown fields are refused: a reader that skipped a term it does not know would give prizes away."""


class PrizeEntry(_Entry, frozen=True):
    """One prize; `amount` is in minor units of `currency` for cash. `fallback` is a prize number or -1."""

    number: Number
    id: Name
    kind: Literal["cash", "points", "coupon", "goods"]
    amount: Count | None
    currency: Name | None
    title: Name
    stock: Count | None
    stock_per_day: Count | None
    fallback: Annotated[int, Meta(ge=-1, le=255)]

    @property
    def money(self) -> int:
        """What one award takes from the budget, in minor units; 0 unless the prize is cash."""
        return (self.amount or 0) if self.kind == "cash" else 0


class RuleEntry(_Entry, frozen=True):
    """One rule; `weights` are decimal strings in the order of its columns, as they may exceed 64 bits."""

    number: Number
    id: Name
    mode: Literal["weighted", "certain"]
    weights: tuple[Decimal, ...]


class LimitsEntry(_Entry, frozen=True):
    """Most recorded claims of one person."""

    per_user: Limit | None
    per_user_per_day: Limit | None


class BudgetEntry(_Entry, frozen=True):
    """Most money awarded, in minor units of the campaign's currency."""

    total: Count | None
    per_day: Count | None


class PrizeTableMetadata(_Entry, frozen=True, omit_defaults=True):
    """All of a prize table that is not an array.

    Parameters
    ----------
    prize_numbers, rule_numbers : dict of id -> number
        Every number this campaign ever gave out, in this generation and in all before it.
    draw_key_id : str
        Which draw secret the table was published for; says nothing of the secret.
    source_digest : str
        XXH3-128 of the campaign file's text, in hexadecimal.
    page : PageTheme or None
        Absent from the file without a ``[page]``, so that an older reader reads it too.
    """

    id: Name
    title: Name
    generation: Limit
    timezone: Name
    opens_ms: Count
    closes_ms: Count
    limits: LimitsEntry
    budget: BudgetEntry
    currency: Name | None
    prizes: tuple[PrizeEntry, ...]
    rules: tuple[RuleEntry, ...]
    prize_numbers: dict[str, Number]
    rule_numbers: dict[str, Number]
    draw_key_id: Name
    draw_version: Literal[1]
    source_digest: Name
    page: PageTheme | None = None
