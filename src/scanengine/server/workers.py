"""Several processes that serve one port: started, watched, started again, stopped together.

Workers are fresh processes of the same command. Each listens on the port for itself (SO_REUSEPORT); the system deals
the connections out. The supervisor answers nobody. It holds the port while a worker is away, sends signals (SIGTERM to
stop, SIGHUP to read the tables again), reads one line from each worker (``ready``, or why it cannot be), holds the
memory of metrics and failure budgets, and a pipe that nothing is written to: its end of file tells that the supervisor
is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn

from scanengine.errors import SettingsError
from scanengine.server import limits
from scanengine.server.metrics import Metrics, open_memory
from scanengine.server.run import Server, hold_port

logger = logging.getLogger(__name__)

READY: Final = "ready"
PAUSE_S_MIN: Final = 0.5
PAUSE_S_MAX: Final = 30.0
"""A worker that cannot live is tried again for ever, but not in a hurry."""
STEADY_S: Final = 10.0
"""A worker that has lived so long did not die of its start; the next pause is the shortest again."""
KILL_S: Final = 2.0
"""What a worker may take to stop beyond its own stop time, before it is killed."""


class Place(NamedTuple):
    """What the supervisor hands to a worker: its number, and the file descriptors of the pipe and the shared memory.

    The memory is that of the metrics, and that of the failure budgets.
    """

    worker: int
    life: int
    memory: int
    budgets: int

    def answers(self, server: Server) -> None:
        """Tell the supervisor that the server answers, and stop it when the supervisor is gone."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(self.life)  # Its end of file would come again and again.
            # Nobody is left to kill us: the alarm does, wherever we are then.
            signal.setitimer(signal.ITIMER_REAL, server.stop_s + KILL_S)
            server.stop()

        loop.add_reader(self.life, stop)
        print(READY, flush=True)

    def refuses(self, error: Exception) -> NoReturn:
        """Tell the supervisor why there will be no answer, and exit."""
        print(error, flush=True)
        sys.exit(1)


class Supervisor:
    """Keeps workers running.

    Parameters
    ----------
    command : sequence of str
        Serves as a worker when ``--port`` and ``--worker`` with a :class:`Place` are added.
    environment : mapping
        Of the workers.
    port : int
        0 for any free one; :attr:`port` tells which.
    stop_s : float
        How long a worker may take to stop, seconds.

    Raises
    ------
    SettingsError
        If the address cannot be had.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], host: str, port: int, workers: int, stop_s: float
    ) -> None:
        self._held = hold_port(host, port)
        self.port: int = self._held[0].getsockname()[1]
        self._command = [*command, "--port", str(self.port)]
        self._environment = dict(environment)
        self._workers = workers
        self._stop_s = stop_s + KILL_S
        self._life, self._life_end = os.pipe()
        self._memory = open_memory(workers)
        self._budgets = limits.open_memory()
        self._metrics = Metrics(self._memory, None)
        self._processes: set[Process] = set()
        self._answering: set[Process] = set()

    async def run(self, announce: Callable[[], None]) -> bool:
        """Serve until SIGTERM or SIGINT; True if every worker stopped by itself. Announces once that all answer.

        Raises
        ------
        SettingsError
            If a worker cannot start; the others are stopped.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._refresh)
        stopped: asyncio.Task[bool] = asyncio.create_task(stop.wait())
        keepers: list[asyncio.Task[None]] = []
        starts = [asyncio.create_task(self._start(worker)) for worker in range(self._workers)]
        try:
            await _first_failure(stopped, starts)
            if not stop.is_set():
                announce()
                keepers = [
                    asyncio.create_task(self._keep(worker, start.result())) for worker, start in enumerate(starts)
                ]
                await _first_failure(stopped, keepers)
        finally:
            for task in (stopped, *starts, *keepers):
                task.cancel()
            await asyncio.gather(stopped, *starts, *keepers, return_exceptions=True)
            is_graceful = await self._end_all()
        return is_graceful

    def _refresh(self) -> None:
        # A worker that does not answer yet reads everything anew anyway, and would die of the signal.
        for process in self._answering:
            _send(process, signal.SIGHUP)

    async def _start(self, worker: int) -> Process:
        """Start a worker and return when it answers.

        Raises
        ------
        SettingsError
            If it ends instead; with its own words if it had any.
        """
        place = Place(worker, self._life, self._memory, self._budgets)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            "--worker",
            *map(str, place),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            pass_fds=place[1:],
            # Ctrl-C is for the supervisor, which stops the workers in its own order.
            process_group=0,
        )
        self._processes.add(process)
        assert process.stdout is not None
        said = (await process.stdout.readline()).decode(errors="replace")
        if said.strip() == READY:
            self._answering.add(process)
            return process
        said += (await process.stdout.read()).decode(errors="replace")
        ending = await self._ended(process, worker)
        raise SettingsError(said.strip() or f"worker {worker} {ending} before it answered")

    async def _ended(self, process: Process, worker: int) -> str:
        """Wait for the end of a worker and return in words how it ended."""
        code = await process.wait()
        self._processes.discard(process)
        self._answering.discard(process)
        self._metrics.forget(worker)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    async def _keep(self, worker: int, process: Process | None) -> None:
        """Start a worker again whenever it ends."""
        pause_s, answers_s, trouble = 0.0, monotonic(), ""
        while True:
            if process is not None:
                trouble = await self._ended(process, worker)
            is_steady = process is not None and monotonic() - answers_s > STEADY_S
            pause_s = PAUSE_S_MIN if is_steady else min(max(2 * pause_s, PAUSE_S_MIN), PAUSE_S_MAX)
            logger.error("worker %d %s; started again in %g s", worker, trouble, pause_s)
            await asyncio.sleep(pause_s)
            try:
                process = await self._start(worker)
                answers_s = monotonic()
                logger.info("worker %d answers again, process %d", worker, process.pid)
            except (SettingsError, OSError) as error:
                process, trouble = None, f"cannot start: {error}"

    async def _end_all(self) -> bool:
        """Stop all workers together; True if none had to be killed."""
        left = {asyncio.create_task(process.wait()): process for process in self._processes}
        for process in left.values():
            _send(process, signal.SIGTERM)
        late = (await asyncio.wait(left, timeout=self._stop_s))[1] if left else set()
        for waiting in late:
            logger.error("process %d does not stop: killed", left[waiting].pid)
            _send(left[waiting], signal.SIGKILL)
            await waiting
        return not late


async def _first_failure(stopped: asyncio.Task[bool], tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for all tasks or the stop, whichever is first; raise what a task raises."""
    left = set(tasks)
    while left and not stopped.done():
        done, _ = await asyncio.wait({stopped, *left}, return_when=asyncio.FIRST_COMPLETED)
        for task in done & left:
            task.result()
        left -= done


def _send(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
