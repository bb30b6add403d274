"""One run: tapes are written, client processes play them, and what came of each request is read back."""

from __future__ import annotations

import contextlib
import secrets
import select
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine.errors import SettingsError
from scanengine.load.client import Orders, Used
from scanengine.load.connection import read_head
from scanengine.load.measuring import Timed
from scanengine.load.servers import stop
from scanengine.load.tape import BROKEN, COLUMNS, SLOT_NS, Layout, Tape
from scanengine.load.target import Target

_READY_S: Final = 60.0
_START_NS: Final = 50_000_000
"""The start is this far ahead of being told, so that all processes begin at once."""
_LOOK_S: Final = 0.25
_SPARE_SLOTS: Final = 200


class Progress(msgspec.Struct, frozen=True):
    """How a run goes, over the last moment.

    Parameters
    ----------
    seconds : float
        Since the start.
    per_second : float
        Replies.
    """

    seconds: float
    sent: int
    answered: int
    per_second: float
    p99_ms: float
    errors: int
    lag_ms: float


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Reel:
    """What one client process is to send.

    Parameters
    ----------
    count, width : int
        Requests, and bytes of each.
    write : callable
        Writes them into the memory that it is given.
    due : int64, shape (count,), or None for a closed loop
        Nanoseconds from the start.
    connections : int
        Of this process.
    """

    count: int
    width: int
    write: Callable[[memoryview[Any]], None]
    due: NDArray[np.int64] | None
    connections: int


class Played:
    """What came of the requests of one client process; columns of shape (n,)."""

    def __init__(self, tape: Tape, used: Used, start_ns: int, *, is_open: bool) -> None:
        columns = {name: np.array(tape.column(name), np.int64) for name in COLUMNS}
        self.sent, self.answered, self.status = columns["sent"], columns["answered"], columns["status"]
        self.used = used
        self.start_ns = start_ns
        self._start, self._size = columns["start"], columns["size"]
        self._replies = tape.replies_path.read_bytes()
        self._lag = np.array(tape.column("lag"), np.int64)
        self._begun = columns["due"] if is_open else self.sent
        self._is_open = is_open

    def reply(self, row: int) -> tuple[int, bytes]:
        """Return status and body of the reply to a request; `BROKEN` if it was not strictly one, what it was if none.

        What the client framed in haste is looked at with care here.
        """
        status = int(self.status[row])
        if status <= 0:
            return status, b""
        start = int(self._start[row])
        head, _, body = self._replies[start : start + int(self._size[row])].partition(b"\r\n\r\n")
        found, size, _ = read_head(head + b"\r\n")
        return (found, body) if size == len(body) and found == status else (BROKEN, b"")

    @property
    def never_sent(self) -> NDArray[np.bool_]:
        """Requests that were due and for which no connection became free in time."""
        found: NDArray[np.bool_] = (self.sent == 0) & self._is_open
        return found

    def timed(self, is_error: NDArray[np.bool_]) -> Timed:
        """Return when everything happened."""
        return Timed(
            self._begun, self.sent, self.answered, self.status > 0, is_error | self.never_sent, self._lag,
            self.used.cpu_s, self.used.wall_s,
        )  # fmt: skip


