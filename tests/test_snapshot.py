"""Snapshots: one generation throughout a scan, tables shared and never exchanged, the old set kept if need be."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import (
    CASH,
    CODES,
    COLA,
    DRAW_SECRET,
    GTIN,
    HOUR_MS,
    NOW_MS,
    SLOT,
    SPRING,
    Shop,
    replaced,
)
from scanengine.engine import Engine
from scanengine.errors import SettingsError, TableFormatError
from scanengine.keys import Keyring
from scanengine.model import SegmentState, Status
from scanengine.program import Program
from scanengine.program.publishing import SceneChange, create_batch, delete_batch
from scanengine.tables.codes import CodeTable
from scanengine.tables.snapshot import load_snapshot

FROZEN, ACTIVE_AGAIN = SceneChange(state=SegmentState.FROZEN), SceneChange(state=SegmentState.ACTIVE)


def tamper(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_snapshot_names_what_the_manifest_names(shop: Shop) -> None:
    snapshot = shop.snapshot
    assert snapshot.generation == 3
    assert [batch.label for batch in snapshot.batches] == ["cola"]
    assert list(snapshot.prizes) == ["spring"]
    assert snapshot.products == {GTIN: COLA}
    assert snapshot.batch("cola") is snapshot.batches[0]
    assert snapshot.batch("pepsi") is None
    names = {path.name for kind in ("codes", "scenes", "prizes") for path in (shop.folder / kind).iterdir()}
    assert names == {"cola@1.codes", "cola@1.scenes", "cola@3.scenes", "spring@2.prizes"}


def test_batches_are_in_the_order_of_their_items(shop: Shop) -> None:
    slots = [(slot, bytes([slot]) * 32, "active") for slot in (0, SLOT, 9)]
    keyring = Keyring(slots, DRAW_SECRET, bytes(32))
    for label, slot in (("zebra", 9), ("apple", SLOT), ("mango", 0), ("plum", 9)):
        create_batch(shop.workspace, keyring, label, 5, slot=slot)
    assert [batch.label for batch in shop.snapshot.batches] == ["mango", "cola", "apple", "zebra", "plum"]
    engine = Engine(keyring, shop.snapshot)
    assert {engine.decide(keyring.code_keys.encode(slot, 4), NOW_MS).batch for slot, _, _ in slots} == {
        "mango", "cola", "zebra",
    }  # fmt: skip


def test_what_has_not_changed_is_shared(shop: Shop) -> None:
    create_batch(shop.workspace, shop.keyring, "beer", 5)
    old = shop.snapshot
    shop.assign(0, 3, FROZEN, batch="beer")
    new = load_snapshot(shop.workspace, old)
    assert new.batch("cola") is old.batch("cola")
    assert new.prizes["spring"] is old.prizes["spring"]
    assert new.batch("beer") is not old.batch("beer")
    assert new.batch("beer").codes is old.batch("beer").codes
    shop.publish(SPRING)
    assert load_snapshot(shop.workspace, new).prizes["spring"] is not new.prizes["spring"]


@pytest.mark.parametrize("kind", ["codes", "scenes", "prizes"])
def test_exchanged_files_are_refused(shop: Shop, kind: str) -> None:
    create_batch(shop.workspace, shop.keyring, "beer", 5)
    shop.publish(replaced(SPRING, '"spring"', '"summer"'), "summer")
    manifest = shop.workspace.read_manifest()
    one, two = sorted(getattr(manifest, kind).values())[:2]
    folder = shop.folder / kind
    contents = [(folder / name).read_bytes() for name in (one, two)]
    for name, content in zip((two, one), contents, strict=True):
        tamper(folder / name, content)
    with pytest.raises(TableFormatError, match="files were exchanged"):
        load_snapshot(shop.workspace)


def test_codes_and_scenes_of_one_batch_have_one_count(shop: Shop) -> None:
    path = shop.folder / "codes" / "cola@1.codes"
    path.unlink()
    CodeTable("cola", SLOT, 0, CODES - 1).write(path)
    with pytest.raises(TableFormatError, match="files were exchanged"):
        load_snapshot(shop.workspace)


def test_batches_that_overlap_are_refused(shop: Shop) -> None:
    create_batch(shop.workspace, shop.keyring, "beer", 5)
    path = shop.folder / "codes" / "beer@4.codes"
    path.unlink()
    CodeTable("beer", SLOT, CODES - 1, 5).write(path)
    with pytest.raises(TableFormatError, match="the tables do not fit together"):
        shop.program()


def test_an_older_scene_table_of_the_same_batch_is_whole_but_a_missing_one_is_not(shop: Shop) -> None:
    for kind, name in (("codes", "cola@1.codes"), ("scenes", "cola@3.scenes"), ("prizes", "spring@2.prizes")):
        path = shop.folder / kind / name
        path.rename(path.with_suffix(".away"))
        with pytest.raises(TableFormatError, match=f"{name}: cannot be read as a table: No such file"):
            load_snapshot(shop.workspace)
        path.with_suffix(".away").rename(path)
    load_snapshot(shop.workspace)


def test_campaign_and_segments_may_be_published_in_either_order(shop: Shop) -> None:
    assert (shop.snapshot.unbound_campaigns(), shop.snapshot.unused_campaigns()) == ({}, [])
    snapshot = shop.assign(0, 5, SceneChange(campaign="autumn"))
    assert snapshot.unbound_campaigns() == {"autumn": ["cola"]}
    assert snapshot.unused_campaigns() == []
    decision = shop.engine.decide(shop.code(0), NOW_MS)
    assert (decision.campaign, decision.refusal, decision.terms, decision.offers) == ("autumn", "no_rule", None, ())
    snapshot = shop.publish(replaced(SPRING, '"spring"', '"autumn"'), "autumn").snapshot
    assert (snapshot.unbound_campaigns(), snapshot.unused_campaigns()) == ({}, [])
    assert shop.engine.decide(shop.code(0), NOW_MS).terms.id == "autumn"
    snapshot = shop.assign(0, CODES, SceneChange(campaign="winter"))
    assert snapshot.unused_campaigns() == ["autumn", "spring"]
    assert snapshot.unbound_campaigns() == {"winter": ["cola"]}


def test_the_prize_table_of_each_past_generation_is_found(shop: Shop) -> None:
    shop.publish(replaced(SPRING, '"spring"', '"spring-2"'), "other")  # 4
    shop.publish(replaced(SPRING, "88 yuan", "eighty-eight"))  # 5
    shop.assign(0, 5, FROZEN)  # 6
    shop.publish(SPRING)  # 7
    names = [shop.workspace.prize_path_at("spring", generation).name for generation in range(2, 9)]
    assert names == ["spring@2.prizes"] * 3 + ["spring@5.prizes"] * 2 + ["spring@7.prizes"] * 2
    for campaign, generation in (("spring", 1), ("spring", 0), ("sprin", 9), ("spring-2", 3)):
        with pytest.raises(
            TableFormatError, match=f"no prize table of campaign '{campaign}' at generation {generation}"
        ):
            shop.workspace.prize_path_at(campaign, generation)


# ---- taking over ----


def test_a_program_takes_over_what_is_published_when_it_is_told(shop: Shop) -> None:
    with shop.program() as program:
        code = shop.code(0)
        shop.assign(0, 1, FROZEN)
        assert program.decide(code).status == Status.VALID
        assert program.refresh() is True
        assert program.decide(code).status == Status.FROZEN
        assert program.decide(code).generation == 4
        engine = program.engine
        assert program.refresh() is False
        assert program.engine is engine


def test_an_edited_product_file_is_taken_over(shop: Shop) -> None:
    with shop.program() as program:
        path = shop.workspace.products_path
        path.write_text(replaced(path.read_text(), "可乐", "可口"))
        assert program.decide(shop.code(0)).product.title == "可乐"
        assert program.refresh() is True
        assert program.decide(shop.code(0)).product.title == "可口"
        path.unlink()
        assert program.refresh() is True
        assert program.decide(shop.code(0)).product == COLA.__class__(GTIN, "")
        assert program.refresh() is False


def break_manifest(shop: Shop) -> None:
    tamper(shop.workspace.manifest_path, shop.workspace.manifest_path.read_bytes()[:-5])


def break_products(shop: Shop) -> None:
    shop.workspace.products_path.write_text("[[products]]\ngtin = 7\n")


def break_scenes(shop: Shop) -> None:
    shop.assign(0, 1, FROZEN)
    tamper(shop.folder / "scenes" / "cola@4.scenes", b"")


def change_secret(shop: Shop) -> None:
    other = Keyring([(SLOT, bytes(32), "active")], bytes(32), bytes(32))
    Shop(shop.workspace, other).publish(SPRING)


@pytest.mark.parametrize("damage", [break_manifest, break_products, break_scenes, change_secret])
def test_what_cannot_be_used_is_not_taken_over(shop: Shop, damage: Callable[[Shop], None]) -> None:
    with shop.program() as program:
        engine, code = program.engine, shop.code(5)
        damage(shop)
        for _ in range(2):
            with pytest.raises((TableFormatError, SettingsError)):
                program.refresh()
            assert program.engine is engine
            assert program.decide(code).status == Status.VALID


def test_a_campaign_of_another_draw_secret_is_refused(shop: Shop) -> None:
    """Draws under another secret would be other draws: a code that has been told "no prize" could win."""
    other = Shop(shop.workspace, Keyring([(SLOT, bytes(32), "active")], bytes(32), bytes(32)))
    with pytest.raises(TableFormatError, match=r"published for another draw secret than keys.toml has"):
        other.program()


def test_readers_see_one_generation_throughout(shop: Shop) -> None:
    """Goal: while tables are swapped, each decision is of one generation, in its state and its number alike.

    Method: the even generations freeze every code, the odd ones free it; readers look for a mixture.
    """
    program = shop.program()
    codes = shop.codes(0, 50)
    rows = np.array(codes, "S20")
    mixtures: list[object] = []
    seen: set[int] = set()
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            engine = program.engine
            expected = Status.FROZEN if engine.snapshot.generation % 2 == 0 else Status.VALID
            many = engine.decide_many(rows, NOW_MS)
            if set(many.status.tolist()) != {expected} or len(many.offer_start) != 51:
                mixtures.append((engine.snapshot.generation, many.status.tolist()))
            decision = program.decide(codes[0])
            if (decision.status == Status.FROZEN) != (decision.generation % 2 == 0):
                mixtures.append(decision)
            seen.add(decision.generation)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for round_number in range(12):
            shop.assign(0, CODES, FROZEN if round_number % 2 == 0 else ACTIVE_AGAIN)
            assert program.refresh()
            # Each generation is up until a reader has met it, so that none is passed over.
            while program.snapshot.generation not in seen and all(thread.is_alive() for thread in threads):
                is_done.wait(0)
    finally:
        is_done.set()
        for thread in threads:
            thread.join()
    assert mixtures == []
    assert seen >= set(range(4, 16))


def test_a_snapshot_in_use_outlives_its_files_and_its_tables(shop: Shop) -> None:
    engine = shop.engine
    codes = shop.codes(0, CODES)
    before = engine.decide_many(codes, NOW_MS)
    for batch in engine.snapshot.batches:
        batch.scenes.close()
    for table in engine.snapshot.prizes.values():
        table.close()
    shutil.rmtree(shop.folder)
    after = engine.decide_many(codes, NOW_MS)
    assert after.prize.tolist() == before.prize.tolist()
    assert engine.decide(codes[0], NOW_MS + HOUR_MS).status == Status.VALID
    assert CASH in after.prize


def test_a_deleted_batch_is_gone_from_the_next_snapshot_on(shop: Shop) -> None:
    program: Program = shop.program()
    code = shop.code(0)
    delete_batch(shop.workspace, "cola")
    assert program.decide(code).status == Status.VALID
    assert program.refresh()
    assert program.decide(code).status == Status.UNKNOWN
