"""One connection to the primary that holds a program, made anew with growing pauses when it is lost.

A call either returns the reply, or raises: ``LinkError`` if its outcome is unknown or nothing can be sent, one of
redis-py's ``ResponseError`` if the server refused it. Nothing is sent twice here; who asks decides whether to.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection as Connection
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from scanengine.errors import ScanEngineError, SettingsError
from scanengine.ledger.redis.health import is_cluster, parse_info

PAUSE_S_MIN: Final = 0.02
PAUSE_S_MAX: Final = 1.0
_CLOSE_S: Final = 1.0
"""What a server may take to say good-bye, which TLS asks of it."""
_MIGRATION_PAUSE_S: Final = 0.05
"""A slot on its way to another primary refuses calls of several keys until it is there."""


class LinkError(Exception):
    """There is no connection, or it was lost: the outcome of the call is unknown."""


class Target:
    """Where a URL leads, and where the program's slot was found last.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://`` as redis-py reads them; of a Cluster, of any of its nodes.
    tag : str
        Hash tag of the program's keys.
    timeout_s : float
        How long to wait for a connection, seconds.

    Raises
    ------
    SettingsError
        The URL cannot be read. It is not shown, as it may hold a password.
    """

    def __init__(self, url: str, tag: str, timeout_s: float) -> None:
        try:
            pool = ConnectionPool.from_url(url)
            pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError):
            # What they say quotes the URL.
            raise SettingsError(
                "[ledger] url cannot be read as redis://, rediss:// or unix://: look for an unknown option, or a "
                "password whose special characters are not percent-encoded"
            ) from None
        self._class = pool.connection_class
        self._options: dict[str, Any] = {
            **pool.connection_kwargs,
            "retry": Retry(NoBackoff(), 0),  # What is asked again is asked by us, with the same request.
            "socket_connect_timeout": timeout_s,
            "socket_timeout": None,
            "protocol": 2,
            "decode_responses": False,
        }
        self._tag = tag
        self._timeout_s = timeout_s
        self._seeds: list[tuple[str, int]] = []

    async def connect(self) -> tuple[Connection, dict[str, str]]:
        """Return a connection to the program's primary, and what the server says of itself.

        Raises
        ------
        LinkError
            No server answers, or it is a replica, or no primary holds the slot.
        """
        errors: list[str] = []
        for address in [*self._seeds, None]:
            try:
                return await self._connect_from(address)
            except (TimeoutError, RedisError, OSError, LinkError) as error:
                errors.append(str(error) or type(error).__name__)
        raise LinkError(errors[-1])

    async def _connect_from(self, address: tuple[str, int] | None) -> tuple[Connection, dict[str, str]]:
        connection = await self.open(address)
        try:
            info = await self.info(connection)
            if is_cluster(info):
                primary = await self._find_primary(connection)
                if primary is not None:
                    await connection.disconnect(nowait=True)
                    connection = await self.open(primary)
                    info = await self.info(connection)
            if info.get("role", "master") != "master":
                raise LinkError("the server is a replica: name its primary")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection, info

    async def open(self, address: tuple[str, int] | None) -> Connection:
        """Return a connection to an address, or to the one of the URL."""
        kind, options = self._class, self._options
        if address is not None:
            options = {**options, "host": address[0], "port": address[1]}
            if options.pop("path", None) is not None:
                kind = TcpConnection  # Found from the socket of a node of a Cluster.
        connection = kind(**options)
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def info(self, connection: Connection) -> dict[str, str]:
        """Return what a server says of itself."""
        return parse_info(await ask(connection, self._timeout_s, "INFO"))

    async def primaries(self, connection: Connection) -> list[tuple[int, int, tuple[str, int]]]:
        """Return first slot, last slot and address of each primary of the Cluster that a connection is of."""
        found = []
        for first, last, node, *_ in await ask(connection, self._timeout_s, "CLUSTER", "SLOTS"):
            # A node that knows no address of its own has the one that it was asked at.
            host = (node[0] or b"").decode() or getattr(connection, "host", "127.0.0.1")
            found.append((first, last, (host, node[1])))
        return found

    async def _find_primary(self, connection: Connection) -> tuple[str, int] | None:
        """Return the address of the primary of the program's slot, None if the connection is to it already."""
        slot = key_slot(self._tag.encode())
        ranges = await self.primaries(connection)
        self._seeds = sorted({address for _, _, address in ranges})
        for first, last, address in ranges:
            if first <= slot <= last:
                own = (getattr(connection, "host", None), getattr(connection, "port", None))
                return None if address == own else address
        raise LinkError(f"no primary of the cluster holds slot {slot}")


