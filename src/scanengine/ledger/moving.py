"""Carrying a ledger from one backend to another, by way of an export.

After an import the new ledger is exported again, to nowhere: it must have the digest of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

from scanengine.errors import LedgerBusyError, LedgerFormatError
from scanengine.ledger.lines import (
    EXPORT_VERSION,
    Adjusted,
    Advance,
    Campaign,
    End,
    EventLine,
    Head,
    Part,
    Reader,
    Writer,
    check_export,
    ignore,
    read_export,
)
from scanengine.ledger.protocol import LedgerMarks, LedgerReader


class Target(Protocol):
    """Where an import goes; a context manager that leaves no half-made ledger that can be opened."""

    def __enter__(self) -> Target: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, marks: LedgerMarks) -> None:
        """Make ready for what follows; LedgerFormatError if there is a ledger that was used."""

    def put(self, part: Part) -> None:
        """Write what a file holds, in its order."""

    def reader(self) -> LedgerReader:
        """Return a reader of what was written, which is everything now."""

    def commit(self) -> None:
        """Let what was written be the ledger, durably."""


class Exported(NamedTuple):
    """What was exported: how far the ledger had come, and the last line."""

    marks: LedgerMarks
    end: End


def count_lines(marks: LedgerMarks) -> int:
    """Return how many lines an export has, but for the few of campaigns, adjustments and readers."""
    return marks.claims + marks.scans + marks.events - marks.trimmed


def export_ledger(
    reader: LedgerReader, write: Callable[[bytes], object], *, is_live: bool = False, advance: Advance = ignore
) -> Exported:
    """Write a ledger as lines.

    Parameters
    ----------
    write : callable
        Takes some thousand lines at a time.
    is_live : bool
        Whether the ledger may be in use: what is written is what it held at the beginning.

    Raises
    ------
    LedgerBusyError
        The ledger was used meanwhile, and `is_live` is false; or events were trimmed that were about to be read.
    LedgerFormatError
        Records are missing, or the ledger is damaged otherwise.
    """
    lines = Writer(write, advance)
    with reader.snapshot():
        marks, totals = reader.marks(), reader.totals()
        lines.put([Head(EXPORT_VERSION, marks)])
        counters = sorted(reader.counters().items())
        lines.put(
            Campaign(number, name, [(*key[1:], value) for key, value in counters if key[0] == number])
            for number, name in sorted(reader.campaigns().items())
        )
        lines.put(map(Adjusted, reader.adjustments()))
        lines.put(Reader(name, acked) for name, acked in sorted(totals.readers.items()))
        for name, chunks, newest in (
            ("claim", reader.claims(), marks.claims),
            ("scan", reader.scans(), marks.scans),
        ):
            lines.put_records(name, chunks, newest)
        newest = marks.trimmed
        for claim, event in reader.events(marks.trimmed):
            newest += 1
            if event.seq != newest:
                raise LedgerBusyError(
                    f"event {newest} is missing: events were acknowledged while the ledger was read, or it is damaged; "
                    "try again, and if this comes again see what the audit says"
                )
            lines.put([EventLine(claim, event)])
        if newest != marks.events:
            raise LedgerFormatError(f"the newest event is {newest}, expected {marks.events}: see what the audit says")
    if not is_live and (reader.marks(), reader.totals()) != (marks, totals):
        raise LedgerBusyError(
            "the ledger was used while it was read: stop whoever uses it, or ask for what it held at the beginning"
        )
    return Exported(marks, lines.end())


def import_ledger(
    file: BinaryIO, target: Target, program: str, *, name: str = "the export", advance: Advance = ignore
) -> End:
    """Make a ledger of an export, where there is none or an empty one.

    Parameters
    ----------
    file : binary file
        From its beginning; must be able to go back there.
    program : str
        Identity of the program that the export must be of.
    name : str
        What to call the file in errors.
    advance : callable
        Told of each line three times: when it was checked, written, and read back.

    Returns
    -------
    End
        Number and digest of the lines.

    Raises
    ------
    LedgerFormatError
        The file is cut, changed, of another program or version: nothing was made then. Or there is a ledger that was
        used, or what was written reads back differently.
    """
    head, end = check_export(file, program, name, advance)
    with target:
        target.begin(head.ledger)
        file.seek(0)
        for part, count in read_export(file, program, name):
            if not isinstance(part, Head | End):
                target.put(part)
            advance(count)
        with target.reader() as reader:
            found = export_ledger(reader, ignore, advance=advance).end
        if found != end:
            raise LedgerFormatError(
                f"{name}: {end.lines} lines of digest {end.digest} read back as {found.lines} lines of digest "
                f"{found.digest}; the import is not finished"
            )
        target.commit()
    return end
