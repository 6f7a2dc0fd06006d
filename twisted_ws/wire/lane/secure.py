"""TLS on the socket itself: a connection of the fast lane whose bytes OpenSSL reads and writes.

Twisted's own TLS transport works in memory: each record is copied two more times on its way, and each write costs a turn of the
reactor. Here, one delivery is one call.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.wire import speedups
from twisted_ws.wire.lane.transport import LANE_NAMES, LaneServer
from twisted_ws.wire.loop.keysharing import shareKeys
from twisted_ws.wire.speedups.pure import TOO_MANY, WANT_READ, tlsHasEnded
from twisted_ws.wire.tls.server import ServerTLS
from twisted_ws.wire.tls.transport import PLAIN_HTTP, TOO_MANY_MESSAGES, countHandshake, isPlainHTTP


@implementer(ISSLTransport)
class SecureLaneServer(LaneServer):
    """An accepted connection with TLS; for its protocol, like a transport from `twisted_ws.wire.tls.server.ServerTLS.wrap`.

    `loseConnection` sends what is buffered, then our close_notify, and waits for the peer's; the caller keeps a deadline and then
    calls `abortConnection`. Up to `Limits.lingerBytes` of what the peer still sends are read. There is no half-close:
    `loseWriteConnection` does the same.

    Args:
        tls: has the context.

    Attributes:
        handle: this connection, as OpenSSL's functions take it.
    """

    _log = Logger()

    isSecure = True
    _handshaking = True
    _ending = False  # our close_notify is sent, or the peer's has come
    _discarded = 0  # bytes that came after `loseConnection`
    _endUnread = False  # the end has come, which no poll shows, while reading is paused
    # Rare, with old versions of TLS or a new key: OpenSSL cannot go on in one direction before the socket is ready in the other.
    _readWantsWrite = False
    _writeWantsRead = False

    def __init__(
        self, tls: ServerTLS, descriptor: int, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        self._tls = tls.connection(descriptor)
        self._mayDiscard = tls.limits.lingerBytes
        self._tls.set_accept_state()
        self.handle: Any = speedups.tlsHandle(self._tls)
        super().__init__(descriptor, protocol, client, server, sessionno, reactor)

    def _makeSender(self) -> Any:
        return speedups.makeSender(self.handle, True)

    def getHandle(self) -> SSL.Connection:  # type: ignore[override]
        """Return the OpenSSL connection, as Twisted's TLS transports do."""
        return self._tls

    def getPeerCertificate(self) -> Any:
        """Return the client's certificate as pyOpenSSL has it; None without one, or before the end of the handshake."""
        return self._tls.get_peer_certificate()

    # In.

    def doRead(self) -> Any:
        """Read once (called by the reactor)."""
        if self._handshaking:
            return self._shakeHands()
        if not self.connected:
            return None
        if not self.reactor.isReading(self):
            self._endUnread = True
            return None
        if self._writeWantsRead:
            self._writeWantsRead = False
            self.startWriting()  # type: ignore[no-untyped-call]
        try:
            came = speedups.tlsReadSome(self.handle)
        except SSL.Error as error:
            came = error.with_traceback(None)  # or it and this frame would refer to each other
        why = None if came is None else self.take(came)
        if why is None and came.__class__ is bytes and came and self.connected and tlsHasEnded(self._tls):
            return self.doRead()  # now only the end is left
        return why

    def startReading(self) -> None:
        """Read again (called by `resumeProducing`)."""
        super().startReading()  # type: ignore[no-untyped-call]
        if self._endUnread:
            self.reactor.readAgain(self)
            self._endUnread = False

    def take(self, came: Any) -> Any:
        """Pass on what was read, and return what ends the connection."""
        if came == TOO_MANY:
            return self._broken(TOO_MANY_MESSAGES)
        if came.__class__ is int:
            try:
                self._tls._raise_ssl_error(self._tls._ssl, -1)
            except SSL.Error as error:
                came = error.with_traceback(None)
        if isinstance(came, SSL.WantWriteError):
            self._readWantsWrite = True
            self.startWriting()  # type: ignore[no-untyped-call]
            return None
        if isinstance(came, SSL.Error):
            return self._broken(came)
        if came == b"":
            return self._peerEnded()
        if self.disconnecting:
            # A protocol that has closed hears nothing but the end. A peer that still sends more than it could have sent before it
            # read our close_notify is read no further.
            self._discarded += len(came)
            if self._discarded > self._mayDiscard:
                self.stopReading()  # type: ignore[no-untyped-call]
            return None
        return super().take(came)

    def _shakeHands(self) -> Any:
        self.reactor.sockets.lookUp()  # a signature of RSA takes milliseconds
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self.stopWriting()  # type: ignore[no-untyped-call]
            return None
        except SSL.WantWriteError:
            self.startWriting()  # type: ignore[no-untyped-call]
            return None
        except SSL.Error as error:
            return self._broken(error.with_traceback(None))
        self._handshaking = False
        countHandshake(self._tls)
        # pyOpenSSL uses it to find the connection in callbacks of the handshake, which is over; pure Python uses it to count
        # messages.
        if speedups.tlsCompiled:
            getattr(self._tls, "_reverse_mapping", {}).pop(getattr(self._tls, "_ssl", None), None)
        if self.isDrained() and not self.disconnecting:
            self.stopWriting()  # type: ignore[no-untyped-call]
        else:
            self.startWriting()  # type: ignore[no-untyped-call]
        return None

    # Out.

    def sendSome(self, data: bytes) -> int:
        """Send what the kernel takes of `data` now, and return how much that is. Nothing may be buffered."""
        if not self.connected or self.disconnecting or self._handshaking:
            return 0
        sent: int = speedups.tlsWriteSome(self.handle, data)
        return max(sent, 0)

    def writeNow(self, data: bytes) -> bool:
        """Write, and return whether the kernel took everything; after `loseConnection`, drop it, as Twisted's own TLS does."""
        return (self.disconnecting and self.producer is None) or super().writeNow(data)

    def writeSomeData(self, data: bytes | memoryview) -> Any:
        """Send what was buffered (called by `doWrite`)."""
        sent = speedups.tlsWriteSome(self.handle, data)
        if sent >= 0:
            return sent
        if sent != WANT_READ:
            return main.CONNECTION_LOST
        self._writeWantsRead = True
        self.setLane(None)  # until something has come and the protocol asks for it again
        self.stopWriting()  # type: ignore[no-untyped-call]
        return 0

    def doWrite(self) -> Any:
        """Write once (called by the reactor)."""
        if self._handshaking:
            return self._shakeHands()
        if self._readWantsWrite:
            self._readWantsWrite = False
            why = self.doRead()
            if why is not None or not self.connected:
                return why
        return super().doWrite()

    # The end.

    def loseConnection(self) -> None:
        """Close TLS, then the connection, when everything that was written is sent."""
        if self._handshaking and self.connected and not self.disconnecting:
            if self.isDrained():
                self.abortConnection()
                return
            super().loseConnection()  # type: ignore[no-untyped-call]
            self.startReading()  # everything that was written waits for the end of the handshake
            return
        super().loseConnection()  # type: ignore[no-untyped-call]

    def loseWriteConnection(self) -> None:
        """Do as `loseConnection`: the peer learns that nothing more comes, and the protocol gets no more of what it sends."""
        self.loseConnection()

    def _postLoseConnection(self) -> Any:
        # The kernel has everything that was written: now send our close_notify, once, and wait for the peer's.
        if self._ending:
            return main.CONNECTION_DONE
        self._ending = True
        try:
            if self._tls.shutdown():
                return main.CONNECTION_DONE
        except SSL.WantWriteError:
            self._ending = False
            self.startWriting()  # type: ignore[no-untyped-call]
            return None
        except SSL.Error as error:
            return self._broken(error.with_traceback(None))
        self.startReading()
        return None

    def _peerEnded(self) -> Any:
        """Close as soon as everything written before is sent: the peer has sent its close_notify."""
        if self._ending:
            return main.CONNECTION_DONE
        # What a producer wrote from now on would be dropped; left registered, it would hold the connection open forever.
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        if self.connected:
            self.loseConnection()
        return None

    def _broken(self, error: SSL.Error) -> Exception:
        """Return what the protocol is told about a handshake that failed, or a connection that broke."""
        if self._handshaking:
            countHandshake(self._tls, "failed")
        if self._handshaking and isPlainHTTP(error):
            try:
                self.socket.send(PLAIN_HTTP)
            except OSError:
                pass
        try:
            # Closing a socket with unread bytes resets the connection, and the reset can overtake what was just sent.
            self.socket.recv(self.bufferSize)
        except OSError:
            pass
        # Every protocol knows the end of a stream without close_notify by this name.
        return main.CONNECTION_LOST if isinstance(error, SSL.SysCallError) else error

    def readConnectionLost(self, reason: Failure) -> None:
        """End: TLS has no half that goes on (called by the reactor)."""
        self.connectionLost(reason)


shareKeys(SecureLaneServer, ("_tls", "_mayDiscard", "handle", *LANE_NAMES, "_handshaking", "_ending"))
