from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.memory import MemoryClient, MemoryTransport, clientFrame, upgrade
from tests.wire.support import WireHost
from twisted_ws.limits import Limits
from twisted_ws.message import TEXT
from twisted_ws.upgrade import Reject
from twisted_ws.wire.websocket.welcome import Welcome

EARLY = b"Wait for the 101"
BARE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def statusOf(client):
    """Return the status of the one HTTP answer that came; check that it is whole and that nothing follows it."""
    data = client.received()
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n", head)
    assert match is not None, data
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
    return int(match[1])


def refused(host, data, step=None):
    """Send bytes from a new client and return the status of the refusal; check that it is closed and let go of."""
    client = host.client()
    client.send(data, step)
    status = statusOf(client)
    assert client.transport.writeClosed
    assert not client.transport.closed
    assert host.runtime.gate.open == 1
    client.hangUp()
    assert host.runtime.gate.open == 0
    assert host.clock.getDelayedCalls() == []
    assert host.recorders == []
    return status


class EchoHTTP(Protocol):
    """Stands for an HTTP channel: keeps what it receives."""

    def connectionMade(self):
        self.factory.made.append(self)
        self.data = b""
        self.lost = None

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.lost = reason.type


class HTTPFactory(Factory):
    """Makes `EchoHTTP`s and counts its own starts."""

    protocol = EchoHTTP
    started = 0

    def __init__(self):
        self.made = []

    def doStart(self):
        self.started += 1

    def doStop(self):
        self.started -= 1