class Link:
    """A connection that comes back; for one event loop.

    Parameters
    ----------
    target : Target
    greet : callable
        Called with each new connection and what its server says; what it raises is why there is no link, and the cause
        of the ``LinkError``.
    tell : callable
        Told why the link is away, None when it is back.
    timeout_s : float
        How long to wait for one reply, seconds.
    """

    def __init__(
        self,
        target: Target,
        greet: Callable[[Connection, dict[str, str]], Awaitable[None]],
        tell: Callable[[str | None], None],
        timeout_s: float,
    ) -> None:
        self._target = target
        self._greet = greet
        self._tell = tell
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._failures = 0
        self._turn = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def call(self, *command: Any) -> Any:
        """Send a command and return the reply.

        Raises
        ------
        LinkError
            No connection could be made, or it was lost before the reply came.
        ResponseError
            The server refused the command.
        """
        return await self._exchange(lambda connection: connection.send_command(*command, check_health=False), None)

    async def call_packed(self, packed: bytes, guard: Callable[[], bool]) -> Any:
        """Send a command that is packed already and return the reply.

        Parameters
        ----------
        packed : bytes
            The whole command as it goes through the socket.
        guard : callable
            Asked when everything is ready: False, and nothing is sent.

        Raises
        ------
        LinkError
            As :meth:`call`, or the guard said no.
        ResponseError
            The server refused the command.
        """
        return await self._exchange(
            lambda connection: connection.send_packed_command(packed, check_health=False), guard
        )

    async def _exchange(self, send: Callable[[Connection], Awaitable[None]], guard: Callable[[], bool] | None) -> Any:
        async with self._turn:
            connection = self._connection or await self._connect()
            if guard is not None and not guard():
                raise LinkError("what was known of the server has changed")
            try:
                await send(connection)
            except BaseException as error:
                raise await self._failed(connection, error) from error
        # While one call waits for its reply the next is sent: locks are fair, so replies come to those who asked.
        async with self._reading:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await connection.read_response(disconnect_on_error=False)
            except (TryAgainError, AskError) as error:
                if isinstance(error, MovedError):
                    raise await self._lose(connection, error) from error
                await asyncio.sleep(_MIGRATION_PAUSE_S)
                raise LinkError(f"the program's slot is being moved: {error}") from error
            except (ReadOnlyError, ClusterDownError, MasterDownError) as error:
                raise await self._lose(connection, error) from error
            except ResponseError:
                raise
            except BaseException as error:
                raise await self._failed(connection, error) from error

    async def ready(self) -> None:
        """Make a connection if there is none; LinkError if there cannot be one."""
        if self._connection is None:
            async with self._turn:
                if self._connection is None:
                    await self._connect()

    async def use(self, question: Callable[[Connection, dict[str, str]], Awaitable[None]]) -> None:
        """Let a function ask the server more than one thing; LinkError if the connection is lost."""
        async with self._turn:
            connection = self._connection or await self._connect()
            async with self._reading:
                try:
                    await question(connection, await self._target.info(connection))
                except ResponseError:
                    raise
                except BaseException as error:
                    raise await self._failed(connection, error) from error

    async def drop(self) -> None:
        """Let go of the connection; the next call makes another, after a pause."""
        self._failures = max(self._failures, 1)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Let go of the connection, and wait until it is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await part_from(connection)

    async def _failed(self, connection: Connection, error: BaseException) -> BaseException:
        """Return what to raise of a call that failed: somebody else would read its reply, so the connection goes."""
        lost = await self._lose(connection, error)
        return lost if isinstance(error, RedisError | OSError) else error

    async def _lose(self, connection: Connection, error: BaseException) -> LinkError:
        text = str(error) or f"no reply within {self._timeout_s} s"
        if connection is self._connection:
            await self.drop()
            if not isinstance(error, asyncio.CancelledError):
                self._tell(text)
        else:
            await connection.disconnect(nowait=True)  # Another call has lost it before.
        return LinkError(text)

    async def _connect(self) -> Connection:
        if self._failures:
            # A jitter keeps many processes from coming back in step.
            pause_s = min(PAUSE_S_MIN * 2 ** (self._failures - 1), PAUSE_S_MAX)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
        try:
            async with asyncio.timeout(self._timeout_s):
                connection, info = await self._target.connect()
                try:
                    await self._greet(connection, info)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
        except (TimeoutError, RedisError, OSError, LinkError, ScanEngineError) as error:
            self._failures += 1
            text = str(error) or f"no connection within {self._timeout_s} s"
            self._tell(text)
            raise LinkError(text) from error
        self._connection = connection
        self._failures = 0
        self._tell(None)
        return connection


def said_by(error: ResponseError) -> str:
    """Return what a server said, without the place in the script that it adds."""
    return str(error).partition(" script: ")[0]


async def part_from(connection: Connection) -> None:
    """Close a connection and wait until it is closed, as its event loop may end next."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await connection.disconnect()


async def ask(connection: Connection, timeout_s: float, *command: Any) -> Any:
    """Send one command on a connection and return its reply.

    Raises
    ------
    RedisError, OSError, TimeoutError
        As redis-py and the event loop do.
    """
    await connection.send_command(*command, check_health=False)
    async with asyncio.timeout(timeout_s):
        return await connection.read_response(disconnect_on_error=False)
