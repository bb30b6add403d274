"""An import makes a new ledger, whole or not at all; none that was used is touched, none in use is exported."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers_ledger import (
    RedisOpener,
    a_claim,
    a_look,
    held_by,
    problems_of,
    tag_of,
)
from helpers_moving import (
    carry,
    exported_file,
    exported_redis,
    sealed,
    spring_claim,
)
from redis_servers import RedisServer
from scanengine.errors import LedgerBusyError, LedgerFormatError
from scanengine.ledger import SqliteLedger, SqliteReader
from scanengine.ledger.lines import ignore
from scanengine.ledger.moving import Target, export_ledger
from scanengine.ledger.redis import RedisReader
from scanengine.ledger.redis.moving import RedisTarget
from scanengine.ledger.sqlite_moving import SqliteTarget, at_rest
from scanengine.model import ClaimStatus

# Ledgers that are there.


def test_ledger_that_was_used_is_never_touched(
    original: bytes, redis_server: RedisServer, open_redis: RedisOpener, path: Path, program_id: str
) -> None:
    content = path.read_bytes()
    with pytest.raises(LedgerFormatError, match="this ledger was used"):
        carry(original, SqliteTarget(path, program_id), program_id)
    assert path.read_bytes() == content
    ledger = open_redis(redis_server.url())
    for use in (
        lambda: ledger.register_reader("accounts"), lambda: ledger.observe(a_look()), lambda: ledger.claim(a_claim())
    ):  # fmt: skip
        use()
        before = held_by(redis_server, program_id)
        with pytest.raises(LedgerFormatError, match="was used"):
            carry(original, RedisTarget(redis_server.url(), program_id), program_id)
        assert held_by(redis_server, program_id) == before
    assert ledger.claim(a_claim()).replayed


def test_ledger_of_another_key_is_never_touched(
    original: bytes, redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    open_redis(redis_server.url(), program_id=program_id.partition("/")[0] + "/other")
    with pytest.raises(LedgerFormatError, match=r"the ledger of program .*/other"):
        carry(original, RedisTarget(redis_server.url(), program_id), program_id)


def test_keys_without_a_ledger_are_never_touched(original: bytes, redis_server: RedisServer, program_id: str) -> None:
    redis_server.client().hset(f"{tag_of(program_id)}c:0", "1", "something")
    with pytest.raises(LedgerFormatError, match="was used"):
        carry(original, RedisTarget(redis_server.url(), program_id), program_id)
    assert list(held_by(redis_server, program_id)) == [f"{tag_of(program_id)}c:0"]


def test_ledger_that_was_opened_but_never_used_is_filled(
    original: bytes, redis_server: RedisServer, open_redis: RedisOpener, path: Path, program_id: str
) -> None:
    """Servers may wait for the import: they go on with what it brought."""
    ledger = open_redis(redis_server.url())
    ledger.announce(1)
    carry(original, RedisTarget(redis_server.url(), program_id), program_id)
    assert ledger.claim(spring_claim(1)).replayed
    other = path.with_name("other.sqlite")
    SqliteLedger(other, program_id).close()
    carry(original, SqliteTarget(other, program_id), program_id)
    assert exported_file(other) == original


def test_file_that_a_server_owns_is_left_alone(original: bytes, path: Path, program_id: str) -> None:
    other = path.with_name("other.sqlite")
    ledger = SqliteLedger(other, program_id)
    with pytest.raises(LedgerBusyError):
        carry(original, SqliteTarget(other, program_id), program_id)
    with pytest.raises(LedgerBusyError), at_rest(other):
        pass
    assert ledger.claim(a_claim()).unit == 1
    ledger.close()


# Imports that end before their end.

STEPS = 18
"""More than an import of the original takes: it has as many parts, and begins, reads back and commits."""


class StoppedError(Exception):
    """Stands for whatever ends an import."""


class Stopping:
    """A target that stops before a step."""

    def __init__(self, target: Target, step: int, stop: Callable[[], None]) -> None:
        self._target = target
        self._left = step
        self._stop = stop

    def __getattr__(self, name: str) -> object:
        if self._left == 0:
            self._stop()
        self._left -= 1
        return getattr(self._target, name)

    def __enter__(self) -> Stopping:
        self._target.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._target.__exit__(*error)


def _stop() -> None:
    raise StoppedError


@pytest.mark.parametrize("step", range(STEPS))
def test_import_that_fails_leaves_no_ledger_and_can_be_begun_again(
    original: bytes, redis_server: RedisServer, open_redis: RedisOpener, path: Path, program_id: str, step: int
) -> None:
    url, other = redis_server.url(), path.with_name("other.sqlite")
    targets: list[Target] = [RedisTarget(url, program_id), SqliteTarget(other, program_id)]
    for target in targets:
        try:
            carry(original, Stopping(target, step, _stop), program_id)
        except StoppedError:
            continue
        assert step >= STEPS - 2
    if step < STEPS - 2:
        assert [file.name for file in path.parent.glob("other*")] == ["other.sqlite.lock"]
        carry(original, SqliteTarget(other, program_id), program_id)
        if held_by(redis_server, program_id):
            with pytest.raises(LedgerFormatError, match="import into this ledger is not finished"):
                RedisReader(url, program_id)
            with pytest.raises(LedgerFormatError, match="import into this ledger is not finished"):
                open_redis(url)
        carry(original, RedisTarget(url, program_id), program_id)
    assert exported_file(other) == exported_redis(url, program_id) == original
    assert open_redis(url).claim(spring_claim(3)).replayed


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from helpers_moving import carry
from test_ledger_imports import Stopping
from scanengine.ledger.redis.moving import RedisTarget
from scanengine.ledger.sqlite_moving import SqliteTarget
from pathlib import Path

where, program_id, step = sys.argv[2:5]
target = RedisTarget(where, program_id) if "://" in where else SqliteTarget(Path(where), program_id)
carry(sys.stdin.buffer.read(), Stopping(target, int(step), lambda: os.kill(os.getpid(), signal.SIGKILL)), program_id)
"""


