"""Opening and closing: twice, in a forked process, two hundred times over."""

from __future__ import annotations

import json
import threading

import pytest

import scanengine
from helpers import NOON, NOW_MS, Shop, run_python
from scanengine.errors import LedgerUnavailableError
from scanengine.program.scans import Scan


def test_a_program_may_be_closed_twice_and_decides_afterwards(shop: Shop) -> None:
    for mode in ("own", "read", "none"):
        program = scanengine.open(shop.folder, ledger=mode)
        program.close()
        program.close()
        assert program.decide(shop.code(0), now=NOON).offers


async def test_a_closed_program_refuses_claims_and_looks_without_counts(shop: Shop) -> None:
    program = scanengine.open(shop.folder)
    program.claim(shop.code(0), user="u1", now=NOON)
    program.close()
    with pytest.raises(LedgerUnavailableError, match="closed"):
        program.claim(shop.code(0), user="u1", now=NOON)
    with pytest.raises(LedgerUnavailableError, match="closed"):
        await program.claim_async(shop.code(0), user="u1", now=NOON)
    assert program.verify(shop.code(0), now=NOON).scan is None
    assert (await program.verify_async(shop.code(0), now=NOON)).scan is None
    assert program.claim("nonsense", user="u1").status == "malformed"


def test_closing_answers_what_was_asked(shop: Shop) -> None:
    """Goal: no claim in flight is lost or left without an answer. Method: close while threads claim."""
    program = scanengine.open(shop.folder)
    codes = shop.codes(0, 400)
    answered: dict[str, str] = {}
    has_begun = threading.Event()

    def claim(part: list[str]) -> None:
        for code in part:
            try:
                claim = program.claim(code, user="u" + code, visit="v", now=NOON).claim
            except LedgerUnavailableError:
                return
            assert claim is not None
            answered[code] = claim.status
            has_begun.set()

    threads = [threading.Thread(target=claim, args=(codes[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    assert has_begun.wait(30)
    program.close()
    for thread in threads:
        thread.join()
    with scanengine.open(shop.folder) as again:
        scans = [Scan.of(code, "u" + code, "v") for code in answered]
        replies = again.claim_many(scans, now=NOON)
        assert [reply.claim and (reply.claim.status, reply.claim.replayed) for reply in replies] == [
            (status, True) for status in answered.values()
        ]


FORK = """
import json, os, sys
import scanengine
from scanengine.errors import LedgerUnavailableError
folder, code, now = sys.argv[1], sys.argv[2], int(sys.argv[3])
program = scanengine.open(folder)
program.claim(code, user="u1", visit="v1", now=now)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    report = {"status": program.decide(code, now=now).status.name, "claim": None}
    try:
        program.claim(code, user="u1", visit="v1", now=now)
    except LedgerUnavailableError as error:
        report["claim"] = str(error)
    os.write(writing, json.dumps(report).encode())
    os._exit(0)
os.close(writing)
assert os.waitpid(child, 0)[1] == 0
report = json.loads(os.read(reading, 10_000))
again = program.claim(code, user="u1", visit="v1", now=now)
report["parent"] = [again.claim.status, again.claim.replayed, again.scan.count]
program.close()
print(json.dumps(report))
"""


def test_a_forked_process_decides_but_does_not_claim(shop: Shop) -> None:
    """The child shares neither the ledger's thread nor its lock, and leaves its parent's alone."""
    (code,) = shop.drawing(-1)
    report = json.loads(run_python(FORK, shop.folder, code, NOW_MS))
    assert report["status"] == "VALID"
    assert "fork" in report["claim"]
    assert report["parent"] == ["no_prize", True, 1]


VISITS = """
import os, sys
from scanengine.program.scans import Scan
Scan.of("c", "u", None)
reading, writing = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        os.write(writing, Scan.of("c", "u", None).visit.encode() + b" ")
        os._exit(0)
os.wait(); os.wait()
visits = os.read(reading, 1000).decode().split() + [Scan.of("c", "u", None).visit]
assert len(set(visits)) == 3, visits
assert all(len(visit) <= 64 for visit in visits)
"""


def test_forked_processes_make_visits_of_their_own() -> None:
    run_python(VISITS)


LEAKS = """
import gc, json, os, sys, threading
import scanengine
folder, code, now = sys.argv[1], sys.argv[2], int(sys.argv[3])
def use(number):
    mode = ("own", "read", "none")[number % 3]
    with scanengine.open(folder, ledger=mode) as program:
        program.verify(code, now=now)
        program.decide_many([code] * 100, now=now)
        if mode == "own":
            program.claim(code, user="u1", visit="v1", now=now)
        program.refresh()
def look():
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/fd")), threading.active_count()
for number in range(30):
    use(number)
before = look()
for number in range(200):
    use(number)
after = look()
print(json.dumps({"bytes": after[0] - before[0], "before": before[1:], "after": after[1:]}))
"""


def test_opening_and_closing_two_hundred_times_leaks_nothing(shop: Shop) -> None:
    """A table or a ledger that stayed open would hold a descriptor, a thread or 20 KiB each: 4 MiB in all."""
    found = json.loads(run_python(LEAKS, shop.folder, shop.code(0), NOW_MS))
    assert found["after"] == found["before"]
    assert found["bytes"] < 4 << 20