class TestHead:
    @pytest.mark.parametrize("step", [None, 1, 2, 3, 100])
    def test_pieces(self, step):
        """A head may come in pieces of any size, and frames right behind it."""
        host = WireHost()
        client = host.client()
        client.send(upgrade("/ws?a=b", "Cookie: c=d", Sec_WebSocket_Protocol="x, y") + clientFrame(TEXT, b"early"), step)
        assert client.received().startswith(b"HTTP/1.1 101 ")
        (request,) = host.requests
        assert (request.target, request.cookies, request.subProtocols) == ("/ws?a=b", {"c": "d"}, ["x", "y"])
        assert (request.peerAddress, request.peerPort, request.isSecure) == ("127.0.0.1", 40000, False)
        assert host.recorders[0].messages() == ["early"]

    @pytest.mark.parametrize("step", [None, 1])
    def test_emptyLineBefore(self, step):
        """An empty line before the request is ignored (RFC 9112 section 2.2)."""
        host = WireHost()
        client = host.client()
        client.send(b"\r\n" + upgrade(), step)
        assert client.received().startswith(b"HTTP/1.1 101 ")

    @pytest.mark.parametrize("step", [None, 1, 1000])
    @pytest.mark.parametrize(
        ("data", "status"),
        [
            pytest.param(b"GET /" + b"x" * 8200, 414, id="line without an end"),
            pytest.param(b"GET /" + b"x" * 8200 + b" HTTP/1.1\r\n\r\n", 414, id="long line"),
            pytest.param(upgrade("/" + "x" * 8170), 101, id="longest line"),
            pytest.param(upgrade("/" + "x" * 8200), 414, id="long line of a handshake"),
            pytest.param(upgrade("/?" + "&" * 500), 414, id="parameters of a handshake"),
            pytest.param(b"GET / HTTP/1.1\r\nA: " + b"x" * 17_000, 431, id="header without an end"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: x\r\n" * 101 + b"\r\n", 431, id="many headers"),
            pytest.param(upgrade("/ws", *["A: x"] * 95), 101, id="most headers"),
            pytest.param(upgrade("/ws", "A: " + "x" * 17_000), 431, id="large header"),
            pytest.param(upgrade("/ws", "A: " + "x" * 16_000), 101, id="largest header"),
            pytest.param(b"\r\n\r\n\r\n\r\n" * 2 + b"GET", None, id="empty lines only"),
            pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, id="TLS on the plain port"),
            pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="HTTP/2"),
            pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2 preface"),
            pytest.param(b"nonsense\r\n\r\n", 400, id="nonsense"),
        ],
    )
    def test_limits(self, data, status, step):
        """A head over a limit is refused as soon as that is known, whether it comes at once or byte by byte."""
        host = WireHost()
        if status == 101:
            client = host.client()
            client.send(data, step)
            assert client.received().startswith(b"HTTP/1.1 101 ")
        elif status is None:
            client = host.client()
            client.send(data, step)
            assert host.recorders == []
            assert host.runtime.intake.total <= len(data)
        else:
            assert refused(host, data, step) == status

    @pytest.mark.parametrize("byte", [0x00, 0x08, 0x0B, 0x0C, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F])
    def test_smuggling(self, byte):
        """A byte that ends a line for some parser is refused, so that no header hides behind another."""
        host = WireHost()
        head = upgrade("/ws", "X-A: a@X-Real-IP: 6.6.6.6")
        assert refused(host, head.replace(b"@", bytes([byte]))) == 400
        assert refused(host, upgrade("/a@b").replace(b"@", bytes([byte]))) == 400
        assert refused(host, upgrade("/ws", "X@A: a").replace(b"@", bytes([byte]))) == 400
        assert host.requests == []

    @pytest.mark.parametrize(
        "data",
        [
            upgrade("/ws", " folded: x"),
            upgrade("/ws", "X-A : x"),
            upgrade("/ws", "no colon"),
            upgrade("/ws", "Host: other"),
            upgrade("/ws", Host=None),
            upgrade("//evil/ws"),
            upgrade("http://localhost//evil/ws"),
            upgrade("ftp://localhost/ws"),
            upgrade("/ws", "A: b\nC: d"),
            upgrade("/ws", "A: b\rC: d"),
            upgrade().replace(b"\r\n", b"\n") + b"\r\n\r\n",
        ],
    )
    def test_ambiguous(self, data):
        """What two parsers could read differently is refused before the service hears of it."""
        host = WireHost()
        assert refused(host, data) == 400
        assert host.requests == []

    @pytest.mark.parametrize("step", [None, 1])
    def test_halfAnEnd(self, step):
        """A line that ends with a bare line feed is refused at once, without a wait for an end that does not come."""
        assert refused(WireHost(), b"GET /ws HTTP/1.1\r\nHost: a\r\nX: 1\n\n", step) == 400

    def test_opaque(self):
        """Anything in a header that is not ASCII is the business of the service alone, which gets text."""
        host = WireHost()
        client = host.client()
        lines = ("Cookie: city=Łódź; tea=\x85; a=b", "X-Forwarded-User: Пётр", "X-Latin: grüß")
        raw = [line.encode("latin-1") if "tea" not in line and line.startswith("X-Latin") else line.encode() for line in lines]
        client.send(upgrade().removesuffix(b"\r\n") + b"\r\n".join([*raw, b"", b""]))
        assert client.received().startswith(b"HTTP/1.1 101 ")
        (request,) = host.requests
        assert request.cookies == {"city": "Łódź", "tea": "\x85", "a": "b"}
        assert request.headers["x-forwarded-user"] == "Пётр"
        assert request.headers["x-latin"] == "grüß"

    @pytest.mark.parametrize("target", ["http://localhost:8080/ws?a=b", "ws://localhost:8080/ws?a=b"])
    def test_absoluteForm(self, target):
        """A target in absolute-form is taken, and its authority is the host that an Origin is compared with."""
        host = WireHost()
        client = host.client()
        client.send(upgrade(target, "Origin: http://localhost:8080", Host="other.example"))
        assert client.received().startswith(b"HTTP/1.1 101 ")
        assert (host.requests[0].target, host.requests[0].headers["host"]) == ("/ws?a=b", "localhost:8080")
        assert refused(WireHost(), upgrade(target, "Origin: http://other.example", Host="other.example")) == 403

    def test_manyEmptyLines(self):
        """A megabyte of empty lines costs no more than its bytes, and the request after it is read."""
        host = WireHost()
        client = host.client()
        for _ in range(16):
            client.send(b"\r\n" * 32_768)
            assert host.runtime.intake.total == 0
        client.send(upgrade())
        assert client.received().startswith(b"HTTP/1.1 101 ")


