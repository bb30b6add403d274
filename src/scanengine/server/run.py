"""A server's life: listen, follow the manifest, stop without losing an answer.

Stopping: no new connection is accepted, idle ones are closed, every request in progress is answered, and only then is
the ledger closed. A client that goes away does not cancel its claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from scanengine.errors import LedgerUnavailableError, ScanEngineError, SettingsError
from scanengine.keys import Keyring
from scanengine.program import Program
from scanengine.program.settings import Settings
from scanengine.server.app import make_app
from scanengine.server.connections import HTTP_LOGGER, Runner
from scanengine.server.hot import Desk, make_desk
from scanengine.server.metrics import Metrics
from scanengine.server.routes import STOPPING

logger = logging.getLogger(__name__)

DRAIN_S: Final = 0.25
FOLLOW_S: Final = 0.5
"""How often the manifest is looked at; a publication is served within a second."""
STOP_S: Final = 5.0
"""What a request may take beyond the ledger's deadline when the server stops; one that is never sent whole ends."""


def check_bind(host: str, keyring: Keyring) -> None:
    """Check that a server without tokens listens on loopback only.

    Raises
    ------
    SettingsError
        If `host` can be reached from outside and no bearer token is configured.
    """
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback and not keyring.has_tokens:
        raise SettingsError(
            f"--host {host}: without a bearer token the server binds to loopback only; add [[tokens]] to keys.toml"
        )


def hold_port(host: str, port: int) -> list[socket.socket]:
    """Return sockets that hold a port for workers to share, one for each address of the host.

    They do not listen: the system hands them no connections.

    Raises
    ------
    SettingsError
        If somebody else has the port.
    """
    held: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            # Alone first: a port that another server shares among its workers must not be joined by mistake.
            with _bound(family, (address[0], port), shares_port=False) as alone:
                port = alone.getsockname()[1]
            held.append(_bound(family, (address[0], port), shares_port=True))
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    return held


def _bound(family: int, address: tuple[str | int, int], *, shares_port: bool) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a server that has just stopped do not matter.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares_port)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(address)
    except OSError:
        found.close()
        raise
    return found