class Clients:
    """Processes of the generator, started when they are first needed; a context manager that ends them.

    Parameters
    ----------
    folder : Path
        For the tapes, which are removed when they are played; in memory if it can be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._started:
            with contextlib.suppress(OSError):
                stop(client)

    def __getitem__(self, number: int) -> subprocess.Popen[str]:
        """Return the process of a number, counted from 0."""
        while len(self._started) <= number:
            command = [sys.executable, "-m", "scanengine.load.client"]
            self._started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return self._started[number]


def play(
    target: Target,
    clients: Clients,
    reels: Sequence[Reel],
    *,
    duration_s: float,
    timeout_s: float,
    watch: Watch | None = None,
) -> list[Played]:
    """Play each reel in a process of its own, all at once, and return what came of it.

    Parameters
    ----------
    duration_s : float
        After which nothing new is sent in a closed loop; 0 to send everything.

    Raises
    ------
    SettingsError
        If a process does not start, or ends before its time.
    """
    is_open = reels[0].due is not None
    with contextlib.ExitStack() as stack:
        started = []
        for number, reel in enumerate(reels):
            last_s = reel.due[-1] / 1e9 if reel.due is not None and reel.count else duration_s
            slots = int((last_s + timeout_s) * 1e9 / SLOT_NS) + _SPARE_SLOTS
            tape = stack.enter_context(_new_tape(clients.folder, Layout(reel.count, reel.width, slots)))
            reel.write(tape.requests)
            if reel.due is not None:
                np.frombuffer(tape.column("due"), np.int64)[:] = reel.due
            orders = Orders(
                str(tape.path), tape.layout, target.host, target.port, target.tls, reel.connections, is_open,
                int(duration_s * 1e9), int(timeout_s * 1e9),
            )  # fmt: skip
            client = clients[number]
            _tell(client, msgspec.json.encode(orders).decode())
            started.append((tape, client))
        for _, client in started:
            if _line(client, _READY_S) != "ready":
                raise SettingsError("a process of the load generator does not start; what it said is above")
        start_ns = time.monotonic_ns() + _START_NS
        for _, client in started:
            _tell(client, str(start_ns))
        _wait(started, start_ns, watch)
        found = []
        for tape, client in started:
            said = _line(client, _READY_S)
            try:
                found.append(Played(tape, msgspec.json.decode(said, type=Used), start_ns, is_open=is_open))
            except msgspec.DecodeError as error:
                raise SettingsError("a process of the load generator ended before its time") from error
        return found


@contextlib.contextmanager
def _new_tape(folder: Path, layout: Layout) -> Iterator[Tape]:
    path = folder / f"tape-{secrets.token_hex(4)}"
    try:
        try:
            tape = Tape(path, layout, is_new=True)
        except OSError as error:
            raise SettingsError(
                f"{layout.size:,} bytes for {layout.count:,} requests cannot be had in {folder}: {error.strerror}: ask "
                "for fewer requests, or a shorter time"
            ) from error
        yield tape
    finally:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".replies").unlink(missing_ok=True)


def _tell(client: subprocess.Popen[str], line: str) -> None:
    assert client.stdin is not None
    try:
        client.stdin.write(f"{line}\n")
        client.stdin.flush()
    except OSError as error:
        raise SettingsError("a process of the load generator has ended; what it said is above") from error


def _line(client: subprocess.Popen[str], timeout_s: float) -> str:
    assert client.stdout is not None
    is_readable = select.select([client.stdout], [], [], timeout_s)[0]
    return client.stdout.readline().strip() if is_readable else ""


def _wait(started: list[tuple[Tape, subprocess.Popen[str]]], start_ns: int, watch: Watch | None) -> None:
    """Wait until every process has said something, and tell how it goes meanwhile."""
    waiting = [client.stdout for _, client in started if client.stdout is not None]
    looks = [Look(tape) for tape, _ in started]
    seen_ns = 0
    while waiting:
        ready = select.select(waiting, [], [], _LOOK_S)[0]
        waiting = [stream for stream in waiting if stream not in ready]
        if watch is not None and waiting:
            now_ns = max(time.monotonic_ns() - start_ns, seen_ns + 1)
            watch(_progress(looks, seen_ns, now_ns))
            seen_ns = now_ns


class Look:
    """Looks at a tape while it is played: at what is on its way only, as the server needs the processor."""

    def __init__(self, tape: Tape) -> None:
        columns = {name: np.frombuffer(tape.column(name), np.int64) for name in (*COLUMNS, "lag")}
        self._sent, self._answered, self._status = columns["sent"], columns["answered"], columns["status"]
        self._begun = columns["due"] if columns["due"].any() else self._sent
        self._lag = columns["lag"]
        self._done = 0
        self.sent = self.answered = self.errors = 0

    def look(self, seen_ns: int) -> NDArray[np.int64]:
        """Count on; return how long what was answered since `seen_ns` took, nanoseconds."""
        # Requests are sent in order, so those that were are the first ones.
        self.sent = bisect_left(range(len(self._sent)), True, lo=self.sent, key=lambda row: self._sent[row] == 0)
        span = slice(self._done, self.sent)
        status, answered = self._status[span], self._answered[span]
        is_new = (status != 0) & (answered > seen_ns)
        self.answered += int(np.count_nonzero(is_new & (status > 0)))
        self.errors += int(np.count_nonzero(is_new & (status < 0)))
        taken: NDArray[np.int64] = (answered - self._begun[span])[is_new & (status > 0)]
        open_rows = np.flatnonzero(status == 0)
        self._done += int(open_rows[0]) if len(open_rows) else len(status)
        return taken

    def lag_ns(self, seen_ns: int, now_ns: int) -> int:
        """Return how far the process was behind at most since `seen_ns`."""
        return int(self._lag[seen_ns // SLOT_NS : now_ns // SLOT_NS + 1].max(initial=0))


def _progress(looks: list[Look], seen_ns: int, now_ns: int) -> Progress:
    latest = np.concatenate([each.look(seen_ns) for each in looks])
    return Progress(
        seconds=now_ns / 1e9,
        sent=sum(each.sent for each in looks),
        answered=sum(each.answered for each in looks),
        per_second=len(latest) / ((now_ns - seen_ns) / 1e9),
        p99_ms=float(np.percentile(latest, 99)) / 1e6 if len(latest) else 0.0,
        errors=sum(each.errors for each in looks),
        lag_ms=max(each.lag_ns(seen_ns, now_ns) for each in looks) / 1e6,
    )
