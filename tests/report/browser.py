"""A headless Chromium that is already on the machine, driven over its own debugging protocol."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Page:
    """One tab; :attr:`errors` holds every exception and everything that was logged as an error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0
        self.errors: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        return self._loop.run_until_complete(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            self._note(message)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        kind, told = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"]))
        elif (kind == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning")) or kind == "Log.entryAdded":
            self.errors.append(str(told))
        elif kind == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, path: Path, width: int = 1200, dark: bool = False) -> None:
        """Load a file in a window of *width*."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        waited = "new Promise(r => document.readyState === 'complete' ? r(1) : addEventListener('load', () => r(1)))"
        while self.js("location.protocol") != "file:":
            pass
        self.js(waited)

    def js(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and let go of one key."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text if kind == "keyDown" else {})


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a fresh browser; the test is skipped where no Chromium or Chrome is installed."""
    program = os.environ.get("CHROME_PATH") or next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} on the path, and CHROME_PATH is not set")
    profile = tempfile.mkdtemp()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    process = subprocess.Popen([program, *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
    loop = asyncio.new_event_loop()
    try:
        assert process.stderr is not None
        lines = (line for line in process.stderr if "DevTools listening on" in line)
        address = next(lines, None)
        if address is None:
            pytest.skip(f"{program} does not start")
        port = address.split("ws://")[1].split("/")[0]
        session, socket = loop.run_until_complete(_connect(port))
        yield Page(loop, socket)
        loop.run_until_complete(session.close())
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stderr is not None:
            process.stderr.close()
        loop.close()
        shutil.rmtree(profile, ignore_errors=True)


async def _connect(address: str) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://{address}/json") as answer:
        pages = await answer.json()
    target = next(page for page in pages if page["type"] == "page")
    return session, await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
