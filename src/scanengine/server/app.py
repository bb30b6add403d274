"""The application: the table of all routes, and the guard in front of them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from time import perf_counter_ns
from typing import Final

from aiohttp import web
from multidict import istr

from scanengine.program import Program
from scanengine.server import batches, door, events, openapi, operations, operators, root_files, scans
from scanengine.server.limits import BUDGET, FailureBudget, check_budget
from scanengine.server.login import source_of
from scanengine.server.metrics import OTHER, Metrics
from scanengine.server.page import Action, PageView, render
from scanengine.server.problems import TooManyBadCodesError, problem_of, problem_response
from scanengine.server.requests import ID_HEADER, PROXIES, REQUEST_ID, Proxies, is_loopback
from scanengine.server.routes import (
    IS_TRUSTED,
    METRICS,
    PROGRAM,
    PUBLISHING,
    STOPPING,
    Access,
    Handler,
    Route,
)
from scanengine.server.visitors import is_for_programs, wants_json

BATCH_BYTES_MAX: Final = 4 << 20
_PASSED_ON: Final = tuple(istr(name) for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"))
"""Headers in which a proxy says for whom it asks."""
_READS: Final = ("GET", "HEAD")
ROUTES: Final[tuple[Route, ...]] = (
    *scans.ROUTES,
    *batches.ROUTES,
    *door.ROUTES,
    *events.ROUTES,
    *operators.ROUTES,
    *operations.ROUTES,
    *openapi.ROUTES,
    *root_files.ROUTES,
)
_route_of: Final = {route.handler: route for route in reversed(ROUTES)}
"""By its handler; of several paths to one handler the first."""


def make_app(
    program: Program,
    *,
    is_trusted: bool = False,
    metrics: Metrics | None = None,
    budget_memory: int | None = None,
) -> web.Application:
    """Return the application of one program.

    Parameters
    ----------
    is_trusted : bool
        For the control socket, whose file mode is its authentication: no token is asked for, and statuses that
        outsiders must not tell apart are shown as they are.
    metrics : Metrics, optional
        To count in, if several applications or processes count together.
    budget_memory : int, optional
        File descriptor of :func:`~scanengine.server.limits.open_memory`, if several processes share failure budgets.
    """
    app = web.Application(middlewares=[guard], client_max_size=BATCH_BYTES_MAX)
    app[PROGRAM] = program
    app[IS_TRUSTED] = is_trusted
    app[METRICS] = metrics or Metrics()
    app[PUBLISHING] = asyncio.Lock()
    app[STOPPING] = asyncio.Event()
    limits = program.settings.server
    app[PROXIES] = Proxies(limits.trusted_proxies)
    if limits.bad_codes_per_minute and not is_trusted:
        app[BUDGET] = FailureBudget(limits.bad_codes_per_minute, memory=budget_memory)
    app[openapi.DOCUMENT] = openapi.openapi_of(ROUTES, needs_token=program.keyring.has_tokens, is_trusted=is_trusted)
    door.open_door(app)
    batches.open_batches(app)
    for route in ROUTES:
        # A printed address that was copied, shortened or typed may have got a slash at its end.
        is_printed = route.shows_codes and route.path.endswith("}")
        for path in (route.path, f"{route.path}/") if is_printed else (route.path,):
            app.router.add_route(route.method, path, route.handler)
            if route.method == "GET":
                app.router.add_route("HEAD", path, route.handler)
    return app


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, turn every error into problem details, name every reply, and count it."""
    began_ns = perf_counter_ns()
    route = _route_of.get(handler)
    app = request.app
    request_id = app[PROXIES].request_id(request)
    REQUEST_ID.set(request_id)
    try:
        if route is not None:
            if route.access is not Access.OPEN:
                _authorize(request, route.access)
            if route.shows_codes and BUDGET in app:
                check_budget(request, source_of(request))
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 - every error is a reply; those nobody expects are traced in the log
        response = _refuse(request, error)
    if not response.prepared:
        response.headers[ID_HEADER] = request_id
    if app[STOPPING].is_set():
        response.force_close()
    app[METRICS].count_request(route.path if route else OTHER, response.status, perf_counter_ns() - began_ns)
    return response


def _refuse(request: web.Request, error: Exception) -> web.Response:
    """Return what an error is answered with: a person reads a page, a program problem details; the status is one."""
    refusal = problem_response(problem_of(error), error)
    if wants_json(request) or is_for_programs(request.path):
        return refusal
    if isinstance(error, TooManyBadCodesError):
        notice = "rate_limited"
    else:
        is_lost = refusal.status < HTTPStatus.INTERNAL_SERVER_ERROR and request.method in _READS
        notice = "not_found" if is_lost else "failed"
    view = PageView(decision=None, answer=None, action=Action.NONE, path="/", notice=notice)
    page = render(view, accept_language=request.headers.get("Accept-Language", ""), status=refusal.status)
    page.headers.update({name: value for name, value in refusal.headers.items() if name != "Content-Type"})
    return page


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine itself and says nothing of having been passed on for another."""
    headers = request.headers
    return is_loopback(request.remote or "") and not any(name in headers for name in _PASSED_ON)


def _authorize(request: web.Request, access: Access) -> None:
    """Ask for a bearer token where any is configured; without one, answer who asks on this machine itself.

    To listen on loopback only is not enough: a proxy on this machine may pass on what strangers ask.
    """
    if request.app[IS_TRUSTED]:
        return
    keyring = request.app[PROGRAM].keyring
    if not keyring.has_tokens and access is Access.BACKEND:
        if not is_local(request):
            raise web.HTTPForbidden(
                reason="without [[tokens]] in keys.toml back ends are answered on this machine only, and not through a "
                "proxy: add a token for each, and show it"
            )
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    caller = keyring.caller(token.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        raise web.HTTPUnauthorized(reason="a bearer token of keys.toml is needed")
    if access is Access.ADMIN and not caller.is_admin:
        raise web.HTTPForbidden(reason=f"the token {caller.name!r} is not one of an admin: admin = true in keys.toml")
