"""Deterministic inputs, made before any clock starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanengine.keys import Keyring, load_keyring
from scanengine.model import Product, Scene, SegmentState
from scanengine.program import publishing
from scanengine.tables.workspace import Workspace

NOW = datetime.now(UTC).replace(microsecond=0)
NOW_MS = int(NOW.timestamp() * 1000)

CAMPAIGN = """\
id = "bench"
title = "Open a cap, win"
opens = {opens}
closes = {closes}
timezone = "Asia/Shanghai"
[limits]
per_user_per_day = 1000000
[budget]
currency = "CNY"
total = 100_000_000_000
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 yuan"
stock = 100_000_000
fallback = "points-10"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
[[rules]]
id = "everyone"
draw = {{ mode = "weighted", weights = {{ cash-88 = 1, points-10 = 99, none = 900 }} }}
"""


def shop(folder: Path, count: int, segments: int = 1) -> tuple[Workspace, Keyring]:
    """Make a workspace with a batch of `count` active codes in about `segments` segments, and a campaign."""
    workspace = publishing.create_workspace(folder)
    keyring = load_keyring(workspace.keys_path)
    publishing.create_batch(workspace, keyring, "cola", count, product=Product("6901234567892", "Cola 500 ml"))
    both = Scene.AUTHENTICITY | Scene.MARKETING
    whole = np.array([(0, count)], np.uint64)
    publishing.assign_scenes(workspace, "cola", whole, publishing.SceneChange(SegmentState.ACTIVE, both, "bench"))
    if segments > 1:
        length = count // segments
        starts = np.arange(0, count - length, 2 * length, dtype=np.uint64)
        ranges = np.column_stack((starts, starts + np.uint64(length)))
        publishing.assign_scenes(workspace, "cola", ranges, publishing.SceneChange(lot="A"))
    path = workspace.campaigns_folder / "bench.toml"
    opens, closes = (NOW + timedelta(days=days) for days in (-1, 30))
    path.write_text(CAMPAIGN.format(opens=opens.isoformat(), closes=closes.isoformat()), "utf-8")
    publishing.publish_campaign(workspace, keyring, path)
    return workspace, keyring


def shuffled(codes: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return the rows in random order."""
    return np.ascontiguousarray(codes[np.random.default_rng(seed).permutation(len(codes))])
