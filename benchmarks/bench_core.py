"""Deciding and exporting: native loops against one Python HMAC per code, and against the reference twin."""

from __future__ import annotations

import hmac
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
import inputs
import scanengine
from scanengine import _lanes, _reference
from scanengine.model import Status
from scanengine.program import exporting
from scanengine.program.program import Program

CODES = harness.short(10_000_000, 100_000)
SEGMENTS = harness.short(1_000_000, 10_000)
REFERENCE_CODES = 2_000
HMAC_CALLS = 200_000
KEY = b"k" * 32


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("bench") / "shop"
    inputs.shop(folder, CODES, SEGMENTS)
    return scanengine.open(folder, ledger=None)


@pytest.fixture(scope="module")
def codes(program: Program) -> Any:
    table = program.snapshot.batches[0].codes
    return program.keyring.code_keys.encode_many(table.slot, table.serial_start, CODES)


def hmac_many(code: bytes, calls: int = HMAC_CALLS) -> None:
    digest = hmac.digest
    for _ in range(calls):
        digest(KEY, code, "sha256")


def reference_resolver(program: Program) -> _reference.Resolver:
    """The same tables in the plain twin; secrets are read from the workspace as the engine does."""
    import tomllib

    from scanengine.keys import derive_key

    entry = tomllib.loads(program.workspace.keys_path.read_text())["slots"][0]
    secret = bytes.fromhex(entry["secret"])
    keys = _reference.CodeKeys([(entry["slot"], derive_key(secret, "scan-tag"), derive_key(secret, "scan-mask"))])
    batch = program.snapshot.batches[0]
    segments = batch.scenes.segments()
    table = program.snapshot.prizes["bench"]
    rules = _reference.RuleSet(program.keyring.draw_key("bench"), *table._sections().values())
    tiles = _reference.SegmentMap(segments.starts, segments.indices, CODES, len(segments.profiles))
    place = (batch.codes.item_start, CODES, tiles, 0)
    return _reference.Resolver(keys, [place], program.engine._records, [rules])


@pytest.mark.parametrize("order", ["in order", "random order"])
def bench_decide_many(benchmark: Any, program: Program, codes: Any, order: str) -> None:
    wanted = codes if order == "in order" else inputs.shuffled(codes, 7)
    one = codes[0].tobytes()
    few = np.ascontiguousarray(wanted[:REFERENCE_CODES])
    twin = reference_resolver(program)
    kept: list[Any] = []

    def decide() -> None:
        kept[:] = [program.decide_many(wanted, now=inputs.NOW_MS)]

    def decide_by(path: str) -> None:
        before = _lanes.path()
        _lanes.choose(path)
        decide()
        _lanes.choose(before)

    took = harness.interleaved(
        5,
        native=decide,
        hmac=lambda: hmac_many(one),
        reference=lambda: twin.resolve_many(few, inputs.NOW_MS, 0, 0),
        **{path: partial(decide_by, path) for path in _lanes.paths()},
    )
    benchmark.pedantic(decide, rounds=3)
    decisions = kept[0]
    expected = twin.resolve_many(few, inputs.NOW_MS, 0, 0)
    assert (decisions.status == Status.VALID).all()
    assert len(np.unique(decisions.item)) == CODES
    assert (decisions.item[:REFERENCE_CODES] == expected[1]).all()
    assert (decisions.prize[:REFERENCE_CODES] == expected[4]).all()
    native, hmac_one, plain = took["native"] / CODES, took["hmac"] / HMAC_CALLS, took["reference"] / REFERENCE_CODES
    harness.report(
        benchmark,
        segments=program.snapshot.batches[0].scenes.segment_map.segment_count,
        native_ns=native * 1e9,
        hmac_ns=hmac_one * 1e9,
        hmac_ratio=hmac_one / native,
        reference_ratio=plain / native,
        million_per_s=1e-6 / native,
        lanes=_lanes.path(),
        **{f"{path}_ns": took[path] / CODES * 1e9 for path in _lanes.paths()},
    )


def bench_decide_one(benchmark: Any, program: Program, codes: Any) -> None:
    text = codes[4711].tobytes().decode()
    decide, calls = program.engine.decide, 100_000

    def decide_calls() -> None:
        for _ in range(calls):
            decide(text, inputs.NOW_MS)

    def program_calls() -> None:
        for _ in range(calls):
            program.decide(text)

    took = harness.interleaved(
        7, engine=decide_calls, program=program_calls, hmac=lambda: hmac_many(text.encode(), calls)
    )
    benchmark(decide, text, inputs.NOW_MS)
    assert program.decide(text).status == Status.VALID
    harness.report(
        benchmark,
        engine_ns=took["engine"] / calls * 1e9,
        program_ns=took["program"] / calls * 1e9,
        hmac_ns=took["hmac"] / calls * 1e9,
        hmac_ratio=took["hmac"] / took["program"],
    )


def bench_export_text(benchmark: Any, program: Program, tmp_path: Path) -> None:
    table, count = program.snapshot.batches[0].codes, harness.short(3_000_000, 30_000)

    def export() -> int:
        pieces = exporting.export_codes(program.keyring, table, 0, count, "text", "https://example.com")
        path = tmp_path / "codes.txt"
        path.unlink(missing_ok=True)
        exporting.write_export(path, pieces, lambda rows: None)
        return path.stat().st_size

    took = harness.interleaved(3, export=export)["export"]
    assert benchmark.pedantic(export, rounds=2) == count * 21
    with open(tmp_path / "codes.txt", "rb") as file:
        lines = file.read().split()
    assert len(set(lines)) == count
    decisions = program.decide_many(np.array(lines, "S20"), now=inputs.NOW_MS)
    assert (decisions.status == Status.VALID).all()
    harness.report(benchmark, million_codes_per_s=count / took / 1e6)
