from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from tests.testing.services import Chat, Odd, Point
from twisted_ws import ConnectionClosed, Limits
from twisted_ws.client import HandshakeRefused, Retry, UnexpectedMessage
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.frames import maskedFrame
from twisted_ws.testing import NoMessage, StillOpen, serve
from twisted_ws.wire.websocket.connection import WebSocketConnection


@pytest.fixture
def chat():
    return Chat()


@pytest.fixture
def server(chat):
    clock = Clock()
    with serve({"/chat": chat, "/odd": Odd(clock)}, clock=clock) as server:
        yield server


def test_messages(server):
    """What one client writes has arrived at the other when the method returns, and is read in order."""
    ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
    ann.writeTextMessage("hi")
    ann.writeTextMessage("there")
    assert bob.readTextMessage() == "ann: hi"
    bob.writeTextMessage("oh")
    assert bob.readTextMessage() == "ann: there"
    assert ann.readTextMessage() == "bob: oh"
    assert ann.readMessages() == bob.readMessages() == []


def test_kinds(server):
    """Text, binary and JSON come as they were sent, and as the type that is asked for."""
    client = server.connect("/odd")
    client.writeBinaryMessage(b"\x01\x02")
    assert client.readBinaryMessage() == b"\x02\x01"
    for word in ("text", "binary", "point", "point"):
        client.writeMessage(word)
    assert client.readMessage() == "text"
    assert client.readMessage(bytes) == b"\x00\xff"
    assert client.readMessage(Point) == Point(1, 2)
    assert client.readMessage(dict) == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("word", "read", "text"),
    [("binary", "readTextMessage", "a binary message came"), ("text", "readBinaryMessage", "a text message came")],
)
def test_otherKind(server, word, read, text):
    """When a message is not of the kind that was asked for, the error shows it."""
    client = server.connect("/odd")
    client.writeTextMessage(word)
    with pytest.raises(UnexpectedMessage, match=text) as caught:
        getattr(client, read)()
    assert caught.value.__notes__ == [f"it is {caught.value.received!r}"]


def test_handshake(server):
    """Subprotocols, headers and what the server answers are those of the real client."""
    client = server.connect("/chat", subProtocols=["x", "chat.v1"], user="ann")
    assert client.negotiatedSubProtocol == "chat.v1"
    assert (client.response.status, client.response.headers["x-name"]) == (101, "ann")
    assert (client.caller.user, client.caller.negotiatedSubProtocol) == ("ann", "chat.v1")
    assert repr(client) == "<MemoryClient /chat open>"


def test_caller(server, chat):
    """The test can act for the service: write to the caller, and see what it has."""
    client = server.connect("/chat?name=ann")
    assert client.caller is chat.callers[0]
    client.caller.writeTextMessage("psst")
    assert client.readTextMessage() == "psst"
    client.cut()
    assert client.caller.isOpen() is False


def test_nothingCame(server):
    """A read of what does not come says how long it waited, and that the connection is open."""
    client = server.connect("/chat?name=ann")
    with pytest.raises(NoMessage) as caught:
        client.readTextMessage()
    assert str(caught.value) == "no message came to /chat?name=ann in 0 seconds of fake time; the connection is open"
    with pytest.raises(NoMessage, match="in 1 second of fake time"):
        client.readBinaryMessage(timeout=1)
    assert server.clock.seconds() == 1


def test_nothingIsLost(server):
    """A read that fails takes nothing from the next one."""
    ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
    with pytest.raises(NoMessage):
        bob.readTextMessage()
    ann.writeTextMessage("hi")
    assert bob.readTextMessage() == "ann: hi"


def test_whyNothingCame(server):
    """What may be the reason is said: a handler that runs, a paused client, writes that are held back."""
    client = server.connect("/odd")
    client.writeTextMessage("later")
    with pytest.raises(NoMessage, match=r"is open; a handler of the service is still running$"):
        client.readTextMessage()
    assert client.readTextMessage(timeout=5) == "after 5 seconds"
    client.pause()
    client.pauseWriting()
    with pytest.raises(NoMessage, match=r"is open; the client is paused; what the client writes is held back$"):
        client.readMessage()


