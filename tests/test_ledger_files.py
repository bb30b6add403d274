"""The file of the SQLite ledger: one owner, readers beside it, and files that are not what they should be."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from helpers import run_python
from helpers_ledger import NOW_MS, TIME_MS_MAX, Opener, a_claim, a_look, in_thread, problems_of
from scanengine.errors import LedgerBusyError, LedgerFormatError, LedgerUnavailableError
from scanengine.ledger import PENDING, SqliteLedger, SqliteReader
from scanengine.model import ClaimStatus, Party, ScanFacts

# One owner, and readers beside it.


def test_second_owner_is_refused_until_the_first_has_closed(open_ledger: Opener, path: Path) -> None:
    ledger = open_ledger()
    with pytest.raises(LedgerBusyError, match=r"ledger\.sqlite"):
        open_ledger()
    ledger.close()
    assert open_ledger().claim(a_claim()).status is ClaimStatus.AWARDED


def test_forked_process_cannot_use_the_ledger(ledger: SqliteLedger) -> None:
    child = os.fork()
    if child == 0:
        refusals = 0
        for call in (lambda: ledger.claim(a_claim()), ledger.totals, ledger.close):
            try:
                call()
            except LedgerUnavailableError as error:
                refusals += "after a fork" in str(error)
        os._exit(refusals)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert ledger.claim(a_claim()).unit == 1


def test_reader_sees_what_the_owner_has_committed(ledger: SqliteLedger, path: Path) -> None:
    first = ledger.claim(a_claim(1, visit="v"))
    with SqliteReader(path, "program-1") as reader:
        assert reader.recall(1, Party.CONSUMER) == replace(first, replayed=True, scan=ScanFacts(1, NOW_MS, 0))
        assert reader.recall(1, Party.CHANNEL) is None
        assert reader.recall(2, Party.CONSUMER) is None
        assert reader.scan_facts(2) == ScanFacts(0, None, 0)
        ledger.claim(a_claim(2, counts_scan=False))
        ledger.observe(a_look(1, "w", now_ms=NOW_MS + 5))
        assert reader.scan_facts(1) == ScanFacts(2, NOW_MS, 0)
        assert reader.scan_facts(2) == ScanFacts(0, None, 0)
        assert [event.item for _, event in reader.events()] == [1, 2]
        assert [event.item for _, event in reader.events(after=1)] == [2]
        assert [records["item"].tolist() for _, records in reader.claims()] == [[1, 2]]
        assert [records["number"].tolist() for _, records in reader.scans()] == [[2]]
        assert reader.campaigns() == {1: "spring"}
        assert reader.totals() == ledger.totals()


def test_snapshot_of_a_reader_stands_still(ledger: SqliteLedger, path: Path) -> None:
    ledger.claim(a_claim(1))
    with SqliteReader(path) as reader:
        with reader.snapshot():
            assert len(list(reader.events())) == 1
            ledger.claim(a_claim(2))
            assert len(list(reader.events())) == 1
        assert len(list(reader.events())) == 2


def test_reader_needs_no_owner(open_ledger: Opener, path: Path) -> None:
    ledger = open_ledger()
    ledger.claim(a_claim(1))
    ledger.close()
    with SqliteReader(path, "program-1") as reader:
        assert reader.recall(1, Party.CONSUMER) is not None
    assert open_ledger().claim(a_claim(1)).replayed


def test_reader_keeps_its_place_when_an_owner_beside_it_opens_and_closes(open_ledger: Opener, path: Path) -> None:
    """Goal: a reader holds its locks on the file, whatever else its process does with it.

    Whoever closes the ledger last removes its log; without the locks of a reader that is still there, under its feet.
    """
    open_ledger().close()
    claim = (
        "import sys\nfrom helpers_ledger import a_claim\nfrom scanengine.ledger import SqliteLedger\n"
        "ledger = SqliteLedger(sys.argv[1], 'program-1')\nledger.claim(a_claim(int(sys.argv[2])))\nledger.close()"
    )
    with SqliteReader(path, "program-1") as reader:
        for item in (1, 3):
            owner = open_ledger()
            owner.claim(a_claim(item))
            owner.close()
            run_python(claim, path, item + 1)
            assert [event.item for _, event in reader.events()] == list(range(1, item + 2))


def test_a_ledger_that_may_not_be_written_is_not_opened(
    open_ledger: Opener, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger().close()
    # As for another user than the one who runs the tests, whom no mode of a file may hold up.
    monkeypatch.setattr(os, "access", lambda file, mode: not mode & os.W_OK)
    with pytest.raises(LedgerUnavailableError, match="cannot be opened: it may not be written"):
        open_ledger()


def test_a_ledger_made_where_a_link_leads_to_is_read_by_its_owner_alone(open_ledger: Opener, tmp_path: Path) -> None:
    link, real = tmp_path / "ledger.sqlite", tmp_path / "elsewhere" / "real.sqlite"
    real.parent.mkdir()
    link.symlink_to(real)
    open_ledger(link).claim(a_claim())
    assert {file.stat().st_mode & 0o777 for file in real.parent.iterdir()} == {0o600}


def test_reader_cannot_write(ledger: SqliteLedger, path: Path) -> None:
    with SqliteReader(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM claims")


# A file that was made, and one that is gone.


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [remove, empty])
def test_ledger_that_vanished_does_not_begin_anew(
    open_ledger: Opener, path: Path, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """Goal: no prize is given a second time. Method: lose the file, be refused, restore it, be remembered."""
    ledger = open_ledger()
    first = ledger.claim(a_claim(1))
    ledger.close()
    backup = shutil.copy(path, tmp_path / "backup")
    lose(path)
    for _ in range(2):
        with pytest.raises(LedgerFormatError, match=r"missing or empty now: restore .* remove ledger\.sqlite\.lock"):
            open_ledger()
        assert not path.exists() or path.stat().st_size == 0
    shutil.copy(backup, path)
    assert open_ledger().claim(a_claim(1)) == replace(first, replayed=True)


@pytest.mark.parametrize("lose", [remove, empty])
def test_ledger_begins_anew_where_its_lock_was_removed_too(
    open_ledger: Opener, path: Path, lose: Callable[[Path], None]
) -> None:
    ledger = open_ledger()
    ledger.claim(a_claim(1))
    ledger.close()
    lose(path)
    path.with_name("ledger.sqlite.lock").unlink()
    ledger = open_ledger()
    assert ledger.totals().claims == 0
    assert not ledger.claim(a_claim(1)).replayed


def test_ledger_whose_lock_bears_no_mark_is_opened_and_marked(open_ledger: Opener, path: Path) -> None:
    ledger = open_ledger()
    ledger.claim(a_claim(1))
    ledger.close()
    path.with_name("ledger.sqlite.lock").write_bytes(b"")
    ledger = open_ledger()
    assert ledger.claim(a_claim(1)).replayed
    ledger.close()
    path.unlink()
    with pytest.raises(LedgerFormatError, match="missing or empty"):
        open_ledger()


def test_ledger_that_could_not_be_made_is_not_missed(open_ledger: Opener, path: Path) -> None:
    garbage(path)
    with pytest.raises(LedgerFormatError, match="not a database"):
        open_ledger()
    path.unlink()
    assert open_ledger().claim(a_claim(1)).unit == 1


def test_new_file_is_durable_by_name_before_it_is_said_to_be_made(
    open_ledger: Opener, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bytes]] = []
    lock = path.with_name("ledger.sqlite.lock")
    sync = os.fsync

    def fsync(file: int) -> None:
        synced.append((os.fstat(file).st_ino, lock.read_bytes()))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    open_ledger().close()
    assert synced == [(path.parent.stat().st_ino, b""), (lock.stat().st_ino, b"made\n")]
    open_ledger()
    assert len(synced) == 2


def test_owner_writes_so_that_a_commit_outlives_a_power_cut(ledger: SqliteLedger) -> None:
    found: list[object] = []
    for pragma in ("synchronous", "journal_mode"):
        in_thread(ledger, lambda pragma=pragma: found.extend(ledger._connection.execute(f"PRAGMA {pragma}").fetchone()))
    assert found == [2, "wal"]  # 2 is FULL.


# Files that are not what they should be.


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE stamps (country)")
    connection.close()


def other_program(path: Path) -> None:
    SqliteLedger(path, "program-2").close()


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def later_format(path: Path) -> None:
    SqliteLedger(path, "program-1").close()
    change(path, "PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (garbage, "not a database"),
        (other_database, "not a ledger of scanengine"),
        (other_program, "the ledger of program program-2, expected program-1"),
        (later_format, "a ledger of format 2, expected 1"),
    ],
)
def test_file_of_another_kind_is_refused(path: Path, make: Callable[[Path], None], text: str) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(LedgerFormatError, match=text):
        SqliteLedger(path, "program-1")
    with pytest.raises(LedgerFormatError, match=text):
        SqliteReader(path, "program-1")
    assert path.read_bytes() == before


def test_missing_file_is_refused_by_the_reader(path: Path) -> None:
    with pytest.raises(LedgerFormatError, match="there is no ledger"):
        SqliteReader(path)
    with pytest.raises(LedgerUnavailableError):
        SqliteLedger(path / "deeper", "program-1")
    path.mkdir()
    with pytest.raises(LedgerUnavailableError):
        SqliteLedger(path, "program-1")


LATER = "record = CAST(substr(record, 1, {0} - 1) || x'ffffffffffff0000' || substr(record, {0} + 8) AS BLOB)"
NEVER = LATER.replace("0000", "ffff")
"""Put a time after the year 9999, or one before all years, at a byte of a record."""


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("DELETE FROM claims WHERE seq = 1", "claim 1 is missing"),
        ("DELETE FROM claims WHERE seq = 2", "claim 2 is missing"),
        ("UPDATE claims SET record = x'00' WHERE seq = 2", "records of 1 to 72 bytes, expected 72"),
        ("UPDATE claims SET record = 7 WHERE seq = 2", "expected 72"),
        ("UPDATE claims SET record = zeroblob(72) WHERE seq = 2", "names campaign 0, which is missing"),
        ("DELETE FROM campaigns", "damaged"),
        ("DELETE FROM scans WHERE seq = 1", "scan 1 is missing"),
        ("UPDATE scans SET record = zeroblob(40)", "absent"),
        (f"UPDATE claims SET {LATER.format(25)} WHERE seq = 2", "claims at .* before the year 9999"),
        (f"UPDATE claims SET {NEVER.format(25)} WHERE seq = 2", "claims at -"),
        (f"UPDATE scans SET {LATER.format(17)} WHERE seq = 2", "scans at .* before the year 9999"),
        (f"UPDATE scans SET {LATER.format(25)} WHERE seq = 1", "scans at .* before the year 9999"),
        (f"INSERT OR REPLACE INTO meta VALUES ('clock_ms', {TIME_MS_MAX + 1})", "the newest time is"),
    ],
)
def test_damaged_rows_are_refused(open_ledger: Opener, path: Path, damage: str, text: str) -> None:
    ledger = open_ledger()
    ledger.claim_many([a_claim(n) for n in range(3)])
    ledger.observe(a_look(1))
    ledger.observe(a_look(2))
    ledger.close()
    change(path, damage)
    with pytest.raises(LedgerFormatError, match=text):
        open_ledger()


def test_a_claim_that_is_damaged_meanwhile_is_pending_alone(ledger: SqliteLedger, path: Path) -> None:
    ledger.claim_many([a_claim(n) for n in range(3)])
    change(path, f"UPDATE claims SET {LATER.format(25)} WHERE seq = 2")
    with SqliteReader(path, "program-1") as reader:
        with pytest.raises(LedgerFormatError, match=r"item 1 is damaged: .* before the year 9999"):
            reader.recall(1, Party.CONSUMER)
        assert reader.recall(2, Party.CONSUMER) is not None
    for item, user in ((3, "ann"), (4, "bob")):
        first, damaged, new = ledger.claim_many([a_claim(0), a_claim(1, user), a_claim(item, user)])
        assert (first.replayed, damaged, new.status) == (True, PENDING, ClaimStatus.AWARDED)
    with pytest.raises(LedgerUnavailableError):
        ledger.observe(a_look(1))


@pytest.mark.parametrize(
    "place", [0, 20, 100, 4096, 8192, b'"item":150', a_claim(150).visit_hash.to_bytes(8, "little")]
)
def test_damaged_pages_are_an_error_and_no_crash(open_ledger: Opener, path: Path, place: int | bytes) -> None:
    ledger = open_ledger()
    ledger.claim_many([a_claim(n) for n in range(200)])
    ledger.close()
    content = bytearray(path.read_bytes())
    at = content.index(place) if isinstance(place, bytes) else place
    content[at : at + 200] = b"\xa5" * len(content[at : at + 200])
    path.write_bytes(content)
    try:
        ledger = open_ledger()
        ledger.claim(a_claim(999))
    except (LedgerFormatError, LedgerUnavailableError):
        return
    # Not every page is read at once: what is damaged there is found by the audit, or when it is read.
    ledger.close()
    try:
        found = problems_of(path)
    except (LedgerFormatError, LedgerUnavailableError):
        return
    assert found
