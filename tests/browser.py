"""A headless Chromium that opens one file, driven through its debugging pipe (Chrome DevTools Protocol): no driver and no port is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60.0
"""That one answer may take"""

LAUNCHER = """
import os, sys
high = [os.dup(os.dup(int(end))) for end in sys.argv[1:3]]
for end, fd in zip(high, (3, 4)):
    os.dup2(end, fd)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the two pipes where the browser looks for them"""


def find_browser() -> str | None:
    """The browser on this machine; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def require_browser() -> str:
    """The browser; without one the test is skipped by name, in CI it fails."""
    found = find_browser()
    if found is None and os.environ.get("CI"):
        pytest.fail("Chromium is missing: make browser installs it")
    if found is None:
        pytest.skip("needs Chromium (make browser)")
    return found


class Page:
    """One tab."""

    def __init__(self, process: subprocess.Popen[bytes], reading: int, writing: int) -> None:
        self._process, self._reading, self._writing = process, reading, writing
        self._last, self._buffer, self._session = 0, b"", ""
        self.complaints: list[str] = []
        """What the console said, exceptions, and what the page's own policy refused"""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command of the protocol. Raises AssertionError for an error, and where none comes in time."""
        self._last += 1
        session = {"sessionId": self._session} if self._session else {}
        text = json.dumps({"id": self._last, "method": method, "params": parameters, **session})
        os.write(self._writing, text.encode() + b"\0")
        while True:
            found = self._next(time.monotonic() + SECONDS)
            if found.get("id") == self._last:
                assert "error" not in found, found["error"]
                return dict(found["result"])
            self._note(found)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready = select.select([self._reading], [], [], max(deadline - time.monotonic(), 0))[0]
            part = os.read(self._reading, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.requestWillBeSent"):
            url = event["params"].get("request", {}).get("url", "")
            if not url.startswith(("file:", "data:")) or not url:
                self.complaints.append(json.dumps(event["params"]))

    def open(self, path: Path) -> None:
        """Shows the file and waits until it has run its script."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + SECONDS
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of a piece of JavaScript. Raises AssertionError for an exception in it."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def show(self, width: int, height: int, *, dark: bool = False, media: str = "") -> None:
        """The size of the window, its scheme of colours, and the medium (screen, print)."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def picture(self, *, whole: bool = True) -> bytes:
        """A PNG of the page as it is shown."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def printed(self) -> bytes:
        """The page as a PDF, on the paper that it asks for."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])


@contextmanager
def opened(path: Path) -> Iterator[Page]:
    """The file in a browser of its own. Skips, or in CI fails, where there is no browser."""
    program = require_browser()
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        ends = (str(to_browser[0]), str(from_browser[1]))
        command = [sys.executable, "-c", LAUNCHER, *ends, program, *options, f"--user-data-dir={profile}", "about:blank"]
        fds = (to_browser[0], from_browser[1])
        process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser[0])
        os.close(from_browser[1])
        page = Page(process, from_browser[0], to_browser[1])
        try:
            page.open(path)
            yield page
        finally:
            process.terminate()
            process.wait(timeout=30)
            os.close(to_browser[1])
            os.close(from_browser[0])
