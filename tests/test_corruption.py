"""A damaged file is a documented error that names the file: never a crash, never another error, never an answer.

Goal: whatever happens to the bytes of a table, of the manifest or of the register, opening says so.
Method: one sound file of each kind, cut at many lengths, lengthened, and with single bits turned over.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import a_shop, ranges
from helpers_campaigns import TEXT, WEIGHTED, compiled, rule
from scanengine.errors import TableFormatError
from scanengine.model import Scene, SegmentState
from scanengine.tables.codes import CodeTable
from scanengine.tables.prizes import PrizeTable, build_prize_table
from scanengine.tables.scenes import Profile, SceneTable, Segments
from scanengine.tables.snapshot import load_snapshot
from scanengine.tables.workspace import Workspace

BIT_FLIPS = 400
COUNT = 5_000


def write_codes(path: Path) -> None:
    CodeTable("cola", 7, 123_456, COUNT, 1_777_608_000_000).write(path)


def write_scenes(path: Path) -> None:
    segments = Segments.blank(COUNT, Profile(product="6901234567892", lot="L1"))
    every_third = np.arange(0, COUNT, 3, dtype=np.uint64)
    active = Profile(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, campaign="spring")
    segments = segments.assign(np.column_stack((every_third, every_third + np.uint64(1))), lambda _: active)
    segments.assign(ranges((4_000, 4_900)), lambda _: Profile(SegmentState.FROZEN)).write(path, "cola", 3)


def write_prizes(path: Path) -> None:
    rules = rule("shop", 'roles = ["retailer"]') + rule("south", 'regions = ["44"]') + rule("all", draw=WEIGHTED)
    build_prize_table(path, *compiled(TEXT + rules))


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "code": (write_codes, CodeTable.read),
    "scene": (write_scenes, SceneTable),
    "prize": (write_prizes, PrizeTable),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sound(tmp_path: Path, kind: str) -> bytes:
    """Return the bytes of a sound file of this kind."""
    write, read = KINDS[kind]
    write(tmp_path / "sound")
    read(tmp_path / "sound")
    return (tmp_path / "sound").read_bytes()


def cuts(size: int) -> list[int]:
    return sorted({*range(min(256, size)), *range(0, size, 64), size - 1})


def flips(size: int, seed: int) -> list[int]:
    """Return bits to turn over: every one of the header, and many of all others."""
    rest = range(256, size * 8)
    return [*range(min(256, size * 8)), *random.Random(seed).sample(rest, min(BIT_FLIPS, len(rest)))]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def expect_refusal(path: Path, content: bytes, read: Callable[[Path], object], what: str) -> None:
    path.write_bytes(content)
    message = None
    try:
        read(path)
    except TableFormatError as error:
        message = str(error)
    assert message is not None, f"{what}: was read without a word"
    assert message.startswith(f"{path}: "), what


def test_every_cut_is_refused(tmp_path: Path, kind: str, sound: bytes) -> None:
    for size in cuts(len(sound)):
        expect_refusal(tmp_path / "damaged", sound[:size], KINDS[kind][1], f"cut to {size} bytes")


def test_a_file_that_grew_is_refused(tmp_path: Path, kind: str, sound: bytes) -> None:
    for extra in (b"\0", b"\n", bytes(8), sound):
        expect_refusal(tmp_path / "damaged", sound + extra, KINDS[kind][1], f"{len(extra)} bytes more")


def test_every_turned_bit_is_refused(tmp_path: Path, kind: str, sound: bytes) -> None:
    bits = flips(len(sound), seed=20_260_501)
    assert len(bits) >= 300
    for bit in bits:
        expect_refusal(tmp_path / "damaged", flipped(sound, bit), KINDS[kind][1], f"bit {bit}")


def test_random_bytes_are_refused(tmp_path: Path, kind: str, sound: bytes) -> None:
    source = random.Random(11)
    for size in (1, 31, 32, 33, 500):
        expect_refusal(tmp_path / "damaged", source.randbytes(size), KINDS[kind][1], f"{size} random bytes")
        expect_refusal(tmp_path / "damaged", sound[:32] + source.randbytes(size), KINDS[kind][1], "a random body")


@pytest.mark.parametrize("other", KINDS)
def test_a_table_of_another_kind_is_refused(tmp_path: Path, kind: str, sound: bytes, other: str) -> None:
    if other != kind:
        message = f"a {kind} table, expected a {other} table"
        (tmp_path / "exchanged").write_bytes(sound)
        with pytest.raises(TableFormatError, match=message):
            KINDS[other][1](tmp_path / "exchanged")


def read_manifest(path: Path) -> object:
    return Workspace(path.parent).read_manifest()


def read_register(path: Path) -> object:
    workspace = Workspace(path.parent)
    with workspace.locked():
        return workspace.allocate_serials(1, 1)


@pytest.mark.parametrize(("name", "read"), [("manifest", read_manifest), ("allocations", read_register)])
def test_each_damage_to_a_register_is_refused(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    shop = a_shop(tmp_path / "shop")
    path = shop.folder / name
    content = path.read_bytes()
    assert len(content) < 1_000
    for size in range(len(content)):
        expect_refusal(path, content[:size], read, f"cut to {size} bytes")
    for bit in range(len(content) * 8):
        expect_refusal(path, flipped(content, bit), read, f"bit {bit}")
    for extra in (b"\0", b"{}\n", content):
        expect_refusal(path, content + extra, read, f"{extra!r} more")
    path.write_bytes(content)
    read(path)


def test_a_damaged_table_of_the_current_set_is_refused_as_a_whole(tmp_path: Path) -> None:
    shop = a_shop(tmp_path / "shop")
    for kind in ("codes", "scenes", "prizes"):
        path = max((shop.folder / kind).iterdir())
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(flipped(content, len(content) * 8 - 1))
        with pytest.raises(TableFormatError, match=str(path)):
            load_snapshot(shop.workspace)
        path.write_bytes(content)
    load_snapshot(shop.workspace)
