"""From a folder to a program: every file is read and checked, and the ledger opened, before there is one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from scanengine.keys import load_keyring
from scanengine.ledger import Ledger, LedgerReader
from scanengine.program.ledgers import open_ledger, open_reader
from scanengine.program.program import Program
from scanengine.program.settings import Settings, load_settings
from scanengine.tables.snapshot import load_snapshot
from scanengine.tables.workspace import Workspace

LedgerMode = Literal["own", "read", "none"]


def open_program(
    folder: str | os.PathLike[str], *, ledger: LedgerMode | None = "own", settings: Settings | None = None
) -> Program:
    """Open a workspace.

    Parameters
    ----------
    folder : path
    ledger : {"own", "read", "none"} or None
        ``own``: claims and counts, as the owner of an SQLite ledger or beside others in a Redis. ``read``: looks at
        the ledger beside those who claim. ``none`` (or None): decides only.
    settings : Settings, optional
        Instead of the workspace's ``scanengine.toml``.

    Raises
    ------
    WorkspaceError, SettingsError, KeyringError, TableFormatError
        If the folder is not a workspace, or one of its files is wrong.
    LedgerBusyError
        If another process owns the ledger.
    LedgerFormatError
        If the ledger is damaged or of another program.
    """
    if ledger not in ("own", "read", "none", None):
        raise ValueError(f"ledger is 'own', 'read', 'none' or None, found {ledger!r}")
    workspace = Workspace(Path(folder))
    settings = settings or load_settings(workspace.settings_path)
    keyring = load_keyring(workspace.keys_path)
    snapshot = load_snapshot(workspace)
    opened: Ledger | None = None
    reader: LedgerReader | None = None
    if ledger == "own":
        opened = open_ledger(workspace, settings, keyring)
    elif ledger == "read":
        reader = open_reader(workspace, settings, keyring)
    try:
        return Program(workspace, settings, keyring, snapshot, opened, reader, has_counts=ledger in ("own", "read"))
    except BaseException:
        for each in (opened, reader):
            if each is not None:
                each.close()
        raise
