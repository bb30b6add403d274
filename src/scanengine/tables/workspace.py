"""The folder of one program: which file is where, the manifest that names the current set, the allocation register.

    scanengine.toml  keys.toml  products.toml      settings, secrets (0600), product lines
    codes/cola@1.codes                             tables, each published once and never changed
    scenes/cola@2.scenes
    prizes/spring@3.prizes
    campaigns/spring.toml                          campaign files, as their authors write them
    manifest                                       the current set, swapped by rename
    allocations                                    serials and table numbers handed out, never handed out again
    ledger.sqlite                                  what scans have changed
    ledger.epoch                                   which ledger in Redis was used, if one was

There is one generation number for the whole program. Each publication takes the next; the table it wrote carries it in
its name, so the set that was current at generation g is, for each table, the newest file at or below g.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import xxhash

from scanengine.errors import AssignmentError, TableFormatError, WorkspaceError
from scanengine.model import SERIALS_PER_SLOT, TABLE_COUNT
from scanengine.tables.container import publish_bytes, sync_folder

TABLE_KINDS: Final = ("codes", "scenes", "prizes")
LABEL_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The current set of tables: file name by batch label or campaign id; and labels that were used once."""

    generation: int = 0
    codes: dict[str, str] = {}
    scenes: dict[str, str] = {}
    prizes: dict[str, str] = {}
    retired: tuple[str, ...] = ()


