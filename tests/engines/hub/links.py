"""Two ends of a link in memory."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from twisted_ws.engines.hub.link import Link
from twisted_ws.testing.transport import MemoryTransport
from twisted_ws.wire.loop.turns import Turns

HERE = IPv4Address("TCP", "127.0.0.1", 1)


def connect(one, other):
    """Connect two protocols, and return the transports of both."""
    mine, theirs = MemoryTransport(HERE, HERE), MemoryTransport(HERE, HERE)
    mine.other, theirs.other = theirs, mine
    mine.protocol, theirs.protocol = one, other
    one.makeConnection(mine)
    other.makeConnection(theirs)
    return mine, theirs


def settle(*transports, clock=None):
    """Turn until nothing moves."""

    def due():
        return clock is not None and any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls())

    while any([*(transport.turn() for transport in transports), due()]):
        if clock is not None:
            clock.advance(0)


class Pair:
    """A link between two ends in one process.

    Attributes:
        clock: the reactor of both.
        one, other: the ends.
        transports: theirs.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.one = Link(Turns(self.clock), "the supervisor")
        self.other = Link(Turns(self.clock), "worker 1")

    def connect(self) -> Pair:
        """Connect the ends, once their handlers are set."""
        self.transports = connect(self.one, self.other)
        return self

    def settle(self) -> None:
        """Let everything arrive."""
        settle(*self.transports, clock=self.clock)
