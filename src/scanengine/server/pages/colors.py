"""An accent colour of anybody's choice, and the colours that keep text readable beside it.

Contrast is that of WCAG 2: (lighter + 0.05) / (darker + 0.05) of the relative luminances, 1 to 21.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

CONTRAST_MIN: Final = 4.5
ACCENT_DEFAULT: Final = "#b3261e"
PAPER: Final = "#ffffff"
BLACK: Final = "#000000"
_Channels = tuple[int, int, int]
_LINEAR_END: Final = 0.04045


class Palette(NamedTuple):
    """Colours of one theme, each ``#rrggbb``.

    Parameters
    ----------
    accent : str
        As chosen: surfaces.
    shade : str
        The accent, a little further from `text_on`: what lies on it.
    text_on : str
        White or dark text that is readable on both of them.
    text_in : str
        The accent as text on white or on `tint`: as chosen, or darker until it is readable.
    tint : str
        White with a breath of the accent: quiet surfaces.
    """

    accent: str
    shade: str
    text_on: str
    text_in: str
    tint: str


@lru_cache(maxsize=256)
def palette_of(color: str | None) -> Palette:
    """Return the palette of an accent ``#rrggbb``, or of the page's own for None."""
    accent = color or ACCENT_DEFAULT
    # Of black and white one is always readable: their contrasts with a colour multiply to 21.
    text_on = max(PAPER, BLACK, key=lambda text: contrast(text, accent))
    shade = mixed(accent, BLACK if text_on == PAPER else PAPER, 0.14)
    tint = mixed(PAPER, accent, 0.06)
    text_in = accent
    while contrast(text_in, tint) < CONTRAST_MIN:
        text_in = mixed(text_in, BLACK, 0.06)
    return Palette(accent, shade, text_on, text_in, tint)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours ``#rrggbb``, 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def mixed(color: str, other: str, part: float) -> str:
    """Return a colour with `part` (0 to 1) of another one in it."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{int(one + (two - one) * part):02x}" for one, two in pairs)


def _channels(color: str) -> _Channels:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _luminance(color: str) -> float:
    red, green, blue = (
        value / 12.92 if value <= _LINEAR_END else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(color))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
