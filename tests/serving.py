"""A market with codes of every kind, and a real server process for it: asked over sockets, stopped, killed by id."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from helpers import COLA, KEYS, SLOT, Shop
from scanengine.keys import Keyring, load_keyring
from scanengine.ledger import SqliteReader
from scanengine.model import NO_PRIZE, Scene, SegmentState, Status
from scanengine.program.publishing import SceneChange, create_batch, create_workspace
from scanengine.tables.workspace import Workspace

WAIT_S = 60.0
"""How long anything here waits before the test fails; nothing waits this long when all is well."""
PRIZES = """
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
currency = "CNY"
title = "88 yuan"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
"""
EVERYONE = """
[[rules]]
id = "everyone"
draw = { mode = "weighted", weights = { cash-88 = 1, points-10 = 3, none = 6 } }
"""
CASH_FOR_ALL = '[[rules]]\nid = "everyone"\ndraw = { mode = "certain", prize = "cash-88" }'
TRADE_ONLY = '[[rules]]\nid = "shop"\ndraw = { mode = "certain", prize = "points-10" }\nwhen = { roles = ["retailer"] }'
PURSE_UNITS = 10
BOTH = Scene.AUTHENTICITY | Scene.MARKETING


def a_campaign(id_: str, rules: str, *, days: tuple[int, int] = (-2, 30), before: str = "") -> str:
    """Return a campaign file that is open for the days given, counted from now."""
    now = datetime.now(UTC).replace(microsecond=0)
    opens, closes = ((now + timedelta(days=day)).isoformat() for day in days)
    window = f'opens = {opens}\ncloses = {closes}\ntimezone = "Asia/Shanghai"'
    return f'id = "{id_}"\ntitle = "Open a cap, win"\n{window}\n{before}\n{PRIZES}\n{rules}\n'


CAMPAIGNS: dict[str, dict[str, Any]] = {
    "spring": {"rules": EVERYONE},
    "past": {"rules": EVERYONE, "days": (-9, -2)},
    "future": {"rules": EVERYONE, "days": (2, 9)},
    "trade": {"rules": TRADE_ONLY},
    "once": {"rules": CASH_FOR_ALL, "before": "[limits]\nper_user = 1"},
    "daily": {"rules": CASH_FOR_ALL, "before": "[limits]\nper_user_per_day = 1"},
    "purse": {"rules": CASH_FOR_ALL, "before": f'[budget]\ncurrency = "CNY"\ntotal = {PURSE_UNITS * 8800}'},
}
PLACES: dict[str, tuple[int, int, SceneChange | None]] = {
    "valid": (0, 1000, SceneChange(SegmentState.ACTIVE, BOTH, "spring")),
    "inactive": (1000, 1010, None),
    "frozen": (1010, 1020, SceneChange(SegmentState.FROZEN, BOTH, "spring")),
    "void": (1020, 1030, SceneChange(SegmentState.VOID, BOTH, "spring")),
    "recalled": (1030, 1040, SceneChange(SegmentState.RECALLED, BOTH, "spring")),
    "expired": (1040, 1050, SceneChange(SegmentState.ACTIVE, BOTH, "spring", active_until_ms=1_600_000_000_000)),
    "scene_off": (1050, 1060, SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY)),
    "ended": (1060, 1070, SceneChange(SegmentState.ACTIVE, BOTH, "past")),
    "early": (1070, 1080, SceneChange(SegmentState.ACTIVE, BOTH, "future")),
    "no_rule": (1080, 1090, SceneChange(SegmentState.ACTIVE, BOTH, "trade")),
    "unbound": (1090, 1100, SceneChange(SegmentState.ACTIVE, BOTH, "nobody")),
    "once": (1100, 1150, SceneChange(SegmentState.ACTIVE, BOTH, "once")),
    "daily": (1150, 1200, SceneChange(SegmentState.ACTIVE, BOTH, "daily")),
    "purse": (1200, 2200, SceneChange(SegmentState.ACTIVE, BOTH, "purse")),
    "load": (2200, 30_000, SceneChange(SegmentState.ACTIVE, BOTH, "spring")),
}


class Market:
    """A workspace with codes of every kind; :meth:`take` hands each of them out once."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self._left = {name: iter(shop.codes(start, end)) for name, (start, end, _) in PLACES.items()}
        valid = shop.codes(*PLACES["valid"][:2])
        drawn = shop.engine.decide_many(valid, _now_ms()).prize.tolist()
        for name, number in (("cash", 0), ("points", 1), ("nothing", NO_PRIZE)):
            self._left[name] = iter([code for code, found in zip(valid, drawn, strict=True) if found == number])

    @property
    def folder(self) -> Path:
        return self.shop.folder

    def take(self, name: str) -> str:
        """Return a code of this kind that no test has used."""
        return next(self._left[name])

    def forged(self, code: str) -> str:
        """Return a code with a right check symbol and a wrong tag."""
        other = "0" if code[12] != "0" else "1"
        made = [code[:12] + other + code[13:-1] + last for last in "0123456789ABCDEFGHJKMNPQRSTVWXYZ"]
        (found,) = [text for text in made if self.shop.keyring.code_keys.decode(text)[0] == Status.FORGED]
        return found

    def unknown(self, number: int = 0) -> str:
        """Return a code that our keys made, but for no batch."""
        return self.shop.keyring.code_keys.encode(SLOT, 5_000_000 + number)

    def unknown_key(self, number: int = 0) -> str:
        """Return a code that keys of a slot we do not have made."""
        return Keyring([(7, bytes(32), "active")], bytes(32), bytes(32)).code_keys.encode(7, number)

    def mistyped(self, code: str) -> str:
        """Return a code with a wrong check symbol."""
        return code[:-1] + ("0" if code[-1] != "0" else "1")


