"""Builders: a program with one batch and one campaign, its codes, and what they have drawn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from scanengine.engine import Engine
from scanengine.keys import Keyring, load_keyring
from scanengine.ledger import Ledger
from scanengine.model import Product, Scene, SegmentState
from scanengine.program import Program
from scanengine.program.publishing import (
    Publication,
    SceneChange,
    assign_scenes,
    create_batch,
    create_workspace,
    publish_campaign,
)
from scanengine.program.settings import load_settings
from scanengine.tables.codes import CodeTable
from scanengine.tables.snapshot import Batch, Snapshot, load_snapshot
from scanengine.tables.workspace import Workspace

NOON = datetime.fromisoformat("2026-05-01T12:00:00+08:00")
NOW_MS = 1_777_608_000_000
"""NOON in milliseconds since 1970 UTC."""
HOUR_MS = 3_600_000
GTIN = "6901234567892"
COLA = Product(GTIN, "可乐", "Cola", "Brand", "drinks")
CODES = 1_000
SLOT = 1
SLOT_SECRET, DRAW_SECRET, PROGRAM_SECRET = (bytes(range(start, start + 32)) for start in (10, 60, 110))
TOKEN = "a-token-for-tests-only"
KEYS = f"""
[[slots]]
slot = {SLOT}
secret = "{SLOT_SECRET.hex()}"
state = "active"
[draw]
secret = "{DRAW_SECRET.hex()}"
[program]
secret = "{PROGRAM_SECRET.hex()}"
[[tokens]]
name = "shop-backend"
token = "{TOKEN}"
"""
SPRING = """
id = "spring"
title = "Open a cap, win"
opens = 2026-03-01T00:00:00+08:00
closes = 2027-03-01T00:00:00+08:00
timezone = "Asia/Shanghai"
[limits]
per_user = 5
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
currency = "CNY"
title = "88 yuan"
stock = 150
fallback = "points-10"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
[[rules]]
id = "south"
draw = { mode = "certain", prize = "cash-88" }
when = { regions = ["44"] }
[[rules]]
id = "everyone"
draw = { mode = "weighted", weights = { cash-88 = 1, points-10 = 3, none = 6 } }
[[rules]]
id = "shop"
draw = { mode = "certain", prize = "points-10" }
when = { roles = ["retailer"] }
"""
"""Consumers draw by region, retailers take points, nobody else has a rule. Prizes 0 and 1, rules 0 to 2."""
CASH, POINTS = 0, 1
SOUTH, EVERYONE, SHOP = range(3)
ACTIVE = SceneChange(
    state=SegmentState.ACTIVE, scenes=Scene.AUTHENTICITY | Scene.MARKETING, campaign="spring", product=GTIN, lot="L1"
)


def ranges(*pairs: tuple[int, int]) -> np.ndarray:
    """Return half-open ranges of offsets as publishing takes them."""
    return np.array(pairs, np.uint64).reshape(-1, 2)


@dataclass(frozen=True)
class Shop:
    """A workspace and its keys, with the tools to publish in it and to scan."""

    workspace: Workspace
    keyring: Keyring

    @property
    def folder(self) -> Path:
        return self.workspace.folder

    @property
    def snapshot(self) -> Snapshot:
        return load_snapshot(self.workspace)

    @property
    def engine(self) -> Engine:
        return Engine(self.keyring, self.snapshot)

    def code(self, offset: int, batch: str = "cola") -> str:
        return self.codes(offset, offset + 1, batch)[0]

    def codes(self, start: int, end: int, batch: str = "cola") -> list[str]:
        table = self._batch(batch).codes
        return [self.keyring.code_keys.encode(table.slot, table.serial_start + offset) for offset in range(start, end)]

    def item(self, offset: int, batch: str = "cola") -> int:
        return self._batch(batch).codes.item_start + offset

    def make(self, label: str, count: int = 10, slot: int | None = None) -> CodeTable:
        """Make a batch of which nothing is assigned."""
        return create_batch(self.workspace, self.keyring, label, count, slot=slot)

    def handed_out(self) -> dict[str, int]:
        """Return the next serial of each slot as the register has it."""
        return dict(json.loads((self.folder / "allocations").read_text())["content"]["serials"])

    def _batch(self, label: str) -> Batch:
        batch = self.snapshot.batch(label)
        assert batch is not None
        return batch

    def drawing(self, prize: int, count: int = 1) -> list[str]:
        """Return codes for which a consumer draws a prize number (-1 for none) at NOON."""
        codes = self.codes(0, CODES)
        drawn = self.engine.decide_many(codes, NOW_MS).prize
        found = [code for code, number in zip(codes, drawn.tolist(), strict=True) if number == prize]
        assert len(found) >= count
        return found[:count]

    def assign(self, start: int, end: int, change: SceneChange, batch: str = "cola") -> Snapshot:
        return assign_scenes(self.workspace, batch, ranges((start, end)), change)

    def publish(self, text: str, name: str = "spring") -> Publication:
        path = self.workspace.campaigns_folder / f"{name}.toml"
        path.write_text(text, "utf-8")
        return publish_campaign(self.workspace, self.keyring, path)

    def program(self, ledger: Ledger | None = None, now_ms: int = NOW_MS) -> Program:
        """Return a program with this ledger and a clock that stands still."""
        return Program(
            self.workspace,
            load_settings(self.workspace.settings_path),
            self.keyring,
            self.snapshot,
            ledger,
            clock=lambda: now_ms,
        )


def an_empty_shop(folder: Path) -> Shop:
    """Make a workspace with known keys and nothing published."""
    workspace = create_workspace(folder)
    workspace.keys_path.write_text(KEYS)
    return Shop(workspace, load_keyring(workspace.keys_path))


def a_shop(folder: Path) -> Shop:
    """Make a workspace with 1,000 active codes of the batch ``cola`` and the campaign ``spring``."""
    shop = an_empty_shop(folder)
    create_batch(shop.workspace, shop.keyring, "cola", CODES, product=COLA)
    shop.publish(SPRING)
    shop.assign(0, CODES, ACTIVE)
    return shop


def a_copy(template: Path, folder: Path) -> Shop:
    """Return the shop of a copied folder."""
    shutil.copytree(template, folder)
    workspace = Workspace(folder)
    return Shop(workspace, load_keyring(workspace.keys_path))


def replaced(text: str, old: str, new: str) -> str:
    """Return a text with one change; a change that changes nothing would make its test vacuous."""
    assert old in text
    return text.replace(old, new, 1)


def a_code_with(code: str, place: int, symbol: str) -> str:
    return code[:place] + symbol + code[place + 1 :]


def run_python(source: str, *arguments: object, expect: int = 0) -> str:
    """Run a fresh interpreter and return what it printed; it must end with the code expected."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout
