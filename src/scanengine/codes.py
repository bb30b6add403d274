"""What a scanner hands over, unwrapped to the text of a code.

A scanner gives the printed URL, WeChat the URL once more inside its own (``?q=``), a person types the symbols with or
without hyphens. Unwrapping never decides whether a code is good: it only finds it.

An imported code may look like anything, a URL included, so a text is first tried as it stands: :func:`exact_spellings`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from scanengine.model import TEXT_CHARS_MAX

_PRINTED: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?/[sS]/([0-9A-Za-z-]+)", re.IGNORECASE | re.ASCII)
"""The printed address, which most people hand over; taken apart as URLs are, it took longer than all the rest."""
_CODE_PATHS: Final = ("s", "S")
_WRAPPED_DEPTH_MAX: Final = 2
_GTIN_DIGITS: Final = (8, 12, 13, 14)
# GS1 Digital Link: the application identifiers in the order that it demands, those of an item at the end of the path.
_DIGITAL_LINK: Final = re.compile(r"/01/([^/]*)(?:/22/[^/]+)?(?:/10/[^/]+)?(?:/21/([^/]+))?\Z")
_SCHEME: Final = re.compile(r"https?://", re.IGNORECASE)
_WECHAT_PREFIX: Final = "P.URL.CN/"
_WECHAT_CHARS: Final = 28


class Scanned(NamedTuple):
    """What a scanned text holds.

    Parameters
    ----------
    text : str
        The code as it was spelled, a bare product number, or "" if there is neither.
    gtin : int
        The product that a GS1 Digital Link names beside the code; 0 for none.
    """

    text: str
    gtin: int = 0


_NOTHING: Final = Scanned("")


def unwrap(text: str) -> str:
    """Return the part of a scanned text that should be a code, or "" if there is none; see :func:`parse`."""
    return parse(text).text


def parse(text: str) -> Scanned:
    """Find the code in a scanned text.

    Parameters
    ----------
    text : str
        1 to 512 characters: a code in any spelling, a URL whose path is ``/s/CODE`` or ``/S/CODE`` (whatever the
        host), a GS1 Digital Link ``/01/GTIN[/10/LOT]/21/SERIAL``, or a URL or query that carries such a text in ``q``,
        decoded once. Unknown query parameters are ignored.

    Returns
    -------
    Scanned
        A Digital Link without a serial gives its GTIN as the text. Nothing is found in longer texts, other URLs, and
        Digital Links whose GTIN has a wrong check digit.

    References
    ----------
    GS1 Digital Link Standard: URI Syntax, section 4.
    """
    return _parse(text, _WRAPPED_DEPTH_MAX)


def exact_spellings(text: str) -> tuple[str, ...]:
    """Return the texts that an imported code may be, as they stand.

    That is the text itself and, where it is a normal code of WeChat, the same without the scheme that its scanner puts
    before it, in upper case, which these codes are; then the same of a text in ``q``.
    """
    return _exact_spellings(text, _WRAPPED_DEPTH_MAX)


def _exact_spellings(text: str, depth: int) -> tuple[str, ...]:
    if len(text) > TEXT_CHARS_MAX:
        return ()
    text = text.strip()
    inner = _wrapped(text) if depth and "?" in text else None
    more = () if inner is None else _exact_spellings(inner, depth - 1)
    bare = _SCHEME.sub("", text, count=1) if _SCHEME.match(text) else text
    if len(bare) == _WECHAT_CHARS and bare.upper().startswith(_WECHAT_PREFIX):
        return (text, bare.upper(), *more)
    return (text, *more)


def _wrapped(text: str) -> str | None:
    """Return the text in ``q``, decoded once; None if there is none."""
    try:
        wrapped = parse_qs(urlsplit(text).query).get("q")
    except ValueError:
        return None
    return wrapped[0] if wrapped else None


def _parse(text: str, depth: int) -> Scanned:
    if len(text) > TEXT_CHARS_MAX:
        return _NOTHING
    # A scanner that types puts the key at the end of a line after the code.
    text = text.strip()
    if "/" not in text and "?" not in text:
        return Scanned(text)
    printed = _PRINTED.fullmatch(text)
    if printed is not None:
        return Scanned(printed[1])
    try:
        path = urlsplit(text).path
    except ValueError:
        return _NOTHING
    wrapped = _wrapped(text) if depth and "?" in text else None
    if wrapped:
        return _parse(wrapped, depth - 1)
    folders = path.split("/")
    if len(folders) >= 3 and folders[-2] in _CODE_PATHS:
        return Scanned(unquote(folders[-1]))
    return _parse_digital_link(path)


def _parse_digital_link(path: str) -> Scanned:
    found = _DIGITAL_LINK.search(path)
    if found is None or gtin_fault(found[1]):
        return _NOTHING
    # Percent-encoding is part of the URI, not of the serial.
    return Scanned(found[1]) if found[2] is None else Scanned(unquote(found[2]), int(found[1]))


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
