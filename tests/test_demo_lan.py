"""``demo --lan`` in a real terminal: its QR code is read from the screen, and phones are browsers on loopback."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest

from helpers_cli import Run
from phones import Phone, at
from scanengine.cli import lan
from serving import raw_ask, run_cli
from terminal import Terminal, qr_of, running, stopped

DEMO = [sys.executable, "-m", "scanengine", "demo", "--lan", "--host", "127.0.0.1", "--port", "0", "--folder"]
EVERY_PATH = (
    "/", "/s/0123456789ABCDEFGHJK", "/v1/codes/1", "/metrics", "/healthz", "/readyz", "/openapi.json", "/no/such",
    "/D/", "/D/ABC", "/d/" + "0" * 26, "/%1B%5B2J%1B]0;x%07", "/" + "x" * 4000,
)  # fmt: skip


def shown_url(lines: list[str]) -> str:
    found = re.search(r"or open (HTTP://\S+)", "\n".join(lines))
    assert found is not None
    return found[1]


@contextmanager
def demo(folder: Path, **size: int) -> Iterator[Terminal]:
    """Run the demo in a terminal; at the end Ctrl-C is typed into it, and it ends well."""
    with Terminal([*DEMO, str(folder)], **size) as terminal:
        # The first picture whole, whichever of the two is below the other.
        terminal.wait_for(lambda lines: "ledger" in "\n".join(lines) and "or open" in "\n".join(lines))
        yield terminal
        if terminal.process.poll() is None:
            terminal.type("\x03")
        assert terminal.wait() == 0, terminal.lines


def other_than(url: str) -> Any:
    return lambda lines: "or open HTTP" in "\n".join(lines) and shown_url(lines) != url


def test_the_code_on_the_screen_lets_in_one_phone_and_nobody_else(tmp_path: Path) -> None:
    with demo(tmp_path / "shop") as terminal:
        url = qr_of(terminal.lines)
        assert url == shown_url(terminal.lines)
        phone, stranger = Phone(), Phone()
        for path in EVERY_PATH:
            for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS"):
                reply = stranger.ask(method, at(url, path))
                assert (reply.status, stranger.cookies) == (403, {}), (method, path)
        assert "请扫描屏幕上的二维码".encode() in stranger.ask("GET", url[: url.rindex("/")]).body
        first = phone.open(url)
        assert first.status == 200
        assert "可乐 500 ml" in first.body.decode()
        late = stranger.open(url)
        assert (late.status, stranger.cookies) == (403, {})
        assert "已经用过了" in late.body.decode()
        assert phone.open(url).status == 200, "the phone that was let in may reload its link"
        for path in ("/metrics", "/v1/codes/1"):
            assert phone.ask("GET", at(url, path)).status == 401, "a phone is no back end"
        stranger.cookies = {"scan_gate": "0" * 32 + "." + "0" * 32}
        assert stranger.ask("GET", at(url, phone.path)).status == 403


def test_looking_ahead_does_not_spend_the_code(tmp_path: Path) -> None:
    with demo(tmp_path / "shop") as terminal:
        url = shown_url(terminal.lines)
        phone = Phone()
        assert phone.ask("HEAD", url).status == 403
        for headers in ({"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X-Moz": "prefetch"}):
            assert phone.ask("GET", url, **headers).status == 403
        assert phone.cookies == {}
        assert phone.open(url.lower()).status == 200


def test_a_claim_moves_the_numbers_and_the_next_code_is_shown(tmp_path: Path) -> None:
    with demo(tmp_path / "shop") as terminal:
        text = "\n".join(terminal.lines)
        assert "88 元 0 of 150" in text
        assert "0.00 of 15,000.00 CNY" in text
        assert "sqlite, strict" in text
        url = shown_url(terminal.lines)
        phone, friend = Phone(), Phone()
        phone.open(url)
        assert phone.press(url)["claim"]["prize"]["title"] == "88 元"
        assert phone.press(url)["claim"]["replayed"] is True
        moved = ("88 元 1 of 150", "won 88 元", " 88.00 of 15,000.00 CNY", "awarded 2", ": scanned")
        terminal.wait_for(lambda lines: all(words in "\n".join(lines) for words in moved))
        lines = terminal.wait_for(lambda lines: other_than(url)(lines) and qr_of(lines) == shown_url(lines))
        friend.open(shown_url(lines))
        assert friend.path != phone.path
        assert friend.press(url)["claim"]["status"] in ("no_prize", "awarded")
        terminal.wait_for(lambda lines: "no_prize 1" in "\n".join(lines) or "awarded 3" in "\n".join(lines))
        code = phone.path.rpartition("/")[2]
        assert code not in "\n".join(terminal.lines)
    shown = "\n".join(terminal.lines)
    assert "the workspace stays in" in shown
    assert "awards: 88 元 1 of 150" in shown
    assert run_cli(tmp_path / "shop", "audit").returncode == 0


def test_a_back_end_comes_in_by_its_token(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    with demo(folder) as terminal:
        url = shown_url(terminal.lines)
        (token,) = tomllib.loads((folder / "keys.toml").read_text())["tokens"]
        bearer = {"Authorization": f"Bearer {token['token']}"}
        assert b"scanengine_scans" in Phone().ask("GET", at(url, "/metrics"), **bearer).body
        assert Phone().ask("GET", at(url, "/metrics"), Authorization="Bearer x").status == 403


def test_a_small_terminal_shows_the_link_and_a_larger_one_the_code(tmp_path: Path) -> None:
    with demo(tmp_path / "shop", columns=50, lines=14) as terminal:
        assert qr_of(terminal.lines) is None
        assert "for a QR code" in "\n".join(terminal.lines)
        for columns, lines in ((60, 40), (120, 24), (33, 18)):
            terminal.resize(columns, lines)
            found = terminal.wait_for(qr_of)
            assert qr_of(found).startswith("HTTP://127.0.0.1:")
            assert max(map(len, found)) == columns


def test_what_a_hostile_phone_sends_does_not_reach_the_screen(tmp_path: Path) -> None:
    with demo(tmp_path / "shop") as terminal:
        url = shown_url(terminal.lines)
        phone = Phone()
        phone.open(url)
        port = urlsplit(url).port
        cookie = f"scan_gate={phone.cookies['scan_gate']}"
        for data in (
            b"\x00\xff\x1b[2J\r\n\r\n",
            b"GET /s/\x1b]0;owned\x07 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /s/%1B%5B2Jowned HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: "
            + cookie.encode()
            + b"\r\n\r\n",
            b"GET /s/owned[red] HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: " + cookie.encode() + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: scan_gate=" + b"\xff\xfe\x00" * 9 + b"\r\n\r\n",
            b"GET /D/\xc3\xa9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        ):
            assert re.match(rb"HTTP/1.[01] (400|403|200) ", raw_ask(port, data)), data
        terminal.wait_for(other_than(url))
        text = "\n".join(terminal.lines)
        assert "owned" not in text
        assert "Traceback" not in text
        terminal.wait_for(lambda lines: qr_of(lines) == shown_url(lines))


def test_a_terminal_that_is_closed_ends_the_demo(tmp_path: Path) -> None:
    with Terminal([*DEMO, str(tmp_path / "shop")]) as terminal:
        terminal.wait_for(lambda lines: "ledger" in "\n".join(lines))
        terminal.hang_up()
        assert terminal.wait() in (0, 1)


def test_without_a_terminal_each_change_is_a_line(tmp_path: Path) -> None:
    command = [*DEMO, str(tmp_path / "shop")]
    with running(command) as process:
        assert process.stdout is not None
        url = next(line for line in process.stdout if line.startswith("open on a phone: ")).split()[-1]
        phone = Phone()
        phone.open(url)
        phone.press(url)
        for line in process.stdout:
            assert not line.startswith("\x1b")
            if line.startswith("item") and line.endswith(": won 88 元\n"):
                break
        assert "the workspace stays in" in stopped(process)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--once", "--lan"], "choose one of them"),
        (["--host", "127.0.0.1"], "--host goes with --lan"),
        (["--lan", "--host", "0.0.0.0"], "nothing that a phone can open"),
        (["--lan", "--host", "::"], "nothing that a phone can open"),
        (["--lan", "--host", "fe80::1%lo"], "nothing that a phone can open"),
        (["--lan", "--host", "my-laptop"], "no IP address such as"),
        (["--lan", "--host", "1" * 5000], "no IP address such as"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_options_that_make_no_sense_are_refused(run: Run, tmp_path: Path, words: list[str], complaint: str) -> None:
    done = run("demo", "--folder", tmp_path / "shop", *words)
    assert done.code == 2
    assert complaint in done.err
    assert not (tmp_path / "shop").exists()


def test_an_address_of_another_machine_is_refused(run: Run, tmp_path: Path) -> None:
    done = run("demo", "--lan", "--host", "198.51.100.7", "--folder", tmp_path / "shop")
    assert done.code == 1
    assert "cannot listen on 198.51.100.7" in done.err
    assert not (tmp_path / "shop").exists()


def test_the_own_address_is_that_of_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "_ELSEWHERE", ("127.0.0.1", 9))
    assert lan.own_address() == "127.0.0.1"
    monkeypatch.setattr(lan, "_ELSEWHERE", ("255.255.255.255", 9))
    with pytest.raises(click.ClickException, match="--host"):
        lan.own_address()
