"""Batch routes over a real socket: ``/v1/verify/batch`` beside a bare ``decide_many``, ``/v1/scans/batch`` on Redis.

The server is a process of its own, one worker; a request holds 10,000 codes and two requests are under way at a time.
Every scan is of a code never claimed before, in random order, of 300,000 people; every reply is checked after the
clock. Requests go out in turns with ``decide_many`` over the same codes, which is all that a look has to compute.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

import harness
import inputs
from redis_server import redis_server
from scanengine.engine import Engine
from scanengine.keys import Keyring
from scanengine.tables.snapshot import load_snapshot
from servers import audited, process

BATCH = 10_000
BATCHES = harness.short(5, 2)
"""Requests of one round."""
CONNECTIONS = 2
ROUNDS = harness.short(5, 1)
PEOPLE = 300_000
JSON, PACKED = "application/json", "application/msgpack"


def in_batches(codes: np.ndarray) -> list[list[str]]:
    texts = [code.tobytes().decode() for code in codes]
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


def post(connection: http.client.HTTPConnection, path: str, body: bytes, media: str) -> bytes:
    connection.request("POST", path, body, {"Content-Type": media})
    response = connection.getresponse()
    found = response.read()
    assert response.status == 200, found[:300]
    return found


def send(port: int, path: str, bodies: list[bytes], media: str) -> list[bytes]:
    """Send all bodies over a few connections at once, and return the replies in their order."""
    replies: list[bytes] = [b""] * len(bodies)
    left = iter(range(len(bodies)))
    take = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with take:
                number = next(left, None)
            if number is None:
                return connection.close()
            replies[number] = post(connection, path, bodies[number], media)

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def bench_verify_batch(benchmark: Any, tmp_path: Path) -> None:
    workspace, keyring = inputs.shop(tmp_path / "shop", BATCH * BATCHES)
    letters = inputs.shuffled(keyring.code_keys.encode_many(1, 0, BATCH * BATCHES), 21)
    batches = in_batches(letters)
    bodies = {
        JSON: [json.dumps({"codes": codes}).encode() for codes in batches],
        PACKED: [bytes(msgpack.packb({"codes": codes})) for codes in batches],
    }
    read = {JSON: json.loads, PACKED: msgpack.unpackb}
    engine = Engine(keyring, load_snapshot(workspace))
    parts = [np.ascontiguousarray(letters[start : start + BATCH]) for start in range(0, len(letters), BATCH)]
    seconds: dict[str, list[float]] = {"decide_many": [], JSON: [], PACKED: []}
    with process("-m", "scanengine", "-w", str(tmp_path / "shop"), "serve", "--port", "0") as port:
        for _ in range(ROUNDS):
            bare = harness.seconds(lambda: [engine.decide_many(part, inputs.NOW_MS) for part in parts])
            seconds["decide_many"].append(bare)
            for media, sent in bodies.items():
                took, replies = timed(lambda m=media, s=sent: send(port, "/v1/verify/batch", s, m))
                seconds[media].append(took)
                for codes, reply in zip(batches, replies, strict=True):
                    results = read[media](reply)["results"]
                    assert [result["code"] for result in results] == codes
                    assert {result["status"] for result in results} == {"valid"}
    rate = {name: BATCH * BATCHES / statistics.median(found) for name, found in seconds.items()}
    benchmark.pedantic(lambda: None, rounds=1)
    harness.report(
        benchmark,
        json_per_s=rate[JSON],
        msgpack_per_s=rate[PACKED],
        decide_many_per_s=rate["decide_many"],
        json_share=rate[JSON] / rate["decide_many"],
        msgpack_share=rate[PACKED] / rate["decide_many"],
    )


def scans_of(keyring: Keyring) -> list[list[dict[str, str]]]:
    codes = inputs.shuffled(keyring.code_keys.encode_many(1, 0, BATCH * BATCHES * ROUNDS), 22)
    people = iter(np.random.default_rng(23).integers(0, PEOPLE, len(codes)).tolist())
    return [[{"code": code, "user": f"wx:{next(people)}"} for code in part] for part in in_batches(codes)]


def bench_scans_batch(benchmark: Any, tmp_path: Path) -> None:
    """Claims a second in batches, and how long a single claim takes that is sent meanwhile."""
    _, keyring = inputs.shop(tmp_path / "shop", BATCH * BATCHES * ROUNDS + 5_000)
    batches = scans_of(keyring)
    singles = iter(
        code.tobytes().decode() for code in keyring.code_keys.encode_many(1, BATCH * BATCHES * ROUNDS, 5_000)
    )
    settings = tmp_path / "shop" / "scanengine.toml"
    seconds, waits, alone = [], [], []
    asked = 0
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server(tmp_path / "redis", "everysec"))
        settings.write_text(
            settings.read_text().replace("[ledger]", f'[ledger]\nurl = "{url}"\ndurability = "everysec"')
        )
        port = stack.enter_context(process("-m", "scanengine", "-w", str(tmp_path / "shop"), "serve", "--port", "0"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(ROUNDS):
            part = batches[number * BATCHES : (number + 1) * BATCHES]
            bodies = [json.dumps({"scans": scans}).encode() for scans in part]
            alone += [claim_one(connection, next(singles)) for _ in range(100)]
            asked += 100
            found: list[Any] = []
            sender = threading.Thread(
                target=lambda b=bodies, f=found: f.append(timed(lambda: send(port, "/v1/scans/batch", b, JSON)))
            )
            sender.start()
            while sender.is_alive():
                waits.append(claim_one(connection, next(singles)))
                asked += 1
                time.sleep(0.02)
            sender.join()
            took, replies = found[0]
            seconds.append(took)
            for scans, reply in zip(part, replies, strict=True):
                results = json.loads(reply)["results"]
                assert [result["problem"] for result in results if "problem" in result] == []
                assert [result["code"] for result in results] == [scan["code"] for scan in scans]
                assert {result["claim"]["replayed"] for result in results} == {False}
        assert audited(tmp_path / "shop") == BATCH * BATCHES * ROUNDS + asked
    benchmark.pedantic(lambda: None, rounds=1)
    harness.report(
        benchmark,
        claims_per_s=BATCH * BATCHES / statistics.median(seconds),
        single_ms_meanwhile=1000 * statistics.median(waits),
        single_ms_max_meanwhile=1000 * max(waits),
        single_ms_alone=1000 * statistics.median(alone),
    )


def claim_one(connection: http.client.HTTPConnection, code: str) -> float:
    """Return how long a single claim takes, seconds."""
    body = json.dumps({"code": code, "user": "wx:single"}).encode()
    took, reply = timed(lambda: post(connection, "/v1/scans", body, JSON))
    assert json.loads(reply)["claim"]["replayed"] is False
    return took
