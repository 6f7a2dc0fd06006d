"""The fast lane: sockets that are polled in a group, read into frames and written through.

Three costs of a stock Twisted connection are gone here. Its `write` always waits for the next turn of the reactor, with two
calls to change what is polled; the reactor wraps each event in a context, a log prefix and checks; and every byte goes through
Autobahn's parser. A `LaneServer` sends at once what the kernel takes, its events come in a lean loop, and the messages of a
connection that expects one go straight from its socket to who handles them. Whatever is not common goes the usual way.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterable
from socket import SocketType as _BareSocket
from socket import socket as Socket
from typing import Any, Protocol

from twisted.internet import main, tcp
from twisted.internet.address import IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.wire import speedups
from twisted_ws.wire.loop.memory import shareNames
from twisted_ws.wire.loop.wheel import Wheel

__all__ = ["LANE_NAMES", "LaneServer", "PollGroup", "Receiver"]

# Timers, accepts and what waits for its turn (`twisted_ws.wire.loop.turns`, which has as long) come after so many seconds at the
# latest; how late it is, is looked at after so many events, or some more than 64 messages.
TURN = 0.005
EVENTS = 8

# Bits of epoll, as plain numbers.
_IN = getattr(select, "EPOLLIN", 0x001)
_OUT = getattr(select, "EPOLLOUT", 0x004)
_GONE = getattr(select, "EPOLLERR", 0x008) | getattr(select, "EPOLLHUP", 0x010)


# What nearly every connection ends with.
_REASONS: dict[type[Exception], Failure] = {
    type(why): Failure(why) for why in (main.CONNECTION_DONE, main.CONNECTION_LOST, ConnectionAborted())
}


class Receiver(Protocol):
    """A protocol that has asked its transport for a lane (`LaneServer.setLane`)."""

    def framesReceived(self, messages: list[str | bytes]) -> None:
        """Take messages that were read before the lane was given up, in order."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes that begin with anything but a whole common frame."""


