"""The code table: the native attribute of a batch, set when its codes are made.

100 million generated codes need no per-code bytes: a batch is a contiguous range of serials in one slot, and the code
of each follows from the keys. The table has no sections, only metadata:

    label         the batch's name
    slot          key slot, 0 to 31
    serial_start  first serial
    count         codes in the batch, 1 to 2**40
    created_ms    when it was made
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from scanengine.errors import TableFormatError
from scanengine.model import SERIAL_BITS, SERIALS_PER_SLOT, SLOT_COUNT
from scanengine.tables.container import KIND_CODE, open_container, write_container

_KNOWN_SECTIONS: Final[frozenset[int]] = frozenset()


class CodeTable(msgspec.Struct, frozen=True):
    """One batch of generated codes.

    Raises
    ------
    ValueError
        If the slot, the serials or the count are outside the format.
    """

    label: str
    slot: int
    serial_start: int
    count: int
    created_ms: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.slot < SLOT_COUNT:
            raise ValueError(f"slot {self.slot} is not 0 to {SLOT_COUNT - 1}")
        if not 0 <= self.serial_start < self.serial_start + self.count <= SERIALS_PER_SLOT:
            raise ValueError(f"serials {self.serial_start}+{self.count} are outside the slot's {SERIALS_PER_SLOT}")

    @property
    def item_start(self) -> int:
        """Item number of offset 0."""
        return (self.slot << SERIAL_BITS) + self.serial_start

    def write(self, path: Path) -> None:
        """Write the table; FileExistsError if there is one."""
        write_container(path, KIND_CODE, msgspec.to_builtins(self), {})

    @classmethod
    def read(cls, path: Path) -> CodeTable:
        """Read a table.

        Raises
        ------
        TableFormatError
            If the file is not a sound code table.
        """
        container = open_container(path, KIND_CODE, _KNOWN_SECTIONS)
        try:
            return msgspec.convert(container.metadata, cls)
        except msgspec.ValidationError as error:
            raise TableFormatError(f"{path}: {error}") from error
        finally:
            container.close()
