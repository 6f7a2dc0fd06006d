from __future__ import annotations

import gc
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogLevel, capturedLogs

from tests.client.support import BINARY, CLOSE, PING, PONG, TEXT, Setup, failed, opened, pending, result
from tests.memory import clientFrame
from tests.traced import traced
from twisted_ws.client import (
    ConnectionClosed,
    InvalidPayload,
    MessageTooBig,
    ProtocolError,
    ReadTimeout,
    TransportError,
    UnexpectedMessage,
    WriteBufferFull,
    connect,
)
from twisted_ws.frames import FIN, RSV1, frame


@dataclass
class Order:
    """What a message is bound to."""

    item: str
    count: int


def test_write():
    """Each writing method sends a masked frame of its kind, and its Deferred fires when the kernel has it."""
    client, peer, _ = opened()
    done = [client.writeTextMessage("grün"), client.writeBinaryMessage(memoryview(b"\x00\x01")), client.writeMessage({"a": 1})]
    assert all(map(pending, done))
    assert client.bufferedAmount == 5 + 2 + 7
    frames = peer.frames()
    assert [(int(each.opcode), each.payload) for each in frames] == [(TEXT, "grün"), (BINARY, b"\x00\x01"), (TEXT, '{"a":1}')]
    assert [result(each) for each in done] == [None] * 3
    assert client.bufferedAmount == 0


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 300_000])
def test_sizes(size):
    """A message of any size arrives as it was, in either direction."""
    client, peer, _ = opened()
    data = bytes(i * 7 & 0xFF for i in range(size))
    client.writeBinaryMessage(data)
    assert peer.messages() == [data]
    peer.send(frame(BINARY, data), 50_000)
    assert result(client.readBinaryMessage()) == data


def test_masks():
    """Each frame has a mask of its own."""
    client, peer, _ = opened()
    for _ in range(4):
        client.writeTextMessage("same")
    data = peer.received()
    assert len({data[i : i + 10] for i in range(0, 40, 10)}) == 4


