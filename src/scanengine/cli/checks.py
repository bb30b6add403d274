"""``audit`` and ``tables verify``: is everything as it was written, and nothing lost."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from scanengine.cli.shared import Context, json_option, pass_context, print_json, progress_bar
from scanengine.program.auditing import audit_program, decisions_kept
from scanengine.program.keeping import former_tables, verify_former
from scanengine.tables.codes import CodeTable
from scanengine.tables.prizes import PrizeTable
from scanengine.tables.scenes import SceneTable

_EXIT_PROBLEMS = 3


@click.command()
@click.option("--witness", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="NDJSON of replies that were received: lists those that the ledger lacks.")  # fmt: skip
@json_option
@pass_context
def audit(context: Context, witness: Path | None, as_json: bool) -> None:
    """Count and decide again: claims = events = counters, limits held, every decision as the tables make it."""
    opened = (context.workspace, context.settings, context.keyring)
    with progress_bar("replaying", decisions_kept(*opened)) as advance:
        report = audit_program(*opened, witness, advance)
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"claims {report.claims:,}, scans {report.scans:,}, events {report.events:,}, counters {report.counters:,}"
        )
        click.echo(f"decisions replayed: {report.replayed:,}, of these {report.replayed_events:,} from whole events")
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
        for note in report.notes:
            click.echo(f"note: {note}")
        click.echo("everything agrees" if report.is_clean else "PROBLEMS FOUND")
    if not report.is_clean:
        sys.exit(_EXIT_PROBLEMS)


@click.group()
def tables() -> None:
    """Table files."""


@tables.command("verify")
@pass_context
def verify_tables(context: Context) -> None:
    """Read every table whole and check every digest, those that only claims refer to among them."""
    snapshot = context.snapshot()
    scenes, codes = [batch.scenes for batch in snapshot.batches], [batch.codes for batch in snapshot.batches]
    mapped: list[SceneTable | CodeTable | PrizeTable] = [*scenes, *codes, *snapshot.prizes.values()]
    former = former_tables(context.workspace, snapshot.manifest)
    total = 0
    with progress_bar("verifying", len(mapped) + len(former)) as advance:
        for table in mapped:
            total += table.verify()
            advance(1)
        for kind, name in former:
            total += verify_former(context.workspace, snapshot.manifest, kind, name)
            advance(1)
    sound = f"{len(mapped)} tables sound, and {len(former)} of former generations"
    click.echo(f"generation {snapshot.generation}: {sound}, {total:,} bytes digested")
