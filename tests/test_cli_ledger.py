"""``scanengine ledger``: installing, showing, exporting, importing and adjusting, as an operator does it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helpers_cli import Run, ok
from helpers_ledger import audit_of_redis, held_by
from redis_servers import RedisCluster, RedisServer, wait_until
from scanengine.program.settings import load_settings
from serving import Market, Served, a_copy, a_market, run_cli, serving, use_redis


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("cli-ledger") / "shop")


@pytest.fixture
def market(template: Market, tmp_path: Path) -> Market:
    return a_copy(template, tmp_path / "shop")


def program_of(market: Market) -> str:
    return load_settings(market.shop.workspace.settings_path).program.id


def claim_some(market: Market, run: Run) -> list[str]:
    """Claim three codes and return them."""
    codes = [market.take("cash"), market.take("points"), market.take("nothing")]
    for code in codes:
        ok(run("-w", market.folder, "claim", code, "--user", "u1", "--visit", code[:9]))
    return codes


# From SQLite to Redis and back.


def test_a_ledger_is_carried_to_a_redis_and_back(
    market: Market, run: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    use_redis(market, redis_server.url())
    settings_path = market.shop.workspace.settings_path
    with_redis = settings_path.read_text()
    with_sqlite = "".join(line for line in with_redis.splitlines(keepends=True) if not line.startswith("url ="))
    settings_path.write_text(with_sqlite)
    codes = claim_some(market, run)
    backup = tmp_path / "ledger.ndjson"
    exported = ok(run("-w", market.folder, "ledger", "export", backup))
    lines = backup.read_bytes().splitlines()
    digest = json.loads(lines[-1])["digest"]
    assert exported == f"exported {len(lines) - 1} lines: claims 3, scans 0, digest {digest}\n"
    assert backup.stat().st_mode & 0o777 == 0o600
    url = redis_server.url()
    imported = ok(run("-w", market.folder, "ledger", "import", backup, "--ledger", url))
    assert imported == f"imported {len(lines) - 1} lines: claims 3, scans 0, digest {digest}, read back the same\n"
    assert audit_of_redis(url, program_of(market)) == (3, [])
    settings_path.write_text(with_redis)
    assert "everything agrees" in ok(run("-w", market.folder, "audit"))
    for code in codes:
        again = json.loads(ok(run("-w", market.folder, "claim", code, "--user", "u1", "--json")))
        assert again["claim"]["replayed"] is True
    fresh = json.loads(ok(run("-w", market.folder, "claim", market.take("cash"), "--user", "u2", "--json")))
    assert fresh["claim"]["status"] == "awarded"
    again_path = tmp_path / "again.ndjson"
    ok(run("-w", market.folder, "ledger", "export", again_path))
    settings_path.write_text(with_sqlite)
    refused = run("-w", market.folder, "ledger", "import", again_path)
    assert refused.code == 1
    assert "this ledger was used" in refused.err
    market.shop.workspace.ledger_path.unlink()
    assert "claims 4" in ok(run("-w", market.folder, "ledger", "import", again_path))
    assert "everything agrees" in ok(run("-w", market.folder, "audit"))
    assert '"replayed": true' in ok(run("-w", market.folder, "claim", codes[0], "--user", "u1", "--json"))


def test_an_export_can_be_piped(
    market: Market, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    claim_some(market, run)
    done = run("-w", market.folder, "ledger", "export", "-")
    assert (done.code, done.err[:9]) == (0, "exported ")

    class Pipe(io.BytesIO):
        name = "<stdin>"

        def seekable(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Pipe(done.out.encode())))
    before = sorted(file.name for file in market.folder.iterdir())
    assert "claims 3" in ok(run("-w", market.folder, "ledger", "import", "-", "--ledger", redis_server.url()))
    assert sorted({file.name for file in market.folder.iterdir()} - set(before)) == ["ledger.epoch"]
    redis_server.client().delete(*held_by(redis_server, program_of(market)))


def test_an_import_takes_the_place_of_a_redis_that_was_lost(
    market: Market, run: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A workspace remembers which ledger it used, and refuses another; one that it imported itself is the one."""
    use_redis(market, redis_server.url(), durability="unverified")
    codes = claim_some(market, run)
    backup = tmp_path / "ledger.ndjson"
    ok(run("-w", market.folder, "ledger", "export", backup))
    redis_server.client().delete(*held_by(redis_server, program_of(market)))
    lost = market.shop.workspace.epoch_path.read_bytes()
    ok(run("-w", market.folder, "ledger", "import", backup))
    assert market.shop.workspace.epoch_path.read_bytes() != lost
    assert '"replayed": true' in ok(run("-w", market.folder, "claim", codes[0], "--user", "u1", "--json"))


