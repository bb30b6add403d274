"""The workspace: nothing handed out is ever handed out again, to however many commands at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import COLA, SLOT, SPRING, Shop, replaced, run_python
from scanengine.errors import AssignmentError, TableFormatError, WorkspaceError
from scanengine.model import SERIALS_PER_SLOT, Product, Status
from scanengine.program.publishing import create_batch, delete_batch
from scanengine.tables import container
from scanengine.tables.workspace import Manifest, Workspace, check_label


def leftovers(shop: Shop) -> list[str]:
    """Return files that are no part of the current set and no older generation's, and those left aside."""
    manifest = shop.workspace.read_manifest()
    found = []
    for kind, named in (("codes", manifest.codes), ("scenes", manifest.scenes), ("prizes", manifest.prizes)):
        for path in (shop.folder / kind).iterdir():
            number = path.stem.rpartition("@")[2]
            if path.name not in named.values() and not (number.isdecimal() and int(number) < manifest.generation):
                found.append(path.name)
    return found + [path.name for path in shop.folder.glob(".*.new")]


# ---- serials ----


def test_batches_follow_one_another(empty_shop: Shop) -> None:
    tables = [empty_shop.make(label, count) for label, count in (("a", 10), ("b", 1), ("c", 5))]
    assert [(table.slot, table.serial_start, table.count) for table in tables] == [
        (SLOT, 0, 10), (SLOT, 10, 1), (SLOT, 11, 5),
    ]  # fmt: skip
    assert empty_shop.handed_out() == {"1": 16}
    assert empty_shop.workspace.read_manifest().generation == 3


def test_neither_serials_nor_label_of_a_deleted_batch_are_used_again(empty_shop: Shop) -> None:
    first = empty_shop.make("a")
    code = empty_shop.code(3, "a")
    delete_batch(empty_shop.workspace, "a")
    assert empty_shop.engine.decide(code, 0).status == Status.UNKNOWN
    with pytest.raises(AssignmentError, match="batch 'a' exists, or did once: labels are not used again"):
        empty_shop.make("a")
    second = empty_shop.make("b")
    assert second.serial_start == first.count
    assert empty_shop.engine.decide(code, 0).status == Status.UNKNOWN
    with pytest.raises(AssignmentError, match="no batch 'a': there are b"):
        delete_batch(empty_shop.workspace, "a")


def test_a_label_is_used_once(empty_shop: Shop) -> None:
    empty_shop.make("a")
    with pytest.raises(AssignmentError, match="batch 'a' exists"):
        empty_shop.make("a")
    assert empty_shop.handed_out() == {"1": 10}


@pytest.mark.parametrize("label", ["", "a b", "../a", "a/b", ".a", "-a", "a@1", "a" * 65, "码", "a\n", "*"])
def test_a_label_can_be_a_file_name(empty_shop: Shop, label: str) -> None:
    with pytest.raises(AssignmentError, match="expected 1 to 64 of A-Z"):
        empty_shop.make(label)
    assert empty_shop.workspace.read_manifest() == Manifest()
    assert check_label("Cola.2026_05-A") == "Cola.2026_05-A"


def test_a_slot_is_filled_to_its_last_serial_and_no_further(empty_shop: Shop) -> None:
    empty_shop.make("most", SERIALS_PER_SLOT - 3)
    for count in (4, SERIALS_PER_SLOT, 0, -1):
        with pytest.raises(AssignmentError, match=f"slot 1 has 3 serials left, {count} asked for"):
            empty_shop.make("more", count)
    last = empty_shop.make("last", 3)
    assert last.serial_start + last.count == SERIALS_PER_SLOT
    assert empty_shop.engine.decide(empty_shop.code(2, "last"), 0).item == (SLOT << 40) + SERIALS_PER_SLOT - 1
    with pytest.raises(AssignmentError, match="slot 1 has 0 serials left, 1 asked for"):
        empty_shop.make("none", 1)


def test_a_hundred_million_codes_cost_no_space_each(empty_shop: Shop) -> None:
    count = 100_000_000
    empty_shop.make("small", 7)
    empty_shop.make("cola", count)
    engine = empty_shop.engine
    for offset in (0, 1, count // 2, count - 1):
        decision = engine.decide(empty_shop.code(offset), 0)
        assert (decision.status, decision.batch, decision.item) == (Status.INACTIVE, "cola", (SLOT << 40) + 7 + offset)
    beyond = empty_shop.keyring.code_keys.encode(SLOT, 7 + count)
    assert engine.decide(beyond, 0).status == Status.UNKNOWN
    sizes = [path.stat().st_size for kind in ("codes", "scenes") for path in (empty_shop.folder / kind).iterdir()]
    assert len(sizes) == 4
    assert max(sizes) < 4_096


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_text("{}\n")]
)
def test_a_damaged_register_is_refused_and_never_begun_anew(empty_shop: Shop, damage: Callable[[Path], object]) -> None:
    empty_shop.make("a")
    path = empty_shop.folder / "allocations"
    kept = path.read_bytes()
    damage(path)
    for label in ("b", "c"):
        with pytest.raises(TableFormatError, match=str(path)):
            empty_shop.make(label)
    assert not path.exists() or path.read_bytes() != kept
    path.write_bytes(kept)
    assert empty_shop.make("b").serial_start == 10


