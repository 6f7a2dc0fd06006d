from __future__ import annotations

import tracemalloc
import zlib
from random import Random

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost

from tests.memory import ACCEPT, clientFrame, upgrade
from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld
from tests.wire.support import WireHost
from twisted_ws.errors import ConnectionClosed, HandlerError
from twisted_ws.frames import OutgoingMessage, frame
from twisted_ws.limits import Limits
from twisted_ws.message import BINARY, TEXT
from twisted_ws.service import WebSocketService, checkClose
from twisted_ws.wire.loop.turns import STEPS
from twisted_ws.wire.websocket import connection as module

MIB = 1024 * 1024
CLOSE_NORMAL = b"\x03\xe8"


def outcome(deferred):
    """Return what a Deferred has fired with, in a word."""
    found = []
    deferred.addCallbacks(lambda result: found.append("sent"), lambda failure: found.append(type(failure.value).__name__))
    return found[0] if found else "waiting"


class Service(WebSocketService):
    """Takes text, and does nothing."""

    def onTextMessage(self, caller, text):
        pass


class TestOpening:
    def test_the101(self):
        """The key of the example in RFC 6455 gets its accept value; there is no Server header."""
        host = WireHost()
        client = host.client()
        head = client.connect()
        assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert f"Sec-WebSocket-Accept: {ACCEPT}" in head
        assert "Server:" not in head
        assert host.recorders[0].events == [("opened",)]

    def test_extraHeaders(self):
        """The 101 has the service's headers, even two of one name."""
        host = WireHost(subProtocol="json", headers=(("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")))
        head = host.client().connect("/ws", Sec_WebSocket_Protocol="mqtt, json")
        assert "Sec-WebSocket-Protocol: json" in head
        assert "Set-Cookie: a=1\r\nSet-Cookie: b=2" in head

    def test_earlyFrames(self):
        """A frame in the same segment as the handshake is not lost."""
        host = WireHost()
        client = host.client()
        from tests.memory import upgrade

        client.send(upgrade() + clientFrame(TEXT, b"early"))
        assert host.recorders[0].messages() == ["early"]


class TestMessages:
    def test_kinds(self):
        """Text arrives as str, binary as bytes, in order, however the bytes are split."""
        for step in (1, 2, 3, 7, 1000):
            host = WireHost()
            client, recorder = host.open()
            client.send(
                clientFrame(TEXT, "grüß".encode())
                + clientFrame(BINARY, b"\x00\xff")
                + clientFrame(TEXT, b"fr", fin=False)
                + clientFrame(0, b"ag", fin=False)
                + clientFrame(9, b"ping")
                + clientFrame(0, b"ment"),
                step,
            )
            assert recorder.events == [
                ("opened",),
                ("message", "grüß"),
                ("message", b"\x00\xff"),
                ("ping", b"ping"),
                ("message", "fragment"),
            ]
            assert [(frame.opcode.value, bytes(frame.payload)) for frame in client.frames()] == [(10, b"ping")]

    @pytest.mark.parametrize(
        ("frames", "code", "error"),
        [
            pytest.param(clientFrame(TEXT, b"x", mask=None), 1002, "ProtocolError", id="unmasked"),
            pytest.param(clientFrame(TEXT, b"x", rsv=4), 1002, "ProtocolError", id="rsv1"),
            pytest.param(clientFrame(3, b"x"), 1002, "ProtocolError", id="reserved opcode"),
            pytest.param(clientFrame(11, b"x"), 1002, "ProtocolError", id="reserved control opcode"),
            pytest.param(clientFrame(0, b"x"), 1002, "ProtocolError", id="continuation of nothing"),
            pytest.param(clientFrame(TEXT, b"x", fin=False) + clientFrame(TEXT, b"y"), 1002, "ProtocolError", id="interleaved"),
            pytest.param(clientFrame(9, b"x" * 126), 1002, "ProtocolError", id="long ping"),
            pytest.param(clientFrame(9, b"x", fin=False), 1002, "ProtocolError", id="fragmented ping"),
            pytest.param(clientFrame(8, b"x"), 1002, "ProtocolError", id="close of one byte"),
            pytest.param(clientFrame(8, b"\x03\xed"), 1002, "ProtocolError", id="close 1005"),
            pytest.param(clientFrame(8, b"\x13\x88" + b"x"), 1002, "ProtocolError", id="close 5000"),
            pytest.param(clientFrame(8, b"\x00\x00\xff"), 1002, "ProtocolError", id="close 0, reason not UTF-8"),
            pytest.param(clientFrame(8, CLOSE_NORMAL + b"\xff"), 1007, "InvalidPayload", id="close reason not UTF-8"),
            pytest.param(clientFrame(TEXT, b"\xff\xfe"), 1007, "InvalidPayload", id="text not UTF-8"),
            pytest.param(clientFrame(TEXT, b"\xe2\x82"), 1007, "InvalidPayload", id="text ends in a character"),
            pytest.param(clientFrame(BINARY, b"x" * 101), 1009, "MessageTooBig", id="too big"),
            pytest.param(b"\x82\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0", 1009, "MessageTooBig", id="huge by its header"),
            pytest.param(b"\x82\xfe\x00\x05\0\0\0\0", 1002, "ProtocolError", id="length not minimal"),
        ],
    )
    def test_wrongFrames(self, frames, code, error):
        """What RFC 6455 forbids fails the connection once, with the right code, and nothing after it is read."""
        host = WireHost(Limits(maxMessageSize=100))
        client, recorder = host.open()
        client.send(frames + clientFrame(TEXT, b"after"))
        close = client.closeFrame()
        assert close is not None
        assert close[0] == code
        assert recorder.events == [("opened",), ("failed", error, code)]
        assert client.transport.writeClosed
        assert not client.transport.closed
        client.hangUp()
        assert recorder.events[2:] == [("closed", code, close[1])]

    def test_reasonsLeakNothing(self):
        """The reason on the wire is fixed, whatever the peer sent."""
        host = WireHost()
        client, _ = host.open()
        client.send(clientFrame(TEXT, b"secret \xff"))
        assert client.closeFrame() == (1007, "invalid payload")

    def test_messageOfExactlyTheLimit(self):
        """A message at the limit is accepted, one byte more is not."""
        host = WireHost(Limits(maxMessageSize=1000))
        client, recorder = host.open()
        client.send(clientFrame(BINARY, b"x" * 1000))
        assert recorder.messages() == [b"x" * 1000]
        client.send(clientFrame(BINARY, b"x" * 1001))
        assert client.closeFrame() == (1009, "message too big")

    @pytest.mark.parametrize("payload", [b"", b"ab"])
    def test_fragmentsAreCharged(self, payload):
        """Fragments cost 64 bytes on top of their payload, so that empty ones cannot pile up."""
        host = WireHost(Limits(maxMessageSize=6400))
        client, recorder = host.open()
        client.send(clientFrame(BINARY, payload, fin=False) + clientFrame(0, payload, fin=False) * 90)
        assert recorder.events == [("opened",)]
        client.send(clientFrame(0, payload, fin=False) * 10)
        assert client.closeFrame() == (1009, "message too big")

    def test_manyReadsOfOneMessage(self):
        """A message that comes byte by byte is held once, not as an object for each read."""
        host = WireHost()
        client, recorder = host.open()
        data = clientFrame(BINARY, b"x" * 20_000)
        client.send(data[:15_000], 1)
        tracemalloc.start()
        try:
            client.send(data[15_000:18_000], 1)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 3000 * 20  # an object for each byte would take twice as much
        client.send(data[18_000:], 1)
        assert recorder.messages() == [b"x" * 20_000]

    def test_messageRate(self):
        """A caller that exceeds the message rate is closed with 1008."""
        host = WireHost(Limits(messageRate=5))
        client, recorder = host.open()
        client.send(clientFrame(TEXT, b"x") * 5)
        client.advance(1)
        client.send(clientFrame(TEXT, b"x") * 5)
        assert len(recorder.messages()) == 10
        client.send(clientFrame(TEXT, b"x"))
        assert client.closeFrame() == (1008, "too many messages")
        assert len(recorder.messages()) == 10


