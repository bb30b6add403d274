"""Take a picture of every state of the page: ``python tests/page_shots.py OUTDIR [--scale 2] [STATE ...]``.

The pictures of docs/page.md: ``python tests/page_shots.py docs/pictures --scale 1.5 --colors 128 --language zh
claim_red_packet won_cash claim_wheel inactive suspect``, and ``won_points`` with ``--language en``. Chinese needs a
font, such as the package fonts-noto-cjk.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from browser import a_browser, a_page
from helpers_page import STATES, page_server

LANGUAGES = {"zh": "zh-CN", "en": "en-US"}


def take(folder: Path, states: Sequence[str], languages: Sequence[str], scale: float, colors: int) -> list[Path]:
    """Return the pictures taken, one for each language and state; fewer `colors` make them smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with page_server() as base, a_browser() as browser:
        for name in languages:
            # Still and without the script: a picture shows a state, not a moment.
            options = {"reduced_motion": "reduce", "java_script_enabled": False, "device_scale_factor": scale}
            with a_page(browser, language=LANGUAGES[name], **options) as (page, _):
                for state in states:
                    page.goto(f"{base}/s/{state}")
                    path = folder / f"{state}-{name}.png"
                    page.screenshot(path=path, full_page=True)
                    if colors:
                        Image.open(path).convert("RGB").quantize(colors).save(path, optimize=True)
                    taken.append(path)
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take a picture of every state of the page.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("states", nargs="*", metavar="STATE", help="all if none is named")
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--colors", type=int, default=0, help="at most 256; all if left out")
    parser.add_argument("--language", choices=LANGUAGES)
    found = parser.parse_intermixed_args()
    unknown = set(found.states) - set(STATES)
    if unknown:
        parser.error(f"unknown states {', '.join(sorted(unknown))}; known: {', '.join(STATES)}")
    wanted = [found.language] if found.language else list(LANGUAGES)
    for taken_path in take(found.folder, found.states or list(STATES), wanted, found.scale, found.colors):
        print(taken_path)
