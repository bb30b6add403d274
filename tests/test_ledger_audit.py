"""The audit finds what does not agree, and names it; a sound ledger has no problems."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers_ledger import DATE, NOW_MS, a_campaign, a_claim, a_look
from scanengine.ledger import AuditReport, SqliteLedger, SqliteReader, audit
from scanengine.ledger.records import CLAIM_DTYPE, CLAIM_STRUCT, ClaimRecord
from scanengine.model import NO_PRIZE, Adjustment, CampaignTerms, Party, PrizeTerms

TERMS = a_campaign(
    (PrizeTerms(0, money=10, stock=5, stock_per_day=4, fallback=1), PrizeTerms(1)),
    per_user=6, per_user_per_day=5, budget_total=50, budget_per_day=40,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of 12 claims: items 1 to 12, two persons, two days, both parties, some visits without a claim."""
    path = tmp_path / "ledger.sqlite"
    ledger = SqliteLedger(path, "program-1")
    ledger.register_reader("accounts")
    for item in range(1, 13):
        user = "ann" if item % 2 else "bob"
        day = (item - 1) // 8
        party = Party.CHANNEL if item > 10 else Party.CONSUMER
        ledger.claim(a_claim(item, user, terms=TERMS, local_date=DATE + day, now_ms=NOW_MS + item, party=party))
        ledger.observe(a_look(item, "w"))
    ledger.claim(a_claim(13, "cid", terms=a_campaign(id="autumn"), drawn=NO_PRIZE))
    ledger.close()
    return path


def examine(path: Path, terms: CampaignTerms = TERMS) -> AuditReport:
    with SqliteReader(path) as reader:
        return audit(reader, {"spring": terms})


def change(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def change_claim(path: Path, seq: int, **fields: int) -> None:
    with sqlite3.connect(path) as connection:
        packed = connection.execute("SELECT record FROM claims WHERE seq = ?", (seq,)).fetchone()[0]
    connection.close()
    record = ClaimRecord._make(CLAIM_STRUCT.unpack(packed))._replace(**fields)
    change(path, "UPDATE claims SET record = ? WHERE seq = ?", CLAIM_STRUCT.pack(*record), seq)


def test_sound_ledger_has_no_problems(path: Path) -> None:
    assert examine(path) == AuditReport(claims=13, scans=12, events=13, counters=14, problems=[])


def test_empty_ledger_has_no_problems(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "ledger.sqlite", "program-1").close()
    assert examine(tmp_path / "ledger.sqlite") == AuditReport(0, 0, 0, 0, [])


def test_running_ledger_can_be_audited(path: Path) -> None:
    ledger = SqliteLedger(path, "program-1")
    ledger.claim(a_claim(14, "dan", terms=TERMS, now_ms=NOW_MS + 50, local_date=DATE + 1))
    assert (examine(path).claims, examine(path).problems) == (14, [])
    ledger.close()


@pytest.mark.parametrize("up_to", [1, 6, 13])
def test_trimmed_events_are_not_missed(path: Path, up_to: int) -> None:
    ledger = SqliteLedger(path, "program-1", scan_events=True)
    ledger.observe(a_look(77))
    ledger.ack("accounts", up_to)
    ledger.close()
    report = examine(path)
    assert (report.events, report.problems) == (14 - up_to, [])


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM events WHERE seq = 5", "claim 5: item 5 has no event"),
        ("DELETE FROM events WHERE seq = 13", "claim 13: item 13 has no event"),
        ("UPDATE events SET claim = 6 WHERE seq = 5", "claim 6: has more than one event"),
        ("UPDATE events SET claim = 99 WHERE seq = 13", "claim 99: there is an event, but no such claim without one"),
        (
            "UPDATE events SET body = replace(body, '\"prize\":0', '\"prize\":1') WHERE seq = 2",
            "claim 2: item 2: the event says prize 1, the record 0",
        ),
        (
            "UPDATE events SET body = replace(body, '\"unit\":3', '\"unit\":9') WHERE seq = 3",
            "claim 3: item 3: the event says unit 9, the record 3",
        ),
        (
            "UPDATE counters SET value = 4 WHERE campaign = 1 AND kind = 2 AND number = 0 AND date = 0",
            "campaign spring: counter of awards of prize 0 in all holds 4, the records say 5",
        ),
        (
            f"UPDATE counters SET value = 99 WHERE campaign = 1 AND kind = 3 AND date = {DATE}",
            f"campaign spring: counter of money on date {DATE} holds 99, the records say 40",
        ),
        (
            "DELETE FROM counters WHERE campaign = 2 AND kind = 1 AND date = 0",
            "campaign autumn: counter of claims in all holds 0, the records say 1",
        ),
        (
            "INSERT INTO counters VALUES (1, 2, 9, 0, 7)",
            "campaign spring: counter of awards of prize 9 in all holds 7, the records say 0",
        ),
        ("DELETE FROM claims WHERE seq = 4", "claim 4: the record is missing"),
        (
            "INSERT INTO claims SELECT 14, record FROM claims WHERE seq = 3",
            "claim 14: item 3 party 0 has an earlier claim",
        ),
        ("DELETE FROM scans WHERE seq = 4", "scan 4: the record is missing"),
        (
            "INSERT INTO scans SELECT 13, record FROM scans WHERE seq = 4",
            "item 4: its scans are not numbered 1, 2, 3 and so on",
        ),
        ("INSERT INTO scans SELECT 13, record FROM scans WHERE seq = 4", "item 4: one visit is counted twice"),
        ("DELETE FROM campaigns WHERE number = 2", "campaign 2: has claims, but is not in the table of campaigns"),
        ("UPDATE meta SET value = 13 WHERE key = 'generation'", None),
    ],
)
def test_planted_fault_is_found_and_named(path: Path, statement: str, problem: str | None) -> None:
    if "campaigns" in statement:
        change(path, "DELETE FROM counters WHERE campaign = 2")
    change(path, statement)
    problems = examine(path).problems
    assert problem in problems if problem else problems == []


