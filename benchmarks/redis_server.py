"""A Redis or Valkey for one benchmark: on loopback, in a folder of its own, with a durability that is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from scanengine.load.servers import own_redis


@contextlib.contextmanager
def redis_server(folder: Path, profile: str) -> Iterator[str]:
    """Start a server as ``scanengine load`` does, and yield its URL; it ends with the block."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with own_redis(folder, profile) as url:
        yield url
