"""``demo``: what it says is so, and what it prints can be opened."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

from helpers_cli import Run
from phones import Phone, at
from serving import run_cli
from terminal import running, stopped

URL = re.compile(r"^  (http://127\.0\.0\.1:\d+/s/\w{20})  (wins .*)$", re.MULTILINE)


def test_the_demo_shows_the_whole_line_and_ends(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = run_cli(tmp_path, "demo", "--once", "--folder", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:2] for line in done.stdout.splitlines()[:4]] == ["1.", "2.", "3.", "4."]
    scans_shown = done.stdout.partition("scans:\n")[2].splitlines()
    ann, again, bob = scans_shown[3], scans_shown[5], scans_shown[7]
    claim = re.search(r"awarded: 88 元, claim (\w{26})$", ann)
    assert claim is not None
    assert again.endswith(f"awarded: 88 元, claim {claim[1]} (replayed)")
    assert bob.endswith(f"taken, claim {claim[1]}")
    assert "awarded: 10 积分" in scans_shown[9]
    assert "no_prize" in scans_shown[11]
    assert scans_shown[13].strip() == "mistyped"
    assert run_cli(folder, "audit").returncode == 0


def test_its_urls_open_as_pages_whose_button_wins_what_it_says(tmp_path: Path) -> None:
    """Goal: a person who does what the demo says holds the prize it names, and stops it by Ctrl-C."""
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "scanengine", "demo", "--port", "0", "--folder", str(folder)]
    with running(command) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving http://127.0.0.1:"):
                break
        wins = {}
        for url, promise in URL.findall("".join(lines)):
            phone, other = Phone(), Phone()
            page = phone.open(url)
            assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert "可乐 500 ml" in page.body.decode()
            claim = phone.press(url)["claim"]
            wins[promise] = claim.get("prize", {}).get("title")
            other.open(url)
            assert other.press(url)["claim"]["status"] == "taken"
        assert wins == {"wins 88 yuan": "88 元", "wins 10 points": "10 积分", "wins nothing": None}
        assert Phone().ask("GET", at(url, "/readyz")).status == 200
        exported = run_cli(folder, "batch", "export", "cola", "--range", "0:1").stdout.splitlines()[1]
        assert exported.split(",")[2].startswith(at(url, "/S/").upper()), "printed codes lead to this very server"
        assert "the workspace stays in" in stopped(process)
    assert "until Ctrl-C" in lines[-1]
    assert run_cli(folder, "audit").returncode == 0


def test_a_port_that_is_taken_is_found_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options in ([], ["--lan", "--host", "127.0.0.1"]):
            port = taken.getsockname()[1]
            done = run("demo", "--port", port, "--folder", tmp_path / "shop", *options)
            assert done.code == 1
            assert f"cannot listen on 127.0.0.1:{port}" in done.err
            assert not (tmp_path / "shop").exists()