class TestControlFrames:
    @pytest.mark.parametrize("step", [1, 7, None])
    def test_onePongForEachPing(self, step):
        """Each ping gets its pong, in order, whether pings come one by one or together, and even if other frames wait."""
        host = WireHost()
        client, recorder = host.open()
        pings = [b"%d" % n for n in range(99)]
        client.transport.room = 0
        recorder.connection.writeFrame(TEXT, b"first")
        recorder.connection.writeFrame(TEXT, b"second")
        client.send(b"".join(clientFrame(9, ping) for ping in pings), step)
        client.transport.room = None
        frames = client.frames()
        assert [bytes(f.payload) for f in frames if f.opcode.value == 10] == pings
        assert [f.payload for f in frames if f.opcode.value == 1] == ["first", "second"]

    def test_pingsThatAreNotHeard(self):
        """A peer that takes no pongs is not read from while as much waits as for other replies; later it gets them all."""
        host = WireHost(Limits(replyBuffer=5_000))
        client, recorder = host.open()
        client.transport.room = 0
        sent = 0
        while client.transport.reading:
            client.send(clientFrame(9, b"%0100d" % sent))
            sent += 1
            assert sent < 99
        assert recorder.connection.bufferedAmount() <= 5_000
        client.transport.room = None
        assert [int(bytes(f.payload)) for f in client.frames()] == list(range(sent))
        assert client.transport.reading

    def test_controlRate(self):
        """More than 100 control frames a second close the connection with 1008."""
        host = WireHost()
        client, _ = host.open()
        client.send(clientFrame(9) * 60 + clientFrame(10) * 40)
        assert client.closeFrame() is None
        client.send(clientFrame(10))
        assert client.closeFrame() == (1008, "too many control frames")

    def test_serviceAnswersPings(self):
        """If the service takes the ping, no automatic pong is sent."""
        host = WireHost()
        client, recorder = host.open()
        recorder.answersPings = True
        client.send(clientFrame(9, b"x"))
        assert client.frames() == []

    def test_unsolicitedPong(self):
        """An unsolicited pong is an event, and does no harm while a ping is pending."""
        host = WireHost()
        client, recorder = host.open()
        client.advance(25)
        client.send(clientFrame(10, b"hello") * 50)
        assert recorder.events.count(("pong", b"hello")) == 50
        assert client.closeFrame() is None


