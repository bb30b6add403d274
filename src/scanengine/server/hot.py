"""The hot path's desk: answers the commonest requests without a task and without an application in between.

It answers what is answered with success, and what only the ledger can refuse. All else - no token, a body that cannot
be read, a source whose budget is spent - it leaves to aiohttp and the routes, so that a refusal is worded in one place.
What a request asks for is decided by ``Program`` as everywhere; all requests of one turn of the event loop together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from http import HTTPStatus
from time import perf_counter_ns, time
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict, MultiDict

from scanengine.model import Answer, ClaimStatus
from scanengine.program.gathering import Gathering
from scanengine.program.looks import verify_many
from scanengine.server._hot import DOOR, SCAN, Request
from scanengine.server._replies import write_reply
from scanengine.server.connections import Connection
from scanengine.server.door import open_at_once
from scanengine.server.limits import BAD_STATUSES, BUDGET, charge
from scanengine.server.login import source_of
from scanengine.server.problems import RETRY_AFTER_S, TooManyBadCodesError, problem_of, problem_response
from scanengine.server.requests import ID_HEADER, PROXIES, REQUEST_ID, new_request_id
from scanengine.server.routes import METRICS, PROGRAM, STOPPING
from scanengine.server.scans import SECRET_HEADERS, UNREADABLE, read_scan
from scanengine.server.visitors import wants_json

logger = logging.getLogger(__name__)

_TOKENS_MAX: Final = 1024
_JSON: Final = "Content-Type: application/json\r\n"
_SCAN_PATH: Final = "/v1/scans"
_LOOK_PATH: Final = "/v1/codes/{code}"
_DOOR_PATH: Final = "/s/{code}"


def _head(status: HTTPStatus, headers: str) -> bytes:
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{headers}{ID_HEADER}: ".encode()


_SECRET: Final = "".join(f"{name}: {value}\r\n" for name, value in SECRET_HEADERS.items())
_SCANNED: Final = _head(HTTPStatus.OK, _JSON)
_PENDING: Final = _head(HTTPStatus.SERVICE_UNAVAILABLE, f"{_JSON}Retry-After: {RETRY_AFTER_S}\r\n")
_LOOKED_AT: Final = _head(HTTPStatus.OK, f"{_JSON}{_SECRET}")
_PENDING_CLAIM: Final = ClaimStatus.PENDING.value
_encode: Final = msgspec.json.Encoder().encode


class _AtTheDoor:
    """What tells who asks, of a native request: an :class:`~scanengine.server.requests.Asked`."""

    method: Final = "GET"
    query_string: Final = ""
    query: Final = MultiDict[str]()

    def __init__(self, app: web.Application, connection: Connection, request: Request) -> None:
        self.app = app
        self.headers = CIMultiDict(request.headers())
        self.remote = connection.remote


class Desk:
    """Answers native requests for one application.

    Parameters
    ----------
    app : web.Application
        Made by :func:`~scanengine.server.app.make_app`, asked by outsiders, with nothing in front of its routes.

    Attributes
    ----------
    is_stopping : callable
        Tells whether each connection ends with its next reply.
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._program = app[PROGRAM]
        self._keyring = self._program.keyring
        self._has_tokens = self._keyring.has_tokens
        self._budget = app.get(BUDGET)
        self._proxies = app[PROXIES] if app[PROXIES].are_any else None
        self._metrics = app[METRICS]
        self.is_stopping = app[STOPPING].is_set
        self._claims = Gathering(self._claim_all, partial(_deliver, self._scanned))
        self._looks = Gathering(self._look_at_all, partial(_deliver, self._looked_at))
        self._at_the_door = Gathering(self._look_at_all, partial(_deliver, self._seen))
        self._arrived: list[Connection] = []
        self._tokens: set[bytes] = set()
        self._second = 0
        self._tail = b""

    def read(self, connection: Connection) -> None:
        """Let a connection begin what has arrived, together with all others of this turn of the event loop."""
        if not self._arrived:
            # In a context of nobody: whoever is answered just now is not who is read.
            asyncio.get_running_loop().call_soon(self._read_all, context=Context())
        self._arrived.append(connection)

    def _read_all(self) -> None:
        arrived, self._arrived = self._arrived, []
        for connection in arrived:
            connection.go_on()
        self._claims.begin()
        self._looks.begin()
        self._at_the_door.begin()

    def begin(self, connection: Connection, request: Request) -> bool:
        """Take a request on; False if it is for aiohttp, in its turn."""
        if request.kind == DOOR:
            return self._open_door(connection, request)
        if request.kind == SCAN:
            body = request.body
            if body is None or not self.lets_in(connection, request):
                return False
            try:
                request.scan = read_scan(body)
            except UNREADABLE:
                return False
            add = self._claims.add
        else:
            if not self.lets_in(connection, request):
                return False
            add = self._looks.add
        self._note(connection, request)
        add(request)
        return True

    # Scans ----------------------------------------------------------------------------------------------------------

    async def _claim_all(self, requests: Sequence[Request]) -> list[Answer]:
        _name_task(requests)
        self._metrics.claims_in_progress += len(requests)
        return await self._program.claim_many_async([request.scan for request in requests])

    def _scanned(self, requests: Sequence[Request], told: Sequence[Answer] | BaseException) -> None:
        self._metrics.claims_in_progress -= len(requests)
        if isinstance(told, BaseException):
            self._refuse(requests, _SCAN_PATH, told)
            return
        claims = [None if answer.claim is None else answer.claim.status for answer in told]
        self._metrics.count_scans(Counter(zip([answer.status for answer in told], claims, strict=True)))
        if _PENDING_CLAIM in claims:
            for request, claim, answer in zip(requests, claims, told, strict=True):
                head, code = (_PENDING, 503) if claim == _PENDING_CLAIM else (_SCANNED, 200)
                self._hand_out([request], _SCAN_PATH, code, head, [answer])
        else:
            self._hand_out(requests, _SCAN_PATH, 200, _SCANNED, told)

    # Looks ----------------------------------------------------------------------------------------------------------

    async def _look_at_all(self, requests: Sequence[Request]) -> list[Answer]:
        _name_task(requests)
        return await verify_many(self._program, [request.code for request in requests], self._program.clock())

    def _looked_at(self, requests: Sequence[Request], told: Sequence[Answer] | BaseException) -> None:
        if isinstance(told, BaseException):
            self._refuse(requests, _LOOK_PATH, told)
            return
        self._metrics.count_looks(Counter([answer.status for answer in told]))
        self._hand_out(requests, _LOOK_PATH, 200, _LOOKED_AT, told)

    # The consumer's door ----------------------------------------------------------------------------------------------

    def _open_door(self, connection: Connection, request: Request) -> bool:
        asked = _AtTheDoor(self._app, connection, request)
        if self._budget is not None:
            request.source = source_of(asked)
            if self._budget.wait_s(request.source):
                return False
        self._note(connection, request)
        if wants_json(asked):
            if self._program.decide(request.code).status in BAD_STATUSES:
                return False
            self._at_the_door.add(request)
            return True
        sent_on = open_at_once(asked, request.code)
        if sent_on is None:
            return False
        self._count([request], _DOOR_PATH, HTTPStatus.FOUND)
        head = _head(HTTPStatus.FOUND, "".join([f"{name}: {value}\r\n" for name, value in sent_on.headers()]))
        request.reply = write_reply(head, request.id, self._end_of_head(), b"")
        return True

    def _seen(self, requests: Sequence[Request], told: Sequence[Answer] | BaseException) -> None:
        if isinstance(told, BaseException):
            self._refuse(requests, _DOOR_PATH, told)
            return
        self._metrics.count_looks(Counter([answer.status for answer in told]))
        for request, answer in zip(requests, told, strict=True):
            try:
                if self._budget is not None:
                    charge(self._budget, request.source, answer.status)
            except TooManyBadCodesError as error:
                self._refuse([request], _DOOR_PATH, error)
            except Exception:
                logger.exception("a look at the door could not be answered")
                request.connection.force_close()
            else:
                self._hand_out([request], _DOOR_PATH, 200, _LOOKED_AT, [answer])

    # What all have in common ------------------------------------------------------------------------------------------

    def lets_in(self, connection: Connection, request: Request) -> bool:
        """Whether the guard of the routes lets a back end's request in: it shows a token, or needs none."""
        if not self._has_tokens:
            return connection.is_loopback and not request.is_passed_on
        token = request.token
        if token is None:
            return False
        if token in self._tokens:
            return True
        scheme, _, secret = token.partition(b" ")
        try:
            caller = self._keyring.caller(secret.decode("ascii").strip()) if scheme.lower() == b"bearer" else None
        except UnicodeDecodeError:
            return False
        if caller is None:
            return False
        if len(self._tokens) < _TOKENS_MAX:
            self._tokens.add(token)
        return True

    def _hand_out(
        self, requests: Sequence[Request], path: str, code: int, head: bytes, answers: Sequence[Answer]
    ) -> None:
        """Make all replies, then send them."""
        self._count(requests, path, code)
        tail = self._end_of_head()
        for request, answer in zip(requests, answers, strict=True):
            try:
                request.reply = write_reply(head, request.id, tail, _encode(answer.public()))
            except Exception:
                logger.exception("a reply could not be made")
        _send(requests)

    def _refuse(self, requests: Sequence[Request], path: str, error: BaseException) -> None:
        """Reply with what the routes say of an error; what is not an error but an end goes on ending."""
        for request in requests:
            if isinstance(error, Exception):
                before = REQUEST_ID.set(request.id)
                try:
                    response = problem_response(problem_of(error), error)
                finally:
                    REQUEST_ID.reset(before)
                self._count([request], path, response.status)
                request.reply = self._bytes_of(response)
        _send(requests)

    def _bytes_of(self, response: web.Response) -> bytes:
        """Return a reply of the routes as it is sent."""
        body = response.body or b""
        assert isinstance(body, bytes)
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        return b"%b\r\nContent-Length: %d%b%b" % ("\r\n".join(lines).encode(), len(body), self._end_of_head(), body)

    def _count(self, requests: Sequence[Request], path: str, code: int) -> None:
        now_ns = perf_counter_ns()
        self._metrics.count_requests(path, code, [now_ns - request.began_ns for request in requests])

    def _note(self, connection: Connection, request: Request) -> None:
        """Note when and where a request was begun, and by which id it is found again."""
        request.began_ns = perf_counter_ns()
        request.connection = connection
        if self._proxies is not None:
            request.id = self._proxies.request_id(_AtTheDoor(self._app, connection, request))
        else:
            request.id = new_request_id()

    def _end_of_head(self) -> bytes:
        second = int(time())
        if second != self._second:
            self._second = second
            self._tail = f"\r\nDate: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n".encode()
        return self._tail


