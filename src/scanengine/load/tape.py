"""The tape: one file that a client process plays, and in which it notes what came of each request.

    | requests: n x width bytes | due | sent | answered | status | start | size : n x i8 each | lag: slots x i8 |

The requests are made before the clock starts and all have the same length, so that the client does nothing but hand
slices to the system. Bodies of replies go to a second file when the clock has stopped; `start` and `size` find them.
Both sides map the file, so nothing is copied, and whoever watches sees the run as it goes.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Final

import msgspec

COLUMNS: Final = ("due", "sent", "answered", "status", "start", "size")
LOST, TIMED_OUT, BROKEN = -1, -2, -3
"""In `status` instead of an HTTP status: the connection ended, no reply in time, bytes that are no reply."""
SLOT_NS: Final = 10_000_000
"""Time that one slot of `lag` stands for, nanoseconds."""
_NUMBER_BYTES: Final = 8


class Layout(msgspec.Struct, frozen=True):
    """Where everything is on a tape.

    Parameters
    ----------
    count, width : int
        Requests, and bytes of each.
    slots : int
        How many times `SLOT_NS` the generator's lag is noted for.
    """

    count: int
    width: int
    slots: int

    def place(self, column: str) -> tuple[int, int]:
        """Return first byte and number of entries of a column."""
        start = -(-self.count * self.width // _NUMBER_BYTES) * _NUMBER_BYTES
        if column == "lag":
            return start + len(COLUMNS) * self.count * _NUMBER_BYTES, self.slots
        return start + COLUMNS.index(column) * self.count * _NUMBER_BYTES, self.count

    @property
    def size(self) -> int:
        """Bytes of the file."""
        start, slots = self.place("lag")
        return start + slots * _NUMBER_BYTES


class Tape:
    """One tape, mapped; only its owner can read the file, as it holds codes and perhaps a token."""

    def __init__(self, path: Path, layout: Layout, *, is_new: bool = False) -> None:
        self.path = path
        self.layout = layout
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if is_new else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if is_new:
                # Room now or an error now: a mapped page without room would end the process.
                reserve = getattr(os, "posix_fallocate", lambda number, _, size: os.ftruncate(number, size))
                reserve(descriptor, 0, layout.size)
            self._map = mmap.mmap(descriptor, layout.size)
        finally:
            os.close(descriptor)
        self.view = memoryview(self._map)

    @property
    def replies_path(self) -> Path:
        """Where the bodies of the replies are put."""
        return self.path.with_name(self.path.name + ".replies")

    def column(self, name: str) -> memoryview[Any]:
        """Return a column as 64-bit integers that can be read and written."""
        start, entries = self.layout.place(name)
        return self.view[start : start + entries * _NUMBER_BYTES].cast("q")

    @property
    def requests(self) -> memoryview[Any]:
        """All requests, one after the other."""
        return self.view[: self.layout.count * self.layout.width]
