"""How many requests a second a server answers, and how long each waits, asked by 64 connections of another process.

Requests are prepared: a file of whole requests of one length, each sent once. The generator is ``wrk`` where it is on
PATH, with one thread, and ``load_client.py`` where it is not; both are closed loops: a connection asks again when it
has its reply. So a latency is that at this load, and leaves out what people would wait in front of a server that
stands still. All servers of a run are asked by the same generator.
"""

from __future__ import annotations

import http.client
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
CONNECTIONS = 64
SAMPLE = 200
"""Claims of a run that are asked for again."""
WRK = shutil.which("wrk")
GENERATOR = "wrk -t1 -c64" if WRK else "load_client.py, 64 connections"


class Records(NamedTuple):
    """A file of prepared requests, all of `size` bytes."""

    path: Path
    size: int
    count: int

    @classmethod
    def write(cls, path: Path, records: NDArray[np.uint8]) -> Records:
        """Write requests of shape (n, size)."""
        records.tofile(path)
        return cls(path, records.shape[1], records.shape[0])

    def read(self, number: int) -> bytes:
        """Return one request."""
        with self.path.open("rb") as file:
            file.seek(number * self.size)
            return file.read(self.size)


def scan_records(codes: NDArray[np.uint8], people: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return a ``POST /v1/scans`` for each code, of shape (n, size)."""
    body = json.dumps({"code": "C" * 20, "user": "wx:" + "U" * 9})
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return _filled(f"POST /v1/scans HTTP/1.1\r\n{head}\r\n\r\n{body}", codes, people)


def look_records(path: str, codes: NDArray[np.uint8], headers: str = "") -> NDArray[np.uint8]:
    """Return a GET of ``path`` and the code for each code, of shape (n, size)."""
    return _filled(f"GET {path}{'C' * 20} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n", codes)


def _filled(text: str, codes: NDArray[np.uint8], people: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    made = np.tile(np.frombuffer(text.encode(), np.uint8), (len(codes), 1))
    at = text.index("C" * 20)
    made[:, at : at + 20] = codes
    if people is not None:
        at = text.index("U" * 9)
        for place in range(9):
            made[:, at + place] = people // 10 ** (8 - place) % 10 + ord("0")
    return made


class Asked:
    """One server under load: where it listens, what it is asked, and how far that has come.

    Parameters
    ----------
    are_new : bool
        Whether every request is sent only once in all runs; otherwise each run begins anew.
    """

    def __init__(self, name: str, port: int, records: Records, *, are_new: bool = True) -> None:
        self.name = name
        self.port = port
        self.records = records
        self.are_new = are_new
        self.sent = self.replies = 0
        self.found: list[dict[str, float]] = []

    def run(self, seconds: float, *, is_warm_up: bool = False) -> None:
        """Ask for some seconds; every reply must be a 2xx or 3xx."""
        first = self.sent if self.are_new else 0
        found = generate(self.port, self.records, first, seconds)
        assert not found["ran_out"], f"{self.name}: {self.records.count} prepared requests were too few"
        assert not found["refused"], f"{self.name}: {found['refused']} replies were refusals"
        assert not found["errors"], f"{self.name}: {found['errors']} requests got no reply"
        self.sent += int(found["sent"])
        self.replies += int(found["replies"])
        if not is_warm_up:
            self.found.append(found)

    def check_answers(self) -> None:
        """Ask some claims of the last run for again: each is a claim of this person, and was made before."""
        first = self.sent - int(self.found[-1]["sent"]) + 1  # wrk looks at one request, which it does not send.
        last = max(first, self.sent - 2 * CONNECTIONS)  # The last may have been on their way when the clock stopped.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for number in np.linspace(first, last, SAMPLE).astype(int).tolist():
            body = self.records.read(number).partition(b"\r\n\r\n")[2]
            connection.request("POST", "/v1/scans", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status == 200, answer
            assert answer["claim"]["status"] in ("awarded", "no_prize"), answer["claim"]
            assert answer["claim"]["replayed"], "a claim was answered that the ledger does not hold"
        connection.close()

    def check_total(self, claims: int) -> None:
        """Check what the ledger holds: every 200 a claim, and none that was not asked for.

        Requests that were on their way when the clock stopped may have been done and not been heard of.
        """
        assert self.replies <= claims <= self.sent, (
            f"{self.name}: {self.replies} replies, {self.sent} requests, {claims} claims"
        )

    def figures(self) -> dict[str, float]:
        """Return medians of the runs."""
        return {
            "per_s": statistics.median(row["replies"] / row["seconds"] for row in self.found),
            "p50_ms": statistics.median(row["p50_ms"] for row in self.found),
            "p99_ms": statistics.median(row["p99_ms"] for row in self.found),
        }


def generate(port: int, records: Records, first: int, seconds: float) -> dict[str, Any]:
    """Run the generator, a process of its own, and return what it says."""
    if WRK:
        command = [WRK, "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "--latency"]
        command += ["-s", str(HERE / "records.lua"), f"http://127.0.0.1:{port}", "--"]
        command += [str(records.path), str(records.size), str(first)]
    else:
        command = [sys.executable, str(HERE / "load_client.py"), str(port), str(records.path), str(records.size)]
        command += [str(first), str(CONNECTIONS), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def replies_to(port: int, records: Records, count: int, folder: Path) -> list[bytes]:
    """Send the first requests of a file, each once, and return all replies, in no order."""
    command = [sys.executable, str(HERE / "load_client.py"), str(port), str(records.path), str(records.size), "0"]
    command += [str(CONNECTIONS), "--count", str(count), "--replies", str(folder / "replies")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return [bytes.fromhex(line) for line in (folder / "replies").read_text().splitlines()]