@pytest.mark.parametrize(
    ("seq", "fields", "problem"),
    [
        (3, {"unit": 7}, "claim 3: item 3 campaign spring prize 0: unit is 7, expected 3"),
        (
            5,
            {"person_total": 9},
            "claim 5: item 5 campaign spring prize 1: number of the person's claims is 9, expected 3",
        ),
        (
            5,
            {"person_day": 1},
            "claim 5: item 5 campaign spring prize 1: number of the person's claims of the day is 1, expected 3",
        ),
        (5, {"money": 3}, "campaign spring: counter of money in all holds 50, the records say 53"),
        (6, {"at_ms": 1}, "claim 6: item 6 was recorded at an earlier time than the claim before it"),
        (10, {"local_date": DATE}, "claim 10: item 10 has an earlier local date than the claim before it"),
        (13, {"unit": 1}, "claim 13: item 13 has no prize, but a unit or money"),
        (7, {"item": 6}, "claim 7: item 6 party 0 has an earlier claim"),
    ],
)
def test_changed_record_is_found_and_named(path: Path, seq: int, fields: dict[str, int], problem: str) -> None:
    change_claim(path, seq, **fields)
    assert problem in examine(path).problems


def test_limits_that_were_exceeded_are_named(path: Path) -> None:
    tight = a_campaign(
        (PrizeTerms(0, money=10, stock=4, stock_per_day=3), PrizeTerms(1, stock=6)),
        per_user=5, per_user_per_day=3, budget_total=40, budget_per_day=30,
    )  # fmt: skip
    problems = examine(path, tight).problems
    assert problems == [
        "campaign spring: awards of prize 0 in all is 5, over the limit of 4",
        f"campaign spring: awards of prize 0 on date {DATE} is 4, over the limit of 3",
        "campaign spring: awards of prize 1 in all is 7, over the limit of 6",
        "campaign spring: money in all is 50, over the limit of 40",
        f"campaign spring: money on date {DATE} is 40, over the limit of 30",
        "campaign spring: item 11 is claim 6 of one person in all, over the limit of 5",
        "campaign spring: item 12 is claim 6 of one person in all, over the limit of 5",
        "campaign spring: item 7 is claim 4 of one person on one day, over the limit of 3",
        "campaign spring: item 8 is claim 4 of one person on one day, over the limit of 3",
    ]


