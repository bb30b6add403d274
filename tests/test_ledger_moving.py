"""A ledger carried from one backend to another is the same ledger; a file that is not whole makes none."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_ledger import (
    DATE,
    DAY_MS,
    NOW_MS,
    RedisOpener,
    a_campaign,
    a_claim,
    a_look,
    audit_of_redis,
    held_by,
    in_thread,
    problems_of,
)
from helpers_moving import (
    AUTUMN,
    CAMPAIGNS,
    READERS,
    SPRING,
    carry,
    exported_file,
    exported_redis,
    sealed,
    spring_claim,
)
from redis_servers import RedisCluster, RedisServer
from scanengine.errors import AdjustmentError, LedgerFormatError
from scanengine.ledger import Ledger, SqliteLedger
from scanengine.ledger.moving import import_ledger
from scanengine.ledger.redis.moving import RedisTarget
from scanengine.ledger.sqlite_moving import SqliteTarget
from scanengine.model import NO_PRIZE, Adjustment, Party


def go_on(ledger: Ledger, events_before: int) -> list[object]:
    """What a ledger answers to those who used it before, and to those who come now."""
    late_ms = NOW_MS + 3 * DAY_MS
    again = [ledger.claim(spring_claim(item, now_ms=late_ms)) for item in range(1, 13)]
    assert all(receipt.replayed for receipt in again)
    events = {name: ledger.events(name, acked, 1000) for name, acked in ledger.totals().readers.items()}
    assert {name: each[0].seq for name, each in events.items()} == {"accounts": 10, "payouts": 5}
    told: list[object] = [*again, events, ledger.totals()]
    now = {"generation": 9, "now_ms": late_ms, "local_date": DATE + 2}
    requests = [
        a_claim(3, "eve", terms=SPRING, **now),  # Taken.
        a_claim(100, "zoe", terms=SPRING, **{**now, "generation": 8}),  # Stale: generation 9 was announced.
        a_claim(101, "bob", terms=SPRING, **now),  # The last of his seven, drawn on the stock that was added.
        a_claim(102, "bob", terms=SPRING, **now),  # Over the limit of a person.
        a_claim(103, "zoe", terms=SPRING, **now),  # The stock is used up: its fallback.
        a_claim(104, "cid", terms=AUTUMN, **now),
        a_claim(105, "cid", terms=AUTUMN, **now),  # Over the limit of a person.
        a_claim(106, "zoe", terms=AUTUMN, **now),  # The budget is used up.
        a_claim(107, "zoe", terms=a_campaign(id="closed"), **now),
        a_claim(108, "zoe", terms=a_campaign(id="fresh"), **{**now, "now_ms": 1}),  # The clock does not run backwards.
    ]
    told += [ledger.claim(request) for request in requests]
    told += [ledger.observe(a_look(item, "now", now_ms=late_ms)) for item in (1, 3, 12, 41, 101)]
    told += [ledger.observe(a_look(3, "before", now_ms=late_ms))]  # A visit of before counts once.
    told += [ledger.adjust(Adjustment(id_, "spring", "budget", amount=10)) for id_ in ("more", "later")]
    ledger.ack("payouts", events_before + 1)
    ledger.ack("accounts", events_before + 1)
    if isinstance(ledger, SqliteLedger):
        in_thread(ledger, lambda: None)  # It trims when nobody asks for more.
    return [*told, ledger.events("accounts", 0, 1000), ledger.totals()]


def expected_of(receipts: list[object]) -> list[tuple[str, int]]:
    return [(str(receipt.status), receipt.prize) for receipt in receipts]


# There and back.


def test_the_same_content_makes_the_same_lines_and_goes_on_the_same(
    redis_server: RedisServer, open_redis: RedisOpener, original: bytes, program_id: str, path: Path
) -> None:
    """Goal: nothing is lost on the way SQLite, Redis, SQLite. Method: digests, audits, and what each answers next."""
    url = redis_server.url()
    carry(original, RedisTarget(url, program_id), program_id)
    assert exported_redis(url, program_id) == original
    assert audit_of_redis(url, program_id, *CAMPAIGNS) == (18, [])
    back = path.with_name("back.sqlite")
    carry(exported_redis(url, program_id), SqliteTarget(back, program_id), program_id)
    assert exported_file(back) == original
    assert problems_of(back, *CAMPAIGNS) == []
    assert sorted(file.name for file in path.parent.glob("back*")) == ["back.sqlite", "back.sqlite.lock"]
    told = []
    ledgers: list[Ledger] = [
        SqliteLedger(path, program_id, scan_events=True),
        open_redis(url, scan_events=True),
        SqliteLedger(back, program_id, scan_events=True),
    ]
    for ledger in ledgers:
        told.append(go_on(ledger, json.loads(original.splitlines()[0])["ledger"]["events"]))
        ledger.close()
    assert told[1] == told[0]
    assert told[2] == told[0]
    assert expected_of(told[0][14:24]) == [
        ("taken", NO_PRIZE), ("stale", NO_PRIZE), ("awarded", 0), ("limited", NO_PRIZE), ("awarded", 1),
        ("awarded", 0), ("limited", NO_PRIZE), ("no_prize", NO_PRIZE), ("closed", NO_PRIZE), ("awarded", 0),
    ]  # fmt: skip
    assert exported_file(path) == exported_redis(url, program_id) == exported_file(back)
    assert audit_of_redis(url, program_id, *CAMPAIGNS)[1] == problems_of(back, *CAMPAIGNS) == []


def test_there_and_back_by_a_cluster(
    redis_cluster: RedisCluster, open_redis: RedisOpener, original: bytes, program_id: str
) -> None:
    carry(original, RedisTarget(redis_cluster.url, program_id), program_id)
    assert exported_redis(redis_cluster.nodes[2].url(), program_id) == original
    assert open_redis(redis_cluster.url).claim(spring_claim(1)).replayed


@pytest.mark.parametrize("readers", [(), READERS])
def test_ledger_whose_events_are_all_gone_goes_on_numbering_them(
    redis_server: RedisServer, open_redis: RedisOpener, path: Path, program_id: str, readers: tuple[str, ...]
) -> None:
    source = open_redis(redis_server.url(), outbox="drop")
    for name in readers:
        source.register_reader(name)
    source.claim_many([a_claim(item) for item in range(20)])
    for name in readers:
        source.ack(name, 20)
    source.close()
    export = exported_redis(redis_server.url(), program_id)
    assert b'["event"' not in export
    carry(export, SqliteTarget(path, program_id), program_id)
    assert problems_of(path) == []
    ledger = SqliteLedger(path, program_id)
    ledger.register_reader("late")
    assert ledger.claim(a_claim(20)).unit == 21
    assert [event.seq for event in ledger.events("late", 0, 9)] == [21]
    ledger.close()


def test_empty_ledger_can_be_carried(redis_server: RedisServer, path: Path, program_id: str) -> None:
    SqliteLedger(path, program_id).close()
    carry(exported_file(path), RedisTarget(redis_server.url(), program_id), program_id)
    assert audit_of_redis(redis_server.url(), program_id) == (0, [])


def test_long_history_is_carried_in_parts(redis_server: RedisServer, path: Path, program_id: str) -> None:
    """Goal: parts meet without a seam. Method: persons, buckets and scanned items that come again in later parts."""
    ledger = SqliteLedger(path, program_id)
    items = [item * 37 % 9_000 for item in range(9_000)]
    ledger.claim_many([a_claim(item, f"user{item % 50}") for item in items])
    for start in range(0, 6_000, 2):
        ledger.observe(a_look(start // 3, f"v{start}"))
    ledger.close()
    export = exported_file(path)
    done: list[int] = []
    import_ledger(io.BytesIO(export), RedisTarget(redis_server.url(), program_id), program_id, advance=done.append)
    assert exported_redis(redis_server.url(), program_id) == export
    assert audit_of_redis(redis_server.url(), program_id) == (9_000, [])
    lines = export.count(b"\n")
    assert 3 * (lines - 2) <= sum(done) <= 3 * lines


ACTS = st.one_of(
    st.builds(
        lambda item, user, drawn, day, party, campaign: a_claim(
            item, f"u{user}", drawn=drawn, party=party, terms=CAMPAIGNS[campaign], local_date=DATE + day,
            now_ms=NOW_MS + day * DAY_MS,
        ),
        st.integers(0, 300), st.integers(0, 4), st.integers(NO_PRIZE, 0), st.integers(0, 3),
        st.sampled_from(Party), st.integers(0, 2),
    ),
    st.builds(a_look, st.integers(0, 300), st.sampled_from(["v", "w", "x"])),
    st.builds(
        Adjustment, st.sampled_from("abcdef"), st.sampled_from(["spring", "closed", "idle"]),
        st.sampled_from(["stock", "budget", "pause", "resume", "close"]), st.integers(0, 2), st.integers(1, 9),
    ),
    st.integers(0, 20),
)  # fmt: skip


def live(ledger: Ledger, acts: list[object]) -> None:
    ledger.register_reader("accounts")
    for act in acts:
        if isinstance(act, Adjustment):
            with suppress(AdjustmentError):  # An id that was used for something else.
                ledger.adjust(act)
        elif isinstance(act, int):
            with suppress(ValueError):
                ledger.ack("accounts", act)
        elif hasattr(act, "user"):
            ledger.claim(act)
        else:
            ledger.observe(act)


def test_any_history_makes_the_same_lines_after_either_way(
    redis_server: RedisServer, open_redis: RedisOpener, tmp_path: Path
) -> None:
    numbers = iter(range(1_000_000))
    tag = secrets.token_hex(4)

    @settings(max_examples=12, deadline=None)
    @given(acts=st.lists(ACTS, max_size=40), scan_events=st.booleans())
    def check(acts: list[object], scan_events: bool) -> None:
        number = next(numbers)
        here, there = f"program-{tag}-{number}a/key", f"program-{tag}-{number}b/key"
        files = [tmp_path / f"{number}{name}.sqlite" for name in ("a", "b")]
        ledger = open_redis(redis_server.url(), program_id=here, scan_events=scan_events)
        file = SqliteLedger(files[1], there, scan_events=scan_events)
        for each in (ledger, file):
            live(each, acts)
            each.close()
        carry(exported_redis(redis_server.url(), here), SqliteTarget(files[0], here), here)
        assert exported_file(files[0]) == exported_redis(redis_server.url(), here)
        carry(exported_file(files[1]), RedisTarget(redis_server.url(), there), there)
        assert exported_redis(redis_server.url(), there) == exported_file(files[1])
        for program_id, carried in ((here, files[0]), (there, files[1])):
            assert audit_of_redis(redis_server.url(), program_id)[1] == problems_of(carried) == []

    check()


# Files that are not whole, or not ours.


def _drop(start: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        at = next(i for i, line in enumerate(lines) if line.startswith(start))
        return lines[:at] + lines[at + 1 :]

    return change


def _swap(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line.replace(old, new) for line in lines]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b"", "not a whole export"),
        (lambda text: b"\n", "not a whole export"),
        (lambda text: text[:-1], "it was cut"),
        (lambda text: text[: len(text) // 2], "it was cut"),
        (lambda text: text[: text.rindex(b"\n", 0, -1) + 1], "not a whole export"),
        (lambda text: text.splitlines(keepends=True)[0], "not a whole export"),
        (lambda text: text.replace(b'"ann"', b'"bea"', 1), "it was changed"),
        (lambda text: text.replace(b'"accounts",9', b'"accounts",8'), "it was changed"),
        (lambda text: text.replace(b'"export":1', b'"export":2'), "version 2, expected 1"),
        (lambda text: text + text, "not a whole export"),
        (lambda text: b"\xff" + text, "not a whole export"),
        (lambda text: text.replace(b'"digest":"', b'"digest":"0'), "it was changed"),
    ],
)
def test_file_that_was_cut_or_changed_is_refused_before_anything_is_made(
    original: bytes, path: Path, program_id: str, change: Callable[[bytes], bytes], message: str
) -> None:
    other = path.with_name("other.sqlite")
    with pytest.raises(LedgerFormatError, match=f"backup.ndjson: .*{message}"):
        import_ledger(io.BytesIO(change(original)), SqliteTarget(other, program_id), program_id, name="backup.ndjson")
    assert not list(path.parent.glob("other*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop(b'["claim",3,'), "after number 0 of its kind a number is missing"),
        (_drop(b'["claim",18,'), "not those that its head names"),
        (_drop(b'["scan",1,'), "a number is missing"),
        (_drop(b'["event",17,'), "not those that its head names|a number is missing"),
        (_drop(b'["campaign",1,'), "a number is missing"),
        (_swap(b'["claim",2,[2,', b'["claim",2,[-2,'), "out of its range"),
        (_swap(b'["claim",2,[2,', b'["claim",2,["2",'), "something else than expected"),
        (_swap(b'["claim",2,[', b'["claim",2,[0,'), "something else than expected"),
        (_swap(b'["reader",', b'["stranger",'), "something else than expected"),
        (lambda lines: [lines[0], *reversed(lines[1:])], "out of order|a number is missing"),
    ],
)
def test_file_that_contradicts_itself_is_refused_even_if_it_is_sealed(
    original: bytes, path: Path, program_id: str, change: Callable[[list[bytes]], list[bytes]], message: str
) -> None:
    lines = change(original.splitlines(keepends=True)[:-1])
    with pytest.raises(LedgerFormatError, match=message):
        carry(sealed(lines), SqliteTarget(path.with_name("other.sqlite"), program_id), program_id)
    assert not list(path.parent.glob("other*"))


def test_export_of_another_program_is_refused(
    original: bytes, redis_server: RedisServer, path: Path, program_id: str
) -> None:
    for target in (RedisTarget(redis_server.url(), "program-x/key"), SqliteTarget(path.with_name("other"), "x")):
        with pytest.raises(LedgerFormatError, match=f"of program {program_id}, expected program-x/key"):
            import_ledger(io.BytesIO(original), target, "program-x/key")
    assert held_by(redis_server, "program-x") == {}
