"""What is put under load: a scratch workspace with ledger and server of its own, or a server at a URL."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from scanengine.errors import SettingsError
from scanengine.keys import Keyring, load_keyring
from scanengine.load.servers import own_redis, own_server
from scanengine.model import Scene, SegmentState
from scanengine.program import publishing
from scanengine.program.ledgers import needs_redis
from scanengine.program.settings import Settings, load_settings, override_ledger
from scanengine.tables.codes import CodeTable
from scanengine.tables.snapshot import Snapshot, load_snapshot
from scanengine.tables.workspace import Workspace

logger = logging.getLogger(__name__)

OWN_BATCH: Final = "load"
OWN_CODES: Final = 100_000_000
"""Codes need no bytes each; no run uses all of these."""
_CAMPAIGN: Final = """\
id = "load"
title = "Open a cap, win"
opens = {opens}
closes = {closes}
timezone = "Asia/Shanghai"
[limits]
per_user_per_day = 1_000_000_000
[budget]
currency = "CNY"
total = 1_000_000_000_000
[[prizes]]
id = "car"
kind = "goods"
title = "A car"
stock = 100
fallback = "points-10"
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 yuan"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
[[rules]]
id = "everyone"
draw = {{ mode = "weighted", weights = {{ car = 1, cash-88 = 9, points-10 = 90, none = 900 }} }}
"""
"""The stock of cars is used up by any run of some 100,000 scans, so that it is seen to hold."""
_READY_S: Final = 10.0
_KEYS_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class Target:
    """A server that can be asked, and the workspace whose codes it knows.

    Parameters
    ----------
    shown : str
        For people: without user and password.
    settings : Settings
        With the ledger that the server uses, if `is_own`.
    is_own : bool
        Whether workspace, ledger and server were made for this test and nobody else uses them.
    workers : int
        0 if unknown.
    ledger, durability : str
        As the server says.
    """

    host: str
    port: int
    tls: bool
    shown: str
    workspace: Workspace
    settings: Settings
    keyring: Keyring
    snapshot: Snapshot
    batches: list[CodeTable]
    is_own: bool
    workers: int
    ledger: str
    durability: str

    @property
    def authority(self) -> str:
        """Host and port, for the Host header."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@contextlib.contextmanager
