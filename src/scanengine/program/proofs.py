"""A sheet of codes is looked at before anybody prints it: rendered from its own bytes, and decoded by others' code.

Writer and reader share nothing but the layout: renderers are resvg (SVG) and PDFium (PDF), the decoder is ZXing. Each
symbol must say its text and have each module in its place, black on white; each line of words and each hairline must be
where it should be. What has been found right is wiped out, and what is then left on the page should not be there.

A page is rendered, checked and dropped before the next, as a page takes some 15 MB.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine.errors import PrintError
from scanengine.program.printing import MM_PER_INCH, QUIET_MODULES
from scanengine.program.sheets import PAGE_HEIGHT_MM, PAGE_WIDTH_MM, Cell, Line, Page, pdf_sheet, svg_page

SheetForm = Literal["svg", "pdf"]
_PIXELS_PER_MODULE: Final = 5
_DPI_MIN, _DPI_MAX = 100, 600
"""Of a rendered page; finer symbols than printers have dots for should not read back."""
_BLACK_MAX, _WHITE_MIN = 38, 217
"""Of 255: the contrast of 70 % that ISO/IEC 15415 asks for its best grade."""
_INK_MAX: Final = 240
"""A hairline between two rows of pixels at 100 dpi leaves no more than a light gray in each."""
_COVERED_SHARE: Final = 0.6
"""Of a line of type that is black; the densest type has less."""
_NEEDS: Final = ("PIL", "pypdfium2", "reportlab", "resvg_py", "zxingcpp")


class _Look(msgspec.Struct, frozen=True):
    """What a reader finds on a page: its picture, and the middle of each text in millimetres with the text."""

    image: NDArray[np.uint8]
    texts: list[tuple[float, float, str]]

    def __repr__(self) -> str:
        return f"<_Look {self.image.shape}>"


@contextmanager
def needs_print() -> Iterator[None]:
    """Import what needs the extra ``print`` inside the block; PrintError that names it if it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDS:
            raise
        raise PrintError(f"{error.name} is missing: pip install 'scanengine[print]'") from error


def make_sheet(pages: Sequence[Page], form: SheetForm) -> list[bytes]:
    """Return the files of a sheet, each read back: one PDF, or one SVG a page.

    Raises
    ------
    PrintError
        If a page does not read back, or the extra ``print`` is missing.
    """
    with needs_print():
        files = [svg_page(page) for page in pages] if form == "svg" else [pdf_sheet(pages)]
        check_sheet(files, form, pages)
    return files


def check_sheet(files: Sequence[bytes], form: SheetForm, pages: Sequence[Page]) -> None:
    """Check that files hold what the pages do, in its places, at true size, and nothing else.

    Raises
    ------
    PrintError
        Naming the page, and the code by its offset, of the first that is missing or different.
    """
    density = min(max(_PIXELS_PER_MODULE * MM_PER_INCH / pages[0].layout.module_mm, _DPI_MIN), _DPI_MAX)
    looks = _svg_looks(files, density) if form == "svg" else _pdf_looks(files[0], density)
    for page, look in zip_longest(pages, looks):
        if page is None or look is None:
            raise PrintError(f"the sheet has not the {len(pages)} pages that it should have: it is not written")
        _check_page(page, look, density / MM_PER_INCH)
        del look


def _check_page(page: Page, look: _Look, pixels: float) -> None:
    image = look.image
    expected = (round(PAGE_HEIGHT_MM * pixels), round(PAGE_WIDTH_MM * pixels))
    if any(abs(found - wanted) > 2 for found, wanted in zip(image.shape, expected, strict=True)):
        raise PrintError(f"page {page.number} is {image.shape} pixels, expected {expected}: it is not of true size")
    for cell in page.cells:
        _check_cell(page, cell, image, pixels)
    lines = list(page.lines())
    for line in lines:
        _check_line(page, line, look, pixels)
    if len(look.texts) != len(lines):
        raise PrintError(f"page {page.number} has {len(look.texts)} texts, expected {len(lines)}: it is not written")
    for stroke in page.strokes():
        _check_stroke(page, stroke, image, pixels)
    left_over = np.argwhere(image < _INK_MAX)
    if len(left_over):
        y, x = left_over[0] / pixels
        raise PrintError(
            f"page {page.number} has something outside its cells, {x:.0f} mm from the left and {y:.0f} mm from the "
            "top: the sheet is not written"
        )


