"""Kill a server under load, again and again, and check after each restart that nothing it acknowledged was lost.

    python tests/crash.py --cycles 50
    python tests/crash.py --cycles 50 --ledger redis

Threads scan over HTTP: fresh codes, repeats by the same person, codes that somebody else has, retries of one visit.
At a random moment the server gets SIGKILL. After the restart acknowledged claims are asked for again (new ones and some
of all; at the end all of them), and the ledger is counted: each item and party at most once, money given = sum of the
awards <= the budget, one event for each claim. The audit with all replies as witness must be clean. Exit code 1 on a
violation.

With a Redis, whose durability is ``strict``, SIGKILL goes in turn to one of the server's workers, to Redis, to both,
and to all workers at once; Redis starts again from its file while the others go on and are scanned at.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers import COLA, KEYS, Shop, ranges
from redis_servers import RedisServer, newest_binary
from scanengine.keys import load_keyring
from scanengine.model import Scene, SegmentState
from scanengine.program.ledgers import open_reader
from scanengine.program.publishing import SceneChange, assign_scenes, create_batch, create_workspace
from scanengine.program.settings import load_settings
from serving import Client, Served, a_campaign, run_cli

CODES = 200_000
AWARD = 100
CASH = {0: 8800, 2: AWARD}
"""Money by prize number, in the order of the campaign file below; number 1 is points."""
THREADS = 8
LOAD_S = (0.1, 1.2)
"""A cycle's load lasts a random time between these, seconds."""
ASKED_AGAIN = 2_000
TRIES_MAX = 200
"""How often a claim that is ``pending`` is asked for after a restart."""
WORKERS = 2
VICTIMS = ("worker", "redis", "worker and redis", "server")
STRICT = {"appendonly": "yes", "appendfsync": "always"}
REDIS_TIMEOUT_S = 0.3
"""Shorter than a restart of Redis, so that claims are ``pending`` meanwhile."""
PRIZE_AND_RULE = f"""
[[prizes]]
id = "cash-1"
kind = "cash"
amount = {AWARD}
currency = "CNY"
title = "1 yuan"
fallback = "points-10"
[[rules]]
id = "everyone"
draw = {{ mode = "weighted", weights = {{ cash-1 = 5, cash-88 = 1, points-10 = 2, none = 2 }} }}
"""
RECORDED = ("awarded", "no_prize")

Claim = dict[str, Any]


@dataclass
class Report:
    """What happened, and what must not have."""

    cycles: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    replies: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    found_of_unanswered: int = 0
    asked_again: int = 0
    recorded: int = 0
    spent: int = 0
    budget: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        replies = ", ".join(f"{name} {count:,}" for name, count in sorted(self.replies.items()))
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        lines = [
            f"cycles             {self.cycles}, killed: {kills}",
            f"replies            {sum(self.replies.values()):,}: {replies}",
            f"cut off or pending {self.unanswered:,} requests, {self.found_of_unanswered:,} of them recorded",
            f"asked again        {self.asked_again:,} acknowledged claims",
            f"ledger             {self.recorded:,} claims, spent {self.spent:,} of {self.budget:,}",
            f"violations         {len(self.violations)}",
            *self.violations[:20],
        ]
        return "\n".join(lines)


