"""The GET routes over a real socket beside a bare aiohttp hello: the login redirect, and a look at a code.

Server and generator are processes of their own on the same machine, and so is the Redis; ``rates.py`` says how they
are asked. Every request of a run is of another code, in random order; all take turns in one run, and at the end every
reply to some thousand requests is read. None of the codes was claimed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import harness
import inputs
from rates import GENERATOR, Asked, Records, look_records, replies_to
from redis_server import redis_server
from servers import peer, serve, settle

SECONDS = harness.short(3, 1)
ROUNDS = harness.short(5, 1)
REQUESTS = 150_000 * SECONDS
READ = harness.short(20_000, 1_000)
"""Requests whose replies are read, each by each."""
BODY_BYTES = 230
LEDGERS = ("sqlite", "everysec")
WECHAT = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 "
    "MicroMessenger/8.0.49(0x18003137) NetType/WIFI Language/zh_CN"
)
BROWSER = f"User-Agent: {WECHAT}\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"
APP_ID = "wx0123456789abcdef"


def check_looks(replies: list[bytes]) -> None:
    assert len(replies) == READ
    for reply in replies:
        head, _, body = reply.partition(b"\r\n\r\n")
        answer = json.loads(body)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (answer["status"], answer["verdict"], answer["scan"]["count"]) == ("valid", "first_scan", 0)


def check_redirects(replies: list[bytes]) -> None:
    states = set()
    for reply in replies:
        head = reply.decode()
        found = re.search(
            rf"\r\nLocation: https://open\.weixin\.qq\.com/connect/oauth2/authorize\?appid={APP_ID}&redirect_uri=\S+"
            r"&response_type=code&scope=snsapi_base&state=([a-zA-Z0-9]{1,128})#wechat_redirect\r\n",
            head,
        )
        assert head.startswith("HTTP/1.1 302 ")
        assert found, head
        states.add(found[1])
    assert len(states) == READ


def bench_get_routes(benchmark: Any, tmp_path: Path) -> None:
    asked: dict[str, Asked] = {}
    _, keyring = inputs.shop(tmp_path / "shop", REQUESTS)
    settings = tmp_path / "shop" / "scanengine.toml"
    settings.write_text(settings.read_text().replace("[wechat]", f'[wechat]\napp_id = "{APP_ID}"'))
    keys = tmp_path / "shop" / "keys.toml"
    keys.write_text(keys.read_text() + '\n[wechat]\nsecret = "for the benchmark"\n')
    codes = inputs.shuffled(keyring.code_keys.encode_many(1, 0, REQUESTS), 11)
    looks = Records.write(tmp_path / "looks", look_records("/v1/codes/", codes))
    redirects = Records.write(tmp_path / "redirects", look_records("/S/", codes, BROWSER))
    hellos = Records.write(tmp_path / "hellos", look_records("/hello/", codes))
    browsers = Records.write(tmp_path / "browsers", look_records("/hello/", codes, BROWSER))
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(peer("aiohttp_hello", str(BODY_BYTES)))
        # A browser says more of itself than a back end, and the hello has to read it too.
        asked["hello"] = Asked("hello", port, hellos, are_new=False)
        asked["browser"] = Asked("browser", port, browsers, are_new=False)
        for name in LEDGERS:
            folder = tmp_path / name
            shutil.copytree(tmp_path / "shop", folder / "shop")
            url = stack.enter_context(redis_server(folder / "redis", name)) if name != "sqlite" else None
            settle(folder / "shop", url=url, durability=name)
            port = stack.enter_context(serve(folder / "shop"))
            asked[f"look_{name}"] = Asked(f"look_{name}", port, looks, are_new=False)
            if name == "sqlite":
                asked["redirect"] = Asked("redirect", port, redirects, are_new=False)
        for server in asked.values():
            server.run(1, is_warm_up=True)
        for _ in range(ROUNDS):
            for server in asked.values():
                server.run(SECONDS)
        for name, server in asked.items():
            if name.startswith("look_"):
                check_looks(replies_to(server.port, looks, READ, tmp_path))
        check_redirects(replies_to(asked["redirect"].port, redirects, READ, tmp_path))
    benchmark.pedantic(lambda: None, rounds=1)
    found = {name: server.figures() for name, server in asked.items()}
    shown: dict[str, Any] = {"generator": GENERATOR}
    for name, figures in found.items():
        yardstick = found["browser" if name == "redirect" else "hello"]
        shown |= {f"{name}_{key}": value for key, value in figures.items()}
        shown[f"{name}_ratio"] = figures["per_s"] / yardstick["per_s"]
    harness.report(benchmark, **shown)