class TestKeepAlive:
    def test_pings(self):
        """A ping goes out every 25 s, and the service does not see its pong."""
        host = WireHost()
        client, recorder = host.open()
        for _ in range(4):
            client.advance(24.5)
            assert client.frames() == []
            client.advance(0.75)
            (ping,) = client.frames()
            client.send(clientFrame(10, bytes(ping.payload)))
        assert recorder.events == [("opened",)]

    def test_noPong(self):
        """A peer that does not answer is dropped after the ping timeout, even if it sends messages."""
        host = WireHost()
        client, recorder = host.open()
        client.advance(25.25)
        for _ in range(9):
            client.send(clientFrame(TEXT, b"I do not read"))
            client.advance(1)
        assert not client.transport.closed
        client.advance(1.25)
        assert client.transport.aborted
        assert recorder.events[-2:] == [("failed", "TransportError", None), ("closed", 1006, "")]

    def test_aLongUpload(self):
        """A peer in the middle of a frame cannot answer, and is not dropped for that."""
        host = WireHost()
        client, recorder = host.open()
        data = clientFrame(BINARY, b"x" * 10_000)
        client.send(data[:10])
        for n in range(10, 8010, 100):
            client.advance(1)
            client.send(data[n : n + 100])
        client.send(data[8010:])
        assert recorder.messages() == [b"x" * 10_000]
        pings = [bytes(f.payload) for f in client.frames()]
        client.send(clientFrame(10, pings[-1]))
        assert not client.transport.closed

    def test_anEndlessUpload(self):
        """A peer that sends a byte of a frame now and then is dropped like any other that does not answer."""
        host = WireHost()
        client, _ = host.open()
        data = clientFrame(BINARY, b"x" * 1000)
        for n in range(40):
            client.send(data[n : n + 1])
            client.advance(1)
        assert client.transport.aborted

    def test_intervalOff(self):
        """Interval 0 sends no pings."""
        host = WireHost(Limits(pingInterval=0))
        client, _ = host.open()
        client.advance(200, 1)
        assert client.frames() == []


class TestAfterOurClose:
    """What a peer sends after our Close, read or not."""

    def test_whatWasOnItsWay(self):
        """A peer that sends more before it reads our Close closes like any other, and is read until then."""
        host = WireHost(Limits(lingerBytes=100_000))
        client, recorder = host.open()
        client.send(clientFrame(1, b"unmasked", mask=None))
        for _ in range(90):
            client.send(clientFrame(1, bytes(1000)))
            assert client.transport.reading
        assert client.closeFrame()[0] == 1002
        client.hangUp()
        assert recorder.events[-1][:2] == ("closed", 1002)

    @pytest.mark.parametrize("why", ["violation", "service"])
    def test_goesOnForEver(self, why):
        """A peer that keeps sending is read no further than the limits allow, and is reset at the deadline, not before."""
        limits = Limits(lingerBytes=100_000, maxMessageSize=50_000, closeDeadline=5)
        host = WireHost(limits)
        client, recorder = host.open()
        most = limits.lingerBytes
        if why == "violation":
            client.send(clientFrame(1, b"unmasked", mask=None))
        else:
            recorder.connection.startClose(checkClose(1000, ""), 5)
            most += limits.maxMessageSize
        taken = 0
        while client.transport.reading:
            client.send(clientFrame(1, bytes(1000)))
            taken += 1008
        assert most <= taken <= most + 2000
        client.advance(4)
        assert client.closeFrame() is not None
        assert not client.transport.closed
        client.advance(1.5)
        assert client.transport.aborted

    @pytest.mark.parametrize("why", ["violation", "service", "stop"])
    @pytest.mark.parametrize("end", [pytest.param("stalls", marks=pytest.mark.exhaustive), "has all"])
    def test_readsSlowly(self, behind, why, end):
        """A peer that reads slowly still gets what was written before our Close, within the time that the close may take."""
        host = WireHost(Limits(closeDeadline=5, writeDeadline=30, pingInterval=0))
        client, recorder = host.open()
        client.transport.fileno = behind.writing.fileno
        # What the kernel sends on after it was read from is progress, too: a peer that stalls has none of that to come.
        settle = behind.settle if end == "stalls" else lambda: None
        if why == "violation":
            client.send(clientFrame(1, b"unmasked", mask=None))
        else:
            recorder.connection.startClose(checkClose(1001, ""), 60 if why == "service" else 20)
        client.advance(0.25)
        behind.read(20_000)
        settle()
        client.advance(5.5)
        assert not client.transport.closed
        for _ in range(0 if why == "stop" else 1):
            behind.read(20_000)
            settle()
            client.advance(30.5)
            assert not client.transport.closed
        behind.read(0 if end == "stalls" else 10_000_000)
        client.advance(30.5)
        assert client.transport.aborted

    def test_stalls(self, behind):
        """A peer that takes nothing of what was written before our Close gets no more time than one that has it all."""
        host = WireHost(Limits(closeDeadline=5))
        client, recorder = host.open()
        client.transport.fileno = behind.writing.fileno
        recorder.connection.startClose(checkClose(1001, ""), 60)
        client.advance(5.5)
        assert client.transport.aborted

    def test_flooding(self, monkeypatch):
        """A peer from which something is always unread is dropped at the deadline, too."""
        host = WireHost(Limits(closeDeadline=5))
        client, _ = host.open()
        monkeypatch.setattr(module, "hasUnread", lambda transport: True)
        client.send(clientFrame(1, b"unmasked", mask=None))
        client.advance(5.5)
        assert client.transport.aborted


