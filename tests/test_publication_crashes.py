"""Publications cut short: a crash or a restore leaves the old set or the new one, and gives no number twice."""

from __future__ import annotations

import os

import pytest

from helpers import ACTIVE, SPRING, Shop, replaced, run_python
from scanengine.program.publishing import SceneChange, delete_batch
from scanengine.tables.codes import CodeTable
from scanengine.tables.prizes import PrizeTable
from scanengine.tables.workspace import Workspace


def serials_of(tables: list[CodeTable]) -> list[int]:
    return [table.serial_start + offset for table in tables for offset in range(table.count)]


CRASHES = """
import os, shutil, sys
from pathlib import Path
from scanengine.keys import load_keyring
from scanengine.program.publishing import create_batch
from scanengine.tables.workspace import Workspace
def die_before(step):
    steps = 0
    def counting(function):
        def wrapper(*arguments, **options):
            nonlocal steps
            if steps == step:
                os._exit(9)
            steps += 1
            return function(*arguments, **options)
        return wrapper
    for name in ("fsync", "replace", "link", "unlink"):
        setattr(os, name, counting(getattr(os, name)))
step, is_crashed = 0, True
while is_crashed:
    folder = Path(sys.argv[1]).with_name(f"crashed-{step}")
    shutil.copytree(sys.argv[1], folder)
    child = os.fork()
    if child == 0:
        workspace = Workspace(folder)
        keyring = load_keyring(workspace.keys_path)
        die_before(step)
        create_batch(workspace, keyring, "a", 10)
        os._exit(0)
    is_crashed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    step += 1
print(step)
"""


def test_a_crash_at_any_step_loses_at_most_some_serials(empty_shop: Shop) -> None:
    """Goal: whenever the power goes, the next command works and no serial is given to two batches.

    Method: let a process die before each sync, link, rename and removal, in a folder each; then make batches again.
    """
    steps = int(run_python(CRASHES, empty_shop.folder))
    assert steps > 10
    outcomes = set()
    for step in range(steps):
        shop = Shop(Workspace(empty_shop.folder.with_name(f"crashed-{step}")), empty_shop.keyring)
        handed_out = shop.handed_out().get("1", 0)
        manifest = shop.workspace.read_manifest()
        outcomes.add((handed_out, manifest.generation))
        assert set(manifest.codes) == set(manifest.scenes)
        tables = [CodeTable.read(shop.workspace.table_path("codes", name)) for name in manifest.codes.values()]
        assert set(serials_of(tables)) <= set(range(handed_out))
        if "a" not in manifest.codes:
            # What was asked for and did not come about is asked for again.
            tables.append(shop.make("a"))
            assert tables[0].serial_start == handed_out
        made = shop.make("b")
        serials = serials_of([*tables, made])
        assert len(set(serials)) == len(serials)
        assert {batch.label for batch in shop.snapshot.batches} == {"a", "b"}
    assert outcomes == {(0, 0), (10, 0), (10, 1)}


@pytest.mark.parametrize("publish", ["batch", "scenes", "campaign", "delete"])
def test_a_publication_cut_short_leaves_the_old_set(shop: Shop, monkeypatch: pytest.MonkeyPatch, publish: str) -> None:
    def attempt() -> object:
        if publish == "batch":
            return shop.make("more")
        if publish == "scenes":
            return shop.assign(0, 5, SceneChange(lot="L2"))
        if publish == "campaign":
            return shop.publish(replaced(SPRING, "88 yuan", "eighty-eight yuan"))
        return delete_batch(shop.workspace, "cola")

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = shop.workspace.read_manifest()
    monkeypatch.setattr(Workspace, "publish_manifest", failing)
    with pytest.raises(OSError, match="No space left"):
        attempt()
    monkeypatch.undo()
    assert shop.workspace.read_manifest() == before
    assert shop.snapshot.generation == before.generation
    attempt()
    after = shop.snapshot
    assert after.generation > before.generation
    # What is current now is what was asked for, whatever the attempt before has left behind.
    assert (after.batch("more") is not None) == (publish == "batch")
    assert (after.batch("cola") is None) == (publish == "delete")
    assert ("eighty-eight yuan" in str(after.prizes["spring"].metadata)) == (publish == "campaign")
    if publish == "scenes":
        assert {profile.lot for profile in after.batch("cola").scenes.profiles} == {"L1", "L2"}


def test_a_prize_table_left_by_a_crash_is_never_taken_for_an_old_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a claim is always explained by the table it was decided on.

    Method: cut a publication short, go on with other publications, and ask at each generation for the table then.
    """

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Workspace, "publish_manifest", failing)
    with pytest.raises(OSError, match="No space left"):
        shop.publish(replaced(SPRING, "88 yuan", "never published"))
    monkeypatch.undo()
    assert (shop.folder / "prizes" / "spring@4.prizes").exists()
    titles = {3: "88 yuan"}
    for text in (None, None, "Eighty-eight", None):
        if text is None:
            generation = shop.assign(0, 5, ACTIVE).generation
        else:
            generation = shop.publish(replaced(SPRING, "88 yuan", text)).generation
        titles[generation] = text or list(titles.values())[-1]
    assert len(titles) == 5
    for generation, title in titles.items():
        prize = PrizeTable(shop.workspace.prize_path_at("spring", generation)).prize(0)
        assert prize is not None
        assert prize.title == title


def test_a_manifest_put_back_from_a_backup_gives_no_number_twice(shop: Shop) -> None:
    """Claims made before the restore keep their table, and those made after it get one of their own."""
    kept = shop.workspace.manifest_path.read_bytes()
    newer = shop.publish(replaced(SPRING, "88 yuan", "newer")).generation
    shop.workspace.manifest_path.write_bytes(kept)
    after = shop.assign(0, 5, ACTIVE).generation
    assert after > newer
    later = shop.publish(replaced(SPRING, "88 yuan", "later")).generation
    titles = [
        PrizeTable(shop.workspace.prize_path_at("spring", generation)).prize(0).title
        for generation in (3, newer, after, later)
    ]
    assert titles == ["88 yuan", "newer", "88 yuan", "later"]


def test_a_register_put_back_from_a_backup_hands_out_nothing_twice(empty_shop: Shop) -> None:
    path = empty_shop.folder / "allocations"
    kept = path.read_bytes()
    empty_shop.make("a")
    delete_batch(empty_shop.workspace, "a")
    path.write_bytes(kept)
    assert empty_shop.make("b").serial_start == 10


def test_a_file_set_aside_by_a_crash_does_not_disturb(empty_shop: Shop) -> None:
    for folder in (empty_shop.folder, empty_shop.folder / "codes", empty_shop.folder / "prizes"):
        (folder / f".manifest.{os.getpid()}.new").write_bytes(b"half a")
    empty_shop.make("a")
    assert empty_shop.snapshot.generation == 1
