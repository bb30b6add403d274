"""The hot path's desk: answers the commonest requests without a task and without an application in between.

It answers what is answered with success, and what only the ledger can refuse. All else - no token, a body that cannot
be read, a source whose budget is spent - it leaves to aiohttp and the routes, so that a refusal is worded in one place.
What a request asks for is decided by ``Program`` as everywhere; all requests of one turn of the event loop together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from time import perf_counter_ns, time
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict, MultiDict

from scanengine.model import Answer
from scanengine.program.gathering import Gathering
from scanengine.program.looks import verify_many
from scanengine.program.scans import Scan
from scanengine.server._hot import LOOK, SCAN, Request
from scanengine.server.connections import Connection
from scanengine.server.door import open_at_once
from scanengine.server.limits import BAD_STATUSES, BUDGET, charge
from scanengine.server.login import source_of
from scanengine.server.problems import RETRY_AFTER_S, TooManyBadCodesError, problem_of, problem_response
from scanengine.server.requests import ID_HEADER, PROXIES, REQUEST_ID, new_request_id
from scanengine.server.routes import METRICS, PROGRAM, STOPPING
from scanengine.server.scans import SECRET_HEADERS, UNREADABLE, read_scan
from scanengine.server.visitors import wants_json

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
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._program = app[PROGRAM]
        self._budget = app.get(BUDGET)
        self._proxies = app[PROXIES]
        self._metrics = app[METRICS]
        self._stopping = app[STOPPING]
        self._claims = Gathering(self._claim_all)
        self._looks = Gathering(self._look_at_all)
        self._tokens: set[bytes] = set()
        self._second = 0
        self._tail = b""

    @property
    def is_stopping(self) -> bool:
        """Whether each connection ends with its next reply."""
        return self._stopping.is_set()

    def begin(self, connection: Connection, request: Request) -> bool:
        """Take a request on; False if it is for aiohttp, in its turn."""
        if request.kind == SCAN:
            return self._begin_scan(connection, request)
        if request.kind == LOOK:
            return self._begin_look(connection, request)
        return self._open_door(connection, request)

    # Scans ----------------------------------------------------------------------------------------------------------

    def _begin_scan(self, connection: Connection, request: Request) -> bool:
        body = request.body
        if body is None or not self.lets_in(connection, request):
            return False
        try:
            scan = read_scan(body)
        except UNREADABLE:
            return False
        self._note(connection, request)
        self._metrics.claims_in_progress += 1
        self._claims.add((scan, request), partial(self._deliver, self._scanned, connection, request))
        return True

    async def _claim_all(self, asked: Sequence[tuple[Scan, Request]]) -> list[Answer]:
        _name_task([request for _, request in asked])
        return await self._program.claim_many_async([scan for scan, _ in asked])

    def _scanned(self, connection: Connection, request: Request, told: Answer | BaseException) -> None:
        metrics = self._metrics
        metrics.claims_in_progress -= 1
        if isinstance(told, BaseException):
            self._refuse(connection, request, _SCAN_PATH, told)
            return
        metrics.count_scan(told)
        if told.is_pending:
            status, head = 503, _PENDING
        else:
            status, head = 200, _SCANNED
        self._count(_SCAN_PATH, status, request)
        self._reply(connection, request, head, told)

    # Looks ----------------------------------------------------------------------------------------------------------

    def _begin_look(self, connection: Connection, request: Request) -> bool:
        if not self.lets_in(connection, request):
            return False
        self._note(connection, request)
        self._looks.add(request, partial(self._deliver, self._looked_at, connection, request))
        return True

    async def _look_at_all(self, asked: Sequence[Request]) -> list[Answer]:
        _name_task(asked)
        return await verify_many(self._program, [request.code for request in asked], self._program.clock())

    def _looked_at(self, connection: Connection, request: Request, told: Answer | BaseException) -> None:
        if isinstance(told, BaseException):
            self._refuse(connection, request, _LOOK_PATH, told)
            return
        self._metrics.count_look(told)
        self._count(_LOOK_PATH, 200, request)
        self._reply(connection, request, _LOOKED_AT, told)

    # The consumer's door ----------------------------------------------------------------------------------------------

    def _open_door(self, connection: Connection, request: Request) -> bool:
        asked = _AtTheDoor(self._app, connection, request)
        source = b""
        if self._budget is not None:
            source = source_of(asked)
            if self._budget.wait_s(source):
                return False
        self._note(connection, request)
        if wants_json(asked):
            if self._program.decide(request.code).status in BAD_STATUSES:
                return False
            self._looks.add(request, partial(self._deliver, partial(self._seen, source), connection, request))
            return True
        response = open_at_once(asked, request.code)
        if response is None:
            return False
        response.headers[ID_HEADER] = request.id
        self._count(_DOOR_PATH, response.status, request)
        request.reply = self._bytes_of(response)
        return True

    def _seen(self, source: bytes, connection: Connection, request: Request, told: Answer | BaseException) -> None:
        if isinstance(told, BaseException):
            self._refuse(connection, request, _DOOR_PATH, told)
            return
        self._metrics.count_look(told)
        try:
            if self._budget is not None:
                charge(self._budget, source, told.status)
        except TooManyBadCodesError as error:
            self._refuse(connection, request, _DOOR_PATH, error)
            return
        self._count(_DOOR_PATH, 200, request)
        self._reply(connection, request, _LOOKED_AT, told)

    # What all have in common ------------------------------------------------------------------------------------------

    def lets_in(self, connection: Connection, request: Request) -> bool:
        """Whether the guard of the routes lets a back end's request in: it shows a token, or needs none."""
        keyring = self._program.keyring
        if not keyring.has_tokens:
            return connection.is_loopback and not request.is_passed_on
        token = request.token
        if token is None:
            return False
        if token in self._tokens:
            return True
        scheme, _, secret = token.partition(b" ")
        try:
            caller = keyring.caller(secret.decode("ascii").strip()) if scheme.lower() == b"bearer" else None
        except UnicodeDecodeError:
            return False
        if caller is None:
            return False
        if len(self._tokens) < _TOKENS_MAX:
            self._tokens.add(token)
        return True

    def _deliver(
        self,
        how: Callable[[Connection, Request, Answer | BaseException], None],
        connection: Connection,
        request: Request,
        told: Answer | BaseException,
    ) -> None:
        """Hand an answer over; a connection that would wait for its reply for ever ends instead."""
        try:
            how(connection, request, told)
        except Exception:
            connection.force_close()
            raise

    def _reply(self, connection: Connection, request: Request, head: bytes, answer: Answer) -> None:
        body = _encode(answer.public())
        reply = b"%b%b\r\nContent-Length: %d%b%b" % (
            head, request.id.encode(), len(body), self._end_of_head(), body,
        )  # fmt: skip
        connection.answer(request, reply)

    def _refuse(self, connection: Connection, request: Request, path: str, error: BaseException) -> None:
        """Reply with what the routes say of an error; what is not an error but an end goes on ending."""
        if not isinstance(error, Exception):
            connection.force_close()
            return
        before = REQUEST_ID.set(request.id)
        try:
            response = problem_response(problem_of(error), error)
        finally:
            REQUEST_ID.reset(before)
        self._count(path, response.status, request)
        connection.answer(request, self._bytes_of(response))

    def _bytes_of(self, response: web.Response) -> bytes:
        """Return a reply of the routes as it is sent."""
        body = response.body or b""
        assert isinstance(body, bytes)
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        return b"%b\r\nContent-Length: %d%b%b" % ("\r\n".join(lines).encode(), len(body), self._end_of_head(), body)

    def _count(self, path: str, status: int, request: Request) -> None:
        self._metrics.count_request(path, status, perf_counter_ns() - request.began_ns)

    def _note(self, connection: Connection, request: Request) -> None:
        """Note when a request was begun, and by which id it is found again."""
        request.began_ns = perf_counter_ns()
        if self._proxies.are_any:
            request.id = self._proxies.request_id(_AtTheDoor(self._app, connection, request))
        else:
            request.id = new_request_id()

    def _end_of_head(self) -> bytes:
        second = int(time())
        if second != self._second:
            self._second = second
            self._tail = f"\r\nDate: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n".encode()
        return self._tail


def _name_task(requests: Sequence[Request]) -> None:
    """Let what is logged from here on name the request that it is done for, if that is one alone."""
    REQUEST_ID.set(requests[0].id if len(requests) == 1 else "")


def make_desk(app: web.Application) -> Desk | None:
    """Return the desk of an application, None if its settings say that all goes through aiohttp."""
    return Desk(app) if app[PROGRAM].settings.server.hot_path else None
