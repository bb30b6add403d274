"""The consumer's door: what a printed address opens, and where its page claims.

    GET   a program                        -> JSON, as for a back end
          a code with a landing link       -> 302 there
          WeChat, and nobody logged in     -> 302 to the login, which comes back here
          else                             -> the page
    POST  by the page of the same address  -> the claim of whoever is logged in

A GET never claims. It counts a scan when a person opens the page, once for each visit: the login on the way, the claim,
its retries and reloads carry the same one. Who claims is known from the session, never from what the request says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
from aiohttp import hdrs, web

from scanengine.errors import OverloadedError, ScanError
from scanengine.model import TEXT_CHARS_MAX, Answer, Decision, Scene, Status
from scanengine.program import Program
from scanengine.program.scans import Scan, check_code
from scanengine.server.limits import count_guess
from scanengine.server.login import DONE, LOGIN, NOTICES, SESSIONS, Login, Redirect, Visitor, page_key
from scanengine.server.login import ROUTES as LOGIN_ROUTES
from scanengine.server.page import Action, PageView, render
from scanengine.server.problems import RETRY_AFTER_S
from scanengine.server.requests import Asked
from scanengine.server.routes import METRICS, PROGRAM, Reply, Route, read_small
from scanengine.server.scans import SECRET_HEADERS, look
from scanengine.server.sessions import Sessions
from scanengine.server.visitors import agent_of, is_own_form, wants_json

_COUNTING_MAX: Final = 1_000
"""Scans of landing links being counted at a time; the count is not worth more memory than this."""
_MARKETING: Final = int(Scene.MARKETING)
_LINK: Final = int(Scene.LINK)
_FIELD_CHARS_MAX: Final = 32
_LINK_CHARACTERS: Final = "%/:?#[]@!$&'()*+,;=~"
"""What a landing link keeps as its owner wrote it; all else, such as Chinese, is percent-encoded."""


class Door(msgspec.Struct):
    """What the door of one application keeps beside sessions and logins."""

    own_host: str
    counting: set[asyncio.Task[None]]


DOOR: Final = web.AppKey("door", Door)


def open_door(app: web.Application) -> None:
    """Give an application what its door needs.

    Raises
    ------
    SettingsError
        If the login with WeChat cannot work as it is configured.
    """
    program = app[PROGRAM]
    settings = program.settings
    base_url = settings.program.base_url
    app[SESSIONS] = Sessions(
        program.keyring.session_keys,
        app_id=settings.wechat.app_id,
        is_secure=base_url.startswith("https://"),
        session_s=settings.page.session_s,
        visit_s=settings.page.visit_s,
        program=program,
    )
    app[DOOR] = Door(urlsplit(base_url).netloc, set())
    if settings.wechat.app_id is not None:
        app[LOGIN] = Login(program, app[SESSIONS])
    app.cleanup_ctx.append(_while_open)


async def _while_open(app: web.Application) -> AsyncIterator[None]:
    login = app.get(LOGIN)
    if login is not None:
        await login.open()
    yield
    await asyncio.gather(*app[DOOR].counting, return_exceptions=True)
    if login is not None:
        await login.close()


# GET ----------------------------------------------------------------------------------------------------------------


async def get_printed_code(request: web.Request) -> web.Response:
    """Answer whoever opens the printed address of a code."""
    return await _open(request, request.match_info["code"])


async def get_digital_link(request: web.Request) -> web.Response:
    """Answer whoever opens a GS1 Digital Link."""
    return await _open(request, _digital_link(request))


def _digital_link(request: web.Request) -> str:
    """Return the path of a Digital Link as it was sent, without what we are mounted below."""
    parts = 2 * len(request.match_info)  # Each value stands behind its application identifier.
    link = "/" + "/".join(request.rel_url.raw_path.removesuffix("/").split("/")[-parts:])
    return link if len(link) <= TEXT_CHARS_MAX else ""  # No code of ours is that long.


async def _open(request: web.Request, text: str) -> web.Response:
    if wants_json(request):
        response = await look(request, text)
        response.headers.update(SECRET_HEADERS)
        return response
    app = request.app
    decision = app[PROGRAM].decide(check_code(text))
    if decision.status < Status.INACTIVE:
        # Nobody else has had a turn since the budget was looked at, so that a good code need not ask again.
        count_guess(request, decision.status)
    visitor = Visitor(request)
    sent_on = _send_on(request, text, decision, visitor)
    if sent_on is not None:
        return sent_on.response()
    return await _show(request, text, decision, visitor.user, visitor, notice=_notice(request, visitor))


def open_at_once(asked: Asked, text: str) -> Redirect | None:
    """Answer a program's or a person's GET of a printed address if they are only sent on.

    None if there is more to do: nothing has been done then, and :func:`get_printed_code` does it.
    """
    decision = asked.app[PROGRAM].decide(text)
    if decision.status < Status.INACTIVE:
        return None
    return _send_on(asked, text, decision, Visitor(asked))


def _send_on(asked: Asked, text: str, decision: Decision, visitor: Visitor) -> Redirect | None:
    """Return where a browser goes on to, the landing link or the login; None if it has something to see here."""
    if decision.link is not None and decision.status == Status.VALID and int(decision.scenes) & _LINK:
        return _to_landing(asked.app, text, decision, visitor)
    login = asked.app.get(LOGIN)
    if (
        login is not None
        and visitor.is_person
        and _is_claimable(decision)
        and agent_of(asked).can_log_in
        and visitor.user is None
        and _notice(asked, visitor) is None
    ):
        return Redirect(login.start_url(page_key(decision), visitor.visit), visitor.new_cookies)
    return None


def _notice(asked: Asked, visitor: Visitor) -> str | None:
    """Return what to say of a login that ended here, None if nobody is without one by it."""
    return _ended(asked, visitor) if visitor.user is None else None


def _ended(request: Asked, visitor: Visitor) -> str | None:
    """Return the notice of the login that has just ended here, if it has, without anybody being logged in by it."""
    word = request.query.get("login", "") if request.query_string else ""
    # Who comes without the visit in which a login was done has the address from elsewhere, or has kept it for long.
    return NOTICES.get(word) if word != DONE or visitor.is_back else None


def _is_claimable(decision: Decision) -> bool:
    """Whether there is, or may once have been, something to claim: for the rest nobody need log in."""
    return (
        decision.batch is not None
        and int(decision.scenes) & _MARKETING != 0
        and decision.status not in (Status.INACTIVE, Status.WRONG_PRODUCT)
    )


def _to_landing(app: web.Application, text: str, decision: Decision, visitor: Visitor) -> Redirect:
    """Send the browser on at once, and count the scan meanwhile: best effort, as nobody is shown the count."""
    assert decision.link is not None
    assert decision.code is not None
    link = quote(decision.link.replace("{code}", quote(decision.code, safe="")), safe=_LINK_CHARACTERS)
    counting = app[DOOR].counting
    if visitor.is_person and len(counting) < _COUNTING_MAX:
        task = asyncio.create_task(_count(app, text, visitor.visit))
        counting.add(task)
        task.add_done_callback(counting.discard)
    return Redirect(link, visitor.new_cookies)


async def _count(app: web.Application, text: str, visit: str) -> None:
    _, answer = await app[PROGRAM].look_async(text, visit=visit)
    app[METRICS].count_look(answer)


async def _show(
    request: web.Request,
    text: str,
    decision: Decision,
    user: str | None,
    visitor: Visitor,
    *,
    notice: str | None = None,
    status: int = HTTPStatus.OK,
) -> web.Response:
    """Show the page of a code that nobody claims now."""
    program = request.app[PROGRAM]
    if user is None and _guests_may(request) and _is_claimable(decision):
        user = visitor.guest()
    visit = visitor.visit if visitor.is_person else None
    decision, answer = await program.look_async(text, user=user, visit=visit)
    request.app[METRICS].count_look(answer)
    return _page(request, program, decision, answer, user, visitor, notice=notice, status=status)


def _page(
    request: web.Request,
    program: Program,
    decision: Decision,
    answer: Answer,
    user: str | None,
    visitor: Visitor,
    *,
    notice: str | None = None,
    status: int = HTTPStatus.OK,
) -> web.Response:
    path = request.rel_url.raw_path
    action = _action(request, decision, answer, user)
    view = PageView(
        decision=decision,
        answer=answer.public(),
        action=action,
        path=path,
        theme=program.page_of(decision),
        login_url=path if action is Action.LOGIN else None,
        notice=notice,
    )
    response = render(view, accept_language=request.headers.get(hdrs.ACCEPT_LANGUAGE, ""), status=status)
    for cookie in visitor.new_cookies:
        response.headers.add(hdrs.SET_COOKIE, cookie)
    return response


def _action(request: web.Request, decision: Decision, answer: Answer, user: str | None) -> Action:
    """Return what the page invites to do: what might change what it shows, and nothing else."""
    if answer.is_pending:
        return Action.CLAIM
    if answer.claim is not None or decision.status != Status.VALID or decision.refusal is not None:
        return Action.NONE
    if user is not None:
        return Action.CLAIM
    if LOGIN not in request.app:
        return Action.NONE
    return Action.LOGIN if agent_of(request).can_log_in else Action.OPEN_IN_WECHAT


def _guests_may(request: web.Request) -> bool:
    """Whether this browser may be a guest: not one that can log in."""
    app = request.app
    return app[PROGRAM].settings.page.guests and not (LOGIN in app and agent_of(request).can_log_in)


# POST ---------------------------------------------------------------------------------------------------------------


async def post_printed_code(request: web.Request) -> web.Response:
    """Claim for whoever is logged in."""
    return await _claim(request, request.match_info["code"])


async def post_digital_link(request: web.Request) -> web.Response:
    """Claim by a GS1 Digital Link."""
    return await _claim(request, _digital_link(request))


async def _claim(request: web.Request, text: str) -> web.Response:
    app = request.app
    program, metrics = app[PROGRAM], app[METRICS]
    visitor = Visitor(request, is_person=True)
    if not is_own_form(request, app[DOOR].own_host, has_visit=visitor.is_back):
        raise web.HTTPForbidden(reason="only the page of this address may claim here; a back end uses /v1/scans")
    _check_is_empty(await read_small(request), request.content_type)
    decision = program.decide(check_code(text))
    count_guess(request, decision.status)
    user = visitor.user
    if user is None and _guests_may(request):
        user = visitor.guest()
    if user is None:
        if wants_json(request):
            raise web.HTTPUnauthorized(reason="nobody is logged in here: open this address in WeChat")
        return await _show(request, text, decision, None, visitor, status=HTTPStatus.UNAUTHORIZED)
    scan = Scan.of(text, user, visitor.visit)
    metrics.claims_in_progress += 1
    try:
        answer = await program.claim_scan_async(scan)
    except OverloadedError:
        if wants_json(request):
            raise
        answer = program.answerer.verified(decision, None)
        status = HTTPStatus.SERVICE_UNAVAILABLE
        response = _page(request, program, decision, answer, user, visitor, notice="try_again", status=status)
        response.headers[hdrs.RETRY_AFTER] = RETRY_AFTER_S
        return response
    finally:
        metrics.claims_in_progress -= 1
    metrics.count_scan(answer)
    status = HTTPStatus.SERVICE_UNAVAILABLE if answer.is_pending else HTTPStatus.OK
    if wants_json(request):
        response = web.Response(body=msgspec.json.encode(answer.public()), content_type="application/json")
        response.set_status(status)
        response.headers.update(SECRET_HEADERS)
        for cookie in visitor.new_cookies:
            response.headers.add(hdrs.SET_COOKIE, cookie)
    else:
        response = _page(request, program, decision, answer, user, visitor, status=status)
    if answer.is_pending:
        response.headers[hdrs.RETRY_AFTER] = RETRY_AFTER_S
    return response


def _check_is_empty(body: bytes, content_type: str) -> None:
    """Check that a claim says nothing of itself; ScanError naming the first field that it has."""
    if not body.strip():
        return
    if content_type == "application/json":
        found = msgspec.json.decode(body)
        names = list(found) if isinstance(found, dict) else ["body"]
    elif content_type == "application/x-www-form-urlencoded":
        names = [name for name, _ in parse_qsl(body.decode(), keep_blank_values=True)] or ["body"]
    else:
        names = ["body"]
    if names:
        raise ScanError(
            names[0][:_FIELD_CHARS_MAX], "expected no field: who claims is known from the login, and what from the path"
        )


_PAGE: Final = Reply(200, "The page, for a browser.", media="text/html")
_OPENED: Final = (
    Reply(200, "What the code is, for a program: it asks for JSON and not for HTML.", Answer),
    _PAGE,
    Reply(302, "To the landing link of the code, or to the login with WeChat.", media=None),
)
_CLAIMED: Final = (
    Reply(200, "What became of the claim, for a program.", Answer),
    _PAGE,
    Reply(401, "The page, as nobody is logged in; for a program a problem.", media="text/html"),
    Reply(503, "The outcome is unknown: ask again with the same cookies.", Answer),
)
_PATHS: Final = (
    ("/s/{code}", get_printed_code, post_printed_code),
    ("/S/{code}", get_printed_code, post_printed_code),
    ("/01/{gtin}/21/{serial}", get_digital_link, post_digital_link),
    ("/01/{gtin}/10/{lot}/21/{serial}", get_digital_link, post_digital_link),
    ("/01/{gtin}/22/{variant}/21/{serial}", get_digital_link, post_digital_link),
    ("/01/{gtin}/22/{variant}/10/{lot}/21/{serial}", get_digital_link, post_digital_link),
    # Of a product or lot, not of an item: there is nothing to claim.
    ("/01/{gtin}", get_digital_link, None),
    ("/01/{gtin}/10/{lot}", get_digital_link, None),
    ("/01/{gtin}/22/{variant}", get_digital_link, None),
    ("/01/{gtin}/22/{variant}/10/{lot}", get_digital_link, None),
)

ROUTES: Final = (
    *(Route("GET", path, get, replies=_OPENED, problems=(400,), shows_codes=True) for path, get, _ in _PATHS),
    *(
        Route("POST", path, post, replies=_CLAIMED, problems=(400, 401, 403), shows_codes=True)
        for path, _, post in _PATHS
        if post is not None
    ),
    *LOGIN_ROUTES,
)
