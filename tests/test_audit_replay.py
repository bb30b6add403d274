"""The audit decides again what was decided: a flipped byte is found and named, and so is what tables contradict."""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import Any
from zlib import crc32

import msgspec
import pytest
import redis

from helpers import ACTIVE, CODES, COLA, DRAW_SECRET, HOUR_MS, NOW_MS, SPRING, Shop, a_copy, replaced
from helpers_cli import Run, ok
from helpers_ledger import tag_of
from redis_servers import RedisServer
from scanengine.errors import TableFormatError
from scanengine.keys import load_keyring
from scanengine.ledger.records import CLAIM_STRUCT, ClaimRecord
from scanengine.ledger.redis.events import pack_said, read_entries
from scanengine.ledger.sealing import DamagedEventError, seal, unseal
from scanengine.model import Event, SegmentState
from scanengine.program import Program, open_program
from scanengine.program.auditing import ProgramAudit, audit_program
from scanengine.program.publishing import SceneChange, create_batch, delete_batch
from scanengine.program.replaying import SceneTables
from scanengine.program.scans import Scan
from scanengine.program.settings import Settings, load_settings, override_ledger
from scanengine.tables.scenes import Profile, Segments

CLAIMS = 25


def settings_of(shop: Shop, server: RedisServer | None = None) -> Settings:
    settings = load_settings(shop.workspace.settings_path)
    if server is None:
        return settings
    # Shops are copies of one; at a server that they share each needs a ledger of its own.
    settings = msgspec.structs.replace(
        settings, program=msgspec.structs.replace(settings.program, id=secrets.token_hex(8))
    )
    return override_ledger(settings, url=server.url(), durability="volatile")


def audited(shop: Shop, settings: Settings | None = None) -> ProgramAudit:
    return audit_program(shop.workspace, settings or settings_of(shop), load_keyring(shop.workspace.keys_path))


def claim_some(shop: Shop, program: Program, now_ms: int = NOW_MS) -> None:
    """Make claims of every kind, across publications of all kinds, a deleted batch and test codes."""
    program.ledger.register_reader("accounts")
    for offset in range(10):
        program.claim(shop.code(offset), user=f"user{offset % 4}", now=now_ms, region="44" if offset % 3 else None)
        program.claim(shop.code(offset), user="shop-7", role="retailer", now=now_ms)
    create_batch(shop.workspace, shop.keyring, "trial", 5, product=COLA, test=True)
    create_batch(shop.workspace, shop.keyring, "brief", 5)
    for label in ("trial", "brief"):
        shop.assign(0, 5, ACTIVE, label)
    codes = shop.codes(0, 5, "trial") + shop.codes(0, 2, "brief")
    shop.publish(replaced(SPRING, "cash-88 = 1", "cash-88 = 9"))
    program.refresh()
    for place, code in enumerate(codes):
        program.claim(code, user=f"tester{place}", region="44", now=now_ms + HOUR_MS)
    delete_batch(shop.workspace, "brief")
    shop.assign(0, 5, SceneChange(SegmentState.FROZEN))
    shop.assign(20, 30, SceneChange(product=""))
    program.refresh()
    for offset in range(20, 23):
        program.claim(shop.code(offset), user=f"late{offset}", now=now_ms + 2 * HOUR_MS)


@pytest.fixture(scope="module")
def claimed_folder(tmp_path_factory: pytest.TempPathFactory, shop_template: Path) -> Path:
    shop = a_copy(shop_template, tmp_path_factory.mktemp("replay") / "shop")
    with open_program(shop.folder) as program:
        claim_some(shop, program)
    return shop.folder


@pytest.fixture
def claimed(claimed_folder: Path, tmp_path: Path) -> Shop:
    """A program with some claims in SQLite."""
    return a_copy(claimed_folder, tmp_path / "shop")


def test_a_sound_program_is_replayed_whole(claimed: Shop) -> None:
    report = audited(claimed)
    assert (report.problems, report.notes) == ([], [])
    assert (report.claims, report.replayed, report.replayed_events) == (CLAIMS, CLAIMS, CLAIMS)


