"""Bytes of one claim on its way: request and reply, to and from Redis, and what the append-only file grows by.

Nothing is timed. One worker on a Redis with appendfsync everysec is asked for codes never claimed before, 32 requests
at a time on one connection, as a back end that keeps its connections busy does; every reply is checked, and the audit
counts the claims. HTTP without TLS, and without the headers of a proxy; without the heads of TCP and IP.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import redis

import harness
import inputs
from redis_server import redis_server
from servers import audited, serve, settle

CLAIMS = harness.short(16_000, 640)
AT_ONCE = 32
PEOPLE = 300_000


def ask(connection: socket.socket, requests: list[bytes]) -> tuple[int, list[Any]]:
    """Send requests at once; return the bytes of the replies, and what they say."""
    connection.sendall(b"".join(requests))
    buffer, bodies, size = b"", [], 0
    while len(bodies) < len(requests):
        head, gap, rest = buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]) if gap else 0
        if not gap or len(rest) < length:
            found = connection.recv(1 << 16)
            assert found, "the server closed the connection"
            buffer += found
            continue
        assert head.startswith(b"HTTP/1.1 200 ")
        bodies.append(json.loads(rest[:length]))
        size += len(head) + len(gap) + length
        buffer = rest[length:]
    return size, bodies


def counts(client: redis.Redis) -> np.ndarray:
    """Return bytes that came in and went out so far, and the length of the append-only file."""
    found = client.info("everything")
    names = ("total_net_input_bytes", "total_net_output_bytes", "aof_current_size")
    return np.array([int(found[name]) for name in names])


def bench_wire(benchmark: Any, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    _, keyring = inputs.shop(folder, CLAIMS)
    codes = inputs.shuffled(keyring.code_keys.encode_many(1, 0, CLAIMS), 21)
    people = np.random.default_rng(22).integers(0, PEOPLE, CLAIMS)
    requests = []
    for code, person in zip(codes, people, strict=True):
        body = json.dumps({"code": code.tobytes().decode(), "user": f"wx:{person:028}"}).encode()
        head = f"POST /v1/scans HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        requests.append(head + body)
    replies = 0
    with redis_server(tmp_path / "redis", "everysec") as url:
        settle(folder, url=url, durability="everysec")
        with (
            serve(folder) as port,
            redis.Redis.from_url(url) as client,
            socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
        ):
            before = counts(client)
            for start in range(0, CLAIMS, AT_ONCE):
                size, bodies = ask(connection, requests[start : start + AT_ONCE])
                assert all(body["claim"]["status"] in ("awarded", "no_prize") for body in bodies)
                assert not any(body["claim"]["replayed"] for body in bodies)
                replies += size
            grown = counts(client) - before
        assert audited(folder) == CLAIMS
    benchmark.pedantic(lambda: None, rounds=1)
    harness.report(
        benchmark,
        profile="everysec",
        claims=CLAIMS,
        request_bytes=sum(map(len, requests)) / CLAIMS,
        reply_bytes=replies / CLAIMS,
        redis_in_bytes=float(grown[0]) / CLAIMS,
        redis_out_bytes=float(grown[1]) / CLAIMS,
        aof_bytes=float(grown[2]) / CLAIMS,
    )
