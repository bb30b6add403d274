"""What operators publish: workspaces, products, batches, scenes, campaigns, exports; refusals leave no trace."""

from __future__ import annotations

import csv
import io
import json
import stat
import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ACTIVE, CASH, CODES, COLA, GTIN, NOW_MS, SLOT, SPRING, Shop, a_code_with, ranges, replaced
from scanengine.errors import AssignmentError, CampaignError, KeyringError, SettingsError, WorkspaceError
from scanengine.keys import Keyring, load_keyring
from scanengine.model import CODE_SYMBOLS, Product, Scene, SegmentState, Status
from scanengine.program.exporting import ExportFormat, export_codes, write_export
from scanengine.program.publishing import (
    SceneChange,
    assign_scenes,
    campaign_path,
    create_batch,
    create_workspace,
    offset_of,
    publish_campaign,
    range_between,
    ranges_of_codes,
)
from scanengine.program.settings import load_settings
from scanengine.tables.products import add_product, load_products
from scanengine.tables.scenes import ALWAYS_MS
from scanengine.tables.snapshot import Batch, load_snapshot
from scanengine.tables.workspace import Workspace

BASE_URL = "https://example.com"


@pytest.fixture
def batch(shop: Shop) -> Batch:
    found = shop.snapshot.batch("cola")
    assert found is not None
    return found


def fingerprint(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# ---- workspaces and settings ----


def test_a_new_workspace_is_whole_and_its_keys_are_private(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "new" / "shop")
    assert stat.S_IMODE(workspace.keys_path.stat().st_mode) == 0o600
    keyring = load_keyring(workspace.keys_path)
    settings = load_settings(workspace.settings_path)
    assert len(settings.program.id) == 16
    assert settings.zone.key == "Asia/Shanghai"
    assert (settings.authenticity.suspect_after, settings.ledger.timeout_s, settings.ledger.scan_events) == (
        10,
        5,
        False,
    )
    assert load_snapshot(workspace).generation == 0
    assert publish_campaign(workspace, keyring, campaign_path(workspace, "spring")).generation == 1
    assert create_workspace(tmp_path / "other").keys_path.read_bytes() != workspace.keys_path.read_bytes()


def test_a_workspace_is_never_made_over_another(tmp_path: Path) -> None:
    create_workspace(tmp_path / "shop")
    before = fingerprint(tmp_path)
    with pytest.raises(WorkspaceError, match="there is a workspace already; its keys are not made anew"):
        create_workspace(tmp_path / "shop")
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("kept", range(5))
def test_an_interrupted_beginning_is_completed_and_keeps_its_keys(tmp_path: Path, kept: int) -> None:
    folder = tmp_path / "shop"
    create_workspace(folder)
    names = ("manifest", "allocations", "keys.toml", "campaigns/spring.toml", "scanengine.toml")
    made = [folder / name for name in names]
    keys = made[2].read_text()
    for path in made[kept:]:
        path.unlink()
    create_workspace(folder)
    assert (made[2].read_text() == keys) == (kept > 2)
    load_keyring(made[2])
    assert load_snapshot(Workspace(folder)).generation == 0


def test_lost_settings_are_not_made_anew_over_tables(shop: Shop) -> None:
    shop.workspace.settings_path.unlink()
    before = fingerprint(shop.folder)
    with pytest.raises(WorkspaceError, match=r"is in use, but scanengine.toml is missing: restore it"):
        create_workspace(shop.folder)
    assert fingerprint(shop.folder) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[program]", "[programme]", "unknown field `programme`"),
        ("Asia/Shanghai", "Asia/Nowhere", "No time zone found with key Asia/Nowhere"),
        ("Asia/Shanghai", "../etc/passwd", "keys must"),
        ("https://example.com", "ftp://example.com", "Expected `str` matching regex"),
        ("https://example.com", "https://example.com/?a=b", "Expected `str` matching regex"),
        ("# suspect_after = 10", "suspect_after = 0", "Expected `int` >= 1"),
        ("# timeout_s = 5.0", "timeout_s = 0", "Expected `float` > 0.0"),
        ("# timeout_s = 5.0", "timeout_s = 61", "Expected `float` <= 60.0"),
        ("# scan_events = false", "scan_event = false", "unknown field `scan_event`"),
        ("[ledger]", "[ledger", "Expected ']'"),
        ("[ledger]", "id = 7\n[ledger]", "unknown field `id`"),
        ("[program]", "\ud800", "not UTF-8"),
    ],
)
def test_a_wrong_setting_is_named(empty_shop: Shop, old: str, new: str, message: str) -> None:
    path = empty_shop.workspace.settings_path
    text = replaced(path.read_text(), old, new)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value) or message == "not UTF-8"


