"""``ledger``: what the ledger holds, and what an operator does with it: install, show, export, import, adjust."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scanengine.cli.control import ledger_to_write
from scanengine.cli.shared import (
    LEDGER_VARIABLE,
    Context,
    json_option,
    pass_context,
    print_json,
    print_table,
    progress_bar,
)
from scanengine.ledger.checks import ACTIONS
from scanengine.program import ledgers, moving
from scanengine.program.operating import adjustment_of
from scanengine.program.settings import Settings, override_ledger


def ledger_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--ledger``."""
    return click.option(
        "--ledger", "url", envvar=LEDGER_VARIABLE, show_envvar=True,
        help="URL of a Redis or Valkey, instead of what scanengine.toml says.",
    )(command)  # fmt: skip


def _settings(context: Context, url: str | None) -> Settings:
    return override_ledger(context.settings, url=url)


@click.group()
def ledger() -> None:
    """Ledger: claims, scans, counters and events."""


@ledger.command("install")
@ledger_option
@pass_context
def install(context: Context, url: str | None) -> None:
    """Load the ledger's functions on a Redis, as a user who may; of a Cluster on every primary."""
    loaded = ledgers.install_functions(_settings(context, url))
    click.echo(f"functions loaded on {loaded} servers" if loaded else "the functions are there")


@ledger.command("show")
@ledger_option
@json_option
@pass_context
def show(context: Context, url: str | None, as_json: bool) -> None:
    """Show what the ledger holds, also while servers use it."""
    shown = ledgers.show_ledger(context.workspace, _settings(context, url), context.keyring)
    if as_json:
        print_json(shown)
        return
    marks, totals = shown.marks, shown.totals
    click.echo(f"ledger {shown.kind} of program {marks.program}, generation {marks.generation}")
    click.echo(f"durability: {shown.durability}")
    click.echo(f"claims {totals.claims:,}, scans {marks.scans:,}, events waiting {totals.events:,} of {marks.events:,}")
    for name, acked in totals.readers.items():
        click.echo(f"reader {name}: acknowledged {acked:,}, {marks.events - acked:,} to go")
    if totals.campaigns:
        print_table(
            ("campaign", "claims", "money", "awards by prize", "added", "state"),
            [
                (
                    held.id, f"{held.claims:,}", f"{held.money:,}", _by_number(held.awards),
                    " ".join([_by_number(held.extra_stock), f"budget:{held.extra_budget}" * (held.extra_budget > 0)]),
                    "closed" if held.is_closed else "paused" if held.is_paused else "open",
                )
                for held in totals.campaigns
            ],
        )  # fmt: skip
    for alarm in shown.alarms:
        click.echo(f"alarm: {alarm}")
    if shown.trouble is not None:
        click.echo(f"trouble: {shown.trouble}")


@ledger.command("export")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@ledger_option
@click.option("--live", is_flag=True, help="Let a Redis be used meanwhile: what it held at the beginning is written.")
@pass_context
def export(context: Context, file: str, url: str | None, live: bool) -> None:
    """Write the whole ledger as lines of JSON to a new FILE, or to standard output as -."""
    settings = _settings(context, url)
    arguments = (context.workspace, settings, context.keyring)
    if file == "-":
        done = moving.export_program(*arguments, sys.stdout.buffer.write, is_live=live, progress=progress_bar)
        sys.stdout.buffer.flush()
    else:
        done = moving.export_to_file(*arguments, Path(file), is_live=live, progress=progress_bar)
    click.echo(
        f"exported {done.end.lines:,} lines: claims {done.marks.claims:,}, scans {done.marks.scans:,}, "
        f"digest {done.end.digest}",
        err=file == "-",
    )


@ledger.command("import")
@click.argument("file", type=click.File("rb"))
@ledger_option
@pass_context
def import_(context: Context, file: Any, url: str | None) -> None:
    """Make the ledger from an export, where there is none or an empty one; an interrupted import can be begun again."""
    head, end = moving.import_program(
        context.workspace, _settings(context, url), context.keyring, file, file.name, progress=progress_bar
    )
    click.echo(
        f"imported {end.lines:,} lines: claims {head.ledger.claims:,}, scans {head.ledger.scans:,}, "
        f"digest {end.digest}, read back the same"
    )


@ledger.command("adjust")
@click.argument("campaign")
@click.argument("action", type=click.Choice(ACTIONS))
@click.option("--id", "id_", required=True, metavar="ID", help="Name of this adjustment; each is applied once.")
@click.option("--prize", help="Id or number of the prize whose stock is raised.")
@click.option("--amount", type=int, help="Units of stock, or money in minor units, to add.")
@ledger_option
@pass_context
def adjust(
    context: Context, campaign: str, action: str, id_: str, prize: str | None, amount: int | None, url: str | None
) -> None:
    """Raise the stock or the budget of a campaign, pause, resume or close it; also while servers run."""
    if (prize is not None) != (action == "stock"):
        raise click.UsageError("--prize goes with stock, and with nothing else")
    if (amount is not None) != (action in ("stock", "budget")):
        raise click.UsageError("--amount goes with stock and budget, and with nothing else")
    adjustment = adjustment_of(
        context.snapshot(), campaign, action, id_, prize=prize, amount=amount, at_ms=time.time_ns() // 1_000_000
    )
    with ledger_to_write(context.workspace, _settings(context, url), context.keyring) as held:
        is_new = held.adjust(adjustment)
    click.echo(f"campaign {campaign}: {action} {'applied' if is_new else 'was applied before, nothing changed'}")


def _by_number(units: dict[int, int]) -> str:
    return " ".join(f"{number}:{count:,}" for number, count in units.items())