@implementer(IReadDescriptor)
class PollGroup:
    """Many sockets behind one descriptor of the reactor.

    An epoll set has a descriptor of its own, which is readable when one of its sockets is ready, so this works on any reactor. A
    transport joins by being made with this in the place of its reactor.

    Args:
        reactor: the reactor.
        wheel: whose time is noted for each read.
    """

    _log = Logger()

    def __init__(self, reactor: Any, wheel: Wheel) -> None:
        self._reactor = reactor
        self._wheel = wheel
        self.sockets = speedups.PollSet(self._ready)
        self._polled = False

    def __getattr__(self, name: str) -> Any:
        # For everything but polling a transport has the real reactor.
        return getattr(self._reactor, name)

    def fileno(self) -> int:
        """Return the descriptor of the set."""
        fileno: int = self.sockets.fileno()
        return fileno

    def logPrefix(self) -> str:
        """Return how the reactor names this in its log."""
        return "lane"

    def addReader(self, transport: Any) -> None:
        """Tell `transport` when there is something to read."""
        self._ask(transport, _IN, 0)

    def removeReader(self, transport: Any) -> None:
        """Undo `addReader`."""
        self._ask(transport, 0, _IN)

    def addWriter(self, transport: Any) -> None:
        """Tell `transport` when it can write."""
        self._ask(transport, _OUT, 0)

    def removeWriter(self, transport: Any) -> None:
        """Undo `addWriter`."""
        self._ask(transport, 0, _OUT)

    def isReading(self, transport: Any) -> bool:
        """Say whether `transport` is told when there is something to read."""
        return bool(self.sockets.asked(transport.descriptor) & _IN)

    def readAgain(self, transport: Any) -> None:
        """Have `transport` read in the next turn, whatever there is."""
        self._reactor.callLater(0, self._ready, transport, _IN, None)

    def forget(self, transport: Any) -> None:
        """Tell `transport` nothing more; it has no lane either."""
        self.sockets.detach(transport.descriptor, transport)
        self._ask(transport, 0, _IN | _OUT)

    def _ask(self, transport: Any, wanted: int, unwanted: int) -> None:
        if wanted and not transport.connected:
            return  # its descriptor may be another's by now; or it was aborted, and nobody would read or write
        sockets = self.sockets
        sockets.ask(transport.descriptor, transport, wanted, unwanted)
        if self._polled != (len(sockets) > 0):
            self._polled = not self._polled
            if self._polled:
                self._reactor.addReader(self)
            else:
                self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Serve the sockets that are ready, for as long as one turn may take."""
        try:
            seconds = self._reactor.seconds
            until = seconds() + TURN
            now = self._wheel.seconds()
            while self.sockets.serve(EVENTS, now) == EVENTS and seconds() < until:
                pass
        except Exception as error:
            transport, self.sockets.failed = self.sockets.failed, None
            if transport is None:
                if isinstance(error, OSError):
                    raise
                # Memory was short, and all connections are well: what was ready is ready the next time too.
                self._log.failure("the reactor's turn for all connections failed")
                return
            self._disconnect(transport, error, False)
            self._log.failure("a connection failed in the reactor")

    def _ready(self, transport: Any, events: int, came: Any) -> None:
        """Serve a socket that is ready, and not for its lane alone (see `PollSet`)."""
        try:
            why = None
            reading = bool(events & _IN)
            if came is not None:
                why = transport.take(came)
            elif reading:
                why = transport.doRead()
            elif events & _GONE:
                reading = self.isReading(transport)
                why = main.CONNECTION_DONE if reading else main.CONNECTION_LOST
            if why is None and events & _OUT and transport.connected:
                why = transport.doWrite()
        except Exception as error:
            self._log.failure("a connection failed in the reactor")
            why = error
        if why is not None:
            self._disconnect(transport, why, reading)

    def _disconnect(self, transport: Any, why: Exception, reading: bool) -> None:
        """End a connection, as the reactor does it, which would take an exception for the whole group's."""
        try:
            self._end(transport, why, reading)
        except Exception:
            try:
                self._end(transport, why, False)  # goes on behind what was done: no connection stays half ended
            except Exception:
                self._log.failure("a connection failed at its end")
            else:
                self._log.failure("a connection failed at its end, and ended all the same")

    def _end(self, transport: Any, why: Exception, reading: bool) -> None:
        # See PosixReactorBase._disconnectSelectable.
        reason = _REASONS.get(type(why)) or Failure(why)
        if reading and isinstance(why, ConnectionDone):
            self.removeReader(transport)
            transport.readConnectionLost(reason)
        else:
            transport.connectionLost(reason)

    def endLater(self, transport: Any) -> None:
        """End a connection that was aborted, in a turn of its own."""
        why = _REASONS[ConnectionAborted].value
        try:
            self._reactor.callLater(0, self._disconnect, transport, why, False)
        except MemoryError:
            self._reactor.callLater(0, self._disconnect, transport, why, False)  # it has to be

    def connectionLost(self, reason: Failure) -> None:
        """Pass on to all that the reactor ends.

        It does so with the group, too, when one allocation failed as it called `doRead`; then all connections go on.
        """
        if reason.check(MemoryError):
            self._reactor.addReader(self)
            return
        for transport in self.sockets.transports():
            self.removeReader(transport)
            self.removeWriter(transport)
            transport.connectionLost(reason)


# Bytes below which more of what waits is joined to what is being sent, as in Twisted.
_GATHER = 128 * 1024

# Stands for a list that Twisted has for what it cannot send at once: most connections never need one.
_NOTHING: list[bytes] = []


