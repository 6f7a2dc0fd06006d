from __future__ import annotations

import gc
from unittest.mock import sentinel

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.testing.services import Chat, Odd
from twisted_ws import CloseFrame, ConfigurationError, Limits, Reject, ServiceError, WebSocketServer, WebSocketService
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import Basic, ConnectFailed, HandshakeRefused, HandshakeTimeout
from twisted_ws.testing import NoMessage, Restless, Unflushed, serve


@pytest.fixture
def odd():
    return Odd(Clock())


@pytest.fixture
def server(odd):
    with serve({"/odd": odd}, clock=odd.clock) as server:
        yield server


def test_serve():
    """Services are mounted as on any server, and their mistakes are named."""
    with serve({"/rooms/{room}": Odd(), "/chat": Chat()}, limits=Limits(maxMessageSize=5)) as server:
        client = server.connect("/rooms/lobby?a=1")
        (request,) = server.server.services["/rooms/{room}"].requests
        assert (request.pathParams, request.query) == ({"room": "lobby"}, {"a": ["1"]})
        client.writeTextMessage("too long")
        assert client.closed == (1009, "message too big")
        with pytest.raises(HandshakeRefused) as caught:
            server.connect("/nothing")
        assert caught.value.status == 404
    with pytest.raises(ServiceError, match="Chat is a class"):
        serve({"/chat": Chat})
    with pytest.raises(ConfigurationError, match=r"app\.example"):
        serve({}, allowedOrigins=["app.example"])


def test_serveMine():
    """The test's own server is used unchanged, with its clock."""
    clock = Clock()
    mine = WebSocketServer(reactor=clock)
    mine.mount("/chat", Chat())
    with serve(mine) as server:
        assert (server.server, server.clock) == (mine, clock)
        assert server.connect("/chat?name=ann").isOpen()
        assert len(server.callers) == 1


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: WebSocketServer(reactor=Clock()), {"clock": Clock()}),
        (lambda: WebSocketServer(reactor=Clock()), {"compression": True}),
        (lambda: WebSocketServer(reactor=reactor), {}),
    ],
)
def test_serveMineWithAnotherClock(make, options):
    """A server that has another clock, or gets options too late, is refused with what to do."""
    with pytest.raises(TypeError, match=r"WebSocketServer\(reactor=Clock\(\)"):
        serve(make(), **options)


def test_serveWithoutPath():
    """A service that is given without its path is refused with what to write."""
    with pytest.raises(TypeError, match=r'as in serve\(\{"/chat": Chat\(\)\}\), not as object'):
        serve(object())


def test_pathWithoutSlash(server):
    """A path without its slash is a mistake of the test, and not a 404 of the server."""
    with pytest.raises(ValueError, match=r"must begin with a slash: '/chat\?name=ann', not 'chat\?name=ann'"):
        server.connect("chat?name=ann")


def test_whoConnects(server, odd):
    """The test sets the client's user and address."""
    server.connect("/odd", user="ann", address="192.0.2.7", secure=True, clientCertificate=sentinel.certificate)
    server.connect("/odd", address="2001:db8::7")
    first, second = odd.requests
    assert (first.user, first.peerAddress, first.isSecure, first.clientCertificate) == (
        "ann",
        "192.0.2.7",
        True,
        sentinel.certificate,
    )
    assert (second.user, second.peerAddress, second.isSecure, second.clientCertificate) == (None, "2001:db8::7", False, None)
    assert first.peerPort != second.peerPort


def test_secure(server):
    """A connection that counts as one with TLS opens, talks and closes as any other."""
    client = server.connect("/odd", secure=True)
    assert client.caller.isSecure()
    client.writeTextMessage("away")
    assert client.closed == (4001, "go away")
    other = server.connect("/odd", secure=True)
    other.sendBytes(b"\x83\x80\0\0\0\0")
    assert other.closed == (1002, "protocol error")


def test_noTLS(server):
    """A URL for TLS is refused with what to write instead."""
    with pytest.raises(ValueError, match="secure=True"):
        server.connect("wss://chat.example/odd")