class TestHandshakes:
    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (upgrade().replace(b"GET", b"POST"), 405),
            (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
            (upgrade(Sec_WebSocket_Version="8"), 426),
            (upgrade(Sec_WebSocket_Key="x"), 400),
            (upgrade(Connection="close"), 400),
            (upgrade("/ws", "Content-Length: 5") + b"12345", 400),
            (upgrade("/ws", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
            (upgrade("/ws", "Origin: http://evil.example"), 403),
            (upgrade("/ws", "Origin: null"), 403),
            (upgrade("/ws", "Origin: http://localhost.evil.example"), 403),
            (upgrade("/ws", "Sec-WebSocket-Extensions: ;;"), 400),
        ],
    )
    def test_refusedBeforeTheService(self, data, status):
        """Anything that is not a handshake, or comes from a foreign page, is refused, and the service never runs."""
        host = WireHost()
        assert refused(host, data) == status
        assert host.requests == []

    def test_originHint(self):
        """The log of a refused page names the option that would let it in; the peer is not told."""
        host = WireHost()
        client = host.client()
        with capturedLogs() as logs:
            client.send(upgrade("/ws", "Origin: https://app.example"))
        (line,) = [formatEvent(event) for event in logs]
        assert (
            line
            == "127.0.0.1: 403 Pages of this origin may not connect. (/ws; to allow it: --allowed-origin https://app.example)"
        )
        assert b"app.example" not in client.received()

    @pytest.mark.parametrize("origin", ["garbage", "https://*.example", "http://$(id).example", "http://пример.example"])
    def test_noHint(self, origin):
        """There is no hint if the option would not accept the value, or would let in more."""
        client = WireHost().client()
        with capturedLogs() as logs:
            client.send(upgrade("/ws", f"Origin: {origin}".encode().decode("latin-1")))
        assert [formatEvent(event) for event in logs] == ["127.0.0.1: 403 Pages of this origin may not connect. (/ws)"]

    @pytest.mark.parametrize(
        ("head", "line"),
        [
            (upgrade("/ws/a?token=s3cret", Sec_WebSocket_Key="x"), "400 Sec-WebSocket-Key {more} (/ws/a)"),
            (
                upgrade("/ws", "X-Forwarded-For: 192.0.2.7", Sec_WebSocket_Key="x"),
                "400 Sec-WebSocket-Key {more} (/ws)",
            ),
            (b"GET /ws\r\n\r\n", "400 The request line is malformed."),
        ],
    )
    def test_path(self, head, line):
        """The log of a refused handshake has its path, where there is one, and never its query."""
        client = WireHost().client()
        with capturedLogs() as logs:
            client.send(head)
        more = "must be 16 bytes in base64, once."
        assert [formatEvent(event) for event in logs] == ["127.0.0.1: " + line.format(more=more)]

    @pytest.mark.parametrize(
        ("peer", "forwarded", "name"),
        [
            ("::ffff:10.0.0.1", "192.0.2.7:1234", "192.0.2.7"),
            ("10.0.0.1", "[2001:DB8::0007]:443", "2001:db8::7"),
            ("10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.9", "192.0.2.7", "192.0.2.9"),
        ],
    )
    def test_nameOfTheClient(self, peer, forwarded, name):
        """The log names the client that a trusted proxy names, in one spelling; refused by us, by the service, or cut off."""
        host = WireHost(proxies=("10.0.0.0/8",))
        host.answer = lambda request: fail(Reject(404, "none"))
        who = f"X-Forwarded-For: {forwarded}"
        with capturedLogs() as logs:
            for head in (upgrade("/ws", who, "Origin: null"), upgrade("/x", who)):
                host.client(peer).send(head)
        assert [formatEvent(event) for event in logs] == [
            f"{name}: 403 Pages of this origin may not connect. (/ws; to allow it: --allowed-origin null)",
            f"{name}: 404 none (/x)",
        ]
        assert host.requests[0].peerPort == (0 if name != "192.0.2.9" else 40000)

    def test_trustedProxy(self):
        """Behind a trusted proxy the service sees the client's address, and the Origin rule its TLS."""
        host = WireHost(proxies=("127.0.0.0/8",))
        client = host.client()
        client.send(
            upgrade("/ws", "X-Forwarded-For: 6.6.6.6, 192.0.2.7", "X-Forwarded-Proto: https", "Origin: https://localhost")
        )
        assert client.received().startswith(b"HTTP/1.1 101 ")
        (request,) = host.requests
        assert (request.peerAddress, request.isSecure) == ("192.0.2.7", True)

    def test_clientCertificate(self):
        """With mutual TLS the request has the client's certificate, read from its transport."""
        host = WireHost()
        host.factory.peerCertificate = lambda transport: ("certificate of", transport)
        client = host.client()
        client.send(upgrade())
        assert host.requests[0].clientCertificate == ("certificate of", client.transport)

    def test_localSocket(self):
        """A peer on a UNIX socket has no address; it is served all the same."""

        class UNIXTransport(MemoryTransport):
            setTcpNoDelay = property()

            def getPeer(self):
                return UNIXAddress(None)

        host = WireHost(Limits(maxConnectionsPerIp=1))
        for _ in range(2):
            transport = UNIXTransport()
            transport.protocol = host.factory.buildProtocol(UNIXAddress(None))
            transport.protocol.makeConnection(transport)
            transport.protocol.dataReceived(upgrade())
            transport.settle()
            assert transport.sent.startswith(b"HTTP/1.1 101 ")
        assert host.requests[0].peerAddress == ""

    @pytest.mark.parametrize(
        ("reject", "status", "body", "header"),
        [
            (Reject(401, "no token", {"WWW-Authenticate": "Bearer"}), 401, b"no token\n", b"WWW-Authenticate: Bearer"),
            (Reject(403), 403, b"", b"Content-Length: 0"),
            (Reject(404, "grüße"), 404, "grüße\n".encode(), b"Content-Type: text/plain; charset=utf-8"),
            (Reject(302, "", {"Location": "/x"}), 302, b"", b"Location: /x"),
            (Reject(400, "{}", {"Content-Type": "application/json"}), 400, b"{}\n", b"Content-Type: application/json"),
            (Reject(499, "x"), 499, b"x\n", b"HTTP/1.1 499 Refused"),
            (Reject(401, "\ud800"), 401, b"?\n", b"HTTP/1.1 401 Unauthorized"),
        ],
    )
    def test_reject(self, reject, status, body, header):
        """The service's refusal goes to the peer with its status, body and headers."""
        host = WireHost()
        host.answer = lambda request: fail(reject)
        client = host.client()
        client.send(upgrade())
        data = client.received()
        assert data.startswith(f"HTTP/1.1 {status} ".encode())
        assert data.endswith(b"\r\n\r\n" + body)
        assert header in data
        assert data.count(b"\r\nContent-Type: ") == 1
        assert client.transport.writeClosed

    def test_headersInLatin1(self):
        """A header of the service is Latin-1 on the wire, on the 101 as on a refusal."""
        host = WireHost(headers=(("X-A", "ü"),))
        assert b"\r\nX-A: \xfc\r\n" in self.answer(host)
        host.answer = lambda request: fail(Reject(401, "", {"X-A": "ü"}))
        assert b"\r\nX-A: \xfc\r\n" in self.answer(host)

    def answer(self, host):
        """Return what a good handshake gets."""
        client = host.client()
        client.send(upgrade())
        return client.received()

    def test_oneFraming(self):
        """A refusal cannot say a second time, or otherwise, where its response ends."""
        host = WireHost()
        host.answer = lambda request: fail(
            Reject(401, "no", {"Content-Length": "999", "Transfer-Encoding": "chunked", "connection": "keep-alive", "X-A": "b"})
        )
        client = host.client()
        client.send(upgrade())
        data = client.received()
        assert b"X-A: b" in data
        assert [data.lower().count(name) for name in (b"content-length", b"connection", b"transfer-encoding")] == [1, 1, 0]

    def test_unexpectedFailure(self):
        """A failure that is not a refusal is a 500 that tells the peer nothing; the log has the traceback."""
        host = WireHost()
        host.answer = lambda request: fail(RuntimeError("db password=s3cret"))
        client = host.client()
        with capturedLogs() as logs:
            client.send(upgrade())
        data = client.received()
        assert data.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"s3cret" not in data
        assert [event["log_failure"].type for event in logs if "log_failure" in event] == [RuntimeError]

    def test_cancelledInside(self):
        """A decision that was cancelled by somebody else is a failure at once, not a client that waits."""
        host = WireHost()
        host.answer = lambda request: fail(CancelledError())
        client = host.client()
        with capturedLogs():
            client.send(upgrade())
        assert client.received().startswith(b"HTTP/1.1 500 ")


class TestDeadlines:
    def test_nothing(self):
        """A peer that sends nothing at all is dropped ten seconds after its accept."""
        host = WireHost()
        client = host.client()
        client.advance(9.75)
        assert not client.transport.closed
        client.advance(0.5)
        assert client.transport.aborted
        assert client.received() == b""
        assert host.runtime.gate.open == 0

    def test_slowHead(self):
        """A head that comes a byte a second is refused with 408 after ten seconds, however lively it is."""
        host = WireHost()
        client = host.client()
        for n in range(10):
            assert not client.transport.writeClosed
            client.send(upgrade()[n : n + 1])
            client.advance(1)
        client.advance(0.25)
        assert statusOf(client) == 408
        client.send(upgrade())
        assert host.requests == []

    @pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"\x00", b"\n", b" GET / HTTP/1.1", b"\r\n\x80", b"\r\r"])
    def test_noHTTP(self, data):
        """What cannot be the beginning of a request, such as a TLS handshake on the wrong port, is refused at once."""
        host = WireHost()
        client = host.client()
        client.send(data)
        assert statusOf(client) == 400

    @pytest.mark.parametrize("cut", [1, 2, 3])
    def test_emptyLineBefore(self, cut):
        """A request with an empty line before it is not refused, wherever the line is cut."""
        client = WireHost().client()
        data = b"\r\n" + upgrade()
        client.send(data[:cut])
        client.send(data[cut:])
        assert client.received().startswith(b"HTTP/1.1 101 ")

    def test_refusedAndStays(self):
        """A peer that is refused and goes on sending is dropped after five seconds, and nothing of it is kept."""
        host = WireHost()
        client = host.client()
        client.send(b"nonsense\r\n\r\n")
        for _ in range(4):
            client.send(b"x" * 100_000)
            assert host.runtime.intake.total == 0
            client.advance(1)
        assert not client.transport.closed
        client.advance(1.5)
        assert client.transport.aborted
        assert host.runtime.gate.open == 0

    def test_undecided(self):
        """A decision that does not come in ten seconds is cancelled and answered with 503 and a time to come back."""
        cancelled = []
        host = WireHost()
        host.answer = lambda request: Deferred(cancelled.append)
        client = host.client()
        client.send(upgrade())
        client.advance(9.5)
        assert client.received() == b""
        client.advance(0.75)
        data = client.received()
        assert data.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"Retry-After: 5\r\n" in data
        assert len(cancelled) == 1
        assert host.recorders == []

    def test_deadlinesEndWithTheHandshake(self):
        """The deadlines of the head and of the decision do not touch an open connection."""
        host = WireHost(Limits(pingInterval=0))
        client, _ = host.open()
        client.advance(25)
        assert not client.transport.closed


