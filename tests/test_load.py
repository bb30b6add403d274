"""``scanengine load``: right runs are right on every ledger, planted faults are found, nothing is left behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from helpers import KEYS, Shop
from load_stand_in import Before, Fault, StandIn, standing_in
from redis_servers import RedisServer, newest_binary, wait_until
from scanengine.errors import SettingsError
from scanengine.keys import load_keyring
from scanengine.load.options import Options
from scanengine.load.results import LoadResult, Mix
from scanengine.load.target import Target, target_at
from scanengine.load.whole import Search, load
from scanengine.model import SegmentState
from scanengine.program.importing import import_batch
from scanengine.program.moving import no_progress
from scanengine.program.publishing import SceneChange, create_batch, create_workspace
from scanengine.program.settings import load_settings
from scanengine.tables.workspace import Workspace
from serving import BOTH, EVERYONE, WAIT_S, a_campaign, run_cli, serving

QUICK = Options(
    requests=600, connections=8, warmup_s=0.05, mix=Mix(60, 15, 20, 5), people=500, lag_s=WAIT_S, seed=7,
)  # fmt: skip
"""A run that is never void, however busy this machine is: that is tested by itself."""
TEST_CODES, ODD_CODES = 20_000, 300


def a_shop_for_tests(folder: Path, *, tokens: bool = False) -> Shop:
    """A shop with real codes, generated test codes, and imported test codes that JSON must escape."""
    workspace = create_workspace(folder)
    workspace.keys_path.write_text(KEYS if tokens else KEYS.partition("[[tokens]]")[0])
    shop = Shop(workspace, load_keyring(workspace.keys_path))
    create_batch(workspace, shop.keyring, "cola", 1_000)
    create_batch(workspace, shop.keyring, "trial", TEST_CODES, test=True)
    odd = "".join(f'"{number}\\%/{"x" * (number % 30)}\n' for number in range(ODD_CODES)).encode()
    import_batch(workspace, shop.keyring, "odd", io.BytesIO(odd), test=True, progress=no_progress)
    shop.publish(a_campaign("spring", EVERYONE), "spring")
    for label, count in (("cola", 1_000), ("trial", TEST_CODES), ("odd", ODD_CODES)):
        shop.assign(0, count, SceneChange(SegmentState.ACTIVE, BOTH, "spring"), label)
    return shop


@pytest.fixture(scope="module")
def fresh_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return a_shop_for_tests(tmp_path_factory.mktemp("load") / "shop")


@pytest.fixture
def shop(fresh_shop: Shop, tmp_path: Path) -> Shop:
    """A copy, as making one anew takes longer."""
    shutil.copytree(fresh_shop.folder, tmp_path / "shop")
    return Shop(Workspace(tmp_path / "shop"), fresh_shop.keyring)


def target_of(shop: Shop, port: int, *labels: str) -> Target:
    settings = load_settings(shop.workspace.settings_path)
    return target_at(f"http://127.0.0.1:{port}", shop.workspace, settings, shop.keyring, labels or ("trial",))


def load_stand_in(
    shop: Shop, fault: Fault | None = None, options: Options = QUICK, *, before: Before | None = None
) -> LoadResult:
    """Put a server with a fault under load."""
    with standing_in(shop.folder, fault, before=before) as stand_in:
        return load(target_of(shop, stand_in.port), options, shop.folder.parent)


def kinds_of(result: LoadResult) -> set[str]:
    return {wrong.kind for wrong in result.outcome.wrong_answers}


# Own servers --------------------------------------------------------------------------------------------------------


def run_load(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a temporary folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "scanengine", "load", *map(str, arguments)],
        env={**os.environ, "TMPDIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )


SMALL = ("--requests", 1500, "--connections", 8, "--warmup", "50ms", "--lag", "1m", "--json")


@pytest.mark.parametrize("ledger", ["sqlite", "redis", "url"])
def test_an_own_server_is_right_and_nothing_is_left(tmp_path: Path, ledger: str) -> None:
    """Goal: on every ledger all answers agree with the ledger, and workspace, processes and keys are gone after."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with RedisServer(newest_binary(), tmp_path / "redis") as redis:
        done = run_load(scratch, "--ledger", redis.url() if ledger == "url" else ledger, *SMALL)
        assert redis.client().dbsize() == 0
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    outcome, audit = result["outcome"], result["audit"]
    assert result["profile"]["ledger"] == ("sqlite" if ledger == "sqlite" else "redis")
    assert result["profile"]["durability"] == {"sqlite": "strict", "redis": "everysec", "url": "volatile"}[ledger]
    assert (outcome["wrong"], outcome["errors"], outcome["unsettled"]) == (0, {}, 0)
    assert outcome["sent"] == outcome["answered"] == 1500 == sum(outcome["counts"].values())
    assert outcome["counts"].keys() >= {"awarded", "no_prize", "replayed", "taken", "invalid"}
    assert sum(outcome["prizes"].values()) == outcome["counts"]["awarded"]
    assert audit["claims"] == audit["events"] == audit["acknowledged"] > outcome["counts"]["no_prize"]
    assert (audit["lost"], audit["changed"], audit["problems"]) == (0, 0, 0)
    assert sum(window["sent"] for window in result["windows"]) == 1500
    assert outcome["latencies"]["count"] == 1500
    assert list(scratch.iterdir()) == []


