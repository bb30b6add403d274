"""The container of all tables: what it gives back, what it refuses, how it is published."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import xxhash

from helpers import run_python
from scanengine.errors import TableClosedError, TableFormatError
from scanengine.tables import container
from scanengine.tables.codes import CodeTable
from scanengine.tables.container import (
    KIND_CODE,
    KIND_PRIZE,
    KIND_SCENE,
    open_container,
    publish_bytes,
    write_container,
)
from scanengine.tables.scenes import SceneTable

NUMBERS = np.arange(10, dtype="<u8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table with metadata, ten numbers, three bytes and six small numbers."""
    sections = {2: NUMBERS, 3: np.array([1, 2, 3], np.uint8), 9: np.arange(6, dtype="<u4").reshape(3, 2)}
    write_container(tmp_path / "t.codes", KIND_CODE, {"a": [1, "b"]}, sections)
    return tmp_path / "t.codes"


def assembled(sections: list[tuple[int, int, bytes]], **header: Any) -> bytes:
    """Write a container by its description: (section id, flags, bytes) each, and header fields that differ."""
    position = 32 + 32 * len(sections)
    directory, body = b"", b""
    for number, flags, payload in sections:
        start = (position + 7) // 8 * 8
        body += bytes(start - position) + payload
        directory += struct.pack("<IIQQQ", number, flags, start, len(payload), xxhash.xxh3_64_intdigest(payload))
        position = start + len(payload)
    fields = {"version": 1, "kind": KIND_CODE, "count": len(sections), "total": position, **header}
    head = struct.pack("<8sHHIQ", b"\x89SCAN\r\n\x1a", *fields.values())
    return head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + directory)) + directory + body


def refusal(path: Path, content: bytes | None = None, kind: int = KIND_CODE) -> str:
    if content is not None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    with pytest.raises(TableFormatError) as caught:
        open_container(path, kind, frozenset((2, 3, 9)))
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_what_was_written_is_read(path: Path) -> None:
    table = open_container(path, KIND_CODE)
    assert table.metadata == {"a": [1, "b"]}
    assert table.section(2, "<u8").tolist() == list(range(10))
    assert table.section(3, "u1").tolist() == [1, 2, 3]
    assert table.section(9, "<u4", columns=2).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert table.verify() == len(msgpack.packb({"a": [1, "b"]})) + 80 + 3 + 24


def test_the_bytes_are_those_that_are_described(path: Path) -> None:
    sections = [(1, 1, msgpack.packb({"a": [1, "b"]})), (2, 1, NUMBERS.tobytes()), (3, 1, bytes((1, 2, 3)))]
    sections.append((9, 1, np.arange(6, dtype="<u4").tobytes()))
    assert path.read_bytes() == assembled(sections)


def test_arrays_are_read_only_and_outlive_the_table(path: Path) -> None:
    table = open_container(path, KIND_CODE)
    numbers = table.section(2, "<u8")
    with pytest.raises(ValueError, match="read-only"):
        numbers[0] = 1
    table.close()
    table.close()
    path.unlink()
    assert numbers.tolist() == list(range(10))
    for use in (table.verify, lambda: table.section(2, "<u8")):
        with pytest.raises(TableClosedError, match="the table is closed"):
            use()


def test_a_section_that_is_missing_or_does_not_fit_is_named(path: Path) -> None:
    table = open_container(path, KIND_CODE)
    with pytest.raises(TableFormatError, match="section 4 is missing"):
        table.section(4, "u1")
    with pytest.raises(TableFormatError, match="section 3 has 3 bytes, expected a multiple of 8"):
        table.section(3, "<u8")
    with pytest.raises(TableFormatError, match="section 2 has 80 bytes, expected a multiple of 24"):
        table.section(2, "<u8", columns=3)


def test_unknown_sections_are_skipped_unless_they_are_required(path: Path) -> None:
    metadata = (1, 1, msgpack.packb({}))
    path.unlink()
    path.write_bytes(assembled([metadata, (77, 0, b"later"), (2, 1, NUMBERS.tobytes())]))
    table = open_container(path, KIND_CODE, frozenset((2,)))
    assert table.section(2, "<u8").tolist() == list(range(10))
    assert refusal(path, assembled([metadata, (77, 1, b"later")])).endswith(
        "needs section 77, which this release does not know: upgrade scanengine"
    )


