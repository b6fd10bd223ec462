"""A headless Chromium, spoken to over its DevTools protocol by a pipe; no driver or package is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DEADLINE = 60.0  # seconds, for one answer on a busy machine

# Chromium reads from descriptor 3 and writes to 4
_START = (
    "import fcntl, os, sys; take, give = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]); "
    "os.dup2(take, 3); os.dup2(give, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--no-first-run",
)


class Page:
    """A tab.

    Attributes:
        errors: What its console and its scripts complained about.
        asked: Addresses that it asked for, but for data in the page itself.
    """

    def __init__(self, give: int, take: int) -> None:
        self.give, self.take = give, take
        self.number, self.session = 0, None
        self.rest = b""
        self.waiting: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the DevTools protocol."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.give, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(self, file: Path, width: int = 1200, height: int = 900, dark: bool = False) -> float:
        """Show a file in a window of that size, and wait until its scripts have run; returns the seconds it took."""
        self.errors.clear()
        self.asked.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.resize(width, height)
        self.waiting.clear()
        began = time.perf_counter()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait("Page.loadEventFired")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return time.perf_counter() - began

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """The text of every element that fits, as it is shown."""
        text = "(one.innerText ?? one.textContent).trim()"
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => {text})")

    def press(self, key: str) -> None:
        """A key, typed by a person: ``Enter``, ``Tab``."""
        code = {"Enter": 13, "Tab": 9}[key]
        typed = {"text": "\r"} if key == "Enter" else {}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, file: Path, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._area(whole))
        file.write_bytes(base64.b64decode(shot["data"]))

    def _area(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def print(self, file: Path) -> None:
        """Print to a PDF on A4."""
        done = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        file.write_bytes(base64.b64decode(done["data"]))

    def wait(self, event: str) -> dict[str, Any]:
        """The parameters of the next event of that name."""
        while True:
            for answer in self.waiting:
                if answer["method"] == event:
                    self.waiting.remove(answer)
                    return answer["params"]
            self._read()

    def _read(self) -> dict[str, Any]:
        """The next message; events are noted."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.take], [], [], DEADLINE)
            assert ready, "Chromium does not answer"
            part = os.read(self.take, 1 << 20)
            assert part, "Chromium has ended"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        answer = json.loads(message)
        if answer.get("sessionId") == self.session and "method" in answer:
            self._note(answer["method"], answer["params"])
            self.waiting.append(answer)
        return answer

    def _note(self, event: str, content: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(content["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.errors.append(str(content["entry"]))
        elif event == "Runtime.consoleAPICalled":
            self.errors.append(str(content["args"]))
        elif event == "Page.javascriptDialogOpening":
            self.errors.append(f"a dialog: {content['message']}")
        elif event == "Network.requestWillBeSent" and not content["request"]["url"].startswith("data:"):
            self.asked.append(content["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A Chromium with an empty profile in a new folder, that can reach no host."""
    assert CHROMIUM is not None
    (from_us, give), (take, to_us) = os.pipe(), os.pipe()
    flags = [*_FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [sys.executable, "-c", _START, str(from_us), str(to_us), CHROMIUM, *flags, "about:blank"]
    with (profile.parent / f"{profile.name}.log").open("w") as log:
        process = subprocess.Popen(command, pass_fds=(from_us, to_us), stdout=log, stderr=log)
    os.close(from_us)
    os.close(to_us)
    try:
        yield Page(give, take)
    finally:
        os.close(give)  # it ends with the pipe
        os.close(take)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
