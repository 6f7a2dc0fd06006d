from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.live.proxies import haproxy, varnish
from tests.live.support import PATIENCE, Running, running, unverified, writeService
from tests.memory import clientFrame, upgrade

# Each answer says from which port of the client's the request came, and so by which connection.
SERVICE = """
from twisted_ws import WebSocketService
from twisted_ws.channels.service import ChannelService

def told(self, request):
    return self, {"X-Port": str(request.peerPort), "X-Secure": str(request.isSecure)}

class Channels(ChannelService):
    onUpgrade = told

    def __init__(self):
        super().__init__(publish=True)

class Echo(WebSocketService):
    onUpgrade = told

    def onTextMessage(self, caller, text):
        return f"Echo: {text}"
"""
MODES = {"lane": {}, "no lane": {"TWISTED_WS_LANE": "0"}, "Python": {"TWISTED_WS_SPEEDUPS": "0"}}
ROUNDS = 5

NODE = Path(sys.prefix) / "node" / "undici"
# One connection for all; the port of each request is printed.
UNDICI = """
const { Agent, WebSocket, fetch, Request } = require("undici");
const diagnostics = require("diagnostics_channel");
const ports = [];
diagnostics.channel("undici:request:headers").subscribe(({ response }) => {
  const names = response.headers.map(String);
  ports.push(names[names.findIndex(name => name.toLowerCase() === "x-port") + 1]);
});
const dispatcher = new Agent({ connections: 1 });
(async () => {
  const page = await fetch(`http://127.0.0.1:${process.argv[1]}/channels/a`, { dispatcher });
  await page.text();
  const socket = new WebSocket(`ws://127.0.0.1:${process.argv[1]}/echo`, { dispatcher });
  socket.onopen = () => socket.send("hello");
  socket.onerror = event => { console.error(event.error); process.exit(1); };
  socket.onmessage = event => { console.log(JSON.stringify({ said: event.data, ports })); process.exit(0); };
})();
"""
# HTTP/2 by Node's own client: a page, then a WebSocket by extended CONNECT (RFC 8441), on one connection of the client's.
HTTP2 = """
const http2 = require("http2");
const session = http2.connect(`https://127.0.0.1:${process.argv[1]}`, { rejectUnauthorized: false });
const frame = Buffer.from(process.argv[2], "hex");
const found = [];
function round(left) {
  if (!left) { console.log(JSON.stringify(found)); process.exit(0); }
  const page = session.request({ ":path": "/channels/a" });
  let plain;
  page.on("response", headers => { plain = headers["x-port"]; });
  page.on("end", () => {
    const socket = session.request({
      ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":path": "/echo", ":authority": "localhost",
      "sec-websocket-version": "13",
    });
    socket.on("response", headers => {
      if (headers[":status"] !== 200) { console.error(headers); process.exit(1); }
      socket.write(frame);
      socket.once("data", data => {
        found.push([plain, headers["x-port"], data.subarray(2).toString()]);
        socket.close();
        round(left - 1);
      });
    });
    socket.on("error", error => { console.error(error); process.exit(1); });
  });
  page.resume();
}
session.on("remoteSettings", settings => { if (settings.enableConnectProtocol) round(Number(process.argv[3])); });
session.on("error", error => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="module", params=list(MODES))
def server(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server in one of the ways that it works, plain and with TLS."""
    directory = tmp_path_factory.mktemp("server")
    writeService(directory, SERVICE)
    mounts = ("--service", "/echo=rooms:Echo", "--service", "/channels/{channel}=rooms:Channels")
    with running(directory, "--tls-port", "0", *mounts, more=MODES[request.param]) as started:
        yield started


