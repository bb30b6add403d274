"""``events``: what accounts, payouts and analytics read, and how far they have come."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import click
import msgspec

from scanengine.cli.control import LedgerWriter, ledger_to_write
from scanengine.cli.ledgers import ledger_option
from scanengine.cli.shared import Context, json_option, pass_context, print_json, print_table
from scanengine.errors import LedgerUnavailableError, OutboxError
from scanengine.ledger import LedgerReader
from scanengine.ledger.checks import SEQ_MAX
from scanengine.ledger.outbox import next_events
from scanengine.ledger.sealing import DamagedEventError
from scanengine.model import Event
from scanengine.program.ledgers import read_ledger
from scanengine.program.operating import mark_of, show_readers
from scanengine.program.settings import Settings, override_ledger

EVENTS_AT_ONCE: Final = 1_000
"""Events written and then acknowledged together."""
LOOK_S: Final = 0.5
"""How often to look for new events."""


@click.group()
def events() -> None:
    """Events: one for each recorded claim, kept until every registered reader has acknowledged it."""


@events.group("readers", invoke_without_command=True)
@ledger_option
@json_option
@pass_context
@click.pass_context
def readers(command: click.Context, context: Context, url: str | None, as_json: bool) -> None:
    """List the readers, and how many events wait for each."""
    if command.invoked_subcommand is not None:
        return
    with read_ledger(context.workspace, override_ledger(context.settings, url=url), context.keyring) as ledger:
        shown = show_readers(ledger.totals())
    if as_json:
        print_json(shown)
        return
    rows = [(held.reader, f"{held.acknowledged:,}", f"{held.waiting:,}") for held in shown.readers]
    print_table(("reader", "acknowledged", "waiting"), rows)
    click.echo(f"newest event {shown.newest:,}")


@readers.command("add")
@click.argument("reader")
@ledger_option
@pass_context
def add(context: Context, reader: str, url: str | None) -> None:
    """Register a reader: from now on events are kept until it has acknowledged them."""
    with _writing(context, url) as ledger:
        ledger.register_reader(reader)
    click.echo(f"reader {reader} is registered")


@readers.command("remove")
@click.argument("reader")
@ledger_option
@pass_context
def remove(context: Context, reader: str, url: str | None) -> None:
    """Remove a reader: events are no longer kept for it."""
    with read_ledger(context.workspace, override_ledger(context.settings, url=url), context.keyring) as held:
        totals = held.totals()
    left = totals.event_seq - mark_of(totals, reader)
    with _writing(context, url) as ledger:
        ledger.remove_reader(reader)
    click.echo(f"reader {reader} is removed; it had {left:,} events to go")


@events.command("ack")
@click.argument("reader")
@click.argument("seq", type=click.IntRange(0, SEQ_MAX))
@ledger_option
@pass_context
def ack(context: Context, reader: str, seq: int, url: str | None) -> None:
    """Acknowledge all events up to number SEQ: what every reader has acknowledged is deleted."""
    with _writing(context, url) as ledger:
        ledger.ack(reader, seq)
    click.echo(f"reader {reader}: acknowledged up to {seq:,}")


@events.command("follow")
@click.argument("reader")
@click.option("--from", "first", type=click.IntRange(1), metavar="SEQ",
              help="Number of the first event to write, instead of the first that is not acknowledged.")  # fmt: skip
@click.option("--once", is_flag=True, help="End when no event is waiting, instead of waiting for the next.")
@click.option("--no-ack", is_flag=True, help="Acknowledge nothing.")
@ledger_option
@json_option
@pass_context
def follow(
    context: Context, reader: str, first: int | None, once: bool, no_ack: bool, url: str | None, as_json: bool
) -> None:
    """Write events to standard output as they come, and acknowledge what is written, until Ctrl-C."""
    settings = override_ledger(context.settings, url=url)
    with read_ledger(context.workspace, settings, context.keyring) as ledger:
        acked, after = _begin(ledger, reader, first, acks=not no_ack)
        with _Acknowledging(context, settings, reader, acked, not no_ack) as acknowledging, _stopping() as stop:
            while True:
                try:
                    acknowledging.up_to(after)
                    if stop.is_set():
                        return
                    found = next_events(ledger, after, EVENTS_AT_ONCE)
                except DamagedEventError as error:
                    raise OutboxError(
                        f"{error}; the events before it were written. See what scanengine audit says, then pass it: "
                        f"scanengine events ack {reader} {error.last}"
                    ) from error
                except LedgerUnavailableError as error:
                    if once or stop.is_set():
                        raise
                    acknowledging.trouble(error)
                    stop.wait(LOOK_S)
                    continue
                if found:
                    _write(found, None if as_json else settings.zone)
                    after = found[-1].seq
                elif once:
                    return
                else:
                    acknowledging.rest()
                    stop.wait(LOOK_S)


def _writing(context: Context, url: str | None) -> AbstractContextManager[LedgerWriter]:
    return ledger_to_write(context.workspace, override_ledger(context.settings, url=url), context.keyring)


def _begin(ledger: LedgerReader, reader: str, first: int | None, *, acks: bool) -> tuple[int, int]:
    """Return what a reader has acknowledged, and the number after which to read."""
    marks, acked = ledger.marks(), mark_of(ledger.totals(), reader)
    after = acked if first is None else first - 1
    if acks and after > acked:
        raise OutboxError(
            f"--from {first} would acknowledge events {acked + 1} to {after}, which {reader!r} was not given: begin at "
            f"{acked + 1} or before, or use --no-ack"
        )
    if after < marks.trimmed:
        click.echo(f"scanengine: events up to {marks.trimmed:,} are gone: every reader had acknowledged them", err=True)
    return acked, after


def _write(found: list[Event], zone: ZoneInfo | None) -> None:
    """Write events as lines, in words if there is a time zone, and see them off before anybody acknowledges them."""
    if zone is None:
        sys.stdout.writelines(msgspec.json.encode(event).decode() + "\n" for event in found)
    else:
        sys.stdout.writelines(_in_words(event, zone) + "\n" for event in found)
    sys.stdout.flush()


def _in_words(event: Event, zone: ZoneInfo) -> str:
    at = datetime.fromtimestamp(event.at / 1000, zone).isoformat(timespec="milliseconds")
    prize = f"prize {event.prize} amount {event.amount}" if event.prize >= 0 else "no prize"
    told = f"campaign {event.campaign or '-'} {prize}" if event.type == "claim" else "-"
    return f"{event.seq} {at} {event.type} item {event.item} batch {event.batch} user {event.user or '-'} {told}"


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield what Ctrl-C and SIGTERM set, so that no line is cut; a second time they end the process."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def ask_to_stop(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in numbers:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, before[signal.Signals(number)])


class _Acknowledging:
    """Acknowledges for one reader; has the ledger open only while there is something to acknowledge.

    An SQLite ledger belongs to one process: a server must be able to start while we wait.
    """

    def __init__(self, context: Context, settings: Settings, reader: str, acked: int, is_on: bool) -> None:
        self._context = context
        self._settings = settings
        self._reader = reader
        self._acked = acked
        self._is_on = is_on
        self._told = ""
        self._open = ExitStack()
        self._ledger: LedgerWriter | None = None

    def __enter__(self) -> _Acknowledging:
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def up_to(self, seq: int) -> None:
        """Acknowledge, if that was not done before."""
        if seq <= self._acked or not self._is_on:
            return
        try:
            if self._ledger is None:
                self._ledger = self._open.enter_context(
                    ledger_to_write(self._context.workspace, self._settings, self._context.keyring)
                )
            self._ledger.ack(self._reader, seq)
        except LedgerUnavailableError:
            self.rest()  # Somebody else may own it by the next time.
            raise
        self._acked = seq
        self._told = ""

    def rest(self) -> None:
        """Let go of the ledger."""
        self._ledger = None
        self._open.close()

    def trouble(self, error: Exception) -> None:
        """Say what is wrong, once."""
        if str(error) != self._told:
            self._told = str(error)
            click.echo(f"scanengine: {error}; tried again until it works", err=True)
