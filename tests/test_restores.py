"""A workspace of which a part was lost, exchanged, or restored from an older backup."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import scanengine
from helpers import NOW_MS, SPRING, Shop, replaced
from scanengine.errors import LedgerFormatError
from scanengine.model import SegmentState
from scanengine.program.publishing import SceneChange, create_batch, delete_batch
from scanengine.program.scans import Scan
from scanengine.tables.codes import CodeTable
from scanengine.tables.container import publish_bytes


def scans_of(codes: list[str], user: str = "ann") -> list[Scan]:
    return [Scan.of(code, user, f"visit-{index}") for index, code in enumerate(codes)]


def test_one_lost_prize_table_makes_one_claim_pending_not_all(shop: Shop) -> None:
    (winner,) = shop.drawing(0)
    old = shop.snapshot.prizes["spring"].path
    others = shop.drawing(-1, 2)
    with scanengine.open(shop.folder) as program:
        told = program.claim(winner, user="ann", now=NOW_MS)
    shop.publish(replaced(SPRING, "88 yuan", "eighty-eight yuan"))
    kept = old.read_bytes()
    old.unlink()
    with scanengine.open(shop.folder) as program:
        answers = program.claim_many(scans_of([others[0], winner, others[1]]), now=NOW_MS)
        assert [answer.claim and answer.claim.status for answer in answers] == ["no_prize", "pending", "no_prize"]
        publish_bytes(old, kept, replace=False)
        again = program.claim(winner, user="ann", now=NOW_MS)
        assert again.claim is not None
        assert told.claim is not None
        assert (again.claim.replayed, again.claim.prize) == (True, told.claim.prize)


def test_tables_restored_without_the_ledger_go_on_above_its_generation(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.folder, tmp_path / "backup")
    for _ in range(4):
        shop.assign(0, 5, SceneChange(state=SegmentState.ACTIVE))
    with scanengine.open(shop.folder) as program:
        assert program.claim(shop.code(0), user="ann", now=NOW_MS).is_pending is False
        newest = program.ledger.generation
    restored = tmp_path / "backup"
    for name in ("ledger.sqlite", "ledger.sqlite.lock"):
        shutil.copy(shop.folder / name, restored / name)
    other = type(shop)(type(shop.workspace)(restored), shop.keyring)
    with scanengine.open(restored) as program:
        assert program.claim(shop.code(1), user="ann", now=NOW_MS).is_pending
    assert other.assign(0, 1, SceneChange(lot="L1")).generation == newest + 1
    with scanengine.open(restored) as program:
        assert not program.claim(shop.code(1), user="ann", now=NOW_MS).is_pending


def test_a_restored_manifest_gives_no_prize_number_a_second_time(shop: Shop) -> None:
    """Counters are kept by number: a new prize must not inherit what an older one has given."""
    before = shop.workspace.manifest_path.read_bytes()
    third = '[[prizes]]\nid = "aaa"\nkind = "coupon"\ntitle = "A"\n'
    shop.publish(SPRING.replace("[[rules]]", third + "[[rules]]", 1))
    publish_bytes(shop.workspace.manifest_path, before, replace=True, mode=0o644)
    shop.publish(SPRING.replace("[[rules]]", third.replace("aaa", "bbb") + "[[rules]]", 1))
    numbers = shop.snapshot.prizes["spring"].metadata.prize_numbers
    assert numbers["aaa"] != numbers["bbb"]


def test_a_lost_ledger_is_not_begun_anew(shop: Shop) -> None:
    code = shop.code(0)
    with scanengine.open(shop.folder) as program:
        program.claim(code, user="ann", now=NOW_MS)
    path = shop.workspace.ledger_path
    kept = path.read_bytes()
    for lose in (path.unlink, lambda: path.write_bytes(b"")):
        lose()
        with pytest.raises(LedgerFormatError, match="was here and is missing or empty now: restore it"):
            scanengine.open(shop.folder)
        path.write_bytes(kept)
    with scanengine.open(shop.folder) as program:
        answer = program.claim(code, user="thief", now=NOW_MS)
        assert answer.claim is not None
        assert answer.claim.status == "taken"


def test_another_program_secret_is_refused(shop: Shop) -> None:
    """Claim ids are payout numbers: made with another secret, every one would be another."""
    with scanengine.open(shop.folder) as program:
        program.claim(shop.code(0), user="ann", now=NOW_MS)
    path = shop.workspace.keys_path
    text = path.read_text()
    path.write_text(re.sub(r'(\[program\]\nsecret = ")[0-9a-f]{64}', r"\g<1>" + "ab" * 32, text))
    for ledger in ("own", "read"):
        with pytest.raises(LedgerFormatError, match="or the program's id or secret, is another"):
            scanengine.open(shop.folder, ledger=ledger)
    path.write_text(text)
    scanengine.open(shop.folder).close()


def test_a_label_that_only_a_crash_used_is_free_and_a_deleted_one_is_not(shop: Shop) -> None:
    generation = shop.workspace.next_generation()
    left = shop.workspace.table_name("codes", "fanta", generation)
    CodeTable("fanta", 1, 5_000, 10).write(shop.workspace.table_path("codes", left))
    shop.make("another")
    assert shop.snapshot.generation == generation + 1
    assert create_batch(shop.workspace, shop.keyring, "fanta", 10).serial_start >= 5_010
    delete_batch(shop.workspace, "fanta")
    with pytest.raises(scanengine.ScanEngineError, match="exists, or did once"):
        create_batch(shop.workspace, shop.keyring, "fanta", 10)


def test_a_leftover_prize_table_is_renumbered_once(shop: Shop) -> None:
    current = shop.snapshot.prizes["spring"].path
    left = current.with_name(f"spring@{shop.snapshot.generation + 1}.prizes")
    shutil.copy(current, left)
    for _ in range(4):
        shop.assign(0, 5, SceneChange(state=SegmentState.ACTIVE))
    assert len(list(current.parent.glob("spring@*.prizes"))) == 3
    assert shop.workspace.prize_path_at("spring", shop.snapshot.generation).samefile(current)


def test_no_repr_shows_a_code_or_a_person(shop: Shop) -> None:
    code = shop.code(0)
    with scanengine.open(shop.folder) as program:
        shown = [program.decide(code), program.verify(code), program.claim(code, user="wx:ann")]
    for value in [*shown, *scans_of([code], "wx:ann")]:
        assert code not in repr(value)
        assert "wx:ann" not in repr(value)
