"""What several commands need: the workspace, output for people and for programs, progress bars, ranges, times."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from scanengine.errors import AssignmentError
from scanengine.keys import Keyring, load_keyring
from scanengine.model import SERIALS_PER_SLOT
from scanengine.program.settings import Settings, load_settings, override_ledger
from scanengine.tables.snapshot import Batch, Snapshot, load_snapshot
from scanengine.tables.workspace import Workspace

_OFFSET_DIGITS_MAX: Final = len(str(SERIALS_PER_SLOT))
LEDGER_VARIABLE: Final = "SCANENGINE_LEDGER"
"""Environment variable with the URL of the ledger, which may hold a password."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Context:
    """The workspace a command works on, opened as far as the command needs."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace; WorkspaceError if the folder is none."""
        return Workspace(self.folder)

    @cached_property
    def settings(self) -> Settings:
        """Its settings, with the ledger that the environment names: no command may use another one by mistake."""
        return override_ledger(load_settings(self.workspace.settings_path), url=os.environ.get(LEDGER_VARIABLE))

    @cached_property
    def keyring(self) -> Keyring:
        """Its keys."""
        return load_keyring(self.workspace.keys_path)

    def snapshot(self) -> Snapshot:
        """Return its current tables."""
        return load_snapshot(self.workspace)

    def batch(self, label: str) -> Batch:
        """Return one batch; AssignmentError naming those there are."""
        snapshot = self.snapshot()
        batch = snapshot.batch(label)
        if batch is None:
            known = ", ".join(known.label for known in snapshot.batches) or "none"
            raise AssignmentError(f"no batch {label!r}: there are {known}")
        return batch


pass_context = click.make_pass_decorator(Context)


def print_json(value: object) -> None:
    """Print one value as one line of JSON."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), ensure_ascii=False) + "\n")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows for a person."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    Console().print(table)


def print_unbound(snapshot: Snapshot) -> None:
    """Say what scenes and campaigns still wait for each other."""
    for campaign, labels in snapshot.unbound_campaigns().items():
        click.echo(f"unbound: campaign {campaign!r} of batch {', '.join(labels)} is not published yet")
    for campaign in snapshot.unused_campaigns():
        click.echo(f"unbound: campaign {campaign!r} is published, but no batch is assigned to it yet")


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Any]:
    """Show a progress bar on standard error, if a person is there to see it; yields a function to advance it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


class RangeType(click.ParamType[tuple[int | None, int | None]]):
    """A half-open range of offsets, ``A:B``, ``A:``, ``:B`` or ``:``."""

    name = "A:B"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int | None, int | None]:
        """Return (start, end), None where a bound is left out."""
        first, colon, last = str(value).partition(":")
        if not colon or not all(bound == "" or _is_offset(bound) for bound in (first, last)):
            self.fail(f"{value!r} is not a range A:B of offsets, half open", parameter, context)
        return (int(first) if first else None, int(last) if last else None)


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _OFFSET_DIGITS_MAX


class MomentType(click.ParamType[int]):
    """A time with its UTC offset, ISO 8601."""

    name = "TIME"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """Return milliseconds since 1970 UTC."""
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-05-01T00:00:00+08:00", parameter, context)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no UTC offset; write one, such as +08:00", parameter, context)
        return round(moment.timestamp() * 1000)


def whole_range(found: tuple[int | None, int | None] | None, count: int) -> tuple[int, int]:
    """Return a range with its bounds filled in: all of the batch if none is given."""
    start, end = found or (None, None)
    return (0 if start is None else start, count if end is None else end)
