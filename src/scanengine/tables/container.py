"""The container that every table file uses: write once, check once, map.

    offset  bytes
         0      8   magic  89 'S' 'C' 'A' 'N' 0D 0A 1A   (text tools that mangle line ends break it at once)
         8      2   format version, 1
        10      2   kind: 1 code, 2 scene, 3 prize
        12      4   section count
        16      8   total bytes of the file
        24      8   XXH3-64 of bytes [0, 24) and of the directory
        32   32*n   directory: section id u4, flags u4 (bit 0: required), offset u8, bytes u8, XXH3-64 u8
                    sections, each at a multiple of 8, gaps filled with zeros

All integers are little-endian. Section 1 is the metadata, MessagePack. A reader skips sections it does not know unless
they are marked required, so later kinds of data need no new version.

Opening checks the header, the directory, every bound, the gaps, and the digest of each section of at most
``EAGER_DIGEST_BYTES_MAX``; larger sections are digested by :meth:`Container.verify`. What the bytes mean is checked by
the module of each kind. A damaged file is a ``TableFormatError``. Damage done to a file after it was mapped is outside
the promise: truncating a mapped file in place kills the reader with SIGBUS, so published files are read-only (0444),
written aside, synced and renamed, and never changed in place.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from scanengine.errors import TableClosedError, TableFormatError

MAGIC: Final = b"\x89SCAN\r\n\x1a"
FORMAT_VERSION: Final = 1
KIND_CODE: Final = 1
KIND_SCENE: Final = 2
KIND_PRIZE: Final = 3
KIND_NAMES: Final = {KIND_CODE: "code", KIND_SCENE: "scene", KIND_PRIZE: "prize"}
SECTION_METADATA: Final = 1
FLAG_REQUIRED: Final = 1
SECTIONS_MAX: Final = 64
EAGER_DIGEST_BYTES_MAX: Final = 64 << 20
"""64 MiB digest in some 10 ms on one core (XXH3, 2026); an index beyond that would be felt at every start."""

_HEADER: Final = struct.Struct("<8sHHIQQ")
_ENTRY: Final = struct.Struct("<IIQQQ")


def _aligned(position: int) -> int:
    return (position + 7) & ~7


def write_container(
    path: Path, kind: int, metadata: object, sections: Mapping[int, NDArray[Any]], *, mode: int = 0o444
) -> None:
    """Write one table file durably and atomically.

    Parameters
    ----------
    path : Path
        Must not exist: a published file is never changed.
    kind : int
        One of the ``KIND_`` constants.
    metadata : object
        Anything MessagePack can carry.
    sections : mapping of section id (2 and up) to array
        Written in this order, marked required.
    mode : int
        Who may read the file.

    Raises
    ------
    FileExistsError
        If `path` exists.
    """
    payloads = {SECTION_METADATA: memoryview(msgpack.packb(metadata))}
    # Views, not copies: a table of imported codes may be most of what the memory holds.
    for number, array in sections.items():
        payloads[number] = np.ascontiguousarray(array).view("u1").ravel().data
    position = _HEADER.size + _ENTRY.size * len(payloads)
    directory = bytearray()
    body: list[bytes | memoryview] = []
    for number, payload in payloads.items():
        start = _aligned(position)
        body += [bytes(start - position), payload]
        directory += _ENTRY.pack(number, FLAG_REQUIRED, start, len(payload), xxhash.xxh3_64_intdigest(payload))
        position = start + len(payload)
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, kind, len(payloads), position, 0)
    digest = xxhash.xxh3_64_intdigest(header[:24] + bytes(directory))
    publish_pieces(path, [header[:24], struct.pack("<Q", digest), bytes(directory), *body], replace=False, mode=mode)


def publish_bytes(path: Path, content: bytes, *, replace: bool, mode: int = 0o444) -> None:
    """Do :func:`publish_pieces` with a file's whole content."""
    publish_pieces(path, [content], replace=replace, mode=mode)


