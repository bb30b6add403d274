"""A connection that is waited for: for commands that read a ledger or carry one elsewhere, and have no event loop.

It leads to the primary of the program's slot and is made anew by the next call when it was lost. Nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection as Connection
from redis.exceptions import AskError, ExecAbortError, OutOfMemoryError, RedisError, ResponseError, TryAgainError

from scanengine.errors import LedgerFormatError, LedgerUnavailableError
from scanengine.ledger.redis.background import Background
from scanengine.ledger.redis.link import LinkError, Target, part_from, said_by

TIMEOUT_S: Final = 30.0

Command = Sequence[bytes | str | int]


class Wire:
    """Connection to the primary that holds a program; for one thread.

    Parameters
    ----------
    url : str
        As :class:`scanengine.ledger.redis.RedisLedger` takes it.
    tag : str
        Hash tag of the program's keys.
    timeout_s : float
        How long to wait for a connection, and for the replies to one call, seconds.

    Raises
    ------
    SettingsError
        The URL cannot be read. It is not shown, as it may hold a password.

    Notes
    -----
    Any method raises ``LedgerUnavailableError`` if there is no answer or the server refuses, and ``LedgerFormatError``
    if a key is of another type than it should be.
    """

    def __init__(self, url: str, tag: str, timeout_s: float = TIMEOUT_S) -> None:
        self._target = Target(url, tag, timeout_s)
        self._timeout_s = timeout_s
        self._background: Background | None = Background()
        self._connection: Connection | None = None

    def ask(self, *command: bytes | str | int) -> Any:
        """Return the reply to one command."""
        return self.ask_many([command])[0]

    def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that are sent together; others may be served between them."""
        if self._background is None:
            raise LedgerUnavailableError("the ledger's reader is closed")
        try:
            return self._background.run(self._ask_many(commands))
        except ResponseError as error:
            raise _explained(error) from error
        except (LinkError, RedisError, OSError) as error:
            said = str(error) or "no reply in time"
            raise LedgerUnavailableError(f"the ledger's server does not answer: {said}") from error

    def ask_at_once(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that are served together, as of one moment."""
        replies: list[Any] = self.ask_many([("MULTI",), *commands, ("EXEC",)])[-1]
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise _explained(reply)
        return replies

    def close(self) -> None:
        """Let go of the connection; again is no change."""
        background, self._background = self._background, None
        if background is not None:
            background.run(self._part())
            background.stop()

    async def _ask_many(self, commands: Sequence[Command]) -> list[Any]:
        if self._connection is None:
            self._connection, _ = await self._target.connect()
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await connection.read_response(disconnect_on_error=False) for _ in commands]
        except BaseException:
            await self._drop()  # Replies that were not read would be taken for those of the next call.
            raise

    async def _part(self) -> None:
        if self._connection is not None:
            await part_from(self._connection)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _explained(error: ResponseError) -> LedgerFormatError | LedgerUnavailableError:
    said = said_by(error)
    if isinstance(error, AskError | TryAgainError):
        return LedgerUnavailableError(f"the program's slot is being moved, ask again when it is there: {said}")
    if isinstance(error, OutOfMemoryError | ExecAbortError):
        return LedgerUnavailableError(
            f"the memory of the server is full, and it lets nobody read as of one moment: raise maxmemory ({said})"
        )
    if "WRONGTYPE" in said:
        return LedgerFormatError(f"a key of the ledger is of another type: {said}")
    return LedgerUnavailableError(f"the ledger's server refuses: {said}")
