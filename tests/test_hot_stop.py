"""A server that is told to stop while clients send one request after the other without waiting for replies."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from serving import PLACES, WAIT_S, Market, Served, a_market, in_threads, raw_post, recorded_claims, run_cli

THREADS = 8
WINDOW = 24
BEFORE = 10
"""Windows of requests that each client has had answered when the server is told to stop."""
_REPLY = re.compile(rb"HTTP/1\.1 (\d+) [^\r]*\r\n(?:[^\r]+\r\n)*?Content-Length: (\d+)\r\n(?:[^\r]+\r\n)*\r\n")


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return a_market(tmp_path / "shop")


def replies(connection: socket.socket) -> Iterator[bytes]:
    """Yield the bodies of whole replies until the connection ends; a part of a reply at its end fails the test."""
    received = b""
    while True:
        found = _REPLY.match(received)
        if found is not None and len(received) >= found.end() + int(found[2]):
            assert found[1] == b"200", received
            yield received[found.end() : found.end() + int(found[2])]
            received = received[found.end() + int(found[2]) :]
            continue
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            piece = b""  # It was closed with requests in it that nobody read.
        if not piece:
            assert received == b"", f"half a reply: {received!r}"
            return
        received += piece


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_pipelined_load_answers_every_claim_that_it_records(market: Market, number: int) -> None:
    """Goal: recorded = acknowledged. Method: every client always has a window of requests on their way."""
    shop = market.shop
    codes = [market.take("load") for _ in range(20_000)]
    first_item = shop.item(PLACES["load"][0])
    items = {code: first_item + place for place, code in enumerate(codes)}
    served = Served(market.folder)
    has_load = threading.Barrier(THREADS + 1)

    def load(index: int) -> dict[tuple[int, str], str]:
        acknowledged: dict[tuple[int, str], str] = {}
        own = codes[index::THREADS]
        requests = [
            raw_post("/v1/scans", json.dumps({"code": code, "user": f"user-{code}"}).encode(), "keep-alive")
            for code in own
        ]
        with socket.create_connection(("127.0.0.1", served.port), timeout=WAIT_S) as connection:
            connection.sendall(b"".join(requests[:WINDOW]))
            for count, body in enumerate(replies(connection)):
                claim = json.loads(body)["claim"]
                assert claim["status"] in ("awarded", "no_prize")
                acknowledged[items[own[count]], f"user-{own[count]}"] = claim["id"]
                if count == BEFORE * WINDOW:
                    has_load.wait(WAIT_S)
                with suppress(ConnectionResetError, BrokenPipeError):  # What it has sent before can still be read.
                    connection.sendall(b"".join(requests[count + WINDOW : count + WINDOW + 1]))
        return acknowledged

    def stop() -> int:
        has_load.wait(WAIT_S)
        served.process.send_signal(number)
        return served.process.wait(WAIT_S)

    try:
        *told, code = in_threads(THREADS + 1, lambda index: load(index) if index < THREADS else stop())
    finally:
        served.kill()
    acknowledged = {key: claim for part in told for key, claim in part.items()}
    assert (code, served.log_path.read_text()) == (0, "")
    recorded = recorded_claims(shop)
    assert recorded.keys() - acknowledged.keys() == set(), "recorded, and nobody was told"
    assert recorded == acknowledged
    assert len(acknowledged) > THREADS * BEFORE * WINDOW
    assert run_cli(market.folder, "audit").returncode == 0
