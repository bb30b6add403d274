"""Login with WeChat: where it begins, and the callback where it ends.

    GET page --302--> authorize --302--> GET /wechat/callback --302--> GET page, with a session

A browser is given a session only if it comes back with the visit it left with: otherwise somebody could send a victim
the end of a login of his own, and take the prize of what the victim scans. Whatever goes wrong ends at the page, which
says so and offers to try again; a login that can be begun anew is, once by itself and then only by hand. One that went
well says so in the page's address: if the browser shows no session there, another login would end no better.

WeChat is asked only as often as it may say no: an account has a quota, and all logins share the calls on their way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from http import HTTPStatus
from ipaddress import ip_address
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from aiohttp import hdrs, web
from multidict import CIMultiDict, istr

from scanengine.errors import SettingsError
from scanengine.model import Decision
from scanengine.program import Program
from scanengine.server.limits import BUDGET, SOURCE, FailureBudget
from scanengine.server.page import Action, PageView, render
from scanengine.server.requests import PROXIES, Asked
from scanengine.server.routes import PROGRAM, Reply, Route
from scanengine.server.sessions import CODE_BYTES_MAX, Sessions, State
from scanengine.server.visitors import cookies_of
from scanengine.server.visitors import is_person as seems_person
from scanengine.tables.snapshot import Snapshot
from scanengine.wechat import Exchange, OAuthClient, Outcome, authorize_prefix

logger = logging.getLogger(__name__)

CALLBACK_PATH: Final = "/wechat/callback"
DONE: Final = "done"
NOTICES: Final = {"slow": "login_slow", "failed": "login_failed", DONE: "login_failed"}
"""What the page tells somebody who is not logged in, by the word in its address that keeps it from going round."""
_ATTEMPTS_MAX: Final = 1
"""Logins begun anew without anybody's doing."""
_KNOWN_S: Final = 300.0
"""How long an exchange is remembered: as long as WeChat knows its code."""
_KNOWN_MAX: Final = 10_000
_VISIT_EXCHANGES_MAX: Final = 2
"""Exchanges of one visit on their way; a person has one, and one more who logs in anew because it takes so long."""
_CODE_CHARS_MAX: Final = 512
_USER_SOURCE_BYTES: Final = 16
_UNKEPT: Final = ((hdrs.CACHE_CONTROL, "no-store"), (istr("Referrer-Policy"), "no-referrer"))


