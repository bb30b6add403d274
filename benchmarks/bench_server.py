"""``POST /v1/scans`` over a real socket against a bare aiohttp hello that answers the same number of bytes.

Server and client are processes of their own on the same machine, and so is the Redis. Every request is a code never
claimed before, in random order, of 300,000 people; every reply is checked after the clock. Three ledgers take turns
with the hello in one run: SQLite (WAL, synchronous=FULL), Redis with appendfsync everysec, and with appendfsync always.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import harness
import inputs
from redis_server import redis_server
from scanengine.keys import Keyring

HERE = Path(__file__).parent
CONNECTIONS = 64
REQUESTS = 60_000
ROUNDS = 3
PEOPLE = 300_000
LEDGERS = ("sqlite", "everysec", "strict")
"""SQLite, and Redis by its durability."""


@contextlib.contextmanager
def process(*command: str) -> Iterator[int]:
    """Start a server that prints its port in its first line; stop it at the end."""
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        yield int(line.split(" (")[0].rpartition(":")[2])
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()


def request_lines(codes: np.ndarray, people: np.ndarray) -> list[str]:
    lines = []
    for code, person in zip(codes, people, strict=True):
        body = json.dumps({"code": code.tobytes().decode(), "user": f"wx:{person}"}).encode()
        head = f"POST /v1/scans HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        lines.append((head + body).hex() + "\n")
    return lines


def load(port: int, requests: Path, replies: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(HERE / "load_client.py"), str(port), str(requests), str(replies), str(CONNECTIONS)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def write_requests(folder: Path, keyring: Keyring) -> list[Path]:
    """Write the requests of each round to a file of its own."""
    codes = inputs.shuffled(keyring.code_keys.encode_many(1, 0, REQUESTS * ROUNDS), 11)
    people = np.random.default_rng(12).integers(0, PEOPLE, len(codes))
    files = []
    for round_number in range(ROUNDS):
        part = slice(round_number * REQUESTS, (round_number + 1) * REQUESTS)
        files.append(folder / f"requests-{round_number}")
        files[-1].write_text("".join(request_lines(codes[part], people[part])))
    return files


def claim_ids(replies: Path) -> list[str]:
    """Check every reply and return the ids of the claims."""
    found = []
    for line in replies.read_text().splitlines():
        head, _, body = bytes.fromhex(line).partition(b"\r\n\r\n")
        answer = json.loads(body)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert answer["claim"]["status"] in ("awarded", "no_prize")
        assert not answer["claim"]["replayed"]
        assert answer["scan"]["count"] == 1
        found.append(answer["claim"]["id"])
    return found


def audited(folder: Path) -> int:
    """Return how many claims the audit counts; it must find nothing wrong."""
    command = [sys.executable, "-m", "scanengine", "-w", str(folder), "audit", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    claims: int = json.loads(done.stdout)["claims"]
    return claims


def bench_post_scans(benchmark: Any, tmp_path: Path) -> None:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in (*LEDGERS, "hello")}
    seen: dict[str, set[str]] = {name: set() for name in LEDGERS}
    with contextlib.ExitStack() as stack:
        files: dict[str, list[Path]] = {}
        ports = {"hello": stack.enter_context(process(str(HERE / "bare_hello.py"), "340"))}
        for name in LEDGERS:
            folder = tmp_path / name
            _, keyring = inputs.shop(folder / "shop", REQUESTS * ROUNDS)
            files[name] = write_requests(folder, keyring)
            if name != "sqlite":
                url = stack.enter_context(redis_server(folder / "redis", name))
                settings = folder / "shop" / "scanengine.toml"
                settings.write_text(
                    settings.read_text().replace("[ledger]", f'[ledger]\nurl = "{url}"\ndurability = "{name}"')
                )
            command = ("-m", "scanengine", "-w", str(folder / "shop"), "serve", "--port", "0")
            ports[name] = stack.enter_context(process(*command))
        for round_number in range(ROUNDS):
            for name in LEDGERS:
                replies = tmp_path / "replies"
                figures[name].append(load(ports[name], files[name][round_number], replies))
                seen[name].update(claim_ids(replies))
                figures["hello"].append(load(ports["hello"], files[name][round_number], replies))
        for name in LEDGERS:
            assert len(seen[name]) == REQUESTS * ROUNDS
            assert audited(tmp_path / name / "shop") == REQUESTS * ROUNDS
    rate = {name: statistics.median(REQUESTS / row["seconds"] for row in rows) for name, rows in figures.items()}
    p99 = {name: statistics.median(row["p99_ms"] for row in rows) for name, rows in figures.items()}
    benchmark.pedantic(lambda: None, rounds=1)
    shown = {}
    for name in figures:
        shown |= {f"{name}_per_s": rate[name], f"{name}_p99_ms": p99[name], f"{name}_ratio": rate[name] / rate["hello"]}
    harness.report(benchmark, **shown)
