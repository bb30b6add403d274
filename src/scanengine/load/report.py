"""The report card of a load test: a table in the terminal, JSON, one HTML page, one picture. Decides nothing.

All of them show the same :class:`~scanengine.load.report_card.Card`. The page asks for nothing else: style and charts
are in it, there is no script, and its policy says so: a text that came through as markup would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import msgspec
from markupsafe import Markup
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from scanengine.errors import SettingsError
from scanengine.load.charts import FONTS, cut, environment, legible, template, text_width
from scanengine.load.report_card import Card, Section, make_card
from scanengine.load.report_words import Language
from scanengine.load.results import LoadResult

PNG_WIDTH: Final = 1200
"""Pixels of the picture; its height grows with what is wrong."""
_ALARMS_SHOWN: Final = 6
_SMALL: Final = 17
"""Size of the small type in pixels; widths below are in sizes of the type they are about."""
_COLUMN_WIDTH: Final = 352 / _SMALL
_COLUMN_LINES: Final = 13
_COMMAND_WIDTH, _COMMAND_LINES = 1080 / _SMALL, 4
_VOID_WIDTH, _VOID_LINES = 1040 / 22, 3


# For programs -------------------------------------------------------------------------------------------------------


def card_json(result: LoadResult) -> bytes:
    """Return the whole result as JSON, with what follows from it: ``per_hour`` and ``is_right``.

    :func:`read_card` reads it again, so that figures of several runs can be compared.
    """
    shown = msgspec.to_builtins(result)
    shown["outcome"]["per_hour"] = result.outcome.per_hour
    shown["is_right"] = result.is_right
    return msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n"


def read_card(data: bytes) -> LoadResult:
    """Return the result that :func:`card_json` wrote.

    Raises
    ------
    SettingsError
        If it is no such JSON.
    """
    try:
        return msgspec.json.decode(data, type=LoadResult)
    except msgspec.DecodeError as error:
        raise SettingsError(f"not the JSON of a load test: {error}") from error


# For a terminal -----------------------------------------------------------------------------------------------------


def print_card(result: LoadResult, language: Language, console: Console | None = None) -> None:
    """Print the card for a person."""
    (console or Console()).print(card_table(make_card(result, language)))


def card_table(card: Card) -> RenderableType:
    """Return the card as a terminal shows it; no text of it is taken for markup or for a command to the terminal."""
    parts: list[RenderableType] = []
    if card.void:
        parts.append(Panel(_text(card.void, "bold red"), border_style="red"))
    parts.append(_text(card.verdict, "bold green" if card.is_good else "bold red"))
    parts += [_text(f"  {alarm}", "red") for alarm in card.alarms]
    headline = _text(card.headline, "bold" if not card.void else "dim strike").append(f" {card.unit}")
    parts += [Text(), headline, _text(f"{card.beneath}  {card.trend}"), Text()]
    figures = Table(box=None, header_style="bold", pad_edge=False)
    figures.add_column(_text(card.latency))
    for figure in card.figures:
        figures.add_column(_text(figure.name), justify="right")
    figures.add_row(Text(), *(_text(figure.value) for figure in card.figures))
    parts.append(figures)
    for section in card.sections:
        rows = Table.grid(padding=(0, 2, 0, 0))
        rows.add_column(style="cyan")
        rows.add_column(overflow="fold")
        for row in section.rows:
            rows.add_row(_text(row.name), _text(row.value, "red" if row.is_bad else ""))
        parts += [Text(), _text(section.title, "bold"), rows]
    return Group(*parts)


def _text(text: str, style: str = "") -> Text:
    return Text(str(legible(text)), style=style)


# For a browser ------------------------------------------------------------------------------------------------------


def card_html(result: LoadResult, language: Language) -> bytes:
    """Return one page that needs nothing but itself: for phones and printers, light and dark, without a script."""
    style, digest = _style()
    card = make_card(result, language)
    page = environment().get_template("card.html").render(
        card=card, style=Markup(style), digest=digest, charts=[Markup(chart) for chart in card.charts]
    )  # fmt: skip
    return page.encode()


@lru_cache(maxsize=1)
def _style() -> tuple[str, str]:
    """Return the style, and its digest for the page's policy."""
    style = template("card.css")
    return style, base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


# As a picture -------------------------------------------------------------------------------------------------------


def card_png(result: LoadResult, language: Language) -> bytes:
    """Return the picture of a card, of :data:`PNG_WIDTH` by :data:`PNG_HEIGHT` pixels.

    Raises
    ------
    SettingsError
        If the extra ``load`` is missing, or a font that has the letters of this language.
    """
    check_fonts(language)
    return _render(card_svg(make_card(result, language)))


