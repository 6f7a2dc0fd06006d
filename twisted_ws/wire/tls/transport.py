"""Twisted's TLS transport with what it lacks, and what a failure of TLS means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IProtocolFactory, ITCPTransport, ITransport
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import Certificate
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import providedBy
from zope.interface.declarations import Provides

from twisted_ws.logs import Throttle, peerName, printable
from twisted_ws.telemetry.counts import Table
from twisted_ws.wire import speedups
from twisted_ws.wire.loop.transports import hasTLS, peerOf
from twisted_ws.wire.tls.contexts import openSSLReason

if TYPE_CHECKING:
    from twisted_ws.wire.tls.server import ServerTLS

_log = Logger()

# OpenSSL's words for the end of a stream without a close_notify, such as a load balancer's check.
_PEER_LEFT = "unexpected eof while reading"
_READ = 2**15

_HINT = b"This port speaks TLS: use https:// or wss://\n"
PLAIN_HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
    len(_HINT),
    _HINT,
)


# Why a connection ends that `twisted_ws.wire.speedups.pure.tlsAllow` has stopped.
TOO_MANY_MESSAGES = SSL.Error([("", "", "too many messages of TLS itself at once, such as new keys")])


# zope.interface's declarations for our transports, by the class of the transport below. Twisted declares each interface one by
# one; if the declarations were not kept here, each connection would make them again, and they consist of reference cycles.
_declarations: dict[type, list[object]] = {}


class TLSTransport(TLSMemoryBIOProtocol):
    """Twisted's TLS transport, without the turn of delay that its buffering variant adds, and with what the stock class lacks."""

    transport: Any

    def makeConnection(self, transport: ITransport) -> None:
        """Begin, and have small packets sent at once."""
        if ITCPTransport.providedBy(transport):
            try:
                transport.setTcpNoDelay(True)
            except OSError:
                pass  # the peer has left already, and connectionLost will say so
        super().makeConnection(transport)  # type: ignore[no-untyped-call]
        if transport.__class__ not in _declarations:
            each = [Provides(self.__class__, interface) for interface in providedBy(transport)]
            _declarations[transport.__class__] = [*each, providedBy(self)]

    def abortConnection(self) -> None:
        """Drop the connection now."""
        if self.connected:  # stock raises AttributeError once the connection is lost
            super().abortConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        # The TCP transport has stopped it already. The stock class keeps it: a reference cycle, and an AttributeError when it is
        # unregistered later.
        self._producer = None
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def _checkHandshakeStatus(self) -> None:
        """Go on with the handshake."""
        super()._checkHandshakeStatus()  # type: ignore[no-untyped-call]
        if self._handshakeDone:
            countHandshake(self._tlsConnection)

    def _flushReceiveBIO(self) -> None:
        """Deliver what has come."""
        speedups.tlsCount(True)
        try:
            super()._flushReceiveBIO()  # type: ignore[no-untyped-call]
        finally:
            speedups.tlsCount(False)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """End the connection, because the peer ended TLS or broke it."""
        if speedups.tlsCount(False):
            reason = Failure(TOO_MANY_MESSAGES)
        elif reason is not None:
            reason.cleanFailure()  # the stock class keeps it in a frame of its own traceback: a cycle for each connection
        if not self._handshakeDone:
            countHandshake(self._tlsConnection, "failed")
        if reason is not None and isPlainHTTP(reason.value):
            self.transport.write(PLAIN_HTTP)
        super()._tlsShutdownFinished(reason)  # type: ignore[no-untyped-call]
        # Whatever the producer writes from here on is dropped. Left registered with a full TCP transport, it would be asked to
        # resume, write what never arrives, and hold the connection open forever.
        producer, self._producer = self._producer, None
        if producer is not None:
            self.transport.unregisterProducer()
            producer.stopProducing()

    def _flushSendBIO(self) -> None:
        """Write all that OpenSSL has for the peer: the stock class writes 32 KiB, and a longer flight would wait forever."""
        try:
            data = self._tlsConnection.bio_read(_READ)
            self.transport.write(data)
            while len(data) == _READ:
                data = self._tlsConnection.bio_read(_READ)
                self.transport.write(data)
        except SSL.WantReadError:
            pass


class TLSFactory(TLSMemoryBIOFactory):
    """Makes connections with TLS in memory, on any transport (see `ServerTLS.wrap`).

    Attributes:
        tls: has the context.
    """

    protocol = TLSTransport

    def __init__(self, tls: ServerTLS, isClient: bool, wrappedFactory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(tls, isClient, wrappedFactory, reactor)
        self.tls = tls

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the transport; or None, which closes the connection, if the wrapped factory returns None."""
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)  # type: ignore[no-untyped-call]


def countHandshake(connection: SSL.Connection, result: str = "ok") -> None:
    """Count a handshake that has ended, where `ServerTLS` counts them."""
    handshakes = connection.get_context().get_app_data()
    if isinstance(handshakes, Table):  # any other context can be used with these transports
        handshakes.add(connection.get_protocol_version_name() if result == "ok" else "", result)


def peerCertificate(transport: Any) -> Certificate | None:
    """Return the client's verified certificate; None without TLS, without mutual TLS, or when the connection is lost.

    Call it from the first byte of the application on: before that, the handshake is not finished.
    """
    connection = transport.getHandle() if hasTLS(transport) else None
    found = None if connection is None else connection.get_peer_certificate()
    return None if found is None else Certificate(found)


def isPlainHTTP(error: BaseException | None) -> bool:
    """Return whether a handshake failed because the client spoke HTTP without TLS; `PLAIN_HTTP` tells it so."""
    return openSSLReason(error) == "http request"


def reportFailure(reason: Failure, throttle: Throttle, transport: Any) -> None:
    """Log that TLS ended a connection before its first request; log nothing if the peer has just left.

    Args:
        reason: the one that `connectionLost` got.
        throttle: keeps peers from filling the log.
        transport: the connection.
    """
    error = reason.value
    what = openSSLReason(error) if isinstance(error, SSL.Error) else ""
    if not what or what == _PEER_LEFT:
        return
    if isPlainHTTP(error):
        what = "the client spoke plain HTTP: use https:// or wss:// there"
    elif "alert" in what and ("certificate" in what or "unknown ca" in what):  # an alert comes from the client
        what += ": the client does not accept the certificate of this server"
    peer = peerName(peerOf(transport.getPeer())[0])
    throttle.info(_log, "TLS failed", "{peer}: TLS failed: {reason}", peer=peer, reason=printable(what), event="tls.failed")
