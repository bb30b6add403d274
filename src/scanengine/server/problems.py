"""Errors as RFC 9457 problem details: the one mapping from exceptions to HTTP, and the list of all problems."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import web

from scanengine.errors import (
    AdjustmentError,
    AssignmentError,
    LedgerUnavailableError,
    OutboxError,
    OverloadedError,
    ScanEngineError,
    ScanError,
    UnknownReaderError,
)
from scanengine.server.requests import ID_HEADER, REQUEST_ID

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:scanengine:problem:"
INSTANCE_PREFIX: Final = "urn:scanengine:request:"
RETRY_AFTER_S: Final = "1"
_FIELD: Final = re.compile(r"field `([^`]+)`|`\$\.?([^`]*)`")


class Kind(msgspec.Struct, frozen=True):
    """One kind of problem: what `type` and `title` say wherever it occurs, and with which HTTP status."""

    name: str
    title: str
    status: int

    @property
    def type(self) -> str:
        """The URI that programs compare."""
        return TYPE_PREFIX + self.name


BAD_REQUEST: Final = Kind("bad-request", "Bad request", 400)
CONFLICT: Final = Kind("conflict", "Conflict", 409)
NOT_FOUND: Final = Kind("not-found", "Not Found", 404)
TOO_MANY_BAD_CODES: Final = Kind("too-many-bad-codes", "Too Many Bad Codes", 429)
INTERNAL: Final = Kind("internal", "Internal error", 500)
UNAVAILABLE: Final = Kind("unavailable", "Unavailable", 503)
OVERLOADED: Final = Kind("overloaded", "Overloaded", 503)
KINDS_BY_STATUS: Final = MappingProxyType(
    {
        kind.status: kind
        for kind in (
            BAD_REQUEST,
            Kind("unauthorized", "Unauthorized", 401),
            Kind("forbidden", "Forbidden", 403),
            NOT_FOUND,
            Kind("method-not-allowed", "Method Not Allowed", 405),
            CONFLICT,
            Kind("content-too-large", "Content Too Large", 413),
            Kind("unsupported-media-type", "Unsupported Media Type", 415),
            Kind("expectation-failed", "Expectation Failed", 417),
            TOO_MANY_BAD_CODES,
            INTERNAL,
            UNAVAILABLE,
        )
    }
)
"""What a status means that a library raises: a type is for ever, so no other is made of it."""
KINDS: Final = (*KINDS_BY_STATUS.values(), OVERLOADED)
"""All kinds."""


class TooManyBadCodesError(ScanEngineError):
    """A source has shown more bad codes than it may, and is not told what this one is."""

    def __init__(self, wait_s: int) -> None:
        self.wait_s = wait_s
        super().__init__(f"too many codes that are not ours came from here: wait {wait_s} s")


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details.

    Parameters
    ----------
    field : str or None
        The part of the request that is wrong.
    instance : str or None
        The request, by its id; of a whole reply only.
    """

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    instance: str | None = None


def a_problem(kind: Kind, detail: str, field: str | None = None) -> Problem:
    """Return a problem of a kind."""
    return Problem(kind.type, kind.title, kind.status, detail, field)


def bad_request(detail: str, field: str | None = None) -> Problem:
    """Return the problem of a request that cannot be understood."""
    return a_problem(BAD_REQUEST, detail, field)


def problem_of(error: Exception) -> Problem:
    """Return the problem details of an exception. Inner errors say nothing of the inside; the log does."""
    if isinstance(error, ScanError):
        return bad_request(str(error), error.field)
    if isinstance(error, UnknownReaderError):
        return a_problem(NOT_FOUND, str(error), "reader")
    if isinstance(error, (AdjustmentError, AssignmentError, OutboxError)):
        return a_problem(CONFLICT, str(error))
    if isinstance(error, msgspec.ValidationError):
        match = _FIELD.search(str(error))
        return bad_request(str(error), (match.group(1) or match.group(2) if match else None) or "body")
    if isinstance(error, (msgspec.DecodeError, UnicodeDecodeError)):
        return bad_request(f"the body is not JSON: {error}", "body")
    if isinstance(error, RecursionError):
        return bad_request("the body is nested too deeply", "body")
    if isinstance(error, (web.RequestPayloadError, ConnectionError)):
        return bad_request("the body did not arrive whole, or its content encoding is broken", "body")
    if isinstance(error, TooManyBadCodesError):
        return a_problem(TOO_MANY_BAD_CODES, str(error))
    if isinstance(error, web.HTTPException):
        return _problem_of_http(error)
    if isinstance(error, OverloadedError):
        # The ledger has said so in the log, once for many; a line for each would take what is left of the time.
        return a_problem(OVERLOADED, "more is asked than can be answered in time; this was not done: send it again")
    if isinstance(error, LedgerUnavailableError):
        logger.error("%sledger unavailable: %s", _request(), error)
        return a_problem(UNAVAILABLE, "not done; ask again")
    kind = "known" if isinstance(error, ScanEngineError) else "unknown"
    logger.error("%s%s error while answering: %s", _request(), kind, error, exc_info=error)
    return a_problem(INTERNAL, "the log of the server says more")


def _problem_of_http(error: web.HTTPException) -> Problem:
    kind = KINDS_BY_STATUS.get(error.status) or (BAD_REQUEST if error.status < 500 else INTERNAL)
    # Without a reason of ours it is the phrase of the status, which has changed between versions of Python.
    has_reason = error.reason and error.reason != HTTPStatus(error.status).phrase
    return a_problem(kind, error.reason if has_reason else kind.title)


def _request() -> str:
    """Return how a log line begins that tells more than the reply: with the id that the reply has."""
    found = REQUEST_ID.get()
    return f"request {found}: " if found else ""


def problem_response(problem: Problem, error: Exception | None = None) -> web.Response:
    """Return a problem as a reply, with the headers that its status asks for."""
    request_id = REQUEST_ID.get()
    if request_id:
        problem = msgspec.structs.replace(problem, instance=INSTANCE_PREFIX + request_id)
    response = web.Response(body=msgspec.json.encode(problem), status=problem.status, content_type=CONTENT_TYPE)
    if request_id:
        response.headers[ID_HEADER] = request_id
    if isinstance(error, TooManyBadCodesError):
        response.headers["Retry-After"] = str(error.wait_s)
    elif problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = RETRY_AFTER_S
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return response
