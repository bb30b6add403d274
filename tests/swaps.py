"""Publish scenes again and again while a server is scanned at, and check every answer against what was published.

    python tests/swaps.py --swaps 100
    python tests/swaps.py --swaps 100 --ledger redis

Threads look at codes and claim without a pause. Meanwhile the codes go from ``active`` to ``frozen`` and back, by
``PUT /v1/batches/cola/scenes`` and every fifth time by the command. No request may fail. An answer to a request that
began when one publication was served and ended before the next was begun must show exactly that one's state; an answer
in between, one of the two. Every swap is served before the next is made. Exit code 1 on a violation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis_servers import RedisServer, newest_binary
from serving import PLACES, Client, Market, Served, a_market, run_cli, serving, use_redis

ADMIN = "an-admins-token-for-tests-only"
KEYS = f'[[tokens]]\nname = "boss"\ntoken = "{ADMIN}"\nadmin = true\n'
LOOKERS, CLAIMERS = 2, 2
BY_COMMAND = 5
"""One swap of so many is made by the command."""
STATES = ("valid", "frozen")
"""What codes are after an even and an odd number of swaps."""
LOOKS_MAX = 20_000
"""How often to look for a publication until it has to be served by all workers."""


@dataclass
class Report:
    """What happened."""

    swaps: int = 0
    requests: int = 0
    in_between: int = 0
    """Answers to requests during which a publication was made."""
    statuses: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"swaps              {self.swaps}", f"requests           {self.requests:,}"]
        lines += [f"during a swap      {self.in_between:,}"]
        lines += [f"{status:<18} {count:,}" for status, count in sorted(self.statuses.items())]
        lines += [f"VIOLATION          {text}" for text in self.violations[:20]]
        return "\n".join([*lines, "no violation" if not self.violations else f"{len(self.violations)} violations"])


class Swapping:
    """One market and its server under load, and the swaps made meanwhile."""

    def __init__(self, market: Market, server: Served) -> None:
        self.report = Report()
        self.begun = 0
        """Publications that may be served already."""
        self.served = 0
        """Publications that are served for certain."""
        self._market = market
        self._server = server
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        start, end, _ = PLACES["load"]
        self._range = [start, end]
        self._codes = market.shop.codes(start, end)
        self._to_claim = itertools.cycle(self._codes[1000:])

    def run(self, swaps: int) -> Report:
        """Make so many swaps under load."""
        threads = [threading.Thread(target=self._work, args=(self._look,)) for _ in range(LOOKERS)]
        threads += [threading.Thread(target=self._work, args=(self._claim,)) for _ in range(CLAIMERS)]
        for thread in threads:
            thread.start()
        try:
            with self._server.client(ADMIN) as admin:
                for number in range(swaps):
                    self._swap(admin, number)
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()
        return self.report

    # The load ------------------------------------------------------------------------------------------------------

    def _work(self, ask: Any) -> None:
        """Ask without a pause until all swaps are made; a request that fails is a violation."""
        try:
            with self._server.client(ADMIN) as client:
                for number in itertools.count():
                    if self._is_over.is_set():
                        return
                    ask(client, number)
        except Exception as error:  # noqa: BLE001 - whatever a request fails of
            self._violation(f"a request failed: {error!r}")

    def _look(self, client: Client, number: int) -> None:
        served = self.served
        reply = client.get(f"/v1/codes/{self._codes[number % 1000]}")
        self._check(reply.status, reply.json, served)

    def _claim(self, client: Client, number: int) -> None:
        with self._lock:
            code = next(self._to_claim)
        served = self.served
        reply = client.post("/v1/scans", {"code": code, "user": f"user-{code[:4]}"})
        answer = reply.json
        self._check(reply.status, answer, served)
        claim = answer.get("claim")
        if claim is not None and claim["replayed"]:
            return  # What was claimed stays, whatever the state is now.
        status = None if claim is None else claim["status"]
        if (status in ("awarded", "no_prize")) != (answer.get("status") == "valid"):
            self._violation(f"a claim of a {answer.get('status')} code is {status}")

    def _check(self, status: int, answer: Any, served: int) -> None:
        begun = self.begun
        expected = {STATES[number % 2] for number in range(served, begun + 1)}
        found = answer.get("status")
        with self._lock:
            self.report.requests += 1
            self.report.in_between += begun > served
            self.report.statuses[found] += 1
        if status != 200:
            self._violation(f"HTTP status {status}: {answer}")
        elif found not in expected:
            self._violation(f"{found} instead of {expected} with publications {served} to {begun}")

    def _violation(self, text: str) -> None:
        with self._lock:
            self.report.violations.append(text)

    # The swaps -----------------------------------------------------------------------------------------------------

    def _swap(self, admin: Client, number: int) -> None:
        self.begun += 1
        state = "frozen" if STATES[self.begun % 2] == "frozen" else "active"
        if number % BY_COMMAND == BY_COMMAND - 1:
            words = ("--range", ":".join(map(str, self._range)), "--state", state)
            done = run_cli(self._market.folder, "scenes", "set", "cola", *words)
            generation = int(done.stdout.split("generation ")[1].split()[0]) if done.returncode == 0 else -1
            said: object = done.stderr
        else:
            body = json.dumps({"range": self._range, "state": state}).encode()
            reply = admin.ask("PUT", "/v1/batches/cola/scenes", body)
            generation, said = reply.json.get("generation", -1), reply.body
        if generation < 0:
            self._violation(f"swap {number} failed: {said!r}")
            return
        self._until_served(admin, generation)
        self.served = self.begun
        self.report.swaps += 1

    def _until_served(self, admin: Client, generation: int) -> None:
        for _ in range(LOOKS_MAX):
            metrics = admin.metrics()
            found = [value for key, value in metrics.items() if key[0] == "scanengine_generation"]
            if min(found) >= generation:
                return
        self._violation(f"generation {generation} is not served")


def run(folder: Path, swaps: int, redis_url: str | None = None) -> Report:
    """Make a market in a new folder, swap so often and return what happened."""
    market = a_market(folder, tokens=True)
    keys_path = market.shop.workspace.keys_path
    keys_path.write_text(keys_path.read_text() + KEYS)
    options: tuple[object, ...] = ()
    if redis_url is not None:
        use_redis(market, redis_url)
        options = ("--workers", 2)
    with serving(market.folder, *options) as server:
        report = Swapping(market, server).run(swaps)
    audit = run_cli(market.folder, "audit")
    if audit.returncode:
        report.violations.append(f"audit: {audit.stdout}{audit.stderr}")
    return report


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--ledger", choices=("sqlite", "redis"), default="sqlite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.ledger == "redis":
            with RedisServer(newest_binary(), Path(folder) / "redis") as server:
                report = run(Path(folder) / "shop", arguments.swaps, server.url())
        else:
            report = run(Path(folder) / "shop", arguments.swaps)
    print(report)
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
