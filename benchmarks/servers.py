"""Servers for one benchmark, each a process of its own: ours, and the peers beside it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


@contextlib.contextmanager
def process(*command: str) -> Iterator[int]:
    """Start a server that prints its port in its first line; stop it at the end."""
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, f"{' '.join(command)} did not start"
        yield int(line.split(" (")[0].rpartition(":")[2])
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()


def peer(name: str, *arguments: str) -> contextlib.AbstractContextManager[int]:
    """Start a peer of ``peers/``."""
    return process(str(PEERS / f"{name}.py"), *arguments)


def serve(folder: Path) -> contextlib.AbstractContextManager[int]:
    """Start our server, one worker, on a workspace."""
    return process("-m", "scanengine", "-w", str(folder), "serve", "--port", "0")


def settle(folder: Path, *, url: str | None = None, durability: str = "", hot_path: bool = True) -> None:
    """Write into a workspace where its ledger is, and whether the server takes the hot path."""
    path = folder / "scanengine.toml"
    text = path.read_text()
    if url is not None:
        text = text.replace("[ledger]", f'[ledger]\nurl = "{url}"\ndurability = "{durability}"')
    if not hot_path:
        text = text.replace("[server]", "[server]\nhot_path = false")
    path.write_text(text)


def audited(folder: Path) -> int:
    """Return how many claims the audit counts; it must find nothing wrong."""
    command = [sys.executable, "-m", "scanengine", "-w", str(folder), "audit", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    claims: int = json.loads(done.stdout)["claims"]
    return claims
