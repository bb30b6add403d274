"""Run a load test and take the pictures of docs/load-card.md: ``python tests/card_shots.py FOLDER [OPTION ...]``.

The folder is docs/pictures. Options are those of ``scanengine load``. The figures are of the machine it runs on: take
them when nothing else does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from browser import a_browser, a_page
from scanengine.load.report import read_card, write_card

COLORS = 128
"""Fewer make the files smaller, and no difference to the eye."""


def take(folder: Path, options: Sequence[str]) -> list[Path]:
    """Return the pictures taken: the card, and the page on a phone in the dark."""
    card, phone = folder / "load-card.png", folder / "load-card-phone.png"
    with TemporaryDirectory() as scratch, a_browser() as browser:
        found, page_path = Path(scratch) / "card.json", Path(scratch) / "card.html"
        command = [sys.executable, "-m", "scanengine", "load", *options]
        subprocess.run([*command, "--report", str(found)], check=True, stdout=subprocess.DEVNULL)
        result = read_card(found.read_bytes())
        for path in (card, page_path):
            write_card(result, path, "en")
        with a_page(browser, language="en-US", color_scheme="dark") as (page, _):
            page.goto(page_path.as_uri())
            page.screenshot(path=phone)
    for path in (card, phone):
        Image.open(path).convert("RGB").quantize(COLORS).save(path, optimize=True)
    return [card, phone]


if __name__ == "__main__":
    for taken in take(Path(sys.argv[1]), sys.argv[2:]):
        print(taken)
