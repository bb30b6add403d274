"""``scanengine events``: readers, and following events beside a server, without one, and while it comes and goes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import Run, ok
from redis_servers import RedisServer, server_binaries, wait_until
from serving import WAIT_S, Market, Served, a_copy, a_market, in_threads, run_cli, serving, use_redis


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("events") / "shop")


@pytest.fixture(params=["sqlite", "redis"])
def market(
    request: pytest.FixtureRequest,
    template: Market,
    tmp_path: Path,
    redis_servers: Callable[[str], RedisServer],
) -> Market:
    market = a_copy(template, tmp_path / "shop")
    if request.param == "redis":
        use_redis(market, redis_servers(sorted(server_binaries())[0]).url())
    return market


@pytest.fixture
def sqlite(template: Market, tmp_path: Path) -> Market:
    return a_copy(template, tmp_path / "shop")


class Following:
    """A ``scanengine events follow`` process."""

    def __init__(self, market: Market, *options: object) -> None:
        command = [sys.executable, "-m", "scanengine", "-w", str(market.folder), "events", "follow", "accounts"]
        self.process = subprocess.Popen(
            [*command, "--json", *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def event(self) -> Any:
        """Return the next event."""
        return json.loads(self._lines.get(timeout=WAIT_S))

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, list[Any]]:
        """Stop the process; return its exit code, what it said, and the events that were left."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str, list[Any]]:
        code = self.process.wait(WAIT_S)
        self._reading.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()
        return code, said, [json.loads(self._lines.get()) for _ in range(self._lines.qsize())]


@contextmanager
def following(market: Market, *options: object) -> Iterator[Following]:
    process = Following(market, *options)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.ended()


def readers(market: Market, run: Run) -> dict[str, tuple[int, int]]:
    """Return what each reader has acknowledged, and what waits for it."""
    shown = json.loads(ok(run("-w", market.folder, "events", "readers", "--json")))
    return {held["reader"]: (held["acknowledged"], held["waiting"]) for held in shown["readers"]}


def claim_some(market: Market, run: Run, count: int, user: str = "ann") -> None:
    for _ in range(count):
        ok(run("-w", market.folder, "claim", market.take("cash"), "--user", user))


def test_what_was_written_is_acknowledged_and_not_written_again(market: Market, run: Run) -> None:
    assert ok(run("-w", market.folder, "events", "readers", "add", "accounts")) == "reader accounts is registered\n"
    claim_some(market, run, 3)
    follow = ("-w", market.folder, "events", "follow", "accounts", "--once")
    assert readers(market, run) == {"accounts": (0, 3)}
    events = [json.loads(line) for line in ok(run(*follow, "--json", "--no-ack")).splitlines()]
    assert [(event["seq"], event["user"], event["prize"]) for event in events] == [(n, "ann", 0) for n in (1, 2, 3)]
    assert [json.loads(line) for line in ok(run(*follow, "--json")).splitlines()] == events
    assert readers(market, run) == {"accounts": (3, 0)}
    assert ok(run(*follow)) == ""
    claim_some(market, run, 1, "bob")
    words = ok(run(*follow))
    assert words.startswith("4 ")
    assert words.endswith("batch cola user bob campaign spring prize 0 amount 8800\n")


def test_readers_come_and_go(market: Market, run: Run) -> None:
    words = ("-w", market.folder, "events")
    for name in ("accounts", "payouts", "abandoned"):
        ok(run(*words, "readers", "add", name))
    claim_some(market, run, 2)
    assert ok(run(*words, "ack", "accounts", 2)) == "reader accounts: acknowledged up to 2\n"
    assert ok(run(*words, "ack", "payouts", 1)) == "reader payouts: acknowledged up to 1\n"
    removed = ok(run(*words, "readers", "remove", "abandoned"))
    assert removed == "reader abandoned is removed; it had 2 events to go\n"
    assert readers(market, run) == {"accounts": (2, 0), "payouts": (1, 1)}
    listed = ok(run(*words, "readers")).split("\n")
    assert [line.split() for line in listed[1:4]] == [
        ["accounts", "2", "0"],
        ["payouts", "1", "1"],
        ["newest", "event", "2"],
    ]
    assert "events waiting 1 of 2" in ok(run("-w", market.folder, "ledger", "show"))