def test_the_stock_of_a_prize_is_not_exceeded_and_codes_are_never_used_twice(tmp_path: Path) -> None:
    done = run_load(tmp_path, *SMALL, "--mix", "new=1", "--keep", "--processes", 2)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcome"]["counts"].keys() == {"awarded", "no_prize"}
    (shop,) = tmp_path.glob("*/shop")
    shown = json.loads(run_cli(shop, "ledger", "show", "--json").stdout)
    assert shown["totals"]["claims"] == result["audit"]["claims"]
    (held,) = shown["totals"]["campaigns"]
    assert held["awards"].get("0", 0) <= 100
    witness = next(tmp_path.glob("*/witness.ndjson"))
    assert witness.stat().st_mode & 0o077 == 0
    assert "everything agrees" in run_cli(shop, "audit", "--witness", witness).stdout


def children_of(pid: int) -> set[int]:
    """Return the numbers of all processes that a process has started, and of those that they have."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def commands(pids: set[int]) -> str:
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return "\n".join(found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_test_stops_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    words = ("load", "--ledger", "redis", "--duration", "1h", "--rate", "50/s", "--warmup", "50ms")
    process = subprocess.Popen(
        [sys.executable, "-m", "scanengine", *words],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started: set[int] = set()

    def is_running() -> bool:
        nonlocal started
        started |= children_of(process.pid)
        return "load.client" in commands(started)

    try:
        wait_until(is_running, "the load to begin")
        assert "serve" in commands(started)
        assert "redis" in commands(started) or "valkey" in commands(started)
        process.send_signal(number)
        assert process.wait(WAIT_S) != 0
    finally:
        process.kill()
        process.wait()
    left = {pid for pid in started if Path(f"/proc/{pid}").exists()}
    assert commands(left) == ""
    assert list(tmp_path.iterdir()) == []


# A server at a URL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["trial", "odd"])
def test_a_server_at_a_url_is_asked_with_test_codes_only(shop: Shop, label: str) -> None:
    options = QUICK if label == "trial" else Options(**{**as_dict(QUICK), "requests": 200})
    witness = shop.folder.parent / "witness.ndjson"
    with serving(shop.folder) as served:
        target = target_of(shop, served.port, label)
        first = load(target, options, shop.folder.parent, witness_path=witness)
        assert (first.outcome.wrong, first.outcome.errors) == (0, {})
        if label == "trial":
            # Codes are fresh in every run, although nothing is remembered between them.
            second = load(target, options, shop.folder.parent)
            assert second.outcome.wrong == 0
            assert second.outcome.counts.keys() == first.outcome.counts.keys()
    assert first.audit is None
    done = run_cli(shop.folder, "audit", "--witness", witness)
    assert "everything agrees" in done.stdout
    shown = json.loads(run_cli(shop.folder, "ledger", "show", "--json").stdout)
    assert [held["id"] for held in shown["totals"]["campaigns"]] == ["spring~test"]


def as_dict(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__struct_fields__}


def changed(options: Options, **values: Any) -> Options:
    return Options(**{**as_dict(options), **values})


def test_real_codes_are_refused_by_the_name_of_their_batch(shop: Shop) -> None:
    with standing_in(shop.folder) as stand_in:
        with pytest.raises(SettingsError, match="--batch cola: these codes are worth money"):
            target_of(shop, stand_in.port, "trial", "cola")
        with pytest.raises(SettingsError, match=r"--batch pepsi: .* has no such batch"):
            target_of(shop, stand_in.port, "pepsi")
        done = run_cli(shop.folder, "load", "--url", f"http://127.0.0.1:{stand_in.port}", "--batch", "cola")
        assert done.returncode == 1
        assert "cola" in done.stderr
        assert "Traceback" not in done.stderr
        assert stand_in.scans == 0


def test_more_codes_than_there_are_is_said_before_anything_is_sent(shop: Shop) -> None:
    with (
        standing_in(shop.folder) as stand_in,
        pytest.raises(SettingsError, match=r"fresh codes are needed .* batch create LABEL --test"),
    ):
        load(target_of(shop, stand_in.port, "odd"), changed(QUICK, requests=5_000), shop.folder.parent)


def test_a_server_with_tokens_needs_one_and_does_not_show_it(tmp_path: Path) -> None:
    shop = a_shop_for_tests(tmp_path / "shop", tokens=True)
    with serving(shop.folder) as served:
        words = ("--url", f"http://127.0.0.1:{served.port}", "--requests", 100, "--connections", 2, "--warmup", "50ms")
        command = [sys.executable, "-m", "scanengine", "-w", str(shop.folder), "load", *map(str, words), "--lag", "1m"]

        def run(token: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, env={**os.environ, "SCANENGINE_TOKEN": token}, capture_output=True, text=True,
                timeout=WAIT_S, check=False,
            )  # fmt: skip

        without, wrong, right = run(""), run("a-wrong-token"), run("a-token-for-tests-only")
    for refused in (without, wrong):
        assert refused.returncode == 1
        assert "SCANENGINE_TOKEN" in refused.stderr
    assert right.returncode == 0, right.stderr
    assert "token-for-tests" not in right.stdout + right.stderr
    assert "a-wrong-token" not in wrong.stdout + wrong.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--url", "http://127.0.0.1:1"), "does not answer"),
        (("--url", "ftp://127.0.0.1"), "--url is the server's address"),
        (("--url", "http://[::"), "--url is the server's address"),
        (("--url", "http://127.0.0.1:99999"), "--url is the server's address"),
        (("--url", "http://ann:secret@127.0.0.1:1"), "takes no user and password"),
        (("--url", "http://127.0.0.1:1", "--ledger", "redis"), "--ledger is of an own server"),
        (("--batch", "trial"), "--batch goes with --url"),
        (("--ledger", "postgres://ann:secret@db"), "--ledger is sqlite, redis, or a URL"),
        (("--ledger", "redis://ann:secret@127.0.0.1:1/0"), "takes no claims now"),
        (("--durability", "volatile"), "an SQLite ledger is strict"),
        (("--workers", "2"), "an SQLite ledger is strict and has one worker"),
        (("--ramp", "1s"), "--rate"),
        (("--rate", "5/s", "--ramp", "20s"), "--ramp 20s is longer"),
        (("--rate", "0"), "is not a rate"),
        (("--duration", "10"), "is not a duration"),
        (("--duration", "-1s"), "is not a duration"),
        (("--mix", "new=0,taken=5"), "new must be above 0"),
        (("--mix", "new=1,stolen=5"), "'stolen' is none of"),
        (("--mix", "new=1,new=2"), "found 'new=2'"),
        (("--people", "1"), "another person is needed"),
        (("--regions", "31=1,x=2"), "'x' is not an adcode"),
        (("--burst", "3x:10s/2s"), "shorter than what they are part of"),
        (("--processes", "9", "--connections", "8"), "each needs a connection"),
        (("--at", "70%"), "--at goes with --find-max"),
        (("--at", "700%", "--find-max"), "is not a share"),
        (("--find-max", "--rate", "5"), "finds the rate itself"),
        (("--requests", "5", "--duration", "5s"), "not both"),
        (("--export-wrk", "out"), "--export-wrk goes with --url"),
        (("--rate", "10000000/s", "--duration", "1h"), "more than one run can hold"),
        (("--report", "card.docx"), ".html"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words(
    run: Callable[..., Any], shop: Shop, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], why: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(shop.folder.parent))
    done = run("-w", shop.folder, "load", *words)
    assert done.code in (1, 2)
    assert why in " ".join(done.err.replace("│", " ").split())
    assert "secret" not in done.out + done.err


# Faults -------------------------------------------------------------------------------------------------------------


def is_recorded(answer: dict[str, Any]) -> bool:
    return bool(answer.get("claim")) and answer["claim"]["status"] in ("awarded", "no_prize")


def wrong_prize(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if is_recorded(answer) and answer["claim"].get("prize") and server.answers % 7 == 0:
        prize = answer["claim"]["prize"]
        prize["id"] = "cash-88" if prize["id"] == "points-10" else "points-10"
    return answer


def second_award(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("claim") and answer["claim"]["status"] == "taken" and server.answers % 7 == 0:
        answer["claim"] = {**server.first[scan["code"]], "replayed": False}
    return answer


def changed_replay(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if is_recorded(answer) and answer["claim"]["replayed"] and server.answers % 3 == 0:
        answer["claim"]["at"] = "2026-01-01T00:00:00.000+08:00"
    return answer


def lost_claim(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if is_recorded(answer) and answer["claim"]["replayed"] and server.answers % 3 == 0:
        answer["claim"]["replayed"] = False
    return answer


def forgotten_taken(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("claim") and answer["claim"]["status"] == "taken" and server.answers % 3 == 0:
        answer["claim"] = {"id": answer["claim"]["id"], "status": "limited", "reason": "per_user"}
    return answer


def wrong_code(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if answer["status"] == "valid" and server.answers % 50 == 0:
        answer["code"] = next(iter(server.first))
    return answer


def wrong_claim(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if answer["status"] == "valid" and server.answers % 50 == 0:
        answer["claim"]["id"] = "0" * 26
    return answer


def good_forgery(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "status": "valid"} if answer["status"] == "invalid" else answer


def visits_counted_twice(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("scan") and server.answers % 50 == 0:
        answer["scan"]["count"] += 1
    return answer


def no_answer_at_all(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {"hello": "world"} if server.answers % 50 == 0 else answer


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (wrong_prize, "wrong_prize"),
        (second_award, "double_award"),
        (changed_replay, "changed_replay"),
        (lost_claim, "lost_claim"),
        (forgotten_taken, "lost_claim"),
        (wrong_code, "wrong_code"),
        (wrong_claim, "wrong_claim"),
        (good_forgery, "wrong_status"),
        (visits_counted_twice, "wrong_count"),
        (no_answer_at_all, "not_a_reply"),
    ],
)
def test_a_planted_fault_is_found(shop: Shop, fault: Fault, kind: str) -> None:
    result = load_stand_in(shop, fault)
    assert kind in kinds_of(result)
    assert not result.is_right
    assert result.outcome.wrong >= len(result.outcome.wrong_answers) > 0


def test_the_same_server_without_a_fault_is_right(shop: Shop) -> None:
    result = load_stand_in(shop)
    assert (result.outcome.wrong, result.outcome.errors) == (0, {})
    assert result.is_right
    assert result.outcome.answered == QUICK.requests


def test_a_double_award_makes_exit_code_1_and_comes_first(shop: Shop) -> None:
    with standing_in(shop.folder, second_award) as stand_in:
        words = ("--url", f"http://127.0.0.1:{stand_in.port}", "--batch", "trial", "--requests", 600, "--lag", "1m")
        done = run_cli(shop.folder, "load", *words, "--warmup", "50ms", "--connections", 8)
    assert done.returncode == 1
    assert "wrong" in done.stdout.lower().partition("scans an hour")[0]
    assert "Traceback" not in done.stderr


def lost_reply(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
    """The claim is made, and the connection ends before its answer."""
    return None if server.answers % 40 == 0 else answer


def pending_reply(server: StandIn, scan: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The claim is made, and nobody knows."""
    if is_recorded(answer) and server.answers % 40 == 0:
        answer["claim"] = {"id": answer["claim"]["id"], "status": "pending"}
        answer["http_status"] = 503
    return answer


