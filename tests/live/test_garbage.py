"""What is over is gone: no connection, poll or event stream leaves anything for Python's collector of cycles.

Such garbage is memory that nobody counts until the collector comes, and a pause of all callers when it does.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.live.support import PATIENCE, Running, running, until, unverified, writeService

_SERVICES = """
import gc

from twisted_ws import WebSocketService
from twisted_ws.channels.service import ChannelService

gc.disable()


class Collector(WebSocketService):
    def onTextMessage(self, caller, text):
        return [self.server.gate.open, len(self.server.visits), gc.collect() if text == "collect" else 0]


class Strict(ChannelService):
    async def onSubscribe(self, caller, channel):
        if channel == "secret":
            raise ValueError("a bug")


channels = Strict(publish=True, wildcards=True, presence=True)
"""


class World:
    """A server without a collector, and what its clients do."""

    def __init__(self, server: Running, collector: ClientConnection, secure: bool) -> None:
        self._collector = collector
        self._ports = [server.port("wss" if secure else "ws"), server.port("https" if secure else "http")]
        self._tls: ssl.SSLContext | None = unverified() if secure else None

    def state(self, what: str = "") -> tuple[int, int, int]:
        """Return how many connections and visits are open, and how many objects a collection has found."""
        self._collector.send(what)
        opened, visits, found = json.loads(self._collector.recv(PATIENCE))
        return opened, visits, found

    def waitFor(self, visits: int) -> None:
        """Wait until so many streams and polls are open."""
        until(lambda: self.state()[1] == visits)

    def settle(self) -> None:
        """Wait until nobody is connected but this."""
        until(lambda: self.state()[:2] == (1, 0))

    @contextmanager
    def connection(self, port: int = 0) -> Iterator[socket.socket]:
        """Connect to the WebSocket port, or (1) to the broadcast port."""
        with socket.create_connection(("localhost", self._ports[port]), PATIENCE) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                yield plain
            else:
                with self._tls.wrap_socket(plain, server_hostname="localhost") as client:
                    yield client

    def ask(self, client: socket.socket, request: str, *lines: str, body: bytes = b"", status: int = 200) -> bytes:
        """Send a request, and return the body of the answer."""
        self.send(client, request, *lines, body=body)
        answer = client.recv(65536)
        while b"\r\n\r\n" not in answer:
            answer += client.recv(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        while len(rest) < length:
            rest += client.recv(65536)
        return rest

    def send(self, client: socket.socket, request: str, *lines: str, body: bytes = b"") -> None:
        """Send a request."""
        head = [f"{request} HTTP/1.1", "Host: localhost", *lines]
        if request.startswith("POST"):
            head.append(f"Content-Length: {len(body)}")
        client.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def publish(self) -> None:
        """Publish to a channel, from the broadcast port."""
        with self.connection(1) as client:
            self.ask(client, "POST /channels/a", body=b"hello")


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


def poll(world: World) -> None:
    """Ask once, and go on."""
    with world.connection() as client:
        world.ask(client, "GET /channels/a?after=0", "Accept-Encoding: gzip")
        world.ask(client, "GET /channels/secret", status=500)
        world.ask(client, "GET /channels/a?after=x", status=400)


def longPoll(world: World) -> None:
    """Wait for a message, then in vain."""
    with world.connection() as client:
        world.send(client, "GET /channels/a?wait=30")
        world.waitFor(1)
        world.publish()
        assert b"hello" in client.recv(65536)
        world.ask(client, "GET /channels/a?channel=b&wait=0.01")


def longPollLeft(world: World) -> None:
    """Wait, and do not stay."""
    with world.connection() as client:
        world.send(client, "GET /channels/a?wait=30&presence=true")
        world.waitFor(1)


def stream(world: World) -> None:
    """Read from an event stream."""
    with world.connection() as client:
        world.send(client, "GET /channels/a", "Accept: text/event-stream")
        world.waitFor(1)
        world.publish()
        while not client.recv(65536).endswith(b"hello\n\n\r\n"):
            pass


def streams(world: World) -> None:
    """Read from one of several channels, with what was missed; and from one that is refused."""
    with world.connection() as client:
        world.ask(client, "GET /channels/secret", "Accept: text/event-stream", status=500)
        world.send(client, "GET /channels/a?channel=b&channel=c.*&after=0", "Accept: text/event-stream")
        world.waitFor(1)


def streamEnded(world: World) -> None:
    """Be disconnected by the API."""
    with world.connection() as client, world.connection(1) as back:
        world.send(client, "GET /channels/a", "Accept: text/event-stream")
        world.waitFor(1)
        world.ask(back, "POST /api/unsubscribe", body=b'{"channel": "a", "user": "nobody"}')
        world.ask(back, "GET /api/channels/a/history")
        world.ask(back, "GET /api/nothing", status=404)


def publish(world: World) -> None:
    """Publish, broadcast and be refused."""
    with world.connection() as client, world.connection(1) as back:
        world.ask(client, "POST /channels/b", body=b"x")
        world.ask(client, "POST /channels/b.*", body=b"x", status=400)
        world.ask(back, "POST /channels/b", body=b"x")
        world.ask(back, "POST /api/publish", body=b'{"channel": "b", "data": {}}')


def webSocket(world: World) -> None:
    """Come by WebSocket, after a page, and close."""
    with world.connection() as client:
        world.ask(client, "GET /channels/a")
        world.ask(client, "GET /channels/a?after=0", *UPGRADE, status=101)
        client.sendall(CLOSE)
        while client.recv(65536):
            pass


def webSocketLeft(world: World) -> None:
    """Come by WebSocket, and leave without a word; and be refused."""
    with world.connection() as client:
        world.ask(client, "GET /channels/a", *UPGRADE, "Sec-WebSocket-Protocol: twisted-ws.v1", status=101)
    with world.connection() as client:
        world.ask(client, "GET /nothing", *UPGRADE, status=404)


SCENES = [poll, longPoll, longPollLeft, stream, streams, streamEnded, publish, webSocket, webSocketLeft]


@pytest.mark.parametrize(
    ("secure", "environment"),
    [
        pytest.param(False, {}, id="lane"),
        pytest.param(True, {}, id="TLS"),
        pytest.param(False, {"TWISTED_WS_SPEEDUPS": "0"}, id="pure"),
        pytest.param(False, {"TWISTED_WS_LANE": "0"}, id="stock"),
    ],
)
def test_noCycles(secure: bool, environment: dict[str, str], tmp_path: Path) -> None:
    """Twenty of each kind of connection have come and gone, and a collection finds nothing: not one object of one of them."""
    writeService(tmp_path, _SERVICES)
    services = ("/collector=rooms:Collector", "/channels/{channel}=rooms:channels")
    options = [each for service in services for each in ("--service", service)]
    ports = ("--tls-port", "0", "--broadcast-tls-port", "0") if secure else ()
    with (
        running(tmp_path, *options, *ports, more=environment, mayFail=True) as server,
        server.client("/collector") as collector,
    ):
        world = World(server, collector, secure)
        found = {}
        for scene in SCENES:
            for _ in range(3):  # what is made once is no garbage
                scene(world)
            world.settle()
            world.state("collect")
            for _ in range(20):
                scene(world)
            world.settle()
            found[scene.__name__] = world.state("collect")[2]
        assert found == dict.fromkeys(found, 0)
