from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import error as neterror
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogLevel, capturedLogs

from tests.client.support import BINARY, CLOSE, PONG, TEXT, Setup, failed, opened, pending, result
from twisted_ws.client import ConnectFailed, ConnectionClosed, HandshakeRefused, ProtocolError, Retry, WriteBufferFull
from twisted_ws.frames import frame

STEADY = Retry(interval=1, maxInterval=8, factor=2, jitter=0)


def again(setup: Setup) -> Any:
    """Accept the connection that was made last, and return its server's end."""
    setup.peer.accept()
    return setup.peer


def test_times():
    """Attempts are made at the times that the policy gives, until one succeeds."""
    setup = Setup(retry=STEADY)
    setup.endpoint.failure = neterror.ConnectionRefusedError()
    with capturedLogs() as logs:
        setup.start().advance(31.5)
    assert setup.endpoint.attempts == [0, 1, 3, 7, 15, 23, 31]
    assert pending(setup.connecting)
    assert logs[0]["log_level"] == LogLevel.info
    assert "nothing listens at" in logs[0]["reason"]
    setup.endpoint.failure = None
    setup.advance(8)
    again(setup)
    assert result(setup.connecting).isOpen()


def test_jitteredTimes():
    """With jitter too, the times follow from the random numbers."""
    setup = Setup(retry=Retry(interval=4, maxInterval=16, factor=2, jitter=0.5, random=iter([0, 1, 0.5] * 2).__next__))
    setup.endpoint.failure = neterror.ConnectionRefusedError()
    setup.start().advance(28)
    assert setup.endpoint.attempts == [0, 4, 8, 20]


def test_givesUp():
    """After the last attempt the last error is reported; without a `Retry` there is one attempt."""
    setup = Setup(retry=Retry(interval=1, factor=1, jitter=0, maxCount=3))
    setup.endpoint.failure = neterror.ConnectionRefusedError()
    setup.start().advance(10)
    assert setup.endpoint.attempts == [0, 1, 2, 3]
    assert isinstance(setup.error(), ConnectFailed)
    setup = Setup()
    setup.endpoint.failure = neterror.ConnectionRefusedError()
    assert isinstance(setup.start().error(), ConnectFailed)


def test_handshakeTimesOut():
    """An attempt without an answer ends at its timeout, and the next follows."""
    setup = Setup(retry=STEADY, handshakeTimeout=3)
    setup.start().advance(4.5)
    assert setup.endpoint.attempts == [0, 4]
    setup.connecting.cancel()
    setup.error()
    assert not setup.clock.getDelayedCalls()


def test_neverAfter4xx():
    """A permanent refusal ends the attempts, whether the first or a later one."""
    setup = Setup(retry=STEADY).start()
    setup.peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert setup.error().status == 403
    client, peer, setup = opened(retry=STEADY)
    reading, writing = client.readTextMessage(), client.writeTextMessage("x")
    peer.received()
    assert result(writing) is None
    peer.hangUp()
    waiting = client.writeTextMessage("y")
    setup.advance(1)
    setup.peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(failed(reading), HandshakeRefused)
    error = failed(waiting)
    assert isinstance(error, ConnectionClosed)
    assert isinstance(error.__cause__, HandshakeRefused)
    assert result(client.whenClosed()) is None
    setup.advance(100)
    assert len(setup.endpoint.attempts) == 2


def test_retryAfter():
    """A Retry-After with 503 is waited for."""
    setup = Setup(retry=STEADY).start()
    setup.peer.send(b"HTTP/1.1 503 Unavailable\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n")
    setup.advance(30)
    assert setup.endpoint.attempts == [0, 20]


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 1010, None, 4000])
def test_closedForGood(code):
    """A Close that means success, or that the fault is ours, ends the client."""
    client, peer, setup = opened(retry=STEADY)
    waiting = client.readMessage()
    peer.close(code)
    peer.received()
    peer.hangUp()
    assert failed(waiting).statusCode == (code or 1005)
    setup.advance(100)
    assert setup.endpoint.attempts == [0]


@pytest.mark.parametrize(("code", "wait"), [(1001, 5.5), (1011, 1), (1012, 5.5), (1013, 1), (1014, 1)])
def test_closedForNow(code, wait):
    """After a Close that asks to come back, the client reconnects, after the appropriate wait."""
    client, peer, setup = opened(retry=Retry(interval=1, maxInterval=8, jitter=0, random=lambda: 0.5))
    waiting = client.readTextMessage()
    peer.close(code)
    peer.received()
    peer.hangUp()
    setup.advance(10)
    assert setup.endpoint.attempts == [0, wait]
    again(setup).text("back")
    assert result(waiting) == "back"


