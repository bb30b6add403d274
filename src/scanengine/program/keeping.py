"""Tables on disk that no scan uses any more: claims refer to them, and what was handed out once can be seen in them."""

from __future__ import annotations

from collections.abc import Callable

from scanengine.errors import TableFormatError
from scanengine.tables.codes import CodeTable
from scanengine.tables.prizes import PrizeTable
from scanengine.tables.scenes import SceneTable
from scanengine.tables.workspace import TABLE_KINDS, Manifest, Workspace

_RESTORE = "restore it from a backup"
_OPENERS: dict[str, Callable[..., CodeTable | SceneTable | PrizeTable]] = {
    "codes": CodeTable.read, "scenes": SceneTable, "prizes": PrizeTable,
}  # fmt: skip


def read_code_tables(workspace: Workspace) -> dict[str, CodeTable]:
    """Return every code table on disk by its file name, those of deleted batches among them.

    Raises
    ------
    TableFormatError
        If one is damaged; the message says what to do about it.
    """
    manifest = workspace.read_manifest()
    tables = {}
    for path in sorted((workspace.folder / "codes").glob("*@*.codes")):
        try:
            tables[path.name] = CodeTable.read(path)
        except TableFormatError as error:
            raise TableFormatError(f"{error}; {_advice(manifest, 'codes', path.name)}") from error
    return tables


def former_tables(workspace: Workspace, manifest: Manifest) -> list[tuple[str, str]]:
    """Return kind and file name of each table on disk that a manifest does not name."""
    return [
        (kind, path.name)
        for kind in TABLE_KINDS
        for path in sorted((workspace.folder / kind).glob(f"*@*.{kind}"))
        if path.name not in _named(manifest, kind)
    ]


def verify_former(workspace: Workspace, manifest: Manifest, kind: str, name: str) -> int:
    """Read one of :func:`former_tables` whole and check every digest; return the number of bytes read.

    Raises
    ------
    TableFormatError
        If it is damaged; the message says what to do about it.
    """
    try:
        return _OPENERS[kind](workspace.table_path(kind, name)).verify()
    except TableFormatError as error:
        raise TableFormatError(f"{error}; {_advice(manifest, kind, name)}") from error


def _named(manifest: Manifest, kind: str) -> set[str]:
    return set({"codes": manifest.codes, "scenes": manifest.scenes, "prizes": manifest.prizes}[kind].values())


def _advice(manifest: Manifest, kind: str, name: str) -> str:
    if name in _named(manifest, kind):
        return _RESTORE
    if kind != "codes":
        return f"{_RESTORE}: no scan needs it, but the audit of claims that it decided does"
    # What was handed out is in the register, too; the table only bears it out.
    return (
        f"{_RESTORE}. No scan needs it: where there is no backup, move it out of the folder, unless the file "
        "`allocations` came from a backup that is older than it; the audit then reports claims of its codes"
    )
