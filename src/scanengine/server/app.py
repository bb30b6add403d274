"""The routes: each reads one request, makes one call of ``Program``, and writes one reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import perf_counter_ns
from typing import Final

import msgspec
from aiohttp import web

from scanengine.errors import LedgerUnavailableError, ScanEngineError
from scanengine.model import Answer
from scanengine.program import Program
from scanengine.program.scans import Scan, check_code
from scanengine.server.metrics import CONTENT_TYPE, OTHER, Metrics
from scanengine.server.problems import (
    RETRY_AFTER_S,
    Problem,
    bad_request,
    problem_of,
    problem_response,
)

PROGRAM: Final = web.AppKey("program", Program)
IS_TRUSTED: Final = web.AppKey("is_trusted", bool)
METRICS: Final = web.AppKey("metrics", Metrics)
STOPPING: Final = web.AppKey("stopping", asyncio.Event)
"""Set when the server is about to stop: replies tell clients to send nothing more on their connection."""
BODY_BYTES_MAX: Final = 64 << 10
BATCH_BYTES_MAX: Final = 4 << 20
BATCH_SCANS_MAX: Final = 10_000
_TOTALS_S: Final = 1.0
"""How long a look at the metrics waits for what only the ledger can say."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/scans`` and entry of a batch."""

    code: str
    user: str
    visit: str | None = None
    role: str = "consumer"
    region: str | int | None = None

    def __repr__(self) -> str:
        """Show neither the code, which is a bearer secret, nor the person."""
        return f"<ScanBody role={self.role}>"

    def scan(self) -> Scan:
        """Return the scan; ScanError naming the field that is wrong."""
        return Scan.of(self.code, self.user, self.visit, self.role, self.region)


class VerifyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/verify``."""

    code: str

    def __repr__(self) -> str:
        """Do not show the code."""
        return "<VerifyBody>"


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/scans/batch``; entries are read one by one, so that a bad one fails in its place."""

    scans: list[msgspec.Raw]


_scan_decoder: Final = msgspec.json.Decoder(ScanBody)
_verify_decoder: Final = msgspec.json.Decoder(VerifyBody)
_batch_decoder: Final = msgspec.json.Decoder(BatchBody)
_encode: Final = msgspec.json.encode


