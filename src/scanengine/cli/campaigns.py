"""``campaign``: check a campaign file, publish it, show what is published."""

from __future__ import annotations

import click

from scanengine.campaigns import check_campaign, parse_campaign
from scanengine.cli.shared import Context, json_option, pass_context, print_json, print_unbound
from scanengine.errors import CampaignError
from scanengine.program import publishing


@click.group()
def campaign() -> None:
    """Campaigns 活动."""


@campaign.command("check")
@click.argument("name", metavar="FILE|ID")
@click.option(
    "--expected-scans", type=click.IntRange(0), help="Codes that will be scanned, to set winners against stock."
)
@pass_context
def check(context: Context, name: str, expected_scans: int | None) -> None:
    """Say what is wrong or odd about a campaign file, what it may cost, and whom it will make win."""
    path = publishing.campaign_path(context.workspace, name)
    found = parse_campaign(publishing.read_campaign_text(path), str(path))
    for note in check_campaign(found, expected_scans):
        click.echo(note)
    click.echo(f"campaign {found.id}: the file is valid")


@campaign.command("publish")
@click.argument("name", metavar="FILE|ID")
@pass_context
def publish(context: Context, name: str) -> None:
    """Publish a campaign file as a new generation; servers follow within a second."""
    path = publishing.campaign_path(context.workspace, name)
    publication = publishing.publish_campaign(context.workspace, context.keyring, path)
    for note in publication.notes:
        click.echo(note)
    click.echo(f"campaign {publication.campaign}: published, generation {publication.generation}")
    print_unbound(publication.snapshot)


@campaign.command("show")
@click.argument("name", metavar="ID")
@json_option
@pass_context
def show(context: Context, name: str, as_json: bool) -> None:
    """Show a published campaign."""
    prizes = context.snapshot().prizes
    if name not in prizes:
        raise CampaignError(name, [f"not published; there are {', '.join(sorted(prizes)) or 'none'}"])
    metadata = prizes[name].metadata
    if as_json:
        print_json(metadata)
        return
    click.echo(f"{metadata.id}: {metadata.title} (generation {metadata.generation}, {metadata.timezone})")
    for prize in metadata.prizes:
        limits = [f"stock {prize.stock}"] if prize.stock is not None else []
        limits += [f"{prize.stock_per_day} a day"] if prize.stock_per_day is not None else []
        amount = "" if prize.amount is None else f" {prize.amount} {prize.currency or ''}".rstrip()
        click.echo(
            f"  prize {prize.number} {prize.id}: {prize.kind}{amount} {prize.title!r} {', '.join(limits)}".rstrip()
        )
    for rule in metadata.rules:
        click.echo(f"  rule {rule.number} {rule.id}: {rule.mode} {' '.join(rule.weights)}".rstrip())
