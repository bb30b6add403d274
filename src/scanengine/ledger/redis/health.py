"""What a process knows of its Redis: how durable an answer is, whether it can be had, and what to look after.

Durability is read from the server, not believed: from its configuration, on every connection and every half minute.

    strict       appendonly yes, appendfsync always, no-appendfsync-on-rewrite no, noeviction
    everysec     appendonly yes, appendfsync everysec or always, noeviction
    volatile     anything else that can be read
    unverified   the configuration may not be read
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from scanengine.errors import SettingsError

CONFIG_NAMES: Final = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
MEMORY_ALARM: Final = 0.8
"""Share of the memory in use from which on an operator is told."""

_log = logging.getLogger(__name__)

_EVERYSEC: Final = {"appendonly": ("yes",), "appendfsync": ("everysec", "always"), "maxmemory-policy": ("noeviction",)}
_STRICT: Final = {**_EVERYSEC, "appendfsync": ("always",), "no-appendfsync-on-rewrite": ("no",)}
_ASKED: Final = {"strict": _STRICT, "everysec": _EVERYSEC, "volatile": {}, "unverified": {}}


class Health:
    """What is known of the server; written by the links of a process, read by everybody.

    Parameters
    ----------
    required : str
        The least durability with which claims are taken; SettingsError if there is no such.

    Attributes
    ----------
    durability : str
        What was found last.
    away : str or None
        Why there is no connection.
    refusal : str or None
        Why claims are not taken although there is one.
    fault : str or None
        Why the newest batch was refused.
    alarms : tuple of str
        What an operator should look after.
    """

    def __init__(self, required: str) -> None:
        if required not in _ASKED:
            raise SettingsError(f"durability {required!r}: expected one of {', '.join(_ASKED)}")
        self.required = required
        self.durability = "unverified"
        self.away: str | None = "not connected yet"
        self.refusal: str | None = None
        self.fault: str | None = None
        self.alarms: tuple[str, ...] = ()
        self._was_there = False

    @property
    def trouble(self) -> str | None:
        """Why claims are pending, or None if they are taken."""
        return self.away or self.refusal or self.fault

    def tell(self, away: str | None) -> None:
        """Take up why there is no connection, or None that there is one."""
        if away is not None and self.away is None and self._was_there:
            _log.warning("the ledger is away, claims are pending until it is back: %s", away)
        elif away is None and self.away is not None and self._was_there:
            _log.warning("the ledger is back")
        self._was_there = self._was_there or away is None
        self.away = away

    def learn(self, config: Mapping[str, str] | None, info: Mapping[str, str]) -> None:
        """Take up what the server says of itself; ``config`` is None if it may not be read."""
        self.durability = durability_of(config)
        self.refusal = _shortfall(config, self.durability, self.required)
        if self.durability in ("strict", "everysec"):
            unfit = _unfit_file(info)
            if unfit is not None:
                self.durability = "volatile"
                self.refusal = self.refusal or (unfit if _ASKED[self.required] else None)
        self.alarms = _alarms(info)


def durability_of(config: Mapping[str, str] | None) -> str:
    """Return the profile of a configuration."""
    if config is None:
        return "unverified"
    for profile in ("strict", "everysec"):
        if not _unmet(config, profile):
            return profile
    return "volatile"


def parse_info(text: bytes) -> dict[str, str]:
    """Return the fields of INFO."""
    lines = text.decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def is_cluster(info: Mapping[str, str]) -> bool:
    """Tell whether a server is a node of a Cluster."""
    return info.get("cluster_enabled") == "1"


def _unmet(config: Mapping[str, str], profile: str) -> list[str]:
    return [
        f"{name} is {config.get(name)}, expected {' or '.join(expected)}"
        for name, expected in _ASKED[profile].items()
        if config.get(name) not in expected
    ]


def _shortfall(config: Mapping[str, str] | None, found: str, required: str) -> str | None:
    if not _ASKED[required]:
        return None
    if config is None:
        return (
            f"durability {required} is required, but CONFIG GET is refused: grant +config|get, or accept "
            "--durability unverified"
        )
    unmet = _unmet(config, required)
    if not unmet:
        return None
    return (
        f"durability {required} is required, found {found}: {'; '.join(unmet)}. Set it in redis.conf, or accept less "
        "with --durability"
    )


def _unfit_file(info: Mapping[str, str]) -> str | None:
    """Return why the append-only file does not hold what the configuration promises, None if it does."""
    if info.get("aof_last_write_status", "ok") != "ok":
        return "the append-only file cannot be written: see the log of the server"
    is_beginning = info.get("aof_rewrite_in_progress") == "1" or info.get("aof_rewrite_scheduled") == "1"
    has_failed = info.get("aof_last_bgrewrite_status", "ok") != "ok"
    # Switched on while the server runs, the file counts for nothing until its first rewrite is done.
    if info.get("aof_base_size") == "0" and (is_beginning or has_failed):
        return "the append-only file is still being begun: wait until the server has written all that it holds"
    return None


def _alarms(info: Mapping[str, str]) -> tuple[str, ...]:
    used = int(info.get("used_memory", 0))
    most = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    if most and used >= MEMORY_ALARM * most:
        return (f"memory: {used:,} of {most:,} bytes are used; claims are refused when it is full",)
    return ()
