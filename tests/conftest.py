"""What every test starts from: steady examples, and a shop whose clock stands at noon on 1 May 2026."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from helpers import Shop, a_copy, a_shop, an_empty_shop
from helpers_cli import Done, Run
from helpers_ledger import Opener, RedisOpener
from helpers_moving import a_filled_file
from redis_servers import RedisCluster, RedisServer, newest_binary, server_binaries
from scanengine.cli.commands import run as run_command_line
from scanengine.ledger import SqliteLedger
from scanengine.ledger.redis import RedisLedger

# The same examples in every run, so that a failure is one of the change at hand.
# SCANENGINE_TEST_EXPLORE=1 seeks others.
settings.register_profile("steady", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("explore" if os.environ.get("SCANENGINE_TEST_EXPLORE") == "1" else "steady")


def pytest_configure() -> None:
    """Let Ctrl-C end what the tests start: a shell that starts them in the background lets it be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def empty_shop(tmp_path: Path) -> Shop:
    """A workspace with known keys and nothing published."""
    return an_empty_shop(tmp_path / "shop")


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every ``shop`` is a copy of: publishing syncs, copying need not."""
    return a_shop(tmp_path_factory.mktemp("template") / "shop").folder


@pytest.fixture
def shop(tmp_path: Path, shop_template: Path) -> Shop:
    """A workspace with 1,000 active codes of the batch ``cola``, in the campaign ``spring``."""
    return a_copy(shop_template, tmp_path / "shop")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The ledger file of a test."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def open_ledger(path: Path) -> Iterator[Opener]:
    """Opens ledgers, each closed when the test ends."""
    opened: list[SqliteLedger] = []

    def opener(where: Path = path, **changes: Any) -> SqliteLedger:
        opened.append(SqliteLedger(where, "program-1", **changes))
        return opened[-1]

    yield opener
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Opener) -> SqliteLedger:
    """An open ledger."""
    return open_ledger()


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RedisServer]]:
    """Return the server that all tests share, by the name of its binary; started when it is first asked for."""
    binaries = server_binaries()
    with ExitStack() as started:

        @cache
        def server(name: str) -> RedisServer:
            return started.enter_context(RedisServer(binaries[name], tmp_path_factory.mktemp(name)))

        yield server


@pytest.fixture(params=sorted(server_binaries()))
def redis_server(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> RedisServer:
    """Each kind of server, shared by all tests: use a ``program_id`` of your own, and change no setting."""
    return redis_servers(request.param)


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries, shared by all tests: use a ``program_id`` of your own, and move no slot but its own."""
    with RedisCluster(newest_binary(), tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=sorted(server_binaries()))
def start_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of each kind for one test alone, with the options given."""
    binary = server_binaries()[request.param]
    numbers = count()
    with ExitStack() as started:
        yield lambda **options: started.enter_context(
            RedisServer(binary, tmp_path / f"server-{next(numbers)}", **options)
        )


@pytest.fixture
def program_id() -> str:
    """Identity of a program that no other test has."""
    return f"program-{secrets.token_hex(8)}/key"


@pytest.fixture
def open_redis(program_id: str) -> Iterator[RedisOpener]:
    """Opens ledgers at a URL, each closed when the test ends; a server of the tests promises nothing to last."""
    opened: list[RedisLedger] = []

    def opener(url: str, **changes: Any) -> RedisLedger:
        arguments = {"program_id": program_id, "durability": "volatile", "outbox": "keep", **changes}
        opened.append(RedisLedger(url, **arguments))
        return opened[-1]

    yield opener
    for ledger in opened:
        ledger.close()


@pytest.fixture
def original(path: Path, program_id: str) -> bytes:
    """The export of an SQLite ledger with something of everything; the ledger stays at ``path``."""
    return a_filled_file(path, program_id)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, with all that the installed script does about errors."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["scanengine", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_command_line()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Done(int(ended.value.code or 0), out, err)

    return run
