"""QR symbols and proof sheets: whatever is printed says its code, at the size that was asked for."""

from __future__ import annotations

import io
import stat
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
import resvg_py
import zxingcpp
from PIL import Image
from reportlab.pdfgen.canvas import Canvas

from helpers import Shop, replaced
from helpers_cli import Run, ok
from scanengine.codes import code_url, hyphenate
from scanengine.errors import PrintError
from scanengine.program.printing import PrintedCode, make_symbol, outlines
from scanengine.program.proofs import _Look, check_sheet, make_sheet
from scanengine.program.sheets import lay_out, pdf_sheet, svg_page

DPI = 300
BASE_URL = "https://b.example"
FOREIGN = ("P.URL.CN/A1%+B/$*:C.9Z8Y7X6W", "0000abcde", "ABC$%*+-./:9")
"""Imported codes: their own texts, in and out of QR's alphanumeric mode."""


@pytest.fixture
def printed(shop: Shop) -> Shop:
    """A shop whose codes lead somewhere."""
    path = shop.workspace.settings_path
    path.write_text(replaced(path.read_text(), "https://example.com", BASE_URL))
    return shop


def texts_of(image: np.ndarray) -> list[str]:
    formats = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
    return sorted(found.text for found in zxingcpp.read_barcodes(image, formats=formats))


def rendered_svg(data: bytes, dpi: float = DPI) -> np.ndarray:
    png = resvg_py.svg_to_bytes(svg_string=data.decode(), dpi=dpi, background="#ffffff", skip_system_fonts=True)
    return np.array(Image.open(io.BytesIO(bytes(png))).convert("L"))


def rendered_pdf(data: bytes, dpi: float = DPI) -> list[np.ndarray]:
    with pypdfium2.PdfDocument(data) as document:
        return [page.render(scale=dpi / 72, grayscale=True).to_numpy().squeeze() for page in document]


def words_of(data: bytes) -> str:
    with pypdfium2.PdfDocument(data) as document:
        return "".join(page.get_textpage().get_text_range() for page in document)


def urls(shop: Shop, start: int, end: int) -> list[str]:
    return sorted(code_url(BASE_URL, code) for code in shop.codes(start, end))


def some_codes(count: int, length: int = 20) -> list[PrintedCode]:
    return [
        PrintedCode(offset, f"HTTPS://B.EXAMPLE/S/{offset:0{length}}", f"words {offset}") for offset in range(count)
    ]


# Symbols ------------------------------------------------------------------------------------------------------------


def test_one_symbol_goes_to_standard_output_and_says_its_url(printed: Shop, run: Run) -> None:
    svg = run("-w", printed.folder, "batch", "qr", "cola", "--range", "7:8")
    assert texts_of(rendered_svg(ok(svg).encode())) == urls(printed, 7, 8)


@pytest.mark.parametrize("form", ["svg", "png"])
def test_symbols_are_files_that_only_their_owner_can_read(printed: Shop, run: Run, tmp_path: Path, form: str) -> None:
    out = tmp_path / "made" / "symbols"
    ok(run("-w", printed.folder, "batch", "qr", "cola", "--range", "3:9", "--format", form, "--out", out))
    files = sorted(out.iterdir(), key=lambda path: int(path.stem.partition("-")[2]))
    assert [path.name for path in files] == [f"cola-{offset}.{form}" for offset in range(3, 9)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    read = [rendered_svg(path.read_bytes()) if form == "svg" else png_pixels(path) for path in files]
    assert sorted(text for image in read for text in texts_of(image)) == urls(printed, 3, 9)


def png_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("L"))