def _check_cell(page: Page, cell: Cell, image: NDArray[np.uint8], pixels: float) -> None:
    import zxingcpp

    layout = page.layout
    part = _part(image, pixels, cell.x_mm, cell.y_mm, cell.x_mm + layout.side_mm, cell.y_mm + layout.side_mm)
    formats = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
    found = zxingcpp.read_barcodes(np.ascontiguousarray(part), formats=formats)
    where = f"page {page.number}, the code of offset {cell.code.offset}"
    if len(found) != 1 or found[0].text != cell.code.text:
        what = "another code" if found else "nothing"
        raise PrintError(f"{where} reads back as {what}: the sheet is not written; try a wider --module")
    is_dark = np.pad(np.array(cell.matrix, dtype=bool), QUIET_MODULES)
    middles = (np.arange(len(is_dark)) + 0.5) * layout.module_mm
    rows, columns = (((start + middles) * pixels).astype(int) for start in (cell.y_mm, cell.x_mm))
    modules = image[np.ix_(rows, columns)]
    if (modules[is_dark] > _BLACK_MAX).any() or (modules[~is_dark] < _WHITE_MIN).any():
        raise PrintError(
            f"{where} is not black on white with each module in its place: the sheet is not written; "
            "try a wider --module"
        )
    part[:] = 255


def _check_line(page: Page, line: Line, look: _Look, pixels: float) -> None:
    # Descenders reach a quarter of the size below the baseline, and some letters lean out at the ends.
    left, right = line.x_mm - 0.3, line.x_mm + line.width_mm + 0.3
    top, bottom = line.y_mm - line.size_mm, line.y_mm + 0.35 * line.size_mm
    here = [text for x, y, text in look.texts if left < x < right and top < y < bottom]
    part = _part(look.image, pixels, left, top, right, bottom)
    # Spaces are not compared: viewers and PDFium show several as one.
    is_right = len(here) == 1 and here[0].split() == line.text.split()
    if not is_right or part.min() > _INK_MAX or (part < 128).mean() > _COVERED_SHARE:
        raise PrintError(
            f"page {page.number} has not the words that it should have, {line.x_mm:.0f} mm from the left and "
            f"{line.y_mm:.0f} mm from the top: the sheet is not written"
        )
    part[:] = 255


def _check_stroke(
    page: Page, stroke: tuple[float, float, float, float], image: NDArray[np.uint8], pixels: float
) -> None:
    x1, y1, x2, y2 = stroke
    near = 2 / pixels
    across = _part(image, pixels, x1 - near, y1 - near, x2 + near, y2 + near)
    # The darkest pixel of each step along the hairline; at its ends the first pixels may be white.
    along = across.min(axis=0 if y1 == y2 else 1)
    if (along[4:-4] > _INK_MAX).any():
        raise PrintError(
            f"page {page.number} has not the hairline that it should have, {x1:.0f} mm from the left and {y1:.0f} mm "
            "from the top: the sheet is not written"
        )
    across[:] = 255


def _part(
    image: NDArray[np.uint8], pixels: float, left: float, top: float, right: float, bottom: float
) -> NDArray[np.uint8]:
    """Return the view of a part of a page, its borders in millimetres."""
    return image[round(top * pixels) : round(bottom * pixels), round(left * pixels) : round(right * pixels)]


def _svg_looks(files: Sequence[bytes], density: float) -> Iterator[_Look]:
    import reportlab
    import resvg_py

    font = Path(reportlab.__file__).with_name("fonts") / "Vera.ttf"
    for file in files:
        try:
            png = resvg_py.svg_to_bytes(
                svg_string=file.decode(),
                dpi=density,
                background="#ffffff",
                skip_system_fonts=True,
                font_files=[str(font)],
                monospace_family="Bitstream Vera Sans",
            )
            texts = _svg_texts(ElementTree.fromstring(file))
        except (ValueError, ElementTree.ParseError) as error:
            raise PrintError(f"the sheet is no SVG that can be rendered: {error}") from error
        yield _Look(_gray_of(bytes(png)), texts)


def _svg_texts(root: ElementTree.Element) -> list[tuple[float, float, str]]:
    return [
        (float(text.get("x", "nan")) + float(text.get("textLength", "nan")) / 2, float(text.get("y", "nan")),
         "".join(text.itertext()))
        for text in root.iter("{http://www.w3.org/2000/svg}text")
    ]  # fmt: skip


def _gray_of(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.array(image.convert("L"))


def _pdf_looks(data: bytes, density: float) -> Iterator[_Look]:
    import pypdfium2

    try:
        document: Any = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise PrintError(f"the sheet is no PDF that can be rendered: {error}") from error
    try:
        for page in document:
            bitmap = page.render(scale=density / 72, grayscale=True)
            image = np.array(bitmap.to_numpy()).squeeze()
            texts = _pdf_texts(page)
            bitmap.close()
            page.close()
            yield _Look(image, texts)
            del image
    finally:
        document.close()


def _pdf_texts(page: Any) -> list[tuple[float, float, str]]:
    from pypdfium2.raw import FPDF_PAGEOBJ_TEXT

    texts = []
    mm = MM_PER_INCH / 72
    for found in page.get_objects(filter=[FPDF_PAGEOBJ_TEXT], textpage=page.get_textpage()):
        left, bottom, right, top = found.get_bounds()
        # PDFium takes a hyphen at the end of a line for one that divides a word, and says U+0002 for it.
        text = found.extract().replace("\x02", "-")
        texts.append(((left + right) / 2 * mm, PAGE_HEIGHT_MM - (top + bottom) / 2 * mm, text))
    return texts
