"""What all connections of one server share, and the answer to a handshake."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted_ws.limits import Limits
from twisted_ws.logs import Throttle
from twisted_ws.wire.door.gate import Gate
from twisted_ws.wire.lane.transport import PollGroup
from twisted_ws.wire.loop.backlog import Backlog
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.events import Events
from twisted_ws.wire.websocket.fanout import FanOuts

if TYPE_CHECKING:
    from twisted_ws.wire.frontdoor import FrontDoor
    from twisted_ws.wire.websocket.connection import WebSocketConnection

__all__ = ["Welcome", "Wire"]


@dataclass(slots=True)
class Wire:
    """What all connections of one server share.

    Attributes:
        reactor: the reactor.
        limits: all limits.
        compression: whether permessage-deflate is accepted.
        wheel: every deadline.
        backlog: the bytes that wait for all peers.
        intake: the bytes that they have sent, and that are not whole or not handled yet.
        gate: the count of connections.
        throttle: keeps a peer from filling the log.
        turns: the budget of work that can wait, in one turn of the reactor.
        fanOuts: what is on its way to many.
        taking: the connection whose input is being handled, and the same of what this is within: a handler or a finaliser may
            have the reactor turn.
        deciding: the front doors whose handshake waits for the service's decision.
        group: polls the sockets of the fast lane; None where the system has no epoll, or ``TWISTED_WS_LANE=0`` is set.
    """

    reactor: Any
    limits: Limits
    compression: bool = False
    wheel: Wheel = field(init=False)
    backlog: Backlog = field(init=False)
    intake: Backlog = field(init=False)
    gate: Gate = field(init=False)
    throttle: Throttle = field(init=False)
    turns: Turns = field(init=False)
    fanOuts: FanOuts = field(init=False)
    taking: tuple[WebSocketConnection, Any] | None = field(default=None, init=False)
    deciding: set[FrontDoor] = field(default_factory=set, init=False)
    group: PollGroup | None = field(init=False)

    _handed: int = field(default=0, init=False)

    def handedAtOnce(self) -> bool:
        """Count a write that the kernel took at once; True for every 256th: it is time to let the reactor turn."""
        self._handed = (self._handed + 1) & 0xFF
        return not self._handed

    def __post_init__(self) -> None:
        self.wheel = Wheel(self.reactor)
        self.backlog = Backlog(self.limits.maxSendBufferTotal)
        self.intake = Backlog(self.limits.maxReceiveBufferTotal)
        self.gate = Gate(self.limits, self.reactor.seconds)
        self.throttle = Throttle(self.reactor.seconds)
        self.turns = Turns(self.reactor)
        self.fanOuts = FanOuts(self.turns, self.backlog, self.limits, self.wheel)
        usable = hasattr(select, "epoll") and os.environ.get("TWISTED_WS_LANE") != "0"
        self.group = PollGroup(self.reactor, self.wheel) if usable else None


@dataclass(slots=True)
class Welcome:
    """The answer to a handshake that is accepted.

    Attributes:
        subProtocol: the chosen one, None without.
        headers: more headers for the 101, checked.
        idleTimeout: the service's, seconds; 0: none.
        attend: makes the receiver of the connection's events, once it is open.
    """

    subProtocol: str | None
    headers: tuple[tuple[str, str], ...]
    idleTimeout: float
    attend: Callable[[WebSocketConnection], Events]
