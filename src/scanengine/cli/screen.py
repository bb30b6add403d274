"""What ``demo --lan`` shows in the terminal: the next code to scan, and what ledger and metrics say."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
import segno
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scanengine.cli.demo import CAMPAIGN
from scanengine.errors import LedgerUnavailableError
from scanengine.ledger.protocol import CampaignTotals
from scanengine.model import NO_PRIZE, Event
from scanengine.program import Program
from scanengine.server import Metrics

TICK_S: Final = 0.25
READER: Final = "screen"
_RATE_S: Final = 10.0
"""Scans a second are those of so many seconds."""
_QUIET: Final = 2
"""Light modules around a QR code: half of what the standard asks for, which phones read well and terminals have."""
_PANEL_COLUMNS: Final = 46
_LATEST: Final = 50
_EVENTS_MAX: Final = 1_000
"""Read at a time; a demo has fewer in a quarter of a second."""
_HALVES: Final = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}
"""Two modules, one above the other, each true if dark, as a character that is bright where they are light."""


class Link(msgspec.Struct, frozen=True):
    """A URL that lets in whoever opens it first.

    Parameters
    ----------
    qr_lines : list of str
        Its QR code as half blocks, for light characters on a dark ground.
    """

    url: str
    qr_lines: list[str]

    def __repr__(self) -> str:
        """Do not show the URL, which is a bearer secret."""
        return "<Link>"

    @classmethod
    def to(cls, url: str) -> Link:
        """Return the link and its QR code."""
        rows = [[bool(module) for module in row] for row in segno.make(url, error="m").matrix_iter(border=_QUIET)]
        rows += [[True] * len(rows[0])] * (len(rows) % 2)  # Below the last half line is the ground itself.
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return cls(url, ["".join(map(_HALVES.__getitem__, zip(*pair, strict=True))) for pair in pairs])


class Numbers(msgspec.Struct, frozen=True):
    """What has happened so far, as the ledger and the metrics say.

    Parameters
    ----------
    seen : dict of str to int
        Looks and scans by what the code is.
    claims : dict of str to int
        Answers to claims by what became of them.
    refused : int
        Requests that the gate did not let in.
    campaign : CampaignTotals or None
        None before the first claim.
    ledger : str
        Kind and durability, and what is wrong with it.
    """

    seen: Mapping[str, int]
    claims: Mapping[str, int]
    refused: int
    campaign: CampaignTotals | None
    ledger: str


def read_numbers(program: Program, metrics: Metrics) -> Numbers:
    """Read what metrics and ledger say now."""
    ledger = program.ledger
    metrics.sample(program)
    text = metrics.render(ledger, None, shows_all=True).decode()
    seen: Counter[str] = Counter()
    claims: Counter[str] = Counter()
    refused = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            count = int(sample.value)
            if sample.name in ("scanengine_scans_total", "scanengine_looks_total"):
                seen[sample.labels["status"]] += count
            elif sample.name == "scanengine_claims_total":
                claims[sample.labels["status"]] += count
            elif sample.name == "scanengine_http_requests_total" and sample.labels["code"] == "403":
                refused += count
    campaigns = {held.id: held for held in ledger.totals().campaigns}
    about = f"{ledger.kind}, {ledger.durability}" + (f", trouble: {ledger.trouble}" if ledger.trouble else "")
    return Numbers(+seen, +claims, refused, campaigns.get(CAMPAIGN), about)


class Screen:
    """Shows links and numbers until it is told to end.

    On a terminal that can move its cursor it is one live picture; otherwise each change is a line.

    Parameters
    ----------
    links : iterator of Link or None
        What can be scanned at the moment.
    """

    def __init__(self, program: Program, metrics: Metrics, links: Iterator[Link | None], url: str) -> None:
        self._program = program
        self._metrics = metrics
        self._links = links
        self._url = url
        self._link: Link | None = None
        self._numbers: Numbers | None = None
        self._trouble: str | None = None
        self._latest: deque[Event] = deque(maxlen=_LATEST)
        self._read_to = 0
        self._history: deque[tuple[float, int]] = deque()
        self._prizes = {prize.number: prize for prize in program.snapshot.prizes[CAMPAIGN].metadata.prizes}
        self._budget = program.snapshot.prizes[CAMPAIGN].metadata.budget.total or 0
        self._currency = program.snapshot.prizes[CAMPAIGN].metadata.currency or ""

    def run(self, ended: threading.Event) -> None:
        """Show until `ended` is set; OSError when the terminal is gone."""
        self._program.ledger.register_reader(READER)
        console = Console()
        if not console.is_terminal or console.is_dumb_terminal:
            self._print_lines(ended)
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            # A window that was closed is no terminal any more, and says so by no error.
            while console.is_terminal:
                self._read()
                live.update(self.picture(*console.size), refresh=True)
                if ended.wait(TICK_S):
                    break
        sys.stdout.write("\n".join(self._in_lines()) + "\n")

    def _print_lines(self, ended: threading.Event) -> None:
        told: list[str] = []
        while True:
            link = self._link
            for event in self._read():
                print(f"item {event.item}: {self._what(event)}", flush=True)
            if self._link is not None and self._link is not link:
                print(f"open on a phone: {self._link.url}", flush=True)
            lines = self._in_lines()
            if lines != told:
                told = lines
                print(" | ".join(lines), flush=True)
            if ended.wait(TICK_S):
                break

    # Reading --------------------------------------------------------------------------------------------------------

    def _read(self) -> list[Event]:
        """Take in what has happened since; returns the new events."""
        self._link = next(self._links)
        ledger = self._program.ledger
        try:
            new = ledger.events(READER, self._read_to, _EVENTS_MAX)
            if new:
                self._read_to = new[-1].seq
                ledger.ack(READER, self._read_to)
            self._numbers, self._trouble = read_numbers(self._program, self._metrics), None
        except LedgerUnavailableError as error:
            # Also when the server has stopped and closed it: what was known then is what there is to say.
            self._trouble = str(error)
            return []
        self._latest.extend(new)
        now = time.monotonic()
        self._history.append((now, sum(self._numbers.seen.values())))
        while now - self._history[0][0] > _RATE_S:
            self._history.popleft()
        return new

    def _rate(self) -> float:
        (start, before), (end, after) = self._history[0], self._history[-1]
        return (after - before) / (end - start) if end > start else 0.0

    # Showing --------------------------------------------------------------------------------------------------------

    def picture(self, width: int, height: int) -> RenderableType:
        """Return all that fits a terminal of so many columns and lines."""
        link = self._link
        if link is None:
            return Group(Text("every code of this demo has been scanned", style="bold"), *self._panel())
        below = Text(f"or open {link.url}", style="dim", overflow="fold")
        # Light on dark whatever the colours of the terminal: without any, most are dark.
        code = Text("\n".join(link.qr_lines), style="bright_white on black", no_wrap=True)
        columns, lines = len(link.qr_lines[0]), len(link.qr_lines)
        title = Text("scan with a phone on this network", style="bold")
        if width < columns or height < lines + 1:
            small = Text(f"for a QR code: at least {columns} columns and {lines + 1} lines", style="yellow")
            return Group(small, below, *self._panel())
        if width < columns + 2 + _PANEL_COLUMNS:
            return Group(title, code, below, *self._panel())
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(Group(title, code), Group(*self._panel(lines)))
        return Group(grid, below)

    def _panel(self, lines: int = _LATEST) -> list[RenderableType]:
        """Return the numbers, and as many of the latest events as there is room for."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        for label, value in self._rows():
            grid.add_row(Text(label, style="cyan"), value)
        room = max(0, lines - grid.row_count - 3)
        latest = [
            Text(
                f"{time.strftime('%H:%M:%S', time.localtime(event.at / 1000))}  item {event.item}: {self._what(event)}"
            )
            for event in list(self._latest)[::-1][:room]
        ]
        return [Text(f"scanengine demo on {self._url}, Ctrl-C ends it", style="bold"), Text(), grid, Text(), *latest]

    def _rows(self) -> Iterator[tuple[str, RenderableType]]:
        numbers = self._numbers
        if numbers is not None:
            yield "scans", Text(f"{_counts(numbers.seen)}, {self._rate():.1f}/s")
            yield "claims", Text(_counts(numbers.claims))
            yield "awards", Text(self._awards())
            yield "budget", Text(self._spent())
            yield "", ProgressBar(total=max(1, self._budget), completed=self._money(), width=_PANEL_COLUMNS - 10)
            yield "ledger", Text(numbers.ledger)
            yield "refused", Text(str(numbers.refused))
        if self._trouble is not None:
            yield "trouble", Text(self._trouble, style="red")

    def _in_lines(self) -> list[str]:
        """Return the numbers as plain text."""
        if self._numbers is None:
            return []
        numbers = self._numbers
        return [
            f"scans: {_counts(numbers.seen)}", f"claims: {_counts(numbers.claims)}", f"awards: {self._awards()}",
            f"budget: {self._spent()}", f"ledger: {numbers.ledger}", f"refused: {numbers.refused}",
        ]  # fmt: skip

    def _money(self) -> int:
        campaign = self._numbers and self._numbers.campaign
        return campaign.money if campaign else 0

    def _spent(self) -> str:
        return f"{self._money() / 100:,.2f} of {self._budget / 100:,.2f} {self._currency}"

    def _awards(self) -> str:
        campaign = self._numbers and self._numbers.campaign
        given = campaign.awards if campaign else {}
        stock = {number: f" of {prize.stock}" if prize.stock else "" for number, prize in self._prizes.items()}
        return ", ".join(
            f"{prize.title} {given.get(number, 0)}{stock[number]}" for number, prize in self._prizes.items()
        )

    def _what(self, event: Event) -> str:
        if event.type != "claim":
            return "scanned"
        return "no prize" if event.prize == NO_PRIZE else f"won {self._prizes[event.prize].title}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none yet"
