"""Codes that somebody else made, imported as a batch: a file of one code a line becomes an exact index.

    lines ──read_texts──▶ rows ──fill_slots──▶ index ──under the lock──▶ table number, code table, manifest

Everything is read, checked and indexed in memory before anything is written, so a file with a fault leaves no trace.
The table is written aside and published as a whole; what a kill leaves behind is never seen by a scan. The same command
run again reads the file again, and either finds the batch published, with the very same codes, or publishes it under
the table number that its label was given the first time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, BinaryIO, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from scanengine._core import PROFILE_DTYPE, Resolver, fill_slots, read_texts
from scanengine.codes import parse
from scanengine.errors import AssignmentError
from scanengine.keys import Keyring
from scanengine.model import CODE_SYMBOLS, IMPORTED_CODES_MAX, IMPORTED_SLOT, Product, Status
from scanengine.program.keeping import read_code_tables
from scanengine.program.publishing import check_product, check_unused, publish_batch
from scanengine.tables.codes import CodeTable, CodeTexts
from scanengine.tables.products import add_product
from scanengine.tables.snapshot import Snapshot, load_snapshot
from scanengine.tables.workspace import Workspace, check_label

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Shows how far long work has come: title and total, then told of each part that is done."""

_PIECE_BYTES: Final = 4 << 20
_CARRY_BYTES_MAX: Final = 80
"""Of an unfinished line; more is not needed to see that it is too long."""
_BLOCK_CODES: Final = 1 << 18
_SHOWN: Final = 10
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NO_SCAN: Final = (0, 0, 0)
_SLASH, _QUERY, _FRAGMENT, _PERCENT = b"/?#%"


class _Lines(Struct, frozen=True):
    """Texts of a file in the order of its lines, and what is wrong with others."""

    rows: NDArray[np.uint8]
    parts: list[tuple[int, NDArray[np.int64] | int]]
    """First offset of each part, and its lines: one each, or the first of lines in a row."""
    faults: list[str]
    fault_count: int

    def line_of(self, offset: int) -> int:
        """Return the line of a text."""
        first, lines = next(part for part in reversed(self.parts) if part[0] <= offset)
        return lines + offset - first if isinstance(lines, int) else int(lines[offset - first])


