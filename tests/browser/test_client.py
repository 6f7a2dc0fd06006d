from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import PATIENCE, Tab
from tests.browser.proxy import Proxy
from tests.live.support import Running, running
from tests.ports import freePort

TRANSPORTS = ("websocket", "sse", "poll")

# A client whose subscription to the channel `numbers` keeps all that it is told, in its order.
_BEGIN = """(async () => {
    const { TwistedWS } = await import("/twisted-ws.mjs");
    globalThis.client = new TwistedWS("/channels", { base: 200, ...OPTIONS });
    globalThis.numbers = [];
    globalThis.ids = [];
    globalThis.told = [];
    globalThis.subscription = client.subscribe("numbers", ({ id, data }) => { numbers.push(+data); ids.push(id); });
    for (const type of ["recovered", "lost"]) {
        subscription.on(type, ({ id, recovered }) => told.push([type, numbers.length, recovered, id.split(":")[0]]));
    }
    client.on("offline", () => told.push(["offline"]));
    await new Promise(done => subscription.on("subscribed", done));
    return client.transport;
})()"""


def _visit(tab: Tab, port: int, **options: Any) -> Any:
    """Open an empty page of the server, and begin; return the transport that the client has found."""
    tab.open(f"http://localhost:{port}/nothing")
    tab.messages.clear()
    tab.run("sessionStorage.clear()")
    return tab.run(_BEGIN.replace("OPTIONS", json.dumps(options)))


class Publisher:
    """Publishes the numbers from 0 on, one request after the other."""

    def __init__(self) -> None:
        self.count = 0
        self._connection: http.client.HTTPConnection

    @contextmanager
    def to(self, server: Running) -> Iterator[None]:
        """Publish to `server` meanwhile."""
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port("http"), timeout=PATIENCE)
        try:
            yield
        finally:
            self._connection.close()

    def publish(self, count: int) -> None:
        """Publish the next `count` numbers."""
        for _ in range(count):
            self._connection.request("POST", "/channels/numbers", str(self.count))
            answer = self._connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            self.count += 1


def _cutOff(tab: Tab, publisher: Publisher) -> None:
    """Let the page miss something: it is cut in the middle, publishing goes on, and it comes back while it does."""
    _received(tab, publisher)  # it is back, and would not notice a cut otherwise
    publisher.publish(40)
    tab.offline(True)
    tab.wait("client.state === 'offline'")
    publisher.publish(80)
    tab.offline(False)
    publisher.publish(40)


def _received(tab: Tab, publisher: Publisher) -> None:
    """Wait until the page has as many numbers as were published."""
    tab.wait(f"numbers.length >= {publisher.count}")


def _ports() -> tuple[str, ...]:
    """Return options for servers that are one after the other at the same place."""
    return ("--port", str(freePort()), "--broadcast-port", "0")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_everyMessageOnceAndInOrder(tab: Tab, tmp_path: Path, transport: str) -> None:
    """1,000 messages come once and in order, though the page is offline five times and the server restarts, which is told."""
    publisher, ports = Publisher(), _ports()
    with running(tmp_path, ports=ports) as server, publisher.to(server):
        port = server.port("ws")
        assert _visit(tab, port, transports=[transport]) == transport
        for _ in range(3):
            _cutOff(tab, publisher)
        _received(tab, publisher)
        server.stop()
        tab.wait("client.state !== 'open'")
    with running(tmp_path, ports=ports) as server, publisher.to(server):
        publisher.publish(200)
        tab.wait("client.state === 'open'")
        for _ in range(2):
            _cutOff(tab, publisher)
        assert publisher.count == 1000
        _received(tab, publisher)
        numbers, ids, told = tab.run("[numbers, ids, told]")
    assert numbers == list(range(1000))
    assert [each[0] for each in told if each[0] == "offline"] == ["offline"] * 5
    returns = [each for each in told if each[0] != "offline"]
    assert [each[0] for each in returns] == ["recovered"] * 3 + ["lost"] + ["recovered"] * 2
    # The loss is told before the first message of the new numbering, and none of the old comes after it.
    before, after = returns[2][3], returns[3][3]
    assert before != after
    assert returns[3] == ["lost", 480, False, after]
    assert [each.split(":")[0] for each in ids] == [before] * 480 + [after] * 520
    tab.run("client.close()")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_whatARestartTookAwayIsTold(tab: Tab, tmp_path: Path, transport: str) -> None:
    """What was published while the page was away, and forgotten by a restart, is told as lost; all after it is there."""
    publisher, ports = Publisher(), _ports()
    with running(tmp_path, ports=ports) as server, publisher.to(server):
        port = server.port("ws")
        _visit(tab, port, transports=[transport])
        publisher.publish(10)
        _received(tab, publisher)
        tab.offline(True)
        tab.wait("client.state === 'offline'")
        publisher.publish(10)
    with running(tmp_path, ports=ports) as server, publisher.to(server):
        publisher.publish(10)
        tab.offline(False)
        publisher.publish(10)
        tab.wait("numbers.length >= 30")
        assert tab.run("numbers") == [*range(10), *range(20, 40)]
        assert [each[:3] for each in tab.run("told")] == [["offline"], ["lost", 10, False]]
        assert tab.run("subscription.recovered") is False
    tab.run("client.close()")


@pytest.mark.parametrize(("events", "transport"), [("pass", "sse"), ("hold", "poll")])
def test_whereNoWebSocketGetsThrough(tab: Tab, tmp_path: Path, events: str, transport: str) -> None:
    """Behind a proxy that refuses WebSockets, or holds event streams back too, the next transport is found, and kept."""
    publisher = Publisher()
    with running(tmp_path) as server, publisher.to(server), Proxy(server.port("ws"), "refuse", events) as proxy:
        assert _visit(tab, proxy.port, timeout=1000) == transport
        _cutOff(tab, publisher)
        _received(tab, publisher)
        assert tab.run("numbers") == list(range(160))
        assert tab.run("client.transport") == transport
        assert proxy.handshakes == 1
        tab.run("client.close()")


def test_aPlainScriptAndAWorkerHaveItToo(tab: Tab, tmp_path: Path) -> None:
    """The plain script defines its names for all scripts of a page, and the module works in a worker, which has no window."""
    with running(tmp_path) as server:
        port = server.port("ws")
        tab.open("about:blank")
        tab.open(f"http://localhost:{port}/nothing")
        script = """new Promise((done, failed) => {
            const script = document.createElement("script");
            script.src = "/twisted-ws.js";
            script.onload = () => {
                const client = new TwistedWS("/playground");
                client.subscribe("playground.1", ({ data }) => { client.close(); done([data, typeof TwistedWSError]); });
                client.publish("playground.1", "from the page");
            };
            script.onerror = failed;
            document.head.append(script);
        })"""
        assert tab.run(script) == ["from the page", "function"]
        worker = """new Promise((done, failed) => {
            const source = `
                import { TwistedWS } from "${location.origin}/twisted-ws.mjs";
                const client = new TwistedWS("${location.origin}/playground");
                client.subscribe("playground.2", ({ data }) => { postMessage([data, typeof window]); client.close(); });
                client.publish("playground.2", "from the worker").catch(error => postMessage(error.message));
            `;
            const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
            const worker = new Worker(url, { type: "module" });
            worker.onmessage = ({ data }) => done(data);
            worker.onerror = failed;
        })"""
        assert tab.run(worker) == ["from the worker", "undefined"]
