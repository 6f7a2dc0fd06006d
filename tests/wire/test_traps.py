"""Each trap of Autobahn and Twisted: what stock does, and that this server does not."""

from __future__ import annotations

import gc
import warnings

import pytest
import txaio
from autobahn.exception import Disconnected
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.memory import MemoryClient, SteadyClock, clientFrame, upgrade
from tests.traced import traced
from tests.wire.stock import Stock
from tests.wire.support import WireHost
from twisted_ws.frames import OutgoingMessage
from twisted_ws.limits import Limits
from twisted_ws.message import BINARY, TEXT
from twisted_ws.server.server import WebSocketServer
from twisted_ws.service import checkClose
from twisted_ws.upgrade import Reject
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.connection import FEED

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
NORMAL = b"\x03\xe8"


@pytest.fixture(autouse=True)
def _stockClock():
    # `Stock` gives Autobahn's timers its clock; no other test should find it there.
    before = txaio.config.loop
    yield
    txaio.config.loop = before


def answered(server, data):
    """Return what a new client of `server` gets for `data`."""
    client = server.client()
    client.send(data)
    return client.received()


class Served:
    """A whole server in memory, with one service on /ws."""

    def __init__(self, service, limits=None):
        self.clock = SteadyClock()
        self.server = WebSocketServer(limits=limits, reactor=self.clock)
        self.server.mount("/ws", service)
        self.factory = self.server.factory()

    def client(self):
        return MemoryClient(self.factory, self.clock)