def make_app(program: Program, *, is_trusted: bool = False, metrics: Metrics | None = None) -> web.Application:
    """Return the application of one program.

    Parameters
    ----------
    is_trusted : bool
        For the control socket, whose file mode is its authentication: no token is asked for, and statuses that
        outsiders must not tell apart are shown as they are.
    metrics : Metrics, optional
        To count in, if several applications or processes count together.
    """
    app = web.Application(middlewares=[guard], client_max_size=BATCH_BYTES_MAX)
    app[PROGRAM] = program
    app[IS_TRUSTED] = is_trusted
    app[METRICS] = metrics or Metrics()
    app[STOPPING] = asyncio.Event()
    app.router.add_post("/v1/scans", post_scan)
    app.router.add_post("/v1/scans/batch", post_scan_batch)
    app.router.add_post("/v1/verify", post_verify)
    app.router.add_get("/v1/codes/{code}", get_code)
    app.router.add_get("/s/{code}", get_printed_code)
    app.router.add_get("/S/{code}", get_printed_code)
    app.router.add_get("/healthz", get_health)
    app.router.add_get("/readyz", get_ready)
    app.router.add_get("/metrics", get_metrics)
    return app


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, turn every error into problem details, and count every reply."""
    began_ns = perf_counter_ns()
    try:
        if request.path.startswith(("/v1/", "/metrics")):
            _authorize(request)
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 - every error is a reply; those nobody expects are traced in the log
        response = problem_response(problem_of(error), error)
    app = request.app
    if app[STOPPING].is_set():
        response.force_close()
    app[METRICS].count_request(_routes.get(handler, OTHER), response.status, perf_counter_ns() - began_ns)
    return response


def _authorize(request: web.Request) -> None:
    """Ask for a bearer token where any is configured; without one the server listens on loopback only."""
    if request.app[IS_TRUSTED]:
        return
    keyring = request.app[PROGRAM].keyring
    if not keyring.has_tokens:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not keyring.accepts_token(token.strip()):
        raise web.HTTPUnauthorized(reason="a bearer token of keys.toml is needed")


async def _read_small(request: web.Request) -> bytes:
    size = request.content_length or 0
    if size <= BODY_BYTES_MAX:
        body = await request.read()
        size = len(body)  # Unknown until now if the body came in chunks or compressed.
        if size <= BODY_BYTES_MAX:
            return body
    raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, size)


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
    scan = _scan_decoder.decode(await _read_small(request)).scan()
    metrics = app[METRICS]
    metrics.claims_in_progress += 1
    try:
        answer = await app[PROGRAM].claim_scan_async(scan)
    finally:
        metrics.claims_in_progress -= 1
    metrics.count_scan(answer)
    return _reply(request, answer)


def _read_entries(body: bytes) -> list[bytes]:
    """Return the entries of a batch, each as JSON.

    JavaScript writes half of a cut emoji as ``\\ud83c``, which is no text: it must fail in its place, alone.
    """
    try:
        return [bytes(entry) for entry in _batch_decoder.decode(body).scans]
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        try:
            scans = json.loads(body)["scans"]
        except (ValueError, TypeError, KeyError):
            raise error from None
        return [json.dumps(entry).encode() for entry in scans]


async def post_scan_batch(request: web.Request) -> web.Response:
    """Claim many scans; results in order, a bad entry as ``{"problem": …}`` in its place."""
    entries = _read_entries(await request.read())
    if len(entries) > BATCH_SCANS_MAX:
        return problem_response(bad_request(f"expected at most {BATCH_SCANS_MAX} scans, found {len(entries)}", "scans"))
    results: list[Answer | dict[str, Problem] | None] = []
    scans = []
    for entry in entries:
        try:
            scans.append(_scan_decoder.decode(entry).scan())
            results.append(None)
        except (ScanEngineError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            results.append({"problem": problem_of(error)})
    metrics = request.app[METRICS]
    metrics.claims_in_progress += len(scans)
    try:
        answers = iter(await request.app[PROGRAM].claim_many_async(scans))
    finally:
        metrics.claims_in_progress -= len(scans)
    is_trusted = request.app[IS_TRUSTED]
    for index, result in enumerate(results):
        if result is None:
            answer = next(answers)
            metrics.count_scan(answer)
            results[index] = answer if is_trusted else answer.public()
    return web.Response(body=_encode({"results": results}), content_type="application/json")


async def _look(request: web.Request, text: str) -> web.Response:
    app = request.app
    answer = await app[PROGRAM].verify_async(check_code(text))
    app[METRICS].count_look(answer)
    return _reply(request, answer)


async def post_verify(request: web.Request) -> web.Response:
    """Look at a code: never claims, never counts."""
    return await _look(request, _verify_decoder.decode(await _read_small(request)).code)


async def get_code(request: web.Request) -> web.Response:
    """Look at a code: for back ends."""
    response = await _look(request, request.match_info["code"])
    # A code is a bearer secret, and what is true of it changes with every scan.
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def get_printed_code(request: web.Request) -> web.Response:
    """Look at a code: for whoever scans the printed URL."""
    return await get_code(request)


async def get_health(request: web.Request) -> web.Response:
    """Say that the process runs."""
    return web.json_response({"status": "ok"})


async def get_ready(request: web.Request) -> web.Response:
    """Say whether claims can be taken, by what tables, what the ledger promises, and how often it was asked."""
    program = request.app[PROGRAM]
    ledger = program.ledger
    about: dict[str, str | int] = {"kind": ledger.kind, "durability": ledger.durability, "calls": ledger.calls}
    if ledger.kind == "redis":
        about["required"] = program.settings.ledger.durability
    trouble = ledger.trouble
    generation, alarms = program.snapshot.generation, list(ledger.alarms)
    if ledger.generation > generation:
        alarms.append(
            f"the ledger has seen generation {ledger.generation}, this server has {generation} and answers claims as "
            "pending: bring the tables of the workspace that published it here"
        )
    found = {
        "status": "ready" if trouble is None else "not_ready",
        "generation": generation,
        "ledger": about,
        "alarms": alarms,
    }
    if trouble is None:
        return web.json_response(found)
    return web.json_response(found | {"reason": trouble}, status=HTTPStatus.SERVICE_UNAVAILABLE)


async def get_metrics(request: web.Request) -> web.Response:
    """Show the counters of all workers for Prometheus."""
    program, metrics = request.app[PROGRAM], request.app[METRICS]
    metrics.sample(program)
    text = metrics.render(program.ledger, await _events_waiting(program), shows_all=request.app[IS_TRUSTED])
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


async def _events_waiting(program: Program) -> int | None:
    """Return how many events the ledger keeps, None if it does not say so at once."""
    if program.ledger.trouble is not None:
        return None
    try:
        totals = await asyncio.wait_for(asyncio.to_thread(program.ledger.totals), _TOTALS_S)
    except (TimeoutError, LedgerUnavailableError):
        return None
    return totals.events


_routes: Final[dict[Handler, str]] = {
    post_scan: "/v1/scans",
    post_scan_batch: "/v1/scans/batch",
    post_verify: "/v1/verify",
    get_code: "/v1/codes/{code}",
    get_printed_code: "/s/{code}",
    get_health: "/healthz",
    get_ready: "/readyz",
    get_metrics: "/metrics",
}
"""The name of each route in the metrics."""
