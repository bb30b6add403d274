"""Counters of a server for Prometheus, added up over its workers.

Each worker counts in a row of its own, in memory that all of them map; whoever is asked adds the rows up. Nothing is
locked or sent, the sum is that of the moment, and a worker started again goes on in the row of the one that died, so
that no counter ever goes backwards.

    | requests | nanoseconds | scans | looks | claims | … | of worker 0
    | requests | nanoseconds | scans | looks | claims | … | of worker 1
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate, product
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from scanengine.ledger import Ledger, LedgerTotals
from scanengine.model import HIDDEN_STATUSES, INVALID, Answer, ClaimStatus, Status
from scanengine.program import Program

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
NO_BUDGETS: Final[Mapping[str, int]] = {}
ROUTES: Final = (
    "/v1/scans",
    "/v1/scans/batch",
    "/v1/verify",
    "/v1/verify/batch",
    "/v1/codes/{code}",
    "/v1/events",
    "/v1/events/ack",
    "/v1/events/readers",
    "/v1/events/readers/{reader}",
    "/v1/batches/{batch}/scenes",
    "/v1/ledger",
    "/v1/ledger/adjust",
    "/s/{code}",
    "/01/{gtin}/21/{serial}",
    "/wechat/callback",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/{name}",
    OTHER,
)
CODES: Final = (200, 302, 303, 400, 401, 403, 404, 405, 413, 415, 429, 500, 503, OTHER)
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BOUNDS_S)
_STATUSES: Final = tuple(status.name.lower() for status in Status)
_CLAIMS: Final = tuple(status.value for status in ClaimStatus if status != ClaimStatus.STALE)

_BUCKETS: Final = len(BOUNDS_S) + 1

# Where each group of cells begins in a row. A request is counted in one cell for its route, code and duration together,
# and a scan in one for what the code is and what became of the claim.
_REQUESTS: Final = 0
_NANOSECONDS: Final = _REQUESTS + len(ROUTES) * len(CODES) * _BUCKETS
_SCANS: Final = _NANOSECONDS + len(ROUTES)
_LOOKS: Final = _SCANS + len(_STATUSES) * (len(_CLAIMS) + 1)
_CALLS: Final = _LOOKS + len(_STATUSES)
_REFUSED: Final = _CALLS + 1
_STARTS: Final = _REFUSED + 1
_NOW: Final = _STARTS + 1
"""What is true of a worker that runs, and of no other: from here on a row begins anew with each worker."""
_PID, _GENERATION, _IN_PROGRESS, _TROUBLE, _ALARMS, _CELLS = range(_NOW, _NOW + 6)

_ROW_BYTES: Final = -(-_CELLS * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
"""Whole pages: workers on different processors do not write to one cache line."""
_route_place: Final = {route: place for place, route in enumerate(ROUTES)}
_OTHER_CODE: Final = (len(CODES) - 1) * _BUCKETS
_code_place: Final = {code: place * _BUCKETS for place, code in enumerate(CODES)}
_look_cell: Final = {status: _LOOKS + place for place, status in enumerate(_STATUSES)}
_scan_cell: Final = {
    (status, claim): _SCANS + cell for cell, (status, claim) in enumerate(product(_STATUSES, (*_CLAIMS, None)))
}


def open_memory(workers: int) -> int:
    """Return the file descriptor of memory for so many workers; it has no name and goes with its last user."""
    found = os.memfd_create("scanengine-metrics")
    os.truncate(found, workers * _ROW_BYTES)
    return found


class Metrics:
    """What one worker counts, and the sum over all of them.

    Parameters
    ----------
    memory : int, optional
        File descriptor of :func:`open_memory`; memory of its own for a server of one process.
    worker : int or None
        Number of the row to count in; None for who only looks after the others.

    Attributes
    ----------
    claims_in_progress : int
        Claims whose answer is being made; kept by those who make them.
    """

    def __init__(self, memory: int | None = None, worker: int | None = 0) -> None:
        mapped = mmap.mmap(-1, _ROW_BYTES) if memory is None else mmap.mmap(memory, 0)
        cells = memoryview(mapped).cast("Q")
        row_cells = _ROW_BYTES // 8
        self._rows = [cells[start : start + row_cells] for start in range(0, len(cells), row_cells)]
        self._cells = self._rows[worker or 0]
        self.claims_in_progress = 0
        self._calls_seen = self._refused_seen = 0
        if worker is not None:
            self.forget(worker)
            self._cells[_PID] = os.getpid()
            self._cells[_STARTS] += 1

    def forget(self, worker: int) -> None:
        """Forget what was true of a worker that has ended; what it has counted stays."""
        for cell in range(_NOW, _CELLS):
            self._rows[worker][cell] = 0

    # Counting: on the way of every request, less than two microseconds for all of it (CPython 3.11, November 2026) ----

    def count_request(self, route: str, code: int, duration_ns: int) -> None:
        """Count a reply of a route."""
        self.count_requests(route, code, (duration_ns,))

    def count_requests(self, route: str, code: int, durations_ns: Collection[int]) -> None:
        """Count replies of a route that have one code."""
        if not durations_ns:
            return
        place = _route_place[route]
        start = place * (len(CODES) * _BUCKETS) + _code_place.get(code, _OTHER_CODE)
        cells = self._cells
        bucket = bisect_left(_BOUNDS_NS, min(durations_ns))
        if bucket == bisect_left(_BOUNDS_NS, max(durations_ns)):
            cells[start + bucket] += len(durations_ns)
        else:
            for duration_ns in durations_ns:
                cells[start + bisect_left(_BOUNDS_NS, duration_ns)] += 1
        cells[_NANOSECONDS + place] += sum(durations_ns)

    def count_scan(self, answer: Answer) -> None:
        """Count a scan by its answer."""
        claim = answer.claim
        self._cells[_scan_cell[answer.status, None if claim is None else claim.status]] += 1

    def count_look(self, answer: Answer) -> None:
        """Count a look that claims nothing."""
        self._cells[_look_cell[answer.status]] += 1

    def count_scans(self, counts: Mapping[tuple[str, str | None], int]) -> None:
        """Count scans of a batch by what the code is, and what became of the claim."""
        for key, times in counts.items():
            self._cells[_scan_cell[key]] += times

    def count_looks(self, counts: Mapping[str, int]) -> None:
        """Count looks of a batch by what the code is."""
        for status, times in counts.items():
            self._cells[_look_cell[status]] += times

    def sample(self, program: Program) -> None:
        """Take down what others count and know."""
        ledger = program.ledger
        calls, refused = ledger.calls, ledger.refused
        cells = self._cells
        cells[_CALLS] += calls - self._calls_seen
        cells[_REFUSED] += refused - self._refused_seen
        self._calls_seen, self._refused_seen = calls, refused
        cells[_IN_PROGRESS] = self.claims_in_progress
        cells[_GENERATION] = program.snapshot.generation
        cells[_TROUBLE] = ledger.trouble is not None
        cells[_ALARMS] = len(ledger.alarms)

    # Showing ---------------------------------------------------------------------------------------------------------

    def render(
        self, ledger: Ledger, totals: LedgerTotals | None, *, shows_all: bool, budgets: Mapping[str, int] = NO_BUDGETS
    ) -> bytes:
        """Return the sums as Prometheus text.

        Parameters
        ----------
        totals : LedgerTotals or None
            What the ledger holds; left out if unknown.
        budgets : mapping of str to int
            Published budget of each campaign that has one, in minor units; what was added comes from the totals.
        shows_all : bool
            Whether statuses that outsiders must not tell apart have a line each.
        """
        rows = [row.tolist() for row in self._rows]
        families = [*_of_requests(rows), *_of_scans(rows, shows_all)]
        families += [*_of_ledger(rows, ledger), *_of_workers(rows)]
        if totals is not None:
            families += _of_totals(totals, budgets)
        return generate_latest(_Families(families))


class _Families(list[Metric]):
    """What the library asks for its metrics."""

    def collect(self) -> Iterable[Metric]:
        return self


def _sum(rows: list[list[int]], cell: int) -> int:
    return sum(row[cell] for row in rows)


def _of_requests(rows: list[list[int]]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "scanengine_http_requests", "Replies by route and status code.", labels=["route", "code"]
    )
    durations = HistogramMetricFamily(
        "scanengine_http_request_duration_seconds", "From a request's head to its reply, by route.", labels=["route"]
    )
    for place, route in enumerate(ROUTES):
        by_bucket = [0] * _BUCKETS
        for number, code in enumerate(CODES):
            start = (place * len(CODES) + number) * _BUCKETS
            counts = [_sum(rows, start + bucket) for bucket in range(_BUCKETS)]
            by_bucket = [one + other for one, other in zip(by_bucket, counts, strict=True)]
            if any(counts):
                requests.add_metric([route, str(code)], sum(counts))
        if any(by_bucket):
            bounds = map(str, (*BOUNDS_S, "+Inf"))
            buckets = list(zip(bounds, map(float, accumulate(by_bucket)), strict=True))
            durations.add_metric([route], buckets, _sum(rows, _NANOSECONDS + place) / 1e9)
    yield requests
    yield durations


def _of_scans(rows: list[list[int]], shows_all: bool) -> Iterator[Metric]:
    scans: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    claims = Counter(dict.fromkeys(_CLAIMS, 0))
    for (status, claim), cell in _scan_cell.items():
        count = _sum(rows, cell)
        scans[_shown(status, shows_all)] += count
        if claim is not None:
            claims[claim] += count
    for status, cell in _look_cell.items():
        looks[_shown(status, shows_all)] += _sum(rows, cell)
    yield _counter("scanengine_scans", "Scans by what the code is.", "status", scans)
    yield _counter("scanengine_looks", "Looks without a claim by what the code is.", "status", looks)
    yield _counter("scanengine_claims", "Answers to claims by what became of them.", "status", claims)


def _shown(status: str, shows_all: bool) -> str:
    return INVALID if status in HIDDEN_STATUSES and not shows_all else status


def _of_ledger(rows: list[list[int]], ledger: Ledger) -> Iterator[Metric]:
    alive = [row for row in rows if row[_PID]]
    yield CounterMetricFamily(
        "scanengine_ledger_calls", "Claims and looks that reached the ledger.", _sum(rows, _CALLS)
    )
    yield CounterMetricFamily(
        "scanengine_overloaded", "Claims and looks that did not reach the ledger as too many waited.",
        _sum(rows, _REFUSED),
    )  # fmt: skip
    yield GaugeMetricFamily(
        "scanengine_claims_in_progress", "Claims whose answer is being made.", sum(row[_IN_PROGRESS] for row in alive)
    )
    yield GaugeMetricFamily(
        "scanengine_ledger_trouble", "1 while claims are pending.", max(row[_TROUBLE] for row in alive)
    )
    yield GaugeMetricFamily(
        "scanengine_ledger_alarms", "What to look after before it is trouble.", max(row[_ALARMS] for row in alive)
    )
    info = GaugeMetricFamily("scanengine_ledger_info", "Kind and durability found.", labels=["kind", "durability"])
    info.add_metric([ledger.kind, ledger.durability], 1)
    yield info


def _of_totals(totals: LedgerTotals, budgets: Mapping[str, int]) -> Iterator[Metric]:
    yield GaugeMetricFamily("scanengine_outbox_events", "Events that are not trimmed yet.", totals.events)
    waiting = GaugeMetricFamily(
        "scanengine_reader_events_waiting", "Events that a reader has not acknowledged.", labels=["reader"]
    )
    for reader, acked in totals.readers.items():
        waiting.add_metric([reader], totals.event_seq - acked)
    yield waiting
    yield _counter(
        "scanengine_campaign_claims",
        "Recorded claims.",
        "campaign",
        {held.id: held.claims for held in totals.campaigns},
    )
    yield _counter(
        "scanengine_campaign_money", "Money awarded, in minor units.", "campaign",
        {held.id: held.money for held in totals.campaigns},
    )  # fmt: skip
    added = {held.id: held.extra_budget for held in totals.campaigns}
    most = GaugeMetricFamily(
        "scanengine_campaign_budget", "Most money to be awarded, in minor units.", labels=["campaign"]
    )
    for campaign, budget in budgets.items():
        most.add_metric([campaign], budget + added.get(campaign, 0))
    yield most
    stopped = GaugeMetricFamily(
        "scanengine_campaign_stopped", "1 if paused or closed by an operator.", labels=["campaign"]
    )
    for held in totals.campaigns:
        stopped.add_metric([held.id], held.is_paused or held.is_closed)
    yield stopped


def _of_workers(rows: list[list[int]]) -> Iterator[Metric]:
    yield GaugeMetricFamily("scanengine_workers", "Workers that run.", sum(row[_PID] > 0 for row in rows))
    yield GaugeMetricFamily("scanengine_workers_configured", "Workers that should run.", len(rows))
    yield CounterMetricFamily("scanengine_worker_starts", "Starts of workers.", _sum(rows, _STARTS))
    info = GaugeMetricFamily("scanengine_worker_info", "Process of a worker.", labels=["worker", "pid"])
    generations = GaugeMetricFamily("scanengine_generation", "Generation served, by worker.", labels=["worker"])
    requests: dict[str, int] = {}
    for worker, row in enumerate(rows):
        requests[str(worker)] = sum(row[_REQUESTS:_NANOSECONDS])
        if row[_PID]:
            info.add_metric([str(worker), str(row[_PID])], 1)
            generations.add_metric([str(worker)], row[_GENERATION])
    yield info
    yield generations
    yield _counter("scanengine_worker_requests", "Replies by worker.", "worker", requests)


def _counter(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
