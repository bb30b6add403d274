"""Proof sheets: QR symbols at true size on A4, as SVG and PDF.

A sheet is laid out once, in millimetres from the top left, and written by either writer from the same layout:

    | header: batch, offsets, symbol, module width, page                    |
    |   | |  crop marks above each column                                   |
    | - +---------+---------+                                               |
    |   | symbol  | symbol  |   a cell: quiet zone, symbol, quiet zone,      |
    |   | words   | words   |   the words under it                           |
    | - +---------+---------+                                               |
    | footer: a bar of 50 mm to measure                                     |
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, Final
from xml.sax.saxutils import escape

import msgspec

from scanengine.errors import PrintError
from scanengine.program.printing import (
    MM_PER_INCH,
    QUIET_MODULES,
    ErrorLevel,
    PrintedCode,
    make_symbol,
    outlines,
    svg_path,
)

PAGE_WIDTH_MM, PAGE_HEIGHT_MM = 210.0, 297.0
MARGIN_MM: Final = 12.0
HEADER_MM: Final = 10.0
FOOTER_MM: Final = 10.0
WORDS_MM_MAX: Final = 1.9
"""Size of the type under a symbol; smaller where a line of ``_LETTERS_MIN`` letters would not fit."""
_LETTERS_MIN: Final = 12
_LETTER: Final = 0.68
"""Width of a letter on average, in sizes of the type."""
_LEADING: Final = 1.25
_MARK_MM: Final = 4.0
_HAIRLINE_MM: Final = 0.1
_BAR_MM: Final = 50.0
_POINTS_PER_MM: Final = 72 / MM_PER_INCH
_HINT: Final = "50 mm: print at 100 %, not fitted to the page"


class Cell(msgspec.Struct, frozen=True):
    """One code in its place; `x_mm` and `y_mm` are the top left of its quiet zone."""

    code: PrintedCode
    matrix: tuple[bytearray, ...]
    x_mm: float
    y_mm: float
    lines: tuple[str, ...]


class Line(msgspec.Struct, frozen=True):
    """A line of type: the left end of its baseline, its size and its width."""

    x_mm: float
    y_mm: float
    size_mm: float
    width_mm: float
    text: str

    def __repr__(self) -> str:
        """Show the place, never the words, which may be a code."""
        return f"<Line at {self.x_mm:.1f}, {self.y_mm:.1f} mm>"


class Layout(msgspec.Struct, frozen=True):
    """What all pages of a sheet share: the symbols have one version, the cells one size."""

    title: str
    module_mm: float
    modules: int
    version: str
    columns: int
    rows: int
    cell_width_mm: float
    cell_height_mm: float
    words_mm: float

    @property
    def side_mm(self) -> float:
        """Side of a symbol with its quiet zone."""
        return (self.modules + 2 * QUIET_MODULES) * self.module_mm


class Page(msgspec.Struct, frozen=True):
    """One page."""

    layout: Layout
    number: int
    count: int
    cells: tuple[Cell, ...]

    @property
    def header(self) -> str:
        """What stands on top."""
        layout, first, last = self.layout, self.cells[0].code.offset, self.cells[-1].code.offset
        return (
            f"{layout.title}   offsets {first}:{last + 1}   QR {layout.version}   "
            f"module {layout.module_mm:g} mm   page {self.number} of {self.count}"
        )

    def lines(self) -> Iterator[Line]:
        """Yield all that is written on the page: what stands on top, the words under the symbols, what stands below."""
        yield _line(MARGIN_MM, MARGIN_MM, 3, PAGE_WIDTH_MM - 2 * MARGIN_MM, self.header)
        size, side = self.layout.words_mm, self.layout.side_mm
        for cell in self.cells:
            for number, text in enumerate(cell.lines):
                width = len(text) * size * _LETTER
                baseline = cell.y_mm + side + (1 + number * _LEADING) * size
                yield Line(cell.x_mm + (side - width) / 2, baseline, size, width, text)
        yield _line(MARGIN_MM + _BAR_MM + 2, PAGE_HEIGHT_MM - MARGIN_MM + 0.8, 2.5, PAGE_WIDTH_MM / 2, _HINT)

    def strokes(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield the hairlines (x1, y1, x2, y2): crop marks for each border of a column or a row, and the bar."""
        layout = self.layout
        left, top = MARGIN_MM, MARGIN_MM + HEADER_MM
        right, bottom = left + layout.columns * layout.cell_width_mm, top + layout.rows * layout.cell_height_mm
        for column in range(layout.columns + 1):
            x = left + column * layout.cell_width_mm
            yield x, top - _MARK_MM - 1, x, top - 1
            yield x, bottom + 1, x, bottom + 1 + _MARK_MM
        for row in range(layout.rows + 1):
            y = top + row * layout.cell_height_mm
            yield left - 1 - _MARK_MM, y, left - 1, y
            yield right + 1, y, right + 1 + _MARK_MM, y
        yield MARGIN_MM, PAGE_HEIGHT_MM - MARGIN_MM, MARGIN_MM + _BAR_MM, PAGE_HEIGHT_MM - MARGIN_MM


def _line(x_mm: float, y_mm: float, size_mm: float, room_mm: float, text: str) -> Line:
    return Line(x_mm, y_mm, size_mm, min(len(text) * size_mm * _LETTER, room_mm), text)