def scratch_folder(*, keep: bool) -> Iterator[Path]:
    """Make a folder that only we can read; it is removed at the end unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="scanengine-load-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def own_target(folder: Path, ledger: str, durability: str | None, workers: int) -> Iterator[Target]:
    """Make a workspace, a ledger and a server; all that was started ends with the block.

    Parameters
    ----------
    ledger : str
        ``sqlite``, ``redis`` for a server of our own, or the URL of one.
    durability : str or None
        Of an own Redis, ``everysec`` by default; the least that a given one must promise, anything by default.

    Raises
    ------
    SettingsError
        If this cannot be had.
    """
    if ledger not in ("sqlite", "redis") and not re.match(r"(redis|rediss|unix)://.", ledger):
        # What stands there may be a password in the wrong place, so it is not shown.
        raise SettingsError("--ledger is sqlite, redis, or a URL that begins with redis://, rediss:// or unix://")
    if ledger == "sqlite" and (durability not in (None, "strict") or workers > 1):
        wrong = f"--durability {durability}" if workers == 1 else f"--workers {workers}"
        raise SettingsError(f"{wrong}: an SQLite ledger is strict and has one worker: use --ledger redis")
    with contextlib.ExitStack() as stack:
        url = None if ledger == "sqlite" else ledger
        least = durability or "unverified"
        if ledger == "redis":
            least = durability or "everysec"
            url = stack.enter_context(own_redis(folder / "redis", least))
        workspace = make_workspace(folder / "shop", least)
        settings = load_settings(workspace.settings_path)
        if url is not None:
            settings = override_ledger(settings, url=url)
            if ledger != "redis":
                stack.callback(forget_keys, url, settings.program.id)
        port = stack.enter_context(own_server(folder, workspace.folder, workers, url))
        kind, promised = ask_ready("127.0.0.1", port, tls=False)
        snapshot = load_snapshot(workspace)
        yield Target(
            "127.0.0.1", port, False, "own server", workspace, settings, load_keyring(workspace.keys_path), snapshot,
            [batch.codes for batch in snapshot.batches], True, workers, kind, promised,
        )  # fmt: skip


def make_workspace(folder: Path, durability: str) -> Workspace:
    """Make a workspace with one batch of codes and one published campaign."""
    workspace = publishing.create_workspace(folder)
    keyring = load_keyring(workspace.keys_path)
    settings = workspace.settings_path.read_text("utf-8")
    workspace.settings_path.write_text(settings + f'durability = "{durability}"\n', "utf-8")
    publishing.create_batch(workspace, keyring, OWN_BATCH, OWN_CODES)
    change = publishing.SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, "load")
    publishing.assign_scenes(workspace, OWN_BATCH, np.array([(0, OWN_CODES)], np.uint64), change)
    now = datetime.now(UTC).replace(microsecond=0)
    opens, closes = ((now + timedelta(days=days)).isoformat() for days in (-1, 30))
    path = workspace.campaigns_folder / "load.toml"
    path.write_text(_CAMPAIGN.format(opens=opens, closes=closes), "utf-8")
    publishing.publish_campaign(workspace, keyring, path)
    return workspace


def forget_keys(url: str, program: str) -> None:
    """Remove what a scratch program has left in a Redis that is not ours; say so in the log if it cannot be reached."""
    with needs_redis():
        import redis

        from scanengine.ledger.redis.keys import Keys
    prefix = Keys(program).prefix
    try:
        with redis.Redis.from_url(url) as client:
            found: list[bytes] = []
            for key in client.scan_iter(match=prefix + b"*", count=10_000):
                found.append(key)
                if len(found) == _KEYS_AT_ONCE:
                    client.unlink(*found)
                    found.clear()
            if found:
                client.unlink(*found)
    except (redis.RedisError, OSError, ValueError) as error:
        # By its kind only: the message may quote the URL, and with it a password.
        logger.warning("keys %s* may be left in that Redis: %s", prefix.decode(), type(error).__name__)


def target_at(url: str, workspace: Workspace, settings: Settings, keyring: Keyring, labels: tuple[str, ...]) -> Target:
    """Return the server at a URL; its codes are those of test batches of a workspace.

    Parameters
    ----------
    labels : tuple of str
        Which batches; empty for all test batches.

    Raises
    ------
    SettingsError
        If a batch is not one for tests, there is none, or nobody answers.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not parts.netloc.isascii()
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        # Not shown: there may be a password in it.
        raise SettingsError("--url is the server's address and nothing more, such as http://127.0.0.1:8080")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("--url takes no user and password: give the bearer token in SCANENGINE_TOKEN")
    snapshot = load_snapshot(workspace)
    known = {batch.label: batch.codes for batch in snapshot.batches}
    for label in labels:
        if label not in known:
            raise SettingsError(f"--batch {label}: {workspace.folder} has no such batch: {', '.join(known) or 'none'}")
        if not known[label].test:
            raise SettingsError(
                f"--batch {label}: these codes are worth money, and a load test would claim them for nobody: make "
                "others with scanengine batch create LABEL --test --count N"
            )
    batches = [known[label] for label in dict.fromkeys(labels)] or [codes for codes in known.values() if codes.test]
    if not batches:
        others = ", ".join(known) or "none at all"
        raise SettingsError(
            f"{workspace.folder} has no batch for tests, only {others}: at a URL only codes are claimed that are worth "
            "nothing: scanengine batch create LABEL --test --count N, then scanengine scenes set"
        )
    kind, promised = ask_ready(parts.hostname, port, tls=parts.scheme == "https")
    shown = f"{parts.scheme}://{parts.netloc}"
    return Target(
        parts.hostname, port, parts.scheme == "https", shown, workspace, settings, keyring, snapshot, batches, False,
        0, kind, promised,
    )  # fmt: skip


def ask_ready(host: str, port: int, *, tls: bool) -> tuple[str, str]:
    """Return kind and durability of the ledger, as ``/readyz`` tells them.

    Raises
    ------
    SettingsError
        If nobody answers, or not as this server does, or it is not ready to take claims.
    """
    found = ask(host, port, "/readyz", tls=tls)
    try:
        if found["status"] == "not_ready":
            raise SettingsError(f"the server takes no claims now: {found['reason']}")
        return str(found["ledger"]["kind"]), str(found["ledger"]["durability"])
    except (KeyError, TypeError) as error:
        raise SettingsError(f"{host}:{port} does not answer /readyz as a scanengine server does") from error


def ask(host: str, port: int, path: str, *, tls: bool) -> Any:
    """Return the JSON of a GET; SettingsError if there is none."""
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_READY_S, context=ssl.create_default_context())
        if tls
        else http.client.HTTPConnection(host, port, timeout=_READY_S)
    )
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException) as error:
        raise SettingsError(f"{host}:{port} does not answer: {error}") from error
    except ValueError as error:
        raise SettingsError(f"{host}:{port} does not answer {path} as a scanengine server does") from error
    finally:
        connection.close()
