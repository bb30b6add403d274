"""QR symbols of codes at their true size: what is printed, as SVG and PNG.

Upper-case URLs and most foreign codes fit QR's alphanumeric mode, 5.5 bits a character. The dark modules are drawn as
outlines and not one by one, so that no renderer can leave hairlines between them.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec
import segno
from segno.encoder import DataOverflowError

from scanengine.codes import hyphenate
from scanengine.errors import PrintError
from scanengine.keys import Keyring
from scanengine.program.exporting import export_codes
from scanengine.tables.codes import CodeTable

ErrorLevel = Literal["L", "M", "Q", "H"]
QUIET_MODULES: Final = 4
"""The light margin that ISO/IEC 18004 asks for on every side, in modules."""
MODULE_MM_MIN: Final = 0.33
"""Finer modules are lost on many printers, and on phones held at arm's length."""
MM_PER_INCH: Final = 25.4
_PNG_HEAD_BYTES: Final = 33
"""Signature and IHDR; what a PNG says of its density follows."""

Point = tuple[int, int]


class PrintedCode(msgspec.Struct, frozen=True):
    """One code to be printed.

    Parameters
    ----------
    text : str
        What the symbol holds: the URL of a code of ours, an imported code as it is.
    words : str
        What stands under it for eyes.
    """

    offset: int
    text: str
    words: str

    def __repr__(self) -> str:
        """Show the offset, never the code, which is a bearer secret."""
        return f"<PrintedCode offset={self.offset}>"


def printed_codes(keyring: Keyring, codes: CodeTable, start: int, end: int, base_url: str) -> list[PrintedCode]:
    """Return the codes of offsets [start, end) as they are printed.

    Raises
    ------
    AssignmentError
        If the range is empty or leaves the batch, or the slot's keys are gone.
    """
    pieces = export_codes(keyring, codes, start, end, "ndjson", base_url)
    rows = [json.loads(line) for _, piece in pieces for line in piece.splitlines()]
    found = []
    for row in rows:
        code, url = row["code"], row.get("url") or row["code"]
        found.append(PrintedCode(row["offset"], url, code if url == code else hyphenate(code)))
    return found


def make_symbol(text: str, error: ErrorLevel = "M", version: int | None = None) -> segno.QRCode:
    """Return the smallest QR symbol of a text at an error correction level, or the one of a version 1 to 40.

    Raises
    ------
    PrintError
        If the text does not fit.
    """
    try:
        return segno.make_qr(text, error=error, version=version, boost_error=False)
    except DataOverflowError as overflow:
        raise PrintError(
            f"a text of {len(text)} characters does not fit a QR symbol at error level {error}: choose a lower level"
        ) from overflow


def outlines(matrix: Sequence[Sequence[int]]) -> list[list[Point]]:
    """Return the borders between dark and light modules as closed polygons, to be filled even-odd.

    Parameters
    ----------
    matrix : (n, n) of 0 and 1
        Rows from the top, dark is 1.

    Returns
    -------
    list of list of (x, y)
        Corners in modules from the top left; only those where the border turns.
    """
    size = len(matrix)
    following: dict[Point, list[Point]] = {}

    def is_dark(x: int, y: int) -> bool:
        return 0 <= x < size and 0 <= y < size and bool(matrix[y][x])

    for y in range(size):
        for x in range(size):
            if is_dark(x, y):
                corners = ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y))
                beside = ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y))
                for edge, neighbour in zip(pairwise(corners), beside, strict=True):
                    if not is_dark(*neighbour):
                        following.setdefault(edge[0], []).append(edge[1])
    found = []
    while following:
        start = point = next(iter(following))
        border: list[Point] = []
        while not border or point != start:
            border.append(point)
            after = following[point]
            point = after.pop()
            if not after:
                del following[border[-1]]
        found.append([corner for place, corner in enumerate(border) if _turns(border, place)])
    return found


def _turns(border: list[Point], place: int) -> bool:
    before, corner, after = border[place - 1], border[place], border[(place + 1) % len(border)]
    return (before[0] == corner[0]) != (corner[0] == after[0])


def svg_path(matrix: Sequence[Sequence[int]]) -> str:
    """Return the dark modules as the data of one SVG path, in modules, to be filled even-odd."""
    parts = []
    for border in outlines(matrix):
        # Borders go along rows and columns in turn, so each corner after the first needs one number.
        (x, y), *rest = border
        steps = [f"M{x} {y}"]
        for corner in rest:
            steps.append(f"H{corner[0]}" if corner[1] == y else f"V{corner[1]}")
            x, y = corner
        parts.append("".join(steps) + "z")
    return "".join(parts)


def qr_svg(symbol: segno.QRCode, module_mm: float) -> bytes:
    """Return a symbol with its quiet zone as SVG of true size."""
    size = len(symbol.matrix) + 2 * QUIET_MODULES
    side = f"{size * module_mm:.4f}mm"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" viewBox="0 0 {size} {size}">'
        f'<rect width="{size}" height="{size}" fill="#fff"/>'
        f'<path transform="translate({QUIET_MODULES} {QUIET_MODULES})" fill-rule="evenodd" '
        f'd="{svg_path(symbol.matrix)}"/></svg>\n'
    ).encode()


def qr_png(symbol: segno.QRCode, module_mm: float, dpi: int) -> bytes:
    """Return a symbol with its quiet zone as PNG: whole pixels a module, near `dpi`, true in size to 0.05 %.

    Raises
    ------
    PrintError
        If a module would be less than a pixel.
    """
    pixels = round(module_mm * dpi / MM_PER_INCH)
    if pixels < 1:
        raise PrintError(f"a module of {module_mm} mm is less than a pixel at {dpi} dpi: raise --dpi or --module")
    out = io.BytesIO()
    symbol.save(out, kind="png", scale=pixels, border=QUIET_MODULES)
    png = out.getvalue()
    return png[:_PNG_HEAD_BYTES] + _density_chunk(pixels / module_mm * 1_000) + png[_PNG_HEAD_BYTES:]


def _density_chunk(pixels_per_metre: float) -> bytes:
    # Written here, as whole dots an inch would be off by up to 0.8 % at 72 dpi; a whole number a metre is what PNG has.
    density = round(pixels_per_metre)
    body = b"pHYs" + struct.pack(">IIB", density, density, 1)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
