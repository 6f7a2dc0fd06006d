"""What leaves with a caller, and what has to be so before: over the wire, as a client sees it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from enum import IntEnum

import pytest
from twisted.internet.defer import Deferred

from twisted_ws import ChannelService, Identity, Limits, WebSocketService
from twisted_ws.channels.moving import Expectation
from twisted_ws.server.handover.departure import Departure
from twisted_ws.testing import Complaint, serve
from twisted_ws.wire.websocket.moving import Obstacle

TEXT = "word " * 40  # long enough to be compressed


class Echo(WebSocketService):
    """Echoes; keeps handlers waiting, or sends much, if it is told so."""

    resumable = True
    waits: Deferred[str] | None = None

    def onTextMessage(self, caller, text):
        """Reply."""
        if text == "wait":
            self.waits = Deferred()
            return self.waits
        if text == "items":
            return self.items()
        if text == "much":
            for number in range(3):
                caller.writeTextMessage(f"{number}" * 100_000)
            return None
        return text

    async def items(self):
        """Yield one item, and wait."""
        yield "first"
        self.waits = Deferred()
        yield await self.waits


def obstacle(server, client):
    """Return why the caller of a client does not leave now."""
    return Departure(server.server, Expectation(server.server.channels), None).obstacle(client.caller)


def test_unsentBytes():
    """What the peer has not taken goes with the connection, from the middle of a frame on, before anything that comes later."""
    with serve({"/echo": Echo()}) as server:
        client = server.connect("/echo")
        client.pause(room=1234)
        client.client.writeTextMessage("much")
        before = client.bufferedAmount
        assert server.handOver({"/echo": Echo()}) == 1
        assert server.server.runtime.backlog.total > 200_000
        client.writeTextMessage("later")
        client.resume()
        assert client.readMessages() == [f"{number}" * 100_000 for number in range(3)] + ["later"]
        assert (before, client.caller.bufferedAmount) == (0, 0)
        assert server.server.runtime.backlog.total == 0


@pytest.mark.parametrize("segment", [1, 7])
def test_unreadBytes(segment):
    """A client that sends in tiny pieces loses nothing: its connection waits for the end of the message."""
    with serve({"/echo": Echo()}) as server:
        client = server.connect("/echo", segment=segment)
        client.writeTextMessage(TEXT)
        assert client.readTextMessage() == TEXT
        assert server.handOver() == 1
        client.writeTextMessage(TEXT)
        assert client.readTextMessage() == TEXT


def test_waits():
    """A connection waits while a message is half here, a handler runs, or a returned iterator is sent; then it can go."""
    service = Echo()
    with serve({"/echo": service}) as server:
        client = server.connect("/echo")
        assert obstacle(server, client) is None
        client.sendBytes(b"\x81\x85")
        assert obstacle(server, client) is Obstacle.MIDDLE
        client.sendBytes(b"\0\0\0\0hello")
        assert obstacle(server, client) is None
        client.writeTextMessage("wait")
        assert obstacle(server, client) is Obstacle.HANDLER
        client.writeTextMessage("behind")
        service.waits.callback("done")
        assert client.readMessages() == ["hello", "done", "behind"]
        assert obstacle(server, client) is None
        client.writeTextMessage("items")
        assert obstacle(server, client) is Obstacle.HANDLER
        service.waits.callback("last")
        server.settle()
        assert client.readMessages() == ["first", "last"]
        assert obstacle(server, client) is None
        client.sendBytes(b"\x01\x80\0\0\0\0")
        assert obstacle(server, client) is Obstacle.MIDDLE
        client.sendBytes(b"\x80\x80\0\0\0\0")
        assert client.readTextMessage() == ""
        client.client.close()
        server.settle()


class Later(WebSocketService):
    """Subscribes a caller when it says so."""

    resumable = True

    def onTextMessage(self, caller, text):
        """Subscribe."""
        caller.subscribe("a", last=100)


@pytest.mark.parametrize("isHistory", [False, True])
def test_slowSubscriber(isHistory):
    """What waits for a slow subscriber comes again there, from the history, once and in order."""
    texts = [f"{number} {'x' * 1000}" for number in range(100)]
    with serve({"/later": Later()}) as server:
        client = server.connect("/later")
        client.pause()
        if not isHistory:
            client.writeTextMessage("go")
        for text in texts:
            server.publish("a", text)
        if isHistory:
            client.writeTextMessage("go")
        assert client.caller.membership._mailbox is not None
        assert server.handOver() == 1
        server.publish("a", "last")
        assert server.handOver() == 1
        client.resume()
        assert client.readMessages() == [*texts, "last"]
        assert server.server.runtime.backlog.total == 0


def test_slowWithNotices():
    """If answers wait, too, or messages of a pattern, a subscriber goes when it has caught up."""
    with serve({"/channels": ChannelService(wildcards=True)}) as server:
        json = server.connect("/channels?channel=a", subProtocols=["twisted-ws.v1"])
        pattern = server.connect("/channels?channel=b.*")
        for client in (json, pattern):
            client.pause()
        for _ in range(100):
            server.publish("a", "x" * 1000)
            server.publish("b.c", "x" * 1000)
        json.writeMessage({"type": "ping"})
        assert [obstacle(server, client) for client in (json, pattern)] == [Obstacle.WAITS] * 2
        for client in (json, pattern):
            client.resume()
        assert [obstacle(server, client) for client in (json, pattern)] == [None] * 2


@pytest.mark.parametrize("pong", [True, False])
def test_pings(pong):
    """A pong may come after the hand-over; without it, the connection is dropped when it would have been."""
    with serve({"/echo": Echo()}, limits=Limits(pingInterval=20, pingTimeout=10)) as server:
        client = server.connect("/echo")
        client.pauseWriting()
        server.advance(22)
        assert server.handOver() == 1
        if pong:
            client.resume()
        server.advance(7)
        assert client.closed is None
        server.advance(3)
        assert (client.closed is None) is pong


def test_idleTimeout():
    """The seconds without a message go on."""

    class Idle(Echo):
        idleTimeout = 10

    with serve({"/echo": Idle()}) as server:
        client = server.connect("/echo")
        server.advance(6)
        assert server.handOver() == 1
        server.advance(3.5)
        assert client.closed is None
        server.advance(1)
        assert client.closed == (1000, "idle timeout")


def test_rates():
    """Messages before and after count together."""
    with serve({"/echo": Echo()}, limits=Limits(messageRate=5)) as server:
        client = server.connect("/echo")
        for _ in range(3):
            client.writeTextMessage("x")
        assert server.handOver() == 1
        for _ in range(3):
            client.writeTextMessage("x")
        assert client.closed is not None
        assert client.closed[0] == 1008


def test_compression():
    """Compression goes on, and the client's messages are still inflated; if it keeps its context between them, it stays."""
    with serve({"/echo": Echo()}, compression=True) as server:
        client = server.connect("/echo", compression=True)
        client.writeTextMessage(TEXT)
        assert client.readTextMessage() == TEXT
        assert "permessage-deflate" in client.response.headers["sec-websocket-extensions"]
        assert server.handOver() == 1
        client.writeTextMessage(TEXT)
        assert client.readTextMessage() == TEXT
        assert client.caller._connection._perMessageCompress is not None


