"""A headless Chromium that is already on the machine, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Page:
    """One tab; :attr:`errors` holds every exception and everything that was logged as an error or a warning."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.errors: list[str] = []
        self.requests: list[str] = []
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, width: int = 1200, dark: bool = False) -> None:
        """Load a file in a window of *width*."""
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.emulate_media(color_scheme="dark" if dark else "light")
        self.tab.goto(path.resolve().as_uri())

    def js(self, expression: str) -> Any:
        """Value of a JavaScript expression."""
        return self.tab.evaluate(expression)

    def until(self, expression: str, seconds: float = 20) -> bool:
        """Whether a JavaScript expression comes true; the page's policy forbids Playwright's own way of waiting."""
        end = time.monotonic() + seconds
        while not (found := bool(self.js(expression))) and time.monotonic() < end:
            self.tab.wait_for_timeout(20)
        return found

    def press(self, key: str) -> None:
        """Press and release one key."""
        self.tab.keyboard.press(key)


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a fresh browser; the test is skipped where no Chromium or Chrome is installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("CHROME_PATH") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} on the path, and CHROME_PATH is not set")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        chromium = started.chromium.launch(executable_path=program, args=flags)
        yield Page(chromium.new_page())
        chromium.close()
