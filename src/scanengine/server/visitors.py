"""Who opens a page: a person or a program, in which browser, and whether a form is one of our own pages'.

All of it is what a client says of itself. It steers what is offered and what is counted, never what is awarded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from multidict import istr

from scanengine.server.requests import Asked
from scanengine.wechat import can_log_in

_AGENT_CHARS_MAX: Final = 512
_FOR_PROGRAMS: Final = re.compile(r"/v1(/|\Z)|/(metrics|healthz|readyz|openapi\.json)/?\Z")
_PREVIEW: Final = re.compile(
    # Link previews and search engines, by name or by what most of them have in theirs. Cubot makes telephones.
    r"(?<!cu)bot\b|crawl|spider|preview|facebookexternalhit|facebookcatalog|whatsapp/|embedly|snippet|vkshare|"
    r"skypeuri|feedfetcher|google-read-aloud|mediapartners",
    re.IGNORECASE,
)
# Every first page asks for all of these: a name that is made for look-ups need not be folded each time.
_PREFETCH_HEADERS: Final = tuple(map(istr, ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")))
_FETCH_DEST: Final = istr("Sec-Fetch-Dest")
_FETCH_SITE: Final = istr("Sec-Fetch-Site")
_PREFETCH: Final = ("prefetch", "preview", "prerender")


class Agent(NamedTuple):
    """What a browser calls itself."""

    can_log_in: bool
    is_preview: bool


@lru_cache(maxsize=1024)  # At most half a megabyte; a few hundred kinds of browsers make nearly all of the traffic.
def _agent(text: str) -> Agent:
    return Agent(can_log_in(text), _PREVIEW.search(text) is not None)


def agent_of(request: Asked) -> Agent:
    """Return what the browser of a request calls itself."""
    return _agent(request.headers.get(hdrs.USER_AGENT, "")[:_AGENT_CHARS_MAX])


def cookies_of(request: Asked) -> str:
    """Return all cookies of a request as they were sent, "" for none: what they are worth, sessions know."""
    return "; ".join(request.headers.getall(hdrs.COOKIE, ()))


def wants_json(request: Asked) -> bool:
    """Whether the client is a program: it asks for JSON and not for HTML, or says nothing, as no browser does."""
    accept = request.headers.get(hdrs.ACCEPT)
    return accept is None or ("application/json" in accept and "text/html" not in accept)


def is_for_programs(path: str) -> bool:
    """Whether no person opens a path, below whatever prefix: its errors are problem details, whoever asks."""
    return _FOR_PROGRAMS.search(path) is not None


def is_person(request: Asked) -> bool:
    """Whether somebody has opened a page to see it now: no program, HEAD, prefetch, link preview, frame or script.

    Every browser asks for HTML by name when it goes to a page; scripts and tools say ``*/*``.
    """
    headers = request.headers
    if request.method == "HEAD" or "text/html" not in headers.get(hdrs.ACCEPT, ""):
        return False
    if headers.get(_FETCH_DEST, "document") != "document" or agent_of(request).is_preview:
        return False
    for name in _PREFETCH_HEADERS:
        value = headers.get(name)
        if value is not None and any(word in value.lower() for word in _PREFETCH):
            return False
    return True


def is_own_form(request: web.Request, own_host: str, *, has_visit: bool) -> bool:
    """Whether a POST comes from a page of ours.

    Parameters
    ----------
    own_host : str
        Under which the outside knows us, if a proxy in front says another ``Host``.
    has_visit : bool
        Whether the visit's cookie came along. Other sites' POSTs do not carry it.

    Notes
    -----
    Browsers without ``Sec-Fetch-Site`` send ``Origin: null`` with the plain form of a page that tells no referrer, as
    ours must not; the cookie then stands for it.
    """
    site = request.headers.get(_FETCH_SITE)
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get(hdrs.ORIGIN, "null")
    if origin == "null":
        return has_visit
    try:
        return urlsplit(origin).netloc in (request.host, own_host)
    except ValueError:
        return False