def test_identity():
    """Credentials go with the connection, and so does their end."""
    seen = []

    class Who(Echo):
        def onResume(self, caller, state):
            seen.append((caller.user, caller.identity))

    identity = Identity(
        "ann", scopes=frozenset(("a",)), info={"name": "Ann"}, expiresAt=time.time() + 200, payload=b'{"sub":"ann"}'
    )
    with serve({"/echo": Who()}) as server:
        client = server.connect("/echo", identity=identity)
        server.advance(100)
        assert server.handOver() == 1
        assert seen == [("ann", identity)]
        assert client.caller.claims == {"sub": "ann"}
        assert server.server.callers.find(user="ann") == [client.caller]
        server.advance(95)
        assert client.closed is None
        server.advance(10)
        assert client.closed == (4401, "expired")


class Late:
    """An authenticator that answers when it is told to."""

    def __init__(self):
        self.asked = []

    def identify(self, request):
        self.asked.append(Deferred())
        return self.asked[-1]


def test_refresh():
    """A connection whose new token is being looked at waits for the answer; the new credentials go with it, and count once."""
    late = Late()
    with serve({"/channels": ChannelService()}, authenticate=["late"], authenticators={"late": late}) as server:
        opening = server.connecting("/channels", subProtocols=["twisted-ws.v1"])
        late.asked[0].callback(Identity("ann", tokenId="first", payload=b" " * 5000))
        server.settle()
        client = opening.result
        assert obstacle(server, client) is None
        client.writeMessage({"type": "auth", "token": "x"})
        server.settle()
        assert obstacle(server, client) is Obstacle.HANDLER
        late.asked[1].callback(Identity("ann", tokenId="second", payload=b" " * 6000))
        server.settle()
        credentials = server.server.runtime.credentials
        assert credentials.total == 6000
        assert server.handOver() == 1
        assert credentials.total == 6000
        assert client.caller.identity.tokenId == "second"
        client.close()
        server.settle()
        assert credentials.total == 0


