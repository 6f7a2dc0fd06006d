"""Many sockets behind one descriptor of the reactor."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet import main
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.wire import speedups
from twisted_ws.wire.loop.turns import TURN
from twisted_ws.wire.loop.wheel import Wheel

# The clock is read after this many events, or somewhat more than 64 messages.
EVENTS = 8
# What others spend in a turn while sockets wait, divided by this, is what the group may spend in the next one: at least `TURN`
# seconds, and at most `LONGEST`. With `TURN` alone, hundreds of clients wait for many turns when other work makes each one long.
SHARE = 8
LONGEST = 0.05

# Bits of epoll, as plain numbers.
_IN = getattr(select, "EPOLLIN", 0x001)
_OUT = getattr(select, "EPOLLOUT", 0x004)
_GONE = getattr(select, "EPOLLERR", 0x008) | getattr(select, "EPOLLHUP", 0x010)


# Nearly every connection ends with one of these.
_REASONS: dict[type[Exception], Failure] = {
    type(why): Failure(why) for why in (main.CONNECTION_DONE, main.CONNECTION_LOST, ConnectionAborted())
}


@implementer(IReadDescriptor)
class PollGroup:
    """Many sockets behind one descriptor of the reactor.

    An epoll set has a descriptor of its own, which is readable when one of its sockets is ready, so this works on any reactor. A
    transport joins by being made with the group as its reactor.

    Args:
        reactor: the reactor.
        wheel: gives the time that is noted for each read.
    """

    _log = Logger()

    def __init__(self, reactor: Any, wheel: Wheel) -> None:
        self._reactor = reactor
        self._seconds: Callable[[], float] = reactor.seconds
        self._wheel = wheel
        self.sockets = speedups.PollSet(self._ready)
        self._polled = False
        self._leftAt: float | None = None  # when the last turn ended, if sockets were left for this one

    def __getattr__(self, name: str) -> Any:
        # For everything but polling, a transport has the real reactor.
        return getattr(self._reactor, name)

    def fileno(self) -> int:
        """Return the descriptor of the set."""
        fileno: int = self.sockets.fileno()
        return fileno

    def logPrefix(self) -> str:
        """Return what the reactor calls this in its log."""
        return "lane"

    def addReader(self, transport: Any) -> None:
        """Tell `transport` when it can read."""
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
        """Return whether `transport` is told when it can read."""
        return bool(self.sockets.asked(transport.descriptor) & _IN)

    def readAgain(self, transport: Any) -> None:
        """Make `transport` read in the next turn, whether or not anything has come."""
        self._reactor.callLater(0, self._ready, transport, _IN, None)

    def forget(self, transport: Any) -> None:
        """Stop notifying `transport`, and end its lane."""
        self.sockets.detach(transport.descriptor, transport)
        self._ask(transport, 0, _IN | _OUT)

    def _ask(self, transport: Any, wanted: int, unwanted: int) -> None:
        if wanted and not transport.connected:
            return  # its descriptor may belong to another by now; or it was aborted, and must not read or write
        sockets = self.sockets
        sockets.ask(transport.descriptor, transport, wanted, unwanted)
        while self._polled != (polled := len(sockets) > 0):  # again if a finaliser has changed that meanwhile
            (self._reactor.addReader if polled else self._reactor.removeReader)(self)
            self._polled = polled  # last, because memory may be short

    def doRead(self) -> None:
        """Serve the sockets that are ready, for as long as one turn may take.

        Timers, accepts and what waits for its turn (`twisted_ws.wire.loop.turns`) come after that.
        """
        try:
            until = self._seconds() + (TURN if self._leftAt is None else self._share())
            now = self._wheel.seconds()
            while self.sockets.serve(EVENTS, now) == EVENTS:
                at = self._seconds()
                if at >= until:
                    self._leftAt = at
                    break
        except Exception as error:
            transport, self.sockets.failed = self.sockets.failed, None
            if transport is None:
                if isinstance(error, OSError):
                    raise
                # Memory was short, and all connections are well: what was ready will be ready the next time too.
                self._log.failure("the reactor's turn for all connections failed", event="reactor.broken")
                return
            self._disconnect(transport, error, False)
            self._log.failure("a connection failed in the reactor", event="connection.broken")

    def _share(self) -> float:
        """Return the seconds for a turn after one that left sockets unserved."""
        others, self._leftAt = self._seconds() - (self._leftAt or 0), None
        return max(TURN, min(others / SHARE, LONGEST))

    def _ready(self, transport: Any, events: int, came: Any) -> None:
        """Serve a socket that is ready for more than its lane (see `PollSet`)."""
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
            self._log.failure("a connection failed in the reactor", event="connection.broken")
            why = error
        if why is not None:
            self._disconnect(transport, why, reading)

    def _disconnect(self, transport: Any, why: Exception, reading: bool) -> None:
        """End a connection as the reactor would; raised to the reactor, the exception would end the whole group."""
        try:
            self._end(transport, why, reading)
        except Exception:
            try:
                self._end(transport, why, False)  # goes on after the steps that were done: no connection stays half ended
            except Exception:
                self._log.failure("a connection failed while it ended", event="connection.broken")
            else:
                self._log.failure("a connection failed while it ended, but has ended", event="connection.broken")

    def _end(self, transport: Any, why: Exception, reading: bool) -> None:
        # See PosixReactorBase._disconnectSelectable.
        reason = _REASONS.get(type(why)) or Failure(why)
        if reading and isinstance(why, ConnectionDone):
            self.removeReader(transport)
            transport.readConnectionLost(reason)
        else:
            transport.connectionLost(reason)

    def endLater(self, transport: Any) -> None:
        """End a connection that was aborted, in the next turn."""
        why = _REASONS[ConnectionAborted].value
        try:
            self._reactor.callLater(0, self._disconnect, transport, why, False)
        except MemoryError:
            self._reactor.callLater(0, self._disconnect, transport, why, False)  # it must happen

    def connectionLost(self, reason: Failure) -> None:
        """End every connection: the reactor stops.

        The reactor also calls this when an allocation failed as it called `doRead`; then all connections go on.
        """
        if reason.check(MemoryError):
            self._reactor.addReader(self)
            return
        for transport in self.sockets.transports():
            self.removeReader(transport)
            self.removeWriter(transport)
            transport.connectionLost(reason)
