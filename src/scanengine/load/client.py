"""One process of the load generator: sends prepared requests, notes when and what came back, and does nothing else.

    python -m scanengine.load.client

Reads its orders from a line of standard input, prints ``ready`` when its connections are open, reads the moment to
start, plays its tape, prints what it used, and waits for the next orders. No request is sent before the one before on
the same connection is answered. Standard input closed means that whoever started it is gone: it ends.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from scanengine.load.connection import Connection
from scanengine.load.tape import SLOT_NS, Layout, Tape

_BEAT_NS: Final = 5_000_000
"""How often the generator looks at the clock when nothing else makes it."""
_RECONNECT_S: Final = 0.05
_NEVER_NS: Final = 1 << 62
_CHECK_NS: Final = 100_000_000
"""How often is looked for requests that take too long."""


class Orders(msgspec.Struct, frozen=True):
    """What one client process is to do.

    Parameters
    ----------
    is_open : bool
        Whether requests are sent when they are due; else each connection sends on when it is answered.
    duration_ns : int
        After this nothing new is sent in a closed loop; 0 for the whole tape.
    timeout_ns : int
        How long one request may take, and how long is waited for the last ones.
    """

    tape: str
    layout: Layout
    host: str
    port: int
    tls: bool
    connections: int
    is_open: bool
    duration_ns: int
    timeout_ns: int


class Used(msgspec.Struct, frozen=True):
    """What the process used between start and end."""

    cpu_s: float
    wall_s: float
    connect_errors: int


class Crew:
    """All connections of this process and the tape they play."""

    def __init__(self, orders: Orders, tape: Tape) -> None:
        self._orders = orders
        self._is_open = orders.is_open
        self.width = tape.layout.width
        self.requests = tape.requests
        self.sent, self.answered, self.status = (tape.column(name) for name in ("sent", "answered", "status"))
        self.start, self.size = tape.column("start"), tape.column("size")
        self._due = tape.column("due")
        self._lag = tape.column("lag")
        self.replies = bytearray()
        self.start_ns = 0
        self.in_flight = 0
        self.connect_errors = 0
        self._count = tape.layout.count
        self._next = 0
        self._stop_ns = self._give_up_ns = _NEVER_NS
        self._alone_ns = 0
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._expected_ns = 0
        self._checked_ns = 0
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()

    async def connect(self) -> None:
        """Open all connections; a server that cannot be reached is told by the count of errors."""
        await asyncio.gather(*(self._connect() for _ in range(self._orders.connections)))

    async def _connect(self) -> None:
        orders = self._orders
        context = ssl.create_default_context() if orders.tls else None
        while not self._is_over:
            try:
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self), orders.host, orders.port, ssl=context
                )
            except OSError:
                self.connect_errors += 1
                if not self.start_ns:
                    return
                await asyncio.sleep(_RECONNECT_S)
                continue
            self._open.add(connection)
            if self.ended.done():
                connection.transport.abort()
            elif self.start_ns:
                self.is_free(connection, time.monotonic_ns())
            else:
                self._idle.append(connection)
            return

    def begin(self, start_ns: int) -> None:
        """Play the tape from a moment of the monotonic clock on."""
        self.start_ns = start_ns
        duration_ns = self._orders.duration_ns
        self._stop_ns = start_ns + duration_ns if duration_ns else _NEVER_NS
        last_ns = start_ns + self._due[self._count - 1] if self._is_open else self._stop_ns
        # What is on its way ends with its own timeout; this ends the waiting for what was due and never sent.
        self._give_up_ns = last_ns + self._orders.timeout_ns + _CHECK_NS
        self._alone_ns = start_ns
        wait_s = max(0.0, (start_ns - time.monotonic_ns()) / 1e9)
        self._loop.call_later(wait_s, self._beat)

    def is_free(self, connection: Connection, now_ns: int) -> None:
        """Let a connection send the next request, or wait for it to be due."""
        row = self._next
        if row < self._count and (
            self.start_ns + self._due[row] <= now_ns if self._is_open else self.start_ns <= now_ns < self._stop_ns
        ):
            self._next = row + 1
            self.in_flight += 1
            connection.send(row, now_ns)
            if self._is_open and self._idle:
                self._send_due(now_ns)
            return
        self._idle.append(connection)
        if self.in_flight == 0:
            self._end_if_over(now_ns)

    def is_gone(self, connection: Connection) -> None:
        """Open a connection in place of one that ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._is_over:
            task = self._loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """End now, whatever is on its way."""
        if not self.ended.done():
            self._is_over = True
            self._next = self._count  # Nothing more is sent.
            self.ended.set_result(None)

    def fail(self, error: BaseException | None) -> None:
        """End with an error of ours, which no figure may come out of."""
        if not self.ended.done():
            self._is_over = True
            self.ended.set_exception(error or RuntimeError("an error without a cause"))

    async def close(self) -> None:
        """Close every connection; what was on its way is noted as lost."""
        self._is_over = True
        for connection in list(self._open):
            connection.transport.abort()
        # Each is told in the next turn of the loop that it is closed.
        while self._open:
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send_due(self, now_ns: int) -> None:
        if not self._is_open and not self.start_ns <= now_ns < self._stop_ns:
            return
        while self._idle and self._next < self._count:
            row = self._next
            if self._is_open and self.start_ns + self._due[row] > now_ns:
                return
            self._next = row + 1
            self.in_flight += 1
            self._idle.pop().send(row, now_ns)

    def _beat(self) -> None:
        """Send what is due; note how late this call came, which is how far the generator is behind."""
        if self._is_over:
            return
        now_ns = time.monotonic_ns()
        if self._expected_ns:
            self._note_lag(now_ns)
        self._send_due(now_ns)
        if now_ns - self._checked_ns > _CHECK_NS:
            self._checked_ns = now_ns
            for connection in list(self._open):
                if connection.row >= 0 and now_ns - connection.sent_ns > self._orders.timeout_ns:
                    connection.give_up(now_ns)
            self._end_if_over(now_ns)
        wait_ns = _BEAT_NS
        if self._idle and self._is_open and self._next < self._count:
            wait_ns = min(wait_ns, max(0, self.start_ns + self._due[self._next] - now_ns))
        # The loop's timers tick in whole milliseconds.
        wait_ms = wait_ns // 1_000_000 + 1
        self._expected_ns = now_ns + wait_ms * 1_000_000
        self._loop.call_later(wait_ms / 1000, self._beat)

    def _note_lag(self, now_ns: int) -> None:
        """Note how far this process was behind at each moment since it should have been here: a pause is long."""
        first = max(0, self._expected_ns - self.start_ns) // SLOT_NS
        last = min((now_ns - self.start_ns) // SLOT_NS, len(self._lag) - 1)
        for slot in range(first, last + 1):
            end_ns = min(now_ns, self.start_ns + (slot + 1) * SLOT_NS)
            self._lag[slot] = max(self._lag[slot], end_ns - self._expected_ns)

    def _end_if_over(self, now_ns: int) -> None:
        is_all_sent = self._next >= self._count or (not self._is_open and now_ns >= self._stop_ns)
        if (is_all_sent and self.in_flight == 0) or now_ns >= self._give_up_ns:
            self.stop()
        elif self._open:
            self._alone_ns = now_ns
        elif now_ns - self._alone_ns > self._orders.timeout_ns:
            self.stop()  # Nobody is there any more.


async def play(orders: Orders, lines: asyncio.Queue[str]) -> Used:
    """Play a tape and return what it took; the replies are beside the tape when this returns."""
    tape = Tape(Path(orders.tape), orders.layout)
    crew = Crew(orders, tape)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: crew.fail(context.get("exception")))
    await crew.connect()
    print("ready", flush=True)
    start = await lines.get()
    if start:
        crew.begin(int(start))
    else:
        crew.stop()
    cpu_s, wall_s = time.process_time(), time.monotonic()
    gone = asyncio.ensure_future(lines.get())
    await asyncio.wait({crew.ended, gone}, return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        lines.put_nowait("")
        crew.stop()
    gone.cancel()
    await crew.ended
    used = Used(time.process_time() - cpu_s, time.monotonic() - wall_s, crew.connect_errors)
    await crew.close()
    tape.replies_path.touch(0o600)
    tape.replies_path.write_bytes(crew.replies)
    return used


async def serve() -> None:
    """Play one tape after the other, as standard input names them, until it ends."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.strip())
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=listen, daemon=True).start()
    while line := await lines.get():
        used = await play(msgspec.json.decode(line, type=Orders), lines)
        # Whoever has read this may remove the tape, which nothing here holds any longer.
        gc.collect()
        print(msgspec.json.encode(used).decode(), flush=True)


def main() -> None:
    """Be one process of the generator."""
    # Ctrl-C reaches all processes of a terminal; the one that started this one says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A collection would be a pause in every latency that is measured meanwhile.
    gc.disable()
    uvloop.run(serve())


if __name__ == "__main__":
    main()
