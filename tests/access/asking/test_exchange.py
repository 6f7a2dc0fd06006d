"""Questions to a real server, over loopback: the reactor of the process is turned by the tests."""

from __future__ import annotations

import time

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs
from zope.interface import implementer

from tests.access.kinds.support import Host, request, settings
from twisted_ws import WebSocketServer, WebSocketService
from twisted_ws.access.asking.backend import makeBackEnd
from twisted_ws.access.asking.exchange import LONGEST_ANSWER, Answer, Exchanges, Question, Unanswered
from twisted_ws.access.asking.http import HTTPAuthenticator
from twisted_ws.access.options import Options
from twisted_ws.limits import Limits

# Seconds that a busy machine may take for anything here.
PATIENCE = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=7\r\n\r\nok"


class Server(Factory):
    """Answers each request as `answer` says: bytes, or a function that is called with the connection."""

    def __init__(self, answer=OK):
        self.answer = answer
        self.requests = []
        self.connections = []
        self.lost = 0

    def buildProtocol(self, address):
        connection = Connection()
        connection.factory = self
        self.connections.append(connection)
        return connection


class Connection(Protocol):
    """One connection of the server."""

    data = b""

    def dataReceived(self, data):
        self.data += data
        head, end, rest = self.data.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if end and len(rest) >= length:
            self.data = b""
            self.factory.requests.append(head + end + rest)
            answer = self.factory.answer
            if callable(answer):
                answer(self)
            else:
                self.transport.write(answer)

    def connectionLost(self, reason):
        self.connected = 0
        self.factory.lost += 1


class World:
    """The reactor, and what is to be closed at the end."""

    def __init__(self):
        from twisted.internet import reactor

        self.reactor = reactor
        self.ends = []

    def close(self):
        for end in self.ends:
            end()
        for _ in range(10):
            self.reactor.iterate(0)

    def until(self, holds):
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "this never happened"
            self.reactor.iterate(0.01)

    def listen(self, server, context=None):
        if context is None:
            port = self.reactor.listenTCP(0, server, interface="127.0.0.1")
        else:
            port = self.reactor.listenSSL(0, server, context, interface="127.0.0.1")
        self.ends.append(port.stopListening)
        if context is None:  # twisted.protocols.tls cannot abort after a handshake that failed; those close with the client
            self.ends.append(lambda: [each.transport.abortConnection() for each in server.connections])
        return f"http{'s' if context else ''}://127.0.0.1:{port.getHost().port}/path?x=1"

    def exchanges(self, trusted=None):
        made = Exchanges(self.reactor, 4, trusted)
        self.ends.append(made.stop)
        return made

    def result(self, deferred):
        found = []
        deferred.addBoth(found.append)
        self.until(lambda: found)
        return getattr(found[0], "value", None) or found[0]


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def get(url):
    return Question("GET", url, (("cookie", "a=b"),))


