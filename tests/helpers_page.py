"""Every state of the consumer's page as a view, and a small server that shows them by name."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from scanengine.model import (
    Answer,
    ClaimReply,
    Decision,
    PrizeReply,
    Product,
    ProductReply,
    ScanReply,
    Scene,
    Status,
)
from scanengine.server.page import Action, PageView, render
from scanengine.tables.themes import PageTheme

CODE = "0123456789ABCDEFGHJK"
CLAIM_ID = "1RPC0NJQVY7Y4AWRJ8H6Z2P3KD"
FIRST_AT = "2026-05-01T12:03:04.000+08:00"
CLAIMED_AT = "2026-05-01T12:04:05.000+08:00"
COLA = Product("6901234567892", "橘子汽水 500 毫升", "Orange soda 500 ml", "山间汽水", "drinks")
PLAIN = PageTheme(title="开盖有奖", title_en="Open a cap, win")
RED_PACKET = PageTheme(
    "red_packet", "#c8102e", "开盖有奖", "Open a cap, win", "每个码只能领取一次。\n奖品送完为止。", "One prize a code."
)
WHEEL = replace(RED_PACKET, moment="wheel", color="#0b6e5f")
CASH = PrizeReply("cash-88", "cash", 8800, "CNY", "88 元现金红包")
POINTS = PrizeReply("points-10", "points", 10, None, "10 积分")
COUPON = PrizeReply("coupon", "coupon", None, None, "第二瓶半价")
GOODS = PrizeReply("goods", "goods", None, None, "定制帆布袋一只")


def a_decision(status: Status = Status.VALID, **changes: Any) -> Decision:
    decision = Decision(
        status=status,
        code=CODE,
        item=1,
        scenes=Scene.AUTHENTICITY | Scene.MARKETING,
        batch="cola",
        product=COLA,
        lot="L20260418",
        campaign="spring",
        generation=1,
        offers=(),
        local_date=0,
        refusal=None,
        terms=None,
    )
    return replace(decision, **changes)


def an_answer(status: str = "valid", verdict: str | None = "first_scan", count: int = 1, **changes: Any) -> Answer:
    answer = Answer(
        status=status,
        code=CODE,
        verdict=verdict,
        scan=ScanReply(count, FIRST_AT if count else None),
        product=ProductReply(COLA.gtin, COLA.title),
        batch="cola",
        scenes=("authenticity", "marketing"),
    )
    return replace(answer, **changes)


def a_view(answer: Answer | None = None, action: Action = Action.NONE, **changes: Any) -> PageView:
    view = PageView(a_decision(), an_answer() if answer is None else answer, action, f"/s/{CODE}", RED_PACKET)
    return replace(view, **changes)


def not_valid(status: str) -> PageView:
    """Return the view of a code that is ours, but not to be used now."""
    answer = an_answer(status, None, scan=None)
    return a_view(answer, decision=a_decision(Status[status.upper()]))


def nameless(status: str) -> PageView:
    """Return the view of a code of which nobody is told anything."""
    decision = a_decision(Status.MALFORMED, product=None, batch=None, lot=None, campaign=None, scenes=Scene(0))
    return a_view(Answer(status, None), decision=decision, theme=PageTheme())


def claimed(status: str, reason: str | None = None, theme: PageTheme = RED_PACKET, **more: Any) -> PageView:
    claim = ClaimReply(CLAIM_ID, status, reason=reason, **more)
    action = Action.CLAIM if status == "pending" else Action.NONE
    return a_view(an_answer(claim=claim), action, theme=theme)


def won(prize: PrizeReply, theme: PageTheme = RED_PACKET, *, replayed: bool = False) -> PageView:
    return claimed("awarded", theme=theme, prize=prize, replayed=replayed, at=CLAIMED_AT)


STATES: dict[str, PageView] = {
    "first_scan": a_view(theme=PageTheme()),
    "repeat": a_view(an_answer(verdict="repeat", count=3), theme=PageTheme()),
    "suspect": a_view(an_answer(verdict="suspect", count=42), theme=PageTheme()),
    "counts_unavailable": a_view(an_answer(verdict=None, scan=None), theme=PageTheme()),
    "plain_valid": a_view(an_answer(verdict=None, scenes=("marketing",)), theme=PageTheme()),
    "claim_red_packet": a_view(action=Action.CLAIM),
    "claim_wheel": a_view(action=Action.CLAIM, theme=WHEEL),
    "claim_plain": a_view(action=Action.CLAIM, theme=PLAIN),
    "won_cash": won(CASH),
    "won_points": won(POINTS, WHEEL),
    "won_coupon": won(COUPON, PLAIN),
    "won_goods": won(GOODS),
    "won_again": won(CASH, replayed=True),
    "no_prize": claimed("no_prize", replayed=False, at=CLAIMED_AT),
    "no_prize_again": claimed("no_prize", replayed=True, at=CLAIMED_AT),
    "taken": claimed("taken", at=CLAIMED_AT),
    "limited": claimed("limited", "per_user"),
    "limited_today": claimed("limited", "per_user_per_day"),
    "not_started": claimed("closed", "not_started"),
    "ended": claimed("closed", "ended"),
    "paused": claimed("closed", "paused"),
    "ineligible": claimed("ineligible", "no_rule"),
    "pending": claimed("pending"),
    "inactive": not_valid("inactive"),
    "frozen": not_valid("frozen"),
    "void": not_valid("void"),
    "recalled": not_valid("recalled"),
    "expired": not_valid("expired"),
    "invalid": nameless("invalid"),
    "mistyped": nameless("mistyped"),
    "malformed": nameless("malformed"),
    "product_only": a_view(
        Answer("product_only", None, product=ProductReply(COLA.gtin, COLA.title)),
        decision=a_decision(Status.PRODUCT_ONLY, lot=None, batch=None, campaign=None),
        theme=PageTheme(),
    ),
    "login": a_view(action=Action.LOGIN, login_url="/login"),
    "login_slow": a_view(action=Action.LOGIN, login_url="/login", notice="login_slow", theme=WHEEL),
    "login_failed": a_view(action=Action.LOGIN, login_url="/login", notice="login_failed", theme=PLAIN),
    "try_again": a_view(action=Action.CLAIM, notice="try_again"),
    "open_in_wechat": a_view(action=Action.OPEN_IN_WECHAT),
    "rate_limited": PageView(None, None, Action.NONE, "/s/x", notice="rate_limited"),
    "not_found": PageView(None, None, Action.NONE, "/x", notice="not_found"),
    "failed": PageView(None, None, Action.NONE, "/x", notice="failed"),
}


def one_of_each_markup() -> list[str]:
    """Return states of which no two differ in their words alone."""
    found: dict[tuple[str, ...], str] = {}
    for name, view in STATES.items():
        body = str(render(view, accept_language="").text).partition("<body>")[2]
        found.setdefault(tuple(re.findall(r'<\w+(?: (?:class|data-state|data-moment)="[^"]*")*', body)), name)
    return list(found.values())


VISIT = "scan_visit=a-visit"


class Desk:
    """Answers the pages' buttons with states in the order given, the last one ever after, and remembers each claim.

    Parameters
    ----------
    states : str
        Names of states, or of HTTP statuses that come without a page.
    """

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.claims: list[tuple[str, str]] = []
        """Path, and what the visit was known by."""
        self.open = threading.Event()
        """Answers wait until it is set."""
        self.open.set()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one claim."""
        self.claims.append((request.path, request.headers.get("Cookie", "")))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        await asyncio.to_thread(self.open.wait, 30)
        if state.isdigit():
            return web.json_response({"type": "about:blank"}, status=int(state))
        view = replace(STATES[state], path=request.path)
        status = {"pending": 503, "login": 401}.get(state, 200)
        return render(view, accept_language=request.headers.get("Accept-Language", ""), status=status)


@contextmanager
def page_server(desk: Desk | None = None, views: Mapping[str, PageView] = STATES) -> Iterator[str]:
    """Serve ``/s/NAME`` for each view, in a thread of its own. Gives the base URL."""
    ready: Future[tuple[str, Callable[[], object]]] = Future()
    thread = threading.Thread(target=asyncio.run, args=[_serve(desk, views, ready)])
    thread.start()
    base, stop = ready.result(30)
    try:
        yield base
    finally:
        stop()
        thread.join()


async def _serve(
    desk: Desk | None, views: Mapping[str, PageView], ready: Future[tuple[str, Callable[[], object]]]
) -> None:
    async def show(request: web.Request) -> web.Response:
        view = replace(views[request.match_info["name"]], path=request.path)
        response = render(view, accept_language=request.headers.get("Accept-Language", ""))
        response.headers["Set-Cookie"] = VISIT + "; Path=/; HttpOnly; SameSite=Lax"
        return response

    app = web.Application()
    app.router.add_get("/s/{name}", show)
    if desk is not None:
        app.router.add_post("/s/{name}", desk.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set_result((base, lambda: loop.call_soon_threadsafe(stopping.set)))
        await stopping.wait()
    finally:
        await runner.cleanup()
