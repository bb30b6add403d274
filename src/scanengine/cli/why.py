"""``why``: every step from the text of a code to what somebody would be given, in words."""

from __future__ import annotations

import os
from typing import Final

import click
import msgspec

from scanengine import open as open_program
from scanengine.cli.shared import Context, MomentType, json_option, pass_context, print_json
from scanengine.cli.words import Language, language_of, sentence
from scanengine.program.foreseeing import why as explain_why

_MARKS: Final = {"yes": "+", "no": "-", "info": " "}


@click.command()
@click.argument("code")
@click.option("--user", help="Who would claim; without it, somebody who has claimed nothing.")
@click.option("--role", default="consumer", help="consumer, retailer, associate, distributor or inspector.")
@click.option("--region", help="China adcode of 2, 4 or 6 digits.")
@click.option("--at", "now_ms", type=MomentType(), help="Time of the scan, now by default.", show_default=False)
@click.option("--lang", "language", type=click.Choice(["zh", "en"]), help="Language, by default that of the terminal.")
@json_option
@pass_context
def why(
    context: Context,
    code: str,
    user: str | None,
    role: str,
    region: str | None,
    now_ms: int | None,
    language: Language | None,
    as_json: bool,
) -> None:
    """Say why a code is answered as it is, and what a claim now would be given. Never claims, never counts."""
    language = language or language_of(dict(os.environ))
    with open_program(context.folder, ledger="none", settings=context.settings) as program:
        found = explain_why(program, code, user=user, role=role, region=region, now_ms=now_ms)
    if as_json:
        steps = [{**msgspec.to_builtins(step), "text": sentence(step, language)} for step in found.steps]
        print_json({"item": found.item, "answer": found.answer, "steps": steps})
        return
    for step in found.steps:
        click.echo(f"{_MARKS[step.outcome]} {sentence(step, language)}")