def test_timeStopsWithTheMessage(server):
    """No more time passes than the message takes."""
    client = server.connect("/odd")
    client.writeTextMessage("asynchronous")
    assert client.readTextMessage(timeout=60) == "after 1 second"
    assert server.clock.seconds() == 1
    assert client.readTextMessage() == "done"


def test_readAfterClose(server):
    """After the end, what had come can still be read; then the error has code and reason."""
    client = server.connect("/odd")
    client.writeTextMessage("text")
    client.writeTextMessage("away")
    assert client.readTextMessage() == "text"
    with pytest.raises(NoMessage, match=r"the connection was closed with 4001 \(go away\)$") as caught:
        client.readTextMessage()
    assert isinstance(caught.value.__cause__, ConnectionClosed)
    assert client.readMessages() == []


def test_serviceFailed(server):
    """Where nothing comes because the service failed, its exception is the cause."""
    client = server.connect("/odd")
    client.writeTextMessage("boom")
    with pytest.raises(NoMessage, match=r"the connection was closed with 1011 \(internal error\)$") as caught:
        client.readTextMessage()
    assert isinstance(caught.value.__cause__, ValueError)
    assert server.flushErrors(ValueError) == [caught.value.__cause__]


def test_clientFailed(server):
    """Where the client ended the connection, its own words say why."""
    client = server.connect("/odd", maxMessageSize=3)
    client.writeTextMessage("text")
    with pytest.raises(NoMessage, match=r"closed with 1009 \(message too big\) \(the server sent a message of more than 3 bytes"):
        client.readTextMessage()
    assert client.closed == (1009, "message too big")


def test_close(server, chat):
    """A close of either side is seen by both, with code and reason."""
    ann, odd = server.connect("/chat?name=ann"), server.connect("/odd")
    assert (ann.closed, ann.isOpen()) == (None, True)
    ann.close(4000, "bye")
    assert (ann.closed, ann.isOpen(), ann.readClose()) == ((4000, "bye"), False, (4000, "bye"))
    assert chat.closes == [("ann", 4000, "bye")]
    odd.writeTextMessage("away")
    assert odd.readClose() == (4001, "go away")
    assert repr(odd) == "<MemoryClient /odd closed>"


def test_writeAfterClose(server):
    """A write that goes nowhere is an error at once."""
    client = server.connect("/chat?name=ann")
    client.close()
    for write in (lambda: client.writeTextMessage("x"), lambda: client.writeBinaryMessage(b"x"), client.pong):
        with pytest.raises(ConnectionClosed):
            write()


def test_stillOpen(server):
    """Where a close is expected that does not come, the error says so."""
    client = server.connect("/chat?name=ann")
    with pytest.raises(StillOpen, match=r"^/chat\?name=ann was not closed in 30 seconds of fake time$"):
        client.readClose(timeout=30)
    assert client.readClose(timeout=600) == (1000, "idle timeout")
    assert server.clock.seconds() == 600


def test_pings(server):
    """Pings go both ways."""
    pings = []
    client = server.connect("/odd", onPing=lambda _, data: pings.append(data))
    assert client.ping(b"x") == 0
    client.caller.ping(b"y")
    client.pong(b"z")
    assert pings == [b"y"]
    client.pause()
    with pytest.raises(NoMessage, match=r"^no pong came to /odd in 2 seconds"):
        client.ping(timeout=2)


def test_pongs(server):
    """The service hears of pongs, and of the answers to its own pings."""
    client = server.connect("/odd")
    client.caller.ping(b"y")
    server.settle()
    client.pong(b"z")
    assert server.server.services["/odd"].heard == [b"y", b"z"]


def test_slowReader():
    """What a paused client does not take waits at the server, until that closes it with 1013."""
    with serve({"/chat": Chat()}, limits=Limits(maxSendBuffer=4000)) as server:
        ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
        bob.pause()
        for _ in range(3):
            ann.writeTextMessage("x" * 500)
        assert bob.caller.bufferedAmount > 1500
        assert bob.isOpen()
        bob.resume()
        assert len(bob.readMessages()) == 3
        bob.pause()
        for _ in range(9):
            ann.writeTextMessage("x" * 500)
        bob.resume()
        assert bob.closed == (1013, "too slow")


def test_pausedForGood(server):
    """A client that never takes anything is dropped; it sees no Close frame."""
    client = server.connect("/odd")
    client.pause()
    client.writeTextMessage("flood")
    assert client.readClose(timeout=60) == (1006, "")