def test_a_sound_program_in_redis_is_replayed_whole(shop: Shop, redis_server: RedisServer) -> None:
    settings = settings_of(shop, redis_server)
    with open_program(shop.folder, settings=settings) as program:
        claim_some(shop, program)
        report = audited(shop, settings)
        assert (report.problems, report.replayed, report.replayed_events) == ([], CLAIMS, CLAIMS)
        program.ledger.ack("accounts", 12)
        report = audited(shop, settings)
        assert (report.problems, report.replayed, report.replayed_events) == ([], CLAIMS, CLAIMS - 12)


# One flipped byte.


@contextmanager
def database(shop: Shop) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(shop.workspace.ledger_path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def flips(body: bytes) -> Iterator[bytes]:
    for place, byte in enumerate(body):
        yield body[:place] + bytes((byte ^ 1,)) + body[place + 1 :]


def names_event(report: ProgramAudit, seq: int) -> bool:
    return any(problem.startswith(f"event {seq} is damaged: ") for problem in report.problems)


def test_every_flipped_byte_of_an_event_in_sqlite_is_found_and_named(claimed: Shop) -> None:
    with database(claimed) as connection:
        body = connection.execute("SELECT CAST(body AS BLOB) FROM events WHERE seq = 5").fetchone()[0]
    missed = []
    for place, flipped in enumerate(flips(body)):
        with database(claimed) as connection:
            connection.execute("UPDATE events SET body = CAST(? AS TEXT) WHERE seq = 5", (flipped,))
        if not names_event(audited(claimed), 5):
            missed.append(place)
    assert (missed, len(body) > 300) == ([], True)


def test_every_flipped_byte_of_an_event_in_redis_is_found_and_named(shop: Shop, redis_server: RedisServer) -> None:
    settings = settings_of(shop, redis_server)
    with open_program(shop.folder, settings=settings) as program:
        program.claim(shop.code(0), user="ann", now=NOW_MS)
        scans = [Scan.of(shop.code(offset), "ann", None, "consumer", "440300") for offset in (1, 2, 3)]
        program.claim_many(scans, now=NOW_MS)
    client: redis.Redis = redis_server.client()
    key = tag_of(settings.program.id) + "outbox"
    first, (entry, fields) = client.xrange(key)
    ((heads, said),) = fields.items()
    assert (entry, len(heads) % 3) == (b"4-0", 0)
    # Of the three events of a call, the one in the middle: its head, and what was said of it.
    head = len(heads) // 3
    size, other = (int.from_bytes(heads[end - 4 : end], "little") for end in (head, 2 * head))
    at = {*range(head, 2 * head), *range(len(heads) + size, len(heads) + size + other)}
    missed = []
    for place, flipped in enumerate(flips(heads + said)):
        if place not in at:
            continue
        client.delete(key)
        client.xadd(key, first[1], id=first[0])
        client.xadd(key, {flipped[: len(heads)]: flipped[len(heads) :]}, id=entry)
        # What the record says too is told as a difference from it.
        problems = audited(shop, settings).problems
        if not any(re.match(r"(event|claim) 3\b", problem) for problem in problems):
            missed.append(place)
    assert (missed, len(at) > 137) == ([], True)


def test_a_flipped_size_is_one_damage_however_many_events_follow_it() -> None:
    said = [pack_said(("", item, "", "", "", "", 0, None, 0, "")) for item in range(5)]
    heads = [Struct("<B6sIIhhhIQI").pack(0, bytes(6), 0, 1, -1, -1, -1, 0, 0, len(part)) for part in said]
    heads[1] = heads[1][:-4] + bytes((heads[1][-4] ^ 2,)) + heads[1][-3:]
    entry = b"9-0", (b"".join(heads), b"".join(said))
    events = read_entries([entry], 4)
    assert next(events)[1].seq == 5
    with pytest.raises(DamagedEventError, match="event 6 is damaged: it cannot be told from those after it") as found:
        next(events)
    assert (found.value.seq, found.value.last) == (6, 9)


def test_an_event_that_is_damaged_is_not_handed_to_a_reader(claimed: Shop) -> None:
    with database(claimed) as connection:
        connection.execute("UPDATE events SET body = replace(body, 'cola', 'coal') WHERE seq = 5")
    with open_program(claimed.folder) as program:
        assert len(program.ledger.events("accounts", 0, 4)) == 4
        with pytest.raises(DamagedEventError, match="event 5 is damaged"):
            program.ledger.events("accounts", 4, 10)


def test_a_sealed_event_is_read_as_it_was() -> None:
    event = Event("x", 7, "scan", 1, 2, "", "", "ann", "", 0, None, 0, -1, -1, -1, 0, 0, None, ',"check":"')
    assert unseal(7, 0, seal(event).encode()) == event
    with pytest.raises(DamagedEventError, match="it says that it is event 7"):
        unseal(8, 0, seal(event).encode())


def test_bytes_that_mean_the_same_are_found_as_well() -> None:
    """MessagePack has many spellings of one number, of which only the shortest is ever written."""

    def read(item: bytes) -> list[tuple[int, Event]]:
        said = b"\xa0" + item + b"\xa0" * 4 + b"\x00\xc0\x00\xa0"
        said = b"\x9b" + said + b"\xce" + crc32(said).to_bytes(4, "big")
        head = Struct("<B6sIIhhhIQI").pack(0, bytes(6), 0, 1, -1, -1, -1, 0, 0, len(said))
        return list(read_entries([(b"3-0", (head, said))], 0))

    assert [(claim, event.item) for claim, event in read(b"\x09")] == [(0, 9)]
    with pytest.raises(DamagedEventError, match="check value"):
        read(b"\xcd\x00\x09")


# What the tables contradict: written as if it had been so.


def rewrite(shop: Shop, seq: int, **changes: Any) -> None:
    """Change an event and seal it anew, as a fault in the program would have written it."""
    with database(shop) as connection:
        body = connection.execute("SELECT CAST(body AS BLOB) FROM events WHERE seq = ?", (seq,)).fetchone()[0]
        event = msgspec.structs.replace(unseal(seq, seq, body), **changes)
        connection.execute("UPDATE events SET body = ? WHERE seq = ?", (seal(event), seq))


def rewrite_record(shop: Shop, seq: int, **changes: int) -> None:
    with database(shop) as connection:
        packed = connection.execute("SELECT record FROM claims WHERE seq = ?", (seq,)).fetchone()[0]
        record = ClaimRecord._make(CLAIM_STRUCT.unpack(packed))._replace(**changes)
        connection.execute("UPDATE claims SET record = ? WHERE seq = ?", (CLAIM_STRUCT.pack(*record), seq))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"type": "clown"}, "type is 'clown', expected claim or scan"),
        ({"role": "king"}, "role is 'king', expected one of consumer, retailer, associate, distributor, inspector"),
        ({"role": "distributor"}, "rule is 0, expected none, as no rule holds"),
        ({"role": "retailer"}, "rule is 0, expected 2"),
        ({"region": 110000}, "rule is 0, expected 1"),
        ({"region": 1_000_000}, "at is 1777608000000 ms and region 1000000, of which one cannot be"),
        ({"batch": "tea"}, "batch is 'tea', expected 'cola'"),
        ({"product": ""}, "product is '', expected '6901234567892'"),
        ({"drawn": 1, "prize": 1, "amount": 10}, "drawn is 1, expected 0"),
        ({"prize": 7}, "prize is 7, expected 0 or 1 or -1"),
        ({"amount": 8801}, "amount is 8801, expected 8800"),
        ({"rule": 9}, "rule is 9, expected 0"),
        ({"campaign": "autumn"}, "campaign is 'autumn', expected 'spring'"),
        ({"campaign": None}, "campaign is '', expected 'spring'"),
        ({"generation": 1}, "no scenes of batch cola at generation 0"),
        ({"item": 7}, "there is no batch with this item"),
        ({"item": -1}, "it holds a number that none can be"),
        ({"id": "0" * 26}, "id is '00000000000000000000000000', expected '"),
        ({"unit": 0}, "unit is 0, and prize 0"),
    ],
)
def test_an_event_that_the_tables_contradict_is_named(claimed: Shop, changes: dict[str, Any], problem: str) -> None:
    seq = 3  # Item 1, in the south: the cash of the first rule.
    if "generation" in changes:
        changes = {"generation": 0}
    rewrite(claimed, seq, **changes)
    item = changes.get("item", claimed.item(1))
    assert any(line.startswith(f"event {seq}: item {item}: {problem}") for line in audited(claimed).problems)


