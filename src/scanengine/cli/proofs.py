"""``batch qr`` and ``batch proof``: codes as symbols, one by one for a layout, or on a sheet to be looked at."""

from __future__ import annotations

import os
import sys
from math import isnan
from pathlib import Path
from typing import Any, Final

import click

from scanengine.cli.shared import Context, RangeType, pass_context, progress_bar, whole_range
from scanengine.errors import AssignmentError, PrintError
from scanengine.program.exporting import write_export
from scanengine.program.printing import (
    MODULE_MM_MIN,
    ErrorLevel,
    PrintedCode,
    make_symbol,
    printed_codes,
    qr_png,
    qr_svg,
)
from scanengine.program.proofs import SheetForm, make_sheet
from scanengine.program.settings import BASE_URL_DEFAULT
from scanengine.program.sheets import lay_out

_QR_CODES_MAX: Final = 100_000
_PROOF_CODES_MAX: Final = 5_000
_Range = tuple[int | None, int | None]


def _print_options(command: Any) -> Any:
    """Add what both commands ask: which codes, how large, how robust."""
    for option in reversed(
        (
            click.argument("label"),
            click.option("--range", "offsets", required=True, type=RangeType(), help="Half-open range of offsets."),
            click.option("--module", "module_mm", type=click.FloatRange(0.05, 10), default=0.4, help="Width in mm."),
            click.option("--small", is_flag=True, help=f"Allow modules under {MODULE_MM_MIN} mm."),
            click.option(
                "--error", type=click.Choice(["L", "M", "Q", "H"]), default="M",
                help="Error correction: 7, 15, 25 or 30 % of a symbol may be lost.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _codes(
    context: Context, label: str, offsets: _Range, module_mm: float, small: bool, most: int
) -> list[PrintedCode]:
    codes = context.batch(label).codes
    start, end = whole_range(offsets, codes.count)
    if end - start > most:
        raise AssignmentError(
            f"range {start}:{end} has {end - start:,} codes, more than {most:,}: print in parts, or from `batch export`"
        )
    if not (small or module_mm >= MODULE_MM_MIN) or isnan(module_mm):
        raise PrintError(
            f"a module of {module_mm:g} mm is under {MODULE_MM_MIN} mm, which many printers and phones cannot resolve: "
            "widen --module, or say --small"
        )
    base_url = context.settings.program.base_url
    found = printed_codes(context.keyring, codes, start, end, base_url)
    if base_url == BASE_URL_DEFAULT and found[0].text != found[0].words:
        click.echo(f"scanengine: codes lead to {base_url}: set base_url in scanengine.toml before you print", err=True)
    return found


@click.command("qr")
@_print_options
@click.option("--format", "form", type=click.Choice(["svg", "png"]), default="svg")
@click.option("--dpi", type=click.IntRange(72, 4_800), default=600, help="Of PNG; modules are whole pixels.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for one file a code, mode 0600.")
@pass_context
def qr(
    context: Context, label: str, offsets: _Range, module_mm: float, small: bool, error: ErrorLevel, form: str,
    dpi: int, out: Path | None,
) -> None:  # fmt: skip
    """Write codes as QR symbols of true size: one to standard output, or a file each."""
    codes = _codes(context, label, offsets, module_mm, small, _QR_CODES_MAX)

    def drawn(code: PrintedCode) -> bytes:
        symbol = make_symbol(code.text, error)
        return qr_svg(symbol, module_mm) if form == "svg" else qr_png(symbol, module_mm, dpi)

    if out is None:
        if len(codes) != 1:
            raise click.UsageError(f"{len(codes):,} codes are a file each: give a folder with --out")
        sys.stdout.buffer.write(drawn(codes[0]))
        sys.stdout.buffer.flush()
        return
    paths = [out / f"{label}-{code.offset}.{form}" for code in codes]
    _expect_new(paths)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with progress_bar(f"drawing {label}", len(codes)) as advance:
        for path, code in zip(paths, codes, strict=True):
            write_export(path, iter([(1, drawn(code))]), advance)
    click.echo(f"batch {label}: {len(codes):,} QR symbols in {out}")


@click.command("proof")
@_print_options
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="sheet.svg or sheet.pdf."
)
@pass_context
def proof(
    context: Context, label: str, offsets: _Range, module_mm: float, small: bool, error: ErrorLevel, output: Path
) -> None:
    """Make a sheet of QR symbols at true size on A4, and read it back before it is written."""
    form = _form_of(output)
    codes = _codes(context, label, offsets, module_mm, small, _PROOF_CODES_MAX)
    is_test = context.batch(label).codes.test
    pages = lay_out(f"{label} (test codes, never pay)" if is_test else label, codes, error, module_mm)
    paths = [output]
    if form == "svg" and len(pages) > 1:
        paths = [output.with_stem(f"{output.stem}-{page.number}") for page in pages]
    _expect_new(paths)
    files = make_sheet(pages, form)
    written: list[Path] = []
    try:
        for path, file in zip(paths, files, strict=True):
            write_export(path, iter([(1, file)]), lambda _: None)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    layout = pages[0].layout
    names = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    click.echo(
        f"{names}: {len(codes):,} codes on {len(pages)} page{'s' * (len(pages) > 1)}, QR {layout.version}, "
        f"module {module_mm:g} mm, symbol {layout.modules * module_mm:.1f} mm; each read back"
    )


def _form_of(output: Path) -> SheetForm:
    if output.suffix == ".svg":
        return "svg"
    if output.suffix == ".pdf":
        return "pdf"
    raise click.UsageError(f"-o {output}: expected a name that ends in .svg or .pdf")


def _expect_new(paths: list[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise AssignmentError(f"{path} exists; codes are worth money, and no file of them is overwritten")
