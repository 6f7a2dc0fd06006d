"""One end of a connection in memory, which behaves as Twisted's TCP transport does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

# Bytes of one read, as Twisted has it.
READ = 64 * 1024


@implementer(ITCPTransport)
class MemoryTransport:
    """One end: what is written here waits until `turn`, which delivers it to the protocol at the other end.

    Args:
        host: this end's address.
        peer: the other end's.

    Attributes:
        protocol: gets what comes to this end.
        other: the other end.
        room: how many more bytes the network takes from here; None: any number.
        segment: the most bytes that arrive at once; None: as many as one read holds.
        waiting: what was written here and is not at the other end yet.
        reading: whether the protocol takes what comes.
        closed: whether the protocol was told of the end.
        certificate: the peer's, with TLS.
    """

    protocol: Any
    other: MemoryTransport

    def __init__(self, host: IPv4Address | IPv6Address, peer: IPv4Address | IPv6Address) -> None:
        self.room: int | None = None
        self.segment: int | None = None
        self.waiting = bytearray()
        self.reading = True
        self.closed = False
        self.certificate: Any = None
        self.disconnecting = False
        self._host = host
        self._peer = peer
        self._producer: Any = None
        self._finishing = False
        self._finished = False  # the other end was told that nothing more will come
        self._ended = False  # nothing more will come from the other end
        self._broken: Exception | None = None

    # What a reactor does.

    def turn(self) -> bool:
        """Do what is due at this end; return whether anything was."""
        if self.closed:
            return False
        if self._broken is not None:
            self._lose(self._broken)
            return True
        moved = self._carry()
        if not self.waiting and not self.closed:
            if self.disconnecting and self._producer is None:
                self._lose(ConnectionDone())
                return True
            if self._finishing and not self._finished:
                self._finished = self.other._ended = moved = True
        if self._ended and self.reading and not self.closed:
            self._lose(ConnectionDone())
            return True
        return moved

    def _carry(self) -> bool:
        other = self.other
        if other.closed:
            self.waiting.clear()
        size = min(len(self.waiting), READ, *(limit for limit in (self.room, self.segment) if limit is not None))
        if not size or not other.reading:
            return False
        data = bytes(self.waiting[:size])
        del self.waiting[:size]
        if self.room is not None:
            self.room -= size
        if not self.waiting and self._producer is not None:
            self._producer.resumeProducing()
        other.protocol.dataReceived(data)
        return True

    def _lose(self, error: Exception) -> None:
        self.closed = True
        self.waiting.clear()
        other, producer, self._producer = self.other, self._producer, None
        if isinstance(error, ConnectionDone):
            other._ended = True
        elif other._broken is None:
            other._broken = ConnectionLost()
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(error))

    def lose(self) -> None:
        """Break the connection: the protocol is told in the next turn, and what is on the way is lost."""
        self._broken = self._broken or ConnectionLost()

    def release(self) -> MemoryTransport:
        """Give up the connection without ending it, for another protocol (see `LaneServer.release`)."""
        self._producer = None
        self.reading = True
        return self

    # ITransport and IConsumer: what a protocol asks.

    def write(self, data: bytes) -> None:
        """Keep bytes for the next turns."""
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if not (self.closed or self._finishing):
            self.waiting += data

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Keep bytes for the next turns."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when everything has gone out."""
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        """Tell the other end that nothing more will come, when everything has gone out."""
        self._finishing = True

    def abortConnection(self) -> None:
        """Close in the next turn, whatever waits."""
        self._broken = self._broken or ConnectionAborted()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Ask `producer` for more whenever everything has gone out."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        self._producer = producer
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Stop asking the producer."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Stop taking what comes from the other end."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Take what comes from the other end."""
        self.reading = True

    def stopProducing(self) -> None:
        """Close when everything has gone out."""
        self.loseConnection()

    def getHost(self) -> IPv4Address | IPv6Address:
        """Return the address of this end."""
        return self._host

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Return the address of the other end."""
        return self._peer

    def getPeerCertificate(self) -> Any:
        """Return the peer's certificate; None without one."""
        return self.certificate

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing: there are no packets."""

    def getTcpNoDelay(self) -> bool:
        """Return True: nothing is held back."""
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing: there are no packets."""

    def getTcpKeepAlive(self) -> bool:
        """Return False: there is no keep-alive."""
        return False