@pytest.mark.parametrize(("field", "what"), [("user", "user"), ("visit", "visit")])
def test_an_event_of_somebody_else_is_named(claimed: Shop, field: str, what: str) -> None:
    rewrite(claimed, 3, **{field: "somebody"})
    assert (
        f"claim 3: item {claimed.item(1)}: the event is of another {what} than the record" in audited(claimed).problems
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"drawn": 1, "prize": 1, "money": 0}, "drawn is 1, expected 0"),
        ({"rule": 7}, "rule is 7, expected 0"),
        ({"rule": 2}, "rule is 2, expected 0"),
        ({"prize": 5}, "prize is 5, expected 0 or 1 or -1"),
        ({"money": 1}, "money is 1, expected 8800"),
        ({"party": 3}, "party is 3, expected 0 or 1"),
        ({"at_ms": 1}, "its segment is not active at 1 ms"),
    ],
)
def test_a_record_without_its_event_is_still_replayed(claimed: Shop, changes: dict[str, int], problem: str) -> None:
    """Goal: what a record cannot have been is found, whatever region the scan was from."""
    claimed.assign(0, CODES, SceneChange(active_from_ms=NOW_MS - HOUR_MS))
    with open_program(claimed.folder) as program:
        program.claim(claimed.code(50), user="new", region="44", now=NOW_MS + 3 * HOUR_MS)
        program.ledger.ack("accounts", program.ledger.totals().event_seq)
        seq = program.ledger.totals().claims
        program.claim(claimed.code(51), user="newer", now=NOW_MS + 3 * HOUR_MS)
    rewrite_record(claimed, seq, **changes)
    problems = audited(claimed).problems
    assert any(line.startswith(f"claim {seq}: item {claimed.item(50)}: {problem}") for line in problems), problems


