from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.memory import upgrade
from tests.moments import MOMENTS, collectAt
from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld
from twisted_ws import Limits
from twisted_ws.channels.service import ChannelService
from twisted_ws.web.pages import pagesSite

# Without chunks, so it goes by the outbox.
EVENTS = b"GET /ws/a HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
SIZE = 100_000


class World(LaneWorld):
    """A server with channels, of whose peers the kernel takes all at once."""

    def __init__(self, implementation: str, patch: pytest.MonkeyPatch) -> None:
        limits = Limits(maxSendBuffer=8 * SIZE, pingInterval=0, maxConnectionsPerIp=0)
        service = ChannelService(publish=True)
        super().__init__(implementation, patch, service, limits, pagesSite)
        self.server.mount("/ws/{channel}", service)

    def subscribe(self, request: bytes, greeting: bytes) -> socket.socket:
        """Return the client's end of one that has a message of channel a, and nothing on its way."""
        client = socket.socket()
        self.clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        client.connect(("127.0.0.1", self.port.getHost().port))
        client.setblocking(False)
        client.sendall(request)
        self.until(client, greeting)
        for transport in self.server.runtime.group.sockets.transports():
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.server.publish("a", "first")
        self.until(client, b"first")
        return client

    def until(self, client: socket.socket, last: bytes) -> bytes:
        """Return what comes until there is `last` in it, or nothing comes any more."""
        received, idle = b"", 0
        while last not in received and idle < 100:
            self.turn()
            data = self.read(client)
            received += data
            idle = 0 if data else idle + 1
        return received


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_endInTheMiddle(monkeypatch, implementation):
    """A stream that is ended in the middle of a write ends as soon as that has gone out."""
    world = World(implementation, monkeypatch)
    came = 0
    for number in MOMENTS:
        client = world.subscribe(EVENTS, b"subscribed")
        (stream,) = world.server.visits
        with collectAt(number, stream.end) as moment:
            world.server.publish("a", "x" * SIZE)
        if not moment.came:
            break
        came += 1
        world.until(client, b"nothing more")
        assert client.recv(1) == b"", f"at moment {number}"  # else it waits, and this raises
        client.close()
        while world.server.gate.open:
            world.turn()
    assert came
    world.close()


@pytest.mark.parametrize("request_", [EVENTS, upgrade("/ws/a")], ids=["events", "websocket"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_mailGoesOn(monkeypatch, implementation, request_):
    """Messages published in the middle of a write, which do not fit beside it, follow it, however it went out."""
    world = World(implementation, monkeypatch)
    came = 0
    for number in MOMENTS:
        client = world.subscribe(request_, b"subscribed" if request_ is EVENTS else b"\r\n\r\n")

        def act() -> Any:
            world.server.publish("a", "y" * SIZE)
            world.server.publish("a", "z" * SIZE + "last")

        with collectAt(number, act) as moment:
            if request_ is EVENTS:
                world.server.publish("a", "x" * SIZE)
            else:
                next(iter(world.server.callers)).writeTextMessage("x" * SIZE)
        if not moment.came:
            break
        came += 1
        received = world.until(client, b"last")
        assert [received.count(each * SIZE) for each in (b"x", b"y", b"z")] == [1, 1, 1], f"at moment {number}"
        client.close()
        while world.server.gate.open:
            world.turn()
    assert came
    world.close()