def test_badArguments():
    """What cannot be sent is refused where it is written."""
    client, peer, _ = opened()
    for call in (
        lambda: client.writeTextMessage(b"x"),  # type: ignore[arg-type]
        lambda: client.writeBinaryMessage("x"),  # type: ignore[arg-type]
        lambda: client.writeMessage(object()),
        lambda: client.ping("x"),  # type: ignore[arg-type]
        lambda: client.close("x"),  # type: ignore[arg-type]
        lambda: client.close(1000, b"x"),  # type: ignore[arg-type]
        lambda: client.close(timeout="1"),  # type: ignore[arg-type]
        lambda: client.readMessage(Deferred),
        lambda: client.readTextMessage(timeout="1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    for call in (
        lambda: client.writeTextMessage("\ud800"),
        lambda: client.ping(b"x" * 126),
        lambda: client.pong(b"x" * 126),
        lambda: client.close(1005),
        lambda: client.close(1000, "x" * 124),
        lambda: client.close(timeout=-1),
        lambda: client.close(timeout=float("inf")),
        lambda: client.readTextMessage(timeout=0),
    ):
        with pytest.raises(ValueError, match=r"."):
            call()
    assert peer.received() == b""
    assert client.isOpen()


def test_read():
    """Messages are read in the order they came, including those that came before the first read."""
    setup = Setup().start()
    setup.peer.accept(rest=frame(TEXT, b"first") + frame(BINARY, b"second"))
    client = result(setup.connecting)
    setup.peer.text("third")
    assert result(client.readTextMessage()) == "first"
    assert result(client.readBinaryMessage()) == b"second"
    assert result(client.readMessage()) == "third"
    waiting = client.readTextMessage()
    assert pending(waiting)
    setup.peer.send(frame(TEXT, "fünfte".encode()), 1)
    assert result(waiting) == "fünfte"


def test_readers():
    """Readers that wait get one message each, the first that asked first."""
    client, peer, _ = opened()
    waiting = [client.readMessage() for _ in range(3)]
    peer.send(b"".join(frame(TEXT, str(i).encode()) for i in range(4)))
    assert [result(each) for each in waiting] == ["0", "1", "2"]
    assert result(client.readMessage()) == "3"


def test_readAgainFromWithin():
    """A reader may read on, and another may leave, while messages are handed out."""
    client, peer, _ = opened()
    seen: list[str] = []
    leaving = client.readTextMessage()
    first = client.readTextMessage()

    def more(text: str) -> None:
        seen.append(text)
        client.readTextMessage().addCallback(more)

    leaving.addCallback(more)
    first.addCallback(seen.append)
    peer.send(b"".join(frame(TEXT, str(i).encode()) for i in range(4)))
    assert seen == ["0", "1", "2", "3"]


def test_cancelledReader():
    """A reader that gives up loses no message."""
    client, peer, setup = opened()
    first, second = client.readTextMessage(timeout=5), client.readTextMessage()
    first.cancel()
    assert isinstance(failed(first), CancelledError)
    peer.text("hello")
    assert result(second) == "hello"
    setup.advance(10)


def test_readTimeout():
    """A read that times out says so; the connection goes on, and the message goes to the next reader."""
    client, peer, setup = opened(readTimeout=2)
    late, patient = client.readTextMessage(), client.readTextMessage(timeout=4)
    setup.advance(2)
    error = failed(late)
    assert isinstance(error, ReadTimeout)
    assert isinstance(error, TimeoutError)
    assert "2 seconds" in str(error)
    peer.text("hello")
    assert result(patient) == "hello"
    setup.advance(5)
    assert client.isOpen()


def test_otherKind():
    """A message of the other kind fails the read, and is in the error; a new read gets the next one."""
    client, peer, _ = opened()
    waiting = client.readBinaryMessage()
    peer.text("hello")
    error = failed(waiting)
    assert isinstance(error, UnexpectedMessage)
    assert error.received == "hello"
    assert str(error).startswith("a text message came: read it with readTextMessage")
    peer.send(frame(BINARY, b"x"))
    assert failed(client.readTextMessage()).received == b"x"
    peer.text("again")
    assert result(client.readTextMessage()) == "again"


def test_binding():
    """A message is bound to a type as on the server, and one that does not fit names the field."""
    client, peer, _ = opened()
    for _ in range(2):
        peer.text('{"item": "tea", "count": 2}')
    assert result(client.readMessage(Order)) == Order("tea", 2)
    assert result(client.readMessage(dict)) == {"item": "tea", "count": 2}
    peer.text('{"item": "tea", "count": "two"}')
    error = failed(client.readMessage(Order))
    assert isinstance(error, UnexpectedMessage)
    assert (error.field, error.received) == ("count", '{"item": "tea", "count": "two"}')
    assert "at count" in str(error)
    peer.text("no JSON")
    assert failed(client.readMessage(list[int])).field == ""
    peer.text("3")
    assert result(client.readMessage(Annotated[int, {"not": "hashable"}])) == 3


def test_iterate():
    """`async for` gives each message, and ends when the server says that all is done."""
    for code in (1000, 1001, None):
        client, peer, _ = opened()
        seen: list[Any] = []

        async def collect(client=client, seen=seen) -> None:
            async for message in client:
                seen.append(message)

        done = Deferred.fromCoroutine(collect())
        peer.text("a")
        peer.send(frame(BINARY, b"b"))
        peer.close(code)
        assert seen == ["a", b"b"]
        assert result(done) is None


def test_iterateError():
    """`async for` raises when the connection ends in another way, but not when the client closes it."""
    for code in (1011, 1006):
        client, peer, _ = opened()

        async def collect(client=client) -> None:
            async for _ in client:
                pass

        done = Deferred.fromCoroutine(collect())
        if code == 1006:
            peer.hangUp()
        else:
            peer.close(code)
        assert failed(done).statusCode == code
    client, peer, setup = opened()

    async def collectOurs() -> None:
        async for _ in client:
            pass

    done = Deferred.fromCoroutine(collectOurs())
    client.close(1000, timeout=1)
    setup.advance(2)
    assert result(done) is None


def test_serverCloses():
    """The server's Close is answered with its own code; what had come is read, and then why it ended."""
    client, peer, setup = opened()
    peer.text("last")
    peer.close(4001, "enough")
    (answer,) = peer.frames()
    assert int(answer.opcode) == CLOSE
    assert answer.payload[0] == 4001
    assert peer.transport.writeClosed
    assert not client.isOpen()
    assert result(client.readTextMessage()) == "last"
    for _ in range(2):
        error = failed(client.readTextMessage())
        assert isinstance(error, ConnectionClosed)
        assert (error.statusCode, error.reason) == (4001, "enough")
    closed = client.whenClosed()
    assert pending(closed)
    peer.hangUp()
    assert result(closed) is None
    assert result(client.whenClosed()) is None
    assert repr(client).endswith(" closed>")
    assert isinstance(failed(client.writeTextMessage("x")), ConnectionClosed)
    assert isinstance(failed(client.ping()), ConnectionClosed)
    assert isinstance(failed(client.pong()), ConnectionClosed)
    assert not setup.clock.getDelayedCalls()


def test_noCode():
    """A Close without a code is answered by one without, and reported as 1005; no Close at all is 1006."""
    client, peer, _ = opened()
    waiting = client.readMessage()
    peer.close(None)
    assert peer.received()[:2] == b"\x88\x80"
    assert failed(waiting).statusCode == 1005
    client, peer, _ = opened()
    waiting = client.readMessage()
    peer.hangUp(ConnectionLost())
    error = failed(waiting)
    assert error.statusCode == 1006
    assert isinstance(error.__cause__, TransportError)


def test_weClose():
    """`close` sends what waits, then Close; it fires when the server has answered and hung up."""
    client, peer, setup = opened()
    written = client.writeTextMessage("bye")
    unread = client.readTextMessage()
    closed = client.close(3001, "done")
    assert not client.isOpen()
    assert isinstance(failed(client.writeTextMessage("late")), ConnectionClosed)
    text, close = peer.frames()
    assert (text.payload, int(close.opcode), close.payload) == ("bye", CLOSE, (3001, "done"))
    assert result(written) is None
    peer.text("dropped")
    peer.close(3001, "done")
    assert (failed(unread).statusCode, failed(client.readTextMessage()).reason) == (3001, "done")
    peer.hangUp()
    assert result(closed) is None
    assert result(client.close()) is None
    assert not setup.clock.getDelayedCalls()


@pytest.mark.parametrize(("timeout", "dropped"), [(2, 2), (60, 5)])
def test_serverNeverCloses(timeout, dropped):
    """A server that does not answer our Close is dropped at the timeout, or 5 seconds after it has got it."""
    client, peer, setup = opened()
    unread = client.readTextMessage()
    closed = client.close(timeout=timeout)
    peer.frames()
    setup.advance(dropped - 0.5)
    assert pending(closed)
    setup.advance(1)
    assert result(closed) is None
    assert peer.transport.aborted
    assert failed(unread).statusCode == 1006
    assert not setup.clock.getDelayedCalls()


@pytest.mark.parametrize("end", ["stalls", "has all"])
def test_serverReadsSlowly(behind, end):
    """A server that is still reading what was written before our Close gets time for that, up to the timeout."""
    client, peer, setup = opened(pingInterval=0)
    peer.transport.fileno = behind.writing.fileno
    closed = client.close(timeout=90)
    setup.advance(0.25)
    behind.read(20_000)
    setup.advance(5.5)
    assert pending(closed)
    behind.read(20_000)
    behind.settle()
    setup.advance(30.5)
    assert pending(closed)
    behind.read(0 if end == "stalls" else 10_000_000)
    setup.advance(30.5)
    assert result(closed) is None
    assert peer.transport.aborted


def test_serverNeverHangsUp():
    """A server that answers our Close and then holds the connection is dropped after 5 seconds."""
    client, peer, setup = opened()
    closed = client.close()
    peer.frames()
    peer.close(1000)
    setup.advance(5.5)
    assert result(closed) is None
    assert peer.transport.aborted


def test_closeSooner():
    """A second `close` may have a shorter timeout, after which a server that takes no bytes is dropped."""
    client, peer, setup = opened()
    peer.transport.room = 0
    client.writeBinaryMessage(b"x" * 100_000)
    first = client.close(timeout=50)
    setup.advance(2)
    second = client.close(timeout=1)
    setup.advance(1.5)
    assert result(first) is result(second) is None
    assert peer.transport.aborted


def test_closeAtOnce():
    """A timeout of 0 sends Close, and does not wait for the server's."""
    client, peer, _ = opened()
    unread = client.readTextMessage()
    client.close(timeout=0)
    assert [int(each.opcode) for each in peer.frames()] == [CLOSE]
    assert peer.transport.writeClosed
    peer.hangUp()
    assert failed(unread).statusCode == 1006


def test_contextManagers():
    """Both ways of `async with` close the client at their end."""
    setup = Setup()
    seen: list[Any] = []

    async def use() -> None:
        async with connect(setup.url, endpoint=setup.endpoint, reactor=setup.clock) as client:
            seen.append(client)
        async with await connect(setup.url, endpoint=setup.endpoint, reactor=setup.clock) as client:
            seen.append(client)

    done = Deferred.fromCoroutine(use())
    for n in range(2):
        setup.peer.accept()
        assert len(seen) == n + 1
        assert [int(each.opcode) for each in setup.peer.frames()] == [CLOSE]
        setup.peer.close(1000)
        setup.peer.hangUp()
    assert result(done) is None


def test_ping():
    """A ping's Deferred fires with the round trip in seconds; a pong answers the pings before it too."""
    client, peer, setup = opened()
    first, second, third = client.ping(), client.ping(b"two"), client.ping(b"three")
    pings = [bytes(each.payload) for each in peer.frames()]
    assert pings[1:] == [b"two", b"three"]
    assert pings[0]
    third.addErrback(lambda _: None).cancel()
    setup.advance(0.25)
    peer.send(frame(PONG, b"two"))
    assert (result(first), result(second)) == (0.25, 0.25)
    peer.send(frame(PONG, b"three"))
    unanswered = client.ping()
    peer.hangUp()
    assert isinstance(failed(unanswered), ConnectionClosed)


def test_pongByItself():
    """A ping from the server is answered automatically; of several that wait, only the newest."""
    _, peer, _ = opened()
    peer.send(frame(PING, b"a"))
    peer.send(frame(PING, b"b") + frame(PING, b"c"))
    assert [bytes(each.payload) for each in peer.frames()][-1] == b"c"


def test_handlers():
    """`onPing` replaces the automatic pong, `onPong` gets unsolicited pongs; an error in them does no harm."""
    seen: list[Any] = []

    async def onPing(client: Any, data: bytes) -> None:
        seen.append(data)
        client.pong(b"mine")

    def onPong(client: Any, data: bytes) -> None:
        seen.append(data)
        raise RuntimeError("a mistake")

    client, peer, _ = opened(onPing=onPing, onPong=onPong)
    peer.send(frame(PING, b"1"))
    with capturedLogs() as logs:
        peer.send(frame(PONG, b"2"))
    assert [each["log_level"] for each in logs] == [LogLevel.critical]
    assert seen == [b"1", b"2"]
    assert [(int(each.opcode), bytes(each.payload)) for each in peer.frames()] == [(PONG, b"mine")]
    assert client.isOpen()


def test_keepAlive():
    """The server is pinged, and if it does not answer, the connection is lost."""
    client, peer, setup = opened(pingInterval=20, pingTimeout=10)
    waiting = client.readTextMessage()
    for _ in range(3):
        setup.advance(20.25)
        (ping,) = peer.frames()
        assert int(ping.opcode) == PING
        peer.send(frame(PONG, bytes(ping.payload)))
    setup.advance(20.25)
    peer.frames()
    setup.advance(9)
    assert pending(waiting)
    setup.advance(1.5)
    error = failed(waiting)
    assert isinstance(error, TransportError)
    assert "no pong for 10 seconds" in str(error)
    assert peer.transport.aborted
    assert not setup.clock.getDelayedCalls()


def test_keepAliveExcuse():
    """A server that sends anything counts as alive, even without a pong."""
    client, peer, setup = opened(pingInterval=20, pingTimeout=10)
    setup.advance(20.25)
    for _ in range(5):
        peer.send(b"\x82" if _ == 0 else b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00" if _ == 1 else b"x")
        setup.advance(9)
    assert client.isOpen()


def test_noKeepAlive():
    """Without an interval there are no pings."""
    client, peer, setup = opened(pingInterval=0)
    setup.advance(100)
    assert peer.received() == b""
    assert client.isOpen()


def test_stall():
    """A server that takes nothing of what waits for it counts as lost after 30 seconds."""
    client, peer, setup = opened(pingInterval=0)
    peer.transport.room = 10
    written = client.writeBinaryMessage(b"x" * 100_000)
    waiting = client.readTextMessage()
    setup.advance(29)
    assert pending(waiting)
    setup.advance(2)
    assert "30 seconds" in str(failed(waiting))
    assert isinstance(failed(written), ConnectionClosed)


def test_backpressure():
    """Reading from a server that sends too fast pauses, and resumes when half of what waited has been read."""
    client, peer, _ = opened(readBuffer=10_000)
    message = frame(TEXT, b"x" * 436)  # 500 with what a message is charged
    for _ in range(20):
        assert peer.transport.reading
        peer.send(message)
    assert not peer.transport.reading
    # What was on its way when reading stopped is kept as it came: the ping behind it waits for its turn.
    peer.send(message * 30 + frame(PING, b"") + message * 970)
    assert peer.frames() == []
    for _ in range(10):
        result(client.readTextMessage())
    count = 10
    while peer.transport.closed is False and count < 1020:
        result(client.readTextMessage())
        count += 1
    assert peer.transport.reading
    assert [each.opcode for each in peer.frames()] == [PONG]
    assert pending(client.readTextMessage())


def test_backpressureAtTheEnd():
    """What came before the connection broke can be read, even if reading had paused."""
    client, peer, _ = opened(readBuffer=1000)
    peer.send(frame(TEXT, b"x" * 400) * 100 + frame(CLOSE, b"\x03\xf3bad"))
    assert not peer.transport.reading
    peer.hangUp(ConnectionLost())
    for _ in range(100):
        assert result(client.readTextMessage()) == "x" * 400
    assert failed(client.readTextMessage()).statusCode == 1011


def test_emptyMessages():
    """Empty messages fill the buffer, too."""
    client, peer, _ = opened(readBuffer=6400)
    peer.send(frame(TEXT, b"") * 5000 + frame(PING, b""))
    assert not peer.transport.reading
    assert peer.frames() == []  # so far it has not come
    for _ in range(5000):
        assert result(client.readTextMessage()) == ""
    assert [each.opcode for each in peer.frames()] == [PONG]


def test_writeBuffer():
    """A write beyond the buffer fails, and is not queued; what waits is not hurt."""
    client, peer, _ = opened(writeBuffer=1000)
    peer.transport.room = 0
    client.writeBinaryMessage(b"x" * 5000)  # a message of any size is taken when nothing waits
    error = failed(client.writeTextMessage("y"))
    assert isinstance(error, WriteBufferFull)
    assert "await the writes" in str(error)
    peer.transport.room = None
    assert peer.messages() == [b"x" * 5000]
    client.writeTextMessage("z")
    assert peer.messages() == ["z"]


def test_cancelledWrite():
    """A write that is cancelled before its turn is not sent; one that is under way is."""
    client, peer, _ = opened()
    peer.transport.room = 0
    first = client.writeBinaryMessage(b"x" * 100_000)
    second = client.writeTextMessage("second")
    third = client.writeTextMessage("third")
    for each in (first, second):
        each.cancel()
        failed(each)
    peer.transport.room = None
    assert peer.messages() == [b"x" * 100_000, "third"]
    assert result(third) is None


def test_nobodyLooks():
    """Writes that fail with the connection are not logged if no one handles the failure."""
    client, peer, _ = opened()
    peer.transport.room = 0
    with capturedLogs() as logs:
        for _ in range(3):
            client.writeTextMessage("x")
        peer.hangUp()
        client.writeTextMessage("x")
        gc.collect()
    assert logs == []


VIOLATIONS = [
    (b"\xc1\x05hello", ProtocolError, 1002),  # compressed, and that was not agreed on
    (b"\x83\x00", ProtocolError, 1002),  # reserved opcode
    (b"\x8b\x00", ProtocolError, 1002),
    (b"\x80\x00", ProtocolError, 1002),  # nothing to continue
    (b"\x01\x01a\x01\x01b", ProtocolError, 1002),
    (b"\x09\x00", ProtocolError, 1002),  # a ping in fragments
    (b"\x89\x7e\x00\x7e", ProtocolError, 1002),  # a long ping
    (b"\x81\x7e\x00\x01a", ProtocolError, 1002),  # a length that is not minimal
    (b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", ProtocolError, 1002),
    (clientFrame(1, b"hello"), ProtocolError, 1002),  # masked
    (b"\x88\x01\x03", ProtocolError, 1002),
    (b"\x88\x02\x03\xed", ProtocolError, 1002),  # 1005 on the wire
    (b"\x88\x02\x00\x00", ProtocolError, 1002),
    (b"\x88\x04\x03\xe8\xff\xff", InvalidPayload, 1007),
    (b"\x81\x02\xff\xff", InvalidPayload, 1007),
    (b"\x81\x02\xe4\xbd", InvalidPayload, 1007),
    (b"\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x01", MessageTooBig, 1009),
    (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", MessageTooBig, 1009),
    (b"\x02\x00" + b"\x00\x00" * 20_000, MessageTooBig, 1009),  # fragments without an end
    (b"HTTP/1.1 200 OK\r\n\r\n", ProtocolError, 1002),
    (b"\x00" * 5000, ProtocolError, 1002),
]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("data", "kind", "code"), VIOLATIONS, ids=range(len(VIOLATIONS)))
def test_violations(data, kind, code, together):
    """A server that breaks the rules, right after the 101 or later, gets Close, and the reader an exception that says how."""
    setup = Setup().start()
    setup.peer.accept(rest=data if together else b"")
    client, peer = result(setup.connecting), setup.peer
    waiting = client.readMessage()
    if not together:
        peer.send(data, 3)
    error = failed(waiting)
    assert type(error) is kind
    assert error.code == code
    assert not client.isOpen()
    (close,) = peer.frames()
    assert close.payload[0] == code
    # It goes on as if nothing had happened: nothing of it is kept, and it does not live on.
    with traced() as held:
        for _ in range(100):
            peer.send(b"x" * 10_000)
        assert held() < 50_000
    closed = client.close()
    setup.advance(5.5)
    assert peer.transport.aborted
    assert result(closed) is None
    assert type(failed(client.readMessage())) is kind
    cause = failed(client.writeTextMessage("x"))
    assert isinstance(cause, ConnectionClosed)
    assert not setup.clock.getDelayedCalls()


@pytest.mark.parametrize(("data", "kind", "code"), VIOLATIONS[:1] + VIOLATIONS[-4:-3] + VIOLATIONS[13:15])
def test_violationWhileInUse(data, kind, code):
    """A violation is answered with its own code even if the reader closes at once, as `async with` does."""
    client, peer, _ = opened()

    async def use() -> None:
        async with client:
            await client.readMessage()

    using = Deferred.fromCoroutine(use())
    peer.send(data)
    assert [each.payload[0] for each in peer.frames()] == [code]
    peer.hangUp()
    assert type(failed(using)) is kind


def test_peerClosesWhileInUse():
    """The server's Close is answered with its own code, whatever the reader closes with when it hears of it."""
    client, peer, _ = opened()
    client.readMessage().addErrback(lambda failure: client.close(4321))
    peer.close(4000, "maintenance")
    assert [each.payload[0] for each in peer.frames()] == [4000]


def test_tooBigBeforeItIsKept():
    """An oversize frame fails by its header; a bomb fails when it inflates beyond the limit, not after."""
    client, peer, _ = opened(
        "Sec-WebSocket-Extensions: permessage-deflate", compression=True, maxMessageSize=10_000, url="ws://server.example/"
    )
    waiting = client.readMessage()
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = deflate.compress(b"\0" * 50_000_000) + deflate.flush(zlib.Z_SYNC_FLUSH)
    peer.send(frame(BINARY, bomb[:9000], FIN | RSV1))
    assert isinstance(failed(waiting), MessageTooBig)
    assert "more than 10000 bytes" in str(failed(client.readMessage()))


@pytest.mark.parametrize("extra", [1, 9, 4000])
def test_aLittleTooBig(extra):
    """A compressed message that ends soon after the limit, when zlib has taken all its bytes already, is refused and not cut."""
    client, peer, _ = opened(
        "Sec-WebSocket-Extensions: permessage-deflate", compression=True, maxMessageSize=65_536, url="ws://server.example/"
    )
    for size in (65_536, 65_536 + extra):
        deflate = zlib.compressobj(9, wbits=-15)
        peer.send(frame(BINARY, (deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4], FIN | RSV1))
    assert result(client.readMessage()) == bytes(65_536)
    assert isinstance(failed(client.readMessage()), MessageTooBig)


def test_afterTheLastBlock():
    """What follows the last block of a compressed message, which zlib keeps, counts against the limit in all its frames."""
    client, peer, _ = opened(
        "Sec-WebSocket-Extensions: permessage-deflate", compression=True, maxMessageSize=10_000, url="ws://server.example/"
    )
    last = zlib.compressobj(wbits=-15)
    waiting = client.readMessage()
    for number, payload in enumerate((last.compress(b"x") + last.flush(zlib.Z_FINISH), bytes(9_000), bytes(9_000))):
        assert not waiting.called
        data = bytearray(frame(0 if number else BINARY, payload, FIN if number else FIN | RSV1))
        data[0] &= 0x7F  # not the last frame of the message
        peer.send(bytes(data))
    assert isinstance(failed(waiting), MessageTooBig)


def test_afterFailure():
    """What was written before the server broke the rules, and is not yet under way, fails."""
    client, peer, _ = opened()
    peer.transport.room = 0
    first = client.writeBinaryMessage(b"x" * 20_000)
    second = client.writeTextMessage("y")
    peer.send(b"\x83\x00")
    peer.transport.room = None
    assert [int(each.opcode) for each in peer.frames()] == [BINARY, CLOSE]
    assert result(first) is None
    peer.hangUp()
    assert isinstance(failed(second), ConnectionClosed)


def test_ourBug(monkeypatch):
    """An internal error ends the connection with 1011 and a traceback in the log, and does not reach the reactor."""
    client, peer, _ = opened(readBuffer=1000)
    monkeypatch.setattr(peer.transport, "pauseProducing", lambda: 1 / 0)
    with capturedLogs() as logs:
        peer.text("x" * 2000)
    assert [each["log_level"] for each in logs] == [LogLevel.critical]
    assert result(client.readMessage()) == "x" * 2000
    assert failed(client.readMessage()).code == 1011
    assert [each.payload[0] for each in peer.frames()] == [1011]


def test_attributes():
    """A client has a dict for whatever its user wants to keep with it."""
    client, _, _ = opened()
    client.attributes["a"] = 1
    assert client.attributes == {"a": 1}


@pytest.mark.parametrize("data", [frame(CLOSE, b"\x03\xe8"), b"\x83\x00"])
def test_closedFromWithin(data):
    """Code that is told of the end may call `close` at once."""
    client, peer, _ = opened()
    client.readMessage().addErrback(lambda _: client.close(timeout=0) and None)
    peer.send(data)
    assert len(peer.frames()) == 1
    closed = client.whenClosed()
    peer.hangUp()
    assert result(closed) is None


def test_moreFromWithin():
    """Messages that come while another is handed on wait their turn."""
    client, peer, _ = opened()
    seen: list[Any] = []

    def more(message: Any) -> None:
        seen.append(message)
        if len(seen) < 3:
            client.readMessage().addCallback(more)
            peer.text(f"{len(seen)}")

    client.readMessage().addCallback(more)
    peer.text("0")
    assert seen == ["0", "1", "2"]


def test_pauseThatIsOver(monkeypatch):
    """When the reader takes what filled the queue in the middle of the pause, by a finaliser, the server is read on."""
    client, peer, _ = opened(readBuffer=1000)
    pause = peer.transport.pauseProducing
    read: list[Any] = []

    def readAll() -> None:
        read.append(client.readMessage())
        pause()

    monkeypatch.setattr(peer.transport, "pauseProducing", readAll)
    peer.text("x" * 2000)
    assert [result(each) for each in read] == ["x" * 2000]
    assert peer.transport.reading
    peer.text("more")
    assert result(client.readMessage()) == "more"


def test_pauseAfterTheEnd():
    """Too much that comes with the end of the connection fills the queue, and pauses nothing."""
    read: list[Any] = []
    client, peer, _ = opened(readBuffer=1000, onPing=lambda client, data: read.append(client.readMessage()))
    peer.text("x" * 2000)
    peer.send(frame(PING, b"") + frame(TEXT, b"y" * 2000) + frame(TEXT, b"z" * 9000))
    assert read == []
    peer.hangUp()
    assert [result(each) for each in (*read, client.readMessage(), client.readMessage())] == ["x" * 2000, "y" * 2000, "z" * 9000]


def test_latePong():
    """A pong, a ping or a message after our Close is ignored."""
    seen: list[Any] = []
    client, peer, _ = opened(onPong=lambda client, data: seen.append(data), onPing=lambda client, data: seen.append(data))
    client.close()
    peer.send(frame(PONG, b"x") + frame(PING, b"y") + frame(TEXT, b"z"))
    assert seen == []
    peer.hangUp()


def test_pongsForNobody():
    """Without a handler, an unsolicited pong is ignored."""
    client, peer, _ = opened()
    peer.send(frame(PONG, b"x"))
    assert client.isOpen()
