"""Codes for the printer, streamed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np

from scanengine.codes import code_url
from scanengine.errors import AssignmentError
from scanengine.keys import Keyring
from scanengine.model import CODE_SYMBOLS
from scanengine.tables.codes import CodeTable, CodeTexts

ExportFormat = Literal["csv", "ndjson", "text"]
_EXPORT_ROWS: Final = 65_536
_NEWLINE: Final = 10


def export_codes(
    keyring: Keyring, codes: CodeTable, start: int, end: int, form: ExportFormat, base_url: str
) -> Iterator[tuple[int, bytes]]:
    """Yield the codes of offsets [start, end) for the printer, in pieces of (rows, bytes).

    ``text`` is one code a line; ``csv`` has the header ``offset,code,url``; ``ndjson`` one object a line. Imported
    codes have no URL of ours: what is printed is the code itself.

    Raises
    ------
    AssignmentError
        If the range is empty or leaves the batch, or the slot's keys are gone.
    """
    if not 0 <= start < end <= codes.count:
        raise AssignmentError(f"range {start}:{end} is empty or outside the batch, which has offsets 0:{codes.count}")
    if not codes.is_imported and keyring.slot_states.get(codes.slot) in (None, "revoked"):
        raise AssignmentError(f"slot {codes.slot} of batch {codes.label!r} has no usable keys in keys.toml")
    if form == "csv":
        yield 0, b"offset,code,url\n"
    for first in range(start, end, _EXPORT_ROWS):
        count = min(_EXPORT_ROWS, end - first)
        if codes.texts is not None:
            yield count, _imported_lines(codes.texts, first, first + count, form).encode()
            continue
        letters = keyring.code_keys.encode_many(codes.slot, codes.serial_start + first, count)
        if form == "text":
            yield count, np.pad(letters, ((0, 0), (0, 1)), constant_values=_NEWLINE).tobytes()
            continue
        prefix = code_url(base_url, "")
        rows = letters.tobytes().decode()
        pairs = [(first + row, rows[row * CODE_SYMBOLS : (row + 1) * CODE_SYMBOLS]) for row in range(count)]
        if form == "csv":
            text = "".join([f"{offset},{code},{prefix}{code}\n" for offset, code in pairs])
        else:
            url = json.dumps(prefix)[:-1]
            text = "".join([f'{{"offset":{offset},"code":"{code}","url":{url}{code}"}}\n' for offset, code in pairs])
        yield count, text.encode()


def _imported_lines(texts: CodeTexts, start: int, end: int, form: ExportFormat) -> str:
    rows = texts.between(start, end)
    if form == "text":
        return "".join([f"{text}\n" for text in rows])
    lines = io.StringIO()
    if form == "csv":
        csv.writer(lines, lineterminator="\n").writerows((offset, text, "") for offset, text in enumerate(rows, start))
    else:
        lines.writelines(
            json.dumps({"offset": offset, "code": text, "url": None}, separators=(",", ":")) + "\n"
            for offset, text in enumerate(rows, start)
        )
    return lines.getvalue()


def write_export(path: Path, pieces: Iterator[tuple[int, bytes]], advance: Callable[[int], None]) -> None:
    """Write exported codes to a new file that only its owner can read; a failed export leaves none.

    Raises
    ------
    FileExistsError
        If there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            for count, piece in pieces:
                file.write(piece)
                advance(count)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
