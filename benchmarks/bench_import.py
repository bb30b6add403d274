"""Imported codes: how fast a file becomes an index, and a look-up in it beside one of a code that proves itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
import inputs
import scanengine
from scanengine.model import Status
from scanengine.program import importing, publishing
from scanengine.program.moving import no_progress

CODES = harness.short(1_000_000, 20_000)
SEGMENTS = CODES // 10
LETTERS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ$%*+-./:", np.uint8)
PREFIX = np.frombuffer(b"P.URL.CN/0", np.uint8)


def texts(width: int, count: int, seed: int) -> Any:
    """Random texts as suppliers make them, each once: rows of letters, the longer ones with WeChat's prefix."""
    rows = LETTERS[np.random.default_rng(seed).integers(0, len(LETTERS), (count, width))]
    # The row number in the last five places, in base 44, and the seed before it make each text the only one.
    numbers = [*(np.arange(count) // 44**place % 44 for place in range(5)), seed]
    for place, number in enumerate(numbers):
        rows[:, width - 1 - place] = LETTERS[number]
    if width > len(PREFIX) + 5:
        rows[:, : len(PREFIX)] = PREFIX
    return rows


def lines(rows: Any) -> bytes:
    """The rows as a file, one a line."""
    return np.pad(rows, ((0, 0), (0, 1)), constant_values=10).tobytes()


@pytest.mark.parametrize("width", [9, 28])
def bench_import(benchmark: Any, tmp_path: Path, width: int) -> None:
    workspace, keyring = inputs.shop(tmp_path / "shop", 1_000)
    files = [lines(texts(width, CODES, seed)) for seed in range(3)]
    made = iter(range(100))

    def run() -> None:
        number = next(made)
        label, content = f"imported-{number}", files[number]
        table, is_new = importing.import_batch(workspace, keyring, label, io.BytesIO(content), progress=no_progress)
        assert is_new
        assert table.count == CODES

    took = min(harness.seconds(run) for _ in range(2))
    benchmark.pedantic(run, rounds=1)
    snapshot = publishing.load_snapshot(workspace)
    for number, content in enumerate(files):
        batch = snapshot.batch(f"imported-{number}")
        assert batch is not None
        assert "\n".join(batch.codes.texts.between(0, 1_000)).encode() == content[: 1_000 * (width + 1) - 1]
        batch.codes.verify()
    harness.report(benchmark, width=width, million_codes_per_s=CODES / took / 1e6)


@pytest.mark.parametrize("width", [9, 28])
def bench_look_up(benchmark: Any, tmp_path: Path, width: int) -> None:
    workspace, keyring = inputs.shop(tmp_path / "shop", CODES, SEGMENTS)
    rows = texts(width, CODES, 1)
    importing.import_batch(workspace, keyring, "imported", io.BytesIO(lines(rows)), progress=no_progress)
    change = publishing.SceneChange(publishing.SegmentState.ACTIVE, publishing.Scene(3), "bench")
    # The same segments as the generated codes have, so that only the look-up of the code differs.
    starts = np.arange(0, CODES, CODES // SEGMENTS, dtype=np.uint64)
    publishing.assign_scenes(workspace, "imported", np.array([(0, CODES)], np.uint64), change)
    every_other = np.column_stack((starts[::2], starts[::2] + np.uint64(CODES // SEGMENTS)))
    publishing.assign_scenes(workspace, "imported", every_other, publishing.SceneChange(lot="A"))
    program = scanengine.open(workspace.folder, ledger=None)
    table = program.snapshot.batch("cola").codes
    native = inputs.shuffled(keyring.code_keys.encode_many(table.slot, table.serial_start, CODES), 7)
    foreign = inputs.shuffled(rows, 7)
    kept: dict[str, Any] = {}

    def decide(name: str, codes: Any) -> None:
        kept[name] = program.decide_many(codes, now=inputs.NOW_MS)

    took = harness.interleaved(7, native=lambda: decide("native", native), foreign=lambda: decide("foreign", foreign))
    benchmark.pedantic(decide, ("foreign", foreign), rounds=3)
    for decisions in kept.values():
        assert (decisions.status == Status.VALID).all()
        assert len(np.unique(decisions.item)) == CODES
    harness.report(
        benchmark,
        width=width,
        native_ns=took["native"] / CODES * 1e9,
        foreign_ns=took["foreign"] / CODES * 1e9,
        foreign_ratio=took["foreign"] / took["native"],
    )
