"""``serve --workers N``: one port, several processes that are kept running, and none left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import scanengine
from redis_servers import RedisServer, server_binaries, wait_until
from scanengine.model import SegmentState
from scanengine.program.publishing import SceneChange
from scanengine.program.scans import Scan
from serving import (
    PLACES,
    WAIT_S,
    Market,
    Metrics,
    Served,
    Wire,
    a_copy,
    a_market,
    in_threads,
    run_cli,
    serving,
    use_redis,
)

WORKERS = 2
MANY = ("--workers", WORKERS)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("workers") / "shop")


@pytest.fixture(scope="module")
def redis(redis_servers: Callable[[str], RedisServer]) -> RedisServer:
    return redis_servers(max(server_binaries()))


@pytest.fixture(scope="module")
def shared(
    template: Market, tmp_path_factory: pytest.TempPathFactory, redis: RedisServer
) -> Iterator[tuple[Market, Served]]:
    """A server for the tests that leave it as it was."""
    market = a_copy(template, tmp_path_factory.mktemp("shared") / "shop")
    use_redis(market, redis.url())
    with serving(market.folder, *MANY) as served:
        yield market, served


@pytest.fixture
def market(template: Market, tmp_path: Path, redis: RedisServer) -> Market:
    market = a_copy(template, tmp_path / "shop")
    use_redis(market, redis.url())
    return market


@pytest.fixture
def server(market: Market) -> Iterator[Served]:
    with serving(market.folder, *MANY) as served:
        yield served


def metrics(served: Served) -> Metrics:
    """Ask for the metrics on a connection of its own, which any worker may get."""
    with served.client() as client:
        return client.metrics()


def workers_of(found: Metrics) -> dict[int, int]:
    """Return the process of each worker that runs."""
    return {int(key[2]): int(key[1]) for key in found if key[0] == "scanengine_worker_info"}


def requests_of(found: Metrics) -> dict[str, float]:
    return {key[1]: value for key, value in found.items() if key[0] == "scanengine_worker_requests_total"}


def is_gone(process: int) -> bool:
    """Tell whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
    except ConnectionRefusedError:
        return True
    return False


def log_of(served: Served) -> str:
    return served.log_path.read_text()


# Together -----------------------------------------------------------------------------------------------------------


def test_all_workers_answer_on_one_port(shared: tuple[Market, Served]) -> None:
    _, server = shared
    assert f"{WORKERS} workers" in server.banner
    wait_until(lambda: all(requests_of(metrics(server)).values()), "every worker to answer")
    found = metrics(server)
    workers = workers_of(found)
    assert len(set(workers.values())) == WORKERS
    assert server.process.pid not in workers.values()
    assert found["scanengine_workers",] == found["scanengine_workers_configured",] == WORKERS


def test_a_claim_of_one_worker_is_known_to_all(shared: tuple[Market, Served]) -> None:
    market, server = shared
    code = market.take("cash")
    with server.client() as client:
        first = client.claim(code, "ann", visit="one")["claim"]
    assert first["status"] == "awarded"
    before = requests_of(metrics(server))

    def ask() -> bool:
        with server.client() as client:
            assert client.claim(code, "ann", visit="one")["claim"] == {**first, "replayed": True}
            assert client.claim(code, "bob")["claim"]["status"] == "taken"
        now = requests_of(metrics(server))
        return all(now[worker] > before[worker] + 2 for worker in now)

    wait_until(ask, "every worker to be asked")


def test_many_people_at_many_workers_get_one_award_of_one_code(shared: tuple[Market, Served]) -> None:
    market, server = shared
    code = market.take("cash")

    def claim(index: int) -> str:
        with server.client() as client:
            status: str = client.claim(code, f"user-{index}")["claim"]["status"]
            return status

    assert sorted(in_threads(16, claim)) == ["awarded"] + ["taken"] * 15


def test_the_sum_of_the_metrics_is_the_same_at_every_worker(shared: tuple[Market, Served]) -> None:
    market, server = shared
    sums = [("scanengine_http_requests_total", "200", "/v1/scans"), ("scanengine_scans_total", "valid")]
    before = metrics(server)
    for number in range(20):
        with server.client() as client:
            client.claim(market.take("load"), f"user-{number}")
    seen = set()

    def ask() -> bool:
        with server.client() as client:
            found = client.metrics()
            assert [found[each] - before.get(each, 0) for each in sums] == [20, 20]
            # Which worker this is shows when the same connection asks again.
            again = client.metrics()
        first, second = requests_of(found), requests_of(again)
        seen.update(worker for worker in second if second[worker] > first[worker])
        return len(seen) == WORKERS

    wait_until(ask, "every worker to be asked")


def test_every_worker_follows_what_is_published(shared: tuple[Market, Served]) -> None:
    market, server = shared
    market.shop.assign(*PLACES["frozen"][:2], SceneChange(SegmentState.ACTIVE))
    newest = market.shop.snapshot.generation

    def generations() -> set[float]:
        return {value for key, value in metrics(server).items() if key[0] == "scanengine_generation"}

    wait_until(lambda: generations() == {newest}, "every worker to serve the newest generation")


