"""All tables of a program at one moment, mapped: the one thing that decisions are made of.

A snapshot is immutable. A newer one shares the tables that have not changed; readers hold one reference and see one
generation throughout a scan, however often the manifest is swapped meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from scanengine.errors import TableFormatError
from scanengine.model import Product
from scanengine.tables.codes import CodeTable
from scanengine.tables.prizes import PrizeTable
from scanengine.tables.products import load_products
from scanengine.tables.scenes import SceneTable
from scanengine.tables.workspace import Manifest, Workspace


class Batch:
    """One batch: its codes and what they may be used for."""

    def __init__(self, codes: CodeTable, scenes: SceneTable) -> None:
        self.codes = codes
        self.scenes = scenes

    @property
    def label(self) -> str:
        """The batch's name."""
        return self.codes.label

    def __lt__(self, other: Batch) -> bool:
        return self.codes.item_start < other.codes.item_start


class Snapshot:
    """The tables that one manifest names.

    Parameters
    ----------
    batches : list of Batch, in order of item numbers
    prizes : dict of campaign id to PrizeTable
    products : dict of GTIN to Product
    """

    def __init__(
        self,
        manifest: Manifest,
        batches: list[Batch],
        prizes: dict[str, PrizeTable],
        products: dict[str, Product],
    ) -> None:
        self.manifest = manifest
        self.batches = batches
        self.prizes = prizes
        self.products = products

    @property
    def generation(self) -> int:
        """Generation of the program that this is."""
        return self.manifest.generation

    def batch(self, label: str) -> Batch | None:
        """Return a batch by its label."""
        return next((batch for batch in self.batches if batch.label == label), None)

    def unbound_campaigns(self) -> dict[str, list[str]]:
        """Return campaigns that segments name but nobody has published: campaign id to batch labels."""
        unbound: dict[str, list[str]] = {}
        for batch in self.batches:
            named = {profile.campaign for profile in batch.scenes.profiles if profile.campaign is not None}
            for campaign in sorted(named - self.prizes.keys()):
                unbound.setdefault(campaign, []).append(batch.label)
        return unbound

    def unused_campaigns(self) -> list[str]:
        """Return published campaigns that no segment names."""
        named = {profile.campaign for batch in self.batches for profile in batch.scenes.profiles}
        return sorted(self.prizes.keys() - named)


def load_snapshot(workspace: Workspace, previous: Snapshot | None = None) -> Snapshot:
    """Map the current set.

    Parameters
    ----------
    previous : Snapshot, optional
        Tables whose files are the same are taken from it instead of being mapped and checked again.

    Raises
    ------
    TableFormatError
        If the manifest or a table is damaged, missing, or not the one that the manifest means.
    SettingsError
        If ``products.toml`` is wrong.
    """
    manifest = workspace.read_manifest()
    old = previous.manifest if previous else Manifest()
    batches = []
    for label, file_name in manifest.codes.items():
        scene_name = manifest.scenes.get(label, "")
        known = previous.batch(label) if previous and old.codes.get(label) == file_name else None
        if known and old.scenes.get(label) == scene_name:
            batches.append(known)
            continue
        codes = known.codes if known else CodeTable.read(workspace.table_path("codes", file_name))
        scenes = SceneTable(workspace.table_path("scenes", scene_name))
        _expect(workspace.manifest_path, label, (codes.label, scenes.batch, scenes.count), (label, label, codes.count))
        batches.append(Batch(codes, scenes))
    prizes = {}
    for campaign, file_name in manifest.prizes.items():
        if previous and old.prizes.get(campaign) == file_name:
            prizes[campaign] = previous.prizes[campaign]
            continue
        prizes[campaign] = PrizeTable(workspace.table_path("prizes", file_name))
        _expect(workspace.manifest_path, campaign, prizes[campaign].id, campaign)
    batches.sort()
    return Snapshot(manifest, batches, prizes, load_products(workspace.products_path))


def _expect(manifest_path: Path, name: str, found: object, expected: object) -> None:
    if found != expected:
        raise TableFormatError(
            f"{manifest_path}: the tables of {name!r} say {found}, expected {expected}: files were exchanged"
        )
