"""A gate for a server that strangers can reach: a link that lets in one browser, and nobody else.

    screen shows /D/TOKEN ──▶ first browser ──▶ its cookie, the token is spent ──▶ the page the link leads to
                              everybody else ──▶ 403, whatever the path

The links are for a screen in a room, not for the Internet: without TLS, whoever reads the network reads the cookie.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections import OrderedDict
from hashlib import blake2b
from html import escape
from http import HTTPStatus
from time import perf_counter_ns
from typing import Final

from aiohttp import web

from scanengine._core import base32_text
from scanengine.server.metrics import OTHER
from scanengine.server.requests import ID_HEADER, new_request_id
from scanengine.server.routes import METRICS, PROGRAM, STOPPING, Handler

GATE_COOKIE: Final = "scan_gate"
LINK_PREFIX: Final = "/D/"
"""Upper case, as are tokens and codes: a QR code of a link that is all upper case is smaller."""
SPENT_MAX: Final = 256
"""Spent links that still lead the browser they let in to their page, for reloads and the way back."""
_TOKEN_BYTES: Final = 16
_LINK: Final = re.compile(r"/d/([0-9a-z]{26})", re.IGNORECASE | re.ASCII)
_COOKIE: Final = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})")
_LOOKS_AHEAD: Final = re.compile(r"prefetch|preview|prerender", re.IGNORECASE)
_AHEAD_HEADERS: Final = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
}
_PAGE: Final = """\
<!doctype html>
<html lang="zh">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title_zh}</title>
<style>
body {{ max-width: 26rem; margin: 18vh auto 0; padding: 0 1.5rem; color: #222; font: 1rem/1.7 system-ui, sans-serif }}
h1 {{ font-size: 1.4rem; line-height: 1.4 }}
section + section {{ margin-top: 2.5rem; color: #555 }}
</style>
<main>
<section><h1>{title_zh}</h1><p>{text_zh}</p></section>
<section lang="en"><h2>{title_en}</h2><p>{text_en}</p></section>
</main>
"""
_WORDS: Final = {
    "no_cookie": (
        "请扫描屏幕上的二维码",
        "这是一个现场演示。请用手机扫描屏幕上显示的二维码进入。",
        "Please scan the QR code on the screen",
        "This is a demonstration in a room: the QR code on its screen lets your phone in.",
    ),
    "used": (
        "这个二维码已经用过了",
        "每个二维码只能让一部手机进入。屏幕上会显示下一个二维码，请扫描新的。",
        "This QR code has been used",
        "Each one lets in one phone. The screen shows the next one: please scan that.",
    ),
}


class Gate:
    """Lets in whoever opens the newest link first, who was let in before, and who shows a bearer token.

    Links are made by one thread and opened in another. What is signed here holds until this process ends.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._offered: tuple[str, str] | None = None
        self._spent: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def __repr__(self) -> str:
        """Show no token, which is a bearer secret."""
        return f"<Gate {'open' if self.is_waiting else 'closed'}>"

    @property
    def is_waiting(self) -> bool:
        """Whether the newest link has not been opened yet."""
        return self._offered is not None

    def offer(self, place: str) -> str:
        """Make a link in place of the one before.

        Parameters
        ----------
        place : str
            Path that the browser is sent on to.

        Returns
        -------
        str
            Path of the link.
        """
        token = base32_text(secrets.token_bytes(_TOKEN_BYTES))
        self._offered = token, place
        return LINK_PREFIX + token

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Stand in front of every route, those that do not exist among them."""
        browser = self._browser_of(request)
        link = _LINK.fullmatch(request.path)
        if link is None and (browser is not None or _shows_token(request)):
            return await handler(request)
        began_ns = perf_counter_ns()
        response = self._refusal("no_cookie") if link is None else self._open(request, link[1].upper(), browser)
        if request.app[STOPPING].is_set():
            response.force_close()
        response.headers[ID_HEADER] = new_request_id()
        request.app[METRICS].count_request(OTHER, response.status, perf_counter_ns() - began_ns)
        return response

    def _open(self, request: web.Request, token: str, browser: str | None) -> web.Response:
        """Answer whoever opens a link."""
        if request.method != "GET" or any(
            _LOOKS_AHEAD.search(request.headers.get(name, "")) for name in _AHEAD_HEADERS
        ):
            # Whoever only looks ahead would spend the link of a person.
            return self._refusal("no_cookie")
        offered = self._offered
        if offered is not None and hmac.compare_digest(offered[0], token):
            self._offered = None
            browser = browser or secrets.token_hex(16)
            self._spent[token] = browser, offered[1]
            if len(self._spent) > SPENT_MAX:
                self._spent.popitem(last=False)
            response = web.Response(status=HTTPStatus.FOUND, headers={"Location": offered[1], **_HEADERS})
            # No TLS in a room: a cookie for TLS alone would never come back. It goes when the browser closes.
            response.set_cookie(GATE_COOKIE, f"{browser}.{self._tag(browser)}", httponly=True, samesite="Lax", path="/")
            return response
        opened = self._spent.get(token)
        if opened is not None and opened[0] == browser:
            return web.Response(status=HTTPStatus.FOUND, headers={"Location": opened[1], **_HEADERS})
        return self._refusal("used")

    def _refusal(self, reason: str) -> web.Response:
        title_zh, text_zh, title_en, text_en = map(escape, _WORDS[reason])
        text = _PAGE.format(title_zh=title_zh, text_zh=text_zh, title_en=title_en, text_en=text_en)
        return web.Response(text=text, status=HTTPStatus.FORBIDDEN, content_type="text/html", headers=_HEADERS)

    def _browser_of(self, request: web.Request) -> str | None:
        """Return which browser asks, if it has been let in."""
        found = _COOKIE.fullmatch(request.cookies.get(GATE_COOKIE, ""))
        return found[1] if found and hmac.compare_digest(self._tag(found[1]), found[2]) else None

    def _tag(self, browser: str) -> str:
        return blake2b(browser.encode(), digest_size=16, key=self._key, person=b"scan-gate").hexdigest()


def _shows_token(request: web.Request) -> bool:
    """Whether a back end asks; what it may ask for is the application's own matter."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and request.app[PROGRAM].keyring.caller(token.strip()) is not None