METADATA = (1, 1, msgpack.packb({}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, expected a table of at least 32"),
        (b"\x89SCAN\r\n\x1a" + bytes(23), "31 bytes, expected a table of at least 32"),
        (b"\x89SCAN\n\x1a\0" + bytes(24), "not a scanengine table"),
        (assembled([METADATA], version=2), "format version 2, expected 1: read it with a release that knows it"),
        (assembled([METADATA], kind=KIND_SCENE), "a scene table, expected a code table"),
        (assembled([METADATA], kind=KIND_PRIZE), "a prize table, expected a code table"),
        (assembled([METADATA], kind=9), "a unknown kind 9 table, expected a code table"),
        (assembled([METADATA], total=64), "65 bytes, expected 64: the file was cut or grew"),
        (assembled([METADATA], count=0), "0 sections, expected 1 to 64 inside 65 bytes"),
        (assembled([METADATA], count=2), "2 sections, expected 1 to 64 inside 65 bytes"),
        (assembled([METADATA], count=2**32 - 1), "4294967295 sections, expected 1 to 64"),
        (assembled([METADATA, METADATA]), "section 1 is given twice"),
        (assembled([(1, 2, METADATA[2])]), "section 1 is given twice or has unknown flags 0x2"),
        (assembled([(2, 1, b"x")]), "sections end at 65 of 65 bytes, or the metadata is missing"),
        (assembled([(1, 1, b"\xc1")]), "the metadata is not MessagePack"),
        (assembled([(1, 1, b"")]), "the metadata is not MessagePack"),
        (assembled([(1, 1, b"\x81\x90\x01")]), "the metadata is not MessagePack"),
        (assembled([(1, 1, b"\x91" * 5_000)]), "the metadata is not MessagePack"),
        (assembled([METADATA])[:40] + b"\x48" + assembled([METADATA])[41:], "the directory has digest"),
        (assembled([METADATA])[:-1] + b"\x90", "section 1 has digest"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "t.codes", content)


def resealed(content: bytes, place: int, field: bytes) -> bytes:
    """Change a field of the header or directory and give it the digest that belongs to it."""
    changed = bytearray(content)
    changed[place : place + len(field)] = field
    count = struct.unpack_from("<I", changed, 12)[0]
    digest = xxhash.xxh3_64_intdigest(bytes(changed[:24] + changed[32 : 32 + 32 * count]))
    changed[24:32] = struct.pack("<Q", digest)
    return bytes(changed)


@pytest.mark.parametrize("start", [0, 32, 56, 72, 2**63, 2**64 - 8])
def test_a_section_cannot_lie_elsewhere(tmp_path: Path, start: int) -> None:
    content = resealed(assembled([METADATA]), 40, struct.pack("<Q", start))
    assert "does not follow the one before it" in refusal(tmp_path / "t", content)


@pytest.mark.parametrize("size", [2, 2**32, 2**64 - 1])
def test_a_section_cannot_reach_beyond_the_file(tmp_path: Path, size: int) -> None:
    content = resealed(assembled([METADATA]), 48, struct.pack("<Q", size))
    assert "does not follow the one before it" in refusal(tmp_path / "t", content)


def test_no_bytes_follow_the_last_section(tmp_path: Path) -> None:
    content = resealed(assembled([METADATA]) + b"x", 16, struct.pack("<Q", 66))
    assert "sections end at 65 of 66 bytes" in refusal(tmp_path / "t", content)


def test_a_gap_holds_zeros(tmp_path: Path) -> None:
    content = bytearray(assembled([METADATA, (2, 1, b"x")]))
    gap = content.index(METADATA[2], 96) + 1
    content[gap] = 1
    assert "section 2 at 104+1 does not follow the one before it" in refusal(tmp_path / "t", bytes(content))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert "not a file, expected a table" in refusal(tmp_path / "pipe")
    assert "cannot be read as a table: Is a directory" in refusal(tmp_path / "folder")
    assert "cannot be read as a table: No such file" in refusal(tmp_path / "missing")
    assert "cannot be read as a table: Too many levels" in refusal(tmp_path / "loop")
    assert "not a file" in refusal(Path("/dev/null"))
    assert "not a file" in refusal(Path("/dev/zero"))


UNREADABLE = """
import os, sys
from pathlib import Path
from scanengine.errors import TableFormatError
from scanengine.tables.codes import CodeTable
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    CodeTable.read(Path(sys.argv[1]))
except TableFormatError as error:
    print(error)
"""


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.codes"
    CodeTable("cola", 1, 0, 1).write(path)
    path.chmod(0o000)
    for folder in (path.parent, *path.parents[1:3]):
        folder.chmod(0o755)
    assert "cannot be read as a table: Permission denied" in run_python(UNREADABLE, path)


def test_large_sections_are_digested_on_demand(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(NUMBERS.tobytes())] ^= 1
    path.unlink()
    path.write_bytes(content)
    monkeypatch.setattr(container, "EAGER_DIGEST_BYTES_MAX", 79)
    table = open_container(path, KIND_CODE)
    with pytest.raises(TableFormatError, match=r"section 2 has digest [0-9a-f]{16}, expected [0-9a-f]{16}"):
        table.verify()


def test_a_published_file_is_read_only_and_never_replaced(path: Path) -> None:
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    with pytest.raises(FileExistsError):
        write_container(path, KIND_CODE, {}, {})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["t.codes"]


@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_publishing_changes_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "manifest"
    publish_bytes(path, b"old", replace=True, mode=0o644)

    def failing(*_: object) -> None:
        assert path.read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, failing)
    with pytest.raises(OSError, match="No space left"):
        publish_bytes(path, b"new", replace=True)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest"]
    publish_bytes(path, b"new", replace=True, mode=0o640)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)


