from __future__ import annotations

from pathlib import Path

from tests.browser.chromium import Tab, chromium
from tests.live.support import running

# Opens a WebSocket from a page of the server and keeps what arrives.
_SUBSCRIBE = """new Promise((done, failed) => {
    window.received = [];
    window.subscriber = new WebSocket(location.origin.replace("http", "ws") + "/ws/subscribe");
    subscriber.onmessage = event => received.push(event.data);
    subscriber.onopen = () => done("open");
    subscriber.onerror = () => failed("no connection");
})"""


def _subscribe(tab: Tab, page: str) -> None:
    tab.open(page)
    assert tab.run(_SUBSCRIBE) == "open"


def test_oneCurlLineReachesEveryClient(tmp_path: Path) -> None:
    """A line of curl prints OK, and its text reaches clients of another library and browser tabs, with TLS and without."""
    with (
        running(tmp_path, "--tls-port", "0") as server,
        server.client() as plain,
        server.client(secure=True) as secure,
        chromium(tmp_path / "one") as tab,
        chromium(tmp_path / "two") as secureTab,
    ):
        _subscribe(tab, f"http://localhost:{server.port('ws')}/")
        _subscribe(secureTab, f"https://localhost:{server.port('wss')}/")

        assert server.curl("-d", "Hello!") == "OK"

        assert plain.recv() == "Hello!"
        assert secure.recv() == "Hello!"
        for each in (tab, secureTab):
            each.wait("received.length > 0")
            assert each.run("received") == ["Hello!"]
            assert each.run("subscriber.close(); new Promise(done => { subscriber.onclose = event => done(event.wasClean) })")


def test_whatIsBroadcastIsOneMessageForEachClient(tmp_path: Path) -> None:
    """Text stays text, binary stays binary, and each is the next message of each client."""
    with running(tmp_path) as server, server.client() as one, server.client("/ws/other") as two:
        assert server.curl("--data-binary", "@-", "-H", "Content-Type: application/octet-stream", body=b"\0\xff") == "OK"
        assert server.curl("-d", "grüß dich") == "OK"
        for client in (one, two):
            assert client.recv() == b"\0\xff"
            assert client.recv() == "grüß dich"
            client.send("mine")
            assert client.recv() == "Echo: mine"
            client.send(b"\1\2")
            assert client.recv() == b"\1\2"
