"""What all connections of one server share."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred

from twisted_ws.limits import Limits
from twisted_ws.logs import DETAILS, Throttle
from twisted_ws.telemetry.counts import Counts
from twisted_ws.wire.door.gate import Gate
from twisted_ws.wire.lane.group import PollGroup
from twisted_ws.wire.loop.backlog import Backlog
from twisted_ws.wire.loop.sharing import Sharing
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.fanout import FanOuts

if TYPE_CHECKING:
    from twisted_ws.wire.websocket.connection import WebSocketConnection


class OpenResponse(Protocol):
    """A response over HTTP that does not end by itself: an event stream, a poll that waits, a handshake that is being decided."""

    def stop(self, timeout: float) -> Deferred[None]:
        """End it so that the client comes back later; fires when its connection has gone, after `timeout` seconds at most."""


class Runtime:
    """What all connections of one server share, whatever their transport: its clock, its limits, what is counted against them.

    Args:
        reactor: the reactor.
        limits: all limits; None: the defaults.
        compression: whether permessage-deflate is accepted.
        unixTime: the wall clock, by which credentials expire.

    Attributes:
        reactor, limits, compression, unixTime: as given.
        wheel: every deadline, and the clock of peers.
        turns: the budget of work that can wait, in one turn of the reactor.
        backlog: the bytes that wait for all peers.
        intake: the bytes that they have sent, and that are not whole or not handled yet.
        credentials: the bytes of what their credentials say.
        gate: the count of connections.
        throttle: keeps a peer from filling the log.
        details: does the same for lines of level debug, of which there may be more.
        fanOuts: what is on its way to many.
        taking: the connections whose input is being handled, as nested pairs, innermost first: a handler or a finaliser may run
            the reactor.
        deciding: the front doors whose handshake waits for the service's decision.
        counts: what has happened.
    """

    # Looked up for each message, and slots are the fastest.
    __slots__ = (
        *("reactor", "unixTime", "counts", "limits", "compression", "wheel", "turns", "backlog", "intake", "credentials"),
        *("gate", "throttle", "details", "fanOuts", "taking", "deciding", "_handed", "_group", "__weakref__"),
    )

    def __init__(
        self,
        reactor: Any,
        limits: Limits | None = None,
        compression: bool = False,
        unixTime: Callable[[], float] = time.time,
    ) -> None:
        self.reactor = reactor
        self.unixTime = unixTime
        self.counts = Counts()
        self.limits = limits = limits or Limits()
        self.compression = compression
        self.wheel = Wheel(reactor)
        self.turns = Turns(reactor)
        self.backlog = Backlog(limits.maxSendBufferTotal)
        self.intake = Backlog(limits.maxReceiveBufferTotal)
        self.credentials = Sharing(limits.credentialsTotal)
        self.gate = Gate(limits, reactor.seconds)
        self.throttle = Throttle(reactor.seconds)
        self.details = Throttle(reactor.seconds, DETAILS)
        self.fanOuts = FanOuts(self)
        self.taking: tuple[WebSocketConnection, Any] | None = None
        self.deciding: set[OpenResponse] = set()
        self._handed = 0
        self._group: PollGroup | None = None

    @property
    def group(self) -> PollGroup | None:
        """Polls the sockets of the fast lane; None if the system has no epoll, or ``TWISTED_WS_LANE=0`` is set."""
        if self._group is None and hasattr(select, "epoll") and os.environ.get("TWISTED_WS_LANE") != "0":
            self._group = PollGroup(self.reactor, self.wheel)
        return self._group

    def handedAtOnce(self) -> bool:
        """Count a write that the kernel took at once; True for every 256th: it is time to let the reactor run."""
        self._handed = (self._handed + 1) & 0xFF
        return not self._handed