def test_a_backup_that_was_cut_is_refused(market: Market, run: Run, tmp_path: Path, redis_server: RedisServer) -> None:
    claim_some(market, run)
    backup = tmp_path / "ledger.ndjson"
    ok(run("-w", market.folder, "ledger", "export", backup))
    backup.write_bytes(backup.read_bytes()[:-40])
    done = run("-w", market.folder, "ledger", "import", backup, "--ledger", redis_server.url())
    assert (done.code, done.out) == (1, "")
    assert "ledger.ndjson: not a whole export" in done.err
    assert held_by(redis_server, program_of(market)) == {}
    assert not market.shop.workspace.epoch_path.exists()


def test_a_backup_never_takes_the_place_of_another(market: Market, run: Run, tmp_path: Path) -> None:
    claim_some(market, run)
    backup = tmp_path / "ledger.ndjson"
    backup.write_text("mine")
    assert run("-w", market.folder, "ledger", "export", backup).code == 1
    assert backup.read_text() == "mine"


def test_no_ledger_is_said(market: Market, run: Run, redis_server: RedisServer, tmp_path: Path) -> None:
    for words in (("show",), ("export", tmp_path / "backup")):
        for where in ((), ("--ledger", redis_server.url())):
            done = run("-w", market.folder, "ledger", *words, *where)
            assert done.code == 1
            assert "there is no ledger" in done.err
    assert not (tmp_path / "backup").exists()
    assert not market.shop.workspace.ledger_path.exists()


def test_what_needs_the_ledger_for_itself_says_so_while_a_server_runs(market: Market, run: Run, tmp_path: Path) -> None:
    with serving(market.folder) as served:
        with closing(served.client()) as client:
            client.claim(market.take("cash"), "u1")
        done = run("-w", market.folder, "ledger", "export", tmp_path / "backup")
        assert done.code == 1
        assert "stop the server first" in done.err
        assert "claims 1," in ok(run("-w", market.folder, "ledger", "show"))
    assert not (tmp_path / "backup").exists()
    ok(run("-w", market.folder, "ledger", "export", tmp_path / "backup"))


