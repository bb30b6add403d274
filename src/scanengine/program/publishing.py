"""What operators publish: new workspaces, batches, scenes, campaigns. Each publication is one new generation.

Every function takes the workspace's lock, writes its tables aside, and swaps the manifest last: a crash in between
leaves the old set current, and at most some serials that are never used.
"""

from __future__ import annotations

import time
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine.campaigns import check_campaign, check_campaign_id, compile_campaign, example_campaign, parse_campaign
from scanengine.codes import exact_spellings, unwrap
from scanengine.errors import AssignmentError, CampaignError, WorkspaceError
from scanengine.keys import Keyring, new_key_file
from scanengine.model import Product, Scene, SegmentState, Status
from scanengine.program.keeping import read_code_tables
from scanengine.program.ledgers import newest_generation
from scanengine.program.settings import new_settings_file
from scanengine.tables.codes import CodeTable
from scanengine.tables.container import publish_bytes
from scanengine.tables.prizes import PrizeTable, build_prize_table
from scanengine.tables.products import add_product, check_gtin, load_products
from scanengine.tables.scenes import Profile, Segments, link_fault
from scanengine.tables.snapshot import Batch, Snapshot, load_snapshot
from scanengine.tables.workspace import Manifest, Workspace, check_label


def create_workspace(folder: Path) -> Workspace:
    """Make a new workspace: random keys, settings, and a commented example campaign.

    Raises
    ------
    WorkspaceError
        If there is one already; nothing is overwritten.
    """
    settings_path = folder / "scanengine.toml"
    if settings_path.exists():
        raise WorkspaceError(f"{folder}: there is a workspace already; its keys are not made anew")
    folder.mkdir(parents=True, exist_ok=True)
    Workspace.create_folders(folder)
    example = example_campaign(datetime.now(UTC).date())
    # What an earlier, interrupted beginning has left is kept, keys above all. The settings come last, as they are what
    # makes the folder a workspace.
    for path, text, mode in (
        (folder / "keys.toml", new_key_file(), 0o600),
        (folder / "campaigns" / "spring.toml", example, 0o644),
        (settings_path, new_settings_file(), 0o644),
    ):
        if not path.exists():
            publish_bytes(path, text.encode(), replace=False, mode=mode)
    return Workspace(folder)