def _deliver(
    how: Callable[[Sequence[Request], Sequence[Answer] | BaseException], None],
    requests: Sequence[Request],
    told: Sequence[Answer] | BaseException,
) -> None:
    """Hand answers over; a connection that would wait for its reply for ever ends instead."""
    try:
        how(requests, told)
    except Exception:
        logger.exception("answers could not be handed over")
        for request in requests:
            request.connection.force_close()


def _send(requests: Sequence[Request]) -> None:
    """Send the replies to some requests; a connection without a reply to send ends."""
    taken = [(request.connection, _taken(request)) for request in requests]
    # Nothing but this stands between one system call and the next.
    for connection, replies in taken:
        try:
            if replies is None:
                connection.force_close()
            elif replies and connection.transport is not None:
                connection.transport.write(replies)
        except Exception:
            logger.exception("a reply could not be sent")
            connection.force_close()


def _taken(request: Request) -> bytes | None:
    """Return what is to be sent now that a request is answered, None if that cannot be."""
    if request.reply is None:
        return None
    try:
        return request.connection.take_replies()
    except Exception:
        logger.exception("a reply could not be sent")
        return None


def _name_task(requests: Sequence[Request]) -> None:
    """Let what is logged from here on name the request that it is done for, if that is one alone."""
    REQUEST_ID.set(requests[0].id if len(requests) == 1 else "")


def make_desk(app: web.Application) -> Desk | None:
    """Return the desk of an application, None if its settings say that all goes through aiohttp."""
    return Desk(app) if app[PROGRAM].settings.server.hot_path else None
