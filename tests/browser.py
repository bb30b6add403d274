"""A real headless Chromium: one for each test process, a fresh context for each page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = {"width": 375, "height": 812}


def chromium_path() -> str:
    """Return the browser's path, from ``CHROMIUM`` or the usual names."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found or not os.path.exists(found):
        raise RuntimeError("no Chromium for the page's tests: apt-get install chromium, or set CHROMIUM to its path")
    return found


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Start Chromium; it ends with the block."""
    with sync_playwright() as playwright:
        # No sandbox, as containers and root have none; nothing but pages of ours is opened.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"]
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """What a page did besides being shown."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def outside(self, base: str) -> list[str]:
        """Return the addresses of requests to anywhere else; data in the page itself is no request."""
        return [url for url in self.requests if not url.startswith((base + "/", "data:"))]


@contextmanager
def a_page(browser: Browser, *, language: str = "zh-CN", **options: Any) -> Iterator[tuple[Page, Seen]]:
    """Open a page in a fresh context, as a phone in Chinese unless told otherwise."""
    context: BrowserContext = browser.new_context(
        locale=language, **{"viewport": PHONE, "device_scale_factor": 2, **options}
    )
    seen = Seen()
    page = context.new_page()
    page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.console.append(f"error: {error}"))
    page.on("request", lambda request: seen.requests.append(request.url))
    try:
        yield page, seen
    finally:
        context.close()
