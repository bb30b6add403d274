"""The routes of batches: many codes in one request, as JSON or as MessagePack.

Whatever touches every entry runs in a thread, a few hundred entries at a time where it is Python, so that the event
loop answers single requests in between: reading, deciding (natively, without the GIL), and writing the reply.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import msgspec
from aiohttp import web

from scanengine.errors import OverloadedError
from scanengine.model import Answer
from scanengine.program.scans import Scan
from scanengine.server.fields import CODE_SCHEMA
from scanengine.server.formats import FORMATS, MEDIA, Format, media_of, reply_media
from scanengine.server.looks import Looks
from scanengine.server.problems import Problem, problem_of, problem_response
from scanengine.server.routes import IS_TRUSTED, METRICS, PROGRAM, Access, Reply, Route
from scanengine.server.scans import UNREADABLE, ScanBody

ENTRIES_MAX: Final = 10_000
_PIECE: Final = 512
"""Entries read or written by Python at a time, a millisecond's work: as long the event loop may have to wait."""
_THREADS: Final = 2
"""Batches worked on at once; others wait, so that many of them do not keep the event loop from its turn."""

P = ParamSpec("P")
T = TypeVar("T")

ScanCounts = Counter[tuple[str, str | None]]
"""By what the code is, and what became of the claim."""


class ScansBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/scans/batch``; entries are read one by one, so that a bad one fails in its place."""

    scans: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=ENTRIES_MAX)]


_CODE: Final = {"description": f"{CODE_SCHEMA['description']} What is longer, or no text, fails in its place."}


class CodesBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/verify/batch``; what is no text fails in its place."""

    codes: Annotated[list[Any], msgspec.Meta(max_length=ENTRIES_MAX, extra_json_schema={"items": _CODE})]

    def __repr__(self) -> str:
        """Do not show the codes."""
        return f"<CodesBody of {len(self.codes)}>"


_RESULT: Final = {
    "anyOf": [
        {"$ref": "#/components/schemas/Answer"},
        {"properties": {"problem": {"$ref": "#/components/schemas/Problem"}}, "required": ["problem"]},
    ]
}


class BatchReply(msgspec.Struct, frozen=True):
    """Answers to a batch, in the order of its entries; a bad entry has a problem in its place."""

    results: Annotated[list[Any], msgspec.Meta(extra_json_schema={"items": _RESULT})]


_WORK: Final = web.AppKey("work", asyncio.Semaphore)
_LOOKS: Final = web.AppKey("looks", dict[Format, Looks])


def open_batches(app: web.Application) -> None:
    """Give an application what its batches share."""
    app[_WORK] = asyncio.Semaphore(_THREADS)
    app[_LOOKS] = {
        each: Looks(each.frame, is_trusted=app[IS_TRUSTED], problem=each.problem_of) for each in set(FORMATS.values())
    }