class TestOurDelays:
    """A peer does not pay for our own delays."""

    def test_noPongWhileStandingStill(self):
        """While the reactor stands still, however long, no peer is late with its pong; one that does not answer afterwards is."""
        host = WireHost()
        good, _ = host.open()
        dead, _ = host.open()
        good.advance(25.25)
        (ping,) = good.frames()
        assert len(dead.frames()) == 1
        for jump in (9.9, 3600, 0.6):
            host.clock.jump(jump)
        good.advance(1)
        good.send(clientFrame(10, bytes(ping.payload)))
        good.advance(10)
        assert not good.transport.closed
        assert dead.transport.aborted

    def test_whatIsUnread(self, monkeypatch):
        """No pong, message or Close counts as missing while something waits to be read; for a pong this counts once."""
        host = WireHost(idleTimeout=60)
        unread = set()
        monkeypatch.setattr(module, "hasUnread", lambda transport: transport in unread)
        (talker, _), (mute, _), (idle, told), (closing, ended) = (host.open() for _ in range(4))

        def live(seconds):
            for _ in range(round(seconds * 4)):
                talker.advance(0.25)
                mute.transport.settle()
                for client in (idle, closing):
                    for each in client.frames():
                        if each.opcode.value == 9:
                            client.send(clientFrame(10, bytes(each.payload)))

        live(25)
        unread |= {talker.transport, mute.transport}
        live(10.5)
        assert not talker.transport.closed
        talker.send(clientFrame(10, bytes(next(f for f in talker.frames() if f.opcode.value == 9).payload)))
        unread.clear()
        live(10)
        assert not talker.transport.closed
        assert mute.transport.aborted
        unread.add(idle.transport)
        live(30)
        assert ("idle",) not in told.events
        unread.clear()
        live(0.5)
        assert ("idle",) in told.events
        ended.connection.startClose(checkClose(1000, ""), 5)
        unread.add(closing.transport)
        live(60)
        assert not closing.transport.closed
        closing.send(clientFrame(8, checkClose(1000, "")))
        assert ended.events[-1] == ("closed", 1000, "")

    @pytest.mark.parametrize("busy", [False, True])
    @pytest.mark.parametrize("first", ["read", "deadlines"])
    @pytest.mark.parametrize("before", [0, 1])
    @pytest.mark.parametrize("how", ["standing still", "paused"])
    def test_rates(self, how, before, first, busy):
        """What was sent in time, and read late, is within the rate; anything beyond that is not.

        So it is whether or not anything had come before, and whatever the reactor does first, or besides, when it goes on.
        """
        host = WireHost(Limits(messageRate=50, controlRate=50))
        host.clock.jump(100)
        client, recorder = host.open()
        sent = (clientFrame(9) + clientFrame(TEXT, b"x")) * 40
        client.send(sent * before)
        client.advance(1)
        if how == "paused":
            recorder.connection.pauseReading()
            client.advance(10)
            recorder.connection.resumeReading()
        elif first == "read":
            host.clock.rightNow += 10
        else:
            host.clock.jump(10)
        if busy:
            host.runtime.turns.left -= STEPS  # by others, in this turn
        client.send(sent * 10)
        host.clock.advance(0)  # so much takes some turns
        assert not client.transport.writeClosed
        assert len(recorder.messages()) == (before + 10) * 40
        client.advance(1)
        client.send(sent * 5)
        host.clock.advance(0)
        assert client.closeFrame()[0] == 1008

    def test_pauseThatIsOver(self):
        """A pause that a finaliser ends halfway is over: the peer is read, and its rate allows for no pause."""
        host = WireHost(Limits(messageRate=50))
        client, recorder = host.open()
        connection, pause = recorder.connection, client.transport.pauseProducing

        def resumed():
            connection.resumeReading()
            pause()

        client.transport.pauseProducing = resumed
        connection.pauseReading()
        assert client.transport.reading
        client.transport.pauseProducing = pause
        client.advance(10)
        for _ in range(3):  # for two reasons at once, and one of them twice
            connection.pauseReading()
            connection.pauseReading()
            connection.resumeReading()
        client.send(clientFrame(TEXT, b"x") * 50)
        assert len(recorder.messages()) == 50
        client.send(clientFrame(TEXT, b"x"))
        assert client.closeFrame()[0] == 1008

    def test_standingStillElsewhere(self):
        """Time in which the reactor stands still does not count for a peer that is idle, takes bytes, shakes hands or closes."""
        host = WireHost(idleTimeout=30)
        host.answer = lambda request: Deferred() if request.path == "/later" else succeed(host.welcome)
        idle, told = host.open()
        slow, _ = host.open()
        slow.transport.room = 0
        host.recorders[-1].connection.writeFrame(TEXT, b"x")
        closing, _ = host.open()
        host.recorders[-1].connection.startClose(checkClose(1000, ""), 5)
        head, deciding = host.client(), host.client()
        head.send(b"GET /ws HTTP/1.1\r\n")
        deciding.send(upgrade("/later"))
        idle.advance(3)
        host.clock.jump(3600)
        idle.advance(1.5)
        assert [client.transport.closed for client in (idle, slow, closing, head, deciding)] == [False] * 5
        assert head.received() == deciding.received() == b""
        assert told.events == [("opened",)]
        closing.advance(1)
        assert closing.transport.aborted
        head.advance(5.5)
        assert head.received().startswith(b"HTTP/1.1 408 ")
        assert deciding.received().startswith(b"HTTP/1.1 503 ")
        slow.advance(20)
        assert slow.transport.aborted


