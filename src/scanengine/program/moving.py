"""A program's ledger as a file: written out, and made of one that was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from scanengine.errors import LedgerBusyError, LedgerFormatError
from scanengine.keys import Keyring
from scanengine.ledger.lines import End, Head, ignore, read_head
from scanengine.ledger.moving import Exported, Target, count_lines, export_ledger, import_ledger
from scanengine.ledger.sqlite_moving import SqliteTarget, at_rest
from scanengine.program.ledgers import needs_redis, open_reader
from scanengine.program.settings import Settings, ledger_identity
from scanengine.tables.container import publish_bytes
from scanengine.tables.workspace import Workspace

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Shows how far long work has come: title and total, then told of each part that is done."""

_COPY_BYTES = 1 << 20


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show nothing."""
    yield ignore


def export_program(
    workspace: Workspace,
    settings: Settings,
    keyring: Keyring,
    write: Callable[[bytes], object],
    *,
    is_live: bool = False,
    progress: Progress = no_progress,
) -> Exported:
    """Write the ledger of a workspace as lines, see :mod:`scanengine.ledger.lines`.

    Parameters
    ----------
    write : callable
        Takes some thousand lines at a time.
    is_live : bool
        Whether a ledger in Redis may be in use meanwhile: what is written is what it held at the beginning.

    Raises
    ------
    LedgerBusyError
        If the ledger is in use, and may not be.
    LedgerFormatError
        If there is no ledger, or it is damaged.
    LedgerUnavailableError
        If it cannot be read or reached.
    """
    with _resting(workspace, settings):
        reader = open_reader(workspace, settings, keyring)
        if reader is None:
            raise LedgerFormatError(
                f"{workspace.ledger_path}: there is no ledger; it is made when the program is first opened"
            )
        with reader, progress("exporting", count_lines(reader.marks())) as advance:
            return export_ledger(reader, write, is_live=is_live, advance=advance)


def export_to_file(
    workspace: Workspace,
    settings: Settings,
    keyring: Keyring,
    path: Path,
    *,
    is_live: bool = False,
    progress: Progress = no_progress,
) -> Exported:
    """Do :func:`export_program` into a new file that only its owner can read; a failed export leaves none.

    Raises
    ------
    FileExistsError
        If there is such a file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            exported = export_program(workspace, settings, keyring, file.write, is_live=is_live, progress=progress)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return exported


def import_program(
    workspace: Workspace,
    settings: Settings,
    keyring: Keyring,
    file: BinaryIO,
    name: str,
    *,
    progress: Progress = no_progress,
) -> tuple[Head, End]:
    """Make the ledger of a workspace from an export, where there is none or an empty one.

    Parameters
    ----------
    file : binary file
        One that cannot be read twice, such as a pipe, is copied into the workspace for the time being.
    name : str
        What to call the file in errors.

    Raises
    ------
    LedgerBusyError
        If a server uses the ledger.
    LedgerFormatError
        If the file is no whole export of this program, or there is a ledger that was used.
    LedgerUnavailableError
        If the ledger cannot be written or reached.
    """
    with _rereadable(workspace, file) as source:
        identity = ledger_identity(settings, keyring)
        head = read_head(source, identity, name)
        source.seek(0)
        target = _target(workspace, settings, identity)
        # Each line is checked, written, and read back.
        with _explained(workspace, settings), progress("importing", 3 * count_lines(head.ledger)) as advance:
            end = import_ledger(source, target, identity, name=name, advance=advance)
    if settings.ledger.url is not None:
        from scanengine.ledger.redis.moving import RedisTarget

        assert isinstance(target, RedisTarget)
        # The ledger that was used before is this one from now on.
        publish_bytes(workspace.epoch_path, target.epoch + b"\n", replace=True, mode=0o644)
    return head, end


def _target(workspace: Workspace, settings: Settings, identity: str) -> Target:
    if settings.ledger.url is None:
        return SqliteTarget(workspace.ledger_path, identity)
    with needs_redis():
        from scanengine.ledger.redis.moving import RedisTarget
    return RedisTarget(settings.ledger.url, identity)


def _resting(workspace: Workspace, settings: Settings) -> AbstractContextManager[None]:
    """Keep an SQLite ledger from being used; a Redis is watched instead."""
    if settings.ledger.url is not None or not workspace.ledger_path.exists():
        return nullcontext()
    return _owned(workspace, settings)


@contextmanager
def _owned(workspace: Workspace, settings: Settings) -> Iterator[None]:
    with _explained(workspace, settings), at_rest(workspace.ledger_path):
        yield


@contextmanager
def _explained(workspace: Workspace, settings: Settings) -> Iterator[None]:
    """Say what to do about the owner of an SQLite ledger."""
    try:
        yield
    except LedgerBusyError as error:
        if settings.ledger.url is not None:
            raise
        raise LedgerBusyError(
            f"{workspace.ledger_path}: a server or another command owns this ledger: stop the server first"
        ) from error


@contextmanager
def _rereadable(workspace: Workspace, file: BinaryIO) -> Iterator[BinaryIO]:
    if file.seekable():
        yield file
        return
    # Of mode 0600, as events hold users whole; without a name, so that nothing is left of it.
    with tempfile.TemporaryFile(dir=workspace.folder) as copy:
        while piece := file.read(_COPY_BYTES):
            copy.write(piece)
        copy.seek(0)
        yield copy
