"""A real Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

# Chromium needs a while on a busy machine; a test that waits this long has failed.
PATIENCE = 180


class Tab:
    """One tab. Each method waits for the browser's answer."""

    def __init__(self, socket: Any, session: str) -> None:
        self._socket = socket
        self._session = session
        self._count = 0
        self._loaded: set[str] = set()
        self.messages: list[str] = []  # what the console said
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a DevTools method."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "sessionId": self._session, "method": method, "params": parameters}))
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._take(end)
            if answer.get("id") == self._count and answer.get("sessionId") == self._session:
                if "error" in answer:
                    raise AssertionError(answer["error"])
                return answer["result"]

    def _take(self, end: float) -> Any:
        # A page that says something all the time is no answer.
        answer = json.loads(self._socket.recv(max(end - time.monotonic(), 0)))
        if answer.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(answer["params"]))
        elif answer.get("method") == "Page.lifecycleEvent" and answer["params"]["name"] == "load":
            self._loaded.add(answer["params"]["loaderId"])
        return answer

    def fresh(self) -> None:
        """Leave the page, and forget what was said and emulated."""
        self.open("about:blank")
        self.call("Log.clear")
        self.call("Emulation.clearDeviceMetricsOverride")
        self.call("Emulation.setEmulatedMedia", features=[])
        self.call("Network.disable")
        self.messages.clear()

    def open(self, url: str) -> None:
        """Go to `url` and wait until the page is loaded."""
        loader = self.call("Page.navigate", url=url)["loaderId"]
        # A script that runs while the page changes is never answered, so only the event says when it has changed.
        end = time.monotonic() + PATIENCE
        while loader not in self._loaded:
            self._take(end)

    def leave(self, script: str) -> None:
        """Run a script because of which the page goes to another one by itself, and wait until that is loaded."""
        before = set(self._loaded)
        end = time.monotonic() + PATIENCE
        self.run(script)
        while self._loaded <= before:
            self._take(end)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Return the first true value of an expression, which the page is asked for again and again."""
        look = f"const look = () => {{ const found = ({condition}); found ? done(found) : setTimeout(look, 20) }}"
        return self.run(f"new Promise(done => {{ {look}; look() }})")

    def offline(self, isOffline: bool) -> None:
        """Take the network away from the page, or give it back; the page is told, as of any other network."""
        self.call("Network.enable")
        self.call("Network.emulateNetworkConditions", offline=isOffline, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def picture(self, path: Path) -> None:
        """Save a picture of the page."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(directory: Path) -> Iterator[Tab]:
    """Start Chromium with a new profile in `directory`; it takes any certificate, and names in ``.example`` are this machine.

    Its headless shell, where there is one, is the same engine without the windows, which take as much again as the pages.
    """
    program = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None)
    assert program, "Chromium is missing: make test installs it on Debian as root"
    profile = directory / "profile"
    process = subprocess.Popen(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            # Pages share a process: one for each costs more than most tests of a page, and no test is about what divides them.
            "--disable-site-isolation-trials",
            "--renderer-process-limit=1",
            "--disable-features=SpareRendererForSitePerProcess",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--ignore-certificate-errors",
            "--host-resolver-rules=MAP *.example 127.0.0.1",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(directory)},
        start_new_session=True,
    )
    try:
        where = profile / "DevToolsActivePort"
        end = time.monotonic() + PATIENCE
        while not (where.exists() and where.read_text().count("\n")) and time.monotonic() < end:
            assert process.poll() is None, "Chromium ended at its start"
            time.sleep(0.05)  # another process writes the file: there is nothing to wait on
        port, path = where.read_text().split()
        with connect(
            f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=PATIENCE, ping_interval=None, proxy=None
        ) as socket:
            socket.send(json.dumps({"id": 0, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            target = _answer(socket, 0)["targetId"]
            socket.send(json.dumps({"id": 0, "method": "Target.attachToTarget", "params": {"targetId": target, "flatten": True}}))
            yield Tab(socket, _answer(socket, 0)["sessionId"])
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with the script that started it
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _answer(socket: Any, number: int) -> Any:
    while True:
        answer = json.loads(socket.recv(PATIENCE))
        if answer.get("id") == number:
            return answer["result"]
