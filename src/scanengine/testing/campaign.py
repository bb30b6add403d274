"""The campaign of a sample program, from odds, prizes and limits to the text of a campaign file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

CAMPAIGN_ID: Final = "sample"
ODDS: Final[Mapping[str, int]] = {"cash-88": 1, "points-10": 3, "none": 6}
PRIZES: Final[Sequence[Mapping[str, Any]]] = (
    {"id": "cash-88", "kind": "cash", "amount": 8800, "currency": "CNY", "title": "88 yuan"},
    {"id": "points-10", "kind": "points", "amount": 10, "title": "10 points"},
)


def campaign_text(
    now_ms: int,
    odds: Mapping[str, int],
    prizes: Sequence[Mapping[str, Any]],
    limits: Mapping[str, int],
    budget: Mapping[str, Any],
) -> str:
    """Return a campaign file that opened a month before `now_ms` and closes a year after; not validated."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    lines = [
        f"id = {_value(CAMPAIGN_ID)}",
        'title = "Sample"',
        f"opens = {(now - timedelta(days=30)).isoformat(timespec='seconds')}",
        f"closes = {(now + timedelta(days=365)).isoformat(timespec='seconds')}",
        'timezone = "Asia/Shanghai"',
        f"limits = {_value(limits)}",
        *([f"budget = {_value(budget)}"] if budget else []),
        f"prizes = {_value(prizes)}",
        f'rules = [{{ id = "everyone", draw = {{ mode = "weighted", weights = {_value(odds)} }} }}]',
    ]
    return "\n".join(lines)


def _value(value: object) -> str:
    """Return a value as TOML writes it; JSON writes texts and numbers alike."""
    if isinstance(value, Mapping):
        pairs = [f"{json.dumps(str(key), ensure_ascii=False)} = {_value(inner)}" for key, inner in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
