"""``POST /v1/scans`` over a real socket, full claims, beside servers that do less and services that do it otherwise.

Every request is a code never claimed before, in random order, of 300,000 people; ``rates.py`` says how it is asked and
what is checked. Every server has one process, its generator another, and so has its Redis; all take turns in one run:

| ours                                | beside it                                                                    |
| ----------------------------------- | ---------------------------------------------------------------------------- |
| ``sqlite``: SQLite, WAL, FULL       | ``hello``: bare aiohttp, body read, as many bytes answered; ``hello_get``    |
| ``everysec``: appendfsync everysec  | ``low_level``: aiohttp's ``web.Server``                                      |
| ``strict``: appendfsync always      | ``one_fcall``: our core and function, one call a request (everysec)          |
| ``everysec_slow``: hot path off     | ``fastapi``: FastAPI + redis-py as commonly written (everysec)               |
|                                     | ``protocol``: a bare uvloop protocol; ``nginx``: ``return 200``, where found |

    BENCH_PEERS=hello,one_fcall         these peers only
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import redis

import harness
import inputs
from peers.fastapi_redis import tag
from rates import GENERATOR, Asked, Records, look_records, scan_records
from redis_server import redis_server
from servers import audited, peer, serve, settle

SECONDS = harness.short(3, 1)
ROUNDS = harness.short(5, 1)
CLAIMS_PER_S_MAX = 90_000
"""More than any server here makes: so many codes are made ready."""
COUNT = CLAIMS_PER_S_MAX * (SECONDS * ROUNDS + 1)
FASTAPI_PER_S_MAX = 12_000
PEOPLE = 300_000
BODY_BYTES = 360
"""Of a reply of ours."""
LEDGERS = {
    "sqlite": "",
    "everysec": "everysec",
    "strict": "strict",
    "everysec_slow": "everysec",
    "one_fcall": "everysec",
}
"""Who claims in a ledger of ours, by the durability of its Redis."""
HELLOS = {
    "hello": "aiohttp_hello",
    "hello_get": "aiohttp_hello",
    "low_level": "aiohttp_low_level",
    "protocol": "uvloop_protocol",
    "nginx": "nginx",
}
PEERS = ("hello", "hello_get", "low_level", "protocol", "nginx", "one_fcall", "fastapi")


def wanted_peers() -> list[str]:
    """Return the peers to measure: those asked for, or all that can be run here; the hello always."""
    asked = os.environ.get("BENCH_PEERS")
    if asked:
        names = [name.strip() for name in asked.split(",")]
        unknown = set(names) - set(PEERS)
        assert not unknown, f"BENCH_PEERS: {', '.join(sorted(unknown))} is none of {', '.join(PEERS)}"
        return ["hello", *(name for name in names if name != "hello")]
    missing = set() if shutil.which("nginx") else {"nginx"}
    if not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("uvicorn")):
        missing.add("fastapi")
    return [name for name in PEERS if name not in missing]


def fastapi_records(path: Path, people: np.ndarray) -> Records:
    """Prepare scans of codes that the FastAPI service has signed."""
    numbers = np.random.default_rng(13).permutation(len(people))
    serials = [f"{number:010}" for number in numbers.tolist()]
    codes = np.frombuffer("".join(serial + tag(serial) for serial in serials).encode(), np.uint8).reshape(-1, 20)
    return Records.write(path, scan_records(codes, people))


def bench_post_scans(benchmark: Any, tmp_path: Path) -> None:
    benchmark.pedantic(lambda: None, rounds=1)
    _, keyring = inputs.shop(tmp_path / "shop", COUNT)
    codes = inputs.shuffled(keyring.code_keys.encode_many(1, 0, COUNT), 11)
    people = np.random.default_rng(12).integers(0, PEOPLE, COUNT)
    scans = Records.write(tmp_path / "scans", scan_records(codes, people))
    gets = Records.write(tmp_path / "gets", look_records("/hello/", codes))
    peers = wanted_peers()
    ours = [name for name in LEDGERS if name != "one_fcall" or name in peers]
    asked: dict[str, Asked] = {}
    with contextlib.ExitStack() as stack:
        for name in ours:
            folder = tmp_path / name
            # The same codes and keys for all; each has a ledger of its own.
            shutil.copytree(tmp_path / "shop", folder / "shop")
            url = stack.enter_context(redis_server(folder / "redis", LEDGERS[name])) if LEDGERS[name] else None
            settle(folder / "shop", url=url, durability=LEDGERS[name], hot_path=not name.endswith("_slow"))
            server = peer(name, str(folder / "shop")) if name == "one_fcall" else serve(folder / "shop")
            asked[name] = Asked(name, stack.enter_context(server), scans)
        if "fastapi" in peers:
            fastapi_url = stack.enter_context(redis_server(tmp_path / "fastapi", "everysec"))
            count = FASTAPI_PER_S_MAX * (SECONDS * ROUNDS + 1)
            asked["fastapi"] = Asked(
                "fastapi",
                stack.enter_context(peer("fastapi_redis", fastapi_url)),
                fastapi_records(tmp_path / "fastapi-scans", people[:count]),
            )
        for name, script in HELLOS.items():
            if name in peers:
                port = stack.enter_context(peer(script, str(BODY_BYTES)))
                asked[name] = Asked(name, port, gets if name.endswith("_get") else scans, are_new=False)
        for server in asked.values():
            server.run(1, is_warm_up=True)
        for _ in range(ROUNDS):
            for name, server in asked.items():
                server.run(SECONDS)
                if name in ours:
                    server.check_answers()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            audits = pool.map(audited, [tmp_path / name / "shop" for name in ours])
            for name, claims in zip(ours, audits, strict=True):
                asked[name].check_total(claims)
        if "fastapi" in peers:
            with redis.Redis.from_url(fastapi_url) as client:
                asked["fastapi"].check_total(int(client.xlen("events")))
    found = {name: server.figures() for name, server in asked.items()}
    shown: dict[str, Any] = {"generator": GENERATOR, "people": PEOPLE, "rounds": ROUNDS, "seconds_a_round": SECONDS}
    for name, figures in found.items():
        shown |= {f"{name}_{key}": value for key, value in figures.items()}
        shown[f"{name}_ratio"] = figures["per_s"] / found["hello"]["per_s"]
        if asked[name].are_new:
            shown[f"{name}_claims"] = asked[name].replies
    if "one_fcall" in found:
        for name in ("sqlite", "everysec", "strict", "everysec_slow"):
            shown[f"{name}_fcall_ratio"] = found[name]["per_s"] / found["one_fcall"]["per_s"]
    shown["hot_path_gain"] = found["everysec"]["per_s"] / found["everysec_slow"]["per_s"]
    harness.report(benchmark, **shown)