def a_market(folder: Path, *, tokens: bool = False) -> Market:
    """Make the workspace; without tokens a server needs none, on loopback."""
    workspace = create_workspace(folder)
    workspace.keys_path.write_text(KEYS if tokens else KEYS.partition("[[tokens]]")[0])
    shop = Shop(workspace, load_keyring(workspace.keys_path))
    create_batch(workspace, shop.keyring, "cola", 30_000, product=COLA)
    for name, parts in CAMPAIGNS.items():
        shop.publish(a_campaign(name, **parts), name)
    for start, end, change in PLACES.values():
        if change is not None:
            shop.assign(start, end, change)
    return Market(shop)


def a_copy(market: Market, folder: Path) -> Market:
    """Return the same market in a folder of its own; making one anew takes longer."""
    shutil.copytree(market.folder, folder)
    return Market(Shop(Workspace(folder), market.shop.keyring))


def use_redis(market: Market, url: str, **more: object) -> None:
    """Let the market's ledger be a Redis, as a program that no other test has."""
    path = market.shop.workspace.settings_path
    own = re.sub(r'^id = "\w+"', f'id = "{secrets.token_hex(8)}"', path.read_text(), flags=re.MULTILINE)
    options = {"url": url, "durability": "volatile", **more}
    path.write_text(own + "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()))


def _now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)


@dataclass(frozen=True)
class Reply:
    """One whole HTTP reply."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Metrics = dict[tuple[str, ...], float]
"""Value by name, followed by the values of its labels in the order of their names."""


def metrics_of(text: bytes) -> Metrics:
    """Read the Prometheus text format."""
    samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    return {(sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value for sample in samples}


class Client:
    """One HTTP connection that is kept alive; a context manager."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        self._connection.request(method, path, body, {**self._headers, **headers})
        response = self._connection.getresponse()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, data, **{"Content-Type": "application/json"})

    def claim(self, code: str, user: str, **more: Any) -> Any:
        """Claim, and return the answer, which must come with the status of an answer."""
        reply = self.post("/v1/scans", {"code": code, "user": user, **more})
        assert reply.status == 200, reply.body
        return reply.json

    def metrics(self) -> Metrics:
        """Return what ``/metrics`` shows."""
        reply = self.get("/metrics")
        assert reply.status == 200, reply.body
        return metrics_of(reply.body)

    def calls(self) -> int:
        """Return how often the ledger was asked."""
        calls: int = self.get("/readyz").json["ledger"]["calls"]
        return calls


def run_cli(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "scanengine", "-w", str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


class Served:
    """A ``scanengine serve`` process that is ready to answer."""

    def __init__(
        self, folder: Path, *options: object, port: int = 0, program: tuple[object, ...] = ("-m", "scanengine")
    ) -> None:
        self.folder = folder
        self.log_path = folder.with_name(folder.name + ".log")
        command = [sys.executable, *map(str, program), "-w", str(folder), "serve", "--port", str(port)]
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(
                [*command, *map(str, options)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        is_readable = select.select([self.process.stdout], [], [], WAIT_S)[0]
        self.banner = self.process.stdout.readline() if is_readable else ""
        found = re.search(r"on http://[^ ]*:(\d+) ", self.banner)
        if found is None:
            self.kill()
            raise AssertionError(f"the server did not start: {self.log_path.read_text()}")
        self.port = int(found[1])

    def client(self, token: str | None = None) -> Client:
        return Client(self.port, token)

    def stop(self) -> int:
        """Stop by SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """Stop by SIGKILL, which nothing can prepare for."""
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextmanager
def serving(folder: Path, *options: object, **how: Any) -> Iterator[Served]:
    """Serve a workspace; afterwards the server stops, with exit code 0 and no error in its log."""
    served = Served(folder, *options, **how)
    try:
        yield served
        code = served.stop()
    finally:
        if served.process.poll() is None:
            served.kill()
    assert code == 0, served.log_path.read_text()
    assert "Traceback" not in served.log_path.read_text(), served.log_path.read_text()


def in_threads(count: int, work: Callable[[int], object]) -> list[Any]:
    """Run ``work(0)`` to ``work(count - 1)`` at the same time; return the results, raise the first error."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            start.wait(WAIT_S)
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001 - raised again below, where the test can see it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def raw_ask(port: int, data: bytes) -> bytes:
    """Send bytes as they are and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def raw_post(path: str, body: bytes, connection: str = "close") -> bytes:
    """Return the bytes of one POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Wire:
    """One connection that sees every byte of a reply, or that there was none."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)

    def post(self, path: str, body: bytes) -> dict[str, Any] | None:
        """Return the reply, or None if the server closed without a byte; half a reply fails the test."""
        received = b""
        try:
            self.connection.sendall(raw_post(path, body, "keep-alive"))
            while not _is_whole(received):
                piece = self.connection.recv(65_536)
                if not piece:
                    break
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        if not received:
            return None
        assert _is_whole(received), f"half a reply: {received!r}"
        head, _, content = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), received
        reply: dict[str, Any] = json.loads(content)
        return reply


def _is_whole(received: bytes) -> bool:
    head, end, content = received.partition(b"\r\n\r\n")
    if not end:
        return False
    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(content) == int(sizes[0].partition(b":")[2])


def recorded_claims(shop: Shop) -> dict[tuple[int, str], str]:
    """Return claim id by item and user of all that the ledger file records."""
    with SqliteReader(shop.workspace.ledger_path) as reader:
        return {(event.item, event.user): event.claim or "" for claim, event in reader.events() if claim}
