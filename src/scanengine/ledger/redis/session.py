"""What a process and a server agree on when they meet: the library, the ledger's identity, how durable answers are."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path
from typing import Final

from redis.asyncio.connection import AbstractConnection as Connection
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from scanengine.errors import LedgerFormatError, LedgerUnavailableError, ScanEngineError, SettingsError
from scanengine.ledger.redis.control import TRIM_EVENTS
from scanengine.ledger.redis.health import CONFIG_NAMES, Health, is_cluster
from scanengine.ledger.redis.keys import Keys
from scanengine.ledger.redis.library import LIBRARY, load_source
from scanengine.ledger.redis.link import Target, ask, said_by
from scanengine.ledger.schema import sync_folder

_GONE: Final = ("LEDGERGONE", "LEDGERIMPORT", "ERR Function not found", "Function not found")

_EPOCH: Final = re.compile(rb"[0-9a-f]{16}")
_DROPS_AT_ONCE: Final = 64

_log = logging.getLogger(__name__)


class Session:
    """One program's agreement with its server, made again with every connection.

    Parameters
    ----------
    keys : Keys
    program_id : str
        Whose the ledger must be.
    outbox : str or None
        ``keep`` or ``drop``; None if it was not chosen.
    epoch_path : Path or None
        File that remembers which ledger was used, so that one that vanished is not begun anew.

    Attributes
    ----------
    epoch : bytes
        Which ledger it is: a random word, given when it was begun.
    generation : int
        Newest generation that the ledger had seen when it was opened.
    numbers, campaigns : dict of str to int, dict of int to str
        The campaigns of this ledger whose numbers are known, both ways.
    """

    def __init__(
        self, keys: Keys, program_id: str, target: Target, health: Health, *, outbox: str | None,
        epoch_path: Path | None, timeout_s: float,
    ) -> None:  # fmt: skip
        self.epoch = b""
        self.generation = 0
        self.numbers: dict[str, int] = {}
        self.campaigns: dict[int, str] = {}
        self._keys = keys
        self._program_id = program_id
        self._target = target
        self._health = health
        self._outbox = outbox
        self._epoch_path = epoch_path
        self._timeout_s = timeout_s
        if outbox not in (None, "keep", "drop"):
            raise SettingsError(f'[ledger] outbox {outbox!r}: expected "keep" or "drop"')
        if health.required == "volatile":
            self._epoch_path = None  # Nothing is expected to be there again.
        if self._epoch_path is not None:
            self.epoch = _read_epoch(self._epoch_path)

    async def greet(self, connection: Connection, info: dict[str, str]) -> None:
        """Agree with the server of a new connection.

        Raises
        ------
        LedgerFormatError
            The ledger is of another program or format, or the one that was used before is gone.
        LedgerUnavailableError
            The functions are missing and may not be loaded, or are others than ours.
        SettingsError
            It is open what becomes of events.
        """
        await self.check(connection, info)
        await self._load_library(connection, is_cluster=is_cluster(info))
        if self._outbox is None and not await ask(connection, self._timeout_s, "HLEN", self._keys.readers):
            raise SettingsError(
                'no reader is registered: choose what becomes of events in scanengine.toml, [ledger] outbox = "keep" '
                'or "drop"'
            )
        await self._open(connection)
        if self._outbox == "drop":
            await self.drop_events(connection, {})

    async def check(self, connection: Connection, info: dict[str, str]) -> None:
        """Read again how durable answers are."""
        try:
            reply = await ask(connection, self._timeout_s, "CONFIG", "GET", *CONFIG_NAMES)
        except ResponseError as error:
            if not isinstance(error, NoPermissionError) and "unknown command" not in str(error).lower():
                raise
            self._health.learn(None, info)
            return
        words = [word.decode("utf-8", "replace") for word in reply]
        self._health.learn(dict(zip(words[::2], words[1::2], strict=True)), info)

    async def _load_library(self, connection: Connection, *, is_cluster: bool) -> None:
        if await load_library(connection, self._timeout_s) and is_cluster:
            for address in {address for _, _, address in await self._target.primaries(connection)}:
                other = await self._target.open(address)
                try:
                    await load_library(other, self._timeout_s)
                finally:
                    await other.disconnect(nowait=True)

    async def _open(self, connection: Connection) -> None:
        fresh = secrets.token_hex(8)
        expected = b"" if self._health.required == "volatile" else self.epoch
        try:
            found, self.generation = await ask(
                connection, self._timeout_s, "FCALL", "scan_v1_open", 1, self._keys.meta, self._program_id, fresh,
                expected,
            )  # fmt: skip
        except ResponseError as error:
            raise self._explained(error) from error
        # A server that came back may have lost the newest campaigns, and have given their numbers to others since.
        self.numbers, self.campaigns = {}, {}
        if self.epoch and found != self.epoch:
            _log.warning("the ledger that was used before is gone; a new one is used, which knows no claim of before")
        if found != self.epoch:
            self.epoch = found
            self._remember()

    async def drop_events(self, connection: Connection, info: dict[str, str]) -> None:
        """Delete some of what was kept for readers that never came; the next call deletes more."""
        for _ in range(_DROPS_AT_ONCE):
            trimmed, target = await ask(
                connection, self._timeout_s, "FCALL", "scan_v1_drop", 3, self._keys.meta, self._keys.readers,
                self._keys.outbox, self.epoch, TRIM_EVENTS,
            )  # fmt: skip
            if trimmed >= target:
                break

    def _explained(self, error: ResponseError) -> ScanEngineError:
        text = said_by(error)
        name, _, rest = text.partition(" ")
        if name == "LEDGERGONE":
            return LedgerFormatError(
                f"{rest}: restore it from a backup, or remove {self._epoch_path or 'the epoch'} and start again, to "
                "begin anew and forget every claim"
            )
        if name in ("LEDGERFORMAT", "LEDGERIMPORT"):
            return LedgerFormatError(rest)
        return LedgerUnavailableError(f"the ledger cannot be opened: {text}")

    def _remember(self) -> None:
        """Keep the epoch in its file, whole or not at all."""
        if self._epoch_path is None:
            return
        aside = self._epoch_path.with_name(f"{self._epoch_path.name}.{os.getpid()}")
        try:
            with open(aside, "wb") as file:
                file.write(self.epoch + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self._epoch_path)
            sync_folder(self._epoch_path)
        except OSError as error:
            _log.warning(
                "%s cannot be written, a ledger that vanishes will not be noticed: %s", self._epoch_path, error
            )


def _read_epoch(path: Path) -> bytes:
    """Return the epoch that a file remembers, nothing if there is no file."""
    try:
        epoch = path.read_bytes().strip()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if not _EPOCH.fullmatch(epoch):
        raise SettingsError(
            f"{path}: expected 16 hexadecimal digits, found {len(epoch)} other bytes: restore it, or remove it if the "
            "ledger at the server is the right one"
        )
    return epoch


def is_over(error: ResponseError) -> bool:
    """Tell whether an error says that what was agreed on no longer holds: the functions or the ledger are gone."""
    return str(error).startswith(_GONE)


async def load_library(connection: Connection, timeout_s: float) -> bool:
    """Load the functions where they are missing; True if they were.

    Raises
    ------
    LedgerUnavailableError
        They are missing and this user may not load them, or others of the same name are there.
    """
    try:
        found = await ask(connection, timeout_s, "FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    except NoPermissionError:
        return False  # The first call tells whether they are there.
    if found:
        library = dict(zip(found[0][::2], found[0][1::2], strict=True))
        if library[b"library_code"] != load_source().encode():
            raise LedgerUnavailableError(
                f"the server has another library {LIBRARY} than this scanengine: a version is never replaced "
                "in place; use the scanengine that loaded it"
            )
        return False
    try:
        await ask(connection, timeout_s, "FUNCTION", "LOAD", load_source())
    except ResponseError as error:
        if "already exists" in str(error):
            return False  # Another process was faster.
        raise LedgerUnavailableError(
            f"the functions {LIBRARY} are missing and cannot be loaded ({error}): let `scanengine ledger install` load "
            "them, as a user who may"
        ) from error
    _log.info("loaded the functions %s", LIBRARY)
    return True


async def install(url: str, timeout_s: float = 5.0) -> int:
    """Load the functions on a server, or on every primary of a Cluster; the number of servers that lacked them.

    Raises
    ------
    LedgerUnavailableError
        A server does not answer, or does not let them be loaded.
    SettingsError
        The URL cannot be read.
    """
    target = Target(url, "", timeout_s)
    loaded = 0
    try:
        first = await target.open(None)
        try:
            addresses: list[tuple[str, int] | None] = [None]
            if is_cluster(await target.info(first)):
                addresses = [*{address for _, _, address in await target.primaries(first)}]
        finally:
            await first.disconnect(nowait=True)
        for address in addresses:
            connection = await target.open(address)
            try:
                loaded += await load_library(connection, timeout_s)
            finally:
                await connection.disconnect(nowait=True)
    except (TimeoutError, RedisError, OSError) as error:
        raise LedgerUnavailableError(f"the server cannot be reached: {error or 'no answer in time'}") from error
    return loaded
