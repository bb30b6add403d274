"""The log as JSON: what programs read off each line, and that no code, person or token is ever in it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from helpers import TOKEN
from redis_servers import RedisServer, server_binaries, wait_until
from scanengine.model import SegmentState
from scanengine.program.publishing import SceneChange
from scanengine.server.logs import JsonFormatter
from scanengine.server.requests import REQUEST_ID
from serving import WAIT_S, Market, Served, a_market, raw_post, serving, use_redis

VOID = SceneChange(state=SegmentState.VOID)
USER = "wx:a-person-nobody-may-see"


def as_json(market: Market) -> None:
    """Let the market's server log as JSON."""
    path = market.shop.workspace.settings_path
    text = path.read_text()
    assert "[server]\n" in text
    path.write_text(text.replace("[server]\n", '[server]\nlog = "json"\n', 1))


@pytest.fixture
def market(tmp_path: Path) -> Market:
    market = a_market(tmp_path / "shop", tokens=True)
    as_json(market)
    return market


def lines_of(served: Served) -> list[Any]:
    """Return the log, of which every line must be one JSON object."""
    return [json.loads(line) for line in served.log_path.read_text().splitlines()]


# One record.


def line_of(message: str, *arguments: object, error: BaseException | None = None) -> Any:
    """Return what one record becomes."""
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("scanengine.test", logging.WARNING, "", 0, message, arguments, exc_info)
    text = JsonFormatter().format(record)
    assert text.isascii()
    assert "\n" not in text
    return json.loads(text)


def test_a_line_says_when_where_and_what() -> None:
    line = line_of("item %d: verified without counts", 1_099_511_627_776)
    assert list(line) == ["time", "level", "logger", "message", "item"]
    assert line["time"].endswith("Z")
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    assert (line["level"], line["logger"]) == ("WARNING", "scanengine.test")
    assert line["message"] == "item 1099511627776: verified without counts"
    assert line["item"] == 1_099_511_627_776


@pytest.mark.parametrize("message", ["serving generation 7", "items 12", "no item 12", "item x"])
def test_only_what_is_about_one_item_has_one(message: str) -> None:
    assert "item" not in line_of(message)


@pytest.mark.parametrize("text", ["a\nb", '"}{', "\x00\x1b[31m", "安娜", "\ud800", "a\r\n\u2028b"])
def test_no_message_can_end_its_line_or_make_another(text: str) -> None:
    assert line_of("%s", text)["message"] == text


def test_an_error_has_its_trace() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        line = line_of("it failed", error=error)
    assert line["trace"].startswith("Traceback")
    assert line["trace"].endswith("ValueError: two\nlines")


def test_what_is_logged_for_a_request_carries_its_id() -> None:
    token = REQUEST_ID.set("a-request-id")
    try:
        assert line_of("hello")["request"] == "a-request-id"
    finally:
        REQUEST_ID.reset(token)
    assert "request" not in line_of("hello")


# A server.


def test_every_line_of_a_server_is_json(market: Market) -> None:
    with serving(market.folder) as served:
        generation = market.shop.assign(0, 1, VOID).generation
        wait_until(lambda: "serving generation" in served.log_path.read_text(), "the publication")
    (line,) = lines_of(served)
    assert (line["level"], line["message"]) == ("INFO", f"serving generation {generation}")
    assert line["logger"] == "scanengine.server.run"


