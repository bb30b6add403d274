"""Who a request comes from, behind proxies or not, and the id that replies, problems and log lines share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from helpers import TOKEN
from scanengine.errors import SettingsError
from scanengine.program.settings import load_settings
from scanengine.server.requests import Proxies, read_address, source_of
from serving import Client, Market, Served, a_copy, a_market, raw_ask, run_cli, serving

OURS = ("10.0.0.0/8", "fd00::/8", "127.0.0.1")


def client_of(peer: str | None, *forwarded: str, proxies: tuple[str, ...] = OURS) -> str | None:
    """Return whom a request comes from."""
    headers = [("X-Forwarded-For", text) for text in forwarded]
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=peer or "")
    found = Proxies(proxies).client(request)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ("192.0.2.7",), "192.0.2.7"),
        ("10.0.0.1", ("192.0.2.7, 10.0.0.2",), "192.0.2.7"),
        ("10.0.0.1", ("192.0.2.7", "10.0.0.2, 10.0.0.3"), "192.0.2.7"),
        ("127.0.0.1", ("2001:db8::1",), "2001:db8::1"),
        ("fd00::1", ("[2001:db8::1]:443",), "2001:db8::1"),
        ("10.0.0.1", ("192.0.2.7:51234",), "192.0.2.7"),
        ("10.0.0.1", ('"[2001:db8::1%eth0]:443"',), "2001:db8::1"),
        ("::ffff:10.0.0.1", ("192.0.2.7",), "192.0.2.7"),
        ("10.0.0.1", ("::ffff:192.0.2.7",), "192.0.2.7"),
        ("10.0.0.1", ("10.0.0.9, 10.0.0.2",), "10.0.0.9"),
        ("10.0.0.1", (), "10.0.0.1"),
    ],
)
def test_behind_proxies_of_ours_the_client_is_whom_the_outermost_has_seen(
    peer: str, forwarded: tuple[str, ...], client: str
) -> None:
    assert client_of(peer, *forwarded) == client


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ("198.51.100.9",), "192.0.2.1"),
        ("192.0.2.1", ("10.0.0.5",), "192.0.2.1"),
        ("10.0.0.1", ("198.51.100.9, 192.0.2.7",), "192.0.2.7"),
        ("10.0.0.1", ("198.51.100.9", "192.0.2.7"), "192.0.2.7"),
        ("10.0.0.1", ("198.51.100.9, unknown, 10.0.0.2",), "10.0.0.2"),
        ("10.0.0.1", ("198.51.100.9, ",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.9,_hidden",), "10.0.0.1"),
        ("10.0.0.1", ("999.1.1.1",), "10.0.0.1"),
        ("10.0.0.1", ("1" * 5000,), "10.0.0.1"),
        ("10.0.0.1", ("[::1",), "::1"),
        ("10.0.0.1", ("fe80::%, \u00b2",), "10.0.0.1"),
        ("192.0.2.1", (), "192.0.2.1"),
        (None, ("192.0.2.7",), None),
    ],
)
def test_what_a_client_writes_itself_is_not_believed(
    peer: str | None, forwarded: tuple[str, ...], client: str | None
) -> None:
    assert client_of(peer, *forwarded) == client


def test_without_proxies_the_peer_is_the_client() -> None:
    assert client_of("10.0.0.1", "192.0.2.7", proxies=()) == "10.0.0.1"


@pytest.mark.parametrize(
    "text", ["", " ", "unknown", "1.2.3", "1.2.3.4.5", "1.2.3.4/8", ":", "[]", "::1::", "localhost", "0x7f.1"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert read_address(text) is None


def test_a_source_is_an_address_or_a_whole_ipv6_site() -> None:
    def source(text: str) -> bytes:
        return source_of(ip_address(text))

    assert source("192.0.2.1") != source("192.0.2.2")
    assert source("2001:db8:1:2::1") == source("2001:db8:1:2:ffff:ffff:ffff:ffff")
    assert source("2001:db8:1:2::1") != source("2001:db8:1:3::1")


@pytest.mark.parametrize("wrong", ["10.0.0.300", "10.0.0.1/8", "proxy.local", "10.0.0.0/33", ""])
def test_a_proxy_that_is_no_network_is_refused_with_its_name(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "scanengine.toml"
    path.write_text(f'[program]\nid = "01234567"\n[server]\ntrusted_proxies = ["10.0.0.0/8", {json.dumps(wrong)}]\n')
    with pytest.raises(SettingsError, match=r"trusted_proxies: expected networks such as 10\.0\.0\.0/8") as found:
        load_settings(path)
    assert repr(wrong) in str(found.value)


@pytest.mark.parametrize("peer", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "", "unknown"])
def test_with_and_without_proxies_a_peer_is_the_same_source(peer: str) -> None:
    request = make_mocked_request("GET", "/").clone(remote=peer)
    assert Proxies(()).source(request) == Proxies(("10.0.0.0/8",)).source(request)


# A server ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("proxies") / "shop", tokens=True)


@pytest.fixture(scope="module")
def server(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes this machine for a proxy of its own."""
    shop = a_copy(market, tmp_path_factory.mktemp("trusting") / "shop")
    set_server(shop, 'trusted_proxies = ["127.0.0.0/8"]')
    with serving(shop.folder) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client() as client:
        yield client