# Time, secrets, tables that are gone.


def test_a_claim_that_waited_over_the_end_of_its_rule_is_no_problem(shop: Shop) -> None:
    """Goal: no false alarm. Method: the ledger's clock is ahead of the server's, across the hour of a rule."""
    hours = 'when = { regions = ["44"], hours = ["00:00-12:00"] }'
    shop.publish(replaced(SPRING, 'when = { regions = ["44"] }', hours))
    with open_program(shop.folder) as program:
        program.claim(shop.code(1), user="ann", region="44", now=NOW_MS + 2_000)
        program.claim(shop.code(2), user="bob", region="44", now=NOW_MS - 1)
    assert audited(shop).problems == []
    with open_program(shop.folder) as program:
        program.claim(shop.code(3), user="cid", region="44", now=NOW_MS - 2 * HOUR_MS)
        program.claim(shop.code(4), user="dan", region="44", now=NOW_MS + HOUR_MS)
        program.claim(shop.code(5), user="eva", region="44", now=NOW_MS - HOUR_MS)
    assert any("rule is 0, expected 1" in problem for problem in audited(shop).problems)


def test_a_table_that_a_crash_left_behind_decides_nothing(shop: Shop) -> None:
    """Goal: no false alarm. Method: scenes that were written, but never became current, before a publication."""
    shop.assign(0, CODES, SceneChange(product=""))
    current = shop.snapshot.manifest.scenes["cola"]
    stray = shop.workspace.table_name("scenes", "cola", shop.snapshot.generation + 1)
    before = shop.workspace.table_name("scenes", "cola", shop.snapshot.generation - 1)
    (shop.folder / "scenes" / stray).hardlink_to(shop.folder / "scenes" / before)
    with open_program(shop.folder) as program:
        program.claim(shop.code(1), user="ann", now=NOW_MS)
        shop.publish(SPRING)
        program.refresh()
        program.claim(shop.code(2), user="ann", now=NOW_MS)
        assert audited(shop).problems == []
    assert shop.snapshot.manifest.scenes["cola"] not in (current, stray)