class TestDeciding:
    def pending(self, limits=None):
        """Return a host that does not decide, a client that waits for it, and what is told of the Deferred's end."""
        host = WireHost(limits)
        cancelled = []
        decision = Deferred(lambda deferred: cancelled.append(True))
        host.answer = lambda request: decision
        client = host.client()
        client.send(upgrade())
        assert client.received() == b""
        return host, client, decision, cancelled

    def test_later(self):
        """A decision may come later; what was sent meanwhile counts, in order."""
        host, client, decision, _ = self.pending()
        client.send(clientFrame(TEXT, b"one") + clientFrame(TEXT, b"two")[:4], 1)
        client.advance(5)
        assert host.recorders == []
        decision.callback(host.welcome)
        client.send(clientFrame(TEXT, b"two")[4:])
        assert client.received().startswith(b"HTTP/1.1 101 ")
        assert host.recorders[0].events == [("opened",), ("message", "one"), ("message", "two")]

    @pytest.mark.parametrize("step", [None, 1000])
    def test_tooMuchMeanwhile(self, step):
        """More than 64 KiB before the 101 are a 400, and the decision is cancelled; exactly 64 KiB are kept."""
        host, client, _, cancelled = self.pending()
        client.send(b"\0" * 65536, step)
        assert client.received() == b""
        assert cancelled == []
        client.send(b"\0")
        data = client.received()
        assert data.startswith(b"HTTP/1.1 400 ")
        assert EARLY in data
        assert cancelled == [True]
        assert host.recorders == []
        assert host.runtime.intake.total == 0
        client.hangUp()
        assert host.runtime.gate.open == 0

    def test_tooMuchAtOnce(self):
        """As much in one segment with the head is a 400 before the service is asked."""
        host = WireHost()
        assert refused(host, upgrade() + b"\0" * 65537) == 400
        assert host.requests == []

    @pytest.mark.parametrize("error", [None, ConnectionLost()])
    def test_peerLeaves(self, error):
        """When the peer leaves, the decision is cancelled and nothing else is called, however it comes out."""
        host, client, _, cancelled = self.pending()
        with capturedLogs() as logs:
            client.hangUp(error)
        assert cancelled == [True]
        assert host.recorders == []
        assert host.runtime.gate.open == 0
        assert host.clock.getDelayedCalls() == []
        assert logs == []

    @pytest.mark.parametrize("outcome", ["welcome", "reject", "bug"])
    def test_decidedAfterItsEnd(self, outcome):
        """A decision that cannot be cancelled and comes after the peer has left, or after the 503, changes nothing."""
        for leaves in (True, False):
            host = WireHost()
            decision = Deferred(lambda deferred, host=host: self.decide(host, deferred, outcome))
            host.answer = lambda request, decision=decision: decision
            client = host.client()
            client.send(upgrade())
            with capturedLogs() as logs:
                if leaves:
                    client.hangUp()
                else:
                    client.advance(11)
                    assert client.received().startswith(b"HTTP/1.1 503 ")
            assert host.recorders == []
            assert not [event for event in logs if event["log_level"] >= LogLevel.error]

    def decide(self, host, decision, outcome):
        """Let the decision come, whatever it is."""
        if outcome == "welcome":
            decision.callback(host.welcome)
        else:
            decision.errback(Reject(401) if outcome == "reject" else RuntimeError("bug"))

    def test_pipelined(self):
        """A second request after the first is not a second handshake: it is data that was sent too early, and not a frame."""
        host, client, decision, _ = self.pending()
        client.send(upgrade("/admin"))
        decision.callback(host.welcome)
        assert client.received().count(b"HTTP/1.1 ") == 1
        assert [request.target for request in host.requests] == ["/ws"]
        assert [recorder.events for recorder in host.recorders] == [[("opened",), ("failed", "ProtocolError", 1002)]]

    def test_pipelinedAtOnce(self):
        """A second request in the same segment is not a second handshake, either."""
        host = WireHost()
        client = host.client()
        client.send(upgrade("/a") + upgrade("/admin"))
        assert client.received().count(b"HTTP/1.1 ") == 1
        assert [request.target for request in host.requests] == ["/a"]