def test_adjustments_raise_the_limits(path: Path) -> None:
    ledger = SqliteLedger(path, "program-1")
    ledger.adjust(Adjustment("a", "spring", "stock", prize=0, amount=1))
    ledger.adjust(Adjustment("b", "spring", "budget", amount=10))
    ledger.close()
    tight = a_campaign((PrizeTerms(0, money=10, stock=4),), budget_total=40)
    assert examine(path, tight).problems == []


def test_long_lists_of_problems_are_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = SqliteLedger(path, "program-1")
    ledger.claim_many([a_claim(item) for item in range(60)])
    ledger.close()
    change(path, "DELETE FROM events WHERE seq > 10")
    problems = examine(path, a_campaign()).problems
    assert len(problems) == 21
    assert problems[-1] == "... and 30 more like the last one"


def test_record_and_dtype_have_the_same_layout() -> None:
    record = ClaimRecord(*range(1, 17))
    packed = CLAIM_STRUCT.pack(*record)
    read = np.frombuffer(packed, CLAIM_DTYPE)[0]
    assert read.tolist() == tuple(record)
    assert CLAIM_DTYPE.names == ClaimRecord._fields
    assert len(packed) == 72
    with pytest.raises(struct.error):
        CLAIM_STRUCT.unpack(packed[1:])


# Killed at any moment.

WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from helpers_ledger import a_campaign, a_claim, a_look
from scanengine.ledger import SqliteLedger
from scanengine.model import PrizeTerms

TERMS = a_campaign((PrizeTerms(0, money=1, stock=700, fallback=1), PrizeTerms(1)), budget_total=650)

async def main():
    ledger = SqliteLedger(sys.argv[2], "program-1")
    start = int(sys.argv[3])
    async def caller(n):
        for item in range(start + n, start + 1_000_000, 16):
            receipt = await ledger.claim_async(a_claim(item, f"user{item % 7}", terms=TERMS))
            sys.stdout.write(f"{item} {receipt.prize} {receipt.unit} {receipt.at_ms} {receipt.status}\\n")
            sys.stdout.flush()
            await ledger.observe_async(a_look(item, "w"))
    await asyncio.gather(*(caller(n) for n in range(16)))

asyncio.run(main())
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """Goal: a reply means durable. Method: kill a writer at a random moment, open again, compare, five times."""
    path = tmp_path / "ledger.sqlite"
    moments = random.Random(20260301)
    terms = a_campaign((PrizeTerms(0, money=1, stock=700, fallback=1), PrizeTerms(1)), budget_total=650)
    acknowledged: dict[int, list[str]] = {}
    for cycle in range(5):
        start = cycle * 1_000_000
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(path), str(start)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(moments.randrange(1, 400)):
                item, *told = writer.stdout.readline().split()
                acknowledged[int(item)] = told
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                item, *told = line.split()
                if len(told) == 4:
                    acknowledged[int(item)] = told
        assert examine(path, terms).problems == []  # A reader needs nobody to have tidied up before it.
        ledger = SqliteLedger(path, "program-1")
        requests = [a_claim(item, f"user{item % 7}", terms=terms) for item in acknowledged]
        receipts = ledger.claim_many(requests)
        ledger.close()
        assert all(receipt.replayed for receipt in receipts)
        answers = [[str(v) for v in (r.prize, r.unit, r.at_ms, r.status)] for r in receipts]
        assert answers == list(acknowledged.values())
        assert examine(path, terms).problems == []
    assert len(acknowledged) > 5