def test_a_missing_register_says_what_is_at_stake(empty_shop: Shop) -> None:
    (empty_shop.folder / "allocations").unlink()
    with pytest.raises(TableFormatError, match="restore it from a backup, or serials that are printed could be handed"):
        empty_shop.make("a")


# ---- several at once ----

BATCHES = """
import sys
from pathlib import Path
from scanengine.keys import load_keyring
from scanengine.program.publishing import create_batch
from scanengine.tables.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
keyring = load_keyring(workspace.keys_path)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    table = create_batch(workspace, keyring, f"{sys.argv[2]}-{number}", 3 + number)
    print(table.serial_start, table.count, flush=True)
"""
PUBLISHES = """
import sys
from pathlib import Path
from scanengine.keys import load_keyring
from scanengine.program.publishing import publish_campaign
from scanengine.tables.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
keyring = load_keyring(workspace.keys_path)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    print(publish_campaign(workspace, keyring, Path(sys.argv[2])).generation, flush=True)
"""


def at_once(source: str, folder: Path, names: list[str], times: int) -> list[list[int]]:
    """Run one process for each name, let them all go at the same moment, and return the numbers they printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", source, str(folder)]
    processes = [
        subprocess.Popen(
            [*command, name, str(times)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    lines = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        lines += [[int(number) for number in line.split()] for line in output.splitlines()]
    return lines


def test_processes_that_make_batches_at_once_share_no_serial(empty_shop: Shop) -> None:
    made = at_once(BATCHES, empty_shop.folder, ["a", "b", "c"], 12)
    assert len(made) == 36
    serials = sorted(start + offset for start, count in made for offset in range(count))
    assert serials == list(range(len(serials)))
    manifest = empty_shop.workspace.read_manifest()
    assert (len(manifest.codes), manifest.generation) == (36, 36)
    assert len(empty_shop.snapshot.batches) == 36
    assert leftovers(empty_shop) == []


def test_processes_that_publish_at_once_take_one_generation_each(shop: Shop) -> None:
    for name in ("one", "two"):
        (shop.workspace.campaigns_folder / f"{name}.toml").write_text(replaced(SPRING, '"spring"', f'"{name}"'))
    paths = [str(shop.workspace.campaigns_folder / f"{name}.toml") for name in ("one", "two")]
    published = at_once(PUBLISHES, shop.folder, paths, 10)
    assert sorted(generation for (generation,) in published) == list(range(4, 24))
    snapshot = shop.snapshot
    assert snapshot.generation == 23
    assert sorted(table.generation for table in snapshot.prizes.values())[-1] == 23
    assert set(snapshot.prizes) == {"spring", "one", "two"}


# ---- folders ----


def test_a_folder_without_settings_is_no_workspace(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            WorkspaceError, match=f"{folder}: not a workspace, scanengine.toml is missing; `scanengine init"
        ):
            Workspace(folder)


def test_a_missing_manifest_is_named(empty_shop: Shop) -> None:
    empty_shop.workspace.manifest_path.unlink()
    with pytest.raises(TableFormatError, match="manifest: cannot be read: No such file"):
        empty_shop.workspace.read_manifest()


def test_the_lock_is_given_back_after_an_error_and_on_exit(empty_shop: Shop) -> None:
    with pytest.raises(ZeroDivisionError), empty_shop.workspace.locked():
        raise ZeroDivisionError
    source = (
        "import os, sys; from pathlib import Path; from scanengine.tables.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).locked(): os._exit(0)"
    )
    run_python(source, empty_shop.folder)
    with empty_shop.workspace.locked():
        pass


def test_every_publication_is_synced(empty_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Method: two tables, the register and the manifest each take a sync of the file and one of the folder."""
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(container.os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    empty_shop.make("a")
    assert len(synced) == 8


def test_a_product_that_does_not_fit_hands_out_nothing(empty_shop: Shop) -> None:
    create_batch(empty_shop.workspace, empty_shop.keyring, "a", 10, product=COLA)
    with pytest.raises(AssignmentError, match="is '可乐' already, not 'Other'"):
        create_batch(empty_shop.workspace, empty_shop.keyring, "b", 10, product=Product(COLA.gtin, "Other"))
    assert empty_shop.handed_out() == {"1": 10}