def card_svg(card: Card) -> str:
    """Return what the picture is made of: what is wrong, the figures, and what is asked first of the rest."""
    alarms = card.alarms[:_ALARMS_SHOWN]
    void_top = 92
    void = _lines(card.void, _VOID_WIDTH, _VOID_LINES) if card.void else []
    alarm_top = void_top + (38 + 32 * len(void) if void else 0)
    top = alarm_top + (0 if card.is_good else 56 + 28 * len(alarms))
    charts = [Markup(chart) for chart in (card.charts.throughput, card.charts.curve) if chart]
    columns_top = 370 + (330 if charts else 0)
    sections = {section.key: section for section in card.sections}
    columns = [(sections[key].title, _column(sections[key])) for key in ("load", "server", "machine")]
    command = _lines(card.command, _COMMAND_WIDTH, _COMMAND_LINES)
    run_top = columns_top + 60 + 27 * max(len(lines) for _, lines in columns)
    return environment().get_template("card.svg").render(
        card=card, width=PNG_WIDTH, height=top + run_top + 80 + 26 * len(command), fonts=FONTS, small=_SMALL,
        void=void, void_top=void_top, alarm_top=alarm_top, alarms=alarms, top=top, charts=charts, columns=columns,
        columns_top=columns_top, run=sections["run"].title, run_top=run_top, command=command, cut=cut,
    )  # fmt: skip


def _column(section: Section) -> list[tuple[str, str, bool]]:
    """Return the lines of a section: a name where a row begins, what follows it, and whether it is bad."""
    found: list[tuple[str, str, bool]] = []
    for row in section.rows:
        first, *others = _lines(f"{row.name} {row.value}", _COLUMN_WIDTH, 3)
        found.append((row.name, first.removeprefix(row.name), row.is_bad))
        found += [("", line, row.is_bad) for line in others]
    return found if len(found) <= _COLUMN_LINES else [*found[: _COLUMN_LINES - 1], ("", "…", False)]


def _lines(text: str, width: float, count_max: int) -> list[str]:
    """Return a text in lines no wider than so many sizes of its type; what does not fit the last one is cut."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while text_width(rest) > width and len(lines) + 1 < count_max:
        fits = cut(rest, width).removesuffix("…")
        # At a space, unless that leaves most of the line empty, as Chinese would.
        end = space if (space := fits.rfind(" ")) > len(fits) // 2 else len(fits)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return [*lines, cut(rest, width)]


def check_fonts(language: Language) -> None:
    """Raise SettingsError unless a picture can be made here: a renderer draws nothing for letters without a font."""
    letter = "A" if language == "en" else "汉"
    blank, drawn = (
        _render(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" font-family="{FONTS}">'
            f'<text x="4" y="32" font-size="30">{text}</text></svg>'
        )
        for text in ("", letter)
    )
    if blank == drawn:
        package, other = ("fonts-dejavu-core", "") if language == "en" else ("fonts-noto-cjk", ", or take --lang en")
        raise SettingsError(f"no font here has the letters of a picture: install the package {package}{other}")


def _render(svg: str) -> bytes:
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise SettingsError("resvg_py is missing: pip install 'scanengine[load]'") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff"))


# Files --------------------------------------------------------------------------------------------------------------

_FORMS: Final[dict[str, Callable[[LoadResult, Language], bytes]]] = {
    ".json": lambda result, _: card_json(result),
    ".html": card_html,
    ".png": card_png,
}


def check_card_path(path: Path, language: Language) -> None:
    """Raise SettingsError unless a card can be written there: to be asked before a run, not after it."""
    if path.suffix not in _FORMS:
        raise SettingsError(f"{path}: a report ends in {', '.join(_FORMS)}; found {path.suffix or 'no ending'!r}")
    if path.is_dir():
        raise SettingsError(f"{path} is a folder: name a file for the report")
    if not os.access(path.parent, os.W_OK):
        raise SettingsError(f"{path}: {path.parent} is no folder that can be written to; name another, or make it")
    if path.suffix == ".png":
        check_fonts(language)


def write_card(result: LoadResult, path: Path, language: Language) -> None:
    """Write the card in the form that the ending of the path says: ``.json``, ``.html`` or ``.png``.

    Raises
    ------
    SettingsError
        As :func:`check_card_path` says.
    """
    check_card_path(path, language)
    data = _FORMS[path.suffix](result, language)
    # Aside first: a report that is half there would be taken for one.
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        aside = Path(file.name)
        try:
            file.write(data)
            file.flush()
            aside.chmod(0o644)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