@pytest.mark.parametrize(("fault", "name"), [(lost_reply, "lost"), (pending_reply, "pending")])
def test_what_had_no_answer_is_asked_again_and_judged(shop: Shop, fault: Fault, name: str) -> None:
    """Goal: an outcome that is unknown is no wrong answer, and is known in the end."""
    result = load_stand_in(shop, fault)
    outcome = result.outcome
    assert (outcome.wrong, outcome.unsettled) == (0, 0), outcome.wrong_answers
    assert outcome.settled > 0
    assert (outcome.errors if name == "lost" else outcome.counts)[name] > 0


async def shed(server: StandIn) -> web.Response | None:
    if server.scans % 10:
        return None
    body = {"type": "urn:scanengine:problem:overloaded", "title": "Overloaded", "status": 503}
    return web.json_response(body, status=503, content_type="application/problem+json")


def test_scans_that_were_turned_away_are_counted_apart(shop: Shop) -> None:
    """Method: whoever is turned away was not served, so whoever asks next for the code is the first."""
    outcome = load_stand_in(shop, before=shed).outcome
    assert outcome.wrong == 0, outcome.wrong_answers
    assert outcome.counts["overloaded"] > QUICK.requests // 20
    assert outcome.errors == {}
    assert outcome.settled == 0


