"""The ``[page]`` table of a campaign file: how the consumer's page looks while the campaign runs."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, cast

from scanengine.campaigns.fields import Fields, shown
from scanengine.tables.themes import MOMENTS, Moment, PageTheme

PAGE_KEYS: Final = ("moment", "color", "title", "title_en", "rules", "rules_en")
RULES_CHARS_MAX: Final = 4_000
"""Enough for the conditions of a lottery, and little enough for a page of 60 kB."""
_COLOR: Final = re.compile(r"#[0-9a-fA-F]{6}")


def read_page(fields: Fields, title_chars_max: int) -> PageTheme | None:
    """Return the theme of the ``[page]`` table, or None if the file has none."""
    table = fields.table("page", PAGE_KEYS)
    if table is None:
        return None
    moment = table.choice("moment", MOMENTS) if table.has("moment") else MOMENTS[0]
    return PageTheme(
        moment=cast(Moment, moment),
        color=_read_color(table),
        title=table.line("title", title_chars_max),
        title_en=table.line("title_en", title_chars_max),
        rules=_read_rules(table, "rules"),
        rules_en=_read_rules(table, "rules_en"),
    )


def _read_color(fields: Fields) -> str | None:
    found = fields.text("color")
    if found is not None and not _COLOR.fullmatch(found):
        fields.fault("color", f"expected '#' and six hexadecimal digits such as '#c8102e', found {shown(found)}")
        return None
    return found and found.lower()


def _read_rules(fields: Fields, key: str) -> str | None:
    found = fields.text(key)
    if found is None:
        return None
    if not 1 <= len(found.strip()) <= RULES_CHARS_MAX:
        wanted = f"expected 1 to {RULES_CHARS_MAX:,} characters of plain text"
        fields.fault(key, f"{wanted}, found {len(found.strip()):,}")
    elif any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in found):
        fields.fault(key, "expected plain text in lines, found a control character")
    return found.strip()
