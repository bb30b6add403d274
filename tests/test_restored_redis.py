"""A Redis that was restored from an older copy of its append-only file: what was lost is found, and drawn again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import scanengine
from helpers import CODES, NOW_MS, Shop
from helpers_ledger import a_campaign, a_claim
from redis_servers import RedisServer, wait_until
from scanengine.ledger import audit
from scanengine.ledger.redis import RedisLedger, RedisReader
from scanengine.model import Answer, ClaimReply, ClaimStatus
from scanengine.program.scans import Scan
from serving import run_cli

EVERYSEC = {"appendonly": "yes", "appendfsync": "everysec"}
KEPT = 60
"""Codes claimed before the copy was made."""
SCANNED = 140


@pytest.fixture
def server(start_server: Callable[..., RedisServer]) -> RedisServer:
    return start_server(config=EVERYSEC)


@pytest.fixture
def redis_shop(shop: Shop, server: RedisServer) -> Shop:
    """The shop, whose ledger is in this Redis."""
    with open(shop.workspace.settings_path, "a") as settings:
        settings.write(f'url = "{server.url()}"\ndurability = "everysec"\n')
    return shop


def back_up(server: RedisServer, folder: Path) -> None:
    """Copy the append-only file of a running server, once all of it is in the file."""

    def is_written() -> bool:
        found = server.client().info("persistence")
        return found["aof_buffer_length"] == found["aof_rewrite_in_progress"] == 0

    wait_until(is_written, "the append-only file to be written")
    shutil.copytree(server.folder / "appendonlydir", folder)


def restore(server: RedisServer, folder: Path) -> None:
    """Put a copy back and start with it."""
    server.stop()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(folder, server.folder / "appendonlydir")
    server.restart()


def claim(shop: Shop, codes: Sequence[str], witness: Path, again: str = "") -> list[ClaimReply]:
    """Claim each code for a person of its own; the witness is told what they were."""
    scans = [Scan.of(code, f"user-of-{code[:9]}", f"visit-{code}{again}") for code in codes]
    with scanengine.open(shop.folder) as program:
        answers = program.claim_many(scans, now=NOW_MS)
    with open(witness, "ab") as file:
        file.writelines(msgspec.json.encode(answer) + b"\n" for answer in answers)
    return [reply_of(answer) for answer in answers]


def reply_of(answer: Answer) -> ClaimReply:
    assert answer.claim is not None
    assert answer.claim.status in ("awarded", "no_prize"), answer
    return answer.claim


def audited(shop: Shop, witness: Path) -> tuple[int, dict[str, Any]]:
    """Return exit code and report of the audit."""
    done = run_cli(shop.folder, "audit", "--witness", witness, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_audit_lists_what_an_older_copy_has_lost_and_a_new_scan_brings_it_back(
    redis_shop: Shop, server: RedisServer, tmp_path: Path
) -> None:
    witness, backup = tmp_path / "witness.ndjson", tmp_path / "backup"
    codes = redis_shop.codes(0, CODES)[:SCANNED]
    kept, later = codes[:KEPT], codes[KEPT:]
    before = claim(redis_shop, kept, witness)
    back_up(server, backup)
    lost = claim(redis_shop, later, witness)
    claim(redis_shop, kept[:10], witness, again=" again")
    assert {reply.status for reply in lost} == {"awarded", "no_prize"}
    assert audited(redis_shop, witness)[0] == 0

    restore(server, backup)
    code, report = audited(redis_shop, witness)
    assert code == 3
    assert report["lost"] == sorted(reply.id for reply in lost)
    assert (report["changed"], report["problems"]) == ([], [])
    assert (report["claims"], report["acknowledged"]) == (KEPT, SCANNED)

    again = claim(redis_shop, codes, witness, again=" once more")
    assert [reply.replayed for reply in again] == [True] * KEPT + [False] * len(later)
    assert [(reply.id, reply.prize) for reply in again] == [(reply.id, reply.prize) for reply in before + lost]
    code, report = audited(redis_shop, witness)
    assert (code, report["lost"], report["changed"], report["problems"]) == (0, [], [], [])


def test_a_ledger_that_stays_open_goes_on_with_what_was_restored(
    server: RedisServer, tmp_path: Path, program_id: str
) -> None:
    """It knows nothing better than the server: not which campaigns there are, nor how far the events had come."""
    spring, autumn, winter = (a_campaign(id=name, per_user=1) for name in ("spring", "autumn", "winter"))
    backup = tmp_path / "backup"
    ledger, other = (RedisLedger(server.url(), program_id, durability="everysec", outbox="keep") for _ in range(2))
    try:
        ledger.register_reader("accounts")
        kept = ledger.claim(a_claim(1, terms=spring))
        back_up(server, backup)
        lost = ledger.claim(a_claim(2, terms=autumn, drawn=1))
        assert (kept.status, lost.status) == (ClaimStatus.AWARDED, ClaimStatus.AWARDED)
        restore(server, backup)

        # Another program is the first to number a campaign that the copy does not know.
        assert other.claim(a_claim(3, terms=winter)).status == ClaimStatus.AWARDED
        assert ledger.claim(a_claim(3, terms=None, refusal="no_rule")).campaign == "winter"
        again = ledger.claim(a_claim(2, terms=autumn, drawn=1))
        assert (again.status, again.campaign, again.prize) == (lost.status, "autumn", lost.prize)
        assert ledger.claim(a_claim(1, terms=spring)).replayed
        assert other.claim(a_claim(2, terms=autumn)).campaign == "autumn"
        assert [event.campaign for event in ledger.events("accounts", 0, 10)] == ["spring", "winter", "autumn"]
        assert [totals.claims for totals in ledger.totals().campaigns] == [1, 1, 1]
    finally:
        ledger.close()
        other.close()
    with RedisReader(server.url(), program_id) as reader:
        assert audit(reader, {terms.id: terms for terms in (spring, autumn, winter)}).problems == []