class TestHTTP:
    @pytest.mark.parametrize("step", [None, 1])
    def test_passThrough(self, step):
        """A plain request goes to the HTTP protocol with every byte, and so does all that follows, and the end."""
        http = HTTPFactory()
        host = WireHost(http=http)
        client = host.client()
        data = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" + upgrade() + b"\x81\x80"
        client.send(data, step)
        (channel,) = http.made
        assert channel.data == data
        assert channel.transport is client.transport
        assert host.requests == []
        client.advance(60)
        assert not client.transport.closed
        assert host.runtime.gate.open == 1
        client.hangUp(ConnectionLost())
        assert channel.lost is ConnectionLost
        assert host.runtime.gate.open == 0

    def test_noHTTP(self):
        """Without HTTP sites a plain request is told that this port speaks WebSocket."""
        host = WireHost()
        client = host.client()
        client.send(BARE)
        data = client.received()
        assert data.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"Upgrade: websocket\r\n" in data

    def test_httpRefuses(self):
        """An HTTP factory that makes no protocol leaves the same answer."""
        host = WireHost(http=HTTPFactory())
        host.factory.http.buildProtocol = lambda address: None
        assert refused(host, BARE) == 426

    def test_badHeadsStayOutside(self):
        """A head that is refused never reaches the HTTP protocol."""
        http = HTTPFactory()
        assert refused(WireHost(http=http), b"GET //evil/ HTTP/1.1\r\nHost: a\r\n\r\n") == 400
        assert http.made == []

    def test_startAndStop(self):
        """The HTTP factory is started and stopped once, with the first and the last port."""
        http = HTTPFactory()
        factory = WireHost(http=http).factory
        factory.doStart()
        factory.doStart()
        assert http.started == 1
        factory.doStop()
        assert http.started == 1
        factory.doStop()
        assert http.started == 0
        alone = WireHost().factory
        alone.doStart()
        alone.doStop()


