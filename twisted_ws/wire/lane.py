"""The fast lane: sockets that are polled in a group, read into frames and written through.

Three costs of a stock Twisted connection are gone here. Its `write` always waits for the next turn of the reactor, with two
calls to change what is polled; the reactor wraps each event in a context, a log prefix and checks; and every byte goes through
Autobahn's parser. A `LaneServer` sends at once what the kernel takes, its events come in a lean loop, and a connection that
expects a new message reads common frames straight from its socket. Whatever is not common goes the usual way.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any, Protocol

from twisted.internet import main, tcp
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.wire import speedups

__all__ = ["LaneServer", "PollGroup", "Receiver"]

# Events taken in one turn of the reactor: timers, accepts and the HTTP sites come after at most so many.
EVENTS_A_TURN = 256

# Bits of epoll, as plain numbers: the loop below looks at nothing else for each event.
_IN = getattr(select, "EPOLLIN", 0x001)
_OUT = getattr(select, "EPOLLOUT", 0x004)
_GONE = getattr(select, "EPOLLERR", 0x008) | getattr(select, "EPOLLHUP", 0x010)


class Receiver(Protocol):
    """Who can take messages from the lane: a connection that expects a new frame.

    Attributes:
        laneMaximum: bytes of the largest message it takes from the lane.
    """

    laneMaximum: int

    def framesReceived(self, messages: list[str | bytes]) -> None:
        """Take the messages of whole common frames, in order."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes that begin with anything else."""


@implementer(IReadDescriptor)
class PollGroup:
    """Many sockets behind one descriptor of the reactor.

    An epoll set has a descriptor of its own, which is readable when one of its sockets is ready, so this works on any reactor. A
    transport joins by being made with this in the place of its reactor.

    Args:
        reactor: the reactor.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._transports: dict[int, Any] = {}
        self._watched: dict[Any, tuple[int, int]] = {}  # transport: its descriptor, and the events asked for

    def __getattr__(self, name: str) -> Any:
        # For everything but polling a transport has the real reactor.
        return getattr(self._reactor, name)

    def fileno(self) -> int:
        """Return the descriptor of the set."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """Return how the reactor names this in its log."""
        return "lane"

    def addReader(self, transport: Any) -> None:
        """Tell `transport` when there is something to read."""
        self._ask(transport, _IN, True)

    def removeReader(self, transport: Any) -> None:
        """Undo `addReader`."""
        self._ask(transport, _IN, False)

    def addWriter(self, transport: Any) -> None:
        """Tell `transport` when it can write."""
        self._ask(transport, _OUT, True)

    def removeWriter(self, transport: Any) -> None:
        """Undo `addWriter`."""
        self._ask(transport, _OUT, False)

    def _ask(self, transport: Any, event: int, wanted: bool) -> None:
        watched = self._watched.get(transport)
        if watched is None:
            if not wanted:
                return
            fileno = transport.fileno()
            self._epoll.register(fileno, event)
            self._transports[fileno] = transport
            self._watched[transport] = (fileno, event)
            if len(self._watched) == 1:
                self._reactor.addReader(self)
            return
        fileno, before = watched
        events = before | event if wanted else before & ~event
        if events == before:
            return
        if events:
            self._epoll.modify(fileno, events)
            self._watched[transport] = (fileno, events)
            return
        del self._watched[transport], self._transports[fileno]
        try:
            self._epoll.unregister(fileno)
        except OSError:
            pass  # closed already, and the kernel has forgotten it
        if not self._watched:
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Serve the sockets that are ready, as many as one turn may have."""
        transports = self._transports
        for fileno, event in self._epoll.poll(0, EVENTS_A_TURN):
            transport = transports.get(fileno)
            if transport is None:
                continue  # closed by another one's event, in this very turn
            try:
                why = None
                reading = bool(event & _IN)
                if reading:
                    why = transport.doRead()
                elif event & _GONE:
                    reading = bool(self._watched[transport][1] & _IN)
                    why = main.CONNECTION_DONE if reading else main.CONNECTION_LOST
                if why is None and event & _OUT and transport.connected:
                    why = transport.doWrite()
            except Exception as error:
                self._log.failure("a connection failed in the reactor")
                why = error
            if why is not None:
                self._disconnect(transport, why, reading)

    def _disconnect(self, transport: Any, why: Exception, reading: bool) -> None:
        # As the reactor does it (PosixReactorBase._disconnectSelectable).
        self.removeReader(transport)
        if reading and isinstance(why, ConnectionDone):
            transport.readConnectionLost(Failure(why))
        else:
            self.removeWriter(transport)
            transport.connectionLost(Failure(why))

    def connectionLost(self, reason: Failure) -> None:
        """Pass on to all that the reactor ends."""
        for transport in list(self._watched):
            self.removeReader(transport)
            self.removeWriter(transport)
            transport.connectionLost(reason)


class LaneServer(tcp.Server):
    """An accepted connection that writes through, and reads frames for a receiver that expects them.

    Everything else is Twisted's own: order, producers, half-close, errors.

    Attributes:
        lane: who takes frames straight from the socket; None: bytes go to the protocol.
        handle: what `readFrames` takes for this connection: its descriptor.
        sender: sends frames straight out (`twisted_ws.wire.speedups.makeSender`).
    """

    lane: Receiver | None
    handle: Any
    sender: Any

    def __init__(self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any) -> None:
        super().__init__(sock, protocol, client, server, sessionno, reactor)
        self.lane = None
        # It does not change, and asking the socket for it costs.
        self.handle = sock.fileno()
        self.sender = speedups.makeSender(self.handle, False)

    def doRead(self) -> Any:
        """Read once (called by the reactor)."""
        receiver = self.lane
        if receiver is None:
            return super().doRead()
        try:
            came = speedups.readFrames(self.handle, receiver.laneMaximum)
        except OSError:
            return main.CONNECTION_LOST
        if came.__class__ is list:
            receiver.framesReceived(came)
            return None
        return self.take(came, receiver)

    def take(self, came: Any, receiver: Any) -> Any:
        """Pass on what `readFrames` returned."""
        if came is None:
            return None
        if came.__class__ is tuple:
            receiver.framesReceived(came[0])
            receiver.dataReceived(came[1])
        elif came:
            receiver.dataReceived(came)
        else:
            return main.CONNECTION_DONE
        return None

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
            return self.socket.send(data)
        except OSError:
            return 0  # it cannot now; and what else is wrong the next try tells, as the reactor can take it

    def write(self, data: bytes) -> None:
        """Send `data` now as far as the kernel takes it, and the rest in order when it takes more."""
        if self.writeNow(data) and self.producer is not None and not self.streamingProducer:
            self.startWriting()  # type: ignore[no-untyped-call]  # a pull producer is asked for more, in a turn of its own

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(iovec))

    def writeNow(self, data: bytes) -> bool:
        """Do as `write` does, and say whether the kernel took all; if so, a pull producer is not asked for more."""
        if isinstance(data, bytes) and self.isDrained():
            sent = self.sendSome(data)
            if sent == len(data):
                return True
            data = data[sent:]
        super().write(data)  # type: ignore[no-untyped-call]
        return False

    def connectionLost(self, reason: Failure) -> None:
        """End."""
        self.lane = self.handle = None
        if self.sender is not None:
            self.sender.open = False
        super().connectionLost(reason)
