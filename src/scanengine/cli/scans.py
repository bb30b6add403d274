"""``verify`` and ``claim``: one code, from this machine."""

from __future__ import annotations

import sys

import click

from scanengine import open as open_program
from scanengine.cli.control import ServedLedger
from scanengine.cli.shared import Context, json_option, pass_context, print_json
from scanengine.errors import LedgerBusyError
from scanengine.model import Answer
from scanengine.program.scans import Scan, check_code

_EXIT_PENDING = 4


@click.command()
@click.argument("code")
@json_option
@pass_context
def verify(context: Context, code: str, as_json: bool) -> None:
    """Say what a code is. Never claims, never counts; works beside a running server."""
    with open_program(context.folder, ledger="read", settings=context.settings) as program:
        _print_answer(program.verify(check_code(code)), as_json)


@click.command()
@click.argument("code")
@click.option("--user", required=True, help="Who claims, 1 to 64 bytes.")
@click.option("--visit", help="The same for all retries of one scan; a new one by default.")
@click.option("--role", default="consumer", help="consumer, retailer, associate, distributor or inspector.")
@click.option("--region", help="China adcode of 2, 4 or 6 digits.")
@json_option
@pass_context
def claim(
    context: Context, code: str, user: str, visit: str | None, role: str, region: str | None, as_json: bool
) -> None:
    """Scan a code for somebody and claim what it offers. While a server runs, it goes through the server."""
    scan = Scan.of(code, user, visit, role, region)
    try:
        with open_program(context.folder, settings=context.settings) as program:
            answer = program.claim_many([scan])[0]
    except LedgerBusyError:
        answer = ServedLedger(context.workspace).claim(scan)
    _print_answer(answer, as_json)
    if answer.is_pending:
        click.echo(f"scanengine: the outcome is unknown: ask again with --visit {scan.visit}", err=True)
        sys.exit(_EXIT_PENDING)


def _print_answer(answer: Answer, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    click.echo(f"status   {answer.status}" + (f" ({answer.verdict})" if answer.verdict else ""))
    if answer.product:
        click.echo(f"product  {answer.product.title} ({answer.product.gtin})")
    if answer.batch:
        click.echo(f"batch    {answer.batch}: {', '.join(answer.scenes) or 'no scene is on'}")
    if answer.scan:
        click.echo(
            f"scans    {answer.scan.count}" + (f", first at {answer.scan.first_at}" if answer.scan.first_at else "")
        )
    if answer.claim:
        claim_reply = answer.claim
        reason = f" ({claim_reply.reason})" if claim_reply.reason else ""
        again = ", the same answer as before" if claim_reply.replayed else ""
        click.echo(f"claim    {claim_reply.status}{reason}{again}: {claim_reply.id}")
        if claim_reply.prize:
            click.echo(f"prize    {claim_reply.prize.title} ({claim_reply.prize.id})")
