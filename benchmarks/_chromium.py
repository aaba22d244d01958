"""Opens pages in headless Chromium over its debugging protocol; used by `benchmarks.report_page` and the tests.

with Chromium(width=390, dark=True) as browser:
    browser.open(path)
    browser.evaluate("document.title")
    browser.screenshot(Path("page.png"))
"""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--hide-scrollbars",
    "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE = 60.0  # seconds
DOMAINS = ("Page", "Runtime", "Log", "Network")
HARMLESS = ("GPU stall due to ReadPixels",)  # of the driver that draws WebGL in software


def find_chromium() -> str | None:
    """Return the path of Chromium, or None where it is not installed."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """One page of a headless browser.

    Attributes:
        console: what the page wrote to the console, and errors.
        requests: addresses that it asked for.
    """

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self.size, self.dark = {"width": width, "height": height}, dark
        self.number = 0

    def __enter__(self) -> Self:
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [find_chromium() or NAMES[0], *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.events = asyncio.new_event_loop()
        self.events.run_until_complete(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        self.events.run_until_complete(self.session.close())
        self.events.close()
        self.process.terminate()
        self.process.wait()
        self.profile.cleanup()

    def open(self, path: Path) -> None:
        """Load a file of this machine."""
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Return the answer to one command of the protocol."""
        return self.events.run_until_complete(asyncio.wait_for(self._call(method, options), PATIENCE))

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited.

        Raises:
            RuntimeError: if it throws.
        """
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Return once an expression is true.

        Raises:
            TimeoutError: if it is not within a minute.
        """
        _poll(lambda: self.evaluate(expression) or None, expression)

    def mouse(self, kind: str, x: float, y: float, **options: Any) -> None:
        """Send an event of the mouse, such as mouseMoved."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **options)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the window, or of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    async def _connect(self) -> None:
        port = _poll(self._port, "the port of Chromium")
        self.session = aiohttp.ClientSession()
        async with self.session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as response:
            address = (await response.json())["webSocketDebuggerUrl"]
        self.socket = await self.session.ws_connect(address, max_msg_size=0)
        for domain in DOMAINS:
            await self._call(f"{domain}.enable", {})
        features = [{"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}]
        await self._call("Emulation.setEmulatedMedia", {"features": features})
        screen = {**self.size, "deviceScaleFactor": 1, "mobile": False}
        await self._call("Emulation.setDeviceMetricsOverride", screen)

    def _port(self) -> str | None:
        file = Path(self.profile.name) / "DevToolsActivePort"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return lines[0] if lines else None

    async def _call(self, method: str, options: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": options})
        while (answer := await self.socket.receive_json()).get("id") != self.number:
            self._record(answer.get("method"), answer.get("params", {}))
        return answer["result"]

    def _record(self, event: str | None, values: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        if event == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(values["args"]))
        if event == "Runtime.exceptionThrown":
            self.console.append(json.dumps(values["exceptionDetails"]))
        if event == "Log.entryAdded" and not any(text in values["entry"]["text"] for text in HARMLESS):
            self.console.append(values["entry"]["text"])


def _poll(get: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while (value := get()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)
    return value
