"""Which ledger a program has: the SQLite file of its workspace, or the Redis that its settings name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from scanengine.errors import LedgerFormatError, LedgerUnavailableError, SettingsError
from scanengine.keys import Keyring
from scanengine.ledger import Ledger, LedgerReader, LedgerTotals, MemoryLedger, SqliteLedger, SqliteReader
from scanengine.ledger.protocol import LedgerMarks
from scanengine.program.settings import Settings, ledger_identity, load_settings
from scanengine.tables.workspace import Workspace

logger = logging.getLogger(__name__)


def open_ledger(workspace: Workspace, settings: Settings, keyring: Keyring) -> Ledger:
    """Open the ledger of a program for claims.

    Raises
    ------
    LedgerBusyError
        If another process owns the SQLite file.
    LedgerFormatError
        If the ledger is damaged, or of another program.
    LedgerUnavailableError
        If the file cannot be opened, or the extra that the ledger needs is missing. A Redis that does not answer yet is
        no error: claims are ``pending`` until it does.
    SettingsError
        If the settings leave open what they must choose.
    """
    chosen = settings.ledger
    identity = ledger_identity(settings, keyring)
    if chosen.url is None:
        return SqliteLedger(workspace.ledger_path, identity, scan_events=chosen.scan_events, timeout_s=chosen.timeout_s)
    with needs_redis():
        from scanengine.ledger.redis import RedisLedger
    return RedisLedger(
        chosen.url,
        identity,
        scan_events=chosen.scan_events,
        timeout_s=chosen.timeout_s,
        durability=chosen.durability,
        outbox=chosen.outbox,
        epoch_path=workspace.epoch_path,
    )


def open_reader(workspace: Workspace, settings: Settings, keyring: Keyring) -> LedgerReader | None:
    """Open the ledger of a program for looking, beside whoever claims; None if it was never made.

    Raises
    ------
    LedgerFormatError
        If the ledger is damaged, or of another program.
    LedgerUnavailableError
        If it cannot be read or reached, or the extra that it needs is missing.
    """
    return _open_reader(workspace, settings, ledger_identity(settings, keyring))


def read_ledger(workspace: Workspace, settings: Settings, keyring: Keyring) -> LedgerReader:
    """Open the ledger of a program for looking, as :func:`open_reader` does.

    Raises
    ------
    LedgerFormatError
        If there is none, or it is damaged or of another program.
    LedgerUnavailableError
        If it cannot be read or reached.
    """
    reader = open_reader(workspace, settings, keyring)
    if reader is None:
        raise LedgerFormatError(
            f"{workspace.ledger_path}: there is no ledger; it is made when the program is first opened"
        )
    return reader


class LedgerShown(Struct, frozen=True):
    """What a ledger is and holds, for a person or a program to look at.

    Parameters
    ----------
    kind : str
        ``sqlite``, ``redis`` or, of a program for tests, ``memory``.
    durability : str
        What an answer survives.
    trouble : str or None
        Why claims would be pending.
    alarms : tuple of str
        What an operator should look after.
    """

    kind: str
    marks: LedgerMarks
    totals: LedgerTotals
    durability: str
    trouble: str | None
    alarms: tuple[str, ...]


def show_ledger(
    workspace: Workspace, settings: Settings, keyring: Keyring, ledger: Ledger | None = None
) -> LedgerShown:
    """Return what the ledger of a workspace is and holds.

    Parameters
    ----------
    ledger : Ledger, optional
        The ledger of a program: one in memory is nowhere else to be looked at.

    Raises
    ------
    LedgerFormatError
        If there is none, or it is damaged or of another program.
    LedgerUnavailableError
        If it cannot be read or reached.
    """
    if isinstance(ledger, MemoryLedger):
        marks = ledger.marks(ledger_identity(settings, keyring))
        return LedgerShown(ledger.kind, marks, ledger.totals(), ledger.durability, ledger.trouble, ledger.alarms)
    with read_ledger(workspace, settings, keyring) as reader:
        with reader.snapshot():
            marks, totals = reader.marks(), reader.totals()
        if isinstance(reader, SqliteReader):
            return LedgerShown("sqlite", marks, totals, SqliteLedger.durability, None, ())
        from scanengine.ledger.redis import RedisReader

        assert isinstance(reader, RedisReader)
        health = reader.health(settings.ledger.durability)
        return LedgerShown("redis", marks, totals, health.durability, health.trouble, health.alarms)


def install_functions(settings: Settings) -> int:
    """Load the functions of the ledger on its server, of a Cluster on every primary; how many lacked them.

    Raises
    ------
    LedgerUnavailableError
        If a server does not answer, or does not let them be loaded.
    SettingsError
        If the settings name no Redis.
    """
    if settings.ledger.url is None:
        raise SettingsError(
            "the settings name no Redis: set [ledger] url in scanengine.toml, or use --ledger redis://..."
        )
    with needs_redis():
        from scanengine.ledger.redis.session import install
    return asyncio.run(install(settings.ledger.url, settings.ledger.timeout_s))


def newest_generation(workspace: Workspace) -> int:
    """Return the newest generation that the ledger has seen, 0 if it cannot be asked."""
    settings = load_settings(workspace.settings_path)
    try:
        reader = _open_reader(workspace, settings, None)
        if reader is None:
            return 0
        with reader:
            return reader.totals().generation
    except (LedgerFormatError, LedgerUnavailableError) as error:
        logger.warning("the ledger's generation cannot be read, the tables' is used: %s", error)
        return 0


def _open_reader(workspace: Workspace, settings: Settings, identity: str | None) -> LedgerReader | None:
    if settings.ledger.url is None:
        return SqliteReader(workspace.ledger_path, identity) if workspace.ledger_path.exists() else None
    with needs_redis():
        from scanengine.ledger.redis import RedisReader
    return RedisReader.open(settings.ledger.url, settings.program.id, identity)


@contextmanager
def needs_redis() -> Iterator[None]:
    """Import what needs the extra ``redis`` inside the block; LedgerUnavailableError that names it if it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "hiredis"):
            raise
        raise LedgerUnavailableError(f"{error.name} is missing: pip install 'scanengine[redis]'") from error