def test_brokenRules():
    """The client does not reconnect to a server that broke the protocol."""
    client, peer, setup = opened(retry=STEADY)
    waiting = client.readMessage()
    peer.send(b"\x83\x00")
    assert isinstance(failed(waiting), ProtocolError)
    assert isinstance(failed(client.writeTextMessage("x")), ConnectionClosed)
    setup.advance(6)
    assert setup.endpoint.attempts == [0]


def test_noCallIsLost():
    """What is written during an outage goes out in order over the next connection, and reads go on over all of them."""
    told: list[Any] = []
    client, peer, setup = opened(retry=STEADY, onReconnect=told.append)
    client.writeTextMessage("1")
    assert peer.messages() == ["1"]
    first = client.readTextMessage()
    peer.text("a")
    peer.text("b")
    peer.hangUp(ConnectionLost())
    assert not client.isOpen()
    written = [client.writeTextMessage(str(n)) for n in range(2, 6)]
    assert client.bufferedAmount == 4
    assert (result(first), result(client.readTextMessage())) == ("a", "b")
    waiting = client.readTextMessage()
    setup.advance(1)
    peer = again(setup)
    assert told == [client]
    assert client.isOpen()
    assert peer.messages() == ["2", "3", "4", "5"]
    assert [result(each) for each in written] == [None] * 4
    peer.text("c")
    assert result(waiting) == "c"


def test_handedAndLost():
    """What the kernel had is not sent again; what it had in part, or not at all, is, as a whole and in order."""
    client, peer, setup = opened(retry=STEADY)
    peer.transport.room = 40_000
    sizes = (10_000, 20_000, 30_000, 40_000)
    written = [client.writeBinaryMessage(bytes([n]) * size) for n, size in enumerate(sizes)]
    assert [each[0] for each in peer.messages()] == [0, 1]
    peer.hangUp(ConnectionLost())
    assert [each.called for each in written] == [True, True, False, False]
    client.writeTextMessage("after")
    setup.advance(1)
    peer = again(setup)
    first, second, third = peer.messages()
    assert (first[0], len(first), second[0], len(second), third) == (2, 30_000, 3, 40_000, "after")
    assert [result(each) for each in written] == [None] * 4


def test_closeWhileWriting():
    """Messages that were under way when the server asked us to come back follow over the next connection; none goes out twice."""
    client, peer, setup = opened(retry=Retry(interval=1, maxInterval=1, jitter=0))
    peer.transport.room = 20_000
    for n in range(4):
        client.writeBinaryMessage(bytes([n]) * 15_000)
    assert [each[0] for each in peer.messages()] == [0]
    peer.close(1012)
    client.writeTextMessage("late")
    setup.advance(0.5)
    peer.transport.room = None
    frames = peer.frames()
    assert [int(each.opcode) for each in frames] == [BINARY, CLOSE]  # the one that was begun has to end
    assert bytes(frames[0].payload)[:1] == b"\x01"
    peer.hangUp()
    setup.advance(1)
    assert [each[0] for each in again(setup).messages()] == [2, 3, "l"]


def test_writesFirst():
    """What `onReconnect` writes at once goes out before everything that waits; an error in it does no harm."""

    async def hello(client: Any) -> None:
        client.writeTextMessage("login")
        client.writeTextMessage("subscribe")
        await Deferred()

    client, peer, setup = opened(retry=STEADY, onReconnect=hello)
    peer.hangUp(ConnectionLost())
    client.writeTextMessage("1")
    setup.advance(1)
    assert again(setup).messages() == ["login", "subscribe", "1"]

    def broken(_: Any) -> None:
        raise RuntimeError("a mistake")

    client, peer, setup = opened(retry=STEADY, onReconnect=broken)
    peer.hangUp(ConnectionLost())
    setup.advance(1)
    with capturedLogs() as logs:
        again(setup)
    assert [each["log_level"] for each in logs] == [LogLevel.critical]
    assert client.isOpen()


def test_bounded():
    """What waits during an outage is bounded; a write that is given up is not sent."""
    client, peer, setup = opened(retry=STEADY, writeBuffer=1000)
    peer.hangUp(ConnectionLost())
    written = [client.writeBinaryMessage(b"x" * 300) for _ in range(3)]
    assert isinstance(failed(written[2]), WriteBufferFull)
    written[1].cancel()
    failed(written[1])
    client.writeTextMessage("last")
    setup.advance(1)
    assert again(setup).messages() == [b"x" * 300, "last"]