def test_halfAMessage(server):
    """A message that is cut in two is none for the service, and whole when the rest has come."""
    client = server.connect("/odd")
    client.pauseWriting(room=5)
    client.writeTextMessage("text")
    assert client.bufferedAmount > 0
    client.resume()
    assert client.readTextMessage() == "text"
    client.pause(room=3)
    client.writeTextMessage("text")
    assert client.readMessages() == []
    client.cut()
    assert client.readMessages() == []
    assert client.closed == (1006, "")


def test_segments(server, monkeypatch):
    """Bytes that come one at a time make the same messages."""
    client, sizes = server.connect("/odd", segment=1), []
    for kind in (WebSocketConnection, ClientConnection):

        def dataReceived(self, data, received=kind.dataReceived, kind=kind):
            sizes.append((kind, len(data)))
            received(self, data)

        monkeypatch.setattr(kind, "dataReceived", dataReceived)
    client.writeTextMessage("three")
    assert client.readMessages() == ["one", "two", "three"]
    assert {*sizes} == {(WebSocketConnection, 1), (ClientConnection, 1)}


def test_bytes(server):
    """A test can send what no good client would: fragments, and frames that break the protocol."""
    client = server.connect("/odd")
    first = bytearray(maskedFrame(1, b"te"))
    first[0] &= 0x7F  # not the last
    client.sendBytes(bytes(first))
    client.sendBytes(maskedFrame(0, b"xt"))
    assert client.readTextMessage() == "text"
    client.sendBytes(maskedFrame(3, b""))
    assert client.closed == (1002, "protocol error")


def test_cut(server, chat):
    """A cut connection is 1006 for both."""
    client = server.connect("/chat?name=ann")
    client.cut()
    assert (client.closed, chat.closes, len(server.callers)) == ((1006, ""), [("ann", 1006, "")], 0)
    client.cut()  # again does no harm


def test_silence(server, chat):
    """A silent network shows by unanswered pings."""
    client = server.connect("/chat?name=ann")
    server.advance(60)
    assert client.isOpen()
    client.pause()
    client.pauseWriting()
    server.advance(70)
    assert client.closed == (1006, "")
    assert chat.closes == [("ann", 1006, "")]


def test_retry(server, chat):
    """A client that comes back does so in fake time, and is another caller of the same service."""
    again = []
    client = server.connect("/chat?name=ann", retry=Retry(interval=2, jitter=0), onReconnect=again.append)
    first = client.caller
    client.cut()
    assert (client.isOpen(), client.closed) == (False, None)
    server.advance(2)
    assert (client.isOpen(), again, client.caller is first) == (True, [client.client], False)
    client.caller.close(1008, "no")
    assert client.closed == (1008, "no")
    assert chat.closes == [("ann", 1006, ""), ("ann", 1008, "no")]


def test_retryGivesUp(server):
    """Once the connection is gone, `closed` says so."""
    client = server.connect("/chat?name=ann", retry=Retry(interval=1, maxCount=2))
    server.stop()
    server.advance(60)
    assert client.closed is not None
    with pytest.raises(NoMessage):
        client.readTextMessage()


def test_endlessStream(server):
    """A stream without an end stops when the client's buffer is full, and goes on as it is read."""
    client = server.connect("/odd", readBuffer=1000)
    client.writeTextMessage("endless")
    assert [client.readTextMessage() for _ in range(200)] == ["more"] * 200
    client.close()
    assert client.closed == (1000, "")


def test_gate(server):
    """A handler that waits for a Deferred of the test goes on when the test fires it."""
    client = server.connect("/odd")
    client.writeTextMessage("gated")
    client.writeTextMessage("text")
    assert client.readMessages() == []
    server.server.services["/odd"].gate.callback("first")
    assert client.readMessages() == ["first", "text"]


def test_deferreds(server):
    """The client beneath has Deferreds, which fire as the test goes on."""
    client = server.connect("/odd")
    reading = client.client.readTextMessage()
    client.writeTextMessage("text")
    assert reading.result == "text"


def test_refused(server):
    """A refusal is the client's own exception."""
    with pytest.raises(HandshakeRefused) as caught:
        server.connect("/chat")
    assert (caught.value.status, caught.value.body) == (401, b"Who are you?\n")