@pytest.mark.parametrize(("module_mm", "dpi"), [(0.33, 600), (0.4, 72), (0.53, 72), (1.7, 300), (9.7, 72)])
def test_a_png_says_its_true_size(printed: Shop, run: Run, tmp_path: Path, module_mm: float, dpi: int) -> None:
    options = ("--format", "png", "--out", tmp_path / "out", "--module", module_mm, "--dpi", dpi)
    ok(run("-w", printed.folder, "batch", "qr", "cola", "--range", "0:1", *options))
    with Image.open(tmp_path / "out" / "cola-0.png") as image:
        side_mm = image.width / image.info["dpi"][0] * 25.4
    modules = len(make_symbol(urls(printed, 0, 1)[0]).matrix) + 8
    assert side_mm == pytest.approx(modules * module_mm, rel=0.0005)


def test_an_upper_case_url_takes_the_smaller_symbol() -> None:
    """The whole URL in upper case is alphanumeric: 5.5 bits a character instead of 8."""
    url = code_url("https://example.com", "0" * 20)
    assert make_symbol(url).mode == "alphanumeric"
    assert int(make_symbol(url, "H").version) < int(make_symbol(url.lower(), "H").version)


@pytest.mark.parametrize("level", ["L", "M", "Q", "H"])
def test_the_error_level_is_the_one_asked_for(printed: Shop, run: Run, level: str) -> None:
    data = ok(run("-w", printed.folder, "batch", "qr", "cola", "--range", "0:1", "--error", level)).encode()
    formats = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
    (found,) = zxingcpp.read_barcodes(rendered_svg(data), formats=formats)
    assert found.ec_level == level


def test_outlines_fill_exactly_the_dark_modules() -> None:
    """Method: count the borders to the left of each module's middle; odd is inside (even-odd rule)."""
    for number in range(20):
        matrix = make_symbol(f"TEXT {number}").matrix
        edges = []
        for border in outlines(matrix):
            assert all((x == u) != (y == v) for (x, y), (u, v) in zip(border, border[1:] + border[:1], strict=True))
            edges += [(a[0], *sorted((a[1], b[1]))) for a, b in zip(border, border[1:] + border[:1], strict=True)]
        for y, row in enumerate(matrix):
            for x, dark in enumerate(row):
                crossed = sum(at <= x and low <= y < high for at, low, high in edges)
                assert crossed % 2 == dark


# Sheets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_a_sheet_holds_exactly_its_codes_and_their_words(printed: Shop, run: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"sheet.{form}"
    said = ok(run("-w", printed.folder, "batch", "proof", "cola", "--range", "10:40", "-o", path))
    assert "30 codes on 1 page" in said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    image = rendered_svg(data) if form == "svg" else rendered_pdf(data)[0]
    assert texts_of(image) == urls(printed, 10, 40)
    words = data.decode() if form == "svg" else words_of(data)
    for code in printed.codes(10, 40):
        for half in (hyphenate(code)[:12], hyphenate(code)[12:]):
            # What reads a PDF takes the hyphen at the end of a line for one that divides a word.
            assert half in words or half.replace("-", "") in words.replace("-", "")
    assert "page 1 of 1" in words
    assert "offsets 10:40" in words


def test_codes_that_fill_a_page_go_on_to_the_next(printed: Shop, run: Run, tmp_path: Path) -> None:
    options = ("--range", "0:14", "--module", "1.7")
    said = ok(run("-w", printed.folder, "batch", "proof", "cola", *options, "-o", tmp_path / "s.pdf"))
    pages = rendered_pdf((tmp_path / "s.pdf").read_bytes())
    assert f"on {len(pages)} pages" in said
    assert sorted(text for page in pages for text in texts_of(page)) == urls(printed, 0, 14)
    assert len(pages) > 1
    ok(run("-w", printed.folder, "batch", "proof", "cola", *options, "-o", tmp_path / "s.svg"))
    files = [tmp_path / f"s-{number}.svg" for number in range(1, len(pages) + 1)]
    assert sorted(tmp_path.glob("s*.svg")) == files
    assert sorted(text for file in files for text in texts_of(rendered_svg(file.read_bytes()))) == urls(printed, 0, 14)