def test_asks(world):
    """A question goes out as it is, and the answer comes back; the next one uses the same connection."""
    server = Server()
    url = world.listen(server)
    exchanges = world.exchanges()
    for _ in range(2):
        assert world.result(exchanges.send(get(url))) == Answer(200, b"ok", "max-age=7")
    assert world.result(exchanges.send(Question("POST", url, (("content-type", "text/plain"),), b"body"))).status == 200
    assert server.requests[0].startswith(b"GET /path?x=1 HTTP/1.1\r\n")
    assert b"cookie: a=b\r\n" in server.requests[0].lower()
    assert server.requests[2].endswith(b"\r\n\r\nbody")
    assert len(server.connections) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects(world, status):
    """A redirect is an answer like others: the credentials do not go where it points."""
    other = Server()
    target = world.listen(other)
    url = world.listen(Server(f"HTTP/1.1 {status} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()))
    assert world.result(world.exchanges().send(get(url))).status == status
    assert other.requests == []


def test_noProxies(world, monkeypatch):
    """Proxies that the environment names are not used."""
    proxy, server = Server(), Server()
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, world.listen(proxy))
    assert world.result(world.exchanges().send(get(world.listen(server)))).status == 200
    assert proxy.requests == []


def endless(connection):
    """Write for ever, as fast as the other side reads."""
    connection.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    connection.written = 0

    class Producer:
        def resumeProducing(self):
            connection.written += 65536
            connection.transport.write(b"x" * 65536)

        def stopProducing(self):
            pass

    connection.transport.registerProducer(Producer(), False)


def large(connection):
    """Announce 50 MB."""
    connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n" + b"x" * 100)


@pytest.mark.parametrize("answer", [endless, large])
def test_largeAnswers(world, answer):
    """An answer beyond the limit is refused as soon as that is known, and the connection is closed at once."""
    server = Server(answer)
    found = world.result(world.exchanges().send(get(world.listen(server))))
    assert "64 KiB" in found.detail
    world.until(lambda: server.lost)


def test_theLargestAnswer(world):
    """An answer as large as may be is whole, in chunks, too."""
    half = b"x" * (LONGEST_ANSWER // 2)
    chunk = f"{len(half):x}\r\n".encode() + half + b"\r\n"
    server = Server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2 + b"0\r\n\r\n")
    assert world.result(world.exchanges().send(get(world.listen(server)))).body == half * 2


def test_oldServers(world):
    """An answer of HTTP/1.0 ends with its connection."""

    def answer(connection):
        connection.transport.write(b"HTTP/1.0 200 OK\r\n\r\nold")
        connection.transport.loseConnection()

    assert world.result(world.exchanges().send(get(world.listen(Server(answer))))).body == b"old"


def reset(connection):
    connection.transport.abortConnection()


def cut(connection):
    connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
    connection.transport.loseConnection()


@pytest.mark.parametrize("answer", [reset, cut, b"nonsense\r\n\r\n"])
def test_brokenAnswers(world, answer):
    """A connection that breaks before the answer is whole gives no answer; a first question is not asked again."""
    server = Server(answer)
    assert isinstance(world.result(world.exchanges().send(get(world.listen(server)))), Unanswered)
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_staleConnections(world, method):
    """A kept connection that the server closes under a question costs a second try on a new one, once."""
    server = Server()
    url = world.listen(server)
    exchanges = world.exchanges()
    question = Question(method, url, (), b"body" if method == "POST" else b"")
    world.result(exchanges.send(question))

    def once(connection):
        if connection is server.connections[0]:
            connection.transport.abortConnection()
        else:
            connection.transport.write(OK)

    server.answer = once
    assert world.result(exchanges.send(question)).body == b"ok"
    assert (len(server.requests), len(server.connections)) == (3, 2)
    world.result(exchanges.send(question))
    server.answer = reset
    before = len(server.requests)
    assert isinstance(world.result(exchanges.send(question)), Unanswered)
    assert len(server.requests) - before <= 2


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
def test_cancelled(world, method, begun):
    """A question that is given up on a kept connection is not asked again, and its connection is closed."""
    server = Server()
    url = world.listen(server)
    exchanges = world.exchanges()
    question = Question(method, url, (), b"body" if method == "POST" else b"")
    world.result(exchanges.send(question))
    server.answer = begun
    asked = exchanges.send(question)
    world.until(lambda: len(server.requests) == 2)
    asked.cancel()
    assert isinstance(world.result(asked), CancelledError)
    world.until(lambda: server.lost)
    assert (len(server.requests), len(server.connections)) == (2, 1)


def test_nobodyListens(world):
    """Where nobody listens there is no answer, and the log can say why."""
    port = world.reactor.listenTCP(0, Server(), interface="127.0.0.1")
    url = f"http://127.0.0.1:{port.getHost().port}/"
    port.stopListening()
    world.reactor.iterate(0)
    assert "no connection" in world.result(world.exchanges().send(get(url))).detail


def test_quiet(world):
    """A connection that begins or ends is no line of the log: a busy server would have thousands."""
    url = world.listen(Server())
    exchanges = world.exchanges()
    with capturedLogs() as events:
        assert world.result(exchanges.send(get(url))).status == 200
        world.result(exchanges.stop())
    assert [event for event in events if "client" in event["log_namespace"]] == []


def test_tls(world, tmp_path):
    """A certificate is verified against the authorities that are trusted, and its name, too; nothing is sent before."""
    authority = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    found, counts = {}, []
    for name in ("127.0.0.1", "other.example"):
        issued = authority.issue_cert(name)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        issued.configure_cert(context)
        server = Server()
        url = world.listen(server, Serving(context))
        for trusted in ("ca-file", None):
            options = Options("authenticators.mine", {"ca-file": "ca.pem"} if trusted else {}, str(tmp_path))
            backEnd = makeBackEnd(options, "authenticator mine", world.reactor, 60)
            world.ends.append(backEnd.stop)
            found[name, trusted] = world.result(backEnd.ask(get(url)))
            counts.append(len(server.requests))
    assert counts == [1, 1, 0, 0]
    assert found["127.0.0.1", "ca-file"].status == 200
    assert "not trusted" in found["127.0.0.1", None].detail
    assert "not for" in found["other.example", "ca-file"].detail
    assert "not trusted" in found["other.example", None].detail


@implementer(IOpenSSLContextFactory)
class Serving:
    """One context for all connections."""

    def __init__(self, context):
        self.context = context

    def getContext(self):
        return self.context


def drip(connection):
    """Write a byte now and then, for ever."""
    connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")

    def again():
        if connection.connected:
            connection.transport.write(b" ")
            connection.transport.reactor.callLater(0.01, again)

    again()


@pytest.mark.exhaustive
@pytest.mark.parametrize("answer", [b"", drip, endless, reset, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"])
def test_aHookThatFails(world, tmp_path, answer):
    """While the hook hangs, drips or fails, 2,000 handshakes are refused with few questions, and others are not affected."""
    server = Server(answer)
    shop = HTTPAuthenticator(settings(tmp_path, world.reactor, url=world.listen(server), deadline=1, in_flight=16))
    push = WebSocketServer(authenticators={"shop": shop}, reactor=world.reactor)
    push.mount("/shop", WebSocketService(), authenticate=["shop"])
    push.mount("/open", WebSocketService())
    world.ends.append(shop.stop)
    found = []
    for n in range(2000):
        asked = request(("cookie", f"s={n}"), target="/shop", peerAddress=f"10.0.{n // 250}.{n % 250}")
        try:
            push.upgrade(asked).addBoth(found.append)
        except Exception as error:
            found.append(error)
    assert push.upgrade(request(target="/open"))
    world.until(lambda: len(found) == 2000)
    assert {getattr(each, "value", each).status for each in found} == {503}
    assert len(server.requests) <= 40
    assert push.upgrade(request(target="/open"))


def test_aHookThatAnswers(world, tmp_path):
    """2,000 handshakes of 200 sessions cost 200 questions, over no more connections than may be."""
    body = b'{"user": "ann"}'
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    made = settings(tmp_path, world.reactor, url=world.listen(server), deadline=PATIENCE, in_flight=8)
    # Client and hook share this process, which may be a slow one: nothing here is about time.
    shop = HTTPAuthenticator(made._replace(limits=Limits(upgradeDeadline=PATIENCE)))
    shop.start(Host(world.reactor))
    world.ends.append(shop.stop)
    found = []
    for n in range(2000):
        shop.identify(request(("cookie", f"s={n % 200}"))).addBoth(found.append)
    world.until(lambda: len(found) == 2000)
    assert {each.user for each in found} == {"ann"}
    assert len(server.requests) == 200
    assert len(server.connections) <= 8