class TestHead:
    @pytest.mark.parametrize("byte", [b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85", b"\r", b"\n"])
    def test_headerInAHeader(self, byte):
        """A byte that only some parsers take for the end of a line cannot smuggle a header in."""
        data = upgrade("/ws", "X-A: a@X-Real-IP: 6.6.6.6").replace(b"@", byte)
        found = []
        stock = Stock(onConnect=lambda self, request: found.append(request.headers))
        answered(stock, data)
        assert found[0].get("x-real-ip") == "6.6.6.6"
        host = WireHost()
        if byte == b"\x85":  # opaque (RFC 9110 section 5.5), and a part of the value
            assert answered(host, data).startswith(b"HTTP/1.1 101 ")
            assert host.requests[0].headers["x-a"] == "a\x85X-Real-IP: 6.6.6.6"
            assert "x-real-ip" not in host.requests[0].headers
        else:
            assert answered(host, data).startswith(b"HTTP/1.1 400 ")
            assert host.requests == []

    @pytest.mark.parametrize("line", ["X-A : spaced", "no colon at all"])
    def test_sloppyHeaders(self, line):
        """A header whose name ends in a space, or that is none, is refused and not mended."""
        data = upgrade("/ws", line)
        assert answered(Stock(), data).startswith(b"HTTP/1.1 101 ")
        assert answered(WireHost(), data).startswith(b"HTTP/1.1 400 ")

    def test_endlessHead(self):
        """A head is bounded while it comes, not only in time."""
        data = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000
        stock = Stock()
        answered(stock, data)
        assert len(stock.last.data) == len(data)
        host = WireHost()
        client = host.client()
        client.send(data)
        assert client.received().startswith(b"HTTP/1.1 431 ")
        assert host.runtime.intake.total == 0

    def test_headIsForgotten(self):
        """An open connection does not keep the bytes of its handshake; the service's request has what is wanted."""
        stock = Stock()
        stock.open("Cookie: " + "x" * 8000)
        assert len(stock.last.http_request_data) > 8000
        _, recorder = WireHost().open("Cookie: " + "x" * 8000)
        kept = vars(recorder.connection)
        assert not [name for name, value in kept.items() if isinstance(value, (bytes, str)) and len(value) > 100]
        assert not {"http_request_data", "http_headers", "http_response_data", "_wskey", "_received"} & set(kept)

    @pytest.mark.parametrize("target", ["//evil/ws", "http://evil/ws"])
    def test_targetsWithAHost(self, target):
        """A target that a proxy could route differently is refused, and if it has a host, no other is read."""
        seen = []
        answered(Stock(onConnect=lambda self, request: seen.append((request.path, request.host))), upgrade(target))
        assert seen == [("/ws", "localhost")]
        host = WireHost()
        answer = answered(host, upgrade(target))
        if target.startswith("//"):
            assert answer.startswith(b"HTTP/1.1 400 ")
        else:
            assert [(request.path, request.headers["host"]) for request in host.requests] == [("/ws", "evil")]

    @pytest.mark.parametrize("version", ["1_3", "+13", "013"])
    def test_versionInDigits(self, version):
        """The version is 13 as it is written, not what some function can read as 13."""
        data = upgrade(Sec_WebSocket_Version=version)
        assert answered(Stock(), data).startswith(b"HTTP/1.1 101 ")
        assert answered(WireHost(), data).startswith(b"HTTP/1.1 426 ")

    def test_onlyVersion13(self):
        """The drafts before RFC 6455 are not spoken: their Origin is in another header, past any policy."""
        data = upgrade("/ws", "Origin: https://evil.example", Sec_WebSocket_Version="8")
        assert answered(Stock({"allowedOrigins": ["https://good.example:443"]}), data).startswith(b"HTTP/1.1 101 ")
        assert answered(WireHost(), data).startswith(b"HTTP/1.1 426 ")

    @pytest.mark.parametrize("query", ["redirect=http%3A%2F%2F%5B%3A%3A1", "redirect=http%3A%2F%2Fa&after=abc"])
    def test_queriesThatRaise(self, query):
        """No query makes dataReceived raise."""
        data = f"GET /?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        with pytest.raises(ValueError, match=r".+"):
            answered(Stock(), data)
        assert answered(WireHost(), data).startswith(b"HTTP/1.1 426 ")

    def test_noStatusPage(self):
        """There is no status page, so no open redirect, and no version of anything."""
        redirect = b"GET /?redirect=http%3A%2F%2Fevil.example HTTP/1.1\r\nHost: a\r\n\r\n"
        plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert b"Location: http://evil.example" in answered(Stock(), redirect)
        assert b"Autobahn" in answered(Stock(), plain)
        for data in (redirect, plain, upgrade()):
            received = answered(WireHost(), data)
            assert b"evil" not in received
            assert b"Server:" not in received
            assert b"utobahn" not in received

    def test_forwardedAddress(self):
        """X-Forwarded-For is believed from a listed proxy only, and only if it is an address."""
        data = upgrade("/ws", "X-Forwarded-For: root-of-all-evil")
        stock = Stock({"trustXForwardedFor": 1})
        answered(stock, data)
        assert stock.last.peer == "root-of-all-evil"
        for host in (WireHost(), WireHost(proxies=("127.0.0.1",))):
            answered(host, data)
            assert host.requests[0].peerAddress == "127.0.0.1"


class TestOrigins:
    def test_nullAndFile(self):
        """Pages without an origin, and files, are let in only where they are listed."""
        for origin in ("null", "file://"):
            assert answered(Stock(), upgrade("/ws", f"Origin: {origin}")).startswith(b"HTTP/1.1 101 ")
            assert answered(WireHost(), upgrade("/ws", f"Origin: {origin}")).startswith(b"HTTP/1.1 403 ")
            assert answered(WireHost(origins=(origin,)), upgrade("/ws", f"Origin: {origin}")).startswith(b"HTTP/1.1 101 ")

    def test_optionsDoNotChangeEachOther(self):
        """Nothing that is set later changes who may connect."""
        stock = Stock()
        assert stock.factory.allowNullOrigin
        stock.factory.setProtocolOptions(tcpNoDelay=True)
        assert not stock.factory.allowNullOrigin

    def test_listedWithoutPort(self):
        """An origin is listed as browsers send it, without the port of its scheme."""
        data = upgrade("/ws", "Origin: https://good.example")
        assert not answered(Stock({"allowedOrigins": ["https://good.example"]}), data).startswith(b"HTTP/1.1 101 ")
        assert answered(WireHost(origins=("https://good.example",)), data).startswith(b"HTTP/1.1 101 ")

    def test_ownHostOnly(self):
        """Without a list, a page of another host may not connect."""
        data = upgrade("/ws", "Origin: https://evil.example")
        assert answered(Stock(), data).startswith(b"HTTP/1.1 101 ")
        assert answered(WireHost(), data).startswith(b"HTTP/1.1 403 ")


class TestDecision:
    def test_errorsAreNotTold(self):
        """What went wrong inside the server stays inside the server."""

        def onConnect(self, request):
            raise RuntimeError("db password=s3cret")

        assert b"s3cret" in answered(Stock(onConnect=onConnect), upgrade())
        host = WireHost()
        host.answer = lambda request: fail(RuntimeError("db password=s3cret"))
        with capturedLogs():
            received = answered(host, upgrade())
        assert received.startswith(b"HTTP/1.1 500 ")
        assert b"s3cret" not in received

    def test_secondRequestWhileDeciding(self):
        """While the service decides on one request, a second one is not read."""
        asked, decisions = [], []

        def onConnect(self, request):
            asked.append(request.path)
            decisions.append(Deferred())
            return decisions[-1]

        stock = Stock(onConnect=onConnect)
        client = stock.client()
        client.send(upgrade("/good"))
        client.send(upgrade("/admin"))
        for decision in decisions:
            decision.callback(None)
        assert asked == ["/good", "/admin"]
        assert client.received().count(b"HTTP/1.1 101 ") == 2
        assert stock.calls == ["onOpen", "onOpen"]

        host = WireHost()
        decision = Deferred()
        host.answer = lambda request: decision
        client = host.client()
        client.send(upgrade("/good"))
        client.send(upgrade("/admin"))
        decision.callback(host.welcome)
        assert [request.path for request in host.requests] == ["/good"]
        assert client.received().count(b"HTTP/1.1 101 ") == 1
        assert [recorder.events[0] for recorder in host.recorders] == [("opened",)]

    def test_bytesWhileDeciding(self):
        """What is sent while the service decides is bounded."""
        stock = Stock(onConnect=lambda self, request: Deferred())
        client = stock.client()
        client.send(upgrade())
        client.send(b"\0" * 1_000_000, 65_536)
        assert len(stock.last.data) == 1_000_000
        host = WireHost()
        host.answer = lambda request: Deferred()
        client = host.client()
        client.send(upgrade())
        client.send(b"\0" * 1_000_000, 65_536)
        assert client.received().startswith(b"HTTP/1.1 400 ")
        assert host.runtime.intake.total == 0

    @pytest.mark.parametrize("ends", ["peer leaves", "deadline"])
    def test_decidedTooLate(self, ends):
        """A decision that comes when the connection is over opens nothing."""
        decision = Deferred()
        stock = Stock(onConnect=lambda self, request: decision)
        client = stock.client()
        client.send(upgrade())
        if ends == "peer leaves":
            client.hangUp()
        else:
            client.advance(7)
        decision.callback(None)
        assert "onOpen" in stock.calls
        assert stock.last.state == stock.last.STATE_OPEN

        host = WireHost()
        decision = Deferred(lambda deferred: deferred.callback(host.welcome))
        host.answer = lambda request: decision
        client = host.client()
        client.send(upgrade())
        if ends == "peer leaves":
            client.hangUp()
        else:
            client.advance(12)
        assert host.recorders == []
        assert b"101" not in client.received()

    def test_subProtocolNotOffered(self):
        """A service that speaks what the client did not offer is connected without a subprotocol, and works."""
        with capturedLogs() as logs:
            stock = Stock(onConnect=lambda self, request: "mqtt")
            assert answered(stock, upgrade("/ws", "Sec-WebSocket-Protocol: json")) == b""
            stock.last = None
            del stock
            gc.collect()
        assert [event for event in logs if event["log_level"] is LogLevel.critical]

        class Service:
            subProtocols = ("mqtt",)

            def onTextMessage(self, caller, text):
                return f"{caller.negotiatedSubProtocol} {text}"

        client = Served(Service()).client()
        assert "Sec-WebSocket-Protocol" not in client.connect("/ws", "Sec-WebSocket-Protocol: json")
        client.send(clientFrame(TEXT, b"hi"))
        assert client.messages() == ["None hi"]

    def test_headersOfTheService(self):
        """No text that a service puts into a header can become a header, or a response, of its own."""
        evil = "a\r\nSet-Cookie: b=1"
        assert b"\r\nSet-Cookie: b=1" in answered(Stock(onConnect=lambda self, request: (None, {"X-A": evil})), upgrade())

        def deny(self, request):
            raise ConnectionDeny(403, evil)

        assert b"\r\nSet-Cookie: b=1" in answered(Stock(onConnect=deny), upgrade())

        class Service:
            def onUpgrade(self, request):
                return self, {"X-A": evil}

        with capturedLogs():
            received = answered(Served(Service()), upgrade())
        assert received.startswith(b"HTTP/1.1 500 ")
        assert b"Set-Cookie" not in received
        with pytest.raises(ValueError, match="control characters"):
            Reject(403, "", {"X-A": evil})

    def test_placesAreCountedAtAccept(self):
        """A connection over the limit is refused when it is accepted, and one that never finishes its head counts."""
        stock = Stock({"maxConnections": 1})
        assert not stock.client().refused
        assert not stock.client().refused
        host = WireHost(Limits(maxConnections=1))
        first = host.client()
        assert host.client().refused
        first.hangUp()
        assert not host.client().refused

    def test_placesAreGivenBack(self):
        """A service that fails at the end of a connection does not keep its place taken."""

        def raises(*args):
            raise ZeroDivisionError

        stock = Stock(onClose=raises)
        client = stock.open()
        with pytest.raises(ZeroDivisionError):
            client.hangUp()
        assert stock.factory.countConnections == 1

        class Service:
            onClose = staticmethod(lambda caller, statusCode, reason: 1 / 0)

        served = Served(Service(), Limits(maxConnections=1))
        with capturedLogs() as logs:
            client = served.client()
            client.connect()
            client.hangUp()
        assert [event["log_failure"].type for event in logs if "log_failure" in event] == [ZeroDivisionError]
        assert served.server.gate.open == 0

    def test_endsOfWhatNeverBegan(self):
        """The end of a connection that was never open is not reported to a service."""
        stock = Stock()
        client = stock.client()
        client.send(b"GET / HT")
        client.hangUp()
        assert stock.calls == ["onClose"]
        host = WireHost()
        client = host.client()
        client.send(b"GET / HT")
        client.hangUp()
        assert host.recorders == []


class TestMemory:
    def test_messagesAreBounded(self):
        """Without any option set, a message has a limit, and the peer is told when it is over it."""
        data = clientFrame(BINARY, bytes(2_000_000))
        sizes = []
        Stock(onMessage=lambda self, payload, isBinary: sizes.append(len(payload))).open().send(data)
        assert sizes == [2_000_000]
        client, recorder = WireHost().open()
        client.send(data)
        assert client.closeFrame() == (1009, "message too big")
        assert recorder.messages() == []

    def test_fragmentsAreBounded(self):
        """Empty fragments count against the message limit."""
        data = clientFrame(BINARY, b"", fin=False) + clientFrame(0, b"", fin=False) * 20_000
        stock = Stock({"maxMessagePayloadSize": 1000, "maxFramePayloadSize": 1000})
        client = stock.open()
        client.send(data)
        assert not client.transport.closed
        assert len(stock.last.message_data) == 20_001
        client, recorder = WireHost().open()
        client.send(data)
        client.clock.advance(0)
        assert client.closeFrame() == (1009, "message too big")
        assert recorder.messages() == []

    def test_readsAreNotKeptApart(self):
        """A message that comes in many reads is held as one buffer."""
        data = clientFrame(BINARY, b"x" * 50_000)
        stock = Stock()
        stock.open().send(data[:-1], 1)
        assert len(stock.last.frame_data) == 49_999
        client, recorder = WireHost().open()
        with traced() as held:
            client.send(data[:-1], 1)
            assert held() < 100_000
        client.send(data[-1:])
        assert recorder.messages() == [b"x" * 50_000]

    def test_oversizeControlFrame(self):
        """Nothing of a control frame that claims to be large is kept, however much of it comes."""
        data = b"\x89\xff" + (1 << 30).to_bytes(8, "big") + b"\0\0\0\0"
        stock = Stock(
            {"failByDrop": False, "maxFramePayloadSize": 1000, "maxMessagePayloadSize": 1000, "closeHandshakeTimeout": 5}
        )
        client = stock.open()
        client.send(data)
        client.send(bytes(1_000_000), 10_000)
        assert sum(map(len, stock.last.control_frame_data)) == 1_000_000
        client, recorder = WireHost().open()
        client.send(data)
        client.send(bytes(1_000_000), 10_000)
        assert client.closeFrame() == (1002, "protocol error")
        assert sum(map(len, recorder.connection.control_frame_data)) == 0
        assert recorder.connection.data == b""

    def test_nothingIsParsedAfterAViolation(self):
        """What follows a violation, in the same segment too, is not even parsed."""
        frames = []

        def onFrameBegin(self):
            frames.append(self.current_frame.opcode)
            WebSocketServerProtocol.onFrameBegin(self)

        data = clientFrame(3) + clientFrame(BINARY, b"x") + clientFrame(9, b"y")
        Stock({"failByDrop": False, "closeHandshakeTimeout": 5}, onFrameBegin=onFrameBegin).open().send(data)
        assert frames == [3, 2, 9]
        frames.clear()
        client, recorder = WireHost().open()
        recorder.connection.onFrameBegin = lambda: onFrameBegin(recorder.connection)
        client.send(data)
        assert frames == [3]

    def test_writesAreBounded(self):
        """What a peer does not read is bounded: over the cap it is closed with 1013."""
        stock = Stock()
        client = stock.open()
        client.transport.room = 0
        for _ in range(100):
            stock.last.sendMessage(bytes(100_000), True)
        assert len(client.transport.waiting) > 10_000_000
        client, recorder = WireHost().open()
        client.transport.room = 0
        for _ in range(100):
            recorder.connection.writeFrame(BINARY, bytes(100_000))
        assert recorder.connection.bufferedAmount() + len(client.transport.waiting) < 300_000
        assert ("failed", "SlowConsumer", 1013) in recorder.events

    def test_repliesAreBounded(self):
        """A peer that asks, by pings or by messages, and reads nothing is not read from."""
        data = clientFrame(9, b"x" * 100) * 90
        stock = Stock()
        client = stock.open()
        client.transport.room = 0
        client.send(data)
        assert len(client.transport.waiting) == 90 * 102
        client, recorder = WireHost().open()
        client.transport.room = 0
        client.send(data)
        assert recorder.connection.bufferedAmount() == 90 * 102
        recorder.onMessage = lambda r, message: r.connection.writeFrame(BINARY, message)
        for _ in range(7):
            client.send(clientFrame(BINARY, bytes(10_000)))
        assert not client.transport.reading

    def test_sliceBySlice(self):
        """Autobahn, which copies what is left for each frame it takes, is given little at a time; common frames go past it."""
        _, recorder = WireHost().open()
        sizes = []
        autobahns = recorder.connection.feed
        recorder.connection.feed = lambda data: sizes.append(len(data)) or autobahns(data)
        recorder.connection.dataReceived(clientFrame(TEXT, b"common") * 1000)
        assert sizes == []
        recorder.connection.dataReceived(
            clientFrame(TEXT, b"") * 3 + clientFrame(10, b"") * 50 + clientFrame(TEXT, b"x" * 10_000)
        )
        assert sizes
        assert max(sizes) <= FEED

    def test_noCopiesOfOptions(self):
        """A connection holds no copy of the server's options, and formats none for a debug line that is not logged."""
        stock = Stock()
        stock.open()
        assert "maxMessagePayloadSize" in vars(stock.last)
        _, recorder = WireHost().open()
        assert not set(WebSocketServerProtocol.CONFIG_ATTRS) & set(vars(recorder.connection))


class TestSending:
    def test_nothingAfterClose(self):
        """A broadcast does not write behind a Close frame."""
        stock = Stock()
        client = stock.open()
        prepared = stock.factory.prepareMessage(b"late")
        stock.last.sendClose()
        stock.last.sendPreparedMessage(prepared)
        assert client.received().endswith(b"\x88\x00" + b"\x81\x04late")
        client, recorder = WireHost().open()
        recorder.connection.startClose(checkClose(1000, ""), 60)
        assert not recorder.connection.send(OutgoingMessage(TEXT, b"late"))
        recorder.connection.writeFrame(TEXT, b"late")
        recorder.connection.reply(TEXT, "late")
        assert [frame.opcode.value for frame in client.frames()] == [8]

    def test_writesDoNotRaise(self):
        """A write after the end fails in its Deferred, and raises nothing."""
        stock = Stock()
        stock.open().hangUp()
        with pytest.raises(Disconnected):
            stock.last.sendMessage(b"x")
        client, recorder = WireHost().open()
        client.hangUp()
        failures = []
        recorder.connection.writeFrame(TEXT, b"x").addErrback(failures.append)
        assert [failure.value.statusCode for failure in failures] == [1006]

    def test_limitOfReceivingOnly(self):
        """The message limit is on what comes in, not on what goes out."""
        stock = Stock({"maxMessagePayloadSize": 1000, "maxFramePayloadSize": 1000})
        stock.open()
        with pytest.raises(Exception, match="payload limit of 1000"):
            stock.last.sendMessage(bytes(2000), True)
        client, recorder = WireHost(Limits(maxMessageSize=1000)).open()
        recorder.connection.writeFrame(BINARY, bytes(2000))
        assert client.messages() == [bytes(2000)]

    @pytest.mark.parametrize("code", [1001, 1008, 1011, 1012, 1013])
    def test_serverCloseCodes(self, code):
        """The codes that a server must send can be sent."""
        stock = Stock()
        stock.open()
        with pytest.raises(Exception, match="invalid close code"):
            stock.last.sendClose(code, "why")
        client, recorder = WireHost().open()
        recorder.connection.startClose(checkClose(code, "why"), 60)
        assert client.closeFrame() == (code, "why")

    def test_violationsHaveTheirCode(self):
        """A peer that breaks the protocol is told so, and does not just lose its connection."""
        data = clientFrame(3, b"x")
        client = Stock().open()
        client.send(data)
        assert client.transport.aborted
        assert client.closeFrame() is None
        client, _ = WireHost().open()
        client.send(data)
        assert client.closeFrame() == (1002, "protocol error")
        assert not client.transport.aborted

    def test_pingsOvertake(self):
        """A ping does not wait behind everything that a slow peer has not read."""
        stock = Stock()
        client = stock.open()
        client.transport.room = 0
        for _ in range(3):
            stock.last.sendMessage(bytes(50_000), True)
        stock.last.sendPing()
        client.transport.room = None
        assert [f.opcode.value for f in client.frames() if f.frame_finished] == [2, 2, 2, 9]
        client, recorder = WireHost().open()
        client.transport.room = 0
        for _ in range(3):
            recorder.connection.writeFrame(BINARY, bytes(50_000))
        recorder.connection.writeFrame(9, b"")
        client.transport.room = None
        assert [f.opcode.value for f in client.frames() if f.frame_finished] == [2, 9, 2, 2]

    def test_compressedOnce(self, monkeypatch):
        """A broadcast to many peers with compression is compressed once."""
        count = 0
        compress = PerMessageDeflate.compress_message_data

        def counting(self, data):
            nonlocal count
            count += 1
            return compress(self, data)

        monkeypatch.setattr(PerMessageDeflate, "compress_message_data", counting)
        stock = Stock({"perMessageCompressionAccept": lambda offers: PerMessageDeflateOfferAccept(offers[0])})
        prepared = stock.factory.prepareMessage(b"x" * 1000)
        for _ in range(3):
            stock.open(DEFLATE)
            stock.last.sendPreparedMessage(prepared)
        assert count == 3
        count = 0
        host = WireHost(compression=True)
        message = OutgoingMessage(TEXT, b"x" * 1000)
        pairs = [host.open(DEFLATE) for _ in range(3)]
        assert all(recorder.connection.send(message) for _, recorder in pairs)
        assert count == 1
        assert all(client.received()[:1] == b"\xc1" for client, _ in pairs)


class TestTime:
    def test_fractionsOfASecond(self):
        """A deadline of a second is not one of a hundredth."""
        stock = Stock({"closeHandshakeTimeout": 1, "failByDrop": False})
        stock.clock.advance(0.99)
        client = stock.open()
        stock.last.sendClose()
        client.advance(0.02, 0.01)
        assert client.transport.closed
        host = WireHost(Limits(closeDeadline=1))
        host.clock.advance(0.99)
        client, recorder = host.open()
        recorder.connection.startClose(checkClose(1000, ""), 60)
        client.advance(0.95, 0.05)
        assert not client.transport.closed
        client.advance(0.35, 0.05)
        assert client.transport.closed

    def test_cancelledCalls(self):
        """A deadline that is called off does not come, also when it is due in the same turn."""
        clock = SteadyClock()
        txaio.config.loop = clock
        fired = []
        timer = txaio.make_batched_timer(1, chunk_size=1)
        calls = []
        calls.append(timer.call_later(5, lambda: (fired.append("first"), calls[1].cancel())))
        calls.append(timer.call_later(5, lambda: fired.append("second")))
        clock.pump([1] * 10)
        assert fired == ["first", "second"]

        class Entry:
            wheelSlot = None

            def deadlineReached(self, now):
                fired.append("wheel")
                wheel.drop(others[self])

        wheel = Wheel(clock)
        entries = Entry(), Entry()
        others = {entries[0]: entries[1], entries[1]: entries[0]}
        for entry in entries:
            wheel.set(entry, clock.seconds() + 5)
        clock.pump([1] * 10)
        assert fired.count("wheel") == 1

    def test_peerThatClosesAndDoesNotRead(self):
        """A peer that sends Close and reads nothing keeps neither its place nor its memory."""
        stock = Stock()
        client = stock.open()
        client.transport.room = 0
        stock.last.sendMessage(bytes(500_000), True)
        client.send(clientFrame(8, NORMAL))
        client.advance(600, 1)
        assert not client.transport.closed
        assert len(client.transport.waiting) > 500_000
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = 0
        recorder.connection.writeFrame(BINARY, bytes(500_000))
        client.send(clientFrame(8, NORMAL))
        client.advance(5.5)
        assert client.transport.aborted
        assert host.runtime.backlog.total == 0

    def test_pingsByDefault(self):
        """Without any option set, a peer that is gone without a word is noticed."""
        client = Stock().open()
        client.advance(600, 1)
        assert not client.transport.closed
        client, _ = WireHost().open()
        client.advance(40)
        assert client.transport.closed

    def test_pingsGoOn(self):
        """Pings go out again and again, not once."""
        client = Stock({"autoPingInterval": 10}).open()
        client.advance(100, 1)
        assert len(client.frames()) == 1
        client, _ = WireHost().open()
        pings = 0
        for _ in range(100):
            client.advance(1)
            for frame in client.frames():
                pings += 1
                client.send(clientFrame(10, bytes(frame.payload)))
        assert pings == 4

    def test_peerThatOnlySends(self):
        """A peer that sends and never reads is not alive: only a pong proves that it reads."""
        clients = [Stock({"autoPingInterval": 3, "autoPingTimeout": 3}).open(), WireHost().open()[0]]
        for client in clients:
            for _ in range(60):
                if not client.transport.closed:
                    client.send(clientFrame(TEXT, b"x"))
                    client.advance(1)
        assert [client.transport.closed for client in clients] == [False, True]


class TestLog:
    def test_pongsThatNobodyAskedFor(self):
        """Pongs that answer nothing fill no log and end nothing."""
        stock = Stock({"autoPingInterval": 10, "autoPingTimeout": 10})
        client = stock.open()
        client.advance(11)
        client.send(clientFrame(10, b"unsolicited") * 90)
        assert len(stock.log.lines) == 90
        with capturedLogs() as logs:
            client, recorder = WireHost().open()
            client.advance(26)
            client.send(clientFrame(10, b"unsolicited") * 90)
            client.send(clientFrame(10, b"keep-alive 1"))
            client.advance(20)
        assert not client.transport.closed
        assert recorder.events.count(("pong", b"unsolicited")) == 90
        assert [event for event in logs if event["log_level"] >= LogLevel.info] == []

    def test_theirWords(self):
        """What a peer sent is in no answer, and in no log line at length or raw."""
        data = upgrade("/ws", "Origin: http://s3cret" + "x" * 8000)
        stock = Stock({"allowedOrigins": ["https://good.example:443"]})
        assert b"s3cret" in answered(stock, data)
        assert sum(map(len, stock.log.lines)) > 8000
        with capturedLogs() as logs:
            received = answered(WireHost(), data)
        assert received.startswith(b"HTTP/1.1 403 ")
        assert b"s3cret" not in received
        (line,) = [formatEvent(event) for event in logs]
        assert len(line) < 400
        assert line.isprintable()

    def test_autobahnIsMute(self):
        """Autobahn, which would log in a peer's words, logs nothing through us."""
        with capturedLogs() as logs:
            client, recorder = WireHost().open()
            recorder.connection.log.error("words", of="a peer")
            client.send(clientFrame(TEXT, b"\xff\x1b[31m"))
        assert [formatEvent(event) for event in logs if event["log_level"] >= LogLevel.info] == [
            "127.0.0.1:40000: encountered invalid UTF-8 while processing text message at payload octet index 0 (1007)"
        ]


def test_coroutinesAreAwaited():
    """A handler may be a coroutine function."""

    async def onMessage(self, payload, isBinary):
        self.calls.append("never")

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        Stock(onMessage=onMessage).open().send(clientFrame(TEXT, b"x"))
        gc.collect()
    assert ["never awaited" in str(each.message) for each in found] == [True]

    class Service:
        async def onTextMessage(self, caller, text):
            return text

    client = Served(Service()).client()
    client.connect()
    client.send(clientFrame(TEXT, b"x"))
    assert client.messages() == ["x"]
