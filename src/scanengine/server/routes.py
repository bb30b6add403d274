"""What every module of routes needs: the table's entries, who may call them, and what the application holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from aiohttp import web

from scanengine.program import Program
from scanengine.server.metrics import Metrics

PROGRAM: Final = web.AppKey("program", Program)
IS_TRUSTED: Final = web.AppKey("is_trusted", bool)
METRICS: Final = web.AppKey("metrics", Metrics)
PUBLISHING: Final = web.AppKey("publishing", asyncio.Lock)
"""Held while a request publishes tables."""
STOPPING: Final = web.AppKey("stopping", asyncio.Event)
"""Set when the server is about to stop: replies tell clients to send nothing more on their connection."""
BODY_BYTES_MAX: Final = 64 << 10

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(Enum):
    """Who may call a route. On the control socket, whose file mode is its authentication, everybody may."""

    OPEN = "anybody"
    BACKEND = "whoever shows a bearer token; where none is configured, whoever asks on this machine itself"
    ADMIN = "whoever shows the bearer token of an admin"


class Reply(NamedTuple):
    """One reply of a route that is no problem.

    Parameters
    ----------
    body
        Type of a JSON body; with another `media` type, or for no body at all, None.
    media : str or None
        Content type; None for no body.
    """

    status: int
    means: str
    body: Any = None
    media: str | None = "application/json"


class Route(NamedTuple):
    """One entry of the table of routes, and all that ``/openapi.json`` says of it.

    Parameters
    ----------
    path : str
        Its name in the metrics too.
    handler
        The first line of its docstring is the summary.
    body
        Type of the body that is expected; None for none.
    media : tuple of str
        Content types that the body may have.
    query
        Structure of the query parameters; None for none.
    replies : tuple of Reply
        Replies that are no problems.
    problems : tuple of int
        Statuses of problems beside those that every route has, and those that follow from access and body.
    shows_codes : bool
        Whether outsiders can try codes here, so that bad ones are taken off the failure budget of their source. The
        handler calls :func:`~scanengine.server.limits.count_guess` before it answers.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.OPEN
    body: Any = None
    media: tuple[str, ...] = ("application/json",)
    query: Any = None
    replies: tuple[Reply, ...] = ()
    problems: tuple[int, ...] = ()
    shows_codes: bool = False


async def read_small(request: web.Request) -> bytes:
    """Return a body of at most ``BODY_BYTES_MAX`` bytes.

    Raises
    ------
    HTTPRequestEntityTooLarge
        If it is larger.
    """
    size = request.content_length or 0
    if size <= BODY_BYTES_MAX:
        body = await request.read()
        size = len(body)  # Unknown until now if the body came in chunks or compressed.
        if size <= BODY_BYTES_MAX:
            return body
    raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, size)
