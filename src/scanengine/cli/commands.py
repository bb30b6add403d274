"""The ``scanengine`` command: options that all commands share, and the one mapping from errors to exit codes.

0   done; a code that is not valid is an answer, not an error
1   an error, said in one line on standard error
2   the command line itself is wrong
3   the audit found problems
4   the outcome of a claim is unknown: ask again with the same visit
"""

from __future__ import annotations

import logging
import sys

import click

from scanengine import __version__
from scanengine.cli.batches import batch
from scanengine.cli.campaigns import campaign
from scanengine.cli.checks import audit, tables
from scanengine.cli.demo import demo
from scanengine.cli.events import events
from scanengine.cli.ledgers import ledger
from scanengine.cli.load import load
from scanengine.cli.proofs import proof, qr
from scanengine.cli.scans import claim, verify
from scanengine.cli.scenes import scenes
from scanengine.cli.shared import Context
from scanengine.cli.why import why
from scanengine.cli.workspaces import init, serve
from scanengine.errors import ScanEngineError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "-w",
    "--workspace",
    "folder",
    envvar="SCANENGINE_WORKSPACE",
    default=".",
    type=click.Path(file_okay=False),
    help="Folder of the program.",
    show_envvar=True,
)
@click.version_option(__version__, prog_name="scanengine")
@click.pass_context
def cli(context: click.Context, folder: str) -> None:
    """Answer scans of one-item-one-code labels: make codes, say what they are for, publish campaigns, serve."""
    context.obj = Context(folder)


for command in (init, batch, scenes, campaign, verify, claim, why, serve, ledger, events, audit, tables, load, demo):
    cli.add_command(command)
for command in (qr, proof):
    batch.add_command(command)


def run() -> None:
    """Run the command line of this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        cli(prog_name="scanengine")
    except (ScanEngineError, OSError) as error:
        # A reader of our output that went away, as `head` does, is click's business, and no error to speak of.
        click.echo(f"scanengine: {error}", err=True)
        sys.exit(1)