def set_server(market: Market, *lines: str) -> None:
    path = market.shop.workspace.settings_path
    path.write_text(path.read_text().replace("[server]", "\n".join(("[server]", *lines)), 1))


def test_a_server_says_what_is_wrong_with_its_settings(market: Market, tmp_path: Path) -> None:
    for line, words in (
        ('trusted_proxies = ["10.0.0.1/8"]', "10.0.0.1/8"),
        ('root_files = "../keys"', "root_files"),
        ('root_files = "codes"', "root_files"),
        ("bad_codes_per_minute = -1", "bad_codes_per_minute"),
    ):
        shop = a_copy(market, tmp_path / words.replace("/", "-") / line[-4:-1].strip("./"))
        set_server(shop, line)
        done = run_cli(shop.folder, "serve", "--port", 0)
        assert done.returncode == 1
        assert words in done.stderr
        assert "scanengine.toml" in done.stderr
        assert "Traceback" not in done.stderr


def test_every_reply_has_an_id_of_its_own(market: Market, server: Served, client: Client) -> None:
    """Good ones, errors, redirects, and what is no HTTP at all."""
    found = [
        client.get(path).headers["x-request-id"]
        for path in (
            "/healthz",
            "/readyz",
            "/metrics",
            "/nowhere",
            "/v1/codes/x",
            "/s/x",
            "/openapi.json",
            "/robots.txt",
        )
        for _ in range(2)
    ]
    found += [client.ask(method, "/v1/scans").headers["x-request-id"] for method in ("GET", "HEAD", "OPTIONS", "BREW")]
    head, _, body = raw_ask(server.port, b"NOT HTTP\r\n\r\n").partition(b"\r\n\r\n")
    found.append(re.search(rb"(?i)^x-request-id: (\S+)\r?$", head, re.M)[1].decode())
    assert json.loads(body)["instance"] == f"urn:scanengine:request:{found[-1]}"
    assert len(set(found)) == len(found) == 21
    assert all(re.fullmatch(r"[0-9a-f]{20}", each) for each in found)


def test_a_problem_carries_the_id_of_its_reply(client: Client) -> None:
    for method, path in (("GET", "/v1/scans"), ("POST", "/v1/scans"), ("GET", "/no/where"), ("GET", "/s/" + "x" * 513)):
        reply = client.ask(method, path)
        assert reply.json["instance"] == f"urn:scanengine:request:{reply.headers['x-request-id']}"


SANE = ["0af7651916cd43dd8448eb211c80319c", "req-2026.11_22", "a" * 8, "Z" * 64]
INSANE = ["", "short", "a" * 65, "with space", "ü" * 8, "semi;colon", "a/b/c/d/e/f", "<script>alert</script>"]


@pytest.mark.parametrize("given", SANE)
def test_the_id_of_a_proxy_of_ours_is_kept(client: Client, given: str) -> None:
    assert client.ask("GET", "/healthz", **{"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", INSANE)
def test_an_id_that_is_none_is_replaced(client: Client, given: str) -> None:
    found = client.ask("GET", "/healthz", **{"X-Request-Id": given.encode().decode("latin-1")}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{20}", found)


def test_strangers_name_no_request_and_no_source(market: Market, tmp_path: Path) -> None:
    """Goal: an id goes into the log, so a stranger could write a code there; each address has a budget."""
    shop = a_copy(market, tmp_path / "shop")
    set_server(shop, "bad_codes_per_minute = 2")
    code = shop.take("cash")
    statuses = []
    with serving(shop.folder) as served, served.client() as client:
        reply = client.ask("GET", "/healthz", **{"X-Request-Id": code})
        assert reply.headers["x-request-id"] != code
        for number in range(4):
            forwarded = {"X-Forwarded-For": f"192.0.2.{number}", "Forwarded": f"for=192.0.2.{number}"}
            statuses.append(client.ask("GET", "/s/x", **forwarded).status)
        assert client.ask("POST", "/v1/verify", b'{"code":"x"}', Authorization=f"Bearer {TOKEN}").status == 200
        log = served.log_path.read_text()
    assert statuses == [200, 200, 429, 429]
    assert code not in log
    assert log.count("is not in trusted_proxies") == 1