def test_missing_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "scanengine.toml")


# ---- products ----


@given(
    title=st.text(st.characters(exclude_categories=["Cs"])),
    more=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=2),
)
def test_any_title_is_written_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, title: str, more: list[str]
) -> None:
    path = tmp_path_factory.mktemp("products") / "products.toml"
    products = [Product(GTIN, title, *more), Product("96385074", "second")]
    for product in [*products, *products]:
        add_product(path, product)
    assert load_products(path) == {product.gtin: product for product in products}
    assert len(tomllib.loads(path.read_text("utf-8"))["products"]) == 2


def test_an_edited_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "products.toml"
    path.write_text('# Ours.\n[[products]]\ngtin = "96385074"\ntitle = "Tea"   # green\n')
    add_product(path, COLA)
    assert path.read_text("utf-8").startswith('# Ours.\n[[products]]\ngtin = "96385074"\ntitle = "Tea"   # green\n\n[[')
    assert load_products(path) == {"96385074": Product("96385074", "Tea"), GTIN: COLA}


@pytest.mark.parametrize(
    ("content", "product", "message"),
    [
        (
            f'products = [{{ gtin = "{GTIN}", title = "x" }}]\n',
            Product("96385074", "Tea"),
            "cannot be added, add it by hand",
        ),
        ("", Product(GTIN, "\ud800"), "cannot be added, add it by hand"),
        (f'[[products]]\ngtin = "{GTIN}"\ntitle = "Tea"\n', COLA, "is 'Tea' already, not '可乐': edit the file"),
        ("", Product("6901234567890", "x"), "product: the check digit of '6901234567890' should be 2"),
        ("", Product("abc", "x"), "product: expected a GTIN of 8, 12, 13 or 14 digits"),
    ],
)
def test_a_product_that_cannot_be_added_leaves_the_file(
    tmp_path: Path, content: str, product: Product, message: str
) -> None:
    path = tmp_path / "products.toml"
    path.write_text(content)
    with pytest.raises(AssignmentError, match=message):
        add_product(path, product)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[products]\n", "Expected"),
        (b"\xff\n", "utf-8"),
        (b"products = 7\n", "Expected `array`, got `int`"),
        (b'[[products]]\ngtin = "96385074"\n', "missing required field `title`"),
        (b'[[products]]\ngtin = "96385075"\ntitle = "Tea"\n', r"products\[0\]: product: the check digit"),
        (b'[[products]]\ngtin = "96385074"\ntitle = "Tea"\n' * 2, r"products\[1\]: GTIN 96385074 is given twice"),
        (b"n = " + b"9" * 5_000, "4300 digits"),
    ],
)
def test_a_wrong_product_file_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "products.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        load_products(path)
    assert str(caught.value).startswith(f"{path}: ")


# ---- scenes ----


def test_scenes_are_set_from_one_code_to_another(shop: Shop, batch: Batch) -> None:
    assert range_between(shop.keyring, batch, shop.code(3), shop.code(9)) == (3, 10)
    assert range_between(shop.keyring, batch, f"{BASE_URL}/s/{shop.code(3).lower()}", shop.code(3)) == (3, 4)
    with pytest.raises(AssignmentError, match="the last code has offset 3, before the first one's 9: exchange them"):
        range_between(shop.keyring, batch, shop.code(9), shop.code(3))