class TestGate:
    def test_refusedAtAccept(self):
        """Over the limit a connection is closed at accept, and costs nothing but that."""
        host = WireHost(Limits(maxConnections=2, maxConnectionsPerIp=1))
        first, second = host.client("192.0.2.1"), host.client("192.0.2.2")
        assert host.client("192.0.2.3").refused
        second.hangUp()
        assert host.client("192.0.2.1").refused
        assert not host.client("192.0.2.3").refused
        first.hangUp()

    @pytest.mark.parametrize("way", ["nothing", "half a head", "refused", "deciding", "http", "rejected", "open", "closed"])
    def test_released(self, way):
        """However far a connection came, its place is free when it is gone, once."""
        host = WireHost(Limits(maxConnections=1), http=HTTPFactory())
        client = host.client()
        if way == "deciding":
            host.answer = lambda request: Deferred()
        if way == "rejected":
            host.answer = lambda request: fail(Reject(401))
        data = {"nothing": b"", "half a head": b"GET", "refused": b"x\r\n\r\n", "http": BARE}.get(way, upgrade())
        client.send(data)
        if way == "closed":
            client.send(clientFrame(8, b"\x03\xe8"))
        else:
            assert host.runtime.gate.open == 1
            assert host.client().refused
            client.hangUp()
        assert host.runtime.gate.open == 0
        host.answer = lambda request: succeed(host.welcome)
        assert host.open()

    def test_refusedAgain(self):
        """A refusal that found no memory can be repeated, and the loss of the connection frees its place all the same."""
        host = WireHost()
        host.answer = lambda request: Deferred()
        client = host.client()
        client.send(upgrade())
        (door,) = host.runtime.deciding
        write, door.transport.write = door.transport.write, _raiseMemoryError
        with pytest.raises(MemoryError):
            door.giveWay()
        door.transport.write = write
        door.giveWay()
        assert client.received().startswith(b"HTTP/1.1 503 ")
        client.hangUp()
        assert (host.runtime.gate.open, host.runtime.deciding) == (0, set())


