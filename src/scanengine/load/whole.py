"""A whole load test, from what is asked for to the result that is reported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
from msgspec.structs import replace

import scanengine
from scanengine.errors import SettingsError
from scanengine.load.machine import commit_of_sources, this_machine
from scanengine.load.options import Options
from scanengine.load.playing import Watch
from scanengine.load.results import LoadResult, Profile, Step
from scanengine.load.searching import Found, find_max
from scanengine.load.session import Run, Session, generator
from scanengine.load.target import Target
from scanengine.load.totals import count_and_audit


class Search(msgspec.Struct, frozen=True):
    """A search for the highest rate.

    Parameters
    ----------
    p99_ms : float
        What a good rate holds.
    step_s : float
        How long each step takes.
    at : float or None
        Share of the best rate that is run at in the end, for as long as the options say; None to report the best step.
    """

    p99_ms: float = 10.0
    step_s: float = 3.0
    at: float | None = None


def load(
    target: Target,
    options: Options,
    folder: Path,
    *,
    search: Search | None = None,
    token: str | None = None,
    witness_path: Path | None = None,
    command: str = "",
    watch: Watch | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> LoadResult:
    """Put a target under load and return what came of it.

    Parameters
    ----------
    folder : Path
        For what is needed meanwhile.
    search : Search, optional
        Look for the highest rate instead of running once.
    witness_path : Path, optional
        New file for all replies, for ``scanengine audit --witness``.

    Raises
    ------
    ScanEngineError
        If it cannot be run; wrong answers are no error, they are in the result.
    """
    options.check()
    began = datetime.now(UTC)
    path = folder / "witness.ndjson" if witness_path is None and target.is_own else witness_path
    with generator(folder) as clients, contextlib.ExitStack() as stack:
        witness = stack.enter_context(_new_file(path)) if path is not None else None
        session = Session(target, clients, options, token=token, witness=witness, watch=watch)
        found: Found | None = None
        if search is not None:
            found = find_max(session, options, search.p99_ms, search.step_s, on_step)
            options, run = _after_search(session, options, search, found)
        else:
            run = session.run(options, rate_guess=session.warm_up(options))
    audit = None
    if target.is_own:
        assert path is not None
        audit = count_and_audit(target, session.answers, path)
    notes = list(session.notes)
    if not target.is_own:
        notes.append("the ledger of a server at a URL is not read: audit it with the witness file, where it is")
    verdict = session.answers.verdict
    return LoadResult(
        command=command,
        date=began.isoformat(timespec="seconds"),
        version=scanengine.__version__,
        commit=commit_of_sources(),
        machine=this_machine(),
        profile=profile_of(target, options),
        # Wrong is wrong, in whichever run it was found.
        outcome=replace(run.outcome, wrong=verdict.count, wrong_answers=list(verdict.answers)),
        windows=run.windows,
        steps=found.steps if found else [],
        best_rate=found.best_rate if found else 0.0,
        p99_limit_ms=search.p99_ms if search else 0.0,
        audit=audit,
        notes=notes,
    )


def _after_search(session: Session, options: Options, search: Search, found: Found) -> tuple[Options, Run]:
    if found.best is None:
        worst = found.steps[-1]
        raise SettingsError(f"no rate holds a p99 of {search.p99_ms:g} ms, the last one tried failed by: {worst.why}")
    if search.at is None:
        return replace(options, rate=found.best_rate, duration_s=search.step_s, requests=0), found.best
    steady = replace(options, rate=found.best_rate * search.at, requests=0)
    return steady, session.run(steady)


def profile_of(target: Target, options: Options) -> Profile:
    """Return what is measured, under which load."""
    return Profile(
        ledger=target.ledger,
        durability=target.durability,
        target=target.shown,
        workers=target.workers,
        processes=options.processes,
        connections=options.connections,
        mix=options.mix,
        rate=options.rate,
        duration_s=0.0 if options.requests else options.duration_s,
        requests=options.requests,
        ramp_s=options.ramp_s,
        burst=options.burst.text if options.burst else "",
        people=options.people,
        spread=options.spread,
        regions=options.regions,
        seed=options.seed,
    )


def _new_file(path: Path) -> IO[bytes]:
    try:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise SettingsError(f"{path}: the witness file is made anew, and cannot be: {error.strerror}") from error
