"""Make the recorded parts of ``docs/tour.md`` and its pictures anew: ``python tests/record_tour.py``.

Everything in them is what the commands print and what Chromium shows; the words between are written by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import a_browser, a_page
from phones import Phone
from serving import WAIT_S
from terminal import Terminal, qr_of, running, stopped

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs" / "tour.md"
PICTURES = ROOT / "docs" / "pictures"
PICTURE_BYTES_MAX = 80_000
MODULE = [sys.executable, "-m", "scanengine"]
PARTS = ("once", "serving", "screen")
LIKE = (
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b"), "TOKEN"),
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{20}\b"), "CODE"),
    (re.compile(r"[█▀▄ ]{33}"), "QR" * 16 + "Q"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\d\d:\d\d:\d\d"), "hh:mm:ss"),
    (re.compile(r"item \d+"), "item ITEM"),
    (re.compile(r"\d+\.\d/s"), "RATE/s"),
)
"""What differs from one run to the next."""


def shape(text: str) -> str:
    """Return a recording without what differs from one run to the next."""
    for pattern, name in LIKE:
        text = pattern.sub(name, text)
    return text


def record_once(folder: Path) -> str:
    """Record the demo that ends by itself, and what can be asked of its workspace."""
    commands = ("scanengine demo --once --folder tour", "scanengine -w tour audit")
    shown = []
    for command in commands:
        done = subprocess.run(
            [*MODULE, *command.split()[1:]], cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=True
        )
        shown.append(f"$ {command}\n{done.stdout}")
    return "".join(shown)


@contextmanager
def demo_served(folder: Path, port: int) -> Iterator[tuple[str, list[str]]]:
    """Run the demo that serves on; yields what it says after its scans, and the URLs in it."""
    command = [*MODULE, "demo", "--port", str(port), "--folder", str(folder)]
    with running(command) as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("serving"):
                break
        text = text[text.index("your turn") :]
        yield text, re.findall(r"^  (http\S+)", text, re.MULTILINE)
        stopped(process)


def record_screen(folder: Path, port: int, look: Callable[[str], object]) -> str:
    """Record the terminal of ``demo --lan`` after one phone has won, and a stranger has taken a `look` at its link."""
    command = [*MODULE, "demo", "--lan", "--host", "127.0.0.1", "--port", str(port), "--folder", str(folder)]
    with Terminal(command, columns=92, lines=20) as terminal:
        url = qr_of(terminal.wait_for(qr_of))
        assert url is not None
        phone = Phone()
        phone.open(url)
        phone.press(url)
        look(url)
        shown = terminal.wait_for(
            lambda lines: (
                all(
                    re.search(words, "\n".join(lines))
                    for words in ("won 88 元", "88 元 1 of", r"refused +1\b", "valid 2")
                )
                and url not in "\n".join(lines)
            )
        )
        terminal.type("\x03")
        assert terminal.wait() == 0
    return "".join(f"{line.rstrip()}\n" for line in shown).rstrip("\n") + "\n"


PHONE: dict[str, Any] = {"reduced_motion": "reduce", "device_scale_factor": 1}
"""Still, as a picture shows a state and not a moment."""


def take_pictures(browser: Any, urls: list[str]) -> None:
    """Open the winning URL as two people do, and take pictures of what they see."""
    with a_page(browser, **PHONE) as (page, _):
        page.goto(urls[0])
        _take(page, "tour-1-genuine")
        page.click("form button")
        page.locator("#outcome .figure").wait_for()
        _take(page, "tour-2-won")
    with a_page(browser, language="en-US", **PHONE) as (page, _):
        page.goto(urls[0])
        page.locator("#outcome .title").wait_for()
        _take(page, "tour-3-taken")


def take_refusal(browser: Any, url: str) -> None:
    """Open a spent link as a stranger."""
    with a_page(browser, **PHONE | {"viewport": {"width": 375, "height": 500}}) as (page, _):
        assert page.goto(url.lower()).status == 403
        _take(page, "tour-4-refused")


def _take(page: Any, name: str) -> None:
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    size = path.stat().st_size
    assert size <= PICTURE_BYTES_MAX, f"{path}: {size} bytes"


def part_of(text: str, name: str) -> str:
    """Return a recorded part of the page."""
    found = re.search(_PART.format(name), text, re.DOTALL)
    assert found is not None, name
    return found[2]


def with_part(text: str, name: str, recorded: str) -> str:
    """Return the page with a part recorded anew."""
    return re.sub(_PART.format(name), lambda found: found[1] + recorded + found[3], text, count=1, flags=re.DOTALL)


_PART = r"(<!-- {}:begin -->\n```\w+\n)(.*?)(```\n<!-- \w+:end -->)"


def main() -> None:
    """Record everything."""
    os.environ["TZ"] = "Asia/Shanghai"
    PICTURES.mkdir(exist_ok=True)
    text = TOUR.read_text("utf-8")
    with tempfile.TemporaryDirectory() as name, a_browser() as browser:
        folder = Path(name)
        text = with_part(text, "once", record_once(folder))
        with demo_served(folder / "served", 8080) as (said, urls):
            take_pictures(browser, urls)
            text = with_part(text, "serving", said)
        shown = record_screen(folder / "lan", 8080, lambda url: take_refusal(browser, url))
        text = with_part(text, "screen", shown)
    TOUR.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