class Color(IntEnum):
    """One of those that are equal to a number."""

    RED = 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Counter("a"), "Counter"),
        (defaultdict(int), "defaultdict"),
        ([{"color": Color.RED}], "Color"),
        ({Color.RED: 1}, "Color"),
        (bytearray(b"a"), "bytearray"),
    ],
)
def test_equalIsNotTheSame(value, kind):
    """What would come back equal, but of another class, does not go: the caller is closed, and the log names both."""
    with serve({"/echo": Echo()}) as server:
        client = server.connect("/echo")
        client.caller.attributes["kept"] = value
        assert server.handOver() == 0
        assert client.closed == (1012, "service restarts")
        (complaint,) = server.flushErrors(Complaint)
        assert f"attributes['kept'] cannot go with them ({kind}:" in str(complaint)


def test_stateThatDoesNotGo():
    """A service gets back what it has given for a caller that then stays, before that one is closed."""
    told = []

    class Room(Echo):
        def onHandOver(self, caller):
            return {1, 2}

        def onResume(self, caller, state):
            told.append(("resumed", state, caller.isOpen()))

        def onClose(self, caller, statusCode, reason):
            told.append(("closed", statusCode))

    with serve({"/room": Room()}) as server:
        client = server.connect("/room")
        assert server.handOver() == 0
        assert client.closed == (1012, "service restarts")
        assert told == [("resumed", {1, 2}, True), ("closed", 1012)]
        assert len(server.callers) == 0
        server.flushErrors(Complaint)


def test_counts():
    """The gate counts a connection once, wherever it has gone; and no longer when it has ended."""
    with serve({"/echo": Echo()}) as server:
        clients = [server.connect("/echo", address="203.0.113.9") for _ in range(3)]
        assert server.handOver() == 3
        assert (server.server.gate.open, server.server.gate.count("203.0.113.9")) == (3, 3)
        for client in clients:
            client.close()
        assert (server.server.gate.open, server.server.gate.count("203.0.113.9")) == (0, 0)
        assert len(server.callers) == 0


def test_secure():
    """A connection whose TLS ends here never goes."""
    with serve({"/echo": Echo()}) as server:
        client = server.connect("/echo", secure=True)
        assert obstacle(server, client) is Obstacle.TLS
        assert server.handOver() == 0
        assert client.closed == (1012, "service restarts")
