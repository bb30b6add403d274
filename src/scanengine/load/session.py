"""A load test from end to end: runs one after the other on fresh codes, every answer judged, the ledger counted.

warm-up -> run, or the runs of a search -> whatever had no answer is asked again -> totals -> audit
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from scanengine.engine import Engine
from scanengine.errors import SettingsError
from scanengine.load import measuring
from scanengine.load.answers import Answers, Part, Prizes, Tally
from scanengine.load.codes import Codes
from scanengine.load.options import Options
from scanengine.load.plan import NEW, People, Plan, make_plan
from scanengine.load.playing import Clients, Reel, Watch, play
from scanengine.load.requests import LookWriter, Writer
from scanengine.load.results import Outcome, Window
from scanengine.load.schedule import REQUESTS_MAX, due_times
from scanengine.load.target import Target
from scanengine.model import Status

_WARMUP_RATE: Final = 60_000
"""More than a warm-up can send in a second."""
_WARMUP_MAX: Final = 500_000
_HEADROOM: Final = 1.6
"""A closed loop may turn out this much quicker than its warm-up before it runs out of prepared requests."""
_ROUNDS: Final = 5
_PAUSE_S: Final = 1.0
_ANSWERED: Final = ("awarded", "no_prize", "replayed", "taken", "invalid", "limited", "closed", "ineligible")
_MEMORY_FOLDER: Final = Path("/dev/shm")
_MEMORY_SPARE: Final = 2 << 30


@dataclass(frozen=True)
class Run:
    """One run: what came of it, and second by second."""

    outcome: Outcome
    windows: list[Window]


class Session:
    """Runs against one target; no code is used twice.

    Parameters
    ----------
    clients : Clients
        Processes that send; see :func:`generator`.
    token : str or None
        Bearer token.
    witness : binary file or None
        Gets every reply.
    watch : callable, optional
        Told how a run goes.
    """

    def __init__(
        self,
        target: Target,
        clients: Clients,
        options: Options,
        *,
        token: str | None = None,
        witness: IO[bytes] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.target = target
        self._clients = clients
        self._token = token
        self._watch = watch
        self._random = np.random.default_rng(options.seed)
        self._codes = Codes(target.keyring, target.batches, self._random)
        self._engine = Engine(target.keyring, target.snapshot)
        self._people = People(options)
        self._session = time.time_ns() // 1_000_000 & 0xFFFFFFFF
        self._visits = 0
        self.notes: list[str] = []
        self.answers = Answers(target.keyring, Prizes(self._engine), witness, may_refuse=not target.is_own)

    def __repr__(self) -> str:
        """Show no token and no code."""
        return f"<Session on {self.target.shown}>"

    def run(self, options: Options, *, rate_guess: float = 0.0) -> Run:
        """Run once.

        Parameters
        ----------
        rate_guess : float
            What a closed loop may reach, replies a second, for how much is prepared; needed with a duration.

        Raises
        ------
        SettingsError
            If there are not enough codes or not enough memory, or nobody answers.
        """
        due = None
        if options.rate is not None:
            due = due_times(options)
            count = len(due)
        elif options.requests:
            count = options.requests
        else:
            count = min(int(rate_guess * _HEADROOM * options.duration_s) + 10 * options.connections, REQUESTS_MAX)
            share = options.mix.new / sum(msgspec.structs.astuple(options.mix))
            # A little less, as how many new ones there are is drawn.
            count = min(count, int(self._codes.left / share * 0.95))
        if not 0 < count <= REQUESTS_MAX:
            raise SettingsError(
                f"{count:,} requests cannot be a run, which has 1 to {REQUESTS_MAX:,}: change the rate, the duration "
                "or the requests, or make more codes"
            )
        return self._run(options, count, due)

    def warm_up(self, options: Options) -> float:
        """Run a closed loop for a moment and return the rate that it reached, replies a second."""
        count = min(int(_WARMUP_RATE * options.warmup_s), _WARMUP_MAX, max(self._codes.left // 10, 1))
        if options.requests:
            count = min(count, max(options.requests // 10, 1))
        notes = list(self.notes)
        warming = replace(options, rate=None, ramp_s=0.0, burst=None, requests=0, duration_s=options.warmup_s)
        outcome = self._run(warming, max(count, options.processes), None).outcome
        if not outcome.answered:
            failed = ", ".join(f"{name} {count}" for name, count in outcome.errors.items()) or "nothing came back"
            raise SettingsError(f"{self.target.shown} answers no scan: {failed}")
        self._check_access(outcome)
        self.notes = notes
        return outcome.answered / max(outcome.seconds, 0.001)

    def fresh_codes(self, count: int, options: Options) -> list[str]:
        """Return codes that can win and that nobody has scanned."""
        _, letters = self._fresh(count, options)
        return [msgspec.json.decode(row.tobytes(), type=str) for row in letters]

    def _check_access(self, outcome: Outcome) -> None:
        if any(name in outcome.errors for name in ("http_401", "http_403")):
            raise SettingsError(
                f"{self.target.shown} asks for a bearer token that it knows: put one into SCANENGINE_TOKEN"
            )

    def _run(self, options: Options, count: int, due: NDArray[np.int64] | None) -> Run:
        parts: list[tuple[Plan, NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint8]]] = []
        reels = []
        writer = Writer(
            self.target.authority, self._token, self._session, self._codes.width, has_region=bool(options.regions)
        )
        for process in range(options.processes):
            mine = None if due is None else due[process :: options.processes]
            size = len(range(process, count, options.processes))
            connections = len(range(process, options.connections, options.processes))
            plan = make_plan(options, self._people, self._random, size, connections, self._visits)
            self._visits += size
            items, letters = self._fresh(plan.fresh_codes, options)
            forged = self._codes.forge(plan.forged_codes)
            parts.append((plan, items, letters, forged))
            reels.append(Reel(size, writer.width, partial(writer.write, plan, letters, forged), mine, connections))
        begin_ms = _now_ms()
        duration_s = 0.0 if options.requests or due is not None else options.duration_s
        found = play(
            self.target, self._clients, reels, duration_s=duration_s, timeout_s=options.timeout_s, watch=self._watch
        )
        judged = []
        for (plan, items, letters, forged), played in zip(parts, found, strict=True):
            part = Part(plan, items, letters, played, [])
            self._settle(part, forged, writer, options)
            judged.append((part, self.answers.judge(part, (begin_ms, _now_ms()))))
            unsent = np.unique(plan.code[(plan.kind == NEW) & (played.sent == 0)])
            self._codes.give_back(items[unsent], letters[unsent])
        if duration_s and all(played.sent.all() for played in found):
            self.notes.append(f"all {count:,} prepared requests were sent before {duration_s:g} s were over")
        return self._measured(options, judged, is_open=due is not None)

    def _fresh(self, count: int, options: Options) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return codes that can win and that nobody has scanned."""
        items, letters = self._codes.take(count)
        if self.target.is_own:
            return items, letters
        found: list[tuple[NDArray[np.uint64], NDArray[np.uint8]]] = []
        while True:
            good = self._is_fresh(letters, options) if len(items) else np.zeros(0, np.bool_)
            found.append((items[good], letters[good]))
            missing = count - sum(len(each) for each, _ in found)
            if not missing:
                break
            items, letters = self._codes.take(missing)
        return np.concatenate([each for each, _ in found]), np.concatenate([each for _, each in found])

    def _is_fresh(self, letters: NDArray[np.uint8], options: Options) -> NDArray[np.bool_]:
        decisions = self._engine.decide_many(self._codes.texts(letters), _now_ms())
        is_good: NDArray[np.bool_] = (decisions.status == Status.VALID) & (np.diff(decisions.offer_start) > 0)
        rows = np.flatnonzero(is_good)
        if not len(rows):
            return is_good
        writer = LookWriter(self.target.authority, self._token, self._codes.width)
        reel = Reel(len(rows), writer.width, partial(writer.write, letters[rows]), None, options.connections)
        (looked,) = play(self.target, self._clients, [reel], duration_s=0.0, timeout_s=options.timeout_s)
        for place, row in enumerate(rows.tolist()):
            status, body = looked.reply(place)
            if status in (401, 403):
                raise SettingsError(
                    f"{self.target.shown} asks for a bearer token that it knows: put one into SCANENGINE_TOKEN"
                )
            is_good[row] = status == 200 and _scans_of(body) == 0
        return is_good

    def _settle(self, part: Part, forged: NDArray[np.uint8], writer: Writer, options: Options) -> None:
        """Ask again, with the same visit, what had no answer: only so can it be judged."""
        rows = self.answers.unknown_rows(part)
        for _ in range(_ROUNDS):
            if not len(rows):
                return
            time.sleep(_PAUSE_S)
            again = part.plan.part(rows)
            write = partial(writer.write, again, part.letters, forged)
            reel = Reel(len(rows), writer.width, write, None, min(options.connections, len(rows)))
            (played,) = play(
                self.target, self._clients, [reel], duration_s=options.timeout_s + _PAUSE_S, timeout_s=options.timeout_s
            )
            part.again.append((rows, played))
            left = self.answers.unknown_rows(part)
            if len(left) == len(rows):
                return  # The server answers nothing any more.
            rows = left

    def _measured(self, options: Options, judged: list[tuple[Part, Tally]], *, is_open: bool) -> Run:
        timed = []
        for part, _ in judged:
            played = part.played
            has_failed = (played.status < 0) | ((played.status >= 400) & ~np.isin(played.status, (429, 503)))
            timed.append(played.timed(has_failed))
        counts, prizes, errors = (
            dict(sum((getattr(tally, name) for _, tally in judged), Counter[str]()))
            for name in ("counts", "prizes", "errors")
        )
        begun = min((int(part.begun[part.sent > 0].min(initial=1 << 62)) for part in timed), default=0)
        ended = max((int(part.answered[part.is_reply].max(initial=0)) for part in timed), default=0)
        seconds = max(ended - begun, 1) / 1e9 if ended else 0.0
        lag_max, lag_p99 = measuring.lag_of(timed, seconds)
        # A closed loop sends nothing on a schedule, so it cannot be late; what it found is the least that is possible.
        reason = measuring.void_reason(timed, lag_p99, options.lag_s * 1000) if is_open else ""
        if not is_open and measuring.is_saturated(timed):
            self.notes.append("the generator had no processor time to spare: the server may be quicker: --processes 2")
        connect_errors = sum(part.played.used.connect_errors for part, _ in judged)
        if connect_errors:
            errors["connect"] = connect_errors
        answered = sum(counts.get(name, 0) for name in _ANSWERED)
        verdict = self.answers.verdict
        outcome = Outcome(
            seconds=seconds,
            sent=sum(int(np.count_nonzero(part.played.sent)) for part, _ in judged),
            answered=sum(int(np.count_nonzero(part.is_reply)) for part in timed),
            per_second=answered / seconds if seconds else 0.0,
            counts=counts,
            prizes=prizes,
            errors=errors,
            latencies=measuring.latencies_of(timed),
            settled=sum(tally.settled for _, tally in judged),
            unsettled=sum(tally.unsettled for _, tally in judged),
            wrong=verdict.count,
            wrong_answers=list(verdict.answers),
            lag_max_ms=lag_max,
            lag_p99_ms=lag_p99,
            is_void=bool(reason),
            void_reason=reason,
        )
        return Run(outcome, measuring.windows_of(timed))


class _Looked(msgspec.Struct):
    class _Scan(msgspec.Struct):
        count: int

    scan: _Scan | None = None


def _scans_of(body: bytes) -> int | None:
    try:
        scan = msgspec.json.decode(body, type=_Looked).scan
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return scan.count if scan is not None else None


@contextlib.contextmanager
def generator(folder: Path) -> Iterator[Clients]:
    """Be ready to send; at the end all processes are stopped.

    Tapes are put in memory if there is room, else into `folder`: the ledger writes to the disk meanwhile.
    """
    try:
        has_room = shutil.disk_usage(_MEMORY_FOLDER).free > _MEMORY_SPARE
    except OSError:
        has_room = False
    found = Path(tempfile.mkdtemp(prefix="scanengine-load-", dir=_MEMORY_FOLDER if has_room else folder))
    try:
        with Clients(found) as clients:
            yield clients
    finally:
        shutil.rmtree(found, ignore_errors=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