class _Register(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    serials: dict[int, int] = {}
    """Next serial of each slot."""
    tables: int = 0
    """Next table number for imported codes."""
    imports: dict[str, int] = {}
    """Table number of each label that codes were imported under, published or not."""


_Content = TypeVar("_Content", bound=msgspec.Struct)


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    content: msgspec.Raw
    digest: str


def _sealed(value: msgspec.Struct) -> bytes:
    content = msgspec.json.encode(value)
    return msgspec.json.encode(_Sealed(msgspec.Raw(content), f"{xxhash.xxh3_64_intdigest(content):016x}")) + b"\n"


def _unsealed(path: Path, data: bytes, kind: type[_Content]) -> _Content:
    if not data.endswith(b"\n"):
        raise TableFormatError(f"{path}: {len(data)} bytes without an end of line: the file was cut")
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        found = f"{xxhash.xxh3_64_intdigest(bytes(sealed.content)):016x}"
        if found != sealed.digest:
            raise TableFormatError(f"{path}: digest {found}, expected {sealed.digest}: the file is damaged")
        return msgspec.json.decode(sealed.content, type=kind)
    except ValueError as error:  # Also of bytes that are not UTF-8, which msgspec leaves to Python where a name stands.
        raise TableFormatError(f"{path}: {error}") from error


class Workspace:
    """Paths and registers of one workspace folder.

    Raises
    ------
    WorkspaceError
        If the folder is not a workspace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_path = folder / "scanengine.toml"
        self.keys_path = folder / "keys.toml"
        self.products_path = folder / "products.toml"
        self.manifest_path = folder / "manifest"
        self.ledger_path = folder / "ledger.sqlite"
        self.epoch_path = folder / "ledger.epoch"
        self.control_path = folder / "control.sock"
        self.campaigns_folder = folder / "campaigns"
        self._allocations_path = folder / "allocations"
        if not self.settings_path.is_file():
            raise WorkspaceError(
                f"{folder}: not a workspace, {self.settings_path.name} is missing; `scanengine init {folder}` makes one"
            )

    @staticmethod
    def create_folders(folder: Path) -> None:
        """Make the folders and the empty registers of a new workspace, or what is still missing of them.

        Raises
        ------
        WorkspaceError
            If there is a register that is in use.
        """
        for name in (*TABLE_KINDS, "campaigns"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, blank in (("manifest", _sealed(Manifest())), ("allocations", _sealed(_Register()))):
            path = folder / name
            if not path.exists():
                publish_bytes(path, blank, replace=False, mode=0o644)
            elif path.read_bytes() != blank:
                raise WorkspaceError(f"{path} is in use, but scanengine.toml is missing: restore it from a backup")

    def table_path(self, kind: str, file_name: str) -> Path:
        """Return the path of a table; `kind` is ``codes``, ``scenes`` or ``prizes``."""
        return self.folder / kind / file_name

    def table_name(self, kind: str, name: str, generation: int) -> str:
        """Return the file name of a table."""
        return f"{name}@{generation}.{kind}"

    def next_generation(self) -> int:
        """Return the number of the next publication; the caller holds the lock.

        It is above the manifest's and above that of every table there is: a publication that a crash cut short, or a
        manifest restored from a backup, must not let two tables share a number that claims refer to.
        """
        numbers = [self.read_manifest().generation]
        for kind in TABLE_KINDS:
            for path in (self.folder / kind).glob(f"*@*.{kind}"):
                number = path.stem.rpartition("@")[2]
                if number.isdecimal():
                    numbers.append(int(number))
        return max(numbers) + 1

    def generations(self, kind: str) -> dict[str, list[int]]:
        """Return the generations of every table of a kind on disk, ascending, by batch label or campaign id."""
        found: dict[str, list[int]] = {}
        for path in (self.folder / kind).glob(f"*@*.{kind}"):
            name, _, number = path.stem.rpartition("@")
            if number.isdecimal():
                found.setdefault(name, []).append(int(number))
        return {name: sorted(numbers) for name, numbers in found.items()}

    def prize_path_at(self, campaign: str, generation: int) -> Path:
        """Return the prize table of a campaign that was current at a generation.

        Raises
        ------
        TableFormatError
            If it is gone; claims refer to old tables, so none may be deleted.
        """
        newest, newest_path = -1, None
        for path in (self.folder / "prizes").iterdir():
            name, _, number = path.stem.rpartition("@")
            is_ours = path.suffix == ".prizes" and name == campaign and number.isdecimal()
            if is_ours and newest < int(number) <= generation:
                newest, newest_path = int(number), path
        if newest_path is None:
            raise TableFormatError(
                f"{self.folder}: no prize table of campaign {campaign!r} at generation {generation}; "
                f"restore prizes/{campaign}@*.prizes from a backup"
            )
        return newest_path

    def newest_prize_path(self, campaign: str) -> Path | None:
        """Return the newest prize table of a campaign on disk, current or not: it knows every number ever given."""
        try:
            return self.prize_path_at(campaign, sys.maxsize)
        except TableFormatError:
            return None

    @contextlib.contextmanager
    def control_address(self) -> Iterator[str]:
        """Yield an address of the control socket, to be used inside the block.

        It goes through the open folder, as a socket's address has room for 107 bytes, and a folder may be deep.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}/{self.control_path.name}"
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace's lock: one publication or allocation at a time, over all processes."""
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read_manifest(self) -> Manifest:
        """Return the current set.

        Raises
        ------
        TableFormatError
            If the manifest is missing or damaged.
        """
        try:
            data = self.manifest_path.read_bytes()
        except OSError as error:
            raise TableFormatError(f"{self.manifest_path}: cannot be read: {error.strerror}") from error
        return _unsealed(self.manifest_path, data, Manifest)

    def publish_manifest(self, manifest: Manifest) -> None:
        """Swap the manifest. The caller holds the lock and has written every table that it names.

        A table with a higher number than the one that is named was left by a publication that a crash cut short, or
        outlived a restore of the manifest. From this generation on it is not what decides, so what does is given this
        generation's number as well: numbers alone say which table a claim was decided by.
        """
        manifest = msgspec.structs.replace(
            manifest,
            scenes=self._renumbered("scenes", manifest.scenes, manifest.generation),
            prizes=self._renumbered("prizes", manifest.prizes, manifest.generation),
        )
        publish_bytes(self.manifest_path, _sealed(manifest), replace=True, mode=0o644)

    def _renumbered(self, kind: str, names: dict[str, str], generation: int) -> dict[str, str]:
        generations = self.generations(kind)
        renumbered = dict(names)
        for name, file_name in names.items():
            numbers = [number for number in generations.get(name, ()) if number <= generation]
            if numbers and file_name != self.table_name(kind, name, numbers[-1]):
                renumbered[name] = self.table_name(kind, name, generation)
                os.link(self.table_path(kind, file_name), self.table_path(kind, renumbered[name]))
                sync_folder(self.folder / kind)
        return renumbered

    def allocate_serials(self, slot: int, count: int, *, printed_end: int = 0) -> int:
        """Hand out `count` serials of a slot, durably; the caller holds the lock.

        Parameters
        ----------
        printed_end : int
            End of the serials that tables of this slot show, in case the register was restored from an older backup.

        Returns
        -------
        int
            The first serial. Serials that a crash leaves unused stay unused: nothing is handed out twice.

        Raises
        ------
        AssignmentError
            If the slot has not that many left.
        TableFormatError
            If the register is missing or damaged. It is never begun anew.
        """
        register = self._read_register()
        start = max(register.serials.get(slot, 0), printed_end)
        if count < 1 or start + count > SERIALS_PER_SLOT:
            raise AssignmentError(
                f"slot {slot} has {SERIALS_PER_SLOT - start} serials left, {count} asked for: "
                "ask for 1 or more, or activate another slot in keys.toml"
            )
        self._write_register(msgspec.structs.replace(register, serials={**register.serials, slot: start + count}))
        return start

    def allocate_table(self, label: str, *, taken: Collection[int]) -> int:
        """Hand out the number of a table of imported codes, durably; the caller holds the lock.

        Parameters
        ----------
        taken : collection of int
            Numbers of the tables there are, in case the register was restored from an older backup.

        Returns
        -------
        int
            The number that this label was given before, if no table was ever written with it; else a new one.

        Raises
        ------
        AssignmentError
            If there is none left.
        TableFormatError
            If the register is missing or damaged. It is never begun anew.
        """
        register = self._read_register()
        known = register.imports.get(label)
        if known is not None and known not in taken:
            return known
        number = max([register.tables, *(number + 1 for number in taken)])
        if number >= TABLE_COUNT:
            raise AssignmentError(f"all {TABLE_COUNT} tables of imported codes were handed out: none is left")
        imports = {**register.imports, label: number}
        self._write_register(msgspec.structs.replace(register, tables=number + 1, imports=imports))
        return number

    def _read_register(self) -> _Register:
        try:
            return _unsealed(self._allocations_path, self._allocations_path.read_bytes(), _Register)
        except OSError as error:
            raise TableFormatError(
                f"{self._allocations_path}: cannot be read: {error.strerror}; restore it from a backup, "
                "or serials that are printed could be handed out again"
            ) from error

    def _write_register(self, register: _Register) -> None:
        publish_bytes(self._allocations_path, _sealed(register), replace=True, mode=0o644)

    def clear_aside(self, kind: str, name: str) -> None:
        """Remove what a crash left aside of the tables of a name; the caller holds the lock."""
        for path in (self.folder / kind).glob(f".{name}@*.new"):
            path.unlink(missing_ok=True)


def check_label(label: str) -> str:
    """Return a batch label that can be part of a file name; AssignmentError otherwise."""
    if not LABEL_PATTERN.fullmatch(label):
        raise AssignmentError(
            f"batch label {label!r}: expected 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first"
        )
    return label
