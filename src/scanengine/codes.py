"""What a scanner hands over, unwrapped to the text of a code.

A scanner gives the printed URL, WeChat the URL once more inside its own (``?q=``), a person types the symbols with or
without hyphens. Unwrapping never decides whether a code is good: it only finds it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from scanengine.model import TEXT_CHARS_MAX

_CODE_PATHS: Final = ("s", "S")
_WRAPPED_DEPTH_MAX: Final = 2
_GTIN_DIGITS: Final = (8, 12, 13, 14)


def unwrap(text: str) -> str:
    """Return the part of a scanned text that should be a code.

    Parameters
    ----------
    text : str
        1 to 512 characters: a code in any spelling, a URL whose path is ``/s/CODE`` or ``/S/CODE`` (whatever the
        host), or a URL or query that carries such a text in ``q``, decoded once. Unknown query parameters are ignored.

    Returns
    -------
    str
        The code as it was spelled, or "" if there is none: longer texts, other URLs.
    """
    return _unwrap(text, _WRAPPED_DEPTH_MAX)


def _unwrap(text: str, depth: int) -> str:
    if len(text) > TEXT_CHARS_MAX:
        return ""
    # A scanner that types puts the key at the end of a line after the code.
    text = text.strip()
    if "/" not in text and "?" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    wrapped = parse_qs(parts.query).get("q")
    if wrapped and depth:
        return _unwrap(wrapped[0], depth - 1)
    folders = parts.path.split("/")
    if len(folders) >= 3 and folders[-2] in _CODE_PATHS:
        return unquote(folders[-1])
    return ""


def hyphenate(code: str) -> str:
    """Return a bare code as it is printed for eyes, ``XXXXX-XXXXX-XXXXX-XXXXX``."""
    return "-".join(code[start : start + 5] for start in range(0, len(code), 5))


def code_url(base_url: str, code: str) -> str:
    """Return the URL to print: upper case throughout, so that a QR code needs 5.5 bits a character.

    Parameters
    ----------
    base_url : str
        Scheme and host, with a path if the entry is not at the root.
    code : str
        20 upper-case symbols.
    """
    base = base_url.rstrip("/")
    host_end = base.find("/", base.find("://") + 3)
    if host_end < 0:
        return f"{base.upper()}/S/{code}"
    return f"{base[:host_end].upper()}{base[host_end:]}/S/{code}"


def gtin_fault(text: str) -> str | None:
    """Return what is wrong with a GTIN, or None.

    References
    ----------
    GS1 General Specifications, section 7.9: weights 3 and 1 in turn, from the right.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) not in _GTIN_DIGITS or not int(text):
        return f"expected a GTIN of 8, 12, 13 or 14 digits, found {text!r}"
    total = sum(int(digit) * (3, 1)[place % 2] for place, digit in enumerate(reversed(text[:-1])))
    if -total % 10 != int(text[-1]):
        return f"the check digit of {text!r} should be {-total % 10}"
    return None
