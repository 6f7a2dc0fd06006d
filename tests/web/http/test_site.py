from __future__ import annotations

from typing import Any

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol, wrapClientTLS, wrapServerTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.web.conftest import World, readResponses
from twisted_ws.limits import Limits
from twisted_ws.web.http import connection as connectionModule
from twisted_ws.web.http.connection import HttpConnection
from twisted_ws.web.http.site import HttpSite
from twisted_ws.wire.websocket.runtime import Runtime

reactor: Any = _reactor
CERTIFICATE = trustme.CA().issue_cert("localhost")
GET = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_gate() -> None:
    """A site counts its connections, closes those beyond the limit, and has room again when one leaves."""
    world = World(Limits(maxConnections=1, descriptorReserve=1), {"counts": True})
    site, gate = world.site, world.runtime.gate
    address = IPv4Address("TCP", "192.0.2.1", 1)
    first = site.buildProtocol(address)
    first.makeConnection(StringTransport())
    assert gate.open == 1
    second, transport = site.buildProtocol(address), StringTransport()
    second.makeConnection(transport)
    assert transport.disconnected
    assert transport.value() == b""
    assert gate.open == 1
    first.connectionLost(Failure(ConnectionError()))
    second.connectionLost(Failure(ConnectionError()))
    assert gate.open == 0
    assert site.buildProtocol(UNIXAddress("x")) is not second
    assert gate.open == 1


def test_lostWithoutMemory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a connection goes on where no memory was left for it, and the connection is uncounted once."""
    world = World(Limits(maxConnections=1, descriptorReserve=1), {"counts": True})
    protocol = world.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
    protocol.makeConnection(StringTransport())

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(connectionModule, "reportFailure", fail)
        with pytest.raises(MemoryError):
            protocol.connectionLost(Failure(ConnectionError()))
    waiter = protocol.whenLost(5)
    protocol.connectionLost(Failure(ConnectionError()))
    assert waiter.called
    assert world.runtime.gate.open == 0


def test_fullServer() -> None:
    """When callers have taken all places, the site can still be reached, for health checks and broadcasts."""
    world = World(Limits(maxConnections=3, descriptorReserve=10), {"counts": True})
    site, gate, address = world.site, world.runtime.gate, IPv4Address("TCP", "192.0.2.1", 1)
    assert site.essential
    assert [gate.admit("192.0.2.2") for _ in range(4)] == [True, True, True, False]
    protocols = [site.buildProtocol(address) for _ in range(6)]
    assert [isinstance(each, HttpConnection) for each in protocols] == [True] * 5 + [False]


def test_noGate() -> None:
    """A site without a gate, whose connections somebody else counts, counts none."""
    site = World().site
    channel = site.buildProtocol(None)
    channel.makeConnection(StringTransport())
    channel.connectionLost(Failure(ConnectionError()))


def test_protocols() -> None:
    """HTTP/1.1 and 1.0 are negotiated, whatever else Twisted could speak."""
    assert World().site.acceptableProtocols() == [b"http/1.1", b"http/1.0"]


class Client(Protocol):
    """Collects what a server sends until it closes."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self._waiting: tuple[bytes, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self._waiting is not None and self.received.endswith(self._waiting[0]):
            (_, waiting), self._waiting = self._waiting, None
            waiting.callback(None)

    def until(self, end: bytes) -> Deferred[None]:
        """Return a Deferred that fires when `end` has come."""
        self._waiting = (end, Deferred())
        return self._waiting[1]

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008 - as Twisted declares it
        self.lost.callback(None)


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Contexts:
    """TLS with a certificate, or of a client that trusts anybody."""

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        if certificate is not None:
            with certificate.private_key_and_cert_chain_pem.tempfile() as path:
                self._context.use_privatekey_file(path)
                self._context.use_certificate_chain_file(path)

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    clientConnectionForTLS = serverConnectionForTLS


class Watched(HttpSite):
    """Tells when its one connection has ended."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ended: Deferred[None] = Deferred()

    def left(self, address: str | None) -> None:
        super().left(address)
        self.ended.callback(None)


class Loopback(TestCase):
    """The site on real sockets."""

    timeout = 60

    async def serve(self, secure: bool, **limits: float) -> tuple[World, Any]:
        """Listen, and return the world and an endpoint that connects to it."""
        world = World()
        values: dict[str, Any] = {"lingerDeadline": 0.1, **limits}
        runtime = Runtime(reactor, Limits(**values))
        self.gate = runtime.gate
        site = Watched(world.site.resource, runtime, True)
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if secure:
            endpoint = wrapServerTLS(Contexts(CERTIFICATE), endpoint)
        port = await endpoint.listen(site)
        self.addCleanup(port.stopListening)
        self.site = site
        plain = self.plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        return world, wrapClientTLS(Contexts(), plain) if secure else plain

    async def talk(self, secure: bool) -> None:
        _, endpoint = await self.serve(secure)
        client = await connectProtocol(endpoint, Client())
        for _ in range(2):
            answered = client.until(b"hello")
            client.transport.write(GET)
            await answered
        client.transport.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.lost
        await self.site.ended
        assert [r.status for r in readResponses(client.received)] == [200, 200, 200]

    async def refuse(self, secure: bool) -> None:
        _, endpoint = await self.serve(secure)
        client = await connectProtocol(endpoint, Client())
        # Far more than socket buffers hold: it is still being sent when the answer comes.
        client.transport.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 16777216\r\n\r\n" + b"x" * 16777216)
        await client.lost
        await self.site.ended
        (response,) = readResponses(client.received)
        assert (response.status, response.json["error"]) == (413, "too-large")

    def test_tcp(self) -> Any:
        """A connection serves one request after the other, and ends when asked to."""
        return Deferred.fromCoroutine(self.talk(False))

    def test_tls(self) -> Any:
        """One TLS connection serves several requests, too, and ends when asked to."""
        return Deferred.fromCoroutine(self.talk(True))

    def test_refusalIsRead(self) -> Any:
        """A client that is refused while it is still sending can read why: no reset arrives first."""
        return Deferred.fromCoroutine(self.refuse(False))

    def test_refusalIsReadWithTLS(self) -> Any:
        """With TLS, too, a client that is refused while it is still sending can read why."""
        return Deferred.fromCoroutine(self.refuse(True))

    async def test_silentTLS(self) -> None:
        """A client that connects to a TLS port and never begins the handshake is dropped at the deadline of the head."""
        await self.serve(True, headDeadline=0.1)
        client = await connectProtocol(self.plain, Client())
        await client.lost
        await self.site.ended
        assert client.received == b""

    async def test_noPlaceWithTLS(self) -> None:
        """A TLS connection without a place is closed, and nothing breaks in Twisted's wrapper."""
        await self.serve(True, maxConnections=1, descriptorReserve=1)
        self.gate.admit("192.0.2.1")
        client = await connectProtocol(self.plain, Client())
        await client.lost
        assert client.received == b""
        assert self.gate.open == 1

    async def test_mutePeer(self) -> None:
        """A peer that keeps its side open after the last response is dropped at the deadline."""
        _, endpoint = await self.serve(True)
        client = await connectProtocol(endpoint, Client())
        raw = client.transport.transport
        done = client.until(b"hello")
        client.transport.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await done
        raw.pauseProducing()  # never answers the close alert
        await self.site.ended
        raw.resumeProducing()
        await client.lost
