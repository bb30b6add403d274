"""A stand-in for WeChat's login: what its documents say of the authorize page and of the exchange of codes, over TCP.

Made from the documented facts and not from our client: parameters and their order, the fragment that only the browser
sees, one-time codes of five minutes, errors as JSON with status 200 and the content type of plain text. On top of it
all that goes wrong in practice: latency, broken connections, answers that are none.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlsplit

from aiohttp import web

APP_ID = "wx0123456789abcdef"
SECRET = "0123456789abcdef0123456789abcdef"
CODE_S = 300
WAIT_S = 60.0
WHO = "X-Test-Openid"
"""Header by which a browser of the tests says whose WeChat it is; a real one shows WeChat's own cookies."""
ORDER = ["appid", "redirect_uri", "response_type", "scope", "state"]


@dataclass
class Code:
    """A code that was handed out."""

    openid: str
    made_s: float
    is_used: bool = False


class WechatStandIn:
    """A server on loopback, in a thread of its own; a context manager.

    Attributes
    ----------
    redirect_hosts : set of str
        Hosts that are entered in the account, ``127.0.0.1:8080``.
    latency_s : float
        Of each exchange.
    trouble : int or str or None
        What goes wrong with each exchange: an ``errcode``; ``status`` (500), ``garbage``, ``no_openid``, ``huge``;
        ``drop_before`` and ``drop_after`` break the connection before or after the code was spent.
    calls : list of dict
        Parameters of each exchange that was asked for, in order.
    """

    def __init__(self) -> None:
        self.redirect_hosts: set[str] = set()
        self.latency_s = 0.0
        self.trouble: int | str | None = None
        self.calls: list[dict[str, str]] = []
        self.at_once = 0
        self.at_once_max = 0
        self._codes: dict[str, Code] = {}
        self._ahead_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._gate: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> WechatStandIn:
        self._thread.start()
        self._do(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def authorize_url(self) -> str:
        return f"{self.url}/connect/oauth2/authorize"

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        self._ahead_s += seconds

    def hold(self) -> None:
        """Let exchanges spend their codes and then wait with the answer, until :meth:`release`."""

        async def close() -> None:
            self._gate = asyncio.Event()

        self._do(close)

    def release(self) -> None:
        async def open_() -> None:
            gate, self._gate = self._gate, None
            if gate is not None:
                gate.set()

        self._do(open_)

    def code_for(self, openid: str) -> str:
        """Hand out a code without any browser."""
        code = secrets.token_hex(16)
        self._codes[code] = Code(openid, self._now_s())
        return code

    def _now_s(self) -> float:
        return time.monotonic() + self._ahead_s

    def _do(self, work: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(WAIT_S)  # type: ignore[arg-type]

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/connect/oauth2/authorize", self._authorize)
        app.router.add_get("/sns/oauth2/access_token", self._access_token)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._gate is not None:
            self._gate.set()
        await self._runner.cleanup()

    async def _authorize(self, request: web.Request) -> web.Response:
        """Log the visitor in silently, or show an error page as WeChat does."""
        found = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
        query = dict(found)
        problem = None
        if [name for name, _ in found] != ORDER:
            problem = "parameters missing, or not in their order"
        elif query["appid"] != APP_ID:
            problem = "40013 invalid appid"
        elif query["response_type"] != "code" or query["scope"] != "snsapi_base":
            problem = "10005 no such scope"
        elif not re.fullmatch(r"[a-zA-Z0-9]{1,128}", query["state"]):
            problem = "state is not 1 to 128 letters and digits"
        elif urlsplit(query["redirect_uri"]).netloc not in self.redirect_hosts:
            problem = "10003 redirect_uri has another host than the account's"
        if problem is not None:
            return web.Response(status=400, text=problem)
        code = self.code_for(request.headers.get(WHO, "o6_bmjrPTlm6_2sgVt7hMZOPfL2M"))
        return web.Response(
            status=302, headers={"Location": f"{query['redirect_uri']}?code={code}&state={quote(query['state'])}"}
        )

    async def _access_token(self, request: web.Request) -> web.Response:
        """Exchange a code for the openid of whom it was handed out to."""
        query = dict(request.query)
        self.calls.append(query)
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            trouble, gate = self.trouble, self._gate
            if trouble == "drop_before":
                return self._dropped(request)
            if trouble == "status":
                return web.Response(status=500, text="<html>system error</html>")
            answer = {"errcode": trouble} if isinstance(trouble, int) else self._exchanged(query)
            if gate is not None:
                await gate.wait()
        finally:
            self.at_once -= 1
        if trouble == "drop_after":
            return self._dropped(request)
        if trouble == "no_openid":
            answer.pop("openid")
        text = {"garbage": "<html>\udcff", "huge": " " * (1 << 20)}.get(str(trouble), json.dumps(answer))
        return web.Response(body=text.encode("utf-8", "surrogateescape"), content_type="text/plain")

    def _exchanged(self, query: dict[str, str]) -> dict[str, object]:
        code = self._codes.get(query.get("code", ""))
        if query.get("grant_type") != "authorization_code":
            return {"errcode": 40002, "errmsg": "invalid grant_type"}
        if query.get("appid") != APP_ID:
            return {"errcode": 40013, "errmsg": "invalid appid"}
        if query.get("secret") != SECRET:
            return {"errcode": 40125, "errmsg": "invalid appsecret"}
        if not query.get("code"):
            return {"errcode": 41008, "errmsg": "missing code"}
        if code is None:
            return {"errcode": 40029, "errmsg": f"invalid code {query['code']}, hints: [ req_id: x ]"}
        if code.is_used:
            return {"errcode": 40163, "errmsg": "code been used"}
        if self._now_s() - code.made_s >= CODE_S:
            return {"errcode": 42003, "errmsg": "code expired"}
        code.is_used = True
        return {
            "access_token": secrets.token_hex(32),
            "expires_in": 7200,
            "refresh_token": secrets.token_hex(32),
            "openid": code.openid,
            "scope": "snsapi_base",
        }

    def _dropped(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
