"""A real Firefox, driven over WebDriver BiDi, which it speaks itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from websockets.sync.client import connect

from tests.live.support import PATIENCE

_LISTENS = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
# Its add-ons, a process for the next page, and a page for the next tab: a third of its start, and no test is about them.
_WITHOUT = {"extensions.enabledScopes": 0, "dom.ipc.processPrelaunch.enabled": False, "browser.newtabpage.enabled": False}


class Tab:
    """One tab. Each method waits for the browser's answer."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._count = 0
        self.call("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
        self._context = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of WebDriver BiDi."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(PATIENCE))
            if answer.get("id") == self._count:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, url: str) -> None:
        """Go to `url` and wait until the page is loaded."""
        self.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited where it is a promise."""
        result = self.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify([await ({script}\n)]))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        if result["type"] == "exception":
            raise AssertionError(result["exceptionDetails"])
        return json.loads(result["result"]["value"])[0]


@contextmanager
def firefox(directory: Path) -> Iterator[Tab]:
    """Start Firefox with a new profile in `directory`; it accepts any certificate."""
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    assert program, "Firefox is missing: make test installs it on Debian as root"
    profile = directory / "profile"
    profile.mkdir()
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in _WITHOUT.items()]
    (profile / "user.js").write_text("".join(lines))
    process = subprocess.Popen(
        [program, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port=0", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(directory), "MOZ_CRASHREPORTER_DISABLE": "1"},
    )
    said: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.put(line)

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    try:
        found, lines = None, []
        while found is None:
            try:
                lines.append(said.get(timeout=PATIENCE))
            except Empty:
                raise AssertionError(f"Firefox does not listen; it says {lines}") from None
            found = _LISTENS.search(lines[-1])
        with connect(f"{found[1]}/session", max_size=None, open_timeout=PATIENCE, ping_interval=None, proxy=None) as socket:
            yield Tab(socket)
    finally:
        process.kill()
        process.wait()
        reader.join(PATIENCE)
        assert process.stderr is not None
        process.stderr.close()
        shutil.rmtree(profile, ignore_errors=True)