def test_scenes_are_set_by_a_file_of_codes(shop: Shop, batch: Batch) -> None:
    lines = [shop.code(5), "", f" {shop.code(2).lower()}\n", f"{BASE_URL}/S/{shop.code(5)}", "   "]
    found = ranges_of_codes(shop.keyring, batch, lines)
    assert found.tolist() == [[5, 6], [2, 3], [5, 6]]
    assign_scenes(shop.workspace, "cola", found, SceneChange(state=SegmentState.FROZEN))
    statuses = shop.engine.decide_many(shop.codes(0, CODES), NOW_MS).status
    assert np.flatnonzero(statuses == Status.FROZEN).tolist() == [2, 5]


def test_a_wrong_line_is_named_and_its_code_is_not_shown(shop: Shop, batch: Batch) -> None:
    create_batch(shop.workspace, shop.keyring, "beer", 5)
    good, other = shop.code(5), shop.code(0, "beer")
    mistyped = a_code_with(good, 3, "Z" if good[3] != "Z" else "Y")
    forged = Keyring([(SLOT, bytes(32), "active")], bytes(32), bytes(32)).code_keys.encode(SLOT, 5)
    unknown_key = Keyring([(9, bytes(32), "active")], bytes(32), bytes(32)).code_keys.encode(9, 5)
    for bad, word in (
        ("not-a-code", "malformed"), (mistyped, "mistyped"), (forged, "forged"), (unknown_key, "unknown_key"),
        (other, "not in batch 'cola'"),
    ):  # fmt: skip
        with pytest.raises(AssignmentError, match=f"^line 3: the code is .*{word}") as caught:
            ranges_of_codes(shop.keyring, batch, [good, "", bad, "also bad"])
        assert bad not in str(caught.value)
        with pytest.raises(AssignmentError):
            offset_of(shop.keyring, batch, bad)
    with pytest.raises(AssignmentError, match="no code was named"):
        assign_scenes(shop.workspace, "cola", ranges_of_codes(shop.keyring, batch, ["", " "]), ACTIVE)


def test_a_change_sets_takes_away_or_leaves(shop: Shop) -> None:
    shop.assign(0, 10, SceneChange(lot="", market="华南", link="https://example.com/{code}", campaign=""))
    snapshot = shop.assign(5, 15, SceneChange(scenes=Scene.TRACE, active_from_ms=0, active_until_ms=NOW_MS))
    batch = snapshot.batch("cola")
    assert batch is not None
    profiles = [batch.scenes.profiles[batch.scenes.segment_map.profile_at(offset)] for offset in (0, 5, 10, 15)]
    assert [profile.lot for profile in profiles] == [None, None, "L1", "L1"]
    assert [profile.market for profile in profiles] == ["华南", "华南", None, None]
    assert [profile.campaign for profile in profiles] == [None, None, "spring", "spring"]
    both = Scene.AUTHENTICITY | Scene.MARKETING
    assert [profile.scenes for profile in profiles] == [both, Scene.TRACE, Scene.TRACE, both]
    assert [profile.active_until_ms for profile in profiles] == [ALWAYS_MS[1], NOW_MS, NOW_MS, ALWAYS_MS[1]]
    assert {profile.state for profile in profiles} == {SegmentState.ACTIVE}


@pytest.mark.parametrize(
    ("label", "pairs", "change", "message"),
    [
        ("pepsi", [(0, 5)], ACTIVE, "no batch 'pepsi': there are cola"),
        ("cola", [(0, CODES + 1)], ACTIVE, "range 0:1001 is empty or outside the batch"),
        ("cola", [(5, 5)], ACTIVE, "range 5:5 is empty"),
        ("cola", [(0, 5)], SceneChange(product="96385074"), "product 96385074 has no line in"),
        ("cola", [(0, 5)], SceneChange(product="96385075"), "the check digit of '96385075' should be 4"),
        ("cola", [(0, 5)], SceneChange(active_from_ms=7, active_until_ms=7), "active-until must be after active-from"),
        ("cola", [(0, 5)], SceneChange(active_from_ms=0, active_until_ms=0), "active-until must be after active-from"),
        ("cola", [(0, 5)], SceneChange(active_until_ms=2**63), "out of range"),
        ("cola", [(0, 5)], SceneChange(active_from_ms=-(2**63)), "out of range"),
    ],
)
def test_a_wrong_assignment_leaves_no_trace(
    shop: Shop, label: str, pairs: list[tuple[int, int]], change: SceneChange, message: str
) -> None:
    before = fingerprint(shop.folder)
    with pytest.raises(AssignmentError, match=message):
        assign_scenes(shop.workspace, label, ranges(*pairs), change)
    assert fingerprint(shop.folder) == before


