"""A server's life: who may reach it, what it follows while it runs, and how it ends."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from helpers import TOKEN
from scanengine.model import SegmentState
from scanengine.program.publishing import SceneChange, delete_batch
from serving import (
    BOTH,
    CASH_FOR_ALL,
    PLACES,
    WAIT_S,
    Client,
    Market,
    Served,
    Wire,
    a_campaign,
    a_copy,
    a_market,
    in_threads,
    raw_post,
    recorded_claims,
    run_cli,
    serving,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("life") / "shop")


@pytest.fixture
def market(template: Market, tmp_path: Path) -> Market:
    return a_copy(template, tmp_path / "shop")


@pytest.fixture
def server(market: Market) -> Iterator[Served]:
    with serving(market.folder) as served:
        yield served


def until(is_done: Callable[[], bool]) -> None:
    """Ask until it is so; the test fails if it never is."""
    start = monotonic()
    while not is_done():
        assert monotonic() - start < WAIT_S, "it never came true"


# Who may reach it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "shop.example"])
def test_beyond_loopback_a_token_is_needed(market: Market, host: str) -> None:
    done = run_cli(market.folder, "serve", "--port", 0, "--host", host)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"scanengine: --host {host}: without a bearer token the server binds to loopback only; "
        "add [[tokens]] to keys.toml\n"
    )


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_without_a_token_no_back_end_is_answered_through_a_proxy(market: Market, server: Served, header: str) -> None:
    """Goal: a proxy on this machine does not open /v1/ to the Internet; people at the door are answered as ever."""
    code = market.take("cash")
    scan = json.dumps({"code": code, "user": "ann"}).encode()
    passed_on = {header: "for=203.0.113.9"}
    with server.client() as client:
        for method, path, body in (
            ("POST", "/v1/scans", scan), ("POST", "/v1/scans/batch", b'{"scans": []}'), ("POST", "/v1/verify", scan),
            ("GET", f"/v1/codes/{code}", None), ("GET", "/metrics", None),
        ):  # fmt: skip
            reply = client.ask(method, path, body, **passed_on)
            assert (reply.status, "[[tokens]] in keys.toml" in reply.json["detail"]) == (403, True), path
        assert client.ask("GET", f"/s/{code}", **passed_on).json["scan"]["count"] == 0
        assert client.claim(code, "ann")["claim"]["replayed"] is False


def test_with_a_token_it_may_listen_everywhere(tmp_path: Path) -> None:
    market = a_market(tmp_path / "shop", tokens=True)
    with serving(market.folder, "--host", "0.0.0.0") as served, served.client(TOKEN) as client:
        assert client.claim(market.take("cash"), "ann")["claim"]["status"] == "awarded"


def test_a_port_in_use_is_said_in_one_line(market: Market) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli(market.folder, "serve", "--port", port)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "choose another --port" in done.stderr


def test_a_second_server_of_one_workspace_is_refused(market: Market, server: Served) -> None:
    done = run_cli(market.folder, "serve", "--port", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "another process owns this ledger" in done.stderr
    with server.client() as client:
        assert client.get("/readyz").status == 200


def test_the_control_socket_is_its_owners_alone_and_goes_with_the_server(market: Market) -> None:
    path = market.shop.workspace.control_path
    with serving(market.folder):
        mode = path.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert not path.exists()


def test_claims_of_the_command_line_go_through_the_server(market: Market, server: Served) -> None:
    code = market.take("cash")
    with server.client() as client:
        calls = client.calls()
        first = json.loads(run_cli(market.folder, "claim", code, "--user", "ann", "--json").stdout)
        assert first["claim"]["status"] == "awarded"
        assert client.calls() == calls + 1
        assert client.claim(code, "ann")["claim"] == {**first["claim"], "replayed": True}
    shown = run_cli(market.folder, "claim", code, "--user", "bob", "--role", "consumer", "--region", "44")
    assert (shown.returncode, "claim    taken" in shown.stdout) == (0, True)
    # The operator sees what outsiders must not.
    answer = json.loads(run_cli(market.folder, "claim", market.unknown(), "--user", "ann", "--json").stdout)
    assert answer["status"] == "unknown"


def test_looking_on_the_command_line_works_beside_the_server(market: Market, server: Served) -> None:
    code = market.take("cash")
    with server.client() as client:
        client.claim(code, "ann")
        calls = client.calls()
        answer = json.loads(run_cli(market.folder, "verify", code, "--json").stdout)
        assert (answer["scan"]["count"], answer["claim"]) == (1, None)
        assert run_cli(market.folder, "audit").returncode == 0
        assert client.calls() == calls


def test_a_token_does_not_guard_the_control_socket(tmp_path: Path) -> None:
    """Its file mode does."""
    market = a_market(tmp_path / "shop", tokens=True)
    with serving(market.folder):
        answer = json.loads(run_cli(market.folder, "claim", market.take("cash"), "--user", "ann", "--json").stdout)
        assert answer["claim"]["status"] == "awarded"


def test_a_folder_deeper_than_a_socket_address_works(template: Market, tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20) / "shop"
    market = a_copy(template, folder)
    assert len(str(market.shop.workspace.control_path)) > 108
    with serving(folder):
        done = run_cli(folder, "claim", market.take("cash"), "--user", "ann", "--json")
        assert json.loads(done.stdout)["claim"]["status"] == "awarded"


def test_a_server_that_does_not_answer_its_socket_leaves_the_outcome_unknown(market: Market) -> None:
    """Goal: the error says how to ask again. Method: a process that owns the ledger and never listens."""
    code = market.take("cash")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, scanengine; p = scanengine.open(sys.argv[1]); print(flush=True); input()",
         str(market.folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = run_cli(market.folder, "claim", code, "--user", "ann", "--visit", "v-1")
        holder.communicate(b"\n", timeout=WAIT_S)
    assert done.returncode == 1
    assert "the ledger is owned by another process" in done.stderr
    assert "ask again with --visit v-1" in done.stderr
    assert code not in done.stderr


# What it follows ----------------------------------------------------------------------------------------------------


def test_publications_are_served_without_a_failed_request(market: Market, server: Served) -> None:
    """Goal: no scan is refused or answered wrongly while tables change. Method: four clients scan throughout."""
    shop = market.shop
    is_over = threading.Event()
    codes = [market.take("load") for _ in range(20_000)]

    def scan(index: int) -> Counter[tuple[int, str]]:
        seen: Counter[tuple[int, str]] = Counter()
        with server.client() as client:
            for number, code in enumerate(codes[index::4]):
                if is_over.is_set():
                    break
                reply = client.post("/v1/scans", {"code": code, "user": f"u{index}-{number}"})
                seen[reply.status, reply.json["status"] + "/" + reply.json["claim"]["status"]] += 1
        return seen

    def publish() -> None:
        with server.client() as client:
            void, start = market.take("recalled"), PLACES["recalled"][0]
            for state in (SegmentState.VOID, SegmentState.FROZEN, SegmentState.ACTIVE):
                shop.assign(start, start + 10, SceneChange(state, BOTH))
                name = "valid" if state == SegmentState.ACTIVE else state.name.lower()
                until(lambda name=name: client.get(f"/s/{void}").json["status"] == name)
            shop.publish(a_campaign("nobody", CASH_FOR_ALL), "nobody")
            visits = itertools.count()
            code = market.take("unbound")
            until(lambda: _claim_status(client, code, next(visits)) == "awarded")
            shop.publish(a_campaign("spring", CASH_FOR_ALL), "spring")
            generation = shop.snapshot.generation
            until(lambda: client.get("/readyz").json["generation"] == generation)
        is_over.set()

    *seen, _ = in_threads(5, lambda index: scan(index) if index < 4 else publish())
    total = sum(seen, Counter())
    assert total.keys() <= {(200, "valid/awarded"), (200, "valid/no_prize")}
    assert total[200, "valid/awarded"] > 0


def _claim_status(client: Client, code: str, number: int) -> str:
    status: str = client.claim(code, "ann", visit=f"v{number}")["claim"]["status"]
    return status


def test_a_hangup_reads_the_tables_at_once(market: Market, server: Served) -> None:
    """What the manifest does not tell, such as a product's new title, is read too."""
    code = market.take("nothing")
    products = market.shop.workspace.products_path
    with server.client() as client:
        title = client.get(f"/s/{code}").json["product"]["title"]
        products.write_text(products.read_text().replace(title, "新可乐"), "utf-8")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: client.get(f"/s/{code}").json["product"]["title"] == "新可乐")