def test_options(server, odd):
    """What `twisted_ws.client.connect` takes is taken here."""
    server.connect("ws://chat.example/odd/below", headers={"X-One": "1"}, cookies={"a": "b"}, credentials=Basic("ann", "secret"))
    (request,) = odd.requests
    assert (request.path, request.headers["host"], request.headers["x-one"]) == ("/odd/below", "chat.example", "1")
    assert (request.cookies, request.headers["authorization"]) == ({"a": "b"}, Basic("ann", "secret").header())


def test_origins(server):
    """A client from a web page needs an allowed origin, as with the real server."""
    assert server.connect("/odd", headers={"Origin": "http://testserver"}).isOpen()
    with pytest.raises(HandshakeRefused) as caught:
        server.connect("/odd", headers={"Origin": "http://elsewhere.example"})
    assert caught.value.status == 403


def test_compression():
    """Compression is agreed on as on a network."""
    with serve({"/odd": Odd()}, compression=True) as server:
        client = server.connect("/odd", compression=True)
        assert "permessage-deflate" in client.response.headers["sec-websocket-extensions"]
        client.writeTextMessage("three")
        assert client.readMessages() == ["one", "two", "three"]


def test_full():
    """A client beyond the limit gets the same error as over a network."""
    with serve({"/odd": Odd()}, limits=Limits(maxConnectionsPerIp=1)) as server:
        server.connect("/odd")
        with pytest.raises(ConnectFailed):
            server.connect("/odd")
        assert server.connect("/odd", address="192.0.2.1").isOpen()


def test_undecided(server, odd):
    """A handshake that waits says so; it can be waited for, in fake time or while the test goes on."""
    with pytest.raises(AssertionError, match=r"the handshake for /odd\?wait was not decided in 2 seconds of fake time"):
        server.connect("/odd?wait", timeout=2)
    assert odd.gate.called  # cancelled: the client has given up
    odd.gate.addErrback(lambda failure: failure.trap(CancelledError))
    odd.gate = Deferred()
    odd.clock.callLater(3, odd.gate.callback, odd)
    assert server.connect("/odd?wait", timeout=3).isOpen()
    odd.gate = Deferred()
    connecting = server.connecting("/odd?wait")
    assert not connecting.called
    odd.gate.callback(odd)
    server.settle()
    connecting.result.writeTextMessage("text")
    assert connecting.result.readTextMessage() == "text"


def test_undecidedForGood(server, odd):
    """The time-outs of both sides are those of the real ones."""
    with pytest.raises(HandshakeRefused) as caught:
        server.connect("/odd?wait", timeout=60)
    assert (caught.value.status, server.clock.seconds()) == (503, pytest.approx(10, abs=0.3))
    odd.gate = Deferred()
    with pytest.raises(HandshakeTimeout):
        server.connect("/odd?wait", timeout=60, handshakeTimeout=1)


def test_clientLeaves(server, odd):
    """A client that gives up before the handshake is decided is not opened later."""
    connecting = server.connecting("/odd?wait")
    connecting.addErrback(lambda failure: failure.trap(CancelledError))
    connecting.cancel()
    server.settle()
    odd.gate.addErrback(lambda failure: failure.trap(CancelledError))
    assert len(server.callers) == 0


def test_time(server):
    """Time passes when the test says so, and not backwards."""
    client = server.connect("/odd")
    client.writeTextMessage("later")
    server.advance(4.9)
    assert client.readMessages() == []
    assert server.advance(10, until=lambda: server.clock.seconds() >= 5)
    assert client.readMessages() == ["after 5 seconds"]
    assert server.clock.seconds() == 5
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number of seconds, 0 or more"):
            server.advance(seconds)
        with pytest.raises(ValueError, match="finite number of seconds, 0 or more"):
            client.readMessage(timeout=seconds)
    assert server.clock.seconds() == 5
    client.writeTextMessage("later")
    server.advance(5)
    assert client.readMessages() == ["after 5 seconds"]  # those reads do not wait for it