class Client:
    """One connection, by hand."""

    def __init__(self, port: int, secure: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if secure:
            self.socket = unverified().wrap_socket(self.socket)
        self.data = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        while len(self.data) < size:
            came = self.socket.recv(65536)
            assert came, (self.data, "and then the end")
            self.data += came
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def answer(self) -> int:
        """Read one answer with its body, and return its status."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.take(1)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length is not None:
            self.take(int(length[1]))
        return int(head.split(b" ")[1])


PAGE = b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
HELLO = clientFrame(1, b"hello")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("pipelined", [False, True])
def test_byHand(server: Running, scheme: str, pipelined: bool) -> None:
    """Pages, posts and then a WebSocket on one connection, one after the other or all at once."""
    with Client(server.port(scheme), scheme == "wss") as client:
        parts, statuses = [PAGE, POST, PAGE, upgrade("/echo") + HELLO], []
        if pipelined:
            client.send(b"".join(parts))
            statuses = [client.answer() for _ in parts]
        else:
            for part in parts:
                client.send(part)
                statuses.append(client.answer())
        assert statuses == [200, 200, 200, 101]
        assert client.take(13) == b"\x81\x0bEcho: hello"
        client.send(clientFrame(1, b"again"))
        assert client.take(13) == b"\x81\x0bEcho: again"


def test_broadcastPort(server: Running) -> None:
    """The broadcast port, which has no WebSocket, answers a handshake and goes on."""
    with Client(server.port("http"), False) as client:
        for _ in range(2):
            client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + upgrade("/echo"))
            assert [client.answer(), client.answer()] == [200, 404]


def through(port: int) -> list[tuple[str, str, str]]:
    """Read a page and open a WebSocket by way of a proxy, again and again; return the ports of both, and what was said.

    Those are left out where the proxy had not yet put the page's connection back when the WebSocket needed one.
    """
    found: list[tuple[str, str, str]] = []
    for _ in range(20 * ROUNDS):
        if len(found) == ROUNDS:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/channels/a")
        page = connection.getresponse()
        page.read()
        plain = page.headers["x-port"]
        connection.close()
        with connect(f"ws://127.0.0.1:{port}/echo", open_timeout=PATIENCE, proxy=None) as socket:
            socket.send("hello")
            assert socket.response is not None
            used, said = socket.response.headers["x-port"], str(socket.recv())
            assert said == "Echo: hello"
            if used == plain:
                found.append((plain, used, said))
    return found


def check(found: list[Any]) -> None:
    """Check that each WebSocket said what it should, and came by the connection of the page before it."""
    assert [said for _, _, said in found] == ["Echo: hello"] * ROUNDS
    assert [plain for plain, _, _ in found] == [port for _, port, _ in found]


def test_haproxy(server: Running, tmp_path: Path) -> None:
    """HAProxy that uses each connection again has a WebSocket on one that had a page."""
    with haproxy(tmp_path, server.port("ws")) as (plain, _):
        check(through(plain))


def test_varnish(server: Running, tmp_path: Path) -> None:
    """So has Varnish."""
    with varnish(tmp_path, server.port("ws")) as port:
        check(through(port))


def test_http2(server: Running, tmp_path: Path) -> None:
    """So has HAProxy for a client that has both on one connection of HTTP/2."""
    with haproxy(tmp_path, server.port("ws")) as (_, secure):
        check(json.loads(node("-e", HTTP2, str(secure), HELLO.hex(), str(ROUNDS))))


def test_undici(server: Running) -> None:
    """The undici of npm has a WebSocket on the connection of a fetch."""
    if not (NODE / "node_modules" / "undici").is_dir():
        npm = ["npm", "install", "--prefix", NODE, "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", "undici@7"]
        subprocess.run(npm, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(node("-e", UNDICI, str(server.port("ws")), NODE_PATH=str(NODE / "node_modules")))
    assert found["said"] == "Echo: hello"
    assert len(found["ports"]) == 2
    assert len(set(found["ports"])) == 1


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
def test_proxyProtocol(tmp_path: Path, options: str) -> None:
    """By HAProxy's PROXY protocol a service is told whose a connection is, and with version 2 also whether that has TLS."""
    writeService(tmp_path, SERVICE)
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", "haproxy:tcp:0:interface=127.0.0.1")
    with (
        running(tmp_path, "--service", "/echo=rooms:Echo", ports=listen) as server,
        haproxy(tmp_path, server.port("ws"), options) as ports,
    ):
        for scheme, port in zip(("ws", "wss"), ports, strict=True):
            tls: dict[str, Any] = {"ssl": unverified()} if scheme == "wss" else {}
            with connect(f"{scheme}://chat.example/echo", sock=socket.create_connection(("127.0.0.1", port)), **tls) as client:
                assert client.response is not None
                assert client.response.headers["x-port"] == str(client.socket.getsockname()[1])
                assert client.response.headers["x-secure"] == str(scheme == "wss" and options.endswith("ssl"))
                client.send("hello")
                assert client.recv() == "Echo: hello"


def node(*arguments: str, **more: str) -> str:
    """Return what a program of Node prints."""
    command = ["node", *arguments]
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
