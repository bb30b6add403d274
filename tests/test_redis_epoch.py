"""A ledger that vanished is not taken for a new one: a file of the workspace remembers which one was used."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers_ledger import RedisOpener, a_claim
from redis_servers import RedisServer
from scanengine.errors import LedgerFormatError, SettingsError
from scanengine.model import ClaimStatus


@pytest.fixture
def epoch_path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.epoch"


def forget(server: RedisServer, program_id: str) -> None:
    client = server.client()
    for key in list(client.scan_iter(match="{" + program_id.partition("/")[0] + "}:*", count=10_000)):
        client.delete(key)


def test_ledger_that_vanished_is_refused_until_the_file_is_removed(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str, epoch_path: Path
) -> None:
    use = {"epoch_path": epoch_path, "durability": "unverified"}
    open_redis(redis_server.url(), **use).claim(a_claim())
    assert len(epoch_path.read_bytes().strip()) == 16
    assert open_redis(redis_server.url(), **use).claim(a_claim()).replayed
    forget(redis_server, program_id)
    with pytest.raises(LedgerFormatError, match=r"is gone: restore it from a backup, or remove .*ledger.epoch"):
        open_redis(redis_server.url(), **use)
    epoch_path.unlink()
    assert open_redis(redis_server.url(), **use).claim(a_claim()).replayed is False


def test_who_asks_for_nothing_durable_leaves_the_file_alone(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str, epoch_path: Path
) -> None:
    volatile = {"epoch_path": epoch_path, "durability": "volatile"}
    open_redis(redis_server.url(), **volatile).claim(a_claim())
    assert not epoch_path.exists()
    forget(redis_server, program_id)
    assert open_redis(redis_server.url(), **volatile).claim(a_claim()).status is ClaimStatus.AWARDED
    epoch_path.write_text("0123456789abcdef\n")
    open_redis(redis_server.url(), **volatile).claim(a_claim(2))
    assert epoch_path.read_text() == "0123456789abcdef\n"


@pytest.mark.parametrize("held", [b"", b"\n", b"0123456789ABCDEF", b"0123456789abcde", b"\xff" * 16])
def test_file_that_says_nothing_is_refused(
    held: bytes, redis_server: RedisServer, open_redis: RedisOpener, epoch_path: Path
) -> None:
    epoch_path.write_bytes(held)
    with pytest.raises(SettingsError, match="expected 16 hexadecimal digits"):
        open_redis(redis_server.url(), epoch_path=epoch_path, durability="unverified")


def test_folder_in_the_way_is_refused(redis_server: RedisServer, open_redis: RedisOpener, epoch_path: Path) -> None:
    epoch_path.mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        open_redis(redis_server.url(), epoch_path=epoch_path, durability="unverified")
