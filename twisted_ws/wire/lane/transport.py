"""The transport of the fast lane: its socket is polled in a group, read as frames, and written to directly.

Three costs of a stock Twisted connection are avoided. Its `write` always waits for the next turn of the reactor, with two calls
to change what is polled; the reactor wraps each event in a context, a log prefix and checks; and every byte goes through
Autobahn's parser. A `LaneServer` sends at once what the kernel takes, its events come in a lean loop, and the messages of a
connection that expects one go straight from its socket to their handler. Anything out of the ordinary takes the usual way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from socket import SocketType as _BareSocket
from socket import socket as Socket
from typing import Any, Protocol

from twisted.internet import main, tcp
from twisted.internet.address import IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.python.failure import Failure

from twisted_ws.wire import speedups
from twisted_ws.wire.loop.keysharing import shareKeys


class FrameReceiver(Protocol):
    """A protocol that has asked its transport for a lane (`LaneServer.setLane`)."""

    def framesReceived(self, messages: list[str | bytes]) -> None:
        """Take messages that were read before the lane was given up, in order."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes that begin with anything but a whole, ordinary frame."""


# Below this many bytes, more of what waits is joined to what is being sent, as in Twisted.
_GATHER = 128 * 1024

# Stands for the list in which Twisted keeps what it cannot send at once: most connections never need one.
_NOTHING: list[bytes] = []