def test_a_window_stays_open_whatever_was_set_before(shop: Shop) -> None:
    """Each bound alone is right; with the one that was set earlier no moment would be left."""
    shop.assign(0, 5, SceneChange(active_from_ms=NOW_MS))
    before = fingerprint(shop.folder)
    with pytest.raises(AssignmentError, match="active-until must be after active-from"):
        shop.assign(4, 9, SceneChange(active_until_ms=NOW_MS))
    assert fingerprint(shop.folder) == before
    shop.assign(5, 9, SceneChange(active_until_ms=NOW_MS))


# ---- batches and campaigns ----


def test_a_batch_needs_a_slot_that_makes_codes(shop: Shop) -> None:
    with pytest.raises(KeyringError, match=r"slot 7 does not make codes: active slots are \[1\]"):
        create_batch(shop.workspace, shop.keyring, "beer", 5, slot=7)


def test_each_publication_of_a_campaign_is_a_generation(shop: Shop) -> None:
    first = shop.publish(SPRING)
    second = shop.publish(replaced(SPRING, "88 yuan", "eighty-eight"))
    assert (first.campaign, first.generation, second.generation) == ("spring", 4, 5)
    assert second.snapshot.prizes["spring"].generation == second.snapshot.generation == 5
    names = sorted(path.name for path in (shop.folder / "prizes").iterdir())
    assert names == ["spring@2.prizes", "spring@4.prizes", "spring@5.prizes"]


def test_numbers_of_prizes_stay_theirs_when_the_file_is_reordered(shop: Shop) -> None:
    parts = SPRING.split("[[prizes]]")
    rules = parts[2].index("[[rules]]")
    turned = f"{parts[0]}[[prizes]]{parts[2][:rules]}[[prizes]]{parts[1]}{parts[2][rules:]}"
    prize = shop.publish(turned).snapshot.prizes["spring"].prize(CASH)
    assert prize is not None
    assert prize.id == "cash-88"


def test_a_faulty_campaign_leaves_no_trace(shop: Shop) -> None:
    path = shop.workspace.campaigns_folder / "spring.toml"
    path.write_text(replaced(SPRING, "stock = 150", "stock = -1"))
    before = fingerprint(shop.folder)
    with pytest.raises(CampaignError, match="stock"):
        publish_campaign(shop.workspace, shop.keyring, path)
    path.write_bytes(b"\xff")
    with pytest.raises(CampaignError, match="cannot be read"):
        publish_campaign(shop.workspace, shop.keyring, path)
    path.write_text(replaced(SPRING, 'regions = ["44"]', 'batches = ["pepsi"]'))
    with pytest.raises(CampaignError, match="pepsi"):
        publish_campaign(shop.workspace, shop.keyring, path)
    assert {**fingerprint(shop.folder), str(path): before[str(path)]} == before


def test_a_campaign_is_found_by_path_or_by_id(shop: Shop) -> None:
    path = shop.workspace.campaigns_folder / "spring.toml"
    assert campaign_path(shop.workspace, "spring") == campaign_path(shop.workspace, str(path)) == path
    with pytest.raises(CampaignError, match=r"autumn: no such file, and no .*campaigns/autumn.toml either"):
        campaign_path(shop.workspace, "autumn")


