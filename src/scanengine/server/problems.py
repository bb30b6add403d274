"""Errors as RFC 9457 problem details: the one mapping from exceptions to HTTP."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from scanengine.errors import LedgerUnavailableError, ScanEngineError, ScanError

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:scanengine:problem:"
RETRY_AFTER_S: Final = "1"
_PHRASES: Final = {413: "Content Too Large", 414: "URI Too Long"}
"""Those of RFC 9110, which Python 3.13 took over: a type is for ever, whatever Python it runs on."""
_FIELD: Final = re.compile(r"field `([^`]+)`|`\$\.?([^`]*)`")


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details; `field` names the part of the body that is wrong."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None


def bad_request(detail: str, field: str | None = None) -> Problem:
    """Return the problem of a request that cannot be understood."""
    return Problem(f"{TYPE_PREFIX}bad-request", "Bad request", HTTPStatus.BAD_REQUEST, detail, field)


def problem_of(error: Exception) -> Problem:
    """Return the problem details of an exception. Inner errors say nothing of the inside; the log does."""
    if isinstance(error, ScanError):
        return bad_request(str(error), error.field)
    if isinstance(error, msgspec.ValidationError):
        match = _FIELD.search(str(error))
        return bad_request(str(error), (match.group(1) or match.group(2) if match else None) or "body")
    if isinstance(error, (msgspec.DecodeError, UnicodeDecodeError)):
        return bad_request(f"the body is not JSON: {error}", "body")
    if isinstance(error, RecursionError):
        return bad_request("the body is nested too deeply", "body")
    if isinstance(error, (web.RequestPayloadError, ConnectionError)):
        return bad_request("the body did not arrive whole, or its content encoding is broken", "body")
    if isinstance(error, web.HTTPException):
        phrase = _PHRASES.get(error.status) or HTTPStatus(error.status).phrase
        return Problem(f"{TYPE_PREFIX}{phrase.lower().replace(' ', '-')}", phrase, error.status, error.reason or phrase)
    if isinstance(error, LedgerUnavailableError):
        logger.error("ledger unavailable: %s", error)
        return Problem(
            f"{TYPE_PREFIX}unavailable", "Unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "not done; ask again"
        )
    kind = "known" if isinstance(error, ScanEngineError) else "unknown"
    logger.error("%s error while answering: %s", kind, error, exc_info=error)
    return Problem(
        f"{TYPE_PREFIX}internal", "Internal error", HTTPStatus.INTERNAL_SERVER_ERROR, "the log of the server says more"
    )


def problem_response(problem: Problem, error: Exception | None = None) -> web.Response:
    """Return a problem as a reply, with the headers that its status asks for."""
    response = web.Response(body=msgspec.json.encode(problem), status=problem.status, content_type=CONTENT_TYPE)
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = RETRY_AFTER_S
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return response
