"""The routes of those who run the server: is it alive, can it take claims, what has it counted."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from aiohttp import web

from scanengine.errors import LedgerUnavailableError
from scanengine.ledger import LedgerTotals
from scanengine.program import Program
from scanengine.server.metrics import CONTENT_TYPE
from scanengine.server.routes import IS_TRUSTED, METRICS, PROGRAM, Access, Reply, Route

_TOTALS_S: Final = 1.0
"""How long a look at the metrics waits for what only the ledger can say."""


class Health(msgspec.Struct, frozen=True):
    """Reply of ``GET /healthz``."""

    status: Literal["ok"]


class LedgerState(msgspec.Struct, frozen=True):
    """What the ledger is and promises; `required` of a Redis only."""

    kind: str
    durability: str
    calls: int
    required: str | None = None


class Ready(msgspec.Struct, frozen=True):
    """Reply of ``GET /readyz``; `reason` only while it is not ready."""

    status: Literal["ready", "not_ready"]
    generation: int
    ledger: LedgerState
    alarms: list[str]
    reason: str | None = None


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
    prizes = program.snapshot.prizes
    budgets = {campaign: table.metadata.budget.total for campaign, table in prizes.items()}
    text = metrics.render(
        program.ledger,
        await _totals(program),
        shows_all=request.app[IS_TRUSTED],
        budgets={campaign: budget for campaign, budget in budgets.items() if budget is not None},
    )
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


async def _totals(program: Program) -> LedgerTotals | None:
    """Return what the ledger holds, None if it does not say so at once."""
    if program.ledger.trouble is not None:
        return None
    try:
        return await asyncio.wait_for(asyncio.to_thread(program.ledger.totals), _TOTALS_S)
    except (TimeoutError, LedgerUnavailableError):
        return None


ROUTES: Final = (
    Route("GET", "/healthz", get_health, replies=(Reply(200, "It runs", body=Health),)),
    Route(
        "GET",
        "/readyz",
        get_ready,
        replies=(Reply(200, "Claims are taken", body=Ready), Reply(503, "Claims are not taken", body=Ready)),
    ),
    Route("GET", "/metrics", get_metrics, Access.BACKEND, replies=(Reply(200, "Prometheus text", media=CONTENT_TYPE),)),
)
