"""The code table: the native attribute of a batch, set when its codes are made or imported.

100 million generated codes need no per-code bytes: a batch is a contiguous range of serials in one slot, and the code
of each follows from the keys. Imported codes, which somebody else made, are listed, with an index that finds one by
its exact text.

    metadata    label         the batch's name
                slot          key slot, 0 to 31; 32 for imported codes
                serial_start  first serial; of imported codes the table number times 2**32
                count         codes in the batch, 1 to 2**40
                created_ms    when it was made
                test          whether its codes are for tests, and never pay
                texts         of imported codes: width, key of the index (hexadecimal), lengths
    section 2   texts, u1 (count, width), in the order of offsets, each filled up with zeros
    section 3   slots, u4: the index, see ``_imported.pxd``
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine._core import TextIndex
from scanengine.errors import TableFormatError
from scanengine.model import (
    IMPORTED_CODES_MAX,
    IMPORTED_SLOT,
    SERIAL_BITS,
    SERIALS_PER_SLOT,
    SLOT_COUNT,
    TABLE_BITS,
    TABLE_COUNT,
    TEXT_BYTES_MAX,
)
from scanengine.tables.container import KIND_CODE, Container, open_container, write_container

_SECTION_TEXTS: Final = 2
_SECTION_SLOTS: Final = 3
_KNOWN_SECTIONS: Final = frozenset((_SECTION_TEXTS, _SECTION_SLOTS))
_KEY_BYTES: Final = 16
_BLOCK_TEXTS: Final = 1 << 16


class _Layout(msgspec.Struct, frozen=True):
    width: int
    key: str
    lengths: int


class _Metadata(msgspec.Struct, frozen=True):
    label: str
    slot: int
    serial_start: int
    count: int
    created_ms: int = 0
    test: bool = False
    texts: _Layout | None = None


class CodeTexts:
    """The texts of one batch of imported codes, and the index that finds them.

    Parameters
    ----------
    rows : uint8, shape (n, w)
        Texts in the order of offsets, filled up with zeros.
    slots : uint32, shape (m,)
        The index. The index copies both arrays, unless they are read-only.
    key : bytes
        16 bytes, of the index.
    lengths : int
        Bit i tells that there are texts of i + 1 bytes.

    Raises
    ------
    ValueError
        If they do not fit together.
    """

    def __init__(self, rows: NDArray[np.uint8], slots: NDArray[np.uint32], key: bytes, lengths: int) -> None:
        self.rows = rows
        self.slots = slots
        self.key = key
        self.lengths = lengths
        self.index = TextIndex(rows, slots, key, lengths)

    def __repr__(self) -> str:
        """Show no text: each is a bearer secret."""
        return f"<CodeTexts of {len(self.rows)} codes>"

    def between(self, start: int, end: int) -> list[str]:
        """Return the texts of offsets [start, end); TableFormatError if one is none that an import takes."""
        self._check_bytes(start, end)
        width = self.rows.shape[1]
        return [text.decode("ascii") for text in self.rows[start:end].reshape(-1).view(f"S{width}").tolist()]

    def check(self) -> None:
        """Read every text and look it up; TableFormatError naming the first offset that is wrong."""
        for start in range(0, len(self.rows), _BLOCK_TEXTS):
            self._check_bytes(start, start + _BLOCK_TEXTS)
        try:
            self.index.check()
        except ValueError as error:
            raise TableFormatError(str(error)) from error

    def _check_bytes(self, start: int, end: int) -> None:
        rows = self.rows[start:end]
        is_wrong = (rows != 0) & ((rows < 0x21) | (rows > 0x7E))
        is_wrong[:, 0] |= rows[:, 0] == 0
        is_wrong[:, 1:] |= (rows[:, 1:] != 0) & (rows[:, :-1] == 0)
        if is_wrong.any():
            offset = start + int(is_wrong.any(axis=1).argmax())
            raise TableFormatError(
                f"text {offset} is not 1 to {TEXT_BYTES_MAX} printable ASCII characters: the file is damaged"
            )


@dataclass(frozen=True)
class CodeTable:
    """One batch of codes, generated or imported.

    Parameters
    ----------
    slot : int
        Key slot; ``IMPORTED_SLOT`` for imported codes, which no key makes.
    texts : CodeTexts or None
        Imported codes.
    test : bool
        Whether the codes never pay.

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
    test: bool = False
    texts: CodeTexts | None = field(default=None, compare=False, repr=False)
    _container: Container | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.texts is not None:
            if self.slot != IMPORTED_SLOT or self.serial_start % (1 << TABLE_BITS):
                raise ValueError(f"imported codes have slot {IMPORTED_SLOT} and begin a table, found slot {self.slot}")
            if not 0 <= self.table < TABLE_COUNT or not 1 <= self.count <= IMPORTED_CODES_MAX:
                raise ValueError(f"table {self.table} with {self.count} imported codes is outside the format")
            if self.texts.index.count != self.count:
                raise ValueError(f"{self.texts.index.count} texts for a batch of {self.count}")
            return
        if not 0 <= self.slot < SLOT_COUNT:
            raise ValueError(f"slot {self.slot} is not 0 to {SLOT_COUNT - 1}")
        if not 0 <= self.serial_start < self.serial_start + self.count <= SERIALS_PER_SLOT:
            raise ValueError(f"serials {self.serial_start}+{self.count} are outside the slot's {SERIALS_PER_SLOT}")

    @classmethod
    def imported(cls, label: str, table: int, texts: CodeTexts, created_ms: int, *, test: bool = False) -> CodeTable:
        """Return the table of imported codes under a table number."""
        return cls(label, IMPORTED_SLOT, table << TABLE_BITS, texts.index.count, created_ms, test, texts)

    @property
    def is_imported(self) -> bool:
        """Whether the codes were made by somebody else."""
        return self.texts is not None

    @property
    def table(self) -> int:
        """Number of a table of imported codes."""
        return self.serial_start >> TABLE_BITS

    @property
    def item_start(self) -> int:
        """Item number of offset 0."""
        return (self.slot << SERIAL_BITS) + self.serial_start

    def write(self, path: Path) -> None:
        """Write the table; FileExistsError if there is one."""
        layout, sections = None, dict[int, NDArray[Any]]()
        if self.texts is not None:
            layout = _Layout(self.texts.rows.shape[1], self.texts.key.hex(), self.texts.lengths)
            sections = {_SECTION_TEXTS: self.texts.rows, _SECTION_SLOTS: self.texts.slots.astype("<u4", copy=False)}
        facts = (self.label, self.slot, self.serial_start, self.count, self.created_ms, self.test)
        metadata = _Metadata(*facts, layout)
        # Imported codes stand in the table as they are, and a code is a bearer secret: not for everybody on a machine.
        mode = 0o444 if self.texts is None else 0o440
        write_container(path, KIND_CODE, msgspec.to_builtins(metadata), sections, mode=mode)

    @classmethod
    def read(cls, path: Path) -> CodeTable:
        """Read a table; imported codes stay mapped as long as anything refers to them.

        Raises
        ------
        TableFormatError
            If the file is not a sound code table.
        """
        container = open_container(path, KIND_CODE, _KNOWN_SECTIONS)
        texts: CodeTexts | None = None
        try:
            metadata = msgspec.convert(container.metadata, _Metadata)
            if metadata.texts is not None:
                texts = _mapped_texts(container, metadata.texts)
            facts = (metadata.label, metadata.slot, metadata.serial_start, metadata.count, metadata.created_ms)
            return cls(*facts, metadata.test, texts, None if texts is None else container)
        except (ValueError, OverflowError) as error:  # msgspec's validation errors are ValueErrors.
            raise TableFormatError(f"{path}: {error}") from error
        finally:
            if texts is None:
                container.close()

    def verify(self) -> int:
        """Check every digest, and that each imported code is found at its place; return the number of bytes read.

        Raises
        ------
        TableFormatError
            If the file is damaged.
        """
        if self._container is None:
            return 0
        size = self._container.verify()
        if self.texts is not None:
            try:
                self.texts.check()
            except TableFormatError as error:
                raise TableFormatError(f"{self._container.path}: {error}") from error
        return size


def _mapped_texts(container: Container, layout: _Layout) -> CodeTexts:
    if not 1 <= layout.width <= TEXT_BYTES_MAX:
        raise ValueError(f"texts of {layout.width} bytes, expected 1 to {TEXT_BYTES_MAX}")
    key = bytes.fromhex(layout.key)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"the key of the index has {len(key)} bytes, expected {_KEY_BYTES}")
    # A single column would come without its second dimension.
    rows = container.section(_SECTION_TEXTS, "u1", columns=layout.width).reshape(-1, layout.width)
    return CodeTexts(rows, container.section(_SECTION_SLOTS, "<u4"), key, layout.lengths)
