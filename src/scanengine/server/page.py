"""The consumer's page: one view in, one self-contained HTML reply out. Decides nothing.

The reply asks for nothing else: style and script are in it, and its policy allows just these, by their digests, so that
a text of a product or campaign that came through as markup would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import web
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from scanengine.model import Answer, Decision
from scanengine.server.pages.colors import palette_of
from scanengine.server.pages.face import face_of
from scanengine.server.pages.words import WORDS, Language
from scanengine.tables.themes import PageTheme

SECTORS: Final = 8
_RANGES_MAX: Final = 32
_RANGE: Final = re.compile(r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q\s*=\s*(0(?:\.\d*)?|1(?:\.0*)?)\s*)?")
_OFFERED: Final[dict[str, Language]] = {"zh": "zh", "en": "en", "*": "zh"}
_MARKS: Final = {
    "good": "M18 31.5l8.5 8.5L43 22.5",
    "attention": "M30 17v16M30 42v.5",
    "quiet": "M20 30v.5M30 30v.5M40 30v.5",
}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Language",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Action(StrEnum):
    """What the page invites to do."""

    CLAIM = "claim"
    """Press the button, which posts to `path`."""
    LOGIN = "login"
    """Go to `login_url`: a WeChat login is possible, but has not happened or has failed."""
    OPEN_IN_WECHAT = "open"
    """Scan it again with WeChat, as nobody is known here."""
    NONE = "none"


class PageView(msgspec.Struct, frozen=True):
    """All that one page shows.

    Parameters
    ----------
    decision : Decision or None
        For what an answer does not hold: English title and brand of the product, lot.
    answer : Answer or None
        With or without a claim. None for a page about no code at all, such as after too many requests.
    path : str
        Path of the page itself, to which the button posts.
    theme : PageTheme
        See :meth:`scanengine.program.Program.page_of`.
    notice : str or None
        ``login_slow``, ``login_failed`` or ``try_again``: a sentence above the action. ``rate_limited``, ``not_found``
        or ``failed``: the page is about this and nothing else.
    """

    decision: Decision | None
    answer: Answer | None
    action: Action
    path: str
    theme: PageTheme = PageTheme()
    login_url: str | None = None
    notice: str | None = None

    def __repr__(self) -> str:
        """Show neither the path nor the login, which hold a code."""
        return f"<PageView {self.answer} action={self.action} notice={self.notice}>"


@lru_cache(maxsize=256)
def language_of(accept_language: str) -> Language:
    """Return the page's language for an ``Accept-Language`` header: Chinese unless English is preferred.

    Notes
    -----
    By the weights of RFC 9110, and by the order where they are equal, which is how browsers send it; ``*`` stands for
    Chinese.
    """
    best: Language = "zh"
    best_weight = 0.0
    for entry in accept_language.split(",", _RANGES_MAX)[:_RANGES_MAX]:
        found = _RANGE.fullmatch(entry)
        offered = _OFFERED.get(found[1].lower()) if found else None
        if found and offered and float(found[2] or 1) > best_weight:
            best, best_weight = offered, float(found[2] or 1)
    return best


def render(view: PageView, *, accept_language: str, status: int = 200) -> web.Response:
    """Return the page, which is never cached, never framed and sends no referrer.

    Parameters
    ----------
    accept_language : str
        The request's header, empty if it has none.

    Notes
    -----
    A fraction of a millisecond. Every text that is not of this package is escaped.
    """
    words = WORDS[language_of(accept_language)]
    answer = view.answer.public() if view.answer is not None else None
    face = face_of(words, view.decision, answer, view.action, view.theme, view.notice)
    colors = _colors(view.theme.color)
    text = _template.render(
        words=words,
        face=face,
        moment=view.theme.moment,
        # Two slashes in front would be another host's address.
        path="/" + view.path.lstrip("/\\"),
        login_url=view.login_url,
        colors=colors,
    )
    headers = {
        **_HEADERS,
        "Content-Language": words("lang"),
        "Content-Security-Policy": _policy(colors),
    }
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=headers)


def _part(name: str) -> str:
    return files("scanengine.server.pages").joinpath(name).read_text("utf-8")


def _wheel() -> Markup:
    """Return the wheel: sectors without words, so that it cannot seem to have stopped beside a better one."""
    paths = []
    for sector in range(SECTORS):
        (x0, y0), (x1, y1) = (
            (100 + 94 * math.sin(turn), 100 - 94 * math.cos(turn))
            for turn in (2 * math.pi * (sector + half) / SECTORS for half in (-0.5, 0.5))
        )
        kind = ("even", "odd")[sector % 2]
        paths.append(f'<path class="{kind}" d="M100 100L{x0:.1f} {y0:.1f}A94 94 0 0 1 {x1:.1f} {y1:.1f}Z"/>')
    rim = '<circle class="rim" cx="100" cy="100" r="97"/><circle class="centre" cx="100" cy="100" r="20"/>'
    return Markup(f'<svg viewBox="0 0 200 200" aria-hidden="true" focusable="false">{"".join(paths)}{rim}</svg>')


_STYLE: Final = Markup(_part("page.css"))
_SCRIPT: Final = Markup(_part("page.js"))
_environment: Final = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
)
_environment.globals.update(css=_STYLE, script=_SCRIPT, marks=_MARKS, wheel=_wheel())
_template: Final = _environment.from_string(_part("page.html"))


@lru_cache(maxsize=256)
def _colors(color: str | None) -> Markup:
    """Return a theme's colours as style; a colour is checked when a table is opened, and holds no markup."""
    entries = palette_of(color)._asdict().items()
    variables = ";".join(f"--{name.replace('_', '-')}:{value}" for name, value in entries)
    return Markup(f":root{{{variables}}}")


@lru_cache(maxsize=256)
def _policy(colors: str) -> str:
    return (
        f"default-src 'none'; script-src {_digest(_SCRIPT)}; style-src {_digest(_STYLE)} {_digest(colors)}; "
        "img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
