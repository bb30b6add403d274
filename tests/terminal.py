"""A terminal with a program in it: a real pseudo-terminal, its screen as text, and the QR code on it read again."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import pyte
import zxingcpp

from serving import WAIT_S

HALVES = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
"""Each character as the two modules that it shows, one above the other: 1 is dark, as what is not drawn is."""
QR_COLUMNS_MIN = 25
MODULE_PIXELS = 6


class Terminal:
    """A program that has a terminal of its own; a context manager that ends it.

    The screen is what a person would see, as lines of text; it is read all the time, so the program never waits.
    """

    def __init__(self, command: list[str], *, columns: int = 110, lines: int = 28, cwd: Path | None = None) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self._master, slave = pty.openpty()
        self._wake, self._waker = os.pipe()
        self.resize(columns, lines)
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        try:
            # The terminal controls the program, so that Ctrl-C typed into it is a signal.
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=cwd
            )
        finally:
            os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._is_open = True

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        self.hang_up()
        os.close(self._wake)

    def _read(self) -> None:
        while True:
            ready = select.select([self._master, self._wake], [], [])[0]
            try:
                data = os.read(self._master, 65_536) if self._master in ready else b""
            except OSError:  # Nobody has the other end any more.
                data = b""
            with self._changed:
                if data:
                    self._stream.feed(data)
                self._changed.notify_all()
            if not data:
                return

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the window."""
        with self._changed:
            self._screen.resize(lines, columns)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type into the terminal."""
        os.write(self._master, text.encode())

    def hang_up(self) -> None:
        """Close the window, whatever the program is doing."""
        if self._is_open:
            self._is_open = False
            os.close(self._waker)
            self._reader.join(WAIT_S)  # Whoever still reads keeps it open.
            os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """What the screen shows now."""
        with self._changed:
            return list(self._screen.display)

    def wait_for(self, look: Callable[[list[str]], object]) -> list[str]:
        """Return the first screen on which `look` sees something; the test fails if none comes."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while not look(shown := list(self._screen.display)):
                left = deadline - time.monotonic()
                assert left > 0, "\n".join(shown)
                assert self._reader.is_alive(), "\n".join(["the program has ended:", *shown])
                self._changed.wait(left)
        return shown

    def wait(self) -> int:
        """Wait until the program ends; return its exit code."""
        return self.process.wait(WAIT_S)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program whose output is a pipe; it does not outlive a test that fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def stopped(process: subprocess.Popen[str]) -> str:
    """Stop a program as Ctrl-C does; return what it said last, which is no complaint."""
    process.send_signal(signal.SIGINT)
    rest, complaints = process.communicate(timeout=WAIT_S)
    assert (process.returncode, complaints) == (0, "")
    return rest


def qr_of(lines: list[str]) -> str | None:
    """Read the QR code that begins a line of the screen, as a camera would; None if there is none."""
    top = next((number for number, line in enumerate(lines) if line.startswith("█" * QR_COLUMNS_MIN)), None)
    if top is None:
        return None
    columns = len(lines[top]) - len(lines[top].lstrip("█"))
    code = list(
        itertools.takewhile(lambda line: line and set(line) <= set(HALVES), (line[:columns] for line in lines[top:]))
    )
    modules = np.array([[HALVES[char] for char in line] for line in code if line.strip()], np.uint8)
    pixels = 255 * (1 - modules.transpose(0, 2, 1).reshape(-1, columns))
    found = zxingcpp.read_barcodes(np.kron(pixels, np.ones((MODULE_PIXELS, MODULE_PIXELS), np.uint8)))
    return found[0].text if found else None