class Crash:
    """One workspace, its load, and all that its server has ever acknowledged."""

    def __init__(self, folder: Path, budget_awards: int, seed: int) -> None:
        workspace = create_workspace(folder)
        workspace.keys_path.write_text(KEYS.partition("[[tokens]]")[0])
        self.shop = Shop(workspace, load_keyring(workspace.keys_path))
        self.report = Report(budget=budget_awards * AWARD)
        create_batch(workspace, self.shop.keyring, "cola", CODES, product=COLA)
        budget = f'[budget]\ncurrency = "CNY"\ntotal = {self.report.budget}'
        text = a_campaign("spring", PRIZE_AND_RULE, before=budget)
        self.shop.publish(text)
        scenes = SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, "spring")
        assign_scenes(workspace, "cola", ranges((0, CODES)), scenes)
        self.codes = self.shop.codes(0, CODES)
        self.random = random.Random(seed)
        self.witness_path = folder.with_name("witness.ndjson")
        self._fresh = itertools.count()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        # (code, user) -> claim as it was first acknowledged; "cut" are requests whose outcome is not known.
        self.told: dict[tuple[str, str], Claim] = {}
        self.cut: list[tuple[str, str, str]] = []

    def cycle(self) -> None:
        """Start, check what was acknowledged before, load, kill."""
        served = self.serve()
        try:
            self.check(served)
            self.load(served)
        finally:
            served.kill()
        self.report.cycles += 1

    def finish(self) -> Report:
        """Check a last time, stop in peace, and audit once more."""
        served = self.serve()
        try:
            self.check(served, all_of_them=True)
        finally:
            code = served.stop()
        self._expect(code == 0, f"the server ended with {code}")
        self._audit()
        return self.report

    def close(self) -> None:
        """End what was started besides the server."""

    def serve(self) -> Served:
        """Start the server."""
        return Served(self.shop.folder)

    def strike(self, served: Served) -> None:
        """Kill, in the midst of the load; when this returns the load is over."""
        self._is_over.set()
        served.process.kill()
        self.report.kills["server"] += 1

    # Load -----------------------------------------------------------------------------------------------------------

    def load(self, served: Served) -> None:
        """Scan from several threads until the server is killed."""
        seeds = [self.random.randrange(1 << 30) for _ in range(THREADS)]
        threads = [threading.Thread(target=self._scan, args=(served.port, seed)) for seed in seeds]
        self._is_over.clear()
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(*LOAD_S))
        try:
            self.strike(served)
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def _scan(self, port: int, seed: int) -> None:
        chance = random.Random(seed)
        mine: list[tuple[str, str, str]] = []
        lines: list[bytes] = []
        replies: Counter[str] = Counter()
        claims: dict[tuple[str, str], Claim] = {}
        cut: list[tuple[str, str, str]] = []
        client = Client(port)
        try:
            while not self._is_over.is_set():
                scan = self._next_scan(chance, mine)
                code, user, visit = scan
                try:
                    reply = client.post("/v1/scans", {"code": code, "user": user, "visit": visit})
                except (OSError, http.client.HTTPException):
                    client.close()  # The next request makes a new connection, perhaps to another worker.
                    cut.append(scan)
                    continue
                claim = reply.json["claim"]
                lines.append(reply.body)
                mine.append(scan)
                replies[claim["status"] + (" again" if claim.get("replayed") else "")] += 1
                if claim["status"] in RECORDED:
                    self._compare(claims.setdefault((code, user), claim), claim)
                elif claim["status"] == "pending":
                    cut.append(scan)
        finally:
            client.close()
            with self._lock:
                self.cut += cut
                self.report.replies += replies
                for key, claim in claims.items():
                    self._compare(self.told.setdefault(key, claim), claim)
                with open(self.witness_path, "ab") as witness:
                    witness.writelines(line + b"\n" for line in lines)

    def _next_scan(self, chance: random.Random, mine: list[tuple[str, str, str]]) -> tuple[str, str, str]:
        """Return code, user and visit: mostly fresh, else a repeat, a retry, or somebody else's code."""
        kind = chance.random()
        if not mine or kind < 0.6:
            number = next(self._fresh)
            # Two threads ask for one code in seven at about the same time.
            code = self.codes[(number - (number % 7 == 1)) % CODES]
            return code, f"user-{chance.randrange(5_000)}", f"{chance.random()}"
        code, user, visit = chance.choice(mine[-50:])
        if kind < 0.75:
            return code, user, f"{chance.random()}"
        if kind < 0.85:
            return code, user, visit
        return code, f"other-{chance.randrange(5_000)}", f"{chance.random()}"

    # Checks ---------------------------------------------------------------------------------------------------------

    def check(self, served: Served, *, all_of_them: bool = False) -> None:
        """Ask again for what was acknowledged, then for what was cut off, and count the ledger."""
        known = list(self.told.items())
        if not all_of_them and len(known) > ASKED_AGAIN:
            known = known[-ASKED_AGAIN // 2 :] + self.random.sample(known, ASKED_AGAIN // 2)
        with served.client() as client:
            for start in range(0, len(known), 1_000):
                part = known[start : start + 1_000]
                results = self._ask(client, [(code, user, "") for (code, user), _ in part])
                for (_, claim), result in zip(part, results, strict=True):
                    self._expect(result.get("replayed") is True, f"claim {claim['id']} is not replayed")
                    self._compare(claim, result)
                self.report.asked_again += len(part)
            for start in range(0, len(self.cut), 1_000):
                cut = self.cut[start : start + 1_000]
                for (code, user, _), claim in zip(cut, self._ask(client, cut), strict=True):
                    if claim["status"] in RECORDED:
                        is_new = (code, user) not in self.told
                        self.report.found_of_unanswered += is_new and claim["replayed"]
                        self._compare(self.told.setdefault((code, user), claim), claim)
        self.report.unanswered += len(self.cut)
        self.cut = []
        if self.told:
            self._count()
            self._audit()

    def _ask(self, client: Client, scans: list[tuple[str, str, str]]) -> list[Claim]:
        """Claim, again while the outcome is not known, and return the claims as they are told."""
        found: dict[int, Claim] = {}
        for _ in range(TRIES_MAX):
            left = [place for place in range(len(scans)) if place not in found]
            if not left:
                break
            names = ("code", "user", "visit")
            asked = [{name: text for name, text in zip(names, scans[place], strict=True) if text} for place in left]
            reply = client.post("/v1/scans/batch", {"scans": asked})
            with open(self.witness_path, "ab") as witness:
                witness.write(reply.body + b"\n")
            results = [result["claim"] for result in reply.json["results"]]
            found |= {place: claim for place, claim in zip(left, results, strict=True) if claim["status"] != "pending"}
        left_count = len(scans) - len(found)
        assert not left_count, f"{left_count} claims stay pending after a restart: {client.get('/readyz').json}"
        return [found[place] for place in range(len(scans))]

    def _count(self) -> None:
        reader = open_reader(self.shop.workspace, load_settings(self.shop.workspace.settings_path), self.shop.keyring)
        assert reader is not None
        with reader:
            records = np.concatenate([part for _, part in reader.claims()])
            events = [event for claim, event in reader.events() if claim]
            (totals,) = reader.totals().campaigns
        pairs = Counter(zip(records["item"].tolist(), records["party"].tolist(), strict=True))
        self._expect(max(pairs.values()) == 1, "an item and party have two claims")
        spent = int(records["money"].sum())
        self._expect(spent == totals.money, f"records spent {spent}, the counter says {totals.money}")
        awards = sum(CASH.get(event.prize, 0) for event in events)
        self._expect(spent == awards, f"records spent {spent}, the awards sum up to {awards}")
        self._expect(spent <= self.report.budget, f"spent {spent}, over the budget of {self.report.budget}")
        ids = Counter(event.id for event in events)
        self._expect(len(events) == len(records) == len(ids), f"{len(events)} events of {len(records)} claims")
        self._expect(len({event.claim for event in events}) == len(records), "two events of one claim")
        self.report.recorded, self.report.spent = len(records), spent

    def _audit(self) -> None:
        done = run_cli(self.shop.folder, "audit", "--witness", self.witness_path, "--json")
        self._expect(done.returncode == 0, f"audit: exit {done.returncode}: {done.stdout}{done.stderr}")

    def _compare(self, first: Claim, claim: Claim) -> None:
        names = ("id", "status", "at", "prize")
        same = all(first.get(name) == claim.get(name) for name in names)
        self._expect(same, f"claim {first['id']} was {first}, is {claim}")

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.report.violations.append(f"cycle {self.report.cycles}: {otherwise}")


class RedisCrash(Crash):
    """The same, of several workers and the Redis that they share."""

    def __init__(self, folder: Path, budget_awards: int, seed: int) -> None:
        self.redis = RedisServer(newest_binary(), folder.with_name("redis"), config=STRICT).start()
        super().__init__(folder, budget_awards, seed)
        with open(self.shop.workspace.settings_path, "a") as settings:
            settings.write(f'url = "{self.redis.url()}"\ntimeout_s = {REDIS_TIMEOUT_S}\n')

    def close(self) -> None:
        """End Redis."""
        self.redis.close()

    def serve(self) -> Served:
        """Start the workers."""
        options = ("--ledger", self.redis.url(), "--durability", "strict", "--workers", WORKERS)
        return Served(self.shop.folder, *options)

    def strike(self, served: Served) -> None:
        """Kill this cycle's victim, let the others go on for a while, then kill all workers."""
        victim = VICTIMS[self.report.cycles % len(VICTIMS)]
        if "worker" in victim:
            os.kill(self.random.choice(children_of(served.process.pid)), signal.SIGKILL)
        if "redis" in victim:
            self.redis.kill()
            self.redis.restart()
        if victim != "server":
            time.sleep(self.random.uniform(*LOAD_S))
        self.report.kills[victim] += 1
        self._is_over.set()
        for process in (served.process.pid, *children_of(served.process.pid)):
            with suppress(ProcessLookupError):  # One that was just being started again.
                os.kill(process, signal.SIGKILL)


def children_of(process: int) -> list[int]:
    """Return the ids of the processes that a process has started and that still run."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


LEDGERS = {"sqlite": Crash, "redis": RedisCrash}


def run(folder: Path, cycles: int, budget_awards: int, seed: int, ledger: str = "sqlite") -> Report:
    """Run so many cycles in a new folder and return what happened."""
    crash = LEDGERS[ledger](folder, budget_awards, seed)
    try:
        for _ in range(cycles):
            crash.cycle()
        return crash.finish()
    finally:
        crash.close()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--budget-awards", type=int, default=60_000, help="small awards that the budget pays")
    parser.add_argument("--ledger", choices=sorted(LEDGERS), default="sqlite")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed               {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder) / "shop", arguments.cycles, arguments.budget_awards, arguments.seed, arguments.ledger)
    print(report)
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
