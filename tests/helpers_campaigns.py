"""Campaign files and prize tables for tests, each a small change of one that is right."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from scanengine.campaigns import Campaign, compile_campaign, parse_campaign
from scanengine.errors import CampaignError
from scanengine.tables import prizes
from scanengine.tables.prizes import PrizeTable, build_prize_table

HEAD = """
id = "spring"
title = "Open a cap, win"
opens = 2026-03-01T00:00:00+08:00
closes = 2027-03-01T00:00:00+08:00
timezone = "Asia/Shanghai"
"""
BUDGET = """
[budget]
currency = "CNY"
total = 1_500_000
"""
CASH = """
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 yuan"
stock = 150
fallback = "points-10"
"""
POINTS = """
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
"""
RULE = """
[[rules]]
id = "everyone"
draw = { mode = "weighted", weights = { cash-88 = 1, points-10 = 99, none = 900 } }
"""
WHOLE = HEAD + BUDGET + CASH + POINTS + RULE


def parsed(text: str) -> Campaign:
    return parse_campaign(text, "spring.toml")


def faults_of(text: str) -> list[str]:
    """Return the faults of a file that must have some."""
    with pytest.raises(CampaignError) as caught:
        parsed(text)
    assert caught.value.source == "spring.toml"
    assert str(caught.value) == "spring.toml: " + "; ".join(caught.value.faults)
    return caught.value.faults


def changed(old: str, new: str, text: str = WHOLE) -> str:
    """Return a file with one change; a change that changes nothing would make its test vacuous."""
    assert old in text
    return text.replace(old, new, 1)


def conditioned(conditions: str) -> str:
    return changed("none = 900 } }\n", f"none = 900 }} }}\nwhen = {{ {conditions} }}\n")


def goods(prize_id: str, more: str = "") -> str:
    return f'[[prizes]]\nid = "{prize_id}"\nkind = "goods"\ntitle = "A thing"\n{more}\n'


# Tables

KEY = bytes(range(16))
NOON_MS = 1_780_286_400_000  # 2026-06-01 12:00 in Shanghai, 04:00 UTC.
ITEM = 5 << 40 | 123_456
TEXT = """
id = "spring"
title = "Open a cap, win"
opens = 2026-03-01T00:00:00+08:00
closes = 2027-03-01T00:00:00+08:00
timezone = "Asia/Shanghai"
[limits]
per_user = 100
per_user_per_day = 20
[budget]
currency = "CNY"
total = 1_500_000
per_day = 100_000
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 yuan"
stock = 150
stock_per_day = 10
fallback = "points-10"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
"""
WEIGHTED = '{ mode = "weighted", weights = { cash-88 = 1, points-10 = 99, none = 900 } }'

Sections = dict[int, np.ndarray[Any, Any]]


def rule(rule_id: str, when: str = "", draw: str = '{ mode = "certain", prize = "points-10" }') -> str:
    conditions = f"when = {{ {when} }}\n" if when else ""
    return f'[[rules]]\nid = "{rule_id}"\ndraw = {draw}\n{conditions}'


def compiled(
    text: str,
    previous: PrizeTable | None = None,
    generation: int = 1,
    batch_items: Mapping[str, tuple[int, int]] | None = None,
) -> tuple[prizes.PrizeTableMetadata, Sections]:
    return compile_campaign(
        parse_campaign(text, "spring.toml"),
        previous=previous,
        generation=generation,
        batch_items=batch_items or {},
        draw_key_id="draw-1",
    )


def published(path: Path, text: str, previous: PrizeTable | None = None, generation: int = 1) -> PrizeTable:
    """Compile, write and open a table; `path` is a folder."""
    file = path / f"spring@{generation}.prizes"
    build_prize_table(file, *compiled(text, previous, generation))
    return PrizeTable(file)


def local_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()) * 1000
