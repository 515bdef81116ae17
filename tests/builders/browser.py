"""A headless browser that is driven through its debugging pipe, so that no other package is needed."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
REMARKS_ON_WEBGL = ("software WebGL", "GPU stall due to ReadPixels")
"""Warnings of a machine without GPU, of which the page knows nothing."""
LONGEST_SECONDS = 240
KEY_CODES = {"Escape": 27}
"""Codes of keys on which the browser itself acts."""


def find_browser() -> str | None:
    """The first installed browser."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Tab:
    """A tab of a running browser.

    Attributes:
        events: What the browser told while commands ran.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._received = 0, b""
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Sends a command of the DevTools protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            part = os.read(self._answers, 2**20)
            assert part, "the browser has ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def evaluate(self, code: str) -> Any:
        """Evaluates JavaScript; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until JavaScript gives a true value."""
        end = time.monotonic() + LONGEST_SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.1)

    def open(self, path: Path) -> None:
        """Opens a file, with the network cut off."""
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def press(self, key: str) -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=key if kind == "keyDown" and len(key) == 1 else "",
                windowsVirtualKeyCode=KEY_CODES.get(key, 0),
            )

    def take_screenshot(self, path: Path, *, quality: int = 80) -> None:
        """Saves what is seen as WebP."""
        taken = self.call("Page.captureScreenshot", format="webp", quality=quality)
        path.write_bytes(base64.b64decode(taken["data"]))

    def list_problems(self) -> list[str]:
        """Errors and warnings of the console, exceptions, and requests that left the file."""
        problems = []
        for event in self.events:
            text = json.dumps(event)
            is_error = event["method"] in {"Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"} or (
                event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in {"error", "warning"}
            )
            if is_error and not any(remark in text for remark in REMARKS_ON_WEBGL):
                problems.append(text[:500])
        return problems


@contextmanager
def open_browser(program: str, folder: Path, *, size: tuple[int, int]) -> Iterator[Tab]:
    """Starts a browser with a profile of its own and ends it."""
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    arguments = [
        *("--headless", "--no-sandbox", "--remote-debugging-pipe", "--enable-unsafe-swiftshader"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}", "about:blank"),
    ]
    # The browser reads commands from the descriptor 3 and answers on 4.
    shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *arguments],
        pass_fds=(commands, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