def test_decisions_of_another_draw_secret_are_noted_and_not_called_wrong(claimed: Shop) -> None:
    keys = claimed.workspace.keys_path
    keys.write_text(replaced(keys.read_text(), DRAW_SECRET.hex(), bytes(range(32)).hex()))
    report = audited(claimed)
    assert report.problems == []
    assert "campaign spring: drawn with another draw secret than keys.toml has: " in report.notes[0]


def test_scenes_that_are_gone_are_named(claimed: Shop) -> None:
    for path in claimed.folder.glob("scenes/brief@*.scenes"):
        path.unlink()
    problems = audited(claimed).problems
    assert any("no scenes of batch brief at generation" in problem and "backup" in problem for problem in problems)


def test_a_damaged_table_of_a_deleted_batch_is_a_problem_among_others(claimed: Shop) -> None:
    """Goal: one bad file, which nothing serves, does not keep the audit from looking at all the rest."""
    (path,) = claimed.folder.glob("codes/brief@*.codes")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    report = audited(claimed)
    assert report.problems[0].startswith(f"deleted batch brief: {path}: not a scanengine table")
    assert (report.claims, report.replayed) == (CLAIMS, CLAIMS)
    others = [re.sub(r"^(event|claim) \d+: item \d+: ", r"\1: ", problem) for problem in report.problems[1:]]
    unknown = "there is no batch with this item"
    assert sorted(others) == sorted(
        [f"claim: {unknown}", "event: batch is 'brief', expected ''", f"event: {unknown}"] * 2
    )


def scenes_of(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.scenes" for number in range(count)]
    for number, path in enumerate(paths):
        Segments.blank(10, Profile(lot=f"lot {number}")).write(path, "cola", 1)
    return paths


def test_scenes_of_any_number_of_batches_are_read_once_and_hold_no_file(tmp_path: Path) -> None:
    """Goal: an audit of claims in turn from many batches. Method: the files are gone when they are asked for again."""
    paths = scenes_of(tmp_path, 300)
    tables = SceneTables(64 << 20)
    files_before = len(os.listdir("/proc/self/fd"))
    assert [tables.profile(path, 9).lot for path in paths] == [f"lot {number}" for number in range(300)]
    assert len(os.listdir("/proc/self/fd")) == files_before
    for path in paths:
        path.unlink()
    assert [tables.profile(path, 0).lot for path in paths] == [f"lot {number}" for number in range(300)]


def test_scenes_take_no_more_memory_than_they_may(tmp_path: Path) -> None:
    first, second = scenes_of(tmp_path, 2)
    tables = SceneTables(1)
    assert [tables.profile(path, 1).lot for path in (first, second, first)] == ["lot 0", "lot 1", "lot 0"]
    second.unlink()
    with pytest.raises(TableFormatError, match="cannot be read as a table"):
        tables.profile(second, 1)
    assert tables.profile(first, 1).lot == "lot 0"


# The command.


def test_the_command_counts_what_it_replayed(claimed: Shop, run: Run) -> None:
    assert f"decisions replayed: {CLAIMS}, of these {CLAIMS} from whole events" in ok(
        run("-w", claimed.folder, "audit")
    )
    rewrite(claimed, 3, amount=1)
    done = run("-w", claimed.folder, "audit", "--json")
    assert (done.code, json.loads(done.out)["replayed"]) == (3, CLAIMS)
    assert f"event 3: item {claimed.item(1)}: amount is 1, expected 8800" in done.out