@pytest.mark.parametrize("module_mm", [0.33, 3.0])
def test_a_sheet_is_of_true_size(module_mm: float) -> None:
    """Method: each module of each symbol, sampled where it should be in millimetres, is dark or light as it should."""
    pages = lay_out("cola", some_codes(5), "M", module_mm)
    dpi = max(100, 25.4 / module_mm * 6)
    for image in (rendered_svg(svg_page(pages[0]), dpi), rendered_pdf(pdf_sheet(pages), dpi)[0]):
        assert np.allclose(np.array(image.shape) / dpi * 25.4, (297, 210), atol=0.5)
        for cell in pages[0].cells:
            for y, row in enumerate(cell.matrix):
                for x, dark in enumerate(row):
                    at = [(cell.y_mm + (4.5 + y) * module_mm), (cell.x_mm + (4.5 + x) * module_mm)]
                    line, column = (int(place / 25.4 * dpi) for place in at)
                    assert (image[line, column] < 128) == bool(dark)


def test_a_batch_that_was_imported_is_printed_as_its_texts(printed: Shop, run: Run, tmp_path: Path) -> None:
    (tmp_path / "codes.txt").write_text("".join(f"{text}\n" for text in FOREIGN))
    ok(run("-w", printed.folder, "batch", "import", "wechat", tmp_path / "codes.txt"))
    ok(run("-w", printed.folder, "batch", "proof", "wechat", "--range", ":", "-o", tmp_path / "s.svg"))
    data = (tmp_path / "s.svg").read_bytes()
    assert texts_of(rendered_svg(data)) == sorted(FOREIGN)
    found = ok(run("-w", printed.folder, "batch", "qr", "wechat", "--range", "1:2"))
    assert texts_of(rendered_svg(found.encode())) == [FOREIGN[1]]


def test_a_sheet_of_test_codes_says_so(printed: Shop, run: Run, tmp_path: Path) -> None:
    ok(run("-w", printed.folder, "batch", "create", "trial", "--count", "5", "--test"))
    ok(run("-w", printed.folder, "batch", "proof", "trial", "--range", ":", "-o", tmp_path / "s.pdf"))
    assert "trial (test codes, never pay)" in words_of((tmp_path / "s.pdf").read_bytes())


def test_the_longest_title_stays_on_the_page() -> None:
    pages = lay_out("W" * 64 + " (test codes, never pay)", some_codes(1), "M", 1.0)
    (pdf,) = make_sheet(pages, "pdf")
    (image,) = rendered_pdf(pdf, 100)
    title = image[: round(14 / 25.4 * 100)]
    assert title.min() < 128
    assert (title[:, round(199 / 25.4 * 100) :] == 255).all()


def test_imported_codes_are_printed_as_they_are() -> None:
    codes = [PrintedCode(offset, text, text) for offset, text in enumerate(FOREIGN)]
    pages = lay_out("foreign <&>", codes, "Q", 0.5)
    (svg,), (pdf,) = make_sheet(pages, "svg"), make_sheet(pages, "pdf")
    assert texts_of(rendered_svg(svg)) == texts_of(rendered_pdf(pdf)[0]) == sorted(FOREIGN)
    assert "0000abcde" in words_of(pdf)