@pytest.mark.exhaustive
def test_restless(server):
    """What goes on without end is given up, with the name of what it is."""
    client = server.connect("/odd")
    with pytest.raises(Restless, match=r"^Odd.spin repeats itself without any time passing$"):
        client.writeTextMessage("spin")
    server.server.services["/odd"].spinning = False


def test_raisedByTimer(server):
    """What the clock calls may raise as in a reactor: it is logged, and the rest goes on."""
    client = server.connect("/odd")
    client.writeTextMessage("late")
    server.advance(1)
    (error,) = server.flushErrors()
    assert (str(error), client.isOpen()) == ("boom", True)


def test_broadcast(server):
    """A broadcast has arrived when it returns, and says to how many."""
    clients = [server.connect("/odd") for _ in range(3)]
    assert server.broadcast({"n": 1}) == 3
    assert [client.readMessage(dict) for client in clients] == [{"n": 1}] * 3


def test_broadcastHasArrived(server):
    """A client that waits for a broadcast has it when the call returns."""
    waiting = server.connect("/odd").client.readTextMessage()
    server.broadcast("now")
    assert waiting.result == "now"


def test_channels():
    """Channels are those of the real server: raw, by the subprotocol, and published to by the test."""
    channels = ChannelService(publish=True)
    with serve({"/channels/{channel}": channels, "/channels": channels}) as server:
        raw, v1 = server.connect("/channels/news"), server.connect("/channels", subProtocols=["twisted-ws.v1"])
        v1.writeMessage({"type": "subscribe", "channel": "news"})
        assert [v1.readMessage(dict)["type"] for _ in range(2)] == ["welcome", "subscribed"]
        published = server.publish("news", "hello", key="k")
        assert published.recipients == 2
        assert raw.readTextMessage() == "hello"
        message = v1.readMessage(dict)
        assert (message["type"], message["channel"], message["data"]) == ("message", "news", "hello")
        v1.writeMessage({"type": "publish", "channel": "news", "data": "back"})
        assert raw.readTextMessage() == "back"


def test_stop():
    """A drain closes all callers and refuses new ones; so does the end of the block."""
    chat = Chat()
    with serve({"/chat": chat}) as server:
        ann = server.connect("/chat?name=ann")
        server.stop()
        assert ann.closed == (1001, "server stops")
        with pytest.raises(HandshakeRefused) as caught:
            server.connect("/chat?name=bob")
        assert caught.value.status == 503
        assert server.clock.seconds() == 0
    with serve({"/chat": chat}) as server:
        bob = server.connect("/chat?name=bob")
    assert bob.closed == (1001, "server stops")
    assert chat.closes == [("ann", 1001, "server stops"), ("bob", 1001, "server stops")]


def test_stopWithoutAnswer():
    """A client that does not answer is dropped at the deadline, which passes in no time."""
    with serve({"/odd": Odd()}) as server:
        client = server.connect("/odd")
        client.pause()
        server.stop(timeout=3)
        assert 0 < server.clock.seconds() <= 4
        assert client.closed == (1006, "")


def test_unflushed():
    """A block whose service failed raises at its end, with what happened and how to expect it."""
    with pytest.raises(Unflushed) as caught, serve({"/odd": Odd()}) as server:
        server.connect("/odd").writeTextMessage("boom")
    assert str(caught.value) == (
        "during the test, the log said:\n"
        "  Odd.onTextMessage raised: ValueError: boom\n"
        "if expected, take it with server.flushErrors(ValueError)"
    )
    assert caught.value.errors == [caught.value.__cause__]


def test_flushed(server):
    """What is flushed is expected; the rest is not."""
    for _ in range(2):
        server.connect("/odd").writeTextMessage("boom")
    assert [str(error) for error in server.errors] == ["boom", "boom"]
    assert server.flushErrors(KeyError) == []
    assert len(server.flushErrors(KeyError, ValueError)) == 2
    assert server.errors == []


def test_forgotten(server):
    """An unhandled failure of a Deferred is found, even in a cycle with its traceback."""
    server.connect("/odd").writeTextMessage("forgotten")
    assert [str(error) for error in server.errors] == ["nobody looked"]
    server.flushErrors()


