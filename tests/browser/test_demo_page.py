from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.browser.chromium import PATIENCE, Tab
from tests.live.support import Running, running
from tests.ports import freePort

_SEND = """(text => {
    document.getElementById("message").value = text;
    document.getElementById("form").requestSubmit();
})"""


def _open(tab: Tab, server: Running, scheme: str = "http") -> None:
    tab.open(f"{scheme}://localhost:{server.port('ws' if scheme == 'http' else 'wss')}/")
    tab.wait("document.getElementById('status').textContent === 'connected'")


def _shown(tab: Tab, kind: str, text: str) -> None:
    """Wait until the log shows `text` as something of `kind`."""
    tab.wait(f"[...document.querySelectorAll('#log .{kind} .text')].some(each => each.textContent === {text!r})")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_aPersonSeesTheEchoAndTheBroadcast(tab: Tab, tmp_path: Path, scheme: str) -> None:
    """The page shows what is typed, its echo, and what the line of curl that it shows sends; the console stays empty."""
    with running(tmp_path, "--tls-port", "0") as server:
        _open(tab, server, scheme)
        tab.run(f"{_SEND}('hi <b>there</b>')")
        _shown(tab, "sent", "hi <b>there</b>")
        _shown(tab, "received", "Echo: hi <b>there</b>")
        assert tab.run("document.getElementById('message').value") == ""

        command = shlex.split(tab.run("document.getElementById('curl').textContent"))
        assert command[0] == "curl"
        done = subprocess.run([*command, "--noproxy", "*"], capture_output=True, text=True, timeout=PATIENCE, check=True)
        assert done.stdout == "OK"
        _shown(tab, "received", "Hello!")

        assert tab.run("document.querySelectorAll('#log b').length") == 0
        assert tab.messages == []


def test_thePageTellsThatTheServerHasStoppedAndComesBack(tab: Tab, tmp_path: Path) -> None:
    """When the server stops the page says so and cannot send; when one is there again, it connects by itself."""
    ports = ("--port", str(freePort()), "--broadcast-port", "0")
    with running(tmp_path, ports=ports) as server:
        _open(tab, server)
    tab.wait("document.getElementById('state').dataset.state !== 'connected'")
    assert tab.run("document.getElementById('send').disabled")
    tab.wait("document.getElementById('connect-error').textContent.startsWith('Not connected: ')")
    assert tab.run("document.getElementById('connect-error').checkVisibility()")
    _shown(tab, "note", "server stops (code 1001)")
    with running(tmp_path, ports=ports):
        tab.wait("document.getElementById('status').textContent === 'connected'")
        assert not tab.run("document.getElementById('connect-error').checkVisibility()")
        tab.run(f"{_SEND}('again')")
        _shown(tab, "received", "Echo: again")


def test_aPersonDisconnects(tab: Tab, tmp_path: Path) -> None:
    """One button closes the WebSocket, stays so, and opens it again; it says which of these it does."""
    with running(tmp_path) as server:
        _open(tab, server)
        button = "document.getElementById('connection')"
        for _ in range(2):
            assert tab.run(f"{button}.textContent") == "Disconnect"
            tab.run(f"{button}.click()")
            assert tab.run("document.getElementById('status').textContent") == "disconnected"
            assert tab.run("document.getElementById('send').disabled")
            assert tab.run(f"{button}.textContent") == "Connect"
            tab.run(f"{button}.click()")
            tab.wait("document.getElementById('status').textContent === 'connected'")
        tab.run(f"{_SEND}('back')")
        _shown(tab, "received", "Echo: back")
        assert tab.run("[...document.querySelectorAll('#log .text')].filter(each => each.textContent === 'by you').length") == 2


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 640)])
def test_thePageFitsTheScreen(tab: Tab, tmp_path: Path, width: int, height: int) -> None:
    """Nothing has to be scrolled sideways, on a desktop and on a phone, with a long message as well."""
    with running(tmp_path) as server:
        tab.resize(width, height)
        _open(tab, server)
        tab.run(f"{_SEND}('{'long' * 100}')")
        _shown(tab, "received", "Echo: " + "long" * 100)
        assert tab.run("innerWidth") == width
        assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_thePageLoadsNothingFromElsewhere(tab: Tab, tmp_path: Path) -> None:
    """Every resource comes from the server itself, and its policy forbids every other."""
    with running(tmp_path) as server:
        _open(tab, server)
        origin = tab.run("location.origin")
        loaded = tab.run("performance.getEntriesByType('resource').map(each => each.name)")
        assert loaded
        assert all(name.startswith(origin) for name in loaded), loaded
        blocked = """new Promise(done => {
            document.addEventListener("securitypolicyviolation", event => done(event.violatedDirective));
            const image = new Image();
            image.src = "http://127.0.0.1:9/x.png";
        })"""
        assert tab.run(blocked) == "img-src"
