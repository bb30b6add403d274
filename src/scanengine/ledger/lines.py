"""A ledger as lines of text, to keep and to carry from one backend to another.

An export is NDJSON, UTF-8. The same content makes the same lines, whatever the ledger was kept in:

    {"export":1,"ledger":{"program":"...","clock_ms":...,"generation":...,"claims":...,"scans":...,"events":...,...}}
    ["campaign",NUMBER,ID,[[KIND,PRIZE,DATE,VALUE],...]]      by number, with its counters
    ["adjustment",{...}]                                      in the order in which they were applied
    ["reader",NAME,ACKNOWLEDGED]                              by name
    ["claim",NUMBER,[...]]                                    by number, fields as in CLAIM_DTYPE
    ["scan",NUMBER,[...]]                                     by number, fields as in SCAN_DTYPE
    ["event",CLAIM,{...}]                                     those not yet trimmed, by number
    {"lines":...,"digest":"..."}                              of all lines before, BLAKE2b with 16 bytes

Events hold users whole. The digest tells a cut or changed file from a whole one; it is no proof of who wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import BinaryIO, Final, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from scanengine.errors import LedgerFormatError
from scanengine.ledger.protocol import LedgerMarks
from scanengine.ledger.records import CLAIM_DTYPE, SCAN_DTYPE
from scanengine.model import Adjustment, Event

EXPORT_VERSION: Final = 1
LINES_AT_ONCE: Final = 4096
_DIGEST_BYTES: Final = 16
_encode: Final = msgspec.json.Encoder().encode
_encode_lines: Final = msgspec.json.Encoder().encode_lines

Advance = Callable[[int], object]
"""Told how many lines were done."""


class Head(Struct, frozen=True, forbid_unknown_fields=True):
    """First line: version of the lines, and how far the ledger has come."""

    export: int
    ledger: LedgerMarks


class End(Struct, frozen=True, forbid_unknown_fields=True):
    """Last line: number and digest of all lines before it."""

    lines: int
    digest: str


class Campaign(Struct, frozen=True, array_like=True, tag="campaign"):
    """A campaign with its counters: kind, prize number, local date, value."""

    number: int
    id: str
    counters: list[tuple[int, int, int, int]]


class Adjusted(Struct, frozen=True, array_like=True, tag="adjustment"):
    """An adjustment that was applied."""

    adjustment: Adjustment


class Reader(Struct, frozen=True, array_like=True, tag="reader"):
    """A registered reader and the newest event that it has acknowledged."""

    name: str
    acked: int


class _ClaimLine(Struct, frozen=True, array_like=True, tag="claim"):
    seq: int
    record: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int]


class _ScanLine(Struct, frozen=True, array_like=True, tag="scan"):
    seq: int
    record: tuple[int, int, int, int, int]


class EventLine(Struct, frozen=True, array_like=True, tag="event"):
    """An event and the number of its claim, 0 for a scan."""

    claim: int
    event: Event


class Claims(NamedTuple):
    """Claims one after the other: numbers (n,), records (n,) of ``CLAIM_DTYPE``."""

    seqs: NDArray[np.int64]
    records: NDArray[np.void]


class Scans(NamedTuple):
    """Scans one after the other: numbers (n,), records (n,) of ``SCAN_DTYPE``."""

    seqs: NDArray[np.int64]
    records: NDArray[np.void]


class Events(NamedTuple):
    """Events one after the other, each with the number of its claim, 0 for a scan."""

    rows: list[tuple[int, Event]]


Part = Campaign | Adjusted | Reader | Claims | Scans | Events
_Line = Campaign | Adjusted | Reader | _ClaimLine | _ScanLine | EventLine
_ORDER: Final = (Campaign, Adjusted, Reader, _ClaimLine, _ScanLine, EventLine)
_Decoded = TypeVar("_Decoded")


def ignore(_: object) -> None:
    """Take what nobody wants to know."""


def read_export(
    file: BinaryIO, program: str, name: str, advance: Advance = ignore
) -> Iterator[tuple[Head | Part | End, int]]:
    """Yield what the lines of a file say, each with a number of lines: the head, all parts in order, the end.

    Raises
    ------
    LedgerFormatError
        The file is cut or changed, which may only be known at its end; or of another program or version.
    """
    lines = _Source(file, name)
    head = _check_head(lines, program, name)
    marks = head.ledger
    yield head, 1
    decoder = msgspec.json.Decoder(_Line)
    newest = {Campaign: 0, _ClaimLine: 0, _ScanLine: 0, EventLine: marks.trimmed}
    rank = 0
    while batch := lines.some():
        decoded = [lines.decode(decoder, line) for line in batch]
        for kind, group in groupby(decoded, type):
            rows = list(group)
            if _ORDER.index(kind) < rank:
                raise lines.wrong("its lines are out of order")
            rank = _ORDER.index(kind)
            if kind in newest:
                first = newest[kind] + 1
                newest[kind] += len(rows)
                if [_number(row) for row in rows] != list(range(first, first + len(rows))):
                    raise lines.wrong(f"after number {first - 1} of its kind a number is missing")
            for part in lines.parts(rows):
                yield part, len(rows) if isinstance(part, tuple) else 1
        advance(len(batch))
    end = lines.decode(msgspec.json.Decoder(End), lines.last)
    if (lines.count, lines.digest) != (end.lines, end.digest):
        raise lines.wrong(
            f"{lines.count} lines of digest {lines.digest}, expected {end.lines} of digest {end.digest}: it was changed"
        )
    if (newest[_ClaimLine], newest[_ScanLine], newest[EventLine]) != (marks.claims, marks.scans, marks.events):
        raise lines.wrong("its lines are not those that its head names")
    yield end, 1


def read_head(file: BinaryIO, program: str, name: str) -> Head:
    """Read the first line alone.

    Raises
    ------
    LedgerFormatError
        It is none, or of another program or version.
    """
    return _check_head(_Source(file, name), program, name)


def check_export(file: BinaryIO, program: str, name: str, advance: Advance = ignore) -> tuple[Head, End]:
    """Read a file to its end, and return its head and its end.

    Raises
    ------
    LedgerFormatError
        As :func:`read_export`.
    """
    found = [part for part, _ in read_export(file, program, name, advance) if isinstance(part, Head | End)]
    head, end = found
    assert isinstance(head, Head)
    assert isinstance(end, End)
    return head, end


def _check_head(lines: _Source, program: str, name: str) -> Head:
    head = lines.decode(msgspec.json.Decoder(Head), lines.next())
    if head.export != EXPORT_VERSION:
        raise LedgerFormatError(f"{name}: an export of version {head.export}, expected {EXPORT_VERSION}")
    if head.ledger.program != program:
        raise LedgerFormatError(f"{name}: an export of program {head.ledger.program}, expected {program}")
    return head


def _number(line: _Line) -> int:
    if isinstance(line, EventLine):
        return line.event.seq
    return line.number if isinstance(line, Campaign) else getattr(line, "seq", 0)


class Writer:
    """Lines on their way out.

    Parameters
    ----------
    write : callable
        Takes some thousand lines at a time.
    """

    def __init__(self, write: Callable[[bytes], object], advance: Advance) -> None:
        self._write = write
        self._advance = advance
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._waiting: list[object] = []
        self._count = 0

    def put(self, lines: Iterable[object]) -> None:
        """Write lines."""
        self._waiting += lines
        if len(self._waiting) >= LINES_AT_ONCE:
            self._flush()

    def put_records(self, name: str, chunks: Iterator[tuple[NDArray[np.int64], NDArray[np.void]]], newest: int) -> None:
        """Write records; LedgerFormatError if they are not those numbered from 1 to the newest."""
        done = 0
        for seqs, records in chunks:
            expected = np.arange(done + 1, done + 1 + len(seqs))
            if not np.array_equal(seqs, expected):
                wrong = expected[np.flatnonzero(seqs != expected)[0]]
                raise LedgerFormatError(f"{name} {wrong} is missing or there twice: see what the audit says")
            done += len(seqs)
            for start in range(0, len(seqs), LINES_AT_ONCE):
                piece = slice(start, start + LINES_AT_ONCE)
                rows = zip(seqs[piece].tolist(), records[piece].tolist(), strict=True)
                self.put([(name, seq, record) for seq, record in rows])
        if done != newest:
            raise LedgerFormatError(f"{name} {done + 1} to {newest}: records are missing: see what the audit says")

    def end(self) -> End:
        """Write the last line and return it."""
        self._flush()
        end = End(self._count, self._digest.hexdigest())
        self._write(_encode(end) + b"\n")
        return end

    def _flush(self) -> None:
        lines, self._waiting = self._waiting, []
        text = _encode_lines(lines)
        self._digest.update(text)
        self._count += len(lines)
        self._write(text)
        self._advance(len(lines))


class _Source:
    """Lines of a file on their way in; the last one is held back, as it says what those before it must be."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self.count = 0
        self.last = b""

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def next(self) -> bytes:
        """Return the next line but the last, empty at the end."""
        line = self.last or self._file.readline()
        self.last = self._file.readline()
        if not line.endswith(b"\n") or (self.last and not self.last.endswith(b"\n")):
            raise self.wrong("it was cut, or is none")
        if not self.last:
            self.last = line
            return b""
        self._digest.update(line)
        self.count += 1
        return line

    def some(self) -> list[bytes]:
        """Return some lines, none at the end."""
        lines: list[bytes] = []
        while len(lines) < LINES_AT_ONCE and (line := self.next()):
            lines.append(line)
        return lines

    def decode(self, decoder: msgspec.json.Decoder[_Decoded], line: bytes) -> _Decoded:
        try:
            return decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self.wrong(f"near line {self.count} it says something else than expected: {error}") from error

    def parts(self, rows: list[_Line]) -> list[Part]:
        """Return lines of one kind as what they stand for."""
        kind = type(rows[0])
        try:
            if kind is _ClaimLine:
                return [Claims(*_columns(rows, CLAIM_DTYPE))]
            if kind is _ScanLine:
                return [Scans(*_columns(rows, SCAN_DTYPE))]
        except (ValueError, OverflowError) as error:
            raise self.wrong(f"before line {self.count + 1} a number is out of its range: {error}") from error
        if kind is EventLine:
            return [Events([(row.claim, row.event) for row in rows if isinstance(row, EventLine)])]
        return [row for row in rows if isinstance(row, Campaign | Adjusted | Reader)]

    def wrong(self, text: str) -> LedgerFormatError:
        return LedgerFormatError(f"{self._name}: not a whole export of a ledger: {text}")


def _columns(rows: list[_Line], dtype: np.dtype[np.void]) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    lines = [row for row in rows if isinstance(row, _ClaimLine | _ScanLine)]
    return np.array([line.seq for line in lines], np.int64), np.array([line.record for line in lines], dtype)