class _Ring:
    """Something that is found by the collector only."""

    def __init__(self):
        self.ring = self
        self.failed = Deferred()
        self.failed.errback(ValueError("old"))


@pytest.mark.parametrize("look", [gc.collect, None])
def test_forgottenLate(look):
    """A failed Deferred is found even if the collector has seen it before, as in a long test."""

    def test():
        with serve({}) as server:
            ring = _Ring()
            for _ in range(2):
                assert look() >= 0 if look is not None else server.errors == []
            del ring

    with pytest.raises(Unflushed, match="old"):
        test()


def test_upgradeFailed(server):
    """What onUpgrade raises is a 500 for the client, and is not lost."""

    class Wrong(WebSocketService):
        def onUpgrade(self, request):
            raise KeyError("token")

    server.server.mount("/wrong", Wrong())
    with pytest.raises(HandshakeRefused) as caught:
        server.connect("/wrong")
    assert caught.value.status == 500
    assert [type(error) for error in server.flushErrors()] == [KeyError]


def test_wrongAnswer(server):
    """A mistake that the server only complains of is not lost, either."""

    class Wrong(WebSocketService):
        def onUpgrade(self, request):
            return "self"

    server.server.mount("/wrong", Wrong())
    with pytest.raises(HandshakeRefused):
        server.connect("/wrong")
    (error,) = server.flushErrors()
    assert "Wrong.onUpgrade must return a service object" in str(error)


def test_leak():
    """A handler that still runs at the end is a mistake that is named."""
    with (
        pytest.raises(Unflushed, match="Odd: a handler is still running after its caller has left"),
        serve({"/odd": Odd()}) as server,
    ):
        server.connect("/odd").writeTextMessage("never")


def test_afterTheBlock():
    """What is logged after the block is not its own."""
    with serve({"/odd": Odd()}) as server:
        pass
    Logger("odd").failure("too late", Failure(ValueError()))
    assert server.errors == []


def test_noLeak():
    """A handler that ends within its grace is not a leak."""
    clock = Clock()
    with serve({"/odd": Odd(clock)}, clock=clock) as server:
        server.connect("/odd").writeTextMessage("later")
    assert 5 <= clock.seconds() < 6


def test_raisedInTheBlock():
    """An exception of the test itself stays; errors of the service are added as a note."""

    def run():
        with serve({"/odd": Odd()}) as server:
            server.connect("/odd").writeTextMessage("boom")
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        run()
    (note,) = caught.value.__notes__
    assert note.startswith("meanwhile, the log said:\nOdd.onTextMessage raised\nTraceback")
    assert "ValueError: boom" in note


def test_raisedForTheSameReason():
    """What has the service's exception as its cause does not say it twice."""

    def run():
        with serve({"/odd": Odd()}) as server:
            client = server.connect("/odd")
            client.writeTextMessage("boom")
            client.readTextMessage()

    with pytest.raises(NoMessage) as caught:
        run()
    assert not hasattr(caught.value, "__notes__")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.exhaustive
def test_restlessAtTheEnd():
    """A service that does not come to rest at the end fails the test, but hides no other reason."""

    class Spinning(Odd):
        def onClose(self, caller, statusCode, reason):
            self.spin(caller)

    def run(error):
        clock = Clock()
        with serve({"/odd": Spinning(clock)}, clock=clock) as server:
            server.connect("/odd")
            if error is not None:
                raise error

    with pytest.raises(Restless):
        run(None)
    with pytest.raises(KeyError):
        run(KeyError("mine"))


def test_quiet(server):
    """What is not a mistake raises nothing: refusals, closes, the peer's errors, values for a caller that has left."""

    class Polite(WebSocketService):
        def onUpgrade(self, request):
            if request.query:
                raise Reject(403)
            return self

        def onTextMessage(self, caller, text):
            return CloseFrame(4000, text)

    server.server.mount("/polite", Polite())
    with pytest.raises(HandshakeRefused):
        server.connect("/polite?x")
    client = server.connect("/polite")
    client.writeTextMessage("bye")
    assert client.closed == (4000, "bye")
    server.connect("/polite").sendBytes(b"\xff" * 20)
    assert server.errors == []