def test_pings():
    """Pings are of one connection: those that wait fail with it, and during an outage they fail at once."""
    client, peer, setup = opened(retry=STEADY)
    before = client.ping(b"x")
    peer.hangUp(ConnectionLost())
    assert isinstance(failed(before), ConnectionClosed)
    assert isinstance(failed(client.ping()), ConnectionClosed)
    setup.advance(1)
    peer = again(setup)
    after = client.ping(b"y")
    peer.send(frame(PONG, b"y"))
    assert result(after) == 0


def test_halfOpen():
    """A server that has silently gone is noticed by its missing pong, and connected to again."""
    client, peer, setup = opened(retry=STEADY, pingInterval=20, pingTimeout=10)
    setup.advance(29)
    client.writeTextMessage("into the void")
    setup.advance(4)
    assert peer.transport.aborted
    assert len(setup.endpoint.attempts) == 2
    again(setup)
    assert client.isOpen()


def test_closeDuringOutage():
    """`close` during an outage ends it at once: no more attempts, and what waited fails."""
    client, peer, setup = opened(retry=STEADY)
    reading = client.readTextMessage()
    peer.hangUp(ConnectionLost())
    waiting = client.writeTextMessage("x")
    assert result(client.close(1000, "enough")) is None
    assert (failed(reading).statusCode, failed(waiting).reason) == (1000, "enough")
    assert not setup.clock.getDelayedCalls()
    client, peer, setup = opened(retry=STEADY)
    peer.hangUp(ConnectionLost())
    setup.advance(1)  # an attempt is under way
    assert result(client.close()) is None
    assert setup.peer.transport.aborted
    assert not setup.clock.getDelayedCalls()


def test_closeEndsRetries():
    """A connection that is lost while closing is not made again."""
    client, peer, setup = opened(retry=STEADY)
    closed = client.close()
    peer.hangUp(ConnectionLost())
    assert result(closed) is None
    setup.advance(100)
    assert setup.endpoint.attempts == [0]


def test_closeFromHandler():
    """`onReconnect` may close: what waits is sent first, as by any close."""
    client, peer, setup = opened(retry=STEADY, onReconnect=lambda client: client.close() and None)
    peer.hangUp(ConnectionLost())
    waiting = client.writeTextMessage("x")
    setup.advance(1)
    peer = again(setup)
    assert [int(each.opcode) for each in peer.frames()] == [TEXT, CLOSE]
    peer.close(1000)
    peer.hangUp()
    assert result(waiting) is None


def test_flapping():
    """Connections that are dropped at once lead to growing waits; one that lasted resets them."""
    client, peer, setup = opened(retry=STEADY)
    for _ in range(3):
        peer.hangUp(ConnectionLost())
        setup.advance(8)
        peer = again(setup)
    assert setup.endpoint.attempts == [0, 1, 10, 20]
    peer.text("hello")
    peer.hangUp(ConnectionLost())
    setup.advance(1)
    assert setup.endpoint.attempts[-1] == setup.clock.seconds()
    peer = again(setup)
    setup.advance(8)
    peer.hangUp(ConnectionLost())
    setup.advance(1)
    assert setup.endpoint.attempts[-1] == setup.clock.seconds()
    assert result(client.readTextMessage()) == "hello"


def test_slowReaderReconnects():
    """A reader that was full before the loss is still full after it."""
    client, peer, setup = opened(retry=STEADY, readBuffer=1000)
    peer.text("x" * 2000)
    assert not peer.transport.reading
    peer.hangUp(ConnectionLost())
    setup.advance(1)
    peer = again(setup)
    assert not peer.transport.reading
    assert result(client.readTextMessage()) == "x" * 2000
    assert peer.transport.reading


def test_nobodyWaitsAnyMore():
    """A `whenClosed` or a write that was cancelled is left alone at the end."""
    client, peer, _ = opened()
    peer.transport.room = 0
    written, closed = client.writeTextMessage("x"), client.whenClosed()
    closing = client.close()
    for each in (written, closed, closing):
        each.cancel()
        failed(each)
    peer.hangUp()
    assert result(client.whenClosed()) is None


def test_closeTwice():
    """A second `close` waits for the same end, at any time of it."""
    client, peer, _ = opened()
    peer.close(1000)
    first, second = client.close(), client.close(timeout=1)
    peer.received()
    peer.hangUp()
    assert result(first) is result(second) is None