def tune_interpreter() -> None:
    """Set up this process to serve: for a command, not for a library that is mounted in somebody else's process.

    Notes
    -----
    Requests make many small objects and no cycles, so the collector need not look after every 700 of them. The event
    loop and the ledger's thread take turns with the GIL; longer turns mean fewer of them. Together 15 to 20 % more
    claims a second, and a shorter tail (CPython 3.11, November 2026, `benchmarks/bench_server.py`).
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    sys.setswitchinterval(0.02)


def time_to_stop_s(settings: Settings) -> float:
    """Return how long the requests in progress may take when a server stops, in seconds."""
    return settings.ledger.timeout_s + STOP_S


class Server:
    """One process that answers over TCP.

    The owner of an SQLite ledger answers over the control socket too: commands on this machine that claim must come to
    it. A Redis they can reach themselves.

    Parameters
    ----------
    program : Program
        Has a ledger to claim in; closed by :meth:`close`.
    port : int
        0 for any free one; :attr:`port` tells which.
    metrics : Metrics, optional
        To count in; with others if it is shared.
    budget_memory : int, optional
        File descriptor of :func:`~scanengine.server.limits.open_memory`, if several processes share failure budgets.
    shares_port : bool
        Whether other processes listen on the same port; the system deals the connections out.
    gate : Middleware, optional
        Stands in front of every route over TCP.

    Raises
    ------
    SettingsError
        If the address may not be used without a token.
    """

    def __init__(
        self,
        program: Program,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        metrics: Metrics | None = None,
        budget_memory: int | None = None,
        shares_port: bool = False,
        gate: Middleware | None = None,
    ) -> None:
        check_bind(host, program.keyring)
        self.program = program
        self.host = host
        self.port = port
        self._metrics = metrics or Metrics()
        self._budget_memory = budget_memory
        self._shares_port = shares_port or None  # As None the system's own rule holds.
        self._gate = gate
        self._stop = asyncio.Event()
        self._refresh = asyncio.Event()
        self.stop_s = time_to_stop_s(program.settings)
        self._runners: list[web.AppRunner] = []
        self._has_control = False
        self._follower: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Ask the server to stop; :meth:`run_until_stopped` returns when all is answered."""
        self._stop.set()

    async def run_until_stopped(self) -> None:
        """Serve, once started, until told to stop by :meth:`stop`, SIGTERM or SIGINT; then clean up."""
        try:
            await self._stop.wait()
        finally:
            await self.close()

    async def start(self) -> None:
        """Listen, and begin to follow the manifest.

        Raises
        ------
        SettingsError
            If the address cannot be had.
        LedgerUnavailableError
            If the program was opened without a ledger to claim in.
        """
        loop = asyncio.get_running_loop()
        self._metrics.sample(self.program)
        app = make_app(self.program, metrics=self._metrics, budget_memory=self._budget_memory)
        if self._gate is not None:
            app.middlewares.insert(0, self._gate)
        # What stands in front of the routes sees every request, so then all go that way.
        public = await self._open(app, make_desk(app) if self._gate is None else None)
        try:
            await web.TCPSite(public, self.host, self.port, backlog=1024, reuse_port=self._shares_port).start()
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {self.host}:{self.port}: {error.strerror}; choose another --port"
            ) from error
        self.port = public.addresses[0][1]
        if self.program.ledger.kind == "sqlite":
            control = await self._open(make_app(self.program, is_trusted=True, metrics=self._metrics))
            await web.SockSite(control, self._control_socket()).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._refresh.set)
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Answer what is in progress, then close the ledger."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        for runner in self._runners:
            runner.app[STOPPING].set()
            for site in list(runner.sites):
                await site.stop()
        # Busy clients learn from their next reply that their connection ends, instead of losing a request to it.
        await asyncio.sleep(DRAIN_S)
        for runner in self._runners:
            await runner.cleanup()
        if self._has_control:
            self.program.workspace.control_path.unlink(missing_ok=True)
        self._metrics.sample(self.program)
        await asyncio.to_thread(self.program.close)

    async def _open(self, app: web.Application, desk: Desk | None = None) -> web.AppRunner:
        runner = Runner(
            app, desk=desk, access_log=None, logger=HTTP_LOGGER, shutdown_timeout=self.stop_s, handle_signals=False
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    def _control_socket(self) -> socket.socket:
        workspace = self.program.workspace
        # Left by a process that was killed; we own the ledger, so nobody listens there.
        workspace.control_path.unlink(missing_ok=True)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_mask = os.umask(0o177)
        try:
            with workspace.control_address() as address:
                control.bind(address)
        finally:
            os.umask(old_mask)
        self._has_control = True
        control.setblocking(False)
        return control

    def _publications(self) -> tuple[tuple[int, int], ...]:
        """Identity of the files that a publication replaces."""
        workspace = self.program.workspace
        found = []
        for path in (workspace.manifest_path, workspace.products_path):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_ino, status.st_mtime_ns))
        return tuple(found)

    async def _follow(self) -> None:
        # What was published while the ledger was being opened has not been seen.
        seen: tuple[tuple[int, int], ...] = ()
        told = ""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), FOLLOW_S)
            self._metrics.sample(self.program)
            found = self._publications()
            if found == seen and not self._refresh.is_set():
                continue
            self._refresh.clear()
            try:
                if await asyncio.to_thread(self.program.refresh):
                    logger.info("serving generation %d", self.program.snapshot.generation)
                seen, told = found, ""
            except LedgerUnavailableError as error:
                if str(error) != told:
                    told = str(error)
                    logger.error("the ledger does not know of the publication yet: %s", error)
            except (ScanEngineError, OSError) as error:
                # Tried again until it can be used: a code that was made void must not stay valid here for ever.
                if str(error) != told:
                    told = str(error)
                    logger.error("the publication cannot be used, the old one stays: %s", error)
