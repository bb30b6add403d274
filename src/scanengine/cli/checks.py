"""``audit`` and ``tables verify``: is everything as it was written, and nothing lost."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from scanengine.cli.shared import Context, json_option, pass_context, print_json, progress_bar
from scanengine.program.auditing import audit_program

_EXIT_PROBLEMS = 3


@click.command()
@click.option("--witness", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="NDJSON of replies that were received: lists those that the ledger lacks.")  # fmt: skip
@json_option
@pass_context
def audit(context: Context, witness: Path | None, as_json: bool) -> None:
    """Count the ledger again: claims = events = counters, limits held, nothing acknowledged is missing."""
    report = audit_program(context.workspace, context.settings, context.keyring, witness)
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"claims {report.claims:,}, scans {report.scans:,}, events {report.events:,}, counters {report.counters:,}"
        )
        if witness is not None:
            click.echo(
                f"witness: {report.acknowledged:,} acknowledged claims, "
                f"{len(report.lost):,} lost, {len(report.changed):,} changed"
            )
        for claim_id in report.lost:
            click.echo(f"lost: claim {claim_id}")
        for claim_id in report.changed:
            click.echo(f"changed: claim {claim_id}")
        for problem in report.problems:
            click.echo(f"problem: {problem}")
        click.echo("everything agrees" if report.is_clean else "PROBLEMS FOUND")
    if not report.is_clean:
        sys.exit(_EXIT_PROBLEMS)


@click.group()
def tables() -> None:
    """Table files."""


@tables.command("verify")
@pass_context
def verify_tables(context: Context) -> None:
    """Read every current table whole and check every digest."""
    snapshot = context.snapshot()
    mapped = [batch.scenes for batch in snapshot.batches] + list(snapshot.prizes.values())
    total = 0
    with progress_bar("verifying", len(mapped)) as advance:
        for table in mapped:
            total += table.verify()
            advance(1)
    click.echo(
        f"generation {snapshot.generation}: {len(mapped) + len(snapshot.batches)} tables sound, "
        f"{total:,} bytes digested"
    )
