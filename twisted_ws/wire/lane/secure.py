"""TLS on the socket itself: a connection of the fast lane whose bytes OpenSSL reads and writes.

Twisted's own TLS transport works in memory: each record is copied twice more on its way, and each write costs a turn of the
reactor. Here one delivery is one call.
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
from twisted_ws.wire.tls.transport import PLAIN_HTTP, TOO_MANY_MESSAGES, isPlainHTTP

__all__ = ["SecureLaneServer"]


@implementer(ISSLTransport)
class SecureLaneServer(LaneServer):
    """An accepted connection with TLS; to its protocol, as the transport of `twisted_ws.wire.tls.server.ServerTLS.wrap` says.

    `loseConnection` sends what is buffered, then our close_notify, and waits for the peer's; who calls it keeps a deadline and
    then calls `abortConnection`. Of what the peer still sends meanwhile `lingerBytes` are read. There is no half-close:
    `loseWriteConnection` does the same.

    Args:
        tls: whose context.

    Attributes:
        handle: what OpenSSL's functions take for this connection.
    """

    _log = Logger()

    isSecure = True
    _handshaking = True
    _ending = False  # our close_notify has gone, or the peer's has come
    _discarded = 0  # bytes that came after `loseConnection`
    _endUnread = False  # the end has come, of which no poll tells, and reading pauses
    # Rare, and of old versions of TLS or a new key: OpenSSL cannot go on one way before the socket is ready the other way.
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
        """Return the client's certificate as pyOpenSSL has it, None without one or before the end of the handshake."""
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
            came = error.with_traceback(None)  # or it and this frame have each other
        why = None if came is None else self.take(came)
        if why is None and came.__class__ is bytes and came and self.connected and tlsHasEnded(self._tls):
            return self.doRead()  # nothing but the end
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
            # Who has closed hears nothing more but the end; and a peer that goes on for longer than one that has not read ours
            # yet is read no further.
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
        # By it pyOpenSSL finds whose handshake calls back, which is over; and in Python, whose messages are counted.
        if speedups.tlsCompiled:
            getattr(self._tls, "_reverse_mapping", {}).pop(getattr(self._tls, "_ssl", None), None)
        if self.isDrained() and not self.disconnecting:
            self.stopWriting()  # type: ignore[no-untyped-call]
        else:
            self.startWriting()  # type: ignore[no-untyped-call]
        return None

    # Out.

    def sendSome(self, data: bytes) -> int:
        """Send what the kernel takes of `data` now, nothing being buffered, and return how much that is."""
        if not self.connected or self.disconnecting or self._handshaking:
            return 0
        sent: int = speedups.tlsWriteSome(self.handle, data)
        return max(sent, 0)

    def writeNow(self, data: bytes) -> bool:
        """Do as the lane does; what is written after `loseConnection` is dropped, as by Twisted's own TLS."""
        return (self.disconnecting and self.producer is None) or super().writeNow(data)

    def writeSomeData(self, data: bytes | memoryview) -> Any:
        """Send what was buffered (called by `doWrite`)."""
        sent = speedups.tlsWriteSome(self.handle, data)
        if sent >= 0:
            return sent
        if sent != WANT_READ:
            return main.CONNECTION_LOST
        self._writeWantsRead = True
        self.setLane(None)  # until the protocol asks again, when something has come
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
        """Close when all that was written has gone, by TLS first."""
        if self._handshaking and self.connected and not self.disconnecting:
            if self.isDrained():
                self.abortConnection()
                return
            super().loseConnection()  # type: ignore[no-untyped-call]
            self.startReading()  # what was written waits for the end of the handshake
            return
        super().loseConnection()  # type: ignore[no-untyped-call]

    def loseWriteConnection(self) -> None:
        """Do as `loseConnection`: the peer learns that nothing more comes, and what it still sends is not for the protocol."""
        self.loseConnection()

    def _postLoseConnection(self) -> Any:
        # All that was written is with the kernel: now our close_notify, once, and then the peer's.
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
        """Close as soon as what was written before has gone: the peer has sent its close_notify."""
        if self._ending:
            return main.CONNECTION_DONE
        # What it wrote from now on would be dropped; left registered, a producer would hold the connection open for ever.
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        if self.connected:
            self.loseConnection()
        return None

    def _broken(self, error: SSL.Error) -> Exception:
        """Return what the protocol is told of a handshake that failed, or a connection that broke."""
        if self._handshaking and isPlainHTTP(error):
            try:
                self.socket.send(PLAIN_HTTP)
            except OSError:
                pass
        try:
            # To close a socket with unread bytes resets the connection, and the reset can overtake what was just sent.
            self.socket.recv(self.bufferSize)
        except OSError:
            pass
        # The end of a stream without close_notify is known to every protocol by this name.
        return main.CONNECTION_LOST if isinstance(error, SSL.SysCallError) else error

    def readConnectionLost(self, reason: Failure) -> None:
        """End: TLS has no half that goes on (called by the reactor)."""
        self.connectionLost(reason)


shareKeys(SecureLaneServer, ("_tls", "_mayDiscard", "handle", *LANE_NAMES, "_handshaking", "_ending"))