# Time ---------------------------------------------------------------------------------------------------------------


def stalls_once(after: int) -> Before:
    """Return what stops every scan for a second, once, when so many were asked."""
    resumed: list[float] = []

    async def stall(server: StandIn) -> None:
        loop = asyncio.get_running_loop()
        if server.scans > after and not resumed:
            resumed.append(loop.time() + 1.0)
        if resumed and loop.time() < resumed[0]:
            await asyncio.sleep(resumed[0] - loop.time())

    return stall


def test_an_open_loop_counts_the_time_that_scans_waited(shop: Shop) -> None:
    """Goal: who would have come while the server stood still is not left out (coordinated omission).

    Method: 2 s at 100/s with a stall of 1 s over 4 connections: half of all scans are due during it. The warm-up is a
    tenth of the run.
    """
    mix = Mix(1)
    options = changed(QUICK, requests=200, rate=100.0, connections=4, mix=mix)
    latencies = load_stand_in(shop, None, options, before=stalls_once(20 + 30)).outcome.latencies
    assert latencies.count == 200
    assert latencies.p99_ms >= 900
    assert latencies.p90_ms >= 500
    # Another server, asked by a closed loop: each of the 4 connections waits once, and nobody else comes.
    closed = load_stand_in(shop, None, changed(QUICK, connections=4, mix=mix), before=stalls_once(300))
    waited = sum(window.answered for window in closed.windows)
    assert waited == QUICK.requests
    assert closed.outcome.latencies.max_ms >= 900