@pytest.mark.parametrize("step", [1, 13, 15])
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_import_that_is_killed_can_be_begun_again(
    kind: str, step: int, original: bytes, redis_server: RedisServer, path: Path, program_id: str
) -> None:
    other = path.with_name("other.sqlite")
    where = redis_server.url() if kind == "redis" else str(other)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), where, program_id, str(step)],
        input=original, check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not other.exists()
    if kind == "redis":
        carry(original, RedisTarget(where, program_id), program_id)
        assert exported_redis(where, program_id) == original
    else:
        carry(original, SqliteTarget(other, program_id), program_id)
        assert exported_file(other) == original
        assert sorted(file.name for file in path.parent.glob("other*")) == ["other.sqlite", "other.sqlite.lock"]


def test_servers_refuse_claims_while_an_import_goes_on(
    original: bytes, redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_server.url(), timeout_s=0.5)
    told: list[object] = []

    def claim() -> None:
        told.append(ledger.claim(a_claim(77)))

    class Watched(Stopping):
        def __getattr__(self, name: str) -> object:
            if name == "reader":
                claim()
            return super().__getattr__(name)

    carry(original, Watched(RedisTarget(redis_server.url(), program_id), 99, _stop), program_id)
    assert [receipt.status for receipt in told] == [ClaimStatus.PENDING]
    assert exported_redis(redis_server.url(), program_id) == original


def test_one_import_gives_way_to_another(original: bytes, redis_server: RedisServer, program_id: str) -> None:
    url = redis_server.url()

    class Overtaken(Stopping):
        def __getattr__(self, name: str) -> object:
            if name == "reader":
                carry(original, RedisTarget(url, program_id), program_id)
            return super().__getattr__(name)

    with pytest.raises((LedgerBusyError, LedgerFormatError)):
        carry(original, Overtaken(RedisTarget(url, program_id), 99, _stop), program_id)
    assert exported_redis(url, program_id) == original


def test_what_reads_back_differently_is_not_committed(
    original: bytes, redis_server: RedisServer, path: Path, program_id: str
) -> None:
    url, other = redis_server.url(), path.with_name("other.sqlite")

    class Spoilt(Stopping):
        def __getattr__(self, name: str) -> object:
            if name == "reader":
                redis_server.client().hset(f"{tag_of(program_id)}readers", "payouts", 99)
            return super().__getattr__(name)

    with pytest.raises(LedgerFormatError, match="read back as"):
        carry(original, Spoilt(RedisTarget(url, program_id), 99, _stop), program_id)
    with pytest.raises(LedgerFormatError, match="not finished"):
        RedisReader(url, program_id)
    lines = original.splitlines(keepends=True)[:-1]
    spaced = sealed([line.replace(b",", b", ", 1) for line in lines])
    with pytest.raises(LedgerFormatError, match="read back as"):
        carry(spaced, SqliteTarget(other, program_id), program_id)
    assert not other.exists()


# Exports of what is in use, or damaged.


@pytest.fixture
def busy(redis_server: RedisServer, open_redis: RedisOpener) -> Callable[[], None]:
    """A ledger of 3,000 claims; calling it claims once more."""
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    ledger.claim_many([a_claim(item) for item in range(3_000)])
    items = iter(range(10_000, 20_000))

    def claim() -> None:
        assert ledger.claim(a_claim(next(items))).status is ClaimStatus.AWARDED

    return claim


def test_export_of_a_ledger_in_use_says_so_and_is_of_one_moment_if_asked(
    redis_server: RedisServer, busy: Callable[[], None], program_id: str, path: Path
) -> None:
    pieces: list[bytes] = []

    def write(piece: bytes) -> None:
        pieces.append(piece)
        busy()

    with RedisReader(redis_server.url(), program_id) as reader:
        with pytest.raises(LedgerBusyError, match="was used while it was read"):
            export_ledger(reader, write)
        assert not b"".join(pieces).splitlines()[-1].startswith(b'{"lines"')
        pieces.clear()
        done = export_ledger(reader, write, is_live=True)
        assert reader.marks().claims > done.marks.claims
    carry(b"".join(pieces), SqliteTarget(path, program_id), program_id)
    assert problems_of(path) == []


def test_events_that_are_acknowledged_under_an_export_end_it(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    ledger.claim_many([a_claim(item) for item in range(5_000)])
    with RedisReader(redis_server.url(), program_id) as reader, pytest.raises(LedgerBusyError, match="acknowledged"):
        export_ledger(reader, lambda _: ledger.ack("accounts", 4_900), is_live=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM claims WHERE seq = 4", "claim 4 is missing"),
        ("DELETE FROM scans WHERE seq = 2", "scan 2 is missing"),
        ("DELETE FROM events WHERE seq = 11", "event 11 is missing"),
    ],
)
def test_damaged_ledger_is_not_exported(original: bytes, path: Path, damage: str, message: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    with SqliteReader(path) as reader, pytest.raises((LedgerFormatError, LedgerBusyError), match=message):
        export_ledger(reader, ignore)
