"""The parts of a load test: what is asked, when it is due, who asks, how replies are framed, judged and measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scanengine
from helpers import SLOT
from scanengine.errors import SettingsError
from scanengine.keys import Keyring
from scanengine.load.answers import Answers, Prizes
from scanengine.load.codes import Codes
from scanengine.load.connection import read_head
from scanengine.load.judging import Asked, Reply, Verdict, judge_code, read_reply, said_of
from scanengine.load.measuring import Timed, is_saturated, lag_of, latencies_of, void_reason, windows_of
from scanengine.load.options import Burst, Options, burst_of, duration_of, mix_of, rate_of, regions_of, share_of
from scanengine.load.plan import NEW, REPEAT, TAKEN, People, make_plan
from scanengine.load.playing import Look
from scanengine.load.requests import Writer
from scanengine.load.results import Mix
from scanengine.load.schedule import due_times
from scanengine.load.tape import LOST, Layout, Tape
from scanengine.load.target import make_workspace
from scanengine.load.totals import differences
from scanengine.model import Status
from scanengine.tables.codes import CodeTable

SECOND_NS = 1_000_000_000

# What is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (duration_of, "10s", 10.0),
        (duration_of, "500ms", 0.5),
        (duration_of, "2m", 120.0),
        (duration_of, "1.5h", 5400.0),
        (rate_of, "30k/s", 30_000.0),
        (rate_of, "250", 250.0),
        (rate_of, "0.5/s", 0.5),
        (share_of, "70%", 0.7),
        (mix_of, "taken=1, new=2", Mix(2, 0, 1, 0)),
        (regions_of, "31=4,4403=1", {"310000": 4, "440300": 1}),
        (regions_of, "none", {}),
        (burst_of, "3x:2s/10s", Burst(3.0, 2.0, 10.0, "3x:2s/10s")),
    ],
)
def test_the_grammar_reads(read: Any, text: str, expected: Any) -> None:
    assert read(text) == expected


@given(st.text(max_size=20))
def test_the_grammar_refuses_in_words_or_reads(text: str) -> None:
    for read in (duration_of, rate_of, share_of, mix_of, regions_of, burst_of):
        with suppress(SettingsError):
            read(text)


# When it is due -----------------------------------------------------------------------------------------------------


def test_a_constant_rate_is_constant() -> None:
    due = due_times(Options(rate=1000.0, duration_s=3.0))
    assert len(due) == 3000
    assert set(np.unique(np.diff(due)).tolist()) <= {999_999, 1_000_000, 1_000_001}


def test_a_ramp_grows_evenly_to_the_rate() -> None:
    due = due_times(Options(rate=1000.0, duration_s=4.0, ramp_s=2.0))
    counts = np.bincount(due // SECOND_NS, minlength=4)[:4].tolist()
    assert counts == pytest.approx([250, 750, 1000, 1000], abs=2)


def test_bursts_multiply_the_rate_for_their_time() -> None:
    due = due_times(Options(rate=100.0, duration_s=10.0, burst=burst_of("3x:1s/5s")))
    counts = np.bincount(due // SECOND_NS, minlength=10)[:10].tolist()
    assert counts == pytest.approx([300, 100, 100, 100, 100] * 2, abs=3)


@pytest.mark.parametrize("changes", [{}, {"ramp_s": 3.0}, {"burst": burst_of("0.5x:1s/2s")}])
def test_a_number_of_requests_is_that_number(changes: dict[str, Any]) -> None:
    assert len(due_times(Options(rate=50.0, requests=333, **changes))) == 333


# Who asks for what --------------------------------------------------------------------------------------------------


def a_plan(count: int = 20_000, **changes: Any) -> Any:
    options = Options(**{"people": 1000, "regions": {"310000": 3, "440000": 1}, **changes})
    return make_plan(options, People(options), np.random.default_rng(5), count, 8, 100)


def test_the_mix_is_the_one_that_was_asked_for() -> None:
    shares = np.bincount(a_plan().kind, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.70, 0.10, 0.15, 0.05], abs=0.02)


def test_follow_ups_come_well_behind_what_they_follow() -> None:
    """A repeat has the person, the visit and the region of the claim; whoever finds a code taken is somebody else."""
    plan = a_plan()
    row_of = {int(plan.code[row]): row for row in np.flatnonzero(plan.kind == NEW)}
    assert len(row_of) == plan.fresh_codes
    for row in np.flatnonzero((plan.kind == REPEAT) | (plan.kind == TAKEN)).tolist():
        origin = row_of[int(plan.code[row])]
        assert row - origin >= 4 * 8
        is_repeat = plan.kind[row] == REPEAT
        assert (plan.person[row] == plan.person[origin]) == is_repeat
        assert (plan.visit[row] == plan.visit[origin]) == is_repeat
        if is_repeat:
            assert plan.region[row] == plan.region[origin]
    others = plan.visit[plan.kind != REPEAT]
    assert len(np.unique(others)) == len(others)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_short_plan_has_something_to_follow(count: int) -> None:
    plan = a_plan(count, mix=Mix(1, 50, 50, 0))
    assert plan.kind[0] == NEW
    assert plan.fresh_codes >= 1


def test_people_are_spread_as_asked() -> None:
    uniform = np.bincount(a_plan(spread="uniform", mix=Mix(1)).person, minlength=1000)
    zipf = np.bincount(a_plan(spread="zipf", mix=Mix(1)).person, minlength=1000)
    assert uniform.max() < 60
    assert zipf.argmax() == 0
    assert zipf[0] > 1_000


def test_requests_are_what_the_server_reads() -> None:
    plan = a_plan(50)
    codes = np.frombuffer(b"".join(b'"%020d"' % code for code in range(50)), np.uint8).reshape(50, 22)
    writer = Writer("localhost:80", "a-token", 0xABCDEF01, 22, has_region=True)
    out = bytearray(50 * writer.width)
    writer.write(plan, codes, codes, memoryview(out))
    assert "a-token" not in repr(writer)
    for row in range(50):
        head, _, body = bytes(out[row * writer.width : (row + 1) * writer.width]).partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert b"\r\nAuthorization: Bearer a-token" in head
        region, person, visit = plan.region[row], plan.person[row], plan.visit[row]
        assert body.decode() == (
            f'{{"code":"{plan.code[row]:020}","user":"load:{person:09}","visit":"abcdef01{visit:08x}",'
            f'"region":"{region:06}"}}'
        )


@pytest.mark.parametrize("token", ["two\r\nlines", "\u4e2d", "a\x00b"])
def test_a_token_that_is_no_header_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SettingsError, match="printable ASCII") as refused:
        Writer("localhost", token, 1, 22, has_region=False)
    assert token not in str(refused.value)


def a_keyring() -> Keyring:
    return Keyring([(SLOT, bytes(range(32)), "active")], bytes(32), bytes(32))


def test_every_code_of_all_batches_is_taken_once_in_random_order() -> None:
    batches = [CodeTable("a", SLOT, 0, 700), CodeTable("b", SLOT, 5_000, 301)]
    keyring = a_keyring()
    codes = Codes(keyring, batches, np.random.default_rng(3))
    parts = [codes.take(count) for count in (1, 500, 200)]
    codes.give_back(parts[1][0][:50], parts[1][1][:50])
    parts[1] = (parts[1][0][50:], parts[1][1][50:])
    parts.append(codes.take(codes.left))
    items = np.concatenate([items for items, _ in parts]).tolist()
    assert sorted(items) == sorted([*range(batches[0].item_start, batches[0].item_start + 700),
                                    *range(batches[1].item_start, batches[1].item_start + 301)])  # fmt: skip
    assert sum(later > sooner for sooner, later in pairwise(items)) < 700
    for item, row in zip(parts[0][0].tolist(), parts[0][1], strict=True):
        status, found = keyring.code_keys.decode(row.tobytes()[1:-1].decode())
        assert (status, found) == (Status.VALID, item)
    with pytest.raises(SettingsError, match="0 of the test batches are left"):
        codes.take(1)


def test_forged_codes_are_wrong_by_their_tag_alone() -> None:
    keyring = a_keyring()
    codes = Codes(keyring, [CodeTable("a", SLOT, 0, 700)], np.random.default_rng(3))
    forged = [row.tobytes()[1:-1].decode() for row in codes.forge(200)]
    assert {keyring.code_keys.decode(code)[0] for code in forged} == {Status.FORGED}


# How replies are framed ---------------------------------------------------------------------------------------------

GOOD_HEAD = b"http/1.1 200 ok\r\ncontent-type: application/json\r\ncontent-length: 12\r\n"


def test_a_right_head_is_read() -> None:
    assert read_head(GOOD_HEAD) == (200, 12, False)
    assert read_head(GOOD_HEAD + b"connection: close\r\n") == (200, 12, True)


@pytest.mark.parametrize(
    "head",
    [
        b"http/1.0 200 ok\r\ncontent-length: 12\r\n",
        b"http/1.1 20x ok\r\ncontent-length: 12\r\n",
        b"http/1.1 2000 ok\r\ncontent-length: 12\r\n",
        b"http/1.1 100 continue\r\ncontent-length: 0\r\n",
        b"http/1.1 200 ok\r\n",
        b"http/1.1 200 ok\r\ncontent-length: +12\r\n",
        b"http/1.1 200 ok\r\ncontent-length: 12 13\r\n",
        b"http/1.1 200 ok\r\ncontent-length: 12, 12\r\n",
        b"http/1.1 200 ok\r\ncontent-length: 9999999999\r\n",
        b"http/1.1 200 ok\r\ncontent-length: \r\n",
        GOOD_HEAD + b"content-length: 12\r\n",
        GOOD_HEAD + b"content-length : 13\r\n",
        GOOD_HEAD + b"transfer-encoding: chunked\r\n",
        b"hello\r\n",
        b"",
    ],
)
def test_a_head_that_is_not_strict_is_none(head: bytes) -> None:
    assert read_head(head)[1] == -1


# How they are judged ------------------------------------------------------------------------------------------------

ANN, BOB = 1, 2
ITEM, CLAIM = 77, "C" * 26


def an_answer(status: str = "no_prize", *, count: int = 1, at: str | None = "t0", **claim: Any) -> Reply:
    return read_reply(
        _json({
            "status": "valid", "code": "X", "scan": {"count": count, "first_at": "t0"},
            "claim": {"id": CLAIM, "status": status, "at": at, **claim},
        })
    )  # fmt: skip


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def asked(person: int, sent: int, told: int, reply: Reply | None, *, visit: int | None = None, said: str = "") -> Asked:
    found = said or (reply.claim.status if reply and reply.claim else "unknown")
    return Asked(person, person if visit is None else visit, sent, told, found, reply, frozenset((None, "tea")))


def new(**more: Any) -> Reply:
    return an_answer(**{"replayed": False, **more})


def again(**more: Any) -> Reply:
    return an_answer(**{"replayed": True, **more})


def taken(**more: Any) -> Reply:
    return an_answer("taken", **{"count": 2, **more})


UNKNOWN = "unknown"


@pytest.mark.parametrize(
    ("told", "kinds"),
    [
        ([asked(ANN, 0, 1, new())], set()),
        ([asked(ANN, 0, 1, new()), asked(ANN, 2, 3, again())], set()),
        ([asked(ANN, 0, 1, new()), asked(BOB, 2, 3, taken())], set()),
        # On their way at the same time: either may have been first.
        ([asked(ANN, 0, 5, taken()), asked(BOB, 1, 4, new())], set()),
        ([asked(ANN, 0, 5, again()), asked(ANN, 1, 4, new())], set()),
        # Unknown at first: the claim may have been made without anybody being told.
        ([asked(ANN, 0, 1, None), asked(ANN, 2, 3, again())], set()),
        ([asked(ANN, 0, 1, None), asked(BOB, 2, 3, taken())], set()),
        # Turned away: surely not executed.
        ([asked(ANN, 0, 1, None, said="overloaded"), asked(BOB, 2, 3, new())], set()),
        ([asked(ANN, 0, 1, None, said="overloaded"), asked(BOB, 2, 3, taken(count=1))], {"wrong_status"}),
        ([asked(ANN, 0, 1, new()), asked(BOB, 2, 3, new(count=2))], {"double_award", "lost_claim"}),
        ([asked(ANN, 0, 1, new()), asked(BOB, 2, 3, again(count=2))], {"double_award"}),
        ([asked(ANN, 0, 1, new()), asked(ANN, 2, 3, new())], {"lost_claim"}),
        ([asked(ANN, 0, 1, new()), asked(ANN, 2, 3, again(at="t1"))], {"changed_replay"}),
        ([asked(ANN, 0, 1, new()), asked(BOB, 2, 3, taken(at="t1"))], {"wrong_status"}),
        ([asked(ANN, 0, 1, new()), asked(BOB, 2, 3, an_answer("limited", count=2, at=None))],
         {"wrong_status", "lost_claim"}),
        ([asked(ANN, 0, 1, again())], {"changed_replay"}),
        ([asked(ANN, 0, 1, taken(count=1))], {"wrong_status"}),
        ([asked(ANN, 0, 1, new(count=2))], {"wrong_count"}),
        ([asked(ANN, 0, 1, new(count=0))], {"wrong_count"}),
        ([asked(ANN, 0, 1, new()), asked(ANN, 2, 3, again(count=2))], {"wrong_count"}),
        ([asked(ANN, 0, 1, new()), asked(ANN, 2, 3, again(count=2), visit=9)], set()),
        ([asked(ANN, 0, 1, new(status="awarded", prize={"id": "tea"}))], set()),
        ([asked(ANN, 0, 1, new(status="awarded", prize={"id": "car"}))], {"wrong_prize"}),
        ([asked(ANN, 0, 1, new(status="awarded"))], {"wrong_prize"}),
        ([asked(ANN, 0, 1, new(prize={"id": "tea"}))], {"wrong_prize"}),
        ([asked(ANN, 0, 1, new(id="D" * 26))], {"wrong_claim"}),
    ],
)  # fmt: skip
def test_answers_are_judged_by_who_asked_and_when(told: list[Asked], kinds: set[str]) -> None:
    verdict = Verdict()
    judge_code(ITEM, CLAIM, told, verdict, may_refuse=False)
    assert set(verdict.kinds) == kinds
    assert {wrong.item for wrong in verdict.answers} <= {ITEM}


def test_the_worst_is_listed_first_and_all_are_counted() -> None:
    verdict = Verdict()
    for number in range(500):
        verdict.add("wrong_count", number, "1 scan", "2 scans")
    verdict.add("double_award", 1, "a claim of one person", "claims of two persons")
    assert verdict.count == 501
    assert verdict.answers[0].kind == "double_award"
    assert len(verdict.answers) == 100


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, {"status": "valid", "claim": {"id": CLAIM, "status": "taken"}}, "taken"),
        (200, {"status": "invalid"}, "invalid"),
        (503, {"status": "valid", "claim": {"id": CLAIM, "status": "pending"}}, "pending"),
        (503, {"status": 503, "type": "urn:scanengine:problem:overloaded"}, "overloaded"),
        (503, {"status": 503, "type": "urn:scanengine:problem:unavailable"}, UNKNOWN),
        (429, {"status": 429, "type": "urn:scanengine:problem:too-many-bad-codes"}, "rate_limited"),
        (500, {"status": 500, "type": "urn:scanengine:problem:internal"}, UNKNOWN),
    ],
)
def test_what_a_reply_says(status: int, body: dict[str, Any], said: str) -> None:
    assert said_of(status, read_reply(_json(body))) == said


# How a run is watched -----------------------------------------------------------------------------------------------


def test_whoever_watches_sees_what_was_sent_and_answered_since(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "tape", Layout(4, 8, 10), is_new=True)
    sent, answered, status = (tape.column(name) for name in ("sent", "answered", "status"))
    look = Look(tape)
    assert len(look.look(0)) == 0
    for row, (sent_ns, answered_ns, found) in enumerate([(1, 0, 0), (2, 7, 200), (3, 9, LOST)]):
        sent[row], answered[row], status[row] = sent_ns, answered_ns, found
    assert look.look(0).tolist() == [5]
    assert (look.sent, look.answered, look.errors) == (3, 1, 1)
    answered[0], status[0] = 11, 503
    assert look.look(10).tolist() == [10]
    assert (look.sent, look.answered, look.errors) == (3, 2, 1)
    assert look.look(20).tolist() == []
    tape.column("lag")[2] = 6_000_000
    assert look.lag_ns(0, 25_000_000) == 6_000_000
    assert look.lag_ns(35_000_000, 45_000_000) == 0
    assert (tmp_path / "tape").stat().st_mode & 0o077 == 0


# What is measured ---------------------------------------------------------------------------------------------------


def a_timed(
    taken_ms: list[float], *, lag_ms: Sequence[float] = (1.0,), cpu_s: float = 0.1, wall_s: float = 1.0
) -> Timed:
    begun = np.arange(1, len(taken_ms) + 1, dtype=np.int64) * 1_000_000
    answered = begun + (np.array(taken_ms) * 1e6).astype(np.int64)
    yes = np.ones(len(taken_ms), np.bool_)
    lag = (np.array(lag_ms) * 1e6).astype(np.int64)
    return Timed(begun, begun, answered, yes, ~yes, lag, cpu_s, wall_s)


def test_percentiles_are_those_of_all_processes_together() -> None:
    latencies = latencies_of([a_timed([1.0] * 98), a_timed([50.0, 100.0])])
    assert latencies.count == 100
    assert latencies.p50_ms == pytest.approx(1.0, rel=0.002)
    assert latencies.p99_ms == pytest.approx(50.0, rel=0.002)
    assert latencies.max_ms == pytest.approx(100.0, rel=0.002)
    assert latencies.curve[-1][0] == 100.0
    assert [ms for _, ms in latencies.curve] == sorted(ms for _, ms in latencies.curve)
    assert latencies_of([]).count == 0


def test_windows_hold_what_happened_in_each_second() -> None:
    windows = windows_of([a_timed([10.0] * 500 + [2_000.0] * 100)])
    assert [window.sent for window in windows] == [600, 0, 0]
    assert [window.answered for window in windows] == [500, 0, 100]
    assert windows[2].p50_ms == pytest.approx(2_000)


def test_a_generator_that_was_late_or_busy_makes_a_run_void() -> None:
    late = [a_timed([1.0], lag_ms=[1.0] * 90 + [20.0] * 10)]
    assert lag_of(late, 1.0) == (20.0, 20.0)
    assert "fell behind by 20.0 ms" in void_reason(late, 20.0, 10.0)
    assert void_reason(late, 20.0, 30.0) == ""
    busy = [a_timed([1.0], cpu_s=0.99)]
    assert is_saturated(busy)
    assert "more --processes" in void_reason(busy, 1.0, 10.0)
    assert void_reason([a_timed([1.0])], 1.0, 10.0) == ""


# What the ledger says afterwards ------------------------------------------------------------------------------------


def test_a_ledger_that_holds_other_than_was_answered_is_told(tmp_path: Path) -> None:
    """Goal: a claim that nobody was told of, an award too many and a stock that was exceeded are all found."""
    workspace = make_workspace(tmp_path / "shop", "volatile")
    with scanengine.open(workspace.folder) as program:
        codes = Codes(program.keyring, [batch.codes for batch in program.snapshot.batches], np.random.default_rng(1))
        text = codes.take(1)[1][0].tobytes()[1:-1].decode()
        assert program.claim(text, user="ann").claim is not None
        target: Any = SimpleNamespace(
            workspace=workspace, settings=program.settings, keyring=program.keyring, snapshot=program.snapshot
        )
        answers = Answers(program.keyring, Prizes(program.engine), None, may_refuse=False)
    assert differences(target, answers)[:2] == [
        "the ledger has 1 claims, 0 were told of",
        "the ledger has counted 1 visits, 0 were answered",
    ]
    assert answers.verdict.count == 0
    answers.claims = answers.visits = 1
    answers.awards["car"] = 101
    found = differences(target, answers)
    assert found[-1] == "101 car were told of, there are 100"
    assert found[0] == "the ledger has given 0 car, 101 were told of"
    assert answers.verdict.kinds == {"overspent": 1}