def test_a_deleted_batch_is_unknown_and_its_claims_stay(market: Market, server: Served) -> None:
    code = market.take("cash")
    with server.client() as client:
        assert client.claim(code, "ann")["claim"]["status"] == "awarded"
        delete_batch(market.shop.workspace, "cola")
        until(lambda: client.get(f"/s/{code}").json["status"] == "invalid")
        assert client.claim(code, "ann")["claim"] is None
    assert run_cli(market.folder, "audit").returncode == 0


def test_a_publication_that_cannot_be_used_leaves_the_old_one(market: Market, server: Served) -> None:
    code = market.take("cash")
    manifest = market.shop.workspace.manifest_path
    whole = manifest.read_bytes()
    with server.client() as client:
        manifest.write_bytes(whole[:-20])
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the old one stays" in server.log_path.read_text())
        assert client.claim(code, "ann")["claim"]["status"] == "awarded"
        manifest.write_bytes(whole)
        market.shop.assign(*PLACES["frozen"][:2], SceneChange(SegmentState.ACTIVE))
        frozen = market.take("frozen")
        until(lambda: client.get(f"/s/{frozen}").json["status"] == "valid")


# How it ends --------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_does_not_cancel_its_claim(market: Market, server: Served) -> None:
    """Method: the ledger is kept waiting until the server has seen the client go."""
    codes = [market.take("cash") for _ in range(5)]
    other = sqlite3.connect(market.shop.workspace.ledger_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for code in codes:
        body = json.dumps({"code": code, "user": "ann", "visit": "first"}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(raw_post("/v1/scans", body, "keep-alive"))
    with server.client() as client:
        assert client.get("/healthz").status == 200
        other.execute("ROLLBACK")
        other.close()
        for code in codes:
            until(lambda code=code: client.get(f"/s/{code}").json["scan"]["count"] == 1)
            answer = client.claim(code, "ann", visit="second")
            assert (answer["claim"]["status"], answer["claim"]["replayed"]) == ("awarded", True)
            assert answer["scan"]["count"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_every_claim_that_it_records(market: Market, number: int) -> None:
    """Goal: recorded = acknowledged. Method: 16 clients scan without a pause while the server is told to stop."""
    threads, before = 16, 40
    shop = market.shop
    codes = [market.take("load") for _ in range(20_000)]
    first_item = shop.item(PLACES["load"][0])
    items = {code: first_item + place for place, code in enumerate(codes)}
    served = Served(market.folder)
    has_load = threading.Barrier(threads + 1)

    def scan(index: int) -> dict[tuple[int, str], str]:
        acknowledged = {}
        wire = Wire(served.port)
        try:
            for count, code in enumerate(codes[index::threads]):
                user = f"user-{index}-{count}"
                reply = wire.post("/v1/scans", json.dumps({"code": code, "user": user}).encode())
                if reply is None:
                    break
                claim = reply["claim"]
                assert isinstance(claim, dict)
                assert claim["status"] in ("awarded", "no_prize")
                acknowledged[items[code], user] = claim["id"]
                if count == before:
                    has_load.wait(WAIT_S)
        finally:
            wire.connection.close()
        return acknowledged

    def stop() -> int:
        has_load.wait(WAIT_S)
        served.process.send_signal(number)
        return served.process.wait(WAIT_S)

    try:
        *told, code = in_threads(threads + 1, lambda index: scan(index) if index < threads else stop())
    finally:
        served.kill()
    acknowledged = {key: claim for part in told for key, claim in part.items()}
    assert (code, served.log_path.read_text()) == (0, "")
    assert recorded_claims(shop) == acknowledged
    assert len(acknowledged) >= threads * before
    assert run_cli(market.folder, "audit").returncode == 0


def test_a_stop_closes_idle_connections_and_refuses_new_ones(market: Market) -> None:
    served = Served(market.folder)
    with served.client() as client:
        assert client.get("/healthz").status == 200
        assert served.stop() == 0
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            client.get("/healthz")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=WAIT_S)


def test_a_server_restarted_after_a_kill_takes_over_socket_and_lock(market: Market) -> None:
    code = market.take("cash")
    served = Served(market.folder)
    with served.client() as client:
        first = client.claim(code, "ann")["claim"]
    served.kill()
    assert os.path.exists(market.shop.workspace.control_path)
    with serving(market.folder) as again, again.client() as client:
        assert client.claim(code, "ann")["claim"] == {**first, "replayed": True}
        answer = json.loads(run_cli(market.folder, "claim", code, "--user", "ann", "--json").stdout)
        assert answer["claim"]["replayed"] is True