MUTILATIONS = {
    "a code is covered": ("</svg>", '<rect x="0" y="20" width="40" height="14"/></svg>', "nothing"),
    "a symbol is where none should be": ("</svg>", '<g transform="translate(20 200)">{symbol}</g></svg>', "outside"),
    "a speck is beside the symbols": ("</svg>", '<rect x="100" y="200" width=".4" height=".4"/></svg>', "100 mm from"),
    "the page is scaled": ('width="210mm" height="297mm"', 'width="199.5mm" height="282.15mm"', "true size"),
    "a symbol is larger": (" scale(0.5)", " scale(0.51)", "offset 0 is not black on white"),
    "a symbol has moved": ("translate(14.0000 ", "translate(14.3500 ", "offset 0 is not black on white"),
    "a symbol is gray": ('<path transform="', '<path fill="#777" transform="', "offset 0 is not black on white"),
    "the paper is gray": ('fill="#fff"', 'fill="#bbb"', "offset 0 is not black on white"),
    "other words": (">words 3<", ">words 4<", "not the words"),
    "no words": (">words 3<", "><", "not the words"),
    "hidden words": ("</svg>", '<text x="15" y="200" fill="none">words 3</text></svg>', "11 texts, expected 10"),
    "words that cannot be seen": (' font-size="1.9"', ' font-size="1.9" fill="#fff"', "not the words"),
    "words that are covered": ("</svg>", '<rect x="12" y="40.5" width="18" height="3"/></svg>', "not the words"),
    "a bar of 40 mm": ("L62.0000 285.0000", "L52.0000 285.0000", "not the hairline"),
    "a bar of 51 mm": ("L62.0000 285.0000", "L63.0000 285.0000", "outside"),
}
"""What is changed in an SVG sheet the first time it occurs, into what, and a word of the refusal."""


@pytest.mark.parametrize("kind", MUTILATIONS)
def test_a_mutilated_sheet_is_refused(kind: str) -> None:
    before, after, word = MUTILATIONS[kind]
    pages = lay_out("cola", some_codes(8), "M", 0.5)
    sheet = svg_page(pages[0]).decode()
    symbol = sheet[sheet.index('<path transform="') :].partition("/>")[0] + "/>"
    assert before in sheet
    sheet = sheet.replace(before, after.replace("{symbol}", symbol), 1)
    with pytest.raises(PrintError, match=word) as refused:
        check_sheet([sheet.encode()], "svg", pages)
    assert "HTTPS" not in str(refused.value)
    assert "words 3" not in str(refused.value)


def test_a_pdf_of_other_words_gray_symbols_or_a_short_bar_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Method: writers of PDF that make one mistake each."""
    pages = lay_out("cola", some_codes(2), "M", 0.5)
    check_sheet([pdf_sheet(pages)], "pdf", pages)
    others = [PrintedCode(code.offset, code.text, "words 4") for code in some_codes(2)]
    with pytest.raises(PrintError, match="not the words"):
        check_sheet([pdf_sheet(lay_out("cola", others, "M", 0.5))], "pdf", pages)
    with pytest.raises(PrintError, match="has not the 1 pages"):
        check_sheet([pdf_sheet([*pages, *pages])], "pdf", pages)
    with monkeypatch.context() as changed:
        changed.setattr(Canvas, "line", shortened(Canvas.line))
        short = pdf_sheet(pages)
        changed.undo()
        changed.setattr(Canvas, "drawPath", grayed(Canvas.drawPath))
        gray = pdf_sheet(pages)
    with pytest.raises(PrintError, match="not the hairline"):
        check_sheet([short], "pdf", pages)
    with pytest.raises(PrintError, match="offset 0 is not black on white"):
        check_sheet([gray], "pdf", pages)


def shortened(line: Callable[..., None]) -> Callable[..., None]:
    def draw(canvas: Canvas, x1: float, y1: float, x2: float, y2: float) -> None:
        line(canvas, x1, y1, x1 + 40 if x2 == x1 + 50 else x2, y2)

    return draw


def grayed(draw_path: Callable[..., None]) -> Callable[..., None]:
    def draw(canvas: Canvas, *arguments: object, **options: object) -> None:
        canvas.setFillGray(0.5)
        draw_path(canvas, *arguments, **options)

    return draw


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_one_page_is_held_at_a_time(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a sheet of thousands of codes is checked in the memory of a page.

    Method: whenever a page is checked, count the pictures of pages that are still alive.
    """
    pictures: list[weakref.ref[np.ndarray]] = []
    alive = []

    def check(page: object, look: _Look, pixels: float) -> None:
        pictures.append(weakref.ref(look.image))
        alive.append(sum(picture() is not None for picture in pictures))

    monkeypatch.setattr("scanengine.program.proofs._check_page", check)
    make_sheet(lay_out("cola", some_codes(7), "M", 3.0), form)
    assert len(alive) >= 3
    assert max(alive) == 1