class LaneServer(tcp.Server):
    """An accepted connection that writes at once, and has a lane for a protocol that expects frames.

    Everything else is Twisted's own: order, producers, half-close, errors.

    Attributes:
        isSecure: whether its bytes are encrypted here.
        descriptor: the socket's.
        sender: sends frames straight out (`twisted_ws.wire.speedups.makeSender`).
    """

    reactor: Any
    protocol: Any
    isSecure = False
    descriptor: int
    sender: Any
    _tempDataBuffer = _NOTHING
    _socket: Socket | None = None
    _closed = False

    def __init__(self, descriptor: int, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any) -> None:
        self.descriptor = descriptor
        # All that Twisted's own __init__ sets, except for texts that are rarely asked for and that every connection would keep.
        self.reactor = reactor
        self._tempDataLen = 0
        self.protocol = protocol
        self.server = server
        self.client = client
        if len(client) != 2:
            self._addressType = IPv6Address
        self.sessionno = sessionno
        self.sender = self._makeSender()
        self.connected = 1
        self.startReading()  # type: ignore[no-untyped-call]

    @property
    def socket(self) -> Socket:  # type: ignore[override]
        """The socket, made when it is first asked for: most connections need no more than their descriptor.

        Raises:
            AttributeError: the connection has ended.
        """
        if self._closed:
            raise AttributeError("socket")
        made = self._socket
        if made is None:
            made = Socket.__new__(Socket)
            try:
                Socket.__init__(made, fileno=self.descriptor)
                made.setblocking(False)
            except BaseException:
                _BareSocket.detach(made)  # or its finaliser closes the descriptor, which may belong to another by then
                raise
            self._socket = made
        return made

    def fileno(self) -> int:
        """Return the descriptor; -1 when the connection has ended."""
        return -1 if self._closed else self.descriptor

    @property
    def hostname(self) -> str:  # type: ignore[override]
        """The peer's address, under Twisted's name for it."""
        return str(self.client[0])

    @property
    def logstr(self) -> str:  # type: ignore[override]
        """What the reactor calls this in its log."""
        return f"{type(getattr(self, 'protocol', None)).__name__},{self.sessionno},{self.hostname}"

    @property
    def repstr(self) -> str:  # type: ignore[override]
        """What `repr` shows."""
        return f"<{type(getattr(self, 'protocol', None)).__name__} #{self.sessionno} on {self.server._realPortNumber}>"

    def _makeSender(self) -> Any:
        return speedups.makeSender(self.descriptor, False)

    def isOnLoopback(self) -> bool:
        """Return whether the peer has connected to a loopback address."""
        return not self._closed and speedups.isOnLoopback(self.descriptor)

    def setLane(self, deliver: Callable[[str | bytes], None] | None, maximum: int = 0) -> None:
        """Have `deliver` called with each message in an ordinary frame; the protocol, a `FrameReceiver`, gets the rest.

        Args:
            deliver: None: the protocol gets everything, as in the beginning.
            maximum: bytes of the largest message.
        """
        if deliver is None or not self.connected or self.sender is None:
            self.reactor.sockets.detach(self.descriptor, self)
        else:
            self.reactor.sockets.attach(self.descriptor, self, self.sender, maximum, deliver)

    def doRead(self) -> Any:
        """Read once (called by the reactor)."""
        try:
            came = speedups.readSome(self.descriptor)
        except OSError:
            return main.CONNECTION_LOST
        return None if came is None else self.take(came)

    def take(self, came: Any) -> Any:
        """Pass on what was read (see `twisted_ws.wire.speedups.pure.PollSet`), and return what ends the connection."""
        if not self.connected:
            return None  # ended by what was read before
        if came.__class__ is bytes:
            if not came:
                return main.CONNECTION_DONE
            self.protocol.dataReceived(came)
        elif came.__class__ is list:
            self.protocol.framesReceived(came)
        else:
            return main.CONNECTION_LOST
        return None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have a producer paused and resumed, or asked for more, as Twisted does, which takes three times as long to begin."""
        if streaming or self.producer is not None or self.disconnected or self.TLS:
            super().registerProducer(producer, streaming)  # type: ignore[no-untyped-call]
            return
        self.producer, self.streamingProducer = producer, False
        producer.resumeProducing()

    def unsent(self) -> int:
        """Return how many written bytes the kernel has not taken."""
        return self._tempDataLen + len(self.dataBuffer) - self.offset

    def isDrained(self) -> bool:
        """Return whether the kernel has everything that was written."""
        return not self._tempDataLen and self.offset == len(self.dataBuffer)

    def sendSome(self, data: bytes) -> int:
        """Send what the kernel takes of `data` now, and return how much that is. Nothing may be buffered.

        What the kernel did not take must be written next.
        """
        if not self.connected or self.disconnecting or self._writeDisconnected:
            return 0
        try:
            return os.write(self.descriptor, data)
        except OSError:
            return 0  # not now; if something else is wrong, the next try says so to the reactor, which can handle it

    def write(self, data: bytes) -> None:
        """Send what the kernel takes of `data` now, and the rest, in order, when it takes more."""
        if self.writeNow(data) and self.producer is not None and not self.streamingProducer:
            self.startWriting()  # type: ignore[no-untyped-call]  # a pull producer is asked for more, in a separate turn

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write several pieces as one."""
        pieces = list(iovec)
        if all(isinstance(piece, bytes) for piece in pieces):
            self.write(b"".join(pieces))
        else:
            super().writeSequence(pieces)  # type: ignore[no-untyped-call]  # raises what is wrong

    def writeNow(self, data: bytes) -> bool:
        """Write, and return whether the kernel took everything; unlike `write`, do not ask a pull producer for more then."""
        if not isinstance(data, bytes) or not self.connected or self._writeDisconnected or not self.isDrained():
            empty: list[bytes] = []
            if self._tempDataBuffer is _NOTHING:
                self._tempDataBuffer = empty
            super().write(data)  # type: ignore[no-untyped-call]
            return False
        # It is noted before it is sent, so that what a finaliser writes meanwhile comes after it.
        self.dataBuffer = data
        self.offset = 0
        try:
            sent = self.sendSome(data)
        except BaseException:
            self.abortConnection()  # there is no telling how much was sent
            raise
        if sent == len(data):
            self.dataBuffer = b""
            if not self._tempDataLen:
                return True
        else:
            self.offset = sent
            self._maybePauseProducer()  # type: ignore[no-untyped-call]
        self.startWriting()  # type: ignore[no-untyped-call]
        return False

    def writeSomeData(self, data: bytes | memoryview) -> Any:
        """Send what was buffered (called by `doWrite`)."""
        try:
            return os.write(self.descriptor, memoryview(data)[:_GATHER])
        except OSError as error:
            return 0 if error.errno in (errno.EAGAIN, errno.ENOBUFS) else main.CONNECTION_LOST

    # The way in which Twisted gathers what waits would lose what is written in the middle of that.
    SEND_LIMIT = 0

    def doWrite(self) -> Any:
        """Write once (called by the reactor)."""
        if self._tempDataLen and self.unsent() - self._tempDataLen < _GATHER:
            fresh: list[bytes] = []
            pieces, self._tempDataBuffer = self._tempDataBuffer, fresh
            gathered = b"".join(pieces)
            data = self.dataBuffer[self.offset :] + gathered
            size = len(gathered)
            self.dataBuffer = data
            self.offset = 0
            self._tempDataLen -= size
        sending = self.dataBuffer
        why = super().doWrite()  # type: ignore[no-untyped-call]
        if why is None and self.connected and self.dataBuffer is not sending and not self.isDrained():
            self.startWriting()  # type: ignore[no-untyped-call]  # for what was written after the last of it was sent
        return why

    def abortConnection(self) -> None:
        """Drop the connection in the next turn; until then, nothing is read or written any more."""
        if not self.disconnected and not self._aborting:
            self.reactor.endLater(self)
            self._aborting = True
            self.connected = 0
            self.reactor.forget(self)

    def release(self) -> int:
        """Give up the connection without ending it, and return its descriptor, which is the caller's from now on.

        Nothing is told to the protocol. What was written and the kernel has not taken is lost: take it first.
        """
        self.reactor.forget(self)
        if self.sender is not None:
            self.sender.open = False
        self.disconnected, self.connected = 1, 0
        self.producer = self.protocol = None
        made, self._socket, self._closed = self._socket, None, True
        if made is not None:
            _BareSocket.detach(made)
        return self.descriptor

    def connectionLost(self, reason: Failure) -> None:
        """End as Twisted's connections do; after a MemoryError, the next call goes on after the steps that were done."""
        if self.sender is not None:
            self.sender.open = False
        self.disconnected, self.connected = 1, 0
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        if not self._closed:
            self.reactor.forget(self)
            # Both attributes exist from here on, so that giving up the descriptor below needs no memory.
            self._closed, self._socket = False, self._socket
            if self._socket is None and reason.type is ConnectionLost:
                # It was reset by the peer, or has failed: the kernel has nothing left to shut down.
                os.close(self.descriptor)
            else:
                self._closeSocket(not isinstance(reason.value, ConnectionAborted))  # type: ignore[no-untyped-call]
            self._closed, self._socket = True, None
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            try:
                protocol.connectionLost(reason)
            except MemoryError:
                self.protocol = protocol
                raise


# Ours and Twisted's own, in the order in which they are set.
LANE_NAMES = (
    *("descriptor", "reactor", "_tempDataLen", "protocol", "server", "client", "_addressType"),
    *("sessionno", "sender", "connected", "producer", "streamingProducer", "dataBuffer", "offset", "disconnecting"),
    *("disconnected", "_socket", "_closed", "_tempDataBuffer"),
)
shareKeys(LaneServer, LANE_NAMES)