@pytest.mark.parametrize("is_served", [False, True])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("follow", "nobody"), "no reader 'nobody' is registered"),
        (("follow", "accounts", "--from", 9), "would acknowledge events 1 to 8"),
        (("ack", "nobody", 0), "no reader 'nobody' is registered"),
        (("ack", "accounts", 1), "acknowledges up to 1, but the newest event is 0"),
        (("ack", "accounts", 1 << 61), "but the newest event is 0"),
        (("ack", "accounts", 1 << 65), "is not in the range"),
        (("ack", "--", "accounts", -1), "is not in the range"),
        (("ack", "a b", 0), "a reader's name is"),
        (("readers", "add", "a/b"), "a reader's name is"),
        (("readers", "add", ""), "a reader's name is"),
        (("readers", "remove", "nobody"), "no reader 'nobody' is registered"),
    ],
)
def test_what_cannot_be_is_said(
    market: Market, run: Run, words: tuple[object, ...], message: str, is_served: bool
) -> None:
    ok(run("-w", market.folder, "events", "readers", "add", "accounts"))

    def check() -> None:
        done = run("-w", market.folder, "events", *words)
        assert (done.code in (1, 2), done.out) == (True, "")
        assert message in done.err

    if is_served:
        with serving(market.folder):
            check()
    else:
        check()


def test_there_is_nothing_to_follow_before_the_first_ledger(sqlite: Market, run: Run) -> None:
    for words in (("follow", "accounts"), ("readers",)):
        done = run("-w", sqlite.folder, "events", *words)
        assert (done.code, "there is no ledger" in done.err) == (1, True)
    assert not sqlite.shop.workspace.ledger_path.exists()


def test_every_event_of_a_loaded_server_is_followed_once_and_in_order(market: Market, run: Run) -> None:
    """Goal: nothing is missed or written twice while claims come from several clients."""
    with serving(market.folder) as served:
        ok(run("-w", market.folder, "events", "readers", "add", "accounts"))

        def claim(number: int) -> list[str]:
            with served.client() as client:
                codes = [market.take("load") for _ in range(60)]
                return [client.claim(code, f"user-{number}")["claim"]["id"] for code in codes]

        with following(market) as process:
            told = sorted(chain.from_iterable(in_threads(3, claim)))
            events = [process.event() for _ in told]
            code, said, left = process.stop()
        assert (code, said, left) == (0, "", [])
        assert sorted(event["claim"] for event in events) == told
        assert [event["seq"] for event in events] == list(range(1, len(told) + 1))
        assert readers(market, run) == {"accounts": (len(told), 0)}


def test_a_server_may_come_go_and_die_while_events_are_followed(sqlite: Market, run: Run) -> None:
    """Goal: whoever waits for events does not hold the ledger, and finds it again wherever it is."""
    ok(run("-w", sqlite.folder, "events", "readers", "add", "accounts"))
    with following(sqlite) as process:
        for ending in ("stop", "kill", "stop"):
            served = Served(sqlite.folder)
            with served.client() as client:
                claim = client.claim(sqlite.take("cash"), "ann")["claim"]
            assert process.event()["claim"] == claim["id"]
            getattr(served, ending)()
        claim_some(sqlite, run, 1, "bob")
        assert process.event()["user"] == "bob"
        wait_until(lambda: readers(sqlite, run) == {"accounts": (4, 0)}, "the acknowledgement")
        code, _, left = process.stop(signal.SIGTERM)
    assert (code, left) == (0, [])


def test_events_are_written_again_from_any_that_is_kept(market: Market, run: Run) -> None:
    for name in ("accounts", "late"):
        ok(run("-w", market.folder, "events", "readers", "add", name))
    claim_some(market, run, 4)
    follow = ("-w", market.folder, "events", "follow", "accounts", "--once", "--json")
    assert len(ok(run(*follow)).splitlines()) == 4
    assert [json.loads(line)["seq"] for line in ok(run(*follow, "--from", 3)).splitlines()] == [3, 4]
    ok(run("-w", market.folder, "events", "ack", "late", 2))
    done = run(*follow, "--from", 1)
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [3, 4]
    assert (done.code, "events up to 2 are gone" in done.err) == (0, True)


def test_what_could_not_be_written_is_not_acknowledged(market: Market, run: Run) -> None:
    ok(run("-w", market.folder, "events", "readers", "add", "accounts"))
    claim_some(market, run, 2)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "scanengine", "-w", str(market.folder), "events", "follow", "accounts", "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=WAIT_S, check=False)
    os.close(writing)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert readers(market, run) == {"accounts": (0, 2)}


def test_a_redis_that_goes_away_is_waited_for(
    template: Market, tmp_path: Path, run: Run, start_server: Callable[..., RedisServer]
) -> None:
    market, server = a_copy(template, tmp_path / "shop"), start_server(config={"appendonly": "yes"})
    use_redis(market, server.url(), timeout_s=0.5)
    ok(run("-w", market.folder, "events", "readers", "add", "accounts"))
    claim_some(market, run, 1)
    with following(market) as process:
        assert process.event()["seq"] == 1
        wait_until(lambda: readers(market, run) == {"accounts": (1, 0)}, "the acknowledgement")
        server.kill()
        server.restart()
        claim_some(market, run, 1)
        assert process.event()["seq"] == 2
        assert process.stop()[0] == 0


def test_help_names_every_command() -> None:
    done = run_cli(Path("."), "events", "--help")
    assert done.returncode == 0
    for word in ("ack", "follow", "readers"):
        assert f"\n  {word} " in done.stdout