class TestSlowPeers:
    def test_writeFires(self):
        """A write's Deferred fires when the kernel has the bytes, not before."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 3
        wrote = recorder.connection.writeFrame(TEXT, b"hello")
        client.transport.settle()
        assert outcome(wrote) == "waiting"
        assert recorder.connection.bufferedAmount() == 7
        client.transport.room = None
        client.transport.settle()
        assert outcome(wrote) == "sent"
        assert recorder.connection.bufferedAmount() == 0

    def test_overTheCap(self):
        """A caller over its cap is closed with 1013, its memory is freed, and its writes fail."""
        host = WireHost(Limits(maxSendBuffer=100_000))
        client, recorder = host.open()
        client.transport.room = 0
        writes = [recorder.connection.writeFrame(BINARY, b"x" * 10_000) for _ in range(12)]
        assert ("failed", "SlowConsumer", 1013) in recorder.events
        assert recorder.connection.bufferedAmount() < 30_000
        assert outcome(writes[5]) == "ConnectionClosed"
        client.transport.room = None
        client.transport.settle()
        assert client.closeFrame() == (1013, "too slow")
        assert outcome(recorder.connection.writeFrame(TEXT, b"x")) == "ConnectionClosed"

    def test_slowPeerThatNeverReads(self):
        """A peer that takes nothing at all is dropped after the close deadline."""
        host = WireHost(Limits(maxSendBuffer=100_000))
        client, recorder = host.open()
        client.transport.room = 0
        for _ in range(12):
            recorder.connection.writeFrame(BINARY, b"x" * 10_000)
        client.advance(5.5)
        assert client.transport.aborted
        assert recorder.connection.bufferedAmount() == 0
        assert host.runtime.backlog.total == 0

    def test_noProgress(self):
        """If waiting bytes make no progress for 30 s, the connection ends, whatever the peer sends."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 0
        recorder.connection.writeFrame(TEXT, b"hello")
        for _ in range(29):
            client.advance(1)
            client.send(clientFrame(TEXT, b"x"))
        assert not client.transport.closed
        client.advance(2)
        assert client.transport.aborted
        assert ("failed", "TransportError", None) in recorder.events

    def test_slowProgressIsProgress(self):
        """A peer that takes a slice in every 20 s is slow, not gone."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 0
        wrote = recorder.connection.writeFrame(BINARY, b"x" * 100_000)
        for _ in range(7):
            client.transport.room = 16 * 1024
            client.live(20)
        assert outcome(wrote) == "sent"
        assert not client.transport.closed

    def test_everyoneTogether(self):
        """Over the cap for all together, the largest goes first and the others stay."""
        host = WireHost(Limits(maxSendBufferTotal=100_000))
        pairs = [host.open() for _ in range(4)]
        for client, _ in pairs:
            client.transport.room = 0
        for size, (_, recorder) in zip((10_000, 40_000, 20_000, 30_000), pairs, strict=True):
            recorder.connection.writeFrame(BINARY, b"x" * size)
            recorder.connection.writeFrame(BINARY, b"x")
        assert [recorder.connection.isOpen() for _, recorder in pairs] == [True, False, True, True]
        assert [client.transport.aborted for client, _ in pairs] == [False, True, False, False]
        assert host.runtime.backlog.total < 100_000

    def test_pongsOvertake(self):
        """Control frames overtake waiting messages, but never split a frame."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 100
        recorder.connection.writeFrame(BINARY, b"a" * 50_000)
        recorder.connection.writeFrame(BINARY, b"b" * 50_000)
        client.send(clientFrame(9, b"ping"))
        client.transport.room = None
        frames = client.frames()
        assert [f.opcode.value for f in frames if f.frame_finished] == [2, 10, 2]

    def test_repliesNotRead(self):
        """A peer that does not read its replies is not read from until it does."""
        host = WireHost()
        client, recorder = host.open()
        recorder.onMessage = lambda r, message: r.connection.writeFrame(BINARY, message)
        client.transport.room = 0
        for _ in range(8):
            client.send(clientFrame(BINARY, b"x" * 10_000))
        assert not client.transport.reading
        client.transport.room = None
        client.transport.settle()
        assert client.transport.reading
        assert len(client.messages()) == 8

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_awaitingWritesLetsTheReactorTurn(self, monkeypatch, implementation):
        """Of many writes in a row that the kernel takes at once, some fire one turn later."""
        world = LaneWorld(implementation, monkeypatch, Service())
        client = world.connect(1 << 20)
        (caller,) = world.server.callers
        outcomes = []
        for _ in range(512):
            outcomes.append(outcome(caller.writeTextMessage("x")))
            assert world.read(client) == b"\x81\x01x"
        assert outcomes.count("waiting") == 2
        assert outcome(caller.writeTextMessage("x")) == "sent"
        world.close()