def publish_pieces(path: Path, pieces: Iterable[bytes | memoryview], *, replace: bool, mode: int = 0o444) -> None:
    """Write aside, sync, then rename (or link, if nothing may be replaced) and sync the folder.

    After a crash the path holds the old content or the new, never a mixture.

    Raises
    ------
    FileExistsError
        If `path` exists and `replace` is false.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if replace:
            os.replace(aside, path)
        else:
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Container:
    """One mapped table file and the only owner of the mapping.

    Arrays from :meth:`section` borrow from it; while any is alive the mapping stays, also after :meth:`close`.
    """

    def __init__(self, path: Path, mapping: mmap.mmap, entries: dict[int, tuple[int, int, int]]) -> None:
        self.path = path
        self._mapping: mmap.mmap | None = mapping
        self._entries = entries
        self.metadata: Any = None

    def section(self, number: int, dtype: DTypeLike, *, columns: int = 1) -> NDArray[Any]:
        """Return a section as a read-only array over the mapping.

        Parameters
        ----------
        number : int
            Section id.
        dtype : data type
            Little-endian record type.
        columns : int
            With more than 1 the result has shape (n, columns), else (n,).

        Raises
        ------
        TableFormatError
            If the section is missing or its size is not a whole number of rows.
        TableClosedError
            If the container is closed.
        """
        if self._mapping is None:
            raise TableClosedError(f"{self.path}: the table is closed")
        if number not in self._entries:
            raise TableFormatError(f"{self.path}: section {number} is missing")
        start, size, _ = self._entries[number]
        row_bytes = np.dtype(dtype).itemsize * columns
        if size % row_bytes:
            raise TableFormatError(
                f"{self.path}: section {number} has {size} bytes, expected a multiple of {row_bytes}"
            )
        array = np.frombuffer(self._mapping, dtype=dtype, count=size // np.dtype(dtype).itemsize, offset=start)
        return array.reshape(-1, columns) if columns > 1 else array

    def verify(self, size_max: int | None = None) -> int:
        """Check the digest of every section, or of those of at most `size_max` bytes; return the bytes read.

        Raises
        ------
        TableFormatError
            Naming the first section whose bytes are not those that were written.
        TableClosedError
            If the container is closed.
        """
        if self._mapping is None:
            raise TableClosedError(f"{self.path}: the table is closed")
        total = 0
        with memoryview(self._mapping) as view:
            for number, (start, size, digest) in self._entries.items():
                if size_max is not None and size > size_max:
                    continue
                found = xxhash.xxh3_64_intdigest(view[start : start + size])
                if found != digest:
                    raise TableFormatError(
                        f"{self.path}: section {number} has digest {found:016x}, expected {digest:016x}: "
                        "the file is damaged"
                    )
                total += size
        return total

    def close(self) -> None:
        """Let go of the mapping; it is unmapped when the last borrowed array is gone. May be called twice."""
        self._mapping = None


def open_container(path: Path, kind: int, known: frozenset[int] | None = None) -> Container:
    """Map a table file and check all of its structure.

    Parameters
    ----------
    known : frozenset of int, optional
        Ids of the sections the caller understands; others are skipped unless marked required.

    Raises
    ------
    TableFormatError
        If the file is not a table of this kind, version and length, or is damaged.
    """
    try:
        # Without O_NONBLOCK a pipe in the place of a table would wait for its writer for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise TableFormatError(f"{path}: not a file, expected a table")
            if size < _HEADER.size:
                raise TableFormatError(f"{path}: {size} bytes, expected a table of at least {_HEADER.size}")
            mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise TableFormatError(f"{path}: cannot be read as a table: {error.strerror}") from error
    container = Container(path, mapping, _checked_directory(path, mapping, kind, known))
    container.verify(EAGER_DIGEST_BYTES_MAX)
    packed = container.section(SECTION_METADATA, "u1").tobytes()
    try:
        container.metadata = msgpack.unpackb(packed, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise TableFormatError(f"{path}: the metadata is not MessagePack") from error
    return container


def _checked_directory(
    path: Path, mapping: mmap.mmap, kind: int, known: frozenset[int] | None
) -> dict[int, tuple[int, int, int]]:
    """Return section id -> (offset, bytes, digest) after checking every byte that is not inside a section."""
    magic, version, found_kind, count, total, digest = _HEADER.unpack_from(mapping)
    if magic != MAGIC:
        raise TableFormatError(f"{path}: not a scanengine table (it begins {magic!r}, expected {MAGIC!r})")
    if version != FORMAT_VERSION:
        raise TableFormatError(
            f"{path}: format version {version}, expected {FORMAT_VERSION}: read it with a release that knows it"
        )
    if found_kind != kind:
        found = KIND_NAMES.get(found_kind, f"unknown kind {found_kind}")
        raise TableFormatError(f"{path}: a {found} table, expected a {KIND_NAMES[kind]} table")
    if total != len(mapping):
        raise TableFormatError(f"{path}: {len(mapping)} bytes, expected {total}: the file was cut or grew")
    position = _HEADER.size + _ENTRY.size * count
    if not 1 <= count <= SECTIONS_MAX or position > total:
        raise TableFormatError(f"{path}: {count} sections, expected 1 to {SECTIONS_MAX} inside {total} bytes")
    found_digest = xxhash.xxh3_64_intdigest(mapping[:24] + mapping[_HEADER.size : position])
    if found_digest != digest:
        raise TableFormatError(
            f"{path}: the directory has digest {found_digest:016x}, expected {digest:016x}: the file is damaged"
        )
    entries: dict[int, tuple[int, int, int]] = {}
    for index in range(count):
        number, flags, start, size, section_digest = _ENTRY.unpack_from(mapping, _HEADER.size + _ENTRY.size * index)
        if start != _aligned(position) or size > total - start or any(mapping[position:start]):
            raise TableFormatError(f"{path}: section {number} at {start}+{size} does not follow the one before it")
        if number in entries or flags & ~FLAG_REQUIRED:
            raise TableFormatError(f"{path}: section {number} is given twice or has unknown flags {flags:#x}")
        if known is not None and number not in known | {SECTION_METADATA} and flags & FLAG_REQUIRED:
            raise TableFormatError(
                f"{path}: needs section {number}, which this release does not know: upgrade scanengine"
            )
        entries[number] = (start, size, section_digest)
        position = start + size
    if position != total or SECTION_METADATA not in entries:
        raise TableFormatError(f"{path}: sections end at {position} of {total} bytes, or the metadata is missing")
    return entries