def test_a_redis_is_audited_and_exported_while_servers_claim(
    market: Market, run: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    use_redis(market, redis_server.url())
    is_over = threading.Event()
    claimed: list[str] = []

    def claim(served: Served) -> None:
        with closing(served.client()) as client:
            while not is_over.is_set():
                claimed.append(client.claim(market.take("load"), f"u{len(claimed) % 7}")["claim"]["status"])

    with serving(market.folder, "--workers", 2) as served:
        user = threading.Thread(target=claim, args=(served,))
        user.start()
        try:
            for number in range(3):
                before = len(claimed)
                wait_until(lambda before=before: len(claimed) > before + 5, "claims")
                assert "everything agrees" in ok(run("-w", market.folder, "audit"))
                ok(run("-w", market.folder, "ledger", "export", tmp_path / f"{number}.ndjson", "--live"))
        finally:
            is_over.set()
            user.join()
    assert set(claimed) <= {"awarded", "no_prize"}
    assert f"claims {len(claimed):,}, " in ok(run("-w", market.folder, "ledger", "show"))


# Showing.


def test_show_in_words_and_for_programs(market: Market, run: Run) -> None:
    claim_some(market, run)
    ok(run("-w", market.folder, "ledger", "adjust", "purse", "budget", "--id", "b", "--amount", 100))
    ok(run("-w", market.folder, "ledger", "adjust", "once", "close", "--id", "c"))
    words = ok(run("-w", market.folder, "ledger", "show"))
    assert words.startswith(f"ledger sqlite of program {program_of(market)}/")
    assert "durability: strict\nclaims 3, scans 0, events waiting 3 of 3\n" in words
    rows = {line.split()[0]: line.split()[1:] for line in words.splitlines()[3:]}
    assert rows["spring"] == ["3", "8,800", "0:1", "1:1", "open"]
    assert rows["purse"][-2:] == ["budget:100", "open"]
    assert rows["once"][-1] == "closed"
    shown = json.loads(ok(run("-w", market.folder, "ledger", "show", "--json")))
    assert list(shown) == ["kind", "marks", "totals", "durability", "trouble", "alarms"]
    assert (shown["kind"], shown["marks"]["claims"], shown["trouble"], shown["alarms"]) == ("sqlite", 3, None, [])
    assert [held["id"] for held in shown["totals"]["campaigns"]] == ["once", "purse", "spring"]


def test_show_says_what_is_wrong_with_a_redis(market: Market, run: Run, redis_server: RedisServer) -> None:
    use_redis(market, redis_server.url())
    claim_some(market, run)
    assert "durability: volatile\n" in ok(run("-w", market.folder, "ledger", "show"))
    settings_path = market.shop.workspace.settings_path
    settings_path.write_text(settings_path.read_text().replace('"volatile"', '"everysec"'))
    words = ok(run("-w", market.folder, "ledger", "show"))
    assert "trouble: durability everysec is required, found volatile: appendonly is no, expected yes" in words
    assert "appendonly" in json.loads(ok(run("-w", market.folder, "ledger", "show", "--json")))["trouble"]


# Installing and adjusting.


def test_install_loads_the_functions_once(
    market: Market, run: Run, start_server: Callable[..., RedisServer], redis_cluster: RedisCluster
) -> None:
    server = start_server()
    install = ("-w", market.folder, "ledger", "install")
    assert ok(run(*install, "--ledger", server.url())) == "functions loaded on 1 servers\n"
    assert ok(run(*install, "--ledger", server.url())) == "the functions are there\n"
    for node in redis_cluster.nodes:
        node.flush(functions=True)
    assert ok(run(*install, "--ledger", redis_cluster.url)) == "functions loaded on 3 servers\n"
    done = run(*install)
    assert done.code == 1
    assert "the settings name no Redis" in done.err


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_adjustments_are_applied_once(market: Market, run: Run, redis_server: RedisServer, kind: str) -> None:
    if kind == "redis":
        use_redis(market, redis_server.url())
    adjust = ("-w", market.folder, "ledger", "adjust", "spring")
    stock = (*adjust, "--id", "s1", "stock", "--prize", 0, "--amount", 10)
    assert ok(run(*stock)) == "campaign spring: stock applied\n"
    assert ok(run(*stock)) == "campaign spring: stock was applied before, nothing changed\n"
    assert ok(run(*adjust, "--id", "p1", "pause")) == "campaign spring: pause applied\n"
    code = market.take("cash")
    assert "claim    closed (paused)" in ok(run("-w", market.folder, "claim", code, "--user", "u1"))
    ok(run(*adjust, "--id", "p2", "resume"))
    assert "claim    awarded" in ok(run("-w", market.folder, "claim", code, "--user", "u1"))
    shown = json.loads(ok(run("-w", market.folder, "ledger", "show", "--json")))
    assert shown["totals"]["campaigns"][0]["extra_stock"] == {"0": 10}
    assert "everything agrees" in ok(run("-w", market.folder, "audit"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("spring", "stock", "--id", "a", "--amount", 1), 2, "--prize goes with stock"),
        (("spring", "pause", "--id", "a", "--prize", 1), 2, "--prize goes with stock"),
        (("spring", "budget", "--id", "a"), 2, "--amount goes with stock and budget"),
        (("spring", "close", "--id", "a", "--amount", 1), 2, "--amount goes with stock and budget"),
        (("spring", "pause"), 2, "--id"),
        (("spring", "raise", "--id", "a"), 2, "raise"),
        (("winter", "pause", "--id", "a"), 1, "'winter': not published; there are"),
        (("spring", "stock", "--id", "a", "--prize", 99, "--amount", 1), 1, "no prize has number 99"),
        (("spring", "stock", "--id", "a", "--prize", "gold", "--amount", 1), 1, "no prize has id gold; there are 0 (c"),
        (("spring", "pause", "--id", ""), 1, "an adjustment needs an id"),
        (("spring", "pause", "--id", "a\tb"), 1, "the id of an adjustment is printable"),
        (("spring", "pause", "--id", "a" * 129), 1, "at most 128 characters, found 129"),
        (("spring", "budget", "--id", "a", "--amount", 0), 1, "an amount of 1 to"),
        (("spring", "budget", "--id", "a", "--amount", -5), 1, "found -5"),
        (("spring", "budget", "--id", "a", "--amount", 10**30), 1, f"found {10**30}"),
        (("spring", "budget", "--id", "a", "--amount", "much"), 2, "'much' is not a valid integer"),
    ],
)
def test_adjustments_that_say_nothing_are_refused(
    market: Market, run: Run, words: tuple[object, ...], code: int, message: str
) -> None:
    done = run("-w", market.folder, "ledger", "adjust", *words)
    assert done.code == code
    assert message in done.err
    assert not market.shop.workspace.ledger_path.exists()


def test_passwords_are_never_shown(market: Market) -> None:
    done = run_cli(market.folder, "ledger", "show", "--ledger", "redis://ann:secret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "secret" not in done.stderr
