"""The GET routes over a real socket beside a bare aiohttp hello: the login redirect, and a look at a code.

Server and client are processes of their own on the same machine, and so is the Redis. Every request is of another code,
in random order; every reply is checked after the clock. All take turns in one run. Half of the codes were never looked
at, none was claimed.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
from pathlib import Path
from typing import Any

import harness
import inputs
from bench_server import load, process
from redis_server import redis_server

HERE = Path(__file__).parent
REQUESTS = 30_000
ROUNDS = 5
LEDGERS = ("sqlite", "everysec")
WECHAT = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 "
    "MicroMessenger/8.0.49(0x18003137) NetType/WIFI Language/zh_CN"
)
BROWSER = f"User-Agent: {WECHAT}\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"
APP_ID = "wx0123456789abcdef"


def request_of(path: str, headers: str = "") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode().hex() + "\n"


def check_looks(replies: Path) -> None:
    lines = replies.read_text().splitlines()
    assert len(lines) == REQUESTS
    for line in lines:
        head, _, body = bytes.fromhex(line).partition(b"\r\n\r\n")
        answer = json.loads(body)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (answer["status"], answer["verdict"], answer["scan"]["count"]) == ("valid", "first_scan", 0)


def check_redirects(replies: Path) -> None:
    states = set()
    for line in replies.read_text().splitlines():
        head = bytes.fromhex(line).decode()
        found = re.search(
            rf"\r\nLocation: https://open\.weixin\.qq\.com/connect/oauth2/authorize\?appid={APP_ID}&redirect_uri=\S+"
            r"&response_type=code&scope=snsapi_base&state=([a-zA-Z0-9]{1,128})#wechat_redirect\r\n",
            head,
        )
        assert head.startswith("HTTP/1.1 302 ")
        assert found, head
        states.add(found[1])
    assert len(states) == REQUESTS


def bench_get_routes(benchmark: Any, tmp_path: Path) -> None:
    figures: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        ports = {"hello": stack.enter_context(process(str(HERE / "bare_hello.py"), "230"))}
        for name in LEDGERS:
            folder = tmp_path / name
            _, keyring = inputs.shop(folder / "shop", REQUESTS)
            settings = folder / "shop" / "scanengine.toml"
            text = settings.read_text().replace("[wechat]", f'[wechat]\napp_id = "{APP_ID}"')
            if name != "sqlite":
                url = stack.enter_context(redis_server(folder / "redis", name))
                text = text.replace("[ledger]", f'[ledger]\nurl = "{url}"\ndurability = "{name}"')
            settings.write_text(text)
            keys = folder / "shop" / "keys.toml"
            keys.write_text(keys.read_text() + '\n[wechat]\nsecret = "for the benchmark"\n')
            ports[name] = stack.enter_context(
                process("-m", "scanengine", "-w", str(folder / "shop"), "serve", "--port", "0")
            )
            codes = [
                code.tobytes().decode() for code in inputs.shuffled(keyring.code_keys.encode_many(1, 0, REQUESTS), 11)
            ]
            (folder / "looks").write_text("".join(request_of(f"/v1/codes/{code}") for code in codes))
            (folder / "redirects").write_text("".join(request_of(f"/S/{code}", BROWSER) for code in codes))
        (tmp_path / "hello").write_text(request_of("/hello") * REQUESTS)
        (tmp_path / "browser").write_text(request_of("/hello", BROWSER) * REQUESTS)
        runs = {"hello": ("hello", tmp_path / "hello", None), "browser": ("hello", tmp_path / "browser", None)}
        for name in LEDGERS:
            runs[f"look_{name}"] = (name, tmp_path / name / "looks", check_looks)
        runs["redirect"] = ("sqlite", tmp_path / "sqlite" / "redirects", check_redirects)
        replies = tmp_path / "replies"
        for _ in range(ROUNDS):
            for run, (server, requests, check) in runs.items():
                figures.setdefault(run, []).append(load(ports[server], requests, replies))
                if check is not None:
                    check(replies)
    rate = {name: statistics.median(REQUESTS / row["seconds"] for row in rows) for name, rows in figures.items()}
    p99 = {name: statistics.median(row["p99_ms"] for row in rows) for name, rows in figures.items()}
    benchmark.pedantic(lambda: None, rounds=1)
    shown = {}
    for name in figures:
        # A browser says more of itself than a back end, and the hello has to read it too.
        yardstick = rate["browser" if name == "redirect" else "hello"]
        shown |= {f"{name}_per_s": rate[name], f"{name}_p99_ms": p99[name], f"{name}_ratio": rate[name] / yardstick}
    harness.report(benchmark, **shown)
