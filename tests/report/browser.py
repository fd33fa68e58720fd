"""A headless Chromium for tests, spoken to over a pipe (the DevTools protocol); no packages."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """The browser's program, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one open page.

    Attributes:
      errors: exceptions and console errors (refused resources too) of the page, as text.
      requests: addresses the page asked for, but for its own and data URIs.
    """

    def __init__(self, program: str, profile: Path, deadline_s: float = 60.0):
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._deadline = time.monotonic() + deadline_s
        self._buffer, self._count = b"", 0
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The browser reads commands at descriptor 3 and answers at 4.
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                'exec "$@" 3<&"$IN" 4>&"$OUT"',
                "bash",
                program,
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",  # CI runs as root; the pages are our own
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            env=os.environ | {"IN": str(to_browser), "OUT": str(from_browser)},
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a file at a size of the window and waits until the page says it is drawn."""
        self.errors.clear()
        self.requests.clear()
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not self.value("location.protocol == 'file:' && document.readyState == 'complete'"):
            time.sleep(0.02)
        self.settle()

    def size(self, width: int, height: int = 900) -> None:
        """Sets the size of the window, CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def settle(self) -> None:
        """Waits for two frames: charts draw themselves when their size is known."""
        self.value("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")

    def value(self, expression: str) -> object:
        """What a JavaScript expression (or its promise) gives, as JSON."""
        got = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in got:
            raise AssertionError(f"{expression}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def key(self, name: str) -> None:
        """Presses a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def move(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Saves what is seen (or the whole page) as PNG."""
        got = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(got["data"]))

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters) -> dict:
        """One command of the protocol; events that come before its answer are noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict) -> None:
        method, what = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(what["exceptionDetails"])[:2000])
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(what["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and what["type"] == "error":
            self.errors.append(json.dumps(what["args"])[:2000])
        elif method == "Network.requestWillBeSent":
            address = what["request"]["url"]
            if not address.startswith(("data:", "file:")):
                self.requests.append(address)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise AssertionError("the browser does not answer")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise AssertionError("the browser ended by itself")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