def test_a_hangup_reaches_every_worker(shared: tuple[Market, Served]) -> None:
    market, server = shared
    code = market.take("nothing")
    products = market.shop.workspace.products_path
    with server.client() as client:
        title = client.get(f"/s/{code}").json["product"]["title"]
    products.write_text(products.read_text().replace(title, "新可乐"), "utf-8")
    server.process.send_signal(signal.SIGHUP)

    def titles() -> set[str]:
        found = set()
        for _ in range(16):
            with server.client() as client:
                found.add(client.get(f"/s/{code}").json["product"]["title"])
        return found

    wait_until(lambda: titles() == {"新可乐"}, "every worker to read the products")
    assert "ended" not in log_of(server)


def test_the_command_line_claims_beside_the_workers(shared: tuple[Market, Served]) -> None:
    """A Redis needs no control socket: the command reaches it by itself."""
    market, server = shared
    assert not market.shop.workspace.control_path.exists()
    code = market.take("cash")
    claimed = json.loads(run_cli(market.folder, "claim", code, "--user", "ann", "--json").stdout)["claim"]
    assert claimed["status"] == "awarded"
    with server.client() as client:
        assert client.claim(code, "ann")["claim"] == {**claimed, "replayed": True}


def test_the_ledger_of_the_command_line_comes_before_that_of_the_file(
    template: Market, tmp_path: Path, redis: RedisServer
) -> None:
    market = a_copy(template, tmp_path / "shop")
    use_redis(market, "redis://127.0.0.1:1/0", durability="strict")
    options = ("--ledger", redis.url(), "--durability", "volatile")
    with serving(market.folder, *MANY, *options) as served, served.client() as client:
        ready = client.get("/readyz").json
        assert (ready["status"], ready["ledger"]["required"]) == ("ready", "volatile")
    with serving(market.folder, *options) as served, served.client() as client:
        assert client.get("/readyz").json["status"] == "ready"


