"""The routes of the services that read events: accounts, payouts, analytics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from scanengine.errors import ScanError
from scanengine.ledger.checks import SEQ_MAX
from scanengine.model import Event
from scanengine.program import Program, operating
from scanengine.server.fields import read_body
from scanengine.server.operators import asked, refusing, reply
from scanengine.server.routes import PROGRAM, STOPPING, Access, Reply, Route, read_small

EVENTS_MAX: Final = 1_000
EVENTS_DEFAULT: Final = 100
WAIT_S_MAX: Final = 30
LOOK_S: Final = 0.2
"""How often a request that waits looks for events."""
_NUMBER_DIGITS_MAX: Final = 18


class AckBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/events/ack``."""

    reader: str
    up_to: Annotated[int, Meta(ge=0, le=SEQ_MAX)]


class EventsQuery(msgspec.Struct, frozen=True):
    """Query of ``GET /v1/events``."""

    reader: str
    after: Annotated[int, Meta(ge=0, lt=10**_NUMBER_DIGITS_MAX)] | None = None
    limit: Annotated[int, Meta(ge=0, le=EVENTS_MAX)] = EVENTS_DEFAULT
    wait: Annotated[int, Meta(ge=0, le=WAIT_S_MAX)] = 0


class EventsReply(msgspec.Struct, frozen=True):
    """Reply of ``GET /v1/events``."""

    events: list[Event]
    next: int


class ReaderReply(msgspec.Struct, frozen=True):
    """Reply of the routes of one reader."""

    reader: str
    acknowledged: int


class AckReply(msgspec.Struct, frozen=True):
    """Reply of ``POST /v1/events/ack``."""

    reader: str
    up_to: int


@refusing
async def get_events(request: web.Request) -> web.StreamResponse:
    """Hand a reader the next events, at once or when there are some."""
    query = request.query
    unknown = set(query) - {"reader", "after", "limit", "wait"}
    if unknown:
        raise ScanError(sorted(unknown)[0], "unknown; expected reader, after, limit and wait")
    reader = query.get("reader")
    if reader is None:
        raise ScanError("reader", "expected the name of a registered reader, found none")
    limit = _number(request, "limit", EVENTS_MAX, EVENTS_DEFAULT)
    wait_s = _number(request, "wait", WAIT_S_MAX, 0)
    after = _number(request, "after", 10**_NUMBER_DIGITS_MAX, -1)
    ledger = request.app[PROGRAM].ledger
    if after < 0:
        after = await asyncio.to_thread(_acknowledged, request.app[PROGRAM], reader)
    loop = asyncio.get_running_loop()
    due_s = loop.time() + wait_s
    events: list[Event] = await asyncio.to_thread(ledger.events, reader, after, limit)
    while not events and limit and loop.time() < due_s and not request.app[STOPPING].is_set():
        await asyncio.sleep(LOOK_S)
        events = await asyncio.to_thread(ledger.events, reader, after, limit)
    return reply({"events": events, "next": events[-1].seq if events else after})


def _number(request: web.Request, name: str, most: int, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= _NUMBER_DIGITS_MAX and int(text) <= most):
        raise ScanError(name, f"expected a number of 0 to {most}, found {text[:40]!r}")
    return int(text)


def _acknowledged(program: Program, reader: str) -> int:
    return operating.mark_of(program.ledger.totals(), reader)


@refusing
async def post_ack(request: web.Request) -> web.StreamResponse:
    """Acknowledge events: a reader has dealt with all of them, up to one."""
    body = read_body(await read_small(request), AckBody)
    await asked(request, lambda program: program.ledger.ack(body.reader, body.up_to))
    return reply({"reader": body.reader, "up_to": body.up_to})


@refusing
async def get_readers(request: web.Request) -> web.StreamResponse:
    """List the readers of events, and how many events wait for each."""
    totals = await asyncio.to_thread(request.app[PROGRAM].ledger.totals)
    return reply(operating.show_readers(totals))


@refusing
async def put_reader(request: web.Request) -> web.StreamResponse:
    """Register a reader: from now on events are kept until it has acknowledged them. Again is no change."""
    name = request.match_info["reader"]
    await asked(request, lambda program: program.ledger.register_reader(name))
    return reply({"reader": name, "acknowledged": await asked(request, lambda program: _acknowledged(program, name))})


@refusing
async def delete_reader(request: web.Request) -> web.StreamResponse:
    """Remove a reader: events are no longer kept for it."""
    name = request.match_info["reader"]

    def remove(program: Program) -> int:
        acknowledged = _acknowledged(program, name)
        program.ledger.remove_reader(name)
        return acknowledged

    return reply({"reader": name, "acknowledged": await asked(request, remove)})


ROUTES: Final = (
    Route(
        "GET",
        "/v1/events",
        get_events,
        Access.ADMIN,
        query=EventsQuery,
        replies=(Reply(200, "Events, and the number to go on after", EventsReply),),
        problems=(404, 409, 503),
    ),
    Route(
        "POST",
        "/v1/events/ack",
        post_ack,
        Access.ADMIN,
        body=AckBody,
        replies=(Reply(200, "How far the reader has come", AckReply),),
        problems=(404, 409, 503),
    ),
    Route(
        "GET",
        "/v1/events/readers",
        get_readers,
        Access.ADMIN,
        replies=(Reply(200, "All readers", operating.ReadersShown),),
        problems=(503,),
    ),
    Route(
        "PUT",
        "/v1/events/readers/{reader}",
        put_reader,
        Access.ADMIN,
        replies=(Reply(200, "The reader is registered", ReaderReply),),
        problems=(404, 409, 503),
    ),
    Route(
        "DELETE",
        "/v1/events/readers/{reader}",
        delete_reader,
        Access.ADMIN,
        replies=(Reply(200, "The reader is removed", ReaderReply),),
        problems=(404, 409, 503),
    ),
)
