"""An upgrade behind nginx, as a browser sees it: not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.browser.chromium import Tab
from tests.daemon.workers.support import tell, workers
from tests.live.proxies import fromPage
from tests.live.support import running, writeService
from tests.transcript import ROOT

_SERVICE = """
from twisted_ws import WebSocketService

class Counter(WebSocketService):
    resumable = True

    def onOpen(self, caller):
        caller.attributes["count"] = 0

    def onTextMessage(self, caller, text):
        caller.attributes["count"] += 1
        return f"{caller.attributes['count']} VERSION"
"""
_CONFIG = """
workers = 2
state-directory = "state"
trusted-proxy = ["127.0.0.1"]
[services]
"/counter" = {target = "rooms:Counter"}
"/channels" = {target = "channels", presence = true}
"/channels/{channel}" = {target = "channels"}
"""
# A raw WebSocket, the client of the package, and the browser's event stream; whatever they notice besides messages.
_PAGE = """
(async () => {
    const { TwistedWS } = await import("/twisted-ws.mjs");
    const here = location.host;
    globalThis.noticed = [];
    globalThis.got = { raw: [], client: [], events: [] };
    globalThis.raw = new WebSocket(`wss://${here}/counter`);
    raw.onmessage = ({ data }) => got.raw.push(data);
    for (const what of ["close", "error"]) raw.addEventListener(what, () => noticed.push(`raw ${what}`));
    globalThis.client = new TwistedWS(`wss://${here}/channels`);
    for (const what of ["close", "retry", "error"]) client.on(what, () => noticed.push(`client ${what}`));
    const subscription = client.subscribe("news", (message) => got.client.push(message.data));
    globalThis.events = new EventSource("/channels/news");
    events.onmessage = ({ data }) => got.events.push(data);
    events.onerror = () => noticed.push("events error");
    await Promise.all([
        new Promise((done) => { raw.onopen = done; }),
        new Promise((done) => { subscription.on("subscribed", done); }),
        new Promise((done) => { events.addEventListener("subscribed", done, { once: true }); }),
    ]);
    return true;
})()
"""


@pytest.mark.parametrize("command", [("reload", "--services"), ("upgrade",)])
def test_nobodyNotices(command: tuple[str, ...], tab: Tab) -> None:
    """Over upgrades behind a proxy that ends TLS, a page sees no close of any kind, each message once, and the new code.

    The page has a raw WebSocket, the client of the package and an event stream.
    """
    page = (ROOT / "docs" / "howto" / "nginx.md").read_text()
    # The port in the address bar is another one here, as the page says.
    configuration = page.partition("```nginx\n")[2].partition("```")[0].replace("Host $host;", "Host $http_host;")
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        writeService(place, _SERVICE.replace("VERSION", "v0"))
        (place / "ws.toml").write_text(_CONFIG)
        with running(place, "--config", "ws.toml") as server, fromPage("nginx", configuration, place, server.port("ws")) as port:
            server.waitFor("2 workers listen")
            tab.open(f"https://chat.example:{port}/")
            assert tab.run(_PAGE)
            server.curl("--data", "0", path="/channels/news")
            tab.wait("got.client.length && got.events.length")
            for number in range(1, 3):
                before = set(workers(server))
                writeService(place, _SERVICE.replace("VERSION", f"v{number}"))
                assert tell(place, *command) == (0, "")
                assert not before & set(workers(server))
                server.curl("--data", str(number), path="/channels/news")
                tab.run('raw.send("next")')
                assert tab.wait(f"got.raw.length === {number} && got.raw.at(-1)") == f"{number} v{number}"
            wanted = [str(number) for number in range(3)]
            assert tab.wait("got.client.length >= 3 && got.events.length >= 3")
            assert tab.run("got.client") == wanted
            assert tab.run("got.events") == wanted
            assert tab.run("noticed") == []
            assert tab.run("raw.readyState") == 1


def test_comesBack(tab: Tab) -> None:
    """Where TLS ends at the server, the client of the package comes back after each upgrade, and has each message once."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        writeService(place, _SERVICE.replace("VERSION", "v0"))
        (place / "ws.toml").write_text(_CONFIG)
        with running(place, "--config", "ws.toml", "--tls-port", "0") as server:
            tab.open(f"https://localhost:{server.port('wss')}/")
            assert tab.run(_PAGE.replace("`wss://${here}/channels`", "`wss://${here}/channels`, { base: 100 }"))
            server.curl("--data", "0", path="/channels/news")
            tab.wait("got.client.length && got.events.length")
            for number in range(1, 3):
                assert tell(place, "reload", "--services") == (0, "")
                server.curl("--data", str(number), path="/channels/news")
                assert tab.wait(f"got.client.length > {number} && got.events.length > {number}")
            wanted = [str(number) for number in range(3)]
            assert tab.run("got.client") == wanted
            assert tab.run("got.events") == wanted
            assert tab.run("noticed.filter((each) => each === 'client retry').length") >= 2