def lay_out(title: str, codes: Sequence[PrintedCode], error: ErrorLevel, module_mm: float) -> list[Page]:
    """Lay out a sheet.

    Raises
    ------
    PrintError
        If a text does not fit a symbol, or a symbol the page.
    """
    version = max(int(make_symbol(code.text, error).version) for code in codes)
    symbols = [make_symbol(code.text, error, version) for code in codes]
    modules = len(symbols[0].matrix)
    width = (modules + 2 * QUIET_MODULES) * module_mm
    room = width - 2 * module_mm
    letters_max = max(_LETTERS_MIN, int(room / (WORDS_MM_MAX * _LETTER)))
    lines = [_lines(code.words, letters_max) for code in codes]
    longest = max(len(line) for each in lines for line in each)
    words_mm = min(WORDS_MM_MAX, room / (longest * _LETTER))
    height = width + max(map(len, lines)) * words_mm * _LEADING + 1
    columns = int((PAGE_WIDTH_MM - 2 * MARGIN_MM) / width)
    rows = int((PAGE_HEIGHT_MM - 2 * MARGIN_MM - HEADER_MM - FOOTER_MM) / height)
    if not columns or not rows:
        raise PrintError(
            f"a symbol of {width:.0f} x {height:.0f} mm does not fit an A4 page: choose a smaller --module"
        )
    layout = Layout(title, module_mm, modules, f"{version}-{error}", columns, rows, width, height, words_mm)
    places = [
        (MARGIN_MM + column * width, MARGIN_MM + HEADER_MM + row * height)
        for row in range(rows)
        for column in range(columns)
    ]
    cells = [
        Cell(code, symbol.matrix, *places[index % len(places)], lines[index])
        for index, (code, symbol) in enumerate(zip(codes, symbols, strict=True))
    ]
    starts = range(0, len(cells), len(places))
    return [
        Page(layout, number, len(starts), tuple(cells[start : start + len(places)]))
        for number, start in enumerate(starts, 1)
    ]


def _lines(words: str, letters_max: int) -> tuple[str, ...]:
    """Return words cut into the fewest lines, of about one length: a code of ours halves at a hyphen."""
    length = ceil(len(words) / ceil(len(words) / letters_max))
    return tuple(words[start : start + length] for start in range(0, len(words), length))


def svg_page(page: Page) -> bytes:
    """Return one page as SVG: a user unit is a millimetre."""
    layout = page.layout
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PAGE_WIDTH_MM:g}mm" height="{PAGE_HEIGHT_MM:g}mm" '
        f'viewBox="0 0 {PAGE_WIDTH_MM:g} {PAGE_HEIGHT_MM:g}" font-family="monospace">',
        f'<rect width="{PAGE_WIDTH_MM:g}" height="{PAGE_HEIGHT_MM:g}" fill="#fff"/>',
        f'<g stroke="#000" stroke-width="{_HAIRLINE_MM}">',
    ]
    parts += [f'<path d="M{x1:.4f} {y1:.4f}L{x2:.4f} {y2:.4f}"/>' for x1, y1, x2, y2 in page.strokes()]
    parts.append("</g>")
    for cell in page.cells:
        inset = QUIET_MODULES * layout.module_mm
        move = f"translate({cell.x_mm + inset:.4f} {cell.y_mm + inset:.4f}) scale({layout.module_mm:g})"
        parts.append(f'<path transform="{move}" fill-rule="evenodd" d="{svg_path(cell.matrix)}"/>')
    # The width is given, as every viewer has another font.
    parts += [
        f'<text x="{line.x_mm:.4f}" y="{line.y_mm:.4f}" font-size="{line.size_mm:.4g}" '
        f'textLength="{line.width_mm:.4f}" lengthAdjust="spacingAndGlyphs">{escape(line.text)}</text>'
        for line in page.lines()
    ]
    parts.append("</svg>\n")
    return "\n".join(parts).encode()


def pdf_sheet(pages: Sequence[Page]) -> bytes:
    """Return all pages as one PDF, fonts embedded."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    # Bitstream Vera comes with reportlab; what every reader brings itself may not be embedded, and printers want it so.
    font = TTFont("Vera", "Vera.ttf")
    pdfmetrics.registerFont(font)
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(PAGE_WIDTH_MM * _POINTS_PER_MM, PAGE_HEIGHT_MM * _POINTS_PER_MM), pageCompression=1)
    canvas.setTitle(pages[0].layout.title)
    for page in pages:
        # Millimetres from the top left, as everywhere here; type is turned back where it stands.
        canvas.transform(_POINTS_PER_MM, 0, 0, -_POINTS_PER_MM, 0, PAGE_HEIGHT_MM * _POINTS_PER_MM)
        canvas.setLineWidth(_HAIRLINE_MM)
        for stroke in page.strokes():
            canvas.line(*stroke)
        for cell in page.cells:
            _pdf_symbol(canvas, page.layout, cell)
        for line in page.lines():
            _pdf_line(canvas, line, line.width_mm / pdfmetrics.stringWidth(line.text, "Vera", line.size_mm))
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def _pdf_symbol(canvas: Any, layout: Layout, cell: Cell) -> None:
    inset = QUIET_MODULES * layout.module_mm
    path = canvas.beginPath()
    for border in outlines(cell.matrix):
        for place, (x, y) in enumerate(border):
            step = path.lineTo if place else path.moveTo
            step(cell.x_mm + inset + x * layout.module_mm, cell.y_mm + inset + y * layout.module_mm)
        path.close()
    canvas.drawPath(path, stroke=0, fill=1, fillMode=0)


def _pdf_line(canvas: Any, line: Line, stretch: float) -> None:
    canvas.saveState()
    canvas.transform(stretch, 0, 0, -1, line.x_mm, line.y_mm)
    canvas.setFont("Vera", line.size_mm)
    canvas.drawString(0, 0, line.text)
    canvas.restoreState()