class LaneServer(tcp.Server):
    """An accepted connection that writes through, and has a lane for a protocol that expects frames.

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
        # All that Twisted's own __init__ sets, but for texts that hardly anybody asks for and every connection would keep.
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
        """The socket, made for the first who asks: most connections live by their descriptor alone.

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
                _BareSocket.detach(made)  # or what was begun closes the descriptor at its end, and it may be another's by then
                raise
            self._socket = made
        return made

    def fileno(self) -> int:
        """Return the descriptor; -1 when the connection has ended."""
        return -1 if self._closed else self.descriptor

    @property
    def hostname(self) -> str:  # type: ignore[override]
        """The peer's address, as Twisted names it."""
        return str(self.client[0])

    @property
    def logstr(self) -> str:  # type: ignore[override]
        """How the reactor names this in its log."""
        return f"{type(getattr(self, 'protocol', None)).__name__},{self.sessionno},{self.hostname}"

    @property
    def repstr(self) -> str:  # type: ignore[override]
        """What `repr` shows."""
        return f"<{type(getattr(self, 'protocol', None)).__name__} #{self.sessionno} on {self.server._realPortNumber}>"

    def _makeSender(self) -> Any:
        return speedups.makeSender(self.descriptor, False)

    def isOnLoopback(self) -> bool:
        """Say whether the peer has connected to a loopback address."""
        return not self._closed and speedups.isOnLoopback(self.descriptor)

    def setLane(self, deliver: Callable[[str | bytes], None] | None, maximum: int = 0) -> None:
        """Have `deliver` called with each message that comes in a common frame; the rest is for the protocol, a `Receiver`.

        Args:
            deliver: None: everything is for the protocol, as in the beginning.
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
            return None  # ended by what was read before it
        if came.__class__ is bytes:
            if not came:
                return main.CONNECTION_DONE
            self.protocol.dataReceived(came)
        elif came.__class__ is list:
            self.protocol.framesReceived(came)
        else:
            return main.CONNECTION_LOST
        return None

    def unsent(self) -> int:
        """Return how many bytes that were written the kernel has not taken."""
        return self._tempDataLen + len(self.dataBuffer) - self.offset

    def isDrained(self) -> bool:
        """Say whether the kernel has everything that was written."""
        return not self._tempDataLen and self.offset == len(self.dataBuffer)

    def sendSome(self, data: bytes) -> int:
        """Send what the kernel takes of `data` now, nothing being buffered, and return how much that is.

        What it did not take has to be written next.
        """
        if not self.connected or self.disconnecting or self._writeDisconnected:
            return 0
        try:
            return os.write(self.descriptor, data)
        except OSError:
            return 0  # it cannot now; and what else is wrong the next try tells, as the reactor can take it

    def write(self, data: bytes) -> None:
        """Send `data` now as far as the kernel takes it, and the rest in order when it takes more."""
        if self.writeNow(data) and self.producer is not None and not self.streamingProducer:
            self.startWriting()  # type: ignore[no-untyped-call]  # a pull producer is asked for more, in a turn of its own

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write several pieces as one."""
        pieces = list(iovec)
        if all(isinstance(piece, bytes) for piece in pieces):
            self.write(b"".join(pieces))
        else:
            super().writeSequence(pieces)  # type: ignore[no-untyped-call]  # says what is wrong

    def writeNow(self, data: bytes) -> bool:
        """Do as `write` does, and say whether the kernel took all; if so, a pull producer is not asked for more."""
        if not isinstance(data, bytes) or not self.connected or self._writeDisconnected or not self.isDrained():
            empty: list[bytes] = []
            if self._tempDataBuffer is _NOTHING:
                self._tempDataBuffer = empty
            super().write(data)  # type: ignore[no-untyped-call]
            return False
        # It is noted before it is sent: what is written meanwhile, by a finaliser, comes after it.
        self.dataBuffer = data
        self.offset = 0
        try:
            sent = self.sendSome(data)
        except BaseException:
            self.abortConnection()  # nobody knows how much went
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

    # Twisted's way to gather what waits would lose what is written in the middle of it.
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
            self.startWriting()  # type: ignore[no-untyped-call]  # for what was written when the last of it had gone
        return why

    def abortConnection(self) -> None:
        """Drop the connection in a turn of its own; until then nothing is read or written any more, whoever asks."""
        if not self.disconnected and not self._aborting:
            self.reactor.endLater(self)
            self._aborting = True
            self.connected = 0
            self.reactor.forget(self)

    def connectionLost(self, reason: Failure) -> None:
        """End, as Twisted's connections do; after a MemoryError the next call goes on behind what was done."""
        if self.sender is not None:
            self.sender.open = False
        self.disconnected, self.connected = 1, 0
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        if not self._closed:
            self.reactor.forget(self)
            # Now there is a place for each, and to note below that the descriptor is another's needs no memory.
            self._closed, self._socket = False, self._socket
            if self._socket is None and reason.type is ConnectionLost:
                # The peer has reset it, or it has failed: the kernel has nothing left to shut down.
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


# Ours and Twisted's own, in the order they come.
LANE_NAMES = (
    *("descriptor", "reactor", "_tempDataLen", "protocol", "server", "client", "_addressType"),
    *("sessionno", "sender", "connected", "producer", "streamingProducer", "dataBuffer", "offset", "disconnecting"),
    *("disconnected", "_socket", "_closed", "_tempDataBuffer"),
)
shareNames(LaneServer, LANE_NAMES)