def test_a_url_of_the_environment_is_in_no_process_list(
    market: Market, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANENGINE_LEDGER", f"{redis.url()}?client_name=hush")
    with serving(market.folder, *MANY) as served:
        workers = workers_of(metrics(served)).values()
        lines = [Path(f"/proc/{process}/cmdline").read_bytes() for process in (served.process.pid, *workers)]
        assert all(b"serve" in line for line in lines)
        assert not any(b"hush" in line for line in lines)


# One dies -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_started_again_while_the_other_answers(market: Market, server: Served) -> None:
    """Goal: beyond the connections of the dead worker nobody notices, and no count is lost."""
    for number in range(20):
        with server.client() as client:
            client.claim(market.take("load"), f"user-{number}")
    before = metrics(server)
    killed = workers_of(before)[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: "worker 0 was ended by SIGKILL" in log_of(server), "the supervisor to see it")
    answered = 0
    while "worker 0 answers again" not in log_of(server) or answered < 20:
        with server.client() as client:
            client.claim(market.take("load"), f"other-{answered}")
        answered += 1
    after = metrics(server)
    workers = workers_of(after)
    assert workers[0] != killed
    assert workers[1] == workers_of(before)[1]
    assert after["scanengine_worker_starts_total",] == WORKERS + 1
    assert after["scanengine_scans_total", "valid"] == 20 + answered
    counters = {key: value for key, value in before.items() if key[0].endswith(("_total", "_bucket", "_count", "_sum"))}
    assert [key for key, value in counters.items() if after[key] < value] == []
    seen = requests_of(after)["0"]
    wait_until(lambda: requests_of(metrics(server))["0"] > seen, "the new worker to answer")


def test_a_worker_that_cannot_start_is_tried_again_ever_more_slowly(market: Market, server: Served) -> None:
    keys = market.shop.workspace.keys_path
    whole = keys.read_text()
    keys.write_text("no keys")
    os.kill(workers_of(metrics(server))[1], signal.SIGKILL)
    pauses = ("started again in 0.5 s", "started again in 1 s", "started again in 2 s")
    wait_until(lambda: all(pause in log_of(server) for pause in pauses), "two failures to start")
    assert f"worker 1 cannot start: {keys}" in log_of(server)
    with server.client() as client:
        assert client.claim(market.take("cash"), "ann")["claim"]["status"] == "awarded"
        assert client.metrics()["scanengine_workers",] == WORKERS - 1
    keys.write_text(whole)
    wait_until(lambda: "worker 1 answers again" in log_of(server), "the worker to start")
    assert len(workers_of(metrics(server))) == WORKERS


# The start ----------------------------------------------------------------------------------------------------------


def refused(folder: Path, *options: object) -> str:
    """Return what a server that cannot start says: one line."""
    done = run_cli(folder, "serve", *MANY, *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    return done.stderr


def test_an_sqlite_ledger_has_one_owner(template: Market) -> None:
    said = refused(template.folder, "--port", 0)
    assert "--ledger redis://" in said
    assert "--workers 1" in said


def test_what_keeps_all_workers_from_starting_is_said_once(market: Market) -> None:
    manifest = market.shop.workspace.manifest_path
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert str(manifest) in refused(market.folder, "--port", 0)


def test_a_port_that_somebody_has_is_refused(market: Market) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(market.folder, "--port", port)


def test_a_second_server_does_not_join_the_port_of_the_first(market: Market, server: Served) -> None:
    assert f"cannot listen on 127.0.0.1:{server.port}" in refused(market.folder, "--port", server.port)
    assert len(workers_of(metrics(server))) == WORKERS


def test_beyond_loopback_a_token_is_needed(market: Market) -> None:
    assert "without a bearer token" in refused(market.folder, "--host", "0.0.0.0", "--port", 0)


# The end ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_no_answer(market: Market, number: int) -> None:
    """Goal: recorded = acknowledged. Method: 16 clients scan without a pause while the server is told to stop."""
    threads, before = 16, 20
    codes = [market.take("load") for _ in range(20_000)]
    served = Served(market.folder, *MANY)
    has_load = threading.Barrier(threads + 1)

    def scan(index: int) -> dict[tuple[str, str], str]:
        acknowledged = {}
        wire = Wire(served.port)
        with wire.connection:
            for count, code in enumerate(codes[index::threads]):
                user = f"user-{index}-{count}"
                answer = wire.post("/v1/scans", json.dumps({"code": code, "user": user}).encode())
                if answer is None:
                    break
                acknowledged[code, user] = answer["claim"]["id"]
                if count == before:
                    has_load.wait(WAIT_S)
        return acknowledged

    def stop() -> tuple[int, str]:
        has_load.wait(WAIT_S)
        served.process.send_signal(number)
        assert served.process.stdout is not None
        return served.process.wait(WAIT_S), served.process.stdout.read()

    try:
        *told, ended = in_threads(threads + 1, lambda index: scan(index) if index < threads else stop())
    finally:
        served.kill()
    # The banner, which was read before, is all that was ever printed.
    assert (ended, log_of(served)) == ((0, ""), "")
    acknowledged = {key: claim for part in told for key, claim in part.items()}
    assert len(acknowledged) >= threads * before
    with scanengine.open(market.folder) as program:
        assert program.ledger.totals().claims == len(acknowledged)
        answers = program.claim_many([Scan.of(code, user, None) for code, user in acknowledged])
        assert [answer.claim and (answer.claim.id, answer.claim.replayed) for answer in answers] == [
            (claim, True) for claim in acknowledged.values()
        ]


def test_without_its_supervisor_no_worker_lives_on(market: Market) -> None:
    served = Served(market.folder, *MANY)
    workers = workers_of(metrics(served)).values()
    with served.client() as client:
        first = client.claim(market.take("cash"), "ann")["claim"]
    assert first["status"] == "awarded"
    served.kill()
    wait_until(lambda: all(map(is_gone, workers)), "the workers to end")
    assert is_refused(served.port)
    again = Served(market.folder, *MANY, port=served.port)
    try:
        assert len(workers_of(metrics(again))) == WORKERS
    finally:
        assert again.stop() == 0


def test_a_stop_closes_idle_connections_and_leaves_the_port(market: Market) -> None:
    served = Served(market.folder, *MANY)
    with served.client() as client:
        workers = workers_of(client.metrics()).values()
        assert served.stop() == 0
    assert all(map(is_gone, workers))
    assert is_refused(served.port)


def test_a_worker_that_does_not_stop_is_killed(template: Market, tmp_path: Path, redis: RedisServer) -> None:
    market = a_copy(template, tmp_path / "shop")
    use_redis(market, redis.url(), timeout_s=0.2)
    served = Served(market.folder, *MANY)
    stuck = workers_of(metrics(served))[1]
    os.kill(stuck, signal.SIGSTOP)
    assert served.stop() == 1
    assert f"process {stuck} does not stop: killed" in log_of(served)
    assert is_gone(stuck)
    assert is_refused(served.port)


def test_a_stop_while_the_workers_start_is_a_stop(market: Market) -> None:
    """Method: the workers find a manifest that is a pipe, and wait in vain for somebody to write it."""
    manifest = market.shop.workspace.manifest_path
    manifest.unlink()
    os.mkfifo(manifest)
    command = [sys.executable, "-m", "scanengine", "-w", str(market.folder), "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            writing: list[int] = []

            def is_read() -> bool:
                with suppress(OSError):
                    writing.append(os.open(manifest, os.O_WRONLY | os.O_NONBLOCK))
                return bool(writing)

            wait_until(is_read, "a worker to start")
            process.terminate()
            assert process.communicate(timeout=WAIT_S) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()
            for each in writing:
                os.close(each)