class Exchanges:
    """One exchange for each code, however often it comes: reloading a page sends it again.

    What WeChat said is remembered in this process, for the visit that asked. A code that comes again while it is being
    exchanged waits for that exchange, which goes on when the browser that began it has gone. Where WeChat did not
    answer, nothing is remembered.

    A visit has few exchanges on their way, and a source as many as it may still show bad codes. Each could turn out to
    be one, and is then taken off before its place is free: so nobody fills all places alone, or has WeChat asked about
    more made-up codes than we would ourselves look at. Whoever has no place is told at once to come later.
    """

    def __init__(self, client: OAuthClient, clock_s: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._clock_s = clock_s
        self._known: OrderedDict[bytes, tuple[float, asyncio.Task[Exchange]]] = OrderedDict()
        self._running: set[asyncio.Task[Exchange]] = set()
        self._on_their_way: Counter[str | bytes] = Counter()

    async def exchange(
        self, visit: str, code: str, source: bytes = b"", budget: FailureBudget | None = None
    ) -> Exchange:
        """Return what WeChat says of a code, which comes off the budget of its source if WeChat does not know it."""
        now_s = self._clock_s()
        while self._known and (len(self._known) > _KNOWN_MAX or next(iter(self._known.values()))[0] <= now_s):
            self._known.popitem(last=False)
        key = blake2b(f"{visit} {code}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
        known = self._known.get(key)
        if known is None:
            counted = self._on_their_way
            if counted[visit] >= _VISIT_EXCHANGES_MAX or (budget and counted[source] >= budget.left(source)):
                return Exchange(Outcome.LATER)
            task = asyncio.create_task(self._ask(key, code, source, budget))
            self._known[key] = (now_s + _KNOWN_S, task)
            # Also held here: a task that nobody holds may vanish before it is done.
            self._running.add(task)
            counted.update((visit, source))
            task.add_done_callback(lambda task: self._end(task, visit, source))
        else:
            task = known[1]
        return await asyncio.shield(task)

    def _end(self, task: asyncio.Task[Exchange], *whose: str | bytes) -> None:
        self._running.discard(task)
        for one in whose:
            self._on_their_way[one] -= 1
            if not self._on_their_way[one]:
                del self._on_their_way[one]

    async def _ask(self, key: bytes, code: str, source: bytes, budget: FailureBudget | None) -> Exchange:
        found = await self._client.exchange(code)
        if found.outcome is Outcome.SPENT and budget:
            budget.spend(source)
        if found.outcome in (Outcome.LATER, Outcome.REFUSED):
            self._known.pop(key, None)
        return found

    async def close(self) -> None:
        """End what is on its way: whoever waited has been answered or has gone."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class Login:
    """Logins of one application: of the account in ``[wechat]``, ending at the address in ``base_url``.

    Raises
    ------
    SettingsError
        If the account has no secret, or WeChat could not send anybody back safely.
    """

    def __init__(self, program: Program, sessions: Sessions) -> None:
        settings = program.settings.wechat
        secret, base_url = program.keyring.wechat_secret, program.settings.program.base_url
        assert settings.app_id is not None
        if secret is None:
            raise SettingsError(
                f"app_id in [wechat] of scanengine.toml is {settings.app_id}, but keys.toml has no secret in [wechat]: "
                "write the account's AppSecret there, or take app_id out"
            )
        if not base_url.startswith("https://") and not _is_loopback(urlsplit(base_url).hostname or ""):
            raise SettingsError(
                f"base_url in [program] is {base_url}: people who log in are sent back there, and their cookies must "
                "not be seen on the way; use https (http is for loopback only)"
            )
        self._sessions = sessions
        self._prefix = authorize_prefix(settings.authorize_url, settings.app_id, base_url.rstrip("/") + CALLBACK_PATH)
        self._client = OAuthClient(
            settings.app_id,
            secret,
            api_url=settings.api_url,
            timeout_s=settings.timeout_s,
            concurrency=settings.concurrency,
        )
        self.exchanges = Exchanges(self._client)

    async def open(self) -> None:
        """Get ready to call WeChat."""
        await self._client.__aenter__()

    async def close(self) -> None:
        """Let go of the connections to WeChat."""
        await self.exchanges.close()
        await self._client.__aexit__()

    def start_url(self, code: str | int, visit: str, attempt: int = 0) -> str:
        """Return where a login begins that ends at the page of a code: of `page_key`, or of a state."""
        return f"{self._prefix}{self._sessions.state_of(code, visit, attempt)}#wechat_redirect"


LOGIN: Final = web.AppKey("login", Login)
SESSIONS: Final = web.AppKey("sessions", Sessions)


class Visitor:
    """Who is there: a person is in a visit, which begins here if it has not yet and goes on if it has.

    Parameters
    ----------
    is_person : bool, optional
        Whether it is one, if that is known; else it is told from the request.
    """

    def __init__(self, asked: Asked, *, is_person: bool | None = None) -> None:
        self._sessions = asked.app[SESSIONS]
        self.cookies = cookies_of(asked)
        self.is_person = seems_person(asked) if is_person is None else is_person
        self.new_cookies: list[str] = []
        self._old_visit = self._sessions.visit_of(self.cookies)

    @cached_property
    def user(self) -> str | None:
        """Who is logged in."""
        return self._sessions.user_of(self.cookies)

    @property
    def is_back(self) -> bool:
        """Whether the visit began before this request."""
        return self._old_visit is not None

    @cached_property
    def visit(self) -> str:
        """The visit; a new one's cookie is among the new cookies."""
        visit = self._old_visit or self._sessions.new_visit()
        self.new_cookies.append(self._sessions.visit_cookie(visit))
        return visit

    def guest(self) -> str | None:
        """Return the guest that this browser is; a person's is made one."""
        guest = self._sessions.guest_of(self.cookies)
        if guest is None and self.is_person:
            guest, cookie = self._sessions.new_guest()
            self.new_cookies.append(cookie)
        return guest


def source_of(request: Asked) -> bytes:
    """Return whose failure budget a bad code is taken off: of who is logged in, else of where the request came from.

    A network of phones has few addresses, and one of the phones may guess. A guest is nobody here: anybody can be any
    number of them.
    """
    cookies = cookies_of(request)
    user = request.app[SESSIONS].user_of(cookies) if cookies else None
    if user is None:
        return request.app[PROXIES].source(request)
    return blake2b(user.encode(), digest_size=_USER_SOURCE_BYTES).digest()


def page_key(decision: Decision) -> str | int:
    """Return what a login carries of a code of ours: all of it, or the item number if it is too long for that."""
    assert decision.code is not None
    return decision.code if len(decision.code.encode()) <= CODE_BYTES_MAX else decision.item


def _code_of(state: State, snapshot: Snapshot) -> str | None:
    """Return the code of a state; None if it is of a batch that is not there any more."""
    if isinstance(state.code, str):
        return state.code
    for batch in snapshot.batches:
        offset, texts = state.code - batch.codes.item_start, batch.codes.texts
        if texts is not None and 0 <= offset < batch.codes.count:
            return texts.between(offset, offset + 1)[0]
    return None


class Redirect(NamedTuple):
    """A redirect that nothing keeps and that tells nobody the address it came from."""

    location: str
    cookies: Sequence[str] = ()

    def headers(self) -> list[tuple[str, str]]:
        """Return names and values in the order in which they are sent."""
        return [(hdrs.LOCATION, self.location), *_UNKEPT, *((hdrs.SET_COOKIE, cookie) for cookie in self.cookies)]

    def response(self) -> web.Response:
        """Return it as a handler does."""
        return web.Response(status=HTTPStatus.FOUND, headers=CIMultiDict(self.headers()))


def redirect(location: str, cookies: Sequence[str] = ()) -> web.Response:
    """Return the response of a :class:`Redirect`."""
    return Redirect(location, cookies).response()


async def get_callback(request: web.Request) -> web.Response:
    """End a login: learn from WeChat who it is, and go back to the code's page."""
    login = request.app.get(LOGIN)
    if login is None:
        raise web.HTTPNotFound
    sessions, query, cookies = request.app[SESSIONS], request.query, cookies_of(request)
    state = sessions.read_state(query.get("state", ""))
    page = None if state is None else _code_of(state, request.app[PROGRAM].snapshot)
    if state is None or page is None:
        return _lost(request)
    # Relative to the callback, so that it is right below whatever address we are mounted.
    page = f"../s/{quote(page, safe='')}"
    if sessions.user_of(cookies) is not None:
        return redirect(f"{page}?login={DONE}")
    if not seems_person(request):
        return redirect(page)
    visit = sessions.visit_of(cookies)
    if state.is_expired or visit != state.visit:
        return _begin_anew(login, sessions, state, visit, page)
    code = query.get("code", "")
    if not 0 < len(code) <= _CODE_CHARS_MAX:
        return redirect(f"{page}?login=failed")
    found = await login.exchanges.exchange(visit, code, request.get(SOURCE, b""), request.app.get(BUDGET))
    if found.outcome is Outcome.KNOWN:
        return redirect(f"{page}?login={DONE}", [sessions.session_cookie(found.openid)])
    if found.outcome is Outcome.SPENT:
        return _begin_anew(login, sessions, state, visit, page)
    return redirect(f"{page}?login={'slow' if found.outcome is Outcome.LATER else 'failed'}")


def _begin_anew(login: Login, sessions: Sessions, state: State, visit: str | None, page: str) -> web.Response:
    """Begin another login for the same page: with a code of its own, and in the visit that this browser is in."""
    visit = visit or sessions.new_visit()
    cookies = [sessions.visit_cookie(visit)]
    if state.attempt < _ATTEMPTS_MAX:
        return redirect(login.start_url(state.code, visit, state.attempt + 1), cookies)
    return redirect(f"{page}?login=failed", cookies)


def _lost(request: web.Request) -> web.Response:
    """Say that nobody knows which page this was: scan again."""
    view = PageView(decision=None, answer=None, action=Action.NONE, path="/", notice="failed")
    return render(view, accept_language=request.headers.get("Accept-Language", ""), status=HTTPStatus.BAD_REQUEST)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


ROUTES: Final = (
    Route(
        "GET",
        CALLBACK_PATH,
        get_callback,
        replies=(
            Reply(302, "Back to the code's page, logged in or not, or to another login.", media=None),
            Reply(400, "A page that says to scan again: no login of ours ends here.", media="text/html"),
        ),
        problems=(404,),
        shows_codes=True,
    ),
)