def _raiseMemoryError(*_):
    raise MemoryError


class TestLog:
    def test_escapedAndCut(self):
        """What a peer sent reaches the log escaped and cut, in one line."""
        host = WireHost()
        with capturedLogs() as logs:
            host.client().send(upgrade("/ws", "Origin: http://" + "\xad" * 10 + "\u00a0" + "x" * 8000))
        (line,) = [formatEvent(event) for event in logs]
        assert len(line) < 400
        assert "\n" not in line

    def test_theService(self):
        """A service that puts a peer's words into its refusal does not put them into the log."""
        host = WireHost()
        host.answer = lambda request: fail(Reject(401, "\x1b[31m" + "no\r\n" * 1000))
        with capturedLogs() as logs:
            host.client().send(upgrade())
        (line,) = [formatEvent(event) for event in logs]
        assert line.startswith("127.0.0.1: 401 \\x1b[31mno\\r\\nno")
        assert len(line) < 300

    def test_rateLimited(self):
        """A thousand bad handshakes are ten lines, and later one that counts the rest."""
        host = WireHost()
        with capturedLogs() as logs:
            for _ in range(1000):
                host.client().send(b"nonsense\r\n\r\n")
            assert len(logs) == 10
            host.clock.advance(10)
            host.client().send(b"nonsense\r\n\r\n")
        (last,) = logs[10:]
        assert (formatEvent(last), last["suppressed"]) == ("127.0.0.1: 400 The request line is malformed.", 990)

    def test_goodHandshakesAreSilent(self):
        """A handshake and its end write nothing at info or above."""
        host = WireHost()
        with capturedLogs() as logs:
            client, _ = host.open()
            client.hangUp()
        assert [event for event in logs if event["log_level"] >= LogLevel.info] == []


TOKENS = [
    b"GET ", b"/ws", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"Host: a\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Protocol: a, b\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9; client_max_window_bits\r\n", b"Origin: http://a\r\n",
    b"Content-Length: 5\r\n", b"\x81\x80\0\0\0\0", b"\x88\x80\0\0\0\0", b"\x00", b"\x0b", b"\x85", b" ", b":", b";", b"=", b'"',
]  # fmt: skip

INSERTED = st.one_of(st.binary(max_size=4), st.sampled_from(TOKENS))


def endsOrOpens(data, cuts):
    """Send bytes in pieces; nothing is raised, and the connection is open, or it ends with one answer and lets go."""
    host = WireHost(compression=True)
    client = MemoryClient(host.factory, host.clock)
    start = 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        if not client.transport.closed:
            client.send(data[start:cut])
        start = max(start, cut)
    opened = [recorder.events[0] for recorder in host.recorders]
    assert opened in ([], [("opened",)])
    received = client.received()
    assert received.count(b"HTTP/1.1 ") <= 1
    assert bool(opened) == received.startswith(b"HTTP/1.1 101 ")
    assert not [event for recorder in host.recorders for event in recorder.events if event[1:2] == ("InternalError",)]
    if not opened:
        client.advance(16, 1)
        assert client.transport.closed
    elif not client.transport.closed:
        client.hangUp()
    assert host.runtime.gate.open == 0
    assert host.clock.getDelayedCalls() == []
    if opened:
        assert host.recorders[0].events[-1][0] == "closed"


