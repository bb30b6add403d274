"""Item numbers of imported codes, up to 2**55, through both ledgers: beyond what a double holds exactly."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from helpers_ledger import Opener, RedisOpener, a_campaign, a_claim, a_look, audit_of_redis, problems_of, same_claim
from redis_servers import RedisServer
from scanengine.keys import Keyring
from scanengine.ledger import Ledger, LedgerReader, SqliteReader
from scanengine.ledger.moving import export_ledger, import_ledger
from scanengine.ledger.redis import RedisReader
from scanengine.ledger.sqlite_moving import SqliteTarget
from scanengine.model import ClaimStatus, Party

LAST = 2**55 - 1
ITEMS = [2**45 - 1, 2**45, 2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, LAST - 128, LAST - 1, LAST]
"""Neighbours that a double takes for one another, and both ends of the imported codes."""


def expect_each_item_on_its_own(ledger: Ledger) -> None:
    """Goal: neighbours are never taken for one another, by either party, by a look, or on a replay."""
    for item in ITEMS:
        for party in Party:
            receipt = ledger.claim(a_claim(item, party=party))
            assert receipt.status is ClaimStatus.AWARDED, item
            assert same_claim(ledger.claim(a_claim(item, party=party))) == same_claim(receipt)
            assert ledger.claim(a_claim(item, "bob", party=party)).status is ClaimStatus.TAKEN
        assert ledger.observe(a_look(item, counts_scan=False)).count == 2


def expect_read_back(reader: LedgerReader) -> None:
    items = [item for _, records in reader.claims() for item in records["item"].tolist()]
    assert sorted(items) == sorted(ITEMS * 2)
    assert sorted({event.item for _, event in reader.events()}) == ITEMS
    assert reader.scan_facts(LAST).count == 2


def test_an_sqlite_ledger_tells_large_items_apart(open_ledger: Opener, path: Path) -> None:
    expect_each_item_on_its_own(open_ledger())
    assert problems_of(path, a_campaign()) == []
    with SqliteReader(path) as reader:
        expect_read_back(reader)


def test_a_redis_ledger_tells_large_items_apart_and_moves_them(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str, tmp_path: Path
) -> None:
    ledger = open_redis(redis_server.url())
    expect_each_item_on_its_own(ledger)
    ledger.close()
    assert audit_of_redis(redis_server.url(), program_id, a_campaign()) == (2 * len(ITEMS), [])
    file = io.BytesIO()
    with RedisReader.open(redis_server.url(), program_id, None) as reader:
        expect_read_back(reader)
        export_ledger(reader, file.write)
    file.seek(0)
    moved = tmp_path / "moved.sqlite"
    import_ledger(file, SqliteTarget(moved, program_id), program_id, name="export")
    with SqliteReader(moved) as reader:
        expect_read_back(reader)
    assert problems_of(moved, a_campaign()) == []


@pytest.mark.parametrize("item", ITEMS)
def test_a_claim_id_is_of_its_item_alone(item: int) -> None:
    keyring = Keyring([(1, bytes(32), "active")], bytes(32), bytes(32))
    ids = {keyring.claim_id(near, party) for near in (item - 1, item) for party in Party}
    assert len(ids) == 4