def test_a_sheet_with_another_code_in_place_is_refused_in_either_form() -> None:
    pages = lay_out("cola", some_codes(8), "M", 0.5)
    others = lay_out("cola", [*some_codes(9)[:7], some_codes(9)[8]], "M", 0.5)
    for form in ("svg", "pdf"):
        with pytest.raises(PrintError, match="page 1, the code of offset 7 reads back as another code"):
            check_sheet(make_sheet(others, form), form, pages)


@pytest.mark.parametrize(("data", "form"), [(b"<svg", "svg"), (b"%PDF-1.4 cut", "pdf")])
def test_what_cannot_be_rendered_is_refused(data: bytes, form: str) -> None:
    with pytest.raises(PrintError, match="rendered"):
        check_sheet([data], form, lay_out("cola", some_codes(1), "M", 0.5))


def test_a_sheet_that_does_not_read_back_is_not_written(
    printed: Shop, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: a writer that leaves the first symbol out."""
    monkeypatch.setattr(
        "scanengine.program.proofs.svg_page",
        lambda page: svg_page(type(page)(page.layout, page.number, page.count, page.cells[1:])),
    )
    done = run("-w", printed.folder, "batch", "proof", "cola", "--range", "0:3", "-o", tmp_path / "s.svg")
    assert done.code == 1
    assert "offset 0 reads back as nothing" in done.err
    assert list(tmp_path.glob("s*.svg")) == []


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("proof", ("--range", "0:0", "-o", "{}/a.svg"), "empty or outside"),
        ("proof", ("--range", "0:1001", "-o", "{}/a.svg"), "empty or outside"),
        ("proof", ("--range", "0:9", "-o", "{}/a.png"), ".svg or .pdf"),
        ("proof", ("--range", "0:9", "-o", "{}/a.pdf", "--module", "0.2"), "say --small"),
        ("proof", ("--range", "0:9", "-o", "{}/a.pdf", "--module", "9"), "does not fit an A4 page"),
        ("proof", ("--range", "0:1", "-o", "{}/a.pdf", "--module", "0.05", "--small"), "wider --module"),
        ("proof", ("--range", "0:9", "-o", "{}/there.pdf"), "no file of them is overwritten"),
        ("proof", ("--range", "0:9", "-o", "{}/no/folder.pdf"), "folder.pdf"),
        ("qr", ("--range", "0:9"), "give a folder with --out"),
        ("qr", ("--range", "0:1", "--module", "nan"), "module"),
        ("qr", ("--range", "0:1", "--format", "png", "--dpi", "72", "--module", "0.05", "--small"), "raise --dpi"),
        ("qr", ("--range", "0:9", "--out", "{}/there.pdf"), "there.pdf"),
    ],
)
def test_what_cannot_be_printed_is_refused_with_what_to_change(
    printed: Shop, run: Run, tmp_path: Path, command: str, options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "there.pdf").touch()
    done = run("-w", printed.folder, "batch", command, "cola", *[word.format(tmp_path) for word in options])
    assert done.code in (1, 2)
    assert said in done.err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["there.pdf"]


def test_a_text_that_fits_no_symbol_is_refused() -> None:
    with pytest.raises(PrintError, match="choose a lower level"):
        make_symbol("x" * 3_000, "H")


def test_whoever_forgot_the_base_url_is_told(shop: Shop, run: Run, tmp_path: Path) -> None:
    done = run("-w", shop.folder, "batch", "proof", "cola", "--range", "0:1", "-o", tmp_path / "a.svg")
    assert done.code == 0
    assert "set base_url" in done.err


def test_what_is_printed_shows_no_code_in_its_repr(printed: Shop) -> None:
    assert printed.code(3) not in repr(PrintedCode(3, printed.code(3), printed.code(3)))
