"""Files at the root of the site: what is served, as what, and that nothing else of the workspace can be reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scanengine.server.root_files import BYTES_MAX
from serving import Client, Market, Served, a_copy, a_market, raw_ask, serving

PROOF = "MP_verify_aB3dE6gH9jK2mN5p.txt"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("roots") / "shop")


@pytest.fixture(scope="module")
def shop(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_copy(market, tmp_path_factory.mktemp("served") / "shop")


@pytest.fixture(scope="module")
def server(shop: Market) -> Iterator[Served]:
    with serving(shop.folder) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def folder(shop: Market) -> Path:
    found = shop.folder / "root"
    found.mkdir(exist_ok=True)
    return found


def test_a_proof_of_ownership_is_served_as_soon_as_it_is_there(client: Client, folder: Path) -> None:
    assert client.get(f"/{PROOF}").status == 404
    (folder / PROOF).write_text("aB3dE6gH9jK2mN5p")
    reply = client.get(f"/{PROOF}")
    assert (reply.status, reply.body) == (200, b"aB3dE6gH9jK2mN5p")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    head = client.ask("HEAD", f"/{PROOF}")
    assert (head.status, head.headers["content-length"], head.body) == (200, "16", b"")
    (folder / PROOF).unlink()
    assert client.get(f"/{PROOF}").status == 404


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("google123.html", "text/html; charset=utf-8"),
        ("BingSiteAuth.xml", "application/xml"),
        ("assetlinks.json", "application/json"),
        ("logo.png", "image/png"),
        ("page.js", "text/plain; charset=utf-8"),
        ("no_suffix", "text/plain; charset=utf-8"),
    ],
)
def test_the_type_of_a_file_is_told_by_its_name(client: Client, folder: Path, name: str, kind: str) -> None:
    (folder / name).write_bytes(b"\x00\xff")
    reply = client.get(f"/{name}")
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"\x00\xff", kind)


def test_robots_are_kept_from_codes_and_browsers_get_no_icon_unless_there_is_one(client: Client, folder: Path) -> None:
    robots = client.get("/robots.txt")
    assert robots.status == 200
    assert {"User-agent: *", "Disallow: /s/", "Disallow: /S/", "Disallow: /01/"} <= set(
        robots.body.decode().split("\n")
    )
    assert (client.get("/favicon.ico").status, client.get("/favicon.ico").body) == (204, b"")
    (folder / "robots.txt").write_text("User-agent: *\nDisallow: /\n")
    (folder / "favicon.ico").write_bytes(b"icon")
    assert client.get("/robots.txt").body == b"User-agent: *\nDisallow: /\n"
    assert client.get("/favicon.ico").headers["content-type"] == "image/x-icon"
    for name in ("robots.txt", "favicon.ico"):
        (folder / name).unlink()


def test_a_file_of_ours_does_not_hide_a_route(client: Client, folder: Path) -> None:
    for name in ("healthz", "readyz", "metrics", "openapi.json"):
        (folder / name).write_text("mine")
        assert client.get(f"/{name}").body != b"mine"


def test_size_is_bounded(client: Client, folder: Path) -> None:
    (folder / "full.txt").write_bytes(b"x" * BYTES_MAX)
    (folder / "huge.txt").write_bytes(b"x" * (BYTES_MAX + 1))
    (folder / "empty.txt").write_bytes(b"")
    assert len(client.get("/full.txt").body) == BYTES_MAX
    assert client.get("/huge.txt").status == 404
    assert (client.get("/empty.txt").status, client.get("/empty.txt").body) == (200, b"")


PATHS = [
    "/keys.toml", "/../keys.toml", "/%2e%2e/keys.toml", "/..%2fkeys.toml", "/..%2Fkeys.toml", "/%2e%2e%2fkeys.toml",
    "/root/../keys.toml", "//keys.toml", "/./keys.toml", "/..", "/.", "/%2e", "/%2e%2e", "/%00", "/proof.txt%00.png",
    "/..%5ckeys.toml", "/.hidden", "/folder", "/folder/", "/folder%2finside.txt", "/folder/inside.txt", "/link.txt",
    "/linked/keys.toml", "/pipe", "/secret.txt%20", "/%E7%A0%81.txt", "/" + "x" * 256, "/~root", "/*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_plain_files_of_the_folder_is_reached(server: Served, folder: Path, path: str) -> None:
    (folder / ".hidden").write_text("secret")
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "folder" / "inside.txt").write_text("secret")
    for name, target in (("link.txt", "../keys.toml"), ("linked", "..")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    reply = raw_ask(server.port, f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
    assert reply.partition(b"\r\n")[0].split()[1] in (b"404", b"400"), reply
    assert b"secret" not in reply.replace(b"secret.txt", b"")


def test_another_folder_can_be_named_and_none_is_needed(market: Market, tmp_path: Path) -> None:
    shop = a_copy(market, tmp_path / "shop")
    path = shop.shop.workspace.settings_path
    path.write_text(path.read_text().replace("[server]", '[server]\nroot_files = "site"', 1))
    with serving(shop.folder) as served, served.client() as client:
        assert client.get("/a.txt").status == 404
        (shop.folder / "site").mkdir()
        (shop.folder / "site" / "a.txt").write_text("a")
        assert client.get("/a.txt").body == b"a"