def import_batch(
    workspace: Workspace,
    keyring: Keyring,
    label: str,
    file: BinaryIO,
    *,
    product: Product | None = None,
    test: bool = False,
    progress: Progress,
) -> tuple[CodeTable, bool]:
    """Make a batch of the codes in a file, with one inactive segment over all of it.

    Parameters
    ----------
    file : binary file
        One code a line: 1 to 64 printable ASCII characters without spaces (0x21 to 0x7e), taken exactly as they are. CR
        before the end of a line, empty lines and a byte order mark are passed over.
    product : Product, optional
        Its line is added to ``products.toml`` if it has none.
    test : bool
        Whether the codes are for tests: they are claimed like others, and never pay.

    Returns
    -------
    table : CodeTable
    is_new : bool
        False if this label was published before with the very same codes: nothing was changed.

    Raises
    ------
    AssignmentError
        If the label is taken by other codes; or naming the first lines that are no codes, that stand twice, that
        another imported batch holds already or that are codes of this program's own, bare or with a URL around them,
        and how many there are. Nothing is published then, and no table number is handed out.

    Notes
    -----
    Some 0.5 microseconds a code, and for each imported batch that there is 0.1 more. Memory: w + 6 bytes a code, where
    w is the length of the longest.
    """
    check_label(label)
    check_product(product)
    snapshot = load_snapshot(workspace)
    known = snapshot.batch(label)
    if known is None or not known.codes.is_imported:
        check_unused(snapshot.manifest, label)
    lines = _read_lines(file, label, progress)
    key = next((batch.codes.texts.key for batch in snapshot.batches if batch.codes.texts), None) or os.urandom(16)
    texts, doubles, double_count = _index(lines, key, label, progress)
    faults = [
        *lines.faults,
        *(f"line {lines.line_of(row)}: the same as line {lines.line_of(first)}" for row, first in doubles),
    ]
    fault_count = lines.fault_count + double_count
    lost, lost_count = _without_address(lines)
    own, own_count = _own_codes(keyring, lines)
    others, other_count = _held_elsewhere(lines, snapshot, None, label)
    _refuse([*faults, *lost, *own, *others], fault_count + lost_count + own_count + other_count)
    assert texts is not None
    with workspace.locked():
        current = load_snapshot(workspace, snapshot)
        _refuse(*_held_elsewhere(lines, current, snapshot, label))
        published = current.batch(label)
        if published is not None and _is_same(published.codes, texts, test):
            return published.codes, False
        check_unused(current.manifest, label)
        workspace.clear_aside("codes", label)
        if product is not None:
            add_product(workspace.products_path, product)
        tables = read_code_tables(workspace)
        left = next(
            (name for name, table in tables.items() if table.label == label and _is_same(table, texts, test)), None
        )
        if left is not None:
            # Written whole by an import that was killed before it could publish it.
            codes = tables[left]
        else:
            taken = {table.table for table in tables.values() if table.slot == IMPORTED_SLOT}
            number = workspace.allocate_table(label, taken=taken)
            codes = CodeTable.imported(label, number, texts, time.time_ns() // 1_000_000, test=test)
        publish_batch(workspace, codes, product, left)
    return codes, True


def _read_lines(file: BinaryIO, label: str, progress: Progress) -> _Lines:
    """Read a whole file; AssignmentError if it has no code, or too many."""
    pieces: list[NDArray[np.uint8]] = []
    parts: list[tuple[int, NDArray[np.int64] | int]] = []
    faults: list[str] = []
    line, count, fault_count = 1, 0, 0
    with progress(f"reading {label}", _size_of(file)) as advance:
        for piece in _whole_lines(file):
            rows, lines, line, more, found = read_texts(piece, line)
            faults += [f"line {number}: {fault}" for number, fault in found[: _SHOWN - len(faults)]]
            fault_count += more
            if len(rows):
                is_dense = int(lines[-1]) - int(lines[0]) == len(lines) - 1
                parts.append((count, int(lines[0]) if is_dense else lines))
                pieces.append(rows)
                count += len(rows)
            if count > IMPORTED_CODES_MAX:
                raise AssignmentError(f"more than {IMPORTED_CODES_MAX:,} codes: split the file into several batches")
            advance(len(piece))
    if not count and not fault_count:
        raise AssignmentError("there is no code in the file: expected one a line")
    whole = np.zeros((count, max((rows.shape[1] for rows in pieces), default=1)), np.uint8)
    start = 0
    while pieces:
        rows = pieces.pop(0)  # Each piece goes as soon as it is copied.
        whole[start : start + len(rows), : rows.shape[1]] = rows
        start += len(rows)
    return _Lines(whole, parts, faults, fault_count)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield pieces of a file that end with a line, the last one perhaps without its end."""
    first = file.read(_PIECE_BYTES)
    carry = b""
    for piece in chain([first.removeprefix(_BYTE_ORDER_MARK)], iter(lambda: file.read(_PIECE_BYTES), b"")):
        data = carry + piece
        end = data.rfind(b"\n") + 1
        # The rest of a line that is too long already is of no interest, however long it goes on.
        carry = data[end : end + _CARRY_BYTES_MAX]
        if end:
            yield data[:end]
    if carry:
        yield carry


def _size_of(file: BinaryIO) -> int:
    """Return the bytes of a file, 0 if that cannot be known."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0


def _index(
    lines: _Lines, key: bytes, label: str, progress: Progress
) -> tuple[CodeTexts | None, list[tuple[int, int]], int]:
    """Return the index, None if codes stand twice; the first of these with what they repeat; and how many there are."""
    count = len(lines.rows)
    if not count:
        return None, [], 0
    slots = np.zeros(count + count // 2 + 1, np.uint32)
    lengths, doubles = 0, 0
    shown: list[tuple[int, int]] = []
    with progress(f"indexing {label}", count) as advance:
        for start in range(0, count, _BLOCK_CODES):
            end = min(start + _BLOCK_CODES, count)
            found, more, pairs = fill_slots(lines.rows, slots, key, start, end)
            lengths |= found
            doubles += more
            shown += pairs[: _SHOWN - len(shown)]
            advance(end - start)
    for array in (lines.rows, slots):
        array.flags.writeable = False  # Now they are as they stay, and need no copy.
    return (None if doubles else CodeTexts(lines.rows, slots, key, lengths)), shown, doubles


def _without_address(lines: _Lines) -> tuple[list[str], int]:
    """Say which lines are ``.`` or ``..``, as a browser takes ``/s/..`` for a folder and asks for another path."""
    rows = []
    for start in range(0, len(lines.rows), _BLOCK_CODES):
        begins = lines.rows[start : start + _BLOCK_CODES, :3]
        is_short = begins[:, 2:].sum(axis=1) == 0
        rows += (np.flatnonzero(is_short & np.isin(begins[:, :2], (ord("."), 0)).all(axis=1)) + start).tolist()
    return [
        f"line {lines.line_of(row)}: only dots, which browsers leave out of an address" for row in rows[:_SHOWN]
    ], len(rows)


def _own_codes(keyring: Keyring, lines: _Lines) -> tuple[list[str], int]:
    """Say which lines are codes of this program's keys, or have one inside: a label cannot be two items.

    The keys of revoked slots count: their labels are still about, and a slot may be trusted again.
    """
    faults: list[str] = []
    count = 0
    if lines.rows.shape[1] < CODE_SYMBOLS:
        return faults, count
    keys = keyring.all_code_keys
    resolver = Resolver(keys, [], np.zeros(0, PROFILE_DTYPE), [])
    for start in range(0, len(lines.rows), _BLOCK_CODES):
        rows = lines.rows[start : start + _BLOCK_CODES]
        is_own = _are_own(resolver, rows)
        for chosen, parts in _last_parts(rows):
            is_own[chosen] |= _are_own(resolver, parts)
        for row in _encoded(rows):
            text = rows[row].tobytes().rstrip(b"\0").decode("ascii")
            is_own[row] |= keys.decode(parse(text).text)[0] == Status.VALID
        own = np.flatnonzero(is_own) + start
        count += len(own)
        faults += [f"line {lines.line_of(row)}: a code of this program" for row in own[: _SHOWN - len(faults)].tolist()]
    return faults, count


def _are_own(resolver: Resolver, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    # Without any batch a code whose tag is right is unknown.
    is_own: NDArray[np.bool_] = resolver.resolve_many(rows, *_NO_SCAN)[0] == Status.UNKNOWN
    return is_own


def _last_parts(rows: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield what stands behind the last slash of a path, where that has room for a code, and in which rows it does.

    The tag proves a code, so it does not matter which folder it stands in.
    """
    count, width = rows.shape
    flat = rows.reshape(-1)
    ends, begins = np.full(count, width), np.zeros(count, np.int64)
    # Of several in a row the one that is written last stays.
    marks = np.flatnonzero((flat == _QUERY) | (flat == _FRAGMENT))[::-1]
    ends[marks // width] = marks % width
    slashes = np.flatnonzero(flat == _SLASH)
    slashes = slashes[slashes % width < ends[slashes // width]]
    begins[slashes // width] = slashes % width + 1
    has_room = (begins > 0) & (ends - begins >= CODE_SYMBOLS)
    for begin in np.unique(begins[has_room]).tolist():
        chosen = np.flatnonzero(has_room & (begins == begin))
        parts = np.ascontiguousarray(rows[chosen, begin:])
        parts[np.arange(begin, width) >= ends[chosen, None]] = 0
        yield chosen, parts


def _encoded(rows: NDArray[np.uint8]) -> list[int]:
    """Return the rows with a text inside that has to be decoded: few, so that they may be read one by one.

    These are ``?…q=`` and, if there is a percent sign, every query and every folder of codes.
    """
    count, width = rows.shape
    flat = rows.reshape(-1)
    has_percent, has_query, has_folder, has_wrapped = (np.zeros(count, np.bool_) for _ in range(4))
    has_percent[np.flatnonzero(flat == _PERCENT) // width] = True
    has_query[np.flatnonzero(flat == _QUERY) // width] = True
    slashes = np.flatnonzero(flat == _SLASH)
    first, second, third = (flat.take(slashes + place, mode="clip") for place in (1, 2, 3))
    is_folder = ((first | 32) == ord("s")) & (second == _SLASH)
    is_folder |= (first == ord("0")) & (second == ord("1")) & (third == _SLASH)
    has_folder[slashes[is_folder] // width] = True
    if has_query.any():
        has_wrapped[np.flatnonzero((flat[:-1] == ord("q")) & (flat[1:] == ord("="))) // width] = True
    found: list[int] = np.flatnonzero((has_query & (has_percent | has_wrapped)) | (has_folder & has_percent)).tolist()
    return found


def _held_elsewhere(lines: _Lines, snapshot: Snapshot, checked: Snapshot | None, label: str) -> tuple[list[str], int]:
    """Say which lines other imported batches hold, but for those of a snapshot that were checked before."""
    faults: list[str] = []
    count = 0
    for batch in snapshot.batches:
        is_known = checked is not None and checked.batch(batch.label) is not None
        if batch.codes.texts is None or batch.label == label or is_known:
            continue
        for start in range(0, len(lines.rows), _BLOCK_CODES):
            held = (
                np.flatnonzero(batch.codes.texts.index.find_many(lines.rows[start : start + _BLOCK_CODES]) >= 0) + start
            )
            count += len(held)
            for row in held[: _SHOWN - len(faults)].tolist():
                faults.append(f"line {lines.line_of(row)}: batch {batch.label!r} holds this code")
    return faults, count


def _refuse(faults: list[str], count: int) -> None:
    if count:
        shown = "; ".join(faults[:_SHOWN]) + (f"; and {count - _SHOWN:,} more" if count > _SHOWN else "")
        raise AssignmentError(f"{count:,} bad line{'s' * (count > 1)}, nothing was imported: {shown}")


def _is_same(codes: CodeTable, texts: CodeTexts, test: bool) -> bool:
    """Tell whether a table holds the very same codes in the same order."""
    found: Any = codes.texts
    return found is not None and codes.test == test and np.array_equal(found.rows, texts.rows)