class TestClosing:
    def test_byThePeer(self):
        """The peer's Close is answered with its own code and reason, and the server closes first."""
        host = WireHost()
        client, recorder = host.open()
        client.send(clientFrame(8, (4001).to_bytes(2, "big") + b"bye"))
        assert client.closeFrame() == (4001, "bye")
        assert client.transport.closed
        assert not client.transport.aborted
        assert recorder.events == [("opened",), ("closed", 4001, "bye")]

    @pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999])
    def test_codesOfThePeer(self, code):
        """Every code that may be sent is accepted, in the peer's Close and in its answer to ours."""
        host = WireHost()
        client, recorder = host.open()
        client.send(clientFrame(8, checkClose(code, "why")))
        assert client.received() == frame(8, checkClose(code, "why"))
        assert recorder.events == [("opened",), ("closed", code, "why")]
        client, recorder = host.open()
        recorder.connection.startClose(checkClose(code, ""), 60)
        client.send(clientFrame(8, checkClose(code, "")))
        assert client.received() == frame(8, checkClose(code, ""))
        assert client.transport.closed
        assert recorder.events == [("opened",), ("closed", code, "")]

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
    def test_codesThatCannotBe(self, code):
        """A Close with any other code is a protocol error."""
        host = WireHost()
        client, recorder = host.open()
        client.send(clientFrame(8, code.to_bytes(2, "big")))
        assert client.closeFrame() == (1002, "protocol error")
        assert recorder.events[1] == ("failed", "ProtocolError", 1002)

    def test_byThePeerWithoutCode(self):
        """A Close without a code is 1005."""
        host = WireHost()
        client, recorder = host.open()
        client.send(clientFrame(8))
        assert recorder.events[-1] == ("closed", 1005, "")

    def test_withoutClose(self):
        """An end without Close is 1006; a broken connection is an error first."""
        host = WireHost()
        client, recorder = host.open()
        client.hangUp()
        assert recorder.events == [("opened",), ("closed", 1006, "")]
        client, recorder = host.open()
        client.hangUp(ConnectionLost())
        assert recorder.events == [("opened",), ("failed", "TransportError", None), ("closed", 1006, "")]

    def test_byTheService(self):
        """The service's Close follows what it wrote; the peer's answer ends the connection, and the Deferred fires."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.writeFrame(TEXT, b"last words")
        closed = recorder.connection.startClose(checkClose(4000, "done"), 60)
        assert outcome(recorder.connection.writeFrame(TEXT, b"too late")) == "ConnectionClosed"
        assert [(f.opcode.value, f.payload) for f in client.frames()] == [(1, "last words"), (8, (4000, "done"))]
        client.send(clientFrame(TEXT, b"not delivered") + clientFrame(8, (4000).to_bytes(2, "big")))
        assert client.transport.closed
        assert not client.transport.aborted
        assert outcome(closed) == "sent"
        assert recorder.events == [("opened",), ("closed", 4000, "")]

    def test_noAnswer(self):
        """A peer that does not answer our Close is dropped 5 s after getting it."""
        host = WireHost()
        client, recorder = host.open()
        closed = recorder.connection.startClose(checkClose(1000, ""), 60)
        client.advance(4.75)
        assert not client.transport.closed
        client.advance(0.75)
        assert client.transport.aborted
        assert outcome(closed) == "sent"
        assert recorder.events == [("opened",), ("closed", 1006, "")]

    def test_timeoutCoversTheQueue(self):
        """The timeout of a close includes the time that queued bytes take."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 0
        recorder.connection.writeFrame(TEXT, b"stuck")
        recorder.connection.startClose(checkClose(1000, ""), 8)
        client.advance(7.75)
        assert not client.transport.closed
        client.advance(0.75)
        assert client.transport.aborted

    def test_timeoutZero(self):
        """With timeout 0 our Close goes out, and the peer's is not awaited."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.startClose(checkClose(1000, ""), 0)
        assert client.closeFrame() == (1000, "")
        assert client.transport.writeClosed
        client.hangUp()
        assert recorder.events[-1] == ("closed", 1006, "")

    def test_closeTwice(self):
        """Every close has its own Deferred, the shortest timeout counts, and on a closed connection it fires at once."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 0
        recorder.connection.writeFrame(TEXT, b"stuck")
        first = recorder.connection.startClose(checkClose(1000, ""), 60)
        second = recorder.connection.startClose(checkClose(1001, ""), 2)
        client.advance(2.5)
        assert outcome(first) == outcome(second) == "sent"
        assert outcome(recorder.connection.startClose(checkClose(1001, ""), 2)) == "sent"

    def test_peerClosesAndNeverReads(self):
        """A peer that sends Close and reads nothing is dropped after 5 s, and what waited is freed at once."""
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 0
        wrote = recorder.connection.writeFrame(BINARY, b"x" * 500_000)
        client.send(clientFrame(8, CLOSE_NORMAL))
        assert recorder.connection.bufferedAmount() <= 500_014
        client.advance(5.5)
        assert client.transport.aborted
        assert outcome(wrote) == "ConnectionClosed"
        assert recorder.events[-1] == ("closed", 1000, "")

    def test_invalidCloseWhileClosing(self):
        """A violation after our Close fails the connection without a second Close."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.startClose(checkClose(1000, ""), 60)
        client.send(clientFrame(3, b"x"))
        assert [f.opcode.value for f in client.frames()] == [8]
        assert recorder.events[1] == ("failed", "ProtocolError", 1002)
        client.advance(6)
        assert client.transport.closed

    def test_handlerError(self):
        """A failed handler closes with 1011, without details, after what was written before."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.writeFrame(TEXT, b"before")
        recorder.connection.fail(HandlerError("secret", "onTextMessage"))
        assert [(f.opcode.value, f.payload) for f in client.frames()] == [(1, "before"), (8, (1011, "internal error"))]

    def test_abort(self):
        """Abort drops at once."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.abort()
        assert client.transport.aborted
        assert recorder.events[-1] == ("closed", 1006, "")

    def test_nothingIsLeft(self):
        """After the end nothing waits on the wheel, in the gate or in the backlog."""
        host = WireHost()
        for _ in range(20):
            client, recorder = host.open()
            recorder.connection.writeFrame(TEXT, b"x")
            client.hangUp()
        assert len(host.runtime.wheel) == 0
        assert host.clock.getDelayedCalls() == []
        assert host.runtime.gate.open == 0
        assert host.runtime.backlog.total == 0


class TestIdle:
    def test_idle(self):
        """Without data frames for the timeout, the service is told; messages in either direction put that off."""
        host = WireHost(idleTimeout=60)
        client, recorder = host.open()

        for n in range(6):
            client.live(40)
            if n % 2:
                client.send(clientFrame(TEXT, b"x"))
            else:
                recorder.connection.writeFrame(TEXT, b"x")
        assert ("idle",) not in recorder.events
        client.live(61)
        assert recorder.events.count(("idle",)) == 1

    def test_notIdleInAMessage(self):
        """The frames of an incomplete message count as data, too."""
        host = WireHost(idleTimeout=60)
        client, recorder = host.open()
        client.send(clientFrame(TEXT, b"x", fin=False))
        for _ in range(3):
            client.live(40)
            client.send(clientFrame(0, b"x", fin=False))
        assert ("idle",) not in recorder.events
        client.live(61)
        assert recorder.events.count(("idle",)) == 1


class TestReading:
    def test_pause(self):
        """Reading pauses and resumes; what was read already is still delivered; a close resumes it."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.pauseReading()
        assert not client.transport.reading
        recorder.connection.resumeReading()
        assert client.transport.reading
        recorder.connection.pauseReading()
        recorder.connection.startClose(checkClose(1000, ""), 60)
        assert client.transport.reading
        client.send(clientFrame(8, CLOSE_NORMAL))
        assert client.transport.closed

    def test_pausedPeersAreNotJudged(self):
        """While the server does not read, a missing pong does not count."""
        host = WireHost()
        client, recorder = host.open()
        recorder.connection.pauseReading()
        client.advance(200, 1)
        assert not client.transport.closed