def test_publishing_syncs_the_file_before_its_name_and_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(old: Path, new: Path) -> None:
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    publish_bytes(tmp_path / "manifest", b"new", replace=True)
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("table", "metadata"),
    [
        (CodeTable, {"label": "a", "slot": 32, "serial_start": 0, "count": 1}),
        (CodeTable, {"label": "a", "slot": 1, "serial_start": 0, "count": 1, "test": "yes"}),
        (CodeTable, {"label": "a", "slot": 1, "serial_start": 2**40, "count": 1}),
        (CodeTable, {"label": "a", "slot": 1, "serial_start": 0, "count": 0}),
        (CodeTable, {"label": "a", "slot": 1, "serial_start": -1, "count": 9}),
        (CodeTable, {"label": "a", "slot": 1, "serial_start": 0}),
        (CodeTable, ["a", 1, 0, 1]),
        (SceneTable, {"batch": "a", "count": -1, "generation": 1, "profiles": [{}]}),
        (SceneTable, {"batch": "a", "count": 2**64 - 1, "generation": 1, "profiles": [{}]}),
        (SceneTable, {"batch": "a", "count": 1, "generation": 1, "profiles": []}),
        (SceneTable, {"batch": "a", "count": 1, "generation": 1, "profiles": [{"state": 5}]}),
        (SceneTable, {"batch": "a", "count": 1, "generation": 1, "profiles": [{"scenes": 32}]}),
        (SceneTable, {"batch": "a", "count": 1, "generation": 1, "profiles": [{"product": "12a"}]}),
        (SceneTable, {"batch": "a", "count": 1, "generation": 1, "profiles": [{"active_until_ms": 2**63}]}),
        (SceneTable, {"batch": "a", "count": 1, "generation": 1, "profiles": [{"active_from_ms": 2**62}]}),
        (SceneTable, None),
    ],
)
def test_metadata_out_of_range_is_refused(tmp_path: Path, table: type[Any], metadata: object) -> None:
    path = tmp_path / "t"
    sections = {2: np.zeros(1, "<u8"), 3: np.zeros(1, "<u4")} if table is SceneTable else {}
    write_container(path, KIND_SCENE if table is SceneTable else KIND_CODE, metadata, sections)
    with pytest.raises(TableFormatError, match=str(path)):
        CodeTable.read(path) if table is CodeTable else SceneTable(path)
