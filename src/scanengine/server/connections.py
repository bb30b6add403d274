"""Connections of ours: aiohttp's, with a native way for what is common, and our own way of refusing what is not HTTP.

A connection is in one of five modes (drawn in ``docs/hot-path.md``):

    HOT       at a message boundary; messages are framed here, and answered natively where they can be
    COLD      one message is passed on to aiohttp as it arrives; where it ends is known
    WAITING   aiohttp has the whole of it; what follows stays here until it has answered
    FOREIGN   aiohttp has the connection, for good
    ENDING    all is answered; what still comes is read and forgotten

aiohttp sees whole messages only, one at a time, and none while a native reply is pending: replies leave in the order of
the requests, whoever makes them. What ends a connection (a timer, a shutdown, the application) counts native requests
like aiohttp's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from scanengine.server._hot import COLD as COLD_MESSAGE
from scanengine.server._hot import FOREIGN as FOREIGN_MESSAGE
from scanengine.server._hot import SCAN, Framer, Request
from scanengine.server.problems import bad_request, problem_response
from scanengine.server.requests import REQUEST_ID, is_loopback, new_request_id

if TYPE_CHECKING:
    from scanengine.server.hot import Desk

logger = logging.getLogger(__name__)
HTTP_LOGGER: Final = logging.getLogger("scanengine.server.http")

PENDING_MAX: Final = 32
"""Native requests of one connection that are begun and not answered."""
LINGER_S: Final = 1.0
"""How long a client may take to end a connection whose last reply it has been sent."""
_LARGE_BYTES: Final = 64 << 10
_HEAD_END: Final = b"\r\n\r\n"
_CLOSING_END: Final = b"\r\nConnection: close\r\n\r\n"
_HOT, _COLD, _WAITING, _FOREIGN, _ENDING = range(5)
_LEANT_ON: Final = frozenset(
    ("_buffer_paused", "_close", "_force_close", "_keepalive", "_keepalive_handle", "_keepalive_timeout", "_loop",
     "_messages", "_next_keepalive_close_time", "_pause_transport_reading", "_paused", "_process_keepalive",
     "_reading_paused", "_resume_transport_reading", "_upgraded", "_waiter", "close", "connection_lost",
     "connection_made", "data_received", "force_close", "handle_error", "pause_writing", "peername", "resume_writing",
     "shutdown", "start", "transport")
)  # fmt: skip
"""What is used here of aiohttp's inside; only some of it is promised."""


def missing_parts(handler: type[RequestHandler] = RequestHandler) -> frozenset[str]:
    """Return what aiohttp's connections do not have any more of what ours lean on."""
    return frozenset(name for name in _LEANT_ON if not hasattr(handler, name))


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Whether an error is worth a line: what is not HTTP is the client's fault, and its text may hold a whole code."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError))


HTTP_LOGGER.addFilter(_is_our_fault)


class PlainConnection(RequestHandler):
    """A connection that refuses what is not HTTP as it refuses everything else: with problem details and an id."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return what a request that cannot be read is answered with."""
        refusal = super().handle_error(request, status, exc, message)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return refusal
        REQUEST_ID.set(new_request_id())
        # What the parser says may quote the request, and with it a code.
        response = problem_response(bad_request("the request is not HTTP/1.1 as this server reads it"))
        response.force_close()
        return response