@pytest.mark.exhaustive
class TestAnything:
    @settings(max_examples=150, derandomize=True, print_blob=True)
    @given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
    def test_randomBytes(self, data, cuts):
        """Random bytes end a connection, quietly."""
        endsOrOpens(data, cuts)

    @settings(max_examples=250, derandomize=True, print_blob=True)
    @given(st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join), st.lists(st.integers(0, 600), max_size=4))
    def test_piecesOfHeads(self, data, cuts):
        """Parts of requests, in any order, end a connection quietly, too."""
        endsOrOpens(data, cuts)

    @settings(max_examples=250, derandomize=True, print_blob=True)
    @given(
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), INSERTED), max_size=3),
        st.binary(max_size=60),
        st.lists(st.integers(0, 600), max_size=4),
    )
    @example([], b"\x81\x80\0\0\0\0", [])
    def test_mutatedHandshakes(self, mutations, after, cuts):
        """A good handshake with a few bytes changed opens or is refused, whatever follows it."""
        data = upgrade("/ws?a=b", TOKENS[11].decode().strip(), "Origin: http://localhost", Sec_WebSocket_Protocol="a, b")
        for position, removed, inserted in mutations:
            position %= len(data)
            data = data[:position] + inserted + data[position + removed :]
        endsOrOpens(data + after, cuts)


def test_aBugWhileItOpens():
    """When our own code fails while a connection opens, it is dropped, logged once, and uncounted."""
    host = WireHost()

    def attend(connection):
        raise RuntimeError("a bug")

    host.welcome = Welcome(None, (), 0, attend)
    client = host.client()
    with capturedLogs() as logs:
        client.send(upgrade())
    assert client.transport.closed
    assert [event["log_failure"].type for event in logs if "log_failure" in event] == [RuntimeError]
    assert host.runtime.gate.open == 0


def test_intake():
    """What comes before the 101 counts among all that was sent and not handled, until it is handled or dropped."""
    host = WireHost()
    later = [Deferred(), Deferred()]
    waiting = iter(later)
    host.answer = lambda request: next(waiting)
    client, other, third = (host.client() for _ in range(3))
    client.send(upgrade())
    client.send(b"x" * 20_000)
    other.send(b"GET / HTTP/1.1\r\nA: " + b"x" * 5000)
    third.send(upgrade() + b"x" * 1000)
    assert host.runtime.intake.total == 20_000 + 5019 + 1000
    other.hangUp()
    assert host.runtime.intake.total == 21_000
    third.send(b"x" * 70_000)
    assert third.received().startswith(b"HTTP/1.1 400 ")
    assert host.runtime.intake.total == 20_000
    later[0].callback(host.welcome)
    assert host.runtime.intake.total == 0


def test_tooMuchTogether():
    """When all together have sent too much, the one with the most is refused."""
    host = WireHost(Limits(maxReceiveBufferTotal=30_000))
    host.answer = lambda request: Deferred()
    some = [host.client() for _ in range(3)]
    for client, size in zip(some, (8_000, 17_000, 7_000), strict=True):
        client.send(upgrade())
        client.send(b"x" * size)
    assert [client.received()[:13] for client in some] == [b"", b"HTTP/1.1 503 ", b""]
    assert host.runtime.intake.total == 15_000


class CountingElsewhere:
    """A census that has let in everybody, for now."""

    def __init__(self):
        self.turnAways = []
        self.gone = 0

    def isFull(self, address):
        return False

    def came(self, address, here, turnAway):
        assert (address, here) == ("127.0.0.1", len(self.turnAways) - self.gone + 1)
        self.turnAways.append(turnAway)

    def left(self, address):
        self.gone += 1


def test_turnedAway():
    """A connection that turns out to be one too many for its address is dropped, whatever has become of it meanwhile."""
    host = WireHost()
    census = host.runtime.gate.census = CountingElsewhere()
    silent, half, opened, refused, left = (host.client() for _ in range(5))
    half.send(upgrade()[:20])
    opened.connect()
    refused.send(b"GET / HTTP/1.1\r\n\r\n")
    left.hangUp()
    assert census.gone == 1
    with capturedLogs() as logs:
        for turnAway in census.turnAways:
            turnAway()
    assert all(client.transport.closed for client in (silent, half, opened, refused))
    assert (census.gone, host.runtime.gate.open) == (5, 0)
    assert ["its address has as many connections as it may" in formatEvent(event) for event in logs] == [True]
    (recorder,) = host.recorders
    assert [event[1] for event in recorder.events if event[0] == "closed"] == [1006]
