"""``POST /v1/scans`` over a real socket against a bare aiohttp hello that answers the same number of bytes.

Server and client are processes of their own on the same machine. Every request is a code never claimed before, in
random order, of 300,000 people; every reply is checked after the clock. Durability: SQLite, WAL, synchronous=FULL.
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

HERE = Path(__file__).parent
CONNECTIONS = 64
REQUESTS = 60_000
ROUNDS = 3
PEOPLE = 300_000


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


def bench_post_scans(benchmark: Any, tmp_path: Path) -> None:
    _, keyring = inputs.shop(tmp_path / "shop", REQUESTS * ROUNDS)
    codes = inputs.shuffled(keyring.code_keys.encode_many(1, 0, REQUESTS * ROUNDS), 11)
    people = np.random.default_rng(12).integers(0, PEOPLE, len(codes))
    files = []
    for round_number in range(ROUNDS):
        part = slice(round_number * REQUESTS, (round_number + 1) * REQUESTS)
        files.append(tmp_path / f"requests-{round_number}")
        files[-1].write_text("".join(request_lines(codes[part], people[part])))
    figures: dict[str, list[dict[str, float]]] = {"scans": [], "hello": []}
    seen: set[str] = set()
    command = ("-m", "scanengine", "-w", str(tmp_path / "shop"), "serve", "--port", "0")
    with process(*command) as scan_port, process(str(HERE / "bare_hello.py"), "340") as hello_port:
        for path in files:
            figures["scans"].append(load(scan_port, path, tmp_path / "replies"))
            for line in (tmp_path / "replies").read_text().splitlines():
                head, _, body = bytes.fromhex(line).partition(b"\r\n\r\n")
                answer = json.loads(body)
                assert head.startswith(b"HTTP/1.1 200 ")
                assert answer["claim"]["status"] in ("awarded", "no_prize")
                assert not answer["claim"]["replayed"]
                assert answer["scan"]["count"] == 1
                seen.add(answer["claim"]["id"])
            figures["hello"].append(load(hello_port, path, tmp_path / "replies"))
    assert len(seen) == REQUESTS * ROUNDS
    audit = subprocess.run(
        [sys.executable, "-m", "scanengine", "-w", str(tmp_path / "shop"), "audit", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(audit.stdout)["claims"] == REQUESTS * ROUNDS
    rate = {name: statistics.median(REQUESTS / row["seconds"] for row in rows) for name, rows in figures.items()}
    p99 = {name: statistics.median(row["p99_ms"] for row in rows) for name, rows in figures.items()}
    benchmark.pedantic(lambda: None, rounds=1)
    harness.report(
        benchmark,
        scans_per_s=rate["scans"],
        scans_p99_ms=p99["scans"],
        hello_per_s=rate["hello"],
        hello_p99_ms=p99["hello"],
        ratio=rate["scans"] / rate["hello"],
    )
