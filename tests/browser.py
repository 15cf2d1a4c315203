"""A headless Chromium driven over the DevTools protocol, by the standard library alone.

Messages are JSON ended by a zero byte, over two pipes (`--remote-debugging-pipe`): no port, no socket. Every
wait has an end, and the browser's process group dies with the `Browser`.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1100,1250",
)
# Chromium reads commands from descriptor 3 and writes answers to 4
LAUNCH = """
import os, sys
read, write = os.dup(int(sys.argv[1])), os.dup(int(sys.argv[2]))
high = [os.dup2(fd, fd + 100) for fd in (read, write)]
os.dup2(high[0], 3), os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """Path of a Chromium, if one is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser said no, said nothing in time, or is gone."""


class Browser:
    """One browser with one page; a context manager.

    Fields:
        events: (method, parameters) of everything the page reported, in order.
    """

    def __init__(self, binary: str, profile: Path, timeout: float = 90.0) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._timeout, self._number, self._session = timeout, 0, ""
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        words = [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        if os.geteuid() == 0:  # Chromium has no sandbox for root
            words.insert(1, "--no-sandbox")
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), *words],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def __enter__(self) -> Browser:
        try:
            target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
            attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all of its processes."""
        with contextlib.suppress(OSError):
            os.close(self._write)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._reader.join(10)
        with contextlib.suppress(OSError):
            os.close(self._read)

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of one command.

        Raises:
            BrowserError: it was refused, or unanswered in time.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._send(json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self._timeout
        while True:
            answer = self._next(end, method)
            if answer.get("id") != self._number:
                continue
            if "error" in answer:
                raise BrowserError(f"{method}: {answer['error']['message']}")
            return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """Value of an expression (awaited if it is a promise) in the page, through JSON."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise BrowserError(f"{expression[:80]}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, expression: str, timeout: float = 90.0) -> Any:
        """Value of an expression as soon as it is true."""
        end = time.monotonic() + timeout
        while not (found := self.evaluate(expression)):
            if time.monotonic() > end:
                raise BrowserError(f"{expression} did not come true in {timeout} s.")
            time.sleep(0.02)
        return found

    def drag(self, points: list[tuple[float, float]]) -> None:
        """Press the mouse at the first point of the window, move along the others, release."""
        for i, (x, y) in enumerate(points):
            kind, buttons = ("mouseMoved", 1) if i else ("mousePressed", 1)
            self._mouse(kind, x, y, buttons)
        self._mouse("mouseReleased", *points[-1], 0)

    def touch(self, points: list[tuple[float, float]]) -> None:
        """The same with a finger."""
        for i, (x, y) in enumerate(points):
            kind = "touchMove" if i else "touchStart"
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str, times: int = 1) -> None:
        """Press a key on what has the focus."""
        text = {"text": key} if len(key) == 1 else {}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def complaints(self) -> list[str]:
        """Exceptions, and errors and warnings in the console."""
        found = []
        for method, event in self.events:
            if method == "Runtime.exceptionThrown":
                details = event["exceptionDetails"]
                found.append(str(details.get("exception", {}).get("description", details["text"])))
            elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
                found.append(str([a.get("value", a.get("description")) for a in event["args"]]))
            elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
                found.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        return found

    def requests(self) -> list[str]:
        """Addresses of everything that the page asked for."""
        return [
            event["request"]["url"] for method, event in self.events if method == "Network.requestWillBeSent"
        ]

    def _mouse(self, kind: str, x: float, y: float, buttons: int) -> None:
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1
        )

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._write, data) :]
        except OSError as error:
            raise BrowserError(f"The browser is gone: {error}.") from error

    def _next(self, end: float, method: str) -> dict[str, Any]:
        try:
            message = self._messages.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise BrowserError(f"{method}: no answer in {self._timeout} s.") from None
        if message is None:
            raise BrowserError(f"{method}: the browser is gone.")
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def _receive(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while part := os.read(self._read, 1 << 16):
                *whole, rest = (rest + part).split(b"\0")
                for message in whole:
                    self._messages.put(json.loads(message))
        self._messages.put(None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which Python's own file server hands out a folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join(10)
