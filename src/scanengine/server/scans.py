"""The JSON routes of scans: each reads one request, makes one call of ``Program``, and writes one reply."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from scanengine.errors import ScanEngineError
from scanengine.model import Answer
from scanengine.program.scans import Scan, check_code
from scanengine.server.fields import Code, Region, RoleName, User, Visit
from scanengine.server.limits import count_guess
from scanengine.server.problems import RETRY_AFTER_S
from scanengine.server.routes import IS_TRUSTED, METRICS, PROGRAM, Access, Reply, Route, read_small

SECRET_HEADERS: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
"""Of replies whose URL holds a code: it is a bearer secret, and what is true of it changes with every scan."""


class ScanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/scans``, and entry of a batch of them."""

    code: Code
    user: User
    visit: Visit | None = None
    role: RoleName = "consumer"
    region: Region = None

    def __repr__(self) -> str:
        """Show neither the code, which is a bearer secret, nor the person."""
        return f"<ScanBody role={self.role}>"

    def scan(self) -> Scan:
        """Return the scan; ScanError naming the field that is wrong."""
        region = self.region
        if isinstance(region, float):
            region = int(region) if region.is_integer() else str(region)
        return Scan.of(self.code, self.user, self.visit, self.role, region)


class VerifyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/verify``."""

    code: Code

    def __repr__(self) -> str:
        """Do not show the code."""
        return "<VerifyBody>"


_scan_decoder: Final = msgspec.json.Decoder(ScanBody)
_verify_decoder: Final = msgspec.json.Decoder(VerifyBody)
_encode: Final = msgspec.json.encode


UNREADABLE: Final = (ScanEngineError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What :func:`read_scan` raises."""


def read_scan(body: bytes) -> Scan:
    """Return the scan of a JSON body; an error that says what is wrong with it otherwise."""
    return _scan_decoder.decode(body).scan()


def _reply(request: web.Request, answer: Answer) -> web.Response:
    shown = answer if request.app[IS_TRUSTED] else answer.public()
    response = web.Response(body=_encode(shown), content_type="application/json")
    if answer.is_pending:
        response.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
        response.headers["Retry-After"] = RETRY_AFTER_S
    return response


async def post_scan(request: web.Request) -> web.Response:
    """Claim: one scan of one person."""
    app = request.app
    scan = read_scan(await read_small(request))
    metrics = app[METRICS]
    metrics.claims_in_progress += 1
    try:
        answer = await app[PROGRAM].claim_scan_async(scan)
    finally:
        metrics.claims_in_progress -= 1
    metrics.count_scan(answer)
    return _reply(request, answer)


async def look(request: web.Request, text: str) -> web.Response:
    """Answer what a code is."""
    app = request.app
    answer = await app[PROGRAM].verify_async(check_code(text))
    app[METRICS].count_look(answer)
    count_guess(request, answer.status)
    return _reply(request, answer)


async def post_verify(request: web.Request) -> web.Response:
    """Look at a code: never claims, never counts."""
    return await look(request, _verify_decoder.decode(await read_small(request)).code)


async def get_code(request: web.Request) -> web.Response:
    """Look at a code: for back ends."""
    response = await look(request, request.match_info["code"])
    response.headers.update(SECRET_HEADERS)
    return response


ANSWERED: Final = Reply(200, "What the code is", body=Answer)
UNANSWERED: Final = Reply(503, "The outcome is unknown: ask again with the same visit", body=Answer)

ROUTES: Final = (
    Route(
        "POST",
        "/v1/scans",
        post_scan,
        Access.BACKEND,
        body=ScanBody,
        replies=(Reply(200, "What the code is, and what became of the claim", body=Answer), UNANSWERED),
        problems=(503,),
    ),
    Route("POST", "/v1/verify", post_verify, Access.BACKEND, body=VerifyBody, replies=(ANSWERED,)),
    Route("GET", "/v1/codes/{code}", get_code, Access.BACKEND, replies=(ANSWERED,)),
)
