"""``batch``: codes are made, listed, exported for the printer, and taken out of use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from scanengine.cli.shared import (
    Context,
    RangeType,
    json_option,
    pass_context,
    print_json,
    print_table,
    progress_bar,
    whole_range,
)
from scanengine.errors import AssignmentError
from scanengine.model import Product
from scanengine.program import exporting, importing, publishing
from scanengine.tables.products import load_products

test_option = click.option("--test", is_flag=True, help="Codes for tests: claimed like others, and worth nothing.")


@click.group()
def batch() -> None:
    """Batches of codes 码包."""


@batch.command("create")
@click.argument("label")
@click.option("--count", required=True, type=click.IntRange(1), help="How many codes.")
@click.option("--gtin", help="Product of the codes; its line is added to products.toml.")
@click.option("--title", help="Title of the product, if it has no line yet.")
@click.option("--slot", type=click.IntRange(0, 31), help="Key slot; the highest active one by default.")
@test_option
@json_option
@pass_context
def create(
    context: Context, label: str, count: int, gtin: str | None, title: str | None, slot: int | None, test: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Make a batch of codes, inactive until `scenes set`."""
    product = _product(context, gtin, title)
    codes = publishing.create_batch(
        context.workspace, context.keyring, label, count, product=product, slot=slot, test=test
    )
    if as_json:
        facts = {"batch": label, "count": codes.count, "slot": codes.slot, "serial_start": codes.serial_start}
        print_json(facts | ({"test": True} if test else {}))
        return
    end = codes.serial_start + codes.count
    kind = "test codes" if test else "codes"
    click.echo(
        f"batch {label}: {codes.count:,} {kind} in slot {codes.slot}, serials {codes.serial_start}:{end}, inactive"
    )


@batch.command("import")
@click.argument("label")
@click.argument("file", type=click.File("rb"))
@click.option("--gtin", help="Product of the codes; its line is added to products.toml.")
@click.option("--title", help="Title of the product, if it has no line yet.")
@test_option
@json_option
@pass_context
def import_(
    context: Context, label: str, file: Any, gtin: str | None, title: str | None, test: bool, as_json: bool
) -> None:
    """Make a batch of codes that others made: FILE has one code a line, - is standard input."""
    product = _product(context, gtin, title)
    codes, is_new = importing.import_batch(
        context.workspace, context.keyring, label, file, product=product, test=test, progress=progress_bar
    )
    if as_json:
        facts = {"batch": label, "count": codes.count, "table": codes.table, "is_new": is_new}
        print_json(facts | ({"test": True} if test else {}))
        return
    kind = "test codes" if test else "codes"
    done = f"{codes.count:,} {kind} imported as table {codes.table}, inactive"
    click.echo(f"batch {label}: {done if is_new else 'these codes were imported before, nothing changed'}")


def _product(context: Context, gtin: str | None, title: str | None) -> Product | None:
    if gtin is None:
        if title is not None:
            raise click.UsageError("--title names a product: give its --gtin too")
        return None
    known = load_products(context.workspace.products_path).get(gtin)
    if known is not None and title in (None, known.title):
        return known
    if title is None:
        raise click.UsageError(f"product {gtin} has no line in products.toml yet: give its --title")
    return Product(gtin, title)


@batch.command("list")
@json_option
@pass_context
def list_batches(context: Context, as_json: bool) -> None:
    """List the batches in the order of their serials."""
    rows = [
        (
            found.label, found.codes.count, "imported" if found.codes.is_imported else found.codes.slot,
            found.codes.table if found.codes.is_imported else found.codes.serial_start, len(found.scenes.profiles),
            found.codes.test,
        )
        for found in context.snapshot().batches
    ]  # fmt: skip
    columns = ("batch", "count", "slot", "serial_start", "profiles", "test")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [(*row[:-1], "test" if row[-1] else "") for row in rows])


@batch.command("export")
@click.argument("label")
@click.option("--range", "offsets", type=RangeType(), help="Half-open range of offsets; all by default.")
@click.option("--format", "form", type=click.Choice(["csv", "ndjson", "text"]), default="csv")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to make, mode 0600.")
@pass_context
def export(
    context: Context, label: str, offsets: tuple[int | None, int | None] | None, form: exporting.ExportFormat,
    output: Path | None,
) -> None:  # fmt: skip
    """Write codes for the printer: offset, code and URL, or one code a line."""
    codes = context.batch(label).codes
    start, end = whole_range(offsets, codes.count)
    base_url = context.settings.program.base_url
    pieces = exporting.export_codes(context.keyring, codes, start, end, form, base_url)
    if output is not None and output.exists():
        raise AssignmentError(f"{output} exists; codes are worth money, and no file of them is overwritten")
    with progress_bar(f"exporting {label}", end - start) as advance:
        if output is None:
            for count, piece in pieces:
                sys.stdout.buffer.write(piece)
                advance(count)
            sys.stdout.buffer.flush()
        else:
            exporting.write_export(output, pieces, advance)


@batch.command("delete")
@click.argument("label")
@click.confirmation_option(prompt="Its codes become unknown, for good. Go on?")
@pass_context
def delete(context: Context, label: str) -> None:
    """Take a batch out of use: its codes are unknown from now on, its serials are never used again."""
    publishing.delete_batch(context.workspace, label)
    click.echo(f"batch {label}: deleted; its tables are kept, as claims refer to them")
