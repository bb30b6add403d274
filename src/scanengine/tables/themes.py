"""How the consumer's page looks for one campaign: part of its prize table, so that it is published with it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

Moment = Literal["plain", "red_packet", "wheel"]
MOMENTS: Final = ("plain", "red_packet", "wheel")


class PageTheme(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The ``[page]`` table of a campaign file. All texts are plain text.

    Parameters
    ----------
    moment : str
        What opens the prize: a button, a red packet or a wheel. It shows what was decided and decides nothing.
    color : str or None
        The accent, ``#rrggbb`` in lower case; None for the page's own.
    title, title_en : str or None
        Headline above the prize; None for the campaign's title.
    rules, rules_en : str or None
        Conditions of the campaign, folded away under the prize; None for none.
    """

    moment: Moment = "plain"
    color: Annotated[str, Meta(pattern=r"\A#[0-9a-f]{6}\Z")] | None = None
    title: str | None = None
    title_en: str | None = None
    rules: str | None = None
    rules_en: str | None = None