def _deflated(message):
    """Return the payload of a compressed message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(9, wbits=-15)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class TestDeflate:
    OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

    def test_offByDefault(self):
        """Without compression the offer is declined."""
        host = WireHost()
        assert "permessage-deflate" not in host.client().connect("/ws", self.OFFER)

    def test_roundTrip(self):
        """Messages are inflated, and replies deflated, without context takeover."""
        host = WireHost(compression=True)
        client = host.client()
        assert "Sec-WebSocket-Extensions: permessage-deflate" in client.connect("/ws", self.OFFER)
        recorder = host.recorders[-1]
        compressor = zlib.compressobj(wbits=-15)
        body = compressor.compress(b"x" * 1000) + compressor.flush(zlib.Z_SYNC_FLUSH)
        client.send(clientFrame(BINARY, body[:-4], rsv=4))
        assert recorder.messages() == [b"x" * 1000]
        recorder.connection.writeFrame(BINARY, b"y" * 1000)
        recorder.connection.writeFrame(TEXT, b"short")
        data = client.received()
        assert data[0] == 0xC2
        assert zlib.decompressobj(wbits=-15).decompress(data[2 : 2 + data[1]] + b"\0\0\xff\xff") == b"y" * 1000
        assert data[2 + data[1] :] == b"\x81\x05short"

    def test_atTheLimit(self):
        """A message at the limit is accepted, even if it does not compress."""
        host = WireHost(Limits(maxMessageSize=100_000), compression=True)
        client, recorder = host.open(self.OFFER)
        for extra in (0, 1):
            message = Random(1).randbytes(100_000 + extra)
            compressor = zlib.compressobj(wbits=-15)
            body = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
            client.send(clientFrame(BINARY, body[:-4], rsv=4))
            assert len(recorder.messages()) == 1
        assert client.closeFrame() == (1009, "message too big")

    def test_bomb(self):
        """Inflation stops at the message limit."""
        host = WireHost(Limits(maxMessageSize=10_000), compression=True)
        client, recorder = host.open(self.OFFER)
        compressor = zlib.compressobj(9, wbits=-15)
        bomb = compressor.compress(bytes(5_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert len(bomb) < 10_000
        client.send(clientFrame(BINARY, bomb[:-4], rsv=4))
        assert client.closeFrame() == (1009, "message too big")
        assert recorder.messages() == []

    @pytest.mark.parametrize("extra", [1, 9, 258, 4000])
    def test_aLittleOverTheLimit(self, extra):
        """A message that ends just after the limit, when zlib already has all its bytes, is refused, not cut."""
        host = WireHost(Limits(maxMessageSize=65_536), compression=True)
        client, recorder = host.open(self.OFFER)
        for size in (65_536, 65_536 + extra):
            client.send(clientFrame(BINARY, _deflated(bytes(size)), rsv=4))
            assert recorder.messages() == [bytes(65_536)]
        assert client.closeFrame() == (1009, "message too big")

    @pytest.mark.parametrize("step", [100, None])
    @pytest.mark.parametrize("fragments", [False, True])
    def test_bombsAreNotInflatedBeyondTheLimit(self, step, fragments):
        """While 64 MB come as 64 KB, memory stays within the limit, what was read, and one inflated chunk of it."""
        limit = 1_000_000
        host = WireHost(Limits(maxMessageSize=limit), compression=True)
        client, recorder = host.open(self.OFFER)
        bomb = _deflated(bytes(1 << 26))
        half = 300 if fragments else len(bomb)
        data = clientFrame(BINARY, bomb[:half], fin=not fragments, rsv=4)
        if fragments:
            data += clientFrame(0, bomb[half:])
        tracemalloc.start()
        try:
            client.send(data, step)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert client.closeFrame() == (1009, "message too big")
        assert recorder.messages() == []
        # A chunk is inflated in zlib's blocks, which are then joined.
        chunk = limit if step is None else 1032 * step
        assert peak < limit + 2 * chunk + 4 * len(data)

    def test_afterTheLastBlock(self):
        """Bytes after the last block of a compressed message, which zlib keeps, count against the limit in all its frames."""
        host = WireHost(Limits(maxMessageSize=10_000), compression=True)
        client, recorder = host.open(self.OFFER)
        last = zlib.compressobj(wbits=-15)
        client.send(clientFrame(BINARY, last.compress(b"x") + last.flush(zlib.Z_FINISH), fin=False, rsv=4))
        client.send(clientFrame(0, bytes(9_000), fin=False))
        assert client.closeFrame() is None
        client.send(clientFrame(0, bytes(9_000), fin=False))
        assert client.closeFrame() == (1009, "message too big")
        assert recorder.messages() == []

    @pytest.mark.parametrize(("memory", "bits"), [(1, -9), (4, -9), (5, -12), (8, -12), (9, -15)])
    def test_noise(self, memory, bits):
        """A message at the limit that does not compress is taken, however much longer its compressor makes it."""
        host = WireHost(Limits(maxMessageSize=100_000), compression=True)
        client, recorder = host.open(self.OFFER)
        noise = Random(1).randbytes(100_000)
        compressor = zlib.compressobj(1, wbits=bits, memLevel=memory)
        client.send(clientFrame(BINARY, (compressor.compress(noise) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4))
        assert recorder.messages() == [noise]

    def test_manyCompressedMessages(self):
        """The limit applies to each message by itself."""
        host = WireHost(Limits(maxMessageSize=10_000), compression=True)
        client, recorder = host.open(self.OFFER)
        noise = Random(1).randbytes(9_000)
        for _ in range(3):
            client.send(clientFrame(BINARY, _deflated(noise), rsv=4))
        assert recorder.messages() == [noise] * 3

    def test_garbage(self):
        """A message that does not inflate closes with 1007."""
        host = WireHost(compression=True)
        client, _ = host.open(self.OFFER)
        client.send(clientFrame(BINARY, b"\xff\xff\xff\xff", rsv=4))
        assert client.closeFrame() == (1007, "invalid payload")

    @pytest.mark.parametrize("fragments", [False, True])
    def test_cutInItsStream(self, fragments):
        """A message that ends anywhere inside its DEFLATE stream closes with 1007 and is not delivered; a whole one is."""
        host = WireHost(compression=True)
        noise = Random(1).randbytes(300)
        for message, level in ((b"some words, some more words, and some words" * 3, 9), (noise, 9), (noise, 0)):
            compressor = zlib.compressobj(level, wbits=-15)
            body = (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            for size in (2, 3, len(body) // 2, len(body) - 1, len(body)):
                client, recorder = host.open(self.OFFER)
                if fragments:
                    client.send(clientFrame(TEXT + (message == noise), body[: size // 2], fin=False, rsv=4))
                    client.send(clientFrame(0, body[size // 2 : size]))
                else:
                    client.send(clientFrame(TEXT + (message == noise), body[:size], rsv=4))
                if size == len(body):
                    assert client.closeFrame() is None
                    assert recorder.messages() == [message if message == noise else message.decode()]
                else:
                    assert client.closeFrame() == (1007, "invalid payload")
                    assert recorder.messages() == []

    def test_compressedOnce(self):
        """A broadcast is compressed once for all callers with the same window."""
        host = WireHost(compression=True)
        pairs = [host.open(self.OFFER) for _ in range(3)]
        message = OutgoingMessage(TEXT, b"z" * 500)
        assert all(recorder.connection.send(message) for _, recorder in pairs)
        assert len(message.deflated) == 1
        assert len({client.received() for client, _ in pairs}) == 1

    @pytest.mark.parametrize(
        "offer",
        [
            "permessage-deflate; nonsense",
            "permessage-deflate; server_max_window_bits=8",
            "x-webkit-deflate-frame",
            "permessage-bzip2",
        ],
    )
    def test_offersThatCannotBeTaken(self, offer):
        """Unknown and impossible offers are declined, and the next one counts."""
        host = WireHost(compression=True)
        assert "Extensions" not in host.client().connect("/ws", f"Sec-WebSocket-Extensions: {offer}")
        assert "Extensions: permessage-deflate" in host.client().connect(
            "/ws", f"Sec-WebSocket-Extensions: {offer}, permessage-deflate"
        )


def test_quietFailures():
    """A failed write that nobody handles leaves no "Unhandled error in Deferred"."""
    import gc

    from twisted.logger import LogLevel, capturedLogs

    from twisted_ws.wire.websocket.outbox import failedWrite

    with capturedLogs() as logs:
        failedWrite(ConnectionClosed())
        gc.collect()
    assert [event for event in logs if event["log_level"] >= LogLevel.error] == []