def test_a_campaign_that_could_never_be_published_is_not_assigned(shop: Shop) -> None:
    before = fingerprint(shop.folder)
    for campaign in ("nope/../x", ".hidden", "x" * 65):
        with pytest.raises(AssignmentError, match="campaign: "):
            shop.assign(0, 1, SceneChange(campaign=campaign))
    assert fingerprint(shop.folder) == before
    assert shop.assign(0, 1, SceneChange(campaign="later")).unbound_campaigns() == {"later": ["cola"]}


# ---- exports ----


def exported(shop: Shop, batch: Batch, start: int, end: int, form: ExportFormat) -> str:
    pieces = list(export_codes(shop.keyring, batch.codes, start, end, form, BASE_URL))
    assert sum(count for count, _ in pieces) == end - start
    return b"".join(piece for _, piece in pieces).decode()


def test_each_format_gives_back_the_codes(shop: Shop, batch: Batch) -> None:
    codes = shop.codes(10, 300)
    rows = [
        {"offset": offset, "code": code, "url": f"HTTPS://EXAMPLE.COM/S/{code}"}
        for offset, code in enumerate(codes, 10)
    ]
    assert exported(shop, batch, 10, 300, "text") == "".join(f"{code}\n" for code in codes)
    table = csv.DictReader(io.StringIO(exported(shop, batch, 10, 300, "csv")))
    assert [{**row, "offset": int(row["offset"])} for row in table] == rows
    assert [json.loads(line) for line in exported(shop, batch, 10, 300, "ndjson").splitlines()] == rows


def test_an_export_in_pieces_has_no_seams(empty_shop: Shop) -> None:
    codes = create_batch(empty_shop.workspace, empty_shop.keyring, "large", 200_000)
    pieces = list(export_codes(empty_shop.keyring, codes, 1, 200_000, "text", BASE_URL))
    assert len(pieces) > 2
    lines = b"".join(piece for _, piece in pieces).decode().split()
    items = empty_shop.engine.decide_many(np.array(lines, f"S{CODE_SYMBOLS}"), 0).item
    assert np.array_equal(items, np.arange(codes.item_start + 1, codes.item_start + 200_000, dtype=np.uint64))


@pytest.mark.parametrize(("start", "end"), [(0, 0), (5, 4), (-1, 5), (0, CODES + 1)])
def test_an_export_stays_in_the_batch(shop: Shop, batch: Batch, start: int, end: int) -> None:
    with pytest.raises(AssignmentError, match=f"range {start}:{end} is empty or outside the batch"):
        list(export_codes(shop.keyring, batch.codes, start, end, "text", BASE_URL))


def test_an_export_needs_the_keys(shop: Shop, batch: Batch) -> None:
    for slots in ([], [(SLOT, bytes(32), "revoked")]):
        keyring = Keyring(slots, bytes(32), bytes(32))
        with pytest.raises(AssignmentError, match=r"slot 1 of batch 'cola' has no usable keys in keys.toml"):
            list(export_codes(keyring, batch.codes, 0, 5, "text", BASE_URL))


def test_an_export_is_private_whole_and_never_over_another(shop: Shop, batch: Batch, tmp_path: Path) -> None:
    path = tmp_path / "codes.txt"
    counts: list[int] = []
    write_export(path, export_codes(shop.keyring, batch.codes, 0, 9, "text", BASE_URL), counts.append)
    assert (sum(counts), len(path.read_text().split())) == (9, 9)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_export(path, iter([(1, b"x")]), counts.append)
    with pytest.raises(AssignmentError):
        write_export(tmp_path / "b", export_codes(shop.keyring, batch.codes, 9, 9, "csv", BASE_URL), counts.append)
    assert not (tmp_path / "b").exists()


def test_the_day_of_a_campaign_is_that_of_its_zone(shop: Shop) -> None:
    engine, code = shop.engine, shop.code(0)
    midnight = datetime.fromisoformat("2026-05-02T00:00:00+08:00")
    dates = [
        engine.decide(code, round((midnight + step).timestamp() * 1_000)).local_date
        for step in (timedelta(milliseconds=-1), timedelta(0), timedelta(hours=23, minutes=59))
    ]
    assert dates == [20_574, 20_575, 20_575]