def create_batch(
    workspace: Workspace,
    keyring: Keyring,
    label: str,
    count: int,
    *,
    product: Product | None = None,
    slot: int | None = None,
    test: bool = False,
) -> CodeTable:
    """Make a batch of codes, with one inactive segment over all of it.

    Parameters
    ----------
    count : int
        Codes, 1 to 2**40; they cost no space each.
    product : Product, optional
        Its line is added to ``products.toml`` if it has none.
    slot : int, optional
        Key slot; the highest active one if not given.
    test : bool
        Whether the codes are for tests: they are claimed like others, and never pay.

    Raises
    ------
    AssignmentError
        If the label is taken or cannot be a file name, the slot has too few serials left, or the product is wrong.
    KeyringError
        If the slot does not make codes.
    """
    check_label(label)
    check_product(product)
    slot = keyring.issuing_slot(slot)
    with workspace.locked():
        check_unused(workspace.read_manifest(), label)
        if product is not None:
            add_product(workspace.products_path, product)
        start = workspace.allocate_serials(slot, count, printed_end=_printed_end(workspace, slot))
        codes = CodeTable(label, slot, start, count, time.time_ns() // 1_000_000, test)
        publish_batch(workspace, codes, product)
    return codes


def check_printable(name: str, text: str | None) -> None:
    """Refuse a text that a terminal would obey, or show other than it is; AssignmentError."""
    for char in text or "":
        if not char.isprintable() and unicodedata.category(char) not in ("Zs", "Cs"):
            raise AssignmentError(f"{name}: expected printable characters, found U+{ord(char):04X}: take it out")


def check_product(product: Product | None) -> None:
    """Refuse words of a product that cannot be shown; AssignmentError."""
    for name, text in msgspec.structs.asdict(product).items() if product else ():
        check_printable(f"product: {name}", text)


def check_unused(manifest: Manifest, label: str) -> None:
    """Refuse a label that a batch has, or had; AssignmentError."""
    if label in manifest.codes or label in manifest.retired:
        raise AssignmentError(f"batch {label!r} exists, or did once: labels are not used again")


def publish_batch(workspace: Workspace, codes: CodeTable, product: Product | None, written: str | None = None) -> None:
    """Publish a new batch with one inactive segment over all of it; the caller holds the lock.

    Parameters
    ----------
    written : str, optional
        Name of the file that holds the code table already.
    """
    label, manifest, generation = codes.label, workspace.read_manifest(), _next_generation(workspace)
    codes_name = written or workspace.table_name("codes", label, generation)
    if written is None:
        codes.write(workspace.table_path("codes", codes_name))
    scenes_name = workspace.table_name("scenes", label, generation)
    blank = Segments.blank(codes.count, Profile(product=product.gtin if product else None))
    blank.write(workspace.table_path("scenes", scenes_name), label, generation)
    workspace.publish_manifest(
        msgspec.structs.replace(
            manifest,
            generation=generation,
            codes={**manifest.codes, label: codes_name},
            scenes={**manifest.scenes, label: scenes_name},
        )
    )


def _next_generation(workspace: Workspace) -> int:
    """Return the next generation, above what tables and ledger have seen: tables may be restored without the ledger."""
    return max(workspace.next_generation(), newest_generation(workspace) + 1)


def _printed_end(workspace: Workspace, slot: int) -> int:
    """Return the end of the serials that any table of a slot shows, those of deleted batches included."""
    tables = read_code_tables(workspace).values()
    return max((table.serial_start + table.count for table in tables if table.slot == slot), default=0)


def delete_batch(workspace: Workspace, label: str) -> None:
    """Take a batch out of the current set: its codes are ``unknown`` from now on. Its serials are never used again.

    Raises
    ------
    AssignmentError
        If there is no such batch.
    """
    with workspace.locked():
        manifest = workspace.read_manifest()
        if label not in manifest.codes:
            raise _no_batch(label, manifest)
        workspace.publish_manifest(
            msgspec.structs.replace(
                manifest,
                generation=_next_generation(workspace),
                codes={name: file for name, file in manifest.codes.items() if name != label},
                scenes={name: file for name, file in manifest.scenes.items() if name != label},
                retired=(*manifest.retired, label),
            )
        )


def _no_batch(label: str, manifest: Manifest) -> AssignmentError:
    return AssignmentError(f"no batch {label!r}: there are {', '.join(sorted(manifest.codes)) or 'none'}")


class SceneChange(msgspec.Struct, frozen=True):
    """What to set on codes; None leaves it as it is, "" takes it away."""

    state: SegmentState | None = None
    scenes: Scene | None = None
    campaign: str | None = None
    product: str | None = None
    lot: str | None = None
    market: str | None = None
    link: str | None = None
    active_from_ms: int | None = None
    active_until_ms: int | None = None

    def __call__(self, profile: Profile) -> Profile:
        """Return the profile with the change made."""
        changes: dict[str, Any] = {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }
        for name in ("campaign", "product", "lot", "market", "link"):
            if changes.get(name) == "":
                changes[name] = None
        return msgspec.structs.replace(profile, **changes)


def assign_scenes(workspace: Workspace, label: str, ranges: NDArray[np.uint64], change: SceneChange) -> Snapshot:
    """Set what codes may be used for, as a new generation.

    Parameters
    ----------
    ranges : uint64, shape (r, 2)
        Half-open ranges of offsets in the batch.

    Returns
    -------
    Snapshot
        The new current set, which tells what is still unbound.

    Raises
    ------
    AssignmentError
        If there is no such batch, a range is empty or leaves it, the product has no line, the campaign could never be
        published under its id, the link is no address on the web, a text cannot be written or shown, or a code
        would be left without any moment at which it is active; nothing is changed.
    """
    try:
        "".join(filter(None, (change.campaign, change.lot, change.market, change.link))).encode()
    except UnicodeEncodeError as error:
        raise AssignmentError(f"campaign, lot, market and link are text in UTF-8: {error}") from error
    check_printable("lot", change.lot)
    check_printable("market", change.market)
    fault = check_campaign_id(change.campaign) if change.campaign else None
    if fault:
        raise AssignmentError(f"campaign: {fault}")
    fault = link_fault(change.link) if change.link else None
    if fault:
        raise AssignmentError(fault)
    if change.product and check_gtin(change.product) not in load_products(workspace.products_path):
        raise AssignmentError(f"product {change.product} has no line in {workspace.products_path}: add it first")
    with workspace.locked():
        snapshot = load_snapshot(workspace)
        batch = snapshot.batch(label)
        if batch is None:
            raise _no_batch(label, snapshot.manifest)
        segments = batch.scenes.segments().assign(ranges, change)
        generation = _next_generation(workspace)
        name = workspace.table_name("scenes", label, generation)
        segments.write(workspace.table_path("scenes", name), label, generation)
        workspace.publish_manifest(
            msgspec.structs.replace(
                snapshot.manifest, generation=generation, scenes={**snapshot.manifest.scenes, label: name}
            )
        )
        return load_snapshot(workspace, snapshot)


def range_between(keyring: Keyring, batch: Batch, first: str, last: str) -> tuple[int, int]:
    """Return the half-open range of offsets from one code to another, both included.

    Raises
    ------
    AssignmentError
        If a code is not one of this batch, or the last is before the first.
    """
    start, end = (offset_of(keyring, batch, text) for text in (first, last))
    if end < start:
        raise AssignmentError(f"the last code has offset {end}, before the first one's {start}: exchange them")
    return start, end + 1


def ranges_of_codes(keyring: Keyring, batch: Batch, lines: list[str]) -> NDArray[np.uint64]:
    """Return one range for each line of a file of codes; empty lines are passed over.

    Raises
    ------
    AssignmentError
        Naming the first line that is not a code of this batch. The code itself is not shown.
    """
    offsets = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text:
            try:
                offsets.append(offset_of(keyring, batch, text))
            except AssignmentError as error:
                raise AssignmentError(f"line {number}: {error}") from error
    starts = np.array(offsets, np.uint64)
    return np.column_stack((starts, starts + np.uint64(1)))


def offset_of(keyring: Keyring, batch: Batch, text: str) -> int:
    """Return the offset of a code in its batch; AssignmentError if it is not one of it."""
    if batch.codes.texts is not None:
        # In the order in which a scan looks for them.
        offsets = (batch.codes.texts.index.find(found) for found in (*exact_spellings(text), unwrap(text)))
        offset = next((offset for offset in offsets if offset >= 0), None)
        if offset is None:
            raise AssignmentError(f"the code is not in batch {batch.label!r}")
        return offset
    status, item = keyring.code_keys.decode(unwrap(text))
    if status != Status.VALID:
        raise AssignmentError(f"the code is {Status(status).name.lower()}, expected one of batch {batch.label!r}")
    offset = item - batch.codes.item_start
    if not 0 <= offset < batch.codes.count:
        raise AssignmentError(f"the code is not in batch {batch.label!r}")
    return offset


@dataclass(frozen=True)
class Publication:
    """What publishing a campaign did.

    Parameters
    ----------
    notes : list of str
        What :func:`~scanengine.campaigns.check_campaign` has to say.
    snapshot : Snapshot
        The new current set.
    """

    campaign: str
    generation: int
    notes: list[str]
    snapshot: Snapshot


def campaign_path(workspace: Workspace, name: str) -> Path:
    """Return the file of a campaign given by path or by id.

    Raises
    ------
    CampaignError
        If there is neither.
    """
    for path in (Path(name), workspace.campaigns_folder / f"{name}.toml"):
        if path.is_file():
            return path
    raise CampaignError(name, [f"no such file, and no {workspace.campaigns_folder / name}.toml either"])


def read_campaign_text(path: Path) -> str:
    """Return the text of a campaign file; CampaignError if it cannot be read as UTF-8."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(str(path), [f"cannot be read: {error}"]) from error


def publish_campaign(workspace: Workspace, keyring: Keyring, path: Path) -> Publication:
    """Publish a campaign file as a new generation.

    Raises
    ------
    CampaignError
        With all faults of the file.
    """
    campaign = parse_campaign(read_campaign_text(path), str(path))
    with workspace.locked():
        snapshot = load_snapshot(workspace)
        generation = _next_generation(workspace)
        newest = workspace.newest_prize_path(campaign.id)
        items = {batch.label: (batch.codes.item_start, batch.codes.count) for batch in snapshot.batches}
        metadata, sections = compile_campaign(
            campaign,
            previous=PrizeTable(newest) if newest else None,
            generation=generation,
            batch_items=items,
            draw_key_id=keyring.draw_key_id,
        )
        name = workspace.table_name("prizes", campaign.id, generation)
        build_prize_table(workspace.table_path("prizes", name), metadata, sections)
        prizes = {**snapshot.manifest.prizes, campaign.id: name}
        workspace.publish_manifest(msgspec.structs.replace(snapshot.manifest, generation=generation, prizes=prizes))
        return Publication(campaign.id, generation, check_campaign(campaign), load_snapshot(workspace, snapshot))
