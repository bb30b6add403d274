"""Operators' commands beside a loaded server: what they say and do is right while claims come from all sides."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redis_servers import RedisServer, server_binaries, wait_until
from serving import PURSE_UNITS, Market, Served, a_market, run_cli, serving, use_redis

CLIENTS = 3
ADDED = (3, 4, 5)
"""Awards' worth of money that each adjustment adds."""


class Load:
    """Clients that look at codes without a pause, and claim as many fresh ones as they are told to."""

    def __init__(self, market: Market, server: Served) -> None:
        self._codes = iter([market.take("purse") for _ in range(900)])
        self._server = server
        self._lock = threading.Lock()
        self._looked_at = market.take("cash")
        self._permits = threading.Semaphore(0)
        self.permitted = 0
        self._is_over = threading.Event()
        self.claims: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def begin(self, count: int) -> None:
        """Let so many more claims be made, from now on."""
        self.permitted += count
        self._permits.release(count)

    def more(self, count: int) -> None:
        """Let so many more claims be made, and wait for the answers to all."""
        if count:
            self.begin(count)
        wait_until(lambda: len(self.claims) == self.permitted or self.errors, "claims")

    def _work(self, number: int) -> None:
        try:
            with self._server.client() as client:
                while not self._is_over.is_set():
                    if not self._permits.acquire(blocking=False):
                        assert client.get(f"/v1/codes/{self._looked_at}").json["status"] == "valid"
                        continue
                    with self._lock:
                        code = next(self._codes)
                    self.claims.append(client.claim(code, f"user-{number}-{code}")["claim"])
        except BaseException as error:  # noqa: BLE001 - seen by the test
            self.errors.append(error)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_commands_are_right_beside_a_loaded_server(
    tmp_path: Path, redis_servers: Callable[[str], RedisServer], kind: str
) -> None:
    market = a_market(tmp_path / "shop")
    if kind == "redis":
        use_redis(market, redis_servers(sorted(server_binaries())[0]).url())

    def command(*words: object) -> str:
        done = run_cli(market.folder, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def purse() -> Any:
        totals = json.loads(command("ledger", "show", "--json"))["totals"]
        return next(held for held in totals["campaigns"] if held["id"] == "purse")

    command("events", "readers", "add", "accounts")
    with serving(market.folder) as server, Load(market, server) as load:
        load.more(PURSE_UNITS + 5)
        for number, units in enumerate(ADDED):
            load.begin(8)
            words = ("ledger", "adjust", "purse", "budget", "--amount", units * 8800, "--id", f"a{number}")
            assert command(*words) == "campaign purse: budget applied\n"
            assert "was applied before" in command(*words)
            load.more(units + CLIENTS)
            # Every award that money is there for was made, and none beyond.
            before = len(load.claims)
            load.begin(8)
            shown = purse()
            assert shown["money"] == (PURSE_UNITS + sum(ADDED[: number + 1])) * 8800
            assert before <= shown["claims"] <= load.permitted
            assert "everything agrees" in command("audit")
        command("ledger", "adjust", "purse", "pause", "--id", "p")
        load.more(0)
        before = len(load.claims)
        load.more(9)
        paused = load.claims[before:]
        command("ledger", "adjust", "purse", "resume", "--id", "r")
        load.more(9)
    assert load.errors == []
    assert {(claim["status"], claim["reason"]) for claim in paused} == {("closed", "paused")}
    outcomes = Counter(claim["status"] for claim in load.claims)
    assert outcomes["awarded"] == PURSE_UNITS + sum(ADDED)
    assert outcomes.keys() == {"awarded", "no_prize", "closed"}
    recorded = sorted(claim["id"] for claim in load.claims if claim["status"] != "closed")
    events = command("events", "follow", "accounts", "--once", "--json").splitlines()
    assert sorted(json.loads(line)["claim"] for line in events) == recorded
    assert "everything agrees" in command("audit")
