"""The routes of operators: what they write goes where the commands write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Final

import msgspec
import numpy as np
from aiohttp import web
from msgspec import Meta
from numpy.typing import NDArray

from scanengine.errors import (
    AdjustmentError,
    AssignmentError,
    LedgerUnavailableError,
    OutboxError,
    UnknownReaderError,
)
from scanengine.ledger.sealing import DamagedEventError
from scanengine.model import SERIALS_PER_SLOT
from scanengine.program import Program, ledgers, operating, publishing
from scanengine.server.fields import read_body
from scanengine.server.routes import PROGRAM, PUBLISHING, Access, Handler, Reply, Route, read_small
from scanengine.tables.scenes import merge_ranges
from scanengine.tables.snapshot import Batch, Snapshot, load_snapshot

logger = logging.getLogger(__name__)

Offset = Annotated[int, Meta(ge=0, le=SERIALS_PER_SLOT)]
Text = Annotated[str, Meta(max_length=2_048)]


class AdjustBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/ledger/adjust``."""

    id: str
    campaign: str
    action: str
    prize: str | int | None = None
    amount: int | None = None


class ScenesBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``PUT /v1/batches/{batch}/scenes``: which codes, in one way, and what to set on them."""

    range: tuple[Offset, Offset] | None = None
    ranges: list[tuple[Offset, Offset]] | None = None
    codes: list[str] | None = None
    state: str | None = None
    scenes: list[str] | None = None
    product: Text | None = None
    lot: Text | None = None
    market: Text | None = None
    link: Text | None = None
    campaign: Text | None = None
    active_from: str | None = None
    active_until: str | None = None

    def __repr__(self) -> str:
        """Do not show the codes."""
        return "<ScenesBody>"

    def change(self) -> publishing.SceneChange:
        """Return what to set; AssignmentError if a word is unknown or there is nothing to set."""
        change = publishing.SceneChange(
            state=None if self.state is None else operating.state_of(self.state),
            scenes=None if self.scenes is None else operating.scenes_of(self.scenes),
            campaign=self.campaign,
            product=self.product,
            lot=self.lot,
            market=self.market,
            link=self.link,
            active_from_ms=None if self.active_from is None else operating.moment_of("active_from", self.active_from),
            active_until_ms=(
                None if self.active_until is None else operating.moment_of("active_until", self.active_until)
            ),
        )
        if change == publishing.SceneChange():
            raise AssignmentError("nothing to set: give state, scenes, campaign, product or another attribute")
        return change

    def offsets(self, program: Program, batch: Batch) -> NDArray[np.uint64]:
        """Return the ranges of offsets; AssignmentError if they are given in no way or several, or a code is wrong."""
        if (self.range is not None) + (self.ranges is not None) + (self.codes is not None) != 1:
            raise AssignmentError("say which codes, in one way: range, ranges or codes")
        if self.codes is not None:
            return publishing.ranges_of_codes(program.keyring, batch, self.codes)
        ranges = [self.range] if self.range is not None else self.ranges or []
        return np.array(ranges, np.uint64).reshape(-1, 2)


class ScenesReply(msgspec.Struct, frozen=True):
    """Reply of ``PUT /v1/batches/{batch}/scenes``."""

    batch: str
    codes: int
    generation: int
    served: bool
    unbound: list[str]


class AdjustReply(msgspec.Struct, frozen=True):
    """Reply of ``POST /v1/ledger/adjust``; not applied if this id was before."""

    id: str
    applied: bool


def reply(value: object) -> web.Response:
    """Return a value as JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def refusing(handler: Handler) -> Handler:
    """Let what the operator has said wrong be a reply."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except UnknownReaderError as error:
            raise web.HTTPNotFound(reason=f"{error}: PUT /v1/events/readers/NAME") from error
        except DamagedEventError as error:
            logger.error("events of the ledger are damaged: %s", error)
            advice = f"see what scanengine audit says, then pass it: POST /v1/events/ack with up_to {error.last}"
            raise web.HTTPConflict(reason=f"{' '.join(str(error).split())}; {advice}") from error
        except (AdjustmentError, AssignmentError, OutboxError) as error:
            # Understood, but not something that this program can do: its campaigns, batches and readers are others.
            raise web.HTTPConflict(reason=" ".join(str(error).split())) from error

    return answer


async def asked(request: web.Request, question: Callable[[Program], object]) -> object:
    """Ask something that blocks."""
    return await asyncio.to_thread(question, request.app[PROGRAM])


# Scenes ---------------------------------------------------------------------------------------------------------------


@refusing
async def put_scenes(request: web.Request) -> web.StreamResponse:
    """Set what codes of a batch may be used for, as a new generation that this server serves at once."""
    label = request.match_info["batch"]
    body = read_body(await request.read(), ScenesBody)
    program = request.app[PROGRAM]
    change = body.change()
    # One at a time: the others wait for the workspace's lock here, and not in threads that others need.
    async with request.app[PUBLISHING]:
        offsets, snapshot = await asyncio.to_thread(_assign, program, label, body, change)
        is_served = await asyncio.to_thread(_serve, program)
    return reply(
        {
            "batch": label,
            "codes": int((offsets[:, 1] - offsets[:, 0]).sum()),
            "generation": snapshot.generation,
            "served": is_served,
            "unbound": sorted(snapshot.unbound_campaigns()),
        }
    )


def _assign(
    program: Program, label: str, body: ScenesBody, change: publishing.SceneChange
) -> tuple[NDArray[np.uint64], Snapshot]:
    snapshot = load_snapshot(program.workspace, program.snapshot)
    batch = snapshot.batch(label)
    if batch is None:
        known = ", ".join(known.label for known in snapshot.batches) or "none"
        raise web.HTTPNotFound(reason=f"no batch {label!r}: there are {known}")
    offsets = merge_ranges(body.offsets(program, batch), batch.codes.count)  # As many codes as it will say.
    return offsets, publishing.assign_scenes(program.workspace, label, offsets, change)


def _serve(program: Program) -> bool:
    """Take over what was published; False if the ledger does not know of it yet, which is tried again all the time."""
    try:
        program.refresh()
    except LedgerUnavailableError:
        return False
    return True


# Ledger ---------------------------------------------------------------------------------------------------------------


@refusing
async def get_ledger(request: web.Request) -> web.StreamResponse:
    """Show what the ledger is and holds."""
    return reply(
        await asked(
            request,
            lambda program: ledgers.show_ledger(program.workspace, program.settings, program.keyring, program.ledger),
        )
    )


@refusing
async def post_adjust(request: web.Request) -> web.StreamResponse:
    """Raise the stock or the budget of a campaign, pause, resume or close it, for all servers at once."""
    body = read_body(await read_small(request), AdjustBody)

    def adjust(program: Program) -> bool:
        # What was published a moment ago may not be served here yet.
        snapshot = load_snapshot(program.workspace, program.snapshot)
        adjustment = operating.adjustment_of(
            snapshot, body.campaign, body.action, body.id, prize=body.prize, amount=body.amount, at_ms=program.clock()
        )
        return program.ledger.adjust(adjustment)

    return reply({"id": body.id, "applied": await asked(request, adjust)})


ROUTES: Final = (
    Route(
        "PUT",
        "/v1/batches/{batch}/scenes",
        put_scenes,
        Access.ADMIN,
        body=ScenesBody,
        replies=(Reply(200, "The generation that holds the change", ScenesReply),),
        problems=(404, 409, 503),
    ),
    Route(
        "GET",
        "/v1/ledger",
        get_ledger,
        Access.ADMIN,
        replies=(Reply(200, "What the ledger is and holds", ledgers.LedgerShown),),
        problems=(503,),
    ),
    Route(
        "POST",
        "/v1/ledger/adjust",
        post_adjust,
        Access.ADMIN,
        body=AdjustBody,
        replies=(Reply(200, "Applied, now or before", AdjustReply),),
        problems=(409, 503),
    ),
)