class Connection(PlainConnection):
    """A connection that answers what is common natively.

    Parameters
    ----------
    desk : Desk
        Answers native requests.
    """

    __slots__ = (
        "_desk", "_ended", "_framer", "_idle", "_is_ending", "_is_holding", "_is_loopback", "_is_refused", "_left",
        "_mode", "_pending",
    )  # fmt: skip

    def __init__(self, desk: Desk, manager: web.Server, **options: Any) -> None:
        self._desk = desk
        self._framer = Framer()
        self._pending: deque[Request] = deque()
        self._mode = _HOT
        self._left = 0
        self._is_holding = False
        self._is_ending = False
        self._is_refused = False
        self._is_loopback: bool | None = None
        self._ended: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        super().__init__(manager, **options)

    @property
    def _waiter(self) -> asyncio.Future[None] | None:
        """What aiohttp waits for between two messages: it waits exactly when it has answered all."""
        return self._idle

    @_waiter.setter
    def _waiter(self, waiter: asyncio.Future[None] | None) -> None:
        self._idle = waiter
        if waiter is not None and self._mode == _WAITING:
            self._loop.call_soon(self._come_back)

    @property
    def remote(self) -> str | None:
        """Address of the other end, None if it has none."""
        peer = self.peername
        return str(peer[0]) if isinstance(peer, (list, tuple)) else peer

    @property
    def is_loopback(self) -> bool:
        """Whether the other end is on this machine."""
        if self._is_loopback is None:
            self._is_loopback = is_loopback(self.remote or "")
        return self._is_loopback

    # Bytes that arrive ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; aiohttp itself calls this with nothing, to go on with what it holds."""
        mode = self._mode
        if not data or mode == _FOREIGN:
            super().data_received(data)
        elif mode == _HOT:
            self._framer.feed(data)
            front = self._framer.next()
            if front is None or front.kind >= COLD_MESSAGE or (front.kind == SCAN and front.body is None):
                self._advance()  # aiohttp has its messages at once.
                return
            self._desk.read(self)
            if len(data) >= _LARGE_BYTES:
                self.go_on()  # More may follow before the turn ends, and reading may have to stop.
        elif mode == _COLD:
            self._framer.feed(data)
            self._pass_on()
        elif mode == _WAITING:
            self._framer.feed(data)
            self._hold()

    def _advance(self) -> None:
        """Begin the requests at the front, as far as they are here and may be begun."""
        pending, framer = self._pending, self._framer
        begun = 0
        while not (self._is_ending or self._close or self._force_close):
            if self._paused or len(pending) >= PENDING_MAX:
                self._hold()
                return
            if begun == PENDING_MAX:
                # What is answered at once is never pending; others have their turn too.
                self._hold()
                self._desk.read(self)
                return
            request = framer.next()
            if request is None:
                self._release()
                return
            if pending and (self._is_refused or request.kind != pending[-1].kind):
                # A look that is asked after a claim sees it: only what goes the same way is on its way together.
                self._hold()
                return
            if request.kind == SCAN and request.body is None and self._desk.lets_in(self, request):
                self._release()
                return
            if request.kind < COLD_MESSAGE and not self._is_refused and self._desk.begin(self, request):
                begun += 1
                framer.skip(request.size)
                pending.append(request)
                if request.reply is not None:
                    self.send()
                continue
            # Not ours, or to be refused in a way that is aiohttp's to say: in its turn.
            self._is_refused = True
            if pending:
                self._hold()
                return
            self._is_refused = False
            if request.kind == FOREIGN_MESSAGE:
                self._give_up()
            else:
                self._mode, self._left = _COLD, request.size
                self._pass_on()
            return
        framer.skip(len(framer))  # Nobody will answer it any more.

    def go_on(self) -> None:
        """Begin what has arrived, called by somebody who has others too: an error here ends this connection alone."""
        if self._mode != _HOT:
            return
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001 - aiohttp's parser and all that it stands on may raise here
            # What it says may quote the request, and with it a code.
            logger.error("a connection ends, as what it sent could not be read: %s", type(error).__name__)
            self.force_close()

    def _pass_on(self) -> None:
        """Pass on what has arrived of a cold message."""
        data = self._framer.take(self._left)
        self._left -= len(data)
        if not self._left:
            self._mode = _WAITING
        super().data_received(data)
        if len(self._framer):
            self._hold()
        else:
            self._release()

    def _come_back(self) -> None:
        """Go on natively, once aiohttp has answered all that it was given."""
        idle = self._idle
        if self._mode != _WAITING or idle is None or idle.done() or self._messages:
            return
        if self._upgraded or self._reading_paused or self._buffer_paused:
            self._give_up()
        else:
            self._mode = _HOT
            self._desk.read(self)

    def _give_up(self) -> None:
        """Leave the connection to aiohttp, with all that has arrived."""
        self._mode = _FOREIGN
        self._release()
        super().data_received(self._framer.take(len(self._framer)))

    def _hold(self) -> None:
        """Stop reading: what has arrived cannot be begun yet."""
        self._is_holding = True
        self._pause_transport_reading()

    def _release(self) -> None:
        if self._is_holding:
            self._is_holding = False
            if not (self._reading_paused or self._buffer_paused):
                self._resume_transport_reading()

    # Replies --------------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send the replies that are made, as far as those before them are."""
        replies = self.take_replies()
        if replies and self.transport is not None:
            self.transport.write(replies)

    def take_replies(self) -> bytes:
        """Return the replies that are to be sent now; those that end the connection are sent already."""
        pending = self._pending
        taken: list[bytes] = []
        while pending and (reply := pending[0].reply) is not None:
            taken.append(reply)
            pending.popleft()
        if not taken or self.transport is None:
            return b""
        if self._is_holding:
            self._desk.read(self)
        if not pending:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._is_ending or self._desk.is_stopping():
                taken[-1] = taken[-1].replace(_HEAD_END, _CLOSING_END, 1)
                self.transport.write(b"".join(taken))
                self._end()
                return b""
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def pause_writing(self) -> None:
        """Stop reading too: who does not read replies is not read from."""
        super().pause_writing()
        if self._mode == _HOT:
            self._hold()

    def resume_writing(self) -> None:
        """Go on with what has arrived."""
        super().resume_writing()
        if self._is_holding:
            self._desk.read(self)

    # Ends -----------------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Begin what has arrived in this turn, before something ends the connection."""
        if self._mode == _HOT and len(self._framer):
            self._desk.read(self)
            self.go_on()

    def _process_keepalive(self) -> None:
        self._take_up()
        if self._pending:
            # To aiohttp, which was given nothing, this connection is idle.
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def close(self) -> None:
        """End the connection when what is in progress has been answered."""
        self._take_up()
        if self._pending:
            self._is_ending = True
        else:
            super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Wait until what is in progress has been answered and has reached the client, then end the connection."""
        self._take_up()
        self._is_ending = True
        if self.transport is not None and self._mode in (_HOT, _ENDING):
            self._ended = self._loop.create_future()
            if not self._pending:
                self._end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._ended
        await super().shutdown(timeout)

    def _end(self) -> None:
        """Say that nothing more comes, and read on until the client has heard it.

        A socket that is closed with bytes unread takes back the replies that are on their way (RFC 9112, 9.6).
        """
        if self._mode == _ENDING or self.transport is None or self.transport.is_closing():
            return
        self._mode = _ENDING
        self._framer.skip(len(self._framer))
        self._release()
        self.transport.write_eof()
        self._loop.call_later(LINGER_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget who waits for replies. What they asked for is done all the same."""
        self._pending.clear()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        super().connection_lost(exc)


class _Listener(web.Server):
    """Makes a connection of ours for each client."""

    desk: Desk | None

    def __call__(self) -> RequestHandler:
        if self.desk is None:
            return PlainConnection(self, loop=self._loop, **self._kwargs)
        return Connection(self.desk, self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on connections of ours.

    Parameters
    ----------
    desk : Desk, optional
        Answers native requests; without one all goes through aiohttp.
    """

    def __init__(self, app: web.Application, *, desk: Desk | None = None, **options: Any) -> None:
        super().__init__(app, **options)
        self._desk = desk
        missing = missing_parts()
        if desk is not None and missing:
            logger.warning(
                "this aiohttp has no %s any more: all requests go through it, at a fraction of the speed",
                ", ".join(sorted(missing)),
            )
            self._desk = None

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Listener
        assert isinstance(server, _Listener)
        server.desk = self._desk
        return server