def hostile_requests(code: str) -> Iterator[bytes]:
    """Requests that try to get a code, a person or a token into the log."""
    body = json.dumps({"code": code, "user": USER}).encode()
    secret = f"Authorization: Bearer {TOKEN}\r\n".encode()
    yield raw_post("/v1/scans", body)
    yield raw_post("/v1/scans", body[:-5])
    yield raw_post("/v1/scans", body.replace(b'"user"', b'"user\\ud800"'))
    yield raw_post("/v1/scans/batch", b'{"scans": [' + body + b", 7]}")
    yield raw_post(f"/v1/{code}", body)
    for path in (f"/s/{code}", f"/s/{code}%0a%0d{code}", f"/{code}", f"/s/%ff{code}", f"/v1/codes/{code}?u={USER}"):
        yield f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
        yield f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n".encode() + secret + b"\r\n"
        yield f"PUT {path} HTTP/1.1\r\nHost: test\r\nContent-Length: x{code}\r\n\r\n".encode()
    yield f"GET {code} HTTP/1.1\r\n\r\n".encode()
    yield f"{code} / HTTP/1.1\r\n\r\n".encode()
    yield f"GET / HTTP/1.1\r\nX: {code}\x00{USER}\r\nConnection: close\r\n\r\n".encode()
    yield f"GET / HTTP/9.9{code}\r\n\r\n".encode()
    yield b"POST /v1/scans HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + f"{code}\r\n".encode()
    yield b"POST /v1/scans HTTP/1.1\r\nHost: t\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n" + code.encode()


def send(port: int, data: bytes) -> None:
    """Send bytes and no more, and wait until the server has had enough of them."""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


def test_no_code_person_or_token_gets_into_the_log(market: Market) -> None:
    codes = [market.take("cash"), market.forged(market.take("cash")), market.unknown(), market.take("frozen")]
    with serving(market.folder) as served:
        for code in codes:
            for data in hostile_requests(code):
                send(served.port, data)
        with served.client(TOKEN) as client:
            client.claim(codes[0], USER)
    text = served.log_path.read_text()
    lines_of(served)
    for secret in (*codes, USER, TOKEN):
        assert secret not in text
        assert secret.lower() not in text.lower()


def test_items_of_a_ledger_in_trouble_are_named_and_codes_are_not(
    market: Market, start_server: Callable[..., RedisServer]
) -> None:
    """Goal: the log of the worst moments says which items and requests, and still no code."""
    server = start_server()
    use_redis(market, server.url(), timeout_s=0.3)
    code = market.take("cash")
    served = Served(market.folder)
    with served.client(TOKEN) as client:
        client.claim(code, USER)
        server.kill()
        wait_until(lambda: client.get("/readyz").status == 503, "trouble")
        reply = client.get(f"/v1/codes/{code}")
        assert (reply.status, reply.json["scan"]) == (200, None)
    assert served.stop() == 0
    item = market.shop.engine.decide(code, 1_795_000_000_000).item
    about = [line for line in lines_of(served) if line.get("item") == item]
    assert [line["message"] for line in about] == [f"item {item}: verified without counts, the ledger did not answer"]
    assert about[0]["request"] == reply.headers["x-request-id"]
    assert code not in served.log_path.read_text()


def test_workers_and_their_supervisor_log_as_json_too(
    market: Market, redis_servers: Callable[[str], RedisServer]
) -> None:
    use_redis(market, redis_servers(sorted(server_binaries())[0]).url())
    with serving(market.folder, "--workers", 2) as served, served.client(TOKEN) as client:
        (pid, *_) = [int(key[1]) for key in client.metrics() if key[0] == "scanengine_worker_info"]
        assert pid > 1
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: any("answers again" in line["message"] for line in lines_of(served)), "the worker")
    found = {line["logger"]: line for line in lines_of(served)}
    assert "was ended by SIGKILL" in served.log_path.read_text()
    assert "scanengine.server.workers" in found


def test_why_a_server_cannot_start_is_json(market: Market) -> None:
    with serving(market.folder) as served:
        command = [sys.executable, "-m", "scanengine", "-w", str(market.folder), "serve", "--port", str(served.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    (line,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert line["level"] == "CRITICAL"
    assert "owns" in line["message"]


def test_lines_for_people_stay_as_they_were(tmp_path: Path) -> None:
    market = a_market(tmp_path / "shop")
    with serving(market.folder) as served:
        generation = market.shop.assign(0, 1, VOID).generation
        wait_until(lambda: "serving generation" in served.log_path.read_text(), "the publication")
    assert f" INFO scanengine.server.run: serving generation {generation}\n" in served.log_path.read_text()