async def _in_thread(app: web.Application, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    async with app[_WORK]:
        return await asyncio.to_thread(work, *args, **kwargs)


def _pieces(count: int) -> Iterator[slice]:
    return (slice(start, start + _PIECE) for start in range(0, count, _PIECE))


# Looks ----------------------------------------------------------------------------------------------------------------


class _RawCodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/verify/batch`` whose entries are yet to be read."""

    codes: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=ENTRIES_MAX)]


def _read_codes(spoken: Format, body: bytes) -> list[Any]:
    """Return the codes of a batch; in place of what cannot be read the error that says why."""
    spoken.check_count(body, ENTRIES_MAX, "codes")
    try:
        return spoken.decode(body, CodesBody).codes
    except msgspec.ValidationError as error:
        if "`$.codes[" not in str(error):
            raise
        # There are numbers and times that nothing can hold.
        return [_read_code(spoken, entry) for entry in spoken.decode(body, _RawCodes).codes]
    except msgspec.DecodeError as error:
        return spoken.decode_leniently(body, CodesBody, error).codes


def _read_code(spoken: Format, entry: msgspec.Raw) -> Any:
    try:
        return spoken.decode(entry, object)
    except UNREADABLE as error:
        return error


async def post_verify_batch(request: web.Request) -> web.Response:
    """Look at many codes without asking the ledger; results in order.

    Counted scans and verdicts are null. A bad entry has a problem in its place.
    """
    app = request.app
    media = media_of(request)
    spoken, media = FORMATS[media], reply_media(request, media)
    body = await request.read()
    try:
        codes = await _in_thread(app, _read_codes, spoken, body)
    except UNREADABLE as error:
        return problem_response(spoken.problem_of(error), error)
    program = app[PROGRAM]
    looks = app[_LOOKS][FORMATS[media]]
    written, counts = await _in_thread(app, looks.write, program.engine, program.answerer, codes, program.clock())
    app[METRICS].count_looks(counts)
    return web.Response(body=written, content_type=media)


# Claims ---------------------------------------------------------------------------------------------------------------


class _AnyScans(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a batch whose entries have been read."""

    scans: Annotated[list[Any], msgspec.Meta(max_length=ENTRIES_MAX)]


def _read_entries(spoken: Format, body: bytes) -> list[msgspec.Raw | bytes]:
    """Return the entries of a batch, each as it was sent."""
    spoken.check_count(body, ENTRIES_MAX, "scans")
    try:
        return [*spoken.decode(body, ScansBody).scans]
    except msgspec.DecodeError as error:
        return [json.dumps(entry).encode() for entry in spoken.decode_leniently(body, _AnyScans, error).scans]


def _read_scans(spoken: Format, entries: list[msgspec.Raw | bytes]) -> list[Scan | Problem]:
    found: list[Scan | Problem] = []
    for entry in entries:
        try:
            found.append(spoken.decode(entry, ScanBody).scan())
        except UNREADABLE as error:
            found.append(spoken.problem_of(error))
    return found


def _write_results(
    shown_in: Format, results: list[Answer | Problem], *, is_trusted: bool
) -> tuple[list[bytes], ScanCounts]:
    """Return results as they are shown, and how often each status of code and claim came out."""
    encode = shown_in.frame.encode
    written = []
    counts: ScanCounts = Counter()
    for result in results:
        if isinstance(result, Problem):
            written.append(encode({"problem": result}))
            continue
        claim = result.claim
        counts[result.status, None if claim is None else claim.status] += 1
        written.append(encode(result if is_trusted else result.public()))
    return written, counts


async def post_scan_batch(request: web.Request) -> web.Response:
    """Claim many scans; results in order, a bad entry as ``{"problem": …}`` in its place."""
    app = request.app
    media = media_of(request)
    spoken, media = FORMATS[media], reply_media(request, media)
    body = await request.read()
    try:
        entries = await _in_thread(app, _read_entries, spoken, body)
    except UNREADABLE as error:
        return problem_response(spoken.problem_of(error), error)
    read: list[Scan | Problem] = []
    for piece in _pieces(len(entries)):
        read += await _in_thread(app, _read_scans, spoken, entries[piece])
    answers = iter(await _claim(app, [each for each in read if not isinstance(each, Problem)]))
    results = [each if isinstance(each, Problem) else next(answers) for each in read]
    written: list[bytes] = []
    for piece in _pieces(len(results)):
        part, counts = await _in_thread(app, _write_results, FORMATS[media], results[piece], is_trusted=app[IS_TRUSTED])
        written += part
        app[METRICS].count_scans(counts)
    return web.Response(body=FORMATS[media].join(written), content_type=media)


async def _claim(app: web.Application, scans: list[Scan]) -> list[Answer | Problem]:
    metrics = app[METRICS]
    metrics.claims_in_progress += len(scans)
    try:
        answers = await app[PROGRAM].claim_each_async(scans)
    finally:
        metrics.claims_in_progress -= len(scans)
    return [problem_of(each) if isinstance(each, OverloadedError) else each for each in answers]


ROUTES: Final = (
    Route(
        "POST",
        "/v1/scans/batch",
        post_scan_batch,
        Access.BACKEND,
        body=ScansBody,
        media=MEDIA,
        replies=tuple(Reply(200, "Answers in the order of the scans", BatchReply, media) for media in MEDIA),
        problems=(503,),
    ),
    Route(
        "POST",
        "/v1/verify/batch",
        post_verify_batch,
        Access.BACKEND,
        body=CodesBody,
        media=MEDIA,
        replies=tuple(Reply(200, "Answers in the order of the codes", BatchReply, media) for media in MEDIA),
    ),
)