def test_a_generator_that_was_stopped_makes_the_run_void(tmp_path: Path, shop: Shop) -> None:
    """Method: SIGSTOP for the client, which then cannot send what is due, and SIGCONT half a second later.

    The warm-up is a tenth of the run.
    """
    stopped = threading.Event()

    async def stop_client(server: StandIn) -> None:
        if server.scans > 100 and not stopped.is_set():
            stopped.set()
            found = [pid for pid in children_of(os.getpid()) if "load.client" in commands({pid})]
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.5)
            for pid in found:
                os.kill(pid, signal.SIGCONT)

    options = changed(QUICK, requests=300, rate=100.0, mix=Mix(1), lag_s=0.2)
    outcome = load_stand_in(shop, None, options, before=stop_client).outcome
    assert stopped.is_set()
    assert outcome.is_void
    assert "fell behind" in outcome.void_reason
    assert outcome.lag_max_ms >= 400
    assert outcome.wrong == 0


def test_the_search_finds_a_rate_and_the_test_runs_at_a_share_of_it(shop: Shop) -> None:
    with standing_in(shop.folder) as stand_in:
        target = target_of(shop, stand_in.port)
        seen: list[Any] = []
        options = changed(QUICK, requests=0, duration_s=0.3, connections=8, mix=Mix(1))
        search = Search(p99_ms=60_000.0, step_s=0.2, at=0.5)
        result = load(target, options, shop.folder.parent, search=search, on_step=seen.append)
    assert result.steps == seen
    assert [step.rate is None for step in result.steps][:1] == [True]
    assert any(step.is_good and step.rate == result.best_rate for step in result.steps)
    assert result.profile.rate == pytest.approx(result.best_rate / 2)
    assert result.outcome.wrong == 0


def test_a_server_that_stops_answering_ends_the_test_all_the_same(shop: Shop) -> None:
    """Goal: bounded, whatever the server does. Method: it goes silent after some scans; timeouts are short."""

    async def silence(server: StandIn) -> None:
        if server.scans > 200:
            await server.ended.wait()

    options = changed(QUICK, requests=400, rate=200.0, timeout_s=0.5, mix=Mix(1))
    outcome = load_stand_in(shop, None, options, before=silence).outcome
    assert outcome.errors["timeout"] > 100
    assert outcome.unsettled > 0
    assert outcome.wrong == 0
